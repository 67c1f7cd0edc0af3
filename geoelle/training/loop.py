"""Pretraining of the compact encoder: seeded, resumable to the bit, on a GPU where there is one.

Everything random in step i comes from a generator seeded with (seed, i), so a checkpoint holds no generator
state and a resumed run is the uninterrupted one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoelle.encoders.compact_model import CompactConfig, CompactMAE, hidden_mean
from geoelle.errors import ConfigError, WeightsError
from geoelle.provenance import seed_from
from geoelle.training.augment import random_crops, random_visible
from geoelle.training.data import RgbChips, band_statistics

TIMED_STEPS = 3
"""Steps per chip size that `steps_within` times, after one to warm up."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How to train: everything but the network's shape."""

    steps: int
    seed: int = 0
    batch: int = 128
    """Chips per step. At half the chip size each gives several crops, so that steps cost about the same."""
    learning_rate: float = 1.5e-3
    warmup_fraction: float = 0.05
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    checkpoint_every: int = 100


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a progress callback is told after a step."""

    step: int
    """Steps done, from 1."""
    steps: int
    chip_size_px: int
    loss: float
    learning_rate: float


OnStep = Callable[[StepReport], None]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained network with the normalisation of its pixels."""

    model: CompactMAE
    mean: tuple[float, ...]
    """Per band, of pixels scaled to 0 … 1."""
    std: tuple[float, ...]
    training: TrainingConfig
    n_chips: int


def pick_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine to zero; `step` counts from 0."""
    warmup = max(1, round(config.warmup_fraction * config.steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, config.steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def normalised(chips: RgbChips, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pixels (chip, band, y, x) scaled to 0 … 1 and standardised per band."""
    pixels = torch.from_numpy(np.ascontiguousarray(chips.pixels.transpose(0, 3, 1, 2))).float() / 255
    shape = (1, -1, 1, 1)
    return (pixels - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)


def _optimiser(model: CompactMAE, config: TrainingConfig) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.ndim == 2]
    other = [p for p in model.parameters() if p.ndim != 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": other, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))


def _batch_index(step: int, n: int, config: TrainingConfig) -> Tensor:
    """Chips of a step: consecutive pieces of one shuffle per epoch, running on across epochs."""
    positions = np.arange(step * config.batch, (step + 1) * config.batch)
    index = np.empty(len(positions), dtype=np.int64)
    for epoch in np.unique(positions // n):
        order = np.random.default_rng(seed_from(config.seed, "epoch", int(epoch))).permutation(n)
        here = positions // n == epoch
        index[here] = order[positions[here] % n]
    return torch.from_numpy(index)


def _one_step(
    model: CompactMAE, optimiser: torch.optim.AdamW, chips: Tensor, step: int, config: TrainingConfig, size: int
) -> float:
    generator = torch.Generator().manual_seed(seed_from(config.seed, "step", step) % 2**63)
    crops = max(1, max(model.config.chip_sizes_px) // size)
    batch = chips[_batch_index(step, len(chips), config)].repeat_interleave(crops, dim=0)
    pixels = random_crops(batch, size, generator)
    visible = random_visible(len(batch), model.config.n_tokens(size), model.config.mask_ratio, generator).to(
        chips.device
    )
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(step, config)
    loss = hidden_mean(model.patch_errors(pixels, visible), visible).mean()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
    optimiser.step()
    return float(loss.detach())


def _step_size(step: int, model: CompactMAE, config: TrainingConfig) -> int:
    sizes = model.config.chip_sizes_px
    return sizes[seed_from(config.seed, "size", step) % len(sizes)]


def steps_within(minutes: float, chips: RgbChips, shape: CompactConfig, config: TrainingConfig) -> int:
    """How many steps fit in `minutes` here, timed on a throw-away network."""
    torch.manual_seed(0)
    model = CompactMAE(shape).to(pick_device())
    optimiser = _optimiser(model, config)
    data = normalised(chips, *band_statistics(chips.pixels)).to(pick_device())
    seconds = 0.0
    for size in shape.chip_sizes_px:
        _one_step(model, optimiser, data, 0, config, size)
        start = perf_counter()
        for step in range(TIMED_STEPS):
            _one_step(model, optimiser, data, step, config, size)
        seconds += (perf_counter() - start) / TIMED_STEPS
    return max(1, int(minutes * 60 * len(shape.chip_sizes_px) / seconds))


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, tensors on the CPU.

    Raises:
        WeightsError: If it cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise WeightsError(f"{path} is no readable checkpoint ({error}). Delete it to train anew.") from error
    return state


def train(
    chips: RgbChips,
    shape: CompactConfig,
    config: TrainingConfig,
    *,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    stop_after: int | None = None,
) -> TrainedModel:
    """Train a compact encoder, or go on with one.

    Args:
        chips: Training chips; held-out ones must already be gone.
        shape: The network and its loss.
        config: Steps, seed, optimiser.
        checkpoint: File to write every `checkpoint_every` steps and at the end.
        resume: Go on from `checkpoint` where it exists.
        on_step: Called after every step.
        stop_after: Stop when this many steps are done, as an interruption would, with a checkpoint.

    Returns:
        The network in evaluation mode on the CPU, with its normalisation.

    Raises:
        ConfigError: If the checkpoint belongs to another network, configuration or set of chips.
        WeightsError: If the checkpoint is damaged.
    """
    device = pick_device()
    mean, std = band_statistics(chips.pixels)
    torch.manual_seed(seed_from(config.seed, "init") % 2**63)
    model = CompactMAE(shape).to(device)
    optimiser = _optimiser(model, config)
    identity = {"shape": shape.as_dict(), "training": asdict(config), "mean": list(mean), "std": list(std)}
    done = 0
    path = Path(checkpoint) if checkpoint is not None else None
    if resume and path is not None and path.exists():
        state = read_checkpoint(path)
        if state["identity"] != identity:
            changed = [key for key in identity if state["identity"].get(key) != identity[key]]
            raise ConfigError(
                f"{path} was written with another {' and '.join(changed)}. Expected {[identity[k] for k in changed]}. "
                "Use the same options to resume, or another --out."
            )
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        done = state["done"]
    data = normalised(chips, mean, std).to(device)
    model.train()
    last = config.steps if stop_after is None else min(stop_after, config.steps)
    for step in range(done, last):
        size = _step_size(step, model, config)
        loss = _one_step(model, optimiser, data, step, config, size)
        if on_step is not None:
            on_step(StepReport(step + 1, config.steps, size, loss, learning_rate(step, config)))
        if path is not None and ((step + 1) % config.checkpoint_every == 0 or step + 1 == last):
            _save(
                path,
                {
                    "identity": identity,
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "done": step + 1,
                },
            )
    return TrainedModel(model.cpu().eval(), mean, std, config, len(chips))
