"""LAMOST DR10 `COADD` files, written byte by byte: an empty primary header and a table of one row."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2880
_COLUMNS = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK", "NORMALIZATION")


def coadd_bytes(columns: tuple[NDArray[np.floating], ...], cards: Mapping[str, bool | int | float | str]) -> bytes:
    """Contents of one file.

    Parameters
    ----------
    columns : six ndarrays, shape (pixels,)
        Flux, ivar, wavelength, andmask, ormask, normalised flux.
    cards : mapping
        Cards of the primary header after the mandatory ones.
    """
    pixels = len(columns[0])
    # NAXIS1 and NAXIS2 beside NAXIS = 0 are stray cards of the real files
    primary = {"SIMPLE": True, "BITPIX": 16, "NAXIS": 0, "NAXIS1": pixels, "NAXIS2": 5, "EXTEND": True, **cards}
    width = 4 * pixels * len(_COLUMNS)
    table: dict[str, bool | int | float | str] = {
        "XTENSION": "BINTABLE", "BITPIX": 8, "NAXIS": 2, "NAXIS1": width, "NAXIS2": 1,
        "PCOUNT": 0, "GCOUNT": 1, "TFIELDS": len(_COLUMNS), "EXTNAME": "COADD",
    }  # fmt: skip
    for number, name in enumerate(_COLUMNS, start=1):
        table |= {f"TTYPE{number}": name, f"TFORM{number}": f"{pixels}E"}
    data = np.concatenate(columns).astype(">f4").tobytes()
    return _header(primary) + _header(table) + data + b"\0" * (-len(data) % _BLOCK)


def write_coadd(
    path: Path, columns: tuple[NDArray[np.floating], ...], cards: Mapping[str, bool | int | float | str]
) -> None:
    """Write :func:`coadd_bytes` compressed, without a date, so that the same spectrum is the same file."""
    path.write_bytes(gzip.compress(coadd_bytes(columns, cards), compresslevel=1, mtime=0))


def _header(cards: Mapping[str, bool | int | float | str]) -> bytes:
    text = b"".join(_card(keyword, value) for keyword, value in cards.items()) + b"END".ljust(80)
    return text + b" " * (-len(text) % _BLOCK)


def _card(keyword: str, value: bool | int | float | str) -> bytes:
    if isinstance(value, bool):
        shown = f"{'T' if value else 'F':>20}"
    elif isinstance(value, str):
        shown = f"'{value:<8}'"
    else:
        shown = f"{value!r:>20}" if isinstance(value, int) else f"{float(value):>20.12G}"
    return f"{keyword:<8}= {shown}".ljust(80)[:80].encode("ascii")
