"""From the word in a configuration to the device on which a process computes."""

from __future__ import annotations

import contextlib
import os
import re
import traceback
from collections.abc import Iterator

import torch

_PROCESSES = "CLUSTER_PROCESSES"
"""Variable in which a cluster tells its workers how many of them see the same GPUs."""

_NO_MEMORY = re.compile("out of memory|STATUS_ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED|CUDNN_STATUS_NOT_INITIALIZED")
"""What is said, beside torch's own error, when the memory of a GPU or page-locked memory is out."""


class DeviceError(RuntimeError):
    """A device was asked for by name that this process does not see."""


def choose_device(name: str, setting: str = "inference.device") -> torch.device:
    """Device of a settings string.

    Parameters
    ----------
    name : str
        ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: the first CUDA device, if there is one and the process need not
        share it with others of its cluster, else the CPU.
    setting : str
        Where it was asked for, told in the error.

    Raises
    ------
    DeviceError
        If CUDA was asked for by name and is not there: computing on the CPU instead would take a hundred times the
        hours that were granted.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        # as many contexts as a machine has cores could fill a GPU's memory before anything is computed
        shared = os.environ.get(_PROCESSES, "1") != "1"
        return torch.device("cuda" if available and not shared else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= available:
        build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise DeviceError(
            f"{setting}: expected a CUDA device for {name!r}, this process sees {available}: run on a GPU node with a "
            f"driver as new as torch's build ({build}), ask the batch system for GPUs, or set device to cpu/auto"
        )
    return device


@contextlib.contextmanager
def one_memory_error() -> Iterator[None]:
    """Raise what CUDA and its libraries raise in their own ways when there is no memory as torch's own error.

    Whoever repeats the work with less finds the memory of the failed attempt free, also where other processes
    compute on the same GPU.

    Raises
    ------
    torch.OutOfMemoryError
    """
    try:
        yield
        return
    except RuntimeError as error:
        message = str(error)
        if not (isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY.search(message)):
            raise
        traceback.clear_frames(error.__traceback__)  # which hold tensors
    torch.cuda.empty_cache()
    raise torch.OutOfMemoryError(message)
