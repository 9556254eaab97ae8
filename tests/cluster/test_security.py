"""Credentials of one run: private, in files only while it lasts."""

from __future__ import annotations

import ast
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import ClusterError
from cluster.security import credential_files, loopback_security


def test_the_files_are_private_and_removed_at_the_end(tmp_path):
    with credential_files(tmp_path / "shared") as security:
        roles = [security.get_tls_config_for_role(role) for role in ("client", "scheduler", "worker")]
        files = {roles[0]["ca_file"], roles[0]["cert"], roles[0]["key"]}
        assert roles[0] == roles[1] == roles[2]
        assert security.require_encryption
        for file in files:
            status = os.stat(file)  # noqa: PTH116 - a string from the security object
            assert stat.S_IMODE(status.st_mode) == 0o600
        folder = next((tmp_path / "shared").iterdir())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list((tmp_path / "shared").iterdir()) == []


def test_the_mode_does_not_depend_on_the_mask(tmp_path):
    before = os.umask(0)
    try:
        with credential_files(tmp_path) as security:
            key = security.get_tls_config_for_role("worker")["key"]
            assert stat.S_IMODE(os.stat(key).st_mode) == 0o600  # noqa: PTH116
    finally:
        os.umask(before)


def test_they_are_removed_after_an_error(tmp_path):
    with pytest.raises(KeyError), credential_files(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_two_runs_have_different_keys(tmp_path):
    with credential_files(tmp_path) as one, credential_files(tmp_path) as other:
        keys = [open(each.get_tls_config_for_role("worker")["key"]).read() for each in (one, other)]  # noqa: PTH123, SIM115
    assert keys[0] != keys[1]


def test_what_a_killed_run_left_is_swept_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    for name in (f"credentials-{host}-{dead.pid}-a", f"credentials-{host}-{os.getpid()}-b", "credentials-other-1-c"):
        (tmp_path / name).mkdir()
    with credential_files(tmp_path):
        left = {folder.name.rsplit("-", 1)[1] for folder in tmp_path.iterdir()}
    assert "a" not in left
    assert {"b", "c"} <= left


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ClusterError, match=r"install stellar-catalogue\[hpc\]"), credential_files(tmp_path):
        pass


def test_the_loopback_is_protected_unless_that_is_refused():
    assert loopback_security(None).require_encryption
    assert loopback_security(False) is None


READERS_OF_PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def uses_of_pickles(path):
    """Calls in a source file that read or write pickles, and arguments that would let a library do so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in READERS_OF_PICKLES or (node.value.id, node.attr) == ("torch", "load"):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in READERS_OF_PICKLES:
            yield f"from {node.module}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield "allow_pickle"


def test_nothing_is_unpickled_from_disk():
    root = Path(__file__).resolve().parents[2]
    found = {
        str(path.relative_to(root)): uses
        for package in ("catalogue", "cluster")
        for path in sorted((root / package).rglob("*.py"))
        if (uses := sorted(set(uses_of_pickles(path))))
    }
    assert found == {
        # Weights of another package, by an unpickler that knows its few classes and refuses all others.
        "catalogue/training/emulator.py": ["pickle.Unpickler", "pickle.UnpicklingError", "torch.load"],
        # Reports of workers, over the same encrypted connection by which they get their tasks.
        "cluster/execution.py": ["pickle.dumps"],
        "cluster/flight.py": ["pickle.loads"],
    }
