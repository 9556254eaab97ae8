"""What a command need not have is not imported: torch and Dask take seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.factories.runs import build_here, write_run

SLOW = {"torch", "dask", "distributed", "numba", "matplotlib", "xarray"}

PROGRAM = """
import sys
from typer.testing import CliRunner
from catalogue.cli import app
result = CliRunner().invoke(app, sys.argv[1:])
assert result.exit_code == 0, result.output
print(result.output)
print("imported:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def output_of(*arguments):
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["models", "--help"], ["cluster", "--help"]])
def test_help_imports_nothing_that_computes(arguments):
    told, _, imported = output_of(*arguments).rpartition("imported:")
    assert "Usage" in told
    assert not SLOW & set(imported.split())


def test_a_build_with_nothing_to_do_imports_neither_torch_nor_dask(tmp_path, monkeypatch):
    configuration = write_run(tmp_path, rows=20)
    build_here(configuration)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    told, _, imported = output_of("build", configuration).rpartition("imported:")
    assert "nothing to do: 20 rows are up to date" in told
    assert not SLOW & set(imported.split())


def test_module_and_command_are_the_same():
    told = subprocess.run([sys.executable, "-m", "catalogue", "--version"], check=True, capture_output=True, text=True)
    assert told.stdout.strip().count(".") == 2
