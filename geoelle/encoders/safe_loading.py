"""Files of weights opened without executing anything in them. Imports torch lazily.

torch's own restricted unpickler does the reading: it makes tensors and plain containers and nothing else. Classes that
published files hold beside the weights are given inert stand-ins; any other name in a pickle refuses the file.
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from geoelle.encoders.tensor_file import read_tensor_file
from geoelle.errors import WeightsError

MOST_PICKLE_BYTES = 1 << 26
"""Names, shapes and settings; the tensors' bytes lie outside. Clay's is the longest known, with well under 1 MB."""
_MOST_ENTRIES = 100_000
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_NUMPY = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
_PATHS = tuple(
    f"{module}.{kind}"
    for module in ("pathlib", "pathlib._local")
    for kind in ("PosixPath", "PurePosixPath", "WindowsPath")
)
INERT_NAMES = ("argparse.Namespace", *_PATHS, *_NUMPY)
"""Classes that training scripts leave in checkpoints (settings, paths, figures): never made, only stood in for."""


_LOADING = threading.Lock()
"""torch's list of known names is one for the process."""


class InertRecord:
    """Stands in for an object of another class: takes whatever its maker would have taken, and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> InertRecord:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Nothing."""

    def __setstate__(self, state: object) -> None:
        """Nothing."""


def open_weights(path: Path) -> Mapping[str, Any]:
    """What a file of weights holds: safetensors, or torch's zip file or older pickle.

    The tensors of a zip file or of safetensors stay on the disk until they are used.

    Raises:
        WeightsError: If it is neither, damaged, or asks for anything but tensors and plain values.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}. Expected a file of weights.") from None
    if start.startswith(_ZIP):
        _check_zip(path)
        content = _unpickled(path, mmap=True)
    elif start[8:9] == b"{":
        content = _safetensors(path)
    elif start.startswith(_PICKLE):
        content = _unpickled(path, mmap=False)
    else:
        raise WeightsError(f"{path} {_what(start)}. Expected safetensors or a file of torch. Use the published file.")
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds {type(content).__name__}. Expected tensors by name. Use the published file.")
    check_names(content, path)
    return content


def check_names(content: Mapping[Any, Any], path: Path) -> None:
    """Names are shown to people and must not steer their terminals.

    Raises:
        WeightsError: If one is no text, or holds what is not printed.
    """
    odd = next((name for name in content if not isinstance(name, str) or not name.isprintable()), None)
    if odd is not None:
        raise WeightsError(f"{path} holds something named {odd!r:.80}. Expected plain names. Use the published file.")


def _what(start: bytes) -> str:
    """What a file that holds no weights seems to be: the usual ways in which a download goes wrong."""
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page"
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS"
    return "is empty" if not start else "is no file of weights"


def _check_zip(path: Path) -> None:
    """torch writes its entries uncompressed: with that, nothing can unfold to more than the file's own size.

    Raises:
        WeightsError: If an entry is compressed or encrypted, or they claim more than there is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RecursionError) as error:
        raise WeightsError(
            f"{path} is a torch file without its end or damaged ({error}). Copy or download it again."
        ) from None
    pickles = [entry for entry in entries if entry.filename.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE_BYTES:
        found = f"{pickles[0].file_size:,} bytes of names" if len(pickles) == 1 else f"{len(pickles)} pickles"
        raise WeightsError(f"{path} is no torch file: it holds {found}. Use the published file.")
    claimed = sum(entry.file_size for entry in entries)
    packed = any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries)
    if packed or len(entries) > _MOST_ENTRIES or claimed > path.stat().st_size:
        raise WeightsError(
            f"{path} is no torch file: its {len(entries):,} entries are compressed or claim {claimed:,} bytes. "
            "Use the published file."
        )


def _unpickled(path: Path, *, mmap: bool) -> Any:
    import torch

    inert = [(InertRecord, name) for name in INERT_NAMES]
    try:
        with _LOADING, torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UnpicklingError as error:
        raise WeightsError(
            f"{path} asks for more than tensors ({_reason(error)}), which was not done. Use the published file."
        ) from None
    except MemoryError:
        raise WeightsError(f"{path} claims more tensors than memory holds. Use the published file.") from None
    except Exception as error:  # torch raises many types for a damaged file
        raise WeightsError(
            f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())[:120]}). "
            "Copy or download it again."
        ) from None


def _reason(error: UnpicklingError) -> str:
    """The name that was asked for, out of torch's long advice."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    told = next((line for line in lines if "WeightsUnpickler error:" in line or "unsupported GLOBAL" in line), "")
    return (told.rpartition("WeightsUnpickler error:")[2].strip() or "".join(lines[:1]))[:160].rstrip(".")


def _safetensors(path: Path) -> dict[str, Any]:
    read_tensor_file(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} is damaged ({str(error)[:160]}). Copy or download it again.") from None
