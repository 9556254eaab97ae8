"""Order and ownership of what travels to a device and back, with lanes that work late in the place of CUDA streams."""

from __future__ import annotations

import traceback

import numpy as np
import pytest
import torch

from catalogue.models import load_model
from catalogue.models.base import InferenceSettings
from catalogue.models.packing import Places
from catalogue.models.transfer import ON_THEIR_WAY, compute_granules, convey, full_precision
from tests.factories.apogee import spectra_batch, tiny_bcnn, tiny_latent
from tests.factories.bundles import giant_spectra, tiny_spt_bundle
from tests.factories.lanes import FakeDevice

ROWS = 4
LATE = 0.004


@pytest.fixture(scope="module", params=["spt", "astronn_bcnn", "latent_age"])
def any_model(request, tmp_path_factory):
    """A model of every kind, and four granules and a part of a fifth, one of them without a spectrum."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "spt":
        model, batch = load_model(tiny_spt_bundle(directory).path), giant_spectra(270, seed=1)
    else:
        tiny = {"astronn_bcnn": tiny_bcnn, "latent_age": tiny_latent}[request.param]
        stellar = {"teff": np.full(270, 4700, np.float32), "fe_h": np.linspace(-1, 0.3, 270, dtype=np.float32)}
        model, batch = load_model(tiny(directory / "tiny").path), spectra_batch(270, columns=stellar)
    batch.usable[[0, 70, 269]] = False
    batch.usable[128:192] = False
    return model, batch


def parts_of(rows):
    return [slice(first, min(first + ROWS, rows)) for first in range(0, rows, ROWS)]


def run(device, rows, compute=lambda x, y: (x * 2 + y).sum(dim=1), load=None, keep=None):
    """(part, result) of every part, in the order in which they were kept."""
    values = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    kept = []
    reused = np.empty((ROWS, 3), np.float32)

    def load_part(part):
        if load is not None:
            load(part)
        count = part.stop - part.start
        reused[:count] = values[part]  # a host that uses its own memory again at once
        return reused[:count], np.full((count, 1), part.start, np.float32)

    def keep_part(part, result):
        if keep is not None:
            keep(part)
        kept.append((part, result[: part.stop - part.start].copy()))

    convey(device.lanes, parts_of(rows), ROWS, load_part, compute, keep_part)
    for part, result in kept:
        np.testing.assert_array_equal(result, (values[part] * 2 + part.start).sum(axis=1))
    return kept


@pytest.mark.parametrize("delays", [(LATE, 0, 0), (0, LATE, 0), (0, 0, LATE), (LATE, LATE, LATE), (0, 0, 0)])
@pytest.mark.parametrize("rows", [0, 1, ROWS, ROWS + 1, ROWS * ON_THEIR_WAY, ROWS * 9 + 3])
def test_no_buffer_is_used_again_before_its_copy_is_done(delays, rows):
    device = FakeDevice(delays)
    kept = run(device, rows)
    assert [part for part, _ in kept] == parts_of(rows)
    assert device.idle
    assert device.buffers_left == 0


def test_so_many_granules_are_under_way_and_no_more():
    device = FakeDevice((0, LATE, 0))
    loaded, most = [], []

    def keep(part):
        most.append(len(loaded) - len(most))

    run(device, ROWS * 9, load=loaded.append, keep=keep)
    assert max(most) == ON_THEIR_WAY


def test_buffers_are_made_once_for_all_granules():
    few, many = FakeDevice(), FakeDevice()
    run(few, ROWS * ON_THEIR_WAY)
    run(many, ROWS * 20)
    assert len(many.buffers) == len(few.buffers)


def test_what_fills_a_partial_granule_up_is_zero():
    seen = []
    device = FakeDevice()

    def compute(x, y):
        seen.append(x.clone())
        return (x * 2 + y).sum(dim=1)

    run(device, ROWS * 5 + 1, compute)
    assert {tuple(x.shape) for x in seen} == {(ROWS, 3)}
    assert not seen[-1][1:].any()


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("where", ["load", "compute", "keep"])
def test_an_error_in_the_middle_waits_for_all_lanes_and_lets_every_buffer_go(where, prompt):
    device = FakeDevice((LATE, LATE, LATE), prompt)
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("planned")

    def compute(x, y):
        fail()
        return (x * 2 + y).sum(dim=1)

    hooks = {"compute": compute} if where == "compute" else {where: fail}
    with pytest.raises(torch.OutOfMemoryError, match="planned") as error:
        run(device, ROWS * 9, **hooks)
    assert device.idle
    calls.clear()
    if where == "compute":  # the frame that raised holds what it was given
        traceback.clear_frames(error.value.__traceback__)
    assert device.buffers_left == 0


def test_a_granule_without_a_usable_row_is_not_loaded(monkeypatch):
    device = FakeDevice().stand_in(monkeypatch)
    usable = np.zeros(64 * 5 + 1, bool)
    usable[[70, 64 * 5]] = True
    loaded, kept = [], []

    def load(part):
        loaded.append(part)
        return [np.ones((part.stop - part.start, 2), np.float32)]

    compute_granules(
        torch.device("cpu"),
        usable,
        2,
        load,
        lambda x: x.sum(dim=1),
        lambda part, result: kept.append(result.copy()),
        Places(),
    )
    assert loaded == [slice(0, 128), slice(256, 321)]
    assert device.asked == [128, 128]
    assert [result.sum() for result in kept] == [256, 130]


@pytest.mark.parametrize("rows", [0, 70])
def test_there_may_be_nothing_to_do(rows):
    asked = []
    steps = [asked.append] * 3
    compute_granules(torch.device("cpu"), np.zeros(rows, bool), 1, *steps, Places())
    assert asked == []


def test_cudnn_computes_in_full_float32_and_repeatably(monkeypatch):
    FakeDevice().stand_in(monkeypatch)
    seen = []

    def compute(x):
        cudnn = torch.backends.cudnn
        seen.append((cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32))
        return x

    before = torch.backends.cudnn.allow_tf32
    one = np.ones((3, 1), np.float32)
    compute_granules(
        torch.device("cpu"), np.ones(3, bool), 1, lambda part: [one], compute, lambda *result: None, Places()
    )
    assert seen == [(True, False, True, False)]
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("granules", [1, 2])
def test_predictions_are_those_of_the_cpu(any_model, monkeypatch, granules):
    model, batch = any_model
    settings = InferenceSettings(passes=5, device="cpu", granules=granules)
    expected = model.predict(batch, settings)
    device = FakeDevice((0.001, 0.001, 0.001)).stand_in(monkeypatch)
    found = model.predict(batch, settings)
    assert set(device.asked) == {64 * granules}
    for name, values in expected.items():
        if granules == 1:
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], values, rtol=2e-4, atol=1e-5, err_msg=name)


@pytest.fixture
def set_precision():
    """Sets a precision in torch's newer way; at the end everything is torch's default again."""

    def set_to(part, value):
        part.fp32_precision = value

    yield set_to
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has one way only")
@pytest.mark.parametrize(
    "ask",
    [
        lambda newer: None,
        lambda newer: torch.set_float32_matmul_precision("high"),
        lambda newer: newer(torch.backends, "tf32"),
        lambda newer: newer(torch.backends.cuda.matmul, "tf32"),
        lambda newer: newer(torch.backends.cudnn.conv, "ieee"),
    ],
    ids=["nothing", "products in the older way", "all", "products", "convolutions"],
)
def test_full_precision_holds_in_whichever_way_the_process_had_set_it_and_is_given_back(ask, set_precision):
    def found():
        parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
        return [part.fp32_precision for part in parts]

    ask(set_precision)
    before = found()
    with full_precision():
        assert "tf32" not in found()
    assert found() == before
