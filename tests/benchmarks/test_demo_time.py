"""How long the demo takes once everything is installed, and a second time. Times are printed, never asserted."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.bench
def test_demo(tmp_path: Path) -> None:
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        command = [sys.executable, "-m", "geoelle", "demo", "--out", str(tmp_path / "demo"), "--quiet"]
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    print(f"demo {seconds[0]:.0f} s (aim: under 180 on 2 cores), again {seconds[1]:.1f} s")
    assert (tmp_path / "demo" / "map.html").is_file()
