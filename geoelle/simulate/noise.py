"""Random fields that depend on a seed and a name alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from geoelle.provenance import seed_from

Field = NDArray[np.float32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def generator(seed: int, *name: object) -> np.random.Generator:
    """The generator of one named draw. A name each, so that adding a draw never changes another."""
    return np.random.Generator(np.random.PCG64(seed_from("geoelle.simulate", seed, *name)))


def power_law(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    beta: float,
    outer_px: float = 1e9,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> Field:
    """Gaussian noise whose power falls as frequency ** -beta: 0 is white, 3 is a smooth landscape.

    Mean 0, standard deviation 1. Below the frequency 1/`outer_px` the spectrum is flat; `stretch` (y, x) makes
    structures longer along an axis.
    """
    # Padding to fast lengths: a prime side would make the transform several times slower.
    ny, nx = (fft.next_fast_len(n, real=True) for n in shape)
    white = rng.standard_normal((ny, nx), dtype=np.float32)
    spectrum = fft.rfft2(white)
    fy = fft.fftfreq(ny).astype(np.float32)[:, None] * stretch[0]
    fx = fft.rfftfreq(nx).astype(np.float32)[None, :] * stretch[1]
    floor = max(1.0 / outer_px, 0.5 / max(ny, nx))
    gain = (fy**2 + fx**2 + np.float32(floor**2)) ** np.float32(-beta / 4)
    gain[0, 0] = 0.0
    field = fft.irfft2(spectrum * gain, s=(ny, nx))[: shape[0], : shape[1]]
    field = field - field.mean()
    return np.asarray(field / max(float(field.std()), 1e-12), dtype=np.float32)


def coarse_power_law(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    beta: float,
    step: int,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> Field:
    """`power_law` drawn on every `step`-th pixel and interpolated: for fields that are smooth at that scale."""
    small = (max(8, -(-shape[0] // step) + 1), max(8, -(-shape[1] // step) + 1))
    return enlarge(power_law(small, rng, beta=beta, stretch=stretch), shape, step)


def enlarge(small: Field, shape: tuple[int, int], step: int) -> Field:
    """Bilinear enlargement by `step`, cut to `shape`."""
    zoomed = ndimage.affine_transform(
        small, np.array([1.0 / step, 1.0 / step]), output_shape=shape, order=1, mode="nearest", output=np.float32
    )
    return np.asarray(zoomed, dtype=np.float32)


def mix(*parts: NDArray[np.integer] | int) -> NDArray[np.uint64]:
    """A 64-bit hash of integer arrays, element by element (SplitMix64): the same lattice cell, the same number."""
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            word = np.asarray(part).astype(np.int64).view(np.uint64) if np.ndim(part) else np.uint64(int(part) % 2**64)
            state = (state ^ word) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state, dtype=np.uint64)


def uniform(*parts: NDArray[np.integer] | int) -> NDArray[np.float64]:
    """`mix` as numbers in [0, 1)."""
    return (mix(*parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53
