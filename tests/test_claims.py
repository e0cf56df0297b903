"""Prose and numbers together: what chapters say of noise and of limits stands beside what asserts it."""

import re
from pathlib import Path

import jupytext
import pytest

CHAPTERS = sorted((Path(__file__).parents[1] / "notebooks").glob("0[2-7]*.md"))
CLAIM = re.compile(r"\b(noise|floors?|at most|none|no model)\b", re.IGNORECASE)
#: Beginnings of the sentences that need no cell beside them, and why.
FREE = {
    "- **Windows grow from 1": "chapter 4 measures how the noise grows with time, in the figure that is named",
    "The velocity is prescribed, so that it has no noise": "by the way the data are made",
    "All are asked about pulls that none has seen": "what `fit.astray` does; tests/test_fit.py",
}


def unproven(text: str) -> list[str]:
    """Sentences with a claim in them, with no assertion in the cells just before or just after.

    The opening box of a chapter, which only announces, is left out, and so are exercises' questions.
    """
    cells, found = jupytext.reads(text, fmt="md:myst").cells, []
    for place, cell in enumerate(cells):
        if cell.cell_type != "markdown":
            continue
        beside = []
        for run in (cells[place - 1 :: -1] if place else [], cells[place + 1 :]):
            while run and run[0].cell_type != "code":  # several pieces of prose may share a cell
                run = run[1:]
            while run and run[0].cell_type == "code":
                beside.append(run[0].source)
                run = run[1:]
        prose = re.sub(r"```\{(admonition|exercise)\}.*?```", "", cell.source, flags=re.DOTALL)
        if not any("assert" in source for source in beside):
            found += [one for one in re.split(r"(?<=[.:?!])\s+|\n\n", prose) if CLAIM.search(one)]
    return [one for one in found if not one.startswith(tuple(FREE))]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_what_is_said_of_noise_is_asserted_beside_it(chapter: Path) -> None:
    assert unproven(chapter.read_text(encoding="utf-8")) == []


def test_a_claim_without_an_assertion_is_found() -> None:
    cell = "```{{code-cell}} ipython3\n{}\n```\n"
    said = "Here the noise decides. There is no more to say.\n\n"
    assert unproven(said + cell.format("x = 1")) == ["Here the noise decides."]
    assert unproven(said + cell.format("assert 1 < 2")) == []
    assert unproven("Nothing.\n\n" + cell.format("x = 1")) == []


def test_no_sentence_is_excused_that_is_not_there() -> None:
    whole = "\n".join(chapter.read_text(encoding="utf-8") for chapter in CHAPTERS)
    assert [one for one in FREE if one not in whole] == []
