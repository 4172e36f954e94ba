"""nnU-Net's folders: where they are, which data sets they hold, and how a new one gets in whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def nnunet_folder(variable: str) -> Path:
    """Return the folder that one of nnU-Net's environment variables names; it need not exist yet.

    Raises:
        ValueError: the variable is not set.
    """
    value = os.environ.get(variable, "")
    if not value:
        msg = f"the environment variable {variable} is not set; type: export {variable}=/path/to/a/folder"
        raise ValueError(msg)
    return Path(value)


def dataset_folder_name(dataset_id: int, dataset_name: str) -> str:
    """Return "Dataset004_Hippocampus" for 4 and "Hippocampus".

    Raises:
        ValueError: the id is not between 1 and 999, or the name has other characters than letters and digits.
    """
    if not 1 <= dataset_id <= 999:
        msg = f"the id of a data set must be between 1 and 999, got {dataset_id}"
        raise ValueError(msg)
    # nnU-Net splits names at underscores, and shells at much else.
    if not (dataset_name.isascii() and dataset_name.isalnum()):
        msg = f"the name of a data set must consist of letters and digits, got {dataset_name!r}"
        raise ValueError(msg)
    return f"Dataset{dataset_id:03d}_{dataset_name}"


def find_dataset(dataset: str) -> str:
    """Return the folder name of a preprocessed data set.

    Args:
        dataset: its number ("4") or its folder name ("Dataset004_Hippocampus").

    Raises:
        ValueError: it is neither of the two, or several data sets have this number.
        FileNotFoundError: nnUNet_preprocessed holds no such data set.
    """
    preprocessed = nnunet_folder("nnUNet_preprocessed")
    known = sorted(path.name for path in preprocessed.glob("Dataset*") if path.is_dir())
    if dataset.isdecimal():
        matches = [name for name in known if name.startswith(f"Dataset{int(dataset):03d}_")]
    elif dataset.startswith("Dataset"):
        matches = [name for name in known if name == dataset]
    else:
        msg = f"a data set is a number (4) or a folder name (Dataset004_Hippocampus), got {dataset!r}"
        raise ValueError(msg)
    if len(matches) > 1:
        msg = f"{preprocessed} holds several data sets with the number {dataset}: {', '.join(matches)}; remove one"
        raise ValueError(msg)
    if not matches:
        msg = f"{preprocessed} holds no data set {dataset}; it holds {', '.join(known) or 'none'}"
        raise FileNotFoundError(msg)
    return matches[0]


def refuse_taken(dataset_folder: str, overwrite: bool) -> None:
    """Raise FileExistsError if a data set of this name, or another one with its number, exists.

    Args:
        dataset_folder: for example "Dataset004_Hippocampus".
        overwrite: a data set of exactly this name may exist. Another name with the same number is refused all the
            same: nnU-Net could not tell the two apart.
    """
    prefix = dataset_folder.split("_")[0] + "_"
    for variable in VARIABLES:
        if not os.environ.get(variable):
            continue
        parent = Path(os.environ[variable])
        others = sorted(path for path in parent.glob(f"{prefix}*") if path.name != dataset_folder)
        if others:
            msg = f"{others[0]} has the same number as {dataset_folder}; choose another one with --dataset-id"
            raise FileExistsError(msg)
        # Trained models are no obstacle: they stay and serve the data set of the same name.
        if variable != "nnUNet_results" and not overwrite and (parent / dataset_folder).exists():
            msg = f"{parent / dataset_folder} exists already; replace it with --overwrite, or remove it yourself"
            raise FileExistsError(msg)


@dataclass(frozen=True)
class Staging:
    """Working folders in which a data set is made before it is published.

    Attributes:
        raw: stands in for nnUNet_raw.
        preprocessed: stands in for nnUNet_preprocessed.
        scratch: for whatever else is needed on the way.
    """

    raw: Path
    preprocessed: Path
    scratch: Path

    def publish(self, dataset_folder: str) -> tuple[Path, Path]:
        """Move a finished data set to nnU-Net's folders, replacing a former one; all of it or nothing.

        Returns:
            Its folders in nnUNet_raw and nnUNet_preprocessed.
        """
        pairs = [
            (self.raw / dataset_folder, nnunet_folder("nnUNet_raw") / dataset_folder),
            (self.preprocessed / dataset_folder, nnunet_folder("nnUNet_preprocessed") / dataset_folder),
        ]
        undo: list[tuple[Path, Path]] = []
        try:
            for made, final in pairs:
                if final.exists():
                    former = made.with_name(f"former_{dataset_folder}")  # removed together with the staging folder
                    final.rename(former)
                    undo.append((former, final))
                made.rename(final)
                undo.append((final, made))
        except BaseException:
            for moved, origin in reversed(undo):
                moved.rename(origin)
            raise
        return pairs[0][1], pairs[1][1]


@contextmanager
def staging() -> Iterator[Staging]:
    """Make working folders beside the data sets, let nnU-Net work in them, and remove them at the end.

    They lie inside nnUNet_raw and nnUNet_preprocessed, so that publishing is a rename and not a copy. nnU-Net reads its
    environment variables at every use, in its worker processes too, so it is enough to set them; `Staging.publish`
    must be called outside `nnunet_at`.

    Raises:
        ValueError: nnUNet_raw or nnUNet_preprocessed is not set.
    """
    homes = [nnunet_folder(variable) for variable in VARIABLES[:2]]
    made: list[Path] = []
    try:
        for home in homes:
            home.mkdir(parents=True, exist_ok=True)
            made.append(Path(tempfile.mkdtemp(prefix=".nnunet-ima-", dir=home)))
        places = Staging(made[0] / "raw", made[1] / "preprocessed", made[0] / "scratch")
        for folder in (places.raw, places.preprocessed, places.scratch):
            folder.mkdir()
        yield places
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def nnunet_at(places: Staging) -> Iterator[None]:
    """Let nnU-Net use the working folders, and see no trained models, while the context is open."""
    former = {variable: os.environ.get(variable) for variable in (*VARIABLES, "nnUNet_n_proc_DA")}
    os.environ["nnUNet_raw"] = str(places.raw)
    os.environ["nnUNet_preprocessed"] = str(places.preprocessed)
    os.environ.pop("nnUNet_results", None)
    if os.environ.get("nnUNet_n_proc_DA") == "0":  # nnU-Net's planner asks torch for as many threads
        os.environ["nnUNet_n_proc_DA"] = "1"
    try:
        yield
    finally:
        for variable, value in former.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value
