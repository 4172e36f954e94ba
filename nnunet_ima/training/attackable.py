"""A training network as an attack needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from nnunet_ima.perturbation.few_sizes import few_sizes
from nnunet_ima.perturbation.half_precision import attacked_pass


@contextmanager
def attackable(network: nn.Module, whole: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Lend the network in evaluation mode and without supervision heads: samples independent, one output.

    Args:
        network: a network of nnU-Net, outside any wrapper; it is put back as it was.
        whole: samples of a whole batch.

    Yields:
        A function from images (B, C, *spatial) to logits (B, K, *spatial) in float32.
    """
    training, supervised = network.training, network.decoder.deep_supervision
    network.eval()
    network.decoder.deep_supervision = False

    try:
        yield few_sizes(partial(attacked_pass, network), whole)
    finally:
        network.train(training)
        network.decoder.deep_supervision = supervised
