"""Small ingested surveys, and what their stores hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catalogue.spectra.ingest import IngestSummary, ingest_unit, input_digest
from catalogue.spectra.parent import import_parent
from catalogue.spectra.paths import SpectraRoot
from catalogue.spectra.primitives import RowStatus
from catalogue.spectra.store import create_store, read_rows
from catalogue.surveys import load_survey

SURVEY = load_survey("lamost-lrs")
CHUNK = 64


@dataclass
class Ingested:
    store: Path
    parent: Path
    root: Path
    n_rows: int
    summaries: list[IngestSummary]

    def read(self, *names: str) -> dict[str, np.ndarray]:
        return read_rows(self.store, names, 0, self.n_rows)

    @property
    def statuses(self) -> list[str]:
        return [RowStatus(value).name for value in self.read("status")["status"].tolist()]

    @property
    def digests(self) -> list[str]:
        return [summary.digest for summary in self.summaries]

    @property
    def inputs(self) -> list[str]:
        return [
            input_digest(self.parent, SpectraRoot(self.root), start, min(start + 2 * CHUNK, self.n_rows))
            for start in range(0, self.n_rows, 2 * CHUNK)
        ]


def run(csv: Path, root: Path, work: Path, *, key: str = "obsid", select: str | None = None, chunk_rows: int = CHUNK,
        reuse: Ingested | None = None, template: str = "{filename}", **settings: Any) -> Ingested:  # fmt: skip
    """Import a table, create a store and ingest all its units (of two chunks)."""
    work.mkdir(exist_ok=True)
    parent, store, unit_rows = work / "parent.parquet", work / "spectra.zarr", 2 * chunk_rows
    n_rows = import_parent(
        csv, parent, survey=SURVEY, key=key, template=template, rows_per_group=unit_rows, select=select
    ).n_rows
    create_store(store, SURVEY, n_rows, chunk_rows, unit_rows, key)
    earlier = None if reuse is None else (str(reuse.store), str(reuse.parent))
    summaries = [
        ingest_unit(store, parent, SURVEY.name, root, start, min(start + unit_rows, n_rows), reuse=earlier, **settings)
        for start in range(0, n_rows, unit_rows)
    ]
    return Ingested(store, parent, root, n_rows, summaries)
