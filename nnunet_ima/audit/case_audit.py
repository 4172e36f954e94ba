"""All measurements of one model on one case; each is looked up in the store before it is made."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ima.attacks.noise import draw_white_noise
from nnunet_ima.attacks.presets import PRESETS, Component
from nnunet_ima.attacks.problem import Attacked, Problem, Trace
from nnunet_ima.attacks.temperature import temperature, tempered
from nnunet_ima.audit.budgets import NoiseUnits
from nnunet_ima.audit.scores import score
from nnunet_ima.datasets.checks import last_line
from nnunet_ima.evidence.seeds import generator
from nnunet_ima.evidence.store import Store, level_key
from nnunet_ima.evidence.stored_results import COMPONENT, PRESET, SCORE, WHITE_NOISE
from nnunet_ima.files import atomic_file
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.model import TrainedModel
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volume import (
    Volume,
    fragility,
    read_volume,
    reread,
    segment,
    write_label_map,
    write_map,
    write_noisy,
)
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.tasks.voxelwise import mean_dice_present

Watch = Callable[[str, float], None]
"""Told what is running and the lowest Dice so far, after every look of an attack at its samples."""

LabelMap = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Settings:
    """What an audit measures.

    Attributes:
        attacks: names of presets.
        eps: noise levels, ascending, each above 0.
        unit: of `eps`; see `NoiseUnits.radius`.
        norm: "L2" or "Linf".
        reference_elements: elements at which the paper's unit is quoted; None: there is no such unit.
        steps: gradient steps of every attack, see `Component.with_steps`; None: those of the presets.
        seed: of all random draws.
        threshold: Dice below which a prediction counts as failed, for the robustness margin.
        margins: measure the robustness margin of every case.
        save_adversarial: keep the adversarial volumes.
    """

    attacks: tuple[str, ...]
    eps: tuple[float, ...]
    unit: str
    norm: str
    reference_elements: int | None
    steps: int | None
    seed: int
    threshold: float
    margins: bool
    save_adversarial: bool


class CaseAudit:
    """One model, one case.

    Attributes:
        name: of the model, as results are stored.
        model: the trained model.
        pipeline: its inference.
        settings: of the audit.
        volume: the case as the model's network gets it.
        units: of noise on it.
    """

    def __init__(
        self, name: str, model: TrainedModel, pipeline: Pipeline, case: Case, settings: Settings, store: Store
    ) -> None:
        self.name, self.model, self.pipeline, self.settings = name, model, pipeline, settings
        self.volume: Volume = read_volume(case, model)
        if not (torch.isfinite(self.volume.image).all() and all(map(math.isfinite, self.volume.scale or ()))):
            files = ", ".join(map(str, case.images))
            msg = f"{files} cannot be normalised as the model {name} needs it; look for voxels of extreme values"
            raise ValueError(msg)
        self.units = NoiseUnits(
            settings.norm, self.volume.image.numel(), settings.reference_elements, self.volume.scale
        )
        self._case, self._store = case, store
        self._predictor = model.predictor(pipeline.step_size, pipeline.mirroring)

    def through(self, pipeline: Pipeline) -> CaseAudit:
        """Return the same case, attacked through another pipeline."""
        other = copy.copy(self)
        other.pipeline = pipeline
        return other

    def scaled(self, factor: float) -> CaseAudit:
        """Return the same case, attacked with logits this many times as large."""
        other = copy.copy(self)
        other.temperature = self.temperature / factor
        return other

    @cached_property
    def temperature(self) -> float:
        """What the logits are divided by for all attacks on this case; costs one pass."""
        with torch.no_grad():
            return temperature(self.pipeline(self._input), self.model.labels.regions)

    def get(self, *place: str, needs: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Result of this model and case from the store; see `Store.get`."""
        return self._store.get(self.name, self._case.name, *place, needs=needs)

    def put(self, result: dict[str, Any], *place: str) -> dict[str, Any]:
        """Keep a result of this model and case."""
        return self._store.put(result, self.name, self._case.name, *place)

    def radius(self, eps: float) -> float:
        """Norm of noise at a level."""
        return self.units.radius(eps, self.settings.unit)

    def predict(self, image: Tensor, volume: Volume | None = None) -> LabelMap:
        """Raw-space label map of a preprocessed image (C, *spatial), by nnU-Net's own predictor and exporter.

        `volume` says how the image was preprocessed, if not as the case's own.

        Raises:
            ValueError: nnU-Net cannot predict it, as where logits exceed half precision.
        """
        try:
            logits = self._predictor.predict_logits_from_preprocessed_data(image.cpu())
        except RuntimeError as error:
            msg = f"nnU-Net's prediction of {self._case.name} with {self.model.folder} fails: {last_line(error)}"
            raise ValueError(msg) from error
        return segment(logits, volume or self.volume, self.model)

    def score(self, image: Tensor) -> dict[str, Any]:
        """Score of what nnU-Net predicts on a preprocessed image (C, *spatial); see `audit.scores.score`."""
        return score(self.predict(image), self.volume, self.model)

    def clean(self) -> dict[str, Any]:
        """Score of the prediction on the clean image, which is stored."""
        if (stored := self.get("clean", needs=SCORE)) is not None:
            return stored
        predicted = self.predict(self.volume.image)
        self._write_prediction(predicted, "clean")
        return self.put(score(predicted, self.volume, self.model), "clean")

    def random(self, eps: float) -> dict[str, Any]:
        """Dice under white noise, uniform and Gaussian, of the greatest size allowed."""
        place = f"random@{level_key(eps)}"
        if (stored := self.get(place, needs=WHITE_NOISE)) is not None:
            return stored
        problem, generator = self.problem(self.radius(eps), None, place), self.generator(place)
        scores = {}
        for kind in ("uniform", "gaussian"):
            noise = draw_white_noise(kind, problem, generator)
            scores[kind] = self.score((problem.x + noise)[0])["dice"]
        return self.put({"dice": sum(scores.values()) / len(scores), "kinds": scores}, place)

    def attack(
        self, component: Component, radius: float, place: str, watch: Watch | None = None, steps: int | None = None
    ) -> tuple[Attacked, float]:
        """Run an attack with noise of at most this norm; returns its result and its seconds.

        `place` names the attack and seeds it, so that its random draws depend on nothing else.
        """
        component = component.with_steps(self.settings.steps) if steps is None else replace(component, steps=steps)
        begin = perf_counter()
        attacked = component.run(self.problem(radius, watch, place), self.model.labels, self.generator(place))
        return attacked, round(perf_counter() - begin, 2)

    def component(self, component: Component, eps: float, watch: Watch | None = None) -> dict[str, Any]:
        """Result of one attack; its noise stays in the store until the case is finished."""
        stored = self.get("components", f"{component.name}@{level_key(eps)}", needs=COMPONENT)
        return self._attacked(component, eps, watch)[0] if stored is None else stored

    def _attacked(self, component: Component, eps: float, watch: Watch | None = None) -> tuple[dict[str, Any], Tensor]:
        """Run one attack; keeps its result and its noise, and returns them."""
        place = f"{component.name}@{level_key(eps)}"
        attacked, seconds = self.attack(component, self.radius(eps), place, watch)
        image = attacked.x[0].cpu()
        noise = image - self.volume.image
        self._store.put_noise(noise, self.name, self._case.name, place)
        result = {
            **self.score(image),
            "noise": self._sizes(noise),
            "trace": _summary(attacked.trace, component.keeps_form(self.model.labels)),
            "passes": {"forward": int(attacked.forward.sum()), "backward": int(attacked.backward.sum())},
            "seconds": seconds,
        }
        return self.put(result, "components", place), noise

    def preset(self, attack: str, eps: float, watch: Watch | None = None) -> dict[str, Any]:
        """Worst result of a preset's attacks, with the Dice that survives storing."""
        place = f"{attack}@{level_key(eps)}"
        if (stored := self.get(place, needs=PRESET)) is not None:
            self.random(eps)  # damaged ones of what it was made of are measured again: the verdict reads them, too
            for name in stored["components"]:
                self.component(_component(attack, name), eps, watch)
            return stored
        results: dict[str, dict[str, Any]] = {}
        for component in PRESETS[attack]:
            results[component.name] = self.component(component, eps, watch)
            if results[component.name]["dice"] == 0:
                break  # it cannot get worse
        worst = min(results, key=lambda name: results[name]["dice"])
        noise = self.noise(attack, worst, eps)
        self._write_prediction(self.predict(self.volume.image + noise), place)
        clean = self.clean()
        record = {
            "model": self.name,
            "case": self._case.name,
            "attack": attack,
            "eps": eps,
            "units": self.units.describe(self.radius(eps)),
            **{key: value for key, value in results[worst].items() if key != "trace"},
            "clean_dice": clean["dice"],
            "clean_dice_per_class": clean["dice_per_class"],
            "random_dice": self.random(eps)["dice"],
            "stored_dice": self._stored_dice(noise, place),
            "worst_component": worst,
            "components": {name: result["dice"] for name, result in results.items()},
            "passes": {
                key: sum(result["passes"][key] for result in results.values()) for key in ("forward", "backward")
            },
            "seconds": round(sum(result["seconds"] for result in results.values()), 2),
        }
        return self.put(record, place)

    def worst(self, eps: float) -> dict[str, Any]:
        """Result of the worst attack at a level."""
        return min((self.preset(attack, eps) for attack in self.settings.attacks), key=lambda record: record["dice"])

    def finish(self) -> None:
        """Draw the map of fragility, keep the worst noise of each level, let go of what an unfinished case needs."""
        if self.get("finished") is not None:
            self._store.drop_noise(self.name, self._case.name)  # of what was damaged and measured again
            return
        levels = {}
        for eps in self.settings.eps:
            worst = self.worst(eps)
            place = f"{worst['attack']}@{level_key(eps)}"
            levels[eps] = self.read_prediction(place)
            noise = self.noise(worst["attack"], worst["worst_component"], eps).half().numpy()
            with atomic_file(self.file(f"noise_{place}", ".npy")) as stream:
                np.save(stream, noise)  # half precision is enough to look at
        fragile, file = fragility(self.read_prediction("clean"), levels), self.file("fragility", ".nii.gz")
        with _file_error(file):
            write_map(fragile, self.volume, file)
        self.put({}, "finished")
        self._store.drop_noise(self.name, self._case.name)

    def file(self, what: str, ending: str | None = None) -> Path:
        """Where an image of this model and case is stored."""
        name = f"{what}{ending or self.model.dataset_json['file_ending']}"
        file = self._store.path("images", self.name, self._case.name, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def read_prediction(self, what: str) -> LabelMap:
        """Label map (Z, Y, X) of a stored prediction: "clean", "pgd@5"."""
        file = self.file(what)
        with _file_error(file):
            label_map, _ = self.model.plans.image_reader_writer_class().read_seg(str(file))
        found: LabelMap = label_map[0]
        return found

    def noise(self, attack: str, component: str, eps: float) -> Tensor:
        """Noise (C, *spatial) of a preset's attack; where it is not kept any more, the attack finds it again."""
        place = (self.name, self._case.name, f"{component}@{level_key(eps)}")
        kept = self._store.get_noise(*place)
        return self._attacked(_component(attack, component), eps)[1] if kept is None else kept

    def _write_prediction(self, predicted: LabelMap, what: str) -> None:
        file = self.file(what)
        with _file_error(file):
            write_label_map(predicted, self.volume, self.model, file)

    def _stored_dice(self, noise: Tensor, place: str) -> float | None:
        """Dice after the noisy image has been a file; None if the noise cannot be put into raw units."""
        if self.volume.scale is None or len(noise) != len(self._case.images):  # such as the colours of one file
            return None
        ending = self.model.dataset_json["file_ending"]
        with self._store.scratch() as scratch:
            folder = self.file(place).parent if self.settings.save_adversarial else scratch
            files = [folder / f"adversarial_{place}_{channel:04d}{ending}" for channel in range(len(noise))]
            with _file_error(folder):
                write_noisy(self.volume, noise, self.model, files)
                again = reread(self.volume, files, self.model)
            return float(score(self.predict(again.image, again), again, self.model)["dice"])

    def _sizes(self, noise: Tensor) -> dict[str, Any]:
        l2, linf = float(torch.linalg.vector_norm(noise.double())), float(noise.abs().max())
        rms = l2 / math.sqrt(noise.numel())
        raw = self.units.describe(rms if self.units.norm == "Linf" else l2)["raw"]
        return {"norm": self.units.norm, "l2": l2, "linf": linf, "rms": rms, "raw_rms": raw}

    def problem(self, radius: float, watch: Watch | None, title: str) -> Problem:
        """The attack's task: noise of at most this norm."""
        worst = math.inf
        dice = partial(mean_dice_present, labels=self.model.labels)

        def quality(logits: Tensor, target: Tensor) -> Tensor:
            nonlocal worst
            found = dice(logits, target)
            worst = min(worst, float(found.min()))
            if watch is not None:
                watch(title, worst)
            return found

        return Problem(
            model=tempered(self.pipeline, self.temperature),
            x=self._input,
            y=self.volume.target[None].to(self.model.device),
            eps=torch.tensor([radius], dtype=torch.float32, device=self.model.device),
            norm=NORMS[self.settings.norm],
            quality=quality,
        )

    @property
    def _input(self) -> Tensor:
        """The clean image (1, C, *spatial) on the model's device."""
        return self.volume.image[None].to(self.model.device)

    def generator(self, place: str) -> torch.Generator:
        """Random numbers of a measurement of this case."""
        return generator(self.settings.seed, self._case.name, place)


def _component(attack: str, name: str) -> Component:
    """One of a preset's attacks."""
    return next(entry for entry in PRESETS[attack] if entry.name == name)


@contextmanager
def _file_error(file: Path) -> Iterator[None]:
    """Turn what readers and writers of images raise into an error that names the file."""
    try:
        yield
    except RuntimeError as error:  # SimpleITK's only kind of error
        msg = f"{file} cannot be written or read: {str(error).strip().splitlines()[-1]}"
        raise OSError(msg) from error


def _summary(trace: Trace, keeps_form: bool) -> dict[str, Any]:
    """What a verdict needs to know of an attack's course on one sample."""
    return {
        "steps": len(trace.loss),
        "zero": int(trace.zero.sum()),
        "not_finite": int(trace.not_finite.sum()),
        "keeps_form": keeps_form,
        "loss": [float(f"{value:.6g}") for value in trace.loss[:, 0].tolist() if math.isfinite(value)],
        "dice": [float(f"{value:.6g}") for value in trace.quality[:, 0].tolist() if math.isfinite(value)],
    }
