"""The command line: every verb a thin call of the library function of the same name."""

from geoelle.cli.app import main

__all__ = ("main",)
