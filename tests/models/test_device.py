"""Which device is computed on, without any GPU."""

from __future__ import annotations

import pytest
import torch

from catalogue.models.device import DeviceError, choose_device


@pytest.fixture
def gpus(monkeypatch):
    def set_number(number):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return set_number


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_the_device_is_the_one_asked_for_or_the_best_there_is(gpus, name, number, expected):
    gpus(number)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize(("name", "number"), [("cuda", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_one_clear_error(gpus, name, number):
    gpus(number)
    with pytest.raises(DeviceError, match=f"for '{name}', this process sees {number}: run on a GPU node"):
        choose_device(name)
