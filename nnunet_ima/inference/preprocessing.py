"""nnU-Net's preprocessing as a differentiable function of the raw image: transpose, crop, normalise, resample.

Crop and mask of the nonzero voxels are found anew for every image, as nnU-Net does; no gradient flows through where
they lie. Resampling is linear apart from a last clipping: its matrix along each axis is read off nnU-Net's own
function, whichever the plans name. `Preprocessing.check` compares the whole with what nnU-Net makes of a case.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice, get_bbox_from_mask
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from torch import Tensor

from nnunet_ima.inference.model import TrainedModel
from nnunet_ima.inference.volume import SMALLEST_SCALE, Volume

SCHEMES = ("ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization")
ALIKE = 0.01  # of the image's own standard deviation: root mean square difference from nnU-Net's own preprocessing
RANGE = 10.0  # around what is resampled to read off a matrix: clipping to the range of the input must not reach it


def check_known(model: TrainedModel) -> None:
    """Refuse a model whose preprocessing is not known here.

    Raises:
        ValueError: preprocessor or normalisation are other ones.
    """
    configuration = model.configuration
    unknown = [name for name in configuration.normalization_schemes if name not in SCHEMES]
    if configuration.preprocessor_name != "DefaultPreprocessor" or unknown:
        msg = (
            f"{model.folder}: gradients do not pass through {configuration.preprocessor_name} with "
            f"{', '.join(configuration.normalization_schemes)}; known are DefaultPreprocessor with {', '.join(SCHEMES)}"
        )
        raise ValueError(msg)


class Preprocessing:
    """Raw images of one case to what the network gets.

    Attributes:
        model: whose preprocessing it is.
    """

    def __init__(self, model: TrainedModel, spacing: Sequence[float]) -> None:
        """Prepare for images of a spacing (z, y, x) in mm.

        Raises:
            ValueError: see `check_known`.
        """
        check_known(model)
        self.model = model
        self._order = model.plans.transpose_forward
        self._spacing = [float(spacing[axis]) for axis in self._order]
        target = list(model.configuration.spacing)
        self._target = [*self._spacing[: 3 - len(target)], *target]  # a 2D one leaves the distance of slices
        self._matrices: dict[tuple[int, int, int], Tensor] = {}

    def __call__(self, image: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Preprocess an image and what belongs to its voxels.

        Args:
            image: (C, Z, Y, X), in raw units, on the grid of nnU-Net's reader.
            shares: (L, Z, Y, X), from 0 to 1; they are cropped and resampled with it.

        Returns:
            Network input (C, *spatial), and shares (L, *spatial).
        """
        image, shares = (it.permute(0, *[axis + 1 for axis in self._order]) for it in (image, shares))
        mask = _nonzero(image.detach())
        if not mask.all():
            inside = bounding_box_to_slice(get_bbox_from_mask(mask))
            image, shares, mask = image[(slice(None), *inside)], shares[(slice(None), *inside)], mask[inside]
        normalised = self._normalised(image, torch.from_numpy(mask).to(image.device))
        return self._resampled(normalised), self._resampled(shares)

    def check(self, image: Tensor, volume: Volume) -> float:
        """Compare the untouched image (C, Z, Y, X) with nnU-Net's own preprocessing of it.

        Returns:
            Root mean square difference, as a share of the standard deviation.

        Raises:
            ValueError: it differs: the files' reader turns images, or resampling is another one.
        """
        with torch.no_grad():
            found, _ = self(image, image.new_zeros((1, *image.shape[1:])))
        own = volume.image.to(found)
        apart = float("inf")
        if found.shape == own.shape:
            apart = float((found - own).square().mean().sqrt() / own.std().clamp_min(SMALLEST_SCALE))
        if not apart <= ALIKE:
            msg = (
                f"{volume.case.name}: the differentiable preprocessing gives another image than nnU-Net's own "
                f"({tuple(found.shape)} and {tuple(own.shape)}, {apart:.2g} σ apart); readers that turn images, and "
                "preprocessors of one's own, are not known here"
            )
            raise ValueError(msg)
        return apart

    def _normalised(self, image: Tensor, mask: Tensor) -> Tensor:
        configuration, known = self.model.configuration, self.model.plans.foreground_intensity_properties_per_channel
        pairs = zip(configuration.normalization_schemes, configuration.use_mask_for_norm, strict=True)
        return torch.stack(
            [
                normalised(channel, scheme, mask if masked else None, known[str(number)])
                for number, (channel, (scheme, masked)) in enumerate(zip(image, pairs, strict=True))
            ]
        )

    def _resampled(self, image: Tensor) -> Tensor:
        shape = image.shape[1:]
        new = [int(size) for size in compute_new_shape(shape, self._spacing, self._target)]
        if new == list(shape):
            return image
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        for axis, (size, wanted) in enumerate(zip(shape, new, strict=True)):
            if size != wanted:
                matrix = self._matrix(axis, size, wanted).to(image)
                image = torch.tensordot(image, matrix, dims=([axis + 1], [1])).movedim(-1, axis + 1)
        return torch.minimum(torch.maximum(image, low), high)

    def _matrix(self, axis: int, size: int, wanted: int) -> Tensor:
        """What nnU-Net's resampling does along an axis (wanted, size), read off its answers to unit vectors."""
        key = (axis, size, wanted)
        if key not in self._matrices:
            # Around each unit vector lie constants, which keep clipping away: in every plane through it, as nnU-Net
            # clips slice by slice where the slices' axis is resampled on its own.
            lines = np.full((size, size, 3, 3), RANGE)
            lines[..., 2, :], lines[..., 1, 2], lines[..., 1, 1] = -RANGE, -RANGE, np.eye(size)
            probes, new = np.moveaxis(lines, 1, axis + 1), [3, 3, 3]
            new[axis] = wanted
            found = self.model.configuration.resampling_fn_data(probes, new, self._spacing, self._target)
            answers = np.moveaxis(np.asarray(found), axis + 1, 1)[..., 1, 1]
            self._matrices[key] = torch.from_numpy(np.ascontiguousarray(answers.T, np.float32))
        return self._matrices[key]


def normalised(channel: Tensor, scheme: str, mask: Tensor | None, intensities: dict[str, float]) -> Tensor:
    """A channel (*spatial) as nnU-Net's class of this name normalises it.

    Args:
        channel: in raw units.
        scheme: name of the class.
        mask: voxels (*spatial) that alone are normalised; None: all. Z-scores alone know it.
        intensities: of the foreground of the training cases, as the plans hold them.
    """
    if scheme == "ZScoreNormalization":
        chosen = channel if mask is None else channel[mask]
        scored = (channel - chosen.mean()) / chosen.std(correction=0).clamp_min(SMALLEST_SCALE)
        return scored if mask is None else torch.where(mask, scored, channel)
    if scheme == "CTNormalization":
        clipped = channel.clamp(intensities["percentile_00_5"], intensities["percentile_99_5"])
        return (clipped - intensities["mean"]) / max(intensities["std"], SMALLEST_SCALE)
    if scheme == "RescaleTo01Normalization":
        risen = channel - channel.min()
        return risen / risen.max().clamp_min(SMALLEST_SCALE)
    if scheme == "NoNormalization":
        return channel
    msg = f"gradients do not pass through {scheme}; known are {', '.join(SCHEMES)}"
    raise ValueError(msg)


def _nonzero(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """nnU-Net's mask of the object; filling its holes is spared where no voxel is 0."""
    if bool((image != 0).any(0).all()):
        return np.ones(image.shape[1:], bool)
    mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = create_nonzero_mask(image.cpu().numpy())
    return mask
