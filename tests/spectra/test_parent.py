"""Import of parent tables of every format."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table

from catalogue.spectra.parent import (
    ParentError,
    ParentSummary,
    import_parent,
    parent_facts,
    read_parent_columns,
    read_parent_rows,
)
from catalogue.spectra.paths import PathTemplateError
from catalogue.surveys import load_survey
from tests.factories.lamost import PARENT_COLUMNS, write_parent_csv
from tests.factories.real import REAL, needs_real

LAMOST = load_survey("lamost-lrs")
BIG = 2**53 + 1


def imported(source: Path, **changes) -> tuple[ParentSummary, Path]:
    settings = {"survey": LAMOST, "key": "obsid", "template": "{filename}", "root": None, "rows_per_group": 64}
    destination = source.with_name("parent.parquet")
    return import_parent(source, destination, **{**settings, **changes}), destination


def columns_of(source: Path, names: list[str], **changes) -> dict[str, list]:
    summary, path = imported(source, **changes)
    values = read_parent_columns(path, names, 0, summary.n_rows)
    return {name: column.tolist() for name, column in values.items()}


def rows(n: int) -> list[dict]:
    return [
        {"obsid": BIG + i, "class": "STAR", "subclass": f"K{i % 5}", "snrg": 10.5 + i, "teff": 4500 + i,
         "logg": 2.5, "feh": -0.1, "ra": 10.0, "dec": -5.0, "z": 1e-4, "filename": f"s{i}.fits.gz"}
        for i in range(n)
    ]  # fmt: skip


def write_in_every_format(directory: Path, n: int = 5) -> list[Path]:
    frame = pd.DataFrame(rows(n), columns=PARENT_COLUMNS)
    paths = [directory / name for name in ("a.csv", "a.csv.gz", "a.bar", "a.fits", "a.fits.gz", "a.parquet")]
    frame.to_csv(paths[0], index=False)
    frame.to_csv(paths[1], index=False)
    frame.to_csv(paths[2], index=False, sep="|")
    table = Table.from_pandas(frame) if n else Table(
        {name: np.zeros(0, "S5" if name in ("class", "subclass", "filename") else "f8") for name in PARENT_COLUMNS}
    )  # fmt: skip
    if not n:
        table["obsid"] = table["obsid"].astype(int)
    table.write(paths[3])
    table.write(paths[4])
    frame.to_parquet(paths[5])
    return paths


@pytest.mark.parametrize("n", [0, 1, 5, 200])
def test_every_format_gives_the_same_rows_and_the_same_digest(tmp_path, n):
    summaries = []
    for path in write_in_every_format(tmp_path, n):
        summary, _ = imported(path)
        assert summary.n_rows == summary.n_selected == n
        summaries.append(summary)
        values = columns_of(path, ["obsid", "path", "teff", "subclass", "duplicate_of", "selected"])
        assert values["obsid"] == [BIG + i for i in range(n)]
        assert values["path"] == [f"s{i}.fits.gz" for i in range(n)]
        assert values["teff"] == [4500.0 + i for i in range(n)]
        assert values["subclass"] == [f"K{i % 5}" for i in range(n)]
        assert values["duplicate_of"] == [-1] * n
        assert values["selected"] == [True] * n
    assert len({summary.digest for summary in summaries}) == 1


@needs_real
def test_the_real_parent_table_keeps_all_rows_in_order():
    source = REAL / "lamost/dr10_stellar_subset.csv"
    frame = pd.read_csv(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("/tmp")
        destination = Path("real-parent.parquet").absolute()
        summary = import_parent(
            source, destination, survey=LAMOST, key="obsid", template="{filename}", rows_per_group=100
        )
        values = read_parent_columns(destination, ["obsid", "teff", "z", "path", "class"], 0, 240)
        destination.unlink()
    assert (summary.n_rows, summary.n_duplicates, summary.key) == (240, 0, "obsid")
    np.testing.assert_array_equal(values["obsid"], frame["obsid"])
    np.testing.assert_array_equal(values["teff"], frame["teff"])
    np.testing.assert_array_equal(values["z"], frame["z"])
    assert values["path"].tolist() == frame["filename"].fillna("").tolist()
    assert np.count_nonzero(values["path"] == "") == 60


@needs_real
@pytest.mark.parametrize("name", ["allStar-dr16-subset.fits", "allStar-dr14-subset.fits"])
def test_real_allstar_files_agree_with_astropy(tmp_path, name):
    source = tmp_path / name
    source.symlink_to(REAL / "apogee" / name)
    with fits.open(source) as hdus:
        table = np.array(hdus[1].data)
    survey = load_survey("apogee")
    summary, path = imported(source, survey=survey, key="apogee_id", template="{apogee_id}", extra_columns=("J",))
    assert summary.n_rows == len(table)
    labels = ["teff", "logg", "fe_h", "alpha_m", "logg_err", "J"]
    values = read_parent_columns(path, ["apogee_id", "starflag", "ra", *labels], 0, len(table))
    strings = [text.decode().strip() for text in table["APOGEE_ID"].astype("S18").tolist()]
    assert values["apogee_id"].tolist() == strings
    np.testing.assert_array_equal(values["starflag"], table["STARFLAG"])
    np.testing.assert_array_equal(values["ra"], np.where(table["RA"] < -90, np.nan, table["RA"]))
    for label in labels:
        published = table[label.upper()].astype("f4")
        # -9999, -9999.99 and -999.99 stand for "missing" in these releases.
        np.testing.assert_array_equal(values[label], np.where(published < -900, np.float32(np.nan), published))
    assert np.isnan(values["logg"]).sum() == 2


def test_columns_are_matched_by_alias_ignoring_case(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("OBSID,ObjRA,DEC,sn_g,FileName\n7,1.5,2.5,3.5,x.fits\n")
    values = columns_of(path, ["obsid", "ra", "dec", "snrg", "teff", "class", "path"])
    expected = {"obsid": [7], "ra": [1.5], "dec": [2.5], "snrg": [3.5], "class": [""], "path": ["x.fits"]}
    assert {name: values[name] for name in expected} == expected
    assert np.isnan(values["teff"]).all()


def test_masked_integers_nulls_and_odd_types_of_a_fits_table(tmp_path):
    path = tmp_path / "a.fits"
    columns = [
        fits.Column("OBSID", "K", null=-1, array=np.array([5, -1, BIG])),
        fits.Column("TEFF", "J", null=0, array=np.array([4500, 0, 5000])),
        fits.Column("COUNT", "J", bzero=2**31, array=np.array([0, 1, 2**32 - 1], np.uint32)),
        fits.Column("SMALL", "I", null=-32768, array=np.array([1, -32768, 3], np.int16)),
        fits.Column("SCALED", "I", array=np.array([1, 2, 4], np.int16)),
        fits.Column("GOOD", "L", array=np.array([True, False, True])),
        fits.Column("VECTOR", "3E", array=np.ones((3, 3))),
        fits.Column("FILENAME", "12A", array=np.array(["a.fits", "", "c.fits"])),
    ]
    fits.HDUList([fits.PrimaryHDU(np.ones((4, 4))), fits.BinTableHDU.from_columns(columns)]).writeto(path)
    fits.setval(path, "TSCAL5", value=0.5, ext=1)
    fits.setval(path, "TZERO5", value=10, ext=1)
    names = ["obsid", "teff", "COUNT", "SMALL", "SCALED", "GOOD", "path"]
    values = columns_of(path, names, extra_columns=tuple(names[2:6]))
    assert values["obsid"] == [5, -9999, BIG]
    assert values["teff"][::2] == [4500.0, 5000.0]
    assert np.isnan(values["teff"][1])
    assert values["COUNT"] == [0, 1, 2**32 - 1]
    assert values["SMALL"] == [1, -9999, 3]
    assert values["SCALED"] == [10.5, 11.0, 12.0]
    assert values["GOOD"] == [1, 0, 1]
    assert values["path"] == ["a.fits", "", "c.fits"]
    with pytest.raises(ParentError, match=r"VECTOR: expected one value per row, found format 3E"):
        imported(path, extra_columns=("vector",))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_that_are_not_ascii_survive_in_every_format(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes("obsid,subclass,filename\n1,Ångström,é.fits\n2,b,c.fits\n".encode(encoding))
    assert columns_of(path, ["subclass", "path"]) == {
        "subclass": ["Ångström", "b"], "path": ["é.fits", "c.fits"]
    }  # fmt: skip
    path = tmp_path / "a.fits"
    names = np.array(["é.fits".encode(encoding), b"c.fits"])
    columns = [fits.Column("obsid", "K", array=[1, 2]), fits.Column("filename", "10A", array=names)]
    fits.BinTableHDU.from_columns(columns).writeto(path)
    content = path.read_bytes()
    assert "é.fits".encode(encoding) in content
    assert columns_of(path, ["path"])["path"] == ["é.fits", "c.fits"]


def test_a_csv_with_quotes_comments_a_byte_order_mark_and_windows_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'# made by hand\r\n"obsid","subclass","filename"\r\n1,"K, giant","a.fits"\r\n')
    assert columns_of(path, ["obsid", "subclass"]) == {"obsid": [1], "subclass": ["K, giant"]}
    path.write_bytes("\ufeffobsid,filename\n1,a.fits".encode())
    assert columns_of(path, ["obsid", "path"]) == {"obsid": [1], "path": ["a.fits"]}


def test_types_of_extra_text_columns_are_as_wide_as_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("catalogue.spectra.tables._TEXT_BLOCK", 1 << 14)
    n = 4_000
    path = tmp_path / "a.csv"
    lines = [f"{i},{i},{i},{i},x.fits" for i in range(n)]
    lines[n - 1] = f"{n - 1},{BIG},1.5,late,x.fits"
    path.write_text("obsid,whole,real,text,filename\n" + "\n".join(lines) + "\n")
    summary, parent = imported(path, extra_columns=("whole", "real", "text"), rows_per_group=4096)
    values = read_parent_columns(parent, ["whole", "real", "text"], n - 2, n)
    assert [column.dtype.kind for column in values.values()] == ["i", "f", "T"]
    assert values["whole"].tolist() == [n - 2, BIG]
    assert values["real"].tolist() == [n - 2, 1.5]
    assert values["text"].tolist() == [str(n - 2), "late"]
    assert summary.n_rows == n


def test_survey_nulls_become_missing_values(tmp_path):
    path = write_parent_csv(tmp_path / "a.csv", [{"obsid": 1, "teff": -9999.0, "z": -9999, "filename": "a"}])
    values = columns_of(path, ["teff", "z"])
    assert np.isnan(values["teff"]).all()
    assert np.isnan(values["z"]).all()


def test_identifiers_padded_with_zeros_stay_what_they_are(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("obsid,star,field,night,filename\n1,7,1,12,a\n2,007,02,0,b\n3,7,3,,c\n")
    summary, parent = imported(path, key="star", extra_columns=("field", "night"))
    values = read_parent_columns(parent, ["star", "field", "night", "duplicate_of"], 0, 3)
    assert values["star"].tolist() == ["7", "007", "7"]
    assert values["field"].tolist() == ["1", "02", "3"]
    assert values["night"].tolist() == [12, 0, -9999]
    assert values["duplicate_of"].tolist() == [-1, -1, 0]
    assert summary.n_duplicates == 1


def test_duplicates_point_to_the_first_row_over_row_groups(tmp_path):
    table = rows(300)
    table[250]["obsid"] = table[3]["obsid"]
    table[299]["obsid"] = table[3]["obsid"]
    table[10]["obsid"] = table[11]["obsid"] = ""
    path = write_parent_csv(tmp_path / "a.csv", table)
    summary, parent = imported(path)
    duplicate_of = read_parent_columns(parent, ["duplicate_of"], 0, 300)["duplicate_of"]
    assert summary.n_duplicates == 2
    assert {int(row): int(duplicate_of[row]) for row in np.flatnonzero(duplicate_of >= 0)} == {250: 3, 299: 3}
    groups = pq.ParquetFile(parent)
    assert [groups.metadata.row_group(i).num_rows for i in range(groups.num_row_groups)] == [64] * 4 + [44]
    survey = load_survey("apogee")
    assert not survey.key_is_unique
    lines = "apogee_id,file\nA,a.fits\nA,b.fits\n"
    path.write_text(lines)
    assert imported(path, survey=survey, key="apogee_id", template="{file}")[0].n_duplicates == 0


def test_selection_marks_rows_and_may_use_any_column(tmp_path):
    path = write_parent_csv(tmp_path / "a.csv", [{**row, "extra": i} for i, row in enumerate(rows(10))],
                            (*PARENT_COLUMNS, "extra"))  # fmt: skip
    values = columns_of(path, ["selected"], select="snrg > 13 and EXTRA != 7 and class == 'STAR'")
    assert values["selected"] == [False] * 3 + [True] * 4 + [False] + [True] * 2
    summary, parent = imported(path, select="teff > 1e9")
    assert summary.n_selected == 0
    assert "extra" not in summary.columns
    assert parent_facts(parent)["extra_columns"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "obsd"}, r"a\.csv: no key obsd; close: obsid"),
        ({"template": "{filenam}"}, r"no column filenam of the path template; close: filename"),
        ({"extra_columns": ("qqq",)}, r"no column qqq; columns: obsid, class"),
        ({"select": "tef > 1"}, r"a\.csv: select: unknown name 'tef'"),
        ({"select": "teff + 1"}, r"select: expected a condition, found values of type float64"),
        ({"select": "teff >"}, r"select: not an expression"),
        ({"select": "subclass > 3"}, r"a\.csv: select:"),
    ],
)
def test_what_a_run_names_and_the_table_lacks_is_refused(tmp_path, changes, message):
    path = write_parent_csv(tmp_path / "a.csv", rows(2))
    with pytest.raises(ParentError, match=message):
        imported(path, **changes)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("changes", [{"extra_columns": ("path",)}, {"key": "path"}])
def test_a_column_whose_name_the_import_needs_itself_is_refused(tmp_path, changes):
    path = tmp_path / "a.csv"
    pd.DataFrame(rows(2)).assign(path=["s0.fits.gz", "s1.fits.gz"]).to_csv(path, index=False)
    assert columns_of(path, ["path"], template="{path}")["path"] == ["s0.fits.gz", "s1.fits.gz"]
    with pytest.raises(ParentError, match="column path: the import has a column of that name"):
        imported(path, **changes)


def test_a_missing_column_is_named_together_with_the_others(tmp_path):
    path = write_parent_csv(tmp_path / "a.csv", rows(2))
    with pytest.raises(ParentError, match=r"no key k; .*no column x; .*no column p of"):
        imported(path, key="k", extra_columns=("x",), template="{p}")
    with pytest.raises(PathTemplateError):
        imported(path, template="{")


def test_values_of_the_wrong_type_are_named_with_row_and_column(tmp_path):
    table = rows(5)
    table[3]["obsid"] = "12.5"
    with pytest.raises(ParentError, match=r"a\.csv: row 3, column obsid: expected int64, found '12\.5'"):
        imported(write_parent_csv(tmp_path / "a.csv", table))


def test_a_key_that_the_survey_does_not_know_is_kept(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Gaia_ID,filename\n123456789012345678,a\n5,b\n5,c\n")
    summary, parent = imported(path, key="gaia_id")
    assert summary.key == "gaia_id"
    assert summary.n_duplicates == 1
    values = read_parent_columns(parent, ["gaia_id", "obsid"], 0, 3)
    assert values["gaia_id"].tolist() == [123456789012345678, 5, 5]
    assert values["obsid"].tolist() == [-9999] * 3


def damaged_tables(directory: Path) -> dict[str, bytes]:
    frame = pd.DataFrame(rows(500), columns=PARENT_COLUMNS)
    Table.from_pandas(frame).write(directory / "whole.fits")
    whole = (directory / "whole.fits").read_bytes()
    frame.to_parquet(directory / "whole.parquet")
    parquet = (directory / "whole.parquet").read_bytes()
    text = frame.to_csv(index=False).encode()
    (directory / "whole.fits").unlink()
    (directory / "whole.parquet").unlink()
    return {
        "empty": b"",
        "lines": b"\n\n",
        "binary": b"\x7fELF\0\0\0\0",
        "ragged": b"obsid,filename\n1,a\n2\n",
        "cut gzip": gzip.compress(text)[:-20],
        "changed gzip": (packed := gzip.compress(text))[:-6] + b"\0" + packed[-5:],
        "header of fits": whole[:1000],
        "half of fits": whole[: len(whole) // 2],
        "half of fits.gz": gzip.compress(whole[: len(whole) // 2]),
        "fits without table": whole[:2880],
        "half of parquet": parquet[: len(parquet) // 2],
        "repeated name": b"obsid,obsid,filename\n1,2,a\n",
    }


def test_damaged_tables_are_refused_with_their_name(tmp_path):
    for name, content in damaged_tables(tmp_path).items():
        path = tmp_path / "table"
        path.write_bytes(content)
        with pytest.raises(ParentError, match="table: ") as caught:
            imported(path)
        assert len(str(caught.value)) < 1000, name
        assert [entry.name for entry in tmp_path.iterdir()] == ["table"], name
    with pytest.raises(ParentError, match="absent: no such file"):
        imported(tmp_path / "absent")


def test_the_digest_follows_the_rows_and_not_their_grouping(tmp_path):
    table = rows(200)
    path = write_parent_csv(tmp_path / "a.csv", table)
    digest = imported(path)[0].digest
    assert imported(path, rows_per_group=7)[0].digest == digest
    changed = [digest]
    for row, column, value in ((7, "teff", 1.0), (8, "subclass", "F"), (9, "filename", "x"), (9, "obsid", 5)):
        other = [dict(line) for line in table]
        other[row][column] = value
        changed.append(imported(write_parent_csv(tmp_path / "a.csv", other))[0].digest)
    write_parent_csv(tmp_path / "a.csv", [table[1], table[0], *table[2:]])
    changed.append(imported(path)[0].digest)
    write_parent_csv(tmp_path / "a.csv", table)
    changed.append(imported(path, select="teff > 4600")[0].digest)
    assert len(set(changed)) == len(changed)


def test_ranges_of_rows_are_read_across_row_groups(tmp_path):
    path = write_parent_csv(tmp_path / "a.csv", rows(200))
    _, parent = imported(path)
    for start, stop in ((0, 200), (0, 0), (63, 65), (64, 128), (199, 200), (200, 200)):
        values = read_parent_columns(parent, ["OBSID"], start, stop)
        assert values["OBSID"].tolist() == [BIG + i for i in range(start, stop)]
    with pytest.raises(ParentError, match="asked for 0 to 201"):
        read_parent_columns(parent, ["obsid"], 0, 201)
    with pytest.raises(ParentError, match="no column nope; columns: obsid"):
        read_parent_columns(parent, ["nope"], 0, 1)


def test_rows_without_files_have_every_store_column(tmp_path):
    path = write_parent_csv(tmp_path / "a.csv", rows(3))
    _, parent = imported(path)
    values = read_parent_rows(parent, 1, 3, LAMOST)
    assert list(values) == [c.name for c in sorted(LAMOST.columns, key=lambda c: not c.aliases)]
    assert values["obsid"].tolist() == [BIG + 1, BIG + 2]
    assert values["file_obsid"].tolist() == [-9999, -9999]
    assert np.isnan(values["file_z"]).all()
    assert values["data_release"].tolist() == ["", ""]


def test_a_table_written_anew_is_not_read_from_memory(tmp_path):
    path = write_parent_csv(tmp_path / "a.csv", rows(3))
    _, parent = imported(path)
    assert len(read_parent_columns(parent, ["obsid"], 0, 3)["obsid"]) == 3
    write_parent_csv(path, rows(300))
    imported(path)
    assert len(read_parent_columns(parent, ["obsid"], 0, 300)["obsid"]) == 300


def test_memory_grows_by_a_few_words_per_row_at_most(tmp_path):
    """The Python side of the import holds a block and the keys' hashes (Arrow's own buffers are not counted here)."""
    sizes, peaks = (20_000, 80_000), []
    for n in sizes:
        path = tmp_path / f"{n}.parquet"
        pq.write_table(pa.table({"obsid": np.arange(n), "teff": np.ones(n), "filename": np.arange(n)}), path)
        tracemalloc.start()
        imported(path, rows_per_group=4096)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) < 40
