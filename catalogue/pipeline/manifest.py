"""The run's manifest: what the directory was laid out for, and the parent table's import."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from catalogue.pipeline.records import DamagedFile, digest_of, read_json, write_json
from catalogue.pipeline.run import Run
from catalogue.spectra.parent import IMPORT_VERSION, import_parent
from catalogue.spectra.parent_columns import unmatched_columns
from catalogue.spectra.store import choose_chunk_rows, choose_unit_rows
from catalogue.spectra.tables import open_table

FORMAT = 1


class ManifestError(Exception):
    """A run directory that was made by something else; the message says by what."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Layout of a run directory.

    Attributes
    ----------
    format : int
    survey : str
    source : str
        Signature of the parent table's file and of what was imported from it.
    parent : str
        Digest of the imported parent rows.
    n_rows, chunk_rows, unit_rows : int
    n_selected, n_duplicates : int
        Of the parent's rows.
    edition : str
        Digest of the inputs that :attr:`epoch` belongs to.
    epoch : int
        Seconds since 1970; the date inside all outputs.
    """

    format: int
    survey: str
    source: str
    parent: str
    n_rows: int
    chunk_rows: int
    unit_rows: int
    n_selected: int
    n_duplicates: int
    edition: str = ""
    epoch: int = 0

    @property
    def units(self) -> list[tuple[int, int, int]]:
        """Number, first row and end row of every unit."""
        return [
            (number, start, min(start + self.unit_rows, self.n_rows))
            for number, start in enumerate(range(0, self.n_rows, self.unit_rows))
        ]


def read_manifest(path: Path) -> Manifest | None:
    """Manifest of a run directory, or None if there is none.

    Raises
    ------
    ManifestError
        If it is of another format or damaged.
    """
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        raise ManifestError(str(error)) from error
    if content.get("format") != FORMAT:
        raise ManifestError(f"{path}: expected format {FORMAT}, found {content.get('format')}")
    try:
        return Manifest(**content)
    except TypeError as error:
        raise ManifestError(f"{path}: {error}") from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    write_json(path, asdict(manifest))


def source_signature(run: Run) -> str:
    """Digest of the parent file's name, size and time, and of what is imported from it, and how."""
    parent = run.configuration.parent.path
    facts = parent.stat()
    vocabulary = [(column.name, column.dtype, column.aliases) for column in run.survey.columns if column.aliases]
    return digest_of(
        parent.name, facts.st_size, facts.st_mtime_ns, run.survey.name, run.key, run.template,
        run.configuration.select, run.extra_columns, str(run.configuration.spectra.root),
        IMPORT_VERSION, vocabulary, run.survey.null_values,
    )  # fmt: skip


def imported_parent(run: Run, earlier: Manifest | None) -> tuple[Manifest, Path]:
    """Import the parent table unless the one on disk is still good.

    Returns
    -------
    manifest : Manifest
        For the parent table as it is now; not yet written.
    path : Path
        The imported table: the run's own, or ``parent.next.parquet`` if it differs.
    """
    source = source_signature(run)
    if earlier is not None and earlier.source == source and run.directory.parent.is_file():
        return _requested_chunks(run, earlier), run.directory.parent
    incoming = run.directory.root / "parent.next.parquet"
    layout = _layout(run, earlier)
    summary = import_parent(
        run.configuration.parent.path,
        incoming,
        survey=run.survey,
        key=run.key,
        template=run.template,
        root=run.configuration.spectra.root,
        rows_per_group=layout[1] if layout else 4096,
        select=run.configuration.select,
        extra_columns=run.extra_columns,
    )
    chunk_rows, unit_rows = layout or _fresh_layout(run, summary.n_rows)
    manifest = Manifest(
        FORMAT, run.survey.name, source, summary.digest, summary.n_rows, chunk_rows, unit_rows,
        summary.n_selected, summary.n_duplicates,
        earlier.edition if earlier else "", earlier.epoch if earlier else 0,
    )  # fmt: skip
    return manifest, incoming


def absent_columns(run: Run) -> list[str]:
    """Survey columns that a run's products use and its parent table lacks: they are missing in every row.

    Raises
    ------
    ParentError
        If the parent table cannot be opened.
    """
    used = {name for product in run.products for name in product.required_names}
    table = open_table(run.configuration.parent.path)
    return [name for name in unmatched_columns(table, run.survey) if name in used]


def _layout(run: Run, earlier: Manifest | None) -> tuple[int, int] | None:
    """Chunking of the earlier run, which a rerun keeps so that its chunks stay good."""
    wanted = run.configuration.spectra.chunk_rows
    if earlier is None or (wanted is not None and wanted != earlier.chunk_rows):
        return None
    return earlier.chunk_rows, earlier.unit_rows


def _fresh_layout(run: Run, n_rows: int) -> tuple[int, int]:
    chunk_rows = run.configuration.spectra.chunk_rows or choose_chunk_rows(n_rows, run.survey.grid.n_pixels)
    return chunk_rows, choose_unit_rows(n_rows, chunk_rows)


def _requested_chunks(run: Run, earlier: Manifest) -> Manifest:
    if _layout(run, earlier) is not None:
        return earlier
    chunk_rows, unit_rows = _fresh_layout(run, earlier.n_rows)
    return replace(earlier, chunk_rows=chunk_rows, unit_rows=unit_rows)


def dated(manifest: Manifest, edition: str, changed: bool) -> Manifest:
    """Give the manifest an epoch of its own if its inputs are not those that the epoch belongs to."""
    if manifest.epoch and manifest.edition == edition and not changed:
        return manifest
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return replace(manifest, edition=edition, epoch=epoch)
