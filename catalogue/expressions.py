"""The expression language of ``select:`` and of the data models.

A small, safe part of Python's syntax, evaluated on whole columns: names (``teff``, ``prediction.age``), numbers and
strings, comparisons (also chained), ``and``/``or``/``not``, arithmetic, integer ``& | ^ ~ << >>``, ``in`` a list, and the
functions of :data:`FUNCTIONS`. Nothing else parses, so that a configuration cannot run code.

A comparison with NaN is False, as in numpy, and never warns.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import operator
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ExpressionError(Exception):
    """An expression that cannot be parsed or evaluated; the message holds its text and the place."""


def _outside(interval: Any, values: Any) -> NDArray[np.bool_]:
    """Where ``values`` are not known to lie in the closed interval; nowhere if the interval is None."""
    if interval is None:
        return np.zeros(np.shape(values), bool)
    low, high = interval
    return ~((values >= low) & (values <= high))


def _above(limit: Any, values: Any) -> NDArray[np.bool_]:
    """Where ``values`` exceed ``limit``; nowhere if the limit is None."""
    return np.zeros(np.shape(values), bool) if limit is None else np.asarray(values > limit)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "above": _above,
    "bit": lambda column, number: (np.asarray(column) >> number) & 1 == 1,
    "exp": np.exp,
    "isfinite": np.isfinite,
    "isinf": np.isinf,
    "isnan": np.isnan,
    "log": np.log,
    "log10": np.log10,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "outside": _outside,
    "sqrt": np.sqrt,
    "where": np.where,
}

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda values, choices: np.isin(np.asarray(values).astype(str), choices)
    if choices and isinstance(choices[0], str)
    else np.isin(values, choices),
    ast.NotIn: lambda values, choices: ~_COMPARE[ast.In](values, choices),
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: np.logical_not,
    ast.Invert: np.invert,
}
_CONSTANTS = {"nan": np.nan, "inf": np.inf, "True": True, "False": False}


_WORDS = {"and", "or", "not", "in", "True", "False"}
_ESCAPE = "__column"


def _with_escaped_keywords(text: str) -> str:
    """Let columns have names that Python keeps for itself, as ``class``."""
    pieces = re.split(r"""('[^']*'|"[^"]*")""", text)
    for index in range(0, len(pieces), 2):
        pieces[index] = re.sub(
            r"(?<![\w.])[a-z]+\b",
            lambda word: word[0] + _ESCAPE if keyword.iskeyword(word[0]) and word[0] not in _WORDS else word[0],
            pieces[index],
        )
    return "".join(pieces)


class Expression:
    """A parsed expression.

    Parameters
    ----------
    text : str
    functions : mapping of str to callable, optional
        Functions known beside :data:`FUNCTIONS`.

    Raises
    ------
    ExpressionError
        If the text is not in the language.
    """

    def __init__(self, text: str, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.text = text
        self._functions = {**FUNCTIONS, **(functions or {})}
        try:
            self._body = ast.parse(_with_escaped_keywords(text.strip()), mode="eval").body
        except (SyntaxError, ValueError) as error:
            place = getattr(error, "offset", None) or 1
            raise ExpressionError(f"{text!r}, character {place}: {getattr(error, 'msg', error)}") from error
        self._names: set[str] = set()
        self._check(self._body)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of columns that it needs, dotted where dotted."""
        return frozenset(self._names)

    def evaluate(self, namespace: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]] | None = None) -> Any:
        """Value on whole columns.

        Parameters
        ----------
        namespace : mapping of str to ndarray, scalar, tuple or None
        functions : mapping of str to callable, optional
            Replacements for functions given when it was parsed.

        Raises
        ------
        ExpressionError
            For unknown names, naming close ones, and for operations that the types do not allow.
        """
        calls = {**self._functions, **(functions or {})}
        with np.errstate(all="ignore"):
            return self._value(self._body, namespace, calls)

    def _fail(self, node: ast.AST, message: str) -> ExpressionError:
        return ExpressionError(f"{self.text!r}, character {getattr(node, 'col_offset', 0) + 1}: {message}")

    def _check(self, node: ast.AST) -> None:
        if isinstance(node, ast.Call):
            self._check_call(node)
            children: list[ast.AST] = list(node.args)
        elif isinstance(node, (ast.Name, ast.Attribute)):
            name = self._dotted(node)
            if name not in _CONSTANTS:
                self._names.add(name)
            children = []
        elif isinstance(node, ast.Constant):
            if not isinstance(node.value, (bool, int, float, str)):
                raise self._fail(node, f"expected a number or a string, found {node.value!r}")
            children = []
        elif self._is_operation(node):
            children = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        else:
            raise self._fail(node, f"{type(node).__name__} is not part of the language")
        for child in children:
            self._check(child)

    def _is_operation(self, node: ast.AST) -> bool:
        if isinstance(node, ast.BinOp):
            return type(node.op) in _BINARY
        if isinstance(node, ast.UnaryOp):
            return type(node.op) in _UNARY
        if isinstance(node, ast.Compare):
            return all(type(op) in _COMPARE for op in node.ops)
        return isinstance(node, (ast.BoolOp, ast.List, ast.Tuple))

    def _check_call(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Name) or node.func.id not in self._functions:
            known = ", ".join(sorted(self._functions))
            raise self._fail(node, f"unknown function {ast.unparse(node.func)}; there are {known}")
        if node.keywords:
            raise self._fail(node, "functions take no keywords")

    def _dotted(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return node.id.removesuffix(_ESCAPE)
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        raise self._fail(node, "expected a name")

    def _value(self, node: ast.AST, names: Mapping[str, Any], calls: Mapping[str, Callable[..., Any]]) -> Any:
        try:
            return self._apply(node, names, calls)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise self._fail(node, str(error)) from error

    def _apply(self, node: ast.AST, names: Mapping[str, Any], calls: Mapping[str, Callable[..., Any]]) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name() | ast.Attribute():
                return self._look_up(node, names)
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [self._value(element, names, calls) for element in elements]
            case ast.UnaryOp(op=op, operand=operand):
                return _UNARY[type(op)](self._value(operand, names, calls))
            case ast.BinOp(left=left, op=operation, right=right):
                return _BINARY[type(operation)](self._value(left, names, calls), self._value(right, names, calls))
            case ast.BoolOp(op=junction, values=values):
                combine = np.logical_and if isinstance(junction, ast.And) else np.logical_or
                result = self._value(values[0], names, calls)
                for value in values[1:]:
                    result = combine(result, self._value(value, names, calls))
                return result
            case ast.Compare():
                return self._compare(node, names, calls)
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return calls[name](*(self._value(argument, names, calls) for argument in arguments))
        raise self._fail(node, f"{type(node).__name__} is not part of the language")

    def _compare(self, node: ast.Compare, names: Mapping[str, Any], calls: Mapping[str, Callable[..., Any]]) -> Any:
        left = self._value(node.left, names, calls)
        result: Any = True
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self._value(comparator, names, calls)
            result = np.logical_and(result, _COMPARE[type(op)](left, right))
            left = right
        return result

    def _look_up(self, node: ast.AST, names: Mapping[str, Any]) -> Any:
        name = self._dotted(node)
        if name in names:
            return names[name]
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        close = difflib.get_close_matches(name, [str(known) for known in names], n=3)
        raise self._fail(node, f"unknown name {name}" + (f"; did you mean {' or '.join(close)}?" if close else ""))
