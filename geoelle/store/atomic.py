"""Files that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geoelle.errors import AlreadyExistsError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write a file or folder to; takes its place if the block ends without an error.

    What was at `target` stays as it was until then, and if anything goes wrong.

    Raises:
        AlreadyExistsError: If a file would take the place of a folder, or a folder that of a file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        if target.exists() and target.is_dir() != partial.is_dir():
            there, new = ("folder", "file") if target.is_dir() else ("file", "folder")
            raise AlreadyExistsError(f"{target} is a {there}, and a {new} was to be written there. Give another --out.")
        if target.is_dir():
            # A folder cannot be replaced in one step: the old one steps aside first.
            old = target.with_name(f".{target.name}.{os.getpid()}.old.partial")
            target.rename(old)
            partial.rename(target)
            _remove(old)
        else:
            partial.replace(target)
    finally:
        _remove(partial)


def _sweep(target: Path) -> None:
    """Remove what a killed process left beside `target`; an old folder that had stepped aside comes back."""
    for left in sorted(target.parent.glob(f".{glob.escape(target.name)}.*.partial")):
        pid = left.name.removeprefix(f".{target.name}.").partition(".")[0]
        if not pid.isdigit() or (int(pid) != os.getpid() and _is_running(int(pid))):
            continue
        if left.name.endswith(".old.partial") and not target.exists():
            left.rename(target)
        else:
            _remove(left)


def _is_running(pid: int) -> bool:
    if sys.platform == "win32":  # there, signal 0 is no question but Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
