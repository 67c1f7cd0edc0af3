"""Make the fixed places of SatCLIP's loss: points of an even lattice that lie on land that Sentinel-2 sees.

python pipelines/make_satclip_places.py --out geoelle/encoders/weights/satclip-places-v1.csv

The lattice is a Fibonacci lattice, every point with the same area; land is Natural Earth's at 1:110 million (public
domain), which pyogrio brings with its tests. South of 56 degrees S and north of 83 degrees N Sentinel-2 sees no land
regularly. 15,475 points on the globe leave 4,096.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray

N_LATTICE = 15_475
SOUTH, NORTH = -56.0, 83.0
DECIMALS = 4
LAND = Path(pyogrio.__file__).parent / "tests" / "fixtures" / "naturalearth_lowres" / "naturalearth_lowres.shp"


def lattice(n: int) -> NDArray[np.float64]:
    """`n` points spread evenly over the globe, (n, 2): longitude, latitude in degrees (González 2010)."""
    i = np.arange(n) + 0.5
    golden = (1 + math.sqrt(5)) / 2
    latitude = np.degrees(np.arcsin(1 - 2 * i / n))
    longitude = (360 * i / golden) % 360 - 180
    return np.round(np.column_stack([longitude, latitude]), DECIMALS)


def places() -> NDArray[np.float64]:
    """The lattice's points on land, from north to south, (place, 2)."""
    points = lattice(N_LATTICE)
    points = points[(points[:, 1] > SOUTH) & (points[:, 1] < NORTH)]
    land = shapely.union_all(pyogrio.read_dataframe(LAND).geometry.to_numpy())
    shapely.prepare(land)
    on_land: NDArray[np.bool_] = shapely.contains_xy(land, points[:, 0], points[:, 1])
    return points[on_land]


def as_text(points: NDArray[np.float64]) -> str:
    """The file's content."""
    rows = (f"{longitude:.{DECIMALS}f},{latitude:.{DECIMALS}f}\n" for longitude, latitude in points)
    return "longitude,latitude\n" + "".join(rows)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.parse_args().out.write_text(as_text(places()), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    _main()
