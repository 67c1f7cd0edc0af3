"""The truth about the events: masks on the granules' grids, outlines as GeoJSON, and a list of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.transform import Affine
from shapely.geometry import mapping, shape

from geoelle.simulate.cogs import LABEL, write_cog
from geoelle.simulate.happenings import Happening
from geoelle.simulate.noise import Field
from geoelle.simulate.plane import Granule, Plane, nearest_index
from geoelle.simulate.settings import SimulationConfig


def write_truth(
    folder: Path, config: SimulationConfig, plane: Plane,
    granules: tuple[Granule, ...], positions: tuple[Field, ...], events: tuple[Happening, ...],
) -> list[dict[str, Any]]:  # fmt: skip
    """Write every event's masks and outline under `folder` and say what was written, one record per event."""
    records = []
    for event in events:
        masks = []
        for granule, at in zip(granules, positions, strict=True):
            mask = event.mask.ravel()[nearest_index(at, plane.shape)].reshape(granule.height, granule.width)
            if not mask.any():
                continue
            name = f"{event.id}_{granule.mgrs_tile}.tif"
            write_cog(
                folder / name, mask.astype(np.uint8), granule, nodata=None, description="affected",
                tags={"EVENT": event.id, "EVENT_DATE": event.day.isoformat(), "VALUES": "1 affected, 0 not"},
                categorical=True,
            )  # fmt: skip
            masks.append({"href": f"./{name}", "mgrs_tile": granule.mgrs_tile, "epsg": granule.epsg})
        outline = outline_json(plane, event)
        looks = [day for day in config.days if day >= event.day]
        records.append(
            {
                "id": event.id,
                "kind": event.kind,
                "date": event.day.isoformat(),
                "area_km2": round(float(event.mask.sum()) * plane.gsd_m**2 / 1e6, 4),
                "looks_after": [day.isoformat() for day in looks],
                "remaining": [round(event.remaining(day), 4) for day in looks],
                "outline": f"./{event.id}.geojson",
                "masks": masks,
                "geojson": {
                    "type": "FeatureCollection",
                    "description": LABEL,
                    "features": [
                        {
                            "type": "Feature",
                            "properties": {
                                "event_id": event.id, "kind": event.kind, "date": event.day.isoformat(),
                                "geoelle:simulated": True,
                            },
                            "geometry": outline,
                        }
                    ],
                },
            }
        )  # fmt: skip
    return records


def outline_json(plane: Plane, event: Happening) -> dict[str, Any]:
    """The affected area in longitude and latitude, simplified by a pixel."""
    affine = Affine(plane.gsd_m, 0.0, plane.x0 - plane.gsd_m / 2, 0.0, -plane.gsd_m, plane.y0 + plane.gsd_m / 2)
    pieces = [shape(geometry) for geometry, _ in shapes(event.mask.astype(np.uint8), mask=event.mask, transform=affine)]
    # Bridging pixel-wide gaps first: an outline is for people, the mask is for scores.
    merged = shapely.union_all(pieces).buffer(1.5 * plane.gsd_m).buffer(-1.5 * plane.gsd_m).simplify(plane.gsd_m)
    to_lonlat = plane.to(4326)

    def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.round(np.column_stack(to_lonlat.transform(points[:, 0], points[:, 1])), 7)

    return dict(mapping(shapely.transform(merged, project)))
