"""That the first run of ``benchmarks.gpu`` on a GPU comes to its end: here on the watched device."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch

from benchmarks import gpu
from tests.factories.watched_device import WatchedDevice


def test_the_benchmark_of_a_gpu_ends_with_a_row_for_its_model(monkeypatch, capsys):
    set_to = []
    facts = SimpleNamespace(uuid="8f3a", name="a GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: facts)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", set_to.append, raising=False)
    monkeypatch.setattr(gpu, "limits", lambda device: (1e12, 1e12))
    monkeypatch.setattr(gpu, "MODELS", gpu.MODELS[1:])
    monkeypatch.setattr(gpu, "work", lambda model, batch, passes: (1e9, 1e8))  # counted on the CPU
    sizes = {"rows": 64, "chunk": 64, "passes": 1, "runs": 1}
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *(f"--{name}={value}" for name, value in sizes.items())])
    with WatchedDevice().stand_in(monkeypatch) as device:
        assert gpu.main() == 0
    assert set_to == [0]
    assert device.faults == []
    assert sum(device.counts.values()) > 0
    assert "| astronn-bcnn-apogee-simulated | " in capsys.readouterr().out
