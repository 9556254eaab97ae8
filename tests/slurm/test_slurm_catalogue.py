"""A whole catalogue built in real jobs of Slurm that are cancelled, expire and die: byte for byte the local one."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import yaml

from tests.factories.runs import build_here, load, output_digests, times_passed, write_fault_plan, write_run
from tests.slurm.conftest import ROOT, queue, wait_until

# Jobs take their time to start on a busy machine.
pytestmark = pytest.mark.timeout(900)

ROWS = 384
UNITS = ROWS // 64
FORMATS = ["fits", "csv", "parquet", "votable", "zarr"]


def command(configuration, *overrides):
    settings = [word for override in overrides for word in ("--set", override)]
    return [sys.executable, "-m", "catalogue", "build", str(configuration), *settings]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Configuration of a run, and the digests of its files as one process on this machine makes them."""
    directory = tmp_path_factory.mktemp("local")
    output = {"directory": str(directory / "run"), "formats": FORMATS, "report": False}
    configuration = write_run(directory, rows=ROWS, output=output)
    return configuration, build_here(configuration)


@pytest.fixture
def on_slurm(slurm, monkeypatch, tmp_path):
    """Function that makes the overrides for a run on two jobs, and its fault plan."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setenv("CATALOGUE_FAULTS", str(tmp_path / "faults.json"))

    def prepare(seconds, walltime):
        keys = {"kind": "slurm", "jobs": 2, "memory": "1 GiB", "walltime": walltime, "interface": "lo"}
        file = tmp_path / "slurm.yaml"
        file.write_text(yaml.safe_dump(keys))
        pauses = [{"point": f"infer/{n}/before", "action": "hang", "seconds": seconds} for n in range(UNITS)]
        faults = write_fault_plan(tmp_path / "faults.json", *pauses)
        return [f"cluster={file}", "workers=2", f"output.directory={tmp_path / 'run'}"], faults

    yield prepare
    wait_until(lambda: not queue(), 120)


def executions(faults):
    """How often inference of each unit has begun."""
    return [times_passed(faults, unit) for unit in range(UNITS)]


def job_states():
    """State of every job that Slurm still remembers, by its number."""
    shown = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--format=%A %T"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return dict(line.split() for line in shown.stdout.splitlines())


def test_a_cancelled_job_and_jobs_at_their_walltime_cost_no_byte(local, on_slurm, tmp_path):
    configuration, expected = local
    overrides, faults = on_slurm(seconds=22.0, walltime="00:01:00")
    earlier = set(job_states())
    states: dict[str, str] = {}
    cancelled = None
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command(configuration, *overrides), stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            states |= {job: state for job, state in job_states().items() if job not in earlier}
            if cancelled is None and sum(executions(faults)) > 2:
                cancelled = queue()[0]
                subprocess.run(["scancel", cancelled], check=True)
            time.sleep(0.5)
    assert process.returncode == 0, (tmp_path / "output").read_text()
    assert output_digests(load(configuration, *overrides)) == expected
    counts = executions(faults)
    # A job that leaves before its walltime finishes its unit first; on a machine that is too busy for that, as for the
    # one that was cancelled, that unit alone is done again.
    ended_amid_work = [job for job, state in states.items() if state in ("CANCELLED", "TIMEOUT")]
    assert min(counts) == 1
    assert sum(counts) <= UNITS + len({cancelled, *ended_amid_work})
    assert len(states) >= 3
    assert {"COMPLETED", "TIMEOUT"} & set(states.values()), states


def test_a_build_inside_a_batch_job_that_is_killed_goes_on_when_submitted_again(local, on_slurm, tmp_path):
    configuration, expected = local
    overrides, faults = on_slurm(seconds=3.0, walltime="00:10:00")
    script = tmp_path / "build.sh"
    words = " ".join(f"'{word}'" for word in command(configuration, *overrides))
    script.write_text(f"#!/bin/sh\n#SBATCH --job-name=build --time=10 --output={tmp_path}/output\nexec {words}\n")

    def submit():
        sent = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=True)
        return sent.stdout.strip()

    def records():
        return sorted((tmp_path / "run" / "records").glob("infer/*/*.json"))

    first = submit()
    wait_until(lambda: len(records()) >= 2, 300)
    subprocess.run(["scancel", "--signal=KILL", "--full", first], check=True)
    wait_until(lambda: first not in queue(), 30)
    kept = records()
    assert 2 <= len(kept) < UNITS
    second = submit()
    wait_until(lambda: second not in queue(), 400)
    told = (tmp_path / "output").read_text()
    assert job_states()[second] == "COMPLETED", told
    assert output_digests(load(configuration, *overrides)) == expected, told
    counts = executions(faults)
    assert [counts[int(record.stem)] for record in kept] == [1] * len(kept)
