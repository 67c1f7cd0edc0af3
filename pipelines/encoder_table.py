"""docs/encoders.md from the encoders' cards and from measurements of this or another machine.

python pipelines/encoder_table.py                        # rewrite the page from the cards and the JSON file
python pipelines/encoder_table.py --measure              # measure every encoder here first, one after another
python pipelines/encoder_table.py --measure dofa clay-v1.5 --device cuda   # only these, on a GPU

Measured are the official sizes with random weights: time does not depend on the weights. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from encoder_timing import Measured, OnCpu, OnGpu, measure

from geoelle.describing import trained_at
from geoelle.encoders import list_encoders, split_name, variants_of
from geoelle.encoders.precision import RoundingEffect
from geoelle.errors import EncoderError
from geoelle.records import EncoderCard

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "encoders.md"
MEASURED = Path(__file__).with_name("encoder_measured.json")


# The file of measurements


def read_measured(path: Path = MEASURED) -> dict[str, Measured]:
    """Measurements by the encoder's name."""
    found = {}
    for name, values in json.loads(path.read_text(encoding="utf-8")).items():
        cpu, gpu = values.pop("cpu"), values.pop("gpu")
        if cpu is not None and cpu["bf16"] is not None:
            cpu["bf16"] = RoundingEffect(**cpu["bf16"])
        found[name] = Measured(
            **values, cpu=None if cpu is None else OnCpu(**cpu), gpu=None if gpu is None else OnGpu(**gpu)
        )
    return found


def write_measured(measured: Mapping[str, Measured], path: Path = MEASURED) -> None:
    """With six significant digits: more than a timing is good for, enough for a cosine near 1."""
    rounded = json.loads(
        json.dumps({name: asdict(m) for name, m in sorted(measured.items())}),
        parse_float=lambda s: float(f"{float(s):.6g}"),
    )
    path.write_text(json.dumps(rounded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# The page

HEAD = """# The encoders

Made by `python pipelines/encoder_table.py` from the encoders' cards and `pipelines/encoder_measured.json`; a test
compares. `geoelle encoders` lists the same encoders with what is on this machine.

Weights: `own` losses are the model's pretraining loss; `own-partial` leaves a term out; `proxy` is another figure,
and says so wherever it is shown; `unavailable` encoders embed only. *Not validated* means that geoelle's code was
checked against the published architecture and upstream's own numbers, but was never run with these weights on real
data of this sensor.

"""

READING = """
CPU: milliseconds of processor time per chip to embed, and for one masked pass of the loss. *Beside a bare
loop*: chips a second of `embed`, from pixels as they are read to NumPy embeddings, over those of a bare PyTorch
loop over the same network, with the same batches and threads, on tensors that are ready; the aim is 0.95 or more.
GPU: chips a second under bf16, and the share of what a large bf16 matrix product reaches on that card in the same
run. Weights are random where they would have to be downloaded: time does not depend on them.
"""

COLUMNS = (
    "encoder", "sensors", "bands", "chip", "pixel", "features", "loss", "licence of the weights", "parameters",
    "CPU: embed", "CPU: one masked loss", "beside a bare loop", "GPU: chips/s", "share of peak",
)  # fmt: skip


def number(value: float | None, unit: str = "", digits: int = 2) -> str:
    """With so many significant digits; "–" for nothing."""
    if value is None:
        return "–"
    text = f"{float(f'{value:.{digits}g}'):,.10f}".rstrip("0").rstrip(".")
    return f"{text}{unit}"


def in_cell(text: str) -> str:
    """Text that no table is broken by."""
    return " ".join(text.replace("|", "/").split())


def sensors_of(card: EncoderCard) -> str:
    """The default's sensor first, then the others that its variants are fed with."""
    others = sorted({variant.sensor for variant in variants_of(card.name)} - {card.sensor})
    return ", ".join([card.sensor, *others])


def table_row(card: EncoderCard, measured: Measured | None) -> str:
    """One encoder."""
    cpu, gpu = (None, None) if measured is None else (measured.cpu, measured.gpu)
    steps = "" if card.n_steps == (1,) else f" × {' or '.join(str(n) for n in card.n_steps)} dates"
    cells = (
        f"[`{card.name}`](#{anchor(card.name)})", sensors_of(card), str(len(card.bands)),
        f"{' or '.join(str(size) for size in card.chip_sizes_px)} px{steps}", f"{card.gsd_m:g} m", str(card.n_features),
        card.loss_kind, in_cell(card.licence) + (" (non-commercial)" if card.non_commercial else ""),
        number(card.n_parameters / 1e6 or None, " M", 3), number(cpu and cpu.embed_ms, " ms"),
        number(cpu and cpu.loss_ms, " ms"), "–" if cpu is None else f"{cpu.ratio:.2f}",
        number(gpu and gpu.chips_per_s), "–" if gpu is None else f"{gpu.share_of_peak:.0%}".replace("%", " %"),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def anchor(name: str) -> str:
    """What a heading of this name is linked as."""
    return "".join(c for c in name.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def notes(cards: list[EncoderCard], measured: Mapping[str, Measured]) -> str:
    """Where the figures come from, and how to fill what is missing."""
    lines = [READING]
    machines = {(m.cpu.where, m.cpu.threads) for m in measured.values() if m.cpu is not None}
    lines += [f"* CPU: {where}; {threads} thread{'s' * (threads > 1)}." for where, threads in sorted(machines)]
    for where in sorted({m.gpu.where for m in measured.values() if m.gpu is not None}):
        lines.append(f"* GPU: {where}.")
    for what, lacks in (
        ("CPU", [c.name for c in cards if c.name not in measured or measured[c.name].cpu is None]),
        ("GPU", [c.name for c in cards if c.checkpoint and (c.name not in measured or measured[c.name].gpu is None)]),
    ):
        if lacks:
            option = " --device cuda" * (what == "GPU")
            lines.append(
                f"* Not measured on a {what} so far: `python pipelines/encoder_table.py --measure "
                f"{' '.join(lacks)}{option}` fills it."
            )
    return "\n".join(lines) + "\n"


def section(card: EncoderCard, measured: Measured | None) -> str:
    """What there is to know about one encoder."""
    lines = [f"\n## {card.name}\n", f"* Loss (`{card.loss_kind}`): {in_cell(card.loss_definition)}"]
    if card.checkpoint:
        lines.append(f"* Checkpoint: `{card.checkpoint}`; {in_cell(card.licence)}.")
    else:
        lines.append(f"* Weights: come with geoelle; {in_cell(card.licence)}.")
    lines.append(f"* Source: {in_cell(card.source)}")
    if card.training:
        lines.append(f"* Training: {in_cell(card.training)}")
    lines.append(f"* Not good for: {in_cell(card.not_good_for)}")
    pooled = ", ".join(card.poolings)
    layers = f"; output of blocks 0 to {card.n_layers - 1} on request" if card.n_layers else ""
    lines.append(f"* Embedding: {card.n_features} features, pooled by `{card.pooling}` (of {pooled}){layers}.")
    if measured is not None:
        lines += [f"* {line}" for line in _figures(measured)]
    lines += ["", "| fed as | sensor | bands, in order | units | pixel | trained at | validated |", "|" + "---|" * 7]
    lines += [_variant_row(variant) for variant in variants_of(card.name)]
    lines += _differences(card)
    return "\n".join(lines) + "\n"


def _figures(measured: Measured) -> list[str]:
    lines = [f"Work: {number(measured.gflop, digits=3)} GFLOP to embed a chip of {measured.chip_px} px"
             + (f" and {measured.n_steps} dates." if measured.n_steps > 1 else ".")]  # fmt: skip
    cpu, gpu = measured.cpu, measured.gpu
    if cpu is not None and cpu.bf16 is not None:
        lines.append(
            f"bf16 on that CPU: {number(cpu.bf16_speed)} times as fast; embeddings change by "
            f"{number(cpu.bf16.relative_median)} of their length (median; at most {number(cpu.bf16.relative_max)}), "
            f"cosine at least {cpu.bf16.cosine_min:.5f}, with random weights."
        )
    if gpu is not None:
        lines.append(f"On {gpu.where}: batches of {gpu.batch}; {gpu.ratio:.2f} beside a bare loop.")
    return lines


def _variant_row(card: EncoderCard) -> str:
    bands = ", ".join(f"{b} {um:g}" for b, um in zip(card.bands, card.wavelength_um, strict=True))
    return (
        f"| `{card.name}` | {card.sensor} | {bands} (µm) | {card.units} | {card.gsd_m:g} m | {trained_at(card)} | "
        f"{'yes' if card.validated else 'no'} |"
    )


def _differences(card: EncoderCard) -> list[str]:
    """Where what it is fed differs from training; each sentence once, with the variants that it holds for."""
    holds: dict[str, list[str]] = {}
    variants = variants_of(card.name)
    for variant in variants:
        for sentence in variant.differs:
            holds.setdefault(in_cell(sentence), []).append(variant.name)
    if not holds:
        return []
    lines = ["", "Where its input differs from training:", ""]
    for sentence, names in holds.items():
        of = "" if len(names) == len(variants) else f" ({', '.join(f'`{name}`' for name in names)})"
        lines.append(f"* {sentence}{of}")
    return lines


def page(cards: list[EncoderCard], measured: Mapping[str, Measured]) -> str:
    """The whole page."""
    table = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    table += [table_row(card, measured.get(card.name)) for card in cards]
    sections = [section(card, measured.get(card.name)) for card in cards]
    known = {name: m for name, m in measured.items() if name in {card.name for card in cards}}
    return HEAD + "\n".join(table) + "\n" + notes(cards, known) + "".join(sections)


def default_where() -> str:
    """This machine, as the page is to name it."""
    return f"{os.cpu_count()} cores of {platform.machine()}, {platform.system()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="*", metavar="NAME", help="measure these encoders, or all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--where", default=default_where(), help="how the page names this machine")
    args = parser.parse_args()
    measured = read_measured() if MEASURED.exists() else {}
    if args.measure is not None:
        names = args.measure or [c.name for c in list_encoders() if args.device == "cpu" or c.checkpoint]
        for name in names:
            if split_name(name)[0] != name:
                raise EncoderError(f"{name!r} is a variant. Expected a name alone: the table has one row per encoder.")
            measured[name] = measure(name, args.device, args.threads, args.where, measured.get(name))
            write_measured(measured)
            gc.collect()
            print(name, measured[name])
    PAGE.write_text(page(list_encoders(), measured), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
