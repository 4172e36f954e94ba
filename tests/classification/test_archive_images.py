"""From original files to images, splits and networks: the test set stays, colours stay, ε is the plain L2 norm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from archive_files import CIFAR_NAMES, grey_pictures, rgb_pictures, write_cifar_binary, write_idx, write_svhn
from PIL import Image

from nnunet_ima.classification.audit_settings import AuditSettings
from nnunet_ima.classification.data import load_images
from nnunet_ima.classification.examples import noisy_examples
from nnunet_ima.classification.networks import load_classifier, new_network, save_classifier
from nnunet_ima.classification.predict import predict
from nnunet_ima.classification.settings import resolve_settings
from nnunet_ima.classification.splits import open_splits, read_splits, write_splits

IDX = (grey_pictures(200), grey_pictures(30, seed=1))
RGB = (rgb_pictures(50), rgb_pictures(20, seed=1))


def test_pixels_labels_and_names(tmp_path: Path) -> None:
    write_idx(tmp_path, *IDX)
    data = load_images(tmp_path, 28)
    assert data.images.shape == (230, 1, 28, 28)
    assert torch.equal((255 * data.images[:200, 0]).round().byte(), torch.from_numpy(IDX[0][0]))
    assert data.labels.tolist() == [*IDX[0][1].tolist(), *IDX[1][1].tolist()]
    assert (data.ids[17], data.ids[200]) == ("train/00017", "test/00000")
    assert len(set(data.digests)) == 230
    assert any("validation images are 10% of the training images" in note for note in data.notes)
    assert not any("patients" in note for note in data.notes)


def test_colours_stay_and_the_size_can_be_changed(tmp_path: Path) -> None:
    write_svhn(tmp_path, *RGB)
    data = load_images(tmp_path, 32)
    assert data.images.shape == (70, 3, 32, 32)
    assert torch.equal((255 * data.images[:50]).round().byte(), torch.from_numpy(RGB[0][0]))
    smaller = load_images(tmp_path, 16)
    assert smaller.images.shape == (70, 3, 16, 16)
    assert torch.allclose(smaller.images.mean(), data.images.mean(), atol=1e-3)
    assert any("resized from 32×32 to 16×16" in note for note in smaller.notes)
    assert smaller.digests == data.digests


def test_some_classes_only(tmp_path: Path) -> None:
    write_cifar_binary(tmp_path, *RGB)
    assert load_images(tmp_path, 32).classes == tuple(CIFAR_NAMES)
    data = load_images(tmp_path, 32, ("ship", "cat"))
    assert data.class_counts() == {"ship": 7, "cat": 7}
    assert data.ids[:2] == ("train/00003", "train/00008")
    assert data.labels[:2].tolist() == [1, 0]
    with pytest.raises(FileNotFoundError, match=r"has no class whale; it has airplane"):
        load_images(tmp_path, 32, ("ship", "whale"))
    with pytest.raises(ValueError, match="single class"):
        load_images(tmp_path, 32, ("ship",))


def test_the_test_set_stays_and_validation_is_a_tenth_of_each_class(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", *IDX)
    data = load_images(tmp_path / "data", 28)
    splits = open_splits(tmp_path / "splits.json", data, seed=3)
    assert splits.test == tuple(f"test/{number:05d}" for number in range(30))
    assert {name.split("/")[0] for name in (*splits.train, *splits.validation)} == {"train"}
    assert torch.bincount(data.labels[splits.indices(data)["validation"]]).tolist() == [2] * 10
    assert len(splits.train) == 180
    assert splits == open_splits(tmp_path / "splits.json", data, seed=3)
    assert splits.validation != open_splits(tmp_path / "splits.json", data, seed=4).validation
    write_splits(splits, tmp_path / "splits.json")
    assert read_splits(tmp_path / "splits.json", data) == splits
    assert open_splits(tmp_path / "splits.json", data, seed=3) == splits
    with pytest.raises(ValueError, match=r"seed 3, not .* and 4"):
        open_splits(tmp_path / "splits.json", data, seed=4)


def test_equal_pictures_are_not_torn_apart(tmp_path: Path) -> None:
    pixels, labels = IDX[0][0].copy(), IDX[0][1]
    pixels[100:] = pixels[:100]  # each twice
    write_idx(tmp_path, (pixels, labels), IDX[1])
    data = load_images(tmp_path, 28)
    splits = open_splits(tmp_path / "splits.json", data)
    digests = [{data.digests[i] for i in places.tolist()} for places in splits.indices(data).values()]
    assert not digests[0] & digests[1]
    assert len(splits.validation) == 20


@pytest.mark.parametrize(
    ("preset", "channels", "size", "eps"), [("fashion-mnist", 1, 28, 5), ("svhn", 3, 32, 3), ("cifar10", 3, 32, 3)]
)
def test_presets_have_the_papers_noise_as_plain_l2_norm(preset: str, channels: int, size: int, eps: float) -> None:
    ima = resolve_settings("ima", preset)
    assert (ima.size, ima.epochs, ima.options["eps"], ima.norm) == (size, 60, eps, "L2")
    assert ima.budget(channels).effective(1) == 1
    assert ima.network == ("cnn" if preset == "fashion-mnist" else "wrn-28-4")
    method = ima.make_method(("a",), channels)
    method.begin_epoch(0)
    assert method.margins() == {"a": pytest.approx(eps / 60)}  # Δ, also the first margin


@pytest.mark.parametrize("name", ["small", "resnet18", "wrn-28-4", "cnn"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_network_takes_grey_and_rgb_and_comes_back(name: str, channels: int, tmp_path: Path) -> None:
    settings = resolve_settings("ce", "cifar10", {"network": name, "size": 64 if name == "resnet18" else 32})
    torch.manual_seed(0)
    network, description = new_network(settings, 10, channels)
    save_classifier(tmp_path / "model.pt", network, description, tuple(CIFAR_NAMES), settings, 1)
    classifier = load_classifier(tmp_path / "model.pt")
    x = torch.rand(2, channels, settings.size, settings.size)
    assert torch.equal(classifier.network(x), network.eval()(x))
    assert classifier.channels == channels


def test_examples_and_predictions_of_a_classifier_of_colours(tmp_path: Path) -> None:
    settings = resolve_settings("ce", "cifar10", {"network": "cnn"})
    torch.manual_seed(0)
    network, description = new_network(settings, 10, 3)
    save_classifier(tmp_path / "model.pt", network, description, tuple(CIFAR_NAMES), settings, 1)
    classifier = load_classifier(tmp_path / "model.pt")
    image = torch.from_numpy(RGB[0][0][0]).float() / 255
    audit = AuditSettings(eps=(1.0,), reference_elements=3072, apgd_steps=5)
    clean, noisy = noisy_examples(classifier.network, image, 0, CIFAR_NAMES, audit)
    assert np.array_equal(clean.image, image.permute(1, 2, 0).numpy())
    assert np.linalg.norm(noisy.image - clean.image) == pytest.approx(1, abs=1e-4)

    Image.fromarray(RGB[0][0][0].transpose(1, 2, 0)).save(tmp_path / "colours.png")
    Image.fromarray(RGB[0][0][0][0]).save(tmp_path / "grey.png")
    files = [tmp_path / "colours.png", tmp_path / "grey.png"]
    with torch.no_grad():
        expected = classifier.network(torch.stack([image, image[:1].expand(3, -1, -1)])).softmax(1)
    for row, shares in zip(predict(classifier, files), expected, strict=True):
        found = [row[f"probability {name}"] for name in CIFAR_NAMES]
        assert found == pytest.approx(shares.tolist(), abs=1e-5)
