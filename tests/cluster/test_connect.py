"""Descriptions of clusters: what is wrong is said with source, key, expected and found."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

import cluster
from cluster import ClusterError
from cluster.connect import kind_names, load_settings


def test_the_kinds_are_the_modules():
    assert kind_names() == ["address", "cuda", "local", "mpi", "pbs", "scheduler_file", "slurm"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere", "expected local, cuda, a scheduler's address or a YAML file, found 'nowhere'"),
        ({}, "kind: expected one of address, cuda, local, mpi, pbs, scheduler_file, slurm, found None"),
        ({"kind": "cloud"}, "found 'cloud'"),
        ({"kind": "local", "wokers": 3}, r"cluster: wokers: unknown key; did you mean workers\?"),
        ({"kind": "local", "workers": 0}, "workers: .*found 0"),
        ({"kind": "slurm", "cores": "many"}, "cores: .*found 'many'"),
        ({"kind": "slurm", "walltime": 36000}, "walltime: .*in quotes.*found 36000"),
        ({"kind": "mpi", "launcher": []}, "launcher"),
        ({"kind": "slurm", "memory": 16}, "cluster: memory: expected text with a unit.*found 16"),
        (
            {"kind": "slurm", "job_script_prologue": "module load python"},
            r'cluster: job_script_prologue: expected a list, such as \["module load python"\], found',
        ),
        ({"kind": "pbs", "job_extra_directives": "-m n"}, "job_extra_directives: expected a list"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path, where, message):
    with pytest.raises(ClusterError, match=message):
        load_settings(where, relative_to=tmp_path)


def test_a_file_is_found_relative_to_the_directory_and_named_in_errors(tmp_path):
    (tmp_path / "mine.yaml").write_text("kind: local\nworkers: 2\n")
    assert load_settings("mine.yaml", relative_to=tmp_path).workers == 2
    (tmp_path / "mine.yaml").write_text("kind: local\nworkers: two\n")
    with pytest.raises(ClusterError, match=r"mine\.yaml: workers: .*found 'two'"):
        load_settings("mine.yaml", relative_to=tmp_path)


@pytest.mark.parametrize("text", ["- a\n- b\n", "", "a: [1\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ClusterError, match=r"mine\.yaml: (expected keys and values|not YAML)"):
        load_settings("mine.yaml", relative_to=tmp_path)


def test_a_walltime_without_quotes_is_what_yaml_makes_of_it():
    # The reason for the check: ten hours become 36000, which Slurm reads as minutes.
    assert yaml.safe_load("walltime: 10:00:00") == {"walltime": 36000}


def test_an_open_scheduler_is_refused_beyond_the_loopback(tmp_path):
    with (
        pytest.raises(ClusterError, match="expected a tls:// address"),
        cluster.connect("tcp://192.0.2.1:8786", relative_to=tmp_path, scratch=tmp_path),
    ):
        pass


def test_credentials_come_together(tmp_path):
    where = {"kind": "address", "address": "tls://127.0.0.1:1", "tls_ca_file": "ca.pem"}
    with (
        pytest.raises(ClusterError, match="tls_cert, tls_key: expected"),
        cluster.connect(where, relative_to=tmp_path, scratch=tmp_path),
    ):
        pass


def test_a_scheduler_that_does_not_answer_is_an_error(tmp_path):
    where = {"kind": "address", "address": "tcp://127.0.0.1:1", "timeout": 0.5}
    with (
        pytest.raises(ClusterError, match=r"no scheduler could be reached at tcp://127\.0\.0\.1:1"),
        cluster.connect(where, relative_to=tmp_path, scratch=tmp_path),
    ):
        pass


def test_a_missing_scheduler_file_is_an_error(tmp_path):
    where = {"kind": "scheduler_file", "scheduler_file": str(tmp_path / "none.json")}
    with (
        pytest.raises(ClusterError, match=r"none\.json: expected the file of a running Dask scheduler"),
        cluster.connect(where, relative_to=tmp_path, scratch=tmp_path),
    ):
        pass


def test_cuda_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with (
        pytest.raises(ClusterError, match=r"install stellar-catalogue\[gpu\]"),
        cluster.connect("cuda", relative_to=tmp_path, scratch=tmp_path),
    ):
        pass


def test_batch_systems_without_their_package_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ClusterError, match=r"install stellar-catalogue\[hpc\]"):
        cluster.job_script({"kind": "slurm", "memory": "1 GB"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: slurm\n", r"mine\.yaml: memory: missing; expected the memory of a job"),
        ("kind: slurm\nmemory: 1 GiB\nqeue: normal\n", r"mine\.yaml: qeue: unknown key; did you mean queue\?"),
        ("kind: slurm\nmemory: 1 GiB\nwalltime: 4h\n", r"mine\.yaml: walltime: expected HH:MM:SS .*found '4h'"),
    ],
)
def test_a_job_that_cannot_be_written_is_refused_with_file_and_key(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ClusterError, match=message):
        cluster.job_script(tmp_path / "mine.yaml")


@pytest.mark.parametrize("where", [{"kind": "local"}, {"kind": "cuda"}, {"kind": "mpi"}])
def test_only_batch_systems_have_a_job_script(where):
    with pytest.raises(ClusterError, match="expected kind slurm or pbs"):
        cluster.job_script(where)


COMMENTED_KEY = re.compile(r"^# (?=[a-z_]+: )", re.MULTILINE)
FILES = sorted((Path(__file__).resolve().parents[2] / "configs" / "clusters").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_that_come_along_are_right_down_to_their_comments(path):
    settings = load_settings(path, relative_to=Path.cwd())
    commented = {**yaml.safe_load(path.read_text()), **yaml.safe_load(COMMENTED_KEY.sub("", path.read_text()))}
    full = load_settings(commented, relative_to=Path.cwd())
    assert settings.kind == full.kind == yaml.safe_load(path.read_text())["kind"]
    if settings.kind in ("slurm", "pbs"):
        assert "dask_worker" in cluster.job_script(commented)


def test_every_kind_but_one_has_a_file_that_comes_along():
    kinds = {yaml.safe_load(path.read_text())["kind"] for path in FILES}
    assert set(kind_names()) - kinds == {"scheduler_file"}
