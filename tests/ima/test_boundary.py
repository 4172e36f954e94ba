import pytest
import torch

from nnunet_ima.ima.boundary import Segment, find_boundary


def search(function, tolerance: float, evaluations: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    size = len(ROOTS)
    count = torch.zeros(size, dtype=torch.long)

    def score_at(chosen: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        count[chosen] += 1
        return function(share, ROOTS[chosen])

    ends = Segment(function(torch.zeros(size), ROOTS), function(torch.ones(size), ROOTS))
    return find_boundary(score_at, ends, torch.full((size,), tolerance), evaluations), count


ROOTS = torch.tensor([0.03, 0.2, 0.5, 0.77, 0.99])
FUNCTIONS = {
    "linear": lambda t, root: root - t,
    "cubic": lambda t, root: (root - t) ** 3 + 0.1 * (root - t),
    "steps": lambda t, root: torch.where(t < root, 0.3, -0.2),
    "infinite": lambda t, root: torch.where(t < root, 0.3, -torch.inf),
    "steep": lambda t, root: torch.tanh(50 * (root - t)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_boundary_is_found_to_the_tolerance_within_bisection_s_evaluations(name: str) -> None:
    found, count = search(FUNCTIONS[name], tolerance=0.02)
    assert (found - ROOTS).abs().max() <= 0.02
    assert count.max() <= 7  # bisection needs 6, and one may be spared


def test_a_straight_score_needs_few_evaluations() -> None:
    found, count = search(FUNCTIONS["linear"], tolerance=0.01)
    assert (found - ROOTS).abs().max() <= 1e-5
    assert count.max() <= 4


def test_no_evaluation_where_the_segment_is_short_enough_or_none_is_allowed() -> None:
    assert search(FUNCTIONS["linear"], tolerance=1.0)[1].max() == 0
    found, count = search(FUNCTIONS["linear"], tolerance=0.01, evaluations=0)
    assert count.max() == 0
    assert (found - ROOTS).abs().max() <= 1e-5
