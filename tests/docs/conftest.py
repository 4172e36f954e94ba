"""A model and its cases under the names that pages use for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def home(trained_model: Path, phantom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the names that pages use for a model and its cases are those of a tiny one."""
    (tmp_path / "MODEL_FOLDER").symlink_to(trained_model)
    for name, source in (("IMAGES", "imagesTr"), ("LABELS", "labelsTr")):
        (tmp_path / name).mkdir()
        for file in sorted((phantom.raw / source).glob("*.nii.gz"))[:2]:
            shutil.copy(file, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
