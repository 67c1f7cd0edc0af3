"""geoelle's `embed` beside a bare PyTorch loop over the same network in the same run; and what bf16 does.

Run with `pytest -m bench -s tests/benchmarks/test_encoder_speed.py`. GEOELLE_BENCH_ENCODERS names others than the
vision transformers of two sizes that are timed by default, for example `clay-v1.5 presto`; GEOELLE_BENCH_DEVICE a GPU.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from geoelle.encoders import register, unregister

pytest.importorskip("torch")
import timm_vit

pytestmark = [pytest.mark.bench, pytest.mark.models]
NAMES = os.environ.get("GEOELLE_BENCH_ENCODERS", "timm-vit:small timm-vit:base").split()
DEVICE = os.environ.get("GEOELLE_BENCH_DEVICE", "cpu")
THREADS = int(os.environ.get("GEOELLE_BENCH_THREADS", os.cpu_count() or 1))


@pytest.fixture(scope="module")
def timing() -> Iterator[ModuleType]:
    """pipelines/encoder_timing.py as a module, and the transformers registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "pipelines"))
        register("timm-vit", card=timm_vit.card, factory="timm_vit:load", variants=("small",))
        yield importlib.import_module("encoder_timing")
        unregister("timm-vit")


@pytest.mark.parametrize("name", NAMES)
def test_beside_a_bare_loop(timing: ModuleType, name: str) -> None:
    found = timing.measure(name, DEVICE, THREADS, "here", None)
    print(f"\n{name}: {found.gflop:.3g} GFLOP a chip of {found.chip_px} px")
    if found.gpu is not None:
        gpu = found.gpu
        print(f"  {gpu.where}: {gpu.chips_per_s:.0f} chips/s, {gpu.share_of_peak:.0%} of the peak, batch {gpu.batch}")
        print(f"  {gpu.ratio:.3f} of a bare loop (target {timing.TARGET})")
    if found.cpu is not None:
        cpu = found.cpu
        print(f"  {cpu.embed_ms:.1f} ms a chip on {cpu.threads} thread(s), batch {cpu.batch}; loss {cpu.loss_ms} ms")
        print(f"  {cpu.ratio:.3f} of a bare loop (target {timing.TARGET})")
        if cpu.bf16 is not None:
            print(f"  bf16: {cpu.bf16_speed:.2f} times as fast; {cpu.bf16}")
