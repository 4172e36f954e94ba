"""Defences side by side: one table, one figure, and a sentence for each noise level that names the best one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from nnunet_ima.evidence.store import level_key
from nnunet_ima.report.canvas import drawn_figure
from nnunet_ima.segmentation.statistics import interval


@dataclass(frozen=True)
class Evidence:
    """What was measured of one defence in one way at one noise level.

    Attributes:
        quality: Dice or accuracy, as the table shows it.
        cases: that of each case or image by its name, by which defences are compared.
    """

    quality: float
    cases: Mapping[str, float]


Measured = Mapping[str, Mapping[float, Evidence]]
"""Evidence by defence and ε."""


def comparison_table(measured: Mapping[str, Measured], notes: Mapping[str, str]) -> str:
    """One line for each defence, one column for each way to measure and ε; the best of a column stands in bold.

    Args:
        measured: by the name of the way, such as "paper's protocol".
        notes: by defence, what the table says of it besides; "" for nothing.
    """
    columns = [(way, eps) for way, found in measured.items() for eps in _levels(found)]
    best = {
        (way, eps): max(cells[eps].quality for cells in measured[way].values() if eps in cells) for way, eps in columns
    }
    head = [f"{way}, ε = {level_key(eps)}" for way, eps in columns]
    lines = ["| defence | " + " | ".join(head) + " | |", "|---|" + "---|" * (len(head) + 1)]
    for defence, note in notes.items():
        cells = []
        for way, eps in columns:
            found = measured[way].get(defence, {}).get(eps)
            text = "" if found is None else f"{found.quality:.3f}"
            cells.append(f"**{text}**" if found is not None and found.quality == best[way, eps] else text)
        lines.append(f"| {defence} | " + " | ".join(cells) + f" | {note} |")
    return "\n".join(lines)


def best_sentences(way: str, measured: Measured, quality: str = "Dice", samples: str = "cases") -> list[str]:
    """For each ε, the defence with the highest mean quality over the cases, with its interval and its lead."""
    sentences = []
    for eps in _levels(measured):
        means = {name: fmean(cells[eps].cases.values()) for name, cells in measured.items() if eps in cells}
        ranked = sorted(means, key=lambda name: means[name], reverse=True)
        first = ranked[0]
        cases = measured[first][eps].cases
        text = f"{way}, ε = {level_key(eps)}: {first} keeps most, {means[first]:.3f}{_interval(list(cases.values()))}"
        if len(ranked) > 1:
            second = ranked[1]
            others = measured[second][eps].cases
            lead = [cases[case] - others[case] for case in cases if case in others]
            text += f", {fmean(lead):+.3f}{_interval(lead)} against {second}"
        sentences.append(f"{text} (mean {quality} over {len(cases)} {samples}, 95 % intervals).")
    return sentences


def draw_comparison(measured: Mapping[str, Measured], file: Path, quality: str = "Dice") -> None:
    """Draw quality against ε, a panel for each way to measure and a line for each defence."""
    with drawn_figure(file, (5.5 * len(measured), 4.5)) as figure:
        panels = figure.subplots(1, len(measured), squeeze=False)[0]
        for panel, (way, found) in zip(panels, measured.items(), strict=True):
            for number, (defence, cells) in enumerate(found.items()):
                levels = sorted(cells)
                style = ("-", "--", ":", "-.")[number % 4]  # readable without colours, too
                panel.plot(levels, [cells[eps].quality for eps in levels], f"o{style}", label=defence)
            panel.set(title=way, xlabel="ε", ylabel=quality, ylim=(0, 1))
            panel.legend()


def draw_study(measured: Mapping[str, Measured], values: Mapping[str, float], setting: str, file: Path) -> None:
    """Draw Dice against the values of a setting, a panel for each way to measure and a line for each ε.

    Args:
        measured: by the name of the way.
        values: of the setting, by the name of the defence that was trained with it.
        setting: its name.
        file: PNG to write.
    """
    with drawn_figure(file, (5.5 * len(measured), 4.5)) as figure:
        panels = figure.subplots(1, len(measured), squeeze=False)[0]
        for panel, (way, found) in zip(panels, measured.items(), strict=True):
            for eps in _levels(found):
                places = [name for name in values if eps in found.get(name, {})]
                dice = [found[name][eps].quality for name in places]
                panel.plot([values[name] for name in places], dice, "o-", label=f"ε = {level_key(eps)}")
            panel.set(title=way, xlabel=setting, ylabel="Dice", ylim=(0, 1))
            panel.grid(alpha=0.3)
            panel.legend()


def _levels(measured: Measured) -> Sequence[float]:
    return sorted({eps for cells in measured.values() for eps in cells})


def _interval(values: Sequence[float]) -> str:
    found = interval(values)
    return "" if found is None else f" [{found[0]:.3f}, {found[1]:.3f}]"
