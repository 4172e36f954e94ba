"""Where the settings of a classifier's training come from, and what is refused."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from nnunet_ima.classification.settings import load_plan, preset_names, resolve_settings
from nnunet_ima.methods import METHODS, method_class, options


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_built_with_every_preset(method: str, preset: str) -> None:
    settings = resolve_settings(method, preset)
    built = settings.make_method(("a", "b"))
    assert settings.options.get("eps") == getattr(built, "eps", None)
    assert set(load_plan(preset)["presets"][preset]["audit"]["eps"]) == {"L2", "Linf"}


def test_the_paper_preset_is_the_papers() -> None:
    ima, fat, gairat = (resolve_settings(name, "paper") for name in ("ima", "fat", "gairat"))
    assert (ima.epochs, ima.batch_size, ima.weight_decay, ima.size, ima.network) == (40, 32, 0.01, 224, "resnet18")
    expected = {"eps": 30, "delta": None, "beta": 0.5, "steps": 20, "alpha": 4.0, "bisection_steps": 10}
    assert {key: ima.options[key] for key in expected} == expected
    assert fat.epochs == gairat.epochs == 100
    assert gairat.options["begin"] == 0.5
    assert ima.budget().effective(30) == 30


def test_the_cpu_preset_means_the_same_noise_density() -> None:
    settings = resolve_settings("ima", "cpu")
    assert settings.budget().effective(30) == pytest.approx(30 * settings.size / 224)


def test_later_sources_win() -> None:
    assert resolve_settings("adv", "cpu").options["eps"] == load_plan()["presets"]["cpu"]["methods"]["adv"]["eps"]
    assert resolve_settings("adv5", "cpu").options["eps"] == 5
    changed = resolve_settings("ima", "cpu", {"eps": 3, "epochs": 7, "beta": 0.25})
    assert (changed.options["eps"], changed.epochs, changed.options["beta"]) == (3, 7, 0.25)
    # a change that is another method's is no error, since a comparison's changes are for all
    assert resolve_settings("ce", "cpu", {"beta": 0.25}).options == {}
    assert resolve_settings("ce", "cpu", {"start_from": "ce"}).start_from is None
    assert resolve_settings("ima", "cpu", {"start_from": "ce"}).start_from == "ce"
    assert resolve_settings("adv0.05", "cpu", {"norm": "Linf"}).budget().effective(0.05) == 0.05


WRONG_TAUS = (3, "x", None, [], {}, [1], [[0]], [[0, 0, 0]], [["0", 1]], [[0, 0.5]], [[0, -1]], [[0, True]], [[0.5, 1]])
WRONG_TAUS += ([[0, 0], [0.9, 2], [0.5, 1]], [[0, 0], [0, 1]], [[0, 0], [2, 1]], [[0, 10**9]])


def test_in_another_norm_the_noise_that_is_watched_is_of_that_norm() -> None:
    adv = resolve_settings("adv", "cpu", {"norm": "Linf", "eps": 0.03})
    ima = resolve_settings("ima", "paper", {"norm": "Linf", "eps": 0.03})
    ce = resolve_settings("ce", "cpu", {"norm": "Linf"})
    assert (adv.robust_eps, ima.robust_eps, ce.robust_eps) == (0.03, 0.015, 8 / 255)
    assert resolve_settings("adv", "cpu", {"norm": "Linf", "eps": 0.03, "robust_eps": 0.1}).robust_eps == 0.1


def test_structured_settings_come_from_json() -> None:
    fat = resolve_settings("fat", "cpu", {"tau": [[0, 0], [0.5, 1]], "epochs": 10}).make_method(())
    patience = []
    for epoch in (0, 4, 5, 9):
        fat.begin_epoch(epoch)
        patience.append(fat.patience)
    assert patience == [0, 0, 1, 1]


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_every_method_has_a_range(name: str) -> None:
    hints = get_type_hints(method_class(name), include_extras=True)
    assert all(hasattr(hints[key], "__metadata__") for key in options(name))


@pytest.mark.parametrize(
    ("method", "preset", "changes", "message"),
    [
        ("advx", "cpu", {}, "unknown method 'advx'; known are plain, ima"),
        ("ce5", "cpu", {}, "ce uses no noise"),
        ("ima", "gpu", {}, "unknown preset 'gpu'; known are paper, cpu, fashion-mnist, svhn, cifar10"),
        ("ima", "cpu", {"foo": 1}, "unknown setting foo; known are"),
        ("ima", "cpu", {"epochs": 0}, "epochs must be a whole number at least 1 and at most 100000, got 0"),
        ("ima", "cpu", {"epochs": 2.5}, "epochs must be a whole number"),
        ("ima", "cpu", {"beta": "x"}, "beta must be a number"),
        ("ima", "cpu", {"eps": -1}, "eps must be a number greater than 0"),
        ("ima", "cpu", {"delta": 0}, "delta must be a number greater than 0"),
        ("ima", "cpu", {"steps": 0}, "steps must be a whole number at least 1"),
        ("ima", "cpu", {"learning_rate": float("nan")}, "learning_rate must be a number greater than 0"),
        ("ima", "cpu", {"dropout": 1}, "dropout must be a number at least 0 and at most 0.99"),
        ("ima", "cpu", {"schedule": "cosine"}, "schedule must be one of constant, one-cycle"),
        ("ima", "cpu", {"frozen": True}, "frozen is meant for a trained encoder"),
        ("ima", "cpu", {"balanced": 1}, "balanced must be one of true, false, got 1"),
        ("ima", "cpu", {"start_from": "zero"}, "unknown method 'zero'"),
        ("adv", "cpu", {"norm": "Linf"}, "adv needs a noise level of its own"),
        ("adv3", "cpu", {"eps": 3}, "keep one of them"),
        ("ima", "cpu", {"beta": 7}, "beta must be a number at least 0 and at most 1, got 7"),
        ("ima", "cpu", {"steps": 2.5}, "steps must be a whole number"),
        ("ima", "cpu", {"eps": True}, "eps must be a number .* got True"),
        ("ima", "cpu", {"eps": 10**400}, r"eps must be a number .* got 10+\.\.\."),
        ("ima", "cpu", {"alpha": [4]}, r"alpha must be a number .* got \[4\]"),
        (
            "ima",
            "cpu",
            {"bisection_steps": 10**9},
            "bisection_steps must be a whole number .* at most 1000",
        ),
        ("ima3", "cpu", {"delta": 4}, r"delta \(4\) must not exceed eps \(3\)"),
        ("ima3", "cpu", {"bisection_tolerance": 0}, "bisection_tolerance must be a number greater than 0"),
        ("ima" + "9" * 400, "cpu", {}, "eps must be .* got inf"),
        ("adv0", "cpu", {}, "eps must be a number greater than 0"),
        ("trades", "cpu", {"weight": -1}, "weight must be a number at least 0"),
        ("trades", "cpu", {"start": 0}, "start must be a number greater than 0"),
        ("mma", "cpu", {"clean_share": 2}, "clean_share must be a number at least 0 and at most 1"),
        ("mma", "cpu", {"first": 0}, "first must be a number greater than 0"),
        ("ddn", "cpu", {"gamma": 1}, "gamma must be a number greater than 0 and at most 0.99"),
        ("ddn1", "cpu", {"norm": "Linf"}, "L2 norm only"),
        ("gairat", "cpu", {"begin": -0.1}, "begin must be a number at least 0 and at most 1"),
        ("gairat", "cpu", {"shift": None}, "shift must be a number .* got None"),
        *(("fat", "cpu", {"tau": tau}, "tau must be pairs of a share") for tau in WRONG_TAUS),
        ("ce", "cpu", {"encoder": 5}, "encoder must be a folder of a trained nnU-Net, or null, got 5"),
        ("ce", "cpu", {"start_from": ["ce"]}, "start_from must be a method, or null"),
        ("ce", "cpu", {"norm": ["L2"]}, "norm must be one of L2, Linf"),
        ("ce", "cpu", {"size": 100_000}, "size must be a whole number at least 1 and at most 4096"),
        ("ce", "cpu", {"seed": 2**70}, "seed must be a whole number at least 0 and at most 4294967295"),
    ],
)
def test_wrong_settings_are_refused(method: str, preset: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_settings(method, preset, changes)
