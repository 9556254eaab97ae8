"""A network traced once and cut into what runs once per granule and what runs once per dropout pass."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

Replacement = Callable[[Tensor], Tensor]
"""What is computed in place of a module."""


class TracedNetwork:
    """The graph of a network with marked layers.

    Parameters
    ----------
    network : nn.Module
        Takes one tensor and returns one; traceable by ``torch.fx``.
    is_marked : callable
        Whether a module makes everything behind it vary from pass to pass. Marked modules are not
        looked into.

    Attributes
    ----------
    modules : dict of str to nn.Module
        Modules that the graph calls, by the name of the calling node.
    is_deterministic : bool
        Whether the output depends on no marked module.
    """

    def __init__(self, network: nn.Module, is_marked: Callable[[nn.Module], bool]) -> None:
        tracer = _Tracer(is_marked)
        graph = tracer.trace(network)
        self._module = fx.GraphModule(network, graph)
        self._is_marked = is_marked
        self.modules: dict[str, nn.Module] = {}
        self._shared: list[fx.Node] = []
        self._varied: list[fx.Node] = []
        per_row: set[fx.Node] = set()
        varied: set[fx.Node] = set()
        named = dict(network.named_modules())
        for node in graph.nodes:
            parents = node.all_input_nodes
            if node.op == "call_module":
                self.modules[node.name] = named[str(node.target)]
            if node.op == "placeholder" or any(parent in per_row for parent in parents):
                per_row.add(node)
            if self._marked(node) or any(parent in varied for parent in parents):
                varied.add(node)
            if node.op == "output":
                self._output = parents[0].name
                self.is_deterministic = parents[0] not in varied
            else:
                (self._varied if node in varied else self._shared).append(node)
        self._resized = self._find_resized()
        once = per_row - varied - set(self._resized)
        self._broadcast = {
            node.name for node in self._varied if _is_elementwise(node) and once & set(node.all_input_nodes)
        }
        self._repeated = {
            parent.name
            for node in (*self._resized, *self._varied)
            if not self._marked(node) and node.name not in self._broadcast
            for parent in node.all_input_nodes
            if parent in once
        }

    def _find_resized(self) -> list[fx.Node]:
        """Shared sizes that varied nodes use: a number of rows, which stacking passes changes."""
        sizes: set[fx.Node] = set()
        for node in self._shared:
            parents = node.all_input_nodes
            if _reads_size(node) or (node.op == "call_function" and parents and all(p in sizes for p in parents)):
                sizes.add(node)
        wanted = {parent for node in self._varied for parent in node.all_input_nodes} & sizes
        for node in reversed(self._shared):
            if node in wanted:
                wanted |= set(node.all_input_nodes) & sizes
        return [node for node in self._shared if node in wanted]

    def _marked(self, node: fx.Node) -> bool:
        module = self.modules.get(node.name)
        return module is not None and self._is_marked(module)

    def marked(self) -> list[str]:
        """Nodes that call a marked module, in order."""
        return [node.name for node in self._varied if self._marked(node)]

    def linear_users(self, name: str) -> list[str]:
        """Nodes fed by node ``name``, if all of them are linear layers, else nothing."""
        (node,) = (node for node in self._varied if node.name == name)
        users = [user.name for user in node.users]
        return users if all(isinstance(self.modules.get(user), nn.Linear) for user in users) else []

    def varied_linears(self) -> list[str]:
        """Nodes that call a linear layer in every pass."""
        return [node.name for node in self._varied if isinstance(self.modules.get(node.name), nn.Linear)]

    def run_shared(self, x: Tensor) -> dict[str, Any]:
        """Values of all nodes that are the same in every pass."""
        values: dict[str, Any] = {}
        for node in self._shared:
            values[node.name] = x if node.op == "placeholder" else self._evaluate(node, values)
        return values

    def shared_output(self, shared: dict[str, Any]) -> Tensor:
        """Output of a deterministic network."""
        result: Tensor = shared[self._output]
        return result

    def run_varied(self, shared: dict[str, Any], passes: int, replace: dict[str, Replacement]) -> Tensor:
        """Output of ``passes`` passes, stacked along the row axis.

        Parameters
        ----------
        shared : dict
            From :meth:`run_shared`.
        passes : int
        replace : dict of str to callable
            By node; called with the node's first input, which is not yet stacked if it is shared and
            the node is marked.
        """
        values = dict(shared)
        values.update({name: _stack(shared[name], passes) for name in self._repeated})
        for node in self._resized:
            values[node.name] = self._evaluate(node, values)
        for node in self._varied:
            if node.name in replace:
                source = node.all_input_nodes[0].name
                x = shared[source] if self._marked(node) and source in shared else values[source]
                values[node.name] = replace[node.name](x)
            elif node.name in self._broadcast:
                values[node.name] = self._over_passes(node, values, shared, passes)
            else:
                values[node.name] = self._evaluate(node, values)
        result: Tensor = values[self._output]
        return result

    def _over_passes(self, node: fx.Node, values: dict[str, Any], shared: dict[str, Any], passes: int) -> Any:
        """An elementwise operation of a shared and a varied value, without repeating the shared one."""
        first, second = (parent.name for parent in node.all_input_nodes)
        once, varied = (first, second) if first in shared else (second, first)
        x, y = shared[once], values[varied]
        if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.dim() == y.dim()):
            return self._evaluate(node, {**values, once: _stack(x, passes)})
        return self._evaluate(node, {once: x, varied: y.unflatten(0, (passes, -1))}).flatten(0, 1)

    def shapes(self, example: Tensor) -> dict[str, tuple[int, ...]]:
        """Shape of one row at every node that varies, for an input ``example``."""
        values = self.run_shared(example)
        for node in self._varied:
            values[node.name] = self._evaluate(node, values)
        found = ((node.name, values[node.name]) for node in self._varied)
        return {name: tuple(value.shape[1:]) for name, value in found if isinstance(value, Tensor)}

    def _evaluate(self, node: fx.Node, values: dict[str, Any]) -> Any:
        """Value of one node of the graph."""
        args: Any = fx.map_arg(node.args, lambda n: values[n.name])
        kwargs: Any = fx.map_arg(node.kwargs, lambda n: values[n.name])
        if node.op == "call_module":
            return self.modules[node.name](*args, **kwargs)
        if node.op == "call_function":
            function: Any = node.target
            return function(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        attribute: Any = self._module
        for part in str(node.target).split("."):
            attribute = getattr(attribute, part)
        return attribute


def _stack(value: Any, passes: int) -> Any:
    """A shared tensor once for every pass, along the rows; anything else as it is."""
    return value.repeat(passes, *[1] * (value.dim() - 1)) if isinstance(value, Tensor) else value


_ELEMENTWISE = (operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.sub, torch.mul)


def _is_elementwise(node: fx.Node) -> bool:
    """Whether a node combines two tensors of the graph element by element."""
    return node.op == "call_function" and node.target in _ELEMENTWISE and len(node.all_input_nodes) == 2


def _reads_size(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target == "size"
    return node.op == "call_function" and node.target is getattr and node.args[1] == "shape"


class _Tracer(fx.Tracer):
    """Looks into every module but those of torch.nn and the marked ones."""

    def __init__(self, is_marked: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._is_marked = is_marked

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._is_marked(m) or super().is_leaf_module(m, module_qualified_name)
