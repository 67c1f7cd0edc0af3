"""The chip grid: where chips lie, what they are called, which tiles they are worked on in, and whose zone they are."""

from geoelle.grid.extent import GridExtent, Tile
from geoelle.grid.lattice import ChipGrid, to_grid_crs, utm_epsg
from geoelle.grid.zones import ZoneChips, zone_chips

__all__ = ("ChipGrid", "GridExtent", "Tile", "ZoneChips", "to_grid_crs", "utm_epsg", "zone_chips")
