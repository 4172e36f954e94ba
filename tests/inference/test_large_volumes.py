"""An attack holds the logits of all classes, their derivative, and no third volume of that size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from live_bytes import LiveBytes
from random_models import image, make_model

from nnunet_ima.attacks.presets import STANDARD
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.segmentation.forecast import volumes_bytes
from nnunet_ima.segmentation.target import Target
from nnunet_ima.tasks import slabs


def case(length: int, classes: int) -> Any:
    shape = (length, 12, 10)
    target = torch.randint(classes, (1, *shape), generator=torch.Generator().manual_seed(0))
    properties = {"shape_after_cropping_and_before_resampling": shape}
    return SimpleNamespace(image=image((1, *shape)), target=target, properties=properties)


@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("component", [STANDARD[0], STANDARD[1]], ids=lambda component: component.name)
def test_an_attack_needs_what_the_forecast_says(component: Any, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a longer volume needs more: neither windows nor slabs."""
    monkeypatch.setattr(slabs, "ELEMENTS", classes * 120)
    model = make_model(classes=classes)
    volumes, peaks = (case(16, classes), case(48, classes)), []
    for volume in volumes:
        with LiveBytes() as counted:
            problem = Target(Pipeline(model, 0.5, False, 1), volume, NORMS["L2"]).problem(1.0, None, "")
            component.with_steps(4).run(problem, model.labels, torch.Generator().manual_seed(0))
        peaks.append(counted.peak)
    short, long = (volumes_bytes(volume, model) for volume in volumes)
    assert 0.6 * (long - short) <= peaks[1] - peaks[0] <= long - short


def test_an_export_that_resamples_needs_more() -> None:
    """nnU-Net does it in double precision."""
    volume, model = case(16, 40), make_model(classes=40)
    logits, voxels = 4 * 40 * 16 * 120, 16 * 120
    assert volumes_bytes(volume, model) == 2 * logits + 64 * voxels
    volume.properties["shape_after_cropping_and_before_resampling"] = (32, 12, 10)
    assert volumes_bytes(volume, model) == 5 * logits
