"""Matrix products with fixed weights, as fast as the processor allows."""

from __future__ import annotations

import torch
from torch import Tensor


def packing_available() -> bool:
    """Whether torch offers oneDNN's products with packed float32 weights on this machine."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )


class Dense:
    """``x @ weight.T + bias`` for weights that do not change.

    torch multiplies float32 with MKL, which on processors of other makers uses half of their vector
    width. oneDNN, which torch carries as well, uses all of it: 100 against 230 GFLOP/s on one Zen 5 core.
    Its operators are those that ``torch.compile`` emits; where they are missing, and on a GPU, the
    product is torch's own. The choice depends on the machine alone, so results are reproducible on it.

    Parameters
    ----------
    weight : Tensor of float32, shape (out, in)
    bias : Tensor of float32, shape (out,), optional
    rows : int
        Rows of the inputs to come, for which the weights are laid out; others are allowed.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        weight = weight.detach()
        self._bias = None if bias is None else bias.detach()
        self._packed = weight.device.type == "cpu" and weight.dtype == torch.float32 and packing_available()
        if self._packed:
            with torch.inference_mode():
                self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        else:
            self._weight = weight.T.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """Product for ``x`` of shape (rows, in)."""
        if self._packed:
            result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
            return result
        if self._bias is None:
            return x @ self._weight
        return torch.addmm(self._bias, x, self._weight)
