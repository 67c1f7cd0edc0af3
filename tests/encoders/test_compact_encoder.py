"""The compact encoder as shipped: both runtimes agree, chips do not see each other, gaps stay gaps, files are whole."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geoelle.encoders import Encoder, get_card
from geoelle.encoders.compact import CompactEncoder
from geoelle.encoders.compact_cards import WEIGHTS_FOLDER
from geoelle.errors import EncoderInputError, WeightsError
from geoelle.records import ChipBatch

MakeBatch = Callable[..., ChipBatch]

SIZES = (64, 32)


@pytest.mark.models
@pytest.mark.parametrize("size", SIZES)
def test_onnx_and_torch_agree(
    size: int, compact: CompactEncoder, compact_torch: CompactEncoder, make_batch: MakeBatch
) -> None:
    batch = make_batch(5, size)
    masks = compact.fixed_masks(batch.chip_id, 3, size)
    np.testing.assert_allclose(compact.embed(batch), compact_torch.embed(batch), atol=1e-5)
    np.testing.assert_allclose(compact.embed_tokens(batch), compact_torch.embed_tokens(batch), atol=1e-5)
    np.testing.assert_allclose(compact.patch_losses(batch, masks), compact_torch.patch_losses(batch, masks), atol=1e-5)
    np.testing.assert_allclose(
        compact.pretraining_loss(batch, masks), compact_torch.pretraining_loss(batch, masks), atol=1e-5
    )


@pytest.mark.parametrize("size", SIZES)
def test_shapes(size: int, compact: CompactEncoder, make_batch: MakeBatch) -> None:
    assert isinstance(compact, Encoder)
    batch = make_batch(2, size)
    side = size // compact.card.patch_px
    masks = compact.fixed_masks(batch.chip_id, 3, size)
    assert compact.embed(batch).shape == (2, compact.card.n_features)
    assert compact.embed(batch).dtype == np.float32
    assert compact.embed_tokens(batch).shape == (2, side, side, compact.card.n_features)
    assert compact.pretraining_loss(batch, masks).shape == (2, 3)
    assert compact.patch_losses(batch, masks).shape == (2, 3, side, side)
    empty = make_batch(0, size)
    assert compact.embed(empty).shape == (0, compact.card.n_features)
    assert compact.pretraining_loss(empty, masks[:0]).shape == (0, 3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_chip_does_not_depend_on_the_others(
    size: int, threads: int, compact: CompactEncoder, make_batch: MakeBatch
) -> None:
    batch = make_batch(11, size)
    masks = compact.fixed_masks(batch.chip_id, 4, size)
    embedding, loss = compact.embed(batch), compact.pretraining_loss(batch, masks)
    other = CompactEncoder(threads=threads)
    order = np.array([7, 0, 10, 3])
    np.testing.assert_array_equal(other.embed(batch.select(order)), embedding[order])
    np.testing.assert_array_equal(other.pretraining_loss(batch.select(order), masks[order, :3]), loss[order, :3])
    for i in (0, 10):
        np.testing.assert_array_equal(other.embed(batch.select(slice(i, i + 1)))[0], embedding[i])


def test_mean_pooling_is_the_mean_of_the_tokens(compact: CompactEncoder, make_batch: MakeBatch) -> None:
    if compact.card.pooling != "mean":
        pytest.skip("the shipped encoder pools by its class token")
    batch = make_batch(3)
    np.testing.assert_allclose(compact.embed(batch), compact.embed_tokens(batch).mean(axis=(1, 2)), atol=1e-5)


def test_patch_losses_are_nan_exactly_where_nothing_was_hidden(compact: CompactEncoder, make_batch: MakeBatch) -> None:
    batch = make_batch(3)
    masks = compact.fixed_masks(batch.chip_id, 2, 64)
    losses = compact.patch_losses(batch, masks)
    np.testing.assert_array_equal(np.isfinite(losses).reshape(masks.shape), masks)
    np.testing.assert_allclose(np.nanmean(losses, axis=(2, 3)), compact.pretraining_loss(batch, masks), rtol=1e-6)


def test_tokens_run_north_to_south_and_west_to_east(compact: CompactEncoder, make_batch: MakeBatch) -> None:
    batch = make_batch(1)
    changed = batch.pixels.copy()
    changed[0, 0, :, 8:16, 40:48] += 0.1  # patch row 1, patch column 5
    masks = np.ones((1, 1, 64), dtype=bool)
    masks[0, 0, :16] = False
    masks[0, 0, [13, 63]] = masks[0, 0, [63, 13]]
    masks = np.roll(masks, 16, axis=2)  # rows 2 and 3 seen, so the changed patch is hidden and alone differs
    before = compact.patch_losses(batch, masks)
    after = compact.patch_losses(replace(batch, pixels=changed), masks)
    assert [tuple(at) for at in np.argwhere(np.nan_to_num(before) != np.nan_to_num(after))] == [(0, 0, 1, 5)]


def test_pixels_are_clipped_to_what_training_saw(compact: CompactEncoder, make_batch: MakeBatch) -> None:
    batch = make_batch(1, pixels=np.full((1, 1, 3, 64, 64), 1.0, np.float32))
    brighter = make_batch(1, pixels=np.full((1, 1, 3, 64, 64), 1.4, np.float32))
    np.testing.assert_array_equal(compact.embed(batch), compact.embed(brighter))


def test_invalid_pixels_take_the_mean_whatever_they_hold(compact: CompactEncoder, make_batch: MakeBatch) -> None:
    batch = make_batch(1)
    valid = batch.valid.copy()
    valid[0, 0, :10, :20] = False
    holes = batch.pixels.copy()
    holes[0, 0, :, :10, :20] = np.nan
    marked = replace(batch, valid=valid)
    np.testing.assert_array_equal(compact.embed(marked), compact.embed(replace(batch, pixels=holes)))
    mean = np.array(compact.card.mean) / compact.card.scale
    filled = batch.pixels.copy()
    filled[0, 0, :, :10, :20] = mean[:, None, None]
    np.testing.assert_allclose(compact.embed(marked), compact.embed(replace(batch, pixels=filled)), atol=1e-5)


def test_invalid_patches_do_not_count_in_the_loss(compact: CompactEncoder, make_batch: MakeBatch) -> None:
    batch = make_batch(1)
    valid = batch.valid.copy()
    valid[0, 0, 3, 3] = False
    masks = compact.fixed_masks(batch.chip_id, 8, 64)
    assert masks[0, :, 0].any()
    losses = compact.patch_losses(replace(batch, valid=valid), masks)
    assert np.isnan(losses[0, :, 0, 0]).all()
    expected = masks.copy()
    expected[0, :, 0] = False
    np.testing.assert_array_equal(np.isfinite(losses).reshape(masks.shape), expected)


def test_chip_without_a_valid_pixel_is_nan(compact: CompactEncoder, make_batch: MakeBatch) -> None:
    batch = make_batch(2)
    valid = batch.valid.copy()
    valid[1] = False
    gap = replace(batch, valid=valid)
    masks = compact.fixed_masks(batch.chip_id, 2, 64)
    for found in (compact.embed(gap), compact.embed_tokens(gap), compact.pretraining_loss(gap, masks)):
        assert np.isfinite(found[0]).all()
        assert np.isnan(found[1]).all()


def test_encoder_pickles(compact: CompactEncoder, make_batch: MakeBatch) -> None:
    batch = make_batch(2)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(compact)).embed(batch), compact.embed(batch))


def test_shipped_files_are_small_and_hold_the_weights_once() -> None:
    sizes = {path.name: path.stat().st_size for path in WEIGHTS_FOLDER.iterdir() if path.is_file()}
    assert sum(sizes.values()) <= 25 * 2**20
    assert set(sizes) == {"card.json", "model.safetensors", "embed.onnx", "loss.onnx", "embed.int8.onnx"}
    assert sizes["embed.onnx"] + sizes["loss.onnx"] < 2**19
    assert sizes["embed.int8.onnx"] < sizes["model.safetensors"] / 3


def test_graphs_open_in_onnxruntime_as_they_are() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    for path in sorted(WEIGHTS_FOLDER.glob("*.onnx")):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        embeds = path.name.startswith("embed")
        assert [one.name for one in session.get_outputs()] == (["cls", "tokens", "layers"] if embeds else ["errors"])
        inputs = ["pixels", "wavelengths", "gsd_m"] + ([] if embeds else ["visible"])
        assert [one.name for one in session.get_inputs()] == inputs


@pytest.fixture
def copy_of_weights(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS_FOLDER, tmp_path / "weights"))


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_damaged_weights_are_refused(copy_of_weights: Path, runtime: str) -> None:
    weights = copy_of_weights / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match="sha256"):
        CompactEncoder(copy_of_weights, runtime=runtime)  # type: ignore[arg-type]


def test_damaged_graph_is_refused(copy_of_weights: Path, make_batch: MakeBatch) -> None:
    graph = copy_of_weights / "embed.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"embed\.onnx has sha256"):
        CompactEncoder(copy_of_weights).embed(make_batch(1))


@pytest.mark.parametrize("name", ["card.json", "model.safetensors"])
def test_missing_file_is_named(copy_of_weights: Path, name: str) -> None:
    (copy_of_weights / name).unlink()
    with pytest.raises(WeightsError, match=name):
        CompactEncoder(copy_of_weights)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("not json", "cannot be read"),
        ("[]", "no object `card`"),
        ('{"card": {"name": "x"}}', "lacks the fields"),
    ],
)
def test_damaged_card_is_refused(copy_of_weights: Path, change: str, match: str) -> None:
    (copy_of_weights / "card.json").write_text(change, encoding="utf-8")
    with pytest.raises(WeightsError, match=match):
        CompactEncoder(copy_of_weights)


@pytest.mark.models
def test_weights_of_another_network_are_refused(copy_of_weights: Path) -> None:
    path = copy_of_weights / "card.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["network"]["depth"] += 1
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(WeightsError, match="does not fit the network"):
        CompactEncoder(copy_of_weights, runtime="torch")


@pytest.mark.parametrize("options", [{"pooling": "max"}, {"layer": 6}, {"layer": -1}])
def test_poolings_and_layers_that_there_are_not_are_refused(
    options: dict[str, object], compact: CompactEncoder, make_batch: MakeBatch
) -> None:
    with pytest.raises(EncoderInputError, match="compact-rgb has"):
        compact.embed(make_batch(1), **options)  # type: ignore[arg-type]


def test_card_says_where_it_comes_from() -> None:
    card = get_card("compact-rgb")
    assert "[2015-2017, 2021-2023]" in card.source
    assert "hidden patches" in card.loss_definition
    assert "L1C" in card.training
    assert "L1C" in card.not_good_for
    assert card.clip == (0.0, 1.0)
    assert card.scale == 1
    assert card.n_parameters == 3_436_320
