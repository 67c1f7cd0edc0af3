"""Searching a STAC API that is real (rustac on loopback), and servers that do not answer as they should."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from stac_servers import Answer, free_port, listening, reply, rustac, serving, stac_item

from geoelle.catalog import read_items, sources, transport
from geoelle.catalog.transport import Patience
from geoelle.errors import CatalogError, NoItemsError
from geoelle.searching import search
from geoelle.simulate import Simulation

N_ITEMS = 23
"""More than two of rustac's pages of ten."""
AREA = (4.2, 51.2, 4.3, 51.3)


def api_item(n: int) -> dict[str, Any]:
    west = 4.0 if n < N_ITEMS - 1 else 40.0
    box = (west, 51.0, west + 1, 52.0)
    return stac_item(f"S2_{n:02}", f"2022-06-{n + 1:02}T10:36:21Z", box, **{"eo:cloud_cover": float(n)})


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a STAC API with 23 items of one collection, one of them far away."""
    with rustac([api_item(n) for n in range(N_ITEMS)], tmp_path_factory.mktemp("api")) as address:
        yield address


def find(catalog: str, **changes: Any) -> Any:
    options: dict[str, Any] = {"collections": ["s2"], "start": "2022-06-01", "end": "2022-06-30", **changes}
    aoi = options.pop("aoi", AREA)
    return search(aoi, catalog=catalog, **options)


def test_all_pages_are_read(api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PAGE_ITEMS", 10)
    frame = find(api, out=tmp_path / "items.parquet")
    assert list(frame["id"]) == [f"S2_{n:02}" for n in range(N_ITEMS - 1)]
    records, query = read_items(tmp_path / "items.parquet")
    assert records[3].assets["red"].href == "http://127.0.0.1:9/S2_03/B04.tif"
    assert query["catalog"] == api


def test_dates_and_clouds_are_filtered(api: str) -> None:
    frame = find(api, start="2022-06-05", end="2022-06-10", max_cloud_percent=6)
    assert list(frame["id"]) == ["S2_04", "S2_05", "S2_06"]
    assert "3 over the cloud limit" in frame.attrs["geoelle:filters"]


def test_a_search_that_finds_nothing_asks_why(api: str) -> None:
    with pytest.raises(NoItemsError, match=f"{N_ITEMS} outside the AOI"):
        find(api, aoi=(10, 10, 10.1, 10.1))
    with pytest.raises(NoItemsError, match="outside the dates"):
        find(api, start="2019-01-01", end="2019-02-01")
    with pytest.raises(NoItemsError, match="nothing-like-it"):
        find(api, collections=["nothing-like-it"])


def landing(handler: BaseHTTPRequestHandler) -> str:
    base = f"http://{handler.headers['Host']}"
    return json.dumps(
        {
            "type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "d",
            "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
            "links": [
                {"rel": "self", "href": base}, {"rel": "root", "href": base},
                {"rel": "search", "href": f"{base}/search", "method": "POST", "type": "application/geo+json"},
            ],
        }
    )  # fmt: skip


def searching(body: Any) -> Answer:
    """A server whose landing page is right and whose answers to a search are `body`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        is_search = handler.path.startswith("/search")
        reply(handler, 200, (body if isinstance(body, str) else json.dumps(body)) if is_search else landing(handler))

    return answer


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PATIENCE", Patience(connect_s=0.3, read_s=0.3, answer_s=0.6, backoff_s=0.01))


def refusal(catalog: str) -> str:
    started = time.monotonic()
    with pytest.raises(CatalogError) as error:
        find(catalog)
    assert time.monotonic() - started < 5
    assert catalog.rstrip("/") in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("impatient")
def test_a_closed_port() -> None:
    assert "Check the address and the network" in refusal(f"http://127.0.0.1:{free_port()}/")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_server_that_refuses(status: int) -> None:
    with serving(lambda h: reply(h, status, "no", "text/plain")) as address:
        refusal(address)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_hangs() -> None:
    done = threading.Event()
    with serving(lambda h: done.wait(10) or None) as address:
        refusal(address)
        done.set()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("body", ["<html>hello</html>", "", "[]", "null", "5", '{"a": 1}', "[" * 100_000])
def test_a_server_that_is_no_catalog(body: str) -> None:
    with serving(lambda h: reply(h, 200, body, "text/html")) as address:
        refusal(address)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "body",
    ["<html>", "[]", "null", '{"features": null}', {"features": 5}, {"features": ["x"]}, {"features": [{}]},
     {"features": [api_item(1) | {"geometry": "x"}]},
     {"features": [api_item(1) | {"assets": []}]}, {"features": [api_item(1) | {"properties": 1}]}],
    ids=str,
)  # fmt: skip
def test_a_server_that_searches_badly(body: Any) -> None:
    with serving(searching(body)) as address, pytest.raises(CatalogError) as error:
        find(address)
    assert "\n" not in str(error.value)


def test_an_item_needs_no_links() -> None:
    with serving(searching({"features": [api_item(1) | {"links": None}]})) as address:
        assert list(find(address)["id"]) == ["S2_01"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("href", ["file:///etc/passwd", "/vsicurl/http://x/y.tif", "<VRTDataset/>"])
def test_a_server_that_names_files_of_this_machine(href: str) -> None:
    item = api_item(1)
    item["assets"]["B04"]["href"] = href
    body = {"type": "FeatureCollection", "features": [item], "links": []}
    with serving(searching(body)) as address, pytest.raises(CatalogError, match="no plain address"):
        find(address)


def test_a_static_catalog_over_the_network(scenes: Simulation) -> None:
    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(scenes.catalog.parent))

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with listening(Files) as address:
        frame = search(
            scenes.aoi, catalog=f"{address}catalog.json", collections=[scenes.collection],
            start="2021-04-01", end="2021-05-30",
        )  # fmt: skip
    assert tuple(frame["id"]) == scenes.item_ids[1:3]
    href = json.loads(frame["stac"].iloc[0])["assets"]["B04"]["href"]
    assert href == f"{address}{scenes.collection}/{scenes.item_ids[1]}/{scenes.item_ids[1]}_B04.tif"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_static_catalog_over_the_network_reads_no_files_of_this_machine(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "item.json").write_text(json.dumps(api_item(1)))
    links = [{"rel": "item", "href": f"{scheme}{tmp_path}/item.json"}]
    body = {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "d", "links": links}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        status = 200 if handler.path == "/catalog.json" else 404
        reply(handler, status, json.dumps(body))

    with serving(answer) as address, pytest.raises(CatalogError):
        find(f"{address}catalog.json")


@pytest.mark.usefixtures("impatient")
def test_a_busy_server_is_asked_again() -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        if len(asked) in (1, 3):
            reply(handler, 503, "busy", "text/plain")
        else:
            searching({"type": "FeatureCollection", "features": [api_item(1)], "links": []})(handler)

    with serving(answer) as address:
        assert list(find(address)["id"]) == ["S2_01"]
    assert len(asked) >= 4
