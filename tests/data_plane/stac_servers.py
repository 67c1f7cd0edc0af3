"""STAC servers on loopback for tests: rustac, stac-fastapi with paging, `query` and CQL2, and a proxy that fails."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
import shapely

COLLECTION: dict[str, Any] = {
    "type": "Collection", "stac_version": "1.0.0", "id": "s2", "description": "d", "license": "other", "links": [],
    "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2016-01-01T00:00:00Z", None]]}},
}  # fmt: skip


def stac_item(
    item_id: str,
    when: str = "2022-06-04T10:36:21Z",
    box: tuple[float, float, float, float] = (4.0, 51.0, 5.0, 52.0),
    *,
    collection: str = "s2",
    **properties: Any,
) -> dict[str, Any]:
    """A small Sentinel-2 item as an API gives it."""
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": item_id,
        "collection": collection,
        "geometry": json.loads(json.dumps(shapely.geometry.mapping(shapely.box(*box)))),
        "bbox": list(box),
        "properties": {"datetime": when, **properties},
        "links": [],
        "assets": {b: {"href": f"http://127.0.0.1:9/{item_id}/{b}.tif"} for b in ("B02", "B03", "B04", "SCL")},
    }


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# --- rustac


@contextmanager
def rustac(items: Sequence[dict[str, Any]], folder: Path) -> Iterator[str]:
    """`rustac serve` with an ItemCollection: it answers ids, bbox, datetime and intersects, no `query`, no `filter`."""
    program = shutil.which("rustac", path=str(Path(sys.executable).parent)) or shutil.which("rustac")
    assert program, "rustac is missing: pip install 'geoelle[dev]'"
    (folder / "collection.json").write_text(json.dumps(COLLECTION))
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    address = f"127.0.0.1:{free_port()}"
    command = [program, "serve", "-a", address, "collection.json", "items.json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(f"http://{address}")
            yield f"http://{address}"
        finally:
            server.kill()


def wait_for(address: str) -> None:
    """Until a server listens, at most ten seconds."""
    for _ in range(100):
        try:
            requests.get(address, timeout=1)
            return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise TimeoutError(address)


# --- stac-fastapi


@dataclass
class Memory:
    """What a server serves, and what it was asked."""

    items: list[dict[str, Any]]
    extensions: tuple[str, ...] = ("query", "filter")
    refuses_filters: bool = False
    address: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)

    def search(self, asked: dict[str, Any]) -> dict[str, Any]:
        """One page of what was asked."""
        self.asked.append(asked)
        found = [item for item in self.items if self._matches(item, asked)]
        first, limit = int(asked.get("token") or 0), int(asked.get("limit") or 10)
        page = found[first : first + limit]
        links = []
        if first + limit < len(found):
            body = {**asked, "token": str(first + limit)}
            links = [{"rel": "next", "href": f"{self.address}/search", "method": "POST", "body": body}]
        return {"type": "FeatureCollection", "features": page, "links": links}

    def _matches(self, item: dict[str, Any], asked: dict[str, Any]) -> bool:
        import cql2

        properties = item["properties"]
        if asked.get("collections") and item["collection"] not in asked["collections"]:
            return False
        if asked.get("intersects"):
            area = shapely.geometry.shape(asked["intersects"])
            if not shapely.geometry.shape(item["geometry"]).intersects(area):
                return False
        if asked.get("datetime"):
            first, last = (datetime.fromisoformat(t) for t in asked["datetime"].split("/"))
            if not first <= datetime.fromisoformat(properties["datetime"]) <= last:
                return False
        for name, conditions in (asked.get("query") or {}).items():
            for operator, value in conditions.items():
                said = properties.get(name)  # as in the extension: what is missing matches nothing
                if said is None or not {"lte": lambda a, b: a <= b, "in": lambda a, b: a in b}[operator](said, value):
                    return False
        if asked.get("filter"):
            known = {name: properties.get(name) for name in NAMES}  # CQL2 wants every property to be there
            return bool(cql2.Expr(asked["filter"]).matches({**item, "properties": {**known, **properties}}))
        return True


NAMES = ("eo:cloud_cover", "landsat:cloud_cover_land", "sat:relative_orbit", "landsat:wrs_path", "platform")


def application(memory: Memory) -> Any:
    """A stac-fastapi application over items in memory."""
    from fastapi import HTTPException
    from stac_fastapi.api.app import StacApi
    from stac_fastapi.api.models import create_get_request_model, create_post_request_model
    from stac_fastapi.extensions import QueryExtension, SearchFilterExtension, TokenPaginationExtension
    from stac_fastapi.types.config import ApiSettings
    from stac_fastapi.types.core import BaseCoreClient

    class Client(BaseCoreClient):  # type: ignore[misc]
        def post_search(self, search_request: Any, **kwargs: Any) -> Any:
            asked = search_request.model_dump(mode="json", by_alias=True, exclude_none=True)
            if memory.refuses_filters and ("filter" in asked or "query" in asked):
                memory.asked.append(asked)
                raise HTTPException(status_code=400, detail="property is no queryable")
            return memory.search(asked)

        def get_search(self, **kwargs: Any) -> Any:
            raise NotImplementedError

        def get_item(self, item_id: str, collection_id: str, **kwargs: Any) -> Any:
            raise NotImplementedError

        def all_collections(self, **kwargs: Any) -> Any:
            return {"collections": [COLLECTION], "links": []}

        def get_collection(self, collection_id: str, **kwargs: Any) -> Any:
            return COLLECTION

        def item_collection(self, collection_id: str, **kwargs: Any) -> Any:
            raise NotImplementedError

    chosen = {"query": QueryExtension, "filter": SearchFilterExtension}
    extensions = [TokenPaginationExtension(), *(chosen[name]() for name in memory.extensions)]
    return StacApi(
        settings=ApiSettings(enable_response_models=False),
        client=Client(extensions=extensions),
        extensions=extensions,
        search_get_request_model=create_get_request_model(extensions),
        search_post_request_model=create_post_request_model(extensions),
    ).app


@contextmanager
def stac_fastapi(
    items: Sequence[dict[str, Any]], extensions: tuple[str, ...] = ("query", "filter"), *, refuses_filters: bool = False
) -> Iterator[Memory]:
    """A stac-fastapi server with paging by token and the extensions named."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations among fastapi, starlette and pydantic
        import uvicorn

        memory = Memory(list(items), extensions, refuses_filters)
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            memory.address = f"http://127.0.0.1:{bound.getsockname()[1]}"
            config = uvicorn.Config(application(memory), log_level="critical", lifespan="off")
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
            thread.start()
            try:
                wait_for(memory.address)
                yield memory
            finally:
                server.should_exit = True
                thread.join(10)


# --- servers of few lines

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server that answers every request with one function."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with listening(Handler) as address:
        yield address


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of one handler class; the address ends with a slash."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler: BaseHTTPRequestHandler, status: int, body: str | bytes, kind: str = "application/json") -> None:
    """Answer with a body."""
    content = body.encode() if isinstance(body, str) else body
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


# --- a proxy that fails


@dataclass
class Faults:
    """What a proxy does with its next requests: pass them on (None), or fail. The last goes on for ever."""

    script: list[int | str | None] = field(default_factory=lambda: [None])
    address: str = ""
    n_requests: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def next(self) -> int | str | None:
        """What to do with this request."""
        self.n_requests += 1
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@contextmanager
def failing(target: str, *script: int | str | None) -> Iterator[Faults]:
    """A proxy before a server: `hang`, `cut`, `drip`, `html`, a status, or None to pass a request on."""
    faults = Faults(list(script))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        sent = handler.rfile.read(length)
        fault = faults.next()
        if isinstance(fault, int):
            reply(handler, fault, "no", "text/plain")
        elif fault == "hang":
            faults.done.wait(20)
        elif fault == "html":
            reply(handler, 200, "<html>a gateway</html>", "text/html")
        else:
            answered = requests.request(
                handler.command, target + handler.path, data=sent, headers={"Content-Type": "application/json"},
                timeout=20,
            )  # fmt: skip
            body = answered.text.replace(target, faults.address).encode()
            if fault is None:
                reply(handler, answered.status_code, body)
                return
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            if fault == "cut":
                handler.wfile.write(body[: len(body) // 2])
            else:  # drip
                for byte in body:
                    if faults.done.wait(0.05):
                        break
                    handler.wfile.write(bytes([byte]))
                    handler.wfile.flush()

    with serving(answer) as address:
        faults.address = address.rstrip("/")
        try:
            yield faults
        finally:
            faults.done.set()
