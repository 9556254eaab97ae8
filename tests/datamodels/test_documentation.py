from __future__ import annotations

from pathlib import Path

import pytest

from catalogue.datamodels import data_model_names, load_data_model
from catalogue.datamodels.documentation import documentation, write_documentation
from catalogue.expressions import FUNCTIONS
from tests.factories.products import every_dtype_model

PAGES = Path(__file__).parents[2] / "docs" / "datamodels"


@pytest.mark.parametrize("name", data_model_names())
def test_the_page_of_every_product_is_up_to_date(name):
    assert (PAGES / f"{name}.md").read_text(encoding="utf-8") == documentation(load_data_model(name)), (
        "run: python -m catalogue.datamodels"
    )


def test_a_page_names_every_column_flag_and_status():
    page = documentation(every_dtype_model())
    for column in every_dtype_model().columns:
        assert f"| `{column.name}` | {column.dtype} | {column.unit} |" in page
    for flag in every_dtype_model().flags:
        assert f"| {flag.bit} | `{flag.name}` | {flag.level} |" in page
    assert "never used again: 1." in page
    assert "`NO_SPECTRUM`" in page


def test_bars_in_expressions_do_not_break_the_table():
    model = every_dtype_model(
        flags=[{"bit": 0, "name": "A", "level": "bad", "when": "visits | 1 == 1", "description": "a"}]
    )
    assert r"`visits \| 1 == 1`" in documentation(model)


def test_all_pages_are_written(tmp_path):
    written = write_documentation(tmp_path / "pages")
    assert [path.stem for path in written] == data_model_names()
    assert all(path.read_text().startswith(f"# {path.stem}: ") for path in written)


def test_the_overview_links_every_product_and_lists_every_function():
    overview = (PAGES / "README.md").read_text()
    for name in data_model_names():
        assert f"({name}.md)" in overview
    words = set(overview.replace("`", " ").split())
    assert not set(FUNCTIONS) - words
