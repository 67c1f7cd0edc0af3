"""The generated tables of docs/compact-card.md, from the card of the weights, their probes and the measured events.

python pipelines/compact_card_page.py                                  # of the weights that ship
python pipelines/compact_card_page.py --weights runs/compact --events runs/compact/events.json

Each table stands between two markers; the words around them are written by hand and stay. A test compares.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from geoelle.encoders.cards import CARD_FILE, read_card_file
from geoelle.encoders.compact_cards import BAND_SETS, GSDS_M, WEIGHTS_FOLDER, full_name, probe_name
from geoelle.errors import NotFoundError, SchemaError
from geoelle.store.probes import read_probe
from geoelle.training.evaluation import SizeReport
from geoelle.training.multispectral import multispectral_table
from geoelle.training.tables import read_figures, table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "compact-card.md"
EVENTS = Path(__file__).with_name("compact_events.json")
SIZES_PX = (64, 32)
END = "<!-- end -->"

PREDICTORS = (
    ("brightness", "brightness", "r"),
    ("contrast", "contrast", "r"),
    ("gradient energy", "gradient", "r"),
    ("JPEG size", "jpeg_size", "r"),
    ("the four together", "rivals together", "r"),
    ("the four, curved", "rivals, curved", "r"),
    ("probe, class token", "probe (cls)", "r"),
    ("**probe, mean of tokens**", "probe (mean)", "r"),
    ("probe and the four, curved", "probe (mean) and curved rivals", "r"),
    ("partial r of the probe beyond the four", "probe (mean)", "partial_r"),
    ("partial r beyond the four, curved", "probe (mean)", "partial_r_curved"),
)
"""Rows of the table of two versions: title, predictor, column of its score."""

Reports = Sequence[SizeReport]


def number(value: float | None, digits: int = 3) -> str:
    """Nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"


def rows_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def bands(content: Mapping[str, Any]) -> str:
    """Wavelength, mean and standard deviation of every band."""
    card = content["card"]
    values = zip(card["bands"], card["wavelength_um"], card["mean"], card["std"], strict=True)
    cells = [(band, number(um), number(mean, 4), number(std, 4)) for band, um, mean, std in values]
    return rows_of(("band", "wavelength (µm)", "mean", "standard deviation"), cells)


def _score(reports: Reports, size_px: int, holdout: str, predictor: str, field: str) -> float:
    (found,) = (
        getattr(score, field)
        for report in reports
        if report.chip_size_px == size_px
        for score in report.scores
        if (score.target, score.holdout, score.predictor) == ("loss", holdout, predictor)
    )
    return float("nan") if found is None else float(found)


def versions(content: Mapping[str, Any]) -> str:
    """The first version beside this one, on red, green and blue, and what the difference is.

    Raises:
        SchemaError: If the card does not hold the first version's figures.
    """
    if "other" not in content["figures"]:
        raise SchemaError("The card has no figures of the first version. Run pretrain_compact.py with --compare-with.")
    both = [read_figures(figures["reports"]) for figures in (content["figures"]["other"], content["figures"])]
    cases = [(size, reports, hold) for size in SIZES_PX for reports in both for hold in ("random", "classes")]
    cells = [
        (title, *(number(_score(reports, size, hold, predictor, field)) for size, reports, hold in cases))
        for title, predictor, field in PREDICTORS
    ]
    ceilings = [
        number(next(r.ceilings["loss"] for r in reports if r.chip_size_px == size), 4) if hold == "random" else ""
        for size, reports, hold in cases
    ]
    head = [
        f"{name} {size} px: random" if hold == "random" else hold
        for size in SIZES_PX
        for name in ("v1", "v2")
        for hold in ("random", "classes")
    ]
    told = []
    for title, field in (("r", "r"), ("partial r beyond the four", "partial_r")):
        changes = [
            _score(both[1], size, hold, "probe (mean)", field) - _score(both[0], size, hold, "probe (mean)", field)
            for size in SIZES_PX
            for hold in ("random", "classes")
        ]
        told.append(f"{title} {min(changes):+.3f} to {max(changes):+.3f}")
    sentence = f"v2 less v1, probe of the mean of tokens, over the four columns: {'; '.join(told)}."
    return rows_of(("predictor", *head), [*cells, ("ceiling", *ceilings)]) + "\n\n" + sentence.replace("-0.", "−0.")


def probes(content: Mapping[str, Any], folder: Path) -> str:
    """What is shipped per set of bands, pixel and chip size, and how it does with whole classes and scenes held out."""
    shipped = content["card"]["shipped_probes"]
    cells = []
    for name, members in BAND_SETS.items():
        for gsd_m in GSDS_M:
            for size in SIZES_PX:
                folder_name = probe_name(name, size, gsd_m)
                first = (f"`{full_name(members, gsd_m)}`", f"{size} px")
                if folder_name not in shipped:
                    cells.append((*first, "", "", "", "", "no"))
                    continue
                meta = read_probe(folder / folder_name)[1]
                scores = meta["scores"]
                figures = (number(scores["r"]), number(scores["rmse"]))
                cells.append((*first, str(meta["n_train"]), str(meta["n_blocks"]), *figures, "yes"))
    return rows_of(("encoder", "chip", "pairs", "classes, chips and scenes", "r", "RMSE", "shipped"), cells)


def int8(content: Mapping[str, Any]) -> str:
    """What weights of 8 bits cost.

    Raises:
        SchemaError: If that was not measured.
    """
    if "int8" not in content["figures"]:
        raise SchemaError("The card has no figures of weights of 8 bits. Run pipelines/compact_int8.py first.")
    head = (
        "encoder", "chip", "n", "r, 32 bits", "32-bit probe on 8-bit embeddings", "r, 8 bits", "lowest cosine",
        "CPU ms a chip, 32 bits", "8 bits",
    )  # fmt: skip
    cells = [
        (
            row["encoder"], f"{row['chip_size_px']} px", str(row["n_chips"]), number(row["r_float32"], 4),
            number(row["r_float32_probe_on_int8"], 4), number(row["r_int8"], 4), number(row["min_cosine"], 4),
            number(row["cpu_ms_float32"], 1), number(row["cpu_ms_int8"], 1),
        )
        for row in content["figures"]["int8"]
    ]  # fmt: skip
    return rows_of(head, cells)


def boadella(events: Mapping[str, Any]) -> str:
    """The cold start on the reservoir, beside a local probe."""
    found = events["boadella"]
    fields = ("r", "partial_r", "delta_fidelity", "level")
    cells = [
        (title, *(number(found[which][field], 2 if field == "level" else 3) for field in fields))
        for title, which in (("shipped, never calibrated here", "shipped"), ("local, each date held out", "local"))
    ]
    head = ("probe", "r", "partial r beyond the four", "fidelity of departures", "mean difficulty over mean loss")
    said = (
        f"{found['n_chips']:,} chips of {found['n_places']:,} places on {found['n_dates']} dates, {found['n_masks']} "
        f"masks each; mean loss {found['mean_loss']:.3f}."
    )
    return f"{said}\n\n{rows_of(head, cells)}"


def fires(events: Mapping[str, Any]) -> str:
    """Average precision per fire and the mean of the fires; the share of burnt chips is what chance would reach."""
    found = events["fires"]
    names = list(found["mean"]["ap"])
    columns = [f"`{name}`" if "@" in name else name for name in names]
    head = ("fire", "chips", "burnt", *columns, *(f"AUC {column}" for column in columns))

    def figures(row: Mapping[str, Any]) -> list[str]:
        shares = [number(row[score][name]) for score in ("ap", "auc") for name in names]
        return [f"{row['burnt_share'] * 100:.0f} %", *shares]

    cells = [(row["fire"], f"{row['n_chips']:,}", *figures(row)) for row in found["fires"]]
    return rows_of(head, [*cells, ("mean of the fires", "", *figures(found["mean"]))])


def blocks(content: Mapping[str, Any], folder: Path, events: Mapping[str, Any]) -> dict[str, str]:
    """Every generated part by the name in its marker.

    Raises:
        SchemaError: If the events are of other weights, or figures are missing.
    """
    if events["weights_sha256"] != content["card"]["weights_sha256"]:
        raise SchemaError("The events were measured with other weights. Run pipelines/compact_events.py first.")
    return {
        "bands": bands(content),
        "versions": versions(content),
        "other bands": multispectral_table(content["figures"]["multispectral"]),
        "probes": probes(content, folder),
        "int8": int8(content),
        "boadella": boadella(events),
        "fires": fires(events),
        "all scores": table(read_figures(content["figures"]["reports"])).rstrip(),
    }


def marker(name: str) -> str:
    """What stands before a generated part."""
    return f"<!-- {name}: made by pipelines/compact_card_page.py -->"


def markers(text: str) -> Iterator[str]:
    """Names of the generated parts of a page."""
    return (found[1] for found in re.finditer(re.escape(marker("NAME")).replace("NAME", "([a-z0-9 ]+)"), text))


def page(text: str, parts: Mapping[str, str]) -> str:
    """The page with its generated parts made anew.

    Raises:
        NotFoundError: If the page lacks a marker.
    """
    for name, part in parts.items():
        start, end = text.find(marker(name)), text.find(END, max(text.find(marker(name)), 0))
        if start < 0 or end < 0:
            raise NotFoundError(f"The page has no place for {name!r}. Expected {marker(name)} and {END}.")
        text = f"{text[:start]}{marker(name)}\n{part}\n{text[end:]}"
    return text


def made(folder: Path = WEIGHTS_FOLDER, events: Path = EVENTS) -> str:
    """The page as it should be."""
    content = read_card_file(folder / CARD_FILE)
    parts = blocks(content, folder, json.loads(events.read_text(encoding="utf-8")))
    return page(PAGE.read_text(encoding="utf-8"), parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS_FOLDER, help="folder of the encoder, with its probes")
    parser.add_argument("--events", type=Path, default=EVENTS, help="what compact_events.py wrote")
    arguments = parser.parse_args()
    PAGE.write_text(made(arguments.weights, arguments.events), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
