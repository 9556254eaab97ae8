"""Lanes that work late: what CUDA streams would do, on a CPU."""

from __future__ import annotations

import queue
import threading
import time
import weakref

import torch

from catalogue.models import transfer
from catalogue.models.transfer import Lanes


class LateMark:
    """Done when the lane has got so far; raises what the lane's work raised."""

    def __init__(self) -> None:
        self.done, self.error = threading.Event(), None

    def synchronize(self) -> None:
        self.done.wait()
        if self.error is not None:
            raise self.error


class LateLane:
    """A thread that begins each piece of work ``delay`` seconds after its turn has come."""

    def __init__(self, delay: float) -> None:
        self.delay, self.left = delay, 0
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._last = LateMark()
        self._last.done.set()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            work, after, mark = self._queue.get()
            try:
                for earlier in after:
                    earlier.synchronize()
                time.sleep(self.delay)
                work()
            except Exception as error:
                mark.error = error
            del work, after
            self.left -= 1
            mark.done.set()
            del mark

    def run(self, work, after=()):
        self._last = mark = LateMark()
        self.left += 1
        self._queue.put((work, after, mark))
        return mark

    def synchronize(self) -> None:
        self._last.synchronize()


class PromptLane(LateLane):
    """Raises where it is called, as torch does when there is no memory for what a piece of work makes."""

    def run(self, work, after=()):
        for earlier in after:
            earlier.synchronize()
        work()
        return super().run(lambda: None)


class FakeDevice:
    """Lanes, and what became of their buffers.

    Parameters
    ----------
    delays : tuple of float
        Of sending, computing and fetching.
    most_rows : int or None
        Taller buffers do not fit in the memory of the device.
    """

    def __init__(self, delays=(0.0, 0.0, 0.0), prompt=False, most_rows=None) -> None:
        self.buffers: list[weakref.ref] = []
        self.asked: list[int] = []
        self._most_rows = most_rows
        send, compute, fetch = map(LateLane, delays)
        self.lanes = Lanes(
            PromptLane(0.0) if prompt else send, PromptLane(0.0) if prompt else compute, fetch, self._host, self._device
        )

    def _host(self, shape, dtype):
        # what is never written shows
        buffer = torch.full(tuple(shape), 77, dtype=dtype)
        self.buffers.append(weakref.ref(buffer))
        return buffer

    def _device(self, shape, dtype):
        self.asked.append(shape[0])
        if self._most_rows is not None and shape[0] > self._most_rows:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {shape[0]} rows (planned)")
        return self._host(shape, dtype)

    @property
    def idle(self) -> bool:
        """Whether no lane has anything left to do."""
        return not any(lane.left for lane in (self.lanes.send, self.lanes.compute, self.lanes.fetch))

    @property
    def buffers_left(self) -> int:
        """Buffers that somebody still holds."""
        return sum(reference() is not None for reference in self.buffers)

    def stand_in(self, monkeypatch) -> FakeDevice:
        """Let every device pass for one with memory of its own, with these lanes."""
        monkeypatch.setattr(transfer, "is_apart", lambda device: True)
        monkeypatch.setattr(transfer, "cuda_lanes", lambda device: self.lanes)
        return self
