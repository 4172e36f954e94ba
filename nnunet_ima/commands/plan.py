"""`nnunet-ima-plan`: a copy of a plans file with other settings of a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from nnunet_ima.commands._run import run_cli
from nnunet_ima.datasets.folders import find_dataset, nnunet_folder
from nnunet_ima.datasets.overlay import read_plans, write_plans

PROGRAM = "nnunet-ima-plan"


@dataclass(kw_only=True)
class Plan:
    """Write a copy of a plans file with other settings of a training.

    nnU-Net names results after trainer, plans and configuration only, so every set of settings needs plans with a name
    of their own. Nothing is preprocessed again: the copy uses the preprocessed data of the original.
    """

    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])]
    """Number or folder name of a preprocessed data set."""

    name: str
    """Name of the new plans, for example nnUNetPlansIMA5."""

    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")]
    """Settings to change, for example: eps=5 epochs=35 start_from=nnUNetTrainer__nnUNetPlans__2d."""

    method: str = "ima"
    """Method that they are for: ima, adv, trades, mma, ddn, fat, gairat, te or plain."""

    plans: Annotated[str, tyro.conf.arg(aliases=["-p"])] = "nnUNetPlans"
    """Name of the plans to copy."""

    overwrite: bool = False
    """Replace existing plans of the new name."""

    def run(self) -> None:
        """Check the settings and write the copy."""
        changes = parse_settings(self.settings)
        check_plans_name(self.name)
        folder = nnunet_folder("nnUNet_preprocessed") / find_dataset(self.dataset)
        target = folder / f"{self.name}.json"
        if self.name == self.plans:
            msg = f"the new plans need another name than the ones they are copied from ({self.plans})"
            raise ValueError(msg)
        if target.exists() and not self.overwrite:
            msg = f"{target} exists already; choose another --name, or replace it with --overwrite"
            raise FileExistsError(msg)
        plans = read_plans(folder / f"{self.plans}.json")
        # Imported here because it takes seconds: wrong inputs are refused before.
        from nnunet_ima.methods import METHODS
        from nnunet_ima.training.settings import change_settings, resolve_settings

        if self.method not in METHODS:
            msg = f"unknown --method {self.method!r}; known are {', '.join(METHODS)}"
            raise ValueError(msg)
        plans = change_settings(plans, self.method, changes) | {"plans_name": self.name}
        settings = resolve_settings(plans, self.method)  # refuses unknown keys and impossible values
        write_plans(plans, target)
        number = int(folder.name[len("Dataset") :].split("_")[0])
        print(
            f"{target} is written; its trainings use",
            settings.describe(),
            "",
            "Next:",
            f"  nnUNetv2_train {number} 2d 0 -tr {METHODS[self.method][1]} -p {self.name}",
            sep="\n",
        )


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the settings that "key=value" pairs name; values are JSON where possible, else text.

    Raises:
        ValueError: there is none, a pair has no "=", or a key is given twice.
    """
    if not pairs:
        msg = "--set needs at least one setting, for example --set delta=1"
        raise ValueError(msg)
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            msg = f"a setting is written key=value, got {pair!r}"
            raise ValueError(msg)
        if key in settings:
            msg = f"--set names {key} twice"
            raise ValueError(msg)
        settings[key] = _parse_value(text)
    return settings


def check_plans_name(name: str) -> None:
    """Raise ValueError if nnU-Net could not use a name for plans: it becomes a file and a part of folder names."""
    usable = name.replace("_", "").replace("-", "")
    if not (usable.isascii() and usable.isalnum()) or "__" in name or name.startswith(("_", "-")) or name[-1] == "_":
        msg = f"a plans name consists of letters, digits, '-' and single '_', got {name!r}"
        raise ValueError(msg)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    run_cli(PROGRAM, Plan, argv)


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # the latter: brackets without end
        return text


def _refuse_constant(text: str) -> Any:
    """Keep "NaN" and "Infinity" as text, which the settings then refuse: JSON itself has no such numbers."""
    raise ValueError(text)


if __name__ == "__main__":
    main()
