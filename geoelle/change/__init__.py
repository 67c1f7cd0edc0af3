"""Delta-ELLE: how difficulty changed at each place against what is normal there, and which changes are alerts."""

from geoelle.change.alerts import rank_alerts
from geoelle.change.deltas import delta

__all__ = ("delta", "rank_alerts")
