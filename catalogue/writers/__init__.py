"""Output formats: one file each, all streaming, all fed by the data model."""

from __future__ import annotations

from catalogue.writers.base import Writer
from catalogue.writers.csv import CsvWriter
from catalogue.writers.fits import FitsWriter
from catalogue.writers.hats import HatsWriter
from catalogue.writers.healpix_parquet import HealpixParquetWriter
from catalogue.writers.parquet import ParquetWriter
from catalogue.writers.votable import VotableWriter
from catalogue.writers.zarr import ZarrWriter

__all__ = ["Writer", "format_names", "writer_for"]

_WRITERS: dict[str, type[Writer]] = {
    writer.format: writer
    for writer in (
        FitsWriter,
        CsvWriter,
        ParquetWriter,
        ZarrWriter,
        VotableWriter,
        HealpixParquetWriter,
        HatsWriter,
    )
}


def format_names() -> list[str]:
    """Names of the formats that there are, as ``output.formats`` takes them."""
    return list(_WRITERS)


def writer_for(name: str) -> type[Writer]:
    """Writer of the format ``name``.

    Raises
    ------
    KeyError
        Naming the formats that there are.
    """
    if name not in _WRITERS:
        raise KeyError(f"unknown format {name!r}; there are {', '.join(_WRITERS)}")
    return _WRITERS[name]
