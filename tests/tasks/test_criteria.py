import pytest
import torch
import torch.nn.functional as F

from nnunet_ima.tasks.criteria import ArgmaxCriterion, DiceCriterion


def one_hot_logits(labels: torch.Tensor) -> torch.Tensor:
    return F.one_hot(labels, 3).movedim(-1, 1).float()


@pytest.mark.parametrize(("reduction", "score"), [("mean", 0.4 - 0.6), ("max", 0.8 - 0.6), ("min", 0.0 - 0.6)])
def test_reductions_over_the_classes_present(reduction: str, score: float) -> None:
    target = torch.tensor([[[[1, 1, 1, 2, 0]]]])
    predicted = torch.tensor([[[1, 1, 0, 0, 0]]])  # Dice 0.8 and 0
    assert float(DiceCriterion(0.6, reduction).score(one_hot_logits(predicted), target)) == pytest.approx(score)


def test_a_class_that_is_absent_does_not_count() -> None:
    target = torch.tensor([[[[1, 1, 0]]]])
    predicted = torch.tensor([[[1, 1, 2]]])
    for reduction in ("mean", "max", "min"):
        assert float(DiceCriterion(0.6, reduction).score(one_hot_logits(predicted), target)) == pytest.approx(0.4)


def test_without_foreground_nothing_is_right() -> None:
    target = torch.zeros(1, 1, 1, 3, dtype=torch.long)
    for reduction in ("mean", "max", "min"):
        score = DiceCriterion(0.6, reduction).score(one_hot_logits(target[:, 0]), target)
        assert float(score) == -torch.inf


def test_dice_of_exactly_tau_is_right() -> None:
    target = torch.tensor([[[[1, 1, 0, 0]]]])
    predicted = torch.tensor([[[1, 0, 1, 0]]])
    assert float(DiceCriterion(0.5).score(one_hot_logits(predicted), target)) >= 0


def test_unknown_reduction() -> None:
    with pytest.raises(ValueError, match="median"):
        DiceCriterion(0.6, "median").score(torch.zeros(1, 3, 1, 1), torch.ones(1, 1, 1, 1, dtype=torch.long))


def test_argmax_score_is_the_lead_of_the_true_class() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert ArgmaxCriterion().score(logits, torch.tensor([0, 2])).tolist() == [1.0, -4.0]
