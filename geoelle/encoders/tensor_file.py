"""Safetensors files: their header read without any library, and written a tensor at a time. Imports no torch.

The format is eight bytes with the header's length, a JSON header that names each tensor's type, shape and place, and
the tensors' bytes (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from geoelle.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

MOST_HEADER_BYTES = 100_000_000
"""As the library itself allows."""
_PIECE_BYTES = 1 << 24
_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The header of a safetensors file."""

    metadata: Mapping[str, str]
    names: tuple[str, ...]
    data_start: int
    """Offset of the tensors' bytes."""


def read_tensor_file(path: Path) -> TensorFile:
    """The header of a safetensors file, without its tensors.

    Raises:
        WeightsError: If it is no such file, or its header is absurd.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        n = int.from_bytes(stream.read(8), "little")
        if size < 8 or n > min(MOST_HEADER_BYTES, size - 8):
            raise WeightsError(f"{path} is no safetensors file: its header would have {n:,} of {size:,} bytes.")
        raw = stream.read(n)
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata are not all texts")
        names = tuple(str(name) for name in header)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} is no safetensors file: its header is damaged ({error}).") from None
    return TensorFile(metadata, names, 8 + n)


def digest_of_tensors(path: Path) -> str:
    """sha256 of the bytes after the header, 64 hexadecimal digits."""
    with path.open("rb") as stream:
        stream.seek(read_tensor_file(path).data_start)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_tensor_file(
    stream: BinaryIO,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    digest_key: str,
    told: Callable[[int], None],
) -> int:
    """Write tensors one after another, so that no more than one of them is in memory; return the bytes of them all.

    Args:
        stream: Seekable, at its beginning.
        tensors: By name; written in the order of names.
        metadata: Texts.
        digest_key: Key of the metadata that gets the sha256 of the tensors' bytes.
        told: Told the bytes of the tensors that were written.

    Raises:
        WeightsError: If a tensor's type has no place in the format.
    """
    header, total = _header(tensors, {**metadata, digest_key: "0" * 64})
    stream.write(header)
    digest, written = hashlib.sha256(), 0
    for name in sorted(tensors):
        for piece in _pieces(tensors[name]):
            digest.update(piece)
            stream.write(piece)
            written += len(piece)
            told(written)
    # The digest has the length of the zeros that held its place.
    stream.seek(0)
    stream.write(_header(tensors, {**metadata, digest_key: digest.hexdigest()})[0])
    return total


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, int]:
    described: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        kind = _TYPES.get(str(tensor.dtype).removeprefix("torch."))
        if kind is None:
            raise WeightsError(f"The tensor {name} is of {tensor.dtype}. Expected one of {', '.join(_TYPES)}.")
        end = start + tensor.numel() * tensor.element_size()
        described[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return struct.pack("<Q", len(text)) + text, start


def _pieces(tensor: Tensor) -> Any:
    """The tensor's bytes in order, by pieces that share its memory."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    for start in range(0, flat.numel(), _PIECE_BYTES):
        yield memoryview(flat[start : start + _PIECE_BYTES].numpy())
