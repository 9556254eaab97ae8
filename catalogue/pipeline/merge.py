"""Merge: stores and data model in, catalogue files out, streaming in row order with constant memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalogue.datamodels import DataModel, numpy_dtype
from catalogue.pipeline.faults import fault_point
from catalogue.pipeline.file_digests import file_digests
from catalogue.pipeline.manifest import Manifest
from catalogue.pipeline.plan import StagePlan, UnitPlan
from catalogue.pipeline.provenance import header_cards
from catalogue.pipeline.records import DamagedFile, digest_of, read_json, write_json
from catalogue.pipeline.run import AppliedModel, Run
from catalogue.pipeline.tasks import content_digest
from catalogue.report import ReportCollector
from catalogue.spectra.primitives import RowStatus
from catalogue.spectra.store import read_rows
from catalogue.writers import Writer, writer_for


class MergeRefused(Exception):  # noqa: N818 - it states a decision
    """Counts or digests do not add up; nothing was written."""


@dataclass(frozen=True)
class Merged:
    """Outputs of one product's merge."""

    product: str
    files: tuple[Path, ...]
    rows: int
    written: bool


def merge_inputs(
    run: Run, product: DataModel, manifest: Manifest, ingest: StagePlan, inferences: Mapping[str, StagePlan]
) -> str:
    """Digest of everything that a product's files are made of."""
    used = identities_of(run, product)
    return digest_of(
        product.digest,
        run.configuration.options,
        manifest.parent,
        manifest.epoch,
        [unit.record.output if unit.record and unit.state == "done" else None for unit in ingest.units],
        [
            [
                identity,
                [unit.record.output if unit.record and unit.state == "done" else None for unit in stage.units],
            ]
            for identity, stage in sorted(inferences.items())
            if identity in used
        ],
    )


def stages_of(run: Run, product: DataModel, ingest: StagePlan, inferences: Mapping[str, StagePlan]) -> list[StagePlan]:
    """Ingest, and the inference of each model that a product uses, in the product's order."""
    return [ingest, *(inferences[run.model_for(product, alias).identity] for alias in product.uses)]


def identities_of(run: Run, product: DataModel) -> list[str]:
    """Identities of the models that a product uses, sorted."""
    return sorted(run.model_for(product, alias).identity for alias in product.uses)


def output_path(run: Run, product: DataModel, format_name: str) -> Path:
    """File of a product in a format."""
    writer = writer_for(format_name)
    return run.directory.root / (product.file_names.get(format_name) or f"{product.name}{writer.suffix}")


def is_merged(run: Run, product: DataModel, inputs: str) -> bool:
    """Whether all files of a product are there, unchanged since they were made from ``inputs``."""
    record = merge_record(run, product)
    if record.get("inputs") != inputs or (run.configuration.output.report and not report_path(run, product).exists()):
        return False
    wanted = [output_path(run, product, name) for name in run.configuration.output.formats]
    return all(path.name in record["files"] and record["files"][path.name] == signature(path) for path in wanted)


def merge_record(run: Run, product: DataModel) -> dict[str, Any]:
    """What is written down of a product's last merge; empty if there is nothing, or it is damaged."""
    try:
        return read_json(run.directory.merge_record(product.name))
    except (FileNotFoundError, DamagedFile):
        return {}


def signature(path: Path) -> list[int] | None:
    """Size and time of a file, or of a directory's metadata file; None if it is not there."""
    described = [path / name for name in ("zarr.json", "hats.properties")]
    target = next((file for file in described if file.is_file()), path)
    try:
        facts = target.stat()
    except FileNotFoundError:
        return None
    return [facts.st_size, facts.st_mtime_ns]


def report_path(run: Run, product: DataModel) -> Path:
    """Report page of a product: ``report.html``, or by the product's name if there are several."""
    return run.directory.root / ("report.html" if len(run.products) == 1 else f"{product.name}.report.html")


def merge(
    run: Run,
    product: DataModel,
    manifest: Manifest,
    ingest: StagePlan,
    inferences: Mapping[str, StagePlan],
    *,
    allow_incomplete: bool = False,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> tuple[Merged, ReportCollector]:
    """Write all files of a product; they count as merged only after :func:`record_merge`.

    Raises
    ------
    MergeRefused
        If a unit is not done (unless ``allow_incomplete``, which marks its rows), or what a store holds is not what
        its record says.
    """
    stages = stages_of(run, product, ingest, inferences)
    missing = [f"{stage.name} {unit.unit}" for stage in stages for unit in stage.to_do]
    if missing and not allow_incomplete:
        raise MergeRefused(f"{product.name}: {len(missing)} units are not done: {', '.join(missing[:5])}")
    cards = header_cards(run, product, manifest, complete=not missing)
    paths = {name: output_path(run, product, name) for name in run.configuration.output.formats}
    writers: list[Writer] = []
    collector = ReportCollector(product, run.survey.title)
    try:
        for name, path in paths.items():
            writers.append(writer_for(name)(path, product, manifest.n_rows, cards))
        _stream(run, product, manifest, stages, writers, collector, on_rows)
        _void_record(run, product, {writer.path.name for writer in writers})
        for writer in writers:
            fault_point("merge", writer.format, "before")
            writer.close()
            fault_point("merge", writer.format, "written")
    except BaseException:
        for writer in writers:
            writer.abort()
        for path in paths.values():
            _discard(path.with_name(path.name + ".partial"))
        raise
    return Merged(product.name, tuple(writer.path for writer in writers), manifest.n_rows, True), collector


def _discard(partial: Path) -> None:
    """Remove what a writer left that could not even begin, as on a full disk."""
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


def record_merge(run: Run, product: DataModel, merged: Merged, inputs: str, seconds: float) -> None:
    """Write down that a product's files are made of ``inputs``, and what they are; the last step of a merge.

    Parameters
    ----------
    run : Run
    product : DataModel
    merged : Merged
    inputs : str
        Of :func:`merge_inputs`.
    seconds : float
        Time that it took, for later estimates.
    """
    known = merge_record(run, product).get("digests", {})
    kept = _without_stale_files(run, product, inputs, merged.files)
    digests = {name: digest for name, digest in known.items() if name.split("/")[0] in {path.name for path in kept}}
    written = [file for path in merged.files for file in files_of_output(path)]
    if run.configuration.output.report:
        written.append(report_path(run, product))
    outputs = (*kept, *merged.files)
    write_json(
        run.directory.merge_record(product.name),
        {
            "inputs": inputs,
            "rows": merged.rows,
            "seconds": seconds,
            "files": {path.name: signature(path) for path in outputs},
            "digests": {**digests, **file_digests(run.directory.root, written)},
        },
    )
    fault_point("merge", product.name, "after")


def files_of_output(path: Path) -> list[Path]:
    """All files of one output: those of a directory, or the file and the text beside a CSV file."""
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file()]
    beside = _text_beside(path)
    return [path, beside] if beside.is_file() else [path]


def _text_beside(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".gz") + ".txt")


def _void_record(run: Run, product: DataModel, replaced: set[str]) -> None:
    """Take back what is written down of files about to be replaced, but for their names."""
    earlier = merge_record(run, product)
    if earlier:
        kept = {name: value for name, value in earlier.get("digests", {}).items() if name.split("/")[0] not in replaced}
        kept.pop(report_path(run, product).name, None)
        inputs = earlier["inputs"] or earlier.get("before", "")
        content = {**earlier, "inputs": "", "before": inputs, "digests": kept}
        write_json(run.directory.merge_record(product.name), content)


def _without_stale_files(run: Run, product: DataModel, inputs: str, written: tuple[Path, ...]) -> list[Path]:
    """Remove files of formats no longer asked for if they were made from other inputs; gives those that stay.

    Otherwise a CSV of the last model would lie beside a FITS file of this one.
    """
    earlier = merge_record(run, product)
    others = [
        run.directory.root / name for name in earlier.get("files", ()) if run.directory.root / name not in written
    ]
    if inputs in (earlier.get("inputs"), earlier.get("before")):
        return [path for path in others if path.exists()]
    for path in others:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
            _text_beside(path).unlink(missing_ok=True)
    return []


def _stream(
    run: Run,
    product: DataModel,
    manifest: Manifest,
    stages: Sequence[StagePlan],
    writers: Sequence[Writer],
    collector: ReportCollector,
    on_rows: Callable[[int], None],
) -> None:
    rows = 0
    for unit, (start, columns) in zip(stages[0].units, rows_of_product(run, product, stages), strict=True):
        if start != rows:
            raise MergeRefused(f"{product.name}: expected row {rows} next, found {start}")
        fault_point("merge", unit.unit, "before")
        for writer in writers:
            writer.write(columns)
        collector.add(start, columns)
        rows = unit.stop
        on_rows(rows - start)
    if not manifest.n_rows:
        # An empty parent table gives an empty catalogue, and everybody is still shown its columns.
        collector.add(0, {column.name: np.empty(0, numpy_dtype(column.dtype)) for column in product.columns})
    if rows != manifest.n_rows:
        raise MergeRefused(f"{product.name}: expected {manifest.n_rows} rows, found {rows}")


def rows_of_product(
    run: Run, product: DataModel, stages: Sequence[StagePlan]
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """First row and columns of a product, unit by unit, those of the next being made while the caller writes.

    Parameters
    ----------
    run : Run
    product : DataModel
    stages : sequence of StagePlan
        Ingest, and the inference of each model that the product uses, in the product's order.
    """
    sources = _Sources(run, product)
    every = list(zip(*(stage.units for stage in stages), strict=True))

    def columns(units: tuple[UnitPlan, ...]) -> dict[str, NDArray[Any]]:
        return product.evaluate(sources.read(units), run.configuration.options)

    with ThreadPoolExecutor(1) as reader:
        pending = [reader.submit(columns, units) for units in every[:1]]
        for number, units in enumerate(every):
            found = pending.pop().result()
            pending = [reader.submit(columns, following) for following in every[number + 1 : number + 2]]
            yield units[0].start, found


class _Sources:
    """Namespace of the rows of a unit: store columns, extra parent columns, predictions and bundle facts."""

    def __init__(self, run: Run, product: DataModel) -> None:
        names = product.required_names
        stored = {column.name for column in run.survey.columns} | {"status"}
        self.run = run
        self.names = names
        self.stored = sorted({"status", *(name for name in names if name in stored)})
        self.extra = [name for name in run.extra_columns if name in names]
        self.parent = pq.ParquetFile(run.directory.parent) if self.extra else None
        self.models: dict[str, AppliedModel] = {alias: run.model_for(product, alias) for alias in product.uses}
        self.outputs = {alias: model.model.outputs for alias, model in self.models.items()}

    def read(self, units: Sequence[UnitPlan]) -> dict[str, Any]:
        ingest, *inferences = units
        start, stop = ingest.start, ingest.stop
        if ingest.state == "done":
            namespace: dict[str, Any] = dict(read_rows(self.run.directory.spectra, self.stored, start, stop))
        else:
            namespace = self._set_aside(start, stop)
        namespace["row"] = np.arange(start, stop)
        namespace.update(self._extra_columns(start, stop))
        for (alias, model), unit in zip(self.models.items(), inferences, strict=True):
            namespace.update(self._predictions(alias, model, unit, start, stop))
            namespace.update(self._facts(alias, model))
            if unit.state != "done":
                namespace["status"] = np.full(stop - start, RowStatus.SET_ASIDE, np.uint8)
        return namespace

    def _facts(self, alias: str, model: AppliedModel) -> dict[str, Any]:
        """Domain and novelty limit of a bundle; what it does not state is no limit."""
        description = model.bundle.description
        prefix = f"{alias}.domain."
        wanted = {name.removeprefix(prefix) for name in self.names if name.startswith(prefix)}
        facts: dict[str, Any] = {f"{prefix}{column}": description.domain.get(column) for column in wanted}
        facts[f"{alias}.novelty_limit"] = np.inf if description.novelty_limit is None else description.novelty_limit
        return facts

    def _predictions(
        self, alias: str, model: AppliedModel, unit: UnitPlan, start: int, stop: int
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        outputs = self.outputs[alias]
        if unit.state != "done" or unit.record is None:
            for output in outputs:
                yield f"{alias}.{output.name}", np.full(stop - start, np.nan, output.dtype)
            return
        store = self.run.directory.predictions(model.identity)
        values = read_rows(store, [output.name for output in outputs], start, stop)
        found = content_digest(values)
        if found != unit.record.output:
            raise MergeRefused(
                f"{store}: rows {start} to {stop} have digest {found[:12]}, their record says {unit.record.output[:12]}"
            )
        for name, column in values.items():
            yield f"{alias}.{name}", column

    def _set_aside(self, start: int, stop: int) -> dict[str, Any]:
        """Columns of rows whose ingest was given up: the parent's values, everything else missing."""
        from catalogue.spectra.parent import read_parent_rows

        namespace = dict(read_parent_rows(self.run.directory.parent, start, stop, self.run.survey))
        namespace["status"] = np.full(stop - start, RowStatus.SET_ASIDE, np.uint8)
        return {name: namespace[name] for name in self.stored if name in namespace}

    def _extra_columns(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        if self.parent is None:
            return {}
        from catalogue.spectra.parent import read_parent_columns

        return read_parent_columns(self.run.directory.parent, self.extra, start, stop)
