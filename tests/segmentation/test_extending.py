"""An audit grows: another level or attack in the same folder measures what is new, and nothing twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_ima.evidence.records import NoiseSize, WhiteNoise
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference import volumes
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.segmentation.measured import _attempt
from nnunet_ima.segmentation.predictions import Predictions
from nnunet_ima.segmentation.run import run_audit
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise
from nnunet_ima.segmentation.target import Target

SETTINGS = Settings(
    attacks=("fgsm",),
    eps=(0.1,),
    unit="rms",
    norm="L2",
    reference_elements=None,
    steps=4,
    seed=0,
    threshold=0.5,
    margins=True,
    tolerance=2.0,
    save_adversarial=False,
)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is done: titles of attacks and white noise, predictions, files read, passes without noise."""
    counted: Counter[str] = Counter()

    def count(owner: Any, name: str, title: Any) -> None:
        original = getattr(owner, name)

        def counting(*arguments: Any, **named: Any) -> Any:
            counted[title(arguments) if callable(title) else title] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, counting)

    count(Target, "problem", lambda arguments: arguments[3])
    count(Target, "look", "look")
    count(Predictions, "logits", "prediction")
    count(Predictions, "read", "prediction read")
    count(volumes, "read_volume", "volume read")
    count(Store, "get_noise", "noise read")
    monkeypatch.setattr("nnunet_ima.segmentation.probes.QUERIES", 3)
    return counted


def audit(pipeline: Pipeline, cases: list[Case], folder: Path, settings: Settings, probes: int = 1) -> Any:
    store = Store(folder, {"settings": settings.question()}, {})
    return summarise(run_audit({"m": pipeline}, cases, settings, store, probes), settings)


def test_nothing_is_made_twice_that_is_at_hand(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, work: Counter[str]
) -> None:
    shape = volumes.Volumes()(cases[0], pipeline.model).image.shape[1:]
    work.clear()
    before = pipeline.passes.forward
    audit(pipeline, cases[:1], tmp_path / "out", replace(SETTINGS, margins=False), probes=0)
    # what gives the temperature; the attack looks without noise, steps, and looks at its end
    assert pipeline.passes.forward - before <= 4 * pipeline.windows(shape)
    assert work["look"] == 1
    # without noise, under attack, after storing, and two kinds of white noise
    assert work["prediction"] == 5
    assert (work["volume read"], work["prediction read"], work["noise read"]) == (1, 0, 0)


def test_the_probe_begins_with_what_is_at_hand(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, work: Counter[str]
) -> None:
    audit(pipeline, cases[:1], tmp_path / "out", replace(SETTINGS, margins=False), probes=1)
    assert (work["look"], work["volume read"]) == (3, 1)  # two looks more: is the model deterministic?


def test_one_more_level_measures_that_level_alone(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, work: Counter[str]
) -> None:
    both = replace(SETTINGS, eps=(0.1, 0.3))
    fresh = audit(pipeline, cases, tmp_path / "fresh", both)
    audit(pipeline, cases, tmp_path / "out", SETTINGS)
    work.clear()
    assert audit(pipeline, cases, tmp_path / "out", both) == fresh
    assert work["fgsm@0.3"] == work["random@0.3"] == len(cases)
    assert not [title for title in work if title.endswith("@0.1")]
    assert work["huge@6"] == 1  # 20 times the largest level, which is another now
    work.clear()
    assert audit(pipeline, cases, tmp_path / "out", both) == fresh
    assert not work
    assert audit(pipeline, cases, tmp_path / "out", SETTINGS)["rows"] == fresh["rows"][:2]


def test_one_more_attack_measures_that_attack_alone(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, work: Counter[str]
) -> None:
    both = replace(SETTINGS, attacks=("fgsm", "ifgsm"))
    fresh = audit(pipeline, cases[:1], tmp_path / "fresh", both)
    audit(pipeline, cases[:1], tmp_path / "out", SETTINGS)
    work.clear()
    assert audit(pipeline, cases[:1], tmp_path / "out", both) == fresh
    assert work["ifgsm@0.1"] == 1
    assert work["fgsm@0.1"] == work["random@0.1"] == 0
    for file in (tmp_path / "fresh" / "images").rglob("*.nii.gz"):
        assert (tmp_path / "out" / file.relative_to(tmp_path / "fresh")).is_file()


def test_a_margin_is_sought_again_where_its_bracket_is_another(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, work: Counter[str]
) -> None:
    fresh = audit(pipeline, cases[:1], tmp_path / "fresh", replace(SETTINGS, threshold=0.6), probes=0)
    audit(pipeline, cases[:1], tmp_path / "out", SETTINGS, probes=0)
    assert audit(pipeline, cases[:1], tmp_path / "out", replace(SETTINGS, threshold=0.6), probes=0) == fresh


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"steps": 5}, {"norm": "Linf"}, {"unit": "raw"}, {"save_adversarial": True}]
)
def test_what_changes_numbers_is_another_audit(tmp_path: Path, change: dict[str, Any]) -> None:
    Store(tmp_path, {"settings": SETTINGS.question()}, {})
    with pytest.raises(ValueError, match="holds an audit with other settings"):
        Store(tmp_path, {"settings": replace(SETTINGS, **change).question()}, {})


def test_in_linf_the_noise_is_judged_by_its_largest_element() -> None:
    noise = NoiseSize(norm="Linf", size=0.1, l2=50.0, linf=0.1, rms=0.05, raw_rms=None)
    record: Any = SimpleNamespace(eps=0.1, dice=0.3, noise=noise, units={"l2": None, "linf": 0.12})
    attempt = _attempt(record, WhiteNoise(dice=0.8, kinds={"uniform": 0.84, "gaussian": 0.76}))
    assert (attempt.noise, attempt.bound, attempt.white) == (0.1, 0.12, 0.76)
