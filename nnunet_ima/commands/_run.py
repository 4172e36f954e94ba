"""What all console scripts share: parse the command line, run the verb, turn errors into one sentence."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import tyro

from nnunet_ima import __version__

_ROOM = "make room there and start the same command again: what is written so far stays"
_RIGHTS = "choose a place that you may read and write, or change its permissions"
WAYS_OUT = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EIO: "look after the disk, then start the same command again",
}
"""What to do about errors of the system, by their numbers."""


class Command(Protocol):
    """A verb: a dataclass whose fields are its options."""

    def run(self) -> None:
        """Do it."""


def run_cli(program: str, command_type: Any, argv: Sequence[str] | None = None, description: str = "") -> None:
    """Parse the command line, run the verb and exit with a status that scripts can rely on; `--version` alone tells it.

    The exit status is 0 after success, 2 after a wrong input (with one sentence on stderr), 130 after Ctrl-C and 143
    after a polite kill (SIGTERM), which cleans up as Ctrl-C does. Errors that are nobody's wrong input keep their
    traceback.

    Args:
        program: name of the console script.
        command_type: the verb, a dataclass with a method `run`, or a union of several such verbs.
        argv: the arguments; None takes those of the process.
        description: what the program does, for its help; "" takes the docstring of the verb.

    Raises:
        SystemExit: the exit status is not 0.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no ε is no reason to fail
    words = sys.argv[1:] if argv is None else argv
    if list(words) == ["--version"]:
        print(f"{program} {__version__}")
        return
    try:
        with _sigterm_interrupts():
            _refuse_bytes(words)
            command: Command = tyro.cli(
                command_type,
                prog=program,
                args=words,
                description=description or None,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
            command.run()
    except (ValueError, OSError) as error:  # FileNotFoundError and FileExistsError are OSErrors
        print(f"{program}: {_sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from error
    except _Terminated as error:
        print(f"{program}: terminated", file=sys.stderr)
        raise SystemExit(143) from error
    except KeyboardInterrupt as error:
        print(f"{program}: interrupted", file=sys.stderr)
        raise SystemExit(130) from error


def _refuse_bytes(words: Sequence[str]) -> None:
    """Refuse words that Python could not decode: libraries that read and write images end the process over them."""
    for word in words:
        if re.search(r"[\ud800-\udfff]", word):
            msg = f"{word!r} is no text in this environment's encoding; set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
            raise ValueError(msg)


class _Terminated(KeyboardInterrupt):
    """The process is asked to end by SIGTERM."""


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM raise an exception in this process, so that it cleans up."""
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield
        return
    former = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise _Terminated


def _forget_in_children() -> None:
    """Let SIGTERM end a forked child at once: one that waits for a lock would never come to a handler in Python."""
    if signal.getsignal(signal.SIGTERM) is _interrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_children)


def check_output(folder: Path) -> None:
    """Refuse, before hours of work, a folder for results that cannot be written; it need not exist yet.

    Raises:
        OSError: it cannot be made, or nothing can be written to it.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        msg = f"--output {folder}: {place} is no folder; choose another one"
        raise NotADirectoryError(msg)
    if not os.access(place, os.W_OK | os.X_OK):
        msg = f"--output {folder}: {place} cannot be written to; choose another one"
        raise PermissionError(msg)


def usable_device(name: str) -> str:
    """Return the name of a device that can be used; "" chooses the first GPU, or the CPU where there is none.

    Raises:
        ValueError: it cannot be used.
    """
    import torch  # takes seconds, which wrong arguments need not wait for

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()  # the device "meta" holds tensors and computes nothing
    except (RuntimeError, AssertionError) as error:
        msg = f"--device {device} cannot be used: {str(error).splitlines()[0]}"
        raise ValueError(msg) from error
    return device


def hold_at_one_thread(stack: ExitStack) -> None:
    """Compute on one CPU thread until the stack is left, as workers do: it decides the last digits of sums."""
    import torch

    stack.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(1)


def _sentence(error: Exception) -> str:
    """Return the message of an error in one line; the system's own errors name their file, the reason and a way out."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        text += f"; {WAYS_OUT[error.errno]}" if error.errno in WAYS_OUT else ""
    return " ".join(text.splitlines())
