"""Processes of the cluster itself killed, and workers that leave at the end of their lifetime."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import dask
import psutil
import pytest

import cluster
from cluster import NoWorkersError, RetryPolicy, SchedulerLostError, Task, run_tasks
from cluster.drain import job_age
from tests.factories import faulty

ROOT = Path(__file__).resolve().parents[2]
TWO = ["sh", "-c", '"$0" "$@" & "$0" "$@" & wait']


@pytest.fixture(autouse=True)
def _import_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def planned(directory, plans):
    return [Task(name, faulty.run, (str(directory), name, plan)) for name, plan in plans.items()]


def launched(tmp_path, launcher, **keys):
    where = {"kind": "mpi", "launcher": launcher, "interface": "lo", **keys}
    return cluster.connect(where, relative_to=tmp_path, scratch=tmp_path / "scratch")


def ignore(task, result):
    pass


def when(condition, action):
    """Do something in the background as soon as a condition holds."""

    def watch():
        while not (value := condition()):
            time.sleep(0.01)
        action(value)

    threading.Thread(target=watch, daemon=True).start()


def pid_in(file):
    return lambda: file.exists() and file.read_text()


def test_a_nanny_that_is_killed_costs_one_execution(tmp_path, quick):
    def kill_nanny(pid):
        nanny = psutil.Process(int(pid)).parent()
        assert "dask_worker" in " ".join(nanny.cmdline())
        nanny.kill()

    when(pid_in(tmp_path / "t.pid"), kill_nanny)
    plans = {"t": ("wait", "work"), **{f"u-{index}": ("nap",) for index in range(8)}}
    with launched(tmp_path, TWO) as client:
        outcome = run_tasks(client, planned(tmp_path, plans), quick, on_done=ignore)
    assert outcome.done == 9
    assert faulty.all_executions(tmp_path) == {**dict.fromkeys(plans, 1), "t": 2}


def test_launched_workers_use_credentials_and_end_with_the_run(tmp_path, quick):
    with launched(tmp_path, ["env"]) as client:
        run_tasks(client, planned(tmp_path, {"t": ()}), quick, on_done=ignore)
        address = next(iter(client.nthreads()))
        assert address.startswith("tls://")
        pid = next(iter(client.run(os.getpid).values()))
        assert list((tmp_path / "scratch").rglob("key.pem"))
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert not list((tmp_path / "scratch").rglob("key.pem"))


def answers_a_stranger(address):
    """What a listener says first to somebody who has no credentials; nothing if it refuses the conversation."""
    said = b""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=2) as connection:
        connection.settimeout(1)
        said = connection.recv(1)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=2) as connection:
        connection.settimeout(1)
        with context.wrap_socket(connection) as encrypted:
            said += encrypted.recv(1)
    return said


def test_whatever_listens_beyond_the_loopback_refuses_strangers(tmp_path):
    earlier = psutil.Process().children(recursive=True)  # of other tests
    with launched(tmp_path, ["env"], interface=None) as client:
        client.wait_for_workers(1, timeout=300)
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        processes = [process for process in processes if process not in earlier]
        listeners = {
            connection.laddr
            for process in processes
            for connection in process.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        open_to_others = [at for at in listeners if not ipaddress.ip_address(at.ip).is_loopback]
        port = int(client.scheduler.address.rpartition(":")[2])
        assert port in {at.port for at in open_to_others}
        assert int(urlsplit(client.dashboard_link).port) not in {at.port for at in open_to_others}
        host = urlsplit(client.scheduler.address).hostname
        assert {at.port: answers_a_stranger((host, at.port)) for at in open_to_others} == {
            at.port: b"" for at in open_to_others
        }


def test_a_launcher_that_fails_is_told_with_its_log(tmp_path, quick):
    with (
        launched(tmp_path, ["false"]) as client,
        pytest.raises(NoWorkersError, match=r"false ended with 1.*workers\.log"),
    ):
        run_tasks(client, planned(tmp_path, {"t": ()}), quick, on_done=ignore)


def test_workers_finish_their_task_before_they_leave(tmp_path, quick):
    # A lifetime counts from the start of the process: on a busy machine most of it would be Python's own start.
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import distributed.cli.dask_worker, torch"], check=True)
    lifetime = 2 + round(2 * (time.monotonic() - began))
    # One worker, started again by the shell: each must end what it began.
    again = ["sh", "-c", 'while :; do "$0" "$@"; done']
    plans = {f"t-{index}": ("pause",) for index in range(3 * lifetime)}
    with launched(tmp_path, again, lifetime=lifetime) as client:
        workers = set()
        tasks = planned(tmp_path, plans)
        outcome = run_tasks(client, tasks, quick, on_done=lambda task, result: workers.update(client.nthreads()))
    assert outcome.done == len(plans)
    assert len(workers) >= 2
    assert faulty.all_executions(tmp_path) == dict.fromkeys(plans, 1)


def test_the_age_of_a_job_is_that_of_its_first_process():
    assert job_age(has_nanny=False) == pytest.approx(time.time() - psutil.Process().create_time(), abs=1)
    assert job_age(has_nanny=True) >= job_age(has_nanny=False) - 1


@contextmanager
def scheduler(directory):
    """A scheduler and a worker that others started."""
    file = directory / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    command += ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
    with (directory / "log").open("wb") as log:
        processes = [subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)]
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text().strip().endswith("}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            "--scheduler-file",
            str(file),
            "--nthreads",
            "1",
        ]
        processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        try:
            yield file, processes[0]
        finally:
            for process in reversed(processes):
                with_group(process)


def with_group(process):
    for order in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, order)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def test_a_cluster_of_others_is_used_and_left_running_and_its_loss_is_an_error(tmp_path, quick):
    with scheduler(tmp_path) as (file, process):
        address = json.loads(file.read_text())["address"]
        for where in (address, {"kind": "scheduler_file", "scheduler_file": str(file)}):
            with cluster.connect(where, relative_to=tmp_path, scratch=tmp_path) as client:
                plans = {f"t-{index}": () for index in range(4)}
                assert run_tasks(client, planned(tmp_path, plans), quick, on_done=ignore).done == 4
        assert process.poll() is None

        when(pid_in(tmp_path / "last.pid"), lambda pid: process.kill())
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "2s"}),
            cluster.connect(
                {"kind": "address", "address": address, "timeout": 2}, relative_to=tmp_path, scratch=tmp_path
            ) as client,
            pytest.raises(SchedulerLostError, match="run again to go on"),
        ):
            run_tasks(client, planned(tmp_path, {"last": ("wait",)}), replace(quick), on_done=ignore)


def test_the_policy_waits_longer_and_longer_up_to_a_limit():
    policy = RetryPolicy(first_delay=1, longest_delay=10)
    assert [policy.delay(failures) for failures in (1, 2, 3, 4, 5, 50)] == [1, 2, 4, 8, 10, 10]
