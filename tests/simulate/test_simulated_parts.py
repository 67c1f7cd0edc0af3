"""The parts whose values are known from elsewhere or from their definition."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from pyproj import Transformer

from geoelle.simulate.noise import generator, mix, power_law, uniform
from geoelle.simulate.plane import _mgrs_tile, lay_out, resample, sample_positions
from geoelle.simulate.settings import SimulationConfig
from geoelle.simulate.sky import plan_days
from geoelle.simulate.surfaces import BAND_NAMES, Kind, Units, look_on, spectrum, sun_position


def test_mgrs_tiles_are_those_of_known_places() -> None:
    assert _mgrs_tile(31, 51.3, 588_000, 5_685_000) == "31UES"  # Antwerp
    assert _mgrs_tile(32, 48.1, 691_000, 5_334_000) == "32UPU"  # Munich


def test_sun_stands_as_it_should() -> None:
    elevation, azimuth = sun_position(date(2022, 3, 20), 0.0, 50.0, 12.0)
    assert elevation == pytest.approx(40.0, abs=0.6)
    assert azimuth == pytest.approx(178.0, abs=3.0)  # the equation of time makes it a little early
    assert (
        sun_position(date(2022, 6, 21), 6.0, 48.4, 10.67)[0]
        > sun_position(date(2022, 12, 21), 6.0, 48.4, 10.67)[0] + 40
    )
    # South of the tropics the midday sun stands in the north.
    assert np.cos(np.radians(sun_position(date(2022, 6, 21), 0.0, -40.0, 12.0)[1])) > 0.99


def test_power_law_has_the_slope_asked_for() -> None:
    field = power_law((256, 256), generator(1, "x"), beta=2.0)
    power = np.abs(np.fft.rfft2(field)) ** 2
    fy, fx = np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None, :]
    radius = np.hypot(fy, fx)
    keep = (radius > 0.02) & (radius < 0.4)
    slope = np.polyfit(np.log(radius[keep]), np.log(power[keep]), 1)[0]
    assert slope == pytest.approx(-2.0, abs=0.1)


def test_hash_spreads_and_is_fixed() -> None:
    cells = np.arange(10_000)
    values = uniform(7, cells)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    assert values.mean() == pytest.approx(0.5, abs=0.02)
    assert len(np.unique(mix(7, cells))) == cells.size
    assert not np.array_equal(uniform(8, cells), values)
    # A value written down: the same in every process, on every machine and in every version.
    assert int(mix(1, 2, 3)) == int(mix(1, 2, np.array(3)))


def test_positions_are_those_of_the_projection() -> None:
    plane, granules = lay_out(SimulationConfig(width_px=300, height_px=250))
    for granule in granules:
        at = sample_positions(plane, granule)
        assert at.shape == (2, granule.height, granule.width)
        row, column = granule.height - 3, granule.width // 3
        x, y = Transformer.from_crs(f"EPSG:{granule.epsg}", plane.crs, always_xy=True).transform(
            granule.left + (column + 0.5) * 10.0, granule.top - (row + 0.5) * 10.0
        )
        assert plane.x0 + at[1, row, column] * 10.0 == pytest.approx(x, abs=0.01)
        assert plane.y0 - at[0, row, column] * 10.0 == pytest.approx(y, abs=0.01)
        assert at.min() > 1
        assert at[0].max() < plane.shape[0] - 2
        assert at[1].max() < plane.shape[1] - 2


def test_resampling_blurs_alike_wherever_a_sample_falls() -> None:
    white = generator(5, "white").standard_normal((200, 200), dtype=np.float32)
    grid = np.stack(np.meshgrid(np.arange(20, 180), np.arange(20, 180), indexing="ij")).astype(np.float32)
    on, between = resample(white, grid).std(), resample(white, grid + 0.5).std()
    assert between == pytest.approx(on, rel=0.25)  # bilinear sampling would differ by a factor of two


def test_clouds_are_dealt_to_the_mean_asked_for() -> None:
    plans = plan_days(replace(SimulationConfig(), cloud_share=0.2, edge_share=0.5))
    assert np.mean([p.cloud_share for p in plans]) == pytest.approx(0.2, abs=0.02)
    assert sum(p.edge for p in plans) == 7


def test_season_greens_and_fades() -> None:
    kinds = np.array([Kind.CEREAL, Kind.MAIZE, Kind.BROADLEAF, Kind.CONIFER, Kind.WATER], dtype=np.int16)
    units = Units(kinds, mix(3, np.arange(5)))
    ndvi = {}
    for month in (1, 5, 8):
        mean = look_on(units, date(2021, month, 15), ("red", "nir"), seed=1).mean
        ndvi[month] = (mean[:, 1] - mean[:, 0]) / (mean[:, 1] + mean[:, 0])
    assert ndvi[5][0] > ndvi[8][0] + 0.2  # cereal is green in May and harvested in August
    assert ndvi[8][1] > ndvi[5][1] + 0.2  # maize the other way round
    assert ndvi[5][2] > ndvi[1][2] + 0.2
    assert abs(ndvi[5][3] - ndvi[1][3]) < 0.1
    assert max(ndvi[m][4] for m in ndvi) < 0


def test_every_material_has_every_band() -> None:
    assert spectrum("crop", BAND_NAMES).shape == (12,)
    assert 0 < spectrum("water", BAND_NAMES).min() < spectrum("metal", BAND_NAMES).max() < 0.5
