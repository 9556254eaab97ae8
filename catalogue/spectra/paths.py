"""From a parent row to the path of its spectrum, without ever leaving the survey's root."""

from __future__ import annotations

import datetime
import errno
import math
import os
import stat
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from catalogue.spectra.primitives import MISSING_INTEGER, RowStatus, SpectrumError

_MOST_DIRECTORIES = 8192
_INTEGER_TYPES = "bcdoxXn"
PERMANENT_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR})
"""Errors of one file rather than of the file system: opening it again gives the same."""


class PathTemplateError(ValueError):
    """A path template that cannot be used."""


class PathTemplate:
    """Relative path of a spectrum as a format string over columns of the parent table.

    Parameters
    ----------
    template : str
        Python format fields with column names: ``"{filename}"``, ``"{planid}/spec-{lmjd}_sp{spid:02d}.fits.gz"``. A
        format that starts with ``%`` is one of dates, for columns of dates (also as ISO 8601 text, or text or integers
        YYYYMMDD): ``"{obsdate:%Y%m%d}"``.

    Attributes
    ----------
    template : str
    columns : tuple of str
        Columns that it names, in order of first appearance.

    Raises
    ------
    PathTemplateError
        If it is malformed, names no column, or asks for more than the value of a column (positions,
        attributes, items, conversions, nested fields).

    Examples
    --------
    >>> PathTemplate("{planid}/sp{spid:02d}.fits").fill({"planid": "B6202", "spid": 7})
    'B6202/sp07.fits'
    >>> PathTemplate("{obsdate:%Y%m%d}").fill({"obsdate": "2011-10-24"})
    '20111024'
    """

    def __init__(self, template: str) -> None:
        self.template = template
        try:
            self._parts = list(string.Formatter().parse(template))
        except ValueError as error:
            raise PathTemplateError(f"path template {template!r}: {error}") from error
        names: dict[str, None] = {}
        for _, field, specification, conversion in self._parts:
            if field is None:
                continue
            if not field or field.isdigit() or set(field) & set(".[]") or conversion or "{" in (specification or ""):
                wanted = "column names, with a format as in {spid:02d} if needed"
                raise PathTemplateError(f"path template {template!r}: expected {wanted}, found {{{field}}}")
            names[field] = None
        if not names:
            raise PathTemplateError(f"path template {template!r}: expected at least one {{column}}, found none")
        self.columns = tuple(names)

    def fill(self, row: Mapping[str, object]) -> str:
        """Path of one row, relative to the root, unchecked.

        Parameters
        ----------
        row : mapping
            Values of :attr:`columns`: strings, integers or floats.

        Raises
        ------
        SpectrumError
            ``NO_SPECTRUM`` if a value is missing (None, NaN, -9999 or blank) or does not fit its format.
        """
        pieces = []
        for text, field, specification, _ in self._parts:
            pieces.append(text)
            if field is not None:
                pieces.append(_formatted(field, row[field], specification or ""))
        path = "".join(pieces)
        if "\0" in path:
            raise SpectrumError(RowStatus.NO_SPECTRUM, f"path {path!r} holds a NUL")
        return path

    def fill_rows(self, columns: Mapping[str, Sequence[object]]) -> list[str]:
        """Paths of many rows; the empty string where :meth:`fill` would raise.

        Parameters
        ----------
        columns : mapping of str to sequence
            Values of :attr:`columns`, all of one length.
        """
        rows = len(columns[self.columns[0]])
        pieces: list[Sequence[str | None]] = []
        for text, field, specification, _ in self._parts:
            if text:
                pieces.append([text] * rows)
            if field is not None:
                pieces.append(_formatted_column(field, columns[field], specification or ""))
        if len(pieces) == 1:
            paths = [piece or "" for piece in pieces[0]]
        else:
            paths = ["" if None in parts else "".join(parts) for parts in zip(*pieces, strict=True)]
        return ["" if "\0" in path else path for path in paths]

    def render(self, row: Mapping[str, object], root: Path) -> str:
        """Path of one row, relative to ``root`` and known to stay inside.

        Raises
        ------
        SpectrumError
            ``NO_SPECTRUM`` as in :meth:`fill`, ``OUTSIDE_ROOT`` as in :meth:`SpectraRoot.confine`.
        """
        relative = self.fill(row)
        SpectraRoot(root).confine(relative)
        return relative


def _formatted(field: str, value: object, specification: str) -> str:
    if isinstance(value, str):
        value = value.strip()
    if _is_missing(value):
        raise SpectrumError(RowStatus.NO_SPECTRUM, f"column {field} is missing, from which the path is made")
    try:
        if specification.startswith("%"):
            value = _as_date(value)
        elif specification[-1:] and specification[-1] in _INTEGER_TYPES:
            value = _as_integer(value)
        elif isinstance(value, float | np.floating) and not specification and float(value).is_integer():
            # Integer columns with nulls arrive as floats from many tables.
            value = int(value)
        return format(value, specification)
    except (ValueError, TypeError) as error:
        raise SpectrumError(
            RowStatus.NO_SPECTRUM, f"column {field} is {value!r}, expected a value for {{{field}:{specification}}}"
        ) from error


def _formatted_column(field: str, values: Sequence[object], specification: str) -> list[str | None]:
    """:func:`_formatted` over a column, None where it would raise."""
    kinds = set(map(type, values))
    if specification.startswith("%"):
        return _dates_column(field, values, specification)
    if not specification and kinds == {str}:
        return [value.strip() or None for value in values]  # type: ignore[attr-defined]
    if kinds == {int} and specification[-1:] in ("", "d"):
        return [None if value == MISSING_INTEGER else format(value, specification) for value in values]
    texts: list[str | None] = []
    for value in values:
        try:
            texts.append(_formatted(field, value, specification))
        except SpectrumError:
            texts.append(None)
    return texts


def _dates_column(field: str, values: Sequence[object], specification: str) -> list[str | None]:
    """:func:`_formatted` over a column of dates, each different one formatted once."""
    known: dict[object, str | None] = {}
    for value in set(values):
        try:
            known[value] = _formatted(field, value, specification)
        except SpectrumError:
            known[value] = None
    return [known[value] for value in values]


def _as_date(value: object) -> datetime.date:
    if isinstance(value, datetime.date):
        return value
    text = str(value)
    return datetime.datetime.strptime(text, "%Y%m%d") if text.isdigit() else datetime.datetime.fromisoformat(text)


def _as_integer(value: object) -> int:
    if isinstance(value, float | np.floating) and not float(value).is_integer():
        raise ValueError("not an integer")
    return int(value)  # type: ignore[call-overload]


def _is_missing(value: object) -> bool:
    if value is None or value == "":
        return True
    if isinstance(value, float | np.floating):
        return math.isnan(value)
    return isinstance(value, int | np.integer) and value == MISSING_INTEGER


class SpectraRoot:
    """The survey's root directory, out of which no path may lead.

    Parameters
    ----------
    root : Path
        Existing directory; may itself be a symbolic link.

    Notes
    -----
    Directories that were found to be inside are remembered, so that a file costs one ``lstat``.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.fspath(root)
        self._real = os.path.realpath(self.root)
        self._inside: set[str] = set()

    def confine(self, relative: str) -> str:
        """Full path of ``relative``, whether or not there is such a file.

        Raises
        ------
        SpectrumError
            ``OUTSIDE_ROOT`` if it is absolute, has a ``..`` in it, or leaves the root by a symbolic link.
        """
        full = self._confine_directory(relative)
        if os.path.islink(full):  # noqa: PTH114 - Path objects cost more than the test
            self._require_inside(full, relative)
        return full

    def locate(self, relative: str) -> tuple[str, os.stat_result]:
        """Full path and facts of an existing regular file.

        Raises
        ------
        SpectrumError
            ``OUTSIDE_ROOT``; ``NO_SPECTRUM`` if there is no such file; ``UNREADABLE`` if it is no regular file.
        OSError
            If the file system does not answer.
        """
        full = self._confine_directory(relative)
        try:
            facts = os.lstat(full)
            if stat.S_ISLNK(facts.st_mode):
                self._require_inside(full, relative)
                facts = os.stat(full)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SpectrumError(RowStatus.NO_SPECTRUM, f"{relative}: no such file") from error
        except OSError as error:
            if error.errno in PERMANENT_ERRORS:
                raise SpectrumError(RowStatus.UNREADABLE, f"{relative}: {error.strerror}") from error
            raise
        if not stat.S_ISREG(facts.st_mode):
            kind = "a directory" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
            raise SpectrumError(RowStatus.UNREADABLE, f"{relative}: expected a file, found {kind}")
        return full, facts

    def _confine_directory(self, relative: str) -> str:
        if relative.startswith("/") or ".." in relative.split("/"):
            raise SpectrumError(RowStatus.OUTSIDE_ROOT, f"{relative}: expected a path inside the root")
        full = f"{self.root}/{relative}"
        directory = full.rpartition("/")[0]
        if directory not in self._inside:
            self._require_inside(directory, relative)
            if len(self._inside) >= _MOST_DIRECTORIES:
                self._inside.clear()
            self._inside.add(directory)
        return full

    def _require_inside(self, path: str, relative: str) -> None:
        real = os.path.realpath(path)
        if real != self._real and not real.startswith(self._real.rstrip("/") + "/"):
            raise SpectrumError(RowStatus.OUTSIDE_ROOT, f"{relative}: a symbolic link leads out of the root, to {real}")
