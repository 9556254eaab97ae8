"""What is done, what is not, and why: read from records, and from whether the files that they name are there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from catalogue.models import inference_version
from catalogue.pipeline.manifest import Manifest
from catalogue.pipeline.records import Record, read_record, record_with_files
from catalogue.pipeline.run import AppliedModel, Run
from catalogue.spectra.ingest import input_digest
from catalogue.spectra.paths import SpectraRoot

FILES_CHECKED_UP_TO = 100_000
RECORDS_SAMPLED = 20
"""Records of each earlier model from which the time of another one is estimated."""

State = Literal["done", "new", "stale", "waiting"]


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """One unit of one stage.

    Attributes
    ----------
    unit, start, stop : int
    state : str
        ``done``, ``new`` (never done), ``stale`` (done for other inputs), ``waiting`` (an earlier stage comes first).
    causes : tuple of str
        The inputs whose digest changed.
    inputs : dict of str to str
        Digests that its record will name; ``rows`` of a new ingest unit is left to its worker, so that the files of
        a new survey are looked up in parallel and not by the plan.
    record : Record or None
        Record on disk.
    """

    unit: int
    start: int
    stop: int
    state: State
    causes: tuple[str, ...]
    inputs: dict[str, str]
    record: Record | None


@dataclass(frozen=True, slots=True)
class StagePlan:
    """All units of a stage, in row order."""

    name: str
    units: tuple[UnitPlan, ...]

    @property
    def to_do(self) -> list[UnitPlan]:
        """Units that are not done."""
        return [unit for unit in self.units if unit.state != "done"]

    @property
    def counts(self) -> dict[str, int]:
        """Units by state."""
        return dict(Counter(unit.state for unit in self.units))

    @property
    def causes(self) -> dict[str, int]:
        """Stale units by changed input."""
        return dict(Counter(cause for unit in self.units for cause in unit.causes))

    @property
    def seconds_per_row(self) -> float | None:
        """Worker seconds per row in the records, None if there are none."""
        records = [unit.record for unit in self.units if unit.record is not None]
        rows = sum(record.stop - record.start for record in records)
        return sum(record.seconds for record in records) / rows if rows else None


def plan_ingest(run: Run, manifest: Manifest, parent: Path, rescan: bool = False) -> StagePlan:
    """Plan of the ingest stage.

    Parameters
    ----------
    run : Run
    manifest : Manifest
        Of the parent table as it is now.
    parent : Path
        Imported parent table.
    rescan : bool
        Compare every file, whatever ``spectra.check`` says.
    """
    check = run.configuration.spectra.check
    compare = rescan or check == "files" or (check == "auto" and manifest.n_rows <= FILES_CHECKED_UP_TO)
    survey = f"{run.survey.name}/{run.survey.reader_version}"
    root = SpectraRoot(run.configuration.spectra.root)
    units = []
    for number, start, stop in manifest.units:
        record = record_with_files(run.directory.ingest_records, number, run.directory.spectra)
        layout = f"{start}:{stop}:{manifest.chunk_rows}:{manifest.unit_rows}"
        inputs = {"survey": survey, "layout": layout, "parent": manifest.parent}
        if record is not None and not compare and record.inputs.get("parent") == manifest.parent:
            inputs = {**record.inputs, **inputs}
        elif record is not None:
            inputs["rows"] = input_digest(parent, root, start, stop)
        units.append(_unit(number, start, stop, inputs, record, ignored=("parent",)))
    return StagePlan("ingest", tuple(units))


def plan_infer(run: Run, model: AppliedModel, ingest: StagePlan) -> StagePlan:
    """Plan of the inference stage of one model, given the ingest stage."""
    version = f"{model.bundle.kind}/{inference_version(model.bundle.kind)}"
    records, store = run.directory.infer_records(model.identity), run.directory.predictions(model.identity)
    units = []
    for source in ingest.units:
        record = record_with_files(records, source.unit, store)
        if source.state != "done" or source.record is None:
            units.append(UnitPlan(source.unit, source.start, source.stop, "waiting", (), {}, record))
            continue
        inputs = {
            "spectra": source.record.output,
            "model": model.bundle.digest,
            "settings": model.settings_digest,
            "inference": version,
        }
        units.append(_unit(source.unit, source.start, source.stop, inputs, record))
    return StagePlan(f"infer {model.bundle.description.name}", tuple(units))


def _unit(
    unit: int,
    start: int,
    stop: int,
    inputs: dict[str, str],
    record: Record | None,
    ignored: tuple[str, ...] = (),
) -> UnitPlan:
    if record is None:
        return UnitPlan(unit, start, stop, "new", (), inputs, None)
    causes = tuple(name for name, value in inputs.items() if name not in ignored and record.inputs.get(name) != value)
    return UnitPlan(unit, start, stop, "stale" if causes else "done", causes, inputs, record)


@dataclass(frozen=True)
class RunPlan:
    """What a build would do.

    Attributes
    ----------
    ingest : StagePlan
    inferences : dict of str to StagePlan
        By model identity.
    products : dict of str to bool
        Whether each product's files would be written.
    earlier_rate : float or None
        Worker seconds per row of the models applied before, for a model of which there are no records yet.
    merge_seconds : float
        Time that the last merges of the products to write took.
    """

    ingest: StagePlan
    inferences: dict[str, StagePlan]
    products: dict[str, bool]
    earlier_rate: float | None = None
    merge_seconds: float = 0.0

    @property
    def stages(self) -> list[StagePlan]:
        """All stages of units."""
        return [self.ingest, *self.inferences.values()]

    @property
    def nothing_to_do(self) -> bool:
        """Whether a build would do nothing."""
        return not any(stage.to_do for stage in self.stages) and not any(self.products.values())

    @property
    def seconds(self) -> float | None:
        """Worker seconds that a build would take at the rate of the records, None if it is unknown."""
        total = self.merge_seconds
        for stage in self.stages:
            rows = sum(unit.stop - unit.start for unit in stage.to_do)
            rate = stage.seconds_per_row or (None if stage is self.ingest else self.earlier_rate)
            if rows and rate is None:
                return None
            total += rows * (rate or 0.0)
        return total


def earlier_rate(run: Run) -> float | None:
    """Worker seconds per row in the records of all models applied in a run's directory, None if there are none."""
    rows, seconds = 0, 0.0
    for directory in sorted((run.directory.root / "records" / "infer").glob("*/")):
        for path in sorted(directory.glob("*.json"))[:RECORDS_SAMPLED]:
            record = read_record(directory, int(path.stem))
            if record is not None:
                rows += record.stop - record.start
                seconds += record.seconds
    return seconds / rows if rows else None
