"""What only the user can say about an audited model: `about.toml`."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

QUESTIONS = {
    "manufacturer": "Who places the product on the market, or runs it in house?",
    "product": "Name of the product that the model is part of.",
    "version": "Its version; the audit is of these weights alone, whose hashes the report holds.",
    "intended_use": "What the output is used for, by whom, with which consequence if it is wrong.",
    "patients": "Who the patients are: age, sex, disease, how they were chosen.",
    "sites": "Hospitals that the cases come from.",
    "scanners": "Devices, protocols and reconstructions of the images, and which ones the product is meant for.",
    "images": "Where the images come from, and on which terms they may be shown to others.",
    "reference_standard": "Who drew the labels, how, and how well such people agree.",
    "noise_origin": "Where noise of this kind can enter: acquisition, export, network, archive, a person.",
    "attacker_knows": "What somebody who adds it knows: weights, data, nothing.",
    "eps_reason": "Why these noise levels: what is plausible, visible, or measured on your scanners.",
    "malformed_input": "What the product does on missing channels, wrong orientation or broken files.",
    "author": "Who made the audit.",
    "reviewer": "Who reviewed it.",
}
"""Keys of the file, and what each asks for."""


@dataclass(frozen=True)
class Acceptance:
    """Mean Dice that is demanded under the worst attack at a noise level.

    Attributes:
        dice: from 0 to 1.
        eps: one of the audit's levels, or 0.
    """

    dice: float
    eps: float


@dataclass(frozen=True)
class About:
    """Answers by key of `QUESTIONS`, those that were given, and what is demanded."""

    answers: dict[str, str]
    acceptance: tuple[Acceptance, ...] = ()


NOTHING_SAID = About({})


def template() -> str:
    """Return an `about.toml` to fill in."""
    lines = ["# What only you can say about the audited model. What is left empty is reported as not provided.", ""]
    for key, question in QUESTIONS.items():
        lines += [f"# {question}", f'{key} = ""', ""]
    lines += [
        "# The lowest mean Dice that is acceptable under the worst attack at a noise level (0: without noise).",
        "# Decide on it before the audit; it turns the report's light green or red. Repeat the block for more levels.",
        "# [[acceptance]]",
        "# dice = 0.80",
        "# eps = 5",
        "",
    ]
    return "\n".join(lines)


def read_about(file: Path) -> About:
    """Read an `about.toml`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML, or a key or value is not one that `template` writes; the message names it.
    """
    try:
        content: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        msg = f"{file} does not exist; nnunet-ima-report --new-about writes one to fill in"
        raise FileNotFoundError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{file} is no TOML file: {error}"
        raise ValueError(msg) from error
    demanded = content.pop("acceptance", [])
    for key, value in content.items():
        if key not in QUESTIONS:
            near = difflib.get_close_matches(key, [*QUESTIONS, "acceptance"], 1)
            meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(QUESTIONS)} and acceptance"
            msg = f"{file}: unknown key {key!r}; {meant}"
            raise ValueError(msg)
        if not isinstance(value, str):
            msg = f"{file}: {key} must be text in quotes, got {value!r}"
            raise ValueError(msg)
    if not isinstance(demanded, list):
        msg = f"{file}: acceptance is written [[acceptance]], with dice and eps below it"
        raise ValueError(msg)
    answers = {key: value.strip() for key, value in content.items() if value.strip()}
    return About(answers, tuple(_acceptance(entry, file) for entry in demanded))


def _acceptance(entry: Any, file: Path) -> Acceptance:
    names = {field.name for field in fields(Acceptance)}
    if not isinstance(entry, dict) or set(entry) != names:
        msg = f"{file}: each [[acceptance]] has exactly dice and eps, got {entry!r}"
        raise ValueError(msg)
    for name, top in (("dice", 1.0), ("eps", sys.float_info.max)):
        value = entry[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= top:
            msg = f"{file}: {name} of an [[acceptance]] must be a number of at least 0, a Dice at most 1, got {value!r}"
            raise ValueError(msg)
    return Acceptance(float(entry["dice"]), float(entry["eps"]))
