"""The frequency attack: transforms against SciPy, similarity against scikit-image, and what it promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from skimage.metrics import structural_similarity

from nnunet_ima.attacks.losses import bound
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.attacks.vafa import GREYS, Blocks, grey_span, quantised, ssim, vafa
from nnunet_ima.tasks.voxelwise import Labels, mean_dice_present

SHAPES = [(2, 1, 8, 16, 24), (1, 2, 5, 9, 17), (1, 1, 1, 20, 8), (3, 1, 12, 16)]
DICE = bound("dice", Labels())


def volume(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def test_a_block_is_transformed_as_by_scipy() -> None:
    whole = volume((1, 1, 16, 8, 8))
    coefficients = Blocks((1, 1, 16, 8, 8)).transform(whole)
    for number in (0, 1):
        block = whole[0, 0, 8 * number : 8 * number + 8].numpy()
        found = coefficients[0, 0, number, :, 0, :, 0, :].numpy()
        assert np.allclose(found, dctn(block, norm="ortho"))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_volume_of_any_shape_comes_back(shape: tuple[int, ...]) -> None:
    whole, blocks = volume(shape), Blocks(shape)
    torch.testing.assert_close(blocks.restore(blocks.transform(whole)), whole)


def test_tables_of_one_grey_level_hardly_change_a_volume() -> None:
    """Rounding moves a coefficient by half a level at most, in the mean square by 1/12; the transform keeps lengths."""
    whole = 255 * torch.rand((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0)).double()
    blocks = Blocks(tuple(whole.shape))
    coefficients = blocks.transform(whole)
    change = blocks.restore(quantised(coefficients, torch.ones_like(coefficients))) - whole
    assert float(change.square().mean()) == pytest.approx(1 / 12, rel=0.1)
    assert float(change.abs().max()) < 0.5 * 8**1.5
    assert float(ssim(whole, whole + change, grey_span(whole))) > 0.999


def test_the_gradient_of_a_table_is_what_rounding_leaves() -> None:
    coefficients, tables = torch.tensor([7.0, -3.2]), torch.tensor([5.0, 2.0], requires_grad=True)
    found = quantised(coefficients, tables)
    assert found.tolist() == [5.0, -4.0]
    found.sum().backward()
    assert tables.grad.tolist() == pytest.approx([1 - 7 / 5, -2 + 1.6])


def test_similarity_is_that_of_scikit_image() -> None:
    first, second = volume((2, 1, 12, 14, 16)), volume((2, 1, 12, 14, 16), 1)
    mixed, span = 0.8 * first + 0.2 * second, grey_span(first)
    for number, found in enumerate(ssim(first, mixed, span)):
        arrays = (it[number, 0].numpy() for it in (first, mixed))
        _, whole = structural_similarity(*arrays, data_range=float(span[number, 0]), full=True)
        assert float(found) == pytest.approx(whole[3:-3, 3:-3, 3:-3].mean(), abs=1e-6)
    assert ssim(first, first, span).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("axes", [2, 3])
def test_it_keeps_its_promises(segmentation: Callable[..., Problem], axes: int) -> None:
    problem = segmentation(axes, eps=0.0)
    found = vafa(problem, DICE, steps=6, q_max=40)
    clean = problem.quality(problem.model(problem.x), problem.y)
    assert (found.quality <= clean).all()
    assert (found.quality < clean).any()
    assert torch.equal(problem.quality(problem.model(found.x), problem.y), found.quality)
    assert found.forward.max() == 1 + 6 + 1
    assert found.backward.max() == 6
    edges = np.prod([min(8, size) for size in problem.x.shape[2:]])
    level = grey_span(problem.x)[:, 0] / GREYS
    worst = (found.x - problem.x).flatten(1).abs().amax(1)
    assert (worst <= 40 / 2 * edges**0.5 * level * 1.001).all()  # half an entry in each coefficient, all in step


def test_larger_tables_do_more_and_learning_them_does_more_than_drawing_them(
    segmentation: Callable[..., Problem],
) -> None:
    problem = segmentation(3, samples=8)
    low, high = (vafa(problem, DICE, steps=10, q_max=bound).quality.mean() for bound in (5, 80))
    assert high < low
    untrained = vafa(problem, DICE, steps=1, q_max=80).quality.mean()
    assert high < untrained


def test_samples_do_not_depend_on_each_other(segmentation: Callable[..., Problem]) -> None:
    problem = segmentation(3, samples=3)
    alone = vafa(problem.take(torch.tensor([1])), DICE, steps=4, q_max=30)
    torch.testing.assert_close(vafa(problem, DICE, steps=4, q_max=30).x[1], alone.x[0], atol=1e-4, rtol=0)


def test_regions_are_served(segmentation: Callable[..., Problem]) -> None:
    labels, problem = Labels(regions=True), segmentation(3, samples=2)
    y = torch.cat([problem.y > 0, problem.y > 1], 1).long()
    model = problem.model
    regions = replace(
        problem,
        model=lambda x: model(x)[:, 1:] - model(x)[:, :1],
        y=y,
        quality=partial(mean_dice_present, labels=labels),
    )
    found = vafa(regions, bound("dice", labels), steps=3, q_max=60)
    assert (found.quality <= regions.quality(regions.model(problem.x), y)).all()


@pytest.mark.parametrize(("steps", "q_max", "says"), [(0, 5, "steps must be at least 1"), (3, 0.5, "q_max must be at")])
def test_what_cannot_be_is_refused(segmentation: Callable[..., Problem], steps: int, q_max: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        vafa(segmentation(3), DICE, steps=steps, q_max=q_max)
