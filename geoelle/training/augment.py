"""Augmentation of a batch: flips, quarter turns and random (resized) crops in one resampling, then the light."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NATIVE_SHARE = 0.5
"""Share of crops taken at the data's own resolution; resampled ones alone would teach a smoother texture."""

ZOOM = (0.75, 1.3)
"""Range of the crop's edge relative to the output's edge, for the crops that are resampled."""

RADIOMETRY_SHARE = 0.5
"""Share of chips whose light is changed; the others keep what the satellite saw."""

NOISE_SHARE = 0.15


def random_crops(chips: Tensor, out_px: int, generator: torch.Generator) -> Tensor:
    """Draw one crop per chip, flipped and turned at random.

    Args:
        chips: (chip, band, y, x), square.
        out_px: Edge of the crops, at most that of the chips.
        generator: Source of the draws (on the CPU, so that a seed means the same on every device).

    Returns:
        (chip, band, out_px, out_px). Native crops keep their pixels' values up to rounding.
    """
    n, _, in_px, _ = chips.shape
    native = torch.rand(n, generator=generator) < NATIVE_SHARE
    zoom = torch.empty(n).uniform_(*ZOOM, generator=generator)
    edge = torch.where(native, torch.tensor(float(out_px)), (zoom * out_px).clamp(max=float(in_px)))
    slack = in_px - edge
    corner = torch.rand((n, 2), generator=generator) * (slack[:, None] + native[:, None])
    corner = torch.where(native[:, None], corner.floor(), corner).minimum(slack[:, None])
    centre = (corner + edge[:, None] / 2) / in_px * 2 - 1
    scale = edge / in_px
    sign = torch.randint(0, 2, (n, 2), generator=generator).float() * 2 - 1
    turned = torch.randint(0, 2, (n,), generator=generator).bool()
    theta = torch.zeros(n, 2, 3)
    # Rows of theta give the input's x and y; swapping which output axis feeds which is the transpose.
    theta[:, 0, 0] = torch.where(turned, 0.0, scale * sign[:, 0])
    theta[:, 0, 1] = torch.where(turned, scale * sign[:, 0], 0.0)
    theta[:, 1, 0] = torch.where(turned, scale * sign[:, 1], 0.0)
    theta[:, 1, 1] = torch.where(turned, 0.0, scale * sign[:, 1])
    theta[:, :, 2] = centre
    grid = F.affine_grid(theta.to(chips.device), [n, chips.shape[1], out_px, out_px], align_corners=False)
    return F.grid_sample(chips, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def random_visible(n: int, n_tokens: int, mask_ratio: float, generator: torch.Generator) -> Tensor:
    """Draw the visible tokens of `n` chips: (n, n_tokens - int(mask_ratio x n_tokens)) int64, ascending."""
    n_hidden = int(mask_ratio * n_tokens)
    order = torch.rand((n, n_tokens), generator=generator).argsort(dim=1)
    return order[:, n_hidden:].sort(dim=1).values


def random_radiometry(pixels: Tensor, wavelengths: Tensor, generator: torch.Generator) -> Tensor:
    """Change the light of half of the chips: gain, gamma, haze, a little gain of every band, noise.

    Args:
        pixels: (chip, band, y, x), reflectance.
        wavelengths: (band,), micrometres; haze falls with them.
        generator: Source of the draws.
    """
    n, bands = pixels.shape[:2]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape).uniform_(low, high, generator=generator)

    touched = torch.rand((n, 1, 1, 1), generator=generator) < RADIOMETRY_SHARE
    noisy = torch.rand((n, 1, 1, 1), generator=generator) < NOISE_SHARE
    gain = uniform(0.8, 1.25, 1, 1, 1) * uniform(0.93, 1.07, bands, 1, 1)
    gamma = uniform(0.9, 1.1, 1, 1, 1)
    haze = uniform(-0.03, 0.06, 1, 1, 1) * (wavelengths / 0.493).pow(-2)[None, :, None, None]
    # Gamma turns about a reflectance of 0.2, so that it bends and hardly brightens.
    changed = (pixels.clamp(min=1e-4) / 0.2).pow(gamma) * 0.2 * gain + haze + uniform(-0.005, 0.005, bands, 1, 1)
    result = torch.where(touched, changed.clamp(min=0.0), pixels)
    noise = torch.randn(pixels.shape, generator=generator) * uniform(0.0, 0.004, 1, 1, 1)
    return torch.where(noisy, (result + noise).clamp(min=0.0), result)
