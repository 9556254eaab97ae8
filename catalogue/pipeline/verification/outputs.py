"""Catalogue files against their digests and their own checksums, and the rows that damage has reached."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from catalogue.datamodels import DataModel
from catalogue.pipeline.file_digests import file_digest
from catalogue.pipeline.merge import files_of_output, merge_record, output_path, rows_of_product
from catalogue.pipeline.plan import StagePlan
from catalogue.pipeline.run import Run
from catalogue.pipeline.verification.findings import Check, Finding, Tally
from catalogue.writers.healpix import ROW_COLUMN

_BLOCK_BYTES = 1 << 24
_WORDS = 0xFFFFFFFF


def check_outputs(run: Run, product: DataModel, stages: list[StagePlan], up_to_date: bool) -> Check:
    """Files of a product.

    Parameters
    ----------
    run : Run
    product : DataModel
    stages : list of StagePlan
        Ingest, and the inference of each model that the product uses.
    up_to_date : bool
        Whether the files are made of what the stores hold, so that damaged rows can be told.
    """
    tally = Tally(product.name)
    record = merge_record(run, product)
    digests: dict[str, str] = record.get("digests", {})
    remove = (str(run.directory.merge_record(product.name).relative_to(run.directory.root)),)
    damaged = set()
    for name, expected in digests.items():
        tally.checked += 1
        reason = _difference(run.directory.root / name, expected)
        if reason is not None:
            damaged.add(name.split("/")[0])
            tally.add([Finding(name, reason, remove=remove)])
    for name in record.get("files", {}):
        path = run.directory.root / name
        known = [file for file in files_of_output(path) if str(file.relative_to(run.directory.root)) in digests]
        tally.not_recorded += 0 if known or not path.exists() else 1
        if path.exists() and (reason := own_checksum(path)) is not None:
            damaged.add(name)
            tally.add([Finding(name, reason, remove=remove)])
    current = {output_path(run, product, name).name for name in run.configuration.output.formats}
    for name in sorted(damaged & current) if up_to_date else ():
        path = run.directory.root / name
        tally.add([Finding(name, _reach(run, product, stages, path), remove=remove)])
    return tally.check()


def _difference(path: Path, expected: str) -> str | None:
    try:
        found = file_digest(path)
    except FileNotFoundError:
        return "the file is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if found == expected else f"expected SHA-256 {expected[:12]}, found {found[:12]}"


def own_checksum(path: Path) -> str | None:
    """What a file's own checksums (FITS CHECKSUM and DATASUM, gzip CRC) say against it; None if nothing."""
    try:
        if path.suffix == ".fits":
            return _fits_checksum(path)
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                while stream.read(_BLOCK_BYTES):
                    pass
    except Exception as error:  # damage can make readers fail in any way
        return f"cannot be read: {error}"
    return None


def _fits_checksum(path: Path) -> str | None:
    with fits.open(path, memmap=True, checksum=False) as hdus, path.open("rb") as stream:
        for number, hdu in enumerate(hdus):
            place = hdu.fileinfo()
            start, data, end = place["hdrLoc"], place["datLoc"], place["datLoc"] + place["datSpan"]
            if "DATASUM" in hdu.header and _sum_of(stream, data, end) != int(hdu.header["DATASUM"]):
                return f"DATASUM of extension {number} does not fit its data"
            if "CHECKSUM" in hdu.header and _sum_of(stream, start, end) not in (0, _WORDS):
                return f"CHECKSUM of extension {number} does not fit it"
    return None


def _sum_of(stream: Any, start: int, end: int) -> int:
    """Ones'-complement sum of big-endian words of 32 bits."""
    stream.seek(start)
    total = 0
    while start < end:
        content = stream.read(min(_BLOCK_BYTES, end - start))
        total += int(np.frombuffer(content, ">u4").sum(dtype=np.uint64))
        start += len(content)
    while total > _WORDS:
        total = (total & _WORDS) + (total >> 32)
    return total


def _reach(run: Run, product: DataModel, stages: list[StagePlan], path: Path) -> str:
    """Which rows of a damaged file are not those that the stores give."""
    try:
        rows = list(_rows_that_differ(run, product, stages, path))
    except Exception as error:  # damage can make readers fail in any way
        return f"which rows are damaged cannot be told: {error}"
    if not rows:
        return "no row differs: the damage lies in metadata or between the values"
    listed = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
    return f"damaged rows: {listed}"


def _rows_that_differ(run: Run, product: DataModel, stages: list[StagePlan], path: Path) -> Iterator[int]:
    from catalogue.query import open_table

    table = open_table(path)
    if ROW_COLUMN in table.columns:
        raise ValueError("the file has an order of its own")
    for start, columns in rows_of_product(run, product, stages):
        count = len(next(iter(columns.values())))
        found = table.read(list(columns), start, start + count)
        different = np.zeros(count, bool)
        for name, expected in columns.items():
            different |= _differ(found[name], expected)
        yield from (start + int(row) for row in np.flatnonzero(different))


def _differ(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two columns differ; missing equals missing."""
    if expected.dtype.kind not in "fiub":
        return np.array([str(a) != str(b) for a, b in zip(found.tolist(), expected.tolist(), strict=True)], bool)
    if expected.dtype.kind == "f":
        # as many digits as a text file has
        return ~np.isclose(found.astype(float), expected.astype(float), rtol=1e-6, atol=0, equal_nan=True)
    return np.asarray(found != expected)
