"""The page in a real browser, used as a reader uses it."""

from __future__ import annotations

import io
import shutil

import numpy as np
import PIL.Image
import pytest

from catalogue.report import ReportCollector, ReportContext
from catalogue.report.page import write_page
from tests.factories.catalogues import lamost_model, simulated_columns, write_spectra

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def columns() -> dict:
    return simulated_columns(240)


@pytest.fixture(scope="module")
def address(columns, tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("report")
    write_spectra(directory / "spectra.zarr", columns)
    collector = ReportCollector(lamost_model(), "LAMOST")
    collector.add(0, columns)
    context = ReportContext(
        title="Ages", product="lamost_age_mass", survey="lamost-lrs", spectra=directory / "spectra.zarr",
        example_spectra=12,
    )  # fmt: skip
    write_page(collector, directory / "report.html", context)
    return (directory / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page at a width and fails the test if the page says anything on the console or asks for anything."""
    said: list[str] = []
    contexts = []

    def open_at(width: int, **options):
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url[:4] == "http" else None)
        page.goto(address)
        if options.get("java_script_enabled", True):
            page.wait_for_function("document.documentElement.dataset.ready === 'yes'")
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert said == []


def selected(page) -> int:
    return int(page.locator("#selected-rows").inner_text().replace(",", ""))


def ink(page, figure: str) -> int:
    """Pixels of a figure's canvas that are not white."""
    return drawn(page.locator(f"#figure-{figure} canvas"))


def drawn(locator) -> int:
    picture = np.asarray(PIL.Image.open(io.BytesIO(locator.screenshot())).convert("L"))
    return int((picture < 250).sum())


@pytest.mark.parametrize("width", [390, 1400])
def test_page_fits_its_width_and_draws_every_figure(open_page, width):
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    figures = page.locator(".plot[data-figure]")
    names = [figures.nth(index).get_attribute("data-figure") for index in range(figures.count())]
    assert {"teff-logg", "age-mass", "feh-age", "snr-age_error", "histogram-age", "ra-dec"} <= set(names)
    page.wait_for_timeout(200)
    for name in names:
        assert ink(page, name) > 2000, name


def test_flags_change_counts_and_points(open_page, columns):
    page = open_page(1400)
    good = int((~columns["FLAG_BAD"]).sum())
    assert selected(page) == good
    page.wait_for_timeout(200)
    before = ink(page, "teff-logg")
    page.locator('select[data-flag="7"]').select_option("without")
    low = columns["FLAG"] >> 7 & 1 == 1
    assert selected(page) == int((~columns["FLAG_BAD"] & ~low).sum()) < good
    assert ink(page, "teff-logg") < before
    page.locator('select[data-flag="7"]').select_option("with")
    assert selected(page) == int((~columns["FLAG_BAD"] & low).sum())
    assert page.locator('[data-flag-count="7"]').inner_text() == str(selected(page))
    page.locator("#choose-all").click()
    assert selected(page) == 240
    page.locator('input[data-status="2"]').uncheck()
    assert selected(page) == int((columns["STATUS"] != 2).sum())
    page.locator("#choose-good").click()
    assert selected(page) == good


def test_pointing_at_a_star_shows_it_and_clicking_opens_it(open_page):
    page = open_page(1400)
    canvas = page.locator("#figure-age-mass canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    tip = page.locator("#figure-age-mass .tip")
    places = [(x / 40, y / 40) for x in range(6, 36) for y in range(4, 34, 3)]
    for across, down in places:
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
        if tip.is_visible():
            break
    assert "obsid" in tip.inner_text()
    assert "Gyr" in tip.inner_text()
    named = tip.inner_text().splitlines()[0]
    page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])
    assert page.locator("#star-title").inner_text() == named
    assert page.locator("#star canvas").count() >= 2


@pytest.mark.parametrize("width", [390, 1400])
def test_keyboard_alone_filters_moves_and_opens_a_star(open_page, width):
    page = open_page(width)
    page.locator('select[data-flag="7"]').focus()
    before = selected(page)
    page.keyboard.press("ArrowDown")
    assert selected(page) != before
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('figure')?.id ?? document.activeElement.id"))
    assert {"figure-teff-logg", "figure-age-mass", "figure-ra-dec"} <= reached
    page.locator("#figure-teff-logg canvas").focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#figure-teff-logg .tip").inner_text()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#figure-teff-logg .tip").inner_text() != first
    page.keyboard.press("Enter")
    assert page.locator("#star").is_visible()
    assert page.evaluate("document.activeElement.id") == "star"
    page.keyboard.press("Escape")
    assert page.locator("#star").is_hidden()
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"


def test_a_star_with_a_spectrum_shows_it(open_page):
    page = open_page(390)
    button = page.locator("#example-list button").first
    button.click()
    page.wait_for_selector("#spectrum canvas")
    assert drawn(page.locator("#spectrum canvas")) > 2000
    assert page.locator("#star canvas").count() == 4
    assert page.locator("#star-title").inner_text() == f"obsid {button.inner_text()}"


def test_a_star_is_found_by_its_key(open_page, columns):
    page = open_page(1400)
    page.locator("#find-key").fill(str(columns["obsid"][20]))
    page.keyboard.press("Enter")
    assert page.locator("#star-title").inner_text() == f"obsid {columns['obsid'][20]}"
    page.keyboard.press("Escape")
    page.locator("#find-key").fill("12")
    page.keyboard.press("Enter")
    assert "not among the 240 rows" in page.locator("#find-message").inner_text()
    assert page.locator("#star").is_hidden()


def test_page_is_legible_without_scripts_and_in_print(open_page):
    page = open_page(1000, java_script_enabled=False)
    assert page.locator("figure img").first.is_visible()
    assert page.locator("#filterbar").is_hidden()
    assert page.locator("select").first.is_hidden()
    printed = open_page(1000)
    assert printed.locator("figure img").first.is_hidden()
    printed.emulate_media(media="print")
    assert printed.locator("figure img").first.is_visible()
    assert printed.locator("#filterbar").is_hidden()
