"""Static figures of the page: what is printed, and what is seen where scripts are off."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis as MatplotlibAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorizer import ColorizingArtist
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from catalogue.report.collector import ReportCollector
from catalogue.report.histograms import expected_counts
from catalogue.report.tallies import Histogram, Plane

COLOUR_MAPS = {"age": "viridis", "feh": "cividis", "mass": "plasma", "": "cividis"}
"""Perceptually uniform maps that survive colour blindness and grey print, one for each quantity."""
RESULT_COLOURS = COLOUR_MAPS["age"]
"""Map of a result that is not an age."""
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8a8f98"
INVERTED = {("teff", "logg"): (True, True)}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "axes.edgecolor": "#5b6470",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
}


@dataclass(frozen=True)
class Drawn:
    """A figure as a data URL, with the sentence that says what is in it."""

    name: str
    title: str
    caption: str
    image: str


def encode(figure: Figure) -> str:
    """PNG data URL of a figure; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def finite_range(*arrays: NDArray[np.floating]) -> tuple[float, float]:
    """Interval that holds all but the outermost half per cent of the values, and a margin; (0, 1) if there are none."""
    values = np.concatenate([array[np.isfinite(array)] for array in arrays]) if arrays else np.empty(0)
    if not len(values):
        return 0.0, 1.0
    trim = 0.5 if len(values) > 1000 else 0.0
    low, high = np.percentile(values, [trim, 100 - trim])
    margin = 0.04 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def colour_range(values: NDArray[np.floating]) -> tuple[float, float]:
    """Ends of a colour scale: the outermost fiftieth of the values does not stretch it."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = np.percentile(finite, [2, 98])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def plain_powers(axis: MatplotlibAxis) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, written out."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


class StaticFigures:
    """Draws every figure that the columns of a catalogue allow.

    Parameters
    ----------
    collector : ReportCollector
    """

    def __init__(self, collector: ReportCollector) -> None:
        self.collector = collector
        self.schema = collector.schema
        sample = collector.sample()
        rows = len(sample["row"])
        flag = np.asarray(sample["flag"], np.int64) if "flag" in sample else np.zeros(rows, np.int64)
        good = (flag & self.schema.bad_mask) == 0
        self.sample = {name: values[good] for name, values in sample.items()}
        self.complete = rows == collector.rows

    def plane(self, horizontal: str, vertical: str, title: str, caption: str) -> Drawn:
        """Scatter plot of all rows where they fit into the sample, else a map of the mean over all rows."""
        plane = self.collector.planes[(horizontal, vertical)]
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(6.4, 4.6), layout="constrained")
            axes = figure.subplots()
            shown = self._scatter(axes, plane) if self.complete else self._map(axes, plane)
            if shown is not None:
                label = self.schema.label(plane.colour) if plane.colour else "rows per cell"
                figure.colorbar(shown, ax=axes, label=label if self.complete or not plane.colour else f"mean {label}")
            axes.set_xlabel(self.schema.label(horizontal))
            axes.set_ylabel(self.schema.label(vertical))
            invert = INVERTED.get((horizontal, vertical), (False, False))
            if invert[0]:
                axes.invert_xaxis()
            if invert[1]:
                axes.invert_yaxis()
            return Drawn(f"{horizontal}-{vertical}", title, caption, encode(figure))

    def _scatter(self, axes: Axes, plane: Plane) -> ColorizingArtist | None:
        first = np.asarray(self.sample[plane.horizontal.role], float)
        second = np.asarray(self.sample[plane.vertical.role], float)
        self._frame(axes, plane, first, second)
        size = float(np.clip(6000 / max(len(first), 1), 3, 26))
        if not plane.colour:
            axes.scatter(first, second, s=size, c=BLUE, alpha=0.6, linewidths=0)
            return None
        colour = np.asarray(self.sample[plane.colour], float)
        known = np.isfinite(colour)
        axes.scatter(first[~known], second[~known], s=size, c=GREY, alpha=0.5, linewidths=0)
        low, high = colour_range(colour)
        colours = COLOUR_MAPS.get(plane.colour, RESULT_COLOURS)
        return axes.scatter(
            first[known], second[known], s=size, c=colour[known], cmap=colours, vmin=low, vmax=high,
            linewidths=0,
        )  # fmt: skip

    def _map(self, axes: Axes, plane: Plane) -> ColorizingArtist:
        counts = plane.counts.T
        self._frame(
            axes,
            plane,
            np.asarray(self.sample[plane.horizontal.role], float),
            np.asarray(self.sample[plane.vertical.role], float),
        )
        x, y = plane.horizontal.edges(), plane.vertical.edges()
        if not plane.colour:
            shown = np.where(counts > 0, counts, np.nan)
            return axes.pcolormesh(x, y, shown, cmap=COLOUR_MAPS[""], norm="log" if counts.any() else None)
        axes.pcolormesh(x, y, np.where(counts > 0, 0.5, np.nan), cmap="Greys", vmin=0, vmax=2)
        mean = plane.mean().T
        low, high = colour_range(mean)
        return axes.pcolormesh(x, y, mean, cmap=COLOUR_MAPS.get(plane.colour, RESULT_COLOURS), vmin=low, vmax=high)

    def _frame(self, axes: Axes, plane: Plane, first: NDArray[np.floating], second: NDArray[np.floating]) -> None:
        both = np.isfinite(first) & np.isfinite(second)
        for axis, values, scale, limits, drawn in (
            (plane.horizontal, first[both], axes.set_xscale, axes.set_xlim, axes.xaxis),
            (plane.vertical, second[both], axes.set_yscale, axes.set_ylim, axes.yaxis),
        ):
            if axis.logarithmic:
                positive = values[values > 0]
                scale("log")
                plain_powers(drawn)
                low, high = finite_range(np.log10(positive)) if len(positive) else (axis.low, axis.high)
                limits(10**low, 10**high)
            else:
                limits(*finite_range(values))
        if not both.any():
            axes.text(0.5, 0.5, "no rows to show", transform=axes.transAxes, ha="center", va="center", color=GREY)

    def histogram(self, role: str, title: str, caption: str) -> Drawn:
        """Counts of all rows as steps, and what their own errors make of them as points with counting errors."""
        histogram = self.collector.histograms[role]
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(6.4, 3.6), layout="constrained")
            axes = figure.subplots()
            self._steps(axes, histogram)
            axes.set_xlabel(self.schema.label(role))
            axes.set_ylabel("rows per bin")
            axes.set_ylim(bottom=0)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False, fontsize=9)
            return Drawn(f"histogram-{role}", title, caption, encode(figure))

    def _steps(self, axes: Axes, histogram: Histogram) -> None:
        role, (edges, counts) = histogram.axis.role, histogram.for_display()
        if histogram.axis.logarithmic:
            axes.set_xscale("log")
            plain_powers(axes.xaxis)
        axes.stairs(counts, edges, color=BLUE, fill=True, alpha=0.35)
        axes.stairs(counts, edges, color=BLUE, linewidth=1.2, label="rows")
        occupied = np.flatnonzero(counts)
        low, high = (occupied[0], occupied[-1] + 1) if len(occupied) else (0, len(counts))
        if f"{role}_error" in self.sample and counts.any():
            values, errors = (np.asarray(self.sample[name], float) for name in (role, f"{role}_error"))
            expected = expected_counts(values, errors, edges)
            weight = counts.sum() / max(np.isfinite(values).sum(), 1)
            centres = 0.5 * (edges[1:] + edges[:-1])
            seen = expected > 0.05
            axes.errorbar(
                centres[seen], weight * expected[seen], weight * np.sqrt(expected[seen]), fmt="o", color=ORANGE,
                markersize=3, linewidth=1, label="spread by each row's error",
            )  # fmt: skip
        axes.set_xlim(edges[max(low - 1, 0)], edges[min(high + 1, len(counts))])

    def sky(self, title: str, caption: str) -> Drawn:
        """Sky map in a Mollweide projection, right ascension increasing to the left."""
        plane = self.collector.planes[("ra", "dec")]
        with matplotlib.rc_context({**STYLE, "axes.spines.top": True, "axes.spines.right": True}):
            figure = Figure(figsize=(9.2, 4.6), layout="constrained")
            axes = figure.add_subplot(projection="mollweide")
            if self.complete:
                ra, dec = (np.asarray(self.sample[role], float) for role in ("ra", "dec"))
                axes.scatter(-np.radians(_centred(ra)), np.radians(dec), s=10, c=BLUE, alpha=0.6, linewidths=0)
            else:
                counts = np.roll(plane.counts, plane.counts.shape[0] // 2, axis=0)[::-1].T
                x = np.radians(np.linspace(-180, 180, plane.horizontal.bins + 1))
                shown = axes.pcolormesh(
                    x, np.radians(plane.vertical.edges()), np.where(counts > 0, counts, np.nan), cmap="cividis",
                    norm="log" if counts.any() else None,
                )  # fmt: skip
                figure.colorbar(shown, ax=axes, label="rows per cell", shrink=0.8)
            marks = np.arange(-120, 121, 60)
            axes.set_xticks(np.radians(marks), [f"{-mark % 360}°" for mark in marks])
            axes.tick_params(labelsize=8)
            return Drawn("ra-dec", title, caption, encode(figure))


def _centred(degrees: NDArray[np.floating]) -> NDArray[np.floating]:
    """Right ascension in -180 to 180 degrees."""
    return np.asarray((degrees + 180.0) % 360.0 - 180.0)
