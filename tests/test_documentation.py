"""The Python that the documentation shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.table import Table

from catalogue.datamodels import load_data_model
from tests.factories.catalogues import simulated_columns, write_catalogue, write_spectra
from tests.factories.rows import good_rows

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Catalogues under the names that the documentation uses."""
    where = tmp_path_factory.mktemp("documentation")
    (where / "runs/dr10").mkdir(parents=True)
    (where / "runs/dr17").mkdir()
    columns = simulated_columns(300)
    write_catalogue(where / "runs/dr10/lamost_age_mass.zarr", "zarr", columns)
    write_spectra(where / "runs/dr10/spectra.zarr", columns)
    write_catalogue(where / "old.fits", "fits", columns)
    write_catalogue(where / "new.parquet", "parquet", simulated_columns(300, seed=1))
    model = load_data_model("apogee_latent_age_plus")
    write_catalogue(
        where / "runs/dr17/apogee_latent_age_plus.fits", "fits", model.evaluate(good_rows(model, 30)), model
    )
    return where


@pytest.mark.parametrize("page", ["README.md", "docs/queries.md"])
def test_the_python_on_a_page_runs(page, directory, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    monkeypatch.chdir(directory)
    matplotlib.use("Agg")
    here = {"my_table": Table({"ra": np.array([10.0, 20.0]), "dec": np.array([5.0, 6.0])}), "Path": Path}
    for block in blocks:
        exec(compile(block, page, "exec"), here)
    plt.close("all")


def test_pages_link_to_what_is_there():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
