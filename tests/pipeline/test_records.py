import os

import pytest
from distributed import Client

from catalogue.pipeline.build import build
from catalogue.pipeline.records import (
    DamagedFile,
    Record,
    digest_of,
    read_json,
    read_record,
    record_path,
    write_json,
    write_record,
)
from tests.factories.runs import load, write_run


def test_a_record_is_read_back_as_written(tmp_path):
    record = Record(0, 64, {"rows": "a"}, "b", {"OK": 60, "NO_SPECTRUM": 4}, 1.5, "host:1")
    write_record(tmp_path, 3, record)
    assert read_record(tmp_path, 3) == record
    assert read_record(tmp_path, 4) is None


def test_a_damaged_record_counts_as_not_done(tmp_path):
    for content in (
        "",
        "{",
        "[]",
        '{"start": 1}',
        '{"start": 0, "stop": 1, "inputs": {}, "output": "", "x": 1}',
    ):
        record_path(tmp_path, 0).write_text(content)
        assert read_record(tmp_path, 0) is None


def test_nothing_half_written_is_left_under_a_records_name(tmp_path):
    write_record(tmp_path, 0, Record(0, 1, {}, ""))
    assert [path.name for path in tmp_path.iterdir()] == ["000000.json"]


def test_all_files_of_a_unit_are_flushed_to_disk_before_its_record_names_them(tmp_path, monkeypatch):
    run = load(write_run(tmp_path, rows=20))
    flushed: set[str] = set()
    fsync = os.fsync

    def flush(descriptor):
        flushed.add(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115 - a string
        fsync(descriptor)

    def write(directory, unit, record):
        store = run.directory.spectra if directory == run.directory.ingest_records else predictions()
        assert record.files
        assert {str(store / name) for name in record.files} <= flushed
        write_record(directory, unit, record)

    def predictions():
        return next(run.directory.root.glob("predictions/*.zarr"))

    monkeypatch.setattr("os.fsync", flush)
    monkeypatch.setattr("catalogue.pipeline.tasks.write_record", write)
    with Client(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None, set_as_default=False
    ) as one:
        build(run, client=one)
    assert str(run.directory.root / "lamost_age_mass.fits") in flushed


def test_processes_of_two_machines_do_not_write_one_temporary_file(tmp_path, monkeypatch):
    names = set()
    replace = type(tmp_path).replace
    monkeypatch.setattr(type(tmp_path), "replace", lambda self, to: (names.add(self.name), replace(self, to))[1])
    for host in ("node1", "node2"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        write_json(tmp_path / "x.json", {})
    assert len(names) == 2


def test_a_digest_depends_on_values_and_not_on_key_order():
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_any_flipped_bit_of_a_sealed_file_is_found(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"rate": 1e-05, "name": "\u00e9\u20ac", "inputs": {"rows": "ab"}, "empty": [], "n": -0.25})
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(DamagedFile):
            read_json(path)


def test_a_file_without_a_seal_is_believed(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"rows": 3}')
    assert read_json(path) == {"rows": 3}
