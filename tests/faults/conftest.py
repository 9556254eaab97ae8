"""One cluster and one undisturbed catalogue for all tests of faults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.factories.runs import build_here, load, output_digests, write_run
from tests.faults.site import Site, partial_files

ROWS = 384
UNITS = ROWS // 64
FORMATS = ["fits", "csv", "parquet", "votable", "zarr"]


@dataclass
class Undisturbed:
    """A run that nothing befell.

    Attributes
    ----------
    configuration : Path
    directory : Path
    digests : dict of str to str
        Of every file of the catalogue.
    """

    configuration: Path
    directory: Path
    digests: dict[str, str]

    def check(self, directory: Path) -> None:
        """The catalogue in ``directory`` is this one, and nothing else is left there."""
        found = output_digests(load(self.configuration, f"output.directory={directory / 'run'}"))
        assert found == self.digests
        assert partial_files(directory / "run") == []
        assert not (directory / "run" / "run.lock").exists()


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # Processes take their time to start on a busy machine, which decides nothing here.
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"))
    site.repair()
    yield site
    site.stop()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Undisturbed:
    """Configuration and catalogue of a run in this process."""
    directory = tmp_path_factory.mktemp("undisturbed")
    # Drawing the report would take as long as all the rest.
    output = {"directory": str(directory / "run"), "formats": FORMATS, "report": False}
    configuration = write_run(directory, rows=ROWS, output=output)
    return Undisturbed(configuration, directory, build_here(configuration))


@pytest.fixture(autouse=True)
def _whole_site(request):
    """Whatever a test killed is there again before the next one, and no fault is planned."""
    if "site" in request.fixturenames:
        site = request.getfixturevalue("site")
        site.plan_faults()
        site.repair()
