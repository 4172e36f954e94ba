"""Single measurements of a classifier, each stored as soon as it is done and never repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.attacks.noise import draw_white_noise
from nnunet_ima.attacks.problem import Attacked
from nnunet_ima.classification.audit_settings import AuditSettings
from nnunet_ima.classification.under_attack import Target, right
from nnunet_ima.evidence.seeds import generator
from nnunet_ima.evidence.store import Store, level_key
from nnunet_ima.perturbation.budget import Budget

SPLIT = "test"

Progress = Callable[[str, float], None]
"""Told what is measured and the share of it that is done."""
Result = dict[str, Any]

# What readers of a stored result rely on.
CLEAN = {"predicted": list, "correct": list, "logits": list}
NOISE = {"correct": list, "logits": list}
ATTACK = {
    **{"predicted": list, "correct": list, "carried": list, "noise": list, "forward": list, "backward": list},
    **{"radius": int | float, "trace": dict},
}
CHECK = {"images": list, "right": list}
REPEAT = {"difference": int | float}
MINIMAL = {"eps": list}


@dataclass
class Measurements:
    """What can be measured of one model.

    Attributes:
        name: of the model, under which the store keeps its results.
        target: the model with its images.
        ids: names (N,) of the images.
        settings: what to measure.
        store: keeps the results.
        progress: see `Progress`.
    """

    name: str
    target: Target
    ids: tuple[str, ...]
    settings: AuditSettings
    store: Store
    progress: Progress | None

    def measured(self, place: str, measure: Callable[[], Result], needs: Mapping[str, Any]) -> Result:
        """Result of a measurement from the store; measured and stored if it is not there, or lacks what is needed."""
        stored = self.store.get(self.name, SPLIT, place, needs=needs)
        if stored is None:
            stored = self.store.put({"measurement": place, **measure()}, self.name, SPLIT, place)
        if len(stored.get("correct", self.ids)) != len(self.ids):
            msg = f"{self.store.folder} holds {place} of {self.name} on other images; choose another folder"
            raise ValueError(msg)
        if self.progress is not None:
            self.progress(place, 1.0)
        return stored

    def clean(self) -> Result:
        """Logits without noise."""
        logits = self.target.predict(torch.arange(len(self.ids)))
        return {**_classes(logits, self.target.y), "logits": logits.tolist()}

    def noise(self, eps: float) -> Result:
        """Accuracy of each image over draws of white noise of exactly ε (L2) or between -ε and ε (L∞)."""
        numbers, everyone = self.generator(f"noise-uniform@{level_key(eps)}"), torch.arange(len(self.ids))
        draw = partial(draw_white_noise, "uniform", generator=numbers)
        draws = [self.target.predict(everyone, draw, self.radius(eps)) for _ in range(self.settings.noise_draws)]
        correct = torch.stack([right(logits, self.target.y.cpu()) for logits in draws]).double().mean(0)
        return {"eps": eps, "correct": correct.tolist(), "logits": draws[0].tolist()}

    def gradient(self, attack: str, eps: float, known: Result, smaller: Result) -> Result:
        """Result of a gradient attack at a level.

        Args:
            attack: its name.
            eps: noise level.
            known: result at this level or below, whose broken images need no attack.
            smaller: the attack's own result at the level below, whose broken images need none either.
        """
        place = f"{attack}@{level_key(eps)}"
        return self.measured(place, lambda: self.attack(place, attack, eps, (known, smaller)), ATTACK)

    def attack(self, place: str, attack: str, eps: float, known: Sequence[Result]) -> Result:
        """Attack all images that every known result left right; the others carry over from the first that broke them.

        "carried" is 1 where an image was not attacked, because it is wrong already.
        """
        found = {key: [0] * len(self.ids) for key in ("correct", "forward", "backward")}
        found |= {"carried": [1] * len(self.ids), "predicted": list(known[0]["predicted"])}
        noise = [0.0] * len(self.ids)
        for result in reversed(known):
            for image, stood in enumerate(result["correct"]):
                if not stood:
                    found["predicted"][image] = result["predicted"][image]
                    noise[image] = result["noise"][image] if "noise" in result else 0.0
        images = [image for image in range(len(self.ids)) if all(result["correct"][image] for result in known)]
        run, keeps_form = self.by_name(attack), self.settings.components[attack].keeps_form(None)
        run = partial(run, generator=self.generator(place))
        outcome = self.target.attack(images, self.radius(eps), run, self.teller(place), keeps_form)
        for number, image in enumerate(images):
            found["carried"][image], noise[image] = 0, outcome.noise[number]
            for key in ("predicted", "correct", "forward", "backward"):
                found[key][image] = getattr(outcome, key)[number]
        return {"eps": eps, "radius": self.radius(eps), **found, "noise": noise, "trace": outcome.trace}

    def by_name(self, attack: str) -> Callable[..., Attacked]:
        """An attack that waits for a problem and a generator."""
        return partial(self.settings.components[attack].run, labels=None)

    def checked(self, place: str, images: list[int], eps: float, attack: Callable[..., Attacked]) -> Result:
        """Result of an attack on some images only."""

        def measure() -> Result:
            run = partial(attack, generator=self.generator(place))
            found = self.target.attack(images, self.radius(eps), run, self.teller(place))
            passes = {"forward": found.forward, "backward": found.backward}
            return {"eps": eps, "images": images, "right": found.correct, "noise": found.noise, **passes}

        return self.measured(f"check-{place}", measure, CHECK)

    def radius(self, eps: float) -> float:
        """Norm of noise at a level, on the images at hand."""
        return Budget(self.settings.norm, self.target.x[0].numel(), self.settings.reference_elements).effective(eps)

    def generator(self, place: str) -> torch.Generator:
        """Random numbers of a measurement."""
        return generator(self.settings.seed, place)

    def teller(self, place: str) -> Callable[[float], None] | None:
        """Progress of one measurement."""
        return None if self.progress is None else partial(self.progress, place)


def _classes(logits: Tensor, y: Tensor) -> Result:
    predicted = logits.argmax(1)
    return {"predicted": predicted.tolist(), "correct": (predicted == y.cpu()).long().tolist()}
