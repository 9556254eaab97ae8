"""Static figure of a few example spectra, each with what it was given: age and mass, or another result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from catalogue.report.example_spectra import ExampleSpectra
from catalogue.report.figures import BLUE, GREY, ORANGE, STYLE, Drawn, encode
from catalogue.report.histograms import two_piece_normal
from catalogue.report.schema import ReportSchema

STARS_DRAWN = 4


def percentiles_of(star: Mapping[str, float], quantity: str) -> tuple[float, float, float] | None:
    """The 16th, 50th and 84th percentiles of a star's age or mass, from its error where they are not kept."""
    named = tuple(star.get(f"{quantity}_{name}", np.nan) for name in ("low", "median", "high"))
    if np.isfinite(named).all():
        return named[0], named[1], named[2]
    value, error = star.get(quantity, np.nan), star.get(f"{quantity}_error", np.nan)
    if np.isfinite([value, error]).all() and error > 0:
        return value - error, value, value + error
    return None


def draw_stars(
    spectra: ExampleSpectra, sample: Mapping[str, NDArray[Any]], schema: ReportSchema, title: str, caption: str
) -> Drawn:
    """Spectra of the first few example stars, with posteriors.

    Parameters
    ----------
    spectra : ExampleSpectra
    sample : mapping of str to ndarray, shape (n,)
        Sampled rows; holds the rows of ``spectra``.
    schema : ReportSchema
    title, caption : str
    """
    picked = np.unique(np.linspace(0, len(spectra.rows) - 1, STARS_DRAWN).round().astype(int))
    quantities = [name for name in ("age", "mass") if schema.has(name)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 2.3 * len(picked) + 0.4), layout="constrained")
        ratios = [4.2, *(1.0 for _ in quantities)]
        grid = figure.subplots(len(picked), len(ratios), squeeze=False, width_ratios=ratios)
        for panels, index in zip(grid, picked, strict=True):
            at = int(np.searchsorted(sample["row"], spectra.rows[index]))
            star = {name: values[at] for name, values in sample.items()}
            _draw_spectrum(panels[0], spectra, index, star, schema)
            for axes, quantity in zip(panels[1:], quantities, strict=True):
                _draw_posterior(axes, star, quantity, schema)
        grid[-1][0].set_xlabel(f"wavelength [{spectra.wavelength_unit}]")
        for axes, quantity in zip(grid[-1][1:], quantities, strict=True):
            axes.set_xlabel(schema.label(quantity))
        return Drawn("examples", title, caption, encode(figure))


def _draw_spectrum(
    axes: Axes, spectra: ExampleSpectra, index: int, star: Mapping[str, object], schema: ReportSchema
) -> None:
    axes.plot(spectra.wavelength, spectra.flux[index], color=BLUE, linewidth=0.6)
    facts = [str(star["key"])] if "key" in star else [f"row {star['row']}"]
    facts += [
        f"{schema.roles[role].name} = {star[role]:.{digits}f}"
        for role, digits in (("teff", 0), ("logg", 2), ("feh", 2), ("snr", 0))
        if role in star
    ]
    if schema.result and schema.result not in ("age", "mass", "teff", "logg", "feh", "snr"):
        facts.append(f"{schema.roles[schema.result].name} = {star[schema.result]:.3g}")
    axes.set_title("   ".join(facts), fontsize=9, loc="left")
    axes.set_ylabel("flux" + (f"\n[{spectra.flux_unit}]" if spectra.flux_unit else ""), fontsize=8)
    low, high = np.nanpercentile(spectra.flux[index], [0.5, 99.5])
    axes.set_ylim(low - 0.15 * (high - low), high + 0.15 * (high - low))
    axes.set_xlim(spectra.wavelength[0], spectra.wavelength[-1])


def _draw_posterior(axes: Axes, star: Mapping[str, float], quantity: str, schema: ReportSchema) -> None:
    limits = percentiles_of(star, quantity)
    axes.set_yticks([])
    if limits is None:
        axes.text(0.5, 0.5, f"no {schema.roles[quantity].name}", transform=axes.transAxes, ha="center", color=GREY)
        return
    low, middle, high = limits
    x = np.linspace(max(0.0, low - 3 * (middle - low)), high + 3 * (high - middle), 300)
    curve = two_piece_normal(x, low, middle, high)
    axes.plot(x, curve, color=ORANGE, linewidth=1.2)
    inner = (x >= low) & (x <= high)
    axes.fill_between(x[inner], curve[inner], color=ORANGE, alpha=0.3, linewidth=0)
    axes.set_title(f"{middle:.2f} (+{high - middle:.2f}, −{middle - low:.2f})", fontsize=9)
    axes.set_ylim(0, 1.1)
