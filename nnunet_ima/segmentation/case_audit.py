"""All measurements of one model on one case, as units of work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import takewhile
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor

from nnunet_ima.attacks.noise import draw_white_noise
from nnunet_ima.attacks.presets import PRESETS, Component, find_component
from nnunet_ima.attacks.problem import Attacked
from nnunet_ima.evidence.engine import Engine, Unit
from nnunet_ima.evidence.records import (
    ComponentResult,
    Confidence,
    NoiseSize,
    Passes,
    Result,
    Score,
    WhiteNoise,
    Written,
)
from nnunet_ima.evidence.seeds import generator
from nnunet_ima.evidence.traces import summarised
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volume import Array, Volume, fragility
from nnunet_ima.inference.volumes import Volumes
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.segmentation.budgets import NoiseUnits
from nnunet_ima.segmentation.predictions import LabelMap, Predictions
from nnunet_ima.segmentation.scores import mean_dice, score
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.target import Target, Watch

R = TypeVar("R")


@dataclass(frozen=True)
class _Found:
    """What an attack leaves behind while its level is in work: noise (C, *spatial) and the label map under it."""

    noise: Tensor
    predicted: LabelMap


class CaseAudit:
    """One model, one case. Nothing is read before a measurement needs it.

    Attributes:
        name: of the model, as results are stored.
        pipeline: its inference.
        case: the case.
        settings: of the audit.
        engine: gives stored results.
        predictions: nnU-Net's, and their files.
        components: results of single attacks, as far as this object has been asked for them, by their names.
    """

    def __init__(
        self,
        name: str,
        pipeline: Pipeline,
        case: Case,
        settings: Settings,
        engine: Engine,
        volumes: Callable[[Case, Any], Volume] | None = None,
    ) -> None:
        self.name, self.pipeline, self.case, self.settings, self.engine = name, pipeline, case, settings, engine
        self.predictions = Predictions(name, pipeline, case.name, engine.store)
        self.components: dict[str, ComponentResult] = {}
        self._volumes = volumes or Volumes()
        self._presets: dict[tuple[str, float], Result] = {}
        self._known: dict[str, Any] = {}  # other results that are asked for more than once
        self._found: dict[str, _Found] = {}  # of attacks at the level in work
        self._predicted: dict[str, LabelMap] = {}  # what `finish` compares

    @cached_property
    def volume(self) -> Volume:
        """The case as the model's network gets it.

        Raises:
            ValueError: it cannot be read or normalised, or its structures are too small for the network's grid.
        """
        try:
            volume = self._volumes(self.case, self.pipeline.model)
        except (RuntimeError, OSError) as error:  # what readers of images raise
            reason = str(error).strip().splitlines()[-1] if str(error) else repr(error)
            msg = f"{self.case.name} cannot be read: {reason}"
            raise ValueError(msg) from error
        if not (torch.isfinite(volume.image).all() and all(map(math.isfinite, volume.scale or ()))):
            files = ", ".join(map(str, self.case.images))
            msg = f"{files} cannot be normalised as the model {self.name} needs it; look for voxels of extreme values"
            raise ValueError(msg)
        attacked = self.settings.eps or self.settings.vafa or self.settings.worst_shift
        if attacked and not self.pipeline.model.labels.any_foreground(volume.target[None]):
            msg = (
                f"{self.case.name}: its structures vanish at the spacing of {self.name}'s network, where attacks look "
                "for them; leave the case out, or audit a configuration of finer spacing"
            )
            raise ValueError(msg)
        return volume

    @cached_property
    def units(self) -> NoiseUnits:
        """Units of noise on the case."""
        elements, reference = self.volume.image.numel(), self.settings.reference_elements
        return NoiseUnits(self.settings.norm, elements, reference, self.volume.scale)

    @cached_property
    def target(self) -> Target:
        """The case as attacks see it."""
        return Target(self.pipeline, self.volume, NORMS[self.settings.norm])

    def unit(self, measurement: str, eps: float | None = None, given: tuple[str, ...] = ()) -> Unit:
        """A unit of work on this model and case."""
        return Unit(self.name, self.case.name, measurement, eps, self.settings.seed, given)

    def radius(self, eps: float) -> float:
        """Norm of noise at a level."""
        return self.units.radius(eps, self.settings.unit)

    def generator(self, *title: object) -> torch.Generator:
        """Random numbers of a measurement of this case."""
        return generator(self.settings.seed, self.case.name, *title)

    def kept(self, name: str, make: Callable[[], Array]) -> Array:
        """An array that the store keeps until the case is finished; made if it is not there."""
        found = self.engine.store.get_noise(self.name, self.case.name, name)
        if found is None:
            found = torch.from_numpy(make())
            self.engine.store.put_noise(found, self.name, self.case.name, name)
        array: Array = found.numpy()
        return array

    def dice(self, image: Tensor) -> float:
        """Dice of what nnU-Net predicts on a preprocessed image (C, *spatial)."""
        return mean_dice(self.predictions.predict(image, self.volume), self.volume, self.pipeline.model)

    def _scored(self, predicted: LabelMap, sure: Confidence) -> Score:
        return score(predicted, self.volume, self.pipeline.model, self.settings.tolerance, sure)

    def clean(self) -> Result:
        """Score of the prediction on the clean image, which is stored."""
        return self._once(self.unit("clean"), Result, self._clean)

    def _once(self, unit: Unit, kind: type[R], measure: Callable[[Unit], R]) -> R:
        if unit.key not in self._known:
            self._known[unit.key] = self.engine.result(unit, kind, measure)
        found: R = self._known[unit.key]
        return found

    def _clean(self, unit: Unit) -> Result:
        predicted, sure = self.predictions.predict_surely(self.volume.image, self.volume)
        self.predictions.write(predicted, self.volume, unit.name)
        self._predicted[unit.name] = predicted
        found = self._scored(predicted, sure)
        return Result(
            **_fields(found, Score),
            model=self.name,
            case=self.case.name,
            attack=unit.name,
            eps=0.0,
            units=self.units.describe(0.0),
            clean_dice=found.dice,
            clean_dice_per_class=found.dice_per_class,
            random_dice=None,
            stored_dice=None,
            noise=None,
            worst_component=None,
            components={},
            passes=Passes(forward=0, backward=0),
            seconds=0.0,
        )

    def random(self, eps: float) -> WhiteNoise:
        """Dice under white noise, uniform and Gaussian, of the greatest size allowed."""
        return self._once(self.unit("random", eps), WhiteNoise, lambda unit: self._random(unit, eps))

    def _random(self, unit: Unit, eps: float) -> WhiteNoise:
        problem, numbers = self.target.problem(self.radius(eps), None, unit.name), self.generator(unit.name)
        scores = {}
        for kind in ("uniform", "gaussian"):
            noise = draw_white_noise(kind, problem, numbers)
            scores[kind] = self.dice((problem.x + noise)[0])
        return WhiteNoise(dice=sum(scores.values()) / len(scores), kinds=scores)

    def attack(
        self,
        component: Component,
        eps: float,
        title: str,
        watch: Watch | None = None,
        target: Target | None = None,
        beat: float | None = None,
    ) -> Attacked:
        """Run an attack at a level; its title seeds it, so that its random draws depend on nothing else.

        Args:
            component: the attack.
            eps: the level.
            title: of the measurement.
            watch: is told how it goes on.
            target: what is attacked, if not the case as it is.
            beat: Dice that another attack has reached, see `Problem`.
        """
        problem = (target or self.target).problem(self.radius(eps), watch, title)
        if beat is not None:
            problem = replace(problem, beat=torch.full_like(problem.eps, beat))
        return component.run(problem, self.pipeline.model.labels, self.generator(title))

    def component(self, component: Component, eps: float, watch: Watch | None = None) -> ComponentResult:
        """Result of one attack; its noise stays in the store until the case is finished."""
        unit = self.unit(f"components/{component.name}", eps)
        if unit.name not in self.components:
            self.components[unit.name] = self.engine.result(
                unit, ComponentResult, lambda unit: self._attacked(unit, component, eps, watch)
            )
        return self.components[unit.name]

    def _to_beat(self, component: Component, eps: float) -> float | None:
        """The lowest Dice that the attacks before a racing one have seen at any step; None: it does not race."""
        if not component.races:
            return None
        preset = next(components for components in PRESETS.values() if component in components)
        before = [self.component(it, eps) for it in takewhile(lambda it: it != component, preset)]
        return min(min(result.trace.quality, default=result.dice) for result in before)

    def _attacked(self, unit: Unit, component: Component, eps: float, watch: Watch | None = None) -> ComponentResult:
        beat, begin = self._to_beat(component, eps), perf_counter()
        attacked = self.attack(component.with_steps(self.settings.steps), eps, unit.name, watch, beat=beat)
        seconds = round(perf_counter() - begin, 2)
        image = attacked.x[0].cpu()
        predicted, sure = self.predictions.predict_surely(image, self.volume)
        found = _Found(image - self.volume.image, predicted)
        self.engine.store.put_noise(found.noise, self.name, self.case.name, unit.name)
        self._found[unit.name] = found
        return ComponentResult(
            **_fields(self._scored(predicted, sure), Score),
            noise=self._sizes(found.noise),
            trace=summarised(attacked.trace, component.keeps_form(self.pipeline.model.labels)),
            passes=Passes(forward=int(attacked.forward.sum()), backward=int(attacked.backward.sum())),
            seconds=seconds,
        )

    def preset(self, attack: str, eps: float, watch: Watch | None = None) -> Result:
        """Worst result of a preset's attacks, with the Dice that survives storing."""
        if (attack, eps) not in self._presets:
            results: dict[str, ComponentResult] = {}
            for component in PRESETS[attack]:
                results[component.name] = self.component(component, eps, watch)
                if results[component.name].dice == 0:
                    break  # it cannot get worse
            self.random(eps)
            self._presets[attack, eps] = self.engine.result(
                self.unit(attack, eps), Result, lambda unit: self._preset(unit, attack, eps, results)
            )
        return self._presets[attack, eps]

    def _preset(self, unit: Unit, attack: str, eps: float, results: Mapping[str, ComponentResult]) -> Result:
        worst = min(results, key=lambda name: results[name].dice)
        found, clean = self._behind(attack, worst, eps), self.clean()
        self.predictions.write(found.predicted, self.volume, unit.name)
        self._predicted[unit.name] = found.predicted
        keep = self.settings.save_adversarial
        return Result(
            **_fields(results[worst], Score),
            model=self.name,
            case=self.case.name,
            attack=attack,
            eps=eps,
            units=self.units.describe(self.radius(eps)),
            clean_dice=clean.dice,
            clean_dice_per_class=clean.dice_per_class,
            random_dice=self.random(eps).dice,
            stored_dice=self.predictions.dice_as_file(found.noise, self.volume, unit.name, keep),
            noise=results[worst].noise,
            worst_component=worst,
            components={name: result.dice for name, result in results.items()},
            passes=Passes(
                forward=sum(result.passes.forward for result in results.values()),
                backward=sum(result.passes.backward for result in results.values()),
            ),
            seconds=round(sum(result.seconds for result in results.values()), 2),
        )

    def worst(self, eps: float) -> Result:
        """Result of the worst attack at a level."""
        return min((self.preset(attack, eps) for attack in self.settings.attacks), key=lambda record: record.dice)

    def noise(self, result: Result) -> Tensor:
        """Noise (C, *spatial) of a result; where it is not kept any more, the attack finds it again."""
        place = self.unit(f"components/{result.worst_component}", result.eps).name
        if place in self._found:
            return self._found[place].noise
        kept = self.engine.store.get_noise(self.name, self.case.name, place)
        return self._behind(result.attack, str(result.worst_component), result.eps).noise if kept is None else kept

    def _behind(self, attack: str, component: str, eps: float) -> _Found:
        """What stands behind the result of a single attack: at hand, or from its kept noise, or found again."""
        unit = self.unit(f"components/{component}", eps)
        if unit.name not in self._found:
            kept = self.engine.store.get_noise(self.name, self.case.name, unit.name)
            if kept is None:
                self._attacked(unit, find_component(attack, component), eps)
            else:
                predicted = self.predictions.predict(self.volume.image + kept, self.volume)
                self._found[unit.name] = _Found(kept, predicted)
        return self._found[unit.name]

    def close_level(self, eps: float) -> None:
        """Store the noise of a level's worst attack to be looked at, and let go of what the others left behind."""
        worst = self.worst(eps)
        self.engine.result(self.unit(f"shown/{worst.attack}", eps), Written, lambda unit: self._show(unit, worst))
        wanted = {"clean", *self._wanted(eps)}
        self._predicted = {name: kept for name, kept in self._predicted.items() if name in wanted}
        self._found.clear()

    def _show(self, unit: Unit, worst: Result) -> Written:
        self.predictions.write_noise(self.noise(worst), unit.name)
        return Written()

    def finish(self) -> None:
        """Draw the map of fragility, and let go of what an unfinished case needs."""
        self.engine.result(self.unit("finished", given=tuple(self._wanted())), Written, self._finish)
        self.engine.store.drop_noise(self.name, self.case.name)
        self._predicted.clear()

    def _finish(self, unit: Unit) -> Written:
        clean, *attacked = (self._prediction(what) for what in ("clean", *unit.given))
        levels = dict(zip(self.settings.eps, attacked, strict=True))
        self.predictions.write_map(fragility(clean, levels), self.volume, "fragility")
        return Written()

    def _wanted(self, last: float = math.inf) -> list[str]:
        """Names of the worst predictions up to a level."""
        return [self.unit(self.worst(eps).attack, eps).name for eps in self.settings.eps if eps <= last]

    def _prediction(self, what: str) -> LabelMap:
        """A prediction at hand, or from its file, which is one of the audit's results.

        Raises:
            FileNotFoundError: it was removed.
        """
        if not (file := self.predictions.file(what)).is_file():
            msg = f"{file} is gone: it was removed from the audit's folder; begin again in another one"
            raise FileNotFoundError(msg)
        return self._predicted[what] if what in self._predicted else self.predictions.read(what)

    def _sizes(self, noise: Tensor) -> NoiseSize:
        l2, linf = float(torch.linalg.vector_norm(noise.double())), float(noise.abs().max())
        rms = l2 / math.sqrt(noise.numel())
        size = float(NORMS[self.units.norm].size(noise.double()[None])[0])
        return NoiseSize(norm=self.units.norm, size=size, l2=l2, linf=linf, rms=rms, raw_rms=self.units.raw(rms))


def _fields(record: Any, kind: Any) -> dict[str, Any]:
    """What a record shares with another kind."""
    return {field.name: getattr(record, field.name) for field in fields(kind)}
