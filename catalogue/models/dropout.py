"""MC-dropout as T fixed subnetworks.

Pass *t* draws the mask of every dropout layer once, from a counter-based generator keyed by
(seed, layer, t), and every star sees that mask. For one star this is ordinary MC-dropout; over stars it
makes the answer independent of batches, chunks, workers and order, lets a dropped unit not be multiplied
at all, and lets everything before the first dropout run once.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

_T = TypeVar("_T")

FOLDED_PASSES = 4
"""Passes computed as one tall matrix on a CPU: few enough for the cache, enough to hide call overhead."""


class Dropout(nn.Module):
    """A dropout layer that marks where the passes of MC-dropout begin to differ.

    In training mode it acts as :class:`torch.nn.Dropout`, in evaluation mode as the identity. The masks
    of :class:`DropoutPasses` are drawn elsewhere, see :func:`unit_mask`.

    Parameters
    ----------
    p : float
        Probability of a unit to be dropped, 0 <= p < 1.
    name : str
        Unique in the network; part of the key of the masks, so it must not change once a bundle exists.
    """

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout probability of {name!r} must lie in [0, 1), found {p}")
        self.p = p
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Drop units independently for every element, as :func:`torch.nn.functional.dropout`."""
        return nn.functional.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        """Shown when the network is printed."""
        return f"p={self.p}, name={self.name!r}"


def unit_mask(seed: int, layer: str, t: int, p: float, n_units: int) -> NDArray[np.bool_]:
    """Which units of a layer pass ``t`` keeps.

    Philox keyed by SHA-256 of (seed, layer) with the pass in the counter: the mask of a pass depends on
    nothing drawn before, and raw Philox output is the same in every numpy version.

    Returns
    -------
    ndarray of bool, shape (n_units,)
    """
    key = np.frombuffer(hashlib.sha256(f"{seed}:{layer}".encode()).digest()[:16], dtype=np.uint64)
    stream = np.random.Philox(key=key, counter=np.array([0, 0, t, 0], dtype=np.uint64))
    raw: NDArray[np.uint64] = np.asarray(stream.random_raw(n_units), dtype=np.uint64)
    return np.asarray((raw >> np.uint64(11)) >= np.uint64(round(p * 2**53)))


@dataclass(frozen=True)
class _Layer:
    """Masks of one dropout layer for all passes."""

    keep: Tensor
    """(passes, units) float, 0 or 1/(1-p)."""
    kept: list[Tensor]
    """Per pass, the indices of the kept units."""
    scale: float


class DropoutPasses:
    """A network with dropout, prepared to run T passes over fixed-shape granules.

    The network is traced once. What does not depend on a dropout layer runs once per granule; the rest
    runs once per pass, several passes stacked along the row axis. A :class:`torch.nn.Linear` fed by a
    dropout layer alone is multiplied with its kept columns only.

    Parameters
    ----------
    network : nn.Module
        Takes one tensor (rows, ...) and returns one (rows, outputs), traceable by ``torch.fx``, every row
        on its own (no batch statistics). Put into evaluation mode.
    input_shape : tuple of int
        Shape of one row of the input.
    passes, seed : int
    device : torch.device, optional

    Raises
    ------
    ValueError
        If two dropout layers share a name, a ``torch.nn`` dropout is left in the network, or
        passes < 1.
    """

    def __init__(
        self,
        network: nn.Module,
        input_shape: tuple[int, ...],
        passes: int,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        if passes < 1:
            raise ValueError(f"expected at least one dropout pass, found {passes}")
        self.passes = passes
        self.device = device or torch.device("cpu")
        network = network.to(self.device).eval()
        _check_markers(network)
        self._folded = passes if self.device.type == "cuda" else min(FOLDED_PASSES, passes)
        self._program = _Program(network)
        with torch.inference_mode():
            shapes = self._program.dropout_shapes(torch.zeros(2, *input_shape, device=self.device))
        self._layers = {node: self._draw(self._program.modules[node], shape, seed) for node, shape in shapes.items()}
        self._thinned = {
            node: self._thin(self._program.modules[node], self._layers[source])
            for node, source in self._program.thinned.items()
        }

    def _draw(self, marker: nn.Module, shape: tuple[int, ...], seed: int) -> _Layer:
        assert isinstance(marker, Dropout)
        n_units = math.prod(shape)
        masks = np.stack([unit_mask(seed, marker.name, t, marker.p, n_units) for t in range(self.passes)])
        scale = 1.0 / (1.0 - marker.p)
        keep = torch.from_numpy(masks.astype(np.float32) * np.float32(scale)).to(self.device)
        kept = [torch.from_numpy(np.flatnonzero(mask)).to(self.device) for mask in masks]
        return _Layer(keep.reshape(self.passes, 1, *shape), kept, scale)

    def _thin(self, linear: nn.Module, layer: _Layer) -> list[Tensor]:
        """Transposed weights of the kept columns for every pass, scaled by 1/(1-p)."""
        assert isinstance(linear, nn.Linear)
        weight = linear.weight.detach().T * layer.scale
        return [weight.index_select(0, kept).contiguous() for kept in layer.kept]

    def __call__(self, x: Tensor) -> Tensor:
        """Run all passes over one granule.

        Parameters
        ----------
        x : Tensor, shape (rows, ...)

        Returns
        -------
        Tensor, shape (passes, rows, outputs)
        """
        with torch.inference_mode():
            shared = self._program.run_shared(x)
            if self._program.is_deterministic:
                result: Tensor = shared[self._program.output]
                return result.expand(self.passes, *result.shape)
            pieces = []
            for first in range(0, self.passes, self._folded):
                window = range(first, min(first + self._folded, self.passes))
                out = self._program.run_passes(shared, len(x), window, self._drop, self._multiply)
                pieces.append(out.view(len(window), len(x), *out.shape[1:]))
            return torch.cat(pieces)

    def _drop(self, node: str, x: Tensor, rows: int, window: range) -> Tensor:
        """Masked activations of the passes in ``window``, stacked along the rows."""
        keep = self._layers[node].keep[window.start : window.stop]
        stacked = x.view(-1, rows, *x.shape[1:]) * keep
        return stacked.view(-1, *x.shape[1:])

    def _multiply(self, node: str, x: Tensor, rows: int, window: range) -> Tensor:
        """Thinned matrix products of the passes in ``window``, stacked along the rows."""
        linear = self._program.modules[node]
        layer = self._layers[self._program.thinned[node]]
        assert isinstance(linear, nn.Linear)
        weights = self._thinned[node]
        out = torch.empty(len(window) * rows, linear.out_features, device=x.device)
        for i, t in enumerate(window):
            source = x if len(x) == rows else x[i * rows : (i + 1) * rows]
            part = out[i * rows : (i + 1) * rows]
            kept = source.index_select(1, layer.kept[t])
            if linear.bias is None:
                torch.mm(kept, weights[t], out=part)
            else:
                torch.addmm(linear.bias, kept, weights[t], out=part)
        return out


class _Program:
    """The traced network, cut into what runs once and what runs per pass."""

    def __init__(self, network: nn.Module) -> None:
        tracer = _Tracer()
        graph = tracer.trace(network)
        self._module = fx.GraphModule(network, graph)
        self.modules: dict[str, nn.Module] = {}
        self.thinned: dict[str, str] = {}
        self._varied: list[fx.Node] = []
        self._shared: list[fx.Node] = []
        per_row: set[fx.Node] = set()
        varied: set[fx.Node] = set()
        named = dict(network.named_modules())
        for node in graph.nodes:
            parents = node.all_input_nodes
            if node.op == "call_module":
                self.modules[node.name] = named[str(node.target)]
            if node.op == "placeholder" or any(parent in per_row for parent in parents):
                per_row.add(node)
            marked = isinstance(self.modules.get(node.name), Dropout)
            if (marked and self.modules[node.name].p > 0) or any(parent in varied for parent in parents):
                varied.add(node)
            if node.op == "output":
                self.output = parents[0].name
                self.is_deterministic = parents[0] not in varied
                continue
            (self._varied if node in varied else self._shared).append(node)
        self._repeated = {
            parent.name
            for node in self._varied
            if not isinstance(self.modules.get(node.name), Dropout)
            for parent in node.all_input_nodes
            if parent in per_row and parent not in varied
        }
        self._find_thinned()

    def _find_thinned(self) -> None:
        """Linear layers whose dropout feeds nothing else: their input need never be masked."""
        for node in self._varied:
            module = self.modules.get(node.name)
            if not isinstance(module, Dropout) or len(node.users) == 0:
                continue
            if all(isinstance(self.modules.get(user.name), nn.Linear) for user in node.users):
                for user in node.users:
                    self.thinned[user.name] = node.name

    def run_shared(self, x: Tensor) -> dict[str, Any]:
        """Values of all nodes that do not depend on a dropout."""
        values: dict[str, Any] = {}
        for node in self._shared:
            values[node.name] = x if node.op == "placeholder" else self._evaluate(node, values)
        return values

    def run_passes(
        self,
        shared: dict[str, Any],
        rows: int,
        window: range,
        drop: Callable[[str, Tensor, int, range], Tensor],
        multiply: Callable[[str, Tensor, int, range], Tensor],
    ) -> Tensor:
        """Output of the passes in ``window``, stacked along the rows."""
        values = dict(shared)
        for name in self._repeated:
            if isinstance(value := shared[name], Tensor):
                values[name] = value.repeat(len(window), *[1] * (value.dim() - 1))
        for node in self._varied:
            module = self.modules.get(node.name)
            if isinstance(module, Dropout) and module.p > 0:
                # a dropout that only feeds thinned layers hands on its input as it is
                passed_on = all(user.name in self.thinned for user in node.users)
                source = node.all_input_nodes[0].name
                x = shared[source] if source in shared else values[source]
                values[node.name] = x if passed_on else drop(node.name, x, rows, window)
            elif node.name in self.thinned:
                values[node.name] = multiply(node.name, values[self.thinned[node.name]], rows, window)
            else:
                values[node.name] = self._evaluate(node, values)
        result: Tensor = values[self.output]
        return result

    def dropout_shapes(self, example: Tensor) -> dict[str, tuple[int, ...]]:
        """Shape of one row at every dropout that drops anything."""
        values = self.run_shared(example)
        shapes: dict[str, tuple[int, ...]] = {}
        for node in self._varied:
            values[node.name] = self._evaluate(node, values)
            module = self.modules.get(node.name)
            if isinstance(module, Dropout) and module.p > 0:
                shapes[node.name] = tuple(values[node.name].shape[1:])
        # Linear also acts on the last of several axes; there units are not columns of the weights
        flat = {name for name, shape in shapes.items() if len(shape) == 1}
        self.thinned = {name: source for name, source in self.thinned.items() if source in flat}
        return shapes

    def _evaluate(self, node: fx.Node, values: dict[str, Any]) -> Any:
        """Value of one node of the graph."""
        args = fx.map_arg(node.args, lambda n: values[n.name])
        kwargs = fx.map_arg(node.kwargs, lambda n: values[n.name])
        if node.op == "call_module":
            return self.modules[node.name](*args, **kwargs)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        attribute: Any = self._module
        for part in str(node.target).split("."):
            attribute = getattr(attribute, part)
        return attribute


class _Tracer(fx.Tracer):
    """Looks into every module but those of torch.nn and the dropout markers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Dropout) or super().is_leaf_module(m, module_qualified_name)


def _check_markers(network: nn.Module) -> None:
    names = [module.name for module in network.modules() if isinstance(module, Dropout)]
    if len(set(names)) != len(names):
        raise ValueError(f"dropout layers must have different names, found {sorted(names)}")
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            raise ValueError(f"{name}: {type(module).__name__} would be skipped; use catalogue's Dropout")


@dataclass(frozen=True, slots=True)
class Moments:
    """What is kept of the passes.

    Attributes
    ----------
    mean, std : Tensor, shape (rows, outputs)
        Population standard deviation over the passes, as astroNN.
    percentiles : Tensor, shape (3, rows, outputs)
        16, 50 and 84 %.
    covariance : Tensor, shape (rows, outputs, outputs)
    correlation : Tensor, shape (rows,)
        Of the first two outputs; NaN if there is one output or a spread of zero.
    """

    mean: Tensor
    std: Tensor
    percentiles: Tensor
    covariance: Tensor
    correlation: Tensor


def reduce(samples: Tensor) -> Moments:
    """Mean, spread, percentiles and correlation over the passes.

    Parameters
    ----------
    samples : Tensor, shape (passes, rows, outputs)
    """
    samples = samples.double()
    mean = samples.mean(dim=0)
    deviation = samples - mean
    covariance = torch.einsum("tri,trj->rij", deviation, deviation) / len(samples)
    std = torch.diagonal(covariance, dim1=1, dim2=2).sqrt()
    levels = torch.tensor([0.16, 0.50, 0.84], dtype=samples.dtype, device=samples.device)
    percentiles = torch.quantile(samples, levels, dim=0)
    return Moments(mean, std, percentiles, covariance, correlation(covariance))


def correlation(covariance: Tensor) -> Tensor:
    """Correlation of the first two outputs of covariances (rows, outputs, outputs), NaN if undefined."""
    if covariance.shape[-1] < 2:
        return torch.full(covariance.shape[:1], torch.nan, dtype=covariance.dtype, device=covariance.device)
    variance = covariance[:, 0, 0] * covariance[:, 1, 1]
    ratio = covariance[:, 0, 1] / torch.where(variance > 0, variance, torch.nan).sqrt()
    return ratio.clamp(-1.0, 1.0)


_NEWTON_STEPS = 12


def mixture_percentiles(mean: Tensor, std: Tensor, levels: Sequence[float]) -> Tensor:
    """Percentiles of an equal mixture of one Gaussian per pass.

    A fixed number of Newton steps kept inside a shrinking bracket, so that every row costs the same
    and the result depends on nothing else.

    Parameters
    ----------
    mean, std : Tensor of float64, shape (passes, rows)
        ``std`` positive.
    levels : sequence of float
        Probabilities between 0 and 1.

    Returns
    -------
    Tensor of float64, shape (levels, rows)
    """
    centre = mean.mean(dim=0)
    width = (std.square().mean(dim=0) + (mean - centre).square().mean(dim=0)).sqrt()
    normal = torch.distributions.Normal(0.0, 1.0)
    results = []
    for level in levels:
        # of any distribution, no quantile between 2 % and 98 % lies farther out than 7 standard deviations
        low, high = centre - 8 * width, centre + 8 * width
        x = centre + float(normal.icdf(torch.tensor(level))) * width
        for _ in range(_NEWTON_STEPS):
            z = (x - mean) / std
            excess = 0.5 * (1.0 + torch.erf(z / math.sqrt(2.0))).mean(dim=0) - level
            density = (torch.exp(-0.5 * z * z) / std).mean(dim=0) / math.sqrt(2.0 * math.pi)
            low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
            step = x - excess / density.clamp(min=1e-300)
            x = torch.where((step > low) & (step < high), step, 0.5 * (low + high))
        results.append(x)
    return torch.stack(results)


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Run torch operations of this thread on one core.

    How a matrix product or a sum is cut over threads changes its rounding. A granule is therefore
    computed by one thread, and it is granules that run side by side.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_granules(function: Callable[[int], _T], count: int, threads: int | None = None) -> list[_T]:
    """``[function(0), ..., function(count - 1)]``, each computed by one single-threaded worker.

    Parameters
    ----------
    function : callable
        Of the granule's index. Torch releases the interpreter inside its operations.
    count : int
    threads : int, optional
        Granules computed at the same time; None takes ``torch.get_num_threads()``, so that whoever
        owns the process decides with ``torch.set_num_threads``.
    """
    threads = min(threads or torch.get_num_threads(), count)
    if threads <= 1:
        with single_threaded():
            return [function(index) for index in range(count)]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, range(count)))
    finally:
        torch.set_num_threads(before)  # the pool's initialiser also set the default of later threads
