"""What a build says of the devices of this machine before it starts processes on it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import cluster
from catalogue.config import ConfigurationError
from catalogue.pipeline.lazy_cluster import UNUSED_GPU, LazyCluster
from tests.factories.runs import load, write_run


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What is told when the cluster of a run with overrides is started on a machine with some GPUs."""

    def start(gpus, *overrides):
        monkeypatch.setattr(cluster, "connect", lambda *arguments, **keywords: nullcontext("client"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        notes = []
        with LazyCluster(load(write_run(tmp_path, rows=1), *overrides), None, notes.append) as workers:
            assert workers.get() == "client"
        return notes

    return start


def test_a_gpu_that_several_processes_would_share_is_told(told):
    assert told(1, "cluster=local", "workers=2", "inference.device=auto") == [UNUSED_GPU]


@pytest.mark.parametrize(
    ("gpus", "overrides"),
    [
        (0, ["cluster=local", "workers=2", "inference.device=auto"]),
        (1, ["cluster=local", "workers=1", "inference.device=auto"]),
        (1, ["cluster=local", "workers=2", "inference.device=cuda"]),
        (1, ["cluster=local", "workers=2", "inference.device=cpu"]),
        (1, ["cluster=cuda", "inference.device=auto"]),
    ],
)
def test_nothing_is_told_where_the_device_is_the_one_asked_for(told, gpus, overrides):
    assert told(gpus, *overrides) == []


def test_a_device_that_is_not_there_is_refused_for_processes_of_this_machine_only(told):
    with pytest.raises(ConfigurationError, match="this process sees 1"):
        told(1, "cluster=local", "inference.device=cuda:1")
    assert told(0, "cluster=cuda", "inference.device=cuda") == []
