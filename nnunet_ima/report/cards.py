"""Result cards, one page for each audited model, and many of them side by side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ima.evidence.schema import from_json, to_json
from nnunet_ima.evidence.store import level_key
from nnunet_ima.files import read_json
from nnunet_ima.report.document import Block, Bullets, Document, Section, Table, Text
from nnunet_ima.report.material import Material
from nnunet_ima.report.wording import interval_text, worst_rows
from nnunet_ima.segmentation.result_rows import WORST

FILE = "card.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Level:
    """Dice at a noise level under the worst attack on each case.

    Attributes:
        eps: noise level.
        sigma: the same in σ of the normalised image, root mean square; None if it is not known.
        mean: over the cases.
        low: lower end of the 95 % interval; None for too few cases.
        high: upper end.
        worst: of all cases.
    """

    eps: float
    sigma: float | None
    mean: float
    low: float | None
    high: float | None
    worst: float


@dataclass(frozen=True, kw_only=True)
class Card:
    """What one audit says of one model, for machines.

    Attributes:
        schema: of this record.
        model: name of the model.
        configuration: of nnU-Net.
        trainer: of nnU-Net.
        weights: SHA-256 of each fold's checkpoint.
        cases: number of cases.
        case_set: hash of the cases' hashes: audits of the same cases have the same one.
        attacks: names.
        protocol: hash of all settings that decide the numbers, those of the model's inference included.
        norm: of the noise.
        unit: of ε.
        levels: by rising ε, 0 included.
        median_margin: smallest ε at which half of the cases have failed; None: not measured, or more stood all noise.
        conclusive: whether every check of the evidence passed.
        made_with: version of this package.
    """

    schema: int
    model: str
    configuration: str
    trainer: str
    weights: dict[str, str]
    cases: int
    case_set: str
    attacks: tuple[str, ...]
    protocol: str
    norm: str
    unit: str
    levels: tuple[Level, ...]
    median_margin: float | None
    conclusive: bool
    made_with: str


def make_cards(material: Material) -> list[Card]:
    """Return a card for each model of an audit."""
    summary, question = material.summary, material.manifest["question"]
    case_set = hash_of(question["cases"])
    settings = {name: value for name, value in question["settings"].items() if name != "save_adversarial"}
    versions = [run.get("versions", {}).get("nnunet-ima", "unknown") for run in material.manifest["provenance"]]
    cards = []
    for name, model in material.models.items():
        rows = [row for row in summary["rows"] if row["model"] == name]
        margins = [entry for entry in summary["margins"] if entry["model"] == name]
        own = [row for row in summary["verdicts"] if row["model"] == name]
        cards.append(
            Card(
                schema=SCHEMA,
                model=name,
                configuration=model["configuration"],
                trainer=model["trainer"],
                weights=dict(model["checkpoints"]),
                cases=rows[0]["cases"] if rows else 0,
                case_set=case_set,
                attacks=tuple(sorted({row["attack"] for row in rows if row["eps"]} - {WORST})),
                protocol=hash_of([question["attacks"], settings, model["step_size"], model["mirroring"]]),
                norm=summary["settings"]["norm"],
                unit=summary["settings"]["unit"],
                levels=tuple(_level(row) for row in worst_rows(summary, name).values()),
                median_margin=margins[0]["quantiles"]["0.5"] if margins else None,
                conclusive=bool(own) and all(row["conclusive"] for row in own) and not summary["failed"],
                made_with=versions[-1] if versions else "unknown",
            )
        )
    return cards


def hash_of(value: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _level(row: Mapping[str, Any]) -> Level:
    low, high = row["interval"] or (None, None)
    sigma = row["units"]["rms"] if row["eps"] else 0.0
    return Level(eps=row["eps"], sigma=sigma, mean=row["mean_dice"], low=low, high=high, worst=row["worst_dice"])


def as_text(cards: Sequence[Card]) -> str:
    """Return cards as JSON."""
    return json.dumps([to_json(card) for card in cards], indent=1, allow_nan=False) + "\n"


def read_cards(folder: Path) -> list[Card]:
    """Read the cards of an audit.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: they are damaged, or of another release.
    """
    file = folder / FILE if folder.is_dir() else folder
    way_out = "run the audit's command again: it measures nothing anew, and writes the cards"
    content = read_json(file, missing=f"no audit has written cards there; {way_out}", damaged=way_out)
    try:
        cards = [from_json(Card, entry) for entry in content]
    except (ValueError, TypeError) as error:
        msg = f"{file} holds no cards of this release ({error}); {way_out}"
        raise ValueError(msg) from error
    if any(card.schema != SCHEMA for card in cards):
        msg = f"{file} holds cards of another release; {way_out}"
        raise ValueError(msg)
    return cards


def card_page(card: Card) -> Document:
    """A model's card on one page."""
    margin = "not known, or above all noise tried" if card.median_margin is None else f"ε = {card.median_margin:.3g}"
    facts = (
        f"nnU-Net {card.configuration}, {card.trainer}, fold {', '.join(card.weights)}",
        f"{card.cases} cases, {card.norm} noise, ε in the unit {card.unit}",
        f"attacks: {', '.join(card.attacks) or 'none'}",
        f"half of the cases have failed by: {margin}",
        *(f"SHA-256 of the weights of fold {fold}: {value}" for fold, value in card.weights.items()),
        f"made with nnunet-ima {card.made_with}",
    )
    rows = tuple(
        (
            level_key(it.eps),
            "" if it.sigma is None else f"{it.sigma:.3g}",
            f"{it.mean:.3f}{_interval(it)}",
            f"{it.worst:.3f}",
        )
        for it in card.levels
    )
    sound = Text("All checks of the evidence passed.") if card.conclusive else Text("**NOT CONCLUSIVE**", "warning")
    table = Table(("ε", "σ (RMS)", "mean Dice under the worst attack [95 %]", "worst case"), rows)
    limits = Text("An attack gives an upper bound on robustness, not a proof.", "note")
    return Document(f"Result card: {card.model}", (sound, table, Bullets(facts), limits))


def leaderboard(entries: Sequence[tuple[str, Card]]) -> Document:
    """Many cards side by side; only those of the same cases and the same attacks share a table.

    Args:
        entries: name of the audit, and a card of it.
    """
    groups: dict[tuple[str, ...], list[tuple[str, Card]]] = {}
    for audit, card in entries:
        groups.setdefault((card.case_set, card.protocol, *card.attacks), []).append((audit, card))
    sections = []
    for number, found in enumerate(groups.values(), 1):
        levels = sorted({it.eps for _, card in found for it in card.levels})
        ranked = sorted(found, key=lambda entry: -_mean(entry[1]))
        head = ("audit", "model", *(f"ε = {level_key(eps)}" for eps in levels), "median margin", "evidence")
        rows = tuple((audit, card.model, *_cells(card, levels), *_verdict(card)) for audit, card in ranked)
        one = found[0][1]
        told = f"{one.norm} noise, ε in the unit {one.unit}, protocol {one.protocol[:12]}…"
        title = f"{', '.join(one.attacks) or 'no attack'} on {one.cases} cases ({one.case_set[:12]}…), {told}"
        sections.append(Section(title, (Table(head, rows, "sortable"),), f"group{number}"))
    first = "Mean Dice under the worst attack on each case; the best mean over all levels stands first."
    lead: list[Block] = [Text(first)]
    if len(groups) > 1:
        told = (
            "These audits were made on different cases or by different protocols. Each table ranks what can be "
            "compared; the numbers of different tables must not be."
        )
        lead.append(Text(told, "warning"))
    return Document("Robustness of several models", tuple(lead), tuple(sections))


def _mean(card: Card) -> float:
    attacked = [it.mean for it in card.levels if it.eps] or [it.mean for it in card.levels]
    return sum(attacked) / len(attacked) if attacked else 0.0


def _cells(card: Card, levels: Sequence[float]) -> list[str]:
    found = {it.eps: it for it in card.levels}
    return [f"{found[eps].mean:.3f}{_interval(found[eps])}" if eps in found else "–" for eps in levels]


def _verdict(card: Card) -> tuple[str, str]:
    margin = "–" if card.median_margin is None else f"{card.median_margin:.3g}"
    return margin, "conclusive" if card.conclusive else "**not conclusive**"


def _interval(level: Level) -> str:
    return "" if level.low is None or level.high is None else interval_text((level.low, level.high))
