"""How sure a model is of a prediction, and whether it is right as often as it says.

Looked at are the logits as they are fused, on the network's grid: there they are at hand, and nothing is interpolated.
Most voxels of an image are background that every model is sure of, and would drown the rest. So only voxels near the
structures count. Whoever is to be warned knows the prediction alone: the mean confidence is over what is predicted as
foreground and a rim around it, where a structure that shrinks leaves doubt. Calibration is for whoever knows the truth:
what is predicted or labelled as foreground, and the same rim, so that missed voxels count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from nnunet_ima.evidence.records import Bin, Confidence
from nnunet_ima.tasks.slabs import ELEMENTS
from nnunet_ima.tasks.voxelwise import Labels

BINS = 15  # of confidence from 0 to 1, as wide as each other
RIM = 2  # voxels of the network's grid


def confidence(logits: Tensor, target: Tensor, labels: Labels) -> Confidence:
    """Return how sure fused logits are; of overlapping regions each is a question of its own.

    Args:
        logits: (K, *spatial).
        target: see `inference.volume.Volume.target`.
        labels: how to read the target.
    """
    channels = logits.shape[0]
    logits, target = logits.detach().cpu().flatten(1), target.cpu()
    shape = target.shape[1:]
    truth, valid = labels.read(target[None], channels)  # ignored voxels read as background, or as they are
    true = (truth[0] > 0).any(0) if labels.regions else truth[0] > 0
    chosen = logits > 0 if labels.regions else logits.max(0).indices
    found = chosen.any(0) if labels.regions else chosen > 0
    counts = torch.ones_like(found) if valid is None else valid[0, 0] > 0
    asked = _with_rim(found, shape)
    judged = _with_rim(found | (true & counts), shape) & counts
    sure, doubt = _sure(logits, asked, labels.regions)
    right = chosen == truth[0]
    return Confidence(
        mean=float(sure.mean()) if sure.numel() else None,
        entropy=float(doubt.mean()) if doubt.numel() else None,
        bins=_bins(_sure(logits, judged, labels.regions)[0], right[..., judged]),
    )


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """Expected calibration error: mean distance of confidence and share of right answers, by voxels; None without any.

    After Naeini et al. 2015 and Guo et al. 2017 (arXiv 1706.04599).
    """
    total = sum(count for count, _, _ in bins)
    return sum(abs(sure - right) for _, sure, right in bins) / total if total else None


def overconfidence(bins: Sequence[Bin]) -> float | None:
    """Mean confidence minus share of right answers; None without any voxel."""
    total = sum(count for count, _, _ in bins)
    return sum(sure - right for _, sure, right in bins) / total if total else None


def pooled(all_bins: Iterable[Sequence[Bin]]) -> tuple[Bin, ...]:
    """Bins of several predictions as those of one."""
    columns = zip(*all_bins, strict=True)
    return tuple((sum(n for n, _, _ in it), sum(s for _, s, _ in it), sum(r for _, _, r in it)) for it in columns)


def _with_rim(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """A mask (V,) of a volume of some shape and the voxels at most `RIM` steps from it."""
    grown = ndimage.binary_dilation(mask.reshape(*shape).numpy(), iterations=RIM)
    return torch.from_numpy(grown).flatten()


def _sure(logits: Tensor, mask: Tensor, regions: bool) -> tuple[Tensor, Tensor]:
    """Largest probability and entropy in nats of logits (K, V) where a mask (V,) is: (N,), of regions (K, N)."""
    parts = mask.nonzero()[:, 0].split(max(1, ELEMENTS // len(logits)))  # of many classes there is no room for all
    sure, doubt = zip(*(_sure_at(logits[:, part].float(), regions) for part in parts), strict=True)
    return torch.cat(sure, -1), torch.cat(doubt, -1)


def _sure_at(logits: Tensor, regions: bool) -> tuple[Tensor, Tensor]:
    if regions:
        log_p = torch.nn.functional.logsigmoid(torch.stack((logits, -logits)))
    else:
        log_p = torch.log_softmax(logits, 0)
    p = log_p.exp()
    return p.max(0).values, -(p * log_p).sum(0)


def _bins(sure: Tensor, right: Tensor) -> tuple[Bin, ...]:
    """Number, summed confidence and right answers of those in each bin; a bin holds its upper edge."""
    confident = sure.flatten().numpy().astype(np.float64)
    place = np.clip(np.ceil(confident * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = np.bincount(place, confident, minlength=BINS)
    hits = np.bincount(place, right.flatten().numpy().astype(np.float64), minlength=BINS)
    return tuple((int(n), float(s), int(r)) for n, s, r in zip(counts, sums, hits, strict=True))
