"""How every console script ends: its exit status, its one sentence, and what it cleans up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

import nnunet_ima
from nnunet_ima.commands._run import run_cli
from nnunet_ima.evidence.lock import LOCK
from nnunet_ima.evidence.store import Store


@dataclass
class Killed:
    """Is killed in the middle of its work."""

    output: Path
    """Its folder."""

    number: int
    """The signal."""

    def run(self) -> None:
        """Work until the signal comes."""
        with Store(self.output, {}, {}).scratch() as scratch:
            (scratch / "noisy.nii.gz").write_text("half")
            os.kill(os.getpid(), self.number)
            time.sleep(10)


@pytest.fixture
def usual_sigint() -> Iterator[None]:
    """What a terminal's Ctrl-C does, in the background too, where the shell lets it do nothing."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_polite_kill_cleans_up(
    number: signal.Signals,
    status: int,
    word: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    usual_sigint: None,
) -> None:
    handlers = [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as stop:
        run_cli("nnunet-ima-test", Killed, ["--output", str(tmp_path), "--number", str(int(number))])
    assert stop.value.code == status
    assert capsys.readouterr().err == f"nnunet-ima-test: {word}\n"
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left - {LOCK} == {"manifest.json"}  # some releases of filelock keep its empty file
    assert [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGINT)] == handlers


@pytest.mark.parametrize(
    "module", ["attack", "check", "classify", "compare", "demo", "plan", "prepare", "report", "select", "study"]
)
def test_every_command_tells_its_version(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = import_module(f"nnunet_ima.commands.{module}")
    command.main(["--version"])
    assert capsys.readouterr().out == f"{command.PROGRAM} {nnunet_ima.__version__}\n"


@dataclass
class Parent:
    """Ends a child that shares its handlers."""

    def run(self) -> None:
        """Start it and end it, as pools of worker processes are ended."""
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(0.3)
        child.terminate()
        child.join()
        if child.exitcode != -signal.SIGTERM:
            msg = f"the child ended with {child.exitcode}"
            raise ValueError(msg)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no child shares its handlers")
def test_a_child_that_is_ended_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    run_cli("nnunet-ima-test", Parent, [])
    assert capfd.readouterr().err == ""


def look_at_the_handler() -> None:
    """Tell by the exit status whether the handler is the system's own."""
    os._exit(0 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 1)


@dataclass
class ParentOfPools:
    """Starts a child."""

    def run(self) -> None:
        """Look what it has inherited."""
        child = multiprocessing.get_context("fork").Process(target=look_at_the_handler)
        child.start()
        child.join()
        if child.exitcode:
            raise ValueError("a child that waits for a lock could not be ended")


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no child shares its handlers")
def test_children_inherit_no_handler() -> None:
    """A worker of a pool that waits for a lock in C would be waited for without end."""
    run_cli("nnunet-ima-test", ParentOfPools, [])


@dataclass
class Wrong:
    """Has a wrong input."""

    def run(self) -> None:
        """Refuse it."""
        raise ValueError("line one\nline two")


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_cli("nnunet-ima-test", Wrong, [])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "nnunet-ima-test: line one line two\n"


def test_a_word_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """SimpleITK would end the process: "basic_string::_S_construct null not valid"."""
    with pytest.raises(SystemExit) as stop:
        run_cli("nnunet-ima-test", Killed, ["--output", "Pr\udcc3\udcbcfung"])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told == (
        "nnunet-ima-test: 'Pr\\udcc3\\udcbcfung' is no text in this environment's encoding; set PYTHONUTF8=1, or "
        "LC_ALL=C.UTF-8\n"
    )
