"""The built book in a real browser with the network cut: what a reader sees.

Each page is opened once, on a wide screen in light mode, and passes all tests; two of them look at
it on a phone or in dark mode.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from chromium import CHROMIUM
from playwright.sync_api import Browser, Page, Route, ViewportSize

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
MEGABYTE = 1_000_000
WIDE: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 360, "height": 740}
AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine"),
    pytest.mark.skipif(not HTML.exists(), reason="the book is not built: run `make html`"),
]


def pages() -> list[str]:
    """The pages of the table of contents, without suffix."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in contents["parts"] for chapter in part["chapters"]]
    sections = [section for chapter in chapters for section in chapter.get("sections", [])]
    return [contents["root"], *(entry["file"] for entry in chapters + sections)]


@cache
def anchors(path: Path) -> frozenset[str]:
    """What a link into a page of the book may point at."""
    return frozenset(re.findall(r'\b(?:id|name)="([^"]+)"', path.read_text(encoding="utf-8")))


def local(url: str) -> Path | None:
    """The file that a URL names, if it is one on this machine."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


class Visit:
    """One page, opened from disk; everything that went wrong on the way is kept."""

    def __init__(self, page: Page, name: str, query: str = "") -> None:
        self.page = page
        self.name = name
        self.loaded: set[Path] = set()
        page.set_default_timeout(120_000)  # a machine may be busy
        self.complaints: list[str] = []
        self.outside: list[str] = []
        page.on("console", lambda m: self._complain(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.on("requestfailed", lambda request: self._complain(f"failed: {request.url}"))
        page.route("**/*", self._local_only)
        page.goto((HTML / f"{name}.html").as_uri() + query, wait_until="load")
        # MathJax starts after the load event and draws when it is ready.
        page.wait_for_function("() => !window.MathJax || window.MathJax.startup?.promise")
        page.evaluate("() => window.MathJax?.startup?.promise")
        page.add_style_tag(content="* { transition: none !important }")

    def show(self, mode: str, size: ViewportSize) -> None:
        """Set the colours and the size of the window, and unfold what is folded."""
        self.page.evaluate("(mode) => { Object.assign(document.documentElement.dataset, {mode, theme: mode}); }", mode)
        folds = self.page.locator("article details:not([open])")
        unfolded = folds.evaluate_all("folds => folds.map(fold => { fold.open = true; }).length")
        if unfolded or self.page.viewport_size != size:
            self.page.set_viewport_size(size)
            # The theme makes a box that scrolls a stop of the Tab key 0.3 seconds after a change.
            self.page.wait_for_timeout(400)

    def violations(self, part: str = "html") -> list[str]:
        """What axe-core finds in a part of the page as it is shown; minor points are left out."""
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(AXE)
            # Thousands of words of code would take most of the time: one of each colour remains.
            self.page.evaluate("""() => {
                const seen = new Set();
                const words = ".highlight pre span, dt.sig span:not([id])";
                for (const word of document.querySelectorAll(words)) {
                    const ground = word.closest("dt, .cell_input, .cell_output, body");
                    const kind = `${word.className} ${ground.className}`;
                    if (seen.has(kind)) word.replaceWith(...word.childNodes);
                    seen.add(kind);
                }
                document.querySelectorAll(".highlight pre").forEach(code => code.normalize());
            }""")
        found = self.page.evaluate(
            """async (part) => {
                // no preload: from a disk no style sheet can be fetched
                const options = {preload: false, resultTypes: ["violations"]};
                return (await axe.run(part, options)).violations.filter(v => v.impact !== "minor")
                    .flatMap(v => v.nodes.map(n => `${v.id} (${v.impact}): ${n.html.slice(0, 200)}`
                        + ` ${n.failureSummary.replace(/\\s+/g, " ").slice(0, 200)}`));
            }""",
            part,
        )
        return found[:10]  # enough to mend, few enough to read

    def _complain(self, text: str) -> None:
        self.complaints.append(text)

    def _local_only(self, route: Route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            if path := local(route.request.url):
                self.loaded.add(path)
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()


@pytest.fixture(params=pages(), scope="module")
def visit(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visit]:
    """Each page in turn, opened once, in a tab of its own."""
    page = browser.new_page(viewport=WIDE)
    yield Visit(page, request.param)
    page.close()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """An empty tab for a test of one page."""
    page = browser.new_page(viewport=WIDE)
    yield page
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


def test_images_say_what_they_show(visit: Visit) -> None:
    silent = visit.page.evaluate("""() => [...document.querySelectorAll("img")]
        .filter(i => i.getAttribute("role") !== "presentation")
        .filter(i => !i.alt.trim() || /\\.(png|svg|jpe?g)$/.test(i.alt))
        .map(i => i.outerHTML.slice(0, 120))""")
    assert silent == []


def test_no_warning_text(visit: Visit) -> None:
    assert visit.page.locator(".system-message, .output.stderr, .output.traceback").count() == 0
    # The library's pages show on purpose how a call fails.
    text = visit.page.evaluate("""() => [...document.querySelectorAll("article")].map(article => {
        const copy = article.cloneNode(true);
        copy.querySelectorAll("dl.py").forEach(entry => entry.remove());
        return copy.textContent;
    }).join()""")
    for noise in ("Warning:", "Traceback", "ERROR", "[???]", "%matplotlib", "Widget Javascript"):
        assert noise not in text


def test_sliders_change_the_picture(visit: Visit) -> None:
    for slider in visit.page.locator("article .ibv-frames input[type=range]").all():
        slider.scroll_into_view_if_needed()
        picture = slider.locator("xpath=ancestor::*[@class='ibv-frames']").locator("img")
        before = [picture.get_attribute(name) for name in ("src", "alt")]
        slider.focus()
        last = slider.input_value() == slider.get_attribute("max")
        visit.page.keyboard.press("ArrowLeft" if last else "ArrowRight")
        after = [picture.get_attribute(name) for name in ("src", "alt")]
        assert before[0] != after[0] and before[1] != after[1]
        picture.evaluate("image => image.decode()")


def test_links_lead_somewhere(visit: Visit) -> None:
    links = visit.page.evaluate("() => [...document.querySelectorAll('a[href]')].map(a => a.href)")
    broken = set()
    for link in links:
        path, anchor = local(link), unquote(urlsplit(link).fragment)
        if path is None:
            continue
        if not path.is_relative_to(HTML) or not path.is_file():
            broken.add(link)
        elif anchor and path.suffix == ".html" and anchor not in anchors(path):
            broken.add(link)
    assert broken == set()


def test_chapters_can_be_run_and_fetched(visit: Visit) -> None:
    notebook = ROOT / f"{visit.name}.ipynb"
    links = visit.page.evaluate("() => [...document.querySelectorAll('.article-header-buttons a')].map(a => a.href)")
    hosts = {urlsplit(link).hostname: link for link in links}
    if not notebook.exists():
        assert not hosts.keys() & {"mybinder.org", "colab.research.google.com"}
        return
    repository = urlsplit(CONFIG["repository"]["url"]).path.strip("/")
    branch = CONFIG["repository"]["branch"]
    binder = urlsplit(hosts["mybinder.org"])
    assert binder.path == f"/v2/gh/{repository}/{branch}"
    assert parse_qs(binder.query)["urlpath"] == [f"lab/tree/{visit.name}.ipynb"]
    colab = urlsplit(hosts["colab.research.google.com"])
    assert colab.path == f"/github/{repository}/blob/{branch}/{visit.name}.ipynb"
    (download,) = {path for link in links if (path := local(link)) and path.suffix == ".ipynb"}
    assert download.read_bytes() == notebook.read_bytes()


# Every rule in both modes, and on both widths: wide boxes scroll on a phone only.
@pytest.mark.parametrize(("mode", "size"), [("light", WIDE), ("dark", PHONE)], ids=["light", "dark"])
def test_everyone_can_read_it(visit: Visit, mode: str, size: ViewportSize) -> None:
    visit.show(mode, size)
    assert visit.violations() == []


# On both widths in both modes: pages with a panel of each kind, a slider, tables and drawings.
FEW = [
    "book/intro",
    "notebooks/05_learning_the_trap",
    "notebooks/08_chain_gmm",
    "notebooks/11_lattice_gas",
    "notebooks/15_how_sure",
]


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_a_few_pages_can_be_read_everywhere(browser: Browser, name: str, mode: Literal["light", "dark"]) -> None:
    """Of width and of the mode that the device asks for."""
    page = browser.new_page(viewport=WIDE, color_scheme=mode)
    visit = Visit(page, name)
    sizes: tuple[ViewportSize, ...] = (WIDE, {"width": 390, "height": 844})
    for size in sizes:
        visit.show(mode, size)
        assert visit.violations() == []
    page.close()


def test_the_book_follows_the_device(browser: Browser) -> None:
    """Dark where it prefers dark, at once and when it changes; text, panels and sliders as well."""
    page = browser.new_page(viewport=WIDE, color_scheme="dark")
    visit = Visit(page, "notebooks/08_chain_gmm")
    grounds = """() => ["body", ".ibv-panel", ".ibv-frames"].map((name) =>
        getComputedStyle(document.querySelector(name)).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number))"""
    page.locator(".ibv-panel").first.wait_for()
    mode: Literal["light", "dark"]
    for mode in ("dark", "light", "dark"):
        page.emulate_media(color_scheme=mode)
        page.wait_for_function("mode => document.documentElement.dataset.theme === mode", arg=mode)
        for ground in page.evaluate(grounds):
            assert max(ground) < 60 if mode == "dark" else min(ground) > 240
        canvas = page.evaluate("document.querySelector('.ibv-panel').ibvonns.plots.force.colours.ground")
        assert canvas == {"dark": "#14181e", "light": "#fff"}[mode]
    assert visit.complaints == []
    page.close()


def test_sliders_play_and_fill_their_box(tab: Page) -> None:
    Visit(tab, "notebooks/08_chain_gmm")
    frames = tab.locator(".ibv-frames").first
    box, picture = frames.bounding_box(), frames.locator("img").bounding_box()
    assert box and picture and picture["width"] > 0.9 * box["width"]
    slider = frames.locator("input")
    frames.get_by_role("button", name="Play").click()
    tab.wait_for_function("e => Number(e.value) >= 2", arg=slider.element_handle())
    frames.get_by_role("button", name="Pause").click()
    stays = slider.input_value()
    tab.wait_for_timeout(900)
    assert slider.input_value() == stays


def test_nothing_sticks_out_on_a_phone(visit: Visit) -> None:
    visit.show("dark", PHONE)
    width = visit.page.evaluate("() => document.scrollingElement.scrollWidth")
    outside = visit.page.evaluate("""() => {
        const edge = document.documentElement.clientWidth + 1;
        const scrolls = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
        const boxed = (e) => e.tagName !== "ARTICLE" && (scrolls(e) || boxed(e.parentElement));
        return [...document.querySelectorAll("article *")].filter((e) => {
            const {left, right, width, height} = e.getBoundingClientRect();
            const out = width > 1 && height > 1 && (left < -1 || right > edge);
            const spoken = e.closest("mjx-assistive-mml"); // a formula that is not drawn
            return out && !spoken && !boxed(e.parentElement);
        }).map(e => e.outerHTML.slice(0, 120)).slice(0, 10);
    }""")
    assert outside == []
    assert width <= PHONE["width"]


def test_figures_can_be_read_on_a_phone_and_wide_formulas_say_so(visit: Visit) -> None:
    """The smallest letters, 9.5 points at 200 dots an inch (tests/test_shape.py), are nine pixels high."""
    visit.show("light", {"width": 390, "height": 844})
    small, silent = visit.page.evaluate("""() => {
        const letters = (e) => (e.clientWidth / Number(e.getAttribute("width"))) * 9.5 * 200 / 72;
        const seen = [...document.querySelectorAll("article a.picture img[width]")].filter((e) => e.clientWidth);
        const wide = [...document.querySelectorAll("article div.math mjx-container")].filter(
            (e) => e.scrollWidth > e.clientWidth);
        return [
            seen.filter((e) => letters(e) < 9).map((e) => [e.alt.slice(0, 60), letters(e)]),
            wide.filter((e) => !getComputedStyle(e).backgroundImage.includes("gradient")).map((e) => e.textContent),
        ];
    }""")
    assert (small, silent) == ([], [])


def test_page_is_light(visit: Visit) -> None:
    sizes = sorted(((path.stat().st_size, path.name) for path in visit.loaded), reverse=True)
    assert sum(size for size, _ in sizes) <= 3 * MEGABYTE, sizes[:8]


def test_book_is_light() -> None:
    sizes = {path: path.stat().st_size for path in HTML.rglob("*") if path.is_file()}
    printed = sum(size for path, size in sizes.items() if path.suffix == ".pdf")  # a copy of it, to be fetched
    assert sum(sizes.values()) - printed <= 60 * MEGABYTE and sum(sizes.values()) <= 80 * MEGABYTE


def test_search_works_from_a_disk(tab: Page) -> None:
    visit = Visit(tab, "search", "?q=Entropy")
    results = tab.locator("#search-results li")
    results.locator("p.context").first.wait_for()
    assert results.count() > 3
    # A function of the library has a description instead.
    told = [result.locator("p.context, span").count() for result in results.all()]
    assert all(told)
    contexts = results.locator("p.context").all_inner_texts()
    assert sum("entropy" in text.lower() for text in contexts) > len(contexts) / 2
    assert (visit.complaints, visit.outside) == ([], [])
    assert visit.violations() == []


def test_keyboard_reaches_the_text_first(tab: Page) -> None:
    Visit(tab, pages()[0])
    tab.keyboard.press("Tab")
    link = tab.locator(":focus")
    assert link.inner_text() == "Skip to main content"
    box = link.bounding_box()
    assert box and box["y"] >= 0 and box["height"] > 10
    tab.keyboard.press("Enter")
    assert urlsplit(tab.url).fragment == "main-content"


def test_menus_can_be_read(tab: Page) -> None:
    chapters = [name for name in pages() if (ROOT / f"{name}.ipynb").exists()]
    visit = Visit(tab, min(chapters, key=lambda name: (HTML / f"{name}.html").stat().st_size))
    for mode in ("light", "dark"):
        visit.show(mode, PHONE)
        for button in (".primary-toggle", ".secondary-toggle", ".bd-header-article .search-button"):
            tab.locator(button).first.click()
            tab.locator("dialog[open]").wait_for()
            assert visit.violations("dialog[open]") == []
            tab.keyboard.press("Escape")
        for button in (".dropdown-launch-buttons button", ".dropdown-download-buttons button"):
            tab.locator(button).first.click()
            assert visit.violations(".dropdown-menu.show") == []
            tab.keyboard.press("Escape")
