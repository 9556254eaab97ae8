"""The page of a comparison: what the text says, with the distribution of changes drawn."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from catalogue.difference.difference import Difference, summary_lines
from catalogue.difference.values import SIGMA_BINS, QuantityDifference
from catalogue.report.figures import BLUE, GREY, ORANGE, STYLE, Drawn, encode


def write_page(difference: Difference, path: Path) -> None:
    """Write everything with plots as one self-contained HTML file; it appears complete or not at all.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    partial.write_text(render(difference), encoding="utf-8")
    partial.replace(path)


def render(difference: Difference) -> str:
    """The whole page as HTML that loads nothing from anywhere.

    Parameters
    ----------
    difference : Difference
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = resources.files("catalogue.difference").joinpath("page.html").read_text(encoding="utf-8")
    style = resources.files("catalogue.report").joinpath("assets", "page.css").read_text(encoding="utf-8")
    figures = [draw_sigma(quantity) for quantity in difference.quantities if quantity.with_sigma]
    if difference.bits:
        figures.append(draw_bits(difference))
    return environment.from_string(template).render(
        difference=difference, parts=difference.parts(), summary=summary_lines, figures=figures, style=Markup(style)
    )


def draw_sigma(quantity: QuantityDifference) -> Drawn:
    """Distribution of a quantity's change in units of the errors, beside a normal one."""
    centres = 0.5 * (SIGMA_BINS[1:] + SIGMA_BINS[:-1])
    counts = np.array(quantity.histogram)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.stairs(counts, SIGMA_BINS, color=BLUE, fill=True, alpha=0.35)
        axes.stairs(counts, SIGMA_BINS, color=BLUE, linewidth=1.1, label="rows")
        normal = counts.sum() * np.exp(-0.5 * centres**2) / np.sqrt(2 * np.pi) * np.diff(SIGMA_BINS)
        axes.plot(centres, normal, color=ORANGE, linewidth=1.2, label="independent estimates of right error")
        occupied = np.flatnonzero(counts)
        reach = max(1.5, float(np.abs(centres[occupied]).max()) + 0.3) if len(occupied) else 1.5
        axes.set_xlim(-min(reach, 10), min(reach, 10))
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_xlabel(f"change of {quantity.quantity} / √(error² + error²)")
        axes.set_ylabel("rows per bin")
        if counts.max() > 0:
            axes.set_yscale("symlog", linthresh=10)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
        caption = "Second minus first, over both errors added in quadrature; the outermost bins hold the rest."
        return Drawn(f"sigma-{quantity.quantity}", f"How far {quantity.quantity} moved", caption, encode(figure))


def draw_bits(difference: Difference) -> Drawn:
    """Rows in which each flag bit was set or cleared."""
    names = [change.bit for change in difference.bits]
    places = np.arange(len(names))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 0.9 + 0.34 * len(names)), layout="constrained")
        axes = figure.subplots()
        axes.barh(places - 0.2, [change.set for change in difference.bits], 0.38, color=ORANGE, label="set")
        axes.barh(places + 0.2, [change.cleared for change in difference.bits], 0.38, color=BLUE, label="cleared")
        axes.set_yticks(places, names, fontsize=8)
        axes.invert_yaxis()
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlabel("rows")
        axes.legend(frameon=False, fontsize=8)
        caption = "Rows in which a bit is set in the second alone (set), or in the first alone (cleared)."
        return Drawn("bits", "Flag bits", caption, encode(figure))
