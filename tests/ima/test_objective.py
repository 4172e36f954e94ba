import pytest

from nnunet_ima.ima.objective import weights


def test_nothing_attacked_leaves_the_clean_loss() -> None:
    assert weights(attacked=False, beta=0.5) == (1.0, 0.0)
    assert weights(attacked=True, beta=0.7) == pytest.approx((0.3, 0.7))
