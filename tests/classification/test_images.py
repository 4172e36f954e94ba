"""Image files become grey intensities that tell nothing about how they were saved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from PIL import Image

from nnunet_ima.classification.images import is_image, pixel_digest, read_grey, resize, unit_range

Pixels = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture
def picture() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)


def save(pixels: Pixels, file: Path, channels: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=channels), str(file))
    return file


def tensor(file: Path) -> torch.Tensor:
    return resize(unit_range(read_grey(file)), (16, 24))


def test_colour_mode_leaves_no_trace(picture: Pixels, tmp_path: Path) -> None:
    colours = np.stack([picture] * 3, -1)
    alpha = np.random.default_rng(1).integers(0, 256, picture.shape, dtype=np.uint8)
    save(picture, tmp_path / "grey.png")
    save(colours, tmp_path / "rgb.png", channels=True)
    save(np.dstack([colours, alpha]), tmp_path / "rgba.png", channels=True)
    save(np.dstack([colours, np.zeros_like(alpha)]), tmp_path / "invisible.png", channels=True)
    Image.fromarray(picture).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(picture).convert("P").save(tmp_path / "palette_transparent.png", transparency=3)
    save(picture, tmp_path / "grey.nii.gz")
    save(colours, tmp_path / "rgb.dcm", channels=True)
    expected = tensor(tmp_path / "grey.png")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for file in files:
        assert read_grey(file).dtype == np.uint8, file.name
        assert torch.equal(tensor(file), expected), file.name
    assert len({pixel_digest(read_grey(file)) for file in files}) == 1


def test_colours_become_luminance(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 30]]], dtype=np.uint8)
    grey = read_grey(save(pixels, tmp_path / "a.png", channels=True))
    expected = np.rint(pixels @ np.array([0.299, 0.587, 0.114]))
    assert grey.tolist() == expected.astype(int).tolist()
    pillow = np.asarray(Image.open(tmp_path / "a.png").convert("L"))  # in fixed point
    assert np.abs(pillow.astype(int) - grey).max() <= 1


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".dcm"])
def test_single_slices_of_volume_formats(picture: Pixels, tmp_path: Path, suffix: str) -> None:
    hounsfield = picture.astype(np.int16) * 4 - 1000
    file = save(hounsfield[None], tmp_path / f"a{suffix}")
    assert np.array_equal(read_grey(file), hounsfield)
    assert unit_range(read_grey(file)).aminmax() == (0, 1)


def test_inverted_dicom_is_turned(picture: Pixels, tmp_path: Path) -> None:
    for dtype in (np.uint8, np.int16):
        file = save(picture.astype(dtype)[None], tmp_path / "a.dcm")
        file.write_bytes(file.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1"))
        upright = unit_range((255 - picture).astype(dtype))
        assert torch.allclose(unit_range(read_grey(file)), upright)  # int16 comes with another offset


def test_scaling() -> None:
    eight = np.array([[10, 20], [30, 60]], dtype=np.uint8)
    assert torch.allclose(unit_range(eight), torch.tensor([[[10.0, 20], [30, 60]]]) / 255)
    for dtype in (np.int16, np.uint16, np.float32):
        scaled = unit_range(eight.astype(dtype))
        assert torch.allclose(scaled, torch.tensor([[[0, 0.2], [0.4, 1]]]))
        assert scaled.dtype == torch.float32
    assert unit_range(np.full((2, 2), 7.0)).tolist() == [[[0, 0], [0, 0]]]


def test_shrinking_averages_and_stays_in_range() -> None:
    stripes = torch.zeros(1, 64, 64)
    stripes[:, ::2] = 1
    small = resize(stripes, (8, 8))
    assert torch.allclose(small[:, 1:-1], torch.tensor(0.5), atol=0.05)  # plain bilinear gives moiré
    large = resize(torch.rand(1, 5, 7, generator=torch.Generator().manual_seed(0)), (33, 20))
    assert large.shape == (1, 33, 20)
    assert 0 <= large.min() <= large.max() <= 1
    assert resize(stripes, (64, 64)) is stripes


def cut(file: Path, share: float = 0.7) -> Path:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    return file


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".nii.gz", ".nii", ".dcm"])
def test_cut_files_are_refused(picture: Pixels, tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = save(picture, tmp_path / f"a{suffix}")
    read_grey(file)
    with pytest.raises(ValueError, match=rf"a{suffix} (cannot be read|is damaged)"):
        read_grey(cut(file))
    assert capfd.readouterr().err == ""


def test_changed_bytes_are_noticed(picture: Pixels, tmp_path: Path) -> None:
    file = save(picture, tmp_path / "a.png")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        read_grey(file)


def test_other_files_are_refused(picture: Pixels, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png is missing"):
        read_grey(tmp_path / "none.png")
    with pytest.raises(ValueError, match="holds 3 slices"):
        read_grey(save(np.stack([picture] * 3), tmp_path / "volume.nii.gz"))
    broken = picture.astype(np.float32)
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        read_grey(save(broken, tmp_path / "nan.nii.gz"))
    Image.fromarray(np.dstack([picture, picture])).save(tmp_path / "la.png")
    with pytest.raises(ValueError, match="save it as plain grey"):
        read_grey(tmp_path / "la.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.png cannot be read"):
        read_grey(tmp_path / "text.png")


def test_digest_is_of_values_and_shape(picture: Pixels) -> None:
    assert pixel_digest(picture) == pixel_digest(picture.astype(np.int16)) == pixel_digest(picture.copy(order="F"))
    assert pixel_digest(picture) != pixel_digest(picture.reshape(30, 40))
    assert pixel_digest(picture) != pixel_digest(picture.T)


def test_image_names() -> None:
    assert all(is_image(Path(name)) for name in ("a.PNG", "b (1).jpeg", "c.nii.gz", "d.dcm"))
    assert not any(is_image(Path(name)) for name in ("._a.png", "Thumbs.db", "a.csv", "a.gz"))
