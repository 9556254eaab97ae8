"""A whole catalogue in jobs submitted as to PBS, which are deleted in the middle: byte for byte the local one."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import yaml

from tests.factories.runs import build_here, load, output_digests, times_passed, write_fault_plan, write_run
from tests.slurm.conftest import ROOT

pytestmark = pytest.mark.timeout(900)

ROWS = 256
UNITS = ROWS // 64


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Configuration of a run, and the digests of its files as one process on this machine makes them."""
    configuration = write_run(tmp_path_factory.mktemp("local"), rows=ROWS)
    return configuration, build_here(configuration)


def cluster_file(tmp_path, **keys):
    path = tmp_path / "pbs.yaml"
    keys = {"kind": "pbs", "jobs": 2, "memory": "1 GiB", "walltime": "00:10:00", "interface": "lo", **keys}
    path.write_text(yaml.safe_dump(keys))
    return path


def test_jobs_that_are_deleted_cost_one_unit_and_no_byte(local, pbs, tmp_path, monkeypatch):
    configuration, expected = local
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    pauses = [{"point": f"infer/{n}/before", "action": "hang", "seconds": 1.0} for n in range(UNITS - 1)]
    # The last unit waits until its job is deleted.
    last = {"point": f"infer/{UNITS - 1}/before", "action": "hang", "seconds": 600.0}
    faults = write_fault_plan(tmp_path / "faults.json", *pauses, last)
    # A job has the environment of a login: what its workers need is in its script.
    prologue = [f"export PYTHONPATH={ROOT} CATALOGUE_FAULTS={faults}", "echo job $PBS_JOBID in $PBS_ENVIRONMENT $PWD"]
    file = cluster_file(tmp_path, log_directory=str(tmp_path / "logs"), job_script_prologue=prologue)
    overrides = [f"cluster={file}", "workers=2", f"output.directory={tmp_path / 'run'}"]
    words = [word for override in overrides for word in ("--set", override)]
    deleted = False
    with (tmp_path / "output").open("w") as output:
        command = [sys.executable, "-m", "catalogue", "build", str(configuration), *words]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if not deleted and times_passed(faults, UNITS - 1):
                wait_until_only_the_last_is_left(tmp_path, process)
                for identifier in pbs.queue():
                    pbs.delete(identifier)
                deleted = True
            time.sleep(0.2)
    told = (tmp_path / "output").read_text()
    assert process.returncode == 0, told
    assert deleted
    assert output_digests(load(configuration, *overrides)) == expected
    assert [times_passed(faults, unit) for unit in range(UNITS)] == [1] * (UNITS - 1) + [2]
    assert pbs.queue() == []
    assert len(pbs.ended()) >= 3
    logs = sorted((tmp_path / "logs").glob("dask-worker.o*"))
    assert {path.read_text().splitlines()[0] for path in logs} == {
        f"job {number}.stand-in in PBS_BATCH {path_of_home()}" for number in pbs.ended()
    }


def wait_until_only_the_last_is_left(tmp_path, process):
    while process.poll() is None and len(list(tmp_path.glob("run/records/infer/*/*.json"))) < UNITS - 1:
        time.sleep(0.1)


def path_of_home():
    return subprocess.run(["sh", "-c", "cd && pwd"], capture_output=True, text=True, check=True).stdout.strip()


def test_a_job_that_pbs_does_not_take_is_told_in_its_words(local, pbs, tmp_path):
    configuration, _ = local
    file = cluster_file(tmp_path, job_extra_directives=["-Z nonsense"])
    command = [sys.executable, "-m", "catalogue", "build", str(configuration), "--set", f"cluster={file}"]
    command += ["--set", f"output.directory={tmp_path / 'run'}"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 2
    assert "the batch system does not take the job" in ended.stderr
    assert "illegal option in the script: -Z nonsense" in ended.stderr
