"""What users would take instead: common regressors on the same components of the same spectra."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

BASELINES = ("ridge", "random forest", "gradient boosting", "MLP", "k nearest neighbours")


def baseline(name: str, seed: int) -> Any:
    """A regressor from components to (log age, log mass).

    Raises
    ------
    ValueError
        For a name not in :data:`BASELINES`.
    """
    if name == "ridge":
        return RidgeCV(np.logspace(-1, 5, 13))
    if name == "random forest":
        return RandomForestRegressor(100, min_samples_leaf=3, max_features=0.33, n_jobs=1, random_state=seed)
    if name == "gradient boosting":
        return MultiOutputRegressor(HistGradientBoostingRegressor(max_iter=150, random_state=seed))
    if name == "MLP":
        network = MLPRegressor(
            hidden_layer_sizes=(128, 64), alpha=1.0, early_stopping=True, max_iter=60, random_state=seed
        )
        return TransformedTargetRegressor(network, transformer=StandardScaler())
    if name == "k nearest neighbours":
        return KNeighborsRegressor(20, weights="distance")
    raise ValueError(f"expected one of {', '.join(BASELINES)}; found {name!r}")


def predict_baseline(
    name: str,
    features: NDArray[np.float32],
    truth: NDArray[np.float64],
    unseen: NDArray[np.float32],
    seed: int = 0,
) -> NDArray[np.float64]:
    """Age and mass, shape (rows, 2), of unseen components after fitting on ``features`` and ``truth``."""
    regressor = baseline(name, seed).fit(features, np.log10(truth))
    return np.asarray(10.0 ** regressor.predict(unseen))
