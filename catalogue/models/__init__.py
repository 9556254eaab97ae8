"""Models: one file each, found by kind through the ``catalogue.models`` entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
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
    "find_bundle",
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
        Naming the kinds that are installed.
    """
    for entry in entry_points(group="catalogue.models"):
        if entry.name == kind:
            found: type[Model] = entry.load()
            return found
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
    return model_class(bundle.kind)(bundle)
