"""A worker, a nanny, the scheduler or the driver killed at a random moment: the catalogue is the same after a rerun.

Six trials are run; ``pytest -m long tests/faults`` runs sixty others.
"""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from tests.faults.conftest import UNITS
from tests.faults.site import wait_for

VICTIMS = ("worker", "nanny", "scheduler", "driver")
SAMPLE = 6
SEEDS = [*range(SAMPLE), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(SAMPLE, SAMPLE + 60))]


def kill(site, driver, victim, number):
    """Kill a process; returns whether it was there to be killed."""
    if victim == "worker":
        process = site.worker_process(number)
        if process is None:
            return False
        process.kill()
        return True
    process = {"nanny": site.nannies[number], "scheduler": site.scheduler, "driver": driver.process}[victim]
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # a driver that was done before its moment
        return False
    if victim != "driver":
        process.wait()
    return True


@pytest.mark.parametrize("seed", SEEDS)
def test_a_death_at_a_random_moment_costs_no_byte(site, undisturbed, tmp_path, seed):
    random = np.random.default_rng(seed)
    # Each in turn, so that a sample has all of them.
    victim = VICTIMS[seed % len(VICTIMS)]
    # The moment is a number of finished units and a while: the same on a fast machine and on a slow one.
    finished, while_after = int(random.integers(0, 2 * UNITS + 1)), float(random.uniform(0.0, 0.5))
    driver = site.begin(undisturbed.configuration, tmp_path)
    driver.wait_until_begun()
    records = tmp_path / "run" / "records"
    wait_for(lambda: len(list(records.rglob("0*.json"))) >= finished or not driver.process.is_alive())
    time.sleep(while_after)
    alive = driver.process.is_alive()
    killed = kill(site, driver, victim, int(random.integers(site.workers)))
    driver.wait()
    told = f"{victim} after {finished} units and {while_after:.2f} s (driver alive: {alive}, killed: {killed})"
    if victim in ("worker", "nanny"):
        assert driver.code == 0, f"{told}: {driver.told}"
    site.repair()
    again = site.build(undisturbed.configuration, tmp_path)
    assert again.code == 0, f"{told}: {again.told}"
    undisturbed.check(tmp_path)
