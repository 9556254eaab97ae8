"""A catalogue built on a GPU; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from catalogue import query
from catalogue.models import InferenceSettings, load_model
from tests.factories.apogee import spectra_batch, tiny_bcnn, tiny_latent
from tests.factories.runs import build_here, load, write_run

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs -m gpu, a CUDA device and torch built for CUDA"),
]
pytestmark = needs_gpu

RELATIVE, ABSOLUTE = 1e-3, 1e-4
"""How far a GPU's values may lie from a CPU's: float32 sums in another order, through the iterated continuum. A
dropout spread is some per cent."""


def columns_of(run):
    with query.open(run.directory.root / f"{run.products[0].name}.parquet") as table:
        return {name: table[name].to_numpy() for name in table.variables}


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("gpu"))


def test_a_gpu_gives_the_cpus_catalogue_and_the_same_bytes_again(configuration, tmp_path):
    there = {}
    for name, device in (("cpu", "cpu"), ("gpu", "cuda"), ("again", "cuda")):
        overrides = (f"output.directory={tmp_path / name}", f"inference.device={device}")
        there[name] = build_here(configuration, *overrides), columns_of(load(configuration, *overrides))
    assert there["gpu"][0] == there["again"][0]
    expected, found = there["cpu"][1], there["gpu"][1]
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[name], values, rtol=RELATIVE, atol=ABSOLUTE, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("make", [tiny_bcnn, tiny_latent])
def test_the_apogee_networks_give_the_cpus_values_and_the_same_bytes_again(make, tmp_path):
    stellar = {"teff": np.full(300, 4700, np.float32), "fe_h": np.linspace(-1, 0.3, 300, dtype=np.float32)}
    model, batch = load_model(make(tmp_path / "tiny").path), spectra_batch(300, columns=stellar)
    here, there, again = (model.predict(batch, InferenceSettings(device=name)) for name in ("cpu", "cuda", "cuda"))
    for name, values in here.items():
        np.testing.assert_array_equal(there[name], again[name], err_msg=name)
        if name not in ("age", "age_error", "log_age", "log_age_error") or make is tiny_bcnn:
            # a tree's threshold makes a step of the last bit
            np.testing.assert_allclose(there[name], values, rtol=RELATIVE, atol=ABSOLUTE, err_msg=name)
