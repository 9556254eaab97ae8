"""What Parquet, VOTable and Zarr say of themselves."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
from astropy.io.votable import parse, validate

from catalogue.datamodels import data_model_names, load_data_model
from catalogue.spectra.primitives import RowStatus
from catalogue.writers import writer_for
from tests.factories.products import PROVENANCE, every_dtype_model, every_dtype_rows


@pytest.fixture
def write(tmp_path):
    def write(name, n_rows=20):
        path = tmp_path / f"x{writer_for(name).suffix}"
        with writer_for(name)(path, every_dtype_model(), n_rows, PROVENANCE) as writer:
            writer.write(every_dtype_rows(n_rows))
        return path

    return write


@pytest.mark.parametrize("n_rows", [0, 20])
def test_the_votable_validator_accepts_it(write, n_rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = io.StringIO()
        assert validate(str(write("votable", n_rows)), output=report, xmllint=False), report.getvalue()
    assert "no violations" in report.getvalue()


@pytest.mark.parametrize("product", data_model_names())
def test_the_votable_validator_accepts_the_head_of_every_shipped_product(tmp_path, product):
    path = tmp_path / "x.vot"
    with writer_for("votable")(path, load_data_model(product), 0, PROVENANCE):
        pass
    report = io.StringIO()
    assert validate(str(path), output=report, xmllint=False), report.getvalue()


def test_votable_fields_have_units_ucds_and_descriptions(write):
    table = parse(write("votable"), verify="exception").get_first_table()
    for field, column in zip(table.fields, every_dtype_model().columns, strict=True):
        assert field.name == column.name
        assert str(field.unit or "") == column.unit
        assert (field.ucd or "") == column.ucd
        assert field.description == column.description
    assert table.array["obsid"].mask[0]
    assert table.array["obsid"].mask.sum() == 1


def test_parquet_fields_have_units_ucds_descriptions_and_nulls(write):
    schema = pq.read_schema(write("parquet"))
    for column in every_dtype_model().columns:
        facts = {key.decode(): value.decode() for key, value in schema.field(column.name).metadata.items()}
        assert facts.get("unit", "") == column.unit
        assert facts.get("ucd", "") == column.ucd
        assert facts["description"] == column.description
        assert facts.get("null_value") == (None if column.missing is None else str(column.missing))


def test_parquet_names_flags_statuses_and_provenance(write):
    metadata = {key.decode(): value.decode() for key, value in pq.read_schema(write("parquet")).metadata.items()}
    assert {flag["name"]: flag["bit"] for flag in json.loads(metadata["flags"])} == {"OLD": 0, "NO_AGE": 2, "FEW": 23}
    assert json.loads(metadata["statuses"])["NO_SPECTRUM"] == RowStatus.NO_SPECTRUM
    assert PROVENANCE.items() <= metadata.items()


def test_parquet_row_groups_have_one_size(write, monkeypatch):
    monkeypatch.setattr(writer_for("parquet"), "block_rows", 8)
    groups = pq.ParquetFile(write("parquet")).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [8, 8, 4]


def open_zarr(path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Zarr V3 specification.*")
        return xr.open_zarr(path)


def test_zarr_opens_with_dimensions_units_and_cf_flags(write):
    dataset = open_zarr(write("zarr"))
    assert dict(dataset.sizes) == {"row": 20}
    assert dataset.attrs["title"] == "One column of every dtype"
    assert PROVENANCE.items() <= dataset.attrs.items()
    assert dataset["Age"].attrs["units"] == "Gyr"
    assert dataset["Age"].attrs["long_name"] == "age"
    assert dataset["FLAG"].attrs["flag_masks"] == [1, 4, 1 << 23]
    assert dataset["FLAG"].attrs["flag_meanings"] == "OLD NO_AGE FEW"
    meanings = dataset["STATUS"].attrs["flag_meanings"].split()
    assert dict(zip(meanings, dataset["STATUS"].attrs["flag_values"], strict=True)) == {s.name: s for s in RowStatus}


def test_zarr_keeps_the_dtypes_of_integers_with_nulls(write):
    dataset = open_zarr(write("zarr"))
    assert dataset["obsid"].dtype == np.int64
    assert int(dataset["obsid"][0]) == -9999
    assert dataset["obsid"].attrs["null_value"] == -9999


def test_zarr_writes_chunks_that_hold_nothing_but_missing_values(tmp_path):
    columns = every_dtype_rows(4)
    columns["Age"][:] = np.nan
    with writer_for("zarr")(tmp_path / "x.zarr", every_dtype_model(), 4, {}) as writer:
        writer.write(columns)
    assert (tmp_path / "x.zarr" / "Age" / "c" / "0").is_file()
