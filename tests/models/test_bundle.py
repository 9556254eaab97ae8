from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catalogue.models import (
    BundleError,
    _written_version,
    find_bundle,
    load_bundle,
    load_model,
    model_class,
    model_kinds,
)
from catalogue.models.bundle import DESCRIPTION, SHIPPED, WEIGHTS, bundle_digest, save_bundle
from tests.factories.bundles import tiny_spt_bundle


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return tiny_spt_bundle(tmp_path_factory.mktemp("bundle")).path


@pytest.fixture
def bundle(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def change_description(bundle: Path, **changes: object) -> None:
    """Change ``model.json`` as its owner would: without a record of the old digest."""
    description = json.loads((bundle / DESCRIPTION).read_text())
    for key, value in changes.items():
        if value is None:
            del description[key]
        else:
            description[key] = value
    (bundle / DESCRIPTION).write_text(json.dumps(description))
    (bundle / "SHA256").unlink()


def test_a_bundle_is_read_back_as_it_was_written(bundle):
    first = load_bundle(bundle)
    again = save_bundle(bundle.parent / "copy", first.description, first.weights)
    assert again.digest == first.digest
    assert again.description == first.description
    assert all(np.array_equal(again.weights[k], v) for k, v in first.weights.items())


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_one_changed_byte_is_refused(bundle, name, place):
    content = bytearray((bundle / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=r"damaged|model\.json|safetensors"):
        load_bundle(bundle)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_truncated_file_is_refused(bundle, share, recorded):
    content = (bundle / WEIGHTS).read_bytes()
    (bundle / WEIGHTS).write_bytes(content[: int(share * len(content))])
    if not recorded:
        (bundle / "SHA256").unlink()
    with pytest.raises(BundleError):
        load_model(bundle)


@pytest.mark.parametrize("name", ["weights.pkl", "model.PT", "x.pickle", "forest.joblib", "a.npy", "b.ckpt"])
def test_a_pickle_beside_the_weights_is_refused_and_never_opened(bundle, name):
    (bundle / name).write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(BundleError, match="no pickle"):
        load_bundle(bundle)


def test_a_pickle_in_place_of_the_weights_is_refused(bundle):
    (bundle / WEIGHTS).write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")
    (bundle / "SHA256").unlink()
    with pytest.raises(BundleError, match="safetensors"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(bundle)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(BundleError, match="nowhere"):
        load_bundle(tmp_path / "nowhere")


def test_an_unknown_kind_is_refused_and_the_known_ones_are_named(bundle):
    change_description(bundle, kind="oracle")
    with pytest.raises(BundleError, match=r"unknown model kind 'oracle'.*spt"):
        load_model(bundle)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "expected format 1, found 2"),
        ({"colour": "blue"}, "colour"),
        ({"survey": None}, "survey"),
        ({"passes": 1}, "passes"),
    ],
)
def test_a_description_of_another_shape_is_refused(bundle, changes, words):
    change_description(bundle, **changes)
    with pytest.raises(BundleError, match=words):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": {}},
        {"architecture": {"width": 8, "label_scale": {"offset": [0, 0], "scale": [1, 1]}}},
        {"preprocessing": {}},
    ],
)
def test_weights_that_do_not_fit_the_description_are_refused(bundle, changes):
    change_description(bundle, **changes)
    with pytest.raises(BundleError, match="not a bundle of kind 'spt'"):
        load_model(bundle)


def test_a_digest_other_than_the_plans_is_refused(bundle):
    digest = load_bundle(bundle).digest
    assert load_model(bundle, digest).bundle.digest == digest
    with pytest.raises(BundleError, match="expected digest 000000000000"):
        load_model(bundle, "0" * 64)


def test_the_digest_covers_both_files_and_where_one_ends():
    assert bundle_digest(b"ab", b"c") != bundle_digest(b"a", b"bc")


def test_bundles_are_found_by_path_and_by_shipped_name(bundle):
    assert find_bundle(bundle.name, bundle.parent) == bundle
    with pytest.raises(BundleError, match=r"no bundle 'nothing'.*shipped are"):
        find_bundle("nothing", bundle.parent)
    for shipped in SHIPPED.glob(f"*/{DESCRIPTION}"):
        assert find_bundle(shipped.parent.name, bundle.parent) == shipped.parent


def test_every_kind_that_is_installed_loads():
    for kind in model_kinds():
        assert model_class(kind).kind == kind


def test_versions_are_found_without_importing_torch():
    program = (
        "import sys, catalogue.models as m\n"
        "read = {kind: m.inference_version(kind) for kind in m.model_kinds()}\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "assert read == {kind: m.model_class(kind).inference_version for kind in read}, read\n"
        "assert read == {kind: m.inference_version(kind) for kind in read}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_version_that_is_not_written_as_a_number_is_left_to_the_class():
    assert _written_version("class A(B):\n    inference_version = 7\n", "A") == 7
    assert _written_version("class A(B):\n    inference_version: ClassVar[int] = 7\n", "A") == 7
    assert _written_version("class A(B):\n    inference_version = OTHER\n", "A") is None
    assert _written_version("class A(B):\n    pass\n", "A") is None
    assert _written_version("class C:\n    inference_version = 7\n", "A") is None
