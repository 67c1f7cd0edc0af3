"""Fit the probes shipped with the compact encoder: a thin call of geoelle.training.coldstart.

python pipelines/ship_cold_start.py --data ../shared/data --encoder geoelle/encoders/weights/compact
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from geoelle.errors import GeoelleError
from geoelle.training.coldstart import ship_cold_start
from geoelle.training.stock import StockPaths, read_stock


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with chips/ and stac/")
    parser.add_argument("--encoder", type=Path, required=True, help="folder with the encoder's card and weights")
    parser.add_argument("--held-out-per-class", type=int, default=200)
    arguments = parser.parse_args()
    console = Console()
    try:
        _, held = read_stock(StockPaths.under(arguments.data), held_out_per_class=arguments.held_out_per_class)
        for name, probe, shipped in ship_cold_start(arguments.encoder, held):
            scores = {title: round(value, 3) for title, value in probe.meta.scores.items() if value is not None}
            verdict = "" if shipped else " (NOT shipped)"
            console.print(f"{name}{verdict}: {probe.meta.n_train} pairs, held out by classes and scenes: {scores}")
    except GeoelleError as error:
        console.print(str(error))
        raise SystemExit(1) from None


if __name__ == "__main__":
    _main()
