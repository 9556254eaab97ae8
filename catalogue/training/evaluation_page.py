"""The page of an evaluation: tables, and plots as inline SVG."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

matplotlib.use("agg")

_LABELS = {"age": "Gyr", "mass": "M☉"}
_NUMBERS = {
    "delta_p": ("Δ_P, %", "{:#.3g}"),
    "bias": ("bias, %", "{:+.1f}"),
    "scatter": ("scatter, %", "{:#.3g}"),
    "sharpness": ("own error, %", "{:#.3g}"),
    "pull": ("pull", "{:.2f}"),
    "cover68": ("in 68 %", "{:.2f}"),
    "cover95": ("in 95 %", "{:.2f}"),
}
"""Numbers of ``summarise`` without the label's name: heading and format."""

_BY = {"age": "age, Gyr", "mass": "mass, M☉", "snr": "S/N", "feh": "[Fe/H]", "state": "state"}
_LEGEND = """Δ_P is the mean absolute relative error; bias and scatter are the median and the robust standard
deviation of the relative error; own error is the median relative error that the model states, pull the robust spread of
errors in units of it, and the last two are the shares of true values inside its intervals of 68 and 95 %.
In the plots, darker is more spectra, by their logarithm."""
_STYLE = """body{font:15px/1.4 sans-serif;margin:2em auto;max-width:80em;padding:0 1em;color:#222}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.5em 0}
td,th{padding:.2em .45em;font-size:13px;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th{font-weight:600}td:first-child,th:first-child{text-align:left}.group{text-align:center;border-left:1px solid #ddd}
tr.first td{border-top:2px solid #999}svg{max-width:100%;height:auto}"""

Row = dict[str, Any]


def method_means(methods: list[Row]) -> list[Row]:
    """Mean over the splits of every number, one row per method."""
    names = list(dict.fromkeys(row["method"] for row in methods))
    result = []
    for name in names:
        rows = [row for row in methods if row["method"] == name]
        keys = [key for key in rows[0] if key not in ("method", "fold")]
        result.append({"method": name, **{key: float(np.mean([row[key] for row in rows])) for key in keys}})
    return result


def markdown_table(methods: list[Row]) -> str:
    """The table of methods, means over the splits."""
    rows = method_means(methods)
    keys = _number_keys(rows)
    headings = [f"{label}: {_NUMBERS[number][0]}" for label, number in keys]
    lines = ["| method | " + " | ".join(headings) + " |", "|---" * (len(keys) + 1) + "|"]
    lines += ["| " + " | ".join([row["method"], *_cells(row, keys)]) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write_page(
    directory: Path, result: Row, predictions: dict[str, NDArray[np.floating]], truth: NDArray[np.float64]
) -> None:
    """Write ``table.md`` and ``index.html``; parts that were not run are left out."""
    (directory / "table.md").write_text(markdown_table(result["methods"]))
    title = html.escape(f"{result['model']} on {result['survey']}: stars that it has not seen")
    bins = [{**row, "by": _BY[row["by"]]} for row in result["bins"]]
    folds = [{**row, "split": row["fold"] + 1} for row in result["methods"]]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>",
        f"<h1>{title}</h1><p>{result['stars']:,} stars, {result['spectra']:,} spectra, median S/N "
        f"{result['median_snr']:.0f}; {result['folds']} splits by star, each part tested once.</p>",
        _table(method_means(result["methods"]), ["method"]),
        f"<p>{_LEGEND}</p>",
        _prediction_plot(predictions, truth),
        "<h2>In bins</h2>" + _table(bins, ["by", "bin", "spectra"]),
        "<h2>Split by split</h2>" + _table(folds, ["method", "split"]),
    ]
    if result["variants"]:
        parts.append("<h2>Ablations and learning curve</h2><p>On the first split.</p>")
        parts.append(_table(result["variants"], ["variant"]))
    if result["regions"]:
        parts.append("<h2>Wavelength regions</h2><p>Increase of Δ_P, in points, when a region is another star's.</p>")
        parts.append(_region_table(result["regions"]))
    (directory / "index.html").write_text("\n".join(parts) + "\n")


def _region_table(regions: list[Row]) -> str:
    heading = "".join(f"<th>{html.escape(text)}</th>" for text in ("Å", *_LABELS))
    rows = (
        f"<tr><td>{row['from']:.0f}–{row['to']:.0f}</td>" + "".join(f"<td>{row[name]:.1f}</td>" for name in _LABELS)
        for row in regions
    )
    return f"<table><tr>{heading}</tr>" + "\n".join(rows) + "</table>"


def _number_keys(rows: list[Row]) -> list[tuple[str, str]]:
    """(label, number) of the numbers that any row has."""
    return [(a, b) for a in _LABELS for b in _NUMBERS if any(f"{a}_{b}" in row for row in rows)]


def _cells(row: Row, keys: list[tuple[str, str]]) -> list[str]:
    found = (row.get(f"{label}_{number}") for label, number in keys)
    return [
        "" if value is None else _NUMBERS[number][1].format(value)
        for value, (_, number) in zip(found, keys, strict=True)
    ]


def _table(rows: list[Row], about: list[str]) -> str:
    """Rows of numbers by label, behind the columns ``about``; a rule wherever the first of these changes."""
    keys = _number_keys(rows)
    counts = [(label, sum(a == label for a, _ in keys)) for label in dict.fromkeys(a for a, _ in keys)]
    groups = "".join(f"<th class=group colspan={count}>{label}</th>" for label, count in counts)
    headings = "".join(f"<th>{html.escape(text)}</th>" for text in [*about, *(_NUMBERS[b][0] for _, b in keys)])
    lines = [f"<tr><th colspan={len(about)}></th>{groups}</tr><tr>{headings}</tr>"]
    before = None
    for row in rows:
        cells = [f"{row[name]:,}" if isinstance(row[name], int) else html.escape(str(row[name])) for name in about]
        first = " class=first" if len(about) > 1 and row[about[0]] != before else ""
        before = row[about[0]]
        lines.append(f"<tr{first}>" + "".join(f"<td>{cell}</td>" for cell in [*cells, *_cells(row, keys)]) + "</tr>")
    return "<div class=wide><table>" + "\n".join(lines) + "</table></div>"


def _prediction_plot(predictions: dict[str, NDArray[np.floating]], truth: NDArray[np.float64]) -> str:
    """Predicted against true values, and below them the relative error, as counts of spectra."""
    names = [name for name in _LABELS if name in predictions and np.isfinite(predictions[name]).any()]
    if not names:
        return "<p>Nothing was predicted.</p>"
    figure = Figure(figsize=(5.2 * len(names), 6.2), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, sharex="col", height_ratios=(2, 1))
    for name, (upper, lower) in zip(names, axes.T, strict=True):
        true, value = truth[:, list(_LABELS).index(name)], np.asarray(predictions[name], dtype=np.float64)
        known = np.isfinite(value)
        true, value = true[known], value[known]
        limits = float(min(true.min(), value.min())), float(max(true.max(), value.max()))
        _counts(upper, true, value, (*limits, *limits), 48)
        upper.plot(limits, limits, "k-", linewidth=0.8)
        upper.set(ylabel=f"predicted {name}, {_LABELS[name]}", xlim=limits, ylim=limits)
        error = 100 * (value / true - 1)
        reach = float(np.quantile(np.abs(error), 0.995))
        _counts(lower, true, error, (*limits, -reach, reach), 24)
        lower.axhline(0, color="k", linewidth=0.8)
        lower.set(xlabel=f"true {name}, {_LABELS[name]}", ylabel="relative error, %", ylim=(-reach, reach))
    stream = io.StringIO()
    figure.savefig(stream, format="svg", dpi=150)
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _counts(
    axis: Axes, x: NDArray[np.float64], y: NDArray[np.float64], extent: tuple[float, float, float, float], rows: int
) -> None:
    axis.hexbin(
        x,
        y,
        gridsize=(80, rows),
        extent=extent,
        bins="log",
        mincnt=1,
        vmin=0.3,
        cmap="Blues",
        linewidths=0,
        rasterized=True,
    )
