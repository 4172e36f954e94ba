"""Training batches that are a function of the seed and their number alone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class SeededBatches(Dataset):  # type: ignore[type-arg]
    """Batch number i of an nnU-Net loader, always the same for the same seed.

    nnU-Net's loader draws cases, crops and augmentations from the global random states. Seeding these for each
    batch makes a run independent of the number of workers, and a resumed run equal to an uninterrupted one.

    Args:
        loader: an `nnUNetDataLoader`.
        seed: any sequence of whole numbers; give every loader and every rank its own.
    """

    def __init__(self, loader: Any, seed: tuple[int, ...]) -> None:
        self.loader = loader
        self.seed = seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return batch `index` as nnU-Net's dictionary of data, target and keys.

        In 2D its entry "slices" holds the number of the slice of each sample, along the first axis of its case.
        """
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        seed_all((*self.seed, index))
        try:
            with _drawn_slices(self.loader) as slices:
                batch: dict[str, Any] = self.loader.generate_train_batch()
            return batch | {"slices": slices} if self.loader.patch_size_was_2d else batch
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


@contextmanager
def _drawn_slices(loader: Any) -> Iterator[list[int]]:
    """Note where the boxes begin that a loader cuts out, along the first axis: nnU-Net tells nobody."""
    draw, slices = loader.get_bbox, list[int]()

    def get_bbox(*args: Any, **options: Any) -> Any:
        lower, upper = draw(*args, **options)
        slices.append(int(lower[0]))
        return lower, upper

    loader.get_bbox = get_bbox
    try:
        yield slices
    finally:
        del loader.get_bbox  # the class's own


def seed_all(entropy: tuple[int, ...]) -> None:
    """Seed Python, NumPy and PyTorch from a sequence of whole numbers."""
    words = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def stream(batches: SeededBatches, numbers: Iterable[int], workers: int, pin_memory: bool) -> Iterator[dict[str, Any]]:
    """Iterate over the batches of the given numbers, in order, loaded ahead by worker processes."""
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_identity,
        prefetch_factor=3 if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),
    )
    return iter(loader)


def _identity(batch: Any) -> Any:
    return batch
