"""The command line: every verb a thin call of the library function of the same name."""

# In the order in which `--help` lists the verbs: first the chain, then what looks after it.
from geoelle.cli.app import main  # isort: skip
from geoelle.cli import upkeep, weights  # isort: skip

__all__ = ("main", "upkeep", "weights")
