"""A real Slurm: the one that ``start.sh`` started, or a skip with the reason. Never a site's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import cluster

ROOT = Path(__file__).resolve().parents[2]
START = Path(__file__).parent / "start.sh"
ALLOWED = "STELLAR_TEST_START_SLURM"


def pytest_collection_modifyitems(items):
    for item in items:
        if START.parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


def is_ours() -> bool:
    if shutil.which("scontrol") is None:
        return False
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30, check=False)
    return shown.returncode == 0 and "= stellar-test" in shown.stdout


@pytest.fixture(scope="session")
def slurm():
    """Environment of a Slurm for tests."""
    if not is_ours():
        if os.environ.get(ALLOWED) != "1":
            pytest.skip(
                f"no Slurm for tests runs here: as root in a container run {START.name}, or set {ALLOWED}=1 to allow it"
            )
        started = subprocess.run(["sh", str(START)], capture_output=True, text=True, timeout=600, check=False)
        if started.returncode != 0:
            pytest.skip(f"Slurm cannot be started: {started.stderr.strip().splitlines()[-1:]}")
    yield
    cancel_all()


def cancel_all() -> None:
    subprocess.run(["scancel", "--partition=test", "--full"], capture_output=True, timeout=30, check=False)


def queue() -> list[str]:
    """Identifiers of the jobs that wait or run."""
    shown = subprocess.run(
        ["squeue", "--noheader", "--format=%A", "--states=PENDING,RUNNING"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return shown.stdout.split()


def wait_until(condition, seconds: float):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
    return value


@pytest.fixture
def connected(slurm, tmp_path, monkeypatch):
    """Function that opens a cluster of Slurm jobs of one worker each."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def connect(**keys):
        where = {"kind": "slurm", "jobs": 2, "memory": "512 MiB", "walltime": "00:10:00", "interface": "lo", **keys}
        return cluster.connect(where, relative_to=tmp_path, scratch=tmp_path / "scratch")

    yield connect
    cancel_all()
    wait_until(lambda: not queue(), 60)
