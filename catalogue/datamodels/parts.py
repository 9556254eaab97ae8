"""The parts of a data model: columns, flag bits and options, each checked on its own."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from catalogue.expressions import Expression, ExpressionError

FLAG_COLUMNS = {"FLAG": "int32", "FLAG_WARN": "bool", "FLAG_BAD": "bool"}
"""Columns that the flags make, and their dtypes."""

HIGHEST_BIT = 23
"""Bits 24 to 30 of ``FLAG`` are left to whoever republishes a catalogue with checks of their own."""


class Part(BaseModel):
    """Anything in a data model: immutable, and without keys that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _parsed(text: str) -> str:
    try:
        Expression(text)
    except ExpressionError as error:
        raise ValueError(str(error)) from error
    return text


class Column(Part):
    """One column.

    Attributes
    ----------
    name : str
    value : str
        Expression that makes it. ``FLAG``, ``FLAG_WARN`` and ``FLAG_BAD`` are made by the flags themselves.
    dtype : str
    unit : str
        FITS-standard unit string.
    ucd : str
        IVOA unified content descriptor.
    missing : int or None
        Missing value of an integer column; NaN and the empty string are those of floats and strings.
    width : int
        Longest string in characters, for formats that need one.
    description, source : str
    blank_when : str
        Expression; where it is True a value is missing.
    role : str
        What the column is to reports and queries (``age``, ``mass_error``, ``ra``), empty if nothing.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=68)  # 68 characters fit one FITS card
    value: str = ""
    dtype: Literal["int16", "int32", "int64", "uint8", "float32", "float64", "bool", "str"]
    unit: str = ""
    ucd: str = ""
    missing: int | None = None
    width: int = Field(default=0, ge=0)
    description: str
    source: str = ""
    blank_when: str = ""
    role: str = ""

    @field_validator("value", "blank_when")
    @classmethod
    def _is_expression(cls, text: str) -> str:
        return _parsed(text) if text else text

    @field_validator("unit")
    @classmethod
    def _is_fits_unit(cls, text: str) -> str:
        if text:
            # Astropy takes a quarter of a second to load, which readers of catalogues need not pay.
            from astropy.units import Unit

            Unit(text, format="fits")
        return text

    @field_validator("ucd")
    @classmethod
    def _is_ucd(cls, text: str) -> str:
        if text:
            from astropy.io.votable.ucd import parse_ucd

            parse_ucd(text, check_controlled_vocabulary=True)
        return text

    @model_validator(mode="after")
    def _can_be_made(self) -> Column:
        made = FLAG_COLUMNS.get(self.name)
        if made and (self.value or self.blank_when):
            raise ValueError(f"column {self.name}: is made by the flags and takes no value or blank_when")
        if made and self.dtype != made:
            raise ValueError(f"column {self.name}: expected dtype {made}, found {self.dtype}")
        if not made and not self.value:
            raise ValueError(f"column {self.name}: value is missing")
        return self

    @model_validator(mode="after")
    def _can_be_missing(self) -> Column:
        if (self.dtype == "str") != (self.width > 0):
            raise ValueError(f"column {self.name}: a string needs a width, and nothing else has one")
        if self.missing is not None:
            if not self.is_integer:
                raise ValueError(f"column {self.name}: a {self.dtype} takes no missing value of its own")
            bounds = np.iinfo(self.dtype)
            if not bounds.min <= self.missing <= bounds.max:
                raise ValueError(f"column {self.name}: missing value {self.missing} does not fit {self.dtype}")
        if self.blank_when and (self.dtype == "bool" or (self.is_integer and self.missing is None)):
            raise ValueError(f"column {self.name}: a {self.dtype} that can be missing needs its missing value")
        return self

    @property
    def is_integer(self) -> bool:
        """Whether the column holds integers."""
        return self.dtype.startswith(("int", "uint"))

    @property
    def is_float(self) -> bool:
        """Whether the column holds floating-point numbers."""
        return self.dtype.startswith("float")

    @cached_property
    def value_expression(self) -> Expression:
        """``value``, parsed."""
        return Expression(self.value)

    @cached_property
    def expressions(self) -> tuple[Expression, ...]:
        """``value`` and ``blank_when``, parsed, as far as they are there."""
        return tuple(Expression(text) for text in (self.value, self.blank_when) if text)


class Flag(Part):
    """One bit of the product's own ``FLAG``.

    Attributes
    ----------
    bit : int
        Zero-based, at most :data:`HIGHEST_BIT`.
    name : str
    level : str
        ``bad``: not to be used; ``warn``: to be used with care; ``info``: neither.
    when : str
        Expression; where it is True the bit is set.
    description : str
    """

    bit: int = Field(ge=0, le=HIGHEST_BIT)
    name: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$", max_length=40)
    level: Literal["info", "warn", "bad"]
    when: str
    description: str

    @field_validator("when")
    @classmethod
    def _is_expression(cls, text: str) -> str:
        return _parsed(text)

    @cached_property
    def expression(self) -> Expression:
        """``when``, parsed."""
        return Expression(self.when)


class Option(Part):
    """A choice that the run configuration makes under ``options``.

    Attributes
    ----------
    default : str or float
    choices : tuple of str
        What may be chosen; empty if the option is a number or free text.
    description : str
    """

    default: str | float
    choices: tuple[str, ...] = ()
    description: str

    @model_validator(mode="after")
    def _default_is_allowed(self) -> Option:
        if not self.accepts(self.default):
            raise ValueError(f"default {self.default!r} is none of {', '.join(self.choices)}")
        return self

    def accepts(self, given: Any) -> bool:
        """Whether a value may be chosen; None stands for the default."""
        try:
            self.value(given)
        except ValueError:
            return False
        return True

    def value(self, given: Any) -> str | float:
        """The given value, or the default for None.

        Raises
        ------
        ValueError
            If it is none of the choices, or not a finite number where the default is one.
        """
        if given is None:
            return self.default
        if self.choices and given not in self.choices:
            raise ValueError(f"expected one of {', '.join(self.choices)}, found {given!r}")
        if isinstance(self.default, str):
            return str(given)
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not math.isfinite(given):
            raise ValueError(f"expected a number, found {given!r}")
        return float(given)
