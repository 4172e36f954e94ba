"""Preprocessed cases at hand: reading one takes seconds, and several parts of an audit want it."""

from __future__ import annotations

from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.model import TrainedModel
from nnunet_ima.inference.volume import Volume, read_volume

AT_HAND = 2**30  # bytes of volumes that are kept


class Volumes:
    """Reads cases as models need them, and keeps the last ones."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, str], tuple[TrainedModel, Volume]] = {}

    def __call__(self, case: Case, model: TrainedModel) -> Volume:
        """Preprocess a case, unless it is at hand; see `read_volume`."""
        key = (id(model), case.name)  # the entry holds the model, so that no other can get its number
        _, volume = self._kept.pop(key, (model, None))
        if volume is None:
            volume = read_volume(case, model)
        self._kept[key] = (model, volume)
        while len(self._kept) > 1 and sum(_bytes(kept) for _, kept in self._kept.values()) > AT_HAND:
            del self._kept[next(iter(self._kept))]
        return volume


def _bytes(volume: Volume) -> int:
    return volume.image.nbytes + volume.target.nbytes + volume.label.nbytes + volume.mask.nbytes
