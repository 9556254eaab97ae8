"""A product's data model: columns, units, nulls and flag bits, and how each is made.

Every column and every flag bit says by an expression where its value comes from, so that a new product is a YAML file
and no code. The names that expressions may use are listed in docs/data_models.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import astropy.units
import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from catalogue.expressions import Expression, ExpressionError
from catalogue.spectra.primitives import RowStatus

SHIPPED = Path(__file__).parent


class DataModelError(Exception):
    """A data model that is wrong or unknown; the message names the file and the place."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Dtype of a column in memory; ``str`` is numpy's variable-length string."""
    return np.dtypes.StringDType() if name == "str" else np.dtype(name)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _parsed(text: str) -> str:
    try:
        Expression(text)
    except ExpressionError as error:
        raise ValueError(str(error)) from error
    return text


class Column(_Part):
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
        Longest string in bytes of UTF-8, for formats that need one.
    description, source : str
    blank_when : str
        Expression; where it is True a value is missing.
    role : str
        What the column is to reports and queries (``age``, ``mass_error``, ``ra``), empty if nothing.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
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
            astropy.units.Unit(text, format="fits")
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Column:
        if self.dtype == "str" and not self.width:
            raise ValueError(f"column {self.name}: a string needs a width")
        if self.blank_when and self.dtype.startswith(("int", "uint")) and self.missing is None:
            raise ValueError(f"column {self.name}: an integer that can be missing needs its missing value")
        return self


class Flag(_Part):
    """One bit of the product's own ``FLAG``."""

    bit: int = Field(ge=0, le=30)
    name: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
    level: Literal["info", "warn", "bad"]
    when: str
    description: str

    @field_validator("when")
    @classmethod
    def _is_expression(cls, text: str) -> str:
        return _parsed(text)


class Option(_Part):
    """A choice that the run configuration makes under ``options``."""

    default: str | float
    choices: tuple[str, ...] = ()
    description: str


class DataModel(_Part):
    """A product.

    Attributes
    ----------
    name, title, survey, description : str
    version : int
    uses : dict of str to str
        Alias, as in ``prediction.age``, to model kind.
    options : dict of str to Option
    columns : tuple of Column
    flags : tuple of Flag
    retired_bits : tuple of int
        Bits of earlier versions, never used again.
    file_names : dict of str to str
        File name by format, where it is not ``<name>.<suffix>``.
    """

    name: str
    version: int
    title: str
    survey: str
    description: str = ""
    uses: dict[str, str] = Field(default_factory=dict)
    options: dict[str, Option] = Field(default_factory=dict)
    columns: tuple[Column, ...]
    flags: tuple[Flag, ...] = ()
    retired_bits: tuple[int, ...] = ()
    file_names: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_and_bits_are_unique(self) -> DataModel:
        names = [column.name for column in self.columns]
        bits = [flag.bit for flag in self.flags] + list(self.retired_bits)
        flags = [flag.name for flag in self.flags]
        for what, values in (("column", names), ("bit", bits), ("flag", flags)):
            repeated = sorted({str(value) for value in values if values.count(value) > 1})
            if repeated:
                raise ValueError(f"{what} {', '.join(repeated)} is used more than once")
        for column in self.columns:
            if not column.value and column.name not in ("FLAG", "FLAG_WARN", "FLAG_BAD"):
                raise ValueError(f"column {column.name}: value is missing")
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256, hexadecimal, of the model's content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @cached_property
    def required_names(self) -> frozenset[str]:
        """Names that the expressions need, without options and statuses."""
        texts = [text for column in self.columns for text in (column.value, column.blank_when) if text]
        texts += [flag.when for flag in self.flags]
        names = {name for text in texts for name in Expression(text).names}
        return frozenset(name for name in names if not name.startswith(("flag.", "option.", "STATUS_")))

    def evaluate(
        self, namespace: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Make all columns for a block of rows.

        Parameters
        ----------
        namespace : mapping of str to ndarray, shape (rows,), or scalar
            Values of :attr:`required_names`; ``status`` gives the number of rows.
        options : mapping, optional
            Choices; the defaults otherwise.

        Returns
        -------
        dict of str to ndarray, shape (rows,)
            In the order and dtypes of :attr:`columns`.

        Raises
        ------
        DataModelError
            Naming the column or flag whose expression fails.
        """
        rows = len(namespace["status"])
        names = dict(namespace)
        names.update({f"STATUS_{status.name}": int(status) for status in RowStatus})
        for name, option in self.options.items():
            names[f"option.{name}"] = (options or {}).get(name, option.default)
        flag_bits = self._flag_bits(names, rows)
        names.update({f"flag.{name}": bits for name, bits in flag_bits.items()})
        made = self._flag_columns(flag_bits, rows)
        columns: dict[str, NDArray[Any]] = {}
        for column in self.columns:
            try:
                columns[column.name] = self._column(column, names, made, rows)
            except (ExpressionError, KeyError) as error:
                raise DataModelError(f"{self.name}, column {column.name}: {error}") from error
        return columns

    def _flag_bits(self, names: Mapping[str, Any], rows: int) -> dict[str, NDArray[np.bool_]]:
        bits: dict[str, NDArray[np.bool_]] = {}
        for flag in self.flags:
            try:
                value = Expression(flag.when).evaluate(
                    {**names, **{f"flag.{known}": value for known, value in bits.items()}}
                )
            except (ExpressionError, KeyError) as error:
                raise DataModelError(f"{self.name}, flag {flag.name}: {error}") from error
            bits[flag.name] = np.broadcast_to(np.asarray(value, bool), rows)
        return bits

    def _flag_columns(self, bits: Mapping[str, NDArray[np.bool_]], rows: int) -> dict[str, NDArray[Any]]:
        value = np.zeros(rows, np.int32)
        levels = {"warn": np.zeros(rows, bool), "bad": np.zeros(rows, bool), "info": np.zeros(rows, bool)}
        for flag in self.flags:
            value |= np.left_shift(bits[flag.name].astype(np.int32), flag.bit)
            levels[flag.level] |= bits[flag.name]
        return {"FLAG": value, "FLAG_WARN": levels["warn"], "FLAG_BAD": levels["bad"]}

    def _column(
        self,
        column: Column,
        names: Mapping[str, Any],
        made: Mapping[str, NDArray[Any]],
        rows: int,
    ) -> NDArray[Any]:
        value = Expression(column.value).evaluate(names) if column.value else made[column.name]
        dtype = numpy_dtype(column.dtype)
        with np.errstate(over="ignore"):
            result = np.array(np.broadcast_to(np.asarray(value), rows)).astype(dtype)
        if column.blank_when:
            blank = Expression(column.blank_when).evaluate(names)
            missing: Any = np.nan if column.dtype.startswith("float") else column.missing
            result[np.broadcast_to(np.asarray(blank, bool), rows)] = "" if column.dtype == "str" else missing
        return result


def data_model_names() -> list[str]:
    """Names of the shipped data models, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_data_model(name: str, relative_to: Path | None = None) -> DataModel:
    """Read a shipped data model by name, or one in a file.

    Raises
    ------
    DataModelError
        If it is not there or wrong, naming every wrong place.
    """
    path = SHIPPED / f"{name}.yaml"
    if not path.is_file():
        path = (relative_to or Path.cwd()) / Path(name).expanduser()
    try:
        content = yaml.safe_load(path.read_text())
        return DataModel.model_validate(content)
    except OSError as error:
        known = ", ".join(data_model_names())
        raise DataModelError(f"no data model {name!r}: {error.strerror}; shipped are {known}") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise DataModelError(f"{path}: {error}") from error
