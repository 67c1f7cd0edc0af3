"""The loop: resumed equals uninterrupted, seeds decide, losses fall; the exported encoder has training's own loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from geoelle.encoders.compact import CompactEncoder  # noqa: E402
from geoelle.encoders.compact_model import CompactConfig, CompactMAE, hidden_mean  # noqa: E402
from geoelle.errors import ConfigError, WeightsError  # noqa: E402
from geoelle.records import ChipBatch  # noqa: E402
from geoelle.training.augment import random_crops, random_visible  # noqa: E402
from geoelle.training.data import RgbChips, read_eurosat, split_holdout, to_reflectance  # noqa: E402
from geoelle.training.export import export_compact  # noqa: E402
from geoelle.training.loop import StepReport, TrainedModel, TrainingConfig, learning_rate, normalised, train  # noqa: E402

pytestmark = pytest.mark.models

TINY = CompactConfig(width=24, depth=2, n_heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)
RUN = TrainingConfig(steps=8, batch=8, checkpoint_every=3, seed=3)


@pytest.fixture(scope="module")
def chips(packed: Path) -> RgbChips:
    return split_holdout(read_eurosat(packed), 5)[0]


def _weights(trained: TrainedModel) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in trained.model.state_dict().items()}


def test_resumed_run_is_the_uninterrupted_one(chips: RgbChips, tmp_path: Path) -> None:
    reports: list[StepReport] = []
    whole = train(chips, TINY, RUN, on_step=reports.append)
    assert [report.step for report in reports] == list(range(1, 9))
    assert {report.chip_size_px for report in reports} == {64, 32}
    path = tmp_path / "checkpoint.pt"
    for stop in (2, 5, None):
        resumed = train(chips, TINY, RUN, checkpoint=path, resume=True, stop_after=stop)
    for name, value in _weights(whole).items():
        np.testing.assert_array_equal(_weights(resumed)[name], value, err_msg=name)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_seed_decides(chips: RgbChips) -> None:
    one = train(chips, TINY, replace(RUN, steps=2))
    again = train(chips, TINY, replace(RUN, steps=2))
    other = train(chips, TINY, replace(RUN, steps=2, seed=4))
    np.testing.assert_array_equal(_weights(one)["embed.weight"], _weights(again)["embed.weight"])
    assert (_weights(one)["embed.weight"] != _weights(other)["embed.weight"]).any()


def test_checkpoint_of_another_run_is_refused(chips: RgbChips, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    train(chips, TINY, RUN, checkpoint=path, stop_after=1)
    with pytest.raises(ConfigError, match="another training"):
        train(chips, TINY, replace(RUN, seed=9), checkpoint=path, resume=True)
    with pytest.raises(ConfigError, match="another shape"):
        train(chips, replace(TINY, norm_pix=True), RUN, checkpoint=path, resume=True)


def test_damaged_checkpoint_is_refused(chips: RgbChips, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="no readable checkpoint"):
        train(chips, TINY, RUN, checkpoint=path, resume=True)


def test_loss_falls(chips: RgbChips) -> None:
    losses: list[float] = []
    config = replace(RUN, steps=200, batch=16, learning_rate=5e-3)
    train(chips, TINY, config, on_step=lambda report: losses.append(report.loss))
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
    pixels, visible = torch.randn(1, 3, 32, 32), torch.tensor([[1, 2, 3, 4]])
    changed = pixels.clone()
    changed[:, :, 24:, 24:] += 1  # token 15, hidden
    with torch.inference_mode():
        before, after = model.patch_errors(pixels, visible), model.patch_errors(changed, visible)
    assert (before != after)[0].nonzero().flatten().tolist() == [15]


def _batch(chips: RgbChips, size: int) -> ChipBatch:
    n = len(chips)
    return ChipBatch(
        sensor="sentinel-2-l2a",
        units="reflectance",
        bands=("red", "green", "blue"),
        pixels=to_reflectance(chips.pixels[:, :size, :size])[:, None],
        valid=np.ones((n, 1, size, size), dtype=bool),
        time=np.full((n, 1), np.datetime64("2016-01-01", "ns")),
        lonlat=np.zeros((n, 2)),
        gsd_m=10.0,
        chip_id=chips.name,
    )


@pytest.mark.parametrize(("norm_pix", "pooling"), [(False, "cls"), (True, "mean")])
def test_exported_encoder_has_the_loss_of_training(
    norm_pix: bool, pooling: str, chips: RgbChips, tmp_path: Path
) -> None:
    trained = train(chips, replace(TINY, norm_pix=norm_pix), RUN)
    card = export_compact(trained, tmp_path, name="tiny", pooling=pooling, training="A test.", figures={"a": 1})
    assert card.loss_definition.count("of each patch") == int(trained.model.config.norm_pix)
    some = chips.select(np.arange(6))
    for runtime in ("onnx", "torch"):
        encoder = CompactEncoder(tmp_path, runtime=runtime)  # type: ignore[arg-type]
        assert encoder.card == card
        for size in (64, 32):
            batch = _batch(some, size)
            masks = encoder.fixed_masks(batch.chip_id, 2, size)
            cropped = replace(some, pixels=some.pixels[:, :size, :size])
            pixels = normalised(cropped, trained.mean, trained.std)
            with torch.inference_mode():
                for k in range(2):
                    visible = torch.from_numpy(np.nonzero(~masks[:, k])[1].reshape(6, -1))
                    own = hidden_mean(trained.model.patch_errors(pixels, visible), visible).numpy()
                    np.testing.assert_allclose(encoder.pretraining_loss(batch, masks)[:, k], own, rtol=1e-4, atol=1e-5)
                cls, tokens = trained.model.features(pixels)
            expected = cls if pooling == "cls" else tokens.mean(dim=1)
            np.testing.assert_allclose(encoder.embed(batch), expected.numpy(), atol=2e-5)
