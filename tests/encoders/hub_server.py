"""A hub of weights on loopback, as huggingface_hub speaks to it, and a server of plain files as Zenodo is.

`/OWNER/NAME/resolve/REVISION/FILE` answers with the commit, the LFS checksum and size, and sends on to `/cdn/…` of
the same server under another name, which gives bytes by ranges. `/records/…` gives plain files. Faults are switched
on by the test.
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Asked:
    """A request that the server saw, and what it sent."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what these tests are about."""


@dataclass
class HubServer:
    """One server on a free port of loopback; use it in a `with`."""

    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """By repository and commit, oldest first: the files. `main` is the newest commit."""
    plain: dict[str, bytes] = field(default_factory=dict)
    """Files by path, e.g. `/records/1/files/a.pth`."""
    gated: set[str] = field(default_factory=set)
    asked: list[Asked] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers with a body break off, one entry each."""
    refuse: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the next answers, whatever is asked for, one entry each."""
    instead: bytes | None = None
    """What is sent in place of every file, under that file's checksum."""
    ranges: bool = True
    """Whether ranges are understood; if not, the whole file comes."""
    tags: bool = True
    """Whether bodies carry an ETag."""
    claimed: int | None = None
    """Length that answers claim, in place of the true one."""

    def __enter__(self) -> HubServer:
        self._http = _Quiet(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def elsewhere(self) -> str:
        """The same server under another name: the hub's files lie on another host, which gets no token."""
        return self.url.replace("127.0.0.1", "localhost")

    @property
    def bodies(self) -> list[Asked]:
        """Requests that were answered with bytes of a file."""
        return [asked for asked in self.asked if asked.sent]

    def add(self, repo: str, commit: str, file: str, data: bytes) -> None:
        self.commits.setdefault(repo, {}).setdefault(commit, {})[file] = data

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        seen = Asked(request.command, request.path, dict(request.headers))
        self.asked.append(seen)
        if self.refuse:
            status, headers = self.refuse.pop(0)
            self._say(request, seen, status, headers)
        elif found := _RESOLVE.fullmatch(path):
            self._resolve(request, seen, **found.groupdict())
        else:
            self._give(request, seen, path)

    def _resolve(self, request: BaseHTTPRequestHandler, seen: Asked, repo: str, revision: str, file: str) -> None:
        commits = self.commits.get(repo)
        if commits is None:
            return self._say(request, seen, 404, {"X-Error-Code": "RepoNotFound"})
        if repo in self.gated:
            return self._say(request, seen, 403, {"X-Error-Code": "GatedRepo"})
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return self._say(request, seen, 404, {"X-Error-Code": "RevisionNotFound"})
        if file not in commits[commit]:
            return self._say(request, seen, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data = commits[commit][file]
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(len(data)),
            "Location": f"{self.elsewhere}/cdn/{repo}/{commit}/{file}?signature=SECRET",
        }
        return self._say(request, seen, 302, headers)

    def _give(self, request: BaseHTTPRequestHandler, seen: Asked, path: str) -> None:
        data = self.plain.get(path)
        for repo, commits in self.commits.items():
            for commit, files in commits.items():
                for file, content in files.items():
                    data = content if path == f"/cdn/{repo}/{commit}/{file}" else data
        if data is None:
            return self._say(request, seen, 404, {})
        tag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        data = data if self.instead is None else self.instead
        asked = _RANGE.fullmatch(request.headers.get("Range", "")) if self.ranges else None
        if asked and request.headers.get("If-Range", tag) != tag:
            asked = None
        start = int(asked[1]) if asked else 0
        if asked and start >= len(data):
            return self._say(request, seen, 416, {"Content-Range": f"bytes */{len(data)}"})
        total = len(data) if self.claimed is None else self.claimed
        headers = {"Content-Length": str(total - start)}
        headers |= {"ETag": tag} if self.tags else {}
        headers |= {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if asked else {}
        return self._say(request, seen, 206 if asked else 200, headers, data[start:])

    def _say(
        self, request: BaseHTTPRequestHandler, seen: Asked, status: int, headers: dict[str, str], body: bytes = b""
    ) -> None:
        seen.status = status
        request.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "HEAD" or not body:
            return
        if self.cut_after:
            body = body[: self.cut_after.pop(0)]
            request.close_connection = True
        seen.sent = len(body)
        request.wfile.write(body)


def _handler(server: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def log_message(self, *args: object) -> None:
            """Quiet."""

        def do_HEAD(self) -> None:
            server.answer(self)

        def do_GET(self) -> None:
            server.answer(self)

    return Handler
