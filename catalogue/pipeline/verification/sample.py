"""A random sample of rows, made again from the raw files by a slow path of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from catalogue.datamodels import DataModel
from catalogue.models import Bundle, InferenceSettings, SpectraBatch, load_model
from catalogue.pipeline.merge import output_path, rows_of_product
from catalogue.pipeline.plan import StagePlan
from catalogue.pipeline.run import AppliedModel, Run
from catalogue.pipeline.verification.findings import Check, Finding, Tally
from catalogue.pipeline.verification.plain_astronn import PlainAstroNN
from catalogue.pipeline.verification.plain_spectra import READERS, Pixels
from catalogue.pipeline.verification.plain_spt import PlainTransformer
from catalogue.pipeline.verification.plain_tables import rows_of_table
from catalogue.spectra.parent import read_parent_columns
from catalogue.spectra.primitives import GRANULE_ROWS, MISSING_INTEGER, RowStatus, SpectrumError, is_usable
from catalogue.spectra.store import read_rows

TOLERANCE = 1e-4
"""Largest relative difference of a prediction in single and one in double precision that is believed to be rounding.
Measured on real spectra: 1e-5. Everything else is compared exactly; text files hold the digits that they hold."""

SMALLEST = 0.1
"""Values nearer to zero, as a log_age of 1 Gyr or a correlation, are compared relative to this."""


class PlainProgram(Protocol):
    """A model written a second time, plainly."""

    def predict(
        self, flux: NDArray[Any], ivar: NDArray[Any], mask: NDArray[Any], columns: Mapping[str, float]
    ) -> dict[str, float]:
        """Outputs of one spectrum on the survey's grid, those that there are, from it and its columns of the store."""


PROGRAMS: dict[str, Callable[[Bundle, int, int], PlainProgram]] = {
    "spt": PlainTransformer,
    "astronn_bcnn": PlainAstroNN,
}
"""By kind of model; one that is not here is compared with itself, row by row."""

NOT_SAMPLED = ("votable", "parquet-healpix", "hats")
"""Formats without access by row of the catalogue; their files are compared with their digests alone."""


@dataclass(frozen=True)
class Sample:
    """Rows to be made again.

    Attributes
    ----------
    rows : list of int
        Increasing.
    usable : set of int
        Those that hold a spectrum.
    """

    rows: list[int]
    usable: set[int]


def draw(run: Run, ingest: StagePlan, count: int, seed: int) -> Sample:
    """Draw rows of finished units: four in five with a spectrum, as far as there are so many."""
    chosen: list[NDArray[np.int64]] = []
    usable: list[NDArray[np.bool_]] = []
    for unit in ingest.units:
        if unit.state == "done":
            status = read_rows(run.directory.spectra, ["status"], unit.start, unit.stop)["status"]
            chosen.append(np.arange(unit.start, unit.stop))
            usable.append(is_usable(status))
    if not chosen:
        return Sample([], set())
    rows, good = np.concatenate(chosen), np.concatenate(usable)
    random = np.random.default_rng(seed)
    others = random.permutation(rows[~good])[: max(count // 5, count - int(good.sum()))]
    with_spectrum = random.permutation(rows[good])[: count - len(others)]
    return Sample(sorted([*map(int, others), *map(int, with_spectrum)]), set(map(int, with_spectrum)))


def check_parent(run: Run, sample: Sample) -> Check:
    """Parent columns of the sample against the parent table itself."""
    tally = Tally("sample: parent table")
    found = rows_of_table(run.configuration.parent.path, sample.rows)
    for row in sample.rows:
        cells = {name.lower(): value for name, value in found[row].items()}
        stored = read_rows(run.directory.spectra, [c.name for c in run.survey.columns if c.aliases], row, row + 1)
        for column in run.survey.columns:
            source = next((alias.lower() for alias in column.aliases if alias.lower() in cells), None)
            if source is None:
                continue
            expected = _as_stored(cells[source], column.dtype, run.survey.null_values)
            if not _same(stored[column.name][0], expected):
                reason = f"{column.name}: the parent table has {expected}, the store {stored[column.name][0]}"
                tally.add([Finding(f"spectra.zarr/{column.name}", reason, (row, row))])
        tally.checked += 1
    return tally.check("values equal")


def check_spectra(run: Run, sample: Sample) -> Check:
    """Pixels of the sample against the files, bit for bit."""
    tally = Tally("sample: spectra")
    own = READERS.get(run.survey.name)
    for row in sample.rows:
        stored = read_rows(run.directory.spectra, ["status", "flux", "ivar", "mask"], row, row + 1)
        status = RowStatus(int(stored["status"][0]))
        path = str(read_parent_columns(run.directory.parent, ["path"], row, row + 1)["path"][0])
        reason = _wrong_pixels(run, path, status, tuple(stored[name][0] for name in ("flux", "ivar", "mask")))
        if reason is not None:
            tally.add([Finding("spectra.zarr", reason, (row, row))])
        tally.checked += 1
    return tally.check("bits equal" if own else f"bits equal; {run.survey.name} has no second reader: its own was used")


def _wrong_pixels(run: Run, path: str, status: RowStatus, stored: tuple[NDArray[Any], ...]) -> str | None:
    empty = bool(np.isnan(stored[0]).all() and not stored[1].any() and not stored[2].any())
    if not status.usable:
        return None if empty else f"{status.name}: expected no pixels, found some"
    try:
        expected = _read(run, run.configuration.spectra.root / path)
    except Exception as error:  # whatever a reader may raise for a file that the run has read
        return f"{path} is stored as {status.name}, and cannot be read: {error}"
    if expected is None:
        return f"{path} is stored as {status.name}, and has no usable pixel"
    for name, wanted, found in zip(("flux", "ivar", "mask"), expected, stored, strict=True):
        different = wanted.view(f"u{found.itemsize}") != found.view(f"u{found.itemsize}")
        if found.dtype.kind == "f":
            # one NaN is as good as another: DR17 files have negative ones
            different &= ~(np.isnan(wanted) & np.isnan(found))
        if different.any():
            pixel = int(np.flatnonzero(different)[0])
            return f"{path}: {name} of pixel {pixel}: the file has {wanted[pixel]}, the store {found[pixel]}"
    return None


def _read(run: Run, path: Path) -> Pixels | None:
    reader = READERS.get(run.survey.name)
    if reader is not None:
        return reader(path)
    try:
        spectrum = run.survey.read(path)
    except SpectrumError:
        return None
    n = run.survey.grid.n_pixels
    grid = np.full(n, np.nan, np.float32), np.zeros(n, np.float32), np.zeros(n, run.survey.mask_dtype)
    at = slice(spectrum.first_pixel, spectrum.first_pixel + len(spectrum.flux))
    for whole, part in zip(grid, (spectrum.flux, spectrum.ivar, spectrum.mask), strict=True):
        whole[at] = part
    return grid


def check_predictions(run: Run, model: AppliedModel, sample: Sample, stage: StagePlan) -> Check:
    """Predictions of the sample against those of a plain program."""
    tally = Tally(f"sample: {model.bundle.description.name}")
    done = [range(unit.start, unit.stop) for unit in stage.units if unit.state == "done"]
    plain = _PlainModel(run, model)
    store = run.directory.predictions(model.identity)
    largest = 0.0
    for row in sample.rows:
        if not any(row in rows for rows in done):
            continue
        names = [output.name for output in plain.outputs]
        stored = {name: float(values[0]) for name, values in read_rows(store, names, row, row + 1).items()}
        expected = plain.predict(row) if row in sample.usable else {}
        tally.checked += 1
        for name in names:
            wanted, found = expected.get(name, math.nan), stored[name]
            if math.isnan(wanted) and math.isnan(found):
                continue
            off = abs(wanted - found) / max(abs(wanted), SMALLEST)
            largest = max(largest, off)
            if not off <= TOLERANCE:
                reason = f"{name}: expected {wanted:.7g}, found {found:.7g}"
                tally.add([Finding(str(store.relative_to(run.directory.root)), reason, (row, row))])
    return tally.check(f"largest relative difference {largest:.1e}, allowed {TOLERANCE:g}{plain.remark}")


class _PlainModel:
    """Predictions of single rows of a run."""

    def __init__(self, run: Run, model: AppliedModel) -> None:
        self.run = run
        self.fast = load_model(model.bundle.path, model.bundle.digest)
        self.outputs = self.fast.outputs
        self.settings = InferenceSettings(model.settings["passes"], model.settings["seed"], "cpu")
        program = PROGRAMS.get(model.bundle.kind)
        self.plain = program and program(model.bundle, model.settings["passes"], model.settings["seed"])
        self.remark = "" if program else f"; {model.bundle.kind} has no second program: its own, row by row, was used"

    def predict(self, row: int) -> dict[str, float]:
        store = self.run.directory.spectra
        spectrum = read_rows(store, ["flux", "ivar", "mask"], row, row + 1)
        columns = read_rows(store, list(self.fast.inputs), row, row + 1)
        if self.plain is not None:
            beside = {name: float(values[0]) for name, values in columns.items()}
            return self.plain.predict(spectrum["flux"][0], spectrum["ivar"][0], spectrum["mask"][0], beside)
        first = row - row % GRANULE_ROWS
        batch = SpectraBatch(first, spectrum["flux"], spectrum["ivar"], spectrum["mask"], np.ones(1, bool), columns)
        return {name: float(values[0]) for name, values in self.fast.predict(batch, self.settings).items()}


def check_catalogue(run: Run, product: DataModel, sample: Sample, stages: list[StagePlan]) -> Check:
    """Rows of every catalogue file, read by other people's libraries, against the stores."""
    tally = Tally(f"sample: {product.name}")
    expected = _expected_rows(run, product, sample.rows, stages)
    missing = {column.name: column.missing for column in product.columns}
    unread = []
    for name in run.configuration.output.formats:
        path = output_path(run, product, name)
        if name in NOT_SAMPLED:
            unread.append(name)
            continue
        try:
            found = rows_of_table(path, sample.rows)
        except Exception as error:  # damage can make readers fail in any way
            tally.add([Finding(path.name, f"cannot be read: {error}")])
            continue
        for row in sample.rows:
            wrong = [
                column
                for column, value in expected[row].items()
                if not _same_cell(found[row][column], value, missing[column])
            ]
            if wrong:
                reason = f"{wrong[0]}: expected {expected[row][wrong[0]]}, found {found[row][wrong[0]]}"
                tally.add([Finding(path.name, reason, (row, row))])
        tally.checked += len(sample.rows)
    return tally.check("cells equal" + (f"; {', '.join(unread)} not sampled" if unread else ""))


def _expected_rows(
    run: Run, product: DataModel, rows: Sequence[int], stages: list[StagePlan]
) -> dict[int, dict[str, Any]]:
    """Columns of some rows, made from the stores unit by unit."""
    numbers = [n for n, unit in enumerate(stages[0].units) if any(unit.start <= row < unit.stop for row in rows)]
    some = [StagePlan(stage.name, tuple(stage.units[n] for n in numbers)) for stage in stages]
    expected = {}
    for start, columns in rows_of_product(run, product, some):
        count = len(next(iter(columns.values())))
        for row in rows:
            if start <= row < start + count:
                expected[row] = {name: values[row - start] for name, values in columns.items()}
    return expected


def _as_stored(cell: Any, dtype: str, nulls: Iterable[float]) -> Any:
    """A parent table's cell as the store should have it."""
    text = "" if cell is None or cell is np.ma.masked else str(cell).strip()
    if dtype == "str":
        return text
    missing = text.lower() in ("", "nan", "null", "none", "na", "n/a", "--", "-", "\\n", "<na>")
    if dtype.startswith("int"):
        return MISSING_INTEGER if missing else (int(text) if text.lstrip("+-").isdigit() else int(float(text)))
    number = math.nan if missing else float(cell)
    # in a column of single precision -999.99 is -999.989990234375
    is_null = any(number in (null, float(np.float32(null))) for null in nulls)
    return np.dtype(dtype).type(math.nan if is_null else number)


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, str):
        return str(found) == expected
    return bool(found == expected) or (math.isnan(float(found)) and math.isnan(float(expected)))


def _same_cell(found: Any, expected: Any, missing: int | None) -> bool:
    """Whether a file's cell says what the data model says, as exactly as the file's type can.

    ``missing`` is the missing value of the column, if it holds integers.
    """
    if isinstance(expected, str):
        return ("" if found is None else str(found)) == expected
    if isinstance(expected, np.bool_):
        return str(found).lower() in (("true", "t", "1") if expected else ("false", "f", "0"))
    if found is None or str(found).strip().lower() in ("", "nan", "null"):
        return bool(expected != expected) or (missing is not None and bool(expected == missing))
    if isinstance(expected, np.integer):
        return int(found) == int(expected)
    value = expected.dtype.type(found)
    return bool(value == expected) or bool(np.isnan(value) and np.isnan(expected))
