"""What tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparing import train_here

from nnunet_ima.commands import compare


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    titles: list[str] = []

    def train(arguments: list[str], log: Path, title: str, epochs: int) -> None:
        titles.append(title)
        train_here(arguments, log, title, epochs)

    monkeypatch.setattr(compare, "run_training", train)
    return titles
