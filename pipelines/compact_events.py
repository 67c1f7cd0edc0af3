"""The compact encoder on imagery that it never saw: a thin call of geoelle.training.fires and .coldcheck.

python pipelines/compact_events.py --data ../shared/data --weights geoelle/encoders/weights/compact

The four fires, and the cold start on the Boadella reservoir. `compact_card_page.py` puts the figures on the page.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from geoelle.config import load_config
from geoelle.encoders.cards import CARD_FILE, read_card
from geoelle.encoders.compact_cards import WEIGHTS_FOLDER
from geoelle.errors import GeoelleError
from geoelle.training.coldcheck import cold_start_figures, quiet_chips
from geoelle.training.coldstart import N_MASKS
from geoelle.training.fires import fires_figures, read_fires

EVENTS = Path(__file__).with_name("compact_events.json")
BOADELLA = Path(__file__).with_name("boadella.yaml")


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with stac/")
    parser.add_argument("--weights", type=Path, default=WEIGHTS_FOLDER, help="folder of the encoder, with its probes")
    parser.add_argument("--out", type=Path, default=EVENTS)
    parser.add_argument("--masks", type=int, default=N_MASKS, help="mask draws per chip of the reservoir")
    parser.add_argument("--fires", type=int, help="only so many fires, to try")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    try:
        stac = arguments.data / "stac"
        config = load_config(BOADELLA)
        chips = quiet_chips(config, BOADELLA.parent / str(config.aoi), stac / "catalog.json")
        found = {
            "weights_sha256": read_card(arguments.weights / CARD_FILE).weights_sha256,
            "boadella": cold_start_figures(arguments.weights, chips, arguments.masks),
        }
        console.print(json.dumps(found))
        fires = list(read_fires(stac / "calfire-s2-before-after-shared"))[: arguments.fires]
        found["fires"] = fires_figures(arguments.weights, fires)
        console.print(json.dumps(found["fires"]))
    except GeoelleError as error:
        console.print(str(error))
        raise SystemExit(1) from None
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    _main()
