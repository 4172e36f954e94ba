import pytest

from nnunet_ima.perturbation.budget import Budget


@pytest.mark.parametrize(
    ("eps", "reference", "rms"), [(15, 56 * 40, 0.317), (10, 320 * 320 * 2, 0.022), (20, 320 * 256, 0.070)]
)
def test_rms_of_the_paper_s_budgets(eps: float, reference: int, rms: float) -> None:
    assert Budget("L2", reference, reference).rms(eps) == pytest.approx(rms, abs=5e-4)
    assert Budget("L2", reference, reference).effective(eps) == eps


def test_same_number_means_same_density_in_2d_and_3d() -> None:
    flat, volume = Budget("L2", 2240, 2240), Budget("L2", 40 * 2240, 2240)
    assert volume.effective(5) / 40**0.5 == pytest.approx(flat.effective(5))
    assert volume.rms(5) == flat.rms(5)


def test_linf_is_not_scaled() -> None:
    budget = Budget("Linf", 100_000, 2240)
    assert budget.effective(0.1) == budget.rms(0.1) == 0.1


def test_description_names_all_units() -> None:
    text = Budget("L2", 4480, 2240).describe(10)
    for number in ("ε = 10", "2240", "14.14", "4480", "0.2113 σ"):
        assert number in text
