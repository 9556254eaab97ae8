import json
import os
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from catalogue.pipeline.lock import STALE_AFTER_SECONDS, RunLock, RunLocked, lock_owner


def owned_by(path, host, pid, started, age=0.0):
    path.write_text(json.dumps({"host": host, "pid": pid, "started": started}))
    moment = time.time() - age
    os.utime(path, (moment, moment))


@pytest.fixture
def beating(monkeypatch):
    monkeypatch.setattr("catalogue.pipeline.lock.HEARTBEAT_SECONDS", 0.02)


def test_a_second_run_is_refused_with_host_and_process_of_the_first(tmp_path):
    with RunLock(tmp_path / "run.lock"):
        with pytest.raises(RunLocked, match=f"process {os.getpid()} on {socket.gethostname()}"):
            RunLock(tmp_path / "run.lock").__enter__()
        assert (tmp_path / "run.lock").exists()
    assert not (tmp_path / "run.lock").exists()


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owned_by(tmp_path / "run.lock", socket.gethostname(), dead.pid, time.time())
    with RunLock(tmp_path / "run.lock"):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_a_lock_whose_process_id_was_given_to_another_process_is_stale(tmp_path):
    owned_by(
        tmp_path / "run.lock",
        socket.gethostname(),
        os.getpid(),
        psutil.Process().create_time() - psutil.boot_time() - 500,
    )
    assert lock_owner(tmp_path / "run.lock") is None


def test_a_lock_of_another_host_counts_while_its_heart_beats(tmp_path):
    owned_by(tmp_path / "run.lock", "node17", 4711, 0.0)
    with pytest.raises(RunLocked, match="process 4711 on node17"):
        RunLock(tmp_path / "run.lock").__enter__()
    owned_by(tmp_path / "run.lock", "node17", 4711, 0.0, age=STALE_AFTER_SECONDS + 1)
    with RunLock(tmp_path / "run.lock"):
        assert lock_owner(tmp_path / "run.lock") is not None


def test_an_empty_lock_is_stale_once_its_maker_cannot_still_be_starting(tmp_path):
    lock = tmp_path / "run.lock"
    lock.write_text("")
    assert lock_owner(lock) == "a run that is just starting"
    os.utime(lock, (0, 0))
    assert lock_owner(lock) is None


def test_a_run_whose_lock_was_taken_over_is_told_and_leaves_the_lock_of_the_other(tmp_path, beating):
    lock, lost = tmp_path / "run.lock", threading.Event()
    running = RunLock(lock, lost.set)
    running.__enter__()
    owned_by(lock, "node17", 4711, 0.0)
    assert lost.wait(30)
    with pytest.raises(RunLocked, match="taken over by process 4711 on node17"):
        running.__exit__(None, None, None)
    assert json.loads(lock.read_text())["host"] == "node17"


def test_a_lock_that_somebody_removed_is_made_again(tmp_path, beating):
    lock = tmp_path / "run.lock"
    with RunLock(lock):
        content = lock.read_text()
        lock.unlink()
        deadline = time.monotonic() + 30
        while not lock.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(RunLocked):
            RunLock(lock).__enter__()
        assert lock.read_text() == content
    assert not lock.exists()


def test_the_heart_goes_on_beating_after_a_stale_handle(tmp_path, beating, monkeypatch):
    calls = []

    def stale(path):
        calls.append(path)
        raise OSError(116, "Stale file handle")

    with RunLock(tmp_path / "run.lock"):
        monkeypatch.setattr("catalogue.pipeline.lock.os.utime", stale)
        deadline = time.monotonic() + 30
        while len(calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(calls) >= 3


def test_the_lock_of_another_user_counts_while_its_heart_beats_even_if_no_process_is_seen(tmp_path, monkeypatch):
    lock = tmp_path / "run.lock"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owned_by(lock, socket.gethostname(), dead.pid, 0.0)
    assert lock_owner(lock) is None
    monkeypatch.setattr("catalogue.pipeline.lock.os.getuid", lambda: lock.stat().st_uid + 1)
    assert lock_owner(lock) is not None
    owned_by(lock, socket.gethostname(), dead.pid, 0.0, age=STALE_AFTER_SECONDS + 1)
    assert lock_owner(lock) is None
