"""MC-dropout as T fixed subnetworks.

Pass *t* draws the mask of every dropout layer once, from a counter-based generator keyed by
(seed, layer, t), and every star sees that mask. For one star this is ordinary MC-dropout; over stars it
makes the answer independent of batches, chunks, workers and order, lets a dropped unit not be multiplied
at all, and lets everything before the first dropout run once.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from catalogue.models.dense import Dense
from catalogue.models.traced import Replacement, TracedNetwork
from catalogue.spectra.primitives import GRANULE_ROWS

FOLDED_PASSES = 8
"""Passes computed as one tall matrix on a CPU: few enough for the cache, enough for tall, efficient products."""

DROPPED_WEIGHTS = 50_000
"""Weights that a pass must save for a layer to be thinned on a CPU. Below it, one tall product with masked
inputs beats one product of 64 rows per pass (256 -> 256 at p = 0.3: 0.30 against 0.38 ms for 8 passes on a
Zen 5 core; 1024 -> 1024 at p = 0.5: 6.5 against 3.5 ms)."""

THINNED_BYTES = 256 * 2**20
"""Most memory for the thinned weights of one layer; a larger layer is multiplied whole."""


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
    key = np.frombuffer(hashlib.sha256(f"{seed}:{layer}".encode()).digest()[:16], dtype="<u8")
    stream = np.random.Philox(key=key.astype(np.uint64), counter=np.array([0, 0, t, 0], dtype=np.uint64))
    raw: NDArray[np.uint64] = np.asarray(stream.random_raw(n_units), dtype=np.uint64)
    return np.asarray((raw >> np.uint64(11)) >= np.uint64(round(p * 2**53)))


@dataclass(frozen=True)
class _Layer:
    """Masks of one dropout layer for all passes."""

    factors: Tensor
    """(passes, 1, *units): 0 or 1/(1-p)."""
    kept: list[Tensor]
    """Per pass, the indices of the kept units."""
    scale: float


class DropoutPasses:
    """A network with dropout, prepared to run T passes over fixed-shape granules.

    The network is traced once. What does not depend on a dropout layer runs once per granule; the rest
    runs once per pass, several passes stacked along the row axis. A large :class:`torch.nn.Linear` fed by a
    dropout layer alone is multiplied with its kept columns only (:data:`DROPPED_WEIGHTS`).

    Parameters
    ----------
    network : nn.Module
        Takes one tensor (rows, ...) and returns one (rows, outputs), traceable by ``torch.fx``, every row
        on its own (no batch statistics). It is moved to ``device`` and put into evaluation mode. Its
        weights are copied: training it further changes nothing here.
    input_shape : tuple of int
        Shape of one row of the input.
    passes, seed : int
    device : torch.device, optional
    rows : int
        Rows of the granules to come; any other number works, more slowly.

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
        rows: int = GRANULE_ROWS,
    ) -> None:
        if passes < 1:
            raise ValueError(f"expected at least one dropout pass, found {passes}")
        self.passes = passes
        self.device = device or torch.device("cpu")
        network = network.to(self.device).eval()
        _check_markers(network)
        self._folded = min(FOLDED_PASSES, passes) if self.device.type == "cpu" else passes
        self._program = TracedNetwork(network, lambda module: isinstance(module, Dropout) and module.p > 0)
        with torch.inference_mode():
            shapes = self._program.shapes(torch.zeros(2, *input_shape, device=self.device))
            self._layers = {node: self._draw(node, shapes[node], seed) for node in self._program.marked()}
            self._prepare_products(shapes, rows)

    def _draw(self, node: str, shape: tuple[int, ...], seed: int) -> _Layer:
        """Masks of the dropout layer at ``node``."""
        marker = self._program.modules[node]
        assert isinstance(marker, Dropout)
        n_units = math.prod(shape)
        masks = np.stack([unit_mask(seed, marker.name, t, marker.p, n_units) for t in range(self.passes)])
        scale = 1.0 / (1.0 - marker.p)
        factors = torch.from_numpy(masks.astype(np.float32) * np.float32(scale)).to(self.device)
        kept = [torch.from_numpy(np.flatnonzero(mask)).to(self.device) for mask in masks]
        return _Layer(factors.reshape(self.passes, 1, *shape), kept, scale)

    def _prepare_products(self, shapes: dict[str, tuple[int, ...]], rows: int) -> None:
        """Pack the weights of every linear layer behind a dropout, thinned where that pays."""
        self._thinned: dict[str, tuple[_Layer, list[Dense]]] = {}
        self._whole: dict[str, Dense] = {}
        self._handed_on: set[str] = set()
        for node, layer in self._layers.items():
            users = self._program.linear_users(node)
            linears = [linear for user in users if isinstance(linear := self._program.modules[user], nn.Linear)]
            # Linear also acts on the last of several axes; there units are not columns of the weights
            if users and len(shapes[node]) == 1 and all(self._thinning_pays(layer, x) for x in linears):
                self._handed_on.add(node)
                for user, linear in zip(users, linears, strict=True):
                    self._thinned[user] = layer, _thin(linear, layer, rows)
        for node in self._program.varied_linears():
            linear = self._program.modules[node]
            assert isinstance(linear, nn.Linear)
            if node not in self._thinned and len(shapes[node]) == 1:
                self._whole[node] = Dense(linear.weight, linear.bias, rows * self._folded)

    def _thinning_pays(self, layer: _Layer, linear: nn.Linear) -> bool:
        kept = sum(len(indices) for indices in layer.kept)
        dropped = self.passes * linear.in_features - kept
        enough = dropped * linear.out_features >= DROPPED_WEIGHTS * self.passes
        return self.device.type == "cpu" and enough and 4 * kept * linear.out_features <= THINNED_BYTES

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
                result = self._program.shared_output(shared)
                return result.expand(self.passes, *result.shape)
            pieces = []
            for first in range(0, self.passes, self._folded):
                window = range(first, min(first + self._folded, self.passes))
                out = self._program.run_varied(shared, len(window), self._replacements(len(x), window))
                pieces.append(out.view(len(window), len(x), *out.shape[1:]))
            return torch.cat(pieces)

    def _replacements(self, rows: int, window: range) -> dict[str, Replacement]:
        """What the passes in ``window`` compute at dropout and linear layers."""
        replace: dict[str, Replacement] = dict(self._whole)
        for node, layer in self._layers.items():
            # a dropout that feeds thinned layers hands on its input as it is
            handed_on = node in self._handed_on
            replace[node] = _identity if handed_on else partial(_drop, layer=layer, rows=rows, window=window)
        for node, (layer, weights) in self._thinned.items():
            replace[node] = partial(_multiply, layer=layer, weights=weights, rows=rows, window=window)
        return replace


def _thin(linear: nn.Linear, layer: _Layer, rows: int) -> list[Dense]:
    """The layer's kept columns for every pass, scaled by 1/(1-p)."""
    weight = linear.weight.detach() * layer.scale
    return [Dense(weight.index_select(1, kept), linear.bias, rows) for kept in layer.kept]


def _identity(x: Tensor) -> Tensor:
    return x


def _drop(x: Tensor, layer: _Layer, rows: int, window: range) -> Tensor:
    """Masked activations of the passes in ``window``, stacked along the rows."""
    stacked = x.reshape(-1, rows, *x.shape[1:]) * layer.factors[window.start : window.stop]
    return stacked.view(-1, *x.shape[1:])


def _multiply(x: Tensor, layer: _Layer, weights: list[Dense], rows: int, window: range) -> Tensor:
    """Thinned matrix products of the passes in ``window``, stacked along the rows."""
    parts = []
    for i, t in enumerate(window):
        source = x if len(x) == rows else x[i * rows : (i + 1) * rows]
        parts.append(weights[t](source.index_select(1, layer.kept[t])))
    return torch.cat(parts)


def _check_markers(network: nn.Module) -> None:
    names = [module.name for module in network.modules() if isinstance(module, Dropout)]
    if len(set(names)) != len(names):
        raise ValueError(f"dropout layers must have different names, found {sorted(names)}")
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            raise ValueError(f"{name}: {type(module).__name__} would be skipped; use catalogue's Dropout")
