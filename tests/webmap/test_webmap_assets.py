"""Where Leaflet comes from: cache, then network, then npm; each checked; and what is said when none has it."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from geoelle.webmap.assets import (
    KNOWN_ASSETS,
    Asset,
    AssetResolver,
    default_cache_dir,
    read_member,
    script_text,
    style_text,
)

GOOD = b"var good = 1;"


class Site(http.server.ThreadingHTTPServer):
    """Loopback stand-in for the place that folium points to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/a.js": GOOD}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        data = self.server.files.get(self.path)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def asset(url: str, data: bytes = GOOD) -> Asset:
    return Asset(url, "thing@1.0.0", "dist/a.js", hashlib.sha256(data).hexdigest())


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def fake_npm(folder: Path, data: bytes | None) -> str:
    """A program that answers `npm pack` with an archive, or fails."""
    folder.mkdir(exist_ok=True)
    script = folder / "npm"
    if data is None:
        script.write_text("#!/bin/sh\nexit 1\n")
    else:
        (folder / "pack.tgz").write_bytes(data)
        script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\ncp {folder}/pack.tgz thing-1.0.0.tgz\n')
    script.chmod(0o755)
    return str(script)


def test_cache_comes_first(tmp_path: Path, site: Site) -> None:
    wanted = asset(f"{site.url}/a.js")
    path = tmp_path / wanted.cache_name
    path.parent.mkdir(parents=True)
    path.write_bytes(GOOD)
    assert AssetResolver(tmp_path, known=[wanted]).get(wanted.url) == (GOOD, "")
    assert site.asked == []


def test_network_comes_next_and_fills_the_cache(tmp_path: Path, site: Site) -> None:
    wanted = asset(f"{site.url}/a.js")
    npm = fake_npm(tmp_path / "bin", archive({"package/dist/a.js": GOOD}))
    cache = tmp_path / "cache"
    assert AssetResolver(cache, known=[wanted], npm=npm).get(wanted.url) == (GOOD, "")
    assert not (tmp_path / "bin" / "asked").exists()
    assert [p.name for p in cache.rglob("*") if p.is_file()] == ["a.js"]
    assert AssetResolver(cache, known=[wanted]).get(wanted.url) == (GOOD, "")
    assert site.asked == ["/a.js"]


def test_npm_comes_last_and_is_asked_once_per_package(tmp_path: Path, site: Site) -> None:
    first = asset(f"{site.url}/gone.js")
    second = Asset(f"{site.url}/gone.css", first.package, "dist/a.css", hashlib.sha256(b"a{}").hexdigest())
    npm = fake_npm(tmp_path / "bin", archive({"package/dist/a.js": GOOD, "package/dist/a.css": b"a{}"}))
    resolver = AssetResolver(tmp_path / "cache", known=[first, second], npm=npm)
    assert resolver.get(first.url) == (GOOD, "")
    assert resolver.get(second.url) == (b"a{}", "")
    assert len((tmp_path / "bin" / "asked").read_text().splitlines()) == 1
    assert "--ignore-scripts" in (tmp_path / "bin" / "asked").read_text()


def test_another_sha256_is_not_used_and_said(tmp_path: Path, site: Site) -> None:
    wanted = asset(f"{site.url}/a.js")
    site.files["/a.js"] = b"alert(1)"
    path = tmp_path / wanted.cache_name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"alert(2)")
    npm = fake_npm(tmp_path / "bin", archive({"package/dist/a.js": b"alert(3)"}))
    resolver = AssetResolver(tmp_path, known=[wanted], npm=npm)
    data, reason = resolver.get(wanted.url)
    assert data is None
    assert reason.count("is recorded") == 3
    assert len(resolver.refused) == 3
    assert path.read_bytes() == b"alert(2)"


def test_a_bad_copy_in_the_cache_is_replaced(tmp_path: Path, site: Site) -> None:
    wanted = asset(f"{site.url}/a.js")
    path = tmp_path / wanted.cache_name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    assert AssetResolver(tmp_path, known=[wanted], allow_npm=False).get(wanted.url) == (GOOD, "")
    assert path.read_bytes() == GOOD


def test_a_host_that_does_not_answer_is_tried_once(tmp_path: Path) -> None:
    known = [asset("http://127.0.0.1:9/a.js"), asset("http://127.0.0.1:9/b.js")]
    resolver = AssetResolver(tmp_path, known=known, allow_npm=False)
    reasons = [resolver.get(a.url)[1] for a in known]
    assert all("127.0.0.1:9 does not answer" in r and "npm was not allowed" in r for r in reasons)
    assert len(resolver._dead_hosts) == 1


def test_npm_that_fails_is_said(tmp_path: Path) -> None:
    wanted = asset("http://127.0.0.1:9/a.js")
    resolver = AssetResolver(tmp_path, known=[wanted], npm=fake_npm(tmp_path / "bin", None))
    assert "npm pack thing@1.0.0 failed (exit code 1)" in resolver.get(wanted.url)[1]


def test_unknown_files_are_never_fetched(tmp_path: Path, site: Site) -> None:
    data, reason = AssetResolver(tmp_path, known=[]).get(f"{site.url}/a.js")
    assert data is None
    assert "no sha256 is recorded" in reason
    assert site.asked == []


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, site: Site) -> None:
    (tmp_path / "file").write_text("")
    wanted = asset(f"{site.url}/a.js")
    assert AssetResolver(tmp_path / "file", known=[wanted]).get(wanted.url) == (GOOD, "")


@pytest.mark.parametrize("name", ["../a.js", "/etc/passwd", "package/dist/b.js"])
def test_only_the_one_member_is_read(name: str) -> None:
    assert read_member(archive({name: GOOD}), "package/dist/a.js") is None


def test_links_and_rubbish_are_no_members() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        info = tarfile.TarInfo("package/dist/a.js")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert read_member(stream.getvalue(), "package/dist/a.js") is None
    assert read_member(b"no archive", "a") is None
    assert read_member(archive({"package/a": GOOD * 100})[:60], "package/a") is None


def test_scripts_cannot_end_their_element() -> None:
    text = script_text(b'a = "</script>";\r\n//# sourceMappingURL=a.js.map')
    assert "</script" not in text
    assert "sourceMappingURL" not in text
    assert "\r" not in text


def test_images_of_style_sheets_are_inlined_or_dropped(tmp_path: Path, site: Site) -> None:
    site.files["/images/x.png"] = b"png"
    known = [Asset(f"{site.url}/images/x.png", "thing@1.0.0", "x.png", hashlib.sha256(b"png").hexdigest())]
    css = b"a{background:url(images/x.png)} b{background:url('other.png')} c{behavior:url(#default#VML)}"
    text = style_text(css, f"{site.url}/a.css", AssetResolver(tmp_path, known=known))
    assert "url(data:image/png;base64,cG5n)" in text
    assert "b{background:none}" in text
    assert "url(#default#VML)" in text
    assert "/other.png" not in site.asked


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEOELLE_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path / "assets"
    monkeypatch.delenv("GEOELLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "geoelle" / "assets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "geoelle" / "assets"


def test_the_table_has_what_this_folium_names() -> None:
    import folium
    from folium.plugins import GroupedLayerControl

    named = {
        url for links in (folium.Map.default_js, folium.Map.default_css) for name, url in links if "leaflet" in name
    }
    named |= {url for _, url in GroupedLayerControl.default_js + GroupedLayerControl.default_css}
    assert named <= {a.url for a in KNOWN_ASSETS}
