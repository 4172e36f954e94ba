from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image as mpl_image

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.report.audit_figures import WorstCase, draw_dice_curves, draw_margins, draw_worst_case, failing_slices
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise

MakeFindings = Callable[..., Findings]


def drawn(draw: Callable[[Any, Path], None], what: Any, file: Path) -> np.ndarray:
    draw(what, file)
    found: np.ndarray = mpl_image.imread(file)[..., :3]
    assert found.std() > 0.05
    return found


def coloured(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Which pixels have this colour, but for the smoothing of edges."""
    found: np.ndarray = (np.abs(255 * image - colour) < 30).all(-1)
    return found


BLUE, VERMILION, GREEN = ((0, 114, 178), (213, 94, 0), (0, 158, 115))
RED = (214, 39, 40)


@pytest.mark.parametrize("draw", [draw_dice_curves, draw_margins])
def test_each_model_has_its_colour(
    draw: Callable[[Any, Path], None], make_findings: MakeFindings, settings: Settings, tmp_path: Path
) -> None:
    both, one = (
        drawn(draw, summarise(make_findings(models), settings), tmp_path / "drawn.png")
        for models in (("weak", "hard"), ("weak",))
    )
    assert coloured(both, BLUE).sum() > 200
    assert coloured(both, VERMILION).sum() > 200
    assert not coloured(one, VERMILION).any()


@pytest.mark.parametrize("draw", [draw_dice_curves, draw_margins])
def test_a_third_model_is_drawn_too(
    draw: Callable[[Any, Path], None], make_findings: MakeFindings, settings: Settings, tmp_path: Path
) -> None:
    findings = make_findings()
    for entries in (findings.records, findings.margins):
        entries += [replace(it, model="third") for it in entries if it.model == "weak"]
    findings.margins[-1] = replace(findings.margins[-1], eps=0.3)  # its line lies beside that of the first
    findings.records = [replace(it, dice=it.dice / 2) if it.model == "third" else it for it in findings.records]
    assert coloured(drawn(draw, summarise(findings, settings), tmp_path / "drawn.png"), GREEN).sum() > 100


@pytest.mark.parametrize("draw", [draw_dice_curves, draw_margins])
def test_other_data_give_another_figure(
    draw: Callable[[Any, Path], None], make_findings: MakeFindings, settings: Settings, tmp_path: Path
) -> None:
    findings = make_findings()
    first = drawn(draw, summarise(findings, settings), tmp_path / "first.png")
    again = drawn(draw, summarise(findings, settings), tmp_path / "again.png")
    findings.records[1] = replace(findings.records[1], dice=0.1)
    findings.margins[0] = replace(findings.margins[0], eps=0.3)
    other = drawn(draw, summarise(findings, settings), tmp_path / "other.png")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("draw", [draw_dice_curves, draw_margins])
@pytest.mark.parametrize("unit", ["paper", "l2", "rms", "raw"])
def test_one_case_that_lacks_all_that_may_be_lacking(
    draw: Callable[[Any, Path], None], unit: str, make_findings: MakeFindings, settings: Settings, tmp_path: Path
) -> None:
    summary = summarise(make_findings(("weak",), cases=1, bare=True), replace(settings, unit=unit))
    drawn(draw, summary, tmp_path / "drawn.png")


def test_cases_that_stand_or_fall_at_once_are_drawn(
    make_findings: MakeFindings, settings: Settings, tmp_path: Path
) -> None:
    """All stand: a line along the top; all fail without noise: one along the bottom."""
    findings = make_findings(("weak",))
    images = []
    for eps in (None, 0.0):
        findings.margins = [replace(margin, eps=eps) for margin in findings.margins]
        images.append(drawn(draw_margins, summarise(findings, settings), tmp_path / "margins.png"))
    height = [coloured(image, BLUE).sum(1).argmax() for image in images]  # of the longest horizontal line, from above
    assert height[0] < 100 < 300 < height[1]


def worst_case(depth: int = 9) -> WorstCase:
    label = np.zeros((depth, 24, 20), dtype=np.int16)
    label[:, 5:15, 4:14] = 1
    label[:, 10:15, 4:14] = 2
    rng = np.random.default_rng(0)
    return WorstCase(
        title="m: case under pgd, ε = 5",
        image=rng.normal(size=label.shape),
        noise=rng.normal(size=label.shape).astype(np.float16),
        unit="raw units",
        label=label,
        clean=label,
        attacked=np.roll(label, 4, 1),
        spacing=(3.0, 0.5, 1.0),
    )


def test_worst_case_shows_the_attacked_prediction(tmp_path: Path) -> None:
    case = worst_case()
    images = {
        name: drawn(draw_worst_case, replace(case, attacked=attacked), tmp_path / f"{name}.png")
        for name, attacked in {
            "moved": case.attacked,
            "empty": np.zeros_like(case.label),
            "as before": case.label,
        }.items()
    }
    assert coloured(images["moved"], RED).sum() > coloured(images["empty"], RED).sum() > 0  # left is that without noise
    assert not np.array_equal(images["moved"][:, 800:], images["as before"][:, 800:])


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_worst_case_of_any_depth_without_noise_or_label(depth: int, tmp_path: Path) -> None:
    case = worst_case(depth)
    empty = np.zeros_like(case.label)
    drawn(draw_worst_case, case, tmp_path / "drawn.png")
    drawn(draw_worst_case, replace(case, noise=np.zeros(case.label.shape)), tmp_path / "drawn.png")
    drawn(draw_worst_case, replace(case, label=empty, clean=empty, attacked=empty), tmp_path / "drawn.png")


@pytest.mark.parametrize(
    ("wrong", "slices"),
    [
        ([2, 3, 9, 8, 2, 0, 5, 1], [0, 2, 6]),
        ([9, 8, 0, 0], [0]),
        ([0, 0, 0], [0]),
        ([4], [0]),
        ([1, 0, 0, 2, 0, 0, 3], [3, 6]),
    ],
)
def test_failing_slices_are_the_worst_and_spread(wrong: list[int], slices: list[int]) -> None:
    """Wrong voxels per slice, and the slices that are chosen."""
    predicted = np.zeros((len(wrong), 3, 3), dtype=int)
    for number, count in enumerate(wrong):
        predicted[number].flat[:count] = 1
    assert failing_slices(np.zeros_like(predicted), predicted) == slices
