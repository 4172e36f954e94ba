import pytest
import torch

from nnunet_ima.perturbation.norms import L2, NORMS, Linf


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(0))


def test_sizes(noise: torch.Tensor) -> None:
    torch.testing.assert_close(L2().size(noise), torch.stack([sample.square().sum().sqrt() for sample in noise]))
    torch.testing.assert_close(Linf().size(noise), torch.stack([sample.abs().max() for sample in noise]))


@pytest.mark.parametrize("name", ["L2", "Linf"])
def test_projection_is_into_the_ball_and_leaves_what_is_inside(name: str, noise: torch.Tensor) -> None:
    norm = NORMS[name]
    eps = norm.size(noise) * torch.tensor([0.1, 0.999, 1.001, 5.0])
    projected = norm.project(noise, eps)
    assert (norm.size(projected) <= eps * (1 + 1e-6)).all()
    torch.testing.assert_close(projected[2:], noise[2:])
    assert (norm.size(projected)[:2] > eps[:2] * 0.999).all()


def test_projection_onto_a_ball_of_radius_0_is_0(noise: torch.Tensor) -> None:
    for norm in NORMS.values():
        assert norm.project(noise, torch.zeros(4)).abs().max() == 0


@pytest.mark.parametrize("name", ["L2", "Linf"])
def test_no_direction_climbs_a_linear_function_faster(name: str, noise: torch.Tensor) -> None:
    norm = NORMS[name]
    steepest = (norm.steepest(noise) * noise).flatten(1).sum(1)
    for seed in range(20):
        other = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed))
        other = other / norm.size(other).reshape(-1, 1, 1, 1)
        assert ((other * noise).flatten(1).sum(1) <= steepest + 1e-5).all()
    torch.testing.assert_close(norm.size(norm.steepest(noise)), torch.ones(4))


def test_tiny_gradients_keep_their_direction_and_none_stays_none(noise: torch.Tensor) -> None:
    torch.testing.assert_close(L2().steepest(noise * 1e-25), L2().steepest(noise), rtol=1e-4, atol=1e-6)
    assert L2().steepest(torch.zeros_like(noise)).abs().max() == 0


@pytest.mark.parametrize("name", ["L2", "Linf"])
def test_random_noise_fills_the_unit_ball_on_both_sides_of_0(name: str) -> None:
    drawn = NORMS[name].random(torch.zeros(200, 1, 4, 4), torch.Generator().manual_seed(0))
    sizes = NORMS[name].size(drawn)
    assert sizes.max() <= 1
    assert sizes.min() < sizes.max()
    assert abs(float(drawn.mean())) < 0.05
    again = NORMS[name].random(torch.zeros(200, 1, 4, 4), torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
