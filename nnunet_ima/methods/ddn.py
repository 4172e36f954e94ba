"""Training with the DDN attack (Rony et al. 2019, arXiv 1811.09600), in Foolbox's implementation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from nnunet_ima.methods.base import Method, Noise, Step, Steps, evaluating
from nnunet_ima.ranges import Range

# Foolbox wants the range of images and cuts noise off there; nothing is to be cut off.
UNBOUNDED = (-1e3, 1e3)


@dataclass(kw_only=True)
class DecoupledDirectionNorm(Method):
    """Mean cross-entropy of images under the smallest noise that DDN finds, projected into the ball.

    An image that DDN cannot mislead, or that is wrong without noise, counts as it is.

    Attributes:
        eps: largest noise.
        steps: gradient steps.
        first: norm that the search begins with, in the unit of ε.
        gamma: by which share the norm grows while the model is right and shrinks while it is wrong.
    """

    eps: Noise
    steps: Steps = 100
    first: Noise = 1.0
    gamma: Annotated[float, Range(0, 0.99)] = 0.05

    def __post_init__(self) -> None:
        if self.run.norm.name != "L2":
            msg = f"ddn knows the L2 norm only, got {self.run.norm.name}"
            raise ValueError(msg)
        _foolbox()  # missing? say so before anything is trained

    def step(self, model: nn.Module, x: Tensor, y: Tensor, ids: Sequence[str]) -> Step:
        """See `Method.step`."""
        noise = self.attack(model, x, y)
        size = self.run.norm.size(noise)
        attacked = self.run.norm.project(noise, self.radius(x, self.eps))
        loss = self.cross_entropy(model(x + attacked), y).mean()
        passes = {"forward": len(x) * (self.steps + 1), "backward": len(x) * (self.steps + 1)}
        log = {"attacked": int((size > 0).sum()), "noise": float(size.sum() / self.run.budget.scale)}
        return Step(loss, log | passes)

    def attack(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the smallest noise found (B, C, *spatial) that misleads; 0 where none was."""
        foolbox = _foolbox()
        attack = foolbox.attacks.DDNAttack(
            init_epsilon=self.run.budget.effective(self.first), steps=self.steps, gamma=self.gamma
        )
        weights = [p for p in model.parameters() if p.requires_grad]
        with evaluating(model):
            for weight in weights:  # Foolbox calls backward(), which would fill their gradients too
                weight.requires_grad_(False)
            try:
                noisy = attack.run(foolbox.PyTorchModel(model, bounds=UNBOUNDED, device=x.device), x, y)
            finally:
                for weight in weights:
                    weight.requires_grad_(True)
        found: Tensor = noisy.detach() - x
        return found


def _foolbox() -> Any:
    try:
        import foolbox
    except ImportError as error:
        msg = 'the method ddn needs Foolbox: pip install "nnunet-ima[classification]"'
        raise ValueError(msg) from error
    return foolbox
