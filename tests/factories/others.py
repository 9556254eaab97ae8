"""A model as somebody else would add it: the files that docs/extending.md shows."""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

import catalogue.models
from catalogue.pipeline import tasks

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def install_model(directory: Path, monkeypatch: pytest.MonkeyPatch, *changes: tuple[str, str]) -> Path:
    """Write the page's module and bundle to ``directory`` and register its class; returns the bundle.

    Each of ``changes`` is a text of the module and what takes its place.
    """
    module, bundle = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for old, new in changes:
        assert old in module
        module = module.replace(old, new)
    (directory / "screen.py").write_text(module)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "screen", raising=False)
    monkeypatch.setattr(tasks, "_loaded", {})  # of a process whose modules do not change, as workers are
    register(monkeypatch, "screen", "screen:Screen")
    monkeypatch.chdir(directory)
    exec(compile(bundle, str(PAGE), "exec"), {})
    return directory / "bundles" / "screen"


def register(monkeypatch: pytest.MonkeyPatch, kind: str, value: str) -> None:
    """Make an entry point of the group ``catalogue.models``."""
    entry = EntryPoint(kind, value, "catalogue.models")
    every = [*entry_points(group="catalogue.models"), entry]
    monkeypatch.setattr(catalogue.models, "entry_points", lambda group: every)
