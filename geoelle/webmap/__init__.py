"""The web map: difficulty, delta and alerts in one HTML file that opens from disk with no network.

`map` is the verb; folium and rasterio are imported when it is called. What it needs from elsewhere (Leaflet) is
resolved in `assets`, pixels are made in `overlays`, words in `text` and `legend`, and `page` puts them together.
"""

from geoelle.webmap.draw import MapSummary, map

__all__ = ("MapSummary", "map")
