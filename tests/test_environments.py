"""Where a command runs changes nothing: terminals, languages, rights, clocks, and editors on Windows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_ima.classification.data import _csv_rows
from nnunet_ima.cluster.jobqueue import read_settings
from nnunet_ima.commands import attack
from nnunet_ima.evidence.protocol import lock, make_protocol, read_protocol
from nnunet_ima.files import read_json
from nnunet_ima.report.about import read_about
from nnunet_ima.report.strata import read_strata

QUICK = ["--attack", "fgsm", "--eps", "0.3", "--no-margins", "--no-tta", "--check-cases", "0", "--device", "cpu"]
FUTURE = time.time() + 10 * 365 * 86400
TOLD = ("summary.json", "summary.csv", "cases.csv", "report.md", "dossier.html")


@pytest.fixture(scope="module")
def audit(trained_model: Path, phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An audit of one case in a folder with spaces and letters of two scripts, and its command."""
    home = tmp_path_factory.mktemp("Prüfung 患者 (1)")
    for folder in ("imagesTr", "labelsTr"):
        (home / folder).mkdir()
        shutil.copy(sorted((phantom.raw / folder).glob("*.nii.gz"))[0], home / folder)
    data = ["--images", str(home / "imagesTr"), "--labels", str(home / "labelsTr")]
    command = ["--model", str(trained_model), *data, *QUICK, "--output", str(home / "mein Audit ε")]
    attack.main(command)
    return home / "mein Audit ε", command


def told(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TOLD}


def test_files_from_the_future_are_gone_on_with(audit: tuple[Path, list[str]]) -> None:
    """The clock has been set back since."""
    folder, command = audit
    before = told(folder)
    for file in folder.rglob("*"):
        os.utime(file, (FUTURE, FUTURE))
    attack.main(command)
    assert told(folder) == before
    assert all(file.stat().st_mtime == FUTURE for file in folder.glob("results/*/*/*.json"))  # not measured again


def test_a_bare_environment_changes_nothing(audit: tuple[Path, list[str]], tmp_path: Path) -> None:
    """No language, no home, a terminal that knows ASCII alone, and rights for nobody else."""
    folder, _ = audit
    kept = {
        name: value for name, value in os.environ.items() if name.startswith(("PATH", "PYTHONPATH", "nnUNet", "OMP"))
    }
    bare = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"}
    code = "import os, sys; os.umask(0o077); from nnunet_ima.commands.report import main; main(sys.argv[1:])"
    page = (folder / "dossier.html").read_bytes()
    (folder / "dossier.html").unlink()
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=kept | bare, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"mein Audit \\u03b5" in done.stdout
    assert (folder / "dossier.html").read_bytes() == page
    assert (folder / "dossier.html").stat().st_mode & 0o077 == 0


def protocol(file: Path) -> object:
    if not file.exists():
        question: dict[str, Any] = {"attacks": 3, "settings": {}, "models": {}, "cases": {"ü": "f" * 64}}
        lock(make_protocol(question, {"attacks": ("pgd",), "eps": (5.0,)}, 2, ()), file)
    return read_protocol(file)


def written(text: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    def read_it(file: Path) -> object:
        if not file.exists():
            file.write_text(text, encoding="utf-8")
        return read(file)

    return read_it


READ: dict[str, Callable[[Path], object]] = {
    "protocol.toml": protocol,
    "about.toml": written('intended_use = "Prüfung"\n[[acceptance]]\ndice = 0.8\neps = 5\n', read_about),
    "strata.csv": written("case,site\na,Köln\nb,Aachen\n", read_strata),
    "images.csv": written("image,label,patient\nü.png,a,1\n", lambda file: _csv_rows(file, None)),
    "dataset.json": written('{"labels": {"background": 0, "Ödem": 1}}\n', read_json),
    "jobs.yaml": written("jobqueue:\n  slurm:\n    cores: 4\n", lambda file: read_settings(file, "slurm")),
}


@pytest.mark.parametrize("name", READ)
def test_files_that_an_editor_on_windows_has_saved(name: str, tmp_path: Path) -> None:
    file, read = tmp_path / name, READ[name]
    expected = read(file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read(file) == expected
