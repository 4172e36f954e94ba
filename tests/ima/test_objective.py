import pytest
import torch

from nnunet_ima.ima.objective import objective, weights


def test_against_a_plain_recomputation() -> None:
    clean, boundary = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([4.0, 8.0])
    assert float(objective(clean, boundary, beta=0.25)) == pytest.approx(0.75 * 3 + 0.25 * 6)


def test_nothing_attacked_leaves_the_clean_loss() -> None:
    assert float(objective(torch.tensor([1.0, 3.0]), torch.empty(0), beta=0.5)) == 2.0
    assert weights(attacked=False, beta=0.5) == (1.0, 0.0)
    assert weights(attacked=True, beta=0.7) == pytest.approx((0.3, 0.7))
