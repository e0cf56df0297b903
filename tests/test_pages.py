"""The pages that help to find one's way: names, figures, times, citations."""

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gallery
import pytest
import running
import yaml

import ibvonns

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def library() -> Iterator[Any]:
    """Every module of the library."""
    for found in pkgutil.walk_packages(ibvonns.__path__, "ibvonns."):
        yield importlib.import_module(found.name)


def named_things() -> list[str]:
    """What the last column of the notation's tables names."""
    text = (BOOK / "notation.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return sorted({name for row in rows for name in re.findall(r"`([^`]+)`", row[-1])})


def test_names_of_the_notation_exist() -> None:
    names = named_things()
    assert len(names) > 40
    public = {name: module for module in library() for name in getattr(module, "__all__", ())}
    for name in names:
        first, _, attribute = name.partition(".")
        assert first in public, f"{first} is in no module's __all__"
        thing = getattr(public[first], first)
        fields = getattr(thing, "__dataclass_fields__", {})
        assert not attribute or attribute in fields or hasattr(thing, attribute), name


@pytest.fixture(scope="module")
def drawn() -> dict[str, gallery.Figure]:
    """The chapters' figures."""
    return gallery.figures()


def test_each_figure_of_the_examples_is_answered(drawn: dict[str, gallery.Figure]) -> None:
    panels = {6: "ab", 7: "ab", 8: "ab", 9: "ab", 10: "ab", 13: "abcd", 14: "abc"}
    panels |= {17: "ab", 18: "abcd", 19: "abc", 21: "ab"}
    wanted = {f"{n}{panel}" for n, letters in panels.items() for panel in letters}
    assert {answer.paper for answer in gallery.ANSWERS} == wanted | {"11", "15", "16", "20"}


def test_captions_and_the_page_of_figures_agree(drawn: dict[str, gallery.Figure]) -> None:
    for answer in gallery.ANSWERS:
        assert re.search(rf"\b{answer.paper}\b", drawn[answer.ours].caption), answer
    listed = {answer.ours for answer in gallery.ANSWERS}
    say = {name for name, figure in drawn.items() if re.search(r"Fig(ure|\.)", figure.caption)}
    assert say <= listed, "a caption names a figure of the paper: put it into gallery.ANSWERS"


def test_cards_are_written_alike_and_complete(drawn: dict[str, gallery.Figure], tmp_path: Path) -> None:
    gallery.write(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    text = first["figures.md"].decode()
    for name, figure in drawn.items():
        assert f"(#{name})" in text and f":alt: {figure.alt}" in text
        assert f"{name}.webp" in first
    assert text == gallery.page(drawn)
    assert gallery.small(drawn["fig-scoreboard"].png) == first["fig-scoreboard.webp"]
    assert sum(map(len, first.values())) < 1.5e6


def test_first_sentence_survives_points_and_colons() -> None:
    assert gallery.first_sentence("The data at $v = 1$. Thin: five.") == "The data at $v = 1$."
    assert gallery.first_sentence("Flows of $d$ (circles: training). More.") == ("Flows of $d$ (circles: training).")


def test_running_keeps_the_latest_of_each(tmp_path: Path) -> None:
    file = tmp_path / "running.json"
    running.record(file, "01_onsager", 83.7, 90.0, 1230)
    running.record(file, "claims", 421.0, 602.0, None)
    running.record(file, "01_onsager", 9.87, 8.0, 1240)
    entries = json.loads(file.read_text(encoding="utf-8"))
    assert entries["01_onsager"]["seconds"] == 9.9 and entries["01_onsager"]["megabytes"] == 1240
    table = running.table(entries, ROOT / "notebooks")
    link = "[1. One principle](../notebooks/01_onsager.md)"
    assert f"| {link} | 9.9 s | 8 s | 1240 MB |" in table
    assert "| claims | 7.0 min | 10 min | not measured |" in table
    assert running.total(entries) == 608 and running.total(entries, all_of_it=False) == 8


def test_every_chapter_was_measured() -> None:
    entries = json.loads(running.RUNNING.read_text(encoding="utf-8"))
    chapters = {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.md")}
    assert chapters <= set(entries), "run `make notebooks`"
    assert {name for name in entries if name[:2].isdigit()} == chapters, "a row of no chapter"
    trained = set(re.findall(r"\$\(TOOK\) '(.+?)'", MAKEFILE))
    assert {name for name in entries if not name[:2].isdigit()} <= trained and running.PAPER <= trained


def test_citations_are_those_of_the_citation_file() -> None:
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    text = (BOOK / "cite.md").read_text(encoding="utf-8")
    paper, software = re.findall(r"```bibtex\n(.*?)```", text, re.S)
    reference, book = cff["references"]
    people = (f"{a['family-names']}, {a['given-names']}" for a in reference["authors"])
    assert " and ".join(people) in paper
    for value in (reference["title"], f"{{{reference['year']}}}", reference["url"]):
        assert value in paper
    assert reference["identifiers"][0]["value"] in paper
    for value in (cff["title"], cff["repository-code"], cff["authors"][0]["name"]):
        assert value in software
    assert f"{{{cff['version']}}}" in software
    assert cff["version"] == ibvonns.__version__
    assert paper.strip() in (BOOK / "references.bib").read_text(encoding="utf-8")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert (book["title"], book["license"]) == (config["title"], "CC-BY-4.0")
    assert "licenses/by/4.0" in config["html"]["extra_footer"] and "licenses/by/4.0" in text
