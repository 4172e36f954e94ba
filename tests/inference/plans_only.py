"""Models that have plans but no network, and small cases for their preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.model import TrainedModel

SHAPE = (10, 12, 8)  # (X, Y, Z)
LABELS = {"background": 0, "one": 1, "two": 2}
INTENSITIES = {"mean": 100.0, "std": 40.0, "percentile_00_5": -1e6, "percentile_99_5": 1e6}
# Turned by 90° about z, with a flip, an origin, and another spacing along each axis.
OBLIQUE = np.array([[0, -1.5, 0, 7], [1, 0, 0, -3], [0, 0, -2, 11], [0, 0, 0, 1.0]])


def make_model(
    labels: dict[str, Any] | None = None,
    spacing: tuple[float, ...] = (1, 1, 1),
    transpose: tuple[int, int, int] = (0, 1, 2),
    schemes: tuple[str, ...] = ("ZScoreNormalization",),
    masked: bool = False,
    reader: str = "SimpleITKIO",
    intensities: dict[str, float] = INTENSITIES,
    preprocessor: str = "DefaultPreprocessor",
) -> TrainedModel:
    """A model that has plans but no network."""

    def resampling(kind: str, order: int) -> dict[str, Any]:
        options = {"is_seg": kind == "seg", "order": order, "order_z": 0, "force_separate_z": None}
        return {
            f"resampling_fn_{kind}": "resample_data_or_seg_to_shape",
            f"resampling_fn_{kind}_kwargs": options,
        }

    plans = PlansManager(
        {
            "dataset_name": "Dataset999_Test",
            "image_reader_writer": reader,
            "transpose_forward": list(transpose),
            "transpose_backward": np.argsort(transpose).tolist(),
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {str(i): intensities for i in range(len(schemes))},
            "configurations": {
                "tested": {
                    "preprocessor_name": preprocessor,
                    "patch_size": [8] * len(spacing),
                    "spacing": list(spacing),
                    "normalization_schemes": list(schemes),
                    "use_mask_for_norm": [masked] * len(schemes),
                    "architecture": {},
                    **resampling("data", 3),
                    **resampling("seg", 1),
                    **resampling("probabilities", 1),
                }
            },
        }
    )
    labels = labels or LABELS
    dataset_json = {
        "labels": labels,
        "regions_class_order": [1, 2],
        "channel_names": {str(i): "MRI" for i in range(len(schemes))},
        "file_ending": ".nii.gz",
    }
    return TrainedModel(
        folder=Path(),
        trainer="none",
        configuration_name="tested",
        folds=("0",),
        checkpoints=(),
        networks=(),
        plans=plans,
        configuration=plans.get_configuration("tested"),
        dataset_json=dataset_json,
        mirror_axes=None,
        device=torch.device("cpu"),
    )


def random_voxels(dtype: str = "float32", shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray[Any, Any]:
    voxels = np.random.default_rng(seed).normal(100, 30, shape).clip(1, 250)
    return (voxels if dtype.startswith("float") else np.rint(voxels)).astype(dtype)


def make_case(folder: Path, *channels: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] | None = None) -> Case:
    """Write channels (X, Y, Z) and a label of two boxes."""
    affine = np.eye(4) if affine is None else affine
    images = tuple(folder / f"case_{number:04d}.nii.gz" for number in range(len(channels)))
    for voxels, file in zip(channels, images, strict=True):
        nib.save(nib.Nifti1Image(voxels, affine), file)
    label = np.zeros(channels[0].shape, np.uint8)
    label[2:5, 3:7, 2:5], label[5:8, 3:7, 2:5] = 1, 2
    nib.save(nib.Nifti1Image(label, affine), folder / "case.nii.gz")
    return Case("case", images, folder / "case.nii.gz")
