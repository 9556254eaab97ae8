"""The latent-age forest, 142,257 rows × 100 trees: ours against scikit-learn, tree by tree.

Run: ``python -m benchmarks.forest [--rows 142257] [--trees 100] [--stars 1287] [--repeat 5]``
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from benchmarks.timing import median_seconds
from catalogue.models.forest import Forest


def sample(random: np.random.Generator, n: int) -> np.ndarray:
    rows = random.standard_normal((n, 7))
    rows[:, 5] = 4700 + 200 * rows[:, 5]
    rows[:, 6] *= 0.3
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("rows", 142_257), ("trees", 100), ("stars", 1287), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    stars = sample(random, options.stars)
    age = (
        0.3 * stars[:, 0] + np.sin(stars[:, 1]) + (stars[:, 5] - 4700) / 400 + 0.3 * random.standard_normal(len(stars))
    )
    sklearn_forest = RandomForestRegressor(options.trees, random_state=0).fit(stars, age)
    forest, rows = Forest.from_sklearn(sklearn_forest), sample(random, options.rows)

    def loop() -> np.ndarray:
        return np.stack([tree.predict(rows) for tree in sklearn_forest.estimators_])

    ours = forest.predict_trees(rows)
    print(f"{len(forest.feature)} nodes; largest difference {np.abs(ours - loop()).max():g}")
    times = {"scikit-learn, tree by tree": median_seconds(loop, options.repeat)}
    times["Forest"] = median_seconds(lambda: forest.predict_trees(rows), options.repeat)
    print(f"{options.rows} rows × {options.trees} trees, one thread, median of {options.repeat}")
    for name, duration in times.items():
        print(f"{name:28s} {duration:7.3f} s {times['scikit-learn, tree by tree'] / duration:6.2f} ×")


if __name__ == "__main__":
    main()
