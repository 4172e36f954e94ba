"""Batches that shrink, in few sizes: same results, and a GPU's library plans for few sizes only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from nnunet_ima.perturbation import few_sizes as module
from nnunet_ima.perturbation.few_sizes import few_sizes

CPU, WHOLE = {"cpu"}, 19


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.LeakyReLU(), nn.Conv2d(4, 2, 1)
    ).double()


def test_outputs_and_gradients_are_those_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEVICES", CPU)
    model, sizes = network(), set[int]()

    def counted(x: Tensor) -> Tensor:
        sizes.add(len(x))
        found: Tensor = model(x)
        return found

    filled = few_sizes(counted, WHOLE)
    for count in range(1, WHOLE + 1):
        x = torch.randn(count, 1, 8, 8, dtype=torch.float64, requires_grad=True)
        found, expected = filled(x), model(x)
        assert torch.allclose(found, expected)
        weight = torch.randn_like(expected)
        gradients = [torch.autograd.grad((it * weight).sum(), x)[0] for it in (found, expected)]
        assert torch.allclose(*gradients)
    assert sizes == {3, 6, 9, 12, 15, 18, 19}


def test_a_larger_or_empty_batch_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEVICES", CPU)
    for count in (0, WHOLE + 1):
        assert module.missing_samples(torch.zeros(count, 1), WHOLE) == 0


def test_a_cpu_is_given_the_samples_alone() -> None:
    assert module.missing_samples(torch.zeros(1, 1), WHOLE) == 0


@pytest.mark.parametrize("name", ["nnUNetTrainerIMA", "nnUNetTrainerMMA"])
def test_trainings_learn_the_same(make_trainer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to rounding, which depends on the size of a batch, and which attacks of many steps let grow."""
    from nnunet_ima.training import trainers

    def learnt() -> tuple[Tensor, set[int]]:
        trainer, sizes = make_trainer(trainer=getattr(trainers, name), epochs=1), set[int]()
        trainer.initialize()
        trainer.network.register_forward_hook(lambda _, inputs, __: sizes.add(len(inputs[0])))
        before = parameters_to_vector(trainer.network.parameters()).detach().clone()
        trainer.run_training()
        return parameters_to_vector(trainer.network.parameters()).detach() - before, sizes

    alone, _ = learnt()
    monkeypatch.setattr(module, "DEVICES", CPU)
    monkeypatch.setattr(module, "SIZES", 1)
    filled, sizes = learnt()
    assert sizes == {4}
    assert (alone - filled).norm() < 0.3 * alone.norm()
