"""What is done, what is not, and which rows have problems: from the disk alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from catalogue.pipeline.lock import lock_owner
from catalogue.pipeline.manifest import Manifest, read_manifest, source_signature
from catalogue.pipeline.merge import is_merged, merge_inputs
from catalogue.pipeline.plan import StagePlan, plan_infer, plan_ingest
from catalogue.pipeline.run import Run
from catalogue.report import Problem
from catalogue.spectra.primitives import RowStatus
from catalogue.spectra.store import read_rows


@dataclass(frozen=True)
class RunStatus:
    """State of a run's directory.

    Attributes
    ----------
    manifest : Manifest or None
        None if nothing was ever started.
    owner : str or None
        Run that holds the directory now.
    stages : tuple of StagePlan
    rows : dict of str to int
        Rows by status name; rows of units that are not done count as ``NOT_PROCESSED``.
    products : dict of str to bool
        Whether each product's files are up to date.
    parent_changed : bool
        Whether the parent table, or what of it is wanted, is not what was imported; nothing is up to date then.
    """

    manifest: Manifest | None
    owner: str | None
    stages: tuple[StagePlan, ...]
    rows: dict[str, int]
    products: dict[str, bool]
    parent_changed: bool = False

    @property
    def finished(self) -> bool:
        """Whether a build would find nothing to do, as far as the records say."""
        return bool(self.products) and all(self.products.values()) and not any(s.to_do for s in self.stages)


def run_status(run: Run) -> RunStatus:
    """Read the state of a run; nothing is imported, started or changed."""
    manifest = read_manifest(run.directory.manifest)
    owner = lock_owner(run.directory.lock)
    if manifest is None or not run.directory.parent.is_file():
        return RunStatus(manifest, owner, (), {}, {product.name: False for product in run.products})
    ingest = plan_ingest(run, manifest, run.directory.parent)
    inferences = {model.identity: plan_infer(run, model, ingest) for model in run.models}
    rows: Counter[str] = Counter()
    for unit in ingest.units:
        if unit.state == "done" and unit.record is not None:
            rows.update(unit.record.counts)
        else:
            rows[RowStatus.NOT_PROCESSED.name] += unit.stop - unit.start
    changed = source_signature(run) != manifest.source
    products = {
        product.name: not changed and is_merged(run, product, merge_inputs(run, product, manifest, ingest, inferences))
        for product in run.products
    }
    return RunStatus(manifest, owner, (ingest, *inferences.values()), dict(rows), products, changed)


NO_PROBLEM = (RowStatus.OK, RowStatus.NOT_SELECTED)
"""Statuses that a run's author expects: listed among the problems, the rows left out would hide all others."""


def problems(run: Run) -> Iterator[Problem]:
    """Rows whose status is none of :data:`NO_PROBLEM`, in row order, read unit by unit."""
    manifest = read_manifest(run.directory.manifest)
    if manifest is None or not run.directory.spectra.is_dir():
        return
    for _, start, stop in manifest.units:
        columns = read_rows(run.directory.spectra, ["status", "reason", run.key], start, stop)
        for offset in (~np.isin(columns["status"], NO_PROBLEM)).nonzero()[0]:
            status = RowStatus(int(columns["status"][offset]))
            reason = str(columns["reason"][offset]) or status.meaning
            yield Problem(start + int(offset), str(columns[run.key][offset]), status.name, reason)
