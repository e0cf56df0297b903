"""The landing page: each number has one source, the panel is the chapter's, the pictures are the script's."""

import json
import re
from pathlib import Path

import author_year
import drawings
import landing
import nbformat
import offered
import pytest
from bs4 import BeautifulSoup
from chromium import CHROMIUM
from playwright.sync_api import Browser
from pybtex.database import parse_file

from ibvonns.paper.scoreboard import stored

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
BUILT = ROOT / "_build" / "html" / "book" / "intro.html"
STATE = "application/vnd.jupyter.widget-state+json"

built = pytest.mark.skipif(not BUILT.exists(), reason="the book is not built: run `make html`")


def test_stored_pictures_are_what_the_script_draws(tmp_path: Path) -> None:
    landing.write(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"motive.svg", "unseen.svg"}
    for name in names:
        assert (tmp_path / name).read_bytes() == (drawings.TARGET / name).read_bytes(), f"run book/landing.py: {name}"


def test_every_number_follows_its_source() -> None:
    before, board, data = landing.numbers(), stored(), landing.kept()
    for row in board.values():
        row |= {"published": 77.0, "median": 88.0, "floor": 99.0}
    data["predicted"]["errors of neural ODE"] = [66.0]
    after = landing.numbers(data, board)
    assert {name for name in before if before[name] == after[name]} == {"rows"}
    assert set(re.findall(r"\{\{ (\w+) \}\}", TEXT)) == set(before)
    assert not re.search(r"\d\s*%", TEXT), "a number that no source changes"


def test_neural_ode_has_the_number_of_the_chapter() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "16_scoreboard.ipynb", as_version=nbformat.NO_CONVERT)
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    tables = [str(output.get("data", {}).get("text/markdown", "")).splitlines() for output in outputs]
    column = []
    for head, _, *rows in (table for table in tables if table and "neural" in table[0].lower()):
        (place,) = [n for n, words in enumerate(head.split("|")) if "neural" in words.lower()]
        column += [row.split("|")[place].strip() for row in rows]
    assert landing.numbers()["ode_here"].removesuffix(" %") in column


def test_both_chains_start_with_the_same_mean_strain() -> None:
    futures = landing.kept()["futures"]
    first, second = futures["settled"], futures["uncrossed"]
    assert abs(first["mean"] - 0.5) < 0.05 and abs(second["mean"] - 0.5) < 0.05  # "one half"
    assert abs(first["force"][0]) < 0.001 < 0.004 < second["force"][0]  # "hardly any force", "needs one"
    assert max(b - a for a, b in zip(first["strain"], second["strain"], strict=True)) > 0.3  # "they part"
    long = [sum(part["bars"][16:]) for part in (first, second)]  # beyond the barrier at a strain of 1
    assert long[0] > 0.2 and long[1] < 0.02


@built
def test_panel_is_that_of_the_chapter() -> None:
    page = BeautifulSoup(BUILT.read_text(encoding="utf-8"), "html.parser")
    (panel,) = page.select("div.ibv-live[data-play] > script")
    widgets = nbformat.read(ROOT / "notebooks" / "05_learning_the_trap.ipynb", as_version=4).metadata.widgets
    models = [model["state"] for model in widgets[STATE]["state"].values()]
    (content,) = [model["content"] for model in models if model.get("_anywidget_id", "").endswith("Panel")]
    assert json.loads(panel.get_text()) == content


@built
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.parametrize("calm", [False, True])
def test_panel_begins_by_itself_but_for_who_asked_for_less_motion(browser: Browser, calm: bool) -> None:
    page = browser.new_page(reduced_motion="reduce" if calm else "no-preference")
    page.goto(BUILT.as_uri())
    page.locator(".ibv-panel canvas").first.wait_for()
    button = page.locator(".ibv-panel button", has_text=re.compile("^(Play|Pause)$"))
    assert button.inner_text() == ("Play" if calm else "Pause")
    page.close()


def test_pdf_is_linked_once_there_is_one(tmp_path: Path) -> None:
    html, pdf = tmp_path / "html", tmp_path / offered.NAME
    page = html / offered.ROOT_PAGE
    page.parent.mkdir(parents=True)
    page.write_text('<p>For paper: <span class="ibv-pdf"><kbd>make pdf</kbd> prints</span>.</p>', encoding="utf-8")
    offered.offer(html, pdf)
    assert "href" not in page.read_text(encoding="utf-8")
    for size in (2, 3):  # the second time the link is there already
        pdf.write_bytes(bytes(size * 2**20))
        offered.offer(html, pdf)
        (link,) = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select("a")
        assert (page.parent / str(link["href"])).resolve().stat().st_size == size * 2**20
        assert f"({size} MB)" in page.read_text(encoding="utf-8")
    assert '<span class="ibv-pdf">' in TEXT
    page.write_text("<p></p>", encoding="utf-8")
    with pytest.raises(ValueError, match="place of the link"):
        offered.offer(html, pdf)


def test_references_are_named_as_the_text_names_them() -> None:
    works = parse_file(ROOT / "book" / "references.bib").entries
    labels = [author_year.label(work) for work in works.values()]
    assert len(set(labels)) == len(labels)
    assert author_year.label(works["qiu2025bridging"]) == "Qiu et al., 2025"
    assert author_year.label(works["doi2011onsager"]) == "Doi, 2011"
    assert author_year.label(works["kellner2024shallow"]) == "Kellner and Ceriotti, 2024"
