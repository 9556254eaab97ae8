"""What a star costs at T passes: operations of products and bytes moved, counted from the program's own operations.

Run: ``python -m benchmarks.device_work [--passes 100]``; needs no GPU. One granule of 64 rows is predicted on the CPU,
where every operation of torch is counted: twice the multiplications of products and convolutions, and all of its
arguments and results, as if each were read from memory once and written once. Granules on a GPU are taller, so that
weights are read less often, and its caches hold what is used again at once: a limit to compare with, not a
prediction. Continuum fits are compiled apart from torch and not counted.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.infer_share import apogee, lamost
from catalogue.models import InferenceSettings, find_bundle, load_model
from catalogue.models.base import Model, SpectraBatch
from catalogue.spectra.primitives import GRANULE_ROWS


class Moved(TorchDispatchMode):
    """Bytes of the arguments and results of every operation that is no view."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, results)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return results


def packed_product(x: Any, *arguments: Any, out_shape: Any, **more: Any) -> int:
    """Operations of a product with packed weights, which torch's own counter does not know."""
    return 2 * math.prod(x) * int(out_shape[-1])


def work(model: Model, batch: SpectraBatch, passes: int) -> tuple[float, float]:
    """Operations and bytes a star; ``batch`` is one granule whose rows are all usable."""
    settings = InferenceSettings(device="cpu", passes=passes)
    model.predict(batch, settings)  # draws masks, and tries whether rows may be packed
    known = (
        {torch.ops.mkldnn._linear_pointwise: packed_product} if hasattr(torch.ops.mkldnn, "_linear_pointwise") else {}
    )
    with FlopCounterMode(display=False, custom_mapping=known) as counted:
        model.predict(batch, settings)
    with Moved() as moved:
        model.predict(batch, settings)
    return counted.get_total_flops() / len(batch), moved.bytes / len(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=100)
    passes = parser.parse_args().passes
    print(f"| T = {passes} | MFLOP a star | MB a star |\n|---|---|---|")
    for bundle, make in (("spt-lamost", lamost), ("astronn-bcnn-apogee-simulated", apogee)):
        model = load_model(find_bundle(bundle, Path.cwd()))
        operations, moved = work(model, make(model, GRANULE_ROWS), passes)
        print(f"| {bundle} | {operations / 1e6:.0f} | {moved / 1e6:.1f} |")


if __name__ == "__main__":
    main()
