"""Lectures, not treatises: how long each chapter is, how much of it is code, how soon something is to be seen."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM
from playwright.sync_api import Browser
from shape import CHAPTERS, ROOT, Shape, read, shapes

WORDS, CELLS, LINES, CODE, FIGURE = 2500, 35, 17, 0.25, 2.5
LETTERS = 9.5  # points, of the smallest that figures may have: tests/test_page.py shows what a phone makes of them


@pytest.fixture(scope="module")
def found(browser: Browser) -> Iterator[dict[str, Shape]]:
    """The shape of every chapter."""
    yield {chapter.stem: shape for chapter, shape in shapes(browser)}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_a_lecture(chapter: Path) -> None:
    words, cells, longest = read(chapter)
    assert words <= WORDS and cells <= CELLS and longest <= LINES


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.skipif(not (ROOT / "_build" / "html").exists(), reason="the book is not built: run `make html`")
def test_code_leaves_room_for_the_subject(found: dict[str, Shape]) -> None:
    assert {name: shape.code for name, shape in found.items() if shape.code > CODE} == {}
    assert {name: shape.figure for name, shape in found.items() if shape.figure > FIGURE} == {}


def test_no_figure_has_smaller_letters() -> None:
    sources = [*CHAPTERS, ROOT / "ibvonns_book" / "plots.py"]
    told = re.compile(r"(?:fontsize|labelsize|font\.size|legend\.fontsize)\"?\s*[=:]\s*([\d.]+)")
    sizes = [float(size) for path in sources for size in told.findall(path.read_text(encoding="utf-8"))]
    assert len(sizes) > 10 and min(sizes) >= LETTERS


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_opens_with_its_question_and_closes_with_what_to_remember(chapter: Path) -> None:
    source = chapter.read_text(encoding="utf-8")
    body = source.split("\n# ", 1)[1].split("\n", 1)[1].strip()
    assert body.startswith("*") and body.split("*")[1].endswith("?")
    assert "## What to remember" in source and "You will see" in source and "It runs" in source
