"""`geoelle weights verify` of files that no published sha256 vouches for: names and shapes, on the meta device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

import torch
from small_networks import SmallNetwork, small_batch, small_card

from geoelle.cli.app import app
from geoelle.encoders import load_encoder, opening, register, unregister
from geoelle.encoders.checkpoint_table import Checkpoint
from geoelle.encoders.checkpoints import (
    CheckpointState,
    FoundWeights,
    get_checkpoint,
    register_checkpoint,
    unregister_checkpoint,
)
from geoelle.encoders.conversion import verify_weights
from geoelle.errors import WeightsError

pytestmark = pytest.mark.models

SMALL = Checkpoint(
    "small", "", "small.ckpt", None, "http://127.0.0.1:9/small.ckpt", None, None, "MIT", False, inside="state_dict",
    drop=("teacher.",),
)  # fmt: skip
OFFICIAL = {
    "clay-v1.5": "clay/v15_large", "prithvi-eo-2.0-300m-tl": "prithvi/v2_300m_tl_T4",
    "satmae-vitb": "satmae/official_vitb_group", "satmae-rgb-vitl": "satmae/official_vitl_rgb",
    "dofa-base-full": "dofa/official_base_full", "satclip-vit16-l10": "satclip/vit16_l10",
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOELLE_WEIGHTS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GEOELLE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file of `small` with a teacher beside it; the checkpoint and its encoder are registered."""
    register_checkpoint(SMALL)
    register("small", card=lambda variant: small_card(checkpoint="small"), factory="small_networks:load_small")
    yield write_small(tmp_path / "given" / "small.ckpt", SmallNetwork(seed=5).state_dict())
    unregister("small")
    unregister_checkpoint("small")


def write_small(path: Path, state: dict[str, torch.Tensor]) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.save({"state_dict": state | {"teacher.w": torch.rand(3)}, "epoch": 3}, path)
    return path


def verify(path: Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["weights", "verify", "small", "--weights", str(path)])
    error = "" if done.exception is None or isinstance(done.exception, SystemExit) else str(done.exception)
    return done.exit_code, done.stdout, done.stderr + error


def test_names_and_shapes_vouch_where_no_sha256_is_published(small: Path) -> None:
    n = len(SmallNetwork().state_dict())
    code, said, noted = verify(small)
    assert code == 0, noted
    assert f"small: {small} is whole" in said
    assert f"Names and shapes of {n} tensors fit small; no sha256 is published." in noted
    assert "its own word" not in noted
    found = verify_weights("small", weights=small)
    assert (found.published, found.converted, found.fits, found.n_tensors) == (False, False, "small", n)


def test_what_a_lean_copy_says_of_its_source_is_its_own_word(small: Path, tmp_path: Path) -> None:
    lean = tmp_path / "lean.safetensors"
    done = CliRunner().invoke(app, ["weights", "convert", "small", "--weights", str(small), "--out", str(lean)])
    assert done.exit_code == 0, done.stderr
    code, _, noted = verify(lean)
    assert code == 0, noted
    assert "It was converted: the sha256 is that of the file it says it was made from, which is its own word" in noted
    assert "tensors fit small" in noted
    assert verify_weights("small", weights=lean).converted


def test_misfit_is_named_and_fails(small: Path) -> None:
    state = SmallNetwork().state_dict()
    del state["mask_token"]
    state["more"] = torch.zeros(2)
    state["cls_token"] = torch.zeros(1, 1, 5)
    code, said, noted = verify(write_small(small, state))
    assert (code, said) == (1, "")
    for text in ("lacks mask_token", "has, unexpected, more", "cls_token is (1, 1, 5) and should be (1, 1, 32)"):
        assert text in noted


def test_weights_that_no_encoder_takes_are_not_compared(small: Path) -> None:
    unregister("small")
    try:
        code, _, noted = verify(small)
    finally:
        register("small", card=lambda variant: small_card(checkpoint="small"), factory="small_networks:load_small")
    assert code == 0
    assert "No sha256 is published, and no encoder here takes these weights: names and shapes were not" in noted


@pytest.mark.usefixtures("small")
def test_shapes_alone_hold_no_values(tmp_path: Path) -> None:
    path = tmp_path / "given" / "small.ckpt"
    empty = load_encoder("small", weights=path, shapes_only=True)
    assert all(p.is_meta for p in empty.network.parameters())  # type: ignore[attr-defined]
    whole = load_encoder("small", weights=path)
    assert not any(p.is_meta for p in whole.network.parameters())  # type: ignore[attr-defined]
    assert whole.embed(small_batch(1)).any()


@pytest.mark.shared
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_sizes_are_compared_without_their_memory(
    name: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published lists, as tensors of one zero each, through every encoder's own loader."""
    content = json.loads((shared_data.parent / "encoders" / f"{OFFICIAL[name]}.keys.json").read_text())
    strip, drop = content.get("lightning_prefix", ""), get_checkpoint(name).drop
    names = {key.removeprefix(strip): shape for key, shape in content["keys"].items()}
    tensors = {key: torch.zeros(()).expand(shape) for key, shape in names.items() if not key.startswith(drop)}
    found = FoundWeights(tmp_path / "published", "0" * 64)
    monkeypatch.setattr(opening, "fetch_weights", lambda *given, **options: found)
    monkeypatch.setattr(opening, "read_state", lambda *given: CheckpointState(tensors, ()))
    assert load_encoder(name, weights=found.path, shapes_only=True).card.weights_sha256 == found.sha256
    first = next(key for key in tensors if tensors[key].dim() > 1)
    tensors[first] = torch.zeros(()).expand(7, 7)
    with pytest.raises(WeightsError, match=r"does not hold this network.*\(7, 7\)"):
        load_encoder(name, weights=found.path, shapes_only=True)
