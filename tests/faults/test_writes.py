"""A process that dies before, during or after any write costs the executions of its own unit and no byte."""

from __future__ import annotations

import json
import shutil
import signal

import pytest

from tests.faults.conftest import FORMATS, UNITS


def counted(stage):
    """Entries of a plan that only count how often each unit has begun."""
    return [{"point": f"{stage}/{unit}/before", "action": "none", "times": 0} for unit in range(UNITS)]


def executions(site, first):
    return [site.times_passed(first + unit) for unit in range(UNITS)]


def test_workers_that_die_around_every_write_of_a_unit(site, undisturbed, tmp_path):
    spectra, predictions, records = "*/spectra.zarr", "*/predictions/*", "*/records"
    site.plan_faults(
        *counted("ingest"),
        *counted("infer"),
        # A chunk of spectra before, during and between its writes; then the record during and after.
        {"point": f"write:{spectra}/flux/c/0/0.*.partial", "action": "kill"},
        {"point": f"rename:{spectra}/ivar/c/1/0", "action": "kill"},
        {"point": f"rename:{spectra}/status/c/2", "action": "exit"},
        {"point": "ingest/3/written", "action": "kill"},
        {"point": f"rename:{records}/ingest/000004.json", "action": "kill"},
        {"point": "ingest/5/after", "action": "kill"},
        # A chunk of predictions and its record; the last one fails and then dies.
        {"point": f"write:{predictions}/age/c/0.*.partial", "action": "kill"},
        {"point": f"rename:{predictions}/mass/c/1", "action": "exit"},
        {"point": "infer/2/written", "action": "kill"},
        {"point": f"rename:{records}/infer/*/000003.json", "action": "kill"},
        {"point": "infer/4/after", "action": "kill"},
        {"point": "infer/5/before", "action": "oserror"},
        {"point": "infer/5/before", "action": "kill", "spared": 1},
    )
    driver = site.build(undisturbed.configuration, tmp_path)
    assert driver.code == 0, driver.told
    # A unit whose record is there is not done again, although its worker's answer was lost.
    assert executions(site, 0) == [2, 2, 2, 2, 2, 1]
    assert executions(site, UNITS) == [2, 2, 2, 2, 1, 3]
    undisturbed.check(tmp_path)


def test_a_hang_is_ended_and_the_unit_done_again(site, undisturbed, tmp_path):
    site.plan_faults(*counted("infer"), {"point": "infer/2/written", "action": "hang"})
    driver = site.build(undisturbed.configuration, tmp_path, time_limit=5.0)
    assert driver.code == 0, driver.told
    assert executions(site, 0) == [1, 1, 2, 1, 1, 1]
    undisturbed.check(tmp_path)


def test_an_error_in_the_program_stops_at_once_and_the_rest_is_done_later(site, undisturbed, tmp_path):
    site.plan_faults(*counted("infer"), {"point": "infer/1/written", "action": "raise"})
    driver = site.build(undisturbed.configuration, tmp_path)
    assert driver.code == 1
    assert "PlannedFault" in driver.told
    assert "infer-1-rows-64-127" in driver.told
    assert executions(site, 0)[1] == 1
    kept = {int(record.stem) for record in tmp_path.glob("run/records/infer/*/*.json")}
    assert site.build(undisturbed.configuration, tmp_path).code == 0
    counts = executions(site, 0)
    assert counts[1] == 2
    assert [counts[unit] for unit in kept] == [1] * len(kept)
    undisturbed.check(tmp_path)


MERGE_POINTS = [
    *(f"write:*/lamost_age_mass.{suffix}.partial*" for suffix in ("fits", "csv.gz", "parquet", "vot*", "zarr")),
    *(f"rename:*/lamost_age_mass.{suffix}" for suffix in ("fits", "csv.gz", "parquet", "vot*", "zarr")),
    *(f"merge/{name}/written" for name in FORMATS),
    "merge/3/before",
    "rename:*/records/merge/lamost_age_mass.json",
    "merge/lamost_age_mass/after",
    "rename:*/provenance.json",
]


# Every format and every moment once; `pytest -m long` has all of both.
SAMPLE = (0, 6, 12, 3, 9, 15, 16, 18)


@pytest.mark.parametrize(
    "point",
    [
        point if number in SAMPLE else pytest.param(point, marks=pytest.mark.long)
        for number, point in enumerate(MERGE_POINTS)
    ],
)
def test_a_driver_that_dies_around_a_write_of_the_merge(site, undisturbed, tmp_path, point):
    run = tmp_path / "run"
    # Without the provenance: one that tells the truth already is not written again.
    merged = shutil.ignore_patterns("lamost_age_mass.*", "report*", "provenance.json")
    shutil.copytree(undisturbed.directory / "run", run, ignore=merged)
    site.plan_faults({"point": point, "action": "kill"})
    driver = site.build(undisturbed.configuration, tmp_path, with_cluster=False)
    assert driver.code == -signal.SIGKILL, driver.told
    assert site.times_passed(0) == 1
    again = site.build(undisturbed.configuration, tmp_path, with_cluster=False)
    assert again.code == 0, again.told
    undisturbed.check(tmp_path)
    provenance = [json.loads((path / "provenance.json").read_text()) for path in (run, undisturbed.directory / "run")]
    assert provenance[0]["entity"] == provenance[1]["entity"]
