"""`nnunet-ima-compare`: train defences from the same plain model, measure them alike, and say which is best."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from nnunet_ima._methods import ALIASES
from nnunet_ima.cluster.workers import Workers, connected
from nnunet_ima.commands._compare_images import CompareImages
from nnunet_ima.commands._defences import Defence, Home
from nnunet_ima.commands._run import check_output, run_cli, usable_device
from nnunet_ima.commands._training import run_training
from nnunet_ima.commands._trainings import Training, only_gpu, train_apart
from nnunet_ima.commands.plan import parse_settings
from nnunet_ima.datasets.folders import find_dataset, nnunet_folder
from nnunet_ima.datasets.overlay import read_plans

if TYPE_CHECKING:
    from nnunet_ima.report.comparison import Measured
    from nnunet_ima.segmentation.protocol_table import ProtocolTable

PROGRAM = "nnunet-ima-compare"


class Noise(NamedTuple):
    """Of all measurements."""

    eps: tuple[float, ...]
    norm: Any  # name in `NORMS`


@dataclass(kw_only=True)
class Compare:
    """Train defences on a data set, measure all of them alike, and say which one keeps most at each noise level.

    All start from the same plain model, which is trained first if it is missing, and train for as many epochs. What is
    trained or measured already is not done again: the same command goes on where it was stopped, and further methods,
    noise levels and attacks can join later.

    Classifiers of images are compared with --data FOLDER in place of a data set and a configuration; see
    nnunet-ima-compare --data FOLDER --help.
    """

    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])]
    """Number or folder name of a preprocessed data set."""

    configuration: Annotated[str, tyro.conf.arg(aliases=["-c"])]
    """Configuration to train, for example 2d_cpu."""

    fold: Annotated[int, tyro.conf.arg(aliases=["-f"])] = 0
    """Fold to train; its validation cases are attacked."""

    methods: tuple[str, ...] = ("plain", "ima", "adv", "trades")
    """Defences: plain, ima, adv, trades, mma, ddn, fat, gairat, te; a number behind one is its noise level (adv5)."""

    epochs: int | None = None
    """Epochs of each training from the plain model; by default those of the task."""

    equal_cost: bool = False
    """Give each method as many network passes as IMA has in these epochs, instead of as many epochs."""

    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    """Settings of all trainings, such as seed=1 iterations_per_epoch=50, or of one method: ima.beta=0.7."""

    prefix: str = "nnUNetPlansCompare"
    """Beginning of the names of the plans that are made; another one keeps another comparison's trainings apart."""

    eps: tuple[float, ...] | None = None
    """Noise levels, in the paper's unit where the data set has one, else RMS in σ; those of the task by default."""

    every: int = 1
    """Attack every n-th network input only, in the paper's protocol."""

    steps: int = 100
    """Steps of PGD in the paper's protocol."""

    attack: tuple[str, ...] = ()
    """Audit each model with these attacks, too (such as standard), through nnU-Net's whole inference."""

    cases: int = 12
    """Cases of that audit."""

    audit_steps: int | None = None
    """Gradient steps of its attacks; by default their own."""

    no_tta: bool = False
    """Audit without mirrored copies."""

    device: str = ""
    """Where to run: cpu, cuda, cuda:1; by default the first GPU, else the CPU."""

    workers: int = 0
    """Worker processes on this machine that train and audit side by side, each on a GPU of its own or on one CPU
    thread; 0: none. With --jobqueue, the number of workers that the queue is asked for."""

    scheduler: str = ""
    """Address of a running Dask cluster that does the work, such as tcp://HOST:8786."""

    jobqueue: str = ""
    """Queueing system that is asked for workers: slurm, pbs, sge, lsf, oar or htcondor. Needs --cluster-config."""

    cluster_config: Path | None = None
    """YAML file with what each job needs, under the names of dask-jobqueue."""

    output: Path = Path("nnunet-ima-compare")
    """Folder of the results."""

    def run(self) -> None:
        """Plan, train, measure, tell."""
        self._check()
        from nnunet_ima.segmentation.budgets import default_levels, reference_elements
        from nnunet_ima.segmentation.protocol_table import ProtocolTable, Question
        from nnunet_ima.training.settings import resolve_settings

        device = usable_device(self.device)
        folder = nnunet_folder("nnUNet_preprocessed") / find_dataset(self.dataset)
        plans = read_plans(folder / "nnUNetPlans.json")
        norm = resolve_settings(plans | {"schedule": {**plans.get("schedule", {}), **self._norm()}}, "plain").norm
        reference = reference_elements(plans)
        unit = "rms" if reference is None else "paper"
        eps = default_levels(plans, norm, unit) if self.eps is None else self.eps
        if eps is None:
            msg = f"name the noise levels with --eps: the data set has no default levels in the unit {unit} for {norm}"
            raise ValueError(msg)
        _refuse_unmeasurable(folder, plans, self.configuration)
        results = nnunet_folder("nnUNet_results") / folder.name
        home = Home(folder, results, self.configuration, self.fold, self.prefix)
        self.output.mkdir(parents=True, exist_ok=True)
        self._train([home.start()], plans, device)
        cost_on = device if self.equal_cost else None
        defences = [
            home.start() if name == "plain" else home.plan(label, name, plans, self._wanted(label), cost_on)
            for label, (name, _) in self._parsed().items()
        ]
        self._train(defences, plans, device)

        question = Question(reference or 1, self.fold, norm, self.steps, self.every)
        table = ProtocolTable(self.output / "paper.json", question)
        models = {entry.label: (entry.folder, "checkpoint_final.pth") for entry in defences}
        table.measure(models, eps, device)
        self._tell(defences, self._measured(defences, table, Noise(tuple(eps), norm), device), table)

    def _check(self) -> None:
        """Refuse what can be refused at once."""
        check_output(self.output)
        self._workers().check()
        steps = 1 if self.audit_steps is None else self.audit_steps
        numbers = (("--every", self.every), ("--steps", self.steps), ("--cases", self.cases), ("--audit-steps", steps))
        for name, value in numbers:
            if value < 1:
                msg = f"{name} must be at least 1, got {value}"
                raise ValueError(msg)
        if self.epochs is not None and self.epochs < 1:
            msg = f"--epochs must be at least 1, got {self.epochs}"
            raise ValueError(msg)
        if self.eps is not None and not (self.eps and all(0 <= value < float("inf") for value in self.eps)):
            msg = f"--eps needs noise levels of at least 0, got {self.eps}"
            raise ValueError(msg)
        if not re.fullmatch(r"[A-Za-z0-9]+", self.prefix):
            msg = f"--prefix consists of letters and digits, got {self.prefix!r}"
            raise ValueError(msg)
        for label in self._parsed():
            self._wanted(label)
        if self.attack:
            from nnunet_ima.attacks.presets import PRESETS

            if unknown := [name for name in self.attack if name not in PRESETS]:
                msg = f"unknown attack {', '.join(unknown)!r}; known are {', '.join(PRESETS)}"
                raise ValueError(msg)

    def _parsed(self) -> dict[str, tuple[str, float | None]]:
        """Method and noise level of each defence by its label."""
        from nnunet_ima.methods import parse_method

        if not self.methods:
            msg = "--methods needs at least one method"
            raise ValueError(msg)
        parsed = {}
        for label in dict.fromkeys(self.methods):
            name, level = parse_method(label)
            parsed[ALIASES.get(label, label)] = (ALIASES.get(name, name), level)
        return parsed

    def _norm(self) -> dict[str, Any]:
        """The norm of the noise, if the user changes it."""
        changes = parse_settings(self.settings) if self.settings else {}
        given = [changes[key] for key in ("norm", "schedule.norm") if key in changes]
        return {"norm": given[0]} if given else {}

    def _wanted(self, label: str) -> dict[str, Any]:
        """Settings of a defence, as the user changes them."""
        method, level = self._parsed()[label]
        changes = parse_settings(self.settings) if self.settings else {}
        methods = {name for name, _ in self._parsed().values()}
        for key in changes:
            owner, dot, _ = key.partition(".")
            if dot and owner not in {*methods, "schedule"}:
                msg = f"--set {key}: {owner} is none of the methods compared ({', '.join(sorted(methods))})"
                raise ValueError(msg)
        shared = {key: value for key, value in changes.items() if "." not in key or key.startswith("schedule.")}
        own = {key.removeprefix(f"{method}."): value for key, value in changes.items() if key.startswith(f"{method}.")}
        given = {"epochs": self.epochs, "eps": level}
        return {**shared, **own, **{key: value for key, value in given.items() if value is not None}}

    def _workers(self) -> Workers:
        """Which workers share the work."""
        return Workers(self.workers, self.scheduler, self.jobqueue, self.cluster_config)

    def _train(self, defences: Sequence[Defence], plans: dict[str, Any], device: str) -> None:
        """Train defences, or go on, unless they are trained."""
        trainings = [self._training(defence, plans) for defence in defences]
        left = [training for training in trainings if not training.done]
        if left and self._workers():
            with connected(self._workers()) as client:
                train_apart(client, left, device)
            return
        kind, _, number = device.partition(":")
        for training in left:
            arguments = [*training.arguments(), "-device", kind]
            with only_gpu(number):  # nnU-Net's command knows no other than the first
                run_training(arguments, training.log, training.label, training.epochs)

    def _training(self, defence: Defence, plans: dict[str, Any]) -> Training:
        from nnunet_ima.training.settings import resolve_settings

        return Training(
            defence.label,
            (defence.folder / f"fold_{self.fold}").absolute(),
            (self.dataset, self.configuration, str(self.fold), "-tr", defence.trainer, "-p", defence.plans),
            defence.epochs or resolve_settings(plans, "plain").epochs,
            (self.output / f"{defence.label}.log").absolute(),
        )

    def _audit(self, defences: Sequence[Defence], noise: Noise, device: str) -> Path:
        """Audit all models through the whole inference; returns the folder."""
        from nnunet_ima.commands.attack import Attack

        folder = self.output / "audit"
        Attack(
            model=tuple(entry.folder for entry in defences),
            name=tuple(entry.label for entry in defences),
            fold=(str(self.fold),),
            eps=noise.eps,
            norm=noise.norm,
            attack=self.attack,
            limit=self.cases,
            steps=self.audit_steps,
            no_tta=self.no_tta,
            no_margins=True,
            check_cases=1,
            output=folder,
            device=device,
            workers=self.workers,
            scheduler=self.scheduler,
            jobqueue=self.jobqueue,
            cluster_config=self.cluster_config,
        ).run()
        return folder

    def _measured(
        self, defences: Sequence[Defence], table: ProtocolTable, noise: Noise, device: str
    ) -> dict[str, Measured]:
        """What was measured, by the way to measure; audited if asked."""
        from nnunet_ima.report.comparison import Evidence

        labels = [entry.label for entry in defences]
        measured: dict[str, Measured] = {
            "PGD on slices" if "2d" in self.configuration else "PGD on volumes": {
                label: {
                    level: Evidence(row["pooled_dice"], row["case_dice"])
                    for level, row in table.cells()[label].items()
                    if level in noise.eps
                }
                for label in labels
            }
        }
        if self.attack:
            audit = self._audit(defences, noise, device)
            measured |= {attack: _audit_evidence(audit / "cases.csv", labels, attack) for attack in self.attack}
        return measured

    def _tell(self, defences: Sequence[Defence], measured: dict[str, Measured], table: ProtocolTable) -> None:
        """Write table, figure and sentences, and print them."""
        from nnunet_ima.files import write_atomically
        from nnunet_ima.report.comparison import best_sentences, comparison_table, draw_comparison

        notes = {entry.label: entry.cost(self.fold) for entry in defences}
        text = "\n\n".join(
            (
                comparison_table(measured, notes),
                table.protocol(),
                *(sentence for way, found in measured.items() for sentence in best_sentences(way, found)),
            )
        )
        write_atomically(self.output / "comparison.md", text + "\n")
        draw_comparison(measured, self.output / "comparison.png")
        print(f"{text}\n\nTable {self.output / 'comparison.md'}, figure {self.output / 'comparison.png'}.")


def _refuse_unmeasurable(folder: Path, plans: dict[str, Any], configuration: str) -> None:
    """Refuse, before hours of training, what could not be measured after them."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_ima.files import read_json

    found = PlansManager(plans)
    labels = found.get_label_manager(read_json(folder / "dataset.json"))
    if labels.has_regions:
        msg = f"{folder.name}: a comparison does not cover region-based labels; train, and use nnunet-ima-attack"
        raise ValueError(msg)
    if configuration in found.available_configurations and found.get_configuration(configuration).previous_stage_name:
        msg = f"-c {configuration} is the second stage of a cascade, which cannot be attacked; compare the first one"
        raise ValueError(msg)


def _audit_evidence(file: Path, labels: Sequence[str], attack: str) -> Measured:
    """Dice of each model's cases at each ε, as an audit has stored them."""
    from nnunet_ima.report.comparison import Evidence

    cases: dict[str, dict[float, dict[str, float]]] = {label: {} for label in labels}
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["attack"] in ("clean", attack):
                cases[row["model"]].setdefault(float(row["eps"]), {})[row["case"]] = float(row["dice"])
    return {
        label: {eps: Evidence(sum(dice.values()) / len(dice), dice) for eps, dice in levels.items()}
        for label, levels in cases.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:] if argv is None else argv
    images = any(argument.split("=")[0] == "--data" for argument in arguments)
    run_cli(PROGRAM, CompareImages if images else Compare, arguments)


if __name__ == "__main__":
    main()
