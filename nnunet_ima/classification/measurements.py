"""Single measurements of a classifier, as units of work: each is stored as soon as it is done and never repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from nnunet_ima.attacks.noise import draw_white_noise
from nnunet_ima.attacks.problem import Attacked
from nnunet_ima.classification.audit_settings import AuditSettings
from nnunet_ima.classification.records import AttackedImages, Checked, Clean, Noise
from nnunet_ima.classification.under_attack import Target
from nnunet_ima.evidence.engine import Engine, Unit
from nnunet_ima.evidence.schema import fingerprint
from nnunet_ima.evidence.seeds import generator
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.tasks.classification import Classification

SPLIT = "test"

Progress = Callable[[str, float], None]
"""Told what is measured and the share of it that is done."""
R = TypeVar("R")


@dataclass
class Measurements:
    """What can be measured of one model.

    Attributes:
        name: of the model, under which the store keeps its results.
        target: the model with its images.
        ids: names (N,) of the images.
        settings: what to measure.
        engine: gives stored results.
        progress: see `Progress`.
    """

    name: str
    target: Target
    ids: tuple[str, ...]
    settings: AuditSettings
    engine: Engine
    progress: Progress | None

    def unit(self, measurement: str, eps: float | None = None, given: tuple[str, ...] = ()) -> Unit:
        """A unit of work on this model."""
        return Unit(self.name, SPLIT, measurement, eps, self.settings.seed, given)

    def measured(self, unit: Unit, kind: type[R], measure: Callable[[Unit], R]) -> R:
        """Result of a unit of work; see `Engine.result`.

        Raises:
            ValueError: the store holds one on other images.
        """
        found = self.engine.result(unit, kind, measure)
        if len(getattr(found, "correct", self.ids)) != len(self.ids):
            msg = f"{self.engine.store.folder} holds {unit.name} of {self.name} on other images; choose another folder"
            raise ValueError(msg)
        if self.progress is not None:
            self.progress(unit.name, 1.0)
        return found

    def clean(self) -> Clean:
        """Logits without noise."""
        return self.measured(self.unit("clean"), Clean, self._clean)

    def _clean(self, unit: Unit) -> Clean:
        logits = self.target.predict(torch.arange(len(self.ids)))
        predicted = logits.argmax(1)
        correct = (predicted == self.target.y.cpu()).long()
        return Clean(predicted=tuple(predicted.tolist()), correct=tuple(correct.tolist()), logits=_rows(logits))

    def noise(self, eps: float) -> Noise:
        """Accuracy of each image over draws of white noise of exactly ε (L2) or between -ε and ε (L∞)."""
        return self.measured(self.unit("noise-uniform", eps), Noise, lambda unit: self._noise(unit, eps))

    def _noise(self, unit: Unit, eps: float) -> Noise:
        draw = partial(draw_white_noise, "uniform", generator=self.generator(unit.name))
        everyone = torch.arange(len(self.ids))
        draws = [self.target.predict(everyone, draw, self.radius(eps)) for _ in range(self.settings.noise_draws)]
        correct = (
            torch.stack([Classification().quality(logits, self.target.y.cpu()) for logits in draws]).double().mean(0)
        )
        return Noise(eps=eps, correct=tuple(correct.tolist()), logits=_rows(draws[0]))

    def attack(self, name: str, eps: float, known: Sequence[Clean | AttackedImages]) -> AttackedImages:
        """Attack all images that every known result left right; the others carry over from the first that broke them.

        Args:
            name: of the attack.
            eps: noise level.
            known: results at this level or below.
        """
        unit = self.unit(name, eps, given=tuple(map(fingerprint, known)))
        return self.measured(unit, AttackedImages, lambda unit: self._attack(unit, name, eps, known))

    def _attack(self, unit: Unit, name: str, eps: float, known: Sequence[Clean | AttackedImages]) -> AttackedImages:
        found = {key: [0] * len(self.ids) for key in ("correct", "forward", "backward")}
        found |= {"carried": [1] * len(self.ids), "predicted": list(known[0].predicted)}
        noise = [0.0] * len(self.ids)
        for result in reversed(known):
            for image, stood in enumerate(result.correct):
                if not stood:
                    found["predicted"][image] = result.predicted[image]
                    noise[image] = result.noise[image] if isinstance(result, AttackedImages) else 0.0
        images = [image for image in range(len(self.ids)) if all(result.correct[image] for result in known)]
        component = self.settings.components[name]
        run = partial(component.run, labels=None, generator=self.generator(unit.name))
        teller, keeps_form = self.teller(unit), component.keeps_form(None)
        outcome = self.target.attack(images, self.radius(eps), run, teller, keeps_form)
        for number, image in enumerate(images):
            found["carried"][image], noise[image] = 0, outcome.noise[number]
            for key in ("predicted", "correct", "forward", "backward"):
                found[key][image] = getattr(outcome, key)[number]
        whole = {key: tuple(values) for key, values in found.items()}
        return AttackedImages(eps=eps, radius=self.radius(eps), **whole, noise=tuple(noise), trace=outcome.trace)

    def checked(
        self,
        name: str,
        images: Sequence[int],
        eps: float,
        attack: Callable[..., Attacked],
        by: str = "",
        title: str | None = None,
    ) -> Checked:
        """Result of an attack on some images only.

        Args:
            name: of the attack.
            images: numbers of the images.
            eps: noise level.
            attack: a problem and a generator to a result.
            by: what the attack depends on besides.
            title: seeds it; None: name and level.
        """

        def measure(unit: Unit) -> Checked:
            run = partial(attack, generator=self.generator(title or unit.name.removeprefix("check-")))
            found = self.target.attack(images, self.radius(eps), run, self.teller(unit))
            return Checked(
                eps=eps,
                images=tuple(images),
                right=tuple(found.correct),
                noise=tuple(found.noise),
                forward=tuple(found.forward),
                backward=tuple(found.backward),
            )

        unit = self.unit(f"check-{name}", eps, given=(f"images {' '.join(map(str, images))}", by))
        return self.measured(unit, Checked, measure)

    def radius(self, eps: float) -> float:
        """Norm of noise at a level, on the images at hand."""
        return Budget(self.settings.norm, self.target.x[0].numel(), self.settings.reference_elements).effective(eps)

    def generator(self, place: str) -> torch.Generator:
        """Random numbers of a measurement."""
        return generator(self.settings.seed, place)

    def teller(self, unit: Unit) -> Callable[[float], None] | None:
        """Progress of one measurement."""
        return None if self.progress is None else partial(self.progress, unit.name)


def _rows(logits: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, logits.tolist()))
