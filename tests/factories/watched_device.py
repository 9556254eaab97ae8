"""A device with memory of its own that holds true values, and tells what CUDA would not forgive.

Its tensors say that they lie on torch's device ``meta`` and carry their values on the CPU. While a
:class:`WatchedDevice` is entered, every operation of the thread is looked at: whether it mixes tensors of host and
device, makes the host wait, or touches memory that a copy or an operation of another stream may still be using. The
last is found by clocks and not by chance: of two accesses one must be ordered before the other by events, whatever
the time that either takes. Streams and events stand in the place of CUDA's, so that its own lanes are tried.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from catalogue.models import transfer

aten = torch.ops.aten
DEVICE = torch.device("meta")
HOST = "host"

_COPIES = (aten.copy_.default, aten._to_copy.default)

_WAITING = {
    "_local_scalar_dense", "item", "nonzero", "nonzero_static", "masked_select", "equal", "is_nonzero", "bincount",
    "_unique2", "unique_dim", "unique_consecutive", "_linalg_check_errors", "histc",
}  # fmt: skip
"""Operations whose result, size or error CUDA's host waits for."""

_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


class DeviceTensor(torch.Tensor):
    """A tensor of the watched device."""

    value: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value):
        with torch.inference_mode(False):  # a view of a tensor made outside that mode may not be of it
            self = torch.Tensor._make_wrapper_subclass(
                cls, value.size(), strides=value.stride(), storage_offset=value.storage_offset(), dtype=value.dtype,
                device=DEVICE,
            )  # fmt: skip
        self.value = value
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func}: a tensor of the device is used where nobody watches it")

    def __repr__(self):
        return f"DeviceTensor({self.value})"


Clock = Counter
"""How much of every actor's work is known to be done: of the host and of every stream."""


def _join(*clocks: Clock) -> Clock:
    """The later of several clocks, actor by actor."""
    joined = Clock()
    for clock in clocks:
        joined |= clock
    return joined


class WatchedStream:
    """In the place of a CUDA stream; its work is done at once."""

    def __init__(self, device: WatchedDevice, name: str) -> None:
        self._device, self.name = device, name

    def wait_event(self, event: WatchedEvent) -> None:
        self._device.clocks[self.name] |= event.clock

    def synchronize(self) -> None:
        self._device.clocks[HOST] |= self._device.clocks[self.name]

    @contextlib.contextmanager
    def current(self):
        """What is asked for meanwhile is work of this stream."""
        before, self._device.lane = self._device.lane, self.name
        try:
            yield
        finally:
            self._device.lane = before


class WatchedEvent:
    """In the place of a CUDA event: what is done once a stream has got so far."""

    def __init__(self, device: WatchedDevice) -> None:
        self._device, self.clock = device, Clock()

    def record(self, stream: WatchedStream) -> None:
        self.clock = Clock(self._device.clocks[stream.name])

    def synchronize(self) -> None:
        self._device.clocks[HOST] |= self.clock


@dataclass
class _Memory:
    """Who has touched a block of memory when, and on which lane it was made."""

    home: str | None
    writes: list[tuple[str, int, str]] = field(default_factory=list)
    reads: list[tuple[str, int, str]] = field(default_factory=list)


class WatchedDevice(TorchDispatchMode):
    """Enter it around whatever computes on :data:`DEVICE`.

    Attributes
    ----------
    faults : list of str
        Mixed devices, copies that are not asynchronous, and memory used by two lanes at a time.
    waits : list of str
        Operations within a lane for which CUDA would let the host wait.
    counts : Counter
        Elements of the results of the computing lane, by dtype.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lane: str | None = None
        self.clocks = {name: Clock() for name in (HOST, "send", "compute", "fetch")}
        self.faults: list[str] = []
        self.waits: list[str] = []
        self.counts: Counter[torch.dtype] = Counter()
        self._memory: dict[int, _Memory] = {}
        self._pinned: dict[int, weakref.ref] = {}
        self._depth = 0
        with self._in_place_of_cuda():
            self.lanes = transfer.cuda_lanes.__wrapped__(DEVICE)

    def stand_in(self, monkeypatch, device=DEVICE) -> WatchedDevice:
        """Let models compute here where CUDA is asked for."""
        there = {True: device, False: torch.device("cpu")}
        monkeypatch.setattr("catalogue.models.engines.choose_device", lambda name: there[name.startswith("cuda")])
        monkeypatch.setattr(transfer, "cuda_lanes", lambda device: self.lanes)
        return self

    @contextlib.contextmanager
    def _in_place_of_cuda(self):
        """Let torch's names of CUDA's streams and events be those of this device."""
        original, names = torch.tensor, iter(("send", "fetch"))

        def tensor(data, *, device=None, **more):
            # as on a GPU, made on the host and copied; for ``meta`` torch would leave the values away
            made = original(data, **more)
            return made if device is None or torch.device(device).type != DEVICE.type else made.to(device)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "tensor", tensor)
            patch.setattr(torch.cuda, "Stream", lambda device: WatchedStream(self, next(names)))
            patch.setattr(torch.cuda, "current_stream", lambda device: WatchedStream(self, "compute"))
            patch.setattr(torch.cuda, "stream", lambda stream: stream.current())
            patch.setattr(torch.cuda, "Event", lambda blocking: WatchedEvent(self))
            patch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
            yield

    def __enter__(self):
        if self._depth == 0:
            self._cuda = self._in_place_of_cuda()
            self._cuda.__enter__()
        self._depth += 1
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._depth -= 1
        if self._depth == 0:
            self._cuda.__exit__(None, None, None)

    def host_reads(self, array) -> None:
        """Say that the host reads the memory of ``array``, which torch does not see."""
        address = array.__array_interface__["data"][0]
        for reference in self._pinned.values():
            storage = reference()
            if storage is not None and storage.data_ptr() <= address < storage.data_ptr() + storage.nbytes():
                self._access(storage, HOST, False, "numpy")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            # inference mode hands these on whole: what they are made of is what is to be seen
            with self:
                return func.decompose(*args, **kwargs)
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [leaf for leaf in leaves if isinstance(leaf, DeviceTensor)]
        here = [leaf for leaf in leaves if not isinstance(leaf, DeviceTensor)]
        target = kwargs.get("device")
        on_device = bool(there) if target is None else torch.device(target).type == DEVICE.type
        name = str(func.overloadpacket).removeprefix("aten.")
        self._judge(func, name, there, here, on_device, args, kwargs)
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        pinned = bool(kwargs.pop("pin_memory", False))
        bare = tree_map(lambda x: x.value if isinstance(x, DeviceTensor) else x, (args, kwargs))
        result = func(*bare[0], **bare[1])
        if name == "empty":
            result.fill_(77)  # what is never written shows
        if pinned:
            return self._pin(result)
        actor = (self.lane or "compute") if there or on_device else HOST
        if not func.is_view:
            self._record(func, name, args, kwargs, actor)
        given = {id(leaf.value): leaf for leaf in there} | {id(leaf): leaf for leaf in here}

        def wrapped(value):
            if not isinstance(value, torch.Tensor):
                return value
            if id(value) in given:
                return given[id(value)]
            if actor == "compute" and self.lane and not func.is_view:
                self.counts[value.dtype] += value.numel()
            if not on_device:
                return value
            made = DeviceTensor(value)
            self._follow(value.untyped_storage(), actor)
            return made

        return tree_map(wrapped, result)

    def _judge(self, func, name, there, here, on_device, args, kwargs) -> None:
        """Note what is wrong with an operation, whatever it computes."""
        if func in _COPIES:
            crossing = (here and (there or on_device)) or (there and not on_device)
            if crossing and self.lane:
                self._judge_copy(name, here, kwargs, args)
            return
        if there and any(tensor.dim() for tensor in here):
            shapes = [tuple(tensor.shape) for tensor in here if tensor.dim()]
            raise RuntimeError(f"{name}: expected all tensors on one device, found {shapes} on the host")
        masks = name in _INDEXED and any(
            t.dtype in (torch.bool, torch.uint8) for t in tree_leaves(args[1]) if t is not None
        )
        unknown_size = name == "repeat_interleave" and kwargs.get("output_size") is None
        scalar_moved = name == "where" and there and bool(here)
        if self.lane and there and (name in _WAITING or masks or unknown_size or scalar_moved):
            self.waits.append(f"{self.lane}: {name}")

    def _judge_copy(self, name, here, kwargs, args) -> None:
        """A copy between host and device has to be asynchronous, which needs page-locked memory."""
        pinned = all(t.untyped_storage()._cdata in self._pinned for t in here)
        hurried = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        if not (here and pinned and hurried):
            self.waits.append(f"{self.lane}: {name} between host and device")

    def _pin(self, buffer: torch.Tensor) -> torch.Tensor:
        """Page-locked memory, as far as copies are concerned."""
        storage = buffer.untyped_storage()
        self._pinned[storage._cdata] = weakref.ref(storage)
        self._follow(storage, None)
        weakref.finalize(storage, self._pinned.pop, storage._cdata, None)
        return buffer

    def _follow(self, storage, home) -> None:
        key = storage._cdata
        if key not in self._memory:
            # what lay there before is in the order of its lane, which may not have come so far
            before = [] if home is None else [(home, self.clocks[home][home], "what lay there before")]
            self._memory[key] = _Memory(home, writes=before)
            weakref.finalize(storage, self._let_go, key)

    def _let_go(self, key) -> None:
        """Memory goes back to the lane on which it was made, which may use it again at once."""
        memory = self._memory.pop(key)
        if memory.home is None:  # of page-locked memory torch itself waits for the copies
            return
        known = _join(self.clocks[memory.home], self.clocks[HOST])
        for actor, time, name in (*memory.writes, *memory.reads):
            if actor != memory.home and known[actor] < time:
                self.faults.append(f"memory of {memory.home} is let go while {actor} may still do {name}")

    def _record(self, func, name, args, kwargs, actor) -> None:
        """Note the reads and writes of an operation, which begins when the host has asked for it."""
        self.clocks[actor] |= self.clocks[HOST]
        self.clocks[actor][actor] += 1
        for position, argument in enumerate(func._schema.arguments):
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            written = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tree_leaves(given):
                if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided:  # packed weights are the host's
                    value = tensor.value if isinstance(tensor, DeviceTensor) else tensor
                    self._access(value.untyped_storage(), actor, written, name)

    def _access(self, storage, actor, written, name) -> None:
        memory = self._memory.get(storage._cdata)
        if memory is None:  # the host's own
            return
        clock = self.clocks[actor]
        others = (*memory.writes, *memory.reads) if written else memory.writes
        for other, time, what in others:
            if other != actor and clock[other] < time:
                self.faults.append(f"{actor} does {name} while {other} may still do {what}")
        mine = memory.writes if written else memory.reads
        mine[:] = [entry for entry in mine if entry[0] != actor] + [(actor, clock[actor], name)]
