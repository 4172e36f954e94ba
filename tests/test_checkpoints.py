"""The door for files of weights: damage, code and weights that are no numbers stay outside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_ima.checkpoints import load_checkpoint, refuse_not_finite

CONTENT = {"weights": torch.arange(4096.0), "log": [np.float64(0.5), np.float32(1), np.arange(3)], "name": "a"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(CONTENT, tmp_path / "a.pth")
    return tmp_path / "a.pth"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_and_plain_values_come_back(file: Path, zipped: bool) -> None:
    torch.save(CONTENT, file, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(file, needs=("weights", "name"))
    assert torch.equal(loaded["weights"], CONTENT["weights"])
    assert loaded["log"][:2] == [0.5, 1]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("trusted", [True, False])
def test_code_runs_only_from_those_whom_the_user_trusts(
    file: Path, tmp_path: Path, zipped: bool, trusted: bool
) -> None:
    torch.save(CONTENT | {"log": Evil(tmp_path / "marker")}, file, _use_new_zipfile_serialization=zipped)
    if trusted:
        load_checkpoint(file, trust=True)
    else:
        with pytest.raises(ValueError, match=r"a\.pth would run code .*\(\w+\.mkdir\)\. Ask its author$"):
            load_checkpoint(file, way_out="Ask its author")
    assert (tmp_path / "marker").exists() == trusted


def test_overwritten_bytes_are_noticed_wherever_they_are(file: Path) -> None:
    whole = file.read_bytes()
    begin = whole.index(torch.arange(4096.0).numpy().tobytes())
    for place in (begin + 64, begin + 8192, whole.index(b"data.pkl") + 128):
        file.write_bytes(whole[:place] + bytes(64) + whole[place + 64 :])
        with pytest.raises(ValueError, match=r"a\.pth is damaged"):
            load_checkpoint(file)
        with pytest.raises(ValueError, match=r"a\.pth is damaged"):
            load_checkpoint(file, trust=True)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("size", [0, 1, 10, 5000, -1])
def test_truncated_files_are_damaged(file: Path, size: int, zipped: bool) -> None:
    torch.save(CONTENT, file, _use_new_zipfile_serialization=zipped)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"a\.pth is damaged") as caught:
        load_checkpoint(file)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # PyTorch's advice is to trust the file


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="PyTorch always writes check sums")
def test_files_without_check_sums_are_read(file: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENT, file)
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(file)["name"] == "a"


def test_what_is_missing_is_named(file: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"b\.pth is missing"):
        load_checkpoint(file.with_name("b.pth"))
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_checkpoint(file.parent)
    with pytest.raises(ValueError, match=r"a\.pth was not written by us: it lacks epoch, margins"):
        load_checkpoint(file, needs=("name", "margins", "epoch"), writer="us")
    torch.save([1], file)
    with pytest.raises(ValueError, match=r"a\.pth was not written by nnU-Net: it holds a list"):
        load_checkpoint(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value: float) -> None:
    good = {"a": torch.ones(3), "steps": torch.tensor(2), "b": torch.ones(2, 2), "extra": "text"}
    refuse_not_finite(good, Path("a.pth"))
    good["b"][0, 1] = good["b"][1, 1] = value  # type: ignore[index]
    with pytest.raises(ValueError, match=r"a\.pth holds weights that are not finite: 2 of the 4 values of 'b' "):
        refuse_not_finite(good, Path("a.pth"))
