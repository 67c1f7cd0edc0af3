"""Fit the probes shipped with the compact encoder: a thin call of geoelle.training.coldstart.

python pipelines/ship_cold_start.py --data ../shared/data/chips --encoder geoelle/encoders/weights/compact-rgb
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from geoelle.encoders.compact import CompactEncoder
from geoelle.errors import GeoelleError
from geoelle.training.coldstart import ship_cold_start
from geoelle.training.data import read_eurosat, split_holdout


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with eurosat_rgb_jpeg.npz and ms/")
    parser.add_argument("--encoder", type=Path, required=True, help="folder with the encoder's card and weights")
    parser.add_argument("--held-out-per-class", type=int, default=200)
    arguments = parser.parse_args()
    console = Console()
    try:
        _, held_out = split_holdout(read_eurosat(arguments.data / "eurosat_rgb_jpeg.npz"), arguments.held_out_per_class)
        probes = ship_cold_start(CompactEncoder(arguments.encoder), held_out, arguments.data / "ms", arguments.encoder)
    except GeoelleError as error:
        console.print(str(error))
        raise SystemExit(1) from None
    for size, probe in probes.items():
        scores = {name: round(value, 3) for name, value in probe.meta.scores.items() if value is not None}
        console.print(f"{size} px: {probe.meta.n_train} pairs, held out by classes and scenes: {scores}")


if __name__ == "__main__":
    _main()
