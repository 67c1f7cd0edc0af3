"""Where weights lie on this machine, what was recorded about them, and whether a file is the one it should be."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from os.path import isfile  # False where Path.is_file raises: a folder without permission, a name too long
from pathlib import Path

from geoelle.encoders.checkpoint_table import Checkpoint
from geoelle.encoders.tensor_file import TensorFile, digest_of_tensors, read_tensor_file
from geoelle.errors import WeightsError
from geoelle.provenance import file_sha256

WEIGHTS = "GEOELLE_WEIGHTS"
"""Environment variable: file or folder with weights, as the option `weights`."""
ACCEPT_LICENSE = "GEOELLE_ACCEPT_LICENSE"
"""Environment variable: names of checkpoints, separated by commas, whose non-commercial licence is accepted."""
RECORD_FILE = "weights.json"
CONVERTED_FROM = "geoelle:checkpoint"
"""Key in the metadata of a converted file: the checkpoint's name."""
SOURCE_SHA256 = "geoelle:source_sha256"
TENSORS_SHA256 = "geoelle:tensors_sha256"
_TRUE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """What is known of a file since it was first here."""

    checkpoint: str
    file: str
    sha256: str
    n_bytes: int
    mtime_ns: int
    """Of the file when its sha256 was taken: while that and the size stand, it is not read again."""
    source: str
    """Where it was downloaded from."""
    revision: str | None

    def describes(self, path: Path) -> bool:
        """Whether the file is still the one that was recorded, by name, size and time."""
        seen = path.stat()
        return (self.file, self.n_bytes, self.mtime_ns) == (path.name, seen.st_size, seen.st_mtime_ns)


def cache_folder() -> Path:
    """`$GEOELLE_CACHE/weights`, else `geoelle/weights` in the user's cache folder."""
    if own := os.environ.get("GEOELLE_CACHE"):
        return Path(own) / "weights"
    return _user_cache() / "geoelle" / "weights"


def folder_of(checkpoint: Checkpoint) -> Path:
    """Where the checkpoint's file and its record lie in the cache."""
    return cache_folder() / checkpoint.name


def offline() -> bool:
    """Whether the user forbids the network, as huggingface_hub understands it."""
    return any(os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def licence_accepted(checkpoint: Checkpoint, accept_license: bool) -> bool:
    """Whether the licence asks for nothing, or was accepted by option or environment."""
    named = {name.strip() for name in os.environ.get(ACCEPT_LICENSE, "").split(",")}
    return not checkpoint.non_commercial or accept_license or checkpoint.name in named


def check_licence(checkpoint: Checkpoint, accept_license: bool) -> None:
    """Refuse weights whose non-commercial licence was not accepted.

    Raises:
        WeightsError: If it was not. Acceptance is not remembered: it is said each time, or in the environment.
    """
    if not licence_accepted(checkpoint, accept_license):
        raise WeightsError(
            f"The weights {checkpoint.name} are under {checkpoint.licence}: not for commercial use. Expected that to "
            f"be accepted. Say so with accept_license=True, --accept-license or {ACCEPT_LICENSE}={checkpoint.name}."
        )


def explicit_place(weights: str | Path | None) -> Path | None:
    """The file or folder that the user named, by option or environment; None where none was."""
    named = weights if weights is not None else os.environ.get(WEIGHTS) or None
    if named is None:
        return None
    try:
        return Path(named).expanduser()
    except RuntimeError:  # ~nobody: no such user
        return Path(named)


def file_in(place: Path, checkpoint: Checkpoint) -> Path | None:
    """The checkpoint's file at a place: the place itself, or in that folder, a converted one first; None: not there."""
    if isfile(place):
        return place
    name = Path(checkpoint.filename).name
    lean = f"{checkpoint.name}.safetensors"
    own = place / checkpoint.name
    candidates = (place / lean, own / lean, own / name, place / name, place / checkpoint.filename)
    return next((path for path in candidates if isfile(path)), None)


def weights_here(checkpoint: Checkpoint) -> Path | None:
    """The checkpoint's file in geoelle's cache, or in the hub's own at the pinned commit; None: it is in neither."""
    return file_in(cache_folder(), checkpoint) or _in_hub_cache(checkpoint)


def _in_hub_cache(checkpoint: Checkpoint) -> Path | None:
    if not checkpoint.repo or checkpoint.revision is None:
        return None
    home = Path(os.environ.get("HF_HOME") or _user_cache() / "huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    folder = hub / f"models--{checkpoint.repo.replace('/', '--')}" / "snapshots" / checkpoint.revision
    path = folder / checkpoint.filename
    return path if isfile(path) else None


def _user_cache() -> Path:
    user = os.environ.get("XDG_CACHE_HOME")
    return Path(user) if user else Path.home() / ".cache"


def read_record(folder: Path, checkpoint: Checkpoint) -> WeightsRecord | None:
    """What was recorded in a folder about a checkpoint; None: nothing.

    Raises:
        WeightsError: If there is a record that cannot be read: the file cannot be told from another then.
    """
    path = folder / RECORD_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        record = WeightsRecord(**{field.name: values[field.name] for field in fields(WeightsRecord)})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{path} cannot be read ({type(error).__name__}). Expected the record of a download. Delete it to have the "
            "file that lies there recorded anew."
        ) from None
    return record if record.checkpoint == checkpoint.name else None


def keep_record(path: Path, checkpoint: Checkpoint, sha256: str, *, source: str, revision: str | None) -> None:
    """Record a file beside it. A folder that cannot be written costs the next run a reading of the file."""
    seen = path.stat()
    record = WeightsRecord(checkpoint.name, path.name, sha256, seen.st_size, seen.st_mtime_ns, source, revision)
    partial = path.with_name(f"{RECORD_FILE}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        partial.replace(path.with_name(RECORD_FILE))
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def identify(path: Path, checkpoint: Checkpoint, *, anew: bool = False) -> str:
    """sha256 of the published file, after the file at `path` was found to be that or converted from it.

    Args:
        path: The file.
        checkpoint: What it should be.
        anew: Read the file even where its record stands.

    Raises:
        WeightsError: If it has another size or sha256 than published, or than recorded at the first download.
    """
    try:
        converted = _converted(path)
        if converted is not None:
            return _identify_converted(path, converted, checkpoint)
        return _identify_published(path, checkpoint, anew)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}. Check the file and its permissions.") from None


def _identify_published(path: Path, checkpoint: Checkpoint, anew: bool) -> str:
    seen = path.stat()
    if checkpoint.n_bytes is not None and seen.st_size != checkpoint.n_bytes:
        raise WeightsError(
            f"{path} has {seen.st_size:,} bytes. The weights {checkpoint.name} have {checkpoint.n_bytes:,}. Copy or "
            "download the file again."
        )
    record = read_record(path.parent, checkpoint)
    if record is not None and record.describes(path) and not anew:
        found = record.sha256
    else:
        found = file_sha256(path) if anew else _sha256(path, seen.st_size, seen.st_mtime_ns)
    check_sha256(found, checkpoint, record, str(path))
    if path.parent == folder_of(checkpoint) and (record is None or not record.describes(path)):
        source, revision = ("", None) if record is None else (record.source, record.revision)
        keep_record(path, checkpoint, found, source=source, revision=revision)
    return found


def check_sha256(found: str, checkpoint: Checkpoint, record: WeightsRecord | None, what: str) -> None:
    """Compare with what was published, else with what was recorded at the first download.

    Raises:
        WeightsError: If they differ.
    """
    if checkpoint.sha256 is not None and not found.startswith(checkpoint.sha256):
        raise WeightsError(
            f"{what} has sha256 {found[:16]}…, but the weights {checkpoint.name} have {checkpoint.sha256[:16]}…. "
            "It is damaged or another file. Use the published one: delete this one, and it is downloaded again."
        )
    if record is not None and found != record.sha256:
        raise WeightsError(
            f"{what} has sha256 {found[:16]}…, but the first download of {checkpoint.name} had {record.sha256[:16]}…. "
            f"Use that file; if you mean the new one, delete the record {RECORD_FILE} of the old one."
        )


def _identify_converted(path: Path, converted: TensorFile, checkpoint: Checkpoint) -> str:
    name, source = converted.metadata[CONVERTED_FROM], converted.metadata.get(SOURCE_SHA256, "")
    if name != checkpoint.name:
        raise WeightsError(f"{path} was converted from {name!r:.80}. Expected {checkpoint.name}. Name another file.")
    seen = path.stat()
    if _tensors_sha256(path, seen.st_size, seen.st_mtime_ns) != converted.metadata.get(TENSORS_SHA256):
        raise WeightsError(f"{path} is damaged: its tensors are not those that were written. Convert them again.")
    beside = read_record(path.parent, checkpoint) or read_record(folder_of(checkpoint), checkpoint)
    check_sha256(source, checkpoint, beside, f"The file that {path} was converted from")
    return source


def is_converted(path: Path) -> bool:
    """Whether a file was made by `convert_weights`.

    Raises:
        WeightsError: If it is named as safetensors and is none.
    """
    return _converted(path) is not None


def _converted(path: Path) -> TensorFile | None:
    """What a file made by `convert_weights` says of itself; None for any other."""
    if path.suffix != ".safetensors":
        return None
    file = read_tensor_file(path)
    return file if CONVERTED_FROM in file.metadata else None


@lru_cache(maxsize=64)
def _sha256(path: Path, n_bytes: int, mtime_ns: int) -> str:
    return file_sha256(path)


@lru_cache(maxsize=64)
def _tensors_sha256(path: Path, n_bytes: int, mtime_ns: int) -> str:
    return digest_of_tensors(path)
