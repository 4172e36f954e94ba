"""Draws every disturbance of `nnunet_ima.shift` in every severity, on an image of yours or on a phantom.

python scripts/contact_sheet.py --modality CT --output results/contact_sheet_ct.png
python scripts/contact_sheet.py --modality MR --image case_0000.nii.gz case_0001.nii.gz --label case.nii.gz
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from nnunet_ima.datasets.ct_phantom import ct_phantom_case
from nnunet_ima.datasets.phantom import phantom_case
from nnunet_ima.report.contact_sheet import draw_contact_sheet
from nnunet_ima.shift import Scan
from nnunet_ima.shift.scan_files import read_scan


@dataclass
class ContactSheet:
    """Draw a contact sheet."""

    modality: Literal["MR", "CT"] = "MR"
    """What the image is."""

    image: tuple[Path, ...] = ()
    """Files of the channels; none: a phantom."""

    label: Path | None = None
    """File of the label map."""

    output: Path = Path("contact_sheet.png")
    """PNG to write."""

    seed: int = 0
    """Seed of the draws, and of the phantom."""


def main(settings: ContactSheet) -> None:
    """Do it."""
    scan = read_scan(settings.image, settings.label, settings.modality) if settings.image else phantom(settings)
    what = settings.image[0].name if settings.image else f"{settings.modality} phantom"
    draw_contact_sheet(scan, settings.output, f"{what}: severities 0 to 5, see nnunet_ima/shift", settings.seed)


def phantom(settings: ContactSheet) -> Scan:
    """A phantom of the modality, with the trunk of an adult or a region of 8 cm."""
    rng = np.random.default_rng(settings.seed)
    if settings.modality == "CT":
        spacing = (4.0, 4.0, 5.0)
        image, label = ct_phantom_case(rng, (96, 80, 40), spacing)
    else:
        spacing = (1.0, 1.0, 1.5)
        image, label = phantom_case(rng, (80, 80, 48), spacing, noise=0.02)
    voxels = np.ascontiguousarray(image.transpose(0, 3, 2, 1))
    return Scan(voxels, np.ascontiguousarray(label.T), np.diag([*spacing, 1.0]), settings.modality)


if __name__ == "__main__":
    main(tyro.cli(ContactSheet, description=__doc__))
