"""The commands in the documentation are ones that the programs take; some of them are run on a tiny model."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from doc_pages import PAGES, ROOT, commands, name_of

from nnunet_ima.commands import _run, plan
from nnunet_ima.commands.attack import Attack
from nnunet_ima.commands.plan import parse_settings
from nnunet_ima.methods import METHODS
from nnunet_ima.training.settings import change_settings, resolve_settings

SCRIPTS = {script.name: script for script in entry_points(group="console_scripts")}
SHOWN = [(page, words) for page in PAGES for words in commands(page)]
OURS = [(page, words) for page, words in SHOWN if words[0].startswith("nnunet-ima-")]
NNUNET = [(page, words) for page, words in SHOWN if words[0].startswith("nnUNetv2_")]


def shown(value: Any) -> str:
    return name_of(value) if isinstance(value, Path) else " ".join(value)


class ParsedError(Exception):
    """A command line has been read; nothing is done."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that lets a program of ours read its arguments, and returns what it would run."""
    found: list[Any] = []
    original = _run.tyro.cli

    def cli(*arguments: Any, **named: Any) -> Any:
        found.append(original(*arguments, **named))
        raise ParsedError

    monkeypatch.setattr(_run.tyro, "cli", cli)
    monkeypatch.chdir(tmp_path)

    def read(program: str, *arguments: str) -> Any:
        with pytest.raises(ParsedError):
            SCRIPTS[program].load()(list(arguments))
        return found[-1]

    return read


@pytest.mark.parametrize(("page", "words"), OURS, ids=shown)
def test_our_programs_take_it(page: Path, words: list[str], parse: Any) -> None:
    """Options exist, and so do the attacks, methods and settings that are named."""
    command = parse(*words)
    if check := getattr(command, "_check", None):  # of what can be refused at once
        check()
    if hasattr(command, "resolve"):
        command.resolve([command.method] if hasattr(command, "method") else command.methods)
    if isinstance(command, plan.Plan):
        plans = {"dataset_name": "Dataset004_Hippocampus" if command.dataset == "4" else "Dataset999_Phantom"}
        changed = change_settings(plans, command.method, parse_settings(command.settings))
        assert resolve_settings(changed, command.method)
    if hasattr(command, "trainer"):
        assert command.trainer in {trainer for _, trainer in METHODS.values()}


@pytest.mark.parametrize(("page", "words"), NNUNET, ids=shown)
def test_nnunet_takes_it(page: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: Any, *arguments: Any) -> Any:
        raise ParsedError(original(self, *arguments))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(ParsedError) as parsed:
        SCRIPTS[words[0]].load()()
    trainer = getattr(parsed.value.args[0], "tr", "nnUNetTrainer")
    assert trainer in {"nnUNetTrainer", *(name for _, name in METHODS.values())}


@pytest.mark.parametrize(("page", "words"), [entry for entry in SHOWN if entry[1][0] in ("bash", "python")], ids=shown)
def test_scripts_are_there(page: Path, words: list[str]) -> None:
    assert words[1].startswith("-") or (ROOT / words[1]).is_file()


def test_every_option_of_an_audit_is_told() -> None:
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    short = {"trainer": "tr", "plans": "p", "configuration": "c", "fold": "f"}
    for entry in fields(Attack):
        assert re.search(rf"-{short.get(entry.name, entry.name.replace('_', '-'))}\b", page), entry.name


def run(page: str, beginning: str, *more: str) -> int:
    """Run the command of a page that begins like this, with further options that make it small; returns its status."""
    found = [words for words in commands(ROOT / page) if " ".join(words).startswith(beginning)]
    assert found, f"{page} has no command {beginning}"
    program, *arguments = found[0]
    try:
        SCRIPTS[program].load()([*arguments, *more])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


AUDIT = "nnunet-ima-attack --model MODEL_FOLDER --images IMAGES --labels LABELS"
SMALL = ("--attack", "fgsm", "--limit", "1", "--no-tta", "--no-margins", "--check-cases", "0", "--device", "cpu")


@pytest.mark.usefixtures("home")
def test_an_audit_from_its_forecast_to_its_dossier(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("docs/audit.md", f"{AUDIT} --dry-run", *SMALL) == 0
    assert "At most" in capsys.readouterr().out
    assert not (home / "nnunet-ima-audit").exists()
    rms = ("--eps", "0.1", "--eps-unit", "rms")
    assert run("docs/audit.md", f"{AUDIT} --attack standard --lock", *SMALL, *rms) == 0
    assert run("docs/audit.md", f"{AUDIT} --attack standard --protocol", *SMALL, *rms, "--seed", "1") == 2
    assert run("docs/audit.md", f"{AUDIT} --attack standard --protocol", *SMALL, *rms) == 0
    files = {entry.name for entry in (home / "nnunet-ima-audit").iterdir()}
    table = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    listed = re.search(r"## What it writes.*?\n\n(\|.*?)\n\n", table, re.S)
    assert listed is not None
    for name in re.findall(r"`([\w.]+)`", listed[1].replace("card_MODEL.html", "")):
        assert name in files or name in ("margins.png", "fragility.nii.gz"), name

    assert run("docs/dossier.md", "nnunet-ima-report --new-about") == 0
    lines = ["case,site", *(f"{file.name.removesuffix('.nii.gz')},A" for file in (home / "LABELS").iterdir())]
    (home / "strata.csv").write_text("\n".join(lines))
    assert run("docs/dossier.md", "nnunet-ima-report nnunet-ima-audit") == 0
    page = (home / "nnunet-ima-audit" / "dossier.html").read_text(encoding="utf-8")
    told = re.findall(r"^\| ([A-Z][^|]*?) \| .* \|$", (ROOT / "docs" / "dossier.md").read_text(encoding="utf-8"), re.M)
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert [title for title in told if title in headings] == [title for title in headings if "_" not in title]


@pytest.mark.usefixtures("home")
def test_the_gate_has_the_status_that_the_page_promises(capsys: pytest.CaptureFixture[str]) -> None:
    gate = f"{AUDIT} --attack standard --eps 0.05 0.1"
    assert run("docs/audit.md", gate, *SMALL) == 1  # no check was run
    assert "the audit is not conclusive" in capsys.readouterr().out


@pytest.mark.usefixtures("home", "fast_preparation")
def test_the_demo_by_hand_up_to_its_trainings(empty_folders: Any) -> None:
    small = ("--cases", "5", "--shape", "24", "24", "12", "--processes", "1")
    assert run("docs/demo.md", "nnunet-ima-prepare phantom", *small) == 0
    assert run("docs/demo.md", "nnunet-ima-plan -d 999 --method plain") == 0
    assert run("docs/demo.md", "nnunet-ima-plan -d 999 -p nnUNetPlansShort") == 0
    (folder,) = empty_folders.preprocessed.glob("Dataset999_*")
    warm = resolve_settings(json.loads((folder / "nnUNetPlansWarm.json").read_text()))
    assert (warm.epochs, warm.iterations_per_epoch, warm.options["eps"], warm.options["beta"]) == (10, 40, 0.2, 0.7)
    assert warm.start_from == "nnUNetTrainerPlain__nnUNetPlansShort__2d_cpu"
