"""The built book in a real browser with the network cut: what a reader sees."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Page, Route, sync_playwright

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
QUIET = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine"),
    pytest.mark.skipif(not HTML.exists(), reason="the book is not built: run `make html`"),
]


def pages() -> list[str]:
    """The pages of the table of contents, without suffix."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [contents["root"], *(c["file"] for p in contents["parts"] for c in p["chapters"])]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all pages."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


class Visit:
    """One page, opened from disk; everything that went wrong on the way is kept."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        page.set_default_timeout(120_000)  # a machine may be busy
        self.complaints: list[str] = []
        self.outside: list[str] = []
        page.on("console", lambda m: self._complain(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.on("requestfailed", lambda request: self._complain(f"failed: {request.url}"))
        page.route("**/*", self._local_only)
        page.goto((HTML / f"{name}.html").as_uri(), wait_until="load")
        # MathJax and the widgets start after the load event and draw when they are ready.
        page.wait_for_function("() => !window.MathJax || window.MathJax.startup?.promise")
        page.evaluate("() => window.MathJax?.startup?.promise")
        if page.locator("script[type='application/vnd.jupyter.widget-view+json']").count():
            page.locator(".jupyter-widgets").first.wait_for()

    def _complain(self, text: str) -> None:
        self.complaints.append(text)

    def _local_only(self, route: Route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()


@pytest.fixture(params=pages(), scope="module")
def visit(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visit]:
    """Each page in turn, opened once, in a tab of its own."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    yield Visit(page, request.param)
    page.close()


def test_page_needs_no_other_host_and_reports_no_error(visit: Visit) -> None:
    assert visit.outside == []
    assert visit.complaints == []


def test_formulas_are_drawn(visit: Visit) -> None:
    sources = visit.page.locator("article .math").count()
    drawn = visit.page.locator("article .math mjx-container").count()
    assert drawn >= sources
    assert visit.page.locator("mjx-merror, [data-mjx-error]").count() == 0
    assert visit.page.locator("article .math").filter(has_text="\\").count() == 0


def test_images_are_loaded(visit: Visit) -> None:
    broken = """() => [...document.querySelectorAll("article img")]
        .filter(i => i.getClientRects().length && !(i.complete && i.naturalWidth))
        .map(i => i.src.slice(0, 80))"""
    # A lazy image loads when it comes into view.
    for image in visit.page.locator("article img").all():
        if image.is_visible():
            image.scroll_into_view_if_needed()
    # `complete` is true of an image that failed, too. (Playwright's "networkidle" may never come.)
    visit.page.wait_for_function("""() => [...document.querySelectorAll("article img")]
        .every(i => i.complete || !i.getClientRects().length)""")
    assert visit.page.evaluate(broken) == []


def test_no_warning_text(visit: Visit) -> None:
    assert visit.page.locator(".system-message, .output.stderr, .output.traceback").count() == 0
    text = visit.page.locator("article").inner_text()
    for noise in ("Warning:", "Traceback", "ERROR", "[???]", "%matplotlib", "Widget Javascript"):
        assert noise not in text


def test_sliders_change_the_picture(visit: Visit) -> None:
    shown = """() => [...document.querySelectorAll("article .jupyter-widgets img, "
        + "article img.jupyter-widgets")]
        .filter(i => i.getClientRects().length).map(i => i.src)"""
    digest = """async (urls) => Promise.all(urls.map(async (url) => {
        const image = new Image(); image.src = url; await image.decode();
        const canvas = document.createElement("canvas");
        canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.toDataURL();
    }))"""

    def picture() -> list[int]:
        # Hashes: a failure is not to print a picture.
        return [hash(url) for url in visit.page.evaluate(digest, visit.page.evaluate(shown))]

    for handle in visit.page.locator("article .jupyter-widgets .noUi-handle").all():
        handle.scroll_into_view_if_needed()
        before = picture()
        assert before, "a slider, but no picture"
        handle.focus()
        at = handle.get_attribute("aria-valuenow")
        top = handle.get_attribute("aria-valuemax")
        visit.page.keyboard.press("ArrowLeft" if at == top else "ArrowRight")
        visit.page.wait_for_timeout(300)
        assert handle.get_attribute("aria-valuenow") != at
        assert picture() != before
