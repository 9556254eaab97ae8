"""The parts that columns play for reports and queries, and the names by which a part is found where none is stated."""

from __future__ import annotations

from collections.abc import Iterable

ROLE_NAMES: dict[str, tuple[str, ...]] = {
    "ra": ("ra", "raj2000", "ra_icrs", "objra", "file_ra"),
    "dec": ("dec", "dej2000", "decj2000", "dec_icrs", "objdec", "file_dec"),
    "snr": ("snrg", "snr", "snrev", "file_snrg"),
    "teff": ("teff",),
    "logg": ("logg",),
    "feh": ("feh", "fe_h", "m_h"),
    "alpha": ("alpha_m", "alpha_fe", "afe", "mg_fe"),
    "age": ("age",),
    "age_error": ("age_error", "age_total_error", "age_err", "e_age"),
    "age_model_error": ("age_model_error",),
    "age_low": ("age_p16",),
    "age_median": ("age_p50",),
    "age_high": ("age_p84",),
    "mass": ("mass",),
    "mass_error": ("mass_error", "mass_total_error", "mass_err", "e_mass"),
    "mass_low": ("mass_p16",),
    "mass_median": ("mass_p50",),
    "mass_high": ("mass_p84",),
    "correlation": ("age_mass_corr", "age_mass_correlation"),
    "class": ("class",),
    "subclass": ("subclass",),
    "status": ("status",),
    "flag": ("flag",),
}
"""Role to names, in order of preference and compared without case."""


def find_role(role: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that plays ``role`` by its name, or None.

    Parameters
    ----------
    role : str
        A key of :data:`ROLE_NAMES`; any other role is played by nothing.
    names : iterable of str
        Column names as a table spells them; the first of several that differ in case alone is taken.
    """
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(name.lower(), name)
    return next((by_name[wanted] for wanted in ROLE_NAMES.get(role, ()) if wanted in by_name), None)
