"""Checkpoints by name: the table, where files are looked for, licences, records, lean copies and strict loading."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from geoelle.cli.app import app
from geoelle.encoders import get_card, list_encoders
from geoelle.encoders.checkpoint_table import PUBLISHED, Checkpoint
from geoelle.encoders.checkpoints import (
    checked_by,
    checkpoint_of,
    fetch_weights,
    get_checkpoint,
    list_checkpoints,
    read_state,
    register_checkpoint,
    resolve,
    size_of,
    summary_of,
    unregister_checkpoint,
    weights_state,
)
from geoelle.encoders.conversion import convert_weights, verify_weights
from geoelle.encoders.tensor_file import read_tensor_file
from geoelle.encoders.weights_cache import RECORD_FILE
from geoelle.errors import AlreadyExistsError, WeightsError

torch = pytest.importorskip("torch")
pytest.importorskip("huggingface_hub.file_download")  # reads the environment once, before a test here changes it
pytestmark = pytest.mark.models

NAMES = {
    "clay-v1.5", "prithvi-eo-1.0-100m", "prithvi-eo-2.0-300m", "prithvi-eo-2.0-300m-tl", "prithvi-eo-2.0-tiny-tl",
    "satmae-vitb", "satmae-vitl", "satmae-rgb-vitl", "dofa-base", "dofa-base-full", "dofa-large", "presto",
    "satclip-vit16-l10", "satclip-vit16-l40", "satclip-resnet18-l10", "satclip-resnet18-l40", "satclip-resnet50-l10",
    "satclip-resnet50-l40",
}  # fmt: skip
BIG = Checkpoint(
    "big", "", "v1/big.ckpt", None, "http://127.0.0.1:9/big.ckpt", None, None, "MIT", False,
    inside="state_dict", strip=("model.",), drop=("teacher.",),
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, no network, and none of this machine's settings."""
    for name in ("GEOELLE_WEIGHTS", "GEOELLE_ACCEPT_LICENSE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("GEOELLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def big(tmp_path: Path) -> Iterator[Path]:
    """A Lightning-like file with a teacher and an optimizer, and its checkpoint registered."""
    torch.manual_seed(0)
    state = {
        "model.encoder.w": torch.rand(40, 30),
        "model.encoder.n": torch.tensor(7),
        "model.decoder.w": torch.rand(3).half(),
        "model.decoder.b": torch.rand(6, 4).double().T,
        "model.teacher.blocks.0.w": torch.rand(5000),
    }
    path = tmp_path / "given" / "big.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": state, "optimizer_states": [torch.rand(5000)], "epoch": 3}, path)
    register_checkpoint(BIG)
    yield path
    unregister_checkpoint("big")


# --- the table


def test_the_table_knows_these() -> None:
    assert {c.name for c in list_checkpoints()} == NAMES
    assert len(PUBLISHED) == len(NAMES)


@pytest.mark.parametrize("checkpoint", PUBLISHED, ids=lambda c: c.name)
def test_rows_are_sound(checkpoint: Checkpoint) -> None:
    assert bool(checkpoint.repo) != bool(checkpoint.url), "on the hub or at an address of its own"
    assert not checkpoint.url or checkpoint.url.startswith("https://")
    assert checkpoint.revision is None or re.fullmatch(r"[0-9a-f]{40}", checkpoint.revision)
    assert checkpoint.sha256 is None or re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", checkpoint.sha256)
    assert checkpoint.revision is None or checkpoint.sha256 is not None, "what is pinned is checked"
    assert checkpoint.non_commercial == ("NC" in checkpoint.licence)
    assert checkpoint.size_mb == 0 or checkpoint.size_mb > 1
    assert checked_by(checkpoint) in ("first download", "sha256", "8 digits of sha256")


def test_pins_that_the_facts_state(shared_data: Path) -> None:
    full, satclip, presto = (get_checkpoint(n) for n in ("dofa-base-full", "satclip-vit16-l10", "presto"))
    facts = (shared_data.parent / "ENCODERS.md").read_text(encoding="utf-8")
    assert full.revision in facts  # type: ignore[operator]
    assert full.sha256 in facts  # type: ignore[operator]
    assert f"{satclip.n_bytes:,}" in facts
    path = shared_data / "weights" / "presto" / "default_model.pt"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == presto.sha256
    assert path.stat().st_size == presto.n_bytes


def test_torchgeo_pins_the_same() -> None:
    spec = importlib.util.find_spec("torchgeo")  # to import it takes many seconds
    assert spec is not None
    folder = Path(str(spec.origin)).parent / "models"
    for name, module in (("dofa-base", "dofa"), ("dofa-large", "dofa"), ("satclip-vit16-l40", "satclip")):
        ours, theirs = get_checkpoint(name), (folder / f"{module}.py").read_text(encoding="utf-8")
        assert f"{ours.repo}/resolve/{ours.revision}/{ours.filename}'" in theirs
        if len(ours.sha256 or "") == 8:
            assert f"-{ours.sha256}." in ours.filename, "torch's hub checks a file against the digits in its name"


def test_every_encoder_has_its_checkpoint() -> None:
    for card in list_encoders():
        if card.checkpoint:
            checkpoint = get_checkpoint(card.checkpoint)
            assert checkpoint.non_commercial == card.non_commercial, card.name
            assert weights_state(card.checkpoint).startswith("to download")


def test_unknown_names() -> None:
    with pytest.raises(WeightsError, match=r"no checkpoint 'clay'. Expected one of clay-v1\.5, "):
        get_checkpoint("clay")
    with pytest.raises(WeightsError, match="no checkpoint 'clay'"):
        checkpoint_of("clay")
    with pytest.raises(WeightsError, match="compact-rgb come with geoelle"):
        checkpoint_of("compact-rgb")
    with pytest.raises(WeightsError, match="presto' already"):
        register_checkpoint(get_checkpoint("presto"))


def test_what_comes_with_geoelle_needs_no_file(tmp_path: Path) -> None:
    assert resolve(get_card("compact-rgb")) is None
    assert weights_state("") == "shipped"
    assert weights_state("my-own") == "not known"
    with pytest.raises(WeightsError, match=r"comes with its weights, but .* Leave"):
        resolve(get_card("compact-rgb"), tmp_path)


# --- where files are looked for


def test_places_of_a_file(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    presto = get_checkpoint("presto")
    original = shared_data / "weights" / "presto" / "default_model.pt"
    assert weights_state("presto") == "to download 3.3 MB"
    for place in (original, original.parent, str(original), original.parent.parent):
        assert fetch_weights(presto, place).path == original
    card = replace(get_card("compact-rgb"), name="presto", checkpoint="presto")
    found = resolve(card, original)
    assert found is not None
    assert found.sha256 == presto.sha256
    monkeypatch.setenv("GEOELLE_WEIGHTS", str(original.parent))
    assert fetch_weights(presto).path == original
    assert weights_state("presto") == "here"
    monkeypatch.setenv("GEOELLE_WEIGHTS", str(tmp_path))
    assert weights_state("presto") == f"not in {tmp_path}"
    with pytest.raises(WeightsError, match=r"does not hold the weights presto. Expected the file default_model\.pt"):
        fetch_weights(presto)
    with pytest.raises(WeightsError, match=r"nowhere is not there"):
        fetch_weights(presto, tmp_path / "nowhere")
    monkeypatch.delenv("GEOELLE_WEIGHTS")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids the network"):
        fetch_weights(presto)
    copy = own_cache / "presto" / "default_model.pt"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(original.read_bytes())
    assert fetch_weights(presto).path == copy
    assert json.loads((copy.parent / RECORD_FILE).read_text())["sha256"] == presto.sha256


def test_another_file_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "default_model.pt"
    path.write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"has 1 bytes. The weights presto have 3,321,716"):
        fetch_weights(get_checkpoint("presto"), path)
    path.write_bytes(b"x" * 3_321_716)
    with pytest.raises(WeightsError, match=r"has sha256 [0-9a-f]{16}…, but the weights presto have 559c9d76f525bdf2…"):
        fetch_weights(get_checkpoint("presto"), tmp_path)


def test_file_is_read_again_only_when_it_changed(big: Path, own_cache: Path) -> None:
    path = own_cache / "big" / "big.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(big.read_bytes())
    first = fetch_weights(BIG)
    assert first.sha256 == hashlib.sha256(big.read_bytes()).hexdigest()
    record = path.parent / RECORD_FILE
    seen = json.loads(record.read_text())
    os.utime(path, ns=(1, 1))
    assert fetch_weights(BIG) == first
    assert json.loads(record.read_text()) == seen | {"mtime_ns": 1}
    # the same size and time, another content: found when it is read anew
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    assert fetch_weights(BIG) == first
    with pytest.raises(WeightsError, match="first download of big"):
        verify_weights("big")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"checkpoint": "big"}', "[" * 100_000])
def test_damaged_record_is_not_passed_over(big: Path, text: str) -> None:
    (big.parent / RECORD_FILE).write_text(text)
    with pytest.raises(WeightsError, match=r"weights\.json cannot be read .* Delete it"):
        fetch_weights(BIG, big)


def test_record_that_travelled_with_its_file_holds(big: Path) -> None:
    record = {
        "checkpoint": "big", "file": "big.ckpt", "sha256": "0" * 64, "n_bytes": 1, "mtime_ns": 1, "source": "x",
        "revision": None,
    }  # fmt: skip
    (big.parent / RECORD_FILE).write_text(json.dumps(record))
    with pytest.raises(WeightsError, match="first download of big had 0000000000000000"):
        fetch_weights(BIG, big)
    (big.parent / RECORD_FILE).write_text(json.dumps(record | {"checkpoint": "another"}))
    assert fetch_weights(BIG, big).path == big


# --- licences


def test_non_commercial_weights_need_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pretrain-vit-base-e199.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "args": 1}, path)
    satmae = get_checkpoint("satmae-vitb")
    assert weights_state("satmae-vitb") == "to download 1.30 GB; needs --accept-license"
    with pytest.raises(WeightsError, match=r"CC-BY-NC-4.0.*--accept-license or GEOELLE_ACCEPT_LICENSE=satmae-vitb"):
        fetch_weights(satmae, path)
    assert fetch_weights(satmae, path, accept_license=True).path == path
    with pytest.raises(WeightsError, match="not for commercial use"):
        fetch_weights(satmae, path)  # it is not remembered
    monkeypatch.setenv("GEOELLE_ACCEPT_LICENSE", "satmae-vitl, satmae-vitb")
    assert fetch_weights(satmae, path).path == path
    assert weights_state("satmae-vitb") == "to download 1.30 GB"
    monkeypatch.setenv("GEOELLE_ACCEPT_LICENSE", "satmae-vitl")
    with pytest.raises(WeightsError, match="not for commercial use"):
        verify_weights("satmae-vitb", weights=path)


# --- lean copies


def test_lean_copy_is_the_same_checkpoint(big: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "lean" / "big.safetensors", []
    made = convert_weights("big", out, weights=big, progress=lambda done, total: told.append((done, total)))
    assert made.n_bytes == out.stat().st_size < 6000 < big.stat().st_size
    assert made.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert made.source_sha256 == hashlib.sha256(big.read_bytes()).hexdigest()
    assert told[-1] == (40 * 30 * 4 + 8 + 3 * 2 + 24 * 8,) * 2
    assert summary_of(made.dropped) == "epoch, model.teacher, optimizer_states"
    published, lean = read_state(big, BIG), read_state(out, BIG)
    assert set(lean.tensors) == {"encoder.w", "encoder.n", "decoder.w", "decoder.b"}
    assert not lean.dropped
    for name, tensor in published.tensors.items():
        assert lean.tensors[name].dtype == tensor.dtype
        assert lean.tensors[name].shape == tensor.shape
        assert torch.equal(lean.tensors[name], tensor)
    metadata = read_tensor_file(out).metadata
    assert metadata["geoelle:source_sha256"] == made.source_sha256
    assert metadata["geoelle:checkpoint"] == "big"
    assert fetch_weights(BIG, out) == replace(fetch_weights(BIG, big), path=out)
    assert list(out.parent.iterdir()) == [out]
    with pytest.raises(AlreadyExistsError, match="is there already"):
        convert_weights("big", out, weights=big)
    again = convert_weights("big", tmp_path / "again.safetensors", weights=big)
    assert again.sha256 == made.sha256


def test_lean_copy_in_the_cache_is_found_first(big: Path, own_cache: Path) -> None:
    made = convert_weights("big", weights=big)
    assert made.path == own_cache / "big" / "big.safetensors"
    assert fetch_weights(BIG).path == made.path
    assert weights_state("big") == "here"


def test_lean_copy_that_is_damaged_or_anothers(big: Path, tmp_path: Path) -> None:
    out = tmp_path / "big.safetensors"
    convert_weights("big", out, weights=big)
    with pytest.raises(WeightsError, match=r"was converted from 'big'. Expected presto"):
        fetch_weights(get_checkpoint("presto"), out)
    with pytest.raises(WeightsError, match=r"converted from has sha256 .* but the weights big have ffff"):
        fetch_weights(replace(BIG, sha256="f" * 64), out)
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    with pytest.raises(WeightsError, match="is damaged: its tensors are not those that were written"):
        fetch_weights(BIG, out)


def test_lean_copy_that_cannot_be_written(big: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        convert_weights("big", tmp_path / "file" / "big.safetensors", weights=big)
    with pytest.raises(WeightsError, match=r"ends with \.safetensors"):
        convert_weights("big", tmp_path / "big.pt", weights=big)
    torch.save({"state_dict": {"model.a": torch.zeros(2, dtype=torch.complex64)}}, big)
    with pytest.raises(WeightsError, match=r"The tensor a is of torch\.complex64"):
        convert_weights("big", tmp_path / "c.safetensors", weights=big)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "given"]


def test_lean_copy_is_made_a_tensor_at_a_time(tmp_path: Path) -> None:
    """Eight tensors of 8 MB, and as much again to leave out: what is not backed by a file stays near one of them."""
    state = {
        f"model.{part}.{i}": torch.full((2_000_000,), float(i)) for i in range(8) for part in ("encoder", "teacher")
    }
    torch.save({"state_dict": state}, tmp_path / "big.ckpt")
    del state
    seen: list[int] = []

    def told(done: int, total: int) -> None:
        status = Path("/proc/self/status").read_text()
        seen.append(int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024)

    register_checkpoint(BIG)
    try:
        made = convert_weights("big", tmp_path / "big.safetensors", weights=tmp_path, progress=told)
    finally:
        unregister_checkpoint("big")
    assert made.n_bytes > 64_000_000
    assert max(seen) - min(seen) < 24_000_000


# --- strict loading


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    from geoelle.encoders.opening import load_strictly

    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4), torch.nn.Linear(4, 5))
    tensors = dict(network.state_dict())
    load_strictly(network, tensors, tmp_path)
    wrong = {name: value for name, value in tensors.items() if not name.startswith("1.")} | {
        "0.bias": torch.zeros(7), "x": torch.zeros(1),
    }  # fmt: skip
    with pytest.raises(WeightsError) as caught:
        load_strictly(network, wrong, tmp_path)
    text = str(caught.value)
    assert "lacks 1.weight, 1.bias;" in text
    assert "has, unexpected, x;" in text
    assert "in another shape: 0.bias is (7,) and should be (3,)" in text
    many = {f"y{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(WeightsError, match="y0, y1, y2 and 6 more"):
        load_strictly(network, tensors | many, tmp_path)


def test_card_of_an_opened_encoder_names_the_published_file(big: Path, tmp_path: Path) -> None:
    from geoelle.encoders.network import Network
    from geoelle.encoders.opening import open_encoder

    class Small(Network):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.ParameterDict({"w": torch.zeros(40, 30), "n": torch.tensor(0.0)})
            self.decoder = torch.nn.ParameterDict({"w": torch.zeros(3), "b": torch.zeros(4, 6)})

    card = replace(get_card("compact-rgb"), name="big", checkpoint="big", validated=True)
    lean = convert_weights("big", tmp_path / "big.safetensors", weights=big)
    for path in (big, lean.path):
        opened = open_encoder(card, lambda tensors: Small(), weights=path)
        assert opened.card.weights_sha256 == lean.source_sha256
        assert float(opened.network.state_dict()["encoder.n"]) == 7
    random = open_encoder(card, lambda tensors: Small(), random_seed=3)
    assert random.card.weights_sha256 == "random-3"
    assert not random.card.validated


# --- the command


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["weights", *arguments])
    text = "" if done.exception is None or isinstance(done.exception, SystemExit) else str(done.exception)
    return done.exit_code, done.stdout, done.stderr + text


def test_commands(big: Path, tmp_path: Path) -> None:
    out = tmp_path / "lean.safetensors"
    code, said, noted = run("convert", "big", "--weights", str(big), "--out", str(out))
    assert code == 0, noted
    assert f"wrote 4 tensors, 0.0 MB, to {out}, sha256 {hashlib.sha256(out.read_bytes()).hexdigest()}" in said
    assert "Left out: epoch, model.teacher, optimizer_states." in noted
    code, said, noted = run("verify", "big", "--weights", str(big))
    assert code == 0, noted
    assert f"big: {big} is whole" in said
    assert hashlib.sha256(big.read_bytes()).hexdigest() in said
    assert "Left out when loaded: epoch, model.teacher, optimizer_states." in noted
    out.write_bytes(out.read_bytes()[:-1])
    assert run("verify", "big", "--weights", str(out))[0] == 1
    code, _, noted = run("verify", "big")
    assert code == 1
    assert "geoelle weights get big" in noted
    assert run("get", "nonsense")[0] == 1
    assert run("nonsense")[0] == 2
    assert run("get")[0] == 2


@pytest.mark.parametrize("place", ["~nobody-here/x", "a" * 5000, "/dev/null/x", "a\n"])
def test_odd_places_are_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("GEOELLE_WEIGHTS", place)
    assert run("list")[0] == 0
    for arguments in (("verify", "clay-v1.5"), ("get", "clay-v1.5")):
        code, _, noted = run(*arguments)
        assert code == 1
        assert "is not there. It should hold the weights clay-v1.5" in noted
        assert len(noted) < 500
    code, _, noted = run("verify", "clay-v1.5", "--weights", "elsewhere")
    assert code == 1
    assert "elsewhere is not there" in noted


def test_name_in_a_file_does_not_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = json.dumps({"__metadata__": {"geoelle:checkpoint": "clay\x1b[2J" + "y" * 500}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    code, _, noted = run("verify", "clay-v1.5", "--weights", str(path))
    assert code == 1
    assert "\x1b" not in noted
    assert "was converted from 'clay" in noted
    assert len(noted) < 400


def test_lists_fit_a_hundred_columns() -> None:
    code, said, _ = run("list")
    assert code == 0
    listed = CliRunner().invoke(app, ["encoders", "--long"])
    assert listed.exit_code == 0
    assert all(len(line) <= 100 for line in (said + listed.stdout).splitlines())
    for name in NAMES:
        assert f"│ {name} " in said, name
    assert "│ compact-rgb " in listed.stdout
    assert "shipped" in listed.stdout


def test_sizes_and_names_for_people() -> None:
    assert [size_of(n) for n in (3_321_716, 999_900_000, 5.16e9)] == ["3.3 MB", "999.9 MB", "5.16 GB"]
    assert summary_of([]) == ""
    assert summary_of(["teacher.a.b", "teacher.a.c", "epoch"]) == "epoch, teacher.a (2)"
