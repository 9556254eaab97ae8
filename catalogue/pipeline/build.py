"""The main job: bring a run's directory from whatever state it is in to the finished catalogue."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from catalogue.models import InferenceSettings
from catalogue.pipeline.contract import check_before_work
from catalogue.pipeline.file_digests import forget_layout, record_layout, record_missing_layouts
from catalogue.pipeline.lazy_cluster import LazyCluster
from catalogue.pipeline.lock import RunLock
from catalogue.pipeline.manifest import (
    Manifest,
    dated,
    imported_parent,
    read_manifest,
    write_manifest,
)
from catalogue.pipeline.merge import Merged, is_merged, merge, merge_inputs, merge_record, record_merge, stages_of
from catalogue.pipeline.outputs import write_provenance, write_report
from catalogue.pipeline.parent_change import adopt_parent, finish_parent_change, reuse_for
from catalogue.pipeline.plan import RunPlan, StagePlan, UnitPlan, earlier_rate, plan_infer, plan_ingest
from catalogue.pipeline.records import digest_of
from catalogue.pipeline.run import Run
from catalogue.pipeline.tasks import InferTask, IngestTask, ModelTask, UnitSummary, infer, ingest
from catalogue.spectra.primitives import RowColumn
from catalogue.spectra.store import create_row_arrays

SEEN_WITHIN_SECONDS = 90.0


class Interrupted(Exception):  # noqa: N818 - it is an order, not a fault
    """The run was told to stop; what is finished is on disk, and the same command goes on."""


class Progress(Protocol):
    """What a build tells about itself while it works."""

    def stage(self, name: str, rows: int, dashboard: str | None) -> AbstractContextManager[Callable[[int], None]]:
        """Context of a stage of ``rows`` rows, giving the function to call with every number of rows finished."""
        ...

    def note(self, text: str) -> None:
        """Tell something that is no error."""
        ...


class Quiet:
    """Tell nothing."""

    def stage(self, name: str, rows: int, dashboard: str | None) -> AbstractContextManager[Callable[[int], None]]:
        """Ignore everything."""
        return nullcontext(lambda finished: None)

    def note(self, text: str) -> None:
        """Ignore it."""


@dataclass
class BuildResult:
    """What a build did.

    Attributes
    ----------
    rows : int
    ingested, inferred : int
        Units done by this build, not by earlier ones.
    set_aside : list of str
        Units that were given up after repeated failures.
    merged : list of Merged
    """

    rows: int = 0
    ingested: int = 0
    inferred: int = 0
    set_aside: list[str] = field(default_factory=list)
    merged: list[Merged] = field(default_factory=list)

    @property
    def nothing_to_do(self) -> bool:
        """Whether everything was done before."""
        return not (self.ingested or self.inferred or self.set_aside or any(m.written for m in self.merged))


def build(
    run: Run,
    *,
    client: Any = None,
    allow_incomplete: bool = False,
    rescan: bool = False,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    configuration_text: str = "",
) -> BuildResult:
    """Build the catalogue of a run, doing only what is not done.

    Parameters
    ----------
    run : Run
    client : distributed.Client, optional
        A cluster that already runs; None starts the one that the configuration names, and only if there is work for it.
    allow_incomplete : bool
        Write the catalogue even if units were set aside; their rows say so.
    rescan : bool
        Compare every spectra file with its record, whatever ``spectra.check`` says.
    progress : Progress, optional
    stop : threading.Event, optional
        Set it to end early and cleanly.
    configuration_text : str
        YAML of the configuration, for the provenance.

    Returns
    -------
    BuildResult

    Raises
    ------
    ConfigurationError
        If a model cannot be applied, a product names an output that its model does not have, or there is no such
        cluster file.
    RunLocked
        If another run owns the directory, or has taken it over because this one stood still for minutes.
    MergeRefused
        If units are missing and ``allow_incomplete`` is False.
    Interrupted
        If ``stop`` was set before the end.
    """
    progress = progress or Quiet()
    stop = stop or threading.Event()
    run.directory.root.mkdir(parents=True, exist_ok=True)
    with RunLock(run.directory.lock, stop.set):
        sweep_partial_files(run.directory.root)
        manifest, known = _prepare(run, rescan)
        result = BuildResult(rows=manifest.n_rows)
        with LazyCluster(run, client, progress.note) as workers:
            ingest_plan = _do_ingest(run, manifest, known, workers, result, progress, stop, rescan)
            inferences = _do_infer(run, manifest, ingest_plan, workers, result, progress, stop)
        _merge_all(run, manifest, ingest_plan, inferences, result, progress, stop, allow_incomplete, configuration_text)
        if not result.set_aside:
            shutil.rmtree(run.directory.scratch, ignore_errors=True)
    return result


def plan(run: Run, rescan: bool = False) -> RunPlan:
    """What a build would do, and why. The parent table is imported if it changed; nothing else is touched.

    Raises
    ------
    ConfigurationError
        If a model cannot be applied, a product names an output that its model does not have, or there is no such
        cluster file.
    RunLocked
        If another run owns the directory.
    """
    run.directory.root.mkdir(parents=True, exist_ok=True)
    with RunLock(run.directory.lock):
        manifest, parent = imported_parent(run, read_manifest(run.directory.manifest))
        ingest_plan = plan_ingest(run, manifest, parent, rescan)
    inferences = {model.identity: plan_infer(run, model, ingest_plan) for model in run.models}
    units_to_do = any(stage.to_do for stage in [ingest_plan, *inferences.values()])
    products = {
        product.name: units_to_do
        or not is_merged(run, product, merge_inputs(run, product, manifest, ingest_plan, inferences))
        for product in run.products
    }
    if any(products.values()):
        check_before_work(run)
    seconds = sum(merge_record(run, p).get("seconds", 0.0) for p in run.products if products[p.name])
    return RunPlan(ingest_plan, inferences, products, earlier_rate(run), seconds)


def sweep_partial_files(root: Path) -> None:
    """Remove what a killed run left half-written."""
    for directory in (root, root / "predictions"):
        for entry in directory.glob("*.partial") if directory.is_dir() else []:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
    for entry in (root / "records").rglob("*.partial"):
        entry.unlink(missing_ok=True)


def sweep_partial_chunks(store: Path) -> None:
    """Remove the chunk files that killed workers left half-written in a store.

    Walks all chunks, hence only where there is work to do or a worker was lost. A worker of an earlier driver that is
    still writing loses its file, fails and tells nobody, since its driver is gone.
    """
    for entry in store.rglob("*.partial") if store.is_dir() else []:
        entry.unlink(missing_ok=True)


def _prepare(run: Run, rescan: bool) -> tuple[Manifest, StagePlan | None]:
    """Bring parent table, store layout and epoch up to date; gives the ingest plan if it needs no second look."""
    earlier = read_manifest(run.directory.manifest)
    manifest, parent = imported_parent(run, earlier)
    plan = plan_ingest(run, manifest, parent, rescan)
    changed = any(unit.state == "stale" for unit in plan.units)
    manifest = dated(manifest, digest_of(run.semantics, manifest.parent), changed)
    holds = adopt_parent(run, earlier, manifest, parent, plan)
    record_missing_layouts(run.directory)
    if manifest != earlier:
        write_manifest(run.directory.manifest, manifest)
    return manifest, plan if holds else None


def _do_ingest(
    run: Run,
    manifest: Manifest,
    known: StagePlan | None,
    workers: LazyCluster,
    result: BuildResult,
    progress: Progress,
    stop: threading.Event,
    rescan: bool,
) -> StagePlan:
    plan = known or plan_ingest(run, manifest, run.directory.parent, rescan)
    tasks = [(_task_key("ingest", unit), ingest, (_ingest_task(run, unit),)) for unit in plan.to_do]
    if tasks:
        check_before_work(run)  # before hours of reading
    stores = [run.directory.spectra]
    finished = _run_stage(run, "ingest", tasks, plan.to_do, stores, workers, result, progress, stop)
    result.ingested += len(finished)
    if tasks:
        plan = _seen(lambda: plan_ingest(run, manifest, run.directory.parent, rescan), finished)
    if not plan.to_do:
        finish_parent_change(run)
    return plan


def _task_key(stage: str, unit: UnitPlan) -> str:
    """Name of a task in messages: stage, unit and rows."""
    return f"{stage}-{unit.unit}-rows-{unit.start}-{unit.stop - 1}"


def _ingest_task(run: Run, unit: UnitPlan) -> IngestTask:
    directory = run.directory
    return IngestTask(
        unit.unit, unit.start, unit.stop, str(directory.spectra), str(directory.parent), run.survey.name,
        str(run.configuration.spectra.root), str(directory.ingest_records), unit.inputs, reuse_for(run),
    )  # fmt: skip


def _do_infer(
    run: Run,
    manifest: Manifest,
    ingest_plan: StagePlan,
    workers: LazyCluster,
    result: BuildResult,
    progress: Progress,
    stop: threading.Event,
) -> dict[str, StagePlan]:
    plans = {model.identity: plan_infer(run, model, ingest_plan) for model in run.models}
    tasks: list[tuple[str, Callable[..., UnitSummary], tuple[Any, ...]]] = []
    units = []
    for number, source in enumerate(ingest_plan.units):
        parts = [
            _model_task(run, model.identity, plans[model.identity].units[number])
            for model in run.models
            if plans[model.identity].units[number].state in ("new", "stale")
        ]
        if parts:
            task = InferTask(
                source.unit,
                source.start,
                source.stop,
                str(run.directory.spectra),
                manifest.chunk_rows,
                tuple(parts),
            )
            tasks.append((_task_key("infer", source), infer, (task,)))
            units.append(source)
    if tasks:
        check_before_work(run)
        _create_predictions(run, manifest)
    stores = [run.directory.predictions(model.identity) for model in run.models]
    finished = _run_stage(run, "infer", tasks, units, stores, workers, result, progress, stop)
    result.inferred += len(finished)
    if not tasks:
        return plans
    return {
        model.identity: _seen(lambda model=model: plan_infer(run, model, ingest_plan), finished)  # type: ignore[misc]
        for model in run.models
    }


def _seen(plan_again: Callable[[], StagePlan], finished: set[int]) -> StagePlan:
    """Plan of a stage after its tasks, once what the finished ones wrote is seen here.

    A client of NFS may for a minute go on calling a file missing that another machine has made since.
    """
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while True:
        plan = plan_again()
        unseen = [unit for unit in plan.units if unit.state == "new" and unit.unit in finished]
        if not unseen or time.monotonic() > deadline:
            return plan
        time.sleep(1.0)


def _model_task(run: Run, identity: str, unit: UnitPlan) -> ModelTask:
    model = next(model for model in run.models if model.identity == identity)
    inference = run.configuration.inference
    settings = InferenceSettings(model.settings["passes"], model.settings["seed"], inference.device, inference.granules)
    return ModelTask(
        str(model.bundle.path), model.bundle.digest, str(run.directory.predictions(identity)),
        str(run.directory.infer_records(identity)), unit.inputs, settings,
    )  # fmt: skip


def _create_predictions(run: Run, manifest: Manifest) -> None:
    """Create or resize the predictions of every model to the rows of the run."""
    for model in run.models:
        columns = [RowColumn(o.name, o.dtype, o.unit, o.description) for o in model.model.outputs]
        attributes = {
            "bundle": model.bundle.description.name,
            "digest": model.bundle.digest,
            **model.settings,
        }
        store = run.directory.predictions(model.identity)
        forget_layout(run.directory, store)
        create_row_arrays(store, columns, manifest.n_rows, manifest.unit_rows, attributes)
        record_layout(run.directory, store)


def _run_stage(
    run: Run,
    name: str,
    tasks: list[tuple[str, Callable[..., UnitSummary], tuple[Any, ...]]],
    units: Iterable[UnitPlan],
    stores: Iterable[Path],
    workers: LazyCluster,
    result: BuildResult,
    progress: Progress,
    stop: threading.Event,
) -> set[int]:
    """Run the tasks of a stage, given as name, function and arguments; returns the units that were done."""
    if not tasks:
        return set()
    if stop.is_set():
        raise Interrupted(f"stopped before stage {name}: what is finished is kept")
    import cluster

    for store in stores:
        sweep_partial_chunks(store)
    client = workers.get()
    done: set[int] = set()
    rows = sum(unit.stop - unit.start for unit in units)
    with progress.stage(name, rows, getattr(client, "dashboard_link", None)) as advance:

        def on_done(task: Any, summary: UnitSummary) -> None:
            done.add(summary.unit)
            advance(summary.rows)

        outcome = cluster.run_tasks(client, [cluster.Task(*task) for task in tasks], on_done=on_done, stop=stop)
    if outcome.repeated:
        sweep_partial_files(run.directory.root)
        for store in stores:
            sweep_partial_chunks(store)
    result.set_aside.extend(str(unit) for unit in outcome.set_aside)
    if stop.is_set():
        raise Interrupted(f"stopped in stage {name}: {len(done)} of {len(tasks)} units were finished and are kept")
    return done


def _merge_all(
    run: Run,
    manifest: Manifest,
    ingest_plan: StagePlan,
    inferences: dict[str, StagePlan],
    result: BuildResult,
    progress: Progress,
    stop: threading.Event,
    allow_incomplete: bool,
    configuration_text: str,
) -> None:
    for product in run.products:
        inputs = merge_inputs(run, product, manifest, ingest_plan, inferences)
        if is_merged(run, product, inputs):
            result.merged.append(Merged(product.name, (), manifest.n_rows, False))
            continue
        check_before_work(run)
        began = time.perf_counter()
        with progress.stage(f"merge {product.name}", manifest.n_rows, None) as advance:

            def on_rows(rows: int, advance: Callable[[int], None] = advance, name: str = product.name) -> None:
                advance(rows)
                if stop.is_set():
                    raise Interrupted(f"stopped while {name} was written: all units are finished and kept")

            merged, collector = merge(
                run,
                product,
                manifest,
                ingest_plan,
                inferences,
                allow_incomplete=allow_incomplete,
                on_rows=on_rows,
            )
        result.merged.append(merged)
        if run.configuration.output.report:
            stages = stages_of(run, product, ingest_plan, inferences)
            write_report(run, product, manifest, collector, merged, stages)
        record_merge(run, product, merged, inputs, time.perf_counter() - began)
    write_provenance(run, manifest, ingest_plan, configuration_text)
