"""The loop: resumed equals uninterrupted, seeds decide, losses fall; the exported encoder has training's own loss."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from geoelle.encoders.compact import CompactEncoder  # noqa: E402
from geoelle.encoders.compact_model import CompactConfig, CompactMAE, hidden_mean  # noqa: E402
from geoelle.errors import ConfigError, WeightsError  # noqa: E402
from geoelle.training.augment import random_crops, random_radiometry, random_visible  # noqa: E402
from geoelle.training.batches import Stock, normalise, wavelengths_of  # noqa: E402
from geoelle.training.cuts import cut  # noqa: E402
from geoelle.training.export import export_compact  # noqa: E402
from geoelle.training.keeping import Kept  # noqa: E402
from geoelle.training.loop import StepReport, TrainedModel, TrainingConfig, learning_rate, train  # noqa: E402
from geoelle.training.pretraining import PretrainOptions, pretrain  # noqa: E402
from geoelle.training.sources import RGB  # noqa: E402
from geoelle.training.starting import blended, started  # noqa: E402
from geoelle.training.stock import HeldOut, StockPaths  # noqa: E402

pytestmark = pytest.mark.models

TINY = CompactConfig(width=24, depth=2, n_heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)
RUN = TrainingConfig(steps=12, batch=8, checkpoint_every=3, seed=3)


def _weights(trained: TrainedModel) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in trained.model.state_dict().items()}


def test_resumed_run_is_the_uninterrupted_one(stock: Stock, tmp_path: Path) -> None:
    reports: list[StepReport] = []
    whole = train(stock, TINY, RUN, on_step=reports.append)
    assert [report.step for report in reports] == list(range(1, 13))
    assert {report.chip_size_px for report in reports} == {64, 32}
    assert {report.gsd_m for report in reports} == {10, 20}
    assert len({report.bands for report in reports}) > 2
    path = tmp_path / "checkpoint.pt"
    for stop in (2, 7, None):
        resumed = train(stock, TINY, RUN, checkpoint=path, resume=True, stop_after=stop)
    for name, value in _weights(whole).items():
        np.testing.assert_array_equal(_weights(resumed)[name], value, err_msg=name)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_seed_decides(stock: Stock) -> None:
    one = train(stock, TINY, replace(RUN, steps=2))
    again = train(stock, TINY, replace(RUN, steps=2))
    other = train(stock, TINY, replace(RUN, steps=2, seed=4))
    np.testing.assert_array_equal(_weights(one)["embed.bases"], _weights(again)["embed.bases"])
    assert (_weights(one)["embed.bases"] != _weights(other)["embed.bases"]).any()


def test_blended_weights_lie_between_the_first_and_the_last(stock: Stock) -> None:
    first, last = started(TINY, RUN.seed, None, stock), train(stock, TINY, replace(RUN, steps=2)).model
    begun, ended = first.state_dict(), last.state_dict()
    third = blended(first, last, 0.3).state_dict()
    assert any(bool((begun[name] != ended[name]).any()) for name in ended)
    for name, value in third.items():
        np.testing.assert_allclose(value, 0.7 * begun[name] + 0.3 * ended[name], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(blended(first, last, 1.0).state_dict()["embed.bases"], ended["embed.bases"])


def _moved(stock: Stock, model: CompactMAE, first: CompactMAE) -> float:
    pixels = normalise(torch.from_numpy(stock.rgb.images[:16]), RGB, stock.mean, stock.std)
    visible = random_visible(16, TINY.n_tokens(64), TINY.mask_ratio, torch.Generator().manual_seed(0))
    bands, gsd_m = wavelengths_of(RGB), torch.tensor(10.0)
    with torch.no_grad():
        return float(Kept(first, pixels, bands, gsd_m).distance(model, pixels, bands, gsd_m, visible))


def test_what_was_known_of_rgb_stays_while_other_bands_are_learnt(stock: Stock) -> None:
    run = replace(RUN, steps=60, batch=16, learning_rate=3e-3)
    first = started(TINY, run.seed, None, stock)
    assert _moved(stock, first, first) == 0.0
    losses: dict[float, list[float]] = {0.0: [], 50.0: []}
    moved = {}
    for keep, seen in losses.items():

        def on_step(report: StepReport, seen: list[float] = seen) -> None:
            if report.bands != RGB:
                seen.append(report.loss)

        kept = train(stock, TINY, replace(run, keep=keep), on_step=on_step)
        moved[keep] = _moved(stock, kept.model, first)
    assert moved[50.0] < 0.5 * moved[0.0]
    assert np.mean(losses[50.0][-8:]) < np.mean(losses[50.0][:8])


def test_what_is_to_be_kept_needs_a_weight(tmp_path: Path) -> None:
    data = StockPaths.under(tmp_path)
    with pytest.raises(ConfigError, match="keep is 0"):
        pretrain(PretrainOptions(data, tmp_path / "out", steps=1, keep_to=tmp_path))
    with pytest.raises(ConfigError, match="start is None"):
        pretrain(PretrainOptions(data, tmp_path / "out", steps=1, keep=1.0))


def test_checkpoint_of_another_run_is_refused(stock: Stock, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    train(stock, TINY, RUN, checkpoint=path, stop_after=1)
    with pytest.raises(ConfigError, match="another training"):
        train(stock, TINY, replace(RUN, seed=9), checkpoint=path, resume=True)
    with pytest.raises(ConfigError, match="another shape"):
        train(stock, replace(TINY, norm_pix=False), RUN, checkpoint=path, resume=True)


def test_damaged_checkpoint_is_refused(stock: Stock, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="no readable checkpoint"):
        train(stock, TINY, RUN, checkpoint=path, resume=True)


def test_loss_falls(stock: Stock) -> None:
    losses: list[float] = []
    config = replace(RUN, steps=100, batch=16, learning_rate=5e-3)
    # Chips of one colour each: what is hidden follows from what is seen.
    images = np.broadcast_to(stock.rgb.images.mean(axis=(2, 3), keepdims=True), stock.rgb.images.shape)
    rgb = replace(stock, rgb=replace(stock.rgb, images=images), multispectral=())
    train(rgb, replace(TINY, norm_pix=False), config, on_step=lambda report: losses.append(report.loss))
    assert np.mean(losses[-30:]) < 0.85 * np.mean(losses[:5])


def test_learning_rate_warms_up_and_falls_to_nothing() -> None:
    config = TrainingConfig(steps=100, learning_rate=1.0, warmup_fraction=0.1)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] < 0.01
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_native_crops_are_the_chips_own_pixels() -> None:
    chips = torch.arange(64 * 64 * 3, dtype=torch.float32).reshape(1, 3, 64, 64).repeat(64, 1, 1, 1)
    crops = random_crops(chips, 32, torch.Generator().manual_seed(0))
    assert crops.shape == (64, 3, 32, 32)
    whole = (crops - crops.round()).abs().amax(dim=(1, 2, 3)) < 1e-2
    assert 15 < int(whole.sum()) < 50
    corners = {tuple(crop[0, [0, 0, -1], [0, -1, 0]].round().tolist()) for crop in crops[whole]}
    assert len(corners) > 10


def test_flips_and_turns_give_all_eight_views() -> None:
    chip = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(300, 1, 1, 1)
    crops = random_crops(chip, 4, torch.Generator().manual_seed(0))
    native = crops[(crops - crops.round()).abs().amax(dim=(1, 2, 3)) < 1e-4].round()
    assert {tuple(sorted(crop.flatten().tolist())) for crop in native} == {tuple(range(16))}
    assert len({tuple(crop.flatten().tolist()) for crop in native}) == 8


def test_random_visible_tokens_are_as_many_as_pretraining_shows() -> None:
    visible = random_visible(5, 16, 0.75, torch.Generator().manual_seed(0))
    assert visible.shape == (5, 4)
    assert (visible.diff(dim=1) > 0).all()


def test_visible_patches_alone_reach_the_reconstruction() -> None:
    torch.manual_seed(0)
    model = CompactMAE(TINY).eval()
    where = (wavelengths_of(RGB), torch.tensor(10.0))
    pixels, visible = torch.randn(1, 3, 32, 32), torch.tensor([[1, 2, 3, 4]])
    changed = pixels.clone()
    changed[:, :, 24:, 24:] *= -1  # token 15, hidden
    with torch.inference_mode():
        before, after = model.patch_errors(pixels, *where, visible), model.patch_errors(changed, *where, visible)
    assert (before != after)[0].nonzero().flatten().tolist() == [15]


def test_radiometry_changes_some_chips_and_keeps_their_pattern() -> None:
    pixels = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.05
    changed = random_radiometry(pixels, wavelengths_of(RGB), torch.Generator().manual_seed(1))
    same = (changed - pixels).abs().amax(dim=(1, 2, 3)) == 0
    assert 15 < int(same.sum()) < 45
    assert (changed >= 0).all()
    for before, after in zip(pixels, changed, strict=True):
        assert np.corrcoef(before.flatten(), after.flatten())[0, 1] > 0.9


@pytest.mark.parametrize(("norm_pix", "pooling"), [(False, "cls"), (True, "mean")])
def test_exported_encoder_has_the_loss_of_training(
    norm_pix: bool, pooling: str, stock: Stock, held: HeldOut, tmp_path: Path
) -> None:
    trained = train(stock, replace(TINY, norm_pix=norm_pix), RUN)
    card = export_compact(trained, tmp_path, name="tiny", pooling=pooling, training="A test.", figures={"a": 1})
    assert card.loss_definition.count("of each patch") == int(trained.model.config.norm_pix)
    for runtime, (bands, size, gsd) in itertools.product(
        ("onnx", "torch"), ((RGB, 64, 10), (("nir",), 32, 20), (card.bands[::-1], 32, 10))
    ):
        encoder = CompactEncoder(tmp_path, bands=bands, gsd_m=gsd, runtime=runtime)  # type: ignore[arg-type]
        assert (encoder.card.bands, encoder.card.gsd_m, encoder.card.pooling) == (bands, gsd, pooling)
        batch = cut(held.chips, bands, size, gsd).batch
        masks = encoder.fixed_masks(batch.chip_id, 2, size)
        pixels = normalise(torch.from_numpy(batch.pixels[:, 0]), bands, trained.mean, trained.std)
        where = (wavelengths_of(bands), torch.tensor(float(gsd)))
        with torch.inference_mode():
            for k in range(2):
                visible = torch.from_numpy(np.nonzero(~masks[:, k])[1].reshape(len(batch), -1))
                own = hidden_mean(trained.model.patch_errors(pixels, *where, visible), visible).numpy()
                np.testing.assert_allclose(encoder.pretraining_loss(batch, masks)[:, k], own, rtol=1e-4, atol=1e-5)
            cls, tokens = trained.model.features(pixels, *where)
        expected = cls if pooling == "cls" else tokens.mean(dim=1)
        np.testing.assert_allclose(encoder.embed(batch), expected.numpy(), atol=2e-5)
