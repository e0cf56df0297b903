"""The shape of each chapter: how much there is to read, and how much of it is code.

    python tests/shape.py    a table of the built pages

Words and cells are those that a reader sees at first: what is folded, and what stands in the solution of an exercise,
is not counted, and neither are formulas.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jupytext
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "book"))

from chromium import CHROMIUM, QUIET  # noqa: E402

CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.md"))
FOLDED = {"hide-cell", "hide-input", "remove-cell", "remove-input"}
SCREEN = 900  # height of a screen, in pixels
MEASURE = """() => {
  const article = document.querySelector("article.bd-article"), top = article.getBoundingClientRect().top;
  const seen = (each) => each.getBoundingClientRect().height && !each.closest("details:not([open])");
  const own = (each) => [...document.querySelectorAll(each)].filter(seen);
  const height = (each) => each.getBoundingClientRect().height;
  const code = own(".cell_input").filter((e) => !e.parentElement.closest(".cell_input"));
  const figures = own("figure, .ibv-panel, .cell_output img, .ibv-drawing").map((e) => e.getBoundingClientRect().top);
  return {
    height: height(article),
    code: code.reduce((sum, e) => sum + height(e), 0),
    first: figures.length ? Math.min(...figures) - top : null,
  };
}"""


@dataclass(frozen=True)
class Shape:
    """What a chapter asks of its reader.

    Attributes:
        words: of the text.
        cells: code cells that are not folded.
        longest: lines of the longest of them.
        code: share of the page's height that is visible code.
        figure: screens to the first picture.
        screens: of the whole page.
    """

    words: int
    cells: int
    longest: int
    code: float
    figure: float
    screens: float


def read(chapter: Path) -> tuple[int, int, int]:
    """Words, visible cells and lines of the longest of a chapter's source."""
    words = cells = longest = 0
    solving = False
    for cell in jupytext.read(chapter, fmt="md:myst").cells:
        if cell.cell_type == "code":
            shown = not solving and not FOLDED & set(cell.metadata.get("tags", []))
            cells += shown
            longest = max(longest, shown * len(cell.source.strip().splitlines()))
            continue
        for part in re.split(r"(?m)^(`{3,}\{solution-(?:start|end)\}.*)$", cell.source):
            if "{solution-" in part:
                solving = "solution-start" in part
            elif not solving:
                plain = re.sub(r"(?ms)^\$\$.*?^\$\$|^:[a-z-]+:.*?$|^`{3,}.*?$|^:{3,}.*?$", " ", part)
                plain = re.sub(r"\$[^$]+\$|\]\([^)]*\)|\{[a-z:]+\}`[^`]*`|[|#*_`\-]+", " ", plain)
                words += len(re.findall(r"\w[\w'’-]*", plain))
    return words, cells, longest


def shapes(browser: Browser) -> Iterator[tuple[Path, Shape]]:
    """Every chapter's, from its source and its built page."""
    page = browser.new_page(viewport={"width": 1280, "height": SCREEN})
    page.emulate_media(reduced_motion="reduce")
    for chapter in CHAPTERS:
        page.goto((ROOT / "_build" / "html" / "notebooks" / f"{chapter.stem}.html").as_uri())
        page.wait_for_function("!document.querySelector('mjx-container') || window.MathJax?.startup?.promise")
        page.wait_for_timeout(300)
        found = page.evaluate(MEASURE)
        words, cells, longest = read(chapter)
        first = (found["first"] or found["height"]) / SCREEN
        share, screens = found["code"] / found["height"], found["height"] / SCREEN
        yield chapter, Shape(words, cells, longest, share, first, screens)
    page.close()


if __name__ == "__main__":
    print(f"{'chapter':28} words cells longest  code figure screens")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        for chapter, shape in shapes(browser):
            print(
                f"{chapter.stem:28} {shape.words:5} {shape.cells:5} {shape.longest:7} {shape.code:5.0%}"
                f" {shape.figure:6.1f} {shape.screens:7.1f}"
            )
        browser.close()
