"""A case as the network sees it, and the way back: segmentations, noise and maps as files in the raw geometry.

nnU-Net transposes the axes, crops to the nonzero region, normalises and resamples. The way back resamples, undoes the
crop and the transposition, and speaks raw units (HU, grey values) again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from torch import Tensor

from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.model import TrainedModel

SMALLEST_SCALE = 1e-8  # nnU-Net divides by no less
NIFTI = (".nii.gz", ".nii")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Volume:
    """A preprocessed case.

    Attributes:
        case: where it comes from.
        image: network input (C, *spatial), float32, in σ.
        target: what `Labels.read` expects of a single sample: label map (1, *spatial), or regions (R, *spatial), with
            an ignore label (R + 1, *spatial). What has been cropped away (-1 in nnU-Net's own) is background.
        properties: nnU-Net's: spacing, crop, shapes.
        label: raw label map (Z, Y, X), as nnU-Net's reader gives it.
        scale: raw units per σ of each channel; None: the normalisation is not known here.
        mask: voxels (*cropped) that nnU-Net takes for the object; with `use_mask_for_norm` only they are normalised.
    """

    case: Case
    image: Tensor
    target: Tensor
    properties: dict[str, Any]
    label: Array
    scale: tuple[float, ...] | None
    mask: Array


def read_volume(case: Case, model: TrainedModel) -> Volume:
    """Preprocess a case as nnU-Net does for a prediction."""
    configuration, plans = model.configuration, model.plans
    files, label = [str(file) for file in case.images], str(case.label)
    reader, preprocessor = plans.image_reader_writer_class(), configuration.preprocessor_class(verbose=False)
    image, target, properties = preprocessor.run_case(files, label, plans, configuration, model.dataset_json)
    if any(configuration.use_mask_for_norm):
        # The label widens the mask where it lies on zeros; a prediction knows no label.
        image, _, _ = preprocessor.run_case(files, None, plans, configuration, model.dataset_json)
    raw, _ = reader.read_images(files)
    cropped, outside, _ = crop_to_nonzero(raw.transpose([0, *[axis + 1 for axis in plans.transpose_forward]]))
    mask = outside[0] >= 0
    return Volume(
        case=case,
        image=torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)),
        target=_target(torch.from_numpy(target.astype(np.int64)).clamp_min(0), model),
        properties=properties,
        label=reader.read_seg(label)[0][0].astype(np.int16),
        scale=_scales(cropped, mask, model),
        mask=mask,
    )


def reread(volume: Volume, files: Sequence[Path], model: TrainedModel) -> Volume:
    """Preprocess the case again with other images, for example those that `write_noisy` wrote.

    The grid may be another one: noise can move the border of the nonzero region that nnU-Net crops to.
    """
    return read_volume(replace(volume.case, images=tuple(files)), model)


def segment(logits: Tensor, volume: Volume, model: TrainedModel) -> Array:
    """Raw-space label map (Z, Y, X) of logits (K, *spatial), by nnU-Net's exporter."""
    label_map: Array = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.detach().float().cpu(),
        model.plans,
        model.configuration,
        model.label_manager,
        volume.properties,
        num_threads_torch=torch.get_num_threads(),
    )
    return label_map


def write_noisy(volume: Volume, noise: Tensor, model: TrainedModel, files: Sequence[Path]) -> None:
    """Write the raw images with noise added, in the raw geometry and number type.

    What a file cannot hold is lost, and `reread` shows what is left. Integer types round, and saturate at the ends of
    their range, which uint8 images often reach; resampling smooths; CT normalisation clips, so that noise on a voxel
    beyond its range does not reach the network. Outside the crop the raw voxels stay. With `use_mask_for_norm` they
    stay outside the mask, too: noise there would move the mask, and with it mean and std.

    Args:
        volume: the clean volume.
        noise: (C, *spatial), in σ.
        model: whose preprocessing is to be undone.
        files: one per channel; .nii.gz, or what SimpleITK writes if the raw image is no NIfTI file.

    Raises:
        ValueError: the normalisation, preprocessor or reader is not known here, the noise or the files do not fit, or a
            file is that of a raw image.
    """
    if volume.scale is None:
        known = f"{model.configuration.preprocessor_name} with {', '.join(model.configuration.normalization_schemes)}"
        msg = f"the noise of {volume.case.name} cannot be put into raw units: {known} is not known here"
        raise ValueError(msg)
    if noise.shape != volume.image.shape or not len(noise) == len(files) == len(volume.case.images):
        msg = (
            f"noise of shape {tuple(noise.shape)} into {len(files)} files does not fit {volume.case.name}, which has "
            f"shape {tuple(volume.image.shape)} from {len(volume.case.images)} files (one per channel are needed)"
        )
        raise ValueError(msg)
    for source, file, added in zip(volume.case.images, files, raw_noise(volume, noise, model), strict=True):
        if file.resolve() == source.resolve():
            msg = f"{file} is the raw image itself; write the noisy one elsewhere"
            raise ValueError(msg)
        if source.name.endswith(NIFTI):
            _add_to_nifti(source, _file_order(added, volume.properties), file)
        else:
            _add_to_image(source, added, file)


def raw_noise(volume: Volume, noise: Tensor, model: TrainedModel) -> Array:
    """Noise (C, Z, Y, X) in raw units, on the grid of nnU-Net's reader; in σ where the normalisation is not known.

    Args:
        volume: the clean volume.
        noise: (C, *spatial), in σ.
        model: whose preprocessing is to be undone.
    """
    plans, configuration, properties = model.plans, model.configuration, volume.properties
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    # A 2D configuration leaves the distance of the slices as it is.
    preprocessed_spacing = [*spacing[: len(spacing) - len(configuration.spacing)], *configuration.spacing]
    values = configuration.resampling_fn_data(
        noise.detach().float().cpu().numpy(),
        properties["shape_after_cropping_and_before_resampling"],
        preprocessed_spacing,
        spacing,
    )
    values = np.array(values, dtype=np.float32)  # a copy: without resampling nnU-Net hands back what it was given
    for channel, scale in enumerate(volume.scale or ()):
        values[channel] *= scale
        masked = configuration.use_mask_for_norm[channel]
        if masked and configuration.normalization_schemes[channel] == "ZScoreNormalization":
            values[channel][~volume.mask] = 0
    whole = np.zeros((len(values), *properties["shape_before_cropping"]), np.float32)
    whole = insert_crop_into_image(whole, values, properties["bbox_used_for_cropping"])
    return whole.transpose([0, *[axis + 1 for axis in plans.transpose_backward]])


def write_label_map(array: Array, volume: Volume, model: TrainedModel, file: Path) -> None:
    """Write a label map (Z, Y, X) as nnU-Net writes its predictions."""
    model.plans.image_reader_writer_class().write_seg(array, str(file), volume.properties)


def write_map(array: Array, volume: Volume, file: Path) -> None:
    """Write a map (Z, Y, X) as float32 in the raw geometry."""
    source = volume.case.images[0]
    if not source.name.endswith(NIFTI):
        raw = sitk.ReadImage(str(source))
        written = sitk.GetImageFromArray(array.astype(np.float32).reshape(sitk.GetArrayViewFromImage(raw).shape))
        written.CopyInformation(raw)
        sitk.WriteImage(written, str(file), True)
        return
    original: Any = nib.load(source)
    voxels = _file_order(array.astype(np.float32), volume.properties).reshape(original.shape)
    header = original.header.copy()
    header.set_data_dtype(np.float32)
    header["cal_min"] = header["cal_max"] = 0  # the display range of the image
    nib.save(type(original)(voxels, original.affine, header), file)


def fragility(clean: Array, attacked: Mapping[float, Array]) -> Array:
    """Smallest ε tried at which the attacked prediction leaves the clean one, per voxel.

    Args:
        clean: label map (Z, Y, X).
        attacked: label maps (Z, Y, X) by ε.

    Returns:
        (Z, Y, X), float32. 0 where no attack changed the prediction: viewers show 0 as background, so that robust
        voxels stay transparent.

    Raises:
        ValueError: an ε is not above 0, or a shape differs.
    """
    found = np.zeros(clean.shape, np.float32)
    for eps, label_map in sorted(attacked.items(), reverse=True):
        if eps <= 0 or label_map.shape != clean.shape:
            msg = f"expected maps of shape {clean.shape} at ε > 0, got {label_map.shape} at ε = {eps:g}"
            raise ValueError(msg)
        found[label_map != clean] = eps
    return found


def _target(label_map: Tensor, model: TrainedModel) -> Tensor:
    manager = model.label_manager
    if not manager.has_regions:
        return label_map
    regions = [*manager.foreground_regions, *([manager.ignore_label] if manager.has_ignore_label else [])]
    return torch.cat([torch.isin(label_map, torch.tensor(region)) for region in regions]).long()


def _scales(image: Array, mask: Array, model: TrainedModel) -> tuple[float, ...] | None:
    scales = [_scale(image[channel], mask, channel, model) for channel in range(len(image))]
    known = tuple(scale for scale in scales if scale is not None)
    return known if len(known) == len(scales) else None


def _scale(image: Array, mask: Array, channel: int, model: TrainedModel) -> float | None:
    """Raw units per σ of a cropped channel, by nnU-Net's own arithmetic."""
    if model.configuration.preprocessor_name != "DefaultPreprocessor":
        return None
    scheme = model.configuration.normalization_schemes[channel]
    if scheme == "ZScoreNormalization":
        scale = image[mask].std() if model.configuration.use_mask_for_norm[channel] else image.std()
    elif scheme == "CTNormalization":
        scale = model.plans.foreground_intensity_properties_per_channel[str(channel)]["std"]
    elif scheme == "RescaleTo01Normalization":
        scale = image.max() - image.min()
    else:
        return {"NoNormalization": 1.0, "RGBTo01Normalization": 255.0}.get(scheme)
    return max(float(scale), SMALLEST_SCALE)


def _file_order(array: Array, properties: dict[str, Any]) -> Array:
    """Reader's (Z, Y, X) to a NIfTI file's (X, Y, Z), which nnU-Net's reorienting reader has turned to RAS."""
    array = array.transpose(2, 1, 0)
    if "original_orientation" in properties.get("sitk_stuff", {}):
        msg = "images of nnU-Net's reader SimpleITKIOWithReorient cannot be written here"
        raise ValueError(msg)
    if "reoriented_affine" in properties.get("nibabel_stuff", {}):
        original = io_orientation(properties["nibabel_stuff"]["original_affine"])
        array = apply_orientation(array, ornt_transform(axcodes2ornt("RAS"), original))
    return array


def _add_to_nifti(source: Path, noise: Array, file: Path) -> None:
    """Add noise to the stored numbers; header, affine, slope and intercept stay."""
    original: Any = nib.load(source)
    slope, intercept = float(original.dataobj.slope), float(original.dataobj.inter)
    stored = original.dataobj.get_unscaled()
    noisy = _as_type(stored + noise.reshape(stored.shape).astype(np.float64) / slope, stored.dtype)
    written = type(original)(noisy, original.affine, original.header)
    written.header.set_slope_inter(slope, intercept)  # keeps nibabel from choosing its own
    nib.save(written, file)


def _add_to_image(source: Path, noise: Array, file: Path) -> None:
    original = sitk.ReadImage(str(source))
    voxels = sitk.GetArrayViewFromImage(original)
    noisy = _as_type(voxels + noise.reshape(voxels.shape).astype(np.float64), voxels.dtype)
    written = sitk.GetImageFromArray(noisy)
    written.CopyInformation(original)
    for key in original.GetMetaDataKeys():
        written.SetMetaData(key, original.GetMetaData(key))
    sitk.WriteImage(written, str(file), True)


def _as_type(values: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)
