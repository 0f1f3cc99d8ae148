"""The page of reports/ in a real browser: it loads alone, sorts, filters, fits a phone, prints, and can be read by all.

Needs the extra `browser` and a Chromium: playwright's own (`playwright install chromium`) or the system's.
"""

import shutil
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra `browser` is not installed")
PAGE = (Path(__file__).parent.parent / "reports/index.html").as_uri()
SYSTEM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=SYSTEM, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium to test with: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """opened(width, scheme): the page in a window of its own; at the end, nothing was said or asked for."""
    pages, heard = [], []

    def get(width=1280, scheme="light", script=True):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
        )
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: heard.append(request.url) if not request.url.startswith("data:") else None)
        page.goto(PAGE)
        pages.append(context)
        return page

    yield get
    for context in pages:
        context.close()
    assert set(heard) <= {PAGE}


def column(page, number):
    """The texts of a column of the table of all rows, of the rows that are shown."""
    return page.locator(f"#rows tbody tr:visible td:nth-child({number})").all_inner_texts()


def test_the_table_sorts_by_its_heads(opened):
    page = opened()
    page.get_by_role("button", name="Measured").click()
    rising = [float(text.split()[0]) for text in column(page, 3)]
    assert rising == sorted(rising) and len(set(rising)) > 1
    page.get_by_role("button", name="Measured").click()
    assert [float(text.split()[0]) for text in column(page, 3)] == rising[::-1]
    assert page.locator("#rows th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="Cell").click()
    assert column(page, 1) == sorted(column(page, 1)) and page.locator("#rows th[aria-sort]").count() == 1


def test_the_table_shows_the_rows_that_fit_every_filter(opened):
    page = opened()
    page.get_by_label("Method").select_option("frepo")
    shown = column(page, 1)
    assert shown and all("-frepo-" in cell for cell in shown)
    page.get_by_label("Words").fill("rank2")
    assert column(page, 1) and all("-frepo-" in cell and "rank2" in cell for cell in column(page, 1))
    assert page.locator("output").inner_text().startswith(f"{len(column(page, 1))} of ")


def test_without_scripts_all_rows_are_there_and_no_filter_is(opened):
    page = opened(script=False)
    assert page.locator("#rows tbody tr:visible").count() == page.locator("#rows tbody tr").count() > 0
    assert not page.locator(".filters").is_visible()


def test_a_rows_cell_leads_to_its_card(opened):
    page = opened()
    link = page.locator("#rows tbody a").first
    link.click()
    assert page.url.endswith(link.get_attribute("href"))
    assert page.locator(".card:target h3").inner_text() == link.inner_text()
    ids = set(page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)"))
    links = page.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map((each) => each.getAttribute('href'))")
    assert {link[1:] for link in links} <= ids


def test_pictures_are_shown_in_whole_multiples_of_their_pixels(opened):
    page = opened()
    page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    sizes = page.evaluate(
        "[...document.querySelectorAll('.tiles img')].map((i) => [i.naturalWidth, i.naturalHeight, i.width, i.height])"
    )
    assert sizes and all(w % nw == h % nh == 0 and w // nw == h // nh for nw, nh, w, h in sizes)


@pytest.mark.parametrize("width", [360, 768, 1024, 1200, 1280, 1600])
def test_no_pictures_reach_beyond_their_place(opened, width):
    page = opened(width)
    page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    wide = "[...document.querySelectorAll('.tiles')].filter((each) => each.scrollWidth > each.clientWidth + 1).length"
    assert page.evaluate(wide) == 0


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways(opened, width):
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(opened, scheme):
    """axe-core's rules: contrast, texts for pictures, names of controls, order of headings, tables."""
    page = opened(scheme=scheme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(253, 253, 252)"
    assert dark == (scheme == "dark")
    page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == []


def test_it_prints_without_its_controls(opened):
    page = opened()
    page.emulate_media(media="print")
    assert not page.locator(".filters").is_visible() and page.locator("#rows tbody tr").first.is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_the_page_is_at_most_three_megabytes():
    assert (Path(__file__).parent.parent / "reports/index.html").stat().st_size <= 3_000_000
