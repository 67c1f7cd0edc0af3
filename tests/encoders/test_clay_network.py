"""Clay's network against numbers of Clay's own code, with the traps that would change them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clay_upstream import CHECKPOINT, LONLAT, TIMES, Upstream, difference
from torch import Tensor
from torch.nn import functional as F

from geoelle.encoders.clay import N_PARAMETERS
from geoelle.encoders.clay_model import ClayConfig, ClayNetwork, ground_positions, time_place_codes
from geoelle.encoders.moments import moments

pytestmark = [pytest.mark.models, pytest.mark.shared]
SAME, OTHER = 1e-5, 1e-2


@pytest.fixture(scope="module")
def upstream(shared_data: Path) -> Upstream:
    return Upstream(shared_data.parent / "encoders" / "clay")


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def hidden_mean(errors: Tensor, hidden: Tensor) -> Tensor:
    """The loss per chip of errors and masks (chip, token)."""
    return (errors * hidden).sum(dim=1) / hidden.sum(dim=1)


def test_embeddings_are_upstreams(upstream: Upstream) -> None:
    encoded = upstream.network.encode(upstream.inputs)
    assert encoded.cls is not None
    assert difference(encoded.cls, upstream.data["emb_cls"]) < SAME
    assert difference(encoded.tokens.mean(dim=1), upstream.data["emb_mean_patch"]) < SAME
    assert difference(upstream.network.pool(encoded, "cls"), upstream.data["emb_cls"]) < SAME
    assert difference(upstream.network.pool(encoded, "mean"), upstream.data["emb_mean_patch"]) < SAME


def test_masked_pass_and_loss_are_upstreams(upstream: Upstream) -> None:
    data, hidden = upstream.data, upstream.hidden
    cls, pixels = upstream.network.reconstruct(upstream.inputs, hidden[:, None])
    assert difference(cls[:, 0], data["emb_cls_masked"]) < SAME
    assert difference(pixels[:, 0], data["pred"]) < SAME
    loss = hidden_mean(upstream.network.patch_errors(upstream.inputs, hidden[:, None])[:, 0], hidden)
    assert difference(loss, data["loss_l1"]) < SAME
    assert difference(loss.mean(), data["loss_batch"]) < SAME


def test_the_smallest_noise_is_hidden(upstream: Upstream) -> None:
    masked, hidden = upstream.data["masked_idx"], upstream.hidden
    assert torch.equal(hidden, upstream.data["mask"].bool())
    assert torch.equal(hidden.nonzero()[:, 1].reshape(masked.shape), masked.sort(dim=1).values)
    others = ClayNetwork.hidden_by(-upstream.data["noise"], 0.75)  # the largest, as in He et al.'s masked autoencoder
    assert not torch.equal(others, hidden)
    loss = hidden_mean(upstream.network.patch_errors(upstream.inputs, others[:, None])[:, 0], others)
    assert difference(loss, upstream.data["loss_l1"]) > SAME * 100


def test_the_mask_ratio_is_rounded_down() -> None:
    assert ClayNetwork.hidden_by(torch.rand(2, 9), 0.75).sum(dim=1).tolist() == [6, 6]


def test_the_loss_is_not_the_mean_square(upstream: Upstream) -> None:
    inputs, hidden = upstream.inputs, upstream.hidden
    _, pixels = upstream.network.reconstruct(inputs, hidden[:, None])
    target = upstream.network.target(inputs.pixels[:, 0])
    square = hidden_mean(((pixels[:, 0] - target) ** 2).mean(dim=2), hidden)
    assert difference(square, upstream.data["loss_mse_variant"]) < SAME
    assert difference(square, upstream.data["loss_l1"]) > OTHER


def test_the_term_left_out_is_the_teachers(upstream: Upstream) -> None:
    """With it, the training loss would be 0.9 of ours and 0.1 of this: what `own-partial` on the card stands for."""
    cls, _ = upstream.network.reconstruct(upstream.inputs, upstream.hidden[:, None])
    shown = F.linear(cls[:, 0], upstream.state["proj.weight"], upstream.state["proj.bias"])
    distance = 1 - F.cosine_similarity(shown, upstream.data["teacher_target"], dim=1)
    assert difference(distance, upstream.data["rep_loss"]) < SAME


def test_wavelengths_are_micrometres(upstream: Upstream) -> None:
    inputs = upstream.inputs
    nanometres = upstream.network.encode(replace(inputs, wavelength_um=inputs.wavelength_um * 1000))
    assert difference(nanometres.cls, upstream.data["emb_cls"]) > OTHER


def test_pixel_size_time_and_place_are_told(upstream: Upstream) -> None:
    inputs, expected = upstream.inputs, upstream.data["emb_cls"]
    swapped = replace(inputs, lonlat=inputs.lonlat.flip(1))
    for other in (replace(inputs, gsd_m=20.0), swapped, replace(inputs, when=inputs.when + 6)):
        found = upstream.network.encode(other).cls
        assert found is not None
        assert difference(found[:3], expected[:3]) > SAME * 100


def test_time_and_place_codes_by_hand(upstream: Upstream) -> None:
    codes = time_place_codes(torch.from_numpy(moments(TIMES[:, None])), torch.from_numpy(LONLAT))
    assert difference(codes[:, :4], upstream.data["time"]) < 1e-6
    assert difference(codes[:, 4:], upstream.data["latlon"]) < 1e-6
    # Week 27 at 10:59, which is told as 10 h; 48 N 11 E.
    when = torch.from_numpy(moments(np.array([["2021-07-05T10:59"]], dtype="datetime64[ns]")))
    found = time_place_codes(when, torch.tensor([[11.0, 48.0]], dtype=torch.float64))[0]
    week, hour, latitude, longitude = 27 / 52 * 2 * math.pi, 10 / 24 * 2 * math.pi, math.radians(48), math.radians(11)
    expected = [f(x) for x in (week, hour, latitude, longitude) for f in (math.sin, math.cos)]
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("unknown", ["time", "place"])
def test_what_is_unknown_is_zero_and_the_rest_is_told(unknown: str) -> None:
    when = torch.full((1, 1, 4), float("nan") if unknown == "time" else 5.0)
    lonlat = torch.tensor([[11.0, float("nan") if unknown == "place" else 48.0]])
    time, place = time_place_codes(when, lonlat).split(4, dim=1)
    assert bool((time == 0).all()) == (unknown == "time")
    assert bool((place == 0).all()) == (unknown == "place")


def test_positions_by_hand() -> None:
    found = ground_positions(3, 16, 10.0, torch.device("cpu"))
    omega = [10 * 10000 ** (-2 * (i / 3) / 16) for i in range(4)]
    x, y = 2, 1  # the patch in row 1, column 2
    expected = [f(at * w) for at in (x, y) for f in (math.sin, math.cos) for w in omega]
    np.testing.assert_allclose(found[3 * y + x], expected, atol=1e-6)


def test_masks_together_are_as_one_by_one(upstream: Upstream) -> None:
    inputs = upstream.inputs
    noise = torch.rand(3, 4, 64, generator=torch.Generator().manual_seed(0))
    hidden = torch.stack([ClayNetwork.hidden_by(one, 0.75) for one in noise], dim=1)
    together = upstream.network.patch_errors(inputs, hidden)
    assert together.shape == (4, 3, 64)
    for k in range(3):
        assert difference(upstream.network.patch_errors(inputs, hidden[:, k : k + 1])[:, 0], together[:, k]) < SAME
    one = upstream.network.patch_errors(inputs.select(slice(2, 3)), hidden[2:3])
    assert difference(one[0], together[2]) < SAME


def test_no_band_is_ever_dropped(upstream: Upstream) -> None:
    """Upstream's whole forward pass drops bands at random, in evaluation too, once a place is known."""
    inputs, hidden = upstream.inputs, upstream.hidden[:, None]
    assert inputs.lonlat[:3].isfinite().all()
    first = upstream.network.patch_errors(inputs, hidden)
    embedding = upstream.network.encode(inputs).cls
    assert embedding is not None
    for _ in range(40):
        assert torch.equal(upstream.network.patch_errors(inputs, hidden), first)
    for band in range(10):
        pixels = inputs.pixels.clone()
        pixels[:, :, band] += 1.0
        changed = replace(inputs, pixels=pixels)
        assert difference(upstream.network.encode(changed).cls, embedding) > SAME
        assert difference(upstream.network.patch_errors(changed, hidden), first) > SAME


def test_layers_are_the_blocks_raw_outputs(upstream: Upstream) -> None:
    network, inputs = upstream.network, upstream.inputs
    seen: list[Tensor] = []
    hook = network.encoder.transformer.layers[1][0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoded = network.encode(inputs, (1, 0))
    hook.remove()
    last, first = encoded.layers
    assert first.shape == last.shape == (4, 1 + 64, 72)
    assert torch.equal(first, seen[0])  # what the first block gives is what the second one takes
    normed = network.encoder.transformer.norm(last)
    assert torch.equal(normed[:, 0], encoded.cls)
    assert torch.equal(normed[:, 1:], encoded.tokens)


@pytest.mark.parametrize("side_px", [8, 24, 40])
def test_any_square_chip_of_whole_patches_is_taken(side_px: int, upstream: Upstream) -> None:
    inputs = replace(upstream.inputs, pixels=upstream.inputs.pixels[..., :side_px, :side_px])
    rows = side_px // 8
    assert upstream.network.token_shape(1, side_px) == (1, rows, rows)
    encoded = upstream.network.encode(inputs)
    assert encoded.tokens.shape == (4, rows * rows, 72)
    assert encoded.tokens.isfinite().all()


def test_the_published_names_and_shapes(upstream: Upstream, shared_data: Path) -> None:
    content = json.loads((shared_data.parent / "encoders" / "clay" / "v15_large.keys.json").read_text())
    published = {name.removeprefix(content["lightning_prefix"]): shape for name, shape in content["keys"].items()}
    kept = {name: tuple(shape) for name, shape in published.items() if not name.startswith(CHECKPOINT.drop)}
    with torch.device("meta"):
        network = ClayNetwork(ClayConfig())
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert ours == kept
    assert {name.split(".")[0] for name in set(published) - set(kept)} == {"teacher", "proj"}
    assert sum(math.prod(shape) for shape in ours.values()) == N_PARAMETERS
    assert [name for name in upstream.state if not name.startswith(CHECKPOINT.drop)] == [
        name for name in upstream.network.state_dict()
    ]
