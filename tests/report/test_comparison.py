"""Defences side by side."""

from pathlib import Path

from nnunet_ima.report.comparison import Evidence, best_sentences, comparison_table, draw_comparison

CASES = [f"case {number}" for number in range(8)]


def evidence(*dice: float) -> dict[float, Evidence]:
    """Dice at ε = 0, 5, ..., of cases that lie a little around it."""
    return {
        5.0 * level: Evidence(value, {case: value + 0.01 * (number - 3.5) for number, case in enumerate(CASES)})
        for level, value in enumerate(dice)
    }


MEASURED = {
    "paper": {"plain": evidence(0.85, 0.3), "ima": evidence(0.83, 0.7), "adv5": evidence(0.8, 0.71)},
    "standard": {"plain": evidence(0.86), "ima": evidence(0.84), "adv5": evidence(0.81)},
}


def test_the_best_of_each_column_stands_in_bold() -> None:
    lines = comparison_table(MEASURED, {"plain": "", "ima": "35 epochs", "adv5": "35 epochs"}).splitlines()
    assert lines[0] == "| defence | paper, ε = 0 | paper, ε = 5 | standard, ε = 0 | |"
    assert lines[2] == "| plain | **0.850** | 0.300 | **0.860** |  |"
    assert lines[3] == "| ima | 0.830 | 0.700 | 0.840 | 35 epochs |"
    assert lines[4] == "| adv5 | 0.800 | **0.710** | 0.810 | 35 epochs |"


def test_what_was_not_measured_stays_empty() -> None:
    measured = {"paper": {"plain": evidence(0.85), "ima": evidence(0.83, 0.7)}}
    assert comparison_table(measured, {"plain": "", "ima": ""}).splitlines()[2] == "| plain | **0.850** |  |  |"


def test_a_sentence_names_the_best_with_its_interval_and_its_lead() -> None:
    clean, noisy = best_sentences("paper", MEASURED["paper"])
    assert clean.startswith("paper, ε = 0: plain keeps most, 0.850 [0.8")
    assert "+0.020 [0.020, 0.020] against ima (mean Dice over 8 cases, 95 % intervals)." in clean
    assert noisy.startswith("paper, ε = 5: adv5 keeps most, 0.710")


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    draw_comparison(MEASURED, tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
