"""`nnunet-ima-select`: choose the snapshot of a robust training to deploy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nnunet_ima.commands._run import run_cli
from nnunet_ima.datasets.folders import find_dataset, nnunet_folder

PROGRAM = "nnunet-ima-select"


@dataclass(kw_only=True)
class Select:
    """Pick the most robust snapshot of a training that is still good enough on clean images.

    It takes the snapshot, of the raw or of the averaged weights, with the largest margin or the highest robust Dice
    whose clean validation Dice is at or above a floor, and makes it the fold's checkpoint_final.pth, which prediction
    uses. The checkpoint of the training's end is kept beside it.
    """

    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])]
    """Number or folder name of the data set."""

    configuration: Annotated[str, tyro.conf.arg(aliases=["-c"])]
    """Configuration that was trained, for example 2d."""

    min_dice: float
    """Lowest clean validation Dice that is acceptable."""

    by: Literal["margin", "robust"] = "margin"
    """What is most robust: the largest margin, as the paper chooses, or the highest Dice measured under attack."""

    fold: Annotated[str, tyro.conf.arg(aliases=["-f"])] = "0"
    """Fold that was trained."""

    trainer: Annotated[str, tyro.conf.arg(aliases=["-tr"])] = "nnUNetTrainerIMA"
    """Trainer that was used."""

    plans: Annotated[str, tyro.conf.arg(aliases=["-p"])] = "nnUNetPlans"
    """Plans that were used."""

    export_stock: Path | None = None
    """Also write a model folder here that plain nnU-Net can use, without this package."""

    dry_run: bool = False
    """Print the table and the choice, change nothing."""

    def run(self) -> None:
        """Choose, print and put in place."""
        if not 0 <= self.min_dice <= 1:
            msg = f"--min-dice must be between 0 and 1, got {self.min_dice}"
            raise ValueError(msg)
        results = nnunet_folder("nnUNet_results") / find_dataset(self.dataset)
        model = results / f"{self.trainer}__{self.plans}__{self.configuration}"
        fold = model / f"fold_{self.fold}"
        if not fold.is_dir():
            trained = sorted(path.name for path in results.glob("*__*__*"))
            msg = f"{fold} does not exist; {results} holds {', '.join(trained) or 'no training'}"
            raise FileNotFoundError(msg)
        # Imported here because it takes seconds: wrong inputs are refused before.
        from nnunet_ima.training.snapshots import choose, export_stock, make_final, read_snapshots, table

        snapshots = read_snapshots(fold)
        chosen = choose(snapshots, self.min_dice, self.by)
        print(table(snapshots, chosen))
        if self.dry_run:
            return
        # What prediction uses is replaced last, when nothing can be refused any more.
        if self.export_stock is not None:
            export_stock(model, fold.name, chosen, self.export_stock)
        print(f"\n{make_final(fold, chosen)} is now the snapshot of {chosen}.")
        if self.export_stock is not None:
            print(f"{self.export_stock} serves plain nnU-Net, for example with")
            print(f"  nnUNetv2_predict_from_modelfolder -i IMAGES -o OUTPUT -m {self.export_stock} -f {self.fold}")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    run_cli(PROGRAM, Select, argv)


if __name__ == "__main__":
    main()
