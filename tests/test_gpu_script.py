"""scripts/gpu.sh at toy size on a CPU: a part, again, and with a part that fails; with `-m slow` all parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "gpu.sh"
PARTS = ("checks", "speed", "audit", "2d", "3d_fullres", "longer", "covid")
SOME = ("2d",)  # with imports, the others take four more minutes

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="module")
def run(home: Path) -> Run:
    """A function that runs the script with parts and variables, as on a machine where nothing is installed."""

    def start(*parts: str, **variables: str) -> subprocess.CompletedProcess[str]:
        usual = {"TOY": "1", "DEVICE": "cpu", "OUT": str(home / "out"), "WORK": str(home / "work")}
        usual |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            ["bash", str(SCRIPT), *parts], env=dict(os.environ) | usual | variables, capture_output=True, text=True
        )

    return start


@pytest.fixture(scope="module")
def some_parts(run: Run) -> subprocess.CompletedProcess[str]:
    return run(*SOME)


def stored(home: Path, parts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What parts have left behind, after a look at its outside."""
    out = home / "out"
    text = (out / "README.md").read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(parts)
    found: dict[str, dict[str, Any]] = {part: json.loads((out / f"{part}.json").read_text()) for part in parts}
    for part, content in found.items():
        assert {"device", "date", "torch", "command"} <= set(content)
        assert f"bash scripts/gpu.sh {part}`" in text
        assert (out / f"{part}.done").is_file()
    return found


def test_parts_leave_their_sections_and_numbers(some_parts: subprocess.CompletedProcess[str], home: Path) -> None:
    assert some_parts.returncode == 0, some_parts.stdout + some_parts.stderr
    found = stored(home, SOME)
    assert {row["model"] for row in found["2d"]["results"]["paper"]} == {"plain nnU-Net", "IMA"}
    assert {row["attack"] for row in found["2d"]["results"]["audit"]} >= {"clean", "standard"}
    assert (home / "out" / "2d_audit" / "report.md").is_file()


def test_what_is_finished_is_not_done_again(some_parts: subprocess.CompletedProcess[str], home: Path, run: Run) -> None:
    before = (home / "out" / "README.md").read_text()
    again = run(*SOME)
    assert again.returncode == 0
    assert again.stdout.count("is finished already") == len(SOME)
    assert (home / "out" / "README.md").read_text() == before


@pytest.mark.slow
def test_all_parts_run_their_whole_way(some_parts: subprocess.CompletedProcess[str], home: Path, run: Run) -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    found = stored(home, PARTS)
    assert all(check["passed"] for check in found["checks"]["results"])
    for measured in found["speed"]["results"]:
        assert set(measured["seconds"]) == {"plain", "default", "paper", "textbook"}
        assert all(value > 0 for value in measured["ratios"].values())
        assert measured["attack"]["textbook"]["attacked"] > 0
    assert found["audit"]["results"]["cases_per_hour"] > 0
    assert found["audit"]["results"]["volumes"][0]["seconds"] > 0
    assert {row["model"] for row in found["3d_fullres"]["results"]["paper"]} == {"plain nnU-Net", "IMA"}
    assert len({row["model"] for row in found["longer"]["results"]["paper"]}) == 3
    assert {row["model"] for row in found["covid"]["results"]} == {"ce", "ima"}


def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path, run: Run) -> None:
    """Here every part fails at once, for want of a Python that finds PyTorch."""
    false = tmp_path / "python"
    false.write_text("#!/bin/sh\necho nothing works >&2\nexit 3\n")
    false.chmod(0o755)
    done = run("speed", "covid", PYTHON=str(false), OUT=str(tmp_path / "out"), WORK=str(tmp_path / "work"))
    assert done.returncode == 1
    assert "speed has failed with status 3" in done.stderr
    assert "not finished: speed covid" in done.stderr
    assert "nothing works" in (tmp_path / "out" / "covid.log").read_text()
    assert not list((tmp_path / "out").glob("*.done"))


def test_without_a_gpu_it_says_so_at_once(tmp_path: Path, run: Run) -> None:
    done = run(TOY="", PYTHON="false", OUT=str(tmp_path / "out"))
    assert done.returncode == 2
    assert "finds no GPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_part_is_refused(tmp_path: Path, run: Run) -> None:
    done = run("chekcs", OUT=str(tmp_path / "out"))
    assert done.returncode == 2
    assert "known are checks speed" in done.stderr


def test_a_training_that_is_stopped_ends_its_epoch_and_goes_on(make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import gpu_parts

    whole = make_trainer(plans_name="whole", epochs=3)
    whole.run_training()
    first = make_trainer(plans_name="stopped", epochs=3)
    begin = first.on_train_epoch_start

    def stop_in_the_second() -> None:
        begin()
        if first.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    first.on_train_epoch_start = stop_in_the_second
    with gpu_parts._stoppable(), pytest.raises(SystemExit):
        first.run_training()
    resumed = make_trainer(plans_name="stopped", resume=True, epochs=3)
    resumed.load_checkpoint(str(Path(first.output_folder) / "checkpoint_latest.pth"))
    assert resumed.current_epoch == 2
    resumed.run_training()
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert one.equal(other)
