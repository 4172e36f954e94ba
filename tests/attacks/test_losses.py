from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from nnunet_ima.attacks.losses import LOSSES, bound, cross_entropy
from nnunet_ima.tasks.voxelwise import Labels, segmentation_loss

NAMES = sorted(LOSSES)
# how targets can be read, and the number of a network's channels
KINDS = {
    "labels": (Labels(), 3),
    "ignore": (Labels(ignore=9), 3),
    "regions": (Labels(regions=True), 2),
    "regions, ignore": (Labels(regions=True, ignore=9), 2),
}


def example(
    kind: str, samples: int = 3, spatial: tuple[int, ...] = (5, 6)
) -> tuple[torch.Tensor, torch.Tensor, Labels]:
    """Logits, target and how to read it; the first row of voxels is ignored where something is."""
    labels, channels = KINDS[kind]
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(samples, channels, *spatial, generator=generator)
    if labels.regions:
        target = torch.randint(2, (samples, channels + (labels.ignore is not None), *spatial), generator=generator)
    else:
        target = torch.randint(channels, (samples, 1, *spatial), generator=generator)
    if labels.ignore is not None:
        target[:, -1] = 0 if labels.regions else target[:, -1]
        target[:, -1, 0] = 1 if labels.regions else labels.ignore
    return logits, target, labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_along_the_gradient_raises_each_loss(name: str, kind: str) -> None:
    logits, target, labels = example(kind)
    logits.requires_grad_()
    loss = bound(name, labels)
    before = loss(logits, target, 0.5)
    (gradient,) = torch.autograd.grad(before.sum(), logits)
    raised = logits + 1e-3 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    after = loss(raised, target, 0.5)
    if name == "cospgd":  # its cosine, held fixed, falls; what is climbed is the cross-entropy, twice this:
        before, after = (bound("segpgd", labels)(z, target, 1.0) for z in (logits, raised))
    assert before.shape == (3,)
    assert (after > before).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_no_sample_depends_on_its_batch(name: str, kind: str) -> None:
    logits, target, labels = example(kind)
    alone = torch.cat([bound(name, labels)(logits[i : i + 1], target[i : i + 1], 0.3) for i in range(3)])
    torch.testing.assert_close(bound(name, labels)(logits, target, 0.3), alone)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits_give_finite_losses_and_gradients(name: str, kind: str, dtype: torch.dtype) -> None:
    logits, target, labels = example(kind)
    logits = (logits.sign() * 1e4).to(dtype).requires_grad_()
    loss = bound(name, labels)(logits, target, 0.5)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["ignore", "regions, ignore"])
@pytest.mark.parametrize("name", NAMES)
def test_ignored_voxels_count_nowhere(name: str, kind: str) -> None:
    logits, target, labels = example(kind)
    changed = logits.clone()
    changed[:, :, 0] = 7 * torch.randn(logits[:, :, 0].shape, generator=torch.Generator().manual_seed(1))
    cut = Labels(labels.regions)
    valid = target[:, : 2 if labels.regions else 1, 1:]
    loss = bound(name, labels)(logits, target, 0.5)
    torch.testing.assert_close(bound(name, labels)(changed, target, 0.5), loss)
    torch.testing.assert_close(bound(name, cut)(logits[:, :, 1:], valid, 0.5), loss, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_valid_gives_no_nan(name: str) -> None:
    logits, target, labels = example("ignore")
    assert bound(name, labels)(logits, torch.full_like(target, 9), 0.5).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_volumes_are_read_as_slices_are(name: str) -> None:
    logits, target, labels = example("labels", spatial=(4, 3, 2))
    flat = bound(name, labels)(logits.reshape(3, 3, 12, 2), target.reshape(3, 1, 12, 2), 0.5)
    torch.testing.assert_close(bound(name, labels)(logits, target, 0.5), flat)


def reference(name: str, kind: str, progress: float) -> torch.Tensor:
    """The table of losses, voxel by voxel, in float64."""
    logits, target, labels = example(kind)
    logits = logits.double()
    if labels.regions:  # a binary problem of each region
        log_p = F.logsigmoid(torch.where(target > 0, logits, -logits))
        p = log_p.exp()
        c = ((logits > 0) == (target > 0)).double()
        cosine = p / (p**2 + (1 - p) ** 2).sqrt()
        count = target.double().mean((2, 3), keepdim=True) * 30
        balance = 1 / torch.where(target > 0, count, 30 - count) / 4
    else:
        softmax = logits.softmax(1)
        one_hot = F.one_hot(target[:, 0], 3).movedim(-1, 1).double()
        p = (softmax * one_hot).sum(1, keepdim=True)
        c = (logits.argmax(1, keepdim=True) == target).double()
        cosine = F.cosine_similarity(softmax, one_hot)[:, None]
        balance = (one_hot / one_hot.sum((2, 3), keepdim=True) / 3).sum(1, keepdim=True)
    ce = -p.log()
    if name == "balanced_masked_ce":
        return (c * ce * balance).sum((1, 2, 3))
    share = progress / 2
    return {
        "masked_ce": c * ce,
        "js": math.log(2) + (p * p.log() - (1 + p) * (1 + p).log()) / 2,
        "segpgd": (1 - share) * c * ce + share * (1 - c) * ce,
        "cospgd": cosine * ce,
    }[name].mean((1, 2, 3))


@pytest.mark.parametrize("kind", ["labels", "regions"])
@pytest.mark.parametrize("name", ["masked_ce", "balanced_masked_ce", "js", "segpgd", "cospgd"])
def test_formulas(name: str, kind: str) -> None:
    logits, target, labels = example(kind)
    torch.testing.assert_close(bound(name, labels)(logits, target, 0.6).double(), reference(name, kind, 0.6))


def test_js_is_the_divergence_of_prediction_and_truth() -> None:
    logits, target, labels = example("labels")
    p, q = logits.double().softmax(1), F.one_hot(target[:, 0], 3).movedim(-1, 1).double()
    middle = (p + q) / 2
    divergence = (p * (p / middle).log() + torch.where(q > 0, q * (q / middle).log(), 0)).sum(1) / 2
    torch.testing.assert_close(bound("js", labels)(logits, target, 0.0).double(), divergence.mean((1, 2)))


def test_dice_and_cross_entropy_is_the_loss_of_training() -> None:
    for kind in KINDS:
        logits, target, labels = example(kind)
        assert torch.equal(bound("dice_ce", labels)(logits, target, 0.9), segmentation_loss(logits, target, labels))


def test_dice_does_not_count_background() -> None:
    target = torch.zeros(1, 1, 10, 10, dtype=torch.long)
    target[..., :2, :2] = 1
    all_background = torch.tensor([50.0, -50.0])[None, :, None, None].expand(1, 2, 10, 10)
    assert bound("dice", Labels())(all_background, target, 0.0).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", ["masked_ce", "balanced_masked_ce"])
def test_wrong_voxels_have_no_gradient(name: str) -> None:
    logits, target, labels = example("labels")
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(bound(name, labels)(logits, target, 0.0).sum(), logits)
    wrong = (logits.argmax(1, keepdim=True) != target).expand_as(logits)
    assert (gradient[wrong] == 0).all()
    assert (gradient[~wrong] != 0).all()


def test_segpgd_begins_with_right_voxels_and_ends_with_both() -> None:
    logits, target, labels = example("labels")
    begin, masked, end = (
        bound(name, labels)(logits, target, progress)
        for name, progress in (("segpgd", 0.0), ("masked_ce", 0.0), ("segpgd", 1.0))
    )
    ce = F.cross_entropy(logits, target[:, 0], reduction="none").mean((1, 2))
    torch.testing.assert_close(begin, masked)
    torch.testing.assert_close(end, ce / 2)


def test_the_cosine_is_held_fixed() -> None:
    logits, target, labels = example("labels")
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(bound("cospgd", labels)(logits, target, 0.0).sum(), logits)
    p, one_hot = logits.softmax(1), F.one_hot(target[:, 0], 3).movedim(-1, 1).float()
    weight = F.cosine_similarity(p, one_hot).detach()[:, None]
    torch.testing.assert_close(gradient, weight * (p - one_hot) / 30, atol=1e-6, rtol=1e-4)


def test_balanced_classes_weigh_the_same() -> None:
    """A small structure weighs as much as the background around it."""
    target = torch.zeros(1, 1, 10, 10, dtype=torch.long)
    target[..., 0, :2] = 1
    logits = torch.zeros(1, 2, 10, 10).scatter(1, target, 1.0).requires_grad_()
    (gradient,) = torch.autograd.grad(bound("balanced_masked_ce", Labels())(logits, target, 0.0).sum(), logits)
    foreground = (target == 1).expand_as(gradient)
    torch.testing.assert_close(gradient[foreground].abs().sum(), gradient[~foreground].abs().sum())


def test_classifiers() -> None:
    logits, y = torch.tensor([[1e4, -1e4], [0.0, 0.0]]), torch.tensor([1, 0])
    torch.testing.assert_close(cross_entropy(logits, y, 0.0), torch.tensor([2e4, math.log(2)]))
