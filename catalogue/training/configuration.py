"""Reading the configurations of simulations, training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from catalogue.config import parse, read_yaml, resolve

_Section = TypeVar("_Section", bound=BaseModel)
_PATHS = {"apokasc", "store", "labels"}


def load_configuration(section: type[_Section], path: Path) -> _Section:
    """Read a configuration; its paths, at any depth, are relative to the file.

    ``~`` and environment variables are expanded.

    Raises
    ------
    ConfigurationError
        Naming the key that is wrong, or the environment variable that is not set.
    """
    return parse(section, _resolved(read_yaml(path), path.parent), str(path))


def _resolved(content: dict[str, Any], relative_to: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            result[key] = _resolved(value, relative_to)
        elif key in _PATHS and isinstance(value, str):
            result[key] = resolve(value, relative_to)
        else:
            result[key] = value
    return result
