from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn

from catalogue.models import dense, dropout
from catalogue.models.dense import Dense
from catalogue.models.dropout import Dropout, DropoutPasses, unit_mask
from catalogue.models.granules import single_threaded
from catalogue.models.spt import SPTArchitecture, SPTNetwork


class Convolutional(nn.Module):
    """Two dropouts behind convolutions, a flatten and two heads, as the astroNN network has."""

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(1, 2, 4), nn.Conv1d(2, 3, 4)
        self.drop1, self.drop2, self.drop3 = (Dropout(p, f"d{i}") for i in range(3))
        self.pool = nn.MaxPool1d(2)
        self.hidden, self.out1, self.out2 = nn.Linear(3 * 7, 10), nn.Linear(10, 2), nn.Linear(10, 2)

    def forward(self, x):
        x = self.drop1(torch.relu(self.conv1(x.unsqueeze(1))))
        x = self.pool(torch.relu(self.conv2(x)))
        x = self.drop3(torch.relu(self.hidden(self.drop2(torch.flatten(x, 1)))))
        return torch.cat([self.out1(x), self.out2(x)], dim=1)


class Branching(nn.Module):
    """A shared branch joins a varied one, sizes are read from tensors, a constant is used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(20, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.drop = Dropout(0.4, "only")
        self.register_buffer("scale", torch.linspace(0.5, 2.0, 16))

    def forward(self, x):
        shared = torch.tanh(self.first(x))
        varied = self.second(self.drop(shared)) * self.scale
        joined = (shared + varied).view(x.shape[0], 2, 8).softmax(dim=2).reshape(x.size(0), 16)
        return self.third(joined)


def spt(p: float = 0.3, **sizes) -> SPTNetwork:
    small = {"width": 24, "blocks": 2, "heads": 2, "head_width": 8, "hidden": 16, "dropout": p}
    return SPTNetwork(SPTArchitecture.model_validate({**small, **sizes}), 20)


NETWORKS = {"spt": spt, "convolutional": Convolutional, "branching": Branching}


@pytest.fixture(params=sorted(NETWORKS))
def network(request) -> nn.Module:
    torch.manual_seed(3)
    return NETWORKS[request.param]()


@pytest.fixture
def stars() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).normal(size=(64, 20)).astype(np.float32))


def one_pass(network: nn.Module, x: torch.Tensor, seed: int, t: int) -> torch.Tensor:
    """The slow way: an ordinary forward in which every marker multiplies by its mask."""
    handles = []
    for module in network.modules():
        if isinstance(module, Dropout):

            def masked(module, inputs, output):
                shape = output.shape[1:]
                mask = unit_mask(seed, module.name, t, module.p, int(np.prod(shape))).reshape(shape)
                return inputs[0] * torch.from_numpy(mask) / (1 - module.p)

            handles.append(module.register_forward_hook(masked))
    with torch.inference_mode():
        result = network.eval()(x)
    for handle in handles:
        handle.remove()
    return result


@pytest.mark.parametrize("thinned", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("passes", [1, 8, 19])
def test_passes_equal_forwards_with_the_same_masks(network, stars, monkeypatch, thinned, packed, passes):
    monkeypatch.setattr(dropout, "DROPPED_WEIGHTS", 0 if thinned else 10**9)
    if not packed:
        monkeypatch.setattr(dense, "packing_available", lambda: False)
    found = DropoutPasses(network, (20,), passes, seed=11)(stars)
    expected = torch.stack([one_pass(network, stars, 11, t) for t in range(passes)])
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_thinning_really_happens_where_weights_are_many(monkeypatch):
    monkeypatch.setattr(dropout, "DROPPED_WEIGHTS", 0)
    engine = DropoutPasses(spt(), (20,), 4, seed=0)
    assert sorted(engine._thinned) == ["attentions_0_out", "attentions_1_out", "output"]
    monkeypatch.setattr(dropout, "THINNED_BYTES", 0)
    assert DropoutPasses(spt(), (20,), 4, seed=0)._thinned == {}


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_any_number_of_rows_works(network, stars, rows):
    engine = DropoutPasses(network, (20,), 6, seed=1)
    torch.testing.assert_close(engine(stars[:rows]), engine(stars)[:, :rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [spt, Convolutional])
def test_distribution_of_a_star_agrees_with_torch_dropout_in_training_mode(make, stars):
    """Two samples of 700 masks each, for each output of three stars: Kolmogorov-Smirnov."""
    draws = 700
    torch.manual_seed(0)
    network = make(0.3)
    ours = DropoutPasses(network, (20,), draws, seed=4)(stars[:3])
    reference = make(0.3)
    reference.load_state_dict(network.state_dict())
    for name, module in list(reference.named_modules()):
        if isinstance(module, Dropout):
            parent = reference.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.Dropout(module.p))
    reference.train()
    with torch.inference_mode(), single_threaded():
        theirs = torch.stack([reference(stars[:3]) for _ in range(draws)])
    for star in range(3):
        for output in range(ours.shape[2]):
            a, b = ours[:, star, output].numpy(), theirs[:, star, output].numpy()
            assert ks_2samp(a, b).pvalue > 1e-3
            assert a.std() == pytest.approx(b.std(), rel=0.1)
    # the test can tell: another drop rate is found out
    other = DropoutPasses(_with_rate(make, network, 0.5), (20,), draws, seed=4)(stars[:3])
    assert min(ks_2samp(other[:, i, 0].numpy(), theirs[:, i, 0].numpy()).pvalue for i in range(3)) < 1e-6


def _with_rate(make, network, p):
    changed = make(p)
    changed.load_state_dict(network.state_dict())
    return changed


def test_marker_acts_as_torch_dropout_in_training_and_as_identity_else():
    x = torch.randn(50, 40)
    marker, reference = Dropout(0.35, "a"), nn.Dropout(0.35)
    torch.manual_seed(1)
    ours = marker(x)
    torch.manual_seed(1)
    assert torch.equal(ours, reference(x))
    assert torch.equal(marker.eval()(x), x)


def test_everything_before_the_first_dropout_runs_once_per_granule(stars):
    network = spt()
    calls = {"embedding": 0, "norms.1": 0}
    for name in calls:
        network.get_submodule(name).register_forward_hook(
            lambda *_, name=name: calls.__setitem__(name, calls[name] + 1)
        )
    engine = DropoutPasses(network, (20,), 20, seed=0)
    calls.update(dict.fromkeys(calls, 0))
    engine(stars)
    assert calls["embedding"] == 1
    assert calls["norms.1"] == -(-20 // dropout.FOLDED_PASSES)


def test_masks_are_keyed_by_seed_layer_and_pass_alone():
    base = unit_mask(1, "a", 5, 0.3, 4000)
    assert np.array_equal(base, unit_mask(1, "a", 5, 0.3, 4000))
    assert np.array_equal(base[:100], unit_mask(1, "a", 5, 0.3, 100))
    for other in (unit_mask(2, "a", 5, 0.3, 4000), unit_mask(1, "b", 5, 0.3, 4000), unit_mask(1, "a", 6, 0.3, 4000)):
        # independent masks agree in 0.7² + 0.3² of the units
        assert (base == other).mean() == pytest.approx(0.58, abs=0.04)
    kept = np.mean([unit_mask(0, "a", t, 0.3, 4000).mean() for t in range(50)])
    assert kept == pytest.approx(0.7, abs=0.005)
    # published: a bundle's masks must never change
    assert np.flatnonzero(~unit_mask(0, "block0.gated", 7, 0.3, 24)).tolist() == PUBLISHED


PUBLISHED = [4, 8, 13, 18, 19]


def test_more_passes_begin_with_the_same_ones(network, stars):
    few, many = (DropoutPasses(network, (20,), n, seed=2)(stars) for n in (8, 16))
    torch.testing.assert_close(many[:8], few, rtol=1e-5, atol=1e-5)


def test_another_seed_gives_other_passes(network, stars):
    one, other = (DropoutPasses(network, (20,), 4, seed=seed)(stars) for seed in (0, 1))
    assert not torch.allclose(one, other)


def test_without_dropout_all_passes_are_the_network_itself(stars):
    network = spt(0.0)
    found = DropoutPasses(network, (20,), 5, seed=0)(stars)
    with torch.inference_mode():
        expected = network(stars)
    assert found.shape == (5, 64, 5)
    assert all(torch.equal(sample, expected) for sample in found)


def test_training_on_does_not_change_prepared_passes(stars):
    network = spt()
    engine = DropoutPasses(network, (20,), 4, seed=0)
    before = engine(stars)
    with torch.no_grad():
        network.output.weight.add_(1.0)
    assert torch.equal(engine(stars), before)


def test_networks_that_would_be_run_wrongly_are_refused():
    with pytest.raises(ValueError, match="different names"):
        DropoutPasses(nn.Sequential(Dropout(0.1, "a"), Dropout(0.1, "a")), (3,), 2, 0)
    with pytest.raises(ValueError, match="Dropout would be skipped"):
        DropoutPasses(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1)), (3,), 2, 0)
    with pytest.raises(ValueError, match="at least one dropout pass, found 0"):
        DropoutPasses(nn.Sequential(Dropout(0.1, "a")), (3,), 0, 0)
    with pytest.raises(ValueError, match=r"\[0, 1\), found 1.0"):
        Dropout(1.0, "a")


@pytest.mark.parametrize("packed", [True, False])
def test_dense_products_agree_with_torch(monkeypatch, packed):
    if not packed:
        monkeypatch.setattr(dense, "packing_available", lambda: False)
    layer = nn.Linear(30, 17)
    x = torch.randn(9, 30)
    found = Dense(layer.weight, layer.bias, rows=64)(x)
    torch.testing.assert_close(found, layer(x).detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        Dense(layer.weight, None, rows=64)(x), (x @ layer.weight.T).detach(), rtol=1e-5, atol=1e-6
    )
