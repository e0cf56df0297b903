"""One source for each number of the scoreboard: changed there, it is changed on every page that shows it."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gallery
import jupytext
import nbformat
import pytest

from ibvonns.paper import scoreboard
from ibvonns.paper.scoreboard import ranged, rounded, verdict
from ibvonns_book.tables import judged, kept, markdown, quoted

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.md"))
PLAIN = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
SHOW = {"markdown", "judged", "glue"}  # what puts numbers on a page
NOW = {"score_errors", "scored_rows", "score", "board"}  # what gives rows of seeds that were trained now


def changed(row: dict[str, Any]) -> dict[str, Any]:
    """The row with other numbers of ours, so much larger that no rounding hides it."""

    def moved(value: float) -> float:
        return 1.7 * value + 0.5 if row["unit"] == "%" else value + 0.25

    ours = {name: moved(row[name]) for name in ("median", "min", "max", "floor")}
    new = {**row, **ours, "model": {name: moved(value) for name, value in row["model"].items()}}
    return {**new, "verdict": verdict(new)}


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What the scoreboard held, now that the library reads a changed copy of its file."""
    rows = scoreboard.stored()
    (tmp_path / "scoreboard.json").write_text(json.dumps([*map(changed, rows.values())]), encoding="utf-8")
    monkeypatch.setattr(scoreboard, "files", lambda package: tmp_path)
    return rows


def test_tables_and_sentences_change_with_the_source(before: dict[str, dict[str, Any]]) -> None:
    now = scoreboard.stored()
    for name, row in before.items():
        unit = row["unit"]
        assert quoted(name) == rounded(now[name]["median"], unit) != rounded(row["median"], unit)
        assert quoted(name, "floor") == rounded(now[name]["floor"], unit)
        assert quoted(name, "model") == rounded(now[name]["model"]["median"], unit)
        for write in (markdown, judged):  # of seeds that were trained now: what is shown is the source's
            assert gallery.tabled(write(kept([row]))) == {name: ranged(now[name], unit)}


def test_the_page_of_figures_changes_with_the_source(before: dict[str, dict[str, Any]]) -> None:
    drawn, now = gallery.figures(), scoreboard.stored()

    def told(shown: dict[str, dict[str, Any]]) -> str:
        """The page, if the tables of all chapters had these rows."""
        numbers = gallery.tabled(markdown(list(shown.values())))
        return gallery.page({name: replace(one, numbers=numbers) for name, one in drawn.items()})

    rows = {row for answer in gallery.ANSWERS for row in answer.rows}
    page, stale = told(now), told(before)
    for name in rows:
        unit = now[name]["unit"]
        published = rounded(now[name]["comparable"], unit)
        assert f" {quoted(name)} {unit}, published {published} {unit}: {now[name]['verdict']}" in page
        assert f" {rounded(before[name]['median'], unit)} {unit}, published {published}" not in page + stale
        assert f"{ranged(before[name], unit)} {unit} when the chapter was last run" in stale


def fresh(node: ast.AST, tainted: set[str]) -> bool:
    """Whether an expression holds rows of seeds that were trained now and did not pass through `kept`."""
    if isinstance(node, ast.IfExp):  # `kept(rows) if as_published else rows`: another trap has no kept rows
        return fresh(node.body, tainted) and fresh(node.orelse, tainted)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NOW | {"kept"}:
        return node.func.id != "kept"
    if isinstance(node, ast.Name):
        return node.id in tainted
    return any(fresh(part, tainted) for part in ast.iter_child_nodes(node))


def shown_fresh(source: str) -> Iterator[str]:
    """Calls of `SHOW` that are given such rows, or numbers of theirs."""
    tainted: set[str] = set()
    for node in (node for statement in ast.parse(source).body for node in ast.walk(statement)):
        if isinstance(node, ast.Assign | ast.For):
            value = node.iter if isinstance(node, ast.For) else node.value
            bound = [node.target] if isinstance(node, ast.For) else node.targets
            names = {part.id for one in bound for part in ast.walk(one) if isinstance(part, ast.Name)}
            tainted = tainted | names if fresh(value, tainted) else tainted - names
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SHOW:
            if any(fresh(part, tainted) for part in node.args):
                yield ast.unparse(node)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_chapters_show_the_source_and_not_what_was_trained_now(chapter: Path) -> None:
    cells = jupytext.read(chapter, fmt="md:myst").cells
    assert list(shown_fresh("\n".join(cell.source for cell in cells if cell.cell_type == "code"))) == []


def test_a_chapter_that_shows_what_it_trained_is_found() -> None:
    rows = "rows = scored_rows(metrics)\n"
    for cell in ("markdown(rows)", "by_id = {row['id']: row for row in rows}\nglue('x', by_id['a']['median'])"):
        assert len(list(shown_fresh(rows + cell))) == 1
        assert not list(shown_fresh(rows + "rows = kept(rows)\n" + cell))
    assert not list(shown_fresh(rows + "rows = kept(rows) if as_published else rows\nmarkdown(rows)"))
    assert list(shown_fresh(rows + "for row in rows:\n    glue('x', row['median'])"))


@pytest.mark.parametrize("number", ["05", "08", "09", "16"])
def test_stored_tables_show_the_source(number: str) -> None:
    """All of a chapter's rows, as they were when it was last run."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    found: dict[str, str] = {}
    for cell in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells:
        for output in cell.get("outputs", []):
            found |= gallery.tabled(output.get("data", {}).get("text/markdown", ""))
    laws = {"05": ["trap"], "08": ["gmm"], "09": ["cnf"], "16": ["trap", "gmm", "cnf"]}[number]
    wanted = {name: row for name, row in scoreboard.stored().items() if name.split("-")[0] in laws}
    assert found == {name: ranged(row, row["unit"]) for name, row in wanted.items()}


@pytest.mark.parametrize("page", PLAIN, ids=lambda path: path.name)
def test_no_page_has_a_number_of_ours_typed_by_hand(page: Path) -> None:
    """The landing page, the README and the others: what they print in percent is none of our medians or own errors."""
    typed = set(re.findall(r"(?<![\d.])(\d+\.\d+) ?%", page.read_text(encoding="utf-8")))
    ours = {rounded(value, "%") for row in scoreboard.stored().values() if row["unit"] == "%"
            for value in (row["median"], row["model"]["median"])}  # fmt: skip
    printed = {number for row in scoreboard.published() for number in re.findall(r"\d+\.\d+", row["printed_as"])}
    assert not typed & (ours - printed)
