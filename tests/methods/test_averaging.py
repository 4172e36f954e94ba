"""Averaged weights: an exponential average whose decay rises to its limit, and that can go on."""

import pytest
import torch
from torch import nn

from nnunet_ima.methods.averaging import WeightAverage


def network(value: float) -> nn.Module:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.fill_(value)
    return layer


def test_the_average_is_that_of_the_formula() -> None:
    average, expected = WeightAverage(decay=0.5), 1.0
    average.start(network(1.0))
    average.update(network(1.0))
    for number, value in enumerate((2.0, 5.0, -3.0), 1):
        average.update(network(value))
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
    found = average.start(network(0.0))
    assert [float(weight.flatten()[0]) for weight in found.parameters()] == pytest.approx([expected] * 2)
    assert not any(weight.requires_grad for weight in found.parameters())


def test_a_stored_average_goes_on() -> None:
    whole, first, second = (WeightAverage(decay=0.9) for _ in range(3))
    for value in (1.0, 2.0):
        whole.update(network(value))
        first.update(network(value))
    second.load_state_dict(first.state_dict())
    assert second.state_dict().keys() == first.state_dict().keys()  # also before there is a network
    for average in (whole, second):
        average.update(network(7.0))
    for one, other in zip(whole.start(network(0)).parameters(), second.start(network(0)).parameters(), strict=True):
        assert torch.equal(one, other)
    assert WeightAverage(0.9).state_dict() == {}
