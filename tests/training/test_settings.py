import pytest

from nnunet_ima.training.settings import (
    PRESETS,
    SCHEDULE,
    Settings,
    change_settings,
    refuse_other_settings,
    resolve_settings,
)


def plans(name: str = "Dataset123_Liver", **ima) -> dict:
    return {"dataset_name": name, "ima": ima} if ima else {"dataset_name": name}


def test_defaults_for_any_data_set() -> None:
    settings = resolve_settings(plans())
    assert {key: getattr(settings, key) for key in SCHEDULE} == {key: getattr(Settings(), key) for key in SCHEDULE}
    assert (settings.options["eps"], settings.options["delta"], settings.robust_eps) == (0.1, 0.005, 0.05)
    assert settings.reference_elements == 1  # ε is RMS noise


def test_the_packaged_plan_of_the_task_wins_over_the_defaults() -> None:
    settings = resolve_settings(plans("Dataset004_Hippocampus"))
    assert (settings.options["eps"], settings.options["delta"], settings.reference_elements) == (15, 2, 2240)
    assert (settings.epochs, settings.iterations_per_epoch) == (50, 50)


def test_the_plans_json_wins_over_the_packaged_plan_key_by_key() -> None:
    settings = resolve_settings(plans("Dataset004_Hippocampus", delta=1, seed=7))
    assert (settings.options["delta"], settings.seed, settings.options["eps"]) == (1, 7, 15)


def test_names_of_the_first_release_are_read() -> None:
    settings = resolve_settings(plans("Dataset004_Hippocampus", eps_max=12, pgd_steps=9, beta=0.3, epochs=3))
    assert (settings.options["eps"], settings.options["steps"], settings.options["beta"]) == (12, 9, 0.3)
    assert settings.epochs == 3


def test_the_schedule_is_shared_and_each_method_has_its_own_key() -> None:
    given = plans("Dataset004_Hippocampus", epochs=3, seed=4) | {
        "schedule": {"epochs": 5},
        "adv": {"eps": 3},
        "fat": {"tau": [[0, 1]]},
    }
    adv, fat, ima = (resolve_settings(given, method) for method in ("adv", "fat", "ima"))
    assert {(settings.epochs, settings.seed) for settings in (adv, fat)} == {(5, 4)}
    assert (ima.epochs, ima.seed) == (3, 4)  # its own key wins
    assert (adv.options["eps"], adv.robust_eps) == (3, 3)
    assert (fat.options["tau"], fat.tau) == ([[0, 1]], 0.6)
    assert ima.options["eps"] == 15


@pytest.mark.parametrize(
    ("method", "eps", "robust"), [("adv", 7.5, 7.5), ("te", 7.5, 7.5), ("mma", 15, 7.5), ("ddn", 15, 7.5)]
)
def test_noise_that_nobody_chose_follows_the_largest_margin_of_the_task(method: str, eps: float, robust: float) -> None:
    settings = resolve_settings(plans("Dataset004_Hippocampus"), method)
    assert (settings.options["eps"], settings.robust_eps) == (eps, robust)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("method", ["ima", "adv", "ddn"])
def test_presets_fill_what_is_not_given(preset: str, method: str) -> None:
    given = plans() | {"schedule": {"preset": preset}, method: {"steps": 3}}
    settings = resolve_settings(given, method)
    expected = PRESETS[preset].get(method, {}) | {"steps": 3}
    assert {key: settings.options[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm", "L1"),
        ("preset", "fast"),
        ("start", "zero"),
        ("reduction", "median"),
        ("eps", 0),
        ("eps", "much"),
        ("eps", float("nan")),
        ("eps", float("inf")),
        ("delta", -1),
        ("delta", 5.0),
        ("beta", 1.5),
        ("steps", 0),
        ("steps", 2.5),
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


@pytest.mark.parametrize(
    ("method", "key", "value"),
    [("adv", "eps", "much"), ("trades", "weight", -1), ("fat", "tau", 3), ("te", "begin", 0.9), ("mma", "speed", 1)],
)
def test_impossible_values_of_other_methods_are_refused_by_name(method: str, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f'"{method}": .*{key}'):
        resolve_settings(plans() | {method: {key: value}}, method)


def test_in_another_norm_the_numbers_of_the_task_mean_nothing() -> None:
    prepared = {"norm": "Linf", "eps_max": 15, "delta": 2, "reference_elements": 2240}
    for given in ({"norm": "Linf"}, {"norm": "Linf", "eps_max": 0.1}, prepared):
        with pytest.raises(ValueError, match=r"norm Linf D4 needs .*delta of its own"):
            resolve_settings(plans("Dataset004_Hippocampus", **given))
    settings = resolve_settings(plans("Dataset004_Hippocampus", norm="Linf", eps_max=0.1, delta=0.01))
    assert settings.options["eps"] == 0.1
    assert resolve_settings(plans(norm="Linf")).options["eps"] == 0.1  # σ per voxel at most, and not in the mean
    shared = plans("Dataset004_Hippocampus") | {"schedule": {"norm": "Linf"}}
    with pytest.raises(ValueError, match=r"norm Linf D4 needs eps of its own"):
        resolve_settings(shared, "adv")
    assert resolve_settings(shared | {"adv": {"eps": 0.05}}, "adv").options["eps"] == 0.05
    assert resolve_settings(shared, "plain").norm == "Linf"


def test_other_settings_than_those_of_the_checkpoint_are_named() -> None:
    settings = resolve_settings(plans(eps=0.05, norm="Linf"))
    stored = resolve_settings(plans(eps=15)).as_dict()
    named = r"latest\.pth was trained .*norm was 'L2', now 'Linf'; eps was 15, now 0\.05"
    with pytest.raises(ValueError, match=named):
        refuse_other_settings(stored, settings, "latest.pth")
    same = settings.as_dict()
    refuse_other_settings(same, settings, "latest.pth")
    refuse_other_settings(same | {"snapshot_interval": 1, "robust_steps": 3}, settings, "latest.pth")
    of_0_1 = {"eps_max": 0.05, "pgd_steps": 4, "tau": 0.6}  # flat, other names, fewer
    refuse_other_settings(of_0_1, settings, "latest.pth")
    with pytest.raises(ValueError, match="steps was 20, now 4"):
        refuse_other_settings(of_0_1 | {"pgd_steps": 20}, settings, "latest.pth")


def test_a_method_s_options_are_compared_one_by_one() -> None:
    """One that an earlier release did not know is free; FAT's tau is not the tau that all methods share."""
    settings = resolve_settings(plans())
    stored = settings.as_dict()
    del stored["options"]["margin_key"]
    refuse_other_settings(stored, settings, "latest.pth")
    stored["options"]["beta"] = 0.4
    with pytest.raises(ValueError, match=r"\(beta was 0\.4, now 0\.7\)"):
        refuse_other_settings(stored, settings, "latest.pth")
    before = resolve_settings(plans() | {"schedule": {"tau": 0.9}}, "fat").as_dict()
    with pytest.raises(ValueError, match=r"\(tau was 0\.9, now 0\.5\)"):
        refuse_other_settings(before, resolve_settings(plans() | {"schedule": {"tau": 0.5}}, "fat"), "latest.pth")


def test_plain_training_has_no_settings_of_its_own() -> None:
    with pytest.raises(ValueError, match=r'"plain": unknown setting \'epoch\'; it has none; those of "schedule" are'):
        resolve_settings(change_settings(plans(), "plain", {"epoch": 3}), "plain")


def test_the_norm_that_ddn_begins_with_follows_its_largest_noise() -> None:
    options = resolve_settings(change_settings(plans(), "ddn", {"eps": 0.4}), "ddn").options
    assert options["first"] == pytest.approx(0.05)
    with pytest.raises(ValueError, match="eps"):
        resolve_settings(change_settings(plans(), "ddn", {"eps": "much"}), "ddn")


def test_unknown_keys_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="epsmax"):
        resolve_settings(plans(epsmax=3))
    with pytest.raises(ValueError, match="\"schedule\": unknown setting 'lr'"):
        resolve_settings(plans() | {"schedule": {"lr": 1}})


@pytest.mark.parametrize("key", ["ima", "schedule", "adv"])
def test_settings_must_be_objects(key: str) -> None:
    with pytest.raises(ValueError, match=f'"{key}" .*object'):
        resolve_settings({"dataset_name": "Dataset123_Liver", key: [1]}, "adv")


def test_beta_may_be_0_and_robust_eps_none() -> None:
    settings = resolve_settings(plans(beta=0, robust_eps=None))
    assert settings.options["beta"] == 0
    assert settings.robust_eps == 0.05


def test_description_names_every_setting() -> None:
    settings = resolve_settings(plans(), "trades")
    text = settings.describe()
    assert all(f"{key}: " in text for key in SCHEDULE)
    assert all(f"trades.{key}: " in text for key in settings.options)


def test_changes_go_where_they_belong() -> None:
    changed = change_settings(plans(eps_max=9, epochs=3), "fat", {"tau": 1, "schedule.tau": 0.5, "epochs": 8})
    assert (changed["fat"], changed["schedule"]) == ({"tau": 1}, {"tau": 0.5, "epochs": 8})
    changed = change_settings(plans(eps_max=9, epochs=3), "ima", {"eps": 8, "epochs": 4})
    assert (changed["ima"], changed["schedule"]) == ({"eps": 8}, {"epochs": 4})
