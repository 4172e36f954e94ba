"""Where the settings of a classifier's training come from, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from nnunet_ima.classification.methods import METHODS
from nnunet_ima.classification.settings import load_plan, preset_names, resolve_settings


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_built_with_every_preset(method: str, preset: str) -> None:
    settings = resolve_settings(method, preset)
    built = settings.make_method(("a", "b"))
    assert settings.options.get("eps") == getattr(built, "eps", None)
    assert set(load_plan()["presets"][preset]["audit"]["eps"]) == {"L2", "Linf"}


def test_the_paper_preset_is_the_papers() -> None:
    ima, fat, gairat = (resolve_settings(name, "paper") for name in ("ima", "fat", "gairat"))
    assert (ima.epochs, ima.batch_size, ima.weight_decay, ima.size, ima.network) == (40, 32, 0.01, 224, "resnet18")
    expected = {"eps": 30, "delta": None, "beta": 0.5, "steps": 20, "alpha": 4.0, "bisection_steps": 10}
    assert {key: ima.options[key] for key in expected} == expected
    assert fat.epochs == gairat.epochs == 100
    assert gairat.options["begin"] == 0.5
    assert ima.budget.effective(30) == 30


def test_the_cpu_preset_means_the_same_noise_density() -> None:
    settings = resolve_settings("ima", "cpu")
    assert settings.budget.effective(30) == pytest.approx(30 * settings.size / 224)


def test_later_sources_win() -> None:
    assert resolve_settings("adv", "cpu").options["eps"] == load_plan()["presets"]["cpu"]["methods"]["adv"]["eps"]
    assert resolve_settings("adv5", "cpu").options["eps"] == 5
    changed = resolve_settings("ima", "cpu", {"eps": 3, "epochs": 7, "beta": 0.25})
    assert (changed.options["eps"], changed.epochs, changed.options["beta"]) == (3, 7, 0.25)
    # a change that is another method's is no error, since a comparison's changes are for all
    assert resolve_settings("ce", "cpu", {"beta": 0.25}).options == {}
    assert resolve_settings("ce", "cpu", {"start_from": "ce"}).start_from is None
    assert resolve_settings("ima", "cpu", {"start_from": "ce"}).start_from == "ce"
    assert resolve_settings("adv0.05", "cpu", {"norm": "Linf"}).budget.effective(0.05) == 0.05


@pytest.mark.parametrize(
    ("method", "preset", "changes", "message"),
    [
        ("advx", "cpu", {}, "unknown method 'advx'; known are ce, ima"),
        ("ce5", "cpu", {}, "ce uses no noise"),
        ("ima", "gpu", {}, "unknown preset 'gpu'; known are paper, cpu"),
        ("ima", "cpu", {"foo": 1}, "unknown setting foo; known are"),
        ("ima", "cpu", {"epochs": 0}, "epochs must be a whole number at least 1, got 0"),
        ("ima", "cpu", {"epochs": 2.5}, "epochs must be a whole number"),
        ("ima", "cpu", {"beta": "x"}, "beta must be a number"),
        ("ima", "cpu", {"eps": -1}, "eps must be a number above 0"),
        ("ima", "cpu", {"delta": 0}, "delta must be a number above 0"),
        ("ima", "cpu", {"steps": 0}, "steps must be a number above 0"),
        ("ima", "cpu", {"learning_rate": float("nan")}, "learning_rate must be a number above 0"),
        ("ima", "cpu", {"dropout": 1}, "dropout must be below 1"),
        ("ima", "cpu", {"schedule": "cosine"}, "schedule must be one of constant, one-cycle"),
        ("ima", "cpu", {"frozen": True}, "frozen is meant for a trained encoder"),
        ("ima", "cpu", {"balanced": 1}, "balanced must be true or false"),
        ("ima", "cpu", {"start_from": "zero"}, "unknown method 'zero'"),
        ("adv", "cpu", {"norm": "Linf"}, "adv needs a noise level of its own"),
        ("adv3", "cpu", {"eps": 3}, "keep one of them"),
    ],
)
def test_wrong_settings_are_refused(method: str, preset: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_settings(method, preset, changes)
