from __future__ import annotations

import numpy as np
import pytest
import torch

from catalogue.models.base import LabelDistribution
from catalogue.training.losses import auxiliary_loss, distribution_loss, fractional, point_loss, squared_distance


def _case():
    generator = torch.Generator().manual_seed(0)
    error = torch.randn(6, 2, generator=generator)
    root = torch.randn(6, 2, 2, generator=generator)
    return error, root @ root.mT + 0.1 * torch.eye(2)


def test_distance_is_that_of_linear_algebra():
    error, covariance = _case()
    expected = [float(e @ torch.linalg.inv(c) @ e) for e, c in zip(error, covariance, strict=True)]
    np.testing.assert_allclose(squared_distance(error, covariance).numpy(), expected, rtol=1e-4)


def test_both_variants_are_the_distance_and_its_square():
    error, covariance = _case()
    squared = squared_distance(error, covariance)
    assert float(point_loss(error, covariance, "mahalanobis_squared")) == pytest.approx(float(squared.mean()))
    assert float(point_loss(error, covariance, "mahalanobis")) == pytest.approx(float(squared.sqrt().mean()), rel=1e-3)
    assert float(point_loss(error, covariance, "mse")) == pytest.approx(float(error.square().sum(1).mean()))


def test_absolute_fractional_errors_are_the_percentage_errors_of_both_labels():
    spread = torch.tensor([0.5, 0.2])
    true, predicted = torch.tensor([[4.0, 1.2], [2.0, 1.0]]), torch.tensor([[8.0, 1.1], [1.0, 1.0]])
    compared = fractional((predicted / true).log() / spread, spread)
    expected = ((predicted / true - 1).abs() / spread).sum(1).mean()
    assert float(point_loss(compared, torch.eye(2), "absolute_fractional")) == pytest.approx(float(expected))


def test_likelihood_is_least_at_the_true_covariance():
    torch.manual_seed(1)
    error = torch.randn(20_000, 2) * torch.tensor([1.0, 0.5])
    truth = torch.diag(torch.tensor([1.0, 0.25]))
    losses = [
        float(distribution_loss(error, LabelDistribution(error, (factor * truth).expand(len(error), 2, 2))))
        for factor in (0.5, 1.0, 2.0)
    ]
    assert losses[1] < losses[0]
    assert losses[1] < losses[2]


def test_fractional_errors_are_those_of_the_labels_themselves():
    spread = torch.tensor([0.5, 0.2])
    true, predicted = torch.tensor([[4.0, 1.2]]), torch.tensor([[8.0, 1.1]])
    error = (predicted / true).log() / spread
    torch.testing.assert_close(fractional(error, spread) * spread, predicted / true - 1)
    small = torch.full((1, 2), 1e-4)
    torch.testing.assert_close(fractional(small, spread), small, rtol=1e-3, atol=0)


def test_unknown_parameters_do_not_count():
    predicted = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    truth = torch.tensor([[0.0, torch.nan], [3.0, torch.nan]])
    loss = auxiliary_loss(predicted, truth)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.5)
    assert torch.isfinite(predicted.grad).all()
    assert float(auxiliary_loss(predicted, torch.full((2, 2), torch.nan)).detach()) == 0.0
