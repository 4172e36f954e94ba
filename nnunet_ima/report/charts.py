"""Curves of an audit that a reader can query, as Plotly's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunet_ima.evidence.store import level_key
from nnunet_ima.report.canvas import MODEL_COLOURS

STEPS = 1000  # of a curve at most: a page must not grow with the cases
DASHES = ("solid", "dash", "dashdot", "dot")


def dice_chart(summary: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """Mean Dice against ε, a line for each model and attack, with 95 % intervals.

    Args:
        summary: see `segmentation.summary.summarise`.
        unit: what ε means, for the axis.
    """
    rows = summary["rows"]
    data = []
    for number, model in enumerate(dict.fromkeys(row["model"] for row in rows)):
        of_model = [row for row in rows if row["model"] == model]
        clean = next(row for row in of_model if row["attack"] == "clean")
        attacks = dict.fromkeys(row["attack"] for row in of_model if row["attack"] != "clean")
        for style, attack in enumerate(attacks):
            line = [clean, *(row for row in of_model if row["attack"] == attack)]
            mean = [row["mean_dice"] for row in line]
            bars = {}
            if all(row["interval"] for row in line):
                bars = {
                    "error_y": {
                        "type": "data",
                        "symmetric": False,
                        "array": [row["interval"][1] - row["mean_dice"] for row in line],
                        "arrayminus": [row["mean_dice"] - row["interval"][0] for row in line],
                        "thickness": 1,
                    }
                }
            data.append(
                {
                    "x": [row["eps"] for row in line],
                    "y": mean,
                    "name": f"{_plain(model)}: {_plain(attack)}",
                    "mode": "lines+markers",
                    "line": {"color": MODEL_COLOURS[number % len(MODEL_COLOURS)], "dash": DASHES[style % len(DASHES)]},
                    "text": [f"worst: {_plain(row['worst_case'])}, {row['worst_dice']:.3f}" for row in line],
                    "hovertemplate": "ε = %{x}: %{y:.3f}<br>%{text}",
                    **bars,
                }
            )
    return {"data": data, "layout": _layout(unit, "mean Dice over cases", [0, 1.02])}


def margin_chart(summary: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """Share of cases that still stand against ε, a step for each case that falls.

    Args:
        summary: see `segmentation.summary.summarise`; it holds margins.
        unit: what ε means, for the axis.
    """
    data = []
    for number, entry in enumerate(summary["margins"]):
        fallen = sorted((eps, case) for case, eps in entry["values"].items() if eps is not None)
        count = entry["cases"]
        shown = range(0, len(fallen), max(1, -(-len(fallen) // STEPS)))
        data.append(
            {
                "x": [0.0, *(fallen[at][0] for at in shown), entry["largest_tried"]],
                "y": [1.0, *(1 - (at + 1) / count for at in shown), 1 - len(fallen) / count],
                "text": [
                    "",
                    *(
                        f"{_plain(case)} falls at {level_key(round(eps, 4))}"
                        for eps, case in map(fallen.__getitem__, shown)
                    ),
                    "",
                ],
                "name": _plain(entry["model"]),
                "mode": "lines+markers",
                "line": {"shape": "hv", "color": MODEL_COLOURS[number % len(MODEL_COLOURS)]},
                "hovertemplate": "ε = %{x:.3g}: %{y:.0%}<br>%{text}",
            }
        )
    threshold = summary["margins"][0]["threshold"]
    return {"data": data, "layout": _layout(unit, f"share of cases with Dice ≥ {threshold:g}", [0, 1.05])}


def _layout(unit: str, quantity: str, limits: list[float]) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": unit}, "rangemode": "tozero", "gridcolor": "#8884"},
        "yaxis": {"title": {"text": quantity}, "range": limits, "gridcolor": "#8884"},
        "legend": {"orientation": "h", "y": -0.25},
        "margin": {"l": 60, "r": 20, "t": 20, "b": 60},
        "hovermode": "closest",
    }


def _plain(name: str) -> str:
    """A name in which Plotly, which knows some tags, finds none."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%", "&#37;")
