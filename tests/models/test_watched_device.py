"""What a GPU would not forgive, found without one: host tensors in the arithmetic, waits, memory used too early."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from catalogue.models import find_bundle, load_model, transfer
from catalogue.models.base import InferenceSettings
from catalogue.models.transfer import ON_THEIR_WAY, CudaLane, convey
from tests.factories.apogee import spectra_batch
from tests.factories.bundles import giant_spectra
from tests.factories.watched_device import DEVICE, HOST, WatchedDevice, WatchedEvent

ROWS = 4
SHIPPED = ("spt-lamost", "astronn-bcnn-apogee-simulated", "latent-age-apogee-simulated")


def batch_for(bundle, rows):
    """Spectra for a shipped bundle, with two that are not usable."""
    if bundle == "spt-lamost":
        batch = giant_spectra(rows, seed=1)
    else:
        stellar = {"teff": np.full(rows, 4700, np.float32), "fe_h": np.linspace(-1, 0.3, rows, dtype=np.float32)}
        batch = spectra_batch(rows, columns=stellar)
    usable = batch.usable.copy()
    usable[[0, rows - 1]] = False
    return replace(batch, usable=usable)


@pytest.fixture(params=SHIPPED)
def shipped(request):
    return load_model(find_bundle(request.param, Path.cwd())), batch_for(request.param, 70)


LARGEST_SHARE_IN_DOUBLE = {"spt": 0.4}
"""Of what is computed with two passes. SPT's fit for parameters solves systems of 128 unknowns, and needs it."""


def test_shipped_models_compute_on_the_device_alone_and_let_the_host_wait_for_nothing(shipped, monkeypatch):
    model, batch = shipped
    expected = model.predict(batch, InferenceSettings(passes=2, device="cpu"))
    with WatchedDevice().stand_in(monkeypatch) as device:
        found = model.predict(batch, InferenceSettings(passes=2, device="cuda", granules=1))
    assert device.faults == []
    assert device.waits == []
    computed = sum(device.counts.values())
    assert computed > 64 * 2000  # the pixels of a granule, at least
    # which many a GPU computes 64 times as slowly
    assert device.counts[torch.float64] < LARGEST_SHARE_IN_DOUBLE.get(model.kind, 0.05) * computed
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-3, atol=1e-4, err_msg=name)


DEFECTS = {
    "a tensor of the host": (lambda x: x * torch.ones(x.shape[1]), "expected all tensors on one device"),
    "numbers of the host": (lambda x: x + torch.from_numpy(np.ones(x.shape[1], np.float32)), "all tensors on one"),
    "an index of the host": (lambda x: x[torch.arange(2)], "expected all tensors on one device"),
}
WAITS = {
    "a number read": (lambda x: x * float(x[0, 0]), "compute: _local_scalar_dense"),
    "a branch on a value": (lambda x: x if (x > 0).any() else -x, "compute: _local_scalar_dense"),
    "a mask as an index": (lambda x: x[x > 0], "compute: index"),
    "places of what is true": (lambda x: torch.nonzero(x), "compute: nonzero"),
    "what is written where a mask is": (
        lambda x: x.clone().index_put_((x > 0,), x.new_zeros(())),
        "compute: index_put_",
    ),
    "a way by the host": (lambda x: x.cpu().to(DEVICE), "compute: _to_copy between host and device"),
    "a constant of the host": (lambda x: x * torch.tensor([2.0], device=DEVICE), "compute: _to_copy between"),
    "a solver that checks": (lambda x: torch.linalg.cholesky(x.new_ones(1, 1)), "compute: _linalg_check_errors"),
}


def computed_by(compute):
    """The watched device after a piece of arithmetic in its computing lane."""
    with WatchedDevice() as device, torch.inference_mode():
        x = torch.ones(3, 4, device=DEVICE)
        device.lanes.compute.run(lambda: compute(x))
    return device


@pytest.mark.parametrize(("compute", "message"), DEFECTS.values(), ids=DEFECTS)
def test_a_tensor_of_the_host_in_the_arithmetic_is_an_error(compute, message):
    with pytest.raises(RuntimeError, match=message):
        computed_by(compute)


@pytest.mark.parametrize(("compute", "wait"), WAITS.values(), ids=WAITS)
def test_whatever_the_host_would_wait_for_is_seen(compute, wait):
    device = computed_by(compute)
    assert any(found.startswith(wait) for found in device.waits), device.waits


def test_harmless_arithmetic_is_no_wait():
    def compute(x):
        torch.where(x > 0, x, 0.0).repeat_interleave(2, dim=1)
        return torch.cat([x * torch.tensor(2.0), x.clamp(min=0.5)])[:, torch.arange(2, device=DEVICE)]

    assert computed_by(compute).waits == []


def carried(device, parts=3 * ON_THEIR_WAY, load=None, **hooks):
    """Send slices over the lanes of a device; what is kept is looked at."""
    values = np.arange(parts * ROWS * 3, dtype=np.float32).reshape(-1, 3)
    kept = []

    def load_part(part):
        if load is not None:
            load(part)
        return [values[part].copy()]

    def keep(part, result):
        device.host_reads(result)
        kept.append(result.copy())

    slices = [slice(first, first + ROWS) for first in range(0, len(values), ROWS)]
    with device:
        convey(device.lanes, slices, ROWS, load_part, lambda x: x.mul_(2).sum(dim=1), keep)
    np.testing.assert_array_equal(np.concatenate(kept), values.sum(axis=1) * 2)


def test_every_use_of_a_buffer_is_ordered_after_the_last():
    device = WatchedDevice()
    carried(device)
    assert device.faults == []
    assert device.waits == []


def test_the_host_loads_while_the_last_granules_may_still_be_under_way():
    device = WatchedDevice()
    ahead = []

    def load(part):
        ahead.append(device.clocks["compute"]["compute"] - device.clocks[HOST]["compute"])

    carried(device, load=load)
    one = device.clocks["compute"]["compute"] // len(ahead)
    assert ahead[:ON_THEIR_WAY] == [n * one for n in range(ON_THEIR_WAY)]
    assert set(ahead[ON_THEIR_WAY:]) == {(ON_THEIR_WAY - 1) * one}


@pytest.mark.parametrize("lane", ["compute", "fetch"])
def test_a_lane_that_waits_for_none_is_seen(lane, monkeypatch):
    device = WatchedDevice()
    chosen, run = getattr(device.lanes, lane), CudaLane.run
    monkeypatch.setattr(CudaLane, "run", lambda self, work, after=(): run(self, work, () if self is chosen else after))
    carried(device)
    assert any(fault.startswith(f"{lane} does") for fault in device.faults)


def test_work_upon_another_stream_than_the_one_that_is_waited_for_is_seen(monkeypatch):
    device = WatchedDevice()
    with device:
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        carried(device)
        monkeypatch.undo()
    assert "host does numpy while compute may still do copy_" in device.faults


def test_a_buffer_that_is_filled_again_before_its_copy_is_done_is_seen(monkeypatch):
    monkeypatch.setattr(WatchedEvent, "synchronize", lambda event: None)
    device = WatchedDevice()
    carried(device)
    assert "host does copy_ while send may still do copy_" in device.faults
    assert "host does numpy while fetch may still do copy_" in device.faults


def test_a_buffer_of_a_lane_that_may_still_compute_with_what_lay_there_is_seen():
    device = WatchedDevice()
    make = device.lanes.device_buffer

    def on_the_computing_lane(shape, dtype):
        made = []
        device.lanes.compute.run(lambda: made.append(make(shape, dtype)))
        return made[0]

    device.lanes = replace(device.lanes, device_buffer=on_the_computing_lane)
    carried(device)
    assert any(fault.startswith("send does copy_ while compute may still do") for fault in device.faults)


@pytest.mark.parametrize("patient", [True, False])
def test_buffers_are_let_go_after_an_error_when_no_lane_uses_them_any_more(patient, monkeypatch):
    if not patient:
        monkeypatch.setattr(CudaLane, "synchronize", lambda lane: None)
    device = WatchedDevice()

    def fail(part):
        if part.start == 4 * ROWS:
            raise OSError("planned")

    with pytest.raises(OSError, match="planned"):
        carried(device, load=fail)
    assert bool(device.faults) != patient


def test_memory_that_is_not_page_locked_is_a_wait():
    device = WatchedDevice()
    device.lanes = replace(device.lanes, host_buffer=lambda shape, dtype: torch.empty(tuple(shape), dtype=dtype))
    carried(device)
    assert Counter(device.waits).keys() == {f"{lane}: copy_ between host and device" for lane in ("send", "fetch")}


def test_results_of_the_device_are_let_go_only_when_they_have_come_back(monkeypatch):
    """A slot that forgets its result while it is being fetched."""
    send_off = transfer._send_off

    def forget(lanes, slot, *more):
        send_off(lanes, slot, *more)
        slot.output = None

    monkeypatch.setattr(transfer, "_send_off", forget)
    device = WatchedDevice()
    carried(device)
    assert "memory of compute is let go while fetch may still do copy_" in device.faults
