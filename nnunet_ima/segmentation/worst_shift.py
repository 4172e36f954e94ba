"""A case under the worst realistic change: searched by gradient, compared with chance, and measured through files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

import torch

from nnunet_ima.evidence.engine import Unit
from nnunet_ima.evidence.records import Score, ShiftSearch, WorstShift
from nnunet_ima.inference.preprocessing import Preprocessing
from nnunet_ima.inference.volume import Array, Volume
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.scores import score
from nnunet_ima.segmentation.settings import WorstShiftSettings
from nnunet_ima.segmentation.shifted import through_files
from nnunet_ima.segmentation.target import Watch
from nnunet_ima.segmentation.worst_search import ChangedScan, Found, Search
from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.scan_files import read_scan
from nnunet_ima.shift.searched import make_chain

NAME = "worst-shift"


def worst_shift(case: CaseAudit, wanted: WorstShiftSettings, watch: Watch | None = None) -> WorstShift:
    """Search the worst change of a case, by gradient and at random, and predict it through files as any other scan.

    Args:
        case: the case.
        wanted: modality, severity and steps.
        watch: told of the progress.

    Raises:
        ValueError: the case cannot be read as a volume, or the model's preprocessing is not known.
    """
    work = _Work(case, wanted, watch)
    unit = case.unit(NAME, wanted.severity, given=work.given)
    return case.engine.result(unit, WorstShift, lambda _: work.measured(unit))


@dataclass
class _Work:
    """The search on one case; the scan is only read if a result is missing."""

    case: CaseAudit
    wanted: WorstShiftSettings
    watch: Watch | None

    @property
    def given(self) -> tuple[str, ...]:
        """What the results are built upon."""
        wanted = self.wanted
        return (wanted.modality, f"{wanted.steps} steps", " ".join(wanted.changes) or "all changes")

    @cached_property
    def scan(self) -> ChangedScan:
        """The case under all changes that can happen to it."""
        case, device = self.case, self.case.pipeline.model.device
        scan = read_scan(case.case.images, case.case.label, self.wanted.modality)
        preprocessing = Preprocessing(case.pipeline.model, scan.spacing)
        preprocessing.check(torch.from_numpy(scan.channels).to(device), case.volume)
        seed = int(torch.randint(2**31, (1,), generator=case.generator(NAME, "draws")))
        chain = make_chain(scan, self.wanted.severity, seed, self.wanted.changes or None, device)
        return ChangedScan(case.pipeline, preprocessing, scan, chain, case.target.temperature)

    def measured(self, unit: Unit) -> WorstShift:
        """Both searches, and what their findings are worth as files."""
        case = self.case
        climbed = self._searched("climbed", lambda search: search.climbed(self._numbers("climbed")))
        drawn = self._searched("drawn", lambda search: search.at_random(self._numbers("drawn"))[0])
        _, random_volume, by_chance = self._through_files(drawn)
        changed, volume, predicted = self._through_files(climbed, unit.name)
        case.predictions.write(predicted, volume, unit.name)
        model, tolerance = case.pipeline.model, case.settings.tolerance
        found = score(predicted, volume, model, tolerance)
        return WorstShift(
            **{field.name: getattr(found, field.name) for field in fields(Score)},
            model=case.name,
            case=case.case.name,
            modality=self.wanted.modality,
            severity=self.wanted.severity,
            told=self.scan.chain.told(self.scan.chain.read(climbed.parameters)),
            changed=_change(self.scan.scan, changed),
            clean_dice=case.clean().dice,
            random_dice=score(by_chance, random_volume, model, tolerance).dice,
            climbed=climbed,
            drawn=drawn,
            identity=self._identity(),
        )

    def _numbers(self, name: str) -> torch.Generator:
        return self.case.generator(NAME, name, self.wanted.severity)

    def _searched(self, name: str, search: Callable[[Search], Found]) -> ShiftSearch:
        def measure(_: Unit) -> ShiftSearch:
            found = search(Search(self.scan, self.wanted.steps, self.watch))
            chain = self.scan.chain
            return ShiftSearch(
                parameters=chain.listed(chain.physical(found.unit).cpu()),
                dice=found.dice,
                passes=found.passes,
                loss=found.loss,
            )

        unit = self.case.unit(f"{NAME}/{name}", self.wanted.severity, given=self.given)
        return self.case.engine.result(unit, ShiftSearch, measure)

    def _through_files(self, found: ShiftSearch, kept: str = "") -> tuple[Scan, Volume, Array]:
        """The changed scan, what nnU-Net makes of its files, and predicts; the files stay under a name, if any."""
        case = self.case
        scan = self.scan.changed(self.scan.chain.read(found.parameters))
        with case.engine.store.scratch() as scratch:
            volume = through_files(case, scan, scratch, kept or "scan")
            for file in scratch.iterdir() if kept else ():
                file.replace(case.predictions.file(kept).with_name(file.name))
        return scan, volume, case.predictions.predict(volume.image, volume)

    def _identity(self) -> float:
        """Share of the voxels that are predicted otherwise where all changes are there, and change nothing."""
        scan, case = self.scan, self.case
        with torch.no_grad():
            image, _ = scan.seen(scan.chain.identity.to(case.target.x))
            if image.shape != case.target.x.shape[1:]:
                return 1.0
            logits = case.pipeline(image[None]), case.target.look()
        if case.pipeline.model.labels.regions:
            first, second = (it > 0 for it in logits)
        else:
            first, second = (it.argmax(1) for it in logits)
        return float((first != second).float().mean())


def _change(scan: Scan, changed: Scan) -> float:
    """Mean absolute change of intensities, as a share of their standard deviation."""
    return float(abs(changed.channels - scan.channels).mean() / max(float(scan.channels.std()), 1e-8))
