"""What nnU-Net predicts of a case, by its own predictor and exporter, and the images that an audit keeps of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nnunet_ima.datasets.checks import last_line
from nnunet_ima.evidence.records import Confidence
from nnunet_ima.evidence.store import Store
from nnunet_ima.files import atomic_file
from nnunet_ima.image_files import check_whole, image_errors, written_image
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volume import Volume, reread, segment, write_label_map, write_map, write_noisy
from nnunet_ima.segmentation.confidence import confidence
from nnunet_ima.segmentation.scores import mean_dice

LabelMap = np.ndarray[Any, Any]


class Predictions:
    """Predictions of a model on a case.

    Attributes:
        model: the trained model.
    """

    def __init__(self, name: str, pipeline: Pipeline, case: str, store: Store) -> None:
        self.model = pipeline.model
        self._place, self._store = (name, case), store
        self._predictor = self.model.predictor(pipeline.step_size, pipeline.mirroring)

    def predict(self, image: Tensor, volume: Volume) -> LabelMap:
        """Raw-space label map (Z, Y, X) of an image (C, *spatial) that was preprocessed as a volume was."""
        return segment(self.logits(image, volume), volume, self.model)

    def predict_surely(self, image: Tensor, volume: Volume) -> tuple[LabelMap, Confidence]:
        """The same, and how sure the model is of it."""
        logits = self.logits(image, volume)
        return segment(logits, volume, self.model), confidence(logits, volume.target, self.model.labels)

    def logits(self, image: Tensor, volume: Volume) -> Tensor:
        """Fused logits (K, *spatial) of such an image, in float32, as nnU-Net's half precision holds them.

        Raises:
            ValueError: nnU-Net cannot predict it, as where logits exceed half precision.
        """
        try:
            logits: Tensor = self._predictor.predict_logits_from_preprocessed_data(image.cpu())
        except RuntimeError as error:
            msg = f"nnU-Net's prediction of {self._place[1]} with {self.model.folder} fails: {last_line(error)}"
            raise ValueError(msg) from error
        return logits.float()

    def file(self, what: str, ending: str | None = None) -> Path:
        """Where an image of this model and case is stored."""
        file = self._store.path("images", *self._place, f"{what}{ending or self.model.dataset_json['file_ending']}")
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def write(self, predicted: LabelMap, volume: Volume, what: str) -> None:
        """Store a prediction: "clean", "pgd@5"."""
        with self._written(self.file(what)) as part:
            write_label_map(predicted, volume, self.model, part)

    def read(self, what: str) -> LabelMap:
        """Label map (Z, Y, X) of a stored prediction.

        Raises:
            OSError: the file cannot be read.
        """
        file = self.file(what)
        with image_errors(file):
            check_whole(file)
            label_map, _ = self.model.plans.image_reader_writer_class().read_seg(str(file))
        found: LabelMap = label_map[0]
        return found

    def write_map(self, array: LabelMap, volume: Volume, what: str) -> None:
        """Store a map of numbers (Z, Y, X)."""
        with self._written(self.file(what, ".nii.gz")) as part:
            write_map(array, volume, part)

    def write_noise(self, noise: Tensor, what: str) -> None:
        """Store noise (C, *spatial) in half precision, which is enough to look at."""
        with atomic_file(self.file(f"noise_{what}", ".npy")) as stream:
            np.save(stream, noise.half().numpy())

    def dice_as_file(self, noise: Tensor, volume: Volume, what: str, keep: bool) -> float | None:
        """Dice after a noisy image has been a file; None if its noise (C, *spatial) cannot be put into raw units.

        Args:
            noise: in σ.
            volume: without noise.
            what: names the files.
            keep: leave them with the other images.
        """
        if volume.scale is None or len(noise) != len(volume.case.images):  # such as the colours of one file
            return None
        ending = self.model.dataset_json["file_ending"]
        folder = self.file(what).parent
        with self._store.scratch() as scratch:
            files = [scratch / f"adversarial_{what}_{channel:04d}{ending}" for channel in range(len(noise))]
            with image_errors(folder):
                write_noisy(volume, noise, self.model, files)
                for file in files:
                    check_whole(file)
                again = reread(volume, files, self.model)
                for file in files if keep else ():
                    file.replace(folder / file.name)
            return mean_dice(self.predict(again.image, again), again, self.model)

    @contextmanager
    def _written(self, file: Path) -> Iterator[Path]:
        """Lend a place for an image, which goes to its own when it is whole."""
        with self._store.scratch() as scratch, written_image(file, scratch) as part:
            yield part
