"""MC-dropout of the astroNN network, T passes on CPU: ours, a loop with nn.Dropout on, and torch.func.vmap.

Run: ``python -m benchmarks.astronn_dropout [--threads 1] [--rows 64] [--passes 100] [--repeat 5]``
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

from benchmarks.timing import median_seconds
from catalogue.models.astronn_bcnn import AstroNNArchitecture, AstroNNNetwork
from catalogue.models.astronn_passes import AstroNNPasses
from catalogue.models.dropout import DropoutPasses


def plain_network(network: AstroNNNetwork) -> nn.Sequential:
    """The same layers as people write them, with torch's dropout."""
    layers = nn.Sequential(
        nn.Unflatten(1, (1, network.n_pixels)),
        nn.Conv1d(1, 2, 8, padding="same"),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv1d(2, 4, 8, padding="same"),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(network.hidden1.in_features, network.hidden1.out_features),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(network.hidden2.in_features, network.hidden2.out_features),
        nn.ReLU(),
        nn.Linear(network.hidden2.out_features, 4),
    )
    heads = [network.output, network.log_variance]
    order = torch.arange(network.hidden1.in_features).view(-1, 4).T.flatten()
    weights = [network.conv1.weight, network.conv2.weight, network.hidden1.weight[:, order], network.hidden2.weight]
    biases = [network.conv1.bias, network.conv2.bias, network.hidden1.bias, network.hidden2.bias]
    weights.append(torch.cat([head.weight for head in heads]))
    biases.append(torch.cat([head.bias for head in heads]))
    with torch.no_grad():
        plain = [module for module in layers if isinstance(module, nn.Conv1d | nn.Linear)]
        for layer, weight, bias in zip(plain, weights, biases, strict=True):
            assert layer.bias is not None
            assert bias is not None
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("threads", 1), ("rows", 64), ("passes", 100), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = AstroNNNetwork(AstroNNArchitecture()).eval()
    spectra = 0.05 * torch.randn(options.rows, 7514)
    plain = plain_network(network)
    passes = AstroNNPasses(network, options.passes, 0, torch.device("cpu"))
    engine = DropoutPasses(network, (7514,), options.passes, 0)

    torch.testing.assert_close(plain.eval()(spectra), network(spectra), rtol=1e-4, atol=1e-5)
    ours = passes(spectra)
    torch.testing.assert_close(ours, engine(spectra), rtol=1e-3, atol=1e-4)

    def loop() -> torch.Tensor:
        plain.train()
        with torch.inference_mode():
            return torch.stack([plain(spectra) for _ in range(options.passes)])

    def vmapped() -> torch.Tensor:
        plain.train()
        with torch.no_grad():
            one = torch.func.vmap(lambda _: plain(spectra), randomness="different", chunk_size=10)
            return one(torch.arange(options.passes))

    # Other masks, so equal only in their moments: the means within five of their own errors.
    reference = loop()
    difference = (reference.mean(0) - ours.mean(0)).abs() / (reference.std(0) * (2 / options.passes) ** 0.5)
    print(f"means over passes differ by {difference.median():.2f} (median) of their error, expected 0.67")

    candidates = {"loop of nn.Dropout": loop, "torch.func.vmap": vmapped}
    candidates |= {"DropoutPasses": lambda: engine(spectra), "AstroNNPasses": lambda: passes(spectra)}
    times = {name: median_seconds(function, options.repeat) for name, function in candidates.items()}
    print(f"{options.rows} stars, T = {options.passes}, {options.threads} thread(s), median of {options.repeat}")
    print(f"{'':20s} {'s':>8s} {'stars/s':>9s} {'AstroNNPasses is':>18s}")
    for name, duration in times.items():
        print(f"{name:20s} {duration:8.3f} {options.rows / duration:9.1f} {duration / times['AstroNNPasses']:16.1f} ×")


if __name__ == "__main__":
    main()
