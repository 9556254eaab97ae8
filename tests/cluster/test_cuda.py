"""GPU workers: without a GPU only the refusals and the arguments can be tested."""

from __future__ import annotations

import sys
import types

import pytest

import cluster
from cluster import ClusterError
from cluster.kinds.cuda import Settings, visible_gpus


@pytest.fixture
def machine(monkeypatch):
    """A dask-cuda that finds as many GPUs as the test says, or an error."""
    package = types.ModuleType("dask_cuda")
    utils = types.ModuleType("dask_cuda.utils")
    made = []

    class LocalCUDACluster:
        def __init__(self, **keywords):
            made.append(keywords)
            raise RuntimeError("CUDA_ERROR_NO_DEVICE")

    package.LocalCUDACluster = LocalCUDACluster
    package.utils = utils
    monkeypatch.setitem(sys.modules, "dask_cuda", package)
    monkeypatch.setitem(sys.modules, "dask_cuda.utils", utils)

    def has(gpus, visible=None):
        def count():
            if isinstance(gpus, Exception):
                raise gpus
            return gpus

        utils.get_gpu_count = count
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return types.SimpleNamespace(has=has, made=made)


@pytest.mark.parametrize(
    ("gpus", "visible", "expected"),
    [(4, None, [0, 1, 2, 3]), (4, "0, 2", ["0", "2"]), (4, "GPU-8f3a", ["GPU-8f3a"]), (4, "0,-1,2", ["0"])],
)
def test_the_gpus_are_those_that_cuda_shows(machine, gpus, visible, expected):
    machine.has(gpus, visible)
    assert visible_gpus() == expected


@pytest.mark.parametrize(
    ("gpus", "visible", "reason"),
    [
        (RuntimeError("NVML Shared Library Not Found"), None, "NVML Shared Library Not Found"),
        (RuntimeError("NVML Shared Library Not Found"), "0", "NVML Shared Library Not Found"),
        (0, None, "the driver lists none"),
        (2, "", "CUDA_VISIBLE_DEVICES is ''"),
        (2, "-1", "CUDA_VISIBLE_DEVICES is '-1'"),
    ],
)
@pytest.mark.parametrize("where", ["cuda", {"kind": "cuda", "devices": [0]}])
def test_a_machine_without_gpu_is_one_clear_error(machine, tmp_path, gpus, visible, reason, where):
    machine.has(gpus, visible)
    with (
        pytest.raises(ClusterError, match=f"no NVIDIA GPU was found: {reason}"),
        cluster.connect(where, relative_to=tmp_path, scratch=tmp_path),
    ):
        pass
    assert machine.made == []


def test_what_dask_cuda_raises_is_told(machine, tmp_path):
    machine.has(2)
    with (
        pytest.raises(ClusterError, match="workers on GPUs could not be started: RuntimeError: CUDA_ERROR_NO_DEVICE"),
        cluster.connect("cuda", relative_to=tmp_path, scratch=tmp_path),
    ):
        pass
    assert machine.made[0]["n_workers"] == 2
    assert machine.made[0]["CUDA_VISIBLE_DEVICES"] == [0, 1]


@pytest.mark.parametrize("where", ["cuda", {"kind": "cuda", "devices": [0, 1]}])
def test_a_gpu_is_not_shared(machine, tmp_path, where):
    machine.has(2)
    with (
        pytest.raises(ClusterError, match="expected at most 2 workers, one for each GPU, found 3"),
        cluster.connect(where, relative_to=tmp_path, scratch=tmp_path, workers=3),
    ):
        pass
    assert machine.made == []


def test_workers_on_gpus_have_one_thread_and_spill_nothing(tmp_path):
    keywords = Settings(kind="cuda").cluster_keywords([1, 3], 2, tmp_path, None)
    assert keywords["CUDA_VISIBLE_DEVICES"] == [1, 3]
    assert (keywords["n_workers"], keywords["threads_per_worker"]) == (2, 1)
    assert (keywords["memory_limit"], keywords["device_memory_limit"], keywords["data"]) == (0, None, dict)
    assert keywords["host"] == "127.0.0.1"
    assert keywords["dashboard_address"] == "127.0.0.1:0"
