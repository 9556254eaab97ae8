"""MC-dropout of SPT on a CPU: fixed thinned subnetworks against a loop of T forward passes with nn.Dropout on.

Run: ``python -m benchmarks.dropout [--bundle spt-lamost] [--rows 1024] [--threads 1] [--passes 100] [--repeat 5]``

Both sides get the same network and the same threads: the loop as torch's own threads on its best batch of those
tried, ours as granules side by side. Three variants: from PCA coefficients (the network alone), from normalised
pixels (filling and PCA inside the forward that the loop repeats), and from the survey's pixels to the columns of
the catalogue (preprocessing and PCA once on both sides, ours with its error columns, the loop with mean, standard
deviation and percentiles of numpy). Runs are interleaved; medians of wall time and of CPU time, which a busy
machine disturbs less. Masks differ, so answers are compared by their moments.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from catalogue.models import InferenceSettings, SpectraBatch, find_bundle, load_model
from catalogue.models.base import NetworkInputs
from catalogue.models.dropout import Dropout
from catalogue.models.granules import map_granules
from catalogue.models.spt import SpectralTransformer
from catalogue.spectra.primitives import GRANULE_ROWS

BATCHES = (64, 256, 1024)


def plain_network(network: nn.Module) -> nn.Module:
    """The same network with torch's dropout, in training mode."""
    plain = copy.deepcopy(network)
    for name, module in list(plain.named_modules()):
        if isinstance(module, Dropout):
            parent = plain.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.Dropout(module.p))
    return plain.train()


class FromPixels(nn.Module):
    """From normalised pixels to the network's outputs, as a model in one piece would be written."""

    def __init__(self, inputs: NetworkInputs, network: nn.Module) -> None:
        super().__init__()
        self.inputs, self.network = inputs, network

    def forward(self, pixels: torch.Tensor, good: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self.network(self.inputs.features(pixels, good, noise))


def loop(forward: nn.Module, inputs: tuple[torch.Tensor, ...], passes: int, batch: int) -> torch.Tensor:
    """T forward passes over all rows in batches, dropout on."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inputs[0]), batch):
            piece = [x[start : start + batch] for x in inputs]
            parts.append(torch.stack([forward(*piece) for _ in range(passes)]))
    return torch.cat(parts, dim=1)


def spectra(model: SpectralTransformer, rows: int) -> SpectraBatch:
    """Spectra with the training set's mean, spread along its components, and noise."""
    rng = np.random.default_rng(0)
    inputs = model._cpu_inputs
    learnt, grid = inputs.learnt, inputs.preprocessing.settings.grid
    draws = torch.from_numpy(rng.normal(size=(rows, len(learnt.components))).astype(np.float32))
    pixels = learnt.mean + learnt.scale * ((draws * learnt.component_scale) @ learnt.components)
    lattice = 10.0 ** (grid.log10_first + grid.log10_step * np.arange(grid.n_pixels))
    flux = np.stack([np.interp(lattice, inputs.preprocessing.wavelength, row) for row in pixels.numpy()])
    flux = 1000 * flux * (lattice / 6000)
    sigma = np.median(flux, axis=1, keepdims=True) / rng.uniform(30, 100, (rows, 1))
    flux = flux + sigma * rng.normal(size=flux.shape)
    ivar = np.broadcast_to(sigma**-2.0, flux.shape) * (rng.random(flux.shape) > 0.01)
    return SpectraBatch(
        0,
        flux.astype(np.float32),
        ivar.astype(np.float32),
        np.zeros(flux.shape, np.uint16),
        np.ones(rows, dtype=bool),
        {"z": rng.normal(0, 1e-4, rows)},
    )


def by_granules(function: Callable[[slice], torch.Tensor], rows: int, threads: int) -> torch.Tensor:
    """Results of all granules, joined along the rows."""
    count = -(-rows // GRANULE_ROWS)
    parts = map_granules(lambda i: function(slice(i * GRANULE_ROWS, (i + 1) * GRANULE_ROWS)), count, threads)
    return torch.cat(parts, dim=1)


def race(candidates: dict[str, Callable[[], object]], repeat: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of each, run in turn."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for turn in range(repeat + 1):
        for name, function in candidates.items():
            start, cpu = time.perf_counter(), time.process_time()
            function()
            if turn:  # the first turn warms up
                times[name].append((time.perf_counter() - start, time.process_time() - cpu))
    return {name: tuple(map(statistics.median, zip(*values, strict=True))) for name, values in times.items()}


def agreement(ours: torch.Tensor, theirs: torch.Tensor) -> str:
    """How far moments over the passes differ, against what finite T allows."""
    passes = len(ours)
    error = (ours.var(0) / passes + theirs.var(0) / passes).sqrt()
    apart = (ours.mean(0) - theirs.mean(0)).abs() / error
    ratio = (ours.std(0) / theirs.std(0)).median()
    return f"means differ by {apart.median():.2f} of their error (expected 0.67), spreads by a factor {ratio:.3f}"


def compare(model: SpectralTransformer, batch: SpectraBatch, passes: int, threads: int, repeat: int) -> None:
    """Print one table for ``passes`` passes."""
    settings = InferenceSettings(device="cpu", passes=passes)
    engine = model._engines.of(settings)
    rows = len(batch)
    prepared = engine.inputs.prepare(batch)
    features = engine.inputs.features(prepared.pixels, prepared.good, prepared.noise)
    plain = plain_network(model._network)
    whole = FromPixels(engine.inputs, plain)

    def ours_network() -> torch.Tensor:
        return by_granules(lambda part: engine.passes(features[part]), rows, threads)

    def ours_pixels() -> torch.Tensor:
        def granule(part: slice) -> torch.Tensor:
            return engine.passes(
                engine.inputs.features(prepared.pixels[part], prepared.good[part], prepared.noise[part])
            )

        return by_granules(granule, rows, threads)

    def their_catalogue(size: int) -> list[np.ndarray]:
        ready = engine.inputs.prepare(batch)
        found = loop(plain, (engine.inputs.features(ready.pixels, ready.good, ready.noise),), passes, size).numpy()
        values = 10.0 ** found[..., :2]
        return [values.mean(0), values.std(0), np.percentile(values, [16, 50, 84], axis=0)]

    print(f"\nT = {passes}, {rows} stars, {threads} thread(s), medians of {repeat}")
    print(f"  network: {agreement(ours_network(), loop(plain, (features,), passes, 256))}")
    pixels = prepared.pixels, prepared.good, prepared.noise
    print(f"  pixels:  {agreement(ours_pixels(), loop(whole, pixels, passes, 256))}")
    print(f"  {'ms per star':22s}{'wall:':>9s}{'batch':>7s}{'':>17s}{'CPU:':>16s}")
    print(f"  {'from':22s}{'loop':>9s}{'':>7s}{'ours':>9s}{'ratio':>8s}{'loop':>16s}{'ours':>8s}{'ratio':>8s}")
    variants: dict[str, tuple[Callable[[int], object], Callable[[], object]]] = {
        "PCA coefficients": (lambda size: loop(plain, (features,), passes, size), ours_network),
        "normalised pixels": (lambda size: loop(whole, pixels, passes, size), ours_pixels),
        "survey to columns": (their_catalogue, lambda: model.predict(batch, settings)),
    }
    for name, (theirs, ours) in variants.items():
        candidates: dict[str, Callable[[], object]] = {"ours": ours}
        candidates |= {str(size): partial(theirs, size) for size in BATCHES}
        times = race(candidates, repeat)
        mine = np.array(times.pop("ours")) * 1000 / rows
        best = min(times, key=lambda size: times[size][1])
        loops = np.array(times[best]) * 1000 / rows
        wall, cpu = loops / mine
        print(
            f"  {name:22s}{loops[0]:9.3f}{best:>7s}{mine[0]:9.3f}{wall:7.2f}×{loops[1]:18.3f}{mine[1]:8.3f}{cpu:7.2f}×"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="spt-lamost")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, nargs="+", default=[100])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = load_model(find_bundle(options.bundle, Path.cwd()))
    assert isinstance(model, SpectralTransformer)
    print(f"{model.bundle.description.name} {model.bundle.description.version}: {model.architecture}")
    batch = spectra(model, options.rows)
    for passes in options.passes:
        compare(model, batch, passes, options.threads, options.repeat)


if __name__ == "__main__":
    main()
