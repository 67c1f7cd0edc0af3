"""`update`: new, late and reprocessed items of a catalog that changes, and nothing else done."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from stac_servers import free_port, stac_fastapi

from geoelle.catalog import read_items, write_items
from geoelle.embedding import embed
from geoelle.errors import CatalogError, ConfigError, NotFoundError, StoreError
from geoelle.searching import search
from geoelle.simulate import Simulation, SimulationConfig, make_scenes
from geoelle.store import open_store
from geoelle.store.locking import store_lock
from geoelle.updating import UpdateSummary, update

DATES = ("2021-06-10", "2021-07-10", "2021-08-10", "2021-09-10")
OPTIONS: dict[str, Any] = {"chip_size_m": 320, "stride_m": 320, "tile_chips": 3}
END = "2021-12-31"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    config = SimulationConfig.small(width_px=128, height_px=96, dates=DATES)
    return make_scenes(tmp_path_factory.mktemp("seen") / "scenes", config=config)


@dataclass
class Growing:
    """A static catalog on disk that a test changes, the items found in it, and the store made of them."""

    root: Path
    collection: Path
    ids: tuple[str, ...]
    aoi: Path
    items: Path
    store: Path

    @property
    def catalog(self) -> Path:
        return self.root / "catalog.json"

    def list_items(self, *ids: str) -> None:
        """Which items the catalog links to."""
        path = self.collection / "collection.json"
        document = json.loads(path.read_text())
        others = [link for link in document["links"] if link["rel"] != "item"]
        document["links"] = others + [{"rel": "item", "href": f"./{i}/{i}.json"} for i in ids]
        path.write_text(json.dumps(document))

    def item(self, item_id: str) -> dict[str, Any]:
        return dict(json.loads((self.collection / item_id / f"{item_id}.json").read_text()))

    def put(self, item: dict[str, Any]) -> None:
        folder = self.collection / item["id"]
        folder.mkdir(exist_ok=True)
        (folder / f"{item['id']}.json").write_text(json.dumps(item))

    def reprocess(self, of: str, name: str, *, shift: int = 40, **properties: Any) -> str:
        """Another product of an overpass, with other pixels."""
        item = self.item(of)
        item["id"] = name
        item["properties"] |= properties
        folder = self.collection / name
        folder.mkdir(exist_ok=True)
        for key, asset in item["assets"].items():
            with rasterio.open(self.collection / of / Path(asset["href"]).name) as source:
                profile, pixels = source.profile, source.read()
            asset["href"] = f"./{name}_{key}.tif"
            with rasterio.open(folder / f"{name}_{key}.tif.new", "w", **profile) as target:
                target.write(pixels if key == "SCL" else np.where(pixels > 0, pixels + shift, 0).astype(pixels.dtype))
            (folder / f"{name}_{key}.tif.new").rename(folder / f"{name}_{key}.tif")
        self.put(item)
        return name

    def search(self, **options: Any) -> None:
        search(self.aoi, catalog=self.catalog, start="2021-01-01", end=END, out=self.items, **options)

    def embed(self, **options: Any) -> xr.Dataset:
        return embed(self.items, out=self.store, aoi=self.aoi, **OPTIONS, **options)  # type: ignore[return-value]

    def update(self, **options: Any) -> UpdateSummary:
        return update(self.store, items=self.items, **{"end": END, **options})

    def afresh(self, folder: Path, **options: Any) -> xr.Dataset:
        """A store made in one go from the items as they are now."""
        return embed(self.items, out=folder / "afresh.zarr", aoi=self.aoi, **OPTIONS, **options)  # type: ignore[return-value]


@pytest.fixture
def growing(seen: Simulation, tmp_path: Path) -> Growing:
    """All dates but the last are in the catalog; the second came late; nothing is searched yet."""
    root = Path(shutil.copytree(seen.root, tmp_path / "scenes"))
    one = Growing(
        root, root / seen.collection, tuple(seen.item_ids), root / "aoi.geojson", tmp_path / "items.parquet",
        tmp_path / "e.zarr",
    )  # fmt: skip
    one.list_items(*(one.ids[k] for k in (0, 2)))
    return one


def same_arrays(mine: xr.Dataset, theirs: xr.Dataset) -> None:
    xr.testing.assert_identical(mine.load().drop_attrs(), theirs.load().drop_attrs())


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def times(path: Path) -> dict[str, int]:
    return {p.as_posix(): p.stat().st_mtime_ns for p in (path, *path.rglob("*"))}


def test_new_and_late_items_are_embedded_and_nothing_else(growing: Growing, tmp_path: Path) -> None:
    growing.search()
    growing.embed()
    per_date = open_store(growing.store).attrs["geoelle:jobs"]["2021-06-10"]
    growing.list_items(*growing.ids)
    found = growing.update()
    assert (found.new, found.late, found.reprocessed) == ((growing.ids[3],), (growing.ids[1],), ())
    assert (found.embedding.n_done, found.embedding.n_unchanged) == (2 * per_date, 2 * per_date)
    assert not found.nothing_new
    ds = open_store(growing.store)
    assert [str(t)[:10] for t in ds["time"].values] == list(DATES)
    same_arrays(ds, growing.afresh(tmp_path))
    assert ds.attrs["geoelle:scenes"]["2021-07-10"] == [growing.ids[1]]
    # Nothing more: neither store nor the list of items changes.
    before, items = (times(growing.store), tree(growing.store)), growing.items.read_bytes()
    again = growing.update()
    assert again.nothing_new
    assert (times(growing.store), tree(growing.store)) == before
    assert growing.items.read_bytes() == items


@pytest.mark.parametrize("same_id", [True, False])
def test_a_reprocessed_item_takes_the_place_of_the_old(growing: Growing, tmp_path: Path, same_id: bool) -> None:
    growing.list_items(*growing.ids[:3])
    growing.search()
    before = growing.embed().load()
    of = growing.ids[1]
    if same_id:  # as some providers do: the product is replaced under its name
        name = growing.reprocess(of, of, **{"s2:generation_time": "2023-01-01T00:00:00Z"})
    else:
        name = growing.reprocess(of, f"{of}_N0302", **{"s2:processing_baseline": "03.02"})
        growing.list_items(*growing.ids[:3], name)
    found = growing.update()
    assert (found.new, found.late, found.reprocessed) == ((), (), (name,))
    assert found.embedding.n_unchanged == 2 * found.embedding.n_done
    ds = open_store(growing.store)
    assert ds.attrs["geoelle:scenes"]["2021-07-10"] == [name]
    assert set(ds.attrs["geoelle:items"]) == {growing.ids[0], name, growing.ids[2]}
    same_arrays(ds, growing.afresh(tmp_path))
    changed = [not before.isel(time=t).equals(ds.load().isel(time=t)) for t in range(3)]
    assert changed == [False, True, False]
    assert [i.id for i in read_items(growing.items)[0]] == [growing.ids[0], name, growing.ids[2]]


def test_an_item_that_vanished_stays(growing: Growing) -> None:
    growing.search()
    growing.embed()
    before = tree(growing.store)
    growing.list_items(growing.ids[2])
    found = growing.update()
    assert found.nothing_new
    assert tree(growing.store) == before
    assert len(read_items(growing.items)[0]) == 2
    growing.list_items()
    with pytest.raises(CatalogError, match="nothing was changed"):
        growing.update()
    assert tree(growing.store) == before


def test_a_late_granule_of_a_day_redoes_the_tiles_that_it_reaches(growing: Growing, tmp_path: Path) -> None:
    growing.list_items(*growing.ids[:2])
    growing.search()
    growing.embed()
    late = growing.reprocess(growing.ids[0], "LATE_GRANULE", shift=7, **{
        "s2:mgrs_tile": "31UFP", "grid:code": "MGRS-31UFP", "datetime": "2021-06-10T10:50:00Z"})  # fmt: skip
    growing.list_items(*growing.ids[:2], late)
    found = growing.update()
    assert found.late == (late,)
    assert found.embedding.n_unchanged == found.embedding.n_done > 0
    assert open_store(growing.store).attrs["geoelle:scenes"]["2021-06-10"] == [growing.ids[0], late]
    same_arrays(open_store(growing.store), growing.afresh(tmp_path))


def test_filters_and_options_are_those_of_before(growing: Growing, tmp_path: Path) -> None:
    options = {"max_cloud_fraction": 0.5, "min_contrast": 1e-4, "cloud_mask": "none", "dtype": "float16"}
    cloudy = growing.item(growing.ids[1])
    cloudy["properties"]["eo:cloud_cover"] = 90.0
    growing.put(cloudy)
    growing.search(max_cloud_percent=50, months=[6, 7, 8], exclude=["nothing-of-this-name"])
    growing.embed(**options)
    growing.list_items(*growing.ids)
    found = growing.update()
    assert found.nothing_new, "cloudy in July, or of September"
    clear = growing.item(growing.ids[1])
    clear["properties"]["eo:cloud_cover"] = 10.0
    growing.put(clear)
    assert growing.update().late == (growing.ids[1],)
    ds = open_store(growing.store)
    assert ds.attrs["geoelle:config"]["cloud_mask"] == "none"
    same_arrays(ds, growing.afresh(tmp_path, **options))
    query = read_items(growing.items)[1]
    assert (query["max_cloud_percent"], query["months"], query["end"]) == (50, [6, 7, 8], END)


def test_an_earlier_end_looks_no_further_and_forgets_nothing(growing: Growing) -> None:
    growing.search()
    growing.embed()
    growing.list_items(*growing.ids)
    found = growing.update(end="2021-08-31")
    assert (found.new, found.late) == ((), (growing.ids[1],))
    assert read_items(growing.items)[1]["end"] == END
    with pytest.raises(ConfigError, match="no date"):
        growing.update(end="soon")
    with pytest.raises(ConfigError):
        growing.update(end="2020-01-01")


def test_without_an_end_it_looks_until_today(growing: Growing) -> None:
    search(growing.aoi, catalog=growing.catalog, start="2021-01-01", end="2021-08-31", out=growing.items)
    growing.embed()
    growing.list_items(*growing.ids)
    found = update(growing.store, items=growing.items)
    assert found.new == (growing.ids[3],)
    assert read_items(growing.items)[1]["end"] > "2025"


def test_a_store_that_is_held_is_done_by_the_next_update(growing: Growing, tmp_path: Path) -> None:
    growing.search()
    growing.embed()
    growing.list_items(*growing.ids)
    before = tree(growing.store)

    import threading

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store_lock(growing.store, "test"):
            held.set()
            done.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(10)
    with pytest.raises(StoreError, match="being written by process"):
        growing.update()
    done.set()
    other.join()
    assert tree(growing.store) == before
    found = growing.update()
    assert (found.new, found.late) == ((), ()), "they are in the list since the first call"
    assert not found.nothing_new
    assert found.embedding.n_done == found.embedding.n_unchanged > 0
    same_arrays(open_store(growing.store), growing.afresh(tmp_path))


def test_what_it_cannot_go_by_is_said(growing: Growing, tmp_path: Path) -> None:
    growing.search()
    with pytest.raises(NotFoundError, match=r"e\.zarr"):
        growing.update()
    growing.embed()
    records, query = read_items(growing.items)
    for lacking in ({}, {k: v for k, v in query.items() if k != "catalog"}):
        bad = write_items(records, tmp_path / "bad.parquet", lacking)
        with pytest.raises(CatalogError, match=r"does not say what was searched for.*catalog"):
            update(growing.store, items=bad)
    with pytest.raises(NotFoundError, match="geoelle search"):
        update(growing.store, items=tmp_path / "nothing.parquet")


def test_an_api_that_goes_away_changes_nothing_and_one_that_grows_is_followed(growing: Growing, tmp_path: Path) -> None:
    def served(*ids: str) -> list[dict[str, Any]]:
        items = []
        for item_id in ids:
            item = growing.item(item_id)
            for asset in item["assets"].values():
                asset["href"] = f"http://127.0.0.1:9/{item_id}/{Path(asset['href']).name}"
            items.append({**item, "collection": "s2", "links": []})
        return items

    with stac_fastapi(served(growing.ids[0], growing.ids[2])) as api:
        search(growing.aoi, catalog=api.address, collections=["s2"], start="2021-01-01", end=END, out=growing.items)
        failed = growing.embed()  # nobody listens at port 9: what is done is not of interest here
        assert failed.attrs["geoelle:summary"]["n_failed"] > 0
        api.items += served(growing.ids[1])
        found = growing.update()
        assert found.late == (growing.ids[1],)
        assert found.embedding.n_failed == found.embedding.n_jobs
    before, items = tree(growing.store), growing.items.read_bytes()
    with pytest.raises(CatalogError):
        growing.update(catalog=f"http://127.0.0.1:{free_port()}")
    assert (tree(growing.store), growing.items.read_bytes()) == (before, items)
