"""Every error geoelle raises on purpose. All descend from `GeoelleError` and from the fitting builtin.

A message says what was found and where, what was expected, and what to do. The command line shows it as one
sentence with exit code 1, so it must make sense without a traceback.
"""


class GeoelleError(Exception):
    """Base of every error that geoelle raises on purpose."""


class ConfigError(GeoelleError, ValueError):
    """A run configuration or an option is not usable."""


class SchemaError(GeoelleError, ValueError):
    """Data does not have the shape, type or content that its contract asks for."""


class AOIError(GeoelleError, ValueError):
    """The area of interest cannot be used."""


class GridError(GeoelleError, ValueError):
    """A chip grid, tile or chip id makes no sense."""


class SensorError(GeoelleError, KeyError):
    """A sensor or one of its bands is unknown."""

    def __str__(self) -> str:  # KeyError prints the repr of its argument
        return str(self.args[0]) if self.args else ""


class CatalogError(GeoelleError):
    """A STAC catalog does not answer or answers nonsense."""


class NoItemsError(CatalogError, LookupError):
    """A search was answered, with nothing that passes its filters."""


class ImageryError(GeoelleError, OSError):
    """Pixels could not be read."""


class ClusterError(GeoelleError):
    """The cluster that a run is on was lost."""


class EncoderError(GeoelleError):
    """Base of encoder errors."""


class UnknownEncoderError(EncoderError, KeyError):
    """No encoder has this name."""

    def __str__(self) -> str:  # KeyError prints the repr of its argument
        return str(self.args[0]) if self.args else ""


class EncoderInputError(EncoderError, ValueError):
    """A batch does not fit what the encoder takes."""


class WeightsError(EncoderError, ValueError):
    """A weights file is missing, damaged or of another model."""


class ProbeError(GeoelleError, ValueError):
    """A probe cannot be fitted, or does not fit what it is asked to score."""


class TooFewBlocksError(ProbeError):
    """Too few independent blocks for a fit or for the folds asked for."""


class StoreError(GeoelleError):
    """A store cannot be read or written as asked."""


class AlreadyExistsError(StoreError, FileExistsError):
    """Something else is there already, and writing would lose it."""


class NotFoundError(StoreError, FileNotFoundError):
    """No store, probe or file is there."""


class HistoryTooShortError(GeoelleError, ValueError):
    """Too few usable earlier looks to say what is normal at a place."""


class MapError(GeoelleError, ValueError):
    """A map cannot be drawn from what was given."""
