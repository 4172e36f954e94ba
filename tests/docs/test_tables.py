"""Tables of settings, tasks, presets, attacks, checks and results say what the code and the measurements say."""

from __future__ import annotations

import re
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from doc_pages import ROOT, rows

from nnunet_ima.attacks.presets import PRESETS
from nnunet_ima.classification.settings import Settings as ClassifierSettings
from nnunet_ima.classification.settings import load_plan, preset_names
from nnunet_ima.classification.settings import resolve_settings as classifier_settings
from nnunet_ima.datasets.tasks import load_task, task_names
from nnunet_ima.evidence.verdict import verdict
from nnunet_ima.methods import METHODS, method_class, options
from nnunet_ima.ranges import Choice, Range
from nnunet_ima.shift import DISTURBANCES
from nnunet_ima.shift.searched import SEARCHED
from nnunet_ima.training.settings import SCHEDULE, Settings, resolve_settings

TRAIN, CLASSIFY, AUDIT, COMPARE = (ROOT / "docs" / f"{name}.md" for name in ("train", "classify", "audit", "compare"))
NO_TASK = {"dataset_name": "Dataset099_Unknown"}


def allowed(settings: type, name: str) -> str:
    """Values of a setting, as the tables tell them."""
    rule = get_type_hints(settings, include_extras=True)[name].__metadata__[0]
    if isinstance(rule, Range):
        text = ("whole, " if rule.whole else "") + f"{'≥' if rule.closed else '>'} {rule.low:,.12g}"
        return text + (f", ≤ {rule.high:,.12g}" if rule.high < float("inf") else "")
    if isinstance(rule, Choice):
        return ", ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in rule.values)
    return str(rule)


def told(value: Any) -> str:
    """A default, as the tables tell it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "`" + re.sub(r"\.0\b", "", str(value).replace("(", "[").replace(")", "]")) + "`"
    return f"`{value}`" if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else str(value)


def test_disturbances() -> None:
    known = {row[0].strip("`"): row[1:] for row in rows(ROOT / "docs" / "shift.md")[1:]}
    wanted = {
        it.name: [
            ", ".join(it.modalities),
            " ".join(f"{severity:g}" for severity in it.severities),
            it.unit,
            it.reference,
        ]
        for it in DISTURBANCES.values()
    }
    assert {name: row for name, row in known.items() if name in wanted} == wanted


def test_changes_that_are_searched() -> None:
    known = {row[0].strip("`"): row[1:] for row in rows(ROOT / "docs" / "worst_shift.md")[2:]}
    assert known == {
        it.name: [", ".join(it.modalities), " ".join(f"{level:g}" for level in it.severities), it.unit, it.parameters]
        for it in SEARCHED.values()
    }


def test_the_schedule() -> None:
    known = {row[0].strip("`"): row[1:] for row in rows(TRAIN) if len(row) == 4}
    for name in SCHEDULE:
        default = "of the method" if name == "robust_eps" else told(getattr(Settings(), name))
        assert known[name][:2] == [default, allowed(Settings, name)], name


@pytest.mark.parametrize("method", [name for name in METHODS if name != "plain"])
def test_settings_of_a_method(method: str) -> None:
    table = [row for row in rows(TRAIN) if len(row) == 5]
    heads = [number for number, row in enumerate(table) if row[0].startswith("**")]
    begin = next((number for number in heads if table[number][0].startswith(f"**`{method}`**")), 0)
    end = min(number for number in [*heads, len(table)] if number > begin)
    found = {row[0].strip("`"): row[1:] for row in table[begin:end] if row[0].startswith("`")}
    presets = [resolve_settings(NO_TASK | {"schedule": {"preset": it}}, method).options for it in ("default", "paper")]
    assert list(found) == list(options(method))
    for name, (default, paper, values, _) in found.items():
        if method == "ima" or name not in ("eps", "first") or (method, name) == ("mma", "first"):
            assert [default, paper] == [told(preset[name]) for preset in presets], name
        else:
            share = {"half": 0.5, "an": 0.125, "IMA's": 1.0}[default.split()[0]]  # half, an eighth, all of IMA's
            assert paper == default
            assert presets[0][name] == presets[1][name] == share * resolve_settings(NO_TASK).options["eps"], name
        assert name == "tau" or values == allowed(method_class(method), name), name


def test_tasks() -> None:
    table = [row for row in rows(TRAIN) if len(row) == 7 and row[0][:2] in task_names()]
    assert [row[0] for row in table] == [f"{name} {load_task(name).dataset_name}" for name in task_names()]
    for title, shape, elements, eps, delta, length, levels in table:
        task = load_task(title[:2])
        channels, *spatial = task.reference_shape
        assert shape == (f"{channels} × " if channels > 1 else "") + "×".join(map(str, spatial))
        assert elements == str(task.schedule["reference_elements"]) == str(prod(task.reference_shape))
        assert [eps, delta] == [str(task.ima["eps"]), str(task.ima["delta"])]
        assert length == f"{task.schedule['epochs']} × {task.schedule['iterations_per_epoch']}"
        assert levels == ", ".join(f"{level:g}" for level in task.audit_eps)


def test_methods() -> None:
    assert {(row[1].strip("`"), row[0].strip("`")) for row in rows(COMPARE) if row[0].startswith("`nnUNetTrainer")} == {
        (name, trainer) for name, (_, trainer) in METHODS.items()
    }


def test_presets_of_classifiers() -> None:
    table = {row[0].split()[0].strip("`"): row[2:] for row in rows(CLASSIFY) if len(row) == 8}
    for name in preset_names():
        plan = load_plan(name)["presets"][name]
        images, levels = plan["audit"]["images"], plan["audit"]["eps"]["L2"]
        assert table[name] == [
            *(f"`{plan['network']}`", str(plan["size"]), str(plan["epochs"]), str(plan["batch_size"])),
            *("all" if images is None else str(images), ", ".join(f"{level:g}" for level in levels)),
        ], name


def test_settings_of_classifiers() -> None:
    known = {row[0].strip("`"): row[1:3] for row in rows(CLASSIFY) if len(row) == 4}
    usual = classifier_settings("ce", "cpu")
    by_options = {"method", "preset", "options", "seed", "encoder", "frozen"}
    names = {entry.name for entry in fields(ClassifierSettings)} - by_options
    assert names == set(known) - {"setting", "---"}
    for name in names:
        assert known[name] == [told(getattr(usual, name)), allowed(ClassifierSettings, name)], name


def test_attacks() -> None:
    table = {name: row for row in rows(AUDIT) for name in re.findall(r"`([\w-]+)`", row[0])}
    assert set(PRESETS) <= set(table)
    assert {name: PRESETS[name][0].steps for name in ("pgd", "quick", "apgd", "segpgd", "cospgd")} == {
        name: int(table[name][2]) for name in ("pgd", "quick", "apgd", "segpgd", "cospgd")
    }


def test_checks_of_the_evidence() -> None:
    named = [row[0] for row in rows(AUDIT)]
    for check in verdict([], [], []):
        assert check.check in named, check.check


@pytest.mark.parametrize("page", ["docs/index.md", "docs/demo.md", "docs/compare.md"])
def test_measured_tables_are_those_of_the_readme(page: str) -> None:
    readme, results = rows(ROOT / "README.md"), [rows(file) for file in sorted((ROOT / "results").rglob("*.md"))]
    measured = [row for row in rows(ROOT / page) if sum(bool(re.fullmatch(r"0\.\d{3}", cell)) for cell in row) >= 3]
    assert measured
    for row in measured:
        assert row in readme or any(row in table for table in results), row


def test_the_table_of_snapshots_is_the_measured_one() -> None:
    measured = Path(ROOT / "results" / "d4_2d_cpu_averaged_weights.txt").read_text(encoding="utf-8")
    assert measured.rstrip("\n") in (ROOT / "docs" / "choose.md").read_text(encoding="utf-8")
