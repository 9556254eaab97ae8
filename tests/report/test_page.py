from __future__ import annotations

import base64
import gzip
import html.parser
import json
import re

import numpy as np
import pytest

from catalogue.report import Problem, ReportCollector, ReportContext, StageTiming
from catalogue.report.figures import finite_range
from catalogue.report.page import write_page
from tests.factories.catalogues import lamost_model, simulated_columns, write_spectra
from tests.factories.products import classified_columns, classifier_model

CONTEXT = ReportContext(title="Ages", product="lamost_age_mass", survey="lamost-lrs")


def page_of(columns: dict, tmp_path, context: ReportContext = CONTEXT, sample_rows: int = 20000) -> str:
    collector = ReportCollector(lamost_model(), "LAMOST", sample_rows)
    collector.add(0, columns)
    write_page(collector, tmp_path / "report.html", context)
    return (tmp_path / "report.html").read_text()


class Elements(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def columns() -> dict:
    return simulated_columns(240)


@pytest.fixture(scope="module")
def page(columns, tmp_path_factory) -> str:
    return page_of(columns, tmp_path_factory.mktemp("page"))


def test_page_loads_nothing_from_anywhere(page):
    for tag, attributes in Elements(page).found:
        for name in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("data:", "#")), (tag, name, value[:60])
    assert "default-src 'none'" in page
    assert "url(" not in page


def test_page_states_exact_counts(columns, tmp_path):
    text = page_of(columns, tmp_path, sample_rows=50)
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', text, re.DOTALL)[1])
    assert facts["rows"] == 240
    assert sum(state[3] for state in facts["states"]) == 240
    without = (columns["FLAG"] & 1).sum()
    row = re.search(r"NO_SPECTRUM</span>.*?</tr>", text, re.DOTALL)[0]
    assert f'data-label="all rows">{without}</td>' in row


def test_embedded_sample_is_the_catalogue(columns, page):
    arrays = json.loads(re.search(r'id="sample-arrays">(.*?)</script>', page, re.DOTALL)[1])
    content = gzip.decompress(base64.b64decode(re.search(r'id="sample-block">(.*?)</script>', page, re.DOTALL)[1]))
    age = np.frombuffer(content, "<f4", arrays["age"]["length"], arrays["age"]["offset"])
    assert np.array_equal(age, columns["Age"], equal_nan=True)
    ra = np.frombuffer(content, "<f8", arrays["ra"]["length"], arrays["ra"]["offset"])
    assert np.array_equal(ra, columns["ra"], equal_nan=True)
    keys = content[arrays["key"]["offset"] :][: arrays["key"]["bytes"]].decode().split("\n")
    assert keys == [str(key) for key in columns["obsid"]]


def test_same_rows_give_the_same_bytes(columns, tmp_path):
    write_spectra(tmp_path / "spectra.zarr", columns)
    context = ReportContext(title="Ages", product="p", survey="s", spectra=tmp_path / "spectra.zarr")
    assert page_of(columns, tmp_path, context) == page_of(columns, tmp_path, context)


def test_hostile_strings_stay_text(columns, tmp_path):
    hostile = "</script><script>alert(1)</script>"
    changed = {**columns, "class": np.array([hostile] * 240, np.dtypes.StringDType())}
    context = ReportContext(
        title=hostile, product=hostile, survey="s", problems=(Problem(1, hostile, "UNREADABLE", hostile),),
        versions={hostile: hostile}, timings=(StageTiming("ingest", 240, 0.0),),
    )  # fmt: skip
    text = page_of(changed, tmp_path, context)
    assert hostile not in text
    assert "&lt;/script&gt;" in text


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_tiny_catalogues_have_a_page(rows, tmp_path):
    assert f"<b>{rows}</b> rows" in page_of(simulated_columns(rows), tmp_path)


def test_a_catalogue_without_any_age_has_a_page(columns, tmp_path):
    floats = {name for name, values in columns.items() if values.dtype.kind == "f"}
    empty = {name: np.full_like(values, np.nan) if name in floats else values for name, values in columns.items()}
    assert "<b>0</b> with an age" in page_of(empty, tmp_path)


def test_missing_spectra_store_is_said_and_the_page_written(columns, tmp_path):
    context = ReportContext(title="Ages", product="p", survey="s", spectra=tmp_path / "nowhere.zarr")
    assert "could not be read" in page_of(columns, tmp_path, context)


def test_interrupted_write_leaves_the_earlier_page(columns, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("earlier")

    def fails(collector, context):
        raise KeyboardInterrupt

    monkeypatch.setattr("catalogue.report.page.render", fails)
    with pytest.raises(KeyboardInterrupt):
        page_of(columns, tmp_path)
    assert (tmp_path / "report.html").read_text() == "earlier"


def test_ranges_ignore_missing_values():
    assert finite_range(np.array([np.nan, 1.0, 3.0])) == pytest.approx((0.92, 3.08))
    assert finite_range(np.array([np.nan])) == (0.0, 1.0)
    assert finite_range(np.array([2.0])) == (1.5, 2.5)


def test_a_product_without_ages_is_told_of_by_what_its_model_gives(tmp_path):
    columns = classified_columns(100)
    collector = ReportCollector(classifier_model(), "LAMOST")
    for start in (0, 64):
        collector.add(start, {name: values[start : start + 64] for name, values in columns.items()})
    write_page(collector, tmp_path / "report.html", CONTEXT)
    text = (tmp_path / "report.html").read_text()
    assert "<b>80</b> with a value of Probability</li>" in text
    assert "coloured by Probability; both axes" in text
    assert "Rows per bin of Probability; the points" not in text
    assert 'id="figure-histogram-result"' in text
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.findall(r"\b(an age|age and mass|by age)\b", body)
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', text, re.DOTALL)[1])
    assert facts["result"] == {"role": "result", "words": "a value of Probability"}
    assert facts["planes"]["teff-logg"] == "result"
    assert sum(count for *_, has_result, count in facts["states"] if has_result) == 80


def test_a_plane_without_a_colour_is_not_said_to_have_one(columns, tmp_path):
    model = lamost_model()
    without = [column for column in model.columns if not column.name.lower().startswith(("mass", "age_mass"))]
    collector = ReportCollector(model.model_copy(update={"columns": tuple(without)}), "LAMOST")
    collector.add(0, columns)
    write_page(collector, tmp_path / "report.html", CONTEXT)
    assert "Age against metallicity.</figcaption>" in (tmp_path / "report.html").read_text()
