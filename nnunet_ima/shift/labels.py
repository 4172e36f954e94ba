"""Label maps that move with their image: each label's mask moves like an image, and the largest share wins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnunet_ima.shift.scan import Array


def move_label(label: Array, move: Callable[[Array], Array]) -> Array:
    """Move a label map smoothly; what comes from outside of it is background.

    Args:
        label: (Z, Y, X), integer.
        move: images (1, Z, Y, X) to images, linear in their values; what lies outside is 0.
    """
    (marked,) = move((label != 0)[None].astype(np.float32))
    moved, most = np.zeros(marked.shape, label.dtype), 1 - marked
    for value in np.unique(label[label != 0]):
        (share,) = move((label == value)[None].astype(np.float32))
        stronger = share > most
        moved[stronger], most[stronger] = value, share[stronger]
    return moved
