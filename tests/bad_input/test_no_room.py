"""A full disk, a quota, a read-only folder: one sentence, what was measured stays, and the same command goes on."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from full_disk import no_file_beyond

from nnunet_ima.cluster.share import Done, Task
from nnunet_ima.commands import attack
from nnunet_ima.commands._run import WAYS_OUT, run_cli
from nnunet_ima.evidence.store import LOCK
from nnunet_ima.segmentation import apart

QUICK = ["--attack", "fgsm", "--eps", "0.3", "--no-margins", "--no-tta", "--check-cases", "0", "--device", "cpu"]
MORE = ["--shift", "mr", "--disturbances", "gamma", "--severities", "3", "--save-adversarial"]


@pytest.fixture
def command(trained_model: Path, phantom: Any, tmp_path: Path) -> list[str]:
    """An audit of one case, with everything that writes files."""
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        shutil.copy(sorted((phantom.raw / folder).glob("*.nii.gz"))[0], tmp_path / folder)
    data = ["--images", str(tmp_path / "imagesTr"), "--labels", str(tmp_path / "labelsTr")]
    return ["--model", str(trained_model), *data, *QUICK, *MORE, "--output", str(tmp_path / "out")]


def left_over(folder: Path) -> list[str]:
    """Files and folders that are no results."""
    return [str(entry) for entry in folder.rglob(".*") if entry.name != LOCK]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_an_audit_on_a_full_disk_goes_on_when_there_is_room(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each time with more room, so that each time another file fails: the manifest, noise, the page."""
    folder, told = tmp_path / "out", []
    for size in (200, 20_000, 1_000_000):
        before = contents(folder) if folder.is_dir() else {}
        capsys.readouterr()
        with no_file_beyond(size), pytest.raises(SystemExit) as stop:
            attack.main(command)
        assert stop.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nnunet-ima-attack: ")]
        assert str(folder) in line
        told.append(line)
        assert left_over(folder) == []
        results = {name: content for name, content in before.items() if name.startswith("results/")}
        assert results.items() <= contents(folder).items()
    assert f"{folder / 'manifest.json'}: File too large; make room there and start the same command again" in told[0]
    assert "dossier.html: File too large" in told[-1]
    assert len(set(told)) == 3
    attack.main(command)
    shutil.copytree(folder, tmp_path / "former")
    shutil.rmtree(folder)
    attack.main(command)
    for name in ("summary.json", "cases.csv"):
        assert (folder / name).read_bytes() == (tmp_path / "former" / name).read_bytes()
    former, whole = contents(tmp_path / "former"), contents(folder)
    assert former.keys() == whole.keys()
    images = [name for name in whole if name.startswith("images/")]
    assert {name: former[name] for name in images} == {name: whole[name] for name in images}


@dataclass
class Failing:
    """Meets an error of the system."""

    number: int
    """Of the error."""

    def run(self) -> None:
        """Meet it."""
        raise OSError(self.number, os.strerror(self.number), "/out/a.json")


@pytest.mark.parametrize("number", WAYS_OUT, ids=[errno.errorcode[number] for number in WAYS_OUT])
def test_errors_of_the_system_have_a_way_out(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_cli("nnunet-ima-test", Failing, ["--number", str(number)])
    assert stop.value.code == 2
    told = f"nnunet-ima-test: /out/a.json: {os.strerror(number)}; {WAYS_OUT[number]}\n"
    assert capsys.readouterr().err == told


def test_a_worker_without_room_ends_the_audit(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """No other case would come further; what else a worker says is told, and the audit tries it itself."""
    errors = [ValueError("another"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/out/a.json")]
    case = type("Case", (), {"name": "case_1"})()
    part = type("Part", (), {"model": "m", "case": case})()
    monkeypatch.setattr(apart, "share", lambda *_: [Done(Task((None, part)), error=error) for error in errors])
    monkeypatch.setattr(apart, "replace", lambda part, **_: part)
    monkeypatch.setattr(apart, "_absolute", lambda case: case)
    monkeypatch.setattr(apart.Apart, "_cost", lambda *_: 1.0)
    with pytest.raises(OSError, match="No space left on device"):
        apart.Apart(None, None, {}, None)._share([part], 1, "measurement")
    assert "case_1: a worker says ValueError('another')" in capsys.readouterr().err
