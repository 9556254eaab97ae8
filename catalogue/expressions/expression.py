"""Parsing and evaluation of one expression."""

from __future__ import annotations

import ast
import difflib
import io
import keyword
import operator
import tokenize
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogue.expressions.functions import CONSTANTS, FUNCTIONS, Value, is_missing

MAXIMUM_LENGTH = 4096
_MAXIMUM_BITS = 64
_OPERATOR_KEYWORDS = {"and", "or", "not", "in", "is", "if", "else", "True", "False", "None"}
_QUOTED_NAME = {"column": "", "flagged": "flag."}


class ExpressionError(ValueError):
    """An expression that cannot be read or evaluated; the message points at the place.

    Parameters
    ----------
    reason : str
    text : str
        The whole expression.
    position : int
        Zero-based character at which the trouble is.
    """

    def __init__(self, reason: str, text: str, position: int = 0) -> None:
        super().__init__(f"{reason}\n  {text}\n  {' ' * position}^")
        self.reason = reason
        self.text = text
        self.position = position

    def __reduce__(self) -> tuple[type, tuple[str, str, int]]:
        return (type(self), (self.reason, self.text, self.position))


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class Expression:
    """A parsed expression over columns.

    Parameters
    ----------
    text : str
        At most :data:`MAXIMUM_LENGTH` characters; line breaks count as blanks.

    Attributes
    ----------
    text : str
    names : tuple of str
        Names it needs, dotted where dotted, as written, in order of appearance. ``flagged('X')``
        needs ``flag.X``.

    Raises
    ------
    ExpressionError
        If the text is not an expression of this language.

    Examples
    --------
    >>> Expression("1.5 < logg < 3.6 and not bit(starflag, 0, 3)").names
    ('logg', 'starflag')
    """

    def __init__(self, text: str) -> None:
        self.text = text.replace("\n", " ").strip()
        if len(self.text) > MAXIMUM_LENGTH:
            raise ExpressionError(
                f"expression of {len(self.text)} characters, at most {MAXIMUM_LENGTH} are allowed", self.text[:80]
            )
        self._source = _with_keywords_as_names(self.text)
        self._names: dict[str, int] = {}
        try:
            self._tree = ast.parse(self._source, mode="eval").body
            self._check(self._tree)
        except SyntaxError as error:
            position = max(0, min((error.offset or 1) - 1, len(self.text)))
            raise ExpressionError(f"not an expression: {error.msg}", self.text, position) from None
        except (RecursionError, MemoryError, ValueError) as error:
            if isinstance(error, ExpressionError):
                raise
            raise ExpressionError("not an expression: it is nested too deeply or holds a NUL", self.text) from None
        self.names = tuple(self._names)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return (type(self), (self.text,))

    def resolve(self, available: Iterable[str]) -> dict[str, str]:
        """Match the needed names to available ones.

        Parameters
        ----------
        available : iterable of str

        Returns
        -------
        dict of str to str
            Needed name to available name: the same, or the only one equal ignoring case.

        Raises
        ------
        ExpressionError
            If a name has no match or several, with the closest available names.
        """
        return {name: self._resolve(name, available) for name in self.names}

    def evaluate(self, namespace: Mapping[str, Value]) -> NDArray[Any]:
        """Value of the expression, row by row.

        Parameters
        ----------
        namespace : mapping of str to ndarray, scalar, tuple or None
            Columns of equal length, and constants. May hold more than is needed.

        Returns
        -------
        ndarray
            Shape ``(rows,)``, or ``()`` if only constants are involved.

        Raises
        ------
        ExpressionError
            If a name is unknown or an operation is not defined for the types that it meets.
        """
        found = self.resolve(namespace)
        with np.errstate(all="ignore"):
            result = self._value(self._tree, {name: namespace[actual] for name, actual in found.items()})
        if result is None or isinstance(result, tuple):
            raise ExpressionError("an interval or None is not a column", self.text)
        return np.asarray(result)

    # -- reading -------------------------------------------------------------------------------

    def _error(self, reason: str, node: ast.AST) -> ExpressionError:
        # The parser counts bytes of UTF-8; people count characters.
        offset = getattr(node, "col_offset", 0)
        return ExpressionError(reason, self.text, len(self._source.encode()[:offset].decode(errors="ignore")))

    def _check(self, node: ast.AST) -> None:
        """Refuse all syntax but ours and collect the names."""
        name = _name_of(node)
        if name is not None:
            if name not in CONSTANTS:
                self._names.setdefault(name, getattr(node, "col_offset", 0))
            return
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return
            case ast.BoolOp(values=children) | ast.Tuple(elts=children) | ast.List(elts=children):
                pass
            case ast.UnaryOp(operand=operand):
                children = [operand]
            case ast.BinOp(left=left, right=right, op=op) if type(op) in _ARITHMETIC:
                children = [left, right]
            case ast.Compare(left=left, comparators=right_sides):
                self._check_compare(node)
                children = [left, *right_sides]
            case ast.IfExp(test=test, body=body, orelse=orelse):
                children = [test, body, orelse]
            case ast.Call(args=children):
                self._check_call(node)
            case _:
                raise self._error(f"{type(node).__name__} is not part of the expression language", node)
        for child in children:
            self._check(child)

    def _check_compare(self, node: ast.Compare) -> None:
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                if not isinstance(right, ast.Tuple | ast.List):
                    raise self._error("`in` takes a list of values, as in `x in (1, 2)`", right)
            elif type(op) not in _COMPARISONS:
                raise self._error("`is` is not part of the expression language: use == or isnan()", node)

    def _check_call(self, node: ast.Call) -> None:
        function = node.func.id if isinstance(node.func, ast.Name) else ""
        if function in _QUOTED_NAME:
            raise self._error(f"{function}() takes one name in quotes", node)
        if function not in FUNCTIONS:
            close = difflib.get_close_matches(function, [*FUNCTIONS, *_QUOTED_NAME], n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"known are {', '.join(FUNCTIONS)}"
            raise self._error(f"no function {function or ast.unparse(node.func)!r}: {hint}", node)
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise self._error(f"{function}() takes plain arguments only", node)

    def _resolve(self, name: str, available: Iterable[str]) -> str:
        if isinstance(available, Mapping | set | frozenset) and name in available:
            return name
        names = list(available)
        if name in names:
            return name
        position = len(self._source.encode()[: self._names[name]].decode(errors="ignore"))
        same = [other for other in names if other.casefold() == name.casefold()]
        if len(same) == 1:
            return same[0]
        if same:
            raise ExpressionError(f"name {name!r} is ambiguous: {', '.join(same)}", self.text, position)
        folded = {other.casefold(): other for other in names}
        close = [folded[key] for key in difflib.get_close_matches(name.casefold(), folded, n=3)]
        hint = f"did you mean {', '.join(close)}?" if close else f"known are {', '.join(sorted(names)) or 'none'}"
        raise ExpressionError(f"unknown name {name!r}: {hint}", self.text, position)

    # -- evaluation ----------------------------------------------------------------------------

    def _value(self, node: ast.expr, namespace: Mapping[str, Value]) -> Value:
        name = _name_of(node)
        if name is not None:
            return namespace[name] if name in self._names else CONSTANTS[name]
        try:
            match node:
                case ast.Constant(value=value):
                    return value
                case ast.Tuple(elts=elements) | ast.List(elts=elements):
                    return tuple(self._value(element, namespace) for element in elements)
                case ast.BoolOp(op=op, values=operands):
                    conditions = [self._condition(operand, namespace) for operand in operands]
                    combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
                    result = conditions[0]
                    for condition in conditions[1:]:
                        result = combine(result, condition)
                    return result
                case ast.UnaryOp(op=ast.Not(), operand=operand):
                    return np.logical_not(self._condition(operand, namespace))
                case ast.UnaryOp(op=op, operand=operand):
                    return _unary(op, self._value(operand, namespace))
                case ast.BinOp(left=left, op=op, right=right):
                    return _arithmetic(op, self._value(left, namespace), self._value(right, namespace))
                case ast.Compare():
                    return self._comparison(node, namespace)
                case ast.IfExp(test=test, body=body, orelse=orelse):
                    return np.where(
                        self._condition(test, namespace),
                        self._value(body, namespace),
                        self._value(orelse, namespace),
                    )
                case ast.Call(func=ast.Name(id=function), args=arguments):
                    return FUNCTIONS[function](*(self._value(argument, namespace) for argument in arguments))
        except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            if isinstance(error, ExpressionError):
                raise
            raise self._error(f"cannot be evaluated: {error}", node) from error
        raise AssertionError(type(node))  # _check refused everything else

    def _condition(self, node: ast.expr, namespace: Mapping[str, Value]) -> NDArray[np.bool_]:
        value = np.asarray(self._value(node, namespace))
        if value.dtype.kind == "b":
            return value
        if value.dtype.kind in "iu":
            return value != 0
        raise self._error(f"expected a condition or an integer flag, found {value.dtype}", node)

    def _comparison(self, node: ast.Compare, namespace: Mapping[str, Value]) -> NDArray[np.bool_]:
        left = self._value(node.left, namespace)
        result: NDArray[np.bool_] | None = None
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self._value(right_node, namespace)
            if isinstance(op, ast.In | ast.NotIn):
                equal = [_compare(ast.Eq(), left, choice) for choice in right]
                step = np.logical_or.reduce(equal) if equal else np.zeros(np.shape(left), bool)
                if isinstance(op, ast.NotIn):
                    step = ~step & ~is_missing(left)
            else:
                step = _compare(op, left, right)
            result = step if result is None else result & step
            left = right
        return np.asarray(result)


def _with_keywords_as_names(text: str) -> str:
    """Make keywords that no operator needs (``class``) plain names, at the same positions.

    The first letter becomes its full-width form: the parser no longer sees a keyword and
    normalises the identifier back to the plain letters.
    """
    reserved = set(keyword.kwlist) - _OPERATOR_KEYWORDS
    characters = list(text)
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and token.string in reserved:
                column = token.start[1]
                characters[column] = chr(ord(characters[column]) + 0xFEE0)
    except (tokenize.TokenError, SyntaxError):
        return text  # ast.parse gives the message
    return "".join(characters)


def _name_of(node: ast.AST) -> str | None:
    """Dotted name that a node stands for, or None."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            parent = _name_of(value) if isinstance(value, ast.Name | ast.Attribute) else None
            return None if parent is None else f"{parent}.{attribute}"
        case ast.Call(func=ast.Name(id=function), args=[ast.Constant(value=str(name))], keywords=[]):
            return f"{_QUOTED_NAME[function]}{name}" if function in _QUOTED_NAME else None
    return None


def _unary(op: ast.unaryop, value: Value) -> Value:
    if isinstance(op, ast.Invert):
        # On a Python bool `~` would give -1 or -2.
        return ~np.asarray(value)
    return operator.neg(value) if isinstance(op, ast.USub) else operator.pos(value)


def _arithmetic(op: ast.operator, left: Value, right: Value) -> Value:
    """Binary operation; refuses what would fill the memory: huge powers of plain integers, repeated text."""
    for value in (left, right):
        if value is None or isinstance(value, tuple):
            raise TypeError("arithmetic takes columns and numbers, found an interval or None")
        if np.asarray(value).dtype.kind in "OUST":
            raise TypeError("arithmetic takes columns and numbers, found text")
    if isinstance(left, int) and isinstance(right, int):
        bits = {ast.Pow: left.bit_length() * right, ast.LShift: left.bit_length() + right}.get(type(op), 0)
        if bits > _MAXIMUM_BITS:
            raise ValueError(f"an integer of up to {bits} bits, at most {_MAXIMUM_BITS} are allowed")
    return _ARITHMETIC[type(op)](left, right)


def _compare(op: ast.cmpop, left: Value, right: Value) -> NDArray[np.bool_]:
    for value in (left, right):
        if value is None or isinstance(value, tuple):
            raise TypeError("a comparison takes columns, numbers and strings, found an interval or None")
    textual = [np.asarray(value).dtype.kind in "OUST" for value in (left, right)]
    if textual[0] != textual[1]:
        raise TypeError("a comparison of text with numbers")
    result = np.asarray(_COMPARISONS[type(op)](left, right), bool)
    if isinstance(op, ast.NotEq):
        result = result & ~is_missing(left) & ~is_missing(right)
    return result
