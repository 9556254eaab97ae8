"""Takes a catalogue block by block and keeps what the page needs, never the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogue.datamodels import DataModel
from catalogue.report.sample import RowSample
from catalogue.report.schema import INTEGER_ROLES, TEXT_ROLES, ReportSchema, schema_of
from catalogue.report.tallies import AXES, HISTOGRAMS, PLANES, Histogram, OpenHistogram, Plane, StateCounts

WITH_RESULT_SHARE = 0.75
"""Share of the sample that goes to rows with a result where there are enough of both kinds."""


class ReportCollector:
    """Counts, histograms, maps and a uniform sample of a catalogue that streams past.

    Counts are exact and over all rows. The sample is uniform within the rows that have a result (an age) and within
    those that have none, and depends on the row numbers alone, so that the page is the same whatever the blocks were.

    Parameters
    ----------
    data_model : DataModel
        Says which columns there are and what the flag bits mean.
    survey_title : str
    sample_rows : int
        Rows kept for the page's figures at most.
    """

    def __init__(self, data_model: DataModel, survey_title: str, sample_rows: int = 20000) -> None:
        self.data_model = data_model
        self.survey_title = survey_title
        self.schema: ReportSchema = schema_of(data_model)
        self.sample_rows = sample_rows
        self.rows = 0
        self.states = StateCounts()
        self.histograms: dict[str, Histogram] = {
            role: Histogram(AXES[role]) for role in HISTOGRAMS if self.schema.has(role)
        }
        result = self.schema.result
        if result and result not in self.histograms:
            self.histograms[result] = Histogram(AXES[result]) if result in AXES else OpenHistogram(result)
        self.planes = {
            (horizontal, vertical): Plane(AXES[horizontal], AXES[vertical], self._colour(horizontal, vertical, colour))
            for horizontal, vertical, colour in PLANES
            if self.schema.has(horizontal, vertical)
        }
        self._with_result = RowSample(sample_rows)
        self._without_result = RowSample(sample_rows)

    def _colour(self, horizontal: str, vertical: str, colour: str) -> str:
        """Role that colours a plane: the result in the place of an age that there is not."""
        if colour == "age" and self.schema.result not in (horizontal, vertical):
            return self.schema.result
        return colour if self.schema.has(colour) else ""

    def add(self, first_row: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Take the next block of rows.

        Parameters
        ----------
        first_row : int
            Catalogue row of element 0; blocks come in order and without a gap.
        columns : mapping of str to ndarray, shape (rows,)
            One array per column of the data model, missing values as the data model writes them.

        Raises
        ------
        ValueError
            If the block does not follow the last one, or its columns differ in length.
        """
        if first_row != self.rows:
            raise ValueError(f"expected a block that starts at row {self.rows}, got one that starts at {first_row}")
        missing = sorted(facts.name for facts in self.schema.roles.values() if facts.name not in columns)
        if missing:
            raise ValueError(
                f"expected the columns of {self.data_model.name}, these are not there: {', '.join(missing)}"
            )
        parts = {role: _part(role, np.asarray(columns[facts.name])) for role, facts in self.schema.roles.items()}
        lengths = {len(np.asarray(values)) for values in columns.values()}
        if len(lengths) > 1:
            raise ValueError(f"expected columns of one length, got lengths {sorted(lengths)}")
        count = lengths.pop() if lengths else 0
        flag = parts.get("flag", np.zeros(count, np.int64))
        status = parts.get("status", np.full(count, -1, np.int64))
        result = self.schema.result
        has_result = np.isfinite(parts[result]) if result else np.zeros(count, bool)
        self.states.add(status, flag, has_result)
        self._tally(parts, (flag & self.schema.bad_mask) == 0)
        self._with_result.add(first_row, has_result, parts)
        self._without_result.add(first_row, ~has_result, parts)
        self.rows += count

    def _tally(self, parts: Mapping[str, NDArray[Any]], good: NDArray[np.bool_]) -> None:
        values = {role: part[good] for role, part in parts.items() if role in AXES or role in self.histograms}
        for role, histogram in self.histograms.items():
            histogram.add(values[role])
        for (horizontal, vertical), plane in self.planes.items():
            plane.add(values[horizontal], values[vertical], values[plane.colour] if plane.colour else None)

    def sample(self) -> dict[str, NDArray[Any]]:
        """Sampled rows in row order: one array per role, ``row`` and ``priority``."""
        wanted = int(self.sample_rows * WITH_RESULT_SHARE)
        wanted = max(wanted, self.sample_rows - len(self._without_result))
        first = self._with_result.take(min(wanted, len(self._with_result)))
        second = self._without_result.take(self.sample_rows - (len(first["row"]) if first else 0))
        both = [part for part in (first, second) if part]
        if not both:
            empty = {role: _part(role, np.empty(0)) for role in self.schema.roles}
            return {**empty, "row": np.empty(0, np.int64), "priority": np.empty(0, np.uint64)}
        merged = {name: np.concatenate([part[name] for part in both]) for name in both[0]}
        order = np.argsort(merged["row"])
        return {name: values[order] for name, values in merged.items()}


def _part(role: str, values: NDArray[Any]) -> NDArray[Any]:
    """A column in the form in which the page handles its part."""
    if role in TEXT_ROLES:
        return values.astype(np.dtypes.StringDType(), copy=False)
    if role in INTEGER_ROLES:
        return values.astype(np.int64)
    return np.asarray(np.ma.filled(values.astype(np.float64), np.nan))
