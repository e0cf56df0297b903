"""Prose and numbers together: what chapters say of noise and of limits stands beside what asserts it."""

import re
from itertools import dropwhile, takewhile
from pathlib import Path

import jupytext
import pytest

#: All but the first, which derives and measures nothing.
CHAPTERS = [
    path for path in sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9][0-9]*.md")) if path.stem[:2] != "01"
]
CLAIM = re.compile(r"\b(noise|floors?|at most|none|no model)\b", re.IGNORECASE)
SUMMARY = "## What to remember"
#: Beginnings of the sentences that need no cell beside them, and why.
FREE = {
    "The noise of a mean grows with the time": "chapter 7 measures it, in the figure that is named",
    "The velocity is prescribed, so that it has no noise": "by the way the data are made",
    "A likelihood has a limit instead of a floor": "a definition",
    "if the rollouts of a seed miss": "how the recipe works; tests/test_fit.py",
}


def unproven(text: str) -> list[str]:
    """Sentences with a claim in them, with no assertion in the cells just before or just after.

    A heading ends what is beside. The opening box of a chapter, which only announces, is left out,
    and so are exercises' questions and the summary, which repeats.
    """
    pieces: list[tuple[str, str]] = []  # "prose", "code" or "heading", in the chapter's order
    for cell in jupytext.reads(text, fmt="md:myst").cells:
        prose = re.sub(r"```\{(admonition|exercise)\}.*?```", "", cell.source, flags=re.DOTALL)
        for part in [cell.source] if cell.cell_type == "code" else re.split(r"(?m)^(#+ .*)$", prose):
            kind = "code" if cell.cell_type == "code" else "heading" if re.match("#+ ", part) else "prose"
            pieces.append((kind, part))
    found = []
    for place, (kind, part) in enumerate(pieces):
        headings = [one for other, one in pieces[:place] if other == "heading"]
        if kind != "prose" or headings[-1:] == [SUMMARY]:
            continue
        beside: list[tuple[str, str]] = []
        for run in (pieces[:place][::-1], pieces[place + 1 :]):
            run = list(dropwhile(lambda one: one[0] == "prose", run))  # several pieces may share a cell
            beside += takewhile(lambda one: one[0] == "code", run)
        if not any("assert" in source for _, source in beside):
            found += [one for one in re.split(r"(?<=[.:?!])\s+|\n\n", part) if CLAIM.search(one)]
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
    assert unproven(said + "## Another\n\n" + cell.format("assert 1 < 2")) == ["Here the noise decides."]
    assert unproven(f"{SUMMARY}\n\n{said}") == []


def test_no_sentence_is_excused_that_is_not_there() -> None:
    whole = "\n".join(chapter.read_text(encoding="utf-8") for chapter in CHAPTERS)
    assert [one for one in FREE if one not in whole] == []
