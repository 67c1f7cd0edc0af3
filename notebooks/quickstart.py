# %% [markdown]
# # geoelle in five minutes
# Simulated scenes, the verbs one by one, and a look at the results. Everything here is **simulated** and needs no
# network. Open as a notebook with jupytext, or run `python notebooks/quickstart.py`. With a STAC API's URL as `catalog`
# and your own area the rest stays the same.

# %%
import sys
from pathlib import Path

import geoelle
from geoelle.simulate import EventSpec, SimulationConfig, make_scenes

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart")

# %% Ten dates over two summers; a burn before the last two.
days = tuple(f"{year}-{month:02d}-14" for year in (2021, 2022) for month in (5, 6, 7, 8, 9))
config = SimulationConfig.small(
    width_px=448, height_px=448, dates=days, events=(EventSpec("burn", date="2022-08-01", radius_m=700),)
)
scenes = make_scenes(folder / "scenes", config=config)

# %% Items of the area, frozen with their query.
items = geoelle.search(
    scenes.aoi, catalog=scenes.catalog, collections=[scenes.collection], start=days[0], end=days[-1],
    out=folder / "items.parquet",
)  # fmt: skip
items[["id", "time", "cloud_percent"]]

# %% Every chip of 640 m on every date, 160 m apart, through the compact encoder.
embeddings = geoelle.embed(folder / "items.parquet", aoi=scenes.aoi, out=folder / "embeddings.zarr", stride_m=160)
embeddings.attrs["geoelle:summary"]

# %% The area is too small for a probe of its own, so the shipped one serves: a cold start.
difficulty = geoelle.difficulty(folder / "embeddings.zarr", out=folder / "difficulty.zarr")
difficulty["difficulty"].mean(("y", "x")).to_series()

# %% Against the median of earlier looks.
delta = geoelle.delta(folder / "difficulty.zarr", out=folder / "delta.zarr", alerts=folder / "alerts.parquet")
abs(delta["z"]).max(("y", "x")).to_series()

# %% One file to open.
summary = geoelle.map(difficulty, delta=delta, out=folder / "map.html", title="Quickstart (simulated)")
summary
