from __future__ import annotations

import pickle

import numpy as np
import pytest
import yaml

from catalogue.datamodels import DataModel, DataModelError, data_model_names, load_data_model
from catalogue.spectra.primitives import RowStatus
from tests.factories.products import STRING, every_dtype_model

OBSID = {"name": "obsid", "value": "obsid", "dtype": "int64", "missing": -9999, "description": "key"}


def small(columns=(), **changes):
    content = {"name": "small", "version": 1, "title": "Small", "survey": "lamost-lrs", "columns": [OBSID, *columns]}
    return {**content, **changes}


def column(**changes):
    return {"name": "x", "value": "x", "dtype": "float32", "description": "x", **changes}


def flag(**changes):
    return {"bit": 0, "name": "BAD", "level": "bad", "when": "x > 1", "description": "bad", **changes}


FLAG = {"name": "FLAG", "dtype": "int32", "description": "bits"}


def load(tmp_path, content):
    path = tmp_path / "model.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_data_model("model.yaml", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (small(colour="red"), "colour: Extra inputs are not permitted"),
        (small([column(colour="red")]), "columns.1.colour"),
        (small([column(), column(name="X")]), "column x is used more than once"),
        (small([column(role="age"), column(name="y", role="age")]), "role age is used more than once"),
        (small([column(unit="parsecs per fortnight")]), "columns.1.unit"),
        (small([column(unit="erg/(s cm2")]), "columns.1.unit"),
        (small([column(ucd="time.duration.of.life")]), "columns.1.ucd"),
        (small([column(value="x +")]), "columns.1.value.*not an expression"),
        (small([column(value="")]), "column x: value is missing"),
        (small([column(value="__import__('os')")]), "no function '__import__'"),
        (small([column(dtype="float16")]), "columns.1.dtype"),
        (small([column(dtype="str")]), "a string needs a width"),
        (small([column(width=4)]), "a string needs a width, and nothing else has one"),
        (small([column(dtype="int16", missing=-99999)]), "missing value -99999 does not fit int16"),
        (small([column(missing=-1)]), "a float32 takes no missing value"),
        (small([column(dtype="int16", blank_when="x > 1")]), "needs its missing value"),
        (small([column(dtype="bool", blank_when="x > 1")]), "needs its missing value"),
        (small([column(name="2x")]), "columns.1.name"),
        (small([column(value="prediction.age")]), "column x: no alias in uses 'prediction'; there are none"),
        (small([column(value="option.y")]), "column x: no option 'y'"),
        (small([column(value="status == STATUS_FINE")]), "column x: no status 'STATUS_FINE'; there are STATUS_ALL_NAN"),
        (small([column(blank_when="flagged('BAD')")]), "column x: no flag 'BAD'"),
        (small([FLAG]), "there are no flags, but a column FLAG"),
        (small(flags=[flag()]), "there are flags, but no column FLAG"),
        (small([FLAG | {"value": "x"}], flags=[flag()]), "column FLAG: is made by the flags"),
        (small([FLAG | {"dtype": "int16"}], flags=[flag()]), "column FLAG: expected dtype int32, found int16"),
        (small([FLAG], flags=[flag(), flag(name="B")]), "bit 0 is used more than once"),
        (small([FLAG], flags=[flag(), flag(bit=1)]), "flag BAD is used more than once"),
        (small([FLAG], flags=[flag()], retired_bits=[0]), "bit 0 is used more than once"),
        (small([FLAG], flags=[flag(bit=24)]), "flags.0.bit"),
        (small([FLAG], flags=[flag(level="awful")]), "flags.0.level"),
        (small([FLAG], flags=[flag(when="flagged('BAD')")]), "flag BAD: no flag 'BAD'; there are none"),
        (small([FLAG], flags=[flag(when="flagged('C')"), flag(bit=1, name="C")]), "flag BAD: no flag 'C'"),
        (small(options={"a": {"default": "b", "choices": ["c"], "description": "d"}}), "default 'b' is none of c"),
        (small(file_names={"csv": "../x.csv"}), "not a plain file name"),
        (small(version=0), "version"),
        ("name: a\nname: b\n", "key 'name' repeated"),
        ("name: [", "while parsing"),
        ("", "valid dictionary"),
        ("- 1", "valid dictionary"),
    ],
)
def test_wrong_models_are_refused_naming_the_place(tmp_path, content, message):
    with pytest.raises(DataModelError, match=f"(?s)model.yaml.*{message}"):
        load(tmp_path, content)


def test_every_wrong_place_is_named_at_once(tmp_path):
    with pytest.raises(DataModelError) as caught:
        load(tmp_path, small([column(unit="x y z"), column(name="y", dtype="z")]))
    assert "columns.1.unit" in str(caught.value)
    assert "columns.2.dtype" in str(caught.value)


def test_an_unknown_name_lists_the_shipped_models(tmp_path):
    with pytest.raises(DataModelError, match=r"no data model 'nothing'.*apogee_latent_age.*lamost_age_mass"):
        load_data_model("nothing", tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "model.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataModelError, match=r"model\.yaml"):
        load_data_model("model.yaml", tmp_path)


@pytest.mark.parametrize("name", data_model_names())
def test_shipped_models_load_by_name_and_by_path(name):
    import catalogue.datamodels

    path = catalogue.datamodels.datamodel.SHIPPED / f"{name}.yaml"
    assert load_data_model(name) == load_data_model(path)
    assert load_data_model(name).name == name


def test_models_are_immutable_and_survive_pickling():
    model = every_dtype_model()
    assert model.digest  # cached
    with pytest.raises(ValueError, match="frozen"):
        model.title = "other"
    assert pickle.loads(pickle.dumps(model)).digest == model.digest


def test_the_digest_changes_with_anything_in_the_model():
    model = every_dtype_model()
    assert model.digest == every_dtype_model().digest
    assert model.digest != every_dtype_model(title="Other").digest
    assert model.digest != every_dtype_model(retired_bits=[1, 3]).digest


def test_required_names_are_those_of_a_row():
    model = DataModel.model_validate(
        small(
            [column(value="p.age if usable else nan", blank_when="flagged('BAD')"), FLAG],
            uses={"p": "spt"},
            flags=[flag(when="status == STATUS_OK and outside(p.domain.teff, teff) and z > option.limit")],
            options={"limit": {"default": 1.0, "description": "limit"}},
        )
    )
    assert model.required_names == {"obsid", "p.age", "p.domain.teff", "teff", "z", "status"}


# -- values ----------------------------------------------------------------------------------------


def made(namespace, rows=3, options=None, **changes):
    model = DataModel.model_validate(small([column(**changes)]))
    base = {"status": np.ones(rows, np.uint8), "obsid": np.arange(rows)}
    return model.evaluate({**base, **namespace}, options)["x"]


def test_columns_come_in_order_and_dtype():
    model = every_dtype_model()
    columns = model.evaluate(
        {
            "status": np.array([1, 2], np.uint8),
            "obsid": np.array([5, 6]),
            "ra": np.array([1.0, 2.0]),
            "age": np.array([14.0, np.nan]),
            "visits": np.array([1, 2]),
            "class": np.array(["a", "b"]),
        }
    )
    assert list(columns) == [column.name for column in model.columns]
    assert {name: values.dtype for name, values in columns.items()} == {
        "obsid": np.int64, "ra": np.float64, "class": STRING, "visits": np.int16, "Age": np.float32, "flat": np.int32,
        "STATUS": np.uint8, "FLAG": np.int32, "FLAG_WARN": np.bool_, "FLAG_BAD": np.bool_,
    }  # fmt: skip
    assert columns["FLAG"].tolist() == [1 | 1 << 23, 4]
    assert columns["FLAG_WARN"].tolist() == [True, False]
    assert columns["FLAG_BAD"].tolist() == [False, True]


def test_columns_do_not_share_memory_with_the_rows_that_they_came_from():
    x = np.ones(3, np.float32)
    result = made({"x": x})
    result[0] = 7
    assert x[0] == 1


def test_constants_fill_the_column():
    assert made({}, value="2.5").tolist() == [2.5] * 3
    assert made({}, value="'a'", dtype="str", width=1).tolist() == ["a"] * 3


def test_no_rows_give_empty_columns():
    assert made({"x": np.empty(0)}, rows=0).shape == (0,)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [np.nan, 2.0, 3.0]),
        ({"dtype": "int16", "missing": -1}, [-1, 2, 3]),
        ({"dtype": "str", "value": "where(x > 2, 'b', 'a')", "width": 3}, ["", "a", "b"]),
    ],
)
def test_blanked_values_are_missing_in_the_way_of_their_dtype(changes, expected):
    result = made({"x": np.array([1.0, 2.0, 3.0])}, blank_when="x == 1", **changes)
    assert np.array_equal(result, np.array(expected, result.dtype), equal_nan=changes == {})


def test_a_blank_condition_without_columns_blanks_every_row():
    assert np.isnan(made({"x": np.ones(3)}, blank_when="1 == 1")).all()


def test_missing_integers_of_the_store_become_those_of_the_product():
    assert made({"x": np.array([1, -9999, 3])}, dtype="int16", missing=-1).tolist() == [1, -1, 3]
    assert made({"x": np.array([1, np.nan, 3])}, dtype="int16", missing=-1).tolist() == [1, -1, 3]
    assert made({"x": np.array([1, -9999, 3])}, dtype="int16", missing=-9999).tolist() == [1, -9999, 3]


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([1, 40000, 3], "int16", "from -32768 to 32767 .int16., found 1 to 40000"),
        ([1, -2, 3], "uint8", "from 0 to 255 .uint8., found -2 to 3"),
        ([1.0, 2.5, 3.0], "int32", "expected integers, found 2.5"),
        ([1.0, np.inf, 3.0], "int32", "found 1.0 to inf"),
        ([1.0, np.nan, 3.0], "int32", "missing values in 1 rows and no missing value set"),
        (["a", "b", "c"], "int32", "expected int32, found <U1"),
        ([1.0, 2.0, 3.0], "bool", "expected bool, found float64"),
        ([1, 0, 1], "bool", "expected bool, found int64"),
    ],
)
def test_values_that_do_not_fit_are_errors_that_name_the_column(values, dtype, message):
    with pytest.raises(DataModelError, match=f"small, column x: .*{message}"):
        made({"x": np.array(values)}, dtype=dtype)


def test_numbers_are_no_text():
    with pytest.raises(DataModelError, match="column x: expected str, found float64"):
        made({"x": np.ones(3)}, dtype="str", width=3)


@pytest.mark.parametrize("make", [lambda t: np.array(t, object), np.array, lambda t: np.array(t, STRING)])
def test_text_of_any_kind_becomes_stringdtype(make):
    result = made({"x": make(["a", "", "ünï"])}, dtype="str", width=3)
    assert result.dtype == STRING
    assert result.tolist() == ["a", "", "ünï"]


def test_float64_beyond_float32_becomes_infinite_without_a_warning():
    assert made({"x": np.array([1e300, -1e300, 1.0])}).tolist() == [np.inf, -np.inf, 1.0]


def test_unknown_names_name_the_column_and_close_ones():
    with pytest.raises(DataModelError, match=r"(?s)small, column x: unknown name 'x'"):
        made({})


def test_columns_of_another_length_are_errors():
    with pytest.raises(DataModelError, match="column x"):
        made({"x": np.ones(2)})


def test_flags_may_build_on_earlier_flags_and_on_usable_rows():
    model = DataModel.model_validate(
        small(
            [column(blank_when="flagged('EITHER')"), FLAG],
            flags=[
                flag(name="LOW", when="x < 0", level="warn"),
                flag(bit=4, name="UNUSABLE", when="not usable", level="bad"),
                flag(bit=9, name="EITHER", when="flagged('LOW') or flagged('UNUSABLE')", level="info"),
            ],
        )
    )
    status = np.array([RowStatus.OK, RowStatus.OK, RowStatus.TRUNCATED, RowStatus.DUPLICATE], np.uint8)
    columns = model.evaluate({"status": status, "obsid": np.arange(4), "x": np.array([1.0, -1.0, 1.0, 1.0])})
    assert columns["FLAG"].tolist() == [0, 1 | 1 << 9, 1 << 4 | 1 << 9, 0]
    assert np.isnan(columns["x"]).tolist() == [False, True, True, False]


def test_a_domain_or_limit_that_the_model_does_not_state_excludes_nothing():
    model = DataModel.model_validate(
        small(
            [FLAG],
            uses={"p": "spt"},
            flags=[flag(when="outside(p.domain.teff, teff) or above(p.novelty_limit, p.novelty)")],
        )
    )
    rows = {
        "status": np.ones(2, np.uint8),
        "obsid": np.arange(2),
        "teff": np.array([1.0, np.nan]),
        "p.novelty": np.ones(2),
    }
    assert model.evaluate(rows)["FLAG"].tolist() == [0, 0]
    assert model.evaluate({**rows, "p.domain.teff": (0.5, 2.0)})["FLAG"].tolist() == [0, 1]
    assert model.evaluate({**rows, "p.novelty_limit": 0.5})["FLAG"].tolist() == [1, 1]


def test_failing_flags_are_named():
    model = DataModel.model_validate(small([FLAG], flags=[flag(when="obsid and x")]))
    with pytest.raises(DataModelError, match=r"(?s)small, flag BAD: .*expected a condition"):
        model.evaluate({"status": np.ones(1, np.uint8), "obsid": np.ones(1, int), "x": np.ones(1)})


# -- options ---------------------------------------------------------------------------------------


def with_options():
    return DataModel.model_validate(
        small(
            options={
                "kind": {"default": "nan", "choices": ["nan", "keep"], "description": "kind"},
                "limit": {"default": 13.8, "description": "limit"},
                "note": {"default": "free", "description": "note"},
            }
        )
    )


def test_options_have_defaults_and_ignore_those_of_other_products():
    model = with_options()
    assert model.option_values() == {"kind": "nan", "limit": 13.8, "note": "free"}
    assert model.option_values({"limit": 12, "colour": 1}) == {"kind": "nan", "limit": 12.0, "note": "free"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "drop"}, "options.kind: expected one of nan, keep, found 'drop'"),
        ({"limit": "x"}, "options.limit: expected a number, found 'x'"),
        ({"limit": True}, "options.limit: expected a number, found True"),
        ({"limit": float("nan")}, "options.limit: expected a number, found nan"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(DataModelError, match=message):
        with_options().option_values(options)
    with pytest.raises(DataModelError, match=message):
        with_options().evaluate({"status": np.ones(1, np.uint8), "obsid": np.ones(1, int)}, options)
