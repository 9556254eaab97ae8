"""Packs the sample and the example spectra into the page: JSON for the facts, one compressed block for the numbers."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from catalogue.report.collector import ReportCollector
from catalogue.report.example_spectra import ExampleSpectra
from catalogue.report.figures import COLOUR_MAPS, RESULT_COLOURS
from catalogue.report.schema import INTEGER_ROLES, TEXT_ROLES
from catalogue.report.tallies import AXES
from catalogue.spectra.primitives import RowStatus

_DOUBLE_ROLES = frozenset({"ra", "dec"})
_COLOURS = 32
MISSING_FLUX = 65535


class Block:
    """Arrays laid one after another, described by name, type, offset and length."""

    def __init__(self) -> None:
        self._content = bytearray()
        self.arrays: dict[str, dict[str, Any]] = {}

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Append numbers, little-endian, aligned to 8 bytes."""
        raw = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        self._append(name, f"{raw.dtype.kind}{raw.dtype.itemsize}", raw.tobytes(), raw.size)

    def add_text(self, name: str, values: NDArray[Any]) -> None:
        """Append strings, one a line; line ends inside a string become spaces."""
        lines = "\n".join(" ".join(str(value).splitlines()) for value in values)
        self._append(name, "text", lines.encode(), len(values))

    def _append(self, name: str, kind: str, raw: bytes, length: int) -> None:
        self._content += b"\0" * (-len(self._content) % 8)
        self.arrays[name] = {"type": kind, "offset": len(self._content), "bytes": len(raw), "length": length}
        self._content += raw

    def compressed(self) -> str:
        """Base64 of the gzip of the content; the same content gives the same text."""
        return base64.b64encode(gzip.compress(bytes(self._content), 9, mtime=0)).decode("ascii")


def colour_table(name: str) -> list[str]:
    """Colours of a matplotlib map from low to high, as ``#rrggbb``."""
    colours = matplotlib.colormaps[name](np.linspace(0, 1, _COLOURS))[:, :3]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in colours]


def facts(collector: ReportCollector, spectra: ExampleSpectra | None) -> dict[str, Any]:
    """What the scripts need beside the numbers."""
    schema = collector.schema
    return {
        "rows": collector.rows,
        "roles": {
            role: {"name": column.name, "unit": column.unit, "label": schema.label(role)}
            for role, column in schema.roles.items()
        },
        "flags": [
            {"bit": flag.bit, "name": flag.name, "description": flag.description, "level": flag.level}
            for flag in schema.flags
        ],
        "statuses": {str(int(status)): [status.name, status.meaning] for status in RowStatus},
        "states": [[status, flag, int(has_result), rows] for status, flag, has_result, rows in collector.states.rows()],
        "colours": {role: colour_table(name) for role, name in {schema.result: RESULT_COLOURS, **COLOUR_MAPS}.items()},
        "planes": {f"{x}-{y}": plane.colour for (x, y), plane in collector.planes.items()},
        "result": {"role": schema.result, "words": schema.result_words} if schema.result else None,
        "logarithmic": [role for role, axis in AXES.items() if axis.logarithmic],
        "bins": {role: histogram.for_display()[0].tolist() for role, histogram in collector.histograms.items()},
        "spectra": None
        if spectra is None
        else {
            "rows": spectra.rows.tolist(),
            "pixels": len(spectra.wavelength),
            "wavelength_unit": spectra.wavelength_unit,
            "flux_unit": spectra.flux_unit,
            "missing": MISSING_FLUX,
        },
    }


def sample_block(sample: dict[str, NDArray[Any]]) -> Block:
    """The sampled rows: floats as float32 except positions, integers as they are, text."""
    block = Block()
    for role, values in sample.items():
        if role == "priority":
            continue
        if role in TEXT_ROLES:
            block.add_text(role, values)
        elif role in INTEGER_ROLES or role == "row":
            block.add(role, np.asarray(values, np.int32))
        else:
            block.add(role, np.asarray(values, np.float64 if role in _DOUBLE_ROLES else np.float32))
    return block


def spectra_block(spectra: ExampleSpectra) -> Block:
    """The example spectra: flux in 65,535 steps between each spectrum's extremes, which is finer than any plot."""
    block = Block()
    block.add("wavelength", spectra.wavelength.astype(np.float32))
    low = np.nanmin(spectra.flux, axis=1, initial=np.inf)
    high = np.nanmax(spectra.flux, axis=1, initial=-np.inf)
    step = np.where(high > low, (high - low) / (MISSING_FLUX - 1), 1.0)
    scaled = (spectra.flux - low[:, None]) / step[:, None]
    missing = ~np.isfinite(scaled)
    coded = np.where(missing, MISSING_FLUX, np.rint(np.where(missing, 0, scaled))).astype(np.uint16)
    block.add("flux", coded.ravel())
    block.add("low", low.astype(np.float64))
    block.add("step", step.astype(np.float64))
    error = np.full(len(spectra.rows), np.nan)
    for index, row in enumerate(spectra.error):
        known = np.isfinite(row)
        error[index] = np.median(row[known]) if known.any() else np.nan
    block.add("error", error)
    return block
