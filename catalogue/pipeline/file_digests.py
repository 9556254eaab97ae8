"""Digests of the files of a run, written down when the files are made, so that damage can be found later."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zarr

from catalogue.pipeline.records import DamagedFile, read_json, write_json
from catalogue.pipeline.run import RunDirectory
from catalogue.spectra.store import open_store


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises
    ------
    OSError
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digests(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """Digest of each file by its path relative to ``root``, sorted; all of them are on the disk then.

    What names the digests is flushed itself: without this it could outlive the files in a crash of the machine.
    """
    digests = {}
    for path in sorted(files):
        digests[str(path.relative_to(root))] = file_digest(path)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    return digests


def files_of_unit(store: Path, start: int, stop: int) -> list[Path]:
    """Chunk files of some rows that exist; chunks of nothing but missing pixels have none.

    Parameters
    ----------
    store : Path
    start, stop : int
        Whole chunks.
    """
    files = []
    for name, array in open_store(store).arrays():
        if along_rows(array):
            rows = array.chunks[0]
            tail = ("0",) * (array.ndim - 1)
            paths = (store.joinpath(name, "c", str(i), *tail) for i in range(start // rows, -(-stop // rows)))
            files += [path for path in paths if path.is_file()]
    return files


def files_of_layout(store: Path) -> list[Path]:
    """Files of a store that belong to no unit: metadata, and arrays that do not run along rows."""
    apart = [name for name, array in open_store(store).arrays() if not along_rows(array)]
    chunks = [path for name in apart for path in (store / name / "c").rglob("*") if path.is_file()]
    return [store / "zarr.json", *store.glob("*/zarr.json"), *chunks]


def along_rows(array: zarr.Array) -> bool:
    """Whether an array has one value, or line of values, per row of the parent table."""
    names: Any = array.metadata.dimension_names  # type: ignore[union-attr]
    return bool(names) and names[0] == "row"


def laid_out(directory: RunDirectory) -> list[Path]:
    """The parent table and the stores of a run that exist."""
    stores = sorted((directory.root / "predictions").glob("*.zarr"))
    return [path for path in (directory.parent, directory.spectra, *stores) if path.exists()]


def record_layout(directory: RunDirectory, made: Path) -> None:
    """Write down the digests of a parent table or of a store's layout.

    Parameters
    ----------
    directory : RunDirectory
    made : Path
        ``parent.parquet`` or a store.
    """
    files = files_of_layout(made) if made.is_dir() else [made]
    write_json(directory.layout_record(made), {"files": file_digests(directory.root, files)})


def forget_layout(directory: RunDirectory, made: Path) -> None:
    """Drop what :func:`record_layout` wrote. Called before the files change, so that a record never outlives them."""
    directory.layout_record(made).unlink(missing_ok=True)


def record_missing_layouts(directory: RunDirectory) -> None:
    """Write down what has no record, as after a crash or an earlier release."""
    for made in laid_out(directory):
        if layout_digests(directory, made) is None:
            record_layout(directory, made)


def layout_digests(directory: RunDirectory, made: Path) -> dict[str, str] | None:
    """What :func:`record_layout` wrote, or None."""
    try:
        found: dict[str, str] = read_json(directory.layout_record(made))["files"]
    except (FileNotFoundError, DamagedFile, KeyError):
        return None
    return found
