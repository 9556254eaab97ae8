"""The two age maps of the README, from catalogues that this project made of simulated surveys.

    python docs/figures/age_maps.py APOGEE.fits LAMOST.zarr age_maps.png

Left, after figure 12 of Leung et al. (2023): [Fe/H] and [α/M], coloured by age. Right: the Kiel diagram. The APOGEE
catalogue is ``apogee_latent_age_plus`` of ``benchmarks/apogee_dr17.py make DIR PIXELS --rows 4500 --spectra 1500``, the
LAMOST one ``lamost_age_mass`` of ``catalogue simulate configs/simulation/demo.yaml DIR --set stars=2000``.
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
import xarray

import catalogue

AGES = {"vmin": 1, "vmax": 8, "cmap": "viridis"}


def alpha_plane(axes: plt.Axes, stars: xarray.Dataset) -> plt.Artist:
    """[α/M] over [Fe/H] of the recommended stars, a point a star."""
    chosen = stars[["FE_H", "ALPHA_M", "Age"]].compute()
    points = axes.scatter(chosen["FE_H"], chosen["ALPHA_M"], c=chosen["Age"], s=14, linewidths=0, **AGES)
    axes.set(xlabel="[Fe/H]", ylabel="[α/M]", title=f"APOGEE, simulated: {chosen.sizes['row']} stars")
    return points


def kiel_diagram(axes: plt.Axes, stars: xarray.Dataset) -> plt.Artist:
    """Surface gravity over effective temperature, coloured by the mean age of a cell of three stars or more."""
    chosen = stars[["teff", "logg", "Age"]].compute()
    values = [chosen[name].values.astype(float) for name in ("teff", "logg", "Age")]
    known = np.isfinite(values).all(axis=0)
    teff, logg, age = (column[known] for column in values)
    cells = axes.hexbin(teff, logg, age, gridsize=26, mincnt=3, reduce_C_function=np.mean, linewidths=0.2, **AGES)
    axes.set(xlabel="$T_\\mathrm{eff}$ [K]", ylabel="log g", title=f"LAMOST, simulated: {known.sum()} stars")
    axes.invert_xaxis()
    axes.invert_yaxis()
    return cells


def draw(apogee: str, lamost: str, picture: str) -> None:
    """Both maps side by side."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    points = alpha_plane(left, catalogue.open(apogee).cat.good())
    kiel_diagram(right, catalogue.open(lamost).cat.good())
    figure.colorbar(points, ax=[left, right], label="age [Gyr]")
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    draw(*sys.argv[1:])
