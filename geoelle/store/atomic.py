"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write a file or folder to; takes its place if the block ends without an error.

    What was at `target` stays as it was until then, and if anything goes wrong.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    _remove(partial)
    try:
        yield partial
        if target.is_dir():
            # A folder cannot be replaced in one step: the old one steps aside first.
            old = target.with_name(f".{target.name}.{os.getpid()}.old.partial")
            _remove(old)
            target.rename(old)
            partial.rename(target)
            _remove(old)
        else:
            partial.replace(target)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
