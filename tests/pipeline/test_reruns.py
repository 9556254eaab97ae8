"""Reruns: only what changed is done, and the result is that of a full rebuild, byte for byte."""

from __future__ import annotations

import shutil

import pytest
from distributed import Client

from catalogue.pipeline.build import build, plan
from catalogue.pipeline.prune import prune, unused_predictions
from catalogue.spectra.primitives import RowColumn
from catalogue.spectra.store import open_store, read_rows
from catalogue.surveys.lamost import LamostLowResolution
from tests.factories.bundles import tiny_spt_bundle
from tests.factories.lamost import write_coadd
from tests.factories.runs import load, output_digests, write_run

ROWS = 200  # four units of 64 rows, the last one partial


@pytest.fixture
def built(tmp_path, client):
    configuration = write_run(tmp_path, rows=ROWS, missing=0.1, damaged=0.0)
    run = load(configuration)
    build(run, client=client)
    return configuration


def rerun(configuration, tmp_path, client, *overrides):
    """Build again, and compare with a full build elsewhere; returns units ingested and inferred."""
    run = load(configuration, *overrides)
    result = build(run, client=client)
    full = load(configuration, *overrides, f"output.directory={tmp_path / 'full'}")
    build(full, client=client)
    assert output_digests(run) == output_digests(full)
    return result.ingested, result.inferred


def parent_lines(configuration):
    path = load(configuration).configuration.parent.path
    return path, path.read_text().splitlines()


def file_of(line, configuration):
    return load(configuration).configuration.spectra.root / line.rsplit(",", 1)[-1]


def row_with_a_file(lines, first):
    return next(number for number in range(first, len(lines)) if not lines[number].endswith(","))


def test_after_a_model_update_only_predictions_are_made_again(built, tmp_path, client):
    tiny_spt_bundle(tmp_path / "other", seed=5)
    assert rerun(built, tmp_path, client, f"model={tmp_path / 'other'}") == (0, 4)


def test_other_passes_make_only_predictions_again(built, tmp_path, client):
    assert rerun(built, tmp_path, client, "inference.passes=5") == (0, 4)


def test_an_earlier_model_is_still_there_until_it_is_pruned(built, tmp_path, client):
    tiny_spt_bundle(tmp_path / "other", seed=5)
    new = load(built, f"model={tmp_path / 'other'}")
    build(new, client=client)
    back = build(load(built))  # no cluster is needed
    assert (back.ingested, back.inferred) == (0, 0)
    assert back.merged[0].written
    assert len(unused_predictions(new)) == 1
    prune(new)
    assert unused_predictions(new) == []
    assert build(load(built), client=client).inferred == 4


def test_another_option_of_the_product_is_only_a_merge(built, tmp_path, client):
    assert rerun(built, tmp_path, client, "options={outside_domain: keep}") == (0, 0)


def test_another_format_is_only_a_merge(built, tmp_path, client):
    run = load(built, "output.formats=[fits, votable]")
    result = build(run, client=client)
    assert (result.ingested, result.inferred) == (0, 0)
    full = load(built, "output.formats=[fits, votable]", f"output.directory={tmp_path / 'full'}")
    build(full, client=client)
    assert output_digests(full).items() <= output_digests(run).items()


def test_a_format_no_longer_asked_for_does_not_outlive_its_model(built, tmp_path, client):
    tiny_spt_bundle(tmp_path / "other", seed=5)
    run = load(built, "output.formats=[fits]", f"model={tmp_path / 'other'}")
    build(run, client=client)
    assert sorted(path.name for path in run.directory.root.glob("lamost_age_mass.*")) == ["lamost_age_mass.fits"]


def test_a_replaced_file_makes_its_unit_again(built, tmp_path, client):
    _, lines = parent_lines(built)
    number = row_with_a_file(lines, 70)
    cells = dict(zip(lines[0].split(","), lines[number].split(","), strict=True))
    cards = {"RA": float(cells["ra"]), "DEC": float(cells["dec"]), "Z": float(cells["z"])}
    write_coadd(file_of(lines[number], built), int(cells["obsid"]), seed=77_777, cards=cards)
    found = plan(load(built))
    assert found.ingest.counts == {"done": 3, "stale": 1}
    assert found.ingest.causes == {"rows": 1}
    assert rerun(built, tmp_path, client) == (1, 1)


def test_a_removed_file_makes_its_unit_again(built, tmp_path, client):
    _, lines = parent_lines(built)
    file_of(lines[row_with_a_file(lines, 140)], built).unlink()
    assert rerun(built, tmp_path, client) == (1, 1)


def test_a_touched_file_with_the_same_content_costs_no_inference(built, tmp_path, client):
    _, lines = parent_lines(built)
    file_of(lines[row_with_a_file(lines, 1)], built).touch()
    run = load(built)
    before = output_digests(run)
    result = build(run, client=client)
    assert (result.ingested, result.inferred) == (1, 0)
    assert output_digests(run) == before


def test_appended_rows_make_the_last_unit_and_new_ones(built, tmp_path, client):
    path, lines = parent_lines(built)
    extra = [lines[3].replace(lines[3].split(",")[0], str(10**9 + number)) for number in range(80)]
    path.write_text("\n".join([*lines, *extra]) + "\n")
    assert rerun(built, tmp_path, client) == (2, 2)


def test_an_inserted_row_moves_the_others_without_reading_their_files(built, tmp_path, client):
    path, lines = parent_lines(built)
    inserted = lines[1].replace(lines[1].split(",")[0], "12345")
    path.write_text("\n".join([*lines[:100], inserted, *lines[100:]]) + "\n")
    with_files = sum(not line.endswith(",") for line in lines[65:])
    assert rerun(built, tmp_path, client) == (3, 3)
    records = [unit.record for unit in plan(load(built)).ingest.units if unit.unit]
    # The row that was inserted is read; the one that it pushed out of the first unit's neighbourhood is not.
    assert sum(record.reused for record in records) == with_files


@pytest.mark.parametrize("change", ["reversed", "removed"])
def test_reordered_or_removed_rows_are_matched_by_key(built, tmp_path, client, change):
    path, lines = parent_lines(built)
    rows = lines[:0:-1] if change == "reversed" else [line for n, line in enumerate(lines) if n and n % 50]
    path.write_text("\n".join([lines[0], *rows]) + "\n")
    done = rerun(built, tmp_path, client)
    units = plan(load(built)).ingest.units
    assert done == (len(units), len(units))
    # No file is read again: every row that has one is taken from where it was.
    assert sum(unit.record.reused for unit in units) == sum(not row.endswith(",") for row in rows)


@pytest.mark.parametrize(
    ("lost", "units"),
    [
        ("spectra.zarr/flux/c/1/0", (1, 0)),
        ("spectra.zarr/status/c/0", (1, 0)),
        ("spectra.zarr/zarr.json", (4, 0)),
        ("predictions/*.zarr/age/c/2", (0, 1)),
        ("predictions/*.zarr/zarr.json", (0, 4)),
        ("predictions", (0, 4)),
    ],
)
def test_what_a_file_system_has_removed_for_its_age_is_made_again(built, tmp_path, client, lost, units):
    run = load(built)
    [path] = run.directory.root.glob(lost)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run.directory.root / "lamost_age_mass.fits").unlink()
    found = plan(run)
    assert (len(found.ingest.to_do), sum(stage.counts.get("new", 0) for stage in found.inferences.values())) == units
    assert rerun(built, tmp_path, client) == units


def test_a_chunk_that_a_crash_left_empty_is_made_again(built, tmp_path, client):
    (load(built).directory.spectra / "ivar/c/0/0").write_bytes(b"")
    assert rerun(built, tmp_path, client) == (1, 0)


def test_a_run_moved_elsewhere_goes_on_there(built, tmp_path, client):
    shutil.move(tmp_path / "run", tmp_path / "moved")
    result = build(load(built, f"output.directory={tmp_path / 'moved'}"))
    assert (result.ingested, result.inferred) == (0, 0)


def test_a_run_killed_while_it_lays_out_a_changed_parent_table_goes_on(built, tmp_path, client, monkeypatch):
    path, lines = parent_lines(built)
    path.write_text("\n".join([lines[0], *lines[2:]]) + "\n")

    def killed(source, destination):
        destination.write_bytes(source.read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr("catalogue.pipeline.parent_change.shutil.copyfile", killed)
    with pytest.raises(KeyboardInterrupt):
        build(load(built), client=client)
    monkeypatch.undo()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    rerun(built, tmp_path, client)


def test_a_survey_that_reads_its_parent_table_otherwise_imports_it_anew(built, monkeypatch):
    _, lines = parent_lines(built)
    assert plan(load(built)).nothing_to_do
    teff = float(lines[70].split(",")[lines[0].split(",").index("teff")])
    monkeypatch.setattr(LamostLowResolution, "null_values", (-9999.0, teff))
    assert [unit.state for unit in plan(load(built)).ingest.units] == ["done", "stale", "done", "done"]


def test_a_reader_with_another_column_gets_a_store_with_it(built, monkeypatch):
    column = RowColumn("file_plan", "str", "", "PLANID of the file", card="file_plan")
    monkeypatch.setattr(LamostLowResolution, "columns", (*LamostLowResolution.columns, column))
    monkeypatch.setattr(LamostLowResolution, "reader_version", LamostLowResolution.reader_version + 1)
    run = load(built)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as inside:
        result = build(run, client=inside)
    assert result.ingested == 4
    store = open_store(run.directory.spectra)
    assert store.attrs["reader_version"] == LamostLowResolution.reader_version
    assert read_rows(store, ["file_plan"], 0, 1)["file_plan"][0] == ""
