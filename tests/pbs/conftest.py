"""Commands ``qsub``, ``qdel``, ``qselect`` and ``qstat`` on the path: a stand-in, not a PBS."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

STAND_IN = Path(__file__).with_name("stand_in.py")


class StandIn:
    """What the jobs are doing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def queue(self) -> list[str]:
        """Identifiers of the jobs that have not ended."""
        return subprocess.run(["qstat"], capture_output=True, text=True, check=True).stdout.split()

    def ended(self) -> dict[str, int]:
        """Exit codes of the jobs that have."""
        return {path.stem: int(path.read_text()) for path in self.directory.glob("*.ended") if path.read_text()}

    def delete(self, identifier: str) -> None:
        subprocess.run(["qdel", identifier], check=True)


def wait_until(condition, seconds: float):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return value


@pytest.fixture
def pbs(tmp_path, monkeypatch):
    directory, commands = tmp_path / "pbs", tmp_path / "commands"
    directory.mkdir()
    commands.mkdir()
    for name in ("qsub", "qdel", "qselect", "qstat"):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} {name} "$@"\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PBS_STAND_IN", str(directory))
    stand_in = StandIn(directory)
    yield stand_in
    for identifier in stand_in.queue():
        subprocess.run(["qdel", identifier], check=False)
    wait_until(lambda: not stand_in.queue(), 60)
