"""`nnunet-ima-attack`: how much noise does a trained model stand?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nnunet_ima.cluster.workers import Workers, connected
from nnunet_ima.commands._audited import find_cases, open_models, settings_of
from nnunet_ima.commands._run import check_output, hold_at_one_thread, run_cli
from nnunet_ima.files import check_name

PROGRAM = "nnunet-ima-attack"
LEAST_STEPS = 4  # of a search for the worst change: a look to choose where to begin, and a step from there


@dataclass(kw_only=True)
class Attack:
    """Measure how much noise a trained nnU-Net model stands, through nnU-Net's own inference.

    Name a task (--task D5), whose model and validation cases are found in nnU-Net's folders, or any model folder
    (--model), several times to compare models; add --images and --labels to use cases of your own. Everything goes into
    one folder (--output): tables, figures, predictions, a map of where the model gives way, one JSON for each
    measurement. Stopped half-way, the same command goes on where it was; with more noise levels, attacks or models it
    measures what is new.

    The exit status is 0 after an audit, 1 if --require is not met, 2 after a wrong input.
    """

    task: Annotated[str | None, tyro.conf.arg(aliases=["-d"])] = None
    """Task (D2, D4, D5) or data set (5, Dataset005_Prostate) whose model is audited."""

    model: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Results folder of a model, instead of --task; give it again for each model that is compared with the first."""

    name: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Name of each --model in the report, in their order; by default the names of their folders."""

    trainer: Annotated[str, tyro.conf.arg(aliases=["-tr"])] = "nnUNetTrainerIMA"
    """Trainer, with --task."""

    plans: Annotated[str, tyro.conf.arg(aliases=["-p"])] = "nnUNetPlans"
    """Plans, with --task."""

    configuration: Annotated[str, tyro.conf.arg(aliases=["-c"])] = "3d_fullres"
    """Configuration, with --task."""

    fold: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-f"])] = ("0",)
    """Fold whose model is audited on its validation cases; several make an ensemble."""

    checkpoint: str = "checkpoint_final.pth"
    """Checkpoint file in each fold's folder."""

    images: Path | None = None
    """Folder of own images, named as nnU-Net wants them (CASE_0000.nii.gz, one per channel), or DICOM: CASE/ with the
    files of a series, CASE/0000/, CASE/0001/, ... for several channels, or many series in one folder. Needs
    --labels."""

    labels: Path | None = None
    """Folder of the labels of own images (CASE.nii.gz); of DICOM images also DICOM SEG, whose segments are named as the
    model's labels. Series mixed in one folder go by their SeriesInstanceUID."""

    cases: tuple[str, ...] = ()
    """Names of the cases to use; all by default."""

    limit: int | None = None
    """Use this many cases only, spread evenly over the list."""

    allow_training_cases: bool = False
    """Permit cases that the model was trained on: the numbers are then no evidence for new patients."""

    eps: tuple[float, ...] | None = None
    """Noise levels; those of the task by default. 0 is always measured."""

    eps_unit: Literal["paper", "l2", "rms", "raw"] | None = None
    """Unit of --eps: paper (L2 norm on the task's reference size), l2 (the norm on the case itself), rms (σ of the
    normalised image, per voxel) or raw (intensity units such as HU, per voxel). Default: paper where the data set has a
    reference size, else rms."""

    norm: str = "L2"
    """Norm that bounds the noise: L2 or Linf."""

    attack: tuple[str, ...] = ("pgd",)
    """Attacks: pgd (the paper's), quick, fast (two attacks), standard (five), race (the same five, of which those
    that will hardly find the lowest Dice give up: half the steps), full (nine), or one of fgsm, ifgsm, apgd,
    segpgd, cospgd, few-slices, few-slices-25, one-slice, square, spsa, noise-uniform, noise-gaussian."""

    steps: int | None = None
    """Gradient steps of every attack, instead of the attack's own number (FGSM keeps its one)."""

    step_size: float = 0.5
    """Step of the sliding window, as in nnU-Net."""

    no_tta: bool = False
    """Attack and score without mirrored copies; the report says so."""

    dice_threshold: float = 0.5
    """Dice below which a prediction counts as failed: a case's robustness margin is the smallest ε that does it."""

    tolerance: float = 2.0
    """Distance in mm up to which two surfaces agree, for the normalised surface Dice (NSD); what experts differ by."""

    no_margins: bool = False
    """Do not search each case's margin."""

    check_cases: int = 2
    """Cases that are measured again to judge the evidence (more steps, black box, very large noise)."""

    vafa: tuple[float, ...] = ()
    """Attack each case by compression, too (VAFA): largest entries of its quantisation tables, such as 10 20 30, in
    256ths of the range of grey values. Reported apart, as no ε bounds it."""

    shift: Literal["mr", "ct", "any"] | None = None
    """Look at realistic disturbances of scans of this modality, too: noise, motion, contrast, resolution, geometry."""

    disturbances: tuple[str, ...] = ()
    """Names of those to look at; by default all that can happen to such scans."""

    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Severities of the disturbances, from 1 to 5."""

    worst_shift: Literal["mr", "ct", "any"] | None = None
    """Search the worst realistic change of each scan of this modality by gradient, too: contrast, bias field, blur,
    noise, position and shape together, through preprocessing and inference; chance gets as many passes."""

    worst_severity: int = 1
    """Severity of the worst change, from 1 to 5: each of the changes stays within what the disturbances do there."""

    worst_changes: tuple[str, ...] = ()
    """Names of the changes that are searched together, in their order; by default all that can happen to such scans."""

    worst_steps: int = 20
    """Length of the search for the worst change: as many gradient steps would take its passes."""

    certify: tuple[float, ...] = ()
    """Certify each case by randomised smoothing, with noise of these sizes (σ of the normalised image, per voxel)."""

    samples: int = 100
    """Noisy copies of each case and size that a certificate is based on."""

    require: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Dice that must be reached, for example 0.8@5: exit status 1 if the mean Dice at that ε is lower, or if the audit
    is not conclusive."""

    save_adversarial: bool = False
    """Keep the adversarial images, as NIfTI in the space of the raw ones."""

    output: Path = Path("nnunet-ima-audit")
    """Folder of the results."""

    seed: int = 0
    """Seed of all random draws."""

    device: str = ""
    """Where to run: cpu, cuda, cuda:1; by default the first GPU, else the CPU."""

    windows_per_pass: int = 0
    """Windows that run together; by default as many as the device can be expected to hold."""

    workers: int = 0
    """Worker processes on this machine that share the work, each on a GPU of its own or on one CPU thread; 0: none.
    With --jobqueue, the number of workers that the queue is asked for."""

    scheduler: str = ""
    """Address of a running Dask cluster that does the work, such as tcp://HOST:8786."""

    jobqueue: str = ""
    """Queueing system that is asked for workers: slurm, pbs, sge, lsf, oar or htcondor. Needs --cluster-config."""

    cluster_config: Path | None = None
    """YAML file with what each job needs, under the names of dask-jobqueue."""

    trust_checkpoint: bool = False
    """Let a checkpoint run code of its own when it is loaded. Only for files from people you trust."""

    dry_run: bool = False
    """Print what the audit will cost, and stop."""

    lock: Path | None = None
    """Write the protocol of this audit (all that is measured; models and cases by their hashes) into a TOML file, and
    stop."""

    protocol: Path | None = None
    """Protocol that was locked before: the audit is refused where it differs."""

    allow_deviations: bool = False
    """List deviations from the protocol in the report instead of refusing them."""

    def run(self) -> None:
        """Check everything, measure, print, judge."""
        self._check()
        with ExitStack() as stack:
            self._audit(stack)

    def _workers(self) -> Workers:
        """Which workers share the work."""
        return Workers(self.workers, self.scheduler, self.jobqueue, self.cluster_config)

    def _audit(self, stack: ExitStack) -> None:
        """The audit; the stack removes in the end what is needed for its length alone."""
        # imported here because it takes seconds: wrong inputs are refused before
        from nnunet_ima.evidence.gate import parse_requirements, unmet
        from nnunet_ima.evidence.protocol import lock, make_protocol
        from nnunet_ima.evidence.provenance import provenance, question
        from nnunet_ima.evidence.store import Store
        from nnunet_ima.inference.pipeline import Pipeline
        from nnunet_ima.segmentation.forecast import forecast
        from nnunet_ima.segmentation.run import find_faults, run_audit

        if self._workers():
            hold_at_one_thread(stack)
        models = open_models(self)
        settings = settings_of(self, models)
        requirements = parse_requirements(self.require, settings.eps)
        cases = find_cases(self, models, stack)
        pipelines = {
            name: Pipeline(model, self.step_size, not self.no_tta, self.windows_per_pass)
            for name, model in models.items()
        }
        if self.dry_run:
            print(forecast(pipelines, cases, settings, self.check_cases))
            return
        from nnunet_ima.inference.volumes import Volumes
        from nnunet_ima.report.publish import publish

        asked = question(pipelines, cases, settings.question())
        planned = make_protocol(asked, settings.wanted(), self.check_cases, self.require)
        if self.lock is not None:
            print(f"{self.lock}: SHA-256 {lock(planned, self.lock)}\nRun the same command with --protocol {self.lock}")
            return
        protocol = self._followed(planned)

        faults = find_faults(pipelines, cases)
        if all(faults.values()):  # before the audit claims its folder
            raise ValueError(_nothing(fault for found in faults.values() for fault in found))
        store = Store(self.output, asked, provenance(pipelines, private=any(case.folder for case in cases)))
        volumes, helpers = Volumes(), None
        if self._workers():
            from nnunet_ima.segmentation.apart import apart

            client = stack.enter_context(connected(self._workers()))
            helpers = stack.enter_context(apart(client, pipelines, settings, store, self.trust_checkpoint))
        findings = run_audit(pipelines, cases, settings, store, self.check_cases, faults, volumes, helpers)
        if not findings.records:
            store.release()
            raise ValueError(_nothing(row.error for row in findings.failed))
        with store.alone():
            told = publish(findings, pipelines, cases, settings, store, volumes, protocol)
        print(told)
        if shortfalls := unmet(requirements, findings):
            print(f"--require is not met: {'; '.join(shortfalls)}")
            raise SystemExit(1)

    def _followed(self, planned: dict[str, Any]) -> str:
        """What the report says of a protocol; a run that differs from it is refused, unless that is allowed."""
        from nnunet_ima.evidence.protocol import deviations, read_protocol
        from nnunet_ima.evidence.store import sha256

        if self.protocol is None:
            return "none was locked before the run"
        locked = read_protocol(self.protocol)
        found = deviations(locked, planned)
        if found and not self.allow_deviations:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            msg = (
                f"this run differs from {self.protocol}: {'; '.join(found[:5])}{more}. Run what was locked, or add "
                "--allow-deviations, and the report lists them"
            )
            raise ValueError(msg)
        told = f"locked {locked.get('locked', 'at an unknown time')}, SHA-256 {sha256([self.protocol])}; "
        return told + (f"DEVIATIONS: {'; '.join(found)}" if found else "no deviations")

    def _check(self) -> None:
        """Refuse what can be refused at once."""
        fault = next(chain(self._apart(), self._misnamed(), self._out_of_range()), None)
        if fault is not None:
            raise ValueError(fault)
        check_output(self.output)
        self._workers().check()

    def _apart(self) -> Iterator[str]:
        """Options without those that they belong to, or beside those that they exclude."""
        if self.lock is not None and self.protocol is not None:
            yield "--lock writes a protocol, --protocol follows one; name one of them"
        if self.allow_deviations and self.protocol is None:
            yield "--allow-deviations needs a --protocol to deviate from"
        if (self.task is None) == (not self.model):
            yield "name either a --task or --model folders"
        if self.name and len(self.name) != max(1, len(self.model)):
            yield f"--name belongs to a --model: give as many; got {len(self.name)} for {max(1, len(self.model))}"
        if (self.images is None) != (self.labels is None):
            yield "--images and --labels belong together: Dice needs the labels of the images"
        if self.disturbances and self.shift is None:
            yield "--disturbances belong to --shift: name the modality of the scans (mr, ct or any)"
        if self.worst_changes and self.worst_shift is None:
            yield "--worst-changes belong to --worst-shift: name the modality of the scans (mr, ct or any)"

    def _misnamed(self) -> Iterator[str]:
        """Names that nothing is called by, or that two models would share."""
        from nnunet_ima.attacks.presets import PRESETS
        from nnunet_ima.perturbation.norms import NORMS

        for number, name in enumerate(self.name):
            check_name(name, "--name")
            if name in self.name[:number]:
                yield f"--name {name} is given twice; a report needs names that differ"
        for case in self.cases:
            check_name(case, "--cases")
        if self.norm not in NORMS:
            yield f"--norm must be one of {', '.join(NORMS)}, got {self.norm!r}"
        unknown = [name for name in self.attack if name not in PRESETS]
        if unknown or not self.attack:
            yield f"unknown attack {', '.join(unknown)!r}; known are {', '.join(PRESETS)}"

    def _out_of_range(self) -> Iterator[str]:
        """Numbers that an audit cannot use."""
        from nnunet_ima.segmentation.smoothing import Smoothing

        for value in self.eps or ():
            if not (math.isfinite(value) and value >= 0):
                yield f"--eps must be numbers of at least 0, got {value:g}"
        for value in self.certify:
            if not (math.isfinite(value) and value > 0):
                yield f"--certify must be numbers above 0, got {value:g}"
        for value in self.vafa:
            if not (math.isfinite(value) and value >= 1):
                yield f"--vafa must be numbers of at least 1 grey level, got {value:g}"
        if not self.severities or not all(1 <= severity <= 5 for severity in self.severities):
            yield f"--severities must be numbers from 1 to 5, got {' '.join(map(str, self.severities)) or 'none'}"
        if not 1 <= self.worst_severity <= 5:
            yield f"--worst-severity must be a number from 1 to 5, got {self.worst_severity}"
        for name, count, least in (
            ("--steps", self.steps, 1),
            ("--limit", self.limit, 1),
            ("--check-cases", self.check_cases, 0),
            ("--windows-per-pass", self.windows_per_pass, 0),
            ("--samples", self.samples, 1),
            ("--worst-steps", self.worst_steps, LEAST_STEPS),
        ):
            if count is not None and count < least:
                yield f"{name} must be at least {least}, got {count}"
        if self.certify and self.samples < (least := Smoothing(sigma=1.0, samples=self.samples).needed(voxels=1)):
            yield f"--samples must be at least {least} for --certify, got {self.samples}: fewer certify not one voxel"
        if not 0 < self.step_size <= 1:
            yield f"--step-size must be above 0 and at most 1, got {self.step_size:g}"
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            yield f"--tolerance must be a distance of at least 0 mm, got {self.tolerance:g}"
        if not 0 < self.dice_threshold <= 1:
            yield f"--dice-threshold must be above 0 and at most 1, got {self.dice_threshold:g}"


def _nothing(errors: Iterable[str]) -> str:
    return f"no case could be measured: {'; '.join(dict.fromkeys(errors))}"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    run_cli(PROGRAM, Attack, argv)


if __name__ == "__main__":
    main()
