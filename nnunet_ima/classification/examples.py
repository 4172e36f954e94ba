"""One image under growing noise, to be looked at."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from nnunet_ima.attacks.presets import find_component
from nnunet_ima.classification.audit_settings import AuditSettings
from nnunet_ima.classification.under_attack import Target, frozen, true_probability
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import NORMS


def noisy_examples(
    model: nn.Module, image: Tensor, label: int, settings: AuditSettings
) -> list[tuple[float, Tensor, int]]:
    """Attack one image for a picture: every level's noise is the one that lowers the true class most, right or wrong.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        image: (C, H, W).
        label: its class.
        settings: norm, levels, steps and seed of the attack.

    Returns:
        ε, noisy image (C, H, W) and predicted class, at ε 0 and each level.
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
                shown.append((eps, attacked.x[0].cpu(), int(model(attacked.x).argmax(1))))
    return shown
