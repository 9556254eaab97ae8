"""What a command need not have is not imported: torch and Dask take seconds."""

from __future__ import annotations

import subprocess
import sys

from tests.factories.runs import build_here, write_run

SLOW = {"torch", "dask", "distributed", "numba", "matplotlib", "xarray"}

PROGRAM = """
import sys
from typer.testing import CliRunner
from catalogue.cli import app
for words in sys.argv[1:]:
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    print(result.output)
print("imported:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def output_of(*commands):
    """What commands, run one after the other in a new process, print, and then all that it has imported."""
    command = [sys.executable, "-c", PROGRAM, *commands]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_help_imports_nothing_that_computes():
    told, _, imported = output_of("--help", "build --help", "models --help", "cluster --help").rpartition("imported:")
    assert told.count("Usage") == 4
    assert not SLOW & set(imported.split())


def test_a_build_with_nothing_to_do_imports_neither_torch_nor_dask(tmp_path, monkeypatch):
    configuration = write_run(tmp_path, rows=20)
    build_here(configuration)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    told, _, imported = output_of(f"build {configuration}").rpartition("imported:")
    assert "nothing to do: 20 rows are up to date" in told
    assert not SLOW & set(imported.split())


def test_module_and_command_are_the_same():
    told = subprocess.run([sys.executable, "-m", "catalogue", "--version"], check=True, capture_output=True, text=True)
    assert told.stdout.strip().count(".") == 2
