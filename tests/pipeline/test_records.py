import pytest

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
