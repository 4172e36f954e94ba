"""DICOM series as volumes: the same voxels and geometry as NIfTI, or a refusal that says why."""

from __future__ import annotations

import locale
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import (
    OBLIQUE,
    RAS,
    enhanced,
    image,
    report,
    save,
    segmentation,
    series_of,
    set_pixels,
    twin,
    uid_of,
    voxels,
    write,
)
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from nnunet_ima.datasets.dicom.headers import DicomError, read_header
from nnunet_ima.datasets.dicom.series import read_series

Images = list[Dataset]


def read(folder: Path) -> sitk.Image:
    return read_series([read_header(file) for file in sorted(folder.iterdir())])


def check_twin(found: sitk.Image, expected: nib.Nifti1Image, file: Path) -> None:
    """What is found, written as NIfTI, has the voxels and the affine that are expected."""
    sitk.WriteImage(found, str(file))
    written: Any = nib.load(file)
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(expected.dataobj))
    np.testing.assert_allclose(written.affine, expected.affine, atol=1e-4)


@pytest.mark.parametrize("orientation", [RAS, OBLIQUE, (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)])
def test_a_series_is_its_nifti_twin(order: tuple[int, ...], orientation: tuple[float, ...], tmp_path: Path) -> None:
    """Oblique, anisotropic, in any order of files and of numbers."""
    volume, origin, spacing = voxels(), (-20.0, 35.5, 100.0), (2.5, 0.7, 0.9)
    images = series_of(volume, origin, orientation, spacing)
    write([images[number] for number in order], tmp_path / "series")
    expected = twin(volume - np.int16(1024), origin, orientation, spacing)
    check_twin(read(tmp_path / "series"), expected, tmp_path / "found.nii.gz")


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
    ],
)
def test_encodings(syntax: str, tmp_path: Path) -> None:
    volume = voxels((3, 32, 32))
    write(series_of(volume), tmp_path, syntax)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read(tmp_path)), volume - 1024)


@pytest.fixture
def same_locale() -> Iterator[None]:
    """GDCM leaves the process in the locale "C" after it has written JPEG 2000."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.mark.usefixtures("same_locale")
@pytest.mark.parametrize(("compressor", "syntax"), [("JPEG2000", ".4.90"), ("JPEG", ".4.70")])
def test_encodings_that_gdcm_alone_can_write(compressor: str, syntax: str, tmp_path: Path) -> None:
    volume = voxels((3, 32, 32))
    write(series_of(volume, RescaleIntercept=0), tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    for file in (tmp_path / "plain").iterdir():
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.SetFileName(str(tmp_path / "packed" / file.name))
        writer.Execute(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))
        assert read_header(tmp_path / "packed" / file.name).syntax.endswith(syntax)
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read(tmp_path / "packed")), volume)
    assert locale.setlocale(locale.LC_ALL) == "C.UTF-8"  # reading leaves it


def test_each_image_has_a_scale_of_its_own(tmp_path: Path) -> None:
    """As in PET; whole numbers stay whole, others become float32."""
    volume = voxels((3, 8, 8))
    images = series_of(volume)
    for number, data in enumerate(images):
        data.RescaleSlope, data.RescaleIntercept = f"{0.25 * (number + 1)}", "-3"
    write(images, tmp_path / "pet")
    found = sitk.GetArrayFromImage(read(tmp_path / "pet"))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, volume * np.array([0.25, 0.5, 0.75])[:, None, None] - 3, rtol=1e-6)
    write(series_of(volume, RescaleSlope="20.0"), tmp_path / "whole")
    assert read(tmp_path / "whole").GetPixelID() == sitk.sitkInt32
    write(series_of(volume, SOPClassUID=MRImageStorage, RescaleSlope=None, RescaleIntercept=None), tmp_path / "mr")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read(tmp_path / "mr")), volume)


def test_equal_series_become_equal_files(tmp_path: Path) -> None:
    images = series_of(voxels())
    write(images, tmp_path / "one")
    write(images[::-1], tmp_path / "two")
    for name in ("one", "two"):
        sitk.WriteImage(read(tmp_path / name), str(tmp_path / f"{name}.nii.gz"), True)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


def test_positions_with_few_digits_are_no_fault(tmp_path: Path) -> None:
    volume = voxels((9, 8, 8))
    images = series_of(volume, spacing=(0.625, 0.7, 0.7))
    for data in images:
        data.ImagePositionPatient = [round(float(value), 2) for value in data.ImagePositionPatient]
    write(images, tmp_path)
    assert read(tmp_path).GetSpacing()[2] == pytest.approx(0.625, abs=1e-3)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (3, 0, 4, 1, 2)])
def test_an_enhanced_image_is_read_by_its_frames(order: tuple[int, ...], tmp_path: Path) -> None:
    volume, spacing = voxels(), (2.5, 0.7, 0.9)
    save(enhanced(volume, order, spacing), tmp_path / "series" / "IM")
    hounsfield = (volume - 1000 - np.arange(len(volume))[:, None, None]).astype(np.int16)
    expected = twin(hounsfield, (-20.0, 35.5, 100.0), RAS, spacing)
    check_twin(read(tmp_path / "series"), expected, tmp_path / "found.nii.gz")


# every row: what is done to five images, and what the refusal must say


def gantry_tilt(images: Images) -> None:
    for number, data in enumerate(images):
        data.ImagePositionPatient = [-20.0, 35.5 + 0.2679 * number, 100.0 + number]


def missing_slice(images: Images) -> None:
    del images[3]


def duplicate_positions(images: Images) -> None:
    images += series_of(voxels(seed=1), EchoTime=80.0)
    for number, data in enumerate(images):
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid_of(f"echo {number}")


def copied_file(images: Images) -> None:
    images.append(images[2])


def mixed_orientations(images: Images) -> None:
    images[4].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def mixed_sizes(images: Images) -> None:
    set_pixels(images[1], voxels((7, 9)))


def mixed_spacings(images: Images) -> None:
    images[1].PixelSpacing = [1.5, 1.5]


def localizer(images: Images) -> None:
    images[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def single_slice(images: Images) -> None:
    del images[1:]


def colours(images: Images) -> None:
    data = images[0]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = bytes(data.Rows * data.Columns * 3)


def inverted_grey(images: Images) -> None:
    images[0].PhotometricInterpretation = "MONOCHROME1"


def no_position(images: Images) -> None:
    del images[2].ImagePositionPatient


def no_orientation(images: Images) -> None:
    del images[2].ImageOrientationPatient


def no_spacing(images: Images) -> None:
    del images[2].PixelSpacing


def skewed_orientation(images: Images) -> None:
    for data in images:
        data.ImageOrientationPatient = [1, 0, 0, 0.5, 0.5, 0]


def zero_spacing(images: Images) -> None:
    images[2].PixelSpacing = [0, 1]


def no_series(images: Images) -> None:
    del images[2].SeriesInstanceUID


def several_frames(images: Images) -> None:
    set_pixels(images[2], voxels((3, 12, 10)))
    images[2].NumberOfFrames = 3


def volume_among_images(images: Images) -> None:
    images.append(enhanced(voxels(), range(5)))


def enhanced_without_places(images: Images) -> None:
    images[:] = [enhanced(voxels(), range(5))]
    del images[0].PerFrameFunctionalGroupsSequence


def enhanced_with_echoes(images: Images) -> None:
    images[:] = [enhanced(voxels(), (0, 1, 2, 0, 1, 2))]


def enhanced_with_a_gap(images: Images) -> None:
    images[:] = [enhanced(voxels(), (0, 1, 2, 4))]


REFUSED = {
    gantry_tilt: "a gantry tilt, here of 15.0°",
    missing_slice: "from 102.00 to 104.00 mm along the normal the step is 2.00 mm, usually 1.00 mm",
    duplicate_positions: "5 images of 10 lie where another one does (such as at 100.00 mm",
    copied_file: "1 image of 6 are copies of others",
    mixed_orientations: "differ in orientation (1 of 5 from the first one)",
    mixed_sizes: "differ in size (9×7, 10×12 pixels)",
    mixed_spacings: "differ in spacing (from 1 × 1 to 1.5 × 1.5 mm)",
    localizer: "is a localizer",
    single_slice: "is a single slice",
    colours: "does not hold plain grey values (RGB, samples per pixel: 3)",
    inverted_grey: "does not hold plain grey values (MONOCHROME1",
    no_position: "lacks ImagePositionPatient",
    no_orientation: "lacks ImageOrientationPatient",
    no_spacing: "lacks PixelSpacing",
    skewed_orientation: "no right angle of unit vectors",
    zero_spacing: "PixelSpacing of 0 mm",
    no_series: "has no SeriesInstanceUID",
    several_frames: "holds 3 frames without a place for each",
    volume_among_images: "6 files, one of which is a multi-frame image (Enhanced CT)",
    enhanced_without_places: "does not tell the place of each frame",
    enhanced_with_echoes: "3 images of 6 lie where another one does",
    enhanced_with_a_gap: "from 102.00 to 104.00 mm",
}


def refusal(folder: Path) -> str:
    """The reason why a series is refused, which tells neither patient nor place."""
    with pytest.raises(DicomError) as error:
        read(folder)
    reason = str(error.value)
    for word in ("Doe", "Johnny", "4711", "1970", str(folder)):
        assert word not in reason
    assert "\n" not in reason
    return reason


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_what_is_no_regular_volume_is_refused(spoil: Callable[[Images], None], tmp_path: Path) -> None:
    images = series_of(voxels())
    spoil(images)
    write(images, tmp_path)
    assert REFUSED[spoil] in refusal(tmp_path)


def cut(keep: Callable[[int], int]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "IM_0002"
        file.write_bytes(file.read_bytes()[: keep(file.stat().st_size)])

    return spoil


def text_file(folder: Path) -> None:
    (folder / "notes.txt").write_text("Johnny Doe")


def link_to_nothing(folder: Path) -> None:
    (folder / "IM_0009").symlink_to(folder / "gone")


def seg_among_images(folder: Path) -> None:
    mask = np.zeros((5, 12, 10), np.uint8)
    mask[2:4, 3:6, 3:6] = 1
    segmentation(sorted(folder.iterdir()), mask, ["shell"], folder / "seg")


def unknown_syntax(uid: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "IM_0002"
        content, former = file.read_bytes(), b"1.2.840.10008.1.2.1\0"
        value = uid + b"\0" * (len(uid) % 2)
        begin = content.index(former) - 2  # the length stands before the value
        file.write_bytes(content[:begin] + struct.pack("<H", len(value)) + value + content[begin + 2 + len(former) :])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut(lambda size: size - 10), "is damaged or cut off"),
        (cut(lambda size: size // 2), "is damaged or cut off"),
        (cut(lambda size: 140), "cannot be decoded"),
        (cut(lambda size: 0), "is no DICOM file, or cut off"),
        (text_file, "is no DICOM file"),
        (link_to_nothing, "cannot be opened"),
        (lambda folder: report(folder / "sr"), "is no image but a structured report (SR)"),
        (seg_among_images, "is no image but a segmentation (SEG)"),
        (unknown_syntax(b"1.2.840.10008.1.2.4.202"), "as High-Throughput JPEG 2000 Lossless, RPCL cannot be decoded"),
        (unknown_syntax(b"1.2.840.10008.1.2.4.110"), "as JPEG XL Lossless cannot be decoded"),
        (unknown_syntax(b"1.2.3.4"), "as transfer syntax 1.2.3.4 cannot be decoded"),
    ],
)
def test_files_that_cannot_be_read_are_refused(spoil: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    write(series_of(voxels()), tmp_path)
    spoil(tmp_path)
    assert words in refusal(tmp_path)


def test_a_damaged_compressed_image_is_refused_by_its_syntax(tmp_path: Path) -> None:
    files = write(series_of(voxels((3, 32, 32))), tmp_path, JPEGLSLossless)
    content = bytearray(files[1].read_bytes())
    start = content.index(b"\xff\xd8\xff\xf7")  # begin of a JPEG-LS stream
    content[start : start + 12] = bytes(12)
    files[1].write_bytes(content)
    assert "JPEG-LS Lossless" in refusal(tmp_path)


def test_without_highdicom_the_way_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(enhanced(voxels(), range(5)), tmp_path / "IM")
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    assert 'pip install "nnunet-ima[dicom]"' in refusal(tmp_path)


def test_files_at_fault_are_named_for_the_screen(tmp_path: Path) -> None:
    data = image(voxels((8, 8)), (0, 0, 0), RAS, (1, 1), uid_of("one"), 1, ImagePositionPatient=None)
    file = save(data, tmp_path / "IM")
    with pytest.raises(DicomError) as error:
        read(tmp_path)
    assert error.value.files == (file,)
