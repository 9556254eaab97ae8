"""Workers in real jobs of Slurm: cancelled, at the end of their walltime, refused, failing, and orphaned."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap

import pytest
from distributed import Client
from distributed.security import Security

import cluster
from cluster import ClusterError, NoWorkersError, RetryPolicy, Task, run_tasks
from tests.factories import faulty
from tests.slurm.conftest import ROOT, queue, wait_until


def until_jobs(directory, wanted, jobs, limit):
    """Tasks until so many different jobs have run one."""
    for index in range(limit):
        if len(jobs) >= wanted:
            return
        yield Task(f"t-{index}", faulty.paused_facts, (str(directory), f"t-{index}"))
    pytest.fail(f"after {limit} tasks only {len(jobs)} jobs of {wanted} had run one")


def collect(jobs, then=None):
    def on_done(task, facts):
        jobs.setdefault(facts["job"], []).append(task.key)
        if then is not None:
            then(facts["job"])

    return on_done


def test_tasks_run_in_two_jobs_and_one_that_is_cancelled_is_replaced(connected, tmp_path):
    jobs: dict[str, list[str]] = {}
    cancelled: list[str] = []

    def cancel_one(job):
        if len(jobs) == 2 and not cancelled:
            cancelled.append(job)
            subprocess.run(["scancel", job], check=True)

    with connected() as client:
        for file in (tmp_path / "scratch").rglob("*.pem"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        outcome = run_tasks(
            client, until_jobs(tmp_path, 3, jobs, 600), RetryPolicy(first_delay=0.1), on_done=collect(jobs, cancel_one)
        )
        assert all(address.startswith("tls://") for address in client.nthreads())
    assert None not in jobs
    assert len(jobs) == 3
    counts = faulty.all_executions(tmp_path)
    assert outcome.done == len(counts)
    # Only the task that ran in the cancelled job may have been executed twice.
    assert sum(counts.values()) <= len(counts) + 1
    assert outcome.set_aside == ()
    assert not list((tmp_path / "scratch").rglob("*.pem"))
    wait_until(lambda: not queue(), 60)


def test_a_client_without_credentials_cannot_submit_to_a_cluster_of_jobs(connected):
    with connected(jobs=1) as client:
        address = client.scheduler.address
        assert address.startswith("tls://")
        for stranger, security in [(address, Security.temporary()), (address.replace("tls://", "tcp://"), None)]:
            with pytest.raises(OSError, match=r"TLS|Connect|connect|Timed out"):
                Client(stranger, security=security, timeout=2, set_as_default=False)


def test_jobs_of_a_minute_leave_in_time_are_replaced_and_nothing_is_repeated(connected, tmp_path):
    jobs: dict[str, list[str]] = {}
    with connected(walltime="00:01:00") as client:
        outcome = run_tasks(client, until_jobs(tmp_path, 3, jobs, 2000), on_done=collect(jobs))
    counts = faulty.all_executions(tmp_path)
    assert outcome.done == len(counts)
    assert set(counts.values()) == {1}
    assert outcome.repeated == 0


def test_several_workers_in_a_job_are_replaced_together(connected, tmp_path):
    jobs: dict[str, list[str]] = {}
    cancelled: list[str] = []

    def cancel_it(job):
        if not cancelled:
            cancelled.append(job)
            subprocess.run(["scancel", job], check=True)

    with connected(jobs=1, cores=2) as client:
        outcome = run_tasks(
            client, until_jobs(tmp_path, 2, jobs, 900), RetryPolicy(first_delay=0.1), on_done=collect(jobs, cancel_it)
        )
        wait_until(lambda: len(client.nthreads()) == 2, 60)
    assert outcome.set_aside == ()
    assert len(jobs) == 2


def test_a_job_that_slurm_refuses_is_an_error_with_its_words(connected):
    with pytest.raises(ClusterError, match="invalid partition"), connected(queue="nowhere"):
        pass
    assert queue() == []


def test_jobs_that_fail_at_once_are_an_error_that_names_their_logs(connected, tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.roll_call.PATIENCE", 1.0)
    monkeypatch.setattr("cluster.roll_call.INTERVAL", 0.5)
    tasks = [Task("t", faulty.run, (str(tmp_path), "t"))]
    with (
        connected(jobs=1, python="/bin/false") as client,
        pytest.raises(NoWorkersError, match=r"3 jobs in a row ended before a worker came.*scratch/logs"),
    ):
        run_tasks(client, tasks, on_done=lambda *_: None)


def test_jobs_end_by_themselves_when_the_driver_is_killed(connected, tmp_path):
    body = f"""
        from pathlib import Path
        import cluster
        from tests.factories import faulty
        where = {{"kind": "slurm", "jobs": 2, "memory": "512 MiB", "walltime": "00:10:00", "interface": "lo"}}
        with cluster.connect(where, relative_to=Path("."), scratch=Path({str(tmp_path)!r}) / "scratch") as client:
            tasks = [cluster.Task(f"t-{{i}}", faulty.run, ({str(tmp_path)!r}, f"t-{{i}}", ("wait",))) for i in range(4)]
            cluster.run_tasks(client, tasks, on_done=print)
    """
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(body)], cwd=ROOT)
    try:
        wait_until(lambda: len(faulty.all_executions(tmp_path)) == 2, 60)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert len(queue()) == 2
    wait_until(lambda: not queue(), 150)


def test_one_allocation_holds_workers_that_srun_started(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    jobs: dict[str, list[str]] = {}
    where = {"kind": "mpi", "launcher": ["srun", "--ntasks=2", "--job-name=workers"], "interface": "lo"}
    tasks = [Task(f"t-{index}", faulty.paused_facts, (str(tmp_path), f"t-{index}")) for index in range(20)]
    with cluster.connect(where, relative_to=tmp_path, scratch=tmp_path / "scratch") as client:
        outcome = run_tasks(client, tasks, on_done=collect(jobs))
        wait_until(lambda: len(client.nthreads()) == 2, 30)
    assert outcome.done == 20
    assert len(jobs) == 1
    assert os.environ.get("SLURM_JOB_ID") not in jobs
