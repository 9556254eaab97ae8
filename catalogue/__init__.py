"""Survey spectra and a trained model in, a row-matched age-mass catalogue out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray

__version__ = "0.1.0"


def open(path: str | Path) -> xarray.Dataset:
    """Open a catalogue, predictions or a spectra store lazily, see :func:`catalogue.query.open`."""
    # xarray takes a second to import, which the command line need not wait for.
    from catalogue.query import open as open_dataset

    return open_dataset(path)
