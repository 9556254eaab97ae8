"""The page of an evaluation: a table, and plots as inline SVG."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

matplotlib.use("agg")
_COLUMNS = ("age_delta_p", "mass_delta_p", "age_bias", "mass_bias", "age_cover68", "mass_cover68", "seconds")


def method_means(methods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over the splits of every number, one row per method."""
    names = list(dict.fromkeys(row["method"] for row in methods))
    result = []
    for name in names:
        rows = [row for row in methods if row["method"] == name]
        keys = [key for key in rows[0] if key not in ("method", "fold")]
        result.append({"method": name, **{key: float(np.mean([row[key] for row in rows])) for key in keys}})
    return result


def markdown_table(methods: list[dict[str, Any]]) -> str:
    """The table of methods, means over the splits."""
    lines = ["| method | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for row in method_means(methods):
        cells = [f"{row[key]:.3g}" if key in row else "" for key in _COLUMNS]
        lines.append(f"| {row['method']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_page(
    directory: Path, result: dict[str, Any], predictions: dict[str, NDArray[np.floating]], truth: NDArray[np.float64]
) -> None:
    """Write ``table.md`` and ``index.html``."""
    (directory / "table.md").write_text(markdown_table(result["methods"]))
    parts = [
        "<!doctype html><meta charset=utf-8><title>Evaluation</title><style>body{font:15px sans-serif;margin:2em}"
        "table{border-collapse:collapse}td,th{padding:.2em .7em;border-bottom:1px solid #ccc;text-align:right}</style>",
        f"<h1>Evaluation</h1><p>{result['stars']} stars, {result['spectra']} spectra, "
        f"median S/N {result['median_snr']:.0f}. Δ_P, bias in per cent; means over the splits.</p>",
        _table(method_means(result["methods"])),
        _prediction_plot(predictions, truth),
        "<h2>In bins</h2>",
        _table(result["bins"]),
        "<h2>Ablations and learning curve</h2>",
        _table(result["variants"]),
        "<h2>Wavelength regions</h2><p>Increase of Δ_P when a region is taken from another star.</p>",
        _table(result["regions"]),
    ]
    (directory / "index.html").write_text("\n".join(parts))


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<p>Not run.</p>"
    keys = list(rows[0])
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(key)}</th>" for key in keys) + "</tr>"]
    for row in rows:
        cells = [row.get(key, "") for key in keys]
        shown = [f"{cell:.3g}" if isinstance(cell, float) else html.escape(str(cell)) for cell in cells]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in shown) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _prediction_plot(predictions: dict[str, NDArray[np.floating]], truth: NDArray[np.float64]) -> str:
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axis, index, name, unit in zip(figure.subplots(1, 2), (0, 1), ("age", "mass"), ("Gyr", "M☉"), strict=True):
        if name not in predictions:
            axis.set_visible(False)
            continue
        axis.plot(truth[:, index], predictions[name], ".", markersize=2, alpha=0.4, rasterized=True)
        limits = [float(truth[:, index].min()), float(truth[:, index].max())]
        axis.plot(limits, limits, "k-", linewidth=0.8)
        axis.set(xlabel=f"true {name} [{unit}]", ylabel=f"predicted {name} [{unit}]")
    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    return stream.getvalue()
