"""A real stack of slices, where it lies beside the project: what phantoms may not have thought of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from nnunet_ima.inference.cases import check_case, folder_cases
from nnunet_ima.inference.model import open_model
from nnunet_ima.inference.volume import read_volume, reread, write_noisy

HEART = Path(__file__).resolve().parents[3] / "shared" / "data" / "Dataset102_SunnybrookLV"


@pytest.mark.skipif(not HEART.is_dir(), reason=f"{HEART} is not here")
def test_noise_on_a_real_stack_survives_storing(trained_model: Path, tmp_path: Path) -> None:
    """Anisotropic, of an integer type, read and written as the hospital's own would be."""
    ending = json.loads((HEART / "dataset.json").read_text())["file_ending"]
    case = folder_cases(HEART / "imagesTr", HEART / "labelsTr", 1, ending)[0]
    model = open_model(trained_model)
    assert check_case(case, model) == []
    volume = read_volume(case, model)
    noise = 0.05 * torch.randn(volume.image.shape, generator=torch.Generator().manual_seed(0))
    file = tmp_path / case.images[0].name
    write_noisy(volume, noise, model, [file])
    clean: Any = nib.load(case.images[0])
    stored: Any = nib.load(file)
    assert stored.get_data_dtype() == clean.get_data_dtype()
    assert np.array_equal(stored.affine, clean.affine)
    again = reread(volume, [file], model)
    assert again.image.shape == volume.image.shape
    left = torch.corrcoef(torch.stack([noise.flatten(), (again.image - volume.image).flatten()]))[0, 1]
    assert left > 0.5
