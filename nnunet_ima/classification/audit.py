"""Audit of a classifier: its accuracy under noise, measured so that it can stop anywhere and be judged at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ima.attacks.apgd import apgd
from nnunet_ima.attacks.losses import cross_entropy
from nnunet_ima.attacks.minimal import minimal_eps
from nnunet_ima.attacks.noise import draw_white_noise
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Attacked, Problem
from nnunet_ima.attacks.spsa import spsa
from nnunet_ima.attacks.square import square
from nnunet_ima.attacks.worst import worst_of
from nnunet_ima.audit.store import Store
from nnunet_ima.audit.verdict import ACCURACY, as_rows, verdict
from nnunet_ima.classification.audit_settings import AuditSettings
from nnunet_ima.classification.under_attack import Target, frozen, overtaking, right
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import NORMS

HUGE = 20.0  # times the largest ε
TOLERANCE, ROUNDS = 0.02, 8  # of the search for the smallest noise
SPLIT = "test"

Progress = Callable[[str, float], None]
"""Told what is measured and the share of it that is done."""
Result = dict[str, Any]


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
        verdicts: rows of `audit.verdict.as_rows`.
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


@dataclass
class _Audit:
    """The audit of one model."""

    name: str
    target: Target
    ids: tuple[str, ...]
    settings: AuditSettings
    store: Store
    progress: Progress | None

    def run(self) -> ClassifierAudit:
        """Measure everything, in an order that lets results carry over to larger noise."""
        clean = self.measured("clean", self.clean)
        noise = {eps: self.measured(f"noise-uniform@{eps:g}", partial(self.noise, eps)) for eps in self.settings.eps}
        attacks: dict[tuple[str, float], Result] = {}
        pgd_name, apgd_name = self.settings.attacks
        before = {attack: clean for attack in self.settings.attacks}
        for eps in self.settings.eps:
            first = self.gradient(pgd_name, eps, before[pgd_name], before[pgd_name])
            # what PGD broke is out of the question for APGD, and so is what APGD broke at less noise
            second = self.gradient(apgd_name, eps, first, before[apgd_name])
            attacks[pgd_name, eps], attacks[apgd_name, eps] = before[pgd_name], before[apgd_name] = first, second
        probe = self.probe(clean, attacks)
        minimal = None
        if self.settings.minimal and self.settings.eps:
            minimal = self.measured("minimal", lambda: self.minimal(clean, attacks))
        checks = verdict(*self.evidence(noise, attacks), [probe] if probe else [], ACCURACY)
        return ClassifierAudit(self.name, clean, noise, attacks, probe, minimal, as_rows(self.name, checks))

    def measured(self, place: str, measure: Callable[[], Result]) -> Result:
        """Result of a measurement from the store; measured and stored if it is not there."""
        stored = self.store.get(self.name, SPLIT, place)
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
        generator, everyone = self.generator(f"noise-uniform@{eps:g}"), torch.arange(len(self.ids))
        draw = partial(draw_white_noise, "uniform", generator=generator)
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
        place = f"{attack}@{eps:g}"
        return self.measured(place, lambda: self.attack(place, self.by_name(attack), eps, (known, smaller)))

    def attack(self, place: str, attack: Callable[..., Attacked], eps: float, known: Sequence[Result]) -> Result:
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
        run = partial(attack, generator=self.generator(place))
        outcome = self.target.attack(images, self.radius(eps), run, self.teller(place))
        for number, image in enumerate(images):
            found["carried"][image], noise[image] = 0, outcome.noise[number]
            for key in ("predicted", "correct", "forward", "backward"):
                found[key][image] = getattr(outcome, key)[number]
        return {"eps": eps, "radius": self.radius(eps), **found, "noise": noise, "trace": outcome.trace}

    def by_name(self, attack: str) -> Callable[..., Attacked]:
        """A gradient attack that waits for a problem and a generator."""
        pgd_name, _ = self.settings.attacks
        if attack == pgd_name:
            return partial(pgd, loss=cross_entropy, steps=self.settings.pgd_steps)
        return partial(apgd, loss=cross_entropy, steps=self.settings.apgd_steps)

    def probe(self, clean: Result, attacks: dict[tuple[str, float], Result]) -> Result | None:
        """Measure a few images again to judge the evidence, at the level that halves the accuracy most nearly."""
        settings = self.settings
        fine = torch.tensor(clean["correct"]).nonzero()[:, 0]
        if not settings.eps or not settings.check_images or not len(fine):
            return None
        order = torch.randperm(len(fine), generator=self.generator("checked images"))[: settings.check_images]
        images = fine[order].tolist()
        pgd_name, last = settings.attacks
        eps = telling_level(
            {eps: sum(attacks[pgd_name, eps]["correct"]) for eps in settings.eps}, sum(clean["correct"])
        )
        huge = HUGE * settings.eps[-1]
        standing = [image for image in images if attacks[last, eps]["correct"][image]]
        twice = self.checked(f"pgd-{2 * settings.pgd_steps}@{eps:g}", standing, eps, self.twice)
        square_run = partial(square, score=_lead, queries=settings.square_queries)
        by_square = self.checked(f"square@{eps:g}", images, eps, square_run)
        estimated = partial(spsa, loss=overtaking, samples=settings.spsa_samples, steps=settings.spsa_steps)
        by_spsa = self.checked(f"spsa@{eps:g}", images[: settings.spsa_images], eps, estimated)
        by_huge = self.checked(f"huge@{huge:g}", images, huge, self.by_name(pgd_name))
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
            # what the black boxes find beyond the gradients, image by image: a mean of their own could hide it
            "accuracy_black_box": share(set(standing) - broken["square"] - broken["spsa"]),
            "black_box": f"with the {black_boxes}",
            "accuracy_square": share(set(images) - broken["square"]),
            "accuracy_spsa": _mean(by_spsa["right"]) if by_spsa["right"] else None,
            "accuracy_huge": share(set(images) - _broken(by_huge)),
            "eps_huge": huge,
            "repeat_difference": self.measured("repeat", lambda: self.repeat(images))["difference"],
        }

    def checked(self, place: str, images: list[int], eps: float, attack: Callable[..., Attacked]) -> Result:
        """Result of an attack on some images only."""

        def measure() -> Result:
            run = partial(attack, generator=self.generator(place))
            found = self.target.attack(images, self.radius(eps), run, self.teller(place))
            passes = {"forward": found.forward, "backward": found.backward}
            return {"eps": eps, "images": images, "right": found.correct, "noise": found.noise, **passes}

        return self.measured(f"check-{place}", measure)

    def twice(self, problem: Problem, generator: torch.Generator) -> Attacked:
        """PGD and APGD with twice the steps."""
        by_pgd = pgd(problem, cross_entropy, steps=2 * self.settings.pgd_steps, generator=generator)
        by_apgd = apgd(problem, cross_entropy, steps=2 * self.settings.apgd_steps, generator=generator)
        x, quality, _ = worst_of([by_pgd, by_apgd])
        passes = (by_pgd.forward + by_apgd.forward, by_pgd.backward + by_apgd.backward)
        return Attacked(x, quality, by_pgd.trace, *passes)

    def repeat(self, images: list[int]) -> Result:
        """Largest difference of logits between two passes."""
        first, second = (self.target.predict(torch.tensor(images)) for _ in range(2))
        return {"difference": float((first - second).abs().max())}

    def minimal(self, clean: Result, attacks: dict[tuple[str, float], Result]) -> Result:
        """Smallest noise of each image, between the largest level it stood and the noise that broke it."""
        settings = self.settings
        worst = [attacks[settings.attacks[-1], eps] for eps in settings.eps]
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
            return pgd(problem, cross_entropy, steps=steps, generator=generator, start=start)

        return run

    def evidence(self, noise: dict[float, Result], attacks: dict[tuple[str, float], Result]) -> tuple[Any, Any, Any]:
        """Results as `audit.verdict` reads them: attacks, their traces, and each beside white noise."""
        size = "l2" if self.settings.norm == "L2" else "linf"
        entries = [
            {
                "eps": eps,
                "accuracy": _mean(result["correct"]),
                "noise": {"norm": self.settings.norm, size: max(result["noise"])},
                "units": {"l2": result["radius"]},
                "trace": result["trace"],
            }
            for (_, eps), result in attacks.items()
        ]
        whites = [(entry, {"kinds": {"uniform": _mean(noise[entry["eps"]]["correct"])}}) for entry in entries]
        return entries, entries, whites

    def radius(self, eps: float) -> float:
        """Norm of noise at a level, on the images at hand."""
        return Budget(self.settings.norm, self.target.x[0].numel(), self.settings.reference_elements).effective(eps)

    def generator(self, place: str) -> torch.Generator:
        """Random numbers that depend on the seed and the measurement alone."""
        digest = hashlib.sha256(f"{self.settings.seed}/{place}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def teller(self, place: str) -> Callable[[float], None] | None:
        """Progress of one measurement."""
        return None if self.progress is None else partial(self.progress, place)


def telling_level(right: dict[float, int], clean: int) -> float:
    """Return the noise level at which the images right come nearest to half of those without noise."""
    return min(sorted(right), key=lambda eps: abs(right[eps] - clean / 2))


def _classes(logits: Tensor, y: Tensor) -> Result:
    predicted = logits.argmax(1)
    return {"predicted": predicted.tolist(), "correct": (predicted == y.cpu()).long().tolist()}


def _lead(logits: Tensor, y: Tensor) -> Tensor:
    """Score (B,) that the Square attack lowers."""
    return -overtaking(logits, y, 0.0)


def _broken(result: Result) -> set[int]:
    """Numbers of the images that an attack on some images broke."""
    return {image for image, stood in zip(result["images"], result["right"], strict=True) if not stood}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
