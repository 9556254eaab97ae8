"""Which device is computed on, without any GPU."""

from __future__ import annotations

import os
import re
import weakref

import pytest
import torch

from catalogue.models.device import DeviceError, choose_device, one_memory_error
from cluster.threads import PROCESSES


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


def test_processes_beside_each_other_share_a_gpu_only_where_it_was_asked_for(gpus, monkeypatch):
    gpus(1)
    monkeypatch.setenv(PROCESSES, "8")
    assert choose_device("auto") == torch.device("cpu")
    assert choose_device("cuda") == torch.device("cuda")
    monkeypatch.setenv(PROCESSES, "1")
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(("name", "number"), [("cuda", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_one_clear_error(gpus, name, number):
    gpus(number)
    with pytest.raises(DeviceError, match=f"for '{name}', this process sees {number}: run on a GPU node"):
        choose_device(name)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    ],
)
def test_a_gpu_without_memory_is_one_error_however_cuda_says_so_and_nothing_is_held(error):
    held = []

    def work():
        tensor = torch.ones(3)
        held.append(weakref.ref(tensor))
        raise error

    with pytest.raises(torch.OutOfMemoryError, match=re.escape(str(error))), one_memory_error():
        work()
    assert held[0]() is None


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="illegal memory access") as raised, one_memory_error():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    assert type(raised.value) is RuntimeError


def test_gpus_of_the_machine_are_hidden_from_tests_that_do_not_ask_for_one(request):
    if "gpu" not in request.config.option.markexpr:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
