"""Real servers on loopback: files by HTTP ranges, with faults to switch on, and an endpoint that signs addresses.

The signing endpoint speaks Planetary Computer's token API; the file server can demand what it hands out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, quote, urlsplit

type Fault = Literal["403", "404", "429", "500", "503", "hang", "cut", "slow", "reset"]

_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")
_SECRET = b"a secret of this process"


@dataclass
class Switch:
    """A fault for the next `times` requests whose path holds `path`, after letting `after` of them pass."""

    fault: Fault
    times: int = 1_000_000
    after: int = 0
    path: str = ""

    def strikes(self, path: str) -> bool:
        if self.path not in path or self.times == 0:
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass
class Served:
    """One request as the server saw it."""

    method: str
    path: str
    status: int
    sent: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what these tests are about, not news."""


class _Loopback:
    """A server on a free port of the loopback interface, in threads of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._released = threading.Event()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        raise NotImplementedError

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


class FileServer(_Loopback):
    """The files of a folder, by ranges, over HTTP/1.1 with connections kept."""

    def __init__(self, folder: Path, *, signed: bool = False, slow_s: float = 0.05, hang_s: float = 30.0) -> None:
        super().__init__()
        self.folder = folder
        self.signed = signed
        """Whether a request needs an unexpired token of `SigningServer`."""
        self.slow_s = slow_s
        self.hang_s = hang_s
        self.switches: list[Switch] = []
        self.served: list[Served] = []
        self.most_at_once = 0
        self.most_connections = 0
        self._at_once = 0
        self._connections = 0

    def address(self, name: str) -> str:
        """The unsigned address of a file."""
        return f"http://{self.host}/container/{name}"

    def switch(self, fault: Fault, **how: Any) -> None:
        """Switch a fault on; those of before go."""
        self.switches = [Switch(fault, **how)]

    def mend(self) -> None:
        self.switches = []

    @property
    def bytes_sent(self) -> int:
        return sum(s.sent for s in self.served)

    def statuses(self) -> list[int]:
        return [s.status for s in self.served]

    def _fault(self, path: str) -> Fault | None:
        with self._lock:
            return next((s.fault for s in self.switches if s.strikes(path)), None)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1

    def _connection(self, change: int) -> None:
        with self._lock:
            self._connections += change
            self.most_connections = max(self.most_connections, self._connections)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def setup(self) -> None:
                super().setup()
                server._connection(1)

            def finish(self) -> None:
                server._connection(-1)
                super().finish()

            def log_message(self, *args: object) -> None:
                """Quiet."""

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                with server._counted():
                    server._serve(self, body=body)

        return Handler

    def _serve(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        parts = urlsplit(request.path)
        seen = Served(request.command, parts.path, 0, headers=dict(request.headers))
        self.served.append(seen)
        fault = self._fault(parts.path)
        if fault == "hang":
            seen.status = -1
            self._released.wait(self.hang_s)
            request.close_connection = True
            return
        if fault == "reset":
            seen.status = -1
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()
            request.close_connection = True
            return
        if fault == "slow":
            time.sleep(self.slow_s)
        path = self.folder / parts.path.removeprefix("/container/")
        if fault is not None and fault.isdigit():
            self._refuse(request, seen, int(fault))
        elif self.signed and not token_holds(parts.query):
            self._refuse(request, seen, 403)
        elif not path.is_file():
            self._refuse(request, seen, 404)
        else:
            self._send(request, seen, path, body=body, cut=fault == "cut")

    def _refuse(self, request: BaseHTTPRequestHandler, seen: Served, status: int) -> None:
        seen.status = status
        request.send_response(status)
        if status == 429:
            request.send_header("Retry-After", "1")
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _send(self, request: BaseHTTPRequestHandler, seen: Served, path: Path, *, body: bool, cut: bool) -> None:
        size = path.stat().st_size
        found = _RANGE.match(request.headers.get("Range", ""))
        first = int(found[1]) if found else 0
        last = min(int(found[2]) if found and found[2] else size - 1, size - 1)
        seen.status = 206 if found else 200
        request.send_response(seen.status)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(last - first + 1))
        if found:
            request.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        request.end_headers()
        if not body:
            return
        with path.open("rb") as stream:
            stream.seek(first)
            data = stream.read(last - first + 1)
        if cut:
            data = data[: len(data) // 2]
            request.close_connection = True
        seen.sent = len(data)
        request.wfile.write(data)


class SigningServer(_Loopback):
    """Planetary Computer's token API: `GET /<account>/<container>` gives a token and when it expires."""

    def __init__(self, lifetime_s: float = 3600.0) -> None:
        super().__init__()
        self.lifetime_s = lifetime_s
        self.asked: list[str] = []
        self.refuse_next = 0
        """So many requests are answered 429."""
        self.useless_next = 0
        """So many tokens are expired when they come, though they claim otherwise."""

    @property
    def url(self) -> str:
        """What `PC_SDK_SAS_URL` wants."""
        return f"http://{self.host}/token"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 60

            def log_message(self, *args: object) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                with server._lock:
                    server.asked.append(self.path)
                    refuse, useless = server.refuse_next > 0, server.useless_next > 0
                    server.refuse_next -= refuse
                    server.useless_next -= useless and not refuse
                body = b"" if refuse else json.dumps(a_token(server.lifetime_s, useless=useless)).encode()
                self.send_response(429 if refuse else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler


def a_token(lifetime_s: float, *, useless: bool = False) -> dict[str, str]:
    """The signing endpoint's answer."""
    expiry = datetime.now(UTC) + timedelta(seconds=lifetime_s)
    end = f"{expiry.timestamp() - (lifetime_s + 1 if useless else 0):.3f}"
    return {"msft:expiry": expiry.isoformat(), "token": f"se={end}&sig={quote(_signature(end))}"}


def token_holds(query: str) -> bool:
    """Whether a query string holds a token of ours that has not expired."""
    fields = parse_qs(query)
    end, signature = fields.get("se", [""])[0], fields.get("sig", [""])[0]
    return bool(end) and signature == _signature(end) and time.time() < float(end)


def _signature(end: str) -> str:
    return "TOPSECRET" + hmac.new(_SECRET, end.encode(), hashlib.sha256).hexdigest()
