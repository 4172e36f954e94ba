"""What nnU-Net does to a case, and that the way back meets the raw image again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from nnunetv2.preprocessing.preprocessors import default_preprocessor
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from plans_only import INTENSITIES, OBLIQUE, make_case, make_model, random_voxels
from scipy.ndimage import gaussian_filter

from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.model import TrainedModel
from nnunet_ima.inference.volume import (
    Volume,
    fragility,
    read_volume,
    reread,
    segment,
    write_label_map,
    write_map,
    write_noisy,
)


def stored(file: Path) -> np.ndarray[Any, Any]:
    return np.asanyarray(nib.load(file).dataobj)


def noise_of(volume: Volume, rms: float, seed: int = 1) -> torch.Tensor:
    return rms * torch.randn(volume.image.shape, generator=torch.Generator().manual_seed(seed))


def written(volume: Volume, noise: torch.Tensor, model: TrainedModel) -> list[Path]:
    folder = volume.case.label.parent / "noisy"
    folder.mkdir(exist_ok=True)
    files = [folder / f"case_{number:04d}.nii.gz" for number in range(len(volume.case.images))]
    write_noisy(volume, noise, model, files)
    return files


def test_equals_the_preprocessed_data_of_nnunet(phantom: Any) -> None:
    plans = PlansManager(json.loads((phantom.preprocessed / "nnUNetPlans.json").read_text()))
    model = replace(make_model(), plans=plans, configuration=plans.get_configuration("3d_fullres"))
    image = min((phantom.raw / "imagesTr").iterdir())
    name = image.name.removesuffix("_0000.nii.gz")
    folder = str(phantom.preprocessed / model.configuration.data_identifier)
    data, target, _, _ = infer_dataset_class(folder)(folder, [name]).load_case(name)
    volume = read_volume(Case(name, (image,), phantom.raw / "labelsTr" / f"{name}.nii.gz"), model)
    assert np.array_equal(volume.image.numpy(), np.array(data))
    assert np.array_equal(volume.target.numpy(), np.maximum(np.array(target), 0))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint8", "uint16"])
@pytest.mark.parametrize("affine", [np.eye(4), OBLIQUE], ids=["identity", "oblique"])
def test_no_noise_no_change(tmp_path: Path, dtype: str, affine: np.ndarray[Any, Any]) -> None:
    case = make_case(tmp_path, random_voxels("int16").astype(dtype), affine=affine)
    model = make_model(spacing=(2.5, 0.7, 1))  # so that it is resampled
    volume = read_volume(case, model)
    assert volume.image.dtype == torch.float32
    files = written(volume, torch.zeros_like(volume.image), model)
    raw, noisy = nib.load(case.images[0]), nib.load(files[0])
    assert np.array_equal(stored(files[0]), stored(case.images[0]))
    assert noisy.get_data_dtype() == raw.get_data_dtype() == np.dtype(dtype)
    assert np.array_equal(noisy.affine, raw.affine)
    assert noisy.header.get_zooms() == raw.header.get_zooms()
    assert torch.equal(reread(volume, files, model).image, volume.image)


def test_white_noise_on_floats_comes_back(tmp_path: Path) -> None:
    model = make_model()
    volume = read_volume(make_case(tmp_path, random_voxels()), model)
    noise = noise_of(volume, 1.0)
    files = written(volume, noise, model)
    again = reread(volume, files, model)
    # nnU-Net takes mean and std of the noisy image, which noise of one σ changes.
    changed = volume.image + noise
    expected = (changed - changed.mean()) / changed.std(correction=0)
    assert torch.allclose(again.image, expected, atol=1e-4)
    assert again.scale[0] / volume.scale[0] == pytest.approx(float(changed.std(correction=0)), rel=1e-4)
    assert np.std(stored(files[0]) - stored(volume.case.images[0])) == pytest.approx(
        float(noise.std()) * volume.scale[0], rel=1e-3
    )


@pytest.mark.parametrize(
    ("scheme", "scale"),
    [
        ("CTNormalization", 40.0),
        ("NoNormalization", 1.0),
        ("RGBTo01Normalization", 255.0),
        ("RescaleTo01Normalization", None),
    ],
)
def test_other_normalisations(tmp_path: Path, scheme: str, scale: float | None) -> None:
    model, voxels = make_model(schemes=(scheme,)), random_voxels()
    volume = read_volume(make_case(tmp_path, voxels), model)
    assert volume.scale == pytest.approx((scale or np.ptp(voxels),))
    noise = noise_of(volume, 0.3 / volume.scale[0])
    again = reread(volume, written(volume, noise, model), model)
    found = again.image * again.scale[0] - volume.image * volume.scale[0]  # less the offset, where there is one
    assert torch.allclose((found - found.mean()) / volume.scale[0], noise - noise.mean(), atol=1e-4)


def test_noise_beyond_the_clipping_range_of_ct_is_lost(tmp_path: Path) -> None:
    voxels = random_voxels("int16")
    voxels[3, 4, 5] = -900
    model = make_model(schemes=("CTNormalization",), intensities={**INTENSITIES, "percentile_00_5": -100.0})
    volume = read_volume(make_case(tmp_path, voxels), model)
    noise = torch.zeros_like(volume.image)
    noise[0, 5, 4, 3] = 5.0
    files = written(volume, noise, model)
    assert stored(files[0])[3, 4, 5] == -700
    assert torch.equal(reread(volume, files, model).image, volume.image)


@pytest.mark.parametrize(
    "unknown", [{"schemes": ("OtherNormalization",)}, {"preprocessor": "OtherPreprocessor"}], ids=["scheme", "class"]
)
def test_unknown_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unknown: dict[str, Any]) -> None:
    class OtherPreprocessor(default_preprocessor.DefaultPreprocessor):
        pass

    monkeypatch.setattr(default_preprocessor, "OtherPreprocessor", OtherPreprocessor, raising=False)
    monkeypatch.setattr(OtherPreprocessor.__base__, "_normalize", lambda self, data, *rest: data)
    model = make_model(**unknown)
    volume = read_volume(make_case(tmp_path, random_voxels()), model)
    assert volume.scale is None
    with pytest.raises(ValueError, match=r"the noise of case cannot be put into raw units: .*Other"):
        written(volume, torch.zeros_like(volume.image), model)


def test_integers_are_rounded(tmp_path: Path) -> None:
    model = make_model(schemes=("NoNormalization",))
    volume = read_volume(make_case(tmp_path, random_voxels("int16")), model)
    noise = noise_of(volume, 3.0)
    files = written(volume, noise, model)
    change = torch.from_numpy(stored(files[0]) - stored(volume.case.images[0])).permute(2, 1, 0)[None]
    assert torch.equal(change.float(), noise.round())


def test_integers_saturate_at_the_ends_of_their_type_not_of_the_image(tmp_path: Path) -> None:
    voxels = random_voxels("uint8").clip(50, 200)
    model = make_model(schemes=("NoNormalization",))
    volume = read_volume(make_case(tmp_path, voxels), model)
    noise = torch.zeros_like(volume.image)
    noise[0, 0, 0, :3] = torch.tensor([30.0, 1000.0, -1000.0])
    voxels = stored(written(volume, noise, model)[0])
    assert voxels.dtype == np.uint8
    assert voxels[:3, 0, 0].tolist() == [int(volume.image[0, 0, 0, 0]) + 30, 255, 0]
    assert voxels.max() == 255


def test_float_volume_is_not_stored_as_uint8_with_identity_affine(tmp_path: Path) -> None:
    """A published harness stored its adversarial volumes like that."""
    voxels = random_voxels() - 100  # negative ones, too
    case, model = make_case(tmp_path, voxels, affine=OBLIQUE), make_model()
    volume = read_volume(case, model)
    noisy = nib.load(written(volume, noise_of(volume, 0.1), model)[0])
    assert noisy.get_data_dtype() == np.float32
    assert np.array_equal(noisy.affine, nib.load(case.images[0]).affine)
    assert not np.array_equal(noisy.affine, np.eye(4))
    assert noisy.get_fdata().min() < 0


@pytest.mark.parametrize("endianness", ["<", ">"])
def test_header_slope_and_intercept_stay(tmp_path: Path, endianness: str) -> None:
    case = make_case(tmp_path, random_voxels("int16"), affine=OBLIQUE)
    header = nib.Nifti1Header(endianness=endianness)
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(random_voxels("int16"), OBLIQUE, header)
    image.header.set_slope_inter(0.5, -20)
    image.header["descrip"] = b"scanner"
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(OBLIQUE, 1)
    image.set_sform(OBLIQUE, 2)
    nib.save(image, case.images[0])
    model = make_model(schemes=("NoNormalization",), spacing=(2, 1.5, 1))
    volume = read_volume(case, model)
    raw = stored(case.images[0])
    assert raw.min() < 50  # in raw units
    noise = torch.zeros_like(volume.image)
    noise[0, 3, 2, 1] = 4.0
    files = written(volume, noise, model)
    before, after = (nib.load(file) for file in (case.images[0], files[0]))
    for key in before.header:
        assert before.header[key].tobytes() == after.header[key].tobytes(), key
    assert after.header.endianness == before.header.endianness == endianness
    assert (after.dataobj.slope, after.dataobj.inter) == (0.5, -20)
    change = np.asarray(after.dataobj) - raw
    assert (change[1, 2, 3], np.count_nonzero(change)) == (4, 1)


def test_anisotropic_case_keeps_smooth_noise_and_loses_white_noise(tmp_path: Path) -> None:
    model = make_model(spacing=(3, 0.6, 0.6))
    volume = read_volume(make_case(tmp_path, random_voxels(), affine=np.diag([1.2, 1.2, 3, 1])), model)
    assert volume.image.shape == (1, 8, 24, 20)

    def survives(noise: torch.Tensor) -> float:
        again = reread(volume, written(volume, noise, model), model)
        found = (again.image * again.scale[0] - volume.image * volume.scale[0]) / volume.scale[0]
        return float((found - found.mean()).norm() / (noise - noise.mean()).norm())

    white = noise_of(volume, 0.5)
    smooth = torch.from_numpy(gaussian_filter(white.numpy(), (0, 0, 3, 3)))
    assert survives(white) < 0.7
    assert survives(smooth) == pytest.approx(1, abs=0.03)


def test_two_dimensional_configuration(tmp_path: Path) -> None:
    affine = np.diag([0.6, 0.6, 3, 1])
    model = make_model(spacing=(1.2, 1.2))
    volume = read_volume(make_case(tmp_path, random_voxels(), affine=affine), model)
    assert volume.image.shape == (1, 8, 6, 5)
    noise = torch.zeros_like(volume.image)
    noise[:, 3] = 1
    change = stored(written(volume, noise, model)[0]) - stored(volume.case.images[0])
    assert change[..., 3] == pytest.approx(volume.scale[0], rel=1e-4)
    assert not np.delete(change, 3, axis=2).any()


def test_transposed_cropped_channels(tmp_path: Path) -> None:
    channels = [random_voxels(seed=1), 10 * random_voxels(seed=2)]
    for voxels in channels:
        voxels[:2], voxels[:, -3:], voxels[..., :1] = 0, 0, 0
    case = make_case(tmp_path, *channels, affine=OBLIQUE)
    model = make_model(schemes=("ZScoreNormalization",) * 2, spacing=(1.5, 2, 1), transpose=(1, 0, 2))
    volume = read_volume(case, model)
    assert volume.image.shape == (2, 9, 7, 8)  # (Y, Z, X) less what is zero
    noise = noise_of(volume, 0.5)
    files = written(volume, noise, model)
    for number, (file, raw) in enumerate(zip(files, case.images, strict=True)):
        change = (stored(file) - stored(raw))[2:, :-3, 1:].transpose(1, 2, 0)
        assert np.allclose(change, noise[number] * volume.scale[number], atol=1e-3)
        outside = stored(file).copy()
        outside[2:, :-3, 1:] = 0
        assert not outside.any()
    again = reread(volume, files, model)
    for channel in (0, 1):
        changed = (volume.image + noise)[channel]
        expected = (changed - changed.mean()) / changed.std(correction=0)
        assert torch.allclose(again.image[channel], expected, atol=1e-4)


def test_mask_for_normalisation(tmp_path: Path) -> None:
    voxels = random_voxels()
    voxels[:4, :4] = 0
    model = make_model(masked=True)
    volume = read_volume(make_case(tmp_path, voxels), model)
    outside = torch.from_numpy((voxels == 0).transpose(2, 1, 0).copy())
    assert np.array_equal(volume.mask, ~outside)
    assert volume.scale == pytest.approx((voxels[voxels > 0].std(),), rel=1e-5)
    assert not volume.image[0][outside].any()  # although the label lies there, too: a prediction does not know it
    noise = noise_of(volume, 0.5)
    files = written(volume, noise, model)
    assert not stored(files[0])[voxels == 0].any()
    again = reread(volume, files, model)
    changed = (volume.image + noise)[0][~outside]
    expected = (changed - changed.mean()) / changed.std(correction=0)
    assert torch.allclose(again.image[0][~outside], expected, atol=1e-4)


def test_reorienting_reader(tmp_path: Path) -> None:
    model = make_model(reader="NibabelIOWithReorient", schemes=("NoNormalization",), spacing=(2, 1, 1.5))
    case = make_case(tmp_path, random_voxels(), affine=OBLIQUE)
    volume = read_volume(case, model)
    noise = noise_of(volume, 5.0)
    files = written(volume, noise, model)
    again = reread(volume, files, model)
    assert torch.allclose(again.image, volume.image + noise, atol=1e-3)
    assert np.array_equal(nib.load(files[0]).affine, nib.load(case.images[0]).affine)


def test_other_formats_go_through_simple_itk(tmp_path: Path) -> None:
    case = make_case(tmp_path, random_voxels("int16"), affine=OBLIQUE)
    raw = tmp_path / "case_0000.mha"
    sitk.WriteImage(sitk.ReadImage(str(case.images[0])), str(raw))
    model = make_model(schemes=("NoNormalization",), spacing=(2, 1.5, 1))
    volume = read_volume(Case("case", (raw,), case.label), model)
    noise, file = noise_of(volume, 5.0), tmp_path / "noisy_0000.mha"
    write_noisy(volume, noise, model, [file])
    before, after = sitk.ReadImage(str(raw)), sitk.ReadImage(str(file))
    assert after.GetPixelID() == before.GetPixelID()
    assert (after.GetDirection(), after.GetOrigin()) == (before.GetDirection(), before.GetOrigin())
    assert torch.equal(reread(volume, [file], model).image, volume.image + noise.round())
    write_map(np.ones(volume.label.shape), volume, tmp_path / "map.nii.gz")
    assert sitk.ReadImage(str(tmp_path / "map.nii.gz")).GetSize() == before.GetSize()


def test_refuses_what_does_not_fit(tmp_path: Path) -> None:
    model = make_model()
    volume = read_volume(make_case(tmp_path, random_voxels()), model)
    with pytest.raises(ValueError, match=r"noise of shape \(1, 2, 2, 2\) into 1 files does not fit case"):
        write_noisy(volume, torch.zeros(1, 2, 2, 2), model, [tmp_path / "a.nii.gz"])
    with pytest.raises(ValueError, match="is the raw image itself"):
        write_noisy(volume, torch.zeros_like(volume.image), model, volume.case.images)


def test_target_of_classes_with_ignore_label(tmp_path: Path) -> None:
    voxels = random_voxels()
    voxels[0, 0, 0] = 0
    case = make_case(tmp_path, voxels)
    model = make_model(labels={"background": 0, "one": 1, "ignore": 2})
    volume = read_volume(case, model)
    assert volume.target.dtype == torch.long
    assert np.array_equal(volume.target[0], stored(case.label).T)
    assert np.array_equal(volume.label, stored(case.label).T)


@pytest.mark.parametrize("ignore", [False, True])
def test_target_of_regions(tmp_path: Path, ignore: bool) -> None:
    case = make_case(tmp_path, random_voxels())
    label = stored(case.label).copy()
    label[0] = 3
    nib.save(nib.Nifti1Image(label, np.eye(4)), case.label)
    labels: dict[str, Any] = {"background": 0, "both": [1, 2], "second": 2}
    model = make_model(labels={**labels, "ignore": 3} if ignore else labels)
    target = read_volume(case, model).target
    expected = [np.isin(label.T, values) for values in ([1, 2], [2], *([[3]] if ignore else []))]
    assert np.array_equal(target, np.stack(expected))
    truth, valid = model.labels.read(target[None], 2)
    foreground = model.labels.foreground(truth, valid, 2)
    assert truth.shape == foreground.shape == (1, 2, label.size)
    assert (valid is not None) == ignore


def test_segmentation_and_label_map_lie_in_the_raw_space(tmp_path: Path) -> None:
    voxels = random_voxels()
    voxels[:2] = 0
    case = make_case(tmp_path, voxels, affine=OBLIQUE)
    model = make_model(spacing=(1, 1.5, 2), transpose=(2, 1, 0))
    volume = read_volume(case, model)
    assert volume.target.shape == volume.image.shape == (1, 8, 12, 8)
    logits = torch.nn.functional.one_hot(volume.target[0], 3).permute(3, 0, 1, 2).float()
    label_map = segment(logits, volume, model)
    assert np.array_equal(label_map, volume.label)
    write_label_map(label_map, volume, model, tmp_path / "predicted.nii.gz")
    assert np.array_equal(stored(tmp_path / "predicted.nii.gz"), stored(case.label))
    assert np.allclose(nib.load(tmp_path / "predicted.nii.gz").affine, OBLIQUE)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIOWithReorient"])
def test_fragility_map(tmp_path: Path, reader: str) -> None:
    case, model = make_case(tmp_path, random_voxels("uint8"), affine=OBLIQUE), make_model(reader=reader)
    volume = read_volume(case, model)
    clean = volume.label
    weak, strong = clean.copy(), clean.copy()
    weak[clean == 1] = strong[clean == 1] = 0
    strong[clean == 2] = 0
    found = fragility(clean, {2.0: strong, 0.5: weak})
    assert found.dtype == np.float32
    assert np.array_equal(found, np.choose(clean, [0, 0.5, 2.0]))
    write_map(found, volume, tmp_path / "map.nii.gz")
    image = nib.load(tmp_path / "map.nii.gz")
    assert image.get_data_dtype() == np.float32
    assert np.array_equal(image.affine, nib.load(case.images[0]).affine)
    assert np.array_equal(stored(tmp_path / "map.nii.gz"), np.choose(stored(case.label), [0, 0.5, 2.0]))


def test_fragility_refuses() -> None:
    clean = np.zeros((2, 2, 2), np.uint8)
    assert not fragility(clean, {}).any()
    for attacked in ({0.0: clean}, {1.0: clean[:1]}):
        with pytest.raises(ValueError, match=r"expected maps of shape \(2, 2, 2\) at ε > 0"):
            fragility(clean, attacked)
