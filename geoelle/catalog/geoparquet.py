"""Items from a stac-geoparquet file, whoever wrote it: in batches, and only what AOI and dates may want."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
import stac_geoparquet.arrow
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from geoelle.catalog.asking import Question
from geoelle.catalog.providers import ServerFilter
from geoelle.catalog.transport import PatientIO, Speaking, UnansweredError, absolute, is_url, unsigned
from geoelle.errors import CatalogError

_BATCH_ROWS = 512
_MOST_BOXES = 64
_MARGIN = np.timedelta64(1, "D")
_MAGIC = b"PAR1"
_BLOCK = 1 << 18


def is_parquet(address: str) -> bool:
    """Whether a URL or the file at a path is Parquet."""
    if is_url(address):
        return unsigned(address).endswith((".parquet", ".geoparquet"))
    if address.endswith((".parquet", ".geoparquet")):
        return True
    with open(address, "rb") as stream:
        return stream.read(4) == _MAGIC


class ParquetSource:
    """A file of items in Arrow form."""

    server_filters: ServerFilter | None = None

    def __init__(self, address: str, transport: PatientIO) -> None:
        self.address = address
        self.remote = is_url(address)
        self.asked: tuple[str, ...] = ()
        try:
            self._file = pq.ParquetFile(_RemoteFile(address, transport) if self.remote else address, pre_buffer=True)
        except (pa.ArrowException, OSError) as error:
            raise CatalogError(
                f"{unsigned(address)} is not Parquet that can be read ({' '.join(str(error).split())[:200]}). "
                "Expected items as stac-geoparquet."
            ) from None
        names = set(self._file.schema_arrow.names)
        if not {"id", "geometry", "assets"} <= names:
            raise CatalogError(
                f"{unsigned(address)} is Parquet but no stac-geoparquet: its columns are "
                f"{', '.join(sorted(names))[:200]}. Expected `id`, `geometry` and `assets` among them."
            )

    def items(self, question: Question) -> Iterator[dict[str, Any]]:
        """Items whose box and time may answer the question."""
        rows = _Rows(self._file.schema_arrow, question)
        self.asked = rows.asked
        groups = [n for n in range(self._file.num_row_groups) if rows.may_hold(self._file.metadata.row_group(n))]
        with Speaking(self.address):
            found = self._items(groups, rows)
            for item in found if question.limit is None else islice(found, question.limit):
                yield absolute(item, self.address)

    def _items(self, groups: list[int], rows: _Rows) -> Iterator[dict[str, Any]]:
        for group in groups:
            for batch in self._file.iter_batches(_BATCH_ROWS, row_groups=[group], use_threads=False):
                chosen = batch.filter(pa.array(rows.chosen(batch)))
                if chosen.num_rows:
                    yield from stac_geoparquet.arrow.stac_table_to_items(pa.Table.from_batches([chosen]))


class _Rows:
    """Which rows may answer a question, as far as the file's columns `bbox` and `datetime` tell."""

    def __init__(self, schema: pa.Schema, question: Question) -> None:
        self._boxes = _boxes(question.aoi) if question.aoi is not None and _has_boxes(schema) else None
        dated = "datetime" in schema.names and pa.types.is_timestamp(schema.field("datetime").type)
        self._windows = question.windows if dated else None
        self.asked = ("area",) * (self._boxes is not None) + ("dates",) * bool(self._windows)

    def may_hold(self, group: Any) -> bool:
        """Whether a row group may hold such rows, from its statistics."""
        stats = {
            column.path_in_schema: column.statistics
            for column in (group.column(n) for n in range(group.num_columns))
            if column.statistics is not None and column.statistics.has_min_max
        }
        return self._boxes_may_touch(stats) and self._times_may_fit(stats, group.num_rows)

    def _boxes_may_touch(self, stats: dict[str, Any]) -> bool:
        names = [f"bbox.{side}" for side in ("xmin", "ymin", "xmax", "ymax")]
        if self._boxes is None or not set(names) <= set(stats):
            return True
        xmin, ymin, xmax, ymax = (stats[name] for name in names)
        west, south, east, north = self._boxes.T
        hit = (south <= ymax.max) & (north >= ymin.min)
        # An item across the antimeridian has its west in the east: no statement about longitudes where one may be.
        if (xmin.max <= 0 or xmax.min >= 0) and xmin.min >= -180 and xmax.max <= 180:
            hit &= (west <= xmax.max) & (east >= xmin.min)
        return bool(hit.any())

    def _times_may_fit(self, stats: dict[str, Any], n_rows: int) -> bool:
        found = stats.get("datetime")
        if self._windows is None or found is None or not found.has_null_count or found.null_count:
            return True
        if not (hasattr(found.min, "year") and hasattr(found.max, "year")):
            return True
        first, last = (np.datetime64(t.replace(tzinfo=None), "us") for t in (found.min, found.max))
        return any(first <= end + 2 * _MARGIN and last >= start - _MARGIN for start, end in self._windows)

    def chosen(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """Mask of the rows of a batch that may answer."""
        mask = np.ones(batch.num_rows, bool)
        if self._boxes is not None:
            sides = batch.column("bbox").flatten()
            names = [field.name for field in batch.schema.field("bbox").type]
            xmin, ymin, xmax, ymax = (
                sides[names.index(n)].cast(pa.float64()).to_numpy(zero_copy_only=False)
                for n in ("xmin", "ymin", "xmax", "ymax")
            )
            odd = ~(xmin <= xmax) | (xmin < -180) | (xmax > 180)  # null, or across the antimeridian
            hit = np.zeros(batch.num_rows, bool)
            for west, south, east, north in self._boxes:
                hit |= (odd | ((west <= xmax) & (east >= xmin))) & ~((ymin > north) | (ymax < south))
            mask &= hit
        if self._windows is not None:
            times = pc.cast(batch.column("datetime"), pa.timestamp("us", "UTC"), safe=False)
            moments = pc.cast(times, pa.int64()).to_numpy(zero_copy_only=False)
            known = np.asarray(pc.is_valid(times))
            micros = np.where(known, moments, 0).astype(np.int64).astype("datetime64[us]")
            fits = np.zeros(batch.num_rows, bool)
            for start, end in self._windows:
                fits |= (micros >= start - _MARGIN) & (micros < end + 2 * _MARGIN)
            mask &= fits | ~known  # a composite has an interval instead
        return mask


def _has_boxes(schema: pa.Schema) -> bool:
    if "bbox" not in schema.names or not pa.types.is_struct(schema.field("bbox").type):
        return False
    return {"xmin", "ymin", "xmax", "ymax"} <= {field.name for field in schema.field("bbox").type}


def _boxes(aoi: BaseGeometry) -> NDArray[np.float64]:
    """Bounding boxes of an AOI's parts, (box, west south east north)."""
    parts = shapely.get_parts(aoi)
    return np.asarray(shapely.bounds(parts if len(parts) <= _MOST_BOXES else [aoi]), dtype=float)


class _RemoteFile(io.RawIOBase):
    """A file on a web server, read by ranges; where a server knows none, downloaded to a temporary file first."""

    def __init__(self, address: str, transport: PatientIO) -> None:
        super().__init__()
        self._address, self._transport = address, transport
        self._at = 0
        self._whole: IO[bytes] | None = None
        response, body = transport.fetch(address, headers={"Range": f"bytes=0-{_BLOCK - 1}"})
        if response.status_code == 206:
            self._size = int(response.headers.get("Content-Range", "").rpartition("/")[2])
        elif response.status_code == 200:
            self._whole = tempfile.TemporaryFile()  # noqa: SIM115  closed with this file
            self._size = self._whole.write(body)
        else:
            raise CatalogError(f"{unsigned(address)} cannot be read: HTTP {response.status_code}. Check the address.")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        """Bytes, for Arrow."""
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        if self._whole is not None:
            self._whole.seek(self._at)
            data = self._whole.read(end - self._at)
        else:
            data = self._range(self._at, end)
        self._at += len(data)
        return data

    def _range(self, start: int, end: int) -> bytes:
        response, body = self._transport.fetch(self._address, headers={"Range": f"bytes={start}-{end - 1}"})
        if response.status_code != 206 or len(body) != end - start:
            raise UnansweredError(self._address, f"HTTP {response.status_code} to a range of {end - start} bytes")
        return body

    def close(self) -> None:
        if self._whole is not None:
            self._whole.close()
        super().close()
