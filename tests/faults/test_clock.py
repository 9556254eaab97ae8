"""A clock that is set anew, or that differs from another machine's, takes no lock away and repeats nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from catalogue.pipeline.build import build
from catalogue.pipeline.lock import STALE_AFTER_SECONDS, RunLock, RunLocked, lock_owner
from cluster.drain import job_age
from tests.factories.runs import build_here, load
from tests.faults.site import ROOT

STEPS = [-86400.0, -10.0, 10.0, 86400.0]


@pytest.fixture
def set_clock(monkeypatch):
    """Function that sets this process's clock, from which the system also tells when it and its processes began."""
    now, boot_time, create_time = time.time, psutil.boot_time, psutil.Process.create_time

    def step(seconds):
        monkeypatch.setattr(time, "time", lambda: now() + seconds)
        monkeypatch.setattr(psutil, "boot_time", lambda: boot_time() + seconds)
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) + seconds)

    return step


@pytest.mark.parametrize("seconds", STEPS)
def test_a_living_run_keeps_its_lock(tmp_path, set_clock, seconds):
    with RunLock(tmp_path / "run.lock"):
        set_clock(seconds)
        with pytest.raises(RunLocked, match=f"process {os.getpid()} on {socket.gethostname()}"):
            RunLock(tmp_path / "run.lock").__enter__()


@pytest.mark.parametrize("seconds", STEPS)
def test_the_heartbeat_of_another_machine_is_judged_by_the_clock_of_the_files(tmp_path, set_clock, seconds):
    lock = tmp_path / "run.lock"
    lock.write_text(json.dumps({"host": "node17", "pid": 4711, "started": 0.0}))
    set_clock(seconds)
    assert lock_owner(lock) == "process 4711 on node17"
    moment = lock.stat().st_mtime - STALE_AFTER_SECONDS - 5
    os.utime(lock, (moment, moment))
    assert lock_owner(lock) is None
    assert list(tmp_path.iterdir()) == [lock]


@pytest.mark.parametrize("seconds", STEPS)
def test_the_age_of_a_job_does_not_change(set_clock, seconds):
    before = job_age(has_nanny=False)
    set_clock(seconds)
    assert job_age(has_nanny=False) == pytest.approx(before, abs=2)


# Further back would be a test of Dask alone: a wait that is under way at the step grows by it, once.
@pytest.mark.parametrize("seconds", [-5.0, 86400.0])
def test_a_clock_that_is_set_during_a_build_costs_nothing(undisturbed, tmp_path, seconds):
    command = [sys.executable, "-m", "tests.faults.stepped_clock", str(undisturbed.configuration)]
    command += [f"output.directory={tmp_path / 'run'}", str(seconds)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert json.loads(told) == {"digests": undisturbed.digests, "nothing_to_do": True}


def test_files_of_the_future_are_read_once(undisturbed, tmp_path):
    configuration = undisturbed.configuration
    files = sorted((configuration.parent / "survey" / "spectra").iterdir())[:70]
    times = {file: (file.stat().st_atime_ns, file.stat().st_mtime_ns) for file in files}
    output = f"output.directory={tmp_path / 'run'}"
    try:
        for file in files:
            os.utime(file, (2e9, 2e9))
        assert build_here(configuration, output) == undisturbed.digests
        assert build(load(configuration, output)).nothing_to_do
    finally:
        for file, moments in times.items():
            os.utime(file, ns=moments)
