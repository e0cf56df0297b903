"""What a reader asks the book's search, and the section that answers it: among the first three hits."""

import json
import re
import sys
from pathlib import Path

import pytest
from chromium import CHROMIUM
from playwright.sync_api import Browser, Page
from test_page import HTML, WIDE, Visit

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "book" / "_ext"))

from search_text import plain  # noqa: E402

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine"),
    pytest.mark.skipif(not HTML.exists(), reason="the book is not built: run `make html`"),
]
#: question -> page and words of the title of a section that answers it, both as patterns
QUESTIONS = {
    "well fraction": ("0[789]|16|glossary", "what alpha means|cross|well|share|fraction"),
    "entropy production": ("01|04|glossary|10", "second law|dissipation"),
    "how many realisations": ("02|14|15|your_data|notation", "noise|needs|data|how much|realisation"),
    "unload": ("10", "failure|loops|turn round|pull and push"),
    "noise": ("02|glossary|16", "noise"),
    "my own data": ("your_data|14", "bring your data|your own particles"),
    "second law": ("01|10|glossary", "second law"),
    "GPU speed": ("how_it_is_fast", "fast|speed|time"),
    "uncertainty": ("15", "sure|band|promise|seeds alone"),
    "flow": ("09|glossary", "flow"),
    "memory": ("running|07", "memory"),
    "cite": ("cite", "cite"),
}


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Page:
    """One tab for all questions."""
    return browser.new_page(viewport=WIDE)


def asked(tab: Page, question: str) -> list[tuple[str, str, str]]:
    """Page with anchor, title and excerpt of each hit."""
    Visit(tab, "search", f"?q={question.replace(' ', '+')}")
    tab.locator("#search-results li").first.wait_for()
    found: list[tuple[str, str, str]] = tab.evaluate("""() => [...document.querySelectorAll("#search-results li")].map(
        (hit) => [hit.querySelector("a").getAttribute("href"), hit.querySelector("a").innerText, hit.innerText])""")
    return found


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_right_section_is_among_the_first_three(tab: Page, question: str) -> None:
    page, title = QUESTIONS[question]
    first = [(link, name) for link, name, _ in asked(tab, question)[:3]]
    right = [each for each in first if re.search(rf"/({page})", each[0]) and re.search(title, each[1], re.IGNORECASE)]
    assert right, first


@pytest.mark.parametrize("question", ["mobility", "dissipation", "alpha"])
def test_excerpts_hold_no_latex(tab: Page, question: str) -> None:
    hits = asked(tab, question)
    assert len(hits) > 5
    assert [text for _, _, text in hits if re.search(r"\\[a-zA-Z]|[${}]|_\\|\^\\", text)] == []


def test_hits_lead_to_their_sections(tab: Page) -> None:
    links = [link for link, _, _ in asked(tab, "entropy")]
    assert sum("#" in link for link in links) > len(links) / 2
    for link in links:
        page, _, anchor = link.partition("#")
        text = (HTML / page).read_text(encoding="utf-8")
        assert not anchor or f'id="{anchor}"' in text, link


def test_nothing_found_is_said(tab: Page) -> None:
    Visit(tab, "search", "?q=xyzzyplugh")
    tab.locator("#search-results .search-summary:not(:empty)").wait_for()
    assert "did not match" in tab.locator("#search-results .search-summary").inner_text()


def test_the_magnifier_leaves_the_first_letter_free(tab: Page) -> None:
    Visit(tab, "search")
    right, left = tab.evaluate("""() => {
        const form = document.querySelector(".bd-search-container form.bd-search"), field = form.querySelector("input");
        const icon = form.querySelector(".fa-magnifying-glass").getBoundingClientRect();
        return [icon.right, field.getBoundingClientRect().left + parseFloat(getComputedStyle(field).paddingLeft)];
    }""")
    assert right < left


def test_words_that_stand_for_others_are_in_the_book() -> None:
    script = (HTML / "_static" / "search_texts.js").read_text(encoding="utf-8").splitlines()
    texts, synonyms = (json.loads(line.partition(" = ")[2].rstrip(";")) for line in script)
    assert synonyms == json.loads((ROOT / "book" / "synonyms.json").read_text(encoding="utf-8"))
    whole = " ".join(f"{title} . {text}" for parts in texts.values() for _, title, text in parts).lower()
    lost = {phrase for phrases in synonyms.values() for phrase in phrases if phrase.lower() not in whole}
    assert lost == set()


@pytest.mark.parametrize(
    ("tex", "letters"),
    [
        (r"k_\mathrm{B}T", "kBT"),
        (r"\dot\alpha", "α\u0307"),
        (r"F_\mathrm{ex}\,\dot{\lambda}", "Fex λ\u0307"),
        (r"\frac{1}{2}\eta w^2", "1/2η w²"),
        (r"\phi(g) \ge 0", "φ(g) ≥ 0"),
        (r"\langle x\rangle", "⟨x⟩"),
    ],
)
def test_formulas_become_letters(tex: str, letters: str) -> None:
    assert plain(tex) == letters
