"""Published checkpoints by name: found on this machine or fetched, checked, and opened safely. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoelle.encoders.checkpoint_table import PUBLISHED, Checkpoint
from geoelle.encoders.weights_cache import (
    cache_folder,
    check_licence,
    explicit_place,
    file_in,
    identify,
    licence_accepted,
    offline,
    weights_here,
)
from geoelle.errors import WeightsError
from geoelle.records import EncoderCard

if TYPE_CHECKING:
    from torch import Tensor

type Progress = Callable[[int, int], None]
"""Told the bytes that are there and the bytes that there will be, 0 where that is not known."""

__all__ = [
    "Checkpoint",
    "CheckpointState",
    "FoundWeights",
    "checked_by",
    "checkpoint_of",
    "fetch_weights",
    "file_at",
    "get_checkpoint",
    "list_checkpoints",
    "read_state",
    "register_checkpoint",
    "resolve",
    "size_of",
    "summary_of",
    "unregister_checkpoint",
    "weights_here",
    "weights_state",
]

_SHA256_DIGITS = 64

_CHECKPOINTS: dict[str, Checkpoint] = {checkpoint.name: checkpoint for checkpoint in PUBLISHED}


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """A checkpoint's file on this machine, checked."""

    path: Path
    sha256: str
    """Of the published file; a converted file carries that of the file it was made from."""


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """Tensors of a checkpoint."""

    tensors: Mapping[str, Tensor]
    dropped: tuple[str, ...]
    """Names of tensors and other entries that were left out."""


def list_checkpoints() -> list[Checkpoint]:
    """All checkpoints, by name."""
    return [_CHECKPOINTS[name] for name in sorted(_CHECKPOINTS)]


def get_checkpoint(name: str) -> Checkpoint:
    """The checkpoint called `name`.

    Raises:
        WeightsError: If there is none.
    """
    if name not in _CHECKPOINTS:
        raise WeightsError(f"There is no checkpoint {name!r}. Expected one of {', '.join(sorted(_CHECKPOINTS))}.")
    return _CHECKPOINTS[name]


def register_checkpoint(checkpoint: Checkpoint) -> None:
    """Add a checkpoint, for an encoder of your own.

    Raises:
        WeightsError: If the name is taken.
    """
    if checkpoint.name in _CHECKPOINTS:
        raise WeightsError(f"There is a checkpoint {checkpoint.name!r} already. Expected a new name. Use another.")
    _CHECKPOINTS[checkpoint.name] = checkpoint


def unregister_checkpoint(name: str) -> None:
    """Take a checkpoint out again.

    Raises:
        WeightsError: If there is none.
    """
    del _CHECKPOINTS[get_checkpoint(name).name]


def checkpoint_of(name: str) -> Checkpoint:
    """The checkpoint called `name`, or that of the encoder called so.

    Raises:
        WeightsError: If there is neither, or the encoder's weights come with geoelle.
    """
    from geoelle.encoders.registry import get_card
    from geoelle.errors import EncoderError

    if name in _CHECKPOINTS:
        return _CHECKPOINTS[name]
    try:
        card = get_card(name)
    except EncoderError:
        return get_checkpoint(name)
    if not card.checkpoint:
        raise WeightsError(f"The weights of {name} come with geoelle. Expected an encoder with a checkpoint.")
    return get_checkpoint(card.checkpoint)


def weights_state(name: str, *, accept_license: bool = False) -> str:
    """In a few words, whether a checkpoint is here; no file is read and no network asked.

    Args:
        name: Of the checkpoint; empty for an encoder whose weights come with geoelle.
        accept_license: Whether the user accepts a non-commercial licence.

    """
    if not name:
        return "shipped"
    if name not in _CHECKPOINTS:  # of somebody's own encoder, whose factory knows
        return "not known"
    checkpoint = _CHECKPOINTS[name]
    place = explicit_place(None)
    path = weights_here(checkpoint) if place is None else file_in(place, checkpoint)
    size = f" {size_of(checkpoint.size_mb * 1e6)}" if checkpoint.size_mb else ""
    state = "here" if path is not None else f"not in {place}" if place is not None else f"to download{size}"
    return state if licence_accepted(checkpoint, accept_license) else f"{state}; needs --accept-license"


def size_of(n_bytes: float) -> str:
    """A size for people, in powers of ten as the hub shows it."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def checked_by(checkpoint: Checkpoint) -> str:
    """In a few words, what a checkpoint's file is held to."""
    if checkpoint.sha256 is None:
        return "first download"
    n = len(checkpoint.sha256)
    return "sha256" if n == _SHA256_DIGITS else f"{n} digits of sha256"


def resolve(
    card: EncoderCard,
    weights: str | Path | None = None,
    *,
    accept_license: bool = False,
    progress: Progress | None = None,
) -> FoundWeights | None:
    """The weights that an encoder needs, downloaded where they are not here; None where they come with geoelle.

    For the process that hands out the work: what runs elsewhere is given the path that this returns.

    Args:
        card: Of the encoder.
        weights: File or folder that holds them; None: `$GEOELLE_WEIGHTS`, else geoelle's own folder.
        accept_license: Whether the user accepts a non-commercial licence.
        progress: Told how far a download is.

    Raises:
        WeightsError: As `fetch_weights`.
    """
    if not card.checkpoint:
        if weights is not None:
            raise WeightsError(f"{card.name} comes with its weights, but {weights} was named. Leave `weights` out.")
        return None
    return fetch_weights(get_checkpoint(card.checkpoint), weights, accept_license=accept_license, progress=progress)


def fetch_weights(
    checkpoint: Checkpoint,
    weights: str | Path | None = None,
    *,
    accept_license: bool = False,
    progress: Progress | None = None,
) -> FoundWeights:
    """The checkpoint's file: from `weights`, else from geoelle's folder, else downloaded into that.

    No network is asked where the file is here, or a file or folder is named.

    Args:
        checkpoint: Which.
        weights: File, or folder that holds it under its published name, `NAME/` of geoelle's own folder or
            `NAME.safetensors`; None: `$GEOELLE_WEIGHTS` where that is set, else geoelle's folder.
        accept_license: Whether the user accepts a non-commercial licence.
        progress: Told how far a download is.

    Raises:
        WeightsError: If it is not there and cannot be downloaded, if it is not the file expected, or if its licence
            is not accepted.
    """
    check_licence(checkpoint, accept_license)
    place = explicit_place(weights)
    path = weights_here(checkpoint) if place is None else file_at(place, checkpoint)
    if path is None:
        path = _download(checkpoint, progress)
    return FoundWeights(path, identify(path, checkpoint))


def file_at(place: Path, checkpoint: Checkpoint) -> Path:
    """The checkpoint's file at the place that the user named.

    Raises:
        WeightsError: If it is not there.
    """
    path = file_in(place, checkpoint)
    if path is None:
        found = "does not hold the weights" if exists(place) else "is not there. It should hold the weights"
        raise WeightsError(
            f"{str(place)[:200]} {found} {checkpoint.name}. Expected the file {Path(checkpoint.filename).name}. "
            f"Download it from {checkpoint.source}, or name where it is."
        )
    return path


def _download(checkpoint: Checkpoint, progress: Progress | None) -> Path:
    if offline():
        raise WeightsError(
            f"The weights {checkpoint.name} are not in {cache_folder()}, and HF_HUB_OFFLINE forbids the network. "
            f"Download {checkpoint.source} elsewhere, and name the file with `weights`."
        )
    from geoelle.encoders.download import download

    return download(checkpoint, progress=progress)


def read_state(path: Path, checkpoint: Checkpoint) -> CheckpointState:
    """The tensors of a checkpoint under the names that the network has, opened without executing anything.

    Raises:
        WeightsError: If it cannot be opened safely, or holds no tensors, or claims larger ones than it has.
    """
    from geoelle.encoders.safe_loading import check_names, open_weights

    content, dropped = _inside(open_weights(path), checkpoint, path)
    check_names(content, path)
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        short = _without(name, checkpoint.strip)
        if not _is_tensor(value) or short.startswith(checkpoint.drop):
            dropped.append(name)
        elif short in tensors:
            raise WeightsError(f"{path} holds {short} twice. Expected each tensor once. Use the published file.")
        else:
            _check_size(short, value, path)
            tensors[short] = value
    if not tensors:
        raise WeightsError(f"{path} holds no tensors of {checkpoint.name}: {summary_of(dropped) or 'it is empty'}.")
    return CheckpointState(tensors, tuple(dropped))


def summary_of(names: Iterable[str]) -> str:
    """Names by their first part with their number: `model.teacher (343), epoch`."""
    parts = Counter(".".join(name.split(".")[:2]) if name.count(".") > 1 else name.split(".")[0] for name in names)
    return ", ".join(part if n == 1 else f"{part} ({n})" for part, n in sorted(parts.items()))


def _inside(content: Mapping[str, Any], checkpoint: Checkpoint, path: Path) -> tuple[Mapping[str, Any], list[str]]:
    """The state dict in a file, and the names of what lies beside it. A bare or converted file is the state dict."""
    key = checkpoint.inside
    if not key or (key not in content and any(_is_tensor(value) for value in content.values())):
        return content, []
    inner = content.get(key)
    if not isinstance(inner, Mapping):
        found = ", ".join(sorted(content)[:8]) or "nothing"
        raise WeightsError(f"{path} holds no {key!r}, but {found}. Use the published file of {checkpoint.name}.")
    return inner, [name for name in content if name != key]


def _without(name: str, prefixes: tuple[str, ...]) -> str:
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return name[len(prefix) :]


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _check_size(name: str, tensor: Tensor, path: Path) -> None:
    """A tensor whose strides repeat a few bytes costs nothing to name and everything to copy."""
    import torch

    dense = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not dense or tensor.numel() * tensor.element_size() > path.stat().st_size:
        raise WeightsError(
            f"{path} holds {name} of shape {tuple(tensor.shape)}, larger than the file or no plain tensor. "
            "Use the published file."
        )
