"""Units of noise, by hand."""

from __future__ import annotations

import math

import pytest

from nnunet_ima.segmentation.budgets import UNITS, NoiseUnits, default_levels, reference_elements

L2 = NoiseUnits("L2", elements=40_000, reference_elements=100, scale=(25.0,))
LINF = NoiseUnits("Linf", elements=40_000, reference_elements=100, scale=(25.0,))


@pytest.mark.parametrize(
    ("units", "unit", "eps", "radius"),
    [
        (L2, "l2", 3.0, 3.0),
        (L2, "rms", 0.1, 0.1 * 200),
        (L2, "raw", 5.0, 5 / 25 * 200),
        (L2, "paper", 2.0, 2 * 20),  # 400 times the reference's elements
        (LINF, "rms", 0.1, 0.1),
        (LINF, "raw", 5.0, 0.2),
        (LINF, "paper", 0.3, 0.3),
    ],
)
def test_radius_and_back(units: NoiseUnits, unit: str, eps: float, radius: float) -> None:
    assert units.radius(eps, unit) == pytest.approx(radius)
    assert units.describe(radius)[unit] == pytest.approx(eps)


@pytest.mark.parametrize("unit", ["paper", "rms", "raw"])
@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_same_number_means_same_density_on_every_volume(unit: str, norm: str) -> None:
    found = [
        units.describe(units.radius(0.7, unit))["rms"]
        for units in (NoiseUnits(norm, elements, 2240, (12.0,)) for elements in (2240, 56 * 40 * 36, 10**6))
    ]
    assert found == pytest.approx([found[0]] * 3)


def test_several_channels() -> None:
    """RMS over channels of different scales; a level in raw units would mean different things to them."""
    units = NoiseUnits("L2", 200, None, (3.0, 4.0))
    assert units.describe(math.sqrt(200))["raw"] == pytest.approx(math.sqrt((9 + 16) / 2))
    with pytest.raises(ValueError, match="raw units need a single image channel"):
        units.radius(1.0, "raw")


def test_every_channel_is_an_element() -> None:
    """Two channels of 50 × 40 voxels, ε = 3 quoted on 2 × 10 × 10: the norm grows with the root of 4000 / 200."""
    units = NoiseUnits("L2", 2 * 50 * 40, 2 * 10 * 10, (8.0, 8.0))
    assert units.radius(3, "paper") == pytest.approx(3 * math.sqrt(20))
    assert units.describe(3 * math.sqrt(20)) == {
        "paper": pytest.approx(3),
        "l2": pytest.approx(13.416408),
        "linf": None,
        "rms": pytest.approx(3 / math.sqrt(200)),
        "raw": pytest.approx(8 * 3 / math.sqrt(200)),
    }
    assert units.radius(2, "raw") == pytest.approx(2 / 8 * math.sqrt(4000))  # channels of one scale share a unit


@pytest.mark.parametrize(("norm", "other"), [("L2", "linf"), ("Linf", "l2")])
def test_no_noise_is_none_in_every_unit(norm: str, other: str) -> None:
    units = NoiseUnits(norm, 300, 100, (5.0,))
    assert [units.radius(0.0, unit) for unit in UNITS if unit != other] == [0.0] * (len(UNITS) - (other in UNITS))
    assert units.describe(0.0) == {"paper": 0, norm.lower(): 0, other: None, "rms": 0, "raw": 0}


def test_the_norm_is_told_under_its_own_name() -> None:
    assert (L2.describe(3.0)["l2"], L2.describe(3.0)["linf"]) == (3.0, None)
    assert (LINF.describe(0.3)["l2"], LINF.describe(0.3)["linf"]) == (None, 0.3)
    with pytest.raises(ValueError, match="the unit l2 is the L2 norm, but noise is bounded in Linf"):
        LINF.radius(0.1, "l2")


def test_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown unit of noise 'sigma'; known are paper, l2, rms, raw"):
        L2.radius(1.0, "sigma")


def test_units_without_a_meaning() -> None:
    units = NoiseUnits("L2", 100, None, None)
    assert units.describe(1.0) == {"paper": None, "l2": 1.0, "linf": None, "rms": pytest.approx(0.1), "raw": None}
    with pytest.raises(ValueError, match="use --eps-unit rms"):
        units.radius(1.0, "raw")
    with pytest.raises(ValueError, match=r"no reference size .* use --eps-unit rms"):
        units.radius(1.0, "paper")


def test_reference_is_that_of_the_plans_else_of_the_task() -> None:
    assert reference_elements({"dataset_name": "Dataset004_Hippocampus"}) == 56 * 40
    assert reference_elements({"dataset_name": "Dataset005_Prostate"}) == 320 * 320 * 2
    assert reference_elements({"dataset_name": "Dataset777_Spleen"}) is None
    assert reference_elements({"dataset_name": "Dataset777_Spleen", "ima": {"reference_elements": 9}}) == 9


def test_default_levels() -> None:
    task, other = {"dataset_name": "Dataset004_Hippocampus"}, {"dataset_name": "Dataset777_Spleen"}
    assert default_levels(task, "L2", "paper") == (0, 2, 5, 10, 15)
    assert default_levels(task, "Linf", "paper") is None  # quoted in L2
    assert default_levels(task, "L2", "rms") is None
    levels = default_levels(other, "Linf", "rms")
    assert levels is not None
    assert levels[0] == 0
    assert sorted(levels) == list(levels)
    assert default_levels(other, "L2", "paper") is None  # of a reference size that its own plans name
