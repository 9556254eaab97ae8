"""A changed parent table: rows keep their spectra, wherever they move to. A changed reader: a store of its own.

The store of the earlier table stays as ``earlier-spectra.zarr`` until every unit of the new one is done. Units whose
rows are the same rows at the same place are hard-linked chunk by chunk; in the others, each row is copied from the
earlier store if its key, its parent values and its file are unchanged, and read from its file otherwise. A crash at any
moment leaves at worst units without a record, which the next build does again from the earlier store.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from catalogue.pipeline.file_digests import forget_layout, record_layout
from catalogue.pipeline.manifest import Manifest
from catalogue.pipeline.plan import StagePlan
from catalogue.pipeline.records import write_record
from catalogue.pipeline.run import Run
from catalogue.spectra.store import StoreError, create_store, open_store


def adopt_parent(run: Run, earlier: Manifest | None, manifest: Manifest, parent: Path, plan: StagePlan) -> bool:
    """Make ``parent`` the run's parent table and lay the store out for it.

    Parameters
    ----------
    run : Run
    earlier : Manifest or None
        Manifest on disk.
    manifest : Manifest
        Manifest of ``parent``.
    parent : Path
        Imported table, possibly already the run's own.
    plan : StagePlan
        Ingest plan for ``parent``, from the records on disk.

    Returns
    -------
    bool
        Whether ``plan`` still holds; False where the store was laid out anew.
    """
    directory = run.directory
    if earlier is not None and _same_layout(earlier, manifest) and _made_for(run, directory.spectra):
        if parent != directory.parent:
            _replace_parent(run, parent)
        return True
    records = directory.ingest_records
    kept = records.with_name("earlier-ingest")
    shutil.rmtree(kept, ignore_errors=True)
    if records.is_dir():
        records.rename(kept)
    if directory.spectra.is_dir():
        if directory.earlier_spectra.is_dir():
            # A change upon an unfinished change: what was complete before the first one is still complete.
            shutil.rmtree(directory.spectra)
            plan = StagePlan(plan.name, ())
        else:
            if directory.parent.is_file():
                # Whole or not at all, and before the store has the name that says that its rows may be taken over.
                partial = directory.earlier_parent.with_name(directory.earlier_parent.name + ".partial")
                shutil.copyfile(directory.parent, partial)
                partial.replace(directory.earlier_parent)
            directory.spectra.rename(directory.earlier_spectra)
    else:
        plan = StagePlan(plan.name, ())  # somebody has removed the store: its records tell of nothing
    if parent != directory.parent:
        _replace_parent(run, parent)
    forget_layout(directory, directory.spectra)
    create_store(directory.spectra, run.survey, manifest.n_rows, manifest.chunk_rows, manifest.unit_rows, run.key)
    record_layout(directory, directory.spectra)
    for unit in plan.units:
        if unit.state == "done" and unit.record is not None:
            _link_unit(directory.earlier_spectra, directory.spectra, unit.start, unit.stop, manifest)
            write_record(records, unit.unit, unit.record)
    shutil.rmtree(kept, ignore_errors=True)
    return False


def _replace_parent(run: Run, parent: Path) -> None:
    forget_layout(run.directory, run.directory.parent)
    parent.replace(run.directory.parent)
    record_layout(run.directory, run.directory.parent)


def reuse_for(run: Run) -> tuple[str, str] | None:
    """Store and parent table whose rows may be taken over, or None."""
    directory = run.directory
    if (directory.earlier_spectra / "zarr.json").is_file() and directory.earlier_parent.is_file():
        return str(directory.earlier_spectra), str(directory.earlier_parent)
    return None


def finish_parent_change(run: Run) -> None:
    """Remove the earlier store once nothing needs it."""
    if run.directory.earlier_spectra.is_dir():
        shutil.rmtree(run.directory.earlier_spectra)
    run.directory.earlier_parent.unlink(missing_ok=True)


def _same_layout(earlier: Manifest, manifest: Manifest) -> bool:
    return (earlier.parent, earlier.n_rows, earlier.chunk_rows, earlier.unit_rows) == (
        manifest.parent,
        manifest.n_rows,
        manifest.chunk_rows,
        manifest.unit_rows,
    )


def _made_for(run: Run, spectra: Path) -> bool:
    """Whether there is a store, of the run's key and with the arrays that the survey's reader fills."""
    try:
        store = open_store(spectra)
    except StoreError:
        return False
    same = (store.attrs["reader_version"], store.attrs["key"]) == (run.survey.reader_version, run.key)
    return same and {column.name for column in run.survey.columns} <= set(store.array_keys())


def _link_unit(source: Path, target: Path, start: int, stop: int, manifest: Manifest) -> None:
    """Give the new store the chunk files of a unit; stores replace files, never write into them."""
    for array in sorted(path.parent for path in target.glob("*/zarr.json")):
        chunks = source / array.name / "c"
        if not chunks.is_dir():
            continue
        two_dimensional = array.name in ("flux", "ivar", "mask")
        rows = manifest.chunk_rows if two_dimensional else manifest.unit_rows
        if array.name == "wavelength":
            continue
        for index in range(start // rows, -(-stop // rows)):
            name = Path(str(index)) / "0" if two_dimensional else Path(str(index))
            if (chunks / name).is_file():
                destination = array / "c" / name
                destination.parent.mkdir(parents=True, exist_ok=True)
                destination.unlink(missing_ok=True)
                _link_or_copy(chunks / name, destination)


def _link_or_copy(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
