"""Few workers and many, one that joins late, one that is slow: the same executions and the same bytes."""

from __future__ import annotations

import json

import pytest
from distributed import Client

from catalogue.pipeline.build import build
from tests.factories.runs import load, output_digests
from tests.faults.conftest import UNITS
from tests.faults.site import wait_for


def workers_of(directory):
    """Which process inferred each unit."""
    records = sorted((directory / "run" / "records" / "infer").glob("*/*.json"))
    return [json.loads(record.read_text())["worker"] for record in records]


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_any_number_of_workers_makes_the_same_catalogue(undisturbed, tmp_path, monkeypatch, workers):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    run = load(undisturbed.configuration, f"output.directory={tmp_path / 'run'}")
    with Client(processes=False, n_workers=workers, threads_per_worker=1, dashboard_address=None) as client:
        result = build(run, client=client)
    assert (result.ingested, result.inferred) == (UNITS, UNITS)
    assert output_digests(run) == undisturbed.digests


def test_a_worker_that_joins_late_takes_its_share(site, undisturbed, tmp_path):
    late = site.nannies.pop()
    late.kill()
    late.wait()
    site.plan_faults(*({"point": f"infer/{unit}/before", "action": "wait"} for unit in range(UNITS)))
    driver = site.begin(undisturbed.configuration, tmp_path)
    wait_for(lambda: sum(executions(site)) == 1)
    site.repair()
    # While the first worker waits within its unit, only another one can begin the next.
    wait_for(lambda: sum(executions(site)) == 2)
    site.go()
    driver.wait()
    assert driver.code == 0, driver.told
    assert executions(site) == [1] * UNITS
    assert len(set(workers_of(tmp_path))) == 2
    undisturbed.check(tmp_path)


def test_a_straggler_holds_up_no_other_unit(site, undisturbed, tmp_path):
    site.plan_faults({"point": "infer/0/before", "action": "wait"})
    driver = site.begin(undisturbed.configuration, tmp_path)
    wait_for(lambda: len(workers_of(tmp_path)) == UNITS - 1)
    site.go()
    driver.wait()
    assert driver.code == 0, driver.told
    slow, *others = workers_of(tmp_path)
    assert site.times_passed(0) == 1
    assert len(set(others)) == 1
    assert slow not in others
    undisturbed.check(tmp_path)


def executions(site):
    return [site.times_passed(unit) for unit in range(UNITS)]
