"""`nnunet-ima-study`: one setting, several values, all else alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from nnunet_ima._methods import ALIASES
from nnunet_ima.commands._defences import Defence
from nnunet_ima.commands._run import run_cli
from nnunet_ima.commands.compare import Compare

if TYPE_CHECKING:
    from nnunet_ima.report.comparison import Measured
    from nnunet_ima.segmentation.protocol_table import ProtocolTable

PROGRAM = "nnunet-ima-study"


@dataclass(kw_only=True)
class Study(Compare):
    """Train a method with several values of one setting, measure all of them alike, and draw Dice against the value.

    All start from the same plain model, which is trained first if it is missing, and train for as many epochs. What is
    trained or measured already is not done again: the same command goes on where it was stopped, and further values can
    join later.
    """

    method: str = "ima"
    """Method whose setting is studied."""

    setting: str = "beta"
    """The setting: one of the method's own, such as beta or eps, or of the schedule, such as tau."""

    values: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Its values."""

    prefix: str = "nnUNetPlansStudy"
    """Beginning of the names of the plans that are made; another one keeps another study's trainings apart."""

    output: Path = Path("nnunet-ima-study")
    """Folder of the results."""

    methods: tyro.conf.Suppress[tuple[str, ...]] = ()
    equal_cost: tyro.conf.Suppress[bool] = False

    def _values(self) -> dict[str, float]:
        """The values by the names of their trainings."""
        return {f"{self.setting}{value:g}": value for value in sorted(set(self.values))}

    def _parsed(self) -> dict[str, tuple[str, float | None]]:
        if not self.values:
            msg = "--values needs at least one value"
            raise ValueError(msg)
        from nnunet_ima.methods import parse_method

        name, level = parse_method(self.method)
        if name == "plain" or level is not None:
            msg = f"--method must be a defence without a level, such as ima or trades; got {self.method!r}"
            raise ValueError(msg)
        found: tuple[str, float | None] = (ALIASES.get(name, name), None)
        return {"plain": ("plain", None)} | dict.fromkeys(self._values(), found)

    def _wanted(self, label: str) -> dict[str, Any]:
        value = self._values().get(label)
        return super()._wanted(label) | ({} if value is None else {self.setting: value})

    def _tell(self, defences: Sequence[Defence], measured: dict[str, Measured], table: ProtocolTable) -> None:
        from nnunet_ima.report.comparison import draw_study

        super()._tell(defences, measured, table)
        draw_study(measured, self._values(), self.setting, self.output / "study.png")
        print(f"Against {self.setting}: {self.output / 'study.png'}")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    run_cli(PROGRAM, Study, argv)


if __name__ == "__main__":
    main()
