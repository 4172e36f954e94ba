import pytest
import torch
import torch.nn.functional as F

from nnunet_ima.tasks.voxelwise import Labels, hard_dice, mean_dice_present, overlap_counts, segmentation_loss


def random_case(
    seed: int = 0, spatial: tuple[int, ...] = (6, 5), classes: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, classes, *spatial, generator=generator)
    return logits, torch.randint(0, classes, (4, 1, *spatial), generator=generator, dtype=torch.int16)


@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
def test_loss_against_a_plain_recomputation(spatial: tuple[int, ...]) -> None:
    logits, target = random_case(spatial=spatial)
    losses = segmentation_loss(logits, target, Labels())
    for i in range(4):
        p = logits[i].softmax(0)
        y = F.one_hot(target[i, 0].long(), 3).movedim(-1, 0)
        cross_entropy = -(p.log() * y).sum(0).mean()
        dice = sum(2 * (p[k] * y[k]).sum() / (p[k].sum() + y[k].sum()) for k in (1, 2)) / 2
        assert float(losses[i]) == pytest.approx(float(cross_entropy + 1 - dice), rel=1e-4)


def test_ignored_voxels_count_nowhere() -> None:
    logits, target = random_case()
    target[:, :, 2:4] = 9
    labels = Labels(ignore=9)
    keep = [0, 1, 4, 5]
    expected = segmentation_loss(logits[:, :, keep], target[:, :, keep], Labels())
    torch.testing.assert_close(segmentation_loss(logits, target, labels), expected)
    for found, wanted in zip(
        hard_dice(logits, target, labels), hard_dice(logits[:, :, keep], target[:, :, keep], Labels()), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_regions_against_a_plain_recomputation() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 2, 6, 5, generator=generator)
    regions = torch.rand(2, 2, 6, 5, generator=generator) > 0.5
    ignored = torch.zeros(2, 1, 6, 5, dtype=torch.bool)
    ignored[:, :, 3:] = True
    for target, labels, rows in (
        (regions, Labels(regions=True), 6),
        (torch.cat([regions, ignored], 1), Labels(regions=True, ignore=3), 3),
    ):
        losses = segmentation_loss(logits, target, labels)
        for i in range(2):
            z, y = logits[i, :, :rows], regions[i, :, :rows].float()
            p = z.sigmoid()
            dice = [2 * (p[k] * y[k]).sum() / (p[k].sum() + y[k].sum()) for k in range(2)]
            expected = F.binary_cross_entropy_with_logits(z, y) + 1 - sum(dice) / 2
            assert float(losses[i]) == pytest.approx(float(expected), rel=1e-4)


def test_foreground_that_counts() -> None:
    label_map = torch.tensor([[0, 0], [0, 2], [0, 9]])[:, None]
    assert Labels(ignore=9).any_foreground(label_map).tolist() == [False, True, False]
    assert Labels().any_foreground(label_map).tolist() == [False, True, True]
    regions = torch.tensor([[[0, 0], [1, 0], [0, 0]], [[1, 0], [0, 0], [1, 0]]])  # the last channel is ignored
    assert Labels(regions=True, ignore=9).any_foreground(regions).tolist() == [True, False]
    assert Labels(regions=True).any_foreground(regions[:, :2] * 0).tolist() == [False, False]


def test_samples_do_not_influence_each_other() -> None:
    logits, target = random_case()
    alone = torch.cat([segmentation_loss(logits[i : i + 1], target[i : i + 1], Labels()) for i in range(4)])
    torch.testing.assert_close(segmentation_loss(logits, target, Labels()), alone)


def test_hard_dice_by_hand() -> None:
    target = torch.tensor([[[[1, 1, 2, 0]]]])
    logits = F.one_hot(torch.tensor([[[1, 0, 2, 2]]]), 4).movedim(-1, 1).float()
    dice, present = hard_dice(logits, target, Labels())
    assert dice[0].tolist() == pytest.approx([2 / 3, 2 / 3, 1.0])
    assert present.tolist() == [[True, True, False]]
    assert overlap_counts(logits, target, Labels())[:, 0].tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert float(mean_dice_present(logits, target, Labels())) == pytest.approx(2 / 3)


def test_large_logits_give_a_finite_loss_and_gradient() -> None:
    logits, target = random_case()
    logits = (logits * 1e4).requires_grad_()
    loss = segmentation_loss(logits, target, Labels()).sum()
    assert loss.isfinite()
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()
