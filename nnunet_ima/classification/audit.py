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
from nnunet_ima.attacks.temperature import tempered
from nnunet_ima.attacks.worst import worst_of
from nnunet_ima.classification.audit_settings import AuditSettings
from nnunet_ima.classification.measurements import CLEAN, MINIMAL, NOISE, REPEAT, Measurements, Progress, Result
from nnunet_ima.classification.under_attack import Target, frozen
from nnunet_ima.evidence.probes import HUGE, SCALES, telling_level
from nnunet_ima.evidence.store import Store, level_key
from nnunet_ima.evidence.verdict import ACCURACY, as_rows, verdict
from nnunet_ima.perturbation.norms import NORMS

TOLERANCE, ROUNDS = 0.02, 8  # of the search for the smallest noise


@dataclass(frozen=True)
class ClassifierAudit:
    """What was measured of one classifier; every entry is as the store holds it.

    Attributes:
        name: of the model.
        clean: "logits" (N, K), "predicted" (N,) and "correct" (N,).
        noise: white noise by ε: "correct" (N,), the mean over the draws, and "logits" (N, K) of the first draw.
        attacks: gradient attacks by name and ε: "predicted", "correct", "noise", "carried", "forward", "backward" (N,)
            each, and "trace". PGD's count for PGD; those of the last attack are the worst of all.
        probe: what the verdict reads of the images checked; None if there were none.
        minimal: "eps" (N,) in the unit of the settings, 0 for images that are wrong without noise and None for those
            that no noise tried made wrong; None if it was not searched.
        verdicts: rows of `evidence.verdict.as_rows`.
    """

    name: str
    clean: Result
    noise: dict[float, Result]
    attacks: dict[tuple[str, float], Result]
    probe: Result | None
    minimal: Result | None
    verdicts: list[dict[str, Any]]


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
        store: keeps the results. Its question must hold the settings and what decides the images and the weights.
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
        return _Audit(name, target, tuple(ids), settings, store, progress).run()


class _Audit(Measurements):
    """The audit of one model: which measurements make it up, and what they say."""

    def run(self) -> ClassifierAudit:
        """Measure everything, in an order that lets results carry over to larger noise."""
        clean = self.measured("clean", self.clean, CLEAN)
        noise = {
            eps: self.measured(f"noise-uniform@{level_key(eps)}", partial(self.noise, eps), NOISE)
            for eps in self.settings.eps
        }
        attacks: dict[tuple[str, float], Result] = {}
        before = dict.fromkeys(self.settings.names, clean)
        for eps in self.settings.eps:
            known: Result | None = None
            for name in self.settings.names:
                # what the attack before broke is out of the question, and so is what this one broke at less noise
                known = self.gradient(name, eps, known or before[name], before[name])
                attacks[name, eps] = before[name] = known
        probe = self.probe(clean, attacks)
        minimal = None
        if self.settings.minimal and self.settings.eps:
            minimal = self.measured("minimal", lambda: self.minimal(clean, attacks), MINIMAL)
        checks = verdict(*self.evidence(noise, attacks), [probe] if probe else [], ACCURACY)
        return ClassifierAudit(self.name, clean, noise, attacks, probe, minimal, as_rows(self.name, checks))

    def probe(self, clean: Result, attacks: dict[tuple[str, float], Result]) -> Result | None:
        """Measure a few images again to judge the evidence, at the level that halves the accuracy most nearly."""
        settings = self.settings
        fine = torch.tensor(clean["correct"]).nonzero()[:, 0]
        if not settings.eps or not settings.check_images or not len(fine):
            return None
        order = torch.randperm(len(fine), generator=self.generator("checked images"))[: settings.check_images]
        images = fine[order].tolist()
        first, last = settings.names[0], settings.names[-1]
        eps = telling_level({eps: sum(attacks[first, eps]["correct"]) for eps in settings.eps}, sum(clean["correct"]))
        huge = HUGE * settings.eps[-1]  # the only level of its kind, so that its short name is unique
        standing = [image for image in images if attacks[last, eps]["correct"][image]]
        twice = self.checked(f"pgd-{2 * settings.pgd_steps}@{level_key(eps)}", standing, eps, self.twice)
        rescaled = self.checked(f"{first} on other scales@{level_key(eps)}", standing, eps, self.on_other_scales)
        by_square = self.checked(f"square@{level_key(eps)}", images, eps, self.black_box("square"))
        by_spsa = self.checked(f"spsa@{level_key(eps)}", images[: settings.spsa_images], eps, self.black_box("spsa"))
        by_huge = self.checked(f"huge@{huge:g}", images, huge, self.by_name(first))
        broken = {name: _broken(result) for name, result in (("square", by_square), ("spsa", by_spsa))}
        black_boxes = f"Square attack, {settings.square_queries} queries"
        if settings.spsa_images:
            black_boxes += (
                f", and SPSA, {settings.spsa_steps} steps of {settings.spsa_samples} samples on "
                f"{len(by_spsa['images'])} images"
            )

        def share(left: set[int]) -> float:
            return len(left) / len(images)

        return {
            "eps": eps,
            "cases": len(images),
            "accuracy": share(set(standing)),
            "accuracy_twice_the_steps": share(set(standing) - _broken(twice)),
            "accuracy_other_scales": share(set(standing) - _broken(rescaled)),
            # what the black boxes find beyond the gradients, image by image: a mean of their own could hide it
            "accuracy_black_box": share(set(standing) - broken["square"] - broken["spsa"]),
            "black_box": f"with the {black_boxes}",
            "accuracy_square": share(set(images) - broken["square"]),
            "accuracy_spsa": fmean(by_spsa["right"]) if by_spsa["right"] else None,
            "accuracy_huge": share(set(images) - _broken(by_huge)),
            "eps_huge": huge,
            "repeat_difference": self.measured("repeat", lambda: self.repeat(images), REPEAT)["difference"],
        }

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
            run = partial(component.attack, samples=settings.spsa_samples)
            component = replace(component, attack=run, steps=settings.spsa_steps, passes=settings.spsa_samples + 1)
        return partial(component.run, labels=None)

    def on_other_scales(self, problem: Problem, generator: torch.Generator) -> Attacked:
        """The first attack on smaller and larger logits."""
        run = self.by_name(self.settings.names[0])
        results = [
            run(replace(problem, model=tempered(problem.model, 1 / factor)), generator=generator) for factor in SCALES
        ]
        return _together(results)

    def repeat(self, images: list[int]) -> Result:
        """Largest difference of logits between two passes."""
        first, second = (self.target.predict(torch.tensor(images)) for _ in range(2))
        return {"difference": float((first - second).abs().max())}

    def minimal(self, clean: Result, attacks: dict[tuple[str, float], Result]) -> Result:
        """Smallest noise of each image, between the largest level it stood and the noise that broke it."""
        settings = self.settings
        worst = [attacks[settings.names[-1], eps] for eps in settings.eps]
        levels = (0.0, *settings.eps)
        found: list[float | None] = [None if stood else 0.0 for stood in clean["correct"]]
        images, stood_levels = [], []
        for image in range(len(self.ids)):
            stood = sum(result["correct"][image] for result in worst)
            if clean["correct"][image] and stood < len(worst):
                images.append(image)
                stood_levels.append(stood)
        low = torch.tensor([self.radius(levels[stood]) for stood in stood_levels])
        high = torch.tensor([self.radius(levels[stood + 1]) for stood in stood_levels])
        run, scale = self.searching("minimal"), self.radius(1.0)
        passes = {"forward": 0, "backward": 0}
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
            passes["forward"] += int(search.forward.sum())
            passes["backward"] += int(search.backward.sum())
            if self.progress is not None:
                self.progress("minimal", (int(rows[-1]) + 1) / len(images))
        return {"eps": found, "passes": passes}

    def searching(self, place: str) -> Callable[[Problem, Tensor | None], Attacked]:
        """The attack of the search for the smallest noise."""
        generator = self.generator(place)

        def run(problem: Problem, start: Tensor | None) -> Attacked:
            steps = self.settings.pgd_steps if start is None else self.settings.minimal_steps
            return replace(PGD, steps=steps).run(problem, None, generator, start)

        return run

    def evidence(self, noise: dict[float, Result], attacks: dict[tuple[str, float], Result]) -> tuple[Any, Any, Any]:
        """Results as `evidence.verdict` reads them: attacks, their traces, and each beside white noise."""
        size = "l2" if self.settings.norm == "L2" else "linf"
        entries = [
            {
                "eps": eps,
                "accuracy": fmean(result["correct"]),
                "noise": {"norm": self.settings.norm, size: max(result["noise"])},
                "units": {size: result["radius"]},
                "trace": result["trace"],
            }
            for (_, eps), result in attacks.items()
        ]
        whites = [(entry, {"kinds": {"uniform": fmean(noise[entry["eps"]]["correct"])}}) for entry in entries]
        return entries, entries, whites


def _together(results: Sequence[Attacked]) -> Attacked:
    """Worst of several attacks, with the passes of all; the trace is the first one's."""
    x, quality, _ = worst_of(results)
    forward, backward = (torch.stack([getattr(it, way) for it in results]).sum(0) for way in ("forward", "backward"))
    return Attacked(x, quality, results[0].trace, forward, backward)


def _broken(result: Result) -> set[int]:
    """Numbers of the images that an attack on some images broke."""
    return {image for image, stood in zip(result["images"], result["right"], strict=True) if not stood}
