"""The driver: exact numbers of executions under every kind of failure."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import WorkerPlugin

import cluster
from cluster import (
    NoWorkersError,
    Progress,
    StorageFullError,
    Task,
    TaskFailed,
    TooManyFailuresError,
    run_tasks,
)
from tests.factories import faulty


def ignore(task, result):
    pass


def planned(directory: Path, plans: dict[str, tuple[str, ...]]) -> list[Task]:
    return [Task(name, faulty.run, (str(directory), name, plan)) for name, plan in plans.items()]


def names(prefix: str, number: int) -> list[str]:
    return [f"{prefix}-{index}" for index in range(number)]


def test_no_tasks_are_done_at_once(client):
    outcome = run_tasks(client, [], on_done=ignore)
    assert (outcome.done, outcome.set_aside, outcome.repeated, outcome.stopped) == (0, (), 0, False)


def test_every_task_is_executed_once_and_reported_once(client, tmp_path):
    results = []
    tasks = planned(tmp_path, dict.fromkeys(names("t", 60), ()))
    outcome = run_tasks(client, iter(tasks), on_done=lambda task, result: results.append((task.key, result)))
    assert outcome.done == 60
    assert sorted(results) == sorted((name, name) for name in names("t", 60))
    assert faulty.all_executions(tmp_path) == dict.fromkeys(names("t", 60), 1)


def test_the_window_is_bounded(client, tmp_path, quick):
    taken = 0
    done = 0
    ahead = []

    def source():
        nonlocal taken
        for task in planned(tmp_path, dict.fromkeys(names("t", 40), ("nap",))):
            taken += 1
            ahead.append(taken - done)
            yield task

    def on_done(task, result):
        nonlocal done
        done += 1

    run_tasks(client, source(), quick, on_done=on_done)
    assert max(ahead) == 4  # two workers of one thread, two tasks each


def test_the_scheduler_forgets_finished_tasks(client, tmp_path):
    run_tasks(client, planned(tmp_path, dict.fromkeys(names("t", 10), ())), on_done=ignore)
    deadline = time.monotonic() + 10
    while left := client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_program_error_stops_at_once_with_key_worker_and_traceback(client, tmp_path, quick):
    plans = {"bad": ("raise",), **dict.fromkeys(names("t", 200), ("nap",))}
    with pytest.raises(TaskFailed) as failure:
        run_tasks(client, planned(tmp_path, plans), quick, on_done=ignore)
    assert failure.value.key == "bad"
    assert failure.value.worker in client.nthreads()
    assert failure.value.exception == "UnpicklableError: one and two"
    assert "_raise_program" in failure.value.traceback
    assert faulty.executions(tmp_path, "bad") == 1
    assert len(faulty.all_executions(tmp_path)) < 100


def test_a_result_that_cannot_travel_is_a_program_error(client, quick):
    with pytest.raises(TaskFailed, match="lock"):
        run_tasks(client, [Task("lock", faulty.return_lock)], quick, on_done=ignore)


def test_an_error_of_the_file_system_is_repeated(client, tmp_path, quick):
    plans = {"t": ("system", "system", "work"), "u": ()}
    outcome = run_tasks(client, planned(tmp_path, plans), quick, on_done=ignore)
    assert (outcome.done, outcome.repeated, outcome.set_aside) == (2, 2, ())
    assert faulty.all_executions(tmp_path) == {"t": 3, "u": 1}


def test_a_lasting_error_of_the_file_system_is_set_aside(client, tmp_path, quick):
    plans = {"t": ("system",), **dict.fromkeys(names("u", 8), ())}
    outcome = run_tasks(client, planned(tmp_path, plans), quick, on_done=ignore)
    assert outcome.done == 8
    assert [aside.key for aside in outcome.set_aside] == ["t"]
    assert "5 times" in str(outcome.set_aside[0])
    assert "input/output error" in str(outcome.set_aside[0])
    assert faulty.executions(tmp_path, "t") == 5


def test_many_in_a_row_set_aside_stop_the_run(client, tmp_path, quick):
    policy = replace(quick, attempts=1, give_up_after=4)
    plans = dict.fromkeys(names("t", 30), ("system",))
    with pytest.raises(TooManyFailuresError, match="4 tasks in a row"):
        run_tasks(client, planned(tmp_path, plans), policy, on_done=ignore)
    assert len(faulty.all_executions(tmp_path)) <= 12


def test_a_full_disk_stops_the_run_without_repetition(client, tmp_path, quick):
    with pytest.raises(StorageFullError, match="no space left on device"):
        run_tasks(client, planned(tmp_path, {"t": ("full",)}), quick, on_done=ignore)
    assert faulty.executions(tmp_path, "t") == 1


def test_out_of_memory_halves_and_remembers(client, tmp_path, quick):
    first = Task("first", faulty.run_with_halvings, (str(tmp_path), "first", 2))
    results = {}
    run_tasks(
        client,
        [first],
        replace(quick, tasks_per_thread=1),
        on_done=lambda task, result: results.update({task.key: result}),
    )
    assert results == {"first": 2}
    assert faulty.executions(tmp_path, "first") == 3

    later = [Task(name, faulty.run_with_halvings, (str(tmp_path), name, 1)) for name in names("t", 12)]
    outcome = run_tasks(client, later, quick, on_done=ignore)
    # Only those of the first window can have met it before it was known.
    assert outcome.done == 12
    assert sum(faulty.all_executions(tmp_path).values()) - 3 <= 12 + 4


def test_out_of_memory_of_a_task_without_the_keyword_is_repeated_unchanged(client, tmp_path, quick):
    outcome = run_tasks(client, planned(tmp_path, {"t": ("memory", "work")}), quick, on_done=ignore)
    assert outcome.done == 1
    assert faulty.executions(tmp_path, "t") == 2


@pytest.mark.parametrize("death", ["exit", "kill"])
def test_a_worker_that_dies_once_costs_one_execution(client, tmp_path, quick, death):
    plans = {"t": (death, "work"), **dict.fromkeys(names("u", 10), ())}
    outcome = run_tasks(client, planned(tmp_path, plans), quick, on_done=ignore)
    assert outcome.done == 11
    assert outcome.set_aside == ()
    assert faulty.executions(tmp_path, "t") == 2
    # Those that waited at the same worker had not begun.
    assert all(faulty.executions(tmp_path, name) == 1 for name in names("u", 10))


def test_what_kills_three_workers_is_set_aside_and_nothing_else(client, tmp_path, quick):
    plans = {
        **dict.fromkeys(names("u", 6), ()),
        "bad": ("exit",),
        "worse": ("kill",),
        **dict.fromkeys(names("v", 6), ()),
    }
    outcome = run_tasks(client, planned(tmp_path, plans), quick, on_done=ignore)
    assert outcome.done == 12
    assert sorted(aside.key for aside in outcome.set_aside) == ["bad", "worse"]
    counts = faulty.all_executions(tmp_path)
    assert (counts.pop("bad"), counts.pop("worse")) == (3, 3)
    assert set(counts.values()) == {1}
    assert all(len(set(aside.workers)) == 3 for aside in outcome.set_aside)


def test_a_hang_is_ended_at_the_time_limit(client, tmp_path, quick):
    policy = replace(quick, time_limit=1.0)
    plans = {"t": ("hang", "work"), **dict.fromkeys(names("u", 4), ())}
    outcome = run_tasks(client, planned(tmp_path, plans), policy, on_done=ignore)
    assert outcome.done == 5
    assert faulty.executions(tmp_path, "t") == 2


def test_a_worker_killed_from_outside_costs_one_execution(client, tmp_path, quick):
    def kill():
        file = tmp_path / "t.pid"
        while not file.exists() or not file.read_text():
            time.sleep(0.01)
        os.kill(int(file.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    plans = {"t": ("wait", "work"), **dict.fromkeys(names("u", 10), ("nap",))}
    outcome = run_tasks(client, planned(tmp_path, plans), quick, on_done=ignore)
    assert outcome.done == 11
    assert faulty.executions(tmp_path, "t") == 2
    assert all(faulty.executions(tmp_path, name) == 1 for name in names("u", 10))


def test_a_straggler_does_not_hold_up_the_others(client, tmp_path, quick):
    others = names("u", 12)
    straggler = Task("slow", faulty.wait_for, (str(tmp_path), "slow", tuple(others)))
    rest = [Task(name, faulty.wait_for, (str(tmp_path), name, ())) for name in others]
    outcome = run_tasks(client, [straggler, *rest], quick, on_done=ignore)
    assert outcome.done == 13
    assert set(faulty.all_executions(tmp_path).values()) == {1}


def test_of_tasks_that_run_beside_each_other_only_the_killer_is_set_aside(tmp_path, quick):
    from distributed import Client, LocalCluster

    arguments = {"processes": True, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    plans = {"bad": ("exit",), **dict.fromkeys(names("u", 9), ("nap",))}
    with (
        LocalCluster(n_workers=1, threads_per_worker=4, **arguments) as threaded,
        Client(threaded, set_as_default=False) as many,
    ):
        outcome = run_tasks(many, planned(tmp_path, plans), quick, on_done=ignore)
    assert outcome.done == 9
    assert [aside.key for aside in outcome.set_aside] == ["bad"]
    assert faulty.executions(tmp_path, "bad") == 3
    assert max(faulty.executions(tmp_path, name) for name in names("u", 9)) <= 2


def test_the_order_to_stop_lets_what_runs_finish_and_starts_nothing(client, tmp_path, quick):
    stop = threading.Event()
    done = []

    def on_done(task, result):
        done.append(task.key)
        stop.set()

    plans = dict.fromkeys(names("t", 100), ("nap",))
    outcome = run_tasks(client, planned(tmp_path, plans), quick, on_done=on_done, stop=stop)
    assert outcome.stopped
    assert outcome.done == len(done)
    begun = faulty.all_executions(tmp_path)
    assert set(done) <= set(begun)
    # At each of the two workers one may have been about to begin.
    assert len(begun) <= len(done) + 2 <= 6


def test_a_stop_before_the_start_starts_nothing(client, tmp_path, quick):
    stop = threading.Event()
    stop.set()
    outcome = run_tasks(client, planned(tmp_path, {"t": ()}), quick, on_done=ignore, stop=stop)
    assert outcome.stopped
    assert faulty.all_executions(tmp_path) == {}


def test_an_error_in_on_done_reaches_the_caller(client, tmp_path, quick):
    def on_done(task, result):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_tasks(client, planned(tmp_path, dict.fromkeys(names("t", 20), ())), quick, on_done=on_done)


def test_equal_keys_are_refused(client, tmp_path, quick):
    tasks = planned(tmp_path, {"t": ()}) * 2
    with pytest.raises(ValueError, match="'t' twice"):
        run_tasks(client, tasks, quick, on_done=ignore)


def test_progress_ends_at_the_number_of_tasks(client, tmp_path, quick):
    seen: list[Progress] = []
    run_tasks(
        client, planned(tmp_path, dict.fromkeys(names("t", 10), ())), quick, on_done=ignore, on_progress=seen.append
    )
    assert seen[-1] == Progress(done=10, in_flight=0, set_aside=0, workers=2)
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)


class Once(WorkerPlugin):
    """Load something when it is first asked for, once per process."""

    name = "once"

    def __init__(self, directory):
        self.directory = directory
        self.value = None

    def setup(self, worker):
        self.process = os.getpid()

    def get(self):
        if self.value is None:
            faulty.run(self.directory, f"load-{self.process}")
            self.value = "model"
        return self.value


def test_a_plugin_loads_once_per_process_and_not_before_it_is_needed(client, tmp_path, quick):
    run_tasks(client, [], quick, on_done=ignore, worker_plugin=Once(str(tmp_path)))
    assert faulty.all_executions(tmp_path) == {}
    tasks = [Task(name, faulty.load_once, (str(tmp_path), name)) for name in names("t", 20)]
    outcome = run_tasks(client, tasks, quick, on_done=ignore)
    assert outcome.done == 20
    loads = {name: count for name, count in faulty.all_executions(tmp_path).items() if name.startswith("load-")}
    assert set(loads.values()) == {1}
    assert 1 <= len(loads) <= 2


def test_the_scheduler_counts_deaths_as_before_when_the_run_is_over(client, tmp_path):
    before = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures)
    run_tasks(client, planned(tmp_path, {"t": ()}), on_done=ignore)
    assert client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures) == before


def test_no_workers_for_too_long_is_an_error(tmp_path, quick):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50) as empty,
        Client(empty, set_as_default=False) as lonely,
    ):
        policy = replace(quick, worker_timeout=0.5)
        with pytest.raises(NoWorkersError, match="no worker for"):
            run_tasks(lonely, planned(tmp_path, {"t": ()}), policy, on_done=ignore)


def test_a_worker_that_joins_late_is_used(tmp_path, quick):
    from distributed import Client, LocalCluster

    arguments = {"processes": True, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    tasks = [Task(name, faulty.wait_for, (str(tmp_path), name, ("a", "b"))) for name in ("a", "b")]
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **arguments) as growing,
        Client(growing, set_as_default=False) as lonely,
    ):

        def grow():
            while not (tmp_path / "a.here").exists() and not (tmp_path / "b.here").exists():
                time.sleep(0.01)
            growing.scale(2)

        threading.Thread(target=grow, daemon=True).start()
        outcome = run_tasks(lonely, tasks, quick, on_done=ignore)
    assert outcome.done == 2
    assert faulty.all_executions(tmp_path) == {"a": 1, "b": 1}


@pytest.mark.parametrize("workers", [1, *(pytest.param(number, marks=pytest.mark.long) for number in (4, 8))])
def test_any_number_of_workers_gives_the_same_executions(tmp_path, quick, workers):
    plans = {**dict.fromkeys(names("t", 16), ()), "dies": ("exit", "work"), "fails": ("system", "work")}
    with cluster.connect("local", relative_to=tmp_path, scratch=tmp_path / "scratch", workers=workers) as client:
        outcome = run_tasks(client, planned(tmp_path, plans), quick, on_done=ignore)
    assert outcome.done == 18
    assert faulty.all_executions(tmp_path) == {**dict.fromkeys(names("t", 16), 1), "dies": 2, "fails": 2}
