"""Files of weights are opened without executing anything in them: published layouts, and hostile and damaged ones."""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

from geoelle.encoders.checkpoint_table import Checkpoint  # noqa: E402
from geoelle.encoders.checkpoints import get_checkpoint, read_state  # noqa: E402
from geoelle.encoders.safe_loading import InertRecord, open_weights  # noqa: E402
from geoelle.errors import WeightsError  # noqa: E402

pytestmark = pytest.mark.models
ANY = Checkpoint("any", "", "any.pt", None, "", None, None, "MIT", False)


class Calls:
    """Pickles as a call of anything: what hostile files do."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile(canary: Path) -> dict[str, Any]:
    """Contents that make a file, by ways of ever more cunning, where they are unpickled carelessly."""
    command = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, command),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "open": Calls(open, str(canary), "w"),
        "import": Calls(importlib.import_module, "os"),
        "nested in an argument": Calls(dict, [("a", Calls(os.system, command))]),
        "beside the weights": {"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(x=Calls(os.system, command))},
        "key of a mapping": {"model": collections.OrderedDict(a=Calls(eval, code))},
        "torch.load": Calls(torch.load, str(canary)),
        "pickle.loads": Calls(pickle.loads, pickle.dumps(Calls(os.system, command))),
    }


@pytest.mark.parametrize("kind", list(hostile(Path("x"))))
@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle", "protocol 5"])
def test_hostile_file_is_refused_and_does_nothing(tmp_path: Path, kind: str, form: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "hostile.pt"
    content = hostile(canary)[kind]
    if form in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    else:
        path.write_bytes(pickle.dumps(content, protocol=5 if form == "protocol 5" else 2))
    with pytest.raises(WeightsError, match=r"asks for more than tensors|is damaged|is no torch file"):
        read_state(path, ANY)
    assert not canary.exists()


def test_the_canary_sings_where_files_are_opened_carelessly(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "hostile.pt"
    torch.save(hostile(canary)["os.system"], path)
    torch.load(path, weights_only=False)
    assert canary.exists()


def test_the_error_names_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "hostile.pt"
    torch.save({"model": {"a": torch.zeros(1)}, "x": Calls(collections.deque, [1])}, path)
    with pytest.raises(WeightsError, match=r"hostile\.pt asks for more than tensors .*collections\.deque"):
        open_weights(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_error_names_a_call_that_torch_blocks(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "hostile.pt"
    content = {"x": Calls(os.system, ["true"])}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"asks for more than tensors \([^)]*(posix|nt)\.system") as caught:
        open_weights(path)
    assert "PyTorch" not in str(caught.value)


def test_stand_in_takes_everything_and_does_nothing() -> None:
    record = InertRecord(1, x=2)
    record.__setstate__({"x": 1})
    assert not vars(record)


# --- published layouts


def test_satmae_file_with_its_namespace_opens(shared_data: Path) -> None:
    path = shared_data.parent / "encoders" / "satmae" / "shrunk_group_ckpt_layout.pth"
    state = read_state(path, get_checkpoint("satmae-vitb"))
    whole = torch.load(path.with_name("shrunk_group.pt"), weights_only=True)["state_dict"]
    assert set(state.tensors) == set(whole)
    assert sorted(state.dropped) == ["args", "epoch", "optimizer", "scaler"]
    assert isinstance(open_weights(path)["args"], InertRecord)
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(path, weights_only=True)


def test_lightning_file_opens_without_its_prefix(shared_data: Path) -> None:
    path = shared_data.parent / "encoders" / "satclip" / "shrunk_lightning_layout.ckpt"
    state = read_state(path, get_checkpoint("satclip-vit16-l10"))
    assert "visual.class_embedding" in state.tensors
    assert state.dropped == ("hyper_parameters",)


def test_clay_layout_loses_teacher_and_optimizer(tmp_path: Path) -> None:
    path = tmp_path / "clay.ckpt"
    parts = ("encoder.a.b", "decoder.a.b", "proj.weight", "teacher.blocks.0.x", "teacher.blocks.1.x", "mrl.x")
    torch.save(
        {
            "state_dict": {f"model.{name}": torch.full((2,), float(i)) for i, name in enumerate(parts)},
            "optimizer_states": [
                {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": np.float64(0.1)}]}
            ],
            "hyper_parameters": {"where": Path("data"), "args": argparse.Namespace(x=1)},
            "epoch": 1,
        },
        path,
    )
    state = read_state(path, get_checkpoint("clay-v1.5"))
    assert list(state.tensors) == ["encoder.a.b", "decoder.a.b"]
    assert state.tensors["decoder.a.b"].tolist() == [1.0, 1.0]
    assert set(state.dropped) == {
        "model.proj.weight", "model.teacher.blocks.0.x", "model.teacher.blocks.1.x", "model.mrl.x",
        "optimizer_states", "hyper_parameters", "epoch",
    }  # fmt: skip


def test_presto_file_is_the_state_dict(shared_data: Path) -> None:
    state = read_state(shared_data / "weights" / "presto" / "default_model.pt", get_checkpoint("presto"))
    assert len(state.tensors) == 102
    assert sum(t.numel() for t in state.tensors.values()) == 823_002
    assert not state.dropped


def test_file_without_the_outer_layer_is_taken_as_it_is(tmp_path: Path) -> None:
    """A mirror's or a user's own copy of the tensors alone, as zip, old pickle and safetensors."""
    tensors = {"model.encoder.x": torch.arange(3.0)}
    torch.save(tensors, tmp_path / "zip.pt")
    torch.save(tensors, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        assert read_state(path, get_checkpoint("clay-v1.5")).tensors["encoder.x"].tolist() == [0, 1, 2]


def test_tensors_stay_on_the_disk_until_used(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(20_000_000), "b": torch.ones(2)}, path)

    def anonymous() -> int:
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024

    before = anonymous()
    state = read_state(path, ANY)
    assert state.tensors["b"].tolist() == [1, 1]
    assert anonymous() - before < 40_000_000


# --- what is no file of weights


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b"weights!", "is no file of weights"),
        (b"PK\x03\x04 and nothing more", "without its end or damaged"),
        (b"\x80\x02.", "is damaged|asks for more"),
    ],
)
def test_what_is_no_file_of_weights_says_what_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        read_state(path, ANY)


def test_folder_or_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pt"):
        with pytest.raises(WeightsError, match="cannot be read"):
            open_weights(path)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95, 0.999])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    for name, legacy in (("a.pt", False), ("b.pt", True)):
        path = tmp_path / name
        torch.save({"a": torch.rand(1000), "b": torch.rand(1000)}, path, _use_new_zipfile_serialization=not legacy)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(WeightsError, match="damaged"):
            read_state(path, ANY)
    path = tmp_path / "c.safetensors"
    save_file({"a": torch.rand(1000)}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(WeightsError, match=r"damaged|no safetensors"):
        read_state(path, ANY)


def repacked(path: Path, change: Callable[[str, bytes], tuple[bytes, int]]) -> Path:
    """The zip file with each entry's bytes and compression changed."""
    out = path.with_name("repacked.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compresslevel=1) as new:
        for entry in old.infolist():
            data, kind = change(entry.filename, old.read(entry))
            new.writestr(entry.filename, data, compress_type=kind)
    return out


def test_zip_bombs_are_refused_before_they_unfold(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(10)}, path)
    packed = repacked(path, lambda name, data: (data, zipfile.ZIP_DEFLATED))
    with pytest.raises(WeightsError, match="are compressed"):
        read_state(packed, ANY)
    blank = b"\x80\x02" + b" " * (1 << 26)
    bomb = repacked(path, lambda name, data: (blank if name.endswith("pkl") else data, zipfile.ZIP_DEFLATED))
    assert bomb.stat().st_size < 2_000_000
    with pytest.raises(WeightsError, match=r"holds 67,108,866 bytes of names"):
        read_state(bomb, ANY)
    none = repacked(path, lambda name, data: (data, zipfile.ZIP_STORED))
    with zipfile.ZipFile(none, "a") as archive:
        archive.writestr("other/data.pkl", b"")
    with pytest.raises(WeightsError, match="holds 2 pickles"):
        read_state(none, ANY)


def test_tensor_larger_than_its_bytes(tmp_path: Path) -> None:
    small = torch.zeros(1)
    torch.save({"a": small.expand(1 << 40)}, tmp_path / "expanded.pt")
    with pytest.raises(WeightsError, match=r"holds a of shape \(1099511627776,\), larger than the file"):
        read_state(tmp_path / "expanded.pt", ANY)
    torch.save({"a": torch.zeros(4).to_sparse()}, tmp_path / "sparse.pt")
    with pytest.raises(WeightsError, match=r"no plain tensor|asks for more|damaged"):
        read_state(tmp_path / "sparse.pt", ANY)


def test_storage_that_claims_more_than_its_entry(tmp_path: Path) -> None:
    """The number of elements in the pickle, 1000, is raised to 2**30 where the entry has 1000."""
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    claim = struct.pack("<BH", ord("M"), 1000), struct.pack("<Bi", ord("J"), 1 << 30)
    lying = repacked(path, lambda name, data: (data.replace(*claim) if name.endswith("pkl") else data, 0))
    with pytest.raises(WeightsError, match=r"damaged|larger than the file"):
        read_state(lying, ANY)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 50]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"},
        {"a": {"dtype": "NONE", "shape": [2], "data_offsets": [0, 8]}},
        {"a": 1},
        {"__metadata__": {"format": 1}},
        {"__metadata__": []},
        [],
        "{",
    ],
)  # fmt: skip
def test_safetensors_with_absurd_headers(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "a.safetensors"
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    with pytest.raises(WeightsError):
        read_state(path, ANY)


@pytest.mark.parametrize("length", [0, 1 << 62, (1 << 64) - 1])
def test_safetensors_with_absurd_lengths(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(WeightsError, match=r"no safetensors file|damaged"):
        read_state(path, ANY)


def test_names_that_meet_after_their_prefix_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"state_dict": {"model.a": torch.zeros(1), "a": torch.ones(1)}}, path)
    with pytest.raises(WeightsError, match="holds a twice"):
        read_state(path, get_checkpoint("satclip-vit16-l10"))


def test_names_that_would_steer_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for content in ({"\x1b[2J": torch.zeros(1)}, {"state_dict": {"a\nb": torch.zeros(1)}}, {1: torch.zeros(1)}):
        torch.save(content, path)
        with pytest.raises(WeightsError, match="Expected plain names") as caught:
            read_state(path, get_checkpoint("satclip-vit16-l10"))
        assert str(caught.value).isprintable()


def test_threads_open_files_at_the_same_time(shared_data: Path) -> None:
    path = shared_data.parent / "encoders" / "satmae" / "shrunk_group_ckpt_layout.pth"
    known = set(torch.serialization.get_safe_globals())
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda _: read_state(path, get_checkpoint("satmae-vitb")), range(40)))
    assert len({len(state.tensors) for state in states}) == 1
    assert set(torch.serialization.get_safe_globals()) == known


def test_file_without_what_it_should_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"epoch": 1, "other": {"a": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match="holds no 'model', but epoch, other"):
        read_state(path, get_checkpoint("satmae-vitb"))
    torch.save({"epoch": 1}, path)
    with pytest.raises(WeightsError, match="holds no tensors of any: epoch"):
        read_state(path, ANY)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(WeightsError, match="holds list"):
        read_state(path, ANY)
