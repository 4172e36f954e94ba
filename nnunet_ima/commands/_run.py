"""What all console scripts share: parse the command line, run the verb, turn errors into one sentence."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Protocol

import tyro


class Command(Protocol):
    """A verb: a dataclass whose fields are its options."""

    def run(self) -> None:
        """Do it."""


def run_cli(program: str, command_type: Any, argv: Sequence[str] | None = None, description: str = "") -> None:
    """Parse the command line, run the verb and exit with a status that scripts can rely on.

    The exit status is 0 after success, 2 after a wrong input (with one sentence on stderr), 130 after Ctrl-C. Errors
    that are nobody's wrong input keep their traceback.

    Args:
        program: name of the console script.
        command_type: the verb, a dataclass with a method `run`, or a union of several such verbs.
        argv: the arguments; None takes those of the process.
        description: what the program does, for its help; "" takes the docstring of the verb.

    Raises:
        SystemExit: the exit status is not 0.
    """
    try:
        command: Command = tyro.cli(
            command_type,
            prog=program,
            args=argv,
            description=description or None,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        command.run()
    except (ValueError, OSError) as error:  # FileNotFoundError and FileExistsError are OSErrors
        print(f"{program}: {_sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt as error:
        print(f"{program}: interrupted", file=sys.stderr)
        raise SystemExit(130) from error


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


def _sentence(error: Exception) -> str:
    """Return the message of an error; the system's own errors name their file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
