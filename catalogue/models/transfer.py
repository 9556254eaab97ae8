"""Granules to a device with memory of its own and back, while it works on others.

A GPU copies in both directions beside its arithmetic if the host's side of the copy is page-locked and every
direction has a stream of its own. Three granules are on their way at a time, each with buffers of its own: one is
filled by the host while the second is computed and the third comes back. The buffers are kept for all granules of a
call and guarded by events, so that the allocator's ``record_stream``, with its unpredictable reuse, is not needed.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catalogue.models.device import one_memory_error
from catalogue.models.granules import map_granules
from catalogue.models.packing import Places, Rows, whole_granules
from catalogue.spectra.primitives import GRANULE_ROWS

ON_THEIR_WAY = 3
"""Granules between the host and the device at a time."""

_ON_DEVICE = threading.Lock()

Load = Callable[[Rows], Sequence[NDArray[Any]]]
Compute = Callable[..., Tensor]
Keep = Callable[[Rows, NDArray[Any]], None]


class Mark(Protocol):
    """A point in a lane's work."""

    def synchronize(self) -> None:
        """Wait until everything before it is done."""


class Lane(Protocol):
    """Work in order, beside that of other lanes: a CUDA stream."""

    def run(self, work: Callable[[], None], after: Sequence[Mark] = ()) -> Mark:
        """Let ``work`` be done after the marks of other lanes, without waiting for it."""

    def synchronize(self) -> None:
        """Wait until nothing is left to do."""


class CudaLane:
    """A CUDA stream.

    Parameters
    ----------
    stream : torch.cuda.Stream
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def run(self, work: Callable[[], None], after: Sequence[Any] = ()) -> torch.cuda.Event:
        """Queue ``work``; see :class:`Lane`."""
        for mark in after:
            self._stream.wait_event(mark)
        with torch.cuda.stream(self._stream):
            work()
        # blocking: the host sleeps instead of turning, as its cores read for other processes
        mark = torch.cuda.Event(blocking=True)
        mark.record(self._stream)
        return mark

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        self._stream.synchronize()


@dataclass(frozen=True)
class Lanes:
    """What granules travel on.

    Attributes
    ----------
    send, compute, fetch : Lane
        To the device, on it, and back.
    host_buffer, device_buffer : callable
        An empty tensor of a shape and dtype, in page-locked memory or on the device.
    """

    send: Lane
    compute: Lane
    fetch: Lane
    host_buffer: Callable[[Sequence[int], torch.dtype], Tensor]
    device_buffer: Callable[[Sequence[int], torch.dtype], Tensor]


@functools.cache
def cuda_lanes(device: torch.device) -> Lanes:
    """Lanes of a CUDA device, the same ones each time, as the allocator keeps memory for every stream.

    Arithmetic stays on the stream on which the engines were made.
    """

    def host_buffer(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        # page-locking makes a context on the current device, if it has none
        with torch.cuda.device(device):
            return torch.empty(shape, dtype=dtype, pin_memory=True)

    return Lanes(
        CudaLane(torch.cuda.Stream(device)),
        CudaLane(torch.cuda.current_stream(device)),
        CudaLane(torch.cuda.Stream(device)),
        host_buffer,
        lambda shape, dtype: torch.empty(shape, dtype=dtype, device=device),
    )


def is_apart(device: torch.device) -> bool:
    """Whether a device has memory of its own."""
    return device.type != "cpu"


def rows_together(device: torch.device, granules: int) -> int:
    """Rows that a device works on at once.

    A GPU needs tall matrices to be busy. On it, the last bits of a result may depend on this number; on a CPU it is
    always one granule.
    """
    return GRANULE_ROWS * (granules if is_apart(device) else 1)


def compute_granules(
    device: torch.device,
    usable: NDArray[np.bool_],
    granules: int,
    load: Load,
    compute: Compute,
    keep: Keep,
    places: Places,
) -> None:
    """Compute the granules that hold a usable row: on a CPU one per thread, else overlapped with their copies.

    Parameters
    ----------
    device : torch.device
    usable : ndarray of bool, shape (rows,)
        Of the rows of a batch.
    granules : int
        Worked on together on a GPU, see :func:`rows_together`.
    load : callable
        New arrays of some rows of the batch, a slice or their numbers, rows along the first axis.
    compute : callable
        Of these as tensors on the device, filled up with zeros to whole granules and its own to change; returns one
        tensor there, rows along its second axis. Runs in inference mode, and in full float32.
    keep : callable
        Of the rows and their result, filled up as what was loaded. The array is valid during the call only.
    places : Places
        Of this network; on a CPU it packs scattered rows.

    Raises
    ------
    torch.OutOfMemoryError
        If the memory of a GPU is out, however CUDA says so.
    """
    rows = rows_together(device, granules)
    if is_apart(device):
        # one at a time: lanes and precision are the process's
        with _ON_DEVICE, full_precision(), one_memory_error():
            convey(cuda_lanes(device), whole_granules(usable, rows), rows, load, compute, keep)
        return

    def granule(part: Rows) -> Tensor:
        with torch.inference_mode():
            sources = (torch.from_numpy(array) for array in load(part))
            inputs = (x if len(x) == rows else _fill(x.new_empty((rows, *x.shape[1:])), x) for x in sources)
            return compute(*inputs)

    wanted = places.granules(usable, rows, granule)
    map_granules(lambda index: keep(wanted[index], granule(wanted[index]).numpy()), len(wanted))


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Without TF32, which convolutions take by default and products where asked, and with deterministic algorithms."""
    cudnn = torch.backends.cudnn
    wanted = {"enabled": True, "benchmark": False, "deterministic": True}
    before = {name: getattr(cudnn, name) for name in wanted}
    matmul, convolutions = torch.backends.cuda.matmul, (getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None))
    with _without_tf32(matmul, matmul), _without_tf32(cudnn, *convolutions):
        try:
            for name, value in wanted.items():
                setattr(cudnn, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(cudnn, name, value)


@contextlib.contextmanager
def _without_tf32(library: Any, *parts: Any) -> Iterator[None]:
    """Set a library of torch to full float32, in whichever of torch's two ways its precision was set before."""
    precisions = [(part, part.fp32_precision) for part in parts if hasattr(part, "fp32_precision")]
    try:
        allowed = library.allow_tf32
    except RuntimeError:  # set in the newer way, where torch refuses to tell in the older one
        allowed = None
    library.allow_tf32 = False
    for part, _ in precisions:  # which else would take after that of all libraries
        part.fp32_precision = "ieee"
    try:
        yield
    finally:
        if allowed is not None:
            library.allow_tf32 = allowed
        for part, precision in precisions:
            part.fp32_precision = precision


@dataclass
class _Slot:
    """Buffers of one granule on its way."""

    part: Rows | None = None
    staged: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    output: Tensor | None = None
    result: Tensor | None = None
    arrived: Mark | None = None

    def empty(self) -> None:
        """Let the buffers go, even where the traceback of an error still holds the slot."""
        self.staged, self.inputs, self.output, self.result = [], [], None, None


def convey(lanes: Lanes, parts: Iterable[Rows], rows: int, load: Load, compute: Compute, keep: Keep) -> None:
    """Compute slices of a batch on lanes, :data:`ON_THEIR_WAY` at a time, keeping results in order.

    Whatever is raised, all lanes are waited for before the buffers are let go: memory that the allocator gave to
    one stream while another still writes to it would corrupt what comes next.
    """
    every = tuple(_Slot() for _ in range(ON_THEIR_WAY))
    free, under_way = list(every), list[_Slot]()
    try:
        for part in parts:
            if not free:
                free.append(_finish(under_way.pop(0), keep))
            arrays = load(part)
            under_way.append(free.pop(0))
            under_way[-1].part = part
            _send_off(lanes, under_way[-1], rows, arrays, compute)
        while under_way:
            _finish(under_way.pop(0), keep)
    finally:
        for lane in (lanes.send, lanes.compute, lanes.fetch):
            with contextlib.suppress(Exception):  # what went wrong first is what is told
                lane.synchronize()
        for slot in every:
            slot.empty()


def _send_off(lanes: Lanes, slot: _Slot, rows: int, arrays: Sequence[NDArray[Any]], compute: Compute) -> None:
    """Queue the copies of a slice and its arithmetic."""
    sources = [torch.from_numpy(array) for array in arrays]
    if not slot.staged:
        slot.staged = [lanes.host_buffer((rows, *source.shape[1:]), source.dtype) for source in sources]
    for staged, source in zip(slot.staged, sources, strict=True):
        _fill(staged, source)

    def send() -> None:
        if not slot.inputs:
            # Here, so that they belong to this lane: memory that the arithmetic has just given back may still be
            # read by what is queued there.
            slot.inputs = [lanes.device_buffer(staged.shape, staged.dtype) for staged in slot.staged]
        for target, staged in zip(slot.inputs, slot.staged, strict=True):
            target.copy_(staged, non_blocking=True)

    def work() -> None:
        with torch.inference_mode():
            slot.output = compute(*slot.inputs)

    def fetch() -> None:
        assert slot.output is not None
        if slot.result is None:
            slot.result = lanes.host_buffer(slot.output.shape, slot.output.dtype)
        slot.result.copy_(slot.output, non_blocking=True)

    there = lanes.send.run(send)
    done = lanes.compute.run(work, [there])
    slot.arrived = lanes.fetch.run(fetch, [done])


def _finish(slot: _Slot, keep: Keep) -> _Slot:
    """Wait for a granule's result and hand it on; its slot is free then."""
    assert slot.arrived is not None
    assert slot.part is not None
    slot.arrived.synchronize()
    assert slot.result is not None
    keep(slot.part, slot.result.numpy())
    return slot


def _fill(target: Tensor, source: Tensor) -> Tensor:
    """Copy the rows of ``source`` to the first of ``target``; the others become 0."""
    target[: len(source)].copy_(source)
    target[len(source) :].zero_()
    return target
