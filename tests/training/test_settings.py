from dataclasses import asdict

import pytest

from nnunet_ima.training.settings import PRESETS, Settings, refuse_other_settings, resolve_settings, validate_keys


def plans(name: str = "Dataset123_Liver", **ima) -> dict:
    return {"dataset_name": name, "ima": ima} if ima else {"dataset_name": name}


def test_defaults_for_any_data_set() -> None:
    assert resolve_settings(plans()) == Settings()
    assert Settings().reference_elements == 1  # ε is RMS noise


def test_the_packaged_plan_of_the_task_wins_over_the_defaults() -> None:
    settings = resolve_settings(plans("Dataset004_Hippocampus"))
    assert (settings.eps_max, settings.delta, settings.reference_elements) == (15, 2, 2240)
    assert (settings.epochs, settings.iterations_per_epoch) == (50, 50)


def test_the_plans_json_wins_over_the_packaged_plan_key_by_key() -> None:
    settings = resolve_settings(plans("Dataset004_Hippocampus", delta=1, seed=7))
    assert (settings.delta, settings.seed, settings.eps_max) == (1, 7, 15)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_fill_what_is_not_given(preset: str) -> None:
    settings = resolve_settings(plans(preset=preset, alpha=2.5))
    expected = PRESETS[preset] | {"alpha": 2.5}
    assert {key: getattr(settings, key) for key in expected} == expected


def test_default_attributes_are_the_default_preset() -> None:
    assert {key: getattr(Settings(), key) for key in PRESETS["default"]} == PRESETS["default"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm", "L1"),
        ("preset", "fast"),
        ("start", "zero"),
        ("reduction", "median"),
        ("eps_max", 0),
        ("eps_max", "much"),
        ("eps_max", float("nan")),
        ("eps_max", float("inf")),
        ("delta", -1),
        ("delta", 5.0),
        ("beta", 1.5),
        ("pgd_steps", 0),
        ("pgd_steps", 2.5),
        ("alpha", 0),
        ("bisection_tolerance", 0),
        ("tau", 1.2),
        ("epochs", True),
        ("iterations_per_epoch", None),
        ("reference_elements", 0),
        ("robust_eps", -1),
        ("seed", -1),
        ("start_from", 3),
    ],
)
def test_impossible_values_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        resolve_settings(plans(**{key: value}))


def test_in_another_norm_the_numbers_of_the_task_mean_nothing() -> None:
    prepared = dict(resolve_settings(plans("Dataset004_Hippocampus")).__dict__, norm="Linf")
    for given in ({"norm": "Linf"}, {"norm": "Linf", "eps_max": 0.1}, prepared):
        with pytest.raises(ValueError, match=r"norm Linf D4 needs .*delta of its own"):
            resolve_settings(plans("Dataset004_Hippocampus", **given))
    assert resolve_settings(plans("Dataset004_Hippocampus", norm="Linf", eps_max=0.1, delta=0.01)).eps_max == 0.1
    assert resolve_settings(plans(norm="Linf")).eps_max == 0.1  # σ per voxel at most, and not in the mean


def test_other_settings_than_those_of_the_checkpoint_are_named() -> None:
    settings = Settings(eps_max=0.05, norm="Linf")
    stored = asdict(Settings(eps_max=15))
    named = r"latest\.pth was trained .*norm was 'L2', now 'Linf'; eps_max was 15, now 0\.05"
    with pytest.raises(ValueError, match=named):
        refuse_other_settings(stored, settings, "latest.pth")
    refuse_other_settings(asdict(settings), settings, "latest.pth")
    refuse_other_settings(asdict(settings) | {"snapshot_interval": 1, "robust_steps": 3}, settings, "latest.pth")
    del stored["margin_key"], stored["norm"], stored["eps_max"]
    refuse_other_settings(stored, settings, "latest.pth")  # an earlier release knew fewer


def test_unknown_keys_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="epsmax"):
        resolve_settings(plans(epsmax=3))
    with pytest.raises(ValueError, match="'lr'"):
        validate_keys({"lr": 1})


def test_ima_must_be_an_object() -> None:
    with pytest.raises(ValueError, match="object"):
        resolve_settings({"dataset_name": "Dataset123_Liver", "ima": [1]})


def test_beta_may_be_0_and_robust_eps_none() -> None:
    settings = resolve_settings(plans(beta=0, robust_eps=None))
    assert settings.beta == 0
    assert settings.robust_eps is None


def test_description_names_every_setting() -> None:
    text = Settings().describe()
    assert all(f"{key}: " in text for key in Settings.__dataclass_fields__)
