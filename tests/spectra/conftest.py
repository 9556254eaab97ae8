"""A survey of 150 rows that the tests of ingest share, and a record of the files that are opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalogue.surveys.lamost import LamostLowResolution
from tests.factories.ingested import Ingested, run
from tests.factories.lamost import write_survey


@pytest.fixture(scope="session")
def survey(tmp_path_factory) -> Path:
    """150 rows: a chunk of 64, another, and a partial one, in two units."""
    return write_survey(tmp_path_factory.mktemp("survey"), 150, missing=0.2, damaged=0.08)


@pytest.fixture(scope="session")
def ingested(survey, tmp_path_factory) -> Ingested:
    return run(survey, survey.parent / "spectra", tmp_path_factory.mktemp("work"))


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the files that the survey's reader was asked for."""
    names: list[str] = []
    read = LamostLowResolution.read

    def recording(self, path):
        names.append(path.name)
        return read(self, path)

    monkeypatch.setattr(LamostLowResolution, "read", recording)
    return names
