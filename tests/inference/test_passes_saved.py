"""Windows that cannot matter are not run: where the loss has no derivative, and where the image stays as it is."""

from __future__ import annotations

import pytest
import torch
from random_models import image, make_model
from torch import Tensor

from nnunet_ima.attacks.temperature import Tempered
from nnunet_ima.inference.pipeline import Pipeline

SLICES = (4, 16, 12)  # of one window each
WINDOWS = (12, 18, 25)  # 16 of a 3D network, which overlap


def gradient(pipeline: Pipeline, x: Tensor, weight: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((pipeline(leaf) * weight).sum(), leaf)
    return found


@pytest.mark.parametrize(("windows_per_pass", "kept", "again"), [(1, 0, 2), (2, 2, 1), (3, 0, 2), (100, 4, 0)])
def test_windows_without_a_derivative_are_not_run_again(windows_per_pass: int, kept: int, again: int) -> None:
    """Slices 0 and 2 have one. The last pass keeps its graph, and goes back if any of its slices has one."""
    x, weight = image((1, 1, *SLICES)), image((1, 3, *SLICES), seed=1)
    weight[:, :, [1, 3]] = 0
    pipeline = Pipeline(make_model("2d"), mirroring=False, windows_per_pass=windows_per_pass)
    found = gradient(pipeline, x, weight)
    assert pipeline.passes.forward == 4 + again
    assert pipeline.passes.backward == kept + again
    leaf = x[0, 0, :, None].clone().requires_grad_()
    (pipeline.model.networks[0](leaf) * weight[0].movedim(1, 0)).sum().backward()
    torch.testing.assert_close(found[0, 0], leaf.grad[:, 0])


def test_a_loss_without_any_derivative_costs_one_pass() -> None:
    pipeline = Pipeline(make_model("2d"), mirroring=False, windows_per_pass=1)
    assert (gradient(pipeline, image((1, 1, *SLICES)), torch.zeros(1, 3, *SLICES)) == 0).all()
    assert (pipeline.passes.forward, pipeline.passes.backward) == (4, 0)


@pytest.mark.parametrize("mirroring", [False, True])
@pytest.mark.parametrize("folds", [1, 2])
@pytest.mark.parametrize(("configuration", "shape", "touched"), [("2d", SLICES, 1 / 4), ("3d_fullres", WINDOWS, 1 / 2)])
def test_a_confined_pipeline_is_the_whole_one_where_the_image_changes(
    configuration: str, shape: tuple[int, ...], touched: float, folds: int, mirroring: bool
) -> None:
    model = make_model(configuration, folds)
    whole = Pipeline(model, mirroring=mirroring, windows_per_pass=3)
    x, weight = image((1, 1, *shape)), image((1, 3, *shape), seed=1)
    free = torch.zeros(1, 1, *shape[:1], 1, 1)
    free[:, :, 1] = 1
    confined = whole.confined(x, free)
    before = whole.passes.forward
    noisy = x + free * image(x.shape, seed=2)
    torch.testing.assert_close(confined(noisy), whole(noisy))
    assert whole.passes.forward - before == (1 + touched) * whole.windows(shape)
    torch.testing.assert_close(gradient(confined, noisy, weight) * free, gradient(whole, noisy, weight) * free)


def test_a_confined_pipeline_without_room_is_the_answer_to_the_image() -> None:
    whole = Pipeline(make_model("2d"), mirroring=False)
    x = image((1, 1, *SLICES))
    confined = whole.confined(x, torch.zeros(1))
    before = whole.passes.forward
    torch.testing.assert_close(confined(x), whole(x))
    assert whole.passes.forward - before == whole.windows(SLICES)
    assert (gradient(confined, x, torch.ones(1, 3, *SLICES)) == 0).all()


def test_what_cannot_be_confined_stays_as_it_is() -> None:
    pipeline = Pipeline(make_model("2d"))
    x = image((2, 1, *SLICES))
    assert pipeline.confined(x[:1], torch.ones(1)) is pipeline
    assert pipeline.confined(x, torch.zeros(1)) is pipeline
    function = torch.nn.Identity()
    assert Tempered(function, 2.0).confined(x, torch.zeros(1)).model is function


def test_an_image_of_another_shape_is_refused() -> None:
    x = image((1, 1, *SLICES))
    confined = Pipeline(make_model("2d")).confined(x, torch.zeros(1))
    with pytest.raises(ValueError, match="confined to an image of shape"):
        confined(x[:, :, :2])
