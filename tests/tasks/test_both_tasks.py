import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ima.tasks.classification import Classification
from nnunet_ima.tasks.segmentation import Segmentation
from nnunet_ima.tasks.voxelwise import Labels


def one_hot_logits(labels: torch.Tensor) -> torch.Tensor:
    return F.one_hot(labels, 3).movedim(-1, 1).float()


@pytest.mark.parametrize(("reduction", "score"), [("mean", 0.4 - 0.6), ("max", 0.8 - 0.6), ("min", 0.0 - 0.6)])
def test_reductions_over_the_classes_present(reduction: str, score: float) -> None:
    target = torch.tensor([[[[1, 1, 1, 2, 0]]]])
    predicted = torch.tensor([[[1, 1, 0, 0, 0]]])  # Dice 0.8 and 0
    assert float(Segmentation(tau=0.6, reduction=reduction).score(one_hot_logits(predicted), target)) == pytest.approx(
        score
    )


def test_a_class_that_is_absent_does_not_count() -> None:
    target = torch.tensor([[[[1, 1, 0]]]])
    predicted = torch.tensor([[[1, 1, 2]]])
    for reduction in ("mean", "max", "min"):
        assert float(
            Segmentation(tau=0.6, reduction=reduction).score(one_hot_logits(predicted), target)
        ) == pytest.approx(0.4)


def test_without_foreground_nothing_is_right() -> None:
    target = torch.zeros(1, 1, 1, 3, dtype=torch.long)
    for reduction in ("mean", "max", "min"):
        score = Segmentation(tau=0.6, reduction=reduction).score(one_hot_logits(target[:, 0]), target)
        assert float(score) == -torch.inf


def test_dice_of_exactly_tau_is_right() -> None:
    target = torch.tensor([[[[1, 1, 0, 0]]]])
    predicted = torch.tensor([[[1, 0, 1, 0]]])
    assert float(Segmentation(tau=0.5).score(one_hot_logits(predicted), target)) >= 0


def test_unknown_reduction() -> None:
    with pytest.raises(ValueError, match="median"):
        Segmentation(reduction="median").score(torch.zeros(1, 3, 1, 1), torch.ones(1, 1, 1, 1, dtype=torch.long))


def test_argmax_score_is_the_lead_of_the_true_class() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert Classification().score(logits, torch.tensor([0, 2])).tolist() == [1.0, -4.0]


def probabilities(logits: Tensor, regions: bool) -> Tensor:
    """Probabilities (B, C, 2 or K, V): of a region and its complement, or of all classes."""
    logits = logits.flatten(2)
    if not regions:
        return logits.softmax(1)[:, None]
    inside = logits.sigmoid()
    return torch.stack((inside, 1 - inside), 2)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
def test_divergence_and_distance_are_means_over_the_voxels_that_count(regions: bool, ignored: bool) -> None:
    first, second = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    target = torch.randint(0, 2, (2, 3 if regions else 1, 4, 5))
    counts = torch.ones(2, 20)
    if ignored:
        counts[:, 7:] = 0
        hidden = (1 - counts).reshape(2, 1, 4, 5).long()
        target = torch.cat((target, hidden), 1) if regions else target.masked_fill(hidden > 0, 9)
    task = Segmentation(Labels(regions, 9 if ignored else None))
    p, q = probabilities(second, regions), probabilities(first, regions)
    divergence, distance = (p * (p / q).log()).sum(2).mean(1), (p - q).square().sum(2).mean(1)
    distance = distance / 2 if regions else distance  # a region's distance is that of its probability alone
    for found, expected in (
        (task.divergence(first, second, target), divergence),
        (task.distance(first, second, target), distance),
    ):
        torch.testing.assert_close(found, (expected * counts).sum(1) / counts.sum(1), rtol=1e-4, atol=1e-6)
    assert torch.isfinite(task.divergence(1e3 * first, 1e3 * second, target)).all()


def test_divergence_of_classifiers_is_that_of_kullback_and_leibler() -> None:
    clean, noisy = torch.randn(5, 3), torch.randn(5, 3)
    p, q, y = clean.softmax(1), noisy.softmax(1), torch.zeros(5, dtype=torch.long)
    task = Classification()
    assert torch.allclose(task.divergence(noisy, clean, y), (p * (p / q).log()).sum(1), atol=1e-6)
    assert torch.isfinite(task.divergence(1e3 * noisy, 1e3 * clean, y)).all()
    assert torch.allclose(task.distance(noisy, clean, y), (p - q).square().sum(1))


def test_class_weights_weigh_the_loss() -> None:
    logits, y = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 1, 0])
    weighted = Classification(torch.tensor([0.0, 2.0])).loss(logits, y)
    assert torch.allclose(weighted, F.cross_entropy(logits, y, reduction="none") * 2 * y)
