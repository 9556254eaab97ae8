"""From a batch job's walltime to the moment at which its workers leave of their own accord."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.errors import ClusterError

_SLURM = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class Lifetime:
    """When a worker leaves.

    Attributes
    ----------
    duration : float
        Mean age at which a worker leaves [s].
    stagger : float
        Half width of the interval from which each draws its own age, so that not all leave at once [s].
    drain : float
        For so long before leaving a worker starts nothing new and finishes what it runs [s].
    """

    duration: float
    stagger: float
    drain: float


def seconds_of(walltime: str) -> float:
    """Length of a walltime in the notations of Slurm and PBS [s].

    ``MM`` (Slurm), ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS``.

    Raises
    ------
    ClusterError
        In any other notation.
    """
    match = _SLURM.fullmatch(walltime.strip())
    if match is None:
        raise ClusterError(f"walltime: expected HH:MM:SS or D-HH:MM:SS, found {walltime!r}")
    fields = [int(field) for field in match["rest"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = (*fields, 0, 0)[:3]
        return ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60.0 + seconds
    if len(fields) == 1:
        return fields[0] * 60.0
    hours, minutes, seconds = (0, *fields)[-3:]
    return (hours * 60 + minutes) * 60.0 + seconds


def lifetime_below(walltime: float) -> Lifetime:
    """Lifetime of workers whose job ends after ``walltime`` seconds.

    A worker's clock starts when Python is up, which on a busy file system is up to minutes after the job's; the
    margin covers that. Of an hour, workers leave between 51 and 57 minutes and start nothing in the last 6 before.
    """
    margin = min(300.0, max(15.0, walltime / 20))
    stagger = min(1800.0, walltime / 20)
    duration = walltime - margin - stagger
    if duration <= stagger:
        raise ClusterError(
            f"walltime: expected a minute at least, found {walltime:.0f} s; "
            "workers would leave before they did anything"
        )
    return Lifetime(duration, stagger, min(600.0, duration / 9))
