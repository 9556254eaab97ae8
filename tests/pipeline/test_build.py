"""The whole chain on small simulated surveys: rows, resume, reruns, equal bytes; deaths are in ``tests/faults``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from catalogue.pipeline.build import Interrupted, Quiet, build, plan
from catalogue.pipeline.lock import RunLocked
from catalogue.pipeline.records import record_with_files
from catalogue.pipeline.status import problems, run_status
from catalogue.spectra.primitives import RowStatus
from cluster import NoWorkersError
from tests.factories.runs import load, output_digests, times_passed, write_fault_plan, write_run


def catalogue_of(run) -> Table:
    return Table.read(run.directory.root / "lamost_age_mass.fits")


def build_in_process(configuration, *arguments, faults=None, wait=True):
    """Run the command in a process of its own, as a user does."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    if faults is not None:
        environment["CATALOGUE_FAULTS"] = str(faults)
    command = [sys.executable, "-m", "catalogue", "build", str(configuration), "--set", "workers=2", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not wait:
        return process
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def test_every_parent_row_is_in_every_output_in_its_order(tmp_path, client):
    run = load(write_run(tmp_path, rows=150))
    result = build(run, client=client)
    parent = Table.read(run.configuration.parent.path, format="ascii.csv")
    found = catalogue_of(run)
    assert result.rows == len(found) == len(parent) == 150
    assert list(found["obsid"]) == list(parent["obsid"])
    status = np.asarray(found["STATUS"])
    assert not (status == RowStatus.NOT_PROCESSED).any()
    without = np.array([not name for name in parent["filename"].filled("")]) if parent.has_masked_columns else None
    if without is not None:
        assert (status[without] == RowStatus.NO_SPECTRUM).all()
    usable = np.isin(status, [RowStatus.OK, RowStatus.DUPLICATE])
    assert usable.sum() > 60
    assert np.isnan(np.asarray(found["Age"])[~usable]).all()


def test_inherited_columns_are_unmodified(tmp_path, client):
    run = load(write_run(tmp_path, rows=70))
    build(run, client=client)
    parent = Table.read(run.configuration.parent.path, format="ascii.csv")
    found = catalogue_of(run)
    for name in ("teff", "logg", "feh", "snrg", "ra", "dec"):
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(parent[name]), err_msg=name)


def test_an_unprocessed_row_never_looks_processed_and_missing(tmp_path):
    run = load(write_run(tmp_path, rows=70))
    assert run_status(run).manifest is None
    assert plan(run).ingest.counts == {"new": 2}


def test_a_second_build_does_nothing(tmp_path, client):
    run = load(write_run(tmp_path, rows=130))
    first = build(run, client=client)
    before = output_digests(run)
    second = build(run)  # no client: it must not need one
    assert first.ingested == first.inferred == 3
    assert second.nothing_to_do
    assert output_digests(run) == before
    assert plan(run).nothing_to_do


@pytest.mark.parametrize("rows", [0, 1, 64, 65])
def test_awkward_numbers_of_rows(tmp_path, client, rows):
    run = load(write_run(tmp_path, rows=rows, missing=0.0, damaged=0.0), "output.report=true")
    build(run, client=client)
    assert len(catalogue_of(run)) == rows
    for name in ("lamost_age_mass.csv.gz", "lamost_age_mass.parquet", "lamost_age_mass.zarr", "report.html"):
        assert (run.directory.root / name).exists()


def test_chunking_and_batching_change_no_byte_of_the_catalogue(tmp_path, client):
    reference = load(write_run(tmp_path, rows=200))
    build(reference, client=client)
    for name, overrides in {
        "large": ("spectra.chunk_rows=256", "inference.granules=1"),
        "middle": ("spectra.chunk_rows=128", "inference.granules=3"),
    }.items():
        other = load(tmp_path / "run.yaml", *overrides, f"output.directory={tmp_path / name}")
        build(other, client=client)
        assert output_digests(other) == output_digests(reference)


def test_every_row_with_a_problem_has_a_reason(tmp_path, client):
    run = load(write_run(tmp_path, rows=150, missing=0.2, damaged=0.2))
    build(run, client=client)
    status = np.asarray(catalogue_of(run)["STATUS"])
    listed = list(problems(run))
    assert [problem.row for problem in listed] == list(np.flatnonzero(status != RowStatus.OK))
    assert all(problem.reason for problem in listed)
    assert len({problem.status for problem in listed}) >= 3


def test_rows_left_out_by_the_selection_do_not_hide_the_problems(tmp_path, client):
    run = load(write_run(tmp_path, rows=100, missing=0.2, damaged=0.1), "select=obsid % 2 == 0", "output.report=true")
    build(run, client=client)
    status = np.asarray(catalogue_of(run)["STATUS"])
    expected = np.flatnonzero(~np.isin(status, [RowStatus.OK, RowStatus.NOT_SELECTED]))
    assert (status == RowStatus.NOT_SELECTED).any()
    assert [problem.row for problem in problems(run)] == list(expected)
    page = (run.directory.root / "report.html").read_text()
    section = page[page.index('id="problems-title"') :].partition("</section>")[0]
    assert f"<p>{len(expected)} in all" in section
    assert "NOT_SELECTED" not in section


def test_a_second_run_in_the_same_directory_is_refused(tmp_path, client):
    run = load(write_run(tmp_path, rows=64))
    from catalogue.pipeline.lock import RunLock

    run.directory.root.mkdir(parents=True)
    with RunLock(run.directory.lock), pytest.raises(RunLocked, match=f"process {os.getpid()}"):
        build(run, client=client)


def test_a_stopped_run_goes_on_where_it_was(tmp_path, client):
    run = load(write_run(tmp_path, rows=200))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        build(run, client=client, stop=stop)
    assert not list(run.directory.root.glob("lamost_age_mass.*"))
    build(run, client=client)
    assert len(catalogue_of(run)) == 200


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run built without faults, in processes of its own."""
    os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    directory = tmp_path_factory.mktemp("undisturbed")
    configuration = write_run(directory, rows=200)
    code, output = build_in_process(configuration)
    assert code == 0, output
    return configuration, output_digests(load(configuration))


def test_a_programming_error_stops_the_run_with_unit_rows_and_traceback(undisturbed, tmp_path):
    configuration, _ = undisturbed
    faults = write_fault_plan(tmp_path / "faults.json", {"point": "infer/1/before", "action": "raise", "times": 9})
    code, output = build_in_process(configuration, "--set", f"output.directory={tmp_path / 'run'}", faults=faults)
    assert code == 1
    assert "PlannedFault" in output
    assert "infer-1" in output
    assert times_passed(faults, 0) == 1


def test_a_unit_that_kills_its_workers_is_set_aside_and_merge_refuses(undisturbed, tmp_path):
    configuration, _ = undisturbed
    faults = write_fault_plan(tmp_path / "faults.json", {"point": "infer/1/before", "action": "kill", "times": 99})
    directory = f"output.directory={tmp_path / 'run'}"
    code, output = build_in_process(configuration, "--set", directory, faults=faults)
    assert code == 3, output
    assert times_passed(faults, 0) == 3
    run = load(configuration, directory)
    assert not (run.directory.root / "lamost_age_mass.fits").exists()
    assert "1 units are not done" in output
    code, output = build_in_process(configuration, "--set", directory, "--allow-incomplete", faults=faults)
    assert code == 3
    table = catalogue_of(run)
    assert (np.asarray(table["STATUS"])[64:128] == RowStatus.SET_ASIDE).all()
    assert (np.asarray(table["STATUS"])[:64] != RowStatus.SET_ASIDE).all()
    assert np.isnan(np.asarray(table["Age"])[64:128]).all()
    assert fits.getheader(run.directory.root / "lamost_age_mass.fits", 1)["COMPLETE"] == "no"


def test_records_that_a_file_system_shows_late_are_waited_for(tmp_path, client, monkeypatch):
    seen_first: dict[tuple[str, int], float] = {}

    def late(directory, unit, store):
        record = record_with_files(directory, unit, store)
        since = seen_first.setdefault((str(directory), unit), time.monotonic()) if record else time.monotonic()
        return record if unit != 1 or time.monotonic() - since > 0.5 else None

    monkeypatch.setattr("catalogue.pipeline.plan.record_with_files", late)
    result = build(load(write_run(tmp_path, rows=150)), client=client)
    assert (result.ingested, result.inferred, result.merged[0].rows) == (3, 3, 150)


class StopAt(Quiet):
    """Progress that gives the order to stop when a stage begins."""

    def __init__(self, name):
        self.name = name
        self.stop = threading.Event()

    @contextmanager
    def stage(self, name, rows, dashboard):
        if name.startswith(self.name):
            self.stop.set()
        yield lambda rows: None


def test_the_order_to_stop_is_heard_while_files_are_written(tmp_path, client):
    run = load(write_run(tmp_path, rows=150))
    ordered = StopAt("merge")
    with pytest.raises(Interrupted, match="lamost_age_mass"):
        build(run, client=client, progress=ordered, stop=ordered.stop)
    assert not list(run.directory.root.glob("lamost_age_mass*"))
    assert not run_status(run).stages[0].to_do


def test_a_run_told_to_stop_before_its_first_unit_starts_no_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.connect", None)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted, match="before stage ingest"):
        build(load(write_run(tmp_path, rows=10)), stop=stop)


def test_the_logs_that_a_failed_run_names_stay_until_one_ends_well(tmp_path, client, monkeypatch):
    @contextmanager
    def failing(where, *, scratch, **settings):
        for name in ("logs", "credentials"):
            (scratch / name).mkdir(parents=True)
        (scratch / "logs" / "worker.err").write_text("no such module")
        raise NoWorkersError(f"look at the logs in {scratch / 'logs'}")
        yield

    run = load(write_run(tmp_path, rows=10))
    monkeypatch.setattr("cluster.connect", failing)
    with pytest.raises(NoWorkersError):
        build(run)
    assert [str(path.relative_to(run.directory.scratch)) for path in run.directory.scratch.rglob("*")] == [
        "logs",
        "logs/worker.err",
    ]
    build(run, client=client)
    assert not run.directory.scratch.exists()


def test_a_bundle_with_one_byte_changed_is_refused(tmp_path):
    from catalogue.config import ConfigurationError

    configuration = write_run(tmp_path, rows=10)
    weights = tmp_path / "bundle" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"model: .*damaged"):
        load(configuration)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_run_cleanly_and_says_how_to_go_on(undisturbed, tmp_path, signal_number):
    configuration, expected = undisturbed
    # as a terminal starts it; the tests themselves may run under nohup, whose deafness children inherit
    earlier = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    faults = write_fault_plan(tmp_path / "faults.json", {"point": "infer/1/before", "action": "hang", "times": 1})
    directory = f"output.directory={tmp_path / 'run'}"
    process = build_in_process(configuration, "--set", directory, faults=faults, wait=False)
    signal.signal(signal.SIGHUP, earlier)
    deadline = time.monotonic() + 600
    while not times_passed(faults, 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert times_passed(faults, 0) == 1
    process.send_signal(signal_number)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 130, output
    assert "run the same command again" in output
    assert not (tmp_path / "run" / "run.lock").exists()
    code, output = build_in_process(configuration, "--set", directory, faults=faults)
    assert code == 0, output
    assert output_digests(load(configuration, directory)) == expected
