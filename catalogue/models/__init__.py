"""Models: one file each, found by kind through the ``catalogue.models`` entry points."""

from __future__ import annotations

import ast
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from catalogue.models.base import InferenceSettings, Model, Output, SpectraBatch
from catalogue.models.bundle import Bundle, BundleError, find_bundle, load_bundle

__all__ = [
    "Bundle",
    "BundleError",
    "InferenceSettings",
    "Model",
    "Output",
    "SpectraBatch",
    "bind",
    "find_bundle",
    "inference_version",
    "load_bundle",
    "load_model",
    "model_class",
    "model_kinds",
]


def model_kinds() -> list[str]:
    """Kinds of all installed models, sorted."""
    return sorted({entry.name for entry in entry_points(group="catalogue.models")})


def model_class(kind: str) -> type[Model]:
    """Class registered for ``kind``.

    Raises
    ------
    BundleError
        Naming the kinds that are installed, or what is wrong with the class.
    """
    entry = _entry(kind)
    try:
        found: type[Model] = entry.load()
    except Exception as error:  # whatever a module of somebody else's raises when it is imported
        raise BundleError(f"model kind {kind!r}: {entry.value}: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise BundleError(f"model kind {kind!r}: {entry.value}: expected a class derived from Model, found {found!r}")
    expected = {"kind": str, "inference_version": int, "inputs": tuple}
    for name, type_ in expected.items():
        value = getattr(found, name, None)
        if not isinstance(value, type_):
            raise BundleError(
                f"model kind {kind!r}: {entry.value}.{name}: expected a {type_.__name__}, found {value!r}"
            )
    if found.kind != kind:
        raise BundleError(f"model kind {kind!r}: {entry.value}.kind: expected {kind!r}, found {found.kind!r}")
    return found


def bind(bundle: Bundle) -> Model:
    """Model of a bundle's kind, bound to it.

    Raises
    ------
    BundleError
        If the kind is unknown, its class is wrong, or the bundle is not one of that kind.
    """
    made = model_class(bundle.kind)
    try:
        return made(bundle)
    except BundleError:
        raise
    except Exception as error:  # whatever a constructor of somebody else's makes of missing or odd weights
        reason = f"{type(error).__name__}: {error}"
        raise BundleError(f"{bundle.path}: not a bundle of kind {bundle.kind!r}: {reason}") from error


def inference_version(kind: str) -> int:
    """``inference_version`` of the class registered for ``kind``, without importing it where that can be avoided.

    Importing a model imports torch, which takes longer than everything else that a run with nothing to do does; the
    version is a number in the text of the class.

    Raises
    ------
    BundleError
        As :func:`model_class`.
    """
    entry = _entry(kind)
    if entry.module not in sys.modules:
        try:
            specification = importlib.util.find_spec(entry.module)
        except ImportError:  # of the package that holds the module
            specification = None
        if specification is not None and specification.origin and specification.origin.endswith(".py"):
            written = _written_version(Path(specification.origin).read_text(encoding="utf-8"), entry.attr)
            if written is not None:
                return written
    return model_class(kind).inference_version


def _written_version(source: str, name: str) -> int | None:
    """Number assigned to ``inference_version`` in a class of a module's text, None if it is not there as a number."""
    for definition in ast.parse(source).body:
        if isinstance(definition, ast.ClassDef) and definition.name == name:
            for line in definition.body:
                targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                named = any(isinstance(target, ast.Name) and target.id == "inference_version" for target in targets)
                if named and isinstance(value := getattr(line, "value", None), ast.Constant):
                    return value.value if isinstance(value.value, int) else None
    return None


def _entry(kind: str) -> EntryPoint:
    for entry in entry_points(group="catalogue.models"):
        if entry.name == kind:
            return entry
    raise BundleError(f"unknown model kind {kind!r}; installed: {', '.join(model_kinds())}")


def load_model(path: Path, expected_digest: str | None = None) -> Model:
    """Load the bundle in directory ``path`` and bind the model of its kind to it.

    Raises
    ------
    BundleError
        If the bundle is damaged, holds a pickle, is of an unknown kind, or its digest is not
        ``expected_digest``.
    """
    bundle = load_bundle(path)
    if expected_digest is not None and bundle.digest != expected_digest:
        raise BundleError(f"{path}: expected digest {expected_digest[:12]}, found {bundle.digest[:12]}")
    return bind(bundle)
