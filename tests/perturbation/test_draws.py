from __future__ import annotations

import torch

from nnunet_ima.perturbation.ascent import steepest
from nnunet_ima.perturbation.draws import Draws
from nnunet_ima.perturbation.norms import NORMS


def test_samples_draw_from_streams_of_their_own() -> None:
    like = torch.empty(3, 50)
    together = Draws(3, torch.Generator().manual_seed(0)).normal(torch.arange(3), like)
    others = Draws(3, torch.Generator().manual_seed(0))
    others.normal(torch.tensor([0, 0, 0]), like)
    last = others.normal(torch.tensor([2]), like[:1])[0]
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together[2], last)


def test_only_zero_gradients_are_replaced() -> None:
    gradient = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    free = torch.tensor([[1.0, 1.0, 0.0]])
    draws = Draws(2, torch.Generator().manual_seed(0))
    direction = steepest(NORMS["L2"], gradient, free, torch.arange(2), draws)
    torch.testing.assert_close(direction[1], torch.tensor([0.6, 0.8, 0.0]))
    torch.testing.assert_close(direction[0].norm(), torch.tensor(1.0))
    assert direction[0, 2] == 0
