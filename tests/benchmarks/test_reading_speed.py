"""Chips a second from local COGs: geoelle beside a bare rasterio loop, torchgeo, xbatcher and odc-stac, in one run.

Files are simulated: real Sentinel-2 chips of ../shared/data laid out at random, so that they compress as imagery does;
smooth noise where that folder is missing. Figures are printed, never asserted.

Run with `pytest -m bench -s tests/benchmarks/test_reading_speed.py`.
"""

from __future__ import annotations

import gc
import os
import resource
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geoelle.catalog import group_scenes
from geoelle.catalog.parsing import parse_item
from geoelle.chips import cut_chips
from geoelle.grid import ChipGrid, GridExtent, Tile
from geoelle.imagery import TileMemory, read_tile
from geoelle.imagery.reading import read_bands
from geoelle.records import Scene
from geoelle.sensors import SENTINEL_2_L2A

pytestmark = [pytest.mark.bench, pytest.mark.models]

SIDE = int(os.environ.get("GEOELLE_BENCH_SIDE_PX", "8192"))
BLOCK, CHIP, TILE_CHIPS, GSD = 512, 256, 8, 10.0
THREADS = 2
EPSG = 32631
TILE_M = CHIP * GSD * TILE_CHIPS
LEFT, TOP = 25 * TILE_M, 279 * TILE_M
"""A corner of the chip grid, so that tiles and blocks of the files agree; `shifted` is the usual case, where not."""
MEMORY = TileMemory()
KEYS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08"}
NAMES = tuple(KEYS)


@dataclass(frozen=True)
class Contestant:
    """What is measured: work that gives a number of chips, and how often."""

    name: str
    work: Callable[[], int]
    rounds: int = 2


@dataclass
class Figure:
    """The best of a contestant's rounds."""

    wall_s: float = np.inf
    cpu_s: float = np.inf
    """Seconds a chip of all processors, child processes included: what a busy machine disturbs least."""


def cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(contestants: list[Contestant]) -> dict[str, Figure]:
    """Seconds a chip; rounds take turns, so that a busy moment hits all of them."""
    figures = {c.name: Figure() for c in contestants}
    for turn in range(max(c.rounds for c in contestants)):
        for c in contestants:
            if turn < c.rounds:
                gc.collect()
                wall, cpu = time.perf_counter(), cpu_s()
                n = c.work()
                wall, cpu = (time.perf_counter() - wall) / n, (cpu_s() - cpu) / n
                figure = figures[c.name]
                figure.wall_s, figure.cpu_s = min(figure.wall_s, wall), min(figure.cpu_s, cpu)
    return figures


def table(title: str, figures: dict[str, Figure], *against: str) -> None:
    """Rates, and ratios to each of `against` by wall clock and by processor time."""
    print(f"\n{title}; load {os.getloadavg()[0]:.1f}")
    print(f"  {'':54s} {'chips/s':>8s} {'cpu ms/chip':>12s}   ratios, wall (cpu)")
    for name, f in figures.items():
        ratios = "  ".join(f"{figures[o].wall_s / f.wall_s:5.2f} ({figures[o].cpu_s / f.cpu_s:5.2f})" for o in against)
        print(f"  {name:54s} {1 / f.wall_s:8.0f} {1e3 * f.cpu_s:12.2f}   {ratios}")


def pieces(folder: Path) -> NDArray[np.uint16]:
    """(piece, band, y, x): real chips of 256 px, or noise."""
    paths = sorted(folder.glob("satclip_*.tif")) if folder.is_dir() else []
    if not paths:
        rng = np.random.default_rng(0)
        return (1000 + np.cumsum(rng.integers(-20, 21, (15, 4, CHIP, CHIP)), axis=-1)).clip(1).astype(np.uint16)
    found = []
    for path in paths:
        with rasterio.open(path) as f:
            names = [str(d) for d in f.descriptions]
            found.append(f.read([names.index(key) + 1 for key in KEYS.values()]))
    return np.stack(found).astype(np.uint16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """Four bands of 8192 px in four files."""
    folder = tmp_path_factory.mktemp("bench")
    real = repo_root.parent / "shared" / "data" / "chips" / "ms"
    chips, rng, n = pieces(real), np.random.default_rng(1), SIDE // CHIP
    which, turns = rng.integers(0, len(chips), (n, n)), rng.integers(0, 4, (n, n))
    for b, key in enumerate(KEYS.values()):
        rows = [
            np.concatenate([np.rot90(chips[which[i, j], b], turns[i, j]) for j in range(n)], axis=1) for i in range(n)
        ]
        with rasterio.open(
            folder / f"T_20220604_{key}.tif", "w", driver="COG", height=SIDE, width=SIDE, count=1, dtype="uint16",
            crs=f"EPSG:{EPSG}", transform=Affine(GSD, 0, LEFT, 0, -GSD, TOP), nodata=0, compress="DEFLATE",
            predictor="STANDARD", blocksize=BLOCK, overviews="NONE", num_threads=THREADS,
        ) as target:  # fmt: skip
            target.update_tags(SIMULATED="real chips laid out at random: not an observation of any place")
            target.write(np.concatenate(rows), 1)
    size = sum(p.stat().st_size for p in folder.glob("*.tif"))
    made_of = "real chips" if real.is_dir() else "noise"
    print(
        f"\nSimulated files of {made_of}: 4 x {SIDE} px uint16, {BLOCK}-px blocks, {size / 1e6:.0f} MB of "
        f"{4 * SIDE**2 * 2 / 1e6:.0f}; {THREADS} threads on {os.cpu_count()} cores"
    )
    return folder


@pytest.fixture(scope="module")
def scene(folder: Path) -> Scene:
    lon, lat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform(
        [LEFT, LEFT + SIDE * GSD, LEFT, LEFT + SIDE * GSD], [TOP, TOP, TOP - SIDE * GSD, TOP - SIDE * GSD]
    )
    box = (min(lon), min(lat), max(lon), max(lat))
    record = parse_item(
        {
            "type": "Feature", "stac_version": "1.0.0", "id": "simulated", "collection": "c", "links": [],
            "geometry": shapely.geometry.mapping(shapely.box(*box)), "bbox": list(box),
            "properties": {"datetime": "2022-06-04T10:36:21Z", "proj:epsg": EPSG},
            "assets": {key: {"href": (folder / f"T_20220604_{key}.tif").as_posix()} for key in KEYS.values()},
        },
        SENTINEL_2_L2A,
    )  # fmt: skip
    assert record is not None
    return group_scenes([record])[0]


def the_extent(side: int = SIDE) -> GridExtent:
    n = side // (CHIP * TILE_CHIPS)
    row = round(TOP / TILE_M)
    column = round(LEFT / TILE_M)
    return GridExtent(
        ChipGrid(EPSG, CHIP * GSD, CHIP * GSD), TILE_CHIPS, range(row - n, row), range(column, column + n)
    )


def in_threads(work: Callable[[Any], int], jobs: Iterable[Any]) -> int:
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(work, jobs))


def job(scene: Scene, extent: GridExtent, upto: str, move: Affine, tile: Tile) -> int:
    """One job's reading as `embed` does it, up to a stage; gives the number of chips."""
    geobox = extent.tile_geobox(tile, GSD)
    geobox = GeoBox(geobox.shape, move @ geobox.transform, geobox.crs)
    if upto == "read_bands":
        room = MEMORY.take((len(NAMES), *geobox.shape))
        return read_bands(scene.items, geobox, NAMES, SENTINEL_2_L2A, out=room).size // (4 * CHIP**2)
    # What it is compared with makes no masks; the heuristic test is a contestant of its own.
    pixels = read_tile(scene, geobox, NAMES, cloud_mask="auto" if upto == "masks" else "none", memory=MEMORY)
    if upto == "read_tile":
        return TILE_CHIPS**2
    wanted = np.ones((TILE_CHIPS, TILE_CHIPS), bool)
    chips = cut_chips(
        pixels, scene, extent, tile, wanted, bands=NAMES, units="reflectance", gsd_m=GSD, max_invalid_fraction=1.0
    )
    return len(chips.batch)


def bare_loop(folder: Path) -> int:
    """Blocks of the files, read and cut in four, with as little in between as can be."""

    def rows(first: int) -> int:
        n = 0
        sources = [rasterio.open(folder / f"T_20220604_{key}.tif", sharing=False) for key in KEYS.values()]
        for row in range(first, SIDE // BLOCK, THREADS):
            for column in range(SIDE // BLOCK):
                window = ((row * BLOCK, (row + 1) * BLOCK), (column * BLOCK, (column + 1) * BLOCK))
                block = np.stack([source.read(1, window=window) for source in sources])
                n += len([block[:, y : y + CHIP, x : x + CHIP] for y in (0, CHIP) for x in (0, CHIP)])
        for source in sources:
            source.close()
        return n

    return in_threads(rows, range(THREADS))


def by_torchgeo(folder: Path, workers: int, side: int = SIDE) -> int:
    import torch
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    class Files(RasterDataset):
        filename_glob = "T_*_B02.tif"
        filename_regex = r"^T_(?P<date>\d{8})_(?P<band>B\d\d)\.tif$"
        date_format = "%Y%m%d"
        all_bands = tuple(KEYS.values())
        separate_files = True

    torch.set_num_threads(1)
    files = Files(folder.as_posix(), bands=list(KEYS.values()))
    roi = shapely.box(LEFT, TOP - side * GSD, LEFT + side * GSD, TOP)
    sampler = GridGeoSampler(files, size=CHIP, stride=CHIP, roi=roi)
    loader = DataLoader(files, batch_size=16, sampler=sampler, collate_fn=stack_samples, num_workers=workers)
    return sum(len(batch["image"]) for batch in loader)


def by_xbatcher(scene: Scene, side: int) -> int:
    import xbatcher

    geobox = GeoBox((side, side), Affine(GSD, 0, LEFT, 0, -GSD, TOP), f"EPSG:{EPSG}")
    lazy = odc.stac.load(
        [pystac.Item.from_dict(dict(scene.items[0].raw))], bands=list(KEYS.values()), geobox=geobox,
        chunks={"x": BLOCK, "y": BLOCK},
    ).isel(time=0)  # fmt: skip
    batches = xbatcher.BatchGenerator(lazy, {"x": CHIP, "y": CHIP})
    return sum(1 for batch in batches if batch.load(num_workers=THREADS).sizes["x"] == CHIP)


def by_odc(scene: Scene, geobox: GeoBox, **how: Any) -> int:
    loaded = odc.stac.load(
        [pystac.Item.from_dict(dict(scene.items[0].raw))], bands=list(KEYS.values()), geobox=geobox, pool=THREADS, **how
    )
    return sum(int(loaded[key].size) for key in KEYS.values()) // (4 * CHIP**2)


def test_aligned(folder: Path, scene: Scene) -> None:
    extent = the_extent()
    tiles = list(extent.tiles())
    inner = [t for t in tiles if t.row > extent.tile_rows.start and t.column < extent.tile_columns.stop - 1]
    stay, move = Affine.identity(), Affine.translation(100 * GSD, -100 * GSD)

    def geoelle(upto: str, shift: Affine, which: list[Tile]) -> Callable[[], int]:
        return lambda: in_threads(partial(job, scene, extent, upto, shift), which)

    whole = GeoBox((SIDE, SIDE), Affine(GSD, 0, LEFT, 0, -GSD, TOP), f"EPSG:{EPSG}")
    bare, geo = "bare block-aligned rasterio loop", f"torchgeo GridGeoSampler, DataLoader, {THREADS} workers"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figures = measure(
            [
                Contestant(bare, lambda: bare_loop(folder), 3),
                Contestant("geoelle: reading alone (float32, NaN)", geoelle("read_bands", stay, tiles), 3),
                Contestant("geoelle: and units, what is valid", geoelle("read_tile", stay, tiles), 3),
                Contestant("geoelle: and chips as an encoder takes them", geoelle("chips", stay, tiles), 3),
                Contestant("geoelle: all of it, and the heuristic cloud test", geoelle("masks", stay, tiles)),
                Contestant("geoelle: reading alone, tiles 100 px off blocks", geoelle("read_bands", move, inner)),
                Contestant("geoelle: all of it, tiles 100 px off blocks", geoelle("chips", move, inner)),
                Contestant("one whole odc-stac load, uint16", lambda: by_odc(scene, whole)),
                Contestant(geo, lambda: by_torchgeo(folder, THREADS, min(SIDE, 4096))),
                Contestant("torchgeo, no workers", lambda: by_torchgeo(folder, 0, 2048), 1),
                Contestant("xbatcher over odc-stac, dask chunks of a block", lambda: by_xbatcher(scene, 1024), 1),
            ]
        )
    table(f"Chips of {CHIP} px, 4 bands, beside the bare loop (aim 0.8) and torchgeo (aim 2.5)", figures, bare, geo)


@pytest.mark.parametrize("case", ["half a pixel off", "other zone"])
def test_warped(folder: Path, scene: Scene, case: str) -> None:
    side = 2048
    geobox = GeoBox((side, side), Affine(GSD, 0, LEFT + 10005, 0, -GSD, TOP - 10005), f"EPSG:{EPSG}")
    if case == "other zone":
        x, y = Transformer.from_crs(EPSG, EPSG + 1, always_xy=True).transform(LEFT + 10000, TOP - 10000)
        geobox = GeoBox((side, side), Affine(GSD, 0, round(x, -1), 0, -GSD, round(y, -1)), f"EPSG:{EPSG + 1}")
    n = (side // CHIP) ** 2

    def ours(_: object = None) -> int:
        pixels = read_bands(scene.items, geobox, NAMES, SENTINEL_2_L2A)
        assert np.isfinite(pixels).mean() > 0.9
        return n

    plain = "odc-stac, float32, bilinear, GDAL's approximation"
    how = {"dtype": "float32", "nodata": float("nan"), "resampling": "bilinear"}
    figures = measure(
        [
            Contestant(plain, lambda: by_odc(scene, geobox, **how)),
            Contestant("geoelle: reading alone, exact warp, a tile a thread", lambda: in_threads(ours, range(THREADS))),
            Contestant("geoelle: reading alone, exact warp, one thread", ours),
        ]
    )
    table(f"Warped, {case}: a tile of {side} px, beside odc-stac on {THREADS} threads", figures, plain)
