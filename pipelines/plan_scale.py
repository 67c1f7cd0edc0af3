"""All land at 10 m, one date, each encoder: chips, bytes, hours, cost, and what breaks first. On paper.

python pipelines/plan_scale.py --measure pipelines/scale_measured.json   # measure the per-chip figures on this machine
python pipelines/plan_scale.py --doc docs/scale.md                       # rewrite the page's tables from them

Measured figures come from the JSON file; everything else is an assumption with its name at the top of this file.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

LAND_KM2 = 135e6
"""Land without Antarctica; 149 million km² with it."""
GRANULE_OVERLAP = 1.3
"""Pixels read over pixels needed: neighbouring granules and strips of one day overlap."""
COMPRESSION = 1.5
"""Raw bytes over stored bytes of Sentinel-2 COGs (deflate on uint16). Assumed."""
BLOCK_PX = 512
"""Edge of a block of those COGs."""
TILE_CHIPS = 16
GPU_PEAK_FLOPS = 312e12
"""Dense bfloat16 peak of an A100-class accelerator."""
GPU_UTILISATION = 0.35
"""Share of the peak that a ViT reaches in inference. Assumed."""
USD_GPU_HOUR, USD_CORE_HOUR, USD_GB_MONTH, USD_MILLION_GETS = 2.0, 0.04, 0.02, 0.40
"""Prices assumed, without discounts; reading inside the data's region is free."""
CORES = 1000
"""Size of the cluster that durations are said for."""
TOKEN_MINUTES = 45
"""Life of a Planetary Computer token."""
REQUEST_S = 0.02
"""One small request to an object store of the same region. Assumed."""
GRANULE_KM2 = 109.8**2
GRANULE_ID_BYTES = 65
UTM_ZONES_OF_LAND = 115

_DEFAULT_MEASURED = Path(__file__).with_name("scale_measured.json")


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """What of an encoder decides its cost. Sizes are those of the published models."""

    name: str
    chip_px: int
    gsd_m: float
    bands_10m: int
    bands_20m: int
    bands_60m: int
    tokens: int
    """Tokens through the blocks, class token included; 0: no transformer on a GPU, its seconds are measured."""
    width: int
    depth: int
    features: int


ENCODERS = (
    EncoderPlan("compact-rgb", 64, 10, 3, 0, 0, 0, 0, 0, 192),
    EncoderPlan("Clay v1.5 large", 256, 10, 4, 6, 0, 1025, 1024, 24, 1024),
    EncoderPlan("Prithvi-EO 2.0-300M", 224, 10, 3, 3, 0, 197, 1024, 24, 1024),
    EncoderPlan("Prithvi-EO 2.0-300M at 30 m (HLS)", 224, 30, 3, 3, 0, 197, 1024, 24, 1024),
    EncoderPlan("SatMAE ViT-L, 10 bands", 96, 10, 4, 6, 0, 433, 1024, 24, 1024),
    EncoderPlan("DOFA base", 224, 10, 4, 5, 0, 197, 768, 12, 768),
    EncoderPlan("DOFA large", 224, 10, 4, 5, 0, 197, 1024, 24, 1024),
    EncoderPlan("SatCLIP ViT-S/16", 224, 10, 4, 6, 2, 197, 384, 12, 256),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one machine; `--measure` makes them."""

    where: str
    """Machine and state that they were measured on."""
    chip_px: int
    """Edge of the chips measured, pixels."""
    bands: int
    features: int
    read_core_s_per_chip: float
    """Seconds of one core to read and cut one such chip from local COGs."""
    embed_core_s_per_chip: float
    """Seconds of one core for the compact encoder."""
    bytes_written_per_chip: float
    """Size of the embedding store over its chips."""
    jobs_per_chip: float
    objects_per_job: float
    digest_read_s: float
    """Seconds to read the digest of one job, local disk."""
    scheduler_tasks_per_s: float
    """Empty tasks through dask.distributed, one after the other submitted, as `run_jobs` does."""
    map_bytes_per_chip: float
    """Size of the map's HTML beyond that of an empty one, over chips and dates drawn."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One encoder over all land, one date, chips side by side."""

    encoder: EncoderPlan
    chips: float
    read_bytes: float
    gets: float
    written_bytes: float
    core_hours: float
    gpu_hours: float
    gflops_per_chip: float
    usd: float
    """Compute, requests and one month of storage."""
    jobs: float
    objects: float


def vit_flops(encoder: EncoderPlan) -> float:
    """Floating point operations of one chip: 24 n d² + 4 n² d a block (multiply and add counted apart)."""
    n, d = encoder.tokens, encoder.width
    return encoder.depth * (24.0 * n * d**2 + 4.0 * n**2 * d)


def read_bytes_per_chip(encoder: EncoderPlan) -> float:
    """Compressed bytes of a chip's bands, each at its own pixel size, with the overlap of granules."""
    edge_m = encoder.chip_px * encoder.gsd_m
    if encoder.gsd_m == 30:  # HLS delivers all bands at 30 m
        quality = float(encoder.chip_px**2)
        pixels = (encoder.bands_10m + encoder.bands_20m + encoder.bands_60m) * quality
    else:
        by_gsd = {10: encoder.bands_10m, 20: encoder.bands_20m, 60: encoder.bands_60m}
        pixels = sum(n * (edge_m / gsd) ** 2 for gsd, n in by_gsd.items())
        quality = (edge_m / 20) ** 2
    return (2 * pixels + quality) * GRANULE_OVERLAP / COMPRESSION


def plan(encoder: EncoderPlan, measured: Measured, land_km2: float = LAND_KM2) -> Plan:
    """What one encoder needs for all land, once."""
    chips = land_km2 * 1e6 / (encoder.chip_px * encoder.gsd_m) ** 2
    read = read_bytes_per_chip(encoder)
    block_bytes = 2 * BLOCK_PX**2 / COMPRESSION
    written = measured.bytes_written_per_chip * encoder.features / measured.features
    bands = encoder.bands_10m + encoder.bands_20m + encoder.bands_60m
    # Reading costs by the pixels it delivers: every band is resampled to the chip's pixels.
    share = bands * encoder.chip_px**2 / (measured.bands * measured.chip_px**2)
    read_s = measured.read_core_s_per_chip * share
    embed_s = 0.0 if encoder.tokens else measured.embed_core_s_per_chip
    flops = vit_flops(encoder)
    core_hours = chips * (read_s + embed_s) / 3600
    gpu_hours = chips * flops / (GPU_PEAK_FLOPS * GPU_UTILISATION) / 3600
    jobs = chips * measured.jobs_per_chip
    # A job opens each band of each granule once, then asks for blocks.
    gets = chips * read / block_bytes + jobs * GRANULE_OVERLAP * (bands + 1)
    usd = (
        core_hours * USD_CORE_HOUR
        + gpu_hours * USD_GPU_HOUR
        + chips * written / 1e9 * USD_GB_MONTH
        + gets / 1e6 * USD_MILLION_GETS
    )
    return Plan(
        encoder, chips, chips * read, gets, chips * written, core_hours, gpu_hours, flops / 1e9, usd, jobs,
        jobs * measured.objects_per_job,
    )  # fmt: skip


def figure(value: float) -> str:
    """Two significant digits with the field's prefixes; "–" for nothing."""
    if value == 0:
        return "–"
    for size, name in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{_two_digits(value / size)}{name}"
    return _two_digits(value)


def _two_digits(value: float) -> str:
    digits = max(0, 1 - math.floor(math.log10(value)))
    return f"{round(value, 1 - math.floor(math.log10(value))):.{digits}f}"


def main_table(measured: Measured) -> str:
    """The plan as Markdown, one row per encoder."""
    head = (
        "| encoder | chip | chips | GFLOP a chip | read | written | core-hours | GPU-hours | cost, USD |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for encoder in ENCODERS:
        p = plan(encoder, measured)
        rows.append(
            f"| {encoder.name} | {encoder.chip_px} px, {encoder.gsd_m:g} m | {figure(p.chips)} | "
            f"{figure(p.gflops_per_chip)} | {figure(p.read_bytes)}B | {figure(p.written_bytes)}B | "
            f"{figure(p.core_hours)} | {figure(p.gpu_hours)} | {figure(p.usd)} |"
        )
    return head + "\n".join(rows)


def limits_table(measured: Measured) -> str:
    """What breaks first, for the most numerous chips: those of the compact encoder."""
    p = plan(ENCODERS[0], measured)
    granules = LAND_KM2 / GRANULE_KM2 * GRANULE_OVERLAP
    hours = p.core_hours / CORES
    tokens = CORES / 4 * max(1.0, hours * 60 / TOKEN_MINUTES)
    job_s = p.core_hours * 3600 / p.jobs
    rows = [
        ("scheduler", f"{figure(p.jobs / measured.scheduler_tasks_per_s / 3600)} h for {figure(p.jobs)} tasks at "
         f"{figure(measured.scheduler_tasks_per_s)} tasks a second; keeps "
         f"{figure(measured.scheduler_tasks_per_s * job_s)} cores busy with jobs of {figure(job_s)} s",
         "`tile_chips` 32 makes jobs four times as long; or one scheduler per zone"),
        ("digests of all jobs, read one by one before a run",
         f"{figure(p.jobs)} reads, {figure(p.jobs * measured.digest_read_s / 3600)} h on a local disk; "
         f"{figure(p.jobs * REQUEST_S / 3600)} h at {REQUEST_S * 1e3:g} ms a request",
         "one digest chunk per zone, or zones planned side by side"),
        ("objects", f"{figure(p.objects)} in {UTM_ZONES_OF_LAND} zones, "
         f"{figure(p.written_bytes / p.objects)}B each on average",
         "larger tiles: `tile_chips` 32 makes a quarter of them"),
        ("map in one HTML file", f"{figure(p.chips * measured.map_bytes_per_chip)}B",
         "one map per area; tiles from COG for the whole"),
        ("metadata of one store", f"{figure(granules / UTM_ZONES_OF_LAND * GRANULE_ID_BYTES)}B of item ids a zone and "
         f"date; {figure(granules / UTM_ZONES_OF_LAND * GRANULE_ID_BYTES * 73)}B after a year of 73 dates",
         "item ids in a table beside the store"),
        ("tokens of Planetary Computer",
         f"{figure(tokens)} requests for {CORES} cores in processes of 4 over {figure(hours)} h",
         "below what is refused, if processes do not all start in one second"),
        ("requests", f"{figure(p.gets)} GETs, {figure(p.gets / max(hours, 1e-9) / 3600)} a second on {CORES} cores",
         "spread over prefixes by the granules' own paths"),
    ]  # fmt: skip
    head = "| what | figure | answer |\n|---|---|---|\n"
    return head + "\n".join(f"| {a} | {b} | {c} |" for a, b, c in rows)


def measured_table(measured: Measured) -> str:
    """The measured figures, so that the page shows what it rests on."""
    rows = [f"| `{name}` | {value if isinstance(value, str) else f'{value:.3g}'} |"
            for name, value in asdict(measured).items()]  # fmt: skip
    return "| figure | value |\n|---|---|\n" + "\n".join(rows)


def read_measured(path: Path = _DEFAULT_MEASURED) -> Measured:
    """The measured figures of a JSON file."""
    return Measured(**json.loads(path.read_text(encoding="utf-8")))


def with_tables(page: str, measured: Measured) -> str:
    """A page with its tables rewritten, each between `<!-- name -->` and `<!-- /name -->`."""
    tables = {"plan": main_table(measured), "limits": limits_table(measured), "measured": measured_table(measured)}
    for name, text in tables.items():
        opening, closing = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        if page.count(opening) != 1 or page.count(closing) != 1:
            raise ValueError(f"The page has no single place for the table {name}, between its two comments.")
        before, _, rest = page.partition(opening)
        page = f"{before}{opening}{text}{closing}{rest.partition(closing)[2]}"
    return page


def measure(where: str) -> Measured:
    """The figures of this machine, on simulated scenes: one core reads and embeds, local disk."""
    import geoelle
    from geoelle.simulate import SimulationConfig, make_scenes

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = SimulationConfig.small(width_px=1100, height_px=1100, dates=("2021-05-10", "2021-06-10"))
        scenes = make_scenes(folder / "scenes", config=config)
        items = geoelle.search(
            scenes.aoi, catalog=scenes.catalog, collections=[scenes.collection], start="2021-01-01", end="2021-12-31"
        )
        store = folder / "e.zarr"
        ds = geoelle.embed(items, aoi=scenes.aoi, out=store, chip_size_m=640, stride_m=640)
        chips = int((ds["status"].values == 1).sum())
        summary = ds.attrs["geoelle:summary"]
        files = [p for p in store.rglob("*") if p.is_file()]
        read_s, embed_s = _time_one_tile(items, ds)
        geoelle.difficulty(store, out=folder / "d.zarr")
        return Measured(
            where=where,
            chip_px=64,
            bands=3,
            features=ds.sizes["feature"],
            read_core_s_per_chip=read_s,
            embed_core_s_per_chip=embed_s,
            bytes_written_per_chip=sum(p.stat().st_size for p in files) / chips,
            jobs_per_chip=1 / TILE_CHIPS**2,
            objects_per_job=sum(p.name != "zarr.json" for p in files) / summary["n_jobs"],
            digest_read_s=_time_digests(store, summary["n_jobs"]),
            scheduler_tasks_per_s=_time_scheduler(),
            map_bytes_per_chip=_map_bytes(folder, ds["status"].size),
        )


def _time_one_tile(items: object, ds: object) -> tuple[float, float]:
    from geoelle.catalog import group_scenes, records_from_frame
    from geoelle.encoders import get_card, load_encoder
    from geoelle.jobs import ChipOptions, read_chips
    from geoelle.sensors import get_sensor
    from geoelle.store.layout import extent_of

    extent = extent_of(ds.attrs)  # type: ignore[attr-defined]
    card, encoder = get_card("compact-rgb"), load_encoder("compact-rgb", threads=1)
    scene = group_scenes(records_from_frame(items))[0]
    wanted = extent.aoi_mask(_whole(extent))
    reads, embeds, n = 0.0, 0.0, 0
    for tile in extent.tiles():
        start = time.process_time()
        chips = read_chips(scene, extent, tile, wanted[tile.y, tile.x], card, ChipOptions(0.1), get_sensor(card.sensor))
        reads += time.process_time() - start
        if len(chips.batch) == 0:
            continue
        start = time.process_time()
        encoder.embed(chips.batch)
        embeds += time.process_time() - start
        n += len(chips.batch)
    return reads / n, embeds / n


def _whole(extent: object) -> object:
    from geoelle.exporting.footprints import extent_footprint

    return extent_footprint(extent)  # type: ignore[arg-type]


def _time_digests(store: Path, n_jobs: int) -> float:
    from geoelle.store.embeddings import stored_digests

    start = time.perf_counter()
    for _ in range(5):
        stored_digests(store)
    return (time.perf_counter() - start) / 5 / n_jobs


def _time_scheduler() -> float:
    from geoelle.running import cluster, run_jobs

    n = 2000
    with cluster(2, None) as client:
        list(run_jobs(client, abs, range(50), label="warm-up"))
        start = time.perf_counter()
        list(run_jobs(client, abs, range(n), label="empty"))
        return n / (time.perf_counter() - start)


def _map_bytes(folder: Path, n_cells: int) -> float:
    import geoelle

    whole = geoelle.open_store(folder / "d.zarr", load=True)
    size = {}
    for name, part in (("whole", whole), ("least", whole.isel(time=slice(0, 1)))):
        geoelle.map(part, out=folder / f"{name}.html")
        size[name] = (folder / f"{name}.html").stat().st_size
    return (size["whole"] - size["least"]) / (n_cells - n_cells / whole.sizes["time"])


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=_DEFAULT_MEASURED, help="JSON with the measured figures")
    parser.add_argument("--measure", type=Path, help="measure them here and write them to this JSON file")
    parser.add_argument("--where", default="unnamed machine", help="machine and its state, kept with the figures")
    parser.add_argument("--doc", type=Path, help="page whose tables to rewrite; default: print them")
    arguments = parser.parse_args()
    if arguments.measure:
        found = measure(arguments.where)
        arguments.measure.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
        return
    measured = read_measured(arguments.measured)
    if arguments.doc:
        page = arguments.doc.read_text(encoding="utf-8")
        arguments.doc.write_text(with_tables(page, measured), encoding="utf-8")
    else:
        print(f"{main_table(measured)}\n\n{limits_table(measured)}\n\n{measured_table(measured)}")


if __name__ == "__main__":
    _main()
