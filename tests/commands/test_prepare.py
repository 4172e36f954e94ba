"""`nnunet-ima-prepare`: wrong inputs give one sentence and exit status 2; right ones a data set."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_ima.commands import prepare
from nnunet_ima.commands._run import run_cli
from nnunet_ima.commands.prepare import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, expect exit status 2, and return what it wrote to stderr."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("phantom --cases 4", "cases must be at least 5"),
        ("phantom --shape 40 40 2", "shape must be at least 8"),
        ("phantom --channels 3", "channels must be 1 or 2"),
        ("phantom --spacing 1 1 -1", "spacing must be positive"),
        ("phantom --dataset-id 1000", "between 1 and 999, got 1000"),
        ("phantom --dataset-name a_b", "must consist of letters and digits, got 'a_b'"),
        ("phantom --processes 0", "--processes must be at least 1, got 0"),
        ("D4 --source /nowhere/at/all", "/nowhere/at/all does not exist"),
    ],
)
def test_wrong_input(empty_folders, capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    error = refused(capsys, *arguments.split())
    assert error.startswith("nnunet-ima-prepare: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert os.listdir(empty_folders.raw) == os.listdir(empty_folders.preprocessed) == []


@pytest.mark.parametrize("arguments", ["", "D3", "D4", "phantom --cases many", "phantom --no-such-option 1"])
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: str) -> None:
    assert refused(capsys, *arguments.split())


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed"])
def test_unset_variable(
    empty_folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv(variable)
    assert f"the environment variable {variable} is not set" in refused(capsys, "phantom")


def test_existing_data_set(empty_folders, capsys: pytest.CaptureFixture[str]) -> None:
    (empty_folders.raw / "Dataset999_Phantom").mkdir()
    assert "Dataset999_Phantom exists already; replace it with --overwrite" in refused(capsys, "phantom")
    (empty_folders.raw / "Dataset004_Other").mkdir()
    assert "has the same number as Dataset004_Hippocampus" in refused(
        capsys, "D4", "--source", str(empty_folders.raw), "--overwrite"
    )


def test_faults_are_reported_together(
    empty_folders, tmp_path: Path, write_archive: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_archive(tmp_path, cases=4, shape=(12, 12, 12))
    (source / "labelsTr" / "hippocampus_000.nii.gz").unlink()
    (source / "imagesTr" / "hippocampus_001.nii.gz").write_bytes(b"")
    error = refused(capsys, "D4", "--source", str(source))
    assert "2 faults in 2 of 4 cases of Task04_Hippocampus" in error
    assert "hippocampus_000: imagesTr/hippocampus_000.nii.gz: is an image without a label" in error
    assert "hippocampus_001: imagesTr/hippocampus_001.nii.gz: cannot be read" in error
    assert "Nothing was written." in error
    assert os.listdir(empty_folders.raw) == []


def test_help_names_every_verb_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (("", ("D2", "D4", "D5", "phantom")), ("D4", ("--source", "--skip-faulty"))):
        with pytest.raises(SystemExit) as caught:
            main([*arguments.split(), "--help"])
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in expected)


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(prepare, "prepare_phantom", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["phantom"])


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "nnunet-ima-prepare: interrupted"),
        (OSError(28, "No space left on device", "/disk/file"), 2, "/disk/file: No space left on device"),
        (OSError(28, "No space left on device"), 2, "nnunet-ima-prepare: No space left on device"),
        (ValueError(), 2, "ValueError"),
    ],
)
def test_exit_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(prepare, "prepare_phantom", fail)
    with pytest.raises(SystemExit) as caught:
        run_cli("nnunet-ima-prepare", prepare.Verb, ["phantom"])
    assert caught.value.code == status
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("fast_preparation")
def test_phantom(empty_folders, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--cases 5 --shape 24 24 12 --spacing 1 1 2 --channels 2 --dataset-id 77 --dataset-name Tiny"
    main(["phantom", *options.split(), "--processes", "2"])
    output = capsys.readouterr().out
    folder = empty_folders.preprocessed / "Dataset077_Tiny"
    assert "Dataset077_Tiny is ready, with 5 training cases" in output
    assert "nnUNetv2_train 77 2d_cpu 0 -device cpu -tr nnUNetTrainerIMA" in output
    assert "2d_cpu" in json.loads((folder / "nnUNetPlans.json").read_text())["configurations"]


def test_console_script_with_real_worker_processes(
    empty_folders, tmp_path: Path, write_archive: Callable[..., Path]
) -> None:
    """The whole of D4 as a user runs it, on a small archive with one faulty case."""
    source = write_archive(tmp_path, cases=6)
    (source / "labelsTr" / "hippocampus_005.nii.gz").unlink()
    command = [sys.executable, "-m", "nnunet_ima.commands.prepare", "D4", "--source", str(source)]
    done = subprocess.run([*command, "--skip-faulty", "--processes", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Left out (1):" in done.stdout
    assert "hippocampus_005: imagesTr/hippocampus_005.nii.gz: is an image without a label" in done.stdout
    assert "Checking Task04_Hippocampus: 100%" in done.stderr
    folder = empty_folders.preprocessed / "Dataset004_Hippocampus"
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 5
    assert json.loads((folder / "nnUNetPlans.json").read_text())["ima"]["eps"] == 15
    assert len(list((folder / "nnUNetPlans_3d_fullres").glob("*.pkl"))) == 5
