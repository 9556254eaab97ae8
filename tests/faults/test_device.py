"""A device without enough memory, and one that is not there."""

from __future__ import annotations

import pytest
import torch

from catalogue.models.spt import SpectralTransformer
from cluster import TaskFailed
from tests.factories.runs import build_here
from tests.faults.conftest import UNITS


def test_out_of_memory_halves_the_batch_and_is_remembered(undisturbed, tmp_path, monkeypatch):
    asked = []
    predict = SpectralTransformer.predict

    def with_little_memory(model, batch, settings):
        asked.append(settings.granules)
        if settings.granules > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (planned)")
        return predict(model, batch, settings)

    monkeypatch.setattr(SpectralTransformer, "predict", with_little_memory)
    digests = build_here(undisturbed.configuration, f"output.directory={tmp_path / 'run'}", "inference.granules=8")
    assert digests == undisturbed.digests
    # One worker, two units in flight: the second may have been sent off before the first had failed.
    assert sorted(asked, reverse=True)[: len(asked) - UNITS] in ([8, 4], [8, 8, 4], [8, 8, 4, 4])
    assert asked[-UNITS + 1 :] == [2] * (UNITS - 1)


def test_a_gpu_that_is_asked_for_and_not_there_stops_the_run_with_words(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TaskFailed, match=r"inference\.device: expected a CUDA device for 'cuda', this process sees 0"):
        build_here(undisturbed.configuration, f"output.directory={tmp_path / 'run'}", "inference.device=cuda")
