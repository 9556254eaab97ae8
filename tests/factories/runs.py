"""Small complete runs: a survey on disk, a tiny bundle, a configuration."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client

from catalogue.config import load_run_configuration
from catalogue.pipeline.build import build
from catalogue.pipeline.run import Run, resolve_run
from tests.factories.bundles import tiny_spt_bundle
from tests.factories.lamost import write_survey


def write_run(directory: Path, rows: int = 150, *, missing: float = 0.2, damaged: float = 0.05, **changes: Any) -> Path:
    """Write survey, bundle and configuration; ``changes`` replace top-level keys of the configuration.

    Without a report page, which takes longer than all the rest of so small a run.
    """
    shutil.copytree(_survey_and_bundle(rows, missing, damaged), directory, dirs_exist_ok=True)
    parent = directory / "survey" / "parent.csv"
    content = {
        "survey": "lamost-lrs",
        "parent": {"path": str(parent), "key": "obsid"},
        "spectra": {"root": str(parent.parent / "spectra"), "path": "{filename}", "chunk_rows": 64},
        "model": str(directory / "bundle"),
        "product": "lamost_age_mass",
        "output": {"directory": str(directory / "run"), "formats": ["fits", "csv", "parquet", "zarr"], "report": False},
        "inference": {"passes": 8, "device": "cpu"},
    }
    content.update(changes)
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@functools.cache
def _survey_and_bundle(rows: int, missing: float, damaged: float) -> Path:
    """Survey and bundle, made once per process; every run gets a copy of its own."""
    directory = Path(tempfile.mkdtemp(prefix="catalogue-tests-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    write_survey(directory / "survey", rows, missing=missing, damaged=damaged)
    tiny_spt_bundle(directory / "bundle")
    return directory


def load(path: Path, *overrides: str) -> Run:
    """Run of a configuration file."""
    return resolve_run(load_run_configuration(path, list(overrides)))


def build_here(path: Path, *overrides: str, **keywords: Any) -> dict[str, str]:
    """Build a run in a thread of this process; returns the digests of its files."""
    run = load(path, *overrides)
    client = Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None, set_as_default=False)
    with pytest.MonkeyPatch.context() as monkeypatch, client:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        build(run, client=client, **keywords)
    return output_digests(run)


def output_digests(run: Run) -> dict[str, str]:
    """Digest of every file of every catalogue output, by relative path; the report tells of time and is left out."""
    digests = {}
    for product in run.products:
        for entry in sorted(run.directory.root.glob(f"{product.name}.*")):
            files = sorted(path for path in entry.rglob("*") if path.is_file()) if entry.is_dir() else [entry]
            for path in files:
                name = str(path.relative_to(run.directory.root))
                digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def write_fault_plan(path: Path, *faults: dict[str, Any]) -> Path:
    """Fault plan for the environment variable ``CATALOGUE_FAULTS``."""
    path.write_text(json.dumps(faults))
    return path


def times_passed(plan: Path, fault: int) -> int:
    """How often a planned point was passed, over all processes."""
    counter = Path(f"{plan}.{fault}")
    return counter.stat().st_size if counter.exists() else 0
