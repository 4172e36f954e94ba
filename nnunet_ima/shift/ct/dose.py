"""Quantum noise of a scan at a fraction of the dose.

Variance grows as the inverse of the dose, so that a scan at dose d needs additional noise of σ √(1/d - 1), with σ its
noise at full dose. σ is taken as 12 HU on average over the body in every slice, whatever the size of the patient: that
is what automatic exposure control holds. What is added resembles the noise of filtered back projection, which to
simulate (radon and its inverse) takes seconds for each slice of usual size:

- its spectrum rises with the frequency and falls with a kernel for soft tissue, in mm;
- rays along the rows of a slice decide over structure across the rows, and so do those along its columns; each of both
  parts is as strong as the rays that it stems from are attenuated, softened by a tube current that follows the
  attenuation. Between the shoulders noise is streaky, in air it is low.

Beside filtered back projection of an ellipse of 320 × 160 mm, the variance is right to a factor of 2 in its middle and
towards its edges. Slices are independent of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from nnunet_ima.shift.ct.slices import as_scan, find_body, lacks_hounsfield, pixel_edges, slices_first
from nnunet_ima.shift.disturbance import Disturbance, Parameters
from nnunet_ima.shift.draws import draw_seed
from nnunet_ima.shift.scan import Array, Scan

FULL_DOSE_NOISE = 12.0  # HU
WATER = 0.0193  # attenuation per mm at 70 keV
MODULATION = 0.5  # of a ray's attenuation, in the exponent: taken back by the current of the tube (Gies et al. 1999)
KERNEL = 0.55  # cycles per mm; the noise is strongest at half of it


def _draw(severity: float, scan: Scan, rng: Generator) -> Parameters:
    return {"dose": severity, "sigma": FULL_DOSE_NOISE * (1 / severity - 1) ** 0.5, "seed": draw_seed(rng)}


def _apply(scan: Scan, parameters: Mapping[str, Any]) -> Scan:
    rng = np.random.default_rng(parameters["seed"])
    slices = slices_first(scan).copy()
    edges = pixel_edges(scan)
    filters = noise_filters(slices.shape[2:], edges)
    for image in slices.reshape(-1, *slices.shape[2:]):
        image += parameters["sigma"] * unit_noise(image, edges, filters, rng)
    return as_scan(slices, scan)


def noise_filters(shape: tuple[int, ...], edges: tuple[float, float]) -> tuple[Array, Array]:
    """Filters of white noise, for structure across rows and for structure across columns.

    Args:
        shape: of a slice.
        edges: of a pixel, in mm.
    """
    vertical = np.fft.fftfreq(shape[0], edges[0])[:, None]
    horizontal = np.fft.rfftfreq(shape[1], edges[1])[None]
    frequency = np.hypot(vertical, horizontal)
    gain = np.sqrt(frequency) * np.exp(-((frequency / KERNEL) ** 2))
    across_rows = np.abs(vertical) > np.abs(horizontal)
    return gain * across_rows, gain * ~across_rows


def unit_noise(hounsfield: Array, edges: tuple[float, float], filters: tuple[Array, Array], rng: Generator) -> Array:
    """Noise of a slice (height, width) whose mean variance over the body is 1."""
    white = np.fft.rfft2(rng.standard_normal(hounsfield.shape))
    noise, variance = np.zeros(hounsfield.shape), np.zeros(hounsfield.shape)
    for part, strength in zip(filters, _ray_variances(hounsfield, edges), strict=True):
        noise += np.sqrt(strength) * np.fft.irfft2(white * part, hounsfield.shape)
        variance += strength * np.fft.irfft2(part**2, hounsfield.shape)[0, 0]  # what the filter leaves of white noise
    body = find_body(hounsfield)
    mean = variance[body].mean() if body.any() else variance.mean()
    unit: Array = noise / np.sqrt(mean or 1.0)
    return unit


def _ray_variances(hounsfield: Array, edges: tuple[float, float]) -> tuple[Array, Array]:
    """Variance of rays along each row (height, 1) and each column (1, width), relative to the largest."""
    attenuation = (1 - MODULATION) * WATER * np.clip(1 + hounsfield / 1000, 0, None)
    rows = attenuation.sum(1, keepdims=True) * edges[1]
    columns = attenuation.sum(0, keepdims=True) * edges[0]
    longest = max(rows.max(), columns.max())
    return np.exp(rows - longest), np.exp(columns - longest)


DOSE = Disturbance(
    name="dose",
    modalities=("CT",),
    changes="intensity",
    severities=(0.5, 0.25, 0.1, 0.05, 0.025),
    unit="of the full dose",
    reference="quarter dose: AAPM Low Dose CT Grand Challenge 2016; 12 HU: calibrated, a noise index for the abdomen",
    drawing=_draw,
    applying=_apply,
    lacking=lacks_hounsfield,
)
