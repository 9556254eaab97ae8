"""What the page says about a run beside the rows themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StageTiming:
    """How long one stage of a run took.

    Attributes
    ----------
    stage : str
        ``"ingest"``, ``"infer"``, ``"merge"``.
    rows : int
        Rows that the stage worked on; 0 if it had nothing to do.
    seconds : float
        Time spent by all workers together.
    units : int
        Units of work, 0 where the stage has none.
    """

    stage: str
    rows: int
    seconds: float
    units: int = 0

    @property
    def rows_per_second(self) -> float:
        """Rows per worker-second, 0 where no time was spent."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """A row without a usable spectrum though it was selected, or with the key of an earlier row."""

    row: int
    key: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReportContext:
    """Everything on the page that does not come from the rows.

    Attributes
    ----------
    title : str
        Heading of the page.
    product : str
        Name of the data model.
    survey : str
        Name of the survey.
    spectra : Path or None
        ``spectra.zarr`` from which the example spectra are read; None shows none.
    outputs : tuple of str
        Names of the files of the catalogue.
    digests, versions : mapping of str to str
        What made the catalogue: digests of inputs, versions of software.
    timings : tuple of StageTiming
    problems : tuple of Problem
        The first rows with a problem.
    problem_count : int
        Rows with a problem in all.
    description, notes, citation : str
        Text under the heading; what the numbers are worth, in the words of the bundle; how to cite.
    date : str
        Date of the run's epoch; the page never asks the clock.
    example_spectra : int
        Stars whose spectrum is embedded in the page.
    """

    title: str
    product: str
    survey: str
    spectra: Path | None = None
    outputs: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    timings: tuple[StageTiming, ...] = ()
    problems: tuple[Problem, ...] = ()
    problem_count: int = 0
    description: str = ""
    notes: str = ""
    citation: str = ""
    date: str = ""
    example_spectra: int = 48
