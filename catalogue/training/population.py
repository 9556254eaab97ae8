"""A built-in population of giants, for simulations without a label table.

Nothing here is fitted to a survey; it makes plausible stars. Mass follows from age and metallicity by inverting
the helper relations of Leung et al. (2023), as in their code; [C/N] falls with mass through the first dredge-up.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from catalogue.training.labels import LabelTable

Values = NDArray[np.float64]
_MASSES = np.linspace(0.75, 3.0, 451)
_BRANCH_SLOPE = 420.0
"""K of Teff per dex of log g along the giant branch."""


def draw_population(stars: int, generator: np.random.Generator) -> LabelTable:
    """Draw red-giant-branch and red-clump stars.

    Parameters
    ----------
    stars : int
    generator : numpy Generator

    Returns
    -------
    LabelTable
        Keys are ``P000000``...; label errors are 12 % in age and 4 % in mass.
    """
    clump = generator.random(stars) < 0.4
    true_age = np.clip(generator.gamma(2.2, 2.4, stars), 0.8, 12.5)
    # older stars are on average poorer in metals, with a wide scatter
    feh = np.clip(generator.normal(0.08 - 0.025 * true_age, 0.17), -0.45, 0.4)
    mass = mass_of_age(true_age, feh, clump)
    age = age_of_mass(mass, feh, clump)
    alpha_fe = np.clip(0.02 + 0.010 * (age - 4) - 0.12 * feh + generator.normal(0, 0.02, stars), -0.05, 0.3)
    logg = np.where(
        clump,
        generator.normal(2.42 + 0.15 * (mass - 1.2), 0.05, stars),
        generator.triangular(1.6, 2.9, 3.3, stars),
    )
    branch = 4720 + _BRANCH_SLOPE * (logg - 2.6) - 380 * feh + 220 * (mass - 1.25)
    teff = np.where(clump, 4790 - 300 * feh + 120 * (mass - 1.25), branch) + generator.normal(0, 25, stars)
    dredged = np.clip(-0.28 - 0.50 * (mass - 1.25) + 0.10 * feh, -0.75, 0.05)
    c_n = dredged + generator.normal(0, 0.05, stars)
    c_fe = -0.03 - 0.10 * (mass - 1.25) + 0.4 * alpha_fe + generator.normal(0, 0.03, stars)
    names = np.array([f"P{number:06d}" for number in range(stars)])
    return LabelTable(
        key=names,
        star=names.copy(),
        age=age,
        age_error=0.12 * age,
        mass=mass,
        mass_error=0.04 * mass,
        age_mass_correlation=np.full(stars, -0.8),
        state=np.where(clump, "RC", "RGB"),
        teff=np.clip(teff, 3900, 5400),
        logg=logg,
        feh=feh,
        alpha_fe=alpha_fe,
        c_fe=c_fe,
        n_fe=c_fe - c_n,
    )


def scattered(stars: LabelTable, generator: np.random.Generator) -> LabelTable:
    """The stars moved along the giant branch, and their parameters and abundances scattered independently.

    They then occupy more than any real sample does. For learning what spectra say of parameters, without learning which
    parameters go together. The ages and masses no longer belong to the parameters.
    """
    spreads = {"teff": 90.0, "logg": 0.17, "feh": 0.14, "alpha_fe": 0.05, "c_fe": 0.09, "n_fe": 0.11}
    # those of the emulators, where they end within
    limits = {
        "teff": (3750, 5500), "logg": (0.8, 3.5), "feh": (-1.0, 0.5),
        "alpha_fe": (-0.2, 0.45), "c_fe": (-0.6, 0.45), "n_fe": (-0.4, 0.6),
    }  # fmt: skip
    along = generator.normal(0, 0.35, len(stars))
    moved = {"teff": _BRANCH_SLOPE * along, "logg": along}
    columns = {
        name: np.clip(
            getattr(stars, name) + moved.get(name, 0.0) + generator.normal(0, spread, len(stars)), *limits[name]
        )
        for name, spread in spreads.items()
    }
    return replace(stars, **columns)


def age_of_mass(mass: Values, feh: Values, clump: NDArray[np.bool_]) -> Values:
    """Age in Gyr by the relations of Leung et al. (2023), within 0.3 to 14 Gyr."""
    branch = 10.67 * mass**-3.06 - 6.16 * mass * feh + 11.22 * feh
    horizontal = 6.29 * mass**-2.25 - 1.62 * mass * feh + 3.94 * feh
    return np.asarray(np.clip(np.where(clump, horizontal, branch), 0.3, 14.0))


def mass_of_age(age: Values, feh: Values, clump: NDArray[np.bool_]) -> Values:
    """Mass in solar masses whose age by :func:`age_of_mass` is nearest."""
    grid = np.broadcast_to(_MASSES, (len(age), len(_MASSES)))
    ages = age_of_mass(grid, feh[:, None], clump[:, None])
    return np.asarray(_MASSES[np.abs(ages - age[:, None]).argmin(axis=1)])
