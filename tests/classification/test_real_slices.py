"""A short training on real CT slices, with and without a defence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnunet_ima.attacks.losses import cross_entropy
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.classification.data import load_images
from nnunet_ima.classification.fit import fit
from nnunet_ima.classification.networks import load_classifier
from nnunet_ima.classification.settings import resolve_settings
from nnunet_ima.classification.splits import make_splits
from nnunet_ima.classification.training_data import TrainingData
from nnunet_ima.perturbation.norms import L2
from nnunet_ima.tasks.classification import Classification

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "SARS-CoV-2-CT"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the SARS-CoV-2 CT data set is not at {REAL}")
def test_ima_stands_noise_that_breaks_plain_training(tmp_path: Path) -> None:
    files = [file for name in ("COVID", "non-COVID") for file in sorted((REAL / name).glob("*.png"))[::4]]
    (tmp_path / "some.csv").write_text("image,label\n" + "".join(f"{file},{file.parent.name}\n" for file in files))
    data = load_images(tmp_path / "some.csv", 32, show_progress=False)
    splits = make_splits(data)
    places = splits.indices(data)["test"]
    x, y = data.images[places], data.labels[places]
    clean, noisy = {}, {}
    for method in ("ce", "ima4"):
        changes = {"size": 32, "epochs": 10, "batch_size": 16, "robust_images": 8, "robust_steps": 2}
        settings = resolve_settings(method, "cpu", changes)
        file = fit(TrainingData.of(data, splits), settings, tmp_path / method)
        network = load_classifier(file).network
        clean[method] = float(Classification().quality(network(x), y).mean())
        eps = torch.full((len(x),), settings.budget().effective(3.0))
        attacked = pgd(
            Problem(network, x, y, eps, L2(), Classification().quality),
            cross_entropy,
            steps=20,
            generator=torch.Generator().manual_seed(0),
        )
        noisy[method] = float(attacked.quality.mean())
    assert min(clean.values()) > 0.6
    assert noisy["ima4"] > noisy["ce"] + 0.1
