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

import torch

from geoelle.encoders.compact_model import CompactConfig, CompactMAE, hidden_mean
from geoelle.errors import ConfigError, WeightsError
from geoelle.provenance import digest, seed_from
from geoelle.training.augment import random_visible
from geoelle.training.batches import Plan, Stock, draw_batch, normalise, plan_step, wavelengths_of
from geoelle.training.keeping import Kept
from geoelle.training.sources import RGB
from geoelle.training.starting import StartWeights, WholeStart, started

LEARNING_RATE = 1e-3
"""Peak of the learning rate, where no other is asked for."""

KEPT_CHIPS = 2000
"""Chips that the spread of the tokens to keep is taken from."""

TIMED_STEPS = 12
"""Steps that `steps_within` times, after one to warm up."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How to train: everything but the network's shape."""

    steps: int
    seed: int = 0
    batch: int = 128
    """Chips per step; twice as many at half the chip size."""
    learning_rate: float = LEARNING_RATE
    warmup_fraction: float = 0.05
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    checkpoint_every: int = 100
    keep: float = 0.0
    """Weight of staying with an earlier network (`keeping.Kept`), in place of the loss, on steps
    of red, green and blue at the pixel size that it knew; 0 trains on their loss too."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a progress callback is told after a step."""

    step: int
    """Steps done, from 1."""
    steps: int
    chip_size_px: int
    gsd_m: int
    bands: tuple[str, ...]
    loss: float
    learning_rate: float


OnStep = Callable[[StepReport], None]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained network with the normalisation of its pixels."""

    model: CompactMAE
    mean: tuple[float, ...]
    """Per band of `BANDS`, reflectance."""
    std: tuple[float, ...]
    training: TrainingConfig
    counts: dict[str, int]
    """Images per source of training."""
    start: str | None = None
    """sha256 of the weights that it was started from."""
    kept: str | None = None
    """sha256 of the weights whose answers it kept."""
    before: tuple[str, ...] = ()
    """Trainings that those it was started from came from, first to last."""


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


def _optimiser(model: CompactMAE, config: TrainingConfig) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.ndim == 2]
    other = [p for p in model.parameters() if p.ndim != 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": other, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))


def _one_step(
    model: CompactMAE,
    optimiser: torch.optim.AdamW,
    stock: Stock,
    plan: Plan,
    step: int,
    config: TrainingConfig,
    kept: Kept | None = None,
) -> float:
    device = next(model.parameters()).device
    pixels = draw_batch(stock, plan, config.seed, step, config.batch).to(device)
    generator = torch.Generator().manual_seed(seed_from(config.seed, "masks", step) % 2**63)
    n_tokens = model.config.n_tokens(plan.size_px)
    visible = random_visible(len(pixels), n_tokens, model.config.mask_ratio, generator).to(device)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(step, config)
    wavelengths, gsd_m = wavelengths_of(plan.bands).to(device), torch.tensor(float(plan.gsd_m), device=device)
    if kept is not None and not plan.multispectral and plan.gsd_m == model.config.gsd_m:
        loss = config.keep * kept.distance(model, pixels, wavelengths, gsd_m, visible)
    else:
        loss = hidden_mean(model.patch_errors(pixels, wavelengths, gsd_m, visible), visible).mean()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
    optimiser.step()
    return float(loss.detach())


def steps_within(minutes: float, stock: Stock, shape: CompactConfig, config: TrainingConfig) -> int:
    """How many steps fit in `minutes` here, timed on a throw-away network."""
    torch.manual_seed(0)
    model = CompactMAE(shape).to(pick_device())
    optimiser = _optimiser(model, config)
    start = perf_counter()
    for step in range(TIMED_STEPS + 1):
        if step == 1:
            start = perf_counter()  # the first one warms up
        plan = plan_step(config.seed, step, multispectral=bool(stock.multispectral))
        _one_step(model, optimiser, stock, plan, step, config)
    return max(1, int(minutes * 60 * TIMED_STEPS / (perf_counter() - start)))


def _kept(first: CompactMAE, stock: Stock) -> Kept:
    chips = stock.rgb.images[: min(KEPT_CHIPS, len(stock.rgb))]
    device = next(first.parameters()).device
    pixels = normalise(torch.from_numpy(chips), RGB, stock.mean, stock.std).to(device)
    return Kept(first, pixels, wavelengths_of(RGB).to(device), torch.tensor(first.config.gsd_m, device=device))


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
    stock: Stock,
    shape: CompactConfig,
    config: TrainingConfig,
    *,
    start: StartWeights | WholeStart | None = None,
    keep: StartWeights | WholeStart | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    stop_after: int | None = None,
) -> TrainedModel:
    """Train a compact encoder, or go on with one.

    Args:
        stock: Training imagery; what is held out must already be gone.
        shape: The network and its loss.
        config: Steps, seed, optimiser.
        start: Weights to begin with instead of random ones.
        keep: Weights whose answers on red, green and blue are kept where `config.keep` says so; None is `start`.
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
    model = started(shape, config.seed, start, stock).to(device)
    optimiser = _optimiser(model, config)
    kept = _kept(started(shape, config.seed, keep or start, stock).to(device), stock) if config.keep else None
    identity = {
        "shape": shape.as_dict(),
        "training": asdict(config),
        "stock": digest([stock.mean, stock.std, stock.counts]),
        "start": start.sha256 if start is not None else None,
        "keep": keep.sha256 if keep is not None else None,
    }
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
    model.train()
    last = config.steps if stop_after is None else min(stop_after, config.steps)
    for step in range(done, last):
        plan = plan_step(config.seed, step, multispectral=bool(stock.multispectral))
        loss = _one_step(model, optimiser, stock, plan, step, config, kept)
        if on_step is not None:
            rate = learning_rate(step, config)
            on_step(StepReport(step + 1, config.steps, plan.size_px, plan.gsd_m, plan.bands, loss, rate))
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
    first = (keep or start) if config.keep else None
    known = first.sha256 if first is not None else None
    sha256 = start.sha256 if start is not None else None
    before = start.trainings if isinstance(start, WholeStart) else ()
    return TrainedModel(model.cpu().eval(), stock.mean, stock.std, config, stock.counts, sha256, known, before)
