"""From parent rows to paths that stay inside the root."""

from __future__ import annotations

import datetime
import os

import numpy as np
import pytest

from catalogue.spectra.paths import PathTemplate, PathTemplateError, SpectraRoot
from catalogue.spectra.primitives import RowStatus, SpectrumError

OFFICIAL = "{obsdate:%Y%m%d}/{planid}/spec-{lmjd}-{planid}_sp{spid:02d}-{fiberid:03d}.fits.gz"
ROW = {"obsdate": "2011-10-24", "planid": "B6202", "lmjd": 55859, "spid": 7, "fiberid": 5}


def status_of(action, *arguments) -> RowStatus:
    with pytest.raises(SpectrumError) as caught:
        action(*arguments)
    return caught.value.status


def test_the_official_tree_renders():
    template = PathTemplate(OFFICIAL)
    assert template.columns == ("obsdate", "planid", "lmjd", "spid", "fiberid")
    assert template.fill(ROW) == "20111024/B6202/spec-55859-B6202_sp07-005.fits.gz"


@pytest.mark.parametrize(
    "value",
    ["2011-10-24", " 2011-10-24 ", "2011-10-24T18:09:00", "20111024", 20111024, datetime.date(2011, 10, 24),
     datetime.datetime(2011, 10, 24, 18, 9)],
)  # fmt: skip
def test_dates_of_any_origin_take_date_formats(value):
    template = PathTemplate("{date:%Y%m%d}/{date:%j}.fits")
    assert template.fill({"date": value}) == "20111024/297.fits"
    assert template.fill_rows({"date": [value, value]}) == ["20111024/297.fits"] * 2


@pytest.mark.parametrize("value", [None, "", float("nan"), -9999, "yesterday", "2011-13-01", 20111399, 2011.5])
def test_what_is_no_date_is_a_row_without_spectrum(value):
    template = PathTemplate("{date:%Y%m%d}/a.fits")
    assert status_of(template.fill, {"date": value}) is RowStatus.NO_SPECTRUM
    assert template.fill_rows({"date": [value, "2011-10-24"]}) == ["", "20111024/a.fits"]


@pytest.mark.parametrize("spid", [7, np.int16(7), 7.0, "7", " 07 "])
def test_integers_of_any_origin_take_integer_formats(spid):
    assert PathTemplate(OFFICIAL).fill({**ROW, "spid": spid}).endswith("_sp07-005.fits.gz")


def test_whole_floats_without_a_format_are_written_as_integers_and_text_keeps_its_zeros():
    assert PathTemplate("{lmjd}/{planid}").fill({"lmjd": 55859.0, "planid": "007"}) == "55859/007"


@pytest.mark.parametrize("value", [None, "", "  ", float("nan"), -9999, np.float32("nan"), "seven", 7.5, "a\0b"])
def test_missing_or_unfit_values_are_rows_without_spectrum(value):
    template = PathTemplate("{planid}/sp{spid:02d}.fits")
    assert status_of(template.fill, {"planid": "B", "spid": value}) is RowStatus.NO_SPECTRUM
    assert template.fill_rows({"planid": ["B", "B"], "spid": [value, 3]}) == ["", "B/sp03.fits"]


@pytest.mark.parametrize(
    "text", ["", "plain.fits", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:{b}}", "{a", "a}", "{a.__class__}"]
)
def test_malformed_templates_are_refused(text):
    with pytest.raises(PathTemplateError):
        PathTemplate(text)


def test_keywords_blanks_and_leading_digits_may_name_columns():
    assert PathTemplate("{class}/{2mass id}").fill({"class": "STAR", "2mass id": "x"}) == "STAR/x"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.fits", "a/../../x.fits", "a/.."])
def test_absolute_paths_and_parent_directories_are_refused(tmp_path, path):
    assert status_of(PathTemplate("{filename}").render, {"filename": path}, tmp_path) is RowStatus.OUTSIDE_ROOT
    assert status_of(SpectraRoot(tmp_path).locate, path) is RowStatus.OUTSIDE_ROOT


def test_names_with_dots_are_no_parent_directories(tmp_path):
    (tmp_path / "a..b").write_text("x")
    assert PathTemplate("{filename}").render({"filename": "a..b"}, tmp_path) == "a..b"
    assert SpectraRoot(tmp_path).locate("a..b")[1].st_size == 1


def test_symbolic_links_that_leave_the_root_are_refused_and_others_followed(tmp_path):
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (root / "inside/a.fits").write_text("inside")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/a.fits").write_text("secret")
    (tmp_path / "root-sibling").mkdir()
    (tmp_path / "root-sibling/a.fits").write_text("sibling")
    (root / "file").symlink_to(tmp_path / "secret/a.fits")
    (root / "directory").symlink_to(tmp_path / "secret")
    (root / "sibling").symlink_to(tmp_path / "root-sibling")
    (root / "good").symlink_to("inside/a.fits")
    (root / "good-directory").symlink_to("inside")
    spectra = SpectraRoot(root)
    for path in ("file", "directory/a.fits", "sibling/a.fits"):
        assert status_of(spectra.locate, path) is RowStatus.OUTSIDE_ROOT
        assert status_of(spectra.confine, path) is RowStatus.OUTSIDE_ROOT
    for path in ("good", "good-directory/a.fits", "inside/a.fits"):
        assert spectra.locate(path)[1].st_size == 6
    (tmp_path / "link-to-root").symlink_to(root)
    assert SpectraRoot(tmp_path / "link-to-root").locate("inside/a.fits")[1].st_size == 6


def test_what_is_not_there_and_what_is_no_file(tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    spectra = SpectraRoot(tmp_path)
    expected = {
        "absent": RowStatus.NO_SPECTRUM,
        "absent/absent": RowStatus.NO_SPECTRUM,
        "file/absent": RowStatus.NO_SPECTRUM,
        "directory": RowStatus.UNREADABLE,
        "pipe": RowStatus.UNREADABLE,
        "loop": RowStatus.UNREADABLE,
        "x" * 300: RowStatus.UNREADABLE,
    }
    assert {path: status_of(spectra.locate, path) for path in expected} == expected


def test_a_sick_file_system_passes_through(tmp_path, monkeypatch):
    def sick(_path):
        raise OSError(5, "Input/output error")

    spectra = SpectraRoot(tmp_path)
    monkeypatch.setattr("os.lstat", sick)
    with pytest.raises(OSError, match="Input/output"):
        spectra.locate("a.fits")
