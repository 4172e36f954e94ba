"""Write phantom volumes as a raw data set of nnU-Net."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from nnunet_ima.datasets.phantom import CONTRASTS, hide_labels, phantom_case

MIN_CASES = 5  # nnU-Net splits into five folds
MIN_EDGE = 8
IGNORE_VALUE = 3


@dataclass(frozen=True)
class PhantomSettings:
    """What the phantoms of a data set are like.

    Attributes:
        cases: number of labelled volumes.
        shape: voxels along x, y and z.
        spacing: voxel edge along x, y and z, in mm.
        channels: input channels, 1 or 2.
        seed: the same seed gives the same volumes; case i does not depend on the number of cases.
        regions: describe the labels as overlapping regions, "whole" (1 and 2) and "core" (2).
        ignore: leave a quarter of every label map unannotated (nnU-Net's ignore label).
        noise: standard deviation of the receiver's noise, relative to the signal of tissue.
        bias: standard deviation of the logarithm of the bias field.
    """

    cases: int = 24
    shape: tuple[int, int, int] = (40, 40, 24)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: int = 1
    seed: int = 0
    regions: bool = False
    ignore: bool = False
    noise: float = 0.08
    bias: float = 0.15

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the option."""
        checks = (
            (self.cases >= MIN_CASES, f"cases must be at least {MIN_CASES} (nnU-Net's folds), got {self.cases}"),
            (min(self.shape) >= MIN_EDGE, f"shape must be at least {MIN_EDGE} along each axis, got {self.shape}"),
            (all(0 < edge < float("inf") for edge in self.spacing), f"spacing must be positive, got {self.spacing}"),
            (1 <= self.channels <= len(CONTRASTS), f"channels must be 1 or {len(CONTRASTS)}, got {self.channels}"),
            (self.seed >= 0, f"seed must not be negative, got {self.seed}"),
            (0 <= self.noise <= 1, f"noise must be in [0, 1], got {self.noise}"),
            (0 <= self.bias <= 1, f"bias must be in [0, 1], got {self.bias}"),
        )
        for passed, msg in checks:
            if not passed:
                raise ValueError(msg)


def write_phantom(folder: Path, settings: PhantomSettings, show_progress: bool = True) -> None:
    """Generate the volumes and write them with their dataset.json.

    Args:
        folder: the data set's folder, for example nnUNet_raw/Dataset999_Phantom; it must not exist.
        settings: what the volumes are like.
        show_progress: draw a progress bar on stderr.
    """
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    affine = np.diag([*settings.spacing, 1.0])
    for case in tqdm(range(settings.cases), desc="Generating phantoms", disable=not show_progress):
        rng = np.random.default_rng([settings.seed, case])
        image, label = phantom_case(
            rng, settings.shape, settings.spacing, settings.channels, settings.noise, settings.bias
        )
        if settings.ignore:
            hide_labels(rng, label, IGNORE_VALUE)
        for channel, volume in enumerate(image):
            _write_volume(volume, affine, folder / "imagesTr" / f"phantom_{case:03d}_{channel:04d}.nii.gz")
        _write_volume(label, affine, folder / "labelsTr" / f"phantom_{case:03d}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps(_dataset_json(settings), indent=4), encoding="utf-8")


def _write_volume(volume: np.ndarray[Any, Any], affine: np.ndarray[Any, Any], file: Path) -> None:
    nifti = nib.Nifti1Image(volume, affine)
    nifti.header.set_xyzt_units("mm")
    nib.save(nifti, file)


def _dataset_json(settings: PhantomSettings) -> dict[str, Any]:
    labels: dict[str, Any] = {"background": 0, "shell": 1, "core": 2}
    if settings.regions:
        labels = {"background": 0, "whole": [1, 2], "core": 2}
    if settings.ignore:
        labels["ignore"] = IGNORE_VALUE
    info: dict[str, Any] = {
        "name": "Phantom",
        "description": "Random MR-like volumes of an organ with a core",
        "licence": "CC0-1.0",
        "channel_names": {str(channel): name for channel, name in enumerate(("T1", "T2")[: settings.channels])},
        "labels": labels,
        "numTraining": settings.cases,
        "file_ending": ".nii.gz",
    }
    if settings.regions:
        info["regions_class_order"] = [1, 2]
    return info
