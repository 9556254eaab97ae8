"""Batch systems: the job's script as text, and the number of jobs kept by roll call against a queue of our own."""

from __future__ import annotations

import asyncio
import types

import dask
import pytest

import cluster
from cluster import ClusterError
from cluster.kinds.slurm import Settings
from cluster.roll_call import RollCall

SLURM = {"kind": "slurm", "memory": "4 GiB"}


def script_of(**keys):
    return cluster.job_script({**SLURM, **keys})


def arguments_of(script):
    return next(line for line in script.splitlines() if "dask_worker" in line).split()


def after(arguments, option):
    return arguments[arguments.index(option) + 1]


def test_the_keys_of_dask_jobqueue_go_through_unchanged():
    script = script_of(
        queue="gpu", account="astro", walltime="02:00:00", job_cpu=8, interface="ib0", local_directory="/local",
        job_extra_directives=["--gres=gpu:1", "--exclude=node[1-3]"], log_directory="logs", job_name="ages",
        job_script_prologue=["module load python", "source env/bin/activate"], python="python3",
    )  # fmt: skip
    for line in (
        "#SBATCH -J ages", "#SBATCH -p gpu", "#SBATCH -A astro", "#SBATCH -t 02:00:00", "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=4G", "#SBATCH --gres=gpu:1", "#SBATCH --exclude=node[1-3]", "#SBATCH -o logs/ages-%J.out",
        "module load python", "source env/bin/activate",
    ):  # fmt: skip
        assert line in script.splitlines()
    arguments = arguments_of(script)
    assert arguments[0] == "python3"
    assert after(arguments, "--interface") == "ib0"
    assert after(arguments, "--local-directory") == "/local"


def test_showing_the_script_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "#SBATCH -o <scratch>/logs/dask-worker-%J.out" in script_of()
    assert "#SBATCH -o logs/dask-worker-%J.out" in script_of(log_directory="logs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["slurm", "pbs"])
def test_without_a_walltime_workers_leave_before_the_one_that_the_job_gets(kind):
    script = cluster.job_script({"kind": kind, "memory": "4 GiB"})
    assert "00:30:00" in script
    assert 1200 < float(after(arguments_of(script), "--lifetime").rstrip("s")) < 1800
    with dask.config.set({f"jobqueue.{kind}.walltime": "10:00:00"}):
        script = cluster.job_script({"kind": kind, "memory": "4 GiB"})
    assert float(after(arguments_of(script), "--lifetime").rstrip("s")) > 30000


@pytest.mark.parametrize("name", ["log_directory", "shared_temp_directory", "python", "local_directory"])
@pytest.mark.parametrize("path", ["/home/my files/x", "/home/o'neil/x", "/a\\b"])
def test_a_path_that_would_break_the_script_is_refused_by_name(name, path):
    with pytest.raises(ClusterError, match=rf"{name}: expected a path without blanks, quotes"):
        script_of(**{name: path})


def test_a_run_directory_with_a_blank_is_refused_before_a_job_is_submitted(tmp_path):
    with pytest.raises(ClusterError, match=r"log_directory: .*set log_directory"):
        Settings.model_validate(SLURM).job_keywords(tmp_path / "my run")
    shown = Settings.model_validate({**SLURM, "log_directory": "/l", "shared_temp_directory": "/s"})
    assert shown.job_keywords(tmp_path / "my run")["log_directory"] == "/l"


def test_a_gpu_job_has_one_worker_with_all_its_cpus_for_the_libraries():
    script = script_of(job_cpu=8)
    assert after(arguments_of(script), "--nthreads") == "1"
    assert "--nworkers" not in arguments_of(script)
    assert "export OMP_NUM_THREADS=8" in script
    assert "export CLUSTER_PROCESSES=1" in script


def test_a_cpu_job_has_a_worker_for_each_core():
    script = script_of(cores=32)
    assert after(arguments_of(script), "--nthreads") == "1"
    assert after(arguments_of(script), "--nworkers") == "32"
    assert "export OMP_NUM_THREADS=1" in script
    assert "export CLUSTER_PROCESSES=32" in script
    assert "#SBATCH --cpus-per-task=32" in script


def test_several_dask_threads_in_a_process_are_refused_with_the_remedy():
    with pytest.raises(ClusterError, match=r"processes: expected 8, .*found 1.*job_cpu"):
        script_of(cores=8, processes=1)


def test_lines_of_the_site_come_after_ours():
    lines = script_of(job_script_prologue=["export OMP_NUM_THREADS=2"]).splitlines()
    assert lines.index("export OMP_NUM_THREADS=1") < lines.index("export OMP_NUM_THREADS=2")


def test_everything_is_encrypted_and_the_script_holds_no_key():
    script = script_of()
    arguments = arguments_of(script)
    assert after(arguments, "--protocol") == "tls://"
    assert after(arguments, "--tls-key").endswith("/key.pem")
    assert "PRIVATE" not in script
    assert not any(argument.startswith("--tls") for argument in arguments_of(script_of(tls=False)))


def test_workers_have_no_dashboard_and_listen_with_their_pages_on_the_loopback():
    arguments = arguments_of(script_of())
    assert "--no-dashboard" in arguments
    assert after(arguments, "--dashboard-address") == "127.0.0.1:0"


def test_the_lifetime_follows_from_the_walltime_unless_it_is_given():
    arguments = arguments_of(script_of(walltime="01:00:00"))
    assert (after(arguments, "--lifetime"), after(arguments, "--lifetime-stagger")) == ("3240s", "180s")
    arguments = arguments_of(script_of(walltime="01:00:00", lifetime=1800, lifetime_stagger=60))
    assert (after(arguments, "--lifetime"), after(arguments, "--lifetime-stagger")) == ("1800s", "60s")
    with dask.config.set({"jobqueue.slurm.walltime": None}):
        assert "--lifetime" not in arguments_of(script_of())


def test_a_misspelt_key_is_refused_with_the_keys_that_there_are():
    with pytest.raises(ClusterError, match=r"wall_time: unknown key; did you mean walltime\?"):
        script_of(wall_time="01:00:00")


def test_memory_is_asked_for():
    with pytest.raises(ClusterError, match="memory: missing"):
        cluster.job_script({"kind": "slurm"})


def test_a_walltime_in_another_notation_is_refused():
    with pytest.raises(ClusterError, match="expected HH:MM:SS"):
        script_of(walltime="1h")


def test_pbs_jobs_are_written_the_same_way():
    script = cluster.job_script(
        {"kind": "pbs", "memory": "4 GiB", "resource_spec": "select=1:ncpus=8:ngpus=1", "walltime": "02:00:00",
         "threads": 8, "queue": "gpu"}
    )  # fmt: skip
    for line in ("#PBS -q gpu", "#PBS -l select=1:ncpus=8:ngpus=1", "#PBS -l walltime=02:00:00"):
        assert line in script.splitlines()
    assert "export OMP_NUM_THREADS=8" in script
    assert after(arguments_of(script), "--nthreads") == "1"


def test_a_job_may_wait_for_a_day_before_it_is_an_error():
    assert Settings(kind="slurm").worker_timeout == 86400


class Queue:
    """A batch system in memory, seen through what dask-jobqueue's cluster shows of itself."""

    def __init__(self, group=None):
        self.workers = {}
        self.worker_spec = {}
        self.present = {}
        self.submitted = 0
        self.group = group

    @property
    def scheduler_info(self):
        return {"workers": {str(index): {"name": name} for index, name in enumerate(self.present)}}

    def new_worker_spec(self):
        return {f"job-{len(self.worker_spec)}": {"group": self.group} if self.group else {}}

    def __await__(self):
        for name in set(self.worker_spec) - set(self.workers):
            self.submitted += 1
            self.workers[name] = types.SimpleNamespace(job_id=str(self.submitted))
        return asyncio.sleep(0).__await__()


@pytest.fixture
def roll(monkeypatch, tmp_path):
    """A roll call of two jobs whose patience is at an end at once; a file is what the queue lists."""
    monkeypatch.setattr("cluster.roll_call.PATIENCE", -1.0)
    listing = tmp_path / "listing"

    def make(queue, listed):
        listing.write_text("\n".join(listed) + "\n")
        call = RollCall(queue, 2, ["cat", str(listing)], tmp_path)
        while len(queue.worker_spec) < 2:
            queue.worker_spec.update(queue.new_worker_spec())
        asyncio.run(_await(queue))
        return call

    return make


async def _await(queue):
    await queue


def test_jobs_that_wait_in_the_queue_are_left_alone(roll):
    queue = Queue()
    call = roll(queue, ["1", "2"])
    asyncio.run(call._call())
    assert queue.submitted == 2


def test_a_job_that_has_left_the_queue_is_submitted_again(roll):
    queue = Queue()
    call = roll(queue, ["2.server"])
    asyncio.run(call._call())
    assert sorted(job.job_id for job in queue.workers.values()) == ["2", "3"]


def test_a_job_whose_workers_are_there_is_not_looked_up(roll):
    queue = Queue(group=["-0", "-1"])
    call = roll(queue, [])
    queue.present = ["job-0-1", "job-1-0"]
    asyncio.run(call._call())
    assert queue.submitted == 2


def test_jobs_that_end_again_and_again_before_a_worker_comes_are_trouble(roll):
    queue = Queue()
    call = roll(queue, [])
    for _ in range(2):
        asyncio.run(call._call())
    assert call.trouble() is None
    asyncio.run(call._call())
    assert "6 jobs in a row ended before a worker came" in call.trouble()
    assert str(call._log_directory) in call.trouble()


def test_a_queue_that_does_not_answer_is_waited_for(roll):
    queue = Queue()
    call = roll(queue, [])
    call._list_command = ["false"]
    with pytest.raises(RuntimeError, match="false answered 1"):
        asyncio.run(call._call())
    assert queue.submitted == 2
    assert call.trouble() is None
