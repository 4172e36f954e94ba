"""Defences of classifiers side by side: trained, audited on the same images, told in one table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from nnunet_ima.commands._images import ImageTraining
from nnunet_ima.commands._run import check_output, usable_device
from nnunet_ima.files import write_atomically

if TYPE_CHECKING:
    from nnunet_ima.classification.compare import Compared
    from nnunet_ima.classification.image_set import ImageSet


@dataclass(kw_only=True)
class CompareImages(ImageTraining):
    """Train what is missing, audit all methods on the test images, and show which defence to take.

    Attacks: PGD and APGD at every noise level; the Square attack, SPSA and white noise beside them. Everything goes
    into OUTPUT/audit: report, table, figures, one JSON for each measurement; OUTPUT/comparison.md and comparison.png
    show the methods side by side.
    """

    methods: tuple[str, ...]
    """Methods to compare, for example: ce ima adv10 trades te mma ddn fat gairat."""

    eps: tuple[float, ...] | None = None
    """Noise levels; those of the preset by default. 0 is always measured."""

    norm: str | None = None
    """Norm of the audit's noise, if it is not that of the training; the results get a folder of their own,
    OUTPUT/audit_NORM."""

    limit: int | None = None
    """Use this many test images, drawn at random; the preset's number by default (cpu: 200, paper: all, others:
    1000)."""

    positive: str | None = None
    """Class whose sensitivity is reported; by default COVID, or else the second one of two, or else none."""

    def run(self) -> None:
        """Train, audit, print."""
        if not self.methods:
            raise ValueError("--methods needs at least one, for example ce ima adv10")
        if len(set(self.methods)) < len(self.methods):
            msg = f"--methods names one twice: {' '.join(self.methods)}"
            raise ValueError(msg)
        if self.limit is not None and self.limit < 1:
            msg = f"--limit must be at least 1, got {self.limit}"
            raise ValueError(msg)
        from nnunet_ima.classification.compare import audit_settings, choose_images, compare, usual_images

        check_output(self.output)
        plans, device = self.resolve(self.methods), usable_device(self.device)
        trained = plans[self.methods[0]]
        settings = audit_settings(trained, self.eps, self.norm)
        folder = self.output / ("audit" if settings.norm == trained.norm else f"audit_{settings.norm}")
        data, splits = self.load(trained)
        positive = self._positive(data)
        files = self.train(plans, data, splits, device)
        images = choose_images(splits, data, self.limit or usual_images(self.preset), self.seed)
        audited = {name: files[name] for name in self.methods}
        self._tell(compare(audited, data, images, settings, positive, folder, device), folder)

    def _tell(self, compared: Compared, folder: Path) -> None:
        """Write the report of the audit and the comparison, with their figures, and print both."""
        from nnunet_ima.report.classifier_figures import draw_accuracy_curves, draw_examples
        from nnunet_ima.report.classifier_table import classifier_report
        from nnunet_ima.report.comparison import Evidence, best_sentences, comparison_table, draw_comparison
        from nnunet_ima.report.document import Picture, Section
        from nnunet_ima.report.html import html
        from nnunet_ima.report.markdown import markdown

        draw_accuracy_curves(compared.summary, folder / "accuracy.png")
        draw_examples(compared.examples, folder / "example.png", compared.example)
        document = classifier_report(compared.summary, compared.facts)
        report = markdown(document)
        write_atomically(folder / "report.md", report + "\n")
        figures = (
            Picture(folder / "accuracy.png", "Accuracy against noise; dotted: white noise."),
            Picture(folder / "example.png", "An image under growing noise, and what each model takes it for."),
        )
        page = replace(document, sections=(*document.sections, Section("Figures", figures, "figures")))
        write_atomically(folder / "dossier.html", html(page))
        way = "worst attack"
        measured = {
            way: {
                name: {eps: Evidence(fmean(right.values()), right) for eps, right in levels.items()}
                for name, levels in compared.right.items()
            }
        }
        text = "\n\n".join(
            (comparison_table(measured, compared.notes), *best_sentences(way, measured[way], "accuracy", "images"))
        )
        write_atomically(self.output / "comparison.md", text + "\n")
        draw_comparison(measured, self.output / "comparison.png", "accuracy")
        print(f"{report}\n\n## Side by side\n\n{text}")

    def _positive(self, data: ImageSet) -> str | None:
        from nnunet_ima.classification.settings import load_plan

        if self.positive is not None:
            if self.positive not in data.classes:
                msg = f"--positive {self.positive} is none of the classes {', '.join(data.classes)}"
                raise ValueError(msg)
            return self.positive
        usual = load_plan(self.preset).get("positive")
        if usual in data.classes:
            return str(usual)
        return data.classes[-1] if len(data.classes) == 2 else None
