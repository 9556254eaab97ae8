"""Latent vector, temperature and metallicity to age: the probabilistic forest of Leung et al. 2023.

The defaults do what the authors' code does; where their paper says otherwise there is an option (ALGORITHMS 2.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from catalogue.models.forest import Forest

MAD_TO_SIGMA = 1.482602218505602
"""1/Φ⁻¹(¾): the median absolute deviation of a Gaussian times this is its standard deviation."""


class ForestSettings(BaseModel):
    """How the forest is trained and read.

    Attributes
    ----------
    trees : int
    stars : int or None
        A random subset of this size is trained on; None for all. The published forest has 1,287.
    max_features : float
        Fraction of the features tried at a split.
    sample_inputs : bool
        Draw every tree's inputs from their errors, in training.
    sample_labels : bool
        Also draw the labels from theirs: the paper says so, the code does not.
    weight : "inverse_variance" or "inverse_error"
        Sample weights 1/σ² (code) or 1/σ (paper).
    bias_model : bool
        Add a linear model of the training residuals to every tree (code; not in the paper).
    spread : "mad_std" or "std"
        Error from the trees' median absolute deviation (code of the catalogue) or standard deviation (paper).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    trees: int = Field(default=100, ge=2)
    stars: int | None = Field(default=None, ge=2)
    max_features: float = 1.0
    sample_inputs: bool = True
    sample_labels: bool = False
    weight: Literal["inverse_variance", "inverse_error"] = "inverse_variance"
    bias_model: bool = True
    spread: Literal["mad_std", "std"] = "mad_std"


@dataclass(frozen=True)
class AgeForest:
    """A trained forest: features in raw units to log10(age/Gyr).

    Attributes
    ----------
    settings : ForestSettings
    forest : Forest
        Of standardised log ages.
    label_mean, label_std : float
        log age = mean + std · tree.
    bias_intercept : float
    bias_slope : ndarray of float64, shape (features,)
        Linear model that is added to every tree, in standardised log age.
    """

    settings: ForestSettings
    forest: Forest
    label_mean: float
    label_std: float
    bias_intercept: float
    bias_slope: NDArray[np.float64]

    @classmethod
    def train(
        cls,
        features: NDArray[np.floating],
        feature_error: NDArray[np.floating],
        log_age: NDArray[np.floating],
        log_age_error: NDArray[np.floating],
        settings: ForestSettings,
        seed: int,
    ) -> AgeForest:
        """Train on stars with known ages.

        Parameters
        ----------
        features, feature_error : ndarray, shape (stars, features)
        log_age, log_age_error : ndarray, shape (stars,)
            log10 of the age in Gyr; errors positive.
        settings : ForestSettings
        seed : int

        Raises
        ------
        ValueError
            If anything is not finite or an error is not positive.
        """
        from sklearn.ensemble import RandomForestRegressor

        for name, values in (("features", features), ("feature errors", feature_error), ("ages", log_age)):
            if not np.isfinite(values).all():
                raise ValueError(f"expected finite {name}, found {np.count_nonzero(~np.isfinite(values))} that are not")
        if not (np.isfinite(log_age_error) & (log_age_error > 0)).all():
            raise ValueError("expected positive errors of log age")
        random = np.random.default_rng(seed)
        mean, std = float(np.mean(log_age)), float(np.std(log_age))
        label, label_error = (log_age - mean) / std, log_age_error / std
        power = 2 if settings.weight == "inverse_variance" else 1
        weight = 1.0 / log_age_error**power
        joined = RandomForestRegressor(n_estimators=1, max_features=settings.max_features)
        grown = []
        for _ in range(settings.trees):
            x = features + feature_error * random.standard_normal(features.shape) * settings.sample_inputs
            y = label + label_error * random.standard_normal(label.shape) * settings.sample_labels
            one = RandomForestRegressor(1, max_features=settings.max_features, random_state=int(random.integers(2**31)))
            grown += one.fit(x, y, sample_weight=weight).estimators_
        joined.estimators_, joined.n_features_in_ = grown, features.shape[1]
        forest = Forest.from_sklearn(joined)
        trees = forest.predict_trees(features)
        intercept, slope = 0.0, np.zeros(features.shape[1])
        if settings.bias_model:
            intercept, slope = _residual_model(features, label, label_error, trees)
        return cls(settings, forest, mean, std, intercept, slope)

    def predict(self, features: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
        """Ages of stars with finite features.

        Parameters
        ----------
        features : ndarray, shape (stars, features)

        Returns
        -------
        dict
            ``log_age``, ``log_age_error`` (log10 Gyr), ``age``, ``age_error`` (Gyr), each of shape (stars,).
            ``age`` is the mean of the trees' ages and not 10 to the power of ``log_age``.
        """
        bias = features.astype(np.float64) @ self.bias_slope + self.bias_intercept
        log_age = self.forest.predict_trees(features)
        log_age += bias
        log_age *= self.label_std
        log_age += self.label_mean
        age = 10.0**log_age
        return {
            "log_age": log_age.mean(axis=0),
            "log_age_error": self._spread(log_age),
            "age": age.mean(axis=0),
            "age_error": self._spread(age),
        }

    def _spread(self, trees: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.settings.spread == "std":
            return np.asarray(trees.std(axis=0))
        return np.asarray(MAD_TO_SIGMA * np.median(np.abs(trees - np.median(trees, axis=0)), axis=0))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays for a bundle."""
        scalars = np.array([self.label_mean, self.label_std, self.bias_intercept])
        return {**self.forest.arrays(), "forest.label": scalars, "forest.bias_slope": self.bias_slope}

    @classmethod
    def from_arrays(cls, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> AgeForest:
        """Read back from a bundle's arrays."""
        slope = arrays["forest.bias_slope"].astype(np.float64)
        mean, std, intercept = (float(value) for value in arrays["forest.label"])
        forest = Forest.from_arrays(arrays, len(slope))
        return cls(ForestSettings.model_validate(dict(settings)), forest, mean, std, intercept, slope)


def _residual_model(
    features: NDArray[np.floating],
    label: NDArray[np.floating],
    label_error: NDArray[np.floating],
    trees: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """Weighted linear regression of residuals on the features."""
    from sklearn.linear_model import LinearRegression

    weight = 1.0 / (label_error**2 + trees.var(axis=0))
    model = LinearRegression().fit(features, label - trees.mean(axis=0), sample_weight=weight)
    return float(model.intercept_), np.asarray(model.coef_, np.float64)
