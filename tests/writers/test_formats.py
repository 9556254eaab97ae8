"""What every output format has to do, tried on all of them."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catalogue.writers import Writer, format_names, writer_for
from tests.factories.products import PROVENANCE, STRING, every_dtype_model, every_dtype_rows, part
from tests.writers.readers import READERS, same_values

FORMATS = sorted(READERS)
ORDERED_ON_THE_SKY = {"parquet-healpix", "hats"}
"""They need positions: tests/writers/test_healpix.py."""


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that small catalogues have several and a partial last one."""
    for name in FORMATS:
        writer = writer_for(name)
        rows = {"fits": 2880, "votable": 3 * 7}.get(name, 17)
        monkeypatch.setattr(writer, "block_rows", rows)


def written(directory, name, columns, cuts=(), model=None):
    model = model or every_dtype_model()
    n_rows = len(next(iter(columns.values())))
    path = directory / f"product{writer_for(name).suffix}"
    writer = writer_for(name)(path, model, n_rows, PROVENANCE)
    edges = [0, *cuts, n_rows]
    for start, stop in itertools.pairwise(edges):
        writer.write(part(columns, start, stop))
    writer.close()
    return path


def tree_digest(path):
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return digest.hexdigest()


def test_every_format_is_tried():
    assert set(format_names()) == set(FORMATS) | ORDERED_ON_THE_SKY


def test_unknown_formats_are_refused_naming_the_known_ones():
    with pytest.raises(KeyError, match=r"unknown format 'hdf5'.*fits.*votable"):
        writer_for("hdf5")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("n_rows", [0, 1, 16, 17, 18, 100])
@pytest.mark.usefixtures("small_blocks")
def test_all_readers_give_back_what_was_written(tmp_path, name, n_rows):
    columns = every_dtype_rows(n_rows)
    path = written(tmp_path, name, columns)
    model = every_dtype_model()
    for read in READERS[name]:
        if n_rows == 0 and read.__name__ == "from_arrow_csv":
            continue  # pyarrow infers no types from a header alone
        found = read(path, model)
        assert list(found) == [column.name for column in model.columns]
        for column in model.columns:
            assert same_values(found[column.name], columns[column.name], column), (read.__name__, column.name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("small_blocks")
def test_bytes_do_not_depend_on_how_the_rows_come(tmp_path, name):
    columns = every_dtype_rows(6000 if name == "fits" else 120)
    digests = set()
    for number, cuts in enumerate([(), (1, 2, 3, 40), (0, 60, 60), tuple(range(1, 120))]):
        directory = tmp_path / str(number)
        directory.mkdir()
        digests.add(tree_digest(written(directory, name, columns, cuts)))
    assert len(digests) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_depend_on_data_and_provenance(tmp_path, name):
    columns = every_dtype_rows(20)
    first = tree_digest(written(tmp_path, name, columns))
    columns["Age"][7] += 1
    assert tree_digest(written(tmp_path, name, columns)) != first


@pytest.mark.parametrize("name", FORMATS)
def test_the_file_appears_only_when_complete_and_replaces_an_earlier_one(tmp_path, name):
    columns = every_dtype_rows(20)
    earlier = tree_digest(written(tmp_path, name, every_dtype_rows(20, seed=1)))
    path = tmp_path / f"product{writer_for(name).suffix}"
    writer = writer_for(name)(path, every_dtype_model(), 20, PROVENANCE)
    writer.write(part(columns, 0, 20))
    assert tree_digest(path) == earlier
    assert writer.partial.exists()
    writer.close()
    assert tree_digest(path) != earlier
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [0, 19])
def test_too_few_rows_are_refused_and_nothing_stays(tmp_path, name, rows):
    writer = writer_for(name)(tmp_path / "x", every_dtype_model(), 20, PROVENANCE)
    writer.write(part(every_dtype_rows(20), 0, rows))
    with pytest.raises(ValueError, match=f"expected 20 rows, found {rows}"):
        writer.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_too_many_rows_are_refused_at_once_and_nothing_stays(tmp_path, name):
    writer = writer_for(name)(tmp_path / "x", every_dtype_model(), 20, PROVENANCE)
    writer.write(every_dtype_rows(20))
    with pytest.raises(ValueError, match="expected 20 rows, found 21 or more"):
        writer.write(every_dtype_rows(1))
    with pytest.raises(ValueError, match="closed or was aborted"):
        writer.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Age": np.zeros(3)}, "column Age: expected float32, found float64"),
        ({"Age": np.zeros(2, np.float32)}, r"column Age: expected shape \(3,\), found \(2,\)"),
        ({"Age": None}, "column Age is missing"),
        ({"class": np.array(["a", "b", "c"])}, "column class: expected str, found <U1"),
    ],
)
def test_columns_that_do_not_fit_the_model_are_refused(tmp_path, name, change, message):
    columns = {key: value for key, value in {**every_dtype_rows(3), **change}.items() if value is not None}
    writer = writer_for(name)(tmp_path / "x", every_dtype_model(), 3, PROVENANCE)
    with pytest.raises(ValueError, match=message):
        writer.write(columns)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_abort_removes_everything_and_may_be_called_twice(tmp_path, name):
    writer = writer_for(name)(tmp_path / "x", every_dtype_model(), 20, PROVENANCE)
    writer.write(every_dtype_rows(20))
    writer.abort()
    writer.abort()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_abort_after_close_keeps_the_file(tmp_path, name):
    path = tmp_path / "x"
    writer = writer_for(name)(path, every_dtype_model(), 3, PROVENANCE)
    writer.write(every_dtype_rows(3))
    writer.close()
    writer.abort()
    assert path.exists()


@pytest.mark.parametrize("name", FORMATS)
def test_as_a_context_manager_it_closes_or_aborts(tmp_path, name):
    with writer_for(name)(tmp_path / "good", every_dtype_model(), 3, PROVENANCE) as writer:
        writer.write(every_dtype_rows(3))
    assert (tmp_path / "good").exists()
    with pytest.raises(RuntimeError), writer_for(name)(tmp_path / "bad", every_dtype_model(), 3, PROVENANCE):
        raise RuntimeError
    assert not (tmp_path / "bad").exists()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", FORMATS)
def test_rows_that_a_killed_run_left_behind_do_not_matter(tmp_path, name):
    path = tmp_path / f"product{writer_for(name).suffix}"
    writer = writer_for(name)(path, every_dtype_model(), 40, PROVENANCE)
    writer.write(every_dtype_rows(30, seed=5))  # and the process dies: neither close nor abort
    again = written(tmp_path, name, every_dtype_rows(20))
    clean = tmp_path / "clean"
    clean.mkdir()
    assert tree_digest(again) == tree_digest(written(clean, name, every_dtype_rows(20)))


LIMITED = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from catalogue.writers import writer_for
from tests.factories.products import PROVENANCE, every_dtype_model, every_dtype_rows
rows, model = every_dtype_rows(50_000), every_dtype_model()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for name in sys.argv[2:]:
    writer = writer_for(name)(Path(sys.argv[1]) / name, model, 50_000, PROVENANCE)
    try:
        writer.write(rows)
        writer.close()
    except OSError as error:
        print(name, "OSError")
"""


def test_a_limit_on_the_size_of_files_gives_an_error_and_no_file_in_every_format(tmp_path):
    """Like a full disk, without root: the process may not write files above a limit."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), *FORMATS],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.split() == [word for name in FORMATS for word in (name, "OSError")], done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fits", "votable"])
def test_a_string_longer_than_its_width_is_an_error_that_names_it(tmp_path, name):
    columns = every_dtype_rows(3)
    columns["class"] = np.array(["a", "x" * 13, "c"], STRING)
    writer = writer_for(name)(tmp_path / "x", every_dtype_model(), 3, PROVENANCE)
    writer.write(columns)
    with pytest.raises(ValueError, match=r"column class: expected at most 12 characters.*found 13: 'x{13}'"):
        writer.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_text_beyond_ascii_is_kept_or_escaped(tmp_path, name):
    columns = every_dtype_rows(4)
    columns["class"] = np.array(["é", "日本", "", "ab"], STRING)
    path = written(tmp_path, name, columns)
    expected = ["é", "日本", "", "ab"] if name in ("csv", "parquet", "zarr") else ["\\xe9", "\\u65e5\\u672c", "", "ab"]
    for read in READERS[name]:
        found = read(path, every_dtype_model())["class"]
        assert same_values(found, expected, every_dtype_model().columns[2])


def test_writers_are_of_the_interface():
    assert all(issubclass(writer_for(name), Writer) for name in FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_directory_that_is_not_there_is_an_error_and_is_not_made(tmp_path, name):
    with pytest.raises(FileNotFoundError):
        writer_for(name)(tmp_path / "nowhere" / "x", every_dtype_model(), 3, PROVENANCE)
    assert not list(tmp_path.iterdir())
