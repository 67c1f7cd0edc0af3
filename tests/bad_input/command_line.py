"""Running the command line in this process, and what a refusal looks like."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from geoelle.cli import main

EVIL = "<img src=x onerror=alert(1)>"
DATES = ("2021-04-10", "2021-05-10", "2021-06-10", "2021-07-10", "2021-08-10")
CHIPS = ("--chip-size-m", "320", "--stride-m", "160", "--tile-chips", "8")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """One sentence for people, on one line, and exit code 1."""
        lines = self.err.strip().splitlines()
        assert self.code == 1, (self.code, self.out, self.err)
        assert len(lines) == 1, self.err
        assert lines[0].startswith("geoelle: ")
        assert lines[0].rstrip().endswith((".", "?"))
        assert "Traceback" not in self.err + self.out
        for word in words:
            assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


Cli = Callable[..., Done]


def run_main(arguments: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Done:
    monkeypatch.setattr(sys, "argv", ["geoelle", *map(str, arguments)])
    capfd.readouterr()
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    captured = capfd.readouterr()
    return Done(code, captured.out, captured.err)


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, hidden and partial ones too."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
