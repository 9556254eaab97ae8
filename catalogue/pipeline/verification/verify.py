"""All checks of a run, in an order in which none trips over what an earlier one has found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from catalogue.pipeline.file_digests import laid_out
from catalogue.pipeline.lock import RunLock
from catalogue.pipeline.manifest import Manifest, ManifestError, read_manifest
from catalogue.pipeline.merge import is_merged, merge_inputs, stages_of
from catalogue.pipeline.plan import StagePlan, plan_infer, plan_ingest
from catalogue.pipeline.run import Run
from catalogue.pipeline.verification import sample as sampling
from catalogue.pipeline.verification.findings import Check, Finding, Verification
from catalogue.pipeline.verification.integrity import check_json, check_layout, check_units
from catalogue.pipeline.verification.outputs import check_outputs


class NothingToVerify(Exception):  # noqa: N818 - it states a fact
    """A directory in which nothing has been built."""


def verify(run: Run, *, rows: int = 16, seed: int = 0) -> Verification:
    """Compare all that a run has left on disk with what it wrote, and some rows with the raw files.

    Parameters
    ----------
    run : Run
    rows : int
        Rows that are made again from the raw files by a second, slow program; 0 for none.
    seed : int
        Of their choice.

    Returns
    -------
    Verification

    Raises
    ------
    NothingToVerify
        If nothing has been built.
    RunLocked
        If a run owns the directory.
    """
    directory = run.directory
    if not directory.manifest.is_file():
        raise NothingToVerify(f"{directory.root}: nothing has been built")
    writable = os.access(directory.root, os.W_OK)
    lock: AbstractContextManager[object] = RunLock(directory.lock) if writable else nullcontext()
    found = Verification()
    with lock:
        found.checks.append(check_json(directory))
        found.checks.extend(_check_stores(run))
        if not found.findings:
            _check_contents(run, found, rows, seed)
        else:
            found.checks.extend(check_outputs(run, product, [], False) for product in run.products)
    return found


def _check_stores(run: Run) -> Iterator[Check]:
    for made in laid_out(run.directory):
        layout = check_layout(run.directory, made)
        yield layout
        if made.is_dir() and not layout.findings:
            records = run.directory.infer_records(made.stem)
            yield _guarded(run, made, run.directory.ingest_records if made == run.directory.spectra else records)


def _guarded(run: Run, store: Path, records: Path) -> Check:
    """Units of a store whose metadata may be damaged without anybody having written down what they were."""
    try:
        return check_units(run.directory, store, records)
    except Exception as error:  # damage can make readers fail in any way
        name = str(store.relative_to(run.directory.root))
        return Check(name, 0, findings=(Finding(name, f"cannot be read: {error}"),))


def _check_contents(run: Run, found: Verification, rows: int, seed: int) -> None:
    """Outputs and the sample; called only if the stores are sound."""
    manifest = _manifest(run)
    if not run.directory.parent.is_file():
        found.to_do = True
        return
    ingest = plan_ingest(run, manifest, run.directory.parent)
    inferences = {model.identity: plan_infer(run, model, ingest) for model in run.models}
    current = {
        product.name: is_merged(run, product, merge_inputs(run, product, manifest, ingest, inferences))
        for product in run.products
    }
    found.to_do = not all(current.values()) or any(stage.to_do for stage in (ingest, *inferences.values()))
    for product in run.products:
        stages = stages_of(run, product, ingest, inferences)
        finished = not any(stage.to_do for stage in stages)
        found.checks.append(check_outputs(run, product, stages, finished))
    if rows and run.directory.spectra.is_dir():
        found.checks.extend(_check_sample(run, found, ingest, inferences, current, rows, seed))


def _check_sample(
    run: Run,
    found: Verification,
    ingest: StagePlan,
    inferences: dict[str, StagePlan],
    current: dict[str, bool],
    rows: int,
    seed: int,
) -> Iterator[Check]:
    sample = sampling.draw(run, ingest, rows, seed)
    yield sampling.check_parent(run, sample)
    yield sampling.check_spectra(run, sample)
    for model in run.models:
        if run.directory.predictions(model.identity).is_dir():
            yield sampling.check_predictions(run, model, sample, inferences[model.identity])
    for product in run.products:
        damaged = any(check.findings for check in found.checks if check.name == product.name)
        if current[product.name] and not damaged:
            stages = stages_of(run, product, ingest, inferences)
            yield sampling.check_catalogue(run, product, sample, stages)


def _manifest(run: Run) -> Manifest:
    manifest = read_manifest(run.directory.manifest)
    if manifest is None:
        raise ManifestError(f"{run.directory.manifest}: gone since the verification began")
    return manifest
