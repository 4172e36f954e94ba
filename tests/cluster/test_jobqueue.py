"""Workers as jobs of a queue, which two small scripts stand for."""

from __future__ import annotations

import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from nnunet_ima.cluster.jobqueue import imported, read_settings
from nnunet_ima.cluster.share import Task, share
from nnunet_ima.cluster.workers import Workers, connected

if find_spec("dask_jobqueue") is None:
    pytest.skip("the extra cluster is not installed", allow_module_level=True)

SETTINGS = "jobqueue:\n  slurm:\n    cores: 2\n    memory: 2GB\n    processes: 1\n    death-timeout: 60\n"
SBATCH = """#!/bin/sh
cp "$1" "$1.job"
sh "$1.job" > /dev/null 2>&1 < /dev/null &
echo "Submitted batch job $!"
"""
REFUSES = "#!/bin/sh\necho 'sbatch: error: invalid partition specified' >&2\nexit 1\n"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "slurm.yaml"
    file.write_text(SETTINGS)
    return file


def put(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Put commands where the shell finds them first."""
    folder.mkdir()
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_jobs_of_a_queue_do_the_work(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "bin", monkeypatch, sbatch=SBATCH, scancel="#!/bin/sh\n")
    with connected(Workers(1, queue="slurm", config=settings)) as client:
        (done,) = share(client, time.time, [Task(())])  # its worker has one of the job's two cores for its one thread
        assert done.value > 0
    assert "1 workers asked of slurm" in capsys.readouterr().err


def test_a_refusal_is_told_with_the_job(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "bin", monkeypatch, sbatch=REFUSES, scancel="#!/bin/sh\n")
    with (
        pytest.raises(ValueError, match=r"--jobqueue slurm: .*invalid partition specified.*printed above"),
        connected(Workers(1, queue="slurm", config=settings)),
    ):
        pass
    job = capsys.readouterr().err
    assert "#SBATCH --cpus-per-task=2" in job
    assert "--nthreads 1" in job


def test_a_machine_without_the_queue_is_told(
    settings: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ValueError, match="the command sbatch is not found here"),
        connected(Workers(1, queue="slurm", config=settings)),
    ):
        pass
    assert "#SBATCH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("jobqueue: {pbs: {cores: 1}}", "must hold settings under jobqueue: slurm:"),
        ("a: [", "must hold settings under jobqueue: slurm:"),
        ("jobqueue: {slurm: {}}", "You must specify how much cores and memory"),
        ("jobqueue: {slurm: {cores: 1, memory: 1GB, colour: red}}", "colour"),
    ],
)
def test_wrong_settings_are_told(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "slurm.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as caught, connected(Workers(1, queue="slurm", config=file)):
        pass
    assert str(file) in str(caught.value)


def test_missing_and_unknown(settings: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_settings(tmp_path / "no.yaml", "slurm")
    settings.write_text(SETTINGS.replace("slurm", "magic"))
    with (
        pytest.raises(ValueError, match="--jobqueue must be one of slurm, pbs"),
        connected(Workers(1, queue="magic", config=settings)),
    ):
        pass


def test_ctrl_c_stays_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package takes the signal over when it is imported, and would end the process as if all were well."""
    for name in [name for name in sys.modules if name.startswith("dask_jobqueue")]:
        monkeypatch.delitem(sys.modules, name)
    before = signal.getsignal(signal.SIGINT)
    imported()
    assert signal.getsignal(signal.SIGINT) is before
