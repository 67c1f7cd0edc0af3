"""The JavaScript and CSS that folium links, taken once and put into the page.

Each file is looked for in the cache folder, then where folium points, then through the npm client, and is used only
with the sha256 recorded here. folium's and branca's wheels carry no copy of Leaflet, or they would come first.
What nobody has is linked, and the reason is kept for the summary.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

_TIMEOUT_S = 10
_NPM_TIMEOUT_S = 60
# The largest file wanted has 150 kB; a server or a package that sends more is not the one we know.
_MAX_BYTES = 4_000_000
_CSS_URL = re.compile(r"""url\(\s*["']?([^"')]+)["']?\s*\)""")
_SOURCE_MAP = re.compile(r"^//[#@] sourceMappingURL=.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of one published version."""

    url: str
    """Where folium points."""
    package: str
    """`name@version` for npm."""
    member: str
    """Path inside the package."""
    sha256: str

    @property
    def cache_name(self) -> str:
        """Path inside the cache folder."""
        return f"{self.package}/{self.member}"


_LEAFLET = "https://cdn.jsdelivr.net/npm/leaflet@1.9.3/dist/"
_GROUPED = "https://cdnjs.cloudflare.com/ajax/libs/leaflet-groupedlayercontrol/0.6.1/leaflet.groupedlayercontrol.min"
KNOWN_ASSETS = (
    Asset(
        f"{_LEAFLET}leaflet.js", "leaflet@1.9.3", "dist/leaflet.js",
        "5819285cec137b229c94e1ee5ad73e8b6b84345a4367d60f75fe477fe0fb7b03",
    ),
    Asset(
        f"{_LEAFLET}leaflet.css", "leaflet@1.9.3", "dist/leaflet.css",
        "90b693d86392a4779c861b28cf307e7e59c3fb35328c4d8b95f58f814d38c722",
    ),
    Asset(
        f"{_LEAFLET}images/layers.png", "leaflet@1.9.3", "dist/images/layers.png",
        "1dbbe9d028e292f36fcba8f8b3a28d5e8932754fc2215b9ac69e4cdecf5107c6",
    ),
    Asset(
        f"{_LEAFLET}images/layers-2x.png", "leaflet@1.9.3", "dist/images/layers-2x.png",
        "066daca850d8ffbef007af00b06eac0015728dee279c51f3cb6c716df7c42edf",
    ),
    Asset(
        f"{_GROUPED}.js", "leaflet-groupedlayercontrol@0.6.1", "dist/leaflet.groupedlayercontrol.min.js",
        "8e94ee9c2badff16cb64917c369a0988d2f714b7c54cabfac5e186ad6a3cc216",
    ),
    Asset(
        f"{_GROUPED}.css", "leaflet-groupedlayercontrol@0.6.1", "dist/leaflet.groupedlayercontrol.min.css",
        "da7922ede2f19fdd6bfd1237410abe02b9c896d92793a833e304a840716b2670",
    ),
)  # fmt: skip
"""What a page may need, at the versions that folium names. Another folium version may ask for files to be added."""


def default_cache_dir() -> Path:
    """`$GEOELLE_CACHE/assets`, else `geoelle/assets` in the user's cache folder."""
    if own := os.environ.get("GEOELLE_CACHE"):
        return Path(own) / "assets"
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path.home() / ".cache") / "geoelle" / "assets"


@dataclass
class AssetResolver:
    """Finds assets and remembers why it could not. One per map: what failed once is not tried again."""

    cache_dir: Path
    allow_npm: bool = True
    known: Sequence[Asset] = field(default_factory=lambda: KNOWN_ASSETS)
    npm: str | None = None
    """Path of the npm client; None: the one on PATH."""
    refused: list[str] = field(default_factory=list)
    """A sentence per copy that was found and had another sha256."""
    _dead_hosts: dict[str, str] = field(default_factory=dict)
    _dead_packages: dict[str, str] = field(default_factory=dict)

    def get(self, url: str) -> tuple[bytes | None, str]:
        """The file's bytes with an empty reason, or None with the reason why not."""
        asset = next((a for a in self.known if a.url == url), None)
        if asset is None:
            return None, f"no sha256 is recorded for {url}"
        cached = self.cache_dir / asset.cache_name
        reasons = []
        for find in (self._from_cache, self._from_network, self._from_npm):
            data, reason = find(asset)
            if data is not None:
                if find != self._from_cache:
                    _keep(cached, data)
                return data, ""
            reasons.append(reason)
        return None, "; ".join(reasons)

    def _checked(self, asset: Asset, data: bytes, origin: str) -> tuple[bytes | None, str]:
        found = hashlib.sha256(data).hexdigest()
        if found == asset.sha256:
            return data, ""
        reason = f"{origin} has sha256 {found[:12]}… where {asset.sha256[:12]}… is recorded"
        self.refused.append(f"Did not use {asset.member} of {asset.package}: {reason}.")
        return None, reason

    def _from_cache(self, asset: Asset) -> tuple[bytes | None, str]:
        path = self.cache_dir / asset.cache_name
        try:
            data = path.read_bytes()
        except OSError:
            return None, f"it is not in {self.cache_dir}"
        return self._checked(asset, data, f"the cached {path}")

    def _from_network(self, asset: Asset) -> tuple[bytes | None, str]:
        host = urlsplit(asset.url).netloc
        if host in self._dead_hosts:
            return None, self._dead_hosts[host]
        try:
            # The scheme is the one that the table above holds, never one from data.
            with urllib.request.urlopen(asset.url, timeout=_TIMEOUT_S) as response:  # noqa: S310
                data: bytes = response.read(_MAX_BYTES + 1)
        except urllib.error.HTTPError as error:
            error.close()
            return None, f"{host} answers {error.code}"
        except (OSError, http.client.HTTPException) as error:
            self._dead_hosts[host] = f"{host} does not answer ({getattr(error, 'reason', error)})"
            return None, self._dead_hosts[host]
        if len(data) > _MAX_BYTES:
            return None, f"{host} sends more than {_MAX_BYTES:,} bytes"
        return self._checked(asset, data, asset.url)

    def _from_npm(self, asset: Asset) -> tuple[bytes | None, str]:
        npm = self.npm or shutil.which("npm")
        if not self.allow_npm or npm is None:
            return None, "npm was not allowed" if not self.allow_npm else "npm is not on the PATH"
        if asset.package in self._dead_packages:
            return None, self._dead_packages[asset.package]
        with tempfile.TemporaryDirectory() as folder:
            archive, reason = _npm_pack(npm, asset.package, Path(folder))
        if archive is None:
            self._dead_packages[asset.package] = reason
            return None, reason
        # One download serves all files of the package: keep those that are known and right.
        wanted = [a for a in self.known if a.package == asset.package]
        members = {a.member: read_member(archive, f"package/{a.member}") for a in wanted}
        for other in wanted:
            data = members[other.member]
            if other != asset and data is not None and hashlib.sha256(data).hexdigest() == other.sha256:
                _keep(self.cache_dir / other.cache_name, data)
        own = members[asset.member]
        if own is None:
            return None, f"npm's {asset.package} has no {asset.member}"
        return self._checked(asset, own, f"npm's {asset.package}")


def _npm_pack(npm: str, package: str, folder: Path) -> tuple[bytes | None, str]:
    command = [
        npm, "pack", package, "--pack-destination", str(folder), "--ignore-scripts", "--silent",
        "--fetch-retries=0", f"--fetch-timeout={_TIMEOUT_S * 1000}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_NPM_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"npm pack {package} failed ({type(error).__name__})"
    archives = sorted(folder.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        return None, f"npm pack {package} failed (exit code {done.returncode})"
    return archives[0].read_bytes(), ""


def read_member(archive: bytes, name: str) -> bytes | None:
    """The one file `name` of a .tgz, or None. Nothing is extracted: an archive is not to be trusted with paths."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for member in tar:
                if member.name == name:
                    stream = tar.extractfile(member) if member.isreg() and member.size <= _MAX_BYTES else None
                    return stream.read() if stream else None
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return None
    return None


def _keep(path: Path, data: bytes) -> None:
    # A cache that cannot be written costs the next run a download, nothing else.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def script_text(data: bytes) -> str:
    """JavaScript as it can stand in a <script> element."""
    # Browsers read CR LF as LF before they hash a script, so ours has to be hashed that way too.
    text = _SOURCE_MAP.sub("", data.decode("utf-8").replace("\r\n", "\n"))
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--").strip()


def style_text(data: bytes, url: str, resolver: AssetResolver) -> str:
    """CSS as it can stand in a <style> element: its images become data URLs, or nothing where we do not use them."""

    def image(match: re.Match[str]) -> str:
        target = match.group(1)
        if target.startswith("#"):
            return match.group(0)
        source = urljoin(url, target)
        picture = resolver.get(source)[0] if source in {a.url for a in resolver.known} else None
        if picture is None:
            return "none"
        return f"url(data:image/png;base64,{base64.b64encode(picture).decode('ascii')})"

    return _CSS_URL.sub(image, data.decode("utf-8")).replace("</style", "<\\/style").strip()
