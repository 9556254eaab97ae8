"""Which reader a path needs, told by what lies there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from isal import igzip

from catalogue.query.table import Table, TableError


def format_of(path: Path) -> str:
    """``"fits"``, ``"parquet"``, ``"csv"`` or ``"zarr"``, by content rather than by name.

    Raises
    ------
    TableError
        If nothing is there, or a directory that is no Zarr group.
    """
    if path.is_dir():
        if any((path / name).is_file() for name in ("zarr.json", ".zgroup")):
            return "zarr"
        if (path / "hats.properties").is_file():
            raise TableError(f"{path}: expected FITS, Parquet, CSV or Zarr, found HATS; lsdb.open_catalog reads it")
        raise TableError(f"{path}: expected a Zarr group or a file, found a directory without zarr.json")
    try:
        with path.open("rb") as stream:
            start = stream.read(10)
        if start.startswith(b"\x1f\x8b"):
            with igzip.open(path, "rb") as unpacked:
                start = unpacked.read(10)
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such file") from error
    except (OSError, EOFError) as error:
        raise TableError(f"{path}: cannot be read: {error}") from error
    if not start:
        raise TableError(f"{path}: expected a table, found an empty file")
    if start.startswith(b"SIMPLE  ="):
        return "fits"
    if start.lstrip().startswith(b"<"):
        raise TableError(f"{path}: expected FITS, Parquet, CSV or Zarr, found XML; astropy's Table.read reads VOTable")
    return "parquet" if start.startswith(b"PAR1") else "csv"


def open_table(path: str | Path) -> Table:
    """The table at ``path``: FITS, Parquet, CSV (plain or gzip) or Zarr.

    Raises
    ------
    TableError
        If nothing is there or it cannot be read.
    """
    from catalogue.query.csv import CsvTable
    from catalogue.query.fits import FitsTable
    from catalogue.query.parquet import ParquetTable
    from catalogue.query.zarr import ZarrTable

    where = Path(path).expanduser()
    readers: dict[str, Callable[[Path], Table]] = {
        "fits": FitsTable,
        "parquet": ParquetTable,
        "csv": CsvTable,
        "zarr": ZarrTable,
    }
    return readers[format_of(where)](where)
