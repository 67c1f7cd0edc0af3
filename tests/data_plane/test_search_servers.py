"""Searching real servers on loopback: what they are asked, what is filtered here, and what happens when they fail."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely
import stac_geoparquet.arrow
import yaml
from stac_servers import (
    BaseHTTPRequestHandler,
    Memory,
    failing,
    free_port,
    listening,
    reply,
    rustac,
    serving,
    stac_fastapi,
    stac_item,
)

from geoelle.catalog import read_items, sources, transport
from geoelle.catalog.transport import Patience
from geoelle.errors import CatalogError, ConfigError, NoItemsError
from geoelle.searching import search

AREA = (4.2, 51.2, 4.3, 51.3)


def an_item(n: int, collection: str = "s2") -> dict[str, Any]:
    said: dict[str, Any] = {"eo:cloud_cover": float(n), "sat:relative_orbit": 8 if n % 2 else 51}
    said["platform"] = "Sentinel-2A" if n % 3 else "Sentinel-2B"
    if n in (4, 7):
        del said["eo:cloud_cover"], said["sat:relative_orbit"]
    lon = 4.0 if n != 22 else 40.0
    box = (lon, 51.0, lon + 1, 52.0)
    return stac_item(f"S2_{n:02}", f"2022-{5 + n // 8:02}-{1 + n:02}T10:36:21Z", box, collection=collection, **said)


ITEMS = [an_item(n) for n in range(23)]
FILTERS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "cloud": {"max_cloud_percent": 9},
    "orbit": {"relative_orbits": (8,)},
    "platform": {"platforms": ("sentinel-2a",)},
    "months": {"months": (5, 7)},
    "all": {"max_cloud_percent": 12, "relative_orbits": (8, 51), "platforms": ("SENTINEL-2A",), "months": (5, 6)},
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PATIENCE", Patience(connect_s=1.0, read_s=1.0, answer_s=1.5, backoff_s=0.01))


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rustac(ITEMS, tmp_path_factory.mktemp("rustac")) as address:
        yield address


@pytest.fixture(scope="module")
def full() -> Iterator[Memory]:
    with stac_fastapi(ITEMS) as memory:
        yield memory


@pytest.fixture(scope="module")
def only_query() -> Iterator[Memory]:
    with stac_fastapi(ITEMS, ("query",)) as memory:
        yield memory


def find(catalog: str | Path, **changes: Any) -> gpd.GeoDataFrame:
    options: dict[str, Any] = {"collections": ["s2"], "start": "2022-05-01", "end": "2022-08-31", **changes}
    return search(options.pop("aoi", AREA), catalog=catalog, **options)


def said(frame: gpd.GeoDataFrame) -> str:
    return str(frame.attrs["geoelle:filters"])


def provider(path: Path, url: str, **changes: Any) -> Path:
    """A provider's YAML file."""
    document = {"name": path.stem, "url": url, "collections": {"sentinel-2-l2a": ["s2"]}, **changes}
    path.write_text(yaml.safe_dump(document))
    return path


# --- the same answer from any server


@pytest.mark.parametrize("name", FILTERS)
def test_the_answer_does_not_depend_on_what_a_server_can_filter(
    name: str, simple: str, full: Memory, only_query: Memory
) -> None:
    wanted = FILTERS[name]
    answers = {tuple(find(address, **wanted)["id"]) for address in (simple, full.address, only_query.address)}
    assert len(answers) == 1
    assert all(answers), "at least one item, or this test shows nothing"


def test_items_without_a_cloud_figure_come_from_every_server(simple: str, full: Memory, only_query: Memory) -> None:
    for address in (simple, full.address, only_query.address):
        assert {"S2_04", "S2_07"} <= set(find(address, max_cloud_percent=1)["id"])


# --- what servers are asked


def test_a_server_with_cql2_is_asked_for_all_that_it_can(full: Memory) -> None:
    full.asked.clear()
    frame = find(full.address, max_cloud_percent=9, relative_orbits=(8,), platforms=("sentinel-2a",))
    (asked,) = full.asked
    assert asked["filter-lang"] == "cql2-json"
    assert "query" not in asked
    assert asked["collections"] == ["s2"]
    assert asked["datetime"] == "2022-04-30T00:00:00Z/2022-09-01T23:59:59Z"
    assert shapely.geometry.shape(asked["intersects"]).equals(shapely.box(*AREA))
    assert "already filtered by the endpoint: area, dates, cloud, relative orbit, platform" in said(frame)
    assert "over the cloud limit" not in said(frame), "the server did that"
    assert "without a relative orbit" in said(frame), "what says none comes, and is judged here"


def test_a_server_with_query_is_asked_only_as_a_known_provider(only_query: Memory, tmp_path: Path) -> None:
    only_query.asked.clear()
    frame = find(only_query.address, max_cloud_percent=9)
    assert "query" not in only_query.asked[0]
    assert "over the cloud limit" in said(frame)
    properties = {"cloud_percent": ["eo:cloud_cover"], "relative_orbit": ["sat:relative_orbit"]}
    known = provider(tmp_path / "known.yaml", only_query.address, server_filters=["query"], properties=properties)
    only_query.asked.clear()
    frame = find(known, collections=(), max_cloud_percent=9, relative_orbits=(8,))
    assert only_query.asked[0]["query"] == {"eo:cloud_cover": {"lte": 9}, "sat:relative_orbit": {"in": [8]}}
    assert "already filtered by the endpoint: area, dates, cloud, relative orbit" in said(frame)


def test_months_are_asked_for_one_stretch_after_the_other(full: Memory) -> None:
    full.asked.clear()
    frame = find(full.address, start="2021-01-01", end="2022-12-31", months=(5, 7))
    assert [a["datetime"][:10] for a in full.asked] == ["2021-04-30", "2021-06-30", "2022-04-30", "2022-06-30"]
    assert {str(t)[5:7] for t in frame["time"]} == {"05", "07"}


def test_pages_are_followed(full: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PAGE_ITEMS", 5)
    full.asked.clear()
    assert len(find(full.address)) == 22
    assert [a.get("token") for a in full.asked] == [None, "5", "10", "15", "20"]


def test_a_server_that_conforms_on_paper_only_is_asked_for_less() -> None:
    with stac_fastapi(ITEMS, refuses_filters=True) as memory:
        frame = find(memory.address, max_cloud_percent=9)
        assert ["filter" in asked for asked in memory.asked] == [True, False]
    assert "already filtered by the endpoint: area, dates" in said(frame)
    assert "over the cloud limit" in said(frame)


def test_an_empty_answer_is_diagnosed_filter_by_filter(full: Memory) -> None:
    with pytest.raises(NoItemsError, match=r"22 seen.*2 excluded by name, 20 over the cloud limit") as refusal:
        find(full.address, max_cloud_percent=-1, exclude=["S2_04", "S2_07"], end="2022-07-22")
    assert "\n" not in str(refusal.value)
    with pytest.raises(NoItemsError, match=r"22 seen.*22 outside the dates"):
        find(full.address, start="2019-01-01", end="2019-12-31")
    with pytest.raises(NoItemsError, match="23 outside the AOI"):
        find(full.address, aoi=(10, 10, 11, 11))


def test_a_server_that_never_ends_is_left() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        base = f"http://{handler.headers['Host']}"
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if handler.path.startswith("/search"):
            link = {"rel": "next", "href": f"{base}/search", "method": "POST", "body": {"token": "more"}}
            reply(handler, 200, json.dumps({"type": "FeatureCollection", "features": ITEMS[:2], "links": [link]}))
        else:
            reply(handler, 200, json.dumps(landing(base)))

    with serving(answer) as address, pytest.raises(CatalogError, match="the same items page after page"):
        find(address)


def landing(base: str) -> dict[str, Any]:
    return {
        "type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "d",
        "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
        "links": [{"rel": "self", "href": base}, {"rel": "root", "href": base},
                  {"rel": "search", "href": f"{base}/search", "method": "POST", "type": "application/geo+json"}],
    }  # fmt: skip


# --- servers that fail


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ((503,), "HTTP 503 after 4 tries"), ((500,), "HTTP 500 after 4 tries"), ((429,), "HTTP 429 after 4 tries"),
        (("hang",), "no answer in time after 2 tries"), (("cut",), "an answer cut short after 4 tries"),
        (("drip",), "in time after 2 tries"), ((None, None, 503), "HTTP 503 after 4 tries"),
        ((None, None, "cut"), "an answer cut short after 4 tries"), ((None, None, "hang"), "no answer in time"),
        ((403,), "HTTP 403"), (("html",), "did not answer with JSON"),
        ((None, None, "html"), "did not answer with JSON"), ((None, None, 403), "HTTP 403"),
    ],
)  # fmt: skip
def test_a_failing_server_is_one_sentence_in_bounded_time(full: Memory, script: Any, why: str) -> None:
    started = time.monotonic()
    with failing(full.address, *script) as proxy, pytest.raises(CatalogError) as refusal:
        find(proxy.address)
    assert time.monotonic() - started < 10
    assert why in str(refusal.value)
    assert proxy.address in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("fault", [503, 500, 429, "cut", "hang"])
def test_a_fault_that_passes_is_survived(full: Memory, fault: Any) -> None:
    with failing(full.address, fault, None, None, fault, None) as proxy:
        frame = find(proxy.address)
    assert len(frame) == 22
    assert "did not answer" not in said(frame)


def test_a_server_that_asks_for_an_hour_is_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = Patience(connect_s=1, read_s=1, answer_s=1, backoff_s=0.01, longest_wait_s=0.05)
    monkeypatch.setattr(transport, "PATIENCE", patience)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(429)
        handler.send_header("Retry-After", "3600")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    started = time.monotonic()
    with serving(answer) as address, pytest.raises(CatalogError, match="HTTP 429"):
        find(address)
    assert time.monotonic() - started < 5


def test_keys_in_an_address_stay_out_of_errors_and_files(full: Memory, tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as refusal:
        find(f"http://127.0.0.1:{free_port()}/?subscription-key=secret")
    assert "secret" not in str(refusal.value)


# --- failover


@pytest.mark.parametrize("script", [(503,), ("hang",), ("cut",), (429,), (403,), (None, None, 500), (None, None, 401)])
def test_the_second_endpoint_answers_and_the_result_says_so(full: Memory, script: Any, tmp_path: Path) -> None:
    with failing(full.address, *script) as proxy:
        frame = find(proxy.address, fallback=full.address, out=tmp_path / "i.parquet")
    assert len(frame) == 22
    assert f"{proxy.address} did not answer (" in said(frame)
    assert f"so {full.address} was asked" in said(frame)
    query = read_items(tmp_path / "i.parquet")[1]
    assert query["catalog"] == proxy.address
    assert query["endpoint"] == full.address
    assert list(query["filters"]["unanswered"]) == [proxy.address]


def test_a_closed_port_fails_over(full: Memory) -> None:
    frame = find(f"http://127.0.0.1:{free_port()}", fallback=full.address)
    assert "did not answer (no connection" in said(frame)


def test_the_second_provider_has_names_of_its_own(tmp_path: Path) -> None:
    theirs = [an_item(n, "sentinel-2-theirs") for n in range(4)]
    for item in theirs:
        item["properties"]["their:clouds"] = item["properties"].pop("eo:cloud_cover", 0)
    with stac_fastapi(theirs, ("query",)) as memory:
        second = provider(
            tmp_path / "second.yaml", memory.address, collections={"sentinel-2-l2a": ["sentinel-2-theirs"]},
            properties={"cloud_percent": ["their:clouds"]}, server_filters=["query"],
        )  # fmt: skip
        first = provider(tmp_path / "first.yaml", f"http://127.0.0.1:{free_port()}", fallback=str(second))
        frame = find(first, collections=(), max_cloud_percent=2, out=tmp_path / "i.parquet")
        assert list(frame["id"]) == ["S2_00", "S2_01", "S2_02"]
        assert memory.asked[0]["collections"] == ["sentinel-2-theirs"]
        assert memory.asked[0]["query"] == {"their:clouds": {"lte": 2}}
        assert list(find(first, collections=["s2"], max_cloud_percent=2)["id"]) == ["S2_00", "S2_01", "S2_02"]
    assert "first did not answer (no connection after 4 tries), so second was asked" in said(frame)
    assert list(frame["cloud_percent"]) == [0, 1, 2]
    records, query = read_items(tmp_path / "i.parquet")
    assert [r.cloud_percent for r in records] == [0, 1, 2], "also where the provider's file is gone"
    assert query["endpoint"] == "second"


def test_an_endpoint_with_no_items_has_answered(full: Memory) -> None:
    with stac_fastapi([]) as empty, pytest.raises(NoItemsError, match=empty.address):
        find(empty.address, fallback=full.address)


@pytest.mark.parametrize("fault", [404, "html"])
def test_a_refusal_is_an_answer_too(full: Memory, fault: Any) -> None:
    with failing(full.address, fault) as proxy, pytest.raises(CatalogError, match=proxy.address):
        find(proxy.address, fallback=full.address)


def test_when_none_answers_all_are_named() -> None:
    first, second = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    with pytest.raises(CatalogError, match="No endpoint answers") as refusal:
        find(first, fallback=second)
    assert first in str(refusal.value)
    assert second in str(refusal.value)


def test_a_provider_without_the_sensor_is_refused(full: Memory, tmp_path: Path) -> None:
    known = provider(tmp_path / "known.yaml", full.address, collections={"sentinel-2-l2a": ["s2"]})
    with pytest.raises(ConfigError, match="known has no sentinel-1-rtc"):
        find(known, collections=(), sensor="sentinel-1-rtc")


# --- stac-geoparquet over the network


class Ranges(SimpleHTTPRequestHandler):
    """Files with range requests."""

    asked: list[str]
    knows_ranges = True

    def do_GET(self) -> None:
        content = (Path(self.directory) / self.path.lstrip("/").partition("?")[0]).read_bytes()
        wanted = self.headers.get("Range", "")
        type(self).asked.append(wanted)
        if not self.knows_ranges:
            reply(self, 200, content, "application/octet-stream")
            return
        first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
        piece = content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(piece) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(piece)))
        self.end_headers()
        self.wfile.write(piece)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_geoparquet_on_a_web_server_is_a_catalog(full: Memory, tmp_path: Path, knows_ranges: bool) -> None:
    find(full.address, out=tmp_path / "items.parquet")

    class Files(Ranges):
        asked: list[str] = []  # noqa: RUF012  one list for each test
        knows_ranges: bool = False

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

    Files.knows_ranges = knows_ranges
    with listening(Files) as address:
        frame = find(f"{address}items.parquet", months=(6,), max_cloud_percent=12)
    assert list(frame["id"]) == list(find(full.address, months=(6,), max_cloud_percent=12)["id"])
    assert all(Files.asked), "every request asks for a range"


def test_a_geoparquet_that_is_not_there_is_one_sentence() -> None:
    with serving(lambda h: reply(h, 404, "no")) as address, pytest.raises(CatalogError, match="HTTP 404") as refusal:
        find(f"{address}items.parquet?key=secret")
    assert "secret" not in str(refusal.value)
    with pytest.raises(CatalogError, match="no connection"):
        find(f"http://127.0.0.1:{free_port()}/items.parquet")


def test_a_geoparquet_names_no_files_of_this_machine(full: Memory, tmp_path: Path) -> None:
    item = an_item(0)
    item["assets"]["B04"]["href"] = "/etc/passwd.tif"
    table = stac_geoparquet.arrow.parse_stac_items_to_arrow([item]).read_all()
    stac_geoparquet.arrow.to_parquet(table, tmp_path / "items.parquet")
    content = (tmp_path / "items.parquet").read_bytes()
    with serving(lambda h: reply(h, 200, content)) as address:
        frame = find(f"{address}items.parquet")
    assert address in frame["stac"].iloc[0], "a path is one of the server"


def test_a_server_that_filters_wrongly_is_found_out() -> None:
    # A spelling that it is not asked for: its filter drops what ours keeps.
    with stac_fastapi([stac_item("x", "2022-05-02T10:36:21Z", platform="sEnTiNeL-2a")]) as memory:
        assert list(find(memory.address, platforms=("sentinel-2a",))["id"]) == ["x"]
        assert ["filter" in asked for asked in memory.asked] == [True, False, False]
