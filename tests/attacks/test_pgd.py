from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.ima.criteria import ArgmaxCriterion
from nnunet_ima.perturbation.norms import NORMS


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(2, 12, generator=torch.Generator().manual_seed(0))


def lead(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Quality of a classifier: how far the true class leads, at least 0."""
    return ArgmaxCriterion().score(logits, y).clamp_min(0)


def attack(weight: torch.Tensor, eps: float, norm: str = "L2", steps: int = 50, **options):
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
    y = (x @ weight.T).argmax(1)
    noisy = pgd(
        lambda z: z @ weight.T,
        x,
        y,
        torch.full((40,), eps),
        norm=NORMS[norm],
        loss=lambda logits, target: F.cross_entropy(logits, target, reduction="none"),
        quality=options.pop("quality", lead),
        steps=steps,
        generator=torch.Generator().manual_seed(2),
        **options,
    )
    return x, y, noisy


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_on_a_linear_model_the_known_worst_noise_is_found(weight: torch.Tensor, norm: str) -> None:
    eps = 0.2
    x, y, noisy = attack(weight, eps, norm)
    difference = weight[0] - weight[1]
    dual = difference.norm() if norm == "L2" else difference.abs().sum()
    before, after = lead(x @ weight.T, y), lead(noisy @ weight.T, y)
    torch.testing.assert_close(after, (before - eps * dual).clamp_min(0), atol=0.02, rtol=0.02)
    assert (NORMS[norm].size(noisy - x) <= eps * (1 + 1e-5)).all()


def test_the_worst_iterate_is_kept_not_the_last(weight: torch.Tensor) -> None:
    seen: list[torch.Tensor] = []

    def quality(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Best at the boundary of the ball: the clean sample is the worst of all."""
        value = 100 - lead(logits, y)
        seen.append(value)
        return value

    _x, y, noisy = attack(weight, 0.2, quality=quality, steps=5)
    kept = 100 - lead(noisy @ weight.T, y)
    torch.testing.assert_close(kept, torch.stack(seen).amin(0))


def test_a_sample_without_quality_left_is_left_alone(weight: torch.Tensor) -> None:
    sizes = []

    def model(z: torch.Tensor) -> torch.Tensor:
        sizes.append(len(z))
        return z @ weight.T

    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1)
    y[:2] = 1 - y[:2]  # wrong from the start
    noisy = pgd(
        model,
        x,
        y,
        torch.full((6,), 1e-3),
        norm=NORMS["L2"],
        loss=lambda logits, target: F.cross_entropy(logits, target, reduction="none"),
        quality=lead,
        steps=4,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(noisy[:2], x[:2])
    assert sizes[2:] == [4] * 5


def test_noise_stays_where_it_is_free(weight: torch.Tensor) -> None:
    free = torch.zeros(1, 12)
    free[:, :3] = 1
    x, _, noisy = attack(weight, 0.2, free=free)
    assert (noisy - x)[:, 3:].abs().max() == 0
    assert (noisy - x)[:, :3].abs().max() > 0


def test_same_seed_same_noise(weight: torch.Tensor) -> None:
    assert torch.equal(attack(weight, 0.2)[2], attack(weight, 0.2)[2])
