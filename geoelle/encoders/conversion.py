"""A lean file of a checkpoint: the tensors that the network has, as safetensors, with where they are from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geoelle.encoders.checkpoints import (
    Checkpoint,
    Progress,
    checkpoint_of,
    fetch_weights,
    file_at,
    read_state,
    summary_of,
)
from geoelle.encoders.tensor_file import write_tensor_file
from geoelle.encoders.weights_cache import (
    CONVERTED_FROM,
    SOURCE_SHA256,
    TENSORS_SHA256,
    check_licence,
    explicit_place,
    folder_of,
    identify,
    is_converted,
    weights_here,
)
from geoelle.errors import AlreadyExistsError, WeightsError
from geoelle.provenance import file_sha256

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ConvertedWeights:
    """What `convert_weights` wrote."""

    checkpoint: str
    path: Path
    sha256: str
    """Of the new file."""
    source: Path
    source_sha256: str
    n_tensors: int
    n_bytes: int
    """Of the new file."""
    dropped: tuple[str, ...]
    """Names of tensors and other entries that were left out."""


@dataclass(frozen=True, slots=True)
class VerifiedWeights:
    """What `verify_weights` found."""

    checkpoint: str
    path: Path
    sha256: str
    """Of the published file."""
    n_bytes: int
    n_tensors: int
    n_values: int
    dropped: tuple[str, ...]
    """Names of tensors and other entries that are left out when it is loaded."""
    published: bool
    """Whether somebody published a sha256 that this one was compared with."""
    converted: bool
    """Whether it is a lean copy: `sha256`, of the file that it was made from, is then its own word alone."""
    fits: str
    """Encoder whose names and shapes the tensors were compared with; empty where the file's own sha256 is known."""


def convert_weights(
    name: str,
    out: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    accept_license: bool = False,
    progress: Progress | None = None,
) -> ConvertedWeights:
    """Write a checkpoint's tensors without what no encoder needs (of Clay's 5.16 GB, encoder and decoder: 1.3 GB).

    The tensors stay on the disk and are copied one at a time. The new file is taken for the same checkpoint by
    everything that loads it: it carries the sha256 of the file it was made from, and of its own tensors.

    Args:
        name: Checkpoint, or encoder.
        out: File to write, `.safetensors`; None: in geoelle's cache, where it is found before the published one.
        weights: File or folder of the published file; None: as `fetch_weights`.
        accept_license: Whether the user accepts a non-commercial licence.
        progress: Told the bytes written.

    Raises:
        WeightsError: If the published file is not there or not as expected, or the new one cannot be written.
        AlreadyExistsError: If `out` is there.
    """
    checkpoint = checkpoint_of(name)
    target = folder_of(checkpoint) / f"{checkpoint.name}.safetensors" if out is None else Path(out)
    if target.suffix != ".safetensors":
        raise WeightsError(f"{target} would hold safetensors. Expected a name that ends with .safetensors.")
    if target.exists():
        raise AlreadyExistsError(f"{target} is there already. Expected a new file. Name another one, or delete it.")
    found = fetch_weights(checkpoint, weights, accept_license=accept_license)
    state = read_state(found.path, checkpoint)
    metadata = {
        "format": "pt", CONVERTED_FROM: checkpoint.name, SOURCE_SHA256: found.sha256,
        "geoelle:source": checkpoint.source, "geoelle:licence": checkpoint.licence,
        "geoelle:dropped": summary_of(state.dropped),
    }  # fmt: skip
    _write(target, state.tensors, metadata, progress)
    return ConvertedWeights(
        checkpoint.name, target, file_sha256(target), found.path, found.sha256, len(state.tensors),
        target.stat().st_size, state.dropped,
    )  # fmt: skip


def _write(target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], progress: Progress | None) -> None:
    """Under another name first: nothing half-written ever has the final one."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def told(done: int) -> None:
        if progress is not None:
            progress(done, total)

    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            write_tensor_file(stream, tensors, metadata, TENSORS_SHA256, told)
        partial.replace(target)
    except OSError as error:
        raise WeightsError(
            f"{target} cannot be written: {error.strerror or error}. Expected room for {total / 1e6:,.0f} MB. Make "
            "room, or name another file."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def verify_weights(name: str, *, weights: str | Path | None = None, accept_license: bool = False) -> VerifiedWeights:
    """Read a checkpoint's file anew, check it against what was published or recorded, and open it. No network.

    Where no published sha256 vouches for the file itself, the tensors' names and shapes are compared with those of the
    encoder's network.

    Raises:
        WeightsError: If it is not here, not the one expected, cannot be opened safely, or does not fit its encoder.
    """
    checkpoint = checkpoint_of(name)
    check_licence(checkpoint, accept_license)
    place = explicit_place(weights)
    path = weights_here(checkpoint) if place is None else file_at(place, checkpoint)
    if path is None:
        raise WeightsError(f"The weights {checkpoint.name} are not here. Run `geoelle weights get {checkpoint.name}`.")
    sha256 = identify(path, checkpoint, anew=True)
    state = read_state(path, checkpoint)
    n_values = sum(tensor.numel() for tensor in state.tensors.values())
    published, converted = checkpoint.sha256 is not None, is_converted(path)
    fits = "" if published and not converted else _fitting(path, checkpoint)
    return VerifiedWeights(
        checkpoint.name, path, sha256, path.stat().st_size, len(state.tensors), n_values, state.dropped, published,
        converted, fits,
    )  # fmt: skip


def _fitting(path: Path, checkpoint: Checkpoint) -> str:
    """The encoder that a checkpoint fits by names and shapes; empty where no encoder here takes it.

    Raises:
        WeightsError: If it does not fit the encoder that takes it.
    """
    from geoelle.encoders.registry import list_encoders, load_encoder

    name = next((card.name for card in list_encoders() if card.checkpoint == checkpoint.name), "")
    if name:
        load_encoder(name, weights=path, accept_license=True, shapes_only=True)
    return name
