"""Validation images out of the training images of a data set that comes with a test set and nothing else."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from nnunet_ima.classification.image_set import ImageSet


def draw_validation(data: ImageSet, share: float, seed: int) -> list[int]:
    """Return the places of the images to be held out: a share of each class of what the source calls "train".

    Images with equal pixels stay together, in the class of the first of them.

    Args:
        data: the data set, which names splits.
        share: of each class, rounded, at least one image.
        seed: the same seed and data give the same images.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, split in enumerate(data.splits or ()):
        if split == "train":
            groups[data.digests[place]].append(place)
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    labels = data.labels.tolist()
    for group in groups.values():
        by_class[labels[group[0]]].append(group)
    rng, drawn = np.random.default_rng(seed), []
    for label in sorted(by_class):
        chosen: list[int] = []
        wanted = max(1, round(share * sum(map(len, by_class[label]))))
        for number in rng.permutation(len(by_class[label])).tolist():
            if len(chosen) >= wanted:
                break
            chosen += by_class[label][number]
        drawn += chosen
    return sorted(drawn)
