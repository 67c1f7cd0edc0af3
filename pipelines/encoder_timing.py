"""How fast an encoder is on this machine, beside a bare PyTorch loop over the same network; for encoder_table.py."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geoelle.encoders import get_card, load_encoder
from geoelle.encoders.inputs import EIGHT_BIT
from geoelle.encoders.precision import RoundingEffect, rounding_effect
from geoelle.records import ChipBatch, EncoderCard

ROUND_S = 2.0
"""About as long as one round of one contestant takes."""
ROUNDS = 5
GPU_WARM_UP = 3
TARGET = 0.95
"""Of the bare loop's chips a second."""


@dataclass(frozen=True, slots=True)
class OnGpu:
    """Figures of one GPU, under bf16."""

    where: str
    chips_per_s: float
    share_of_peak: float
    """Operations of the network a second, over those of a large bf16 matrix product in the same run."""
    ratio: float
    """Chips a second over those of a bare loop on tensors that are ready on the GPU."""
    batch: int


@dataclass(frozen=True, slots=True)
class OnCpu:
    """Figures of one processor."""

    where: str
    threads: int
    batch: int
    embed_ms: float
    """Per chip."""
    loss_ms: float | None
    """Per chip and mask; None where there is no loss."""
    ratio: float
    """Chips a second over those of a bare PyTorch loop on tensors that are ready."""
    bf16_speed: float | None
    """Times as fast under bf16; None where it was not run."""
    bf16: RoundingEffect | None


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one encoder, fed as by default."""

    chip_px: int
    n_steps: int
    gflop: float
    """Operations to embed one chip, 10⁹, a multiply and an add counted apart."""
    cpu: OnCpu | None = None
    gpu: OnGpu | None = None


def random_batch(card: EncoderCard, n: int, *, seed: int = 0) -> ChipBatch:
    """Chips of noise at the level that the card names, in its units, at the first of its sizes."""
    rng = np.random.default_rng(seed)
    steps, size = card.n_steps[0], card.chip_sizes_px[0]
    mean, std = (np.array(part, dtype=np.float32)[:, None, None] / card.scale for part in (card.mean, card.std))
    pixels = mean + 0.5 * std * rng.standard_normal((n, steps, len(card.bands), size, size), dtype=np.float32)
    if card.sensor in EIGHT_BIT:
        pixels = np.clip(pixels, 0, 255)
    months = np.datetime64("2021-01-15T10:30", "ns") + np.arange(steps) * np.timedelta64(30, "D")
    return ChipBatch(
        sensor=card.sensor,
        units=card.units,
        bands=card.bands,
        pixels=(np.clip(pixels, *card.clip) if card.clip is not None else pixels).astype(np.float32),
        valid=np.ones((n, steps, size, size), dtype=bool),
        time=np.tile(months, (n, 1)),
        lonlat=np.stack([rng.uniform(-180, 180, n), rng.uniform(-60, 75, n)], axis=1),
        gsd_m=card.gsd_m,
        chip_id=np.array([f"noise-{i}" for i in range(n)]),
    )


def open_for_timing(name: str, **options: Any) -> Any:
    """The encoder at its official size; random weights where its own would have to be downloaded."""
    return load_encoder(name, **options, **({"random_seed": 0} if get_card(name).checkpoint else {}))


def bare_loop(encoder: Any, batch: ChipBatch, precision: str = "float32") -> Callable[[], None]:
    """What one would write without geoelle: the network over tensors that are ready, in pieces of the same size."""
    import torch

    from geoelle.encoders.torch_encoder import TorchEncoder

    if not isinstance(encoder, TorchEncoder):  # the compact encoder: its network in PyTorch, chip by chip
        plain = load_encoder(encoder.card.name, runtime="torch", threads=1)
        pixels, _ = plain._prepare(batch)
        return lambda: [plain._runtime.tokens(chip, None).mean(axis=0) for chip in pixels] and None

    from geoelle.encoders.torch_device import running_on

    size, network = encoder.batch_size, encoder.network
    inputs = [piece.inputs for piece in encoder._feed.pieces(batch, 0, size)]

    def loop() -> None:
        with running_on(encoder.device, precision, None):
            found = [network.pool(network.encode(part), encoder.card.pooling) for part in inputs]
            torch.cat([part.float() for part in found]).cpu()

    return loop


def seconds_of(
    *calls: Callable[[], object], rounds: int = ROUNDS, clock: Callable[[], float] = time.process_time
) -> list[list[float]]:
    """Seconds of each call in each round, turn by turn, so that what else the machine does meets all of them.

    On a processor they are its own, of all threads: what waits for other work of the machine is not counted.
    """
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, seconds in zip(calls, found, strict=True):
            start = clock()
            call()
            seconds.append(clock() - start)
    return found


def ratio_of(ours: list[float], bare: list[float]) -> float:
    """Chips a second of ours over bare: the median over the rounds, each of which ran both."""
    return statistics.median(b / a for a, b in zip(ours, bare, strict=True))


def gflop_per_chip(bare: Callable[[], None], n: int) -> float:
    """Operations of the network, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        bare()
    return float(counter.get_total_flops() / n / 1e9)


def chips_to_time(encoder: Any, card: EncoderCard) -> int:
    """How many chips take about `ROUND_S`, whole pieces of a batch if these are not longer."""
    one = random_batch(card, 1)
    encoder.embed(one)
    start = time.process_time()
    encoder.embed(one)
    n = int(ROUND_S / (time.process_time() - start)) + 1
    size = getattr(encoder, "batch_size", 1)
    return min(256, n if n < size else n // size * size)


def measure_cpu(name: str, threads: int, where: str) -> tuple[OnCpu, float]:
    """Figures on this processor, and operations per chip (10⁹)."""
    import torch

    card = get_card(name)
    torch.set_num_threads(threads)
    options = {"threads": threads, **({"device": "cpu"} if card.checkpoint else {})}
    encoder = open_for_timing(name, **options)
    batch = random_batch(card, chips_to_time(encoder, card))
    n = len(batch)
    bare = bare_loop(encoder, batch)
    bare()
    ours_s, bare_s = seconds_of(lambda: encoder.embed(batch), bare)
    loss_ms = _loss_ms(encoder, batch)
    gflop = gflop_per_chip(bare, n)
    size = getattr(encoder, "batch_size", 1)
    speed = effect = None
    if card.checkpoint:
        exact = encoder.embed(batch)
        del encoder, bare
        gc.collect()
        low = open_for_timing(name, **options, precision="bf16")
        effect = rounding_effect(exact, low.embed(batch))
        (low_s,) = seconds_of(lambda: low.embed(batch))
        speed = min(ours_s) / min(low_s)
    ratio = ratio_of(ours_s, bare_s)
    return OnCpu(where, threads, size, min(ours_s) / n * 1e3, loss_ms, ratio, speed, effect), gflop


def _loss_ms(encoder: Any, batch: ChipBatch) -> float | None:
    """Of one mask on one chip; None where there is no loss."""
    if encoder.card.loss_kind == "unavailable":
        return None
    masks = encoder.fixed_masks(batch.chip_id, 1, batch.pixels.shape[-1], n_steps=batch.pixels.shape[1])
    encoder.pretraining_loss(batch, masks)
    (seconds,) = seconds_of(lambda: encoder.pretraining_loss(batch, masks), rounds=3)
    return min(seconds) / len(batch) * 1e3


def measure_gpu(name: str, device: str) -> tuple[OnGpu, float]:
    """Figures on a GPU, and operations per chip (10⁹)."""
    import torch

    card = get_card(name)
    encoder = open_for_timing(name, device=device, precision="bf16")
    batch = random_batch(card, 4 * encoder.batch_size)
    for _ in range(GPU_WARM_UP):
        encoder.embed(batch)
    bare = bare_loop(encoder, batch, "bf16")
    bare()
    ours_s, bare_s = seconds_of(lambda: encoder.embed(batch), bare, rounds=11, clock=time.perf_counter)
    gflop = gflop_per_chip(bare, len(batch))
    chips_per_s = len(batch) / statistics.median(ours_s)
    return OnGpu(
        torch.cuda.get_device_name(encoder.device), chips_per_s, chips_per_s * gflop * 1e9 / peak_flops(encoder.device),
        ratio_of(ours_s, bare_s), encoder.batch_size,
    ), gflop  # fmt: skip


def peak_flops(device: Any) -> float:
    """Operations a second of a large bf16 matrix product of random numbers: what the card gives, not what it says."""
    import torch

    n = 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(12):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(10):
            torch.mm(a, b)
        torch.cuda.synchronize(device)
        seconds.append((time.perf_counter() - start) / 10)
    return 2 * n**3 / statistics.median(seconds[2:])


def measure(name: str, device: str, threads: int, where: str, before: Measured | None) -> Measured:
    """Figures of one encoder on one device; those of the other device are kept."""
    card = get_card(name)
    kept = before or Measured(card.chip_sizes_px[0], card.n_steps[0], 0.0)
    kept = replace(kept, chip_px=card.chip_sizes_px[0], n_steps=card.n_steps[0])
    if device == "cpu":
        cpu, gflop = measure_cpu(name, threads, where)
        return replace(kept, cpu=cpu, gflop=gflop)
    gpu, gflop = measure_gpu(name, device)
    return replace(kept, gpu=gpu, gflop=gflop)
