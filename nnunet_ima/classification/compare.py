"""All methods side by side: the audit of their classifiers on the test images."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nnunet_ima.attacks.presets import VERSION as ATTACKS
from nnunet_ima.classification.audit import ClassifierAudit, audit_classifier
from nnunet_ima.classification.audit_settings import AuditSettings
from nnunet_ima.classification.examples import Example, noisy_examples
from nnunet_ima.classification.image_set import ImageSet
from nnunet_ima.classification.networks import Classifier, load_classifier
from nnunet_ima.classification.records import Claim
from nnunet_ima.classification.settings import Settings, load_plan
from nnunet_ima.classification.splits import Splits
from nnunet_ima.classification.summary import image_rows, summarise_classifiers, write_classifier_summary
from nnunet_ima.evidence.provenance import environment
from nnunet_ima.evidence.schema import from_json
from nnunet_ima.evidence.store import Store, sha256
from nnunet_ima.files import check_name, read_json


@dataclass(frozen=True)
class Compared:
    """What a comparison has found, for a report to tell.

    Attributes:
        summary: see `summary.summarise_classifiers`.
        right: by method, ε and id of the image, whether the prediction stands the worst attack (1) or not (0).
        notes: on each method's training.
        facts: what was attacked and how, one line each.
        example: the image of the examples, in words.
        examples: that image, attacked, by method.
    """

    summary: dict[str, Any]
    right: dict[str, dict[float, dict[str, float]]]
    notes: dict[str, str]
    facts: dict[str, str]
    example: str
    examples: dict[str, list[Example]]


def audit_settings(training: Settings, eps: tuple[float, ...] | None = None, norm: str | None = None) -> AuditSettings:
    """What an audit of classifiers trained like this measures: what the preset says.

    Args:
        training: settings of one of the trainings.
        eps: noise levels instead of the preset's; 0 is measured anyway.
        norm: of the noise, if it is not that of the training.

    Raises:
        ValueError: a noise level is impossible.
    """
    plan, norm = load_plan(training.preset)["presets"][training.preset]["audit"], norm or training.norm
    known = {entry.name for entry in fields(AuditSettings)} - {"eps"}
    if eps is None and norm not in plan["eps"]:
        msg = f"name the noise levels with --eps: the preset {training.preset} has none for the norm {norm}"
        raise ValueError(msg)
    levels = plan["eps"][norm] if eps is None else sorted({level for level in eps if level != 0})
    return AuditSettings(
        norm=norm,
        eps=tuple(float(level) for level in levels),
        reference_elements=training.reference_elements,
        seed=training.seed,
        **{key: value for key, value in plan.items() if key in known},
    )


def usual_images(preset: str) -> int | None:
    """The number of test images of a preset's audits; None: all."""
    number: int | None = load_plan(preset)["presets"][preset]["audit"]["images"]
    return number


def choose_images(splits: Splits, data: ImageSet, limit: int | None, seed: int) -> list[int]:
    """Places of the test images to use: all, or so many of them, drawn at random."""
    places = splits.indices(data)["test"]
    if limit is not None and limit < len(places):
        drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:limit]
        places = places[drawn.sort().values]
    return [int(place) for place in places]


def compare(
    files: Mapping[str, Path],
    data: ImageSet,
    images: list[int],
    settings: AuditSettings,
    positive: str | None,
    folder: Path,
    device: str | torch.device = "cpu",
) -> Compared:
    """Audit classifiers on the same images, and write the results.

    The folder gets summary.json, summary.csv, cases.csv and what the store keeps: manifest.json and a JSON for each
    measurement.

    Args:
        files: classifiers by the name of their method.
        data: the data set.
        images: places in it of the images to use.
        settings: what to measure.
        positive: class whose sensitivity is reported, and an image of which is the example; None: of no class.
        folder: of the audit; the same call goes on with an audit that was stopped.
        device: where to compute.

    Raises:
        ValueError: the folder holds another audit, or classifiers know other classes or channels than the data.
    """
    classifiers = {name: _open(file, data, device) for name, file in files.items()}
    x, y, ids = data.images[images], data.labels[images], [data.ids[place] for place in images]
    question = {
        "attacks": ATTACKS,
        "settings": settings.question(),
        "images": {data.ids[place]: [data.digests[place], int(data.labels[place])] for place in images},
        "size": list(data.images.shape[2:]),
    }
    store = Store(folder, question, environment(torch.device(device)))
    _claim_models(store, files)
    with tqdm(classifiers.items(), unit="model", file=sys.stderr) as bar:
        audits = []
        for name, classifier in bar:
            bar.set_description(name)
            tell = _teller(bar)
            audits.append(audit_classifier(name, classifier.network, x, y, ids, settings, store, tell))
    labels = y.tolist()
    summary = summarise_classifiers(audits, labels, ids, data.classes, positive, settings)
    write_classifier_summary(summary, image_rows(audits, labels, ids, data.classes, settings), folder)
    place = _telling_image(audits, labels, None if positive is None else data.classes.index(positive))
    examples = {
        name: noisy_examples(classifier.network, x[place], labels[place], data.classes, settings)
        for name, classifier in classifiers.items()
    }
    return Compared(
        summary,
        {audit.name: _right(audit, ids, settings) for audit in audits},
        {name: _described(classifier) for name, classifier in classifiers.items()},
        _facts(data, ids, settings, classifiers),
        f"{ids[place]} ({data.classes[labels[place]]})",
        examples,
    )


def _right(audit: ClassifierAudit, ids: list[str], settings: AuditSettings) -> dict[float, dict[str, float]]:
    worst = {eps: audit.attacks[settings.names[-1], eps].correct for eps in settings.eps}
    correct = {0.0: audit.clean.correct, **worst}
    return {eps: {name: float(fine) for name, fine in zip(ids, found, strict=True)} for eps, found in correct.items()}


def _open(file: Path, data: ImageSet, device: str | torch.device) -> Classifier:
    classifier = load_classifier(file, device)
    if classifier.classes != data.classes:
        msg = f"{file} knows the classes {', '.join(classifier.classes)}, the data has {', '.join(data.classes)}"
        raise ValueError(msg)
    if classifier.channels != data.images.shape[1]:
        msg = f"{file} takes images of {classifier.channels} channels, the data has {data.images.shape[1]}"
        raise ValueError(msg)
    return classifier


def _claim_models(store: Store, files: Mapping[str, Path]) -> None:
    """Refuse results of another training under the same name; further methods may join an audit later."""
    for name, file in files.items():
        claim, kept = Claim(sha256=sha256([file])), store.path("results", check_name(name, file), "model.json")
        if kept.is_file():
            known = _read_claim(kept)
        else:
            known = store.put(claim, name, "model")
        if known != claim:
            msg = f"{store.folder} holds results of another {name} than {file}; remove them, or choose another --output"
            raise ValueError(msg)


def _read_claim(file: Path) -> Claim:
    """Results whose classifier is not known any more cannot be gone on with."""
    way_out = f"remove {file.parent}"
    try:
        return from_json(Claim, read_json(file, damaged=way_out))
    except ValueError as error:
        msg = str(error) if way_out in str(error) else f"{file} is damaged ({error}); {way_out}"
        raise ValueError(msg) from error


def _teller(bar: Any) -> Any:
    def tell(measurement: str, share: float) -> None:
        bar.set_postfix_str(f"{measurement} {100 * share:.0f} %")

    return tell


def _telling_image(audits: list[ClassifierAudit], labels: list[int], positive: int | None) -> int:
    """An image for the figure: of the positive class and right for all models without noise, as far as there is one."""
    right = [all(audit.clean.correct[place] for audit in audits) for place in range(len(labels))]
    wanted = [place for place, label in enumerate(labels) if positive in (None, label)]
    return next((place for place in wanted if right[place]), next(iter(wanted), 0))


def _facts(
    data: ImageSet, ids: list[str], settings: AuditSettings, classifiers: Mapping[str, Classifier]
) -> dict[str, str]:
    shown = next(iter(classifiers.values()))
    channels, height, width = data.images.shape[1:]
    colours = "of three colours " if channels == 3 else ""
    facts = {
        "images": f"{len(ids)} test images of {len(data)}, {height}×{width} pixels {colours}in [0, 1]",
        "attacks": f"{', then '.join(settings.names)} on what is left; noise is not clipped to [0, 1]",
        "white noise": f"uniform, {settings.noise_draws} draws",
        "models": f"preset {shown.settings['preset']}, seed {shown.settings['seed']}: "
        + "; ".join(f"{name} ({_described(classifier)})" for name, classifier in classifiers.items()),
    }
    return facts | ({"about the data": "; ".join(data.notes)} if data.notes else {})


def _described(classifier: Classifier) -> str:
    settings = classifier.settings
    eps = settings["options"].get("eps")
    return f"{classifier.epoch} epochs" + ("" if eps is None else f", ε {eps:g}")
