"""Slides and the problem sheet: made of the chapters, and complete."""

import re
from pathlib import Path

import problems
import pytest
from bs4 import BeautifulSoup
from chromium import CHROMIUM
from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.md"))

built = pytest.mark.skipif(not HTML.exists(), reason="the book is not built: run `make html`")


def test_the_sheet_has_every_exercise_and_no_solution() -> None:
    found = [one for some in problems.problems().values() for one in some]
    assert {one.file for one in found} == set(CHAPTERS)
    sources = "".join((ROOT / "notebooks" / f"{name}.md").read_text(encoding="utf-8") for name in CHAPTERS)
    assert [one.label for one in found] == re.findall(r"(?m)^`{3,}\{exercise\}.*\n:label: (\S+)", sources)
    assert {one.level for one in found} == {1, 2, 3} and all(0 < one.minutes <= 120 for one in found)
    text = problems.sheet(problems.problems())
    assert "{solution" not in text and "{code-cell}" not in text


def test_an_exercise_without_minutes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "01_some.md").write_text("# Some\n\n```{exercise} Bare\n:label: ex\nWhy?\n```\n", encoding="utf-8")
    with pytest.raises(ValueError, match="01_some.md: each exercise needs"):
        problems.problems(tmp_path)


@built
def test_the_page_for_teachers_offers_the_slides_of_every_chapter() -> None:
    page = BeautifulSoup((HTML / "book" / "teach.html").read_text(encoding="utf-8"), "html.parser")
    offered = [str(anchor["href"]) for anchor in page.select(".ibv-slides a")]
    assert offered == [f"../slides/{name}.html" for name in CHAPTERS]


@built
@pytest.mark.parametrize("name", CHAPTERS)
def test_slides_show_the_figures_of_their_chapter_and_lead_back(name: str) -> None:
    path = HTML / "slides" / f"{name}.html"
    soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    slides = soup.select(".slides > section")
    assert len(slides) > 2 and slides[0].select_one("h1") and slides[0].get_text().count("?")
    assert "What to remember" in slides[-1].get_text() and len(slides[-1].select("li")) >= 3
    for tag, key in (("img", "src"), ("a", "href"), ("script", "src"), ("link", "href")):
        for each in soup.select(f"{tag}[{key}]"):
            target, _, anchor = str(each[key]).partition("#")
            there = path.parent / target.partition("?")[0]
            if not re.match(r"https?:", target):
                assert there.exists(), each[key]
                assert tag != "a" or not anchor or f'id="{anchor}"' in there.read_text(encoding="utf-8"), each[key]


@built
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine")
def test_slides_turn_from_a_disk(browser: Browser) -> None:
    page, complaints = browser.new_page(), list[str]()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((HTML / "slides" / "10_beyond_the_pull.html").as_uri())
    page.locator("section.present h1").wait_for()
    page.keyboard.press("ArrowRight")
    page.locator("section.present img").wait_for()
    assert page.locator("section.present img").evaluate("e => e.naturalWidth") > 500
    assert complaints == []
    page.close()
