"""The expression language of ``select:`` and of the data models.

A small, safe subset of Python's expression syntax over columns: nothing is called but the functions
listed in :data:`FUNCTIONS`, no attribute of any Python object is ever read, and a dotted name is only
a name (``prediction.age`` is looked up as the string ``"prediction.age"``).

Rules that differ from Python, because the values are columns with missing entries:

* ``and``, ``or``, ``not``, chained comparisons, ``in (...)`` and ``a if condition else b`` work row by row;
* every comparison with a missing value (NaN) is False, ``!=`` included: ask ``isnan(x)`` for missing values;
* a name is looked up as written, else by its only match ignoring case;
* Python keywords such as ``class`` may be column names; other names go through ``column('2mass id')``.
"""

from __future__ import annotations

from catalogue.expressions.expression import MAXIMUM_LENGTH, Expression, ExpressionError
from catalogue.expressions.functions import CONSTANTS, FUNCTIONS

__all__ = ["CONSTANTS", "FUNCTIONS", "MAXIMUM_LENGTH", "Expression", "ExpressionError"]
