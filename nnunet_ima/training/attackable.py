"""A training network as an attack needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor, nn


@contextmanager
def attackable(
    network: nn.Module, autocast: Callable[[], AbstractContextManager[object]]
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Lend the network in evaluation mode and without supervision heads: samples independent, one output.

    Args:
        network: a network of nnU-Net, outside any wrapper; it is put back as it was.
        autocast: makes the context of each pass.

    Yields:
        A function from images (B, C, *spatial) to logits (B, K, *spatial) in float32.
    """
    training, supervised = network.training, network.decoder.deep_supervision
    network.eval()
    network.decoder.deep_supervision = False

    def model(x: Tensor) -> Tensor:
        with autocast():
            return network(x).float()

    try:
        yield model
    finally:
        network.train(training)
        network.decoder.deep_supervision = supervised
