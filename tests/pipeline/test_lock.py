import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from catalogue.pipeline.lock import STALE_AFTER_SECONDS, RunLock, RunLocked, lock_owner


def owned_by(path, host, pid, started, age=0.0):
    path.write_text(json.dumps({"host": host, "pid": pid, "started": started}))
    moment = time.time() - age
    os.utime(path, (moment, moment))


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
