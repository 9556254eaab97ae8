"""Surveys: one file each, found by name through the ``catalogue.surveys`` entry points."""

from __future__ import annotations

from importlib.metadata import entry_points

from catalogue.surveys.base import Survey

__all__ = ["Survey", "load_survey", "survey_names"]


def survey_names() -> list[str]:
    """Names of all installed surveys, sorted."""
    return sorted({entry.name for entry in entry_points(group="catalogue.surveys")})


def load_survey(name: str) -> Survey:
    """Instance of the survey called ``name``.

    Raises
    ------
    KeyError
        Naming the surveys that exist.
    """
    for entry in entry_points(group="catalogue.surveys"):
        if entry.name == name:
            survey: Survey = entry.load()()
            return survey
    raise KeyError(f"unknown survey {name!r}; installed: {', '.join(survey_names())}")
