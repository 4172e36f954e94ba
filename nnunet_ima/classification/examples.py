"""One image under growing noise, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_ima.attacks.presets import find_component
from nnunet_ima.classification.audit_settings import AuditSettings
from nnunet_ima.classification.under_attack import Target, frozen, true_probability
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import NORMS


@dataclass(frozen=True)
class Example:
    """An image under noise, and what a model takes it for.

    Attributes:
        eps: noise level.
        image: (H, W) if grey, (H, W, 3) if RGB, in [0, 1] or, under noise, somewhat beyond.
        predicted: name of the class.
        right: whether that is its class.
    """

    eps: float
    image: np.ndarray[Any, Any]
    predicted: str
    right: bool


def noisy_examples(
    model: nn.Module, image: Tensor, label: int, classes: Sequence[str], settings: AuditSettings
) -> list[Example]:
    """Attack one image for a picture: every level's noise is the one that lowers the true class most, right or wrong.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        image: (C, H, W), grey or RGB.
        label: its class.
        classes: names of the classes.
        settings: norm, levels, steps and seed of the attack.

    Returns:
        The image at ε 0 and each level.
    """
    y = torch.tensor([label])
    with frozen(model) as device:
        target = Target(model, image[None], y, NORMS[settings.norm], 1, device)
        budget = Budget(settings.norm, image.numel(), settings.reference_elements)
        attack, shown = find_component("apgd", "apgd").with_steps(settings.apgd_steps), []
        for eps in (0.0, *settings.eps):
            radius = torch.tensor([budget.effective(eps)])
            # as the model tells its probabilities, and not on the scale of an audit
            problem = replace(target.problem(torch.tensor([0]), radius), model=model, quality=true_probability)
            generator = torch.Generator().manual_seed(settings.seed)
            attacked = attack.run(problem, None, generator)
            with torch.no_grad():
                predicted = int(model(attacked.x).argmax(1))
            noisy = attacked.x[0].cpu().numpy()
            picture = noisy[0] if len(noisy) == 1 else np.moveaxis(noisy, 0, -1)
            shown.append(Example(eps, picture, classes[predicted], predicted == label))
    return shown
