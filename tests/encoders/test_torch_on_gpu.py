"""On a real GPU: equal to the CPU, coarser formats differ by their rounding, a full memory halves the batch."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from small_networks import SIZE, SmallNetwork, small_batch, small_encoder

from geoelle.encoders.network import Encoded, Inputs

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU; docs/unverified.md"),
]


def test_float32_is_that_of_the_cpu() -> None:
    batch = small_batch(37, steps=2)
    cpu, gpu = small_encoder(), small_encoder(device="cuda", batch=8)
    masks = cpu.fixed_masks(batch.chip_id, 3, SIZE, n_steps=2)
    assert gpu.device.type == "cuda"
    near = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(gpu.embed(batch), cpu.embed(batch), **near)
    np.testing.assert_allclose(gpu.embed_tokens(batch), cpu.embed_tokens(batch), **near)
    np.testing.assert_allclose(gpu.patch_losses(batch, masks), cpu.patch_losses(batch, masks), **near)
    assert gpu.embed(batch).tobytes() == gpu.embed(batch).tobytes()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_coarser_formats_differ_by_their_rounding(precision: str) -> None:
    batch = small_batch(9)
    exact = small_encoder().embed(batch)
    found = small_encoder(device="cuda", precision=precision).embed(batch)
    assert 1e-6 < np.abs(found - exact).max() < 0.1


def test_full_memory_halves_the_batch() -> None:
    class Hungry(SmallNetwork):
        """Takes a tenth of the GPU's memory for every chip."""

        def encode(self, inputs: Inputs, layers: tuple[int, ...] = ()) -> Encoded:
            tenth = torch.cuda.get_device_properties(inputs.pixels.device).total_memory // 10
            _ = torch.empty(len(inputs.pixels) * tenth, dtype=torch.uint8, device=inputs.pixels.device)
            return super().encode(inputs, layers)

    encoder = small_encoder(Hungry(), device="cuda")
    batch = small_batch(20)
    np.testing.assert_allclose(encoder.embed(batch), small_encoder().embed(batch), rtol=1e-4, atol=1e-4)
    assert encoder.batch_size in (4, 8)


def test_it_pickles_from_a_gpu() -> None:
    encoder = small_encoder(device="cuda")
    batch = small_batch(4)
    again = pickle.loads(pickle.dumps(encoder))
    assert again.device == encoder.device
    assert again.embed(batch).tobytes() == encoder.embed(batch).tobytes()
