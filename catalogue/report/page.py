"""Puts the page together: template, style, scripts, figures and data in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from catalogue.report.collector import ReportCollector
from catalogue.report.context import ReportContext
from catalogue.report.example_spectra import ExampleSpectra, read_spectra
from catalogue.report.figures import Drawn, StaticFigures
from catalogue.report.payload import Block, facts, sample_block, spectra_block
from catalogue.report.star_figures import draw_stars
from catalogue.spectra.primitives import RowStatus

_POSTERIORS = (
    ", beside the age and mass that the star was given: curves drawn from the 16th, 50th and 84th percentiles, the "
    "shaded part holds 68 %."
)
SCRIPTS = ("data.js", "draw.js", "scatter.js", "histogram.js", "star.js", "filters.js", "main.js")
"""Scripts of the page in the order in which they need one another."""


def write_page(collector: ReportCollector, path: Path, context: ReportContext) -> None:
    """Write the page; it appears under its name complete or not at all.

    Parameters
    ----------
    collector : ReportCollector
        Has taken every block of the catalogue.
    path : Path
    context : ReportContext

    Raises
    ------
    OSError
        If the page cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    partial.write_text(render(collector, context), encoding="utf-8")
    partial.replace(path)


def render(collector: ReportCollector, context: ReportContext) -> str:
    """The whole page.

    Parameters
    ----------
    collector : ReportCollector
        After the last block.
    context : ReportContext

    Returns
    -------
    str
        HTML that loads nothing from anywhere.
    """
    sample = collector.sample()
    spectra, without = _spectra(collector, context, sample)
    stars, pixels = sample_block(sample), Block()
    examples = None
    if spectra is not None and len(spectra.rows):
        pixels = spectra_block(spectra)
        examples = draw_stars(
            spectra, sample, collector.schema, "Example spectra",
            "Flux as observed, in the survey's units" + (_POSTERIORS if collector.schema.has("age") else "."),
        )  # fmt: skip
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("page.html")).render(
        context=context,
        collector=collector,
        survey=collector.survey_title,
        statuses=_statuses(collector),
        flags=_flags(collector),
        result_words=collector.schema.result_words,
        with_result=sum(rows for _, _, has_result, rows in collector.states.rows() if has_result),
        good=_good_rows(collector),
        sample_size=len(sample["row"]),
        figures=_figures(collector),
        examples=examples,
        without_spectra=without,
        spectra_count=len(spectra.rows) if spectra is not None else 0,
        style=Markup(_asset("page.css")),
        scripts=[Markup(_asset(name)) for name in SCRIPTS],
        facts=_embedded(facts(collector, spectra)),
        sample_arrays=_embedded(stars.arrays),
        sample_block=stars.compressed(),
        spectra_arrays=_embedded(pixels.arrays),
        spectra_block=pixels.compressed() if pixels.arrays else "",
    )


def _good_rows(collector: ReportCollector) -> int:
    bad = collector.schema.bad_mask
    counts = collector.states.rows()
    return sum(rows for _, flag, has_result, rows in counts if has_result and not flag & bad)


def _asset(name: str) -> str:
    return resources.files("catalogue.report").joinpath("assets", name).read_text(encoding="utf-8")


def _embedded(value: object) -> Markup:
    """JSON that cannot end the script element that holds it, whatever the strings are."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _spectra(
    collector: ReportCollector, context: ReportContext, sample: Mapping[str, NDArray[Any]]
) -> tuple[ExampleSpectra | None, str]:
    """Example spectra, or None and why there are none: the page is worth writing without them."""
    result = collector.schema.result
    if context.spectra is None or not context.example_spectra:
        return None, "no spectra were asked for"
    if not result:
        return None, "the product shows nothing that a model says of a spectrum"
    wanted = np.isfinite(sample[result])
    if "flag" in sample:
        wanted &= (sample["flag"] & collector.schema.bad_mask) == 0
    try:
        spectra = read_spectra(
            context.spectra, sample["row"][wanted], sample["priority"][wanted], context.example_spectra
        )
    except (OSError, ValueError, KeyError) as error:
        return None, f"the spectra store could not be read: {error}"
    return spectra, ""


def _statuses(collector: ReportCollector) -> list[dict[str, Any]]:
    known = {int(status): status for status in RowStatus}
    return [
        {
            "value": value,
            "name": known[value].name if value in known else str(value),
            "meaning": known[value].meaning if value in known else "a status that this version does not know",
            "rows": rows,
        }
        for value, rows in collector.states.by_status().items()
        if "status" in collector.schema.roles
    ]


def _flags(collector: ReportCollector) -> list[dict[str, Any]]:
    return [
        {
            "bit": flag.bit,
            "name": flag.name,
            "description": flag.description,
            "level": flag.level,
            "rows": collector.states.with_bit(flag.bit),
        }
        for flag in collector.schema.flags
    ]


def _coloured(collector: ReportCollector, colour: str) -> str:
    """What is said of a plane's colour."""
    words = {"age": "age", "mass": "mass", "feh": "metallicity"}
    return f", coloured by {words.get(colour, collector.schema.roles[colour].name)}" if colour else ""


def _figures(collector: ReportCollector) -> list[Drawn]:
    """Static figures of all rows that carry no bit of level bad, as far as the columns allow."""
    static, schema = StaticFigures(collector), collector.schema
    planes = (
        ("teff", "logg", "Teff – log g", "Temperature and surface gravity{}; both axes run backwards."),
        ("age", "mass", "Age – mass", "Mass against age{}."),
        ("feh", "age", "[Fe/H] – age", "Age against metallicity{}."),
        ("feh", "alpha", "[Fe/H] – [α/M]", "Alpha enhancement against metallicity{}."),
        ("snr", "age_error", "Age error – S/N", "Error of the age against the signal-to-noise ratio{}."),
    )
    drawn = [
        static.plane(x, y, title, caption.format(_coloured(collector, collector.planes[x, y].colour)))
        for x, y, title, caption in planes
        if (x, y) in collector.planes
    ]
    histograms: tuple[tuple[str, str, str], ...] = (
        ("age", "Ages", "Rows per bin of age"),
        ("mass", "Masses", "Rows per bin of mass"),
        ("feh", "Metallicities", "Rows per bin of metallicity"),
        ("age_error", "Age errors", "Rows per bin of the error of the age"),
        ("mass_error", "Mass errors", "Rows per bin of the error of the mass"),
    )
    known = {role for role, _, _ in histograms}
    if schema.result and schema.result not in known:
        name = schema.roles[schema.result].name
        histograms = ((schema.result, name, f"Rows per bin of {name}"), *histograms)
    for role, title, caption in histograms:
        if role not in collector.histograms:
            continue
        if schema.has(f"{role}_error"):
            caption += "; the points are what is expected if every row is spread by its own error, with counting errors"
        drawn.append(static.histogram(role, title, caption + "."))
    if ("ra", "dec") in collector.planes:
        drawn.append(static.sky("Sky", "Mollweide projection, right ascension increasing to the left."))
    return drawn
