"""Weights between the first version's and a training's: a thin call of geoelle.training.blends.

python pipelines/compact_blends.py --data ../shared/data --first FIRST --last LAST --shares 0 0.4 0.6 0.8 1
python pipelines/compact_blends.py --data ../shared/data --first FIRST --last LAST --write 0.8 --out runs/compact

FIRST is the folder of the first version's weights, LAST that of a training. The first line compares shares of the
training: a line of JSON each, and the table at the end. The second one exports the weights of one share.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from geoelle.config import load_config
from geoelle.errors import ConfigError, GeoelleError
from geoelle.training.blends import blend_figures, blends_table, write_blend
from geoelle.training.coldcheck import quiet_chips
from geoelle.training.stock import StockPaths, read_stock

BOADELLA = Path(__file__).with_name("boadella.yaml")


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with chips/ and stac/")
    parser.add_argument("--first", type=Path, required=True, help="folder that training began with")
    parser.add_argument("--last", type=Path, required=True, help="folder of the training")
    parser.add_argument("--shares", type=float, nargs="+", default=(0.0, 0.3, 0.5, 0.7, 1.0))
    parser.add_argument("--write", type=float, metavar="SHARE", help="export this share to --out instead")
    parser.add_argument("--out", type=Path, help="folder for weights, graphs and card")
    parser.add_argument("--seed", type=int, default=0, help="of the first training")
    parser.add_argument("--held-out-per-class", type=int, default=200)
    arguments = parser.parse_args()
    if (arguments.write is None) != (arguments.out is None):
        parser.error("--write and --out go together")
    console = Console(soft_wrap=True, highlight=False)
    try:
        wrong = [share for share in arguments.shares if not 0 <= share <= 1]
        if wrong:
            raise ConfigError(f"The shares {wrong} were asked for. Expected 0 to 1. Correct --shares.")
        stock, held = read_stock(StockPaths.under(arguments.data), held_out_per_class=arguments.held_out_per_class)
        if arguments.write is not None:
            first, last, share = arguments.first, arguments.last, arguments.write
            card = write_blend(first, last, share, stock, held, arguments.out, seed=arguments.seed)
            console.print(f"Wrote {card.name} (pooling {card.pooling}) to {arguments.out}.")
            return
        config = load_config(BOADELLA)
        quiet = quiet_chips(config, BOADELLA.parent / str(config.aoi), arguments.data / "stac" / "catalog.json")
        rows = []
        for row in blend_figures(
            arguments.first, arguments.last, arguments.shares, stock, held, quiet, seed=arguments.seed
        ):
            rows.append(row)
            console.print(json.dumps(row))
    except GeoelleError as error:
        console.print(str(error))
        raise SystemExit(1) from None
    console.print(blends_table(rows))


if __name__ == "__main__":
    _main()
