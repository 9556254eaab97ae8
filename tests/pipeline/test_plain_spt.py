from __future__ import annotations

import numpy as np
import pytest

from catalogue.models import InferenceSettings, find_bundle, load_bundle, model_class
from catalogue.pipeline.verification.plain_spt import PlainTransformer
from tests.factories.bundles import giant_spectra, tiny_spt_bundle

PASSES, SEED = 6, 3


def bundle_of(kind, directory):
    if kind == "shipped":
        return load_bundle(find_bundle("spt-lamost", directory))
    return tiny_spt_bundle(directory, attention=kind)


@pytest.mark.parametrize("kind", ["shipped", "hadamard", "none"])
def test_the_second_program_agrees_with_the_first(tmp_path, kind):
    bundle = bundle_of(kind, tmp_path)
    spectra = giant_spectra(3, seed=5)
    fast = model_class("spt")(bundle).predict(spectra, InferenceSettings(PASSES, SEED, "cpu", 1))
    plain = PlainTransformer(bundle, PASSES, SEED)
    for row in range(3):
        columns = {"z": float(spectra.columns["z"][row])}
        found = plain.predict(spectra.flux[row], spectra.ivar[row], spectra.mask[row], columns)
        assert {"age", "mass", "novelty"} < found.keys()
        for name, value in found.items():
            assert value == pytest.approx(float(np.asarray(fast[name])[row]), rel=1e-4), name
