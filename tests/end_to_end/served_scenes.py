"""Simulated scenes as a provider would serve them: items whose hrefs lead to a file server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from file_servers import FileServer

from geoelle.simulate import Simulation

COLLECTION = "s2"
"""The collection that the STAC servers of the tests hold."""


def served_items(scenes: Simulation, files: FileServer) -> list[dict[str, Any]]:
    """The simulation's items with absolute hrefs; `files` serves the folder of its collection."""
    items = []
    for item_id in scenes.item_ids:
        item = json.loads((scenes.root / scenes.collection / item_id / f"{item_id}.json").read_text())
        for asset in item["assets"].values():
            asset["href"] = files.address(f"{item_id}/{Path(asset['href']).name}")
        items.append({**item, "collection": COLLECTION, "links": []})
    return items


def geoelle(
    *arguments: str | Path, cwd: Path | None = None, timeout: float = 200, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "geoelle", *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd,
        env={**os.environ, **environment}, timeout=timeout,
    )  # fmt: skip


def tree(path: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def times(path: Path) -> dict[str, int]:
    """When every file and folder was last written."""
    return {p.as_posix(): p.stat().st_mtime_ns for p in (path, *path.rglob("*"))}


def chunks(path: Path) -> dict[str, bytes]:
    """Every file of a store but its metadata, which says what it was made of in other words."""
    return {name: data for name, data in tree(path).items() if not name.endswith("zarr.json")}
