"""A device without enough memory, and one that is not there."""

from __future__ import annotations

import gc

import pytest
import torch

from catalogue.models.spt import SpectralTransformer
from cluster import TaskFailed
from tests.factories.lanes import FakeDevice
from tests.factories.runs import build_here
from tests.faults.conftest import UNITS


@pytest.fixture
def no_collection():
    """Memory comes back when it is let go, not when the collector happens to run."""
    gc.disable()
    yield
    gc.enable()


def test_out_of_memory_halves_the_batch_and_is_remembered(undisturbed, tmp_path, monkeypatch, no_collection):
    """Every granule travels as to a GPU, whose memory holds buffers of 64 rows."""
    device = FakeDevice(most_rows=64).stand_in(monkeypatch)
    asked = []
    predict = SpectralTransformer.predict

    def observed(model, batch, settings):
        asked.append(settings.granules)
        return predict(model, batch, settings)

    monkeypatch.setattr(SpectralTransformer, "predict", observed)
    digests = build_here(undisturbed.configuration, f"output.directory={tmp_path / 'run'}", "inference.granules=4")
    assert digests == undisturbed.digests
    # One worker, two units in flight: the second may have been sent off before the first had failed.
    assert sorted(asked, reverse=True)[: len(asked) - UNITS] in ([4, 2], [4, 4, 2], [4, 4, 2, 2])
    assert asked[-UNITS + 1 :] == [1] * (UNITS - 1)
    assert set(device.asked) == {256, 128, 64}
    assert device.idle
    assert device.buffers_left == 0


def test_a_gpu_that_is_asked_for_and_not_there_stops_the_run_with_words(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TaskFailed, match=r"inference\.device: expected a CUDA device for 'cuda', this process sees 0"):
        build_here(undisturbed.configuration, f"output.directory={tmp_path / 'run'}", "inference.device=cuda")
