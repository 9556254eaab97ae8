"""Small LAMOST files and surveys, made on the spot, byte by byte, in the layouts of the published ones."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 2880
PARENT_COLUMNS = (
    "obsid", "class", "subclass", "snrg", "teff", "logg", "feh", "ra", "dec", "z", "filename",
)  # fmt: skip
WAVELENGTH_ROW = "Flux, Inverse, Wavelength, Andmask, Ormask"
SUBCONTINUUM_ROW = "Flux Inverse Subcontinuum Andmask Ormask"


def star(seed: int, n_pixels: int = 3909, first_pixel: int = 0, snrg: float = 60.0) -> tuple[NDArray[np.float32], ...]:
    """Flux, ivar, wavelength, andmask and ormask of a noisy late-type star, each float32 of ``n_pixels``."""
    random = np.random.default_rng(seed)
    wavelength = 10 ** (3.5682 + 1e-4 * (first_pixel + np.arange(n_pixels)))
    flux = 900.0 * (wavelength / 6000.0) ** (0.5 + random.random())
    for line in (3934.8, 3969.6, 4227.9, 4862.7, 5175.0, 5891.6, 6564.6, 8500.4, 8544.4, 8664.5):
        depth, width = 0.2 + 0.5 * random.random(), 3.0 + 3.0 * random.random()
        flux *= 1 - depth * np.exp(-0.5 * ((wavelength - line) / width) ** 2)
    error = flux.mean() / snrg * (1 + (wavelength < 4000))
    flux = flux + error * random.standard_normal(n_pixels)
    andmask, ormask = np.zeros((2, n_pixels))
    ormask[random.integers(0, n_pixels, 60)] = 1
    andmask[200:205] = ormask[200:205] = 2
    columns = (flux, 1 / error**2, wavelength, andmask, ormask)
    return tuple(column.astype(np.float32) for column in columns)


def card(keyword: str, value: Any) -> bytes:
    """One 80-byte card in fixed format."""
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, str):
        text = f"'{value:<8}'"
    else:
        # FITS numbers have a capital E.
        text = f"{value!r:>20}".upper()
    return f"{keyword:<8}= {text:<20} / of the survey".ljust(80)[:80].encode("ascii")


def header(cards: Mapping[str, Any]) -> bytes:
    """Cards, comments in between as in the real files, END and padding."""
    text = b"".join(card(keyword, value) for keyword, value in cards.items() if value is not None)
    text += b"COMMENT --------SPECTRA ANALYSIS RESULTS".ljust(80) + b"END".ljust(80)
    return text + b" " * (-len(text) % BLOCK)


def _survey_cards(obsid: int | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    cards = {
        "OBSID": obsid, "DATA_V": "LAMOST DR10", "LMJD": 59522, "PLANID": "EG224840N075042B03",
        "RA": 150.0, "DEC": 20.0, "SPID": 8, "FIBERID": 78, "VACUUM": True, "COEFF0": 3.5682, "COEFF1": 0.0001,
        "CLASS": "STAR", "SUBCLASS": "K1", "Z": 1e-4, "Z_ERR": 2e-5, "SNRG": 60.0,
    }  # fmt: skip
    return {**cards, **changes}


def write_coadd(
    path: Path,
    obsid: int = 100,
    *,
    seed: int = 0,
    n_pixels: int = 3909,
    spectrum: Sequence[NDArray[Any]] | None = None,
    cards: Mapping[str, Any] | None = None,
    compresslevel: int = 1,
) -> Path:
    """Write a file as DR9 and DR10 have it: empty primary, one-row table ``COADD``.

    Parameters
    ----------
    path : Path
        Compressed if it ends in ``.gz``.
    spectrum : sequence of five arrays, optional
        Flux, ivar, wavelength, andmask, ormask; :func:`star` of ``seed`` by default.
    cards : mapping, optional
        Changes to the primary header; a value of None leaves the card out.
    """
    columns = [np.asarray(column, ">f4") for column in spectrum or star(seed, n_pixels)]
    columns.append(np.full(columns[0].size, -9999.0, ">f4"))
    n = columns[0].size
    primary = {"SIMPLE": True, "BITPIX": 16, "NAXIS": 0, "NAXIS1": n, "NAXIS2": 5, "EXTEND": True}
    table: dict[str, Any] = {
        "XTENSION": "BINTABLE", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 24 * n, "NAXIS2": 1, "PCOUNT": 0, "GCOUNT": 1,
        "TFIELDS": 6, "EXTNAME": "COADD",
    }  # fmt: skip
    names = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK", "NORMALIZATION")
    table |= {f"TTYPE{i}": name for i, name in enumerate(names, 1)}
    table |= {f"TFORM{i}": f"{n}E" for i in range(1, 7)}
    data = b"".join(column.tobytes() for column in columns)
    content = header({**primary, **_survey_cards(obsid, cards or {})}) + header(table) + _padded(data)
    return _write(path, content, compresslevel)


def write_five_rows(
    path: Path,
    obsid: int | None = 100,
    *,
    seed: int = 0,
    n_pixels: int = 3909,
    subcontinuum: bool = False,
    spectrum: Sequence[NDArray[Any]] | None = None,
    cards: Mapping[str, Any] | None = None,
    compresslevel: int = 1,
) -> Path:
    """Write a file as DR1 to DR8 have it: one image of (5, N); see :func:`write_coadd`.

    With ``subcontinuum`` as DR1 and DR2: row 2 is the flux over a continuum, there is neither OBSID nor
    DATA_V, and the signal-to-noise cards are called ``SN_G``.
    """
    rows = [np.asarray(row, ">f4") for row in spectrum or star(seed, n_pixels)]
    n = rows[0].size
    primary = {"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": n, "NAXIS2": 5, "EXTEND": True}
    changes = {"DATA_V": "LAMOST DR7", "EXTEN0": WAVELENGTH_ROW, **(cards or {})}
    if subcontinuum:
        rows[2] = np.clip(rows[0] / 900.0, 0, 2).astype(">f4")
        changes |= {"DATA_V": None, "EXTEN0": SUBCONTINUUM_ROW, "SNRG": None, "SN_G": 60.0}
        obsid = None
    data = b"".join(row.tobytes() for row in rows)
    return _write(path, header({**primary, **_survey_cards(obsid, changes)}) + _padded(data), compresslevel)


def write_survey(
    directory: Path,
    n: int,
    *,
    missing: float = 0.0,
    damaged: float = 0.0,
    seed: int = 0,
    compresslevel: int = 1,
) -> Path:
    """Write a survey of ``n`` rows: ``directory/parent.csv`` and ``directory/spectra``.

    Parameters
    ----------
    missing : float
        Share of rows without a file name.
    damaged : float
        Share of rows whose file is, in turn, truncated, of zero bytes, or text.

    Returns
    -------
    Path
        The parent table, with the columns of :data:`PARENT_COLUMNS`.
    """
    spectra = directory / "spectra"
    spectra.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    fate = random.permutation(n)
    n_missing, n_damaged = round(n * missing), round(n * damaged)
    rows = []
    for i in range(n):
        row = _parent_row(i, random)
        if fate[i] < n_missing:
            row["filename"] = ""
        else:
            path = spectra / row["filename"]
            cards = {"RA": row["ra"], "DEC": row["dec"], "Z": row["z"], "SNRG": row["snrg"]}
            write_coadd(path, row["obsid"], seed=seed + i, cards=cards, compresslevel=compresslevel)
            if fate[i] < n_missing + n_damaged:
                damage(path, int(fate[i]))
        rows.append(row)
    parent = directory / "parent.csv"
    write_parent_csv(parent, rows)
    return parent


def write_parent_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = PARENT_COLUMNS) -> Path:
    """Write rows as CSV, compressed if ``path`` ends in ``.gz``; absent values are empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return _write(path, stream.getvalue().encode(), compresslevel=1)


def damage(path: Path, kind: int) -> None:
    """Truncate a file in the middle, empty it, or replace it by text, as ``kind`` modulo 3 says."""
    content = path.read_bytes()
    path.write_bytes((content[: len(content) // 2], b"", b"404 not found\n")[kind % 3])


def _parent_row(i: int, random: np.random.Generator) -> dict[str, Any]:
    return {
        "obsid": 900_000_000 + 7 * i,
        "class": "STAR",
        "subclass": ("K1", "G5", "K3")[i % 3],
        "snrg": round(float(random.uniform(15, 200)), 2),
        "teff": round(float(random.uniform(4300, 5200)), 1),
        "logg": round(float(random.uniform(1.5, 3.4)), 3),
        "feh": round(float(random.uniform(-1.0, 0.3)), 3),
        "ra": round(float(random.uniform(0, 360)), 6),
        "dec": round(float(random.uniform(-10, 60)), 6),
        "z": round(float(random.normal(0, 2e-4)), 8),
        "filename": f"spec-59522-M{i // 250:04d}_sp{i // 16 % 16 + 1:02d}-{i % 250 + 1:03d}.fits.gz",
    }


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % BLOCK)


def _write(path: Path, content: bytes, compresslevel: int) -> Path:
    path.write_bytes(gzip.compress(content, compresslevel, mtime=0) if path.suffix == ".gz" else content)
    return path
