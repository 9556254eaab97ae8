"""Files of a run against the digests that were written down when they were made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from catalogue.pipeline.file_digests import along_rows, file_digest, files_of_unit, layout_digests
from catalogue.pipeline.records import DamagedFile, Record, is_sealed, read_json, read_record
from catalogue.pipeline.run import RunDirectory
from catalogue.pipeline.tasks import content_digest
from catalogue.pipeline.verification.findings import Check, Finding, Tally
from catalogue.spectra.digests import ColumnDigest
from catalogue.spectra.store import PIXEL_ARRAYS, open_store, read_rows
from catalogue.spectra.unit_rows import SIGNATURES


def check_json(directory: RunDirectory) -> Check:
    """Seals of the manifest, the provenance and every record."""
    tally = Tally("manifest, records, provenance")
    singles = [directory.manifest, directory.root / "provenance.json"]
    records = sorted((directory.root / "records").rglob("*.json"))
    units = {path for path in records if path.parent.parent.name == "infer" or path.parent == directory.ingest_records}
    for path in [*(path for path in singles if path.is_file()), *records]:
        name = str(path.relative_to(directory.root))
        tally.checked += 1
        try:
            content = read_json(path)
            if path in units:
                Record(**content)
            tally.not_recorded += not is_sealed(path)
        except (DamagedFile, TypeError) as error:
            tally.add([Finding(name, str(error).removeprefix(f"{path}: "), remove=(name,))])
    return tally.check()


def check_layout(directory: RunDirectory, made: Path) -> Check:
    """The parent table, or a store's metadata and the arrays that do not run along rows.

    Parameters
    ----------
    directory : RunDirectory
    made : Path
        ``parent.parquet`` or a store.
    """
    name = str(made.relative_to(directory.root))
    tally = Tally(name if made.is_file() else f"{name}, metadata")
    digests = layout_digests(directory, made)
    found = [made] if made.is_file() else list(made.rglob("zarr.json"))
    if digests is None:
        tally.not_recorded = len(found)
        return tally.check()
    remove = _everything_of(directory, made)
    tally.add(_compare(directory.root, digests, remove=remove))
    tally.add(
        Finding(str(path.relative_to(directory.root)), "expected no such file", remove=remove)
        for path in found
        if str(path.relative_to(directory.root)) not in digests
    )
    tally.checked = len(digests)
    return tally.check()


def check_units(directory: RunDirectory, store: Path, records: Path) -> Check:
    """Chunk files and content of a store against the records of its units.

    Parameters
    ----------
    directory : RunDirectory
    store : Path
        ``spectra.zarr`` or predictions.
    records : Path
        Directory of the records of its units.
    """
    tally = Tally(str(store.relative_to(directory.root)))
    for unit, record in _records_of(store, records):
        remove = (str((records / f"{unit:06d}.json").relative_to(directory.root)),)
        name = tally.name
        if not record.files:
            tally.not_recorded += 1
        wrong = list(_compare(store, record.files, prefix=name, remove=remove, unit=record))
        for path in files_of_unit(store, record.start, record.stop) if record.files else ():
            inside = str(path.relative_to(store))
            if inside not in record.files:
                rows = (record.start, record.stop - 1)
                wrong.append(Finding(f"{name}/{inside}", "expected no such file", rows, remove))
        tally.add(wrong or _compare_content(store, record, name, remove))
        tally.checked += len(record.files) or 1
    return tally.check()


def _records_of(store: Path, records: Path) -> Iterator[tuple[int, Record]]:
    """Records that belong to the rows that the store has now."""
    attributes: Any = open_store(store).attrs
    n_rows, unit_rows = int(attributes["n_rows"]), int(attributes["unit_rows"])
    for unit, start in enumerate(range(0, n_rows, unit_rows)):
        record = read_record(records, unit)
        if record is not None and (record.start, record.stop) == (start, min(start + unit_rows, n_rows)):
            yield unit, record


def _compare(
    root: Path,
    digests: dict[str, str],
    *,
    prefix: str = "",
    remove: tuple[str, ...] = (),
    unit: Record | None = None,
) -> Iterator[Finding]:
    """Files that are missing or have another digest."""
    for name, expected in digests.items():
        try:
            found = file_digest(root / name)
        except FileNotFoundError:
            reason = "the file is missing"
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        else:
            if found == expected:
                continue
            reason = f"expected SHA-256 {expected[:12]}, found {found[:12]}"
        rows = None if unit is None else _rows_of_chunk(root, name, unit)
        yield Finding(f"{prefix}/{name}" if prefix else name, reason, rows, remove)


def _rows_of_chunk(store: Path, name: str, unit: Record) -> tuple[int, int]:
    """First and last row of a chunk file of a unit."""
    array = open_store(store)[name.split("/")[0]]
    chunk_rows = array.chunks[0]  # type: ignore[union-attr]
    first = int(name.split("/")[2]) * chunk_rows
    return max(first, unit.start), min(first + chunk_rows, unit.stop) - 1


def _compare_content(store: Path, record: Record, name: str, remove: tuple[str, ...]) -> list[Finding]:
    """Decoded rows against the digest that later stages were told."""
    rows = (record.start, record.stop - 1)
    try:
        found = _ingest_digest(store, record) if "rows" in record.inputs else _inference_digest(store, record)
    except Exception as error:  # a damaged chunk can fail in any way that its codec knows
        return [Finding(name, f"cannot be decoded: {error}", rows, remove)]
    if found == record.output:
        return []
    return [Finding(name, f"expected content digest {record.output[:12]}, found {found[:12]}", rows, remove)]


def _inference_digest(store: Path, record: Record) -> str:
    names = [name for name, _ in open_store(store).arrays()]
    return content_digest(read_rows(store, names, record.start, record.stop))


def _ingest_digest(store: Path, record: Record) -> str:
    group = open_store(store)
    apart = {*PIXEL_ARRAYS, *SIGNATURES}
    columns = [name for name, array in group.arrays() if along_rows(array) and name not in apart]
    digest = ColumnDigest()
    chunk_rows: Any = group.attrs["chunk_rows"]
    for start in range(record.start, record.stop, chunk_rows):
        digest.update(read_rows(group, PIXEL_ARRAYS, start, min(start + chunk_rows, record.stop)))
    values = read_rows(group, columns, record.start, record.stop)
    digest.update({name: np.asarray(column) for name, column in values.items()})
    return digest.hexdigest()


def _everything_of(directory: RunDirectory, made: Path) -> tuple[str, ...]:
    """What to remove so that a parent table or store is made anew."""
    records = {directory.parent: (), directory.spectra: (directory.ingest_records,)}
    paths = (made, *records.get(made, (directory.infer_records(made.stem),)))
    return tuple(str(path.relative_to(directory.root)) for path in paths)
