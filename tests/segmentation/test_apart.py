"""Audits whose work is shared out among workers: the same bits as without, whatever happens to the workers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nnunet_ima.commands.attack import main
from nnunet_ima.evidence.lock import LOCK

AUDIT = ["--attack", "fgsm", "--eps", "0.3", "--no-tta", "--no-margins", "--check-cases", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def command(trained_model: Path, phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An audit of a model and of the same one under another name, on two cases."""
    folder = tmp_path_factory.mktemp("own")
    for source in ("imagesTr", "labelsTr"):
        (folder / source).mkdir()
        for file in sorted((phantom.raw / source).glob("*.nii.gz"))[:2]:
            shutil.copy(file, folder / source)
    models = ["--model", str(trained_model), "--name", "one", "--model", str(trained_model), "--name", "two"]
    own = ["--images", str(folder / "imagesTr"), "--labels", str(folder / "labelsTr")]
    return [*models, *own, *AUDIT]


def records(folder: Path) -> dict[str, Any]:
    """All results of an audit, but for the seconds they took."""
    return {
        str(file.relative_to(folder)): json.loads(file.read_text()) | {"seconds": 0.0}
        for file in sorted((folder / "results").rglob("*.json"))
    }


@pytest.fixture(scope="module")
def alone(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit without workers, on one thread as all tests."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    main([*command, "--output", str(folder)])
    return folder


def test_workers_find_the_same_bits(
    command: list[str], alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main([*command, "--output", str(out), "--workers", "2"])
    assert records(out) == records(alone)
    assert (out / "summary.json").read_bytes() == (alone / "summary.json").read_bytes()
    assert "2 workers on this machine; dashboard http://127.0.0.1:" in capsys.readouterr().err
    assert [file.name for file in out.glob(".*")] == [LOCK]
