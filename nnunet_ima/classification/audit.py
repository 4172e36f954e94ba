"""Audit of a classifier: its accuracy under noise, measured so that it can stop anywhere and be judged at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ima.attacks.minimal import minimal_eps
from nnunet_ima.attacks.presets import PGD, PRESETS
from nnunet_ima.attacks.problem import Attacked, Problem
from nnunet_ima.attacks.temperature import Tempered
from nnunet_ima.attacks.worst import worst_of
from nnunet_ima.classification.audit_settings import AuditSettings
from nnunet_ima.classification.measurements import Measurements, Progress
from nnunet_ima.classification.records import AttackedImages, Clean, Minimal, Noise
from nnunet_ima.classification.under_attack import Target, frozen
from nnunet_ima.evidence.engine import Engine, Unit
from nnunet_ima.evidence.probes import HUGE, SCALES, telling_level
from nnunet_ima.evidence.records import Judgement, Passes, Probe, Repeated
from nnunet_ima.evidence.schema import fingerprint
from nnunet_ima.evidence.store import Store
from nnunet_ima.evidence.verdict import Attempt, Course, judgements, verdict
from nnunet_ima.perturbation.norms import NORMS

TOLERANCE, ROUNDS = 0.02, 8  # of the search for the smallest noise


@dataclass(frozen=True, kw_only=True)
class BlackBoxed(Probe):
    """What was found on the images checked, with the accuracy under each black box.

    Attributes:
        square: under the Square attack.
        spsa: under SPSA, on fewer images; None without any.
    """

    square: float
    spsa: float | None


@dataclass(frozen=True)
class ClassifierAudit:
    """What was measured of one classifier.

    Attributes:
        name: of the model.
        clean: without noise.
        noise: white noise by ε.
        attacks: by name and ε; the counts of an attack are those that it leaves with those before it, so that the last
            one's are the worst of all.
        probe: what the verdict reads of the images checked; None if there were none.
        minimal: the smallest noise; None if it was not searched.
        verdicts: see `evidence.verdict`.
    """

    name: str
    clean: Clean
    noise: dict[float, Noise]
    attacks: dict[tuple[str, float], AttackedImages]
    probe: BlackBoxed | None
    minimal: Minimal | None
    verdicts: list[Judgement]


def audit_classifier(
    name: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ids: Sequence[str],
    settings: AuditSettings,
    store: Store,
    progress: Progress | None = None,
) -> ClassifierAudit:
    """Measure a classifier; what the store holds already is not measured again.

    Noisy images are not clipped to [0, 1], see `Target`. Each measurement is seeded by its own name, so that it comes
    out the same whatever was measured before.

    Args:
        name: under which the results are stored.
        model: images (B, C, H, W) to logits (B, K).
        x: images (N, C, H, W) in [0, 1].
        y: classes (N,).
        ids: names of the images.
        settings: what to measure.
        store: keeps the results. Its question must hold `settings.question()`, and what decides the images and the
            weights.
        progress: see `Progress`.

    Raises:
        ValueError: images, classes and ids differ in number, the store holds results on other images, or the
            classifier's outputs are not finite.
    """
    if not len(x) == len(y) == len(ids) or not len(x):
        msg = f"images, classes and ids must be as many, got {len(x)}, {len(y)} and {len(ids)}"
        raise ValueError(msg)
    with frozen(model) as device:
        target = Target(model, x, y, NORMS[settings.norm], settings.batch_size, device)
        return _Audit(name, target, tuple(ids), settings, Engine(store), progress).run()


class _Audit(Measurements):
    """The audit of one model: which measurements make it up, and what they say."""

    def run(self) -> ClassifierAudit:
        """Measure everything, in an order that lets results carry over to larger noise."""
        settings, clean = self.settings, self.clean()
        noise = {eps: self.noise(eps) for eps in settings.eps}
        attacks: dict[tuple[str, float], AttackedImages] = {}
        before: dict[str, Clean | AttackedImages] = dict.fromkeys(settings.names, clean)
        for eps in settings.eps:
            at_level: list[AttackedImages] = []
            for name in settings.names:
                # what the attack before broke is out of the question, and so is what this one broke at less noise
                known = at_level[-1] if at_level else before[name]
                at_level.append(self.attack(name, eps, (known, before[name])))
                attacks[name, eps] = before[name] = at_level[-1]
        probe = self.probe(clean, attacks)
        minimal = self.minimal(clean, attacks) if settings.minimal and settings.eps else None
        checks = verdict(*self.evidence(noise, attacks), [probe] if probe else [], "accuracy")
        return ClassifierAudit(self.name, clean, noise, attacks, probe, minimal, judgements(self.name, checks))

    def probe(self, clean: Clean, attacks: dict[tuple[str, float], AttackedImages]) -> BlackBoxed | None:
        """Measure a few images again to judge the evidence, at the level that halves the accuracy most nearly."""
        settings = self.settings
        fine = torch.tensor(clean.correct).nonzero()[:, 0]
        if not settings.eps or not settings.check_images or not len(fine):
            return None
        order = torch.randperm(len(fine), generator=self.generator("checked images"))[: settings.check_images]
        images = fine[order].tolist()
        names = settings.names
        right = {eps: sum(attacks[names[0], eps].correct) for eps in settings.eps}
        eps, huge = telling_level(right, sum(clean.correct)), HUGE * settings.eps[-1]
        standing = [image for image in images if attacks[names[-1], eps].correct[image]]
        first, all_attacks = settings.components[names[0]], ", ".join(names)
        twice = self.checked(f"{first.name}-{2 * first.steps}", standing, eps, self.twice, all_attacks)
        rescaled = self.checked(f"{names[0]} on other scales", standing, eps, self.on_other_scales)
        by_square = self.checked("square", images, eps, self.black_box("square"))
        by_spsa = self.checked("spsa", images[: settings.spsa_images], eps, self.black_box("spsa"))
        by_huge = self.checked("huge", images, huge, partial(first.run, labels=None), names[0], f"huge@{huge:g}")
        black_boxes = f"with the Square attack, {settings.square_queries} queries"
        if settings.spsa_images:
            black_boxes += (
                f", and SPSA, {settings.spsa_steps} steps of {settings.spsa_samples} samples on "
                f"{len(by_spsa.images)} images"
            )

        def share(left: set[int]) -> float:
            return len(left) / len(images)

        return BlackBoxed(
            eps=eps,
            cases=len(images),
            quality=share(set(standing)),
            twice_the_steps=share(set(standing) - twice.broken),
            other_scales=share(set(standing) - rescaled.broken),
            # what the black boxes find beyond the gradients, image by image: a mean of their own could hide it
            black_box=share(set(standing) - by_square.broken - by_spsa.broken),
            black_box_name=black_boxes,
            square=share(set(images) - by_square.broken),
            spsa=fmean(by_spsa.right) if by_spsa.right else None,
            huge=share(set(images) - by_huge.broken),
            eps_huge=huge,
            full_precision=None,
            repeat_difference=self.repeat(images).difference,
        )

    def twice(self, problem: Problem, generator: torch.Generator) -> Attacked:
        """All attacks with twice the steps."""
        components = self.settings.components.values()
        return _together([replace(it, steps=2 * it.steps).run(problem, None, generator) for it in components])

    def black_box(self, name: str) -> Callable[..., Attacked]:
        """The Square attack or SPSA, with the numbers of the settings."""
        settings, (component,) = self.settings, PRESETS[name]
        if name == "square":
            component = replace(component, steps=settings.square_queries)
        else:
            run: Any = partial(component.attack, samples=settings.spsa_samples)  # type: ignore[call-arg]
            component = replace(component, attack=run, steps=settings.spsa_steps, passes=settings.spsa_samples + 1)
        return partial(component.run, labels=None)

    def on_other_scales(self, problem: Problem, generator: torch.Generator) -> Attacked:
        """The first attack on smaller and larger logits."""
        first = self.settings.components[self.settings.names[0]]
        scaled = [replace(problem, model=Tempered(problem.model, 1 / factor)) for factor in SCALES]
        return _together([first.run(it, None, generator) for it in scaled])

    def repeat(self, images: list[int]) -> Repeated:
        """Largest difference of logits between two passes."""

        def measure(unit: Unit) -> Repeated:
            first, second = (self.target.predict(torch.tensor(images)) for _ in range(2))
            return Repeated(difference=float((first - second).abs().max()))

        return self.measured(self.unit("repeat", given=(" ".join(map(str, images)),)), Repeated, measure)

    def minimal(self, clean: Clean, attacks: dict[tuple[str, float], AttackedImages]) -> Minimal:
        """Smallest noise of each image, between the largest level it stood and the noise that broke it."""
        worst = [attacks[self.settings.names[-1], eps] for eps in self.settings.eps]
        unit = self.unit("minimal", given=tuple(map(fingerprint, (clean, *worst))))
        return self.measured(unit, Minimal, lambda unit: self._minimal(unit, clean, worst))

    def _minimal(self, unit: Unit, clean: Clean, worst: Sequence[AttackedImages]) -> Minimal:
        settings = self.settings
        levels = (0.0, *settings.eps)
        found: list[float | None] = [None if stood else 0.0 for stood in clean.correct]
        images, stood_levels = [], []
        for image in range(len(self.ids)):
            stood = sum(result.correct[image] for result in worst)
            if clean.correct[image] and stood < len(worst):
                images.append(image)
                stood_levels.append(stood)
        low = torch.tensor([self.radius(levels[stood]) for stood in stood_levels])
        high = torch.tensor([self.radius(levels[stood + 1]) for stood in stood_levels])
        run, scale = self.searching(unit.name), self.radius(1.0)
        forward = backward = 0
        numbers = torch.tensor(images, dtype=torch.long)
        for rows in torch.arange(len(images)).split(settings.batch_size) if images else ():
            batch = numbers[rows]
            search = minimal_eps(
                partial(self.target.problem, batch),
                run,
                low=low[rows],
                high=high[rows],
                threshold=0.5,
                tolerance=TOLERANCE,
                rounds=ROUNDS,
            )
            smallest = search.eps.cpu().minimum(high[rows])  # at the upper end it broke before, under more steps
            for image, radius in zip(batch.tolist(), smallest.tolist(), strict=True):
                found[image] = radius / scale
            forward, backward = forward + int(search.forward.sum()), backward + int(search.backward.sum())
            if self.progress is not None:
                self.progress(unit.name, (int(rows[-1]) + 1) / len(images))
        return Minimal(eps=tuple(found), passes=Passes(forward=forward, backward=backward))

    def searching(self, place: str) -> Callable[[Problem, Tensor | None], Attacked]:
        """The attack of the search for the smallest noise."""
        generator = self.generator(place)

        def run(problem: Problem, start: Tensor | None) -> Attacked:
            steps = self.settings.pgd_steps if start is None else self.settings.minimal_steps
            return replace(PGD, steps=steps).run(problem, None, generator, start)

        return run

    def evidence(
        self, noise: dict[float, Noise], attacks: dict[tuple[str, float], AttackedImages]
    ) -> tuple[list[Attempt], list[Course]]:
        """Results as `evidence.verdict` reads them."""
        found = [(eps, fmean(result.correct), result) for (_, eps), result in attacks.items()]
        attempts = [
            Attempt(eps, accuracy, max(result.noise), result.radius, fmean(noise[eps].correct))
            for eps, accuracy, result in found
        ]
        return attempts, [Course(accuracy, result.trace) for _, accuracy, result in found]


def _together(results: Sequence[Attacked]) -> Attacked:
    """Worst of several attacks, with the passes of all; the trace is the first one's."""
    x, quality, _ = worst_of(results)
    forward, backward = (torch.stack([getattr(it, way) for it in results]).sum(0) for way in ("forward", "backward"))
    return Attacked(x, quality, results[0].trace, forward, backward)
