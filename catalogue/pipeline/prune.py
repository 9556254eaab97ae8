"""Predictions of models that a run no longer uses."""

from __future__ import annotations

import shutil
from pathlib import Path

from catalogue.pipeline.file_digests import forget_layout
from catalogue.pipeline.lock import RunLock
from catalogue.pipeline.run import Run


def unused_predictions(run: Run) -> list[Path]:
    """Predictions in the run's directory that belong to none of its models, sorted."""
    used = {run.directory.predictions(model.identity) for model in run.models}
    return sorted(path for path in (run.directory.root / "predictions").glob("*.zarr") if path not in used)


def prune(run: Run) -> list[Path]:
    """Remove unused predictions and their records; returns what was removed.

    Raises
    ------
    RunLocked
        If a run owns the directory.
    """
    if not run.directory.root.is_dir():
        return []
    with RunLock(run.directory.lock):
        removed = unused_predictions(run)
        for path in removed:
            # Records first: predictions without a record are redone, records without predictions would be believed.
            shutil.rmtree(run.directory.infer_records(path.stem), ignore_errors=True)
            forget_layout(run.directory, path)
            shutil.rmtree(path)
    return removed
