"""Classifiers as files: they come back as they were, and a file can neither run code nor pass for another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_ima.classification.networks import load_classifier, new_network, save_atomically, save_classifier
from nnunet_ima.classification.settings import resolve_settings


def stored(file: Path, **changes: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    settings = resolve_settings("ce", "cpu", changes)
    torch.manual_seed(0)
    network, description = new_network(settings, 2)
    save_classifier(file, network, description, ("a", "b"), settings, 3)
    return network, torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_what_is_read_is_what_was_written(name: str, tmp_path: Path) -> None:
    network, _ = stored(tmp_path / "model.pt", network=name)
    classifier = load_classifier(tmp_path / "model.pt")
    x = torch.rand(2, 1, 64, 64)
    assert torch.equal(classifier.network(x), network.eval()(x))
    assert (classifier.classes, classifier.size, classifier.epoch) == (("a", "b"), 64, 3)


def test_dropout_is_off_in_a_classifier(tmp_path: Path) -> None:
    stored(tmp_path / "model.pt", dropout=0.9)
    classifier = load_classifier(tmp_path / "model.pt")
    x = torch.rand(2, 1, 64, 64)
    assert torch.equal(classifier.network(x), classifier.network(x))


def test_files_that_are_no_classifier_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_classifier(file)
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged or holds more than weights"):
        load_classifier(file)
    torch.save({"weights": {}}, file)
    with pytest.raises(ValueError, match="was not written by nnunet-ima-classify"):
        load_classifier(file)
    _, content = stored(file)
    del content["weights"]["linear.weight"]
    save_atomically(file, content)
    with pytest.raises(ValueError, match="no complete classifier"):
        load_classifier(file)


def test_a_file_cannot_name_code_to_run(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    _, content = stored(file)
    content["network"]["architecture"]["arch_kwargs"]["nonlin"] = "os.getcwd"
    save_atomically(file, content)
    with pytest.raises(ValueError, match=r"names os\.getcwd, which is no part of a network"):
        load_classifier(file)


def test_a_trained_encoder_is_taken_over(tmp_path: Path, trained_model: Path) -> None:
    settings = resolve_settings("ce", "cpu", {"encoder": str(trained_model), "frozen": True, "size": 64})
    network, description = new_network(settings, 2)
    assert description["kind"] == "encoder"
    trained = torch.load(trained_model / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    taken = {f"encoder.{name}": value for name, value in network.encoder.state_dict().items()}
    assert taken
    assert all(torch.equal(trained[name], value) for name, value in taken.items() if name in trained)
    assert sum(name in trained for name in taken) > 4
    assert [name for name, weight in network.named_parameters() if weight.requires_grad] == [
        "linear.weight",
        "linear.bias",
    ]
    save_classifier(tmp_path / "model.pt", network, description, ("a", "b"), settings, 1)
    x = torch.rand(1, 1, 64, 64)
    assert torch.allclose(load_classifier(tmp_path / "model.pt").network(x), network.eval()(x))
