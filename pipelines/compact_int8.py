"""What 8 bits cost the compact encoder, measured on held-out chips and kept on its card.

python pipelines/compact_int8.py --data ../shared/data --encoder geoelle/encoders/weights/compact
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from geoelle.encoders.cards import CARD_FILE, read_card_file
from geoelle.errors import GeoelleError
from geoelle.training.onboard import int8_effect
from geoelle.training.stock import StockPaths, read_stock

CASES = (("compact-rgb", 64), ("compact-rgb", 32), ("compact-burn", 32), ("compact-s2", 64), ("compact-s2", 32))


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with chips/ and stac/")
    parser.add_argument("--encoder", type=Path, required=True, help="folder with the encoder's card and weights")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    try:
        _, held = read_stock(StockPaths.under(arguments.data))
        rows = []
        for name, size in CASES:
            rows.append(int8_effect(arguments.encoder, held, name, size))
            console.print(json.dumps(rows[-1]))
        content = read_card_file(arguments.encoder / CARD_FILE)
    except GeoelleError as error:
        console.print(str(error))
        raise SystemExit(1) from None
    content["figures"]["int8"] = rows
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    (arguments.encoder / CARD_FILE).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    _main()
