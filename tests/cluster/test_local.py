"""The local cluster: cores used once, closed to others, started and ended without noise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
from distributed import Client
from distributed.security import Security

import cluster
from cluster import RetryPolicy, Task, run_tasks
from cluster.kinds.local import Settings, local_configuration
from cluster.threads import PROCESSES, VARIABLES, limit_torch_threads
from tests.factories import faulty

ROOT = Path(__file__).resolve().parents[2]


def test_each_worker_is_a_process_with_one_dask_thread_and_its_share_of_cores(tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    seen = []
    tasks = [Task(f"t-{index}", faulty.facts, (str(tmp_path), f"t-{index}")) for index in range(8)]
    where = {"kind": "local", "workers": 2, "threads": 3}
    with cluster.connect(where, relative_to=tmp_path, scratch=tmp_path / "scratch") as client:
        assert sorted(client.nthreads().values()) == [1, 1]
        run_tasks(client, tasks, on_done=lambda task, result: seen.append(result))
    assert os.getpid() not in {facts["pid"] for facts in seen}
    assert {facts["omp"] for facts in seen} == {"3"}


def test_torch_takes_the_threads_that_are_granted(monkeypatch):
    class Torch:
        threads = 64

        def get_num_threads(self):
            return self.threads

        def set_num_threads(self, threads):
            self.threads = threads

    torch = Torch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    limit_torch_threads()
    assert torch.threads == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_torch_threads()
    assert torch.threads == 1


def test_threads_are_what_the_workers_leave(monkeypatch):
    environment = local_configuration(4)["distributed.nanny.pre-spawn-environ"]
    assert {environment[name] for name in VARIABLES} == {"4"}


def test_workers_know_how_many_they_are(tmp_path):
    with cluster.connect("local", relative_to=tmp_path, scratch=tmp_path, workers=2) as client:
        assert set(client.run(os.getenv, PROCESSES).values()) == {"2"}
    assert local_configuration(4)["distributed.nanny.environ"][PROCESSES] == "1"


def test_a_cluster_leaves_the_environment_to_the_next_one_as_it_found_it(tmp_path, monkeypatch):
    for name in (*VARIABLES, PROCESSES):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    for count, threads in ((1, 2), (2, 3)):
        where = {"kind": "local", "threads": threads}
        with cluster.connect(where, relative_to=tmp_path, scratch=tmp_path, workers=count) as client:
            assert PROCESSES not in os.environ
            assert set(client.run(os.getenv, PROCESSES).values()) == {str(count)}
            assert set(client.run(os.getenv, VARIABLES[0]).values()) == {str(threads)}
        assert dict(os.environ) == before


def test_everything_listens_on_the_loopback_alone(tmp_path):
    with cluster.connect("local", relative_to=tmp_path, scratch=tmp_path, workers=1) as client:
        addresses = [client.scheduler.address, *client.nthreads()]
        assert all("://127.0.0.1:" in address for address in addresses)
        assert client.dashboard_link.startswith("http://127.0.0.1:")
        pids = [os.getpid(), *client.run(os.getpid).values()]
    assert len(pids) == 2


def test_a_client_without_credentials_cannot_submit(tmp_path):
    where = {"kind": "local", "workers": 1}
    with cluster.connect(where, relative_to=tmp_path, scratch=tmp_path) as client:
        address = client.scheduler.address
        assert address.startswith("tls://")
        assert run_tasks(client, [Task("t", faulty.run, (str(tmp_path), "t"))], on_done=lambda *_: None).done == 1
        for stranger, security in [
            (address, Security.temporary()),
            (address.replace("tls://", "tcp://"), None),
        ]:
            with pytest.raises(OSError, match=r"TLS|Connect|connect|Timed out"):
                Client(stranger, security=security, timeout=2, set_as_default=False)
        worker = next(iter(client.nthreads()))
        assert worker.startswith("tls://")
    assert faulty.all_executions(tmp_path) == {"t": 1}


def script(body: str, directory: Path) -> subprocess.CompletedProcess[str]:
    head = f"""
        import sys, threading
        from pathlib import Path
        import cluster
        from cluster import RetryPolicy, Task, TaskFailed, run_tasks
        from tests.factories import faulty
        directory = {str(directory)!r}
        def local(workers=2):
            return cluster.connect("local", relative_to=Path(directory), scratch=Path(directory) / "s", workers=workers)
        def nothing(task, result): pass
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def test_a_run_is_quiet_from_start_to_end(tmp_path):
    result = script(
        """
        with local() as client:
            plans = {f"t-{i}": ("exit", "work") if i == 3 else () for i in range(9)}
            tasks = [Task(name, faulty.run, (directory, name, plan)) for name, plan in plans.items()]
            print(run_tasks(client, tasks, on_done=nothing).done)
        """,
        tmp_path,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "9\n", "")


def test_a_program_error_ends_quietly_beside_tasks_that_run(tmp_path):
    result = script(
        """
        try:
            with local() as client:
                tasks = [Task("waits", faulty.run, (directory, "waits", ("wait",))),
                         Task("bad", faulty.run, (directory, "bad", ("raise",)))]
                run_tasks(client, tasks, on_done=nothing)
        except TaskFailed as error:
            print(error.key)
        """,
        tmp_path,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "bad\n", "")


def test_a_stopped_run_ends_quietly_and_does_not_wait_for_what_hangs(tmp_path):
    result = script(
        """
        stop = threading.Event()
        def set_when_begun():
            while not (Path(directory) / "waits.pid").exists():
                pass
            stop.set()
        threading.Thread(target=set_when_begun).start()
        with local(1) as client:
            tasks = [Task("waits", faulty.run, (directory, "waits", ("wait",))),
                     Task("never", faulty.run, (directory, "never"))]
            outcome = run_tasks(client, tasks, RetryPolicy(stop_grace=0.2), on_done=nothing, stop=stop)
        print(outcome.stopped, outcome.done)
        """,
        tmp_path,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "True 0\n", "")
    assert faulty.all_executions(tmp_path) == {"waits": 1}


SIGNALLED = """
import signal, sys, threading
from pathlib import Path
import cluster
from tests.factories import faulty
directory = sys.argv[1]
stop = threading.Event()
for order in (signal.SIGINT, signal.SIGTERM):
    signal.signal(order, lambda *_: stop.set())
tasks = (cluster.Task(f"t-{i}", faulty.run, (directory, f"t-{i}", ("pause",))) for i in range(1000))
with cluster.connect("local", relative_to=Path(directory), scratch=Path(directory) / "s", workers=2) as client:
    outcome = cluster.run_tasks(client, tasks, on_done=lambda *_: None, stop=stop)
print(outcome.stopped, outcome.done, outcome.repeated)
"""


def begin(tmp_path: Path) -> subprocess.Popen[str]:
    driver = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while len(faulty.all_executions(tmp_path)) < 4:
        assert driver.poll() is None
        time.sleep(0.01)
    return driver


@pytest.mark.parametrize("order", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_an_order_to_stop_that_all_processes_get_lets_the_tasks_finish(tmp_path, order):
    driver = begin(tmp_path)
    os.killpg(driver.pid, order)
    out, err = driver.communicate(timeout=600)
    counts = faulty.all_executions(tmp_path)
    stopped, done, repeated = out.split()
    assert (stopped, repeated, err) == ("True", "0", "")
    assert set(counts.values()) == {1}
    # At each of the two workers one may have been about to begin.
    assert len(counts) - 2 <= int(done) <= len(counts)


def test_workers_end_when_the_driver_is_killed(tmp_path):
    driver = begin(tmp_path)
    workers = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.communicate()
    _, alive = psutil.wait_procs(workers, timeout=600)
    assert alive == []


def test_a_client_is_passed_through_and_left_open(tmp_path):
    with cluster.connect("local", relative_to=tmp_path, scratch=tmp_path, workers=1) as mine:
        with cluster.connect(mine, relative_to=tmp_path, scratch=tmp_path) as same:
            assert same is mine
        assert mine.status == "running"


def test_settings_of_a_local_cluster_have_defaults_that_use_every_core():
    settings = Settings(kind="local")
    assert (settings.workers, settings.threads, settings.tls) == (None, None, None)


def test_stop_is_seen_while_there_are_no_workers(tmp_path):
    from distributed import LocalCluster

    stop = threading.Event()
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50) as empty,
        Client(empty, set_as_default=False) as lonely,
    ):
        threading.Timer(0.5, stop.set).start()
        tasks = [Task("t", faulty.run, (str(tmp_path), "t"))]
        outcome = run_tasks(lonely, tasks, RetryPolicy(stop_grace=0.1), on_done=lambda *_: None, stop=stop)
    assert outcome.stopped
