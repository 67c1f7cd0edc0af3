"""Published checkpoints: where they are, whose they are, how they are opened safely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geoelle.errors import WeightsError
from geoelle.provenance import file_sha256

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published file of weights."""

    name: str
    """Name in geoelle, e.g. `clay-v1.5`."""
    repo: str
    """Repository on the hub, `owner/name`; empty where `url` is the address."""
    filename: str
    """File in the repository, or what the download is called."""
    revision: str | None
    """Commit of the repository; None: that of the first download, which is recorded."""
    url: str
    """Address of a file that is on no hub."""
    n_bytes: int | None
    """Size of the file; None: not known."""
    sha256: str | None
    """Of the file; None: that of the first download, which is recorded."""
    licence: str
    non_commercial: bool
    inside: str = ""
    """Key of the state dict in a file that holds more; empty: the file is the state dict."""
    strip: tuple[str, ...] = ()
    """Prefixes taken off the names of tensors."""
    drop: tuple[str, ...] = ()
    """Prefixes, after that, of tensors that are left out."""


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """A checkpoint's file on this machine."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """Tensors of a checkpoint."""

    tensors: Mapping[str, Tensor]
    dropped: tuple[str, ...]
    """Names of tensors and other entries that were left out."""


_CHECKPOINTS: dict[str, Checkpoint] = {
    "presto": Checkpoint(
        name="presto",
        repo="",
        filename="default_model.pt",
        revision="13173d028f03",
        url="https://github.com/nasaharvest/presto/raw/13173d028f03/data/default_model.pt",
        n_bytes=3_321_716,
        sha256="559c9d76f525bdf2dd3774da8b1e7f1510769b73baacac12e9e4d8d5c67fbe65",
        licence="MIT",
        non_commercial=False,
    ),
}


def get_checkpoint(name: str) -> Checkpoint:
    """The checkpoint called `name`.

    Raises:
        WeightsError: If there is none.
    """
    if name not in _CHECKPOINTS:
        raise WeightsError(f"There is no checkpoint {name!r}. Expected one of {', '.join(sorted(_CHECKPOINTS))}.")
    return _CHECKPOINTS[name]


def fetch_weights(
    checkpoint: Checkpoint, weights: str | Path | None = None, *, accept_license: bool = False
) -> FoundWeights:
    """The checkpoint's file, from `weights`.

    Raises:
        WeightsError: If it is not there, or its licence is not accepted.
    """
    if checkpoint.non_commercial and not accept_license:
        raise WeightsError(f"The weights {checkpoint.name} are under {checkpoint.licence}. Accept that to use them.")
    if weights is None:
        raise WeightsError(f"The weights {checkpoint.name} are not here. Name their file with `weights`.")
    path = Path(weights) / Path(checkpoint.filename).name if Path(weights).is_dir() else Path(weights)
    if not path.is_file():
        raise WeightsError(f"There is no file {path}. Expected the weights {checkpoint.name}.")
    return FoundWeights(path, file_sha256(path))


def read_state(path: Path, checkpoint: Checkpoint) -> CheckpointState:
    """The tensors of a checkpoint, opened without executing anything.

    Raises:
        WeightsError: If it cannot be opened safely, or holds no tensors.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise WeightsError(
            f"{path} cannot be opened safely ({type(error).__name__}). Use the published file."
        ) from error
    tensors = {}
    for name, tensor in (content[checkpoint.inside] if checkpoint.inside else content).items():
        for prefix in checkpoint.strip:
            name = name.removeprefix(prefix)
        tensors[name] = tensor
    dropped = tuple(name for name in tensors if name.startswith(checkpoint.drop)) if checkpoint.drop else ()
    return CheckpointState({name: tensors[name] for name in tensors if name not in dropped}, dropped)
