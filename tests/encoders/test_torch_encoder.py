"""The adapter of torch networks: what a chip's result depends on, batches under a small memory, options, pickles."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoelle.errors import EncoderError, EncoderInputError

pytest.importorskip("torch")

import torch
from small_networks import DEPTH, DIM, PATCH, SIZE, SmallNetwork, small_batch, small_card, small_encoder
from torch import Tensor, nn

from geoelle.encoders import Encoder, torch_device
from geoelle.encoders.inputs import normalised
from geoelle.encoders.network import Encoded, Inputs
from geoelle.encoders.torch_device import own_gpu, pick_device, running_on
from geoelle.encoders.torch_encoder import TorchEncoder
from geoelle.encoders.torch_feed import normalised_there, tensor_of
from geoelle.records import ChipBatch, EncoderCard

pytestmark = pytest.mark.models
SIDE = SIZE // PATCH
GROUPS = ((0, 1), (2,))


@pytest.fixture(scope="module")
def encoder() -> TorchEncoder:
    return small_encoder()


@pytest.fixture(scope="module")
def grouped() -> TorchEncoder:
    return small_encoder(SmallNetwork(GROUPS))


def bare(encoder: TorchEncoder, batch: ChipBatch) -> Encoded:
    """What the network gives for normalised pixels, in one piece."""
    from geoelle.encoders.moments import moments

    with torch.inference_mode():
        return encoder.network.encode(
            Inputs(
                torch.from_numpy(normalised(encoder.card, batch)),
                torch.from_numpy(moments(batch.time)),
                torch.from_numpy(batch.lonlat),
                torch.tensor(encoder.card.wavelength_um),
                batch.gsd_m,
            ),
            tuple(range(DEPTH)),
        )


# Embeddings


def test_it_is_an_encoder(encoder: TorchEncoder) -> None:
    assert isinstance(encoder, Encoder)
    assert encoder.device.type == "cpu"
    assert encoder.batch_size == 8


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("groups", [((0, 1, 2),), GROUPS])
def test_poolings_tokens_and_layers_are_the_networks(groups: tuple[tuple[int, ...], ...], steps: int) -> None:
    encoder = small_encoder(SmallNetwork(groups))
    batch = small_batch(11, steps=steps)
    found = bare(encoder, batch)
    assert found.cls is not None
    near = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(encoder.embed(batch), found.tokens.mean(1), **near)
    np.testing.assert_allclose(encoder.embed(batch, pooling="mean"), found.tokens.mean(1), **near)
    np.testing.assert_allclose(encoder.embed(batch, pooling="cls"), found.cls, **near)
    folded = found.tokens.reshape(11, steps * len(groups), SIDE, SIDE, DIM).mean(1)
    np.testing.assert_allclose(encoder.embed_tokens(batch), folded, **near)
    for layer in range(DEPTH):
        whole = found.layers[layer]
        np.testing.assert_allclose(encoder.embed(batch, pooling="cls", layer=layer), whole[:, 0], **near)
        np.testing.assert_allclose(encoder.embed(batch, layer=layer), whole[:, 1:].mean(1), **near)
        tokens = encoder.embed_tokens(batch, layer=layer)
        np.testing.assert_allclose(tokens, whole[:, 1:].reshape(folded.shape[0], -1, *folded.shape[1:]).mean(1), **near)


def test_network_without_class_token() -> None:
    encoder = small_encoder(SmallNetwork(class_token=False))
    batch = small_batch(3)
    np.testing.assert_allclose(
        encoder.embed(batch, layer=1), bare(encoder, batch).layers[1].mean(1), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(EncoderInputError, match=r"has no pooling 'cls'. Expected one of mean"):
        encoder.embed(batch, pooling="cls")


@pytest.mark.parametrize("layer", [-1, DEPTH])
def test_layer_that_there_is_not(encoder: TorchEncoder, layer: int) -> None:
    for method in (encoder.embed, encoder.embed_tokens):
        with pytest.raises(EncoderInputError, match=f"no layer {layer}. Expected 0 to 2"):
            method(small_batch(0), layer=layer)


# What a chip's result depends on


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_chip_depends_on_no_other_chip_batch_or_order(data: st.DataObject) -> None:
    n, steps = data.draw(st.integers(1, 20), "chips"), data.draw(st.sampled_from([1, 2]), "steps")
    groups = data.draw(st.sampled_from([((0, 1, 2),), GROUPS]), "groups")
    order = np.array(data.draw(st.permutations(range(n)), "order"))[: data.draw(st.integers(1, n), "of them")]
    batch = small_batch(n, steps=steps, seed=data.draw(st.integers(0, 99), "seed"))
    broken = data.draw(st.sets(st.integers(0, n - 1)), "broken")
    valid = batch.valid.copy()
    valid[list(broken)] = False
    whole = small_encoder(SmallNetwork(groups), batch=20)
    split = small_encoder(SmallNetwork(groups), batch=data.draw(st.integers(1, 20), "batch size"))
    masks = whole.fixed_masks(batch.chip_id, 3, SIZE, n_steps=steps)
    some = replace(batch, valid=valid).select(order)
    gone = np.isin(order, list(broken))
    for expected, found in (
        (whole.embed(batch), split.embed(some)),
        (whole.embed_tokens(batch), split.embed_tokens(some)),
        (whole.pretraining_loss(batch, masks), split.pretraining_loss(some, masks[order])),
        (whole.patch_losses(batch, masks), split.patch_losses(some, masks[order])),
    ):
        np.testing.assert_allclose(found[~gone], expected[order[~gone]], rtol=1e-5, atol=1e-5)
        assert np.isnan(found[gone]).all()


def test_the_same_call_gives_the_same_bits(encoder: TorchEncoder) -> None:
    batch = small_batch(13)
    masks = encoder.fixed_masks(batch.chip_id, 4, SIZE)
    other = small_encoder()
    assert encoder.embed(batch).tobytes() == encoder.embed(batch).tobytes() == other.embed(batch).tobytes()
    assert encoder.patch_losses(batch, masks).tobytes() == other.patch_losses(batch, masks).tobytes()


def test_invalid_pixels_are_the_mean_and_leak_nowhere(encoder: TorchEncoder) -> None:
    batch = small_batch(5)
    pixels, valid = batch.pixels.copy(), batch.valid.copy()
    pixels[1] = np.nan
    valid[2] = False
    pixels[3, :, 0, :4, :4] = np.inf
    valid[4, :, 8:16, 8:16] = False
    found = encoder.embed(replace(batch, pixels=pixels, valid=valid))
    assert np.isnan(found[[1, 2]]).all()
    assert np.isfinite(found[[0, 3, 4]]).all()
    np.testing.assert_allclose(found[0], encoder.embed(batch)[0], rtol=1e-5, atol=1e-6)
    pixels[4, :, :, 8:16, 8:16] = -7.0  # what stands at an invalid pixel is not looked at
    assert encoder.embed(replace(batch, pixels=pixels, valid=valid)).tobytes() == found.tobytes()


def test_normalisation_is_that_of_the_card_to_the_bit() -> None:
    batch = small_batch(4, steps=2)
    pixels = batch.pixels * 3 - 0.2
    pixels[0, 0, 1, 3, 4], pixels[1, 1, 2, 0, 0] = np.nan, -np.inf
    valid = np.random.default_rng(0).random(batch.valid.shape) > 0.1
    valid[2] = False
    batch = replace(batch, pixels=pixels, valid=valid)
    for card in (small_card(), small_card(clip=None, scale=1e4 / 3)):
        found, real = normalised_there(card, tensor_of(pixels), tensor_of(valid))
        assert found.numpy().tobytes() == normalised(card, batch).tobytes()
        assert real.tolist() == [True, True, False, True]


def test_pixels_prepared_otherwise_reach_the_network() -> None:
    def doubled(card: EncoderCard, batch: ChipBatch) -> np.ndarray:
        return normalised(card, replace(batch, pixels=batch.pixels * np.float32(2)))

    def flat(card: EncoderCard, batch: ChipBatch) -> np.ndarray:
        return np.zeros((1, 2))

    batch = small_batch(3)
    valid = batch.valid.copy()
    valid[1] = False
    found = small_encoder(prepare=doubled).embed(replace(batch, valid=valid))
    expected = small_encoder().embed(replace(batch, pixels=batch.pixels * np.float32(2)))
    np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-5, atol=1e-6)
    assert np.isnan(found[1]).all()
    with pytest.raises(EncoderError, match="preparation of small gave float64"):
        small_encoder(prepare=flat).embed(batch)


def test_read_only_arrays_and_views(encoder: TorchEncoder) -> None:
    batch = small_batch(6)
    expected = encoder.embed(batch)
    turned = replace(batch, pixels=np.ascontiguousarray(batch.pixels[..., ::-1])[..., ::-1])
    for array in (batch.pixels, batch.valid, batch.time, batch.lonlat):
        array.flags.writeable = False
    masks = encoder.fixed_masks(batch.chip_id, 2, SIZE)
    masks.flags.writeable = False
    assert encoder.embed(batch).tobytes() == encoder.embed(turned).tobytes() == expected.tobytes()
    assert np.isfinite(encoder.pretraining_loss(batch, masks)).all()


def test_empty_batch(encoder: TorchEncoder) -> None:
    batch = small_batch(0)
    assert encoder.embed(batch).shape == (0, DIM)
    assert encoder.embed_tokens(batch).shape == (0, SIDE, SIDE, DIM)
    masks = np.zeros((0, 2, SIDE**2), dtype=bool)
    assert encoder.pretraining_loss(batch, masks).shape == (0, 2)
    assert encoder.patch_losses(batch, masks).shape == (0, 2, SIDE, SIDE)
    none = np.zeros((3, 0, SIDE**2), dtype=bool)
    assert encoder.pretraining_loss(small_batch(3), none).shape == (3, 0)


def test_batch_that_does_not_fit_is_refused_before_it_runs(encoder: TorchEncoder) -> None:
    batch = small_batch(2, units="db")
    masks = encoder.fixed_masks(batch.chip_id, 1, SIZE)
    for call in (
        lambda: encoder.embed(batch),
        lambda: encoder.embed_tokens(replace(batch, pixels=batch.pixels[:, 0])),
        lambda: encoder.pretraining_loss(batch, masks),
        lambda: encoder.patch_losses(small_batch(2), masks[:, :, :-1]),
        lambda: encoder.fixed_masks(batch.chip_id, 1, 2 * SIZE),
        lambda: encoder.fixed_masks(batch.chip_id, 1, SIZE, n_steps=3),
    ):
        with pytest.raises(EncoderInputError):
            call()


def test_digital_numbers_are_seen_wherever_the_usable_pixels_are(encoder: TorchEncoder) -> None:
    batch = small_batch(2)
    encoder.embed(replace(batch, pixels=np.where(np.arange(SIZE) == 1, 9.0, batch.pixels).astype(np.float32)))
    for y, x in ((0, 0), (1, 1), (30, 31)):
        valid = np.zeros_like(batch.valid)
        valid[:, :, y, x] = True
        encoder.embed(replace(batch, valid=valid))
        with pytest.raises(EncoderInputError, match="look like digital numbers"):
            encoder.embed(replace(batch, pixels=batch.pixels * np.float32(1e4), valid=valid))


# Losses


def test_patch_losses_are_the_networks_where_hidden_and_valid(grouped: TorchEncoder) -> None:
    batch = small_batch(3, steps=2)
    valid = batch.valid.copy()
    valid[1, 0, :PATCH, PATCH : PATCH + 1] = False
    batch = replace(batch, valid=valid)
    masks = grouped.fixed_masks(batch.chip_id, 5, SIZE, n_steps=2)
    assert masks.shape == (3, 5, 4 * SIDE**2)
    by_patch = grouped.patch_losses(batch, masks)
    by_mask = grouped.pretraining_loss(batch, masks)
    hidden = masks.reshape(3, 5, 4, SIDE, SIDE).copy()
    assert (np.isnan(by_patch) == ~hidden.any(axis=2)).all()
    hidden[1, :, :2, 0, 1] = False  # both groups of the first date
    counts = hidden.sum(axis=2)
    total = np.where(counts > 0, np.nan_to_num(by_patch) * counts, 0).sum(axis=(2, 3))
    np.testing.assert_allclose(by_mask, total / counts.sum(axis=(2, 3)), rtol=1e-5)


def test_loss_of_a_chip_with_no_whole_hidden_patch_is_nan(encoder: TorchEncoder) -> None:
    batch = small_batch(2)
    valid = batch.valid.copy()
    valid[0, :, ::PATCH, ::PATCH] = False
    masks = encoder.fixed_masks(batch.chip_id, 2, SIZE)
    found = encoder.pretraining_loss(replace(batch, valid=valid), masks)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_unavailable_loss_is_refused() -> None:
    network = SmallNetwork()
    encoder = small_encoder(network, small_card(network, loss_kind="unavailable", loss_definition="No decoder."))
    batch = small_batch(1)
    with pytest.raises(EncoderError, match="small has no loss: No decoder"):
        encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, 1, SIZE))


@pytest.mark.parametrize(("masks", "calls"), [(1, [(8, 1), (3, 1)]), (3, [(2, 3)] * 5 + [(1, 3)])])
def test_masked_passes_at_once_are_as_many_as_chips(masks: int, calls: list[tuple[int, int]]) -> None:
    network = SmallNetwork()
    encoder = small_encoder(network)
    batch = small_batch(11)
    encoder.pretraining_loss(batch, encoder.fixed_masks(batch.chip_id, masks, SIZE))
    assert network.calls == calls


def test_many_masks_of_one_chip_are_parted() -> None:
    network = SmallNetwork()
    encoder = small_encoder(network)
    batch = small_batch(2)
    masks = encoder.fixed_masks(batch.chip_id, 19, SIZE)
    found = encoder.pretraining_loss(batch, masks)
    assert network.calls == [(1, 8), (1, 8), (1, 3)] * 2
    np.testing.assert_allclose(found, small_encoder(batch=100).pretraining_loss(batch, masks), rtol=1e-5)


# Memory


class Cramped(SmallNetwork):
    """Takes so many chips or masked chips at a time, and one call more fails for another reason or for none."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        super().__init__()
        self.room = room
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def _check(self) -> None:
        if max(1, self.calls[-1][1]) * self.calls[-1][0] > self.room:
            raise self.error

    def encode(self, inputs: Inputs, layers: tuple[int, ...] = ()) -> Encoded:
        found = super().encode(inputs, layers)
        self._check()
        return found

    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        found = super().patch_errors(inputs, hidden)
        self._check()
        return found


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ...")])
def test_batch_is_halved_until_the_memory_takes_it(error: Exception | None) -> None:
    network = Cramped(3, error)
    encoder = small_encoder(network)
    batch = small_batch(11)
    found = encoder.embed(batch)
    assert [n for n, _ in network.calls] == [8, 4, 2, 2, 2, 2, 2, 1]
    assert encoder.batch_size == 2
    np.testing.assert_allclose(found, small_encoder().embed(batch), rtol=1e-5, atol=1e-5)
    network.calls.clear()
    assert encoder.embed(batch).tobytes() == found.tobytes()
    assert [n for n, _ in network.calls] == [2, 2, 2, 2, 2, 1]


def test_chips_done_before_the_memory_ran_out_are_kept() -> None:
    network = Cramped(8)
    encoder = small_encoder(network)
    batch = small_batch(30)
    expected = small_encoder().embed(batch)
    seen: list[int] = []
    encode = network.encode

    def shrinking(inputs: Inputs, layers: tuple[int, ...] = ()) -> Encoded:
        seen.append(len(inputs.pixels))
        network.room = 8 if len(seen) < 3 else 4
        return encode(inputs, layers)

    network.encode = shrinking  # type: ignore[method-assign]
    again = small_encoder(network)
    np.testing.assert_allclose(again.embed(batch), expected, rtol=1e-5, atol=1e-5)
    assert seen[:3] == [8, 8, 8]
    assert again.batch_size == 4
    assert encoder.batch_size == 8


def test_masked_passes_are_halved_too() -> None:
    network = Cramped(3)
    encoder = small_encoder(network)
    batch = small_batch(3)
    masks = encoder.fixed_masks(batch.chip_id, 4, SIZE)
    found = encoder.pretraining_loss(batch, masks)
    assert encoder.batch_size == 2
    assert network.calls[-2:] == [(1, 2), (1, 2)]
    np.testing.assert_allclose(found, small_encoder().pretraining_loss(batch, masks), rtol=1e-5)


def test_memory_that_takes_no_chip_or_not_the_batch_asked_for() -> None:
    batch = small_batch(4)
    with pytest.raises(EncoderError, match=r"does not take 1 chip.*Use a larger GPU"):
        small_encoder(Cramped(0)).embed(batch)
    with pytest.raises(EncoderError, match=r"does not take 4 chip.*Ask for a smaller batch"):
        small_encoder(Cramped(3), batch=4).embed(batch)


def test_another_error_is_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"):
        small_encoder(Cramped(0, RuntimeError("shape mismatch"))).embed(small_batch(2))


# Precision


def test_bf16_on_the_cpu_differs_by_its_rounding() -> None:
    batch = small_batch(9)
    exact, low = small_encoder(), small_encoder(precision="bf16")
    a, b = exact.embed(batch), low.embed(batch)
    relative = np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)
    assert b.dtype == np.float32
    assert 1e-5 < relative.max() < 3e-2
    masks = exact.fixed_masks(batch.chip_id, 2, SIZE)
    np.testing.assert_allclose(low.pretraining_loss(batch, masks), exact.pretraining_loss(batch, masks), rtol=3e-2)
    assert exact.embed(batch).tobytes() == a.tobytes()


class Overflowing(SmallNetwork):
    def pool(self, encoded: Encoded, pooling: str) -> Tensor:
        found = super().pool(encoded, pooling)
        found[1] *= torch.inf
        return found


def test_values_that_ran_over_are_an_error() -> None:
    with pytest.raises(
        EncoderError, match="in bf16 gave values that are not finite for 1 of 3 chips, first 'chip-0-1'"
    ):
        small_encoder(Overflowing(), precision="bf16").embed(small_batch(3))
    with pytest.raises(EncoderError, match="Check its weights"):
        small_encoder(Overflowing()).embed(small_batch(3))


def test_process_is_left_as_it_was(encoder: TorchEncoder) -> None:
    before = torch.get_num_threads()
    asked = before + 1
    seen: list[tuple[int, bool, bool]] = []

    class Watching(SmallNetwork):
        def encode(self, inputs: Inputs, layers: tuple[int, ...] = ()) -> Encoded:
            seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
            return super().encode(inputs, layers)

    small_encoder(Watching(), threads=asked, precision="bf16").embed(small_batch(2))
    with pytest.raises(EncoderError):
        small_encoder(Cramped(0), threads=asked).embed(small_batch(2))
    assert seen == [(asked, True, True)]
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")


# Layout and compilation


def test_channels_last_changes_rounding_only(encoder: TorchEncoder) -> None:
    batch = small_batch(5)
    found = small_encoder(channels_last=True).embed(batch)
    np.testing.assert_allclose(found, encoder.embed(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_compiled_network_gives_the_same(encoder: TorchEncoder) -> None:
    batch = small_batch(11)
    compiled = small_encoder(compiled=True)
    np.testing.assert_allclose(compiled.embed(batch), encoder.embed(batch), rtol=1e-4, atol=1e-5)
    again = pickle.loads(pickle.dumps(compiled))
    np.testing.assert_allclose(again.embed(batch), encoder.embed(batch), rtol=1e-4, atol=1e-5)


# Options and devices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision is 'int8'. Expected one of float32, bf16, fp16"),
        ({"precision": "fp16"}, "'fp16' on a CPU"),
        ({"batch": 0}, "batch is 0. Expected at least 1"),
        ({"threads": 0}, "threads is 0. Expected at least 1"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"device": "cuda:x"}, "no device 'cuda:x'"),
        ({"device": "cuda:99"}, "'cuda:99' was asked for, and torch sees"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(EncoderInputError, match=message):
        small_encoder(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there_is_no_cpu() -> None:
    for asked in ("cuda", "cuda:0"):
        with pytest.raises(EncoderInputError, match="torch sees 0 GPU"):
            small_encoder(device=asked)
    assert small_encoder(device="auto").device.type == "cpu"


@pytest.mark.parametrize(
    ("worker", "gpu"), [(None, 0), ("gpu-1", 1), ("3", 3), ("gpu-6", 2), ("tcp://127.0.0.1:8786", 0), ("alpha", 0)]
)
def test_numbered_workers_share_out_the_gpus(monkeypatch: pytest.MonkeyPatch, worker: str | None, gpu: int) -> None:
    monkeypatch.setattr(torch_device, "_worker_name", lambda: worker)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert own_gpu(4) == gpu
    assert own_gpu(0) == 0
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", gpu)
    assert pick_device("cuda:2") == torch.device("cuda", 2)
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(EncoderInputError, match="torch sees 4 GPU"):
        pick_device("cuda:4")


def test_worker_knows_its_name() -> None:
    distributed = pytest.importorskip("distributed")
    assert torch_device._worker_name() is None
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, host=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        names = [client.submit(torch_device._worker_name, workers=[worker], pure=False).result() for worker in (0, 1)]
    assert names == ["0", "1"]


def test_first_batch_on_a_gpu_goes_by_the_size_of_a_chip() -> None:
    cuda, card = torch.device("cuda", 0), small_card()
    assert torch_device.first_batch(torch.device("cpu"), card) == 8
    assert torch_device.first_batch(cuda, card) == 1024
    assert torch_device.first_batch(cuda, replace(card, chip_sizes_px=(224, 256), n_steps=(1, 3, 4))) == 64
    assert torch_device.first_batch(cuda, replace(card, chip_sizes_px=(20_000,))) == 1


# Threads and processes


def test_calls_from_several_threads_wait_for_one_another() -> None:
    inside: list[int] = []

    class Alone(SmallNetwork):
        def encode(self, inputs: Inputs, layers: tuple[int, ...] = ()) -> Encoded:
            inside.append(1)
            assert len(inside) == 1
            found = super().encode(inputs, layers)
            inside.pop()
            return found

    encoders = [small_encoder(Alone(), batch=2) for _ in range(2)]
    batches = [small_batch(5, seed=i) for i in range(8)]
    expected = [encoders[0].embed(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: encoders[i % 2].embed(batches[i]), range(8)))
    for a, b in zip(expected, found, strict=True):
        assert a.tobytes() == b.tobytes()


def test_it_pickles_with_its_weights() -> None:
    encoder = small_encoder(SmallNetwork(seed=5), batch=3, precision="bf16")
    batch = small_batch(4)
    for other in (pickle.loads(pickle.dumps(encoder)), copy.deepcopy(encoder)):
        assert other.card == encoder.card
        assert other.batch_size == 3
        assert other.embed(batch).tobytes() == encoder.embed(batch).tobytes()


def test_a_nested_call_does_not_wait_for_itself() -> None:
    class Asking(SmallNetwork):
        def pool(self, encoded: Encoded, pooling: str) -> Tensor:
            inner = small_encoder().embed(small_batch(1))
            return super().pool(encoded, pooling) + float(inner[0, 0]) * 0

    with running_on(torch.device("cpu"), "float32", None):
        assert np.isfinite(small_encoder(Asking()).embed(small_batch(2))).all()


def test_the_network_is_in_evaluation_mode() -> None:
    network = SmallNetwork().train()
    network.add_module("drop", nn.Dropout())
    assert not small_encoder(network).network.drop.training
