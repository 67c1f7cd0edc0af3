"""Reading over HTTP from real servers on loopback: faults of every kind, tokens that expire, bounded connections."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from file_servers import FileServer, SigningServer
from numpy.typing import NDArray
from scene_files import EPSG, LEFT, TOP, item_of, smooth_noise, tile_box, write_geotiff

from geoelle.errors import ConfigError, ImageryError
from geoelle.imagery import direct
from geoelle.imagery.access import AccessPolicy, is_remote
from geoelle.imagery.reading import read_asset, read_bands
from geoelle.imagery.signing import EXTRA_HOSTS, needs_signature, sign
from geoelle.records import ItemRecord
from geoelle.sensors import SENTINEL_2_L2A

SIDE = 768
BANDS = {"red": "B04", "green": "B03", "blue": "B02", "nir": "B08"}
NAMES = list(BANDS)
QUICK = AccessPolicy(max_attempts=5, total_s=20, backoff_s=0.02, max_backoff_s=0.2, stall_s=1, gdal_retries=0)
WHOLE = tile_box(SIDE, SIDE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four bands as COGs, and a scene classification of 20 m."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(3)
    for key in BANDS.values():
        pixels = smooth_noise(rng, SIDE)
        write_geotiff(folder / f"{key}.tif", pixels, driver="COG", nodata=0, blocksize=128, tiled=None,
                      blockxsize=None, blockysize=None)  # fmt: skip
    classes = rng.integers(2, 8, (SIDE // 2, SIDE // 2)).astype(np.uint8)
    write_geotiff(folder / "SCL.tif", classes, step=20)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with FileServer(folder) as server:
        yield server


def an_item(server: FileServer, name: str = "scene") -> ItemRecord:
    return item_of(
        name, {key: {"href": server.address(f"{key}.tif")} for key in (*BANDS.values(), "SCL")}, size_px=(SIDE, SIDE)
    )


def local(folder: Path, key: str) -> NDArray[np.float32]:
    with rasterio.open(folder / f"{key}.tif") as f:
        return np.asarray(f.read(1), np.float32)


def read(
    item: ItemRecord, names: list[str] = NAMES, policy: AccessPolicy = QUICK, geobox: object = WHOLE
) -> NDArray[np.float32]:
    return read_bands([item], geobox, names, SENTINEL_2_L2A, policy=policy)  # type: ignore[arg-type]


def everything(error: BaseException) -> str:
    """All that a traceback, a log of it, or a look into the exceptions behind it would show."""
    texts, seen = ["".join(traceback.format_exception(error))], error
    while seen is not None:
        texts += [str(seen), repr(seen), repr(vars(seen))]
        seen = seen.__cause__ or seen.__context__  # type: ignore[assignment]
    return "\n".join(texts)


# --- what comes


def test_it_is_what_lies_in_the_files_bit_for_bit(server: FileServer, folder: Path) -> None:
    got = read(an_item(server))
    np.testing.assert_array_equal(got, np.stack([local(folder, key) for key in BANDS.values()]))


def test_a_window_costs_a_few_requests_and_a_fraction_of_the_file(server: FileServer, folder: Path) -> None:
    window = tile_box(128, 128, left=LEFT + 2560, top=TOP - 2560)
    got = read(an_item(server), ["red"], geobox=window)
    np.testing.assert_array_equal(got[0], local(folder, "B04")[256:384, 256:384])
    assert server.bytes_sent < (folder / "B04.tif").stat().st_size / 4
    asked = [s.path for s in server.served]
    assert len(asked) <= 4, "the size, the header, the pixels"
    assert set(asked) == {"/container/B04.tif"}, "nothing beside the file is looked for, and no other band's file"


def test_the_warped_case_reads_over_http_too(server: FileServer, folder: Path) -> None:
    item = an_item(server)
    local_item = item_of(
        "here", {key: {"href": (folder / f"{key}.tif").as_posix()} for key in ("B04", "SCL")}, size_px=(SIDE, SIDE)
    )
    geobox = tile_box(300, 300, left=LEFT + 1003, top=TOP - 1004)
    over_http = read(item, ["red", "scl"], geobox=geobox)
    np.testing.assert_array_equal(over_http, read(local_item, ["red", "scl"], geobox=geobox))
    assert np.isfinite(over_http).all()


def test_gdal_is_set_up_on_any_thread_and_the_users_own_settings_stay(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_HEADERS", "X-Mine: yes")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "3")
    item, seen = an_item(server), {}

    def look(source: object) -> None:
        for key in ("GDAL_DISABLE_READDIR_ON_OPEN", "GDAL_HTTP_MAX_RETRY", "GDAL_HTTP_MULTIPLEX", "GDAL_HTTP_TIMEOUT"):
            seen[key] = rasterio.env.get_gdal_config(key, normalize=False)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(read_asset, item, "red", look, policy=QUICK).result()
    assert seen == {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_HTTP_MAX_RETRY": "3", "GDAL_HTTP_MULTIPLEX": "YES",
        "GDAL_HTTP_TIMEOUT": "20",
    }  # fmt: skip
    assert rasterio.env.get_gdal_config("GDAL_HTTP_MULTIPLEX") is None, "outside of a read nothing has changed"
    read(item)
    assert all(s.headers.get("X-Mine") == "yes" for s in server.served)


# --- faults


@pytest.mark.parametrize("after", [0, 2], ids=["on opening", "in the middle"])
@pytest.mark.parametrize("fault", ["403", "429", "500", "503", "cut", "reset"])
def test_a_fault_that_passes_is_overcome(server: FileServer, folder: Path, fault: str, after: int) -> None:
    server.switch(fault, times=3, after=after, path="B03")  # type: ignore[arg-type]
    got = read(an_item(server), ["green"])
    np.testing.assert_array_equal(got[0], local(folder, "B03"))
    assert server.switches[0].times == 0, "the fault did strike"


def test_a_read_that_breaks_off_is_taken_up_where_it_stopped(
    server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_STRIP_PX", 128 * SIDE)  # six strips
    server.switch("cut", times=1, after=6, path="B03")  # the size, the header, four strips
    got = read(an_item(server), ["green"])
    np.testing.assert_array_equal(got[0], local(folder, "B03"))
    assert server.bytes_sent < 1.6 * (folder / "B03.tif").stat().st_size


def test_a_server_that_hangs_is_cut_off_and_asked_again(server: FileServer, folder: Path) -> None:
    server.switch("hang", times=2, path="B03")
    start = time.monotonic()
    got = read(an_item(server), ["green"])
    assert time.monotonic() - start < 10
    np.testing.assert_array_equal(got[0], local(folder, "B03"))


def test_a_slow_server_is_waited_for(folder: Path) -> None:
    with FileServer(folder, slow_s=0.3) as server:
        server.switch("slow")
        got = read(an_item(server), ["green"])
        np.testing.assert_array_equal(got[0], local(folder, "B03"))
        assert len(server.served) <= 4, "slow is no fault, so nothing is asked twice"


@pytest.mark.parametrize("after", [0, 2], ids=["on opening", "in the middle"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("403", "HTTP response code: 403"), ("429", "HTTP response code: 429"), ("500", "HTTP response code: 500"),
        ("cut", "Read failed|not recognized"), ("reset", "Connection reset|Read failed"),
    ],
)  # fmt: skip
def test_a_fault_that_stays_is_told_in_words(server: FileServer, fault: str, words: str, after: int) -> None:
    server.switch(fault, after=after, path="B03")  # type: ignore[arg-type]
    policy = AccessPolicy(max_attempts=3, total_s=5, backoff_s=0.02, stall_s=1, gdal_retries=0)
    address = server.address("B03.tif")
    expected = rf"^Cannot read item scene, asset B03 at {address}: .*({words}).* \(after \d tries in \d+ s\)\. Run"
    with pytest.raises(ImageryError, match=expected) as error:
        read(an_item(server), policy=policy)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_asked_for_once(server: FileServer) -> None:
    item = item_of("scene", {"B04": {"href": server.address("missing.tif")}}, size_px=(SIDE, SIDE))
    with pytest.raises(ImageryError, match=r"item scene, asset B04 at .*missing\.tif: HTTP response code: 404"):
        read(item, ["red"])
    assert len(server.served) == 1


def test_the_total_time_is_bounded_whatever_hangs(server: FileServer) -> None:
    server.switch("hang", path="B03")
    policy = AccessPolicy(max_attempts=50, total_s=4, backoff_s=0.05, stall_s=1, gdal_retries=1)
    start = time.monotonic()
    with pytest.raises(ImageryError, match=r"asset B03 .*timed out|too slow"):
        read(an_item(server), ["green"], policy)
    assert time.monotonic() - start < 15


def test_a_server_that_says_when_to_come_back_is_obeyed(server: FileServer, folder: Path) -> None:
    server.switch("429", times=2, path="B03")  # the second is the question when to come back: Retry-After: 1
    start = time.monotonic()
    got = read(an_item(server), ["green"])
    assert 1 <= time.monotonic() - start < 5
    np.testing.assert_array_equal(got[0], local(folder, "B03"))


def test_a_broken_local_file_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "B04.tif").write_bytes(b"II*\x00" + bytes(500))
    item = item_of("scene", {"B04": {"href": (tmp_path / "B04.tif").as_posix()}}, size_px=(SIDE, SIDE))
    start = time.monotonic()
    with pytest.raises(ImageryError, match=r"asset B04 .*Cannot open TIFF image") as error:
        read(item, ["red"], AccessPolicy(backoff_s=5))
    assert time.monotonic() - start < 2
    assert "tries" not in str(error.value)


def test_a_file_that_points_elsewhere_is_refused(server: FileServer, tmp_path: Path) -> None:
    """GDAL opens by content: what is called .tif may describe a map service at any address."""
    (tmp_path / "B04.tif").write_text(
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{server.address("B03.tif")}?${{z}}${{x}}${{y}}</ServerUrl></Service>'
        "<DataWindow><UpperLeftX>0</UpperLeftX><UpperLeftY>10</UpperLeftY><LowerRightX>10</LowerRightX><LowerRightY>0"
        "</LowerRightY><TileLevel>0</TileLevel><SizeX>64</SizeX><SizeY>64</SizeY></DataWindow>"
        "<Projection>EPSG:32631</Projection><BlockSizeX>64</BlockSizeX><BlockSizeY>64</BlockSizeY></GDAL_WMS>"
    )
    item = item_of("sly", {"B04": {"href": (tmp_path / "B04.tif").as_posix()}}, size_px=(SIDE, SIDE))
    with pytest.raises(ImageryError, match=r"item sly, asset B04 .*GDAL takes it for WMS, where one of GTiff"):
        read(item, ["red"])
    assert server.served == []


# --- connections


def test_connections_stay_within_the_pool_whatever_the_threads(folder: Path) -> None:
    policy = AccessPolicy(max_connections=4, connections_per_read=2, backoff_s=0.02, stall_s=5)
    with FileServer(folder, slow_s=0.03) as server:
        server.switch("slow")
        item = an_item(server)
        expected = np.stack([local(folder, key) for key in BANDS.values()])
        windows = [tile_box(128, SIDE, top=TOP - 1280 * n) for n in range(6)]
        with ThreadPoolExecutor(6) as pool:
            tiles = list(pool.map(lambda window: read(item, NAMES, policy, window), windows))
        np.testing.assert_array_equal(np.concatenate(tiles, axis=1), expected)
        assert 1 < server.most_at_once <= 4


def test_many_threads_read_at_once_through_faults(server: FileServer, folder: Path) -> None:
    server.switch("503", times=5)
    item = an_item(server)
    expected = np.stack([local(folder, key) for key in BANDS.values()])
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: read(item), range(4)):
            np.testing.assert_array_equal(got, expected)
    assert threading.active_count() < 60


# --- signing


@pytest.fixture
def signing(monkeypatch: pytest.MonkeyPatch) -> Iterator[SigningServer]:
    """Planetary Computer's signing endpoint, here; `folder`'s servers are told to be hosts of it by `signed_files`."""
    from planetary_computer.sas import TOKEN_CACHE
    from planetary_computer.settings import Settings

    with SigningServer() as endpoint:
        monkeypatch.setenv("PC_SDK_SAS_URL", endpoint.url)
        Settings.get.cache_clear()
        TOKEN_CACHE.clear()
        yield endpoint
    Settings.get.cache_clear()
    TOKEN_CACHE.clear()


@pytest.fixture
def signed_files(folder: Path, signing: SigningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A file server that demands a token that holds."""
    with FileServer(folder, signed=True) as server:
        monkeypatch.setenv(EXTRA_HOSTS, server.host)
        yield server


def test_what_needs_a_token_is_signed_inside_the_read(
    signed_files: FileServer, signing: SigningServer, folder: Path
) -> None:
    got = read(an_item(signed_files))
    np.testing.assert_array_equal(got, np.stack([local(folder, key) for key in BANDS.values()]))
    assert signing.asked == ["/token/127/container"], "one token for all files of a container"
    assert set(signed_files.statuses()) <= {200, 206}


def test_the_warped_case_is_signed_too(signed_files: FileServer, folder: Path) -> None:
    got = read(an_item(signed_files), ["scl"])
    np.testing.assert_array_equal(got[0], np.kron(local(folder, "SCL"), np.ones((2, 2))))
    assert set(signed_files.statuses()) <= {200, 206}


@pytest.mark.parametrize("after", [1, 2], ids=["while a file is opened", "while its pixels are read"])
def test_reading_goes_on_when_tokens_expire_in_the_middle_of_a_tile(
    folder: Path, signing: SigningServer, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    signing.lifetime_s = 1.0
    with FileServer(folder, signed=True, slow_s=1.1) as server:
        monkeypatch.setenv(EXTRA_HOSTS, server.host)
        server.switch("slow", times=1, after=after, path="B03")  # the token it came with is no good when it is served
        got = read(an_item(server))
        np.testing.assert_array_equal(got, np.stack([local(folder, key) for key in BANDS.values()]))
        assert 403 in server.statuses()
        assert len(signing.asked) > 1


def test_a_token_that_does_not_work_is_dropped_and_asked_for_anew(
    signed_files: FileServer, signing: SigningServer, folder: Path
) -> None:
    signing.useless_next = 1  # it claims to live for an hour
    got = read(an_item(signed_files), ["red"])
    np.testing.assert_array_equal(got[0], local(folder, "B04"))
    assert len(signing.asked) == 2
    assert 403 in signed_files.statuses()


def test_a_signing_endpoint_that_is_busy_is_asked_again(
    signed_files: FileServer, signing: SigningServer, folder: Path
) -> None:
    signing.refuse_next = 2
    got = read(an_item(signed_files), ["red"])
    np.testing.assert_array_equal(got[0], local(folder, "B04"))
    assert len(signing.asked) == 3


def test_a_signing_endpoint_that_stays_busy_is_named(signed_files: FileServer, signing: SigningServer) -> None:
    signing.refuse_next = 1000
    with pytest.raises(ImageryError, match=r"asset B04 .*the signing endpoint answered HTTP 429 \(after 5 tries"):
        read(an_item(signed_files), ["red"])
    assert signed_files.served == []


@pytest.mark.parametrize("fault", ["403", "500", "cut", "404", "reset"])
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("names", [["red"], ["scl"]], ids=["copied", "warped"])
def test_no_token_is_shown_anywhere(
    signed_files: FileServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], fault: str,
    after: int, names: list[str],
) -> None:  # fmt: skip
    signed_files.switch(fault, after=after)  # type: ignore[arg-type]
    item = an_item(signed_files)
    policy = AccessPolicy(max_attempts=2, total_s=5, backoff_s=0.02, stall_s=1, gdal_retries=0)
    with caplog.at_level(logging.DEBUG), pytest.raises(ImageryError) as error:
        read(item, names, policy)
    shown = [everything(error.value), caplog.text, *capfd.readouterr(), repr(item), repr(item.raw)]
    shown += [repr(vars(record)) for record in caplog.records]
    assert caplog.records, "there is something to look through"
    assert not [text for text in shown if "TOPSECRET" in text or "sig=" in text]


def test_no_token_is_logged_when_all_is_well(signed_files: FileServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        read(an_item(signed_files), ["red", "scl"])
    assert "B04.tif" in caplog.text
    assert "TOPSECRET" not in caplog.text


@pytest.mark.parametrize(
    ("href", "provider", "expected"),
    [
        ("https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/a.tif", None, True),
        ("https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/a.tif", "planetary-computer", True),
        ("https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/a.tif", "someone-else", False),
        ("https://ai4edatasetspublicassets.blob.core.windows.net/assets/a.png", None, False),
        ("https://sentinel2l2a01.blob.core.windows.net/c/a.tif?se=2022&sig=x&sp=r", None, False),
        ("https://evil.example/sentinel2l2a01.blob.core.windows.net/a.tif", None, False),
        ("https://sentinel2l2a01.blob.core.windows.net.evil.example/c/a.tif", None, False),
        ("https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/a.tif", "earth-search", False),
        ("/data/x.blob.core.windows.net/a.tif", None, False),
    ],
)  # fmt: skip
def test_only_planetary_computers_hosts_get_its_tokens(href: str, provider: str | None, expected: bool) -> None:
    assert needs_signature(href, provider) is expected
    if not expected:
        assert sign(href, provider) == href


def test_a_policy_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_attempts is 0"):
        AccessPolicy(max_attempts=0)
    with pytest.raises(ConfigError, match="connections_per_read is 4, more than max_connections 2"):
        AccessPolicy(max_connections=2, connections_per_read=4)


def test_what_is_remote() -> None:
    assert is_remote("https://a.b/c.tif")
    assert is_remote("s3://bucket/c.tif")
    assert not is_remote("/data/c.tif")
    assert not is_remote("file:///data/c.tif")
    assert WHOLE.crs.to_epsg() == EPSG
