"""Walltimes and the lifetimes that follow from them."""

from __future__ import annotations

import pytest

from cluster import ClusterError
from cluster.walltime import lifetime_below, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("01:00:00", 3600),
        ("100:00:00", 360000),
        ("1-0", 86400),
        ("2-12", 216000),
        ("1-02:30", 95400),
        ("1-02:30:05", 95405),
    ],
)
def test_the_notations_of_slurm_and_pbs(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "-1", "01:00:00 ", "UNLIMITED"])
def test_other_notations_are_refused(text):
    if text.strip() == "01:00:00":
        assert seconds_of(text) == 3600
        return
    with pytest.raises(ClusterError, match="expected HH:MM:SS"):
        seconds_of(text)


@pytest.mark.parametrize("walltime", [60, 120, 600, 3600, 86400, 7 * 86400])
def test_every_worker_leaves_before_the_walltime_and_drains_before_it_leaves(walltime):
    lifetime = lifetime_below(walltime)
    latest = lifetime.duration + lifetime.stagger
    earliest = lifetime.duration - lifetime.stagger
    assert latest <= walltime - 15
    assert earliest - lifetime.drain >= 0.5 * walltime


def test_a_walltime_that_leaves_no_time_is_refused():
    with pytest.raises(ClusterError, match="expected a minute"):
        lifetime_below(15)
