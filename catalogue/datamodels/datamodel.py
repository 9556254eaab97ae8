"""A product's data model: columns, units, nulls and flag bits, and how each is made.

Every column and every flag bit says by an expression where its value comes from, so that a new product is a YAML file
and no code. The names that expressions may use are listed in docs/datamodels/README.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator

from catalogue.datamodels.parts import FLAG_COLUMNS, Column, Flag, Option, Part
from catalogue.datamodels.values import column_values
from catalogue.expressions import Expression, ExpressionError
from catalogue.spectra.primitives import RowStatus, is_usable

SHIPPED = Path(__file__).parent

_EVALUATION_VERSION = 1
"""Raised whenever the same data model could make other columns of the same rows."""
_STATUS_NAMES = {f"STATUS_{status.name}": int(status) for status in RowStatus}
_MADE_HERE = frozenset({*_STATUS_NAMES, "usable"})


class DataModelError(Exception):
    """A data model that is wrong or unknown; the message names the file and the place."""


class DataModel(Part):
    """A product.

    Attributes
    ----------
    name, title, survey, description : str
    version : int
        Raised with every change that a reader of the catalogue can see.
    uses : dict of str to str
        Alias, as in ``prediction.age``, to model kind.
    options : dict of str to Option
    columns : tuple of Column
    flags : tuple of Flag
        A flag may refer to the flags before it: ``flagged('LOW_SNR')``.
    retired_bits : tuple of int
        Bits of earlier versions, never used again.
    file_names : dict of str to str
        File name by format, where it is not ``<name><suffix of the format>``.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Field(ge=1)
    title: str
    survey: str
    description: str = ""
    uses: dict[str, str] = Field(default_factory=dict)
    options: dict[str, Option] = Field(default_factory=dict)
    columns: tuple[Column, ...] = Field(min_length=1, max_length=999)  # 999 is the most that FITS allows
    flags: tuple[Flag, ...] = ()
    retired_bits: tuple[int, ...] = ()
    file_names: dict[str, str] = Field(default_factory=dict)

    @field_validator("file_names")
    @classmethod
    def _are_plain_names(cls, names: dict[str, str]) -> dict[str, str]:
        for name in names.values():
            if Path(name).name != name or name.startswith("."):
                raise ValueError(f"{name!r} is not a plain file name")
        return names

    @model_validator(mode="after")
    def _names_and_bits_are_unique(self) -> DataModel:
        # Formats differ in whether names that differ only in case are the same column, so none may.
        _refuse_repeated("column", (column.name.casefold() for column in self.columns))
        _refuse_repeated("flag", (flag.name for flag in self.flags))
        _refuse_repeated("bit", (*(flag.bit for flag in self.flags), *self.retired_bits))
        _refuse_repeated("role", (column.role for column in self.columns if column.role))
        return self

    @model_validator(mode="after")
    def _flags_have_their_columns(self) -> DataModel:
        names = {column.name for column in self.columns}
        if self.flags and "FLAG" not in names:
            raise ValueError("there are flags, but no column FLAG")
        if not self.flags and (made := names.intersection(FLAG_COLUMNS)):
            raise ValueError(f"there are no flags, but a column {', '.join(sorted(made))}")
        return self

    @model_validator(mode="after")
    def _names_in_expressions_are_known(self) -> DataModel:
        known: set[str] = set()
        for flag in self.flags:
            self._check_names(f"flag {flag.name}", flag.expression, known)
            known.add(flag.name)
        for column in self.columns:
            for expression in column.expressions:
                self._check_names(f"column {column.name}", expression, known)
        return self

    def _check_names(self, place: str, expression: Expression, flags: set[str]) -> None:
        """Refuse names that no row can have; store and parent columns are only known to a run."""
        for name in expression.names:
            head, dot, rest = name.partition(".")
            if head == "flag" and dot:
                allowed, what = flags, "flag"
            elif head == "option" and dot:
                allowed, what = set(self.options), "option"
            elif dot:
                allowed, what, rest = set(self.uses), "alias in uses", head
            elif name.startswith("STATUS_"):
                allowed, what, rest = set(_STATUS_NAMES), "status", name
            else:
                continue
            if rest not in allowed:
                raise ValueError(f"{place}: no {what} {rest!r}; there are {', '.join(sorted(allowed)) or 'none'}")

    @cached_property
    def digest(self) -> str:
        """SHA-256, hexadecimal, of the model's content and of the way in which it is evaluated."""
        return hashlib.sha256(f"{_EVALUATION_VERSION} {self.model_dump_json()}".encode()).hexdigest()

    @cached_property
    def required_names(self) -> frozenset[str]:
        """Names that the expressions need of a row, without options, flags and statuses."""
        names = {name for expression in self._expressions() for name in expression.names}
        made = {name for name in names if name.startswith(("flag.", "option.")) or name in _MADE_HERE}
        # Without the status there is neither STATUS_... to compare with nor a number of rows.
        return frozenset(names - made) | {"status"}

    def _expressions(self) -> Iterator[Expression]:
        for column in self.columns:
            yield from column.expressions
        for flag in self.flags:
            yield flag.expression

    def option_values(self, options: Mapping[str, Any] | None = None) -> dict[str, str | float]:
        """Value of every option: the given one, or the default.

        Parameters
        ----------
        options : mapping, optional
            Choices by name; those that the product does not have are another product's and ignored.

        Raises
        ------
        DataModelError
            If a value is none of the choices or not a number where one is expected.
        """
        try:
            return {name: option.value((options or {}).get(name)) for name, option in self.options.items()}
        except ValueError as error:
            name = next(name for name in self.options if not self.options[name].accepts((options or {}).get(name)))
            raise DataModelError(f"{self.name}: options.{name}: {error}") from error

    def evaluate(
        self, namespace: Mapping[str, Any], options: Mapping[str, Any] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Make all columns for a block of rows.

        Parameters
        ----------
        namespace : mapping of str to ndarray, shape (rows,), or scalar
            Values of :attr:`required_names`; ``status`` gives the number of rows. A ``<alias>.domain.<column>`` or
            ``<alias>.novelty_limit`` that is not there is one that the model does not state.
        options : mapping, optional
            Choices; the defaults otherwise.

        Returns
        -------
        dict of str to ndarray, shape (rows,)
            In the order and dtypes of :attr:`columns`; missing values are NaN, the column's ``missing`` or ``""``.

        Raises
        ------
        DataModelError
            Naming the column or flag whose expression fails or whose values do not fit its dtype.
        """
        status = np.asarray(namespace["status"])
        names: dict[str, Any] = {name: None for name in self.required_names if _may_be_unstated(name)}
        names.update(namespace)
        names.update(_STATUS_NAMES)
        names["usable"] = is_usable(status)
        names.update({f"option.{name}": value for name, value in self.option_values(options).items()})
        made: dict[str, NDArray[Any]] = self._flag_columns(names, len(status))
        conditions: dict[str, NDArray[np.bool_]] = {}
        columns: dict[str, NDArray[Any]] = {}
        for column in self.columns:
            try:
                blank = self._condition(column.blank_when, names, conditions)
                value = column.value_expression.evaluate(names) if column.value else made[column.name]
                columns[column.name] = column_values(column, value, blank, len(status))
            except (ExpressionError, ValueError, TypeError, OverflowError) as error:
                raise DataModelError(f"{self.name}, column {column.name}: {error}") from error
        return columns

    def _condition(
        self, text: str, names: Mapping[str, Any], known: dict[str, NDArray[np.bool_]]
    ) -> NDArray[np.bool_] | None:
        """Condition as evaluated once for all the columns that share it; None if there is none."""
        if not text:
            return None
        if text not in known:
            known[text] = np.asarray(Expression(text).evaluate(names), bool)
        return known[text]

    def _flag_columns(self, names: dict[str, Any], rows: int) -> dict[str, NDArray[Any]]:
        """Evaluate the flags in order, leave each in ``names``, and add them up."""
        bits = np.zeros(rows, np.int32)
        levels = {level: np.zeros(rows, bool) for level in ("info", "warn", "bad")}
        for flag in self.flags:
            try:
                raised = np.broadcast_to(np.asarray(flag.expression.evaluate(names), bool), (rows,))
            except (ExpressionError, ValueError) as error:
                raise DataModelError(f"{self.name}, flag {flag.name}: {error}") from error
            names[f"flag.{flag.name}"] = raised
            bits[raised] |= np.int32(1 << flag.bit)
            levels[flag.level] |= raised
        return {"FLAG": bits, "FLAG_WARN": levels["warn"], "FLAG_BAD": levels["bad"]}


def _may_be_unstated(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and (parts[1] == "domain" or parts[1:] == ["novelty_limit"])


def _refuse_repeated(what: str, values: Iterable[Any]) -> None:
    found = list(values)
    repeated = sorted({str(value) for value in found if found.count(value) > 1})
    if repeated:
        raise ValueError(f"{what} {', '.join(repeated)} is used more than once")


def data_model_names() -> list[str]:
    """Names of the shipped data models, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


class _StrictLoader(yaml.SafeLoader):
    """YAML without silently repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for (key_node, _), key in zip(node.value, keys, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} repeated", key_node.start_mark)
        return super().construct_mapping(node, deep)


def load_data_model(name: str | Path, relative_to: Path | None = None) -> DataModel:
    """Read a shipped data model by name, or one in a file.

    Parameters
    ----------
    name : str or Path
        Name of a shipped model, or path of a YAML file.
    relative_to : Path, optional
        Directory that relative paths start from; the working directory otherwise.

    Raises
    ------
    DataModelError
        If it is not there or wrong, naming every wrong place.
    """
    path = SHIPPED / f"{name}.yaml"
    if str(name) not in data_model_names():
        path = (relative_to or Path.cwd()) / Path(name).expanduser()
    try:
        return DataModel.model_validate(yaml.load(path.read_text(encoding="utf-8"), _StrictLoader))
    except OSError as error:
        known = ", ".join(data_model_names())
        raise DataModelError(f"no data model {str(name)!r}: {error.strerror}; shipped are {known}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataModelError(f"{path}: {error}") from error
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, part['loc']))}: {part['msg']}".lstrip(": ") for part in error.errors()]
        raise DataModelError(f"{path}:\n  " + "\n  ".join(wrong)) from error
