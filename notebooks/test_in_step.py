"""The stored notebooks are what their sources give.

nbval compares outputs, but passes a notebook that has none and knows nothing of the .md it came
from. These tests close both holes; they stand here so that `pytest --nbval notebooks` runs them.
"""

import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
import yaml
from execute import HERE, WIDGETS, normalise, sources, undrawn
from picture import TARGET, picture
from settled import settle

from ibvonns.show.widgets import Frames, Gas, Panel

CHAPTERS = sources()
HINT = "run `make notebooks`"


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str, dict[str, Any]]]:
    """What a source and its notebook must share."""
    return [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in notebook.cells]


def stored(source: Path) -> nbformat.NotebookNode:
    """The notebook that lies beside a source."""
    path = source.with_suffix(".ipynb")
    assert path.exists(), f"{path.name} is missing: {HINT}"
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def source(request: pytest.FixtureRequest) -> Path:
    """Each chapter's source in turn."""
    path: Path = request.param
    return path


def test_cells_are_those_of_the_source(source: Path) -> None:
    assert cells(stored(source)) == cells(jupytext.read(source)), f"{source.name} changed: {HINT}"


def test_every_cell_ran_once_and_in_order(source: Path) -> None:
    code = [cell for cell in stored(source).cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1)), f"{source.stem}: {HINT}"


def test_outputs_are_stored_and_free_of_warnings(source: Path) -> None:
    outputs = [output for cell in stored(source).cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs, f"{source.stem} has no outputs: {HINT}"
    # A warning on stderr carries a temporary path: nbval would fail, and no reader wants it.
    noise = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not noise, f"{source.stem} writes to stderr"


def test_every_figure_that_is_announced_is_drawn(source: Path) -> None:
    assert undrawn(stored(source)) == [], HINT


def test_stored_form_is_normal(source: Path) -> None:
    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    same = normalise(nbformat.reads(text, as_version=nbformat.NO_CONVERT)) == text
    assert same, HINT


def test_every_notebook_has_a_source_and_stands_in_the_contents() -> None:
    contents = yaml.safe_load((HERE.parent / "_toc.yml").read_text(encoding="utf-8"))
    files = {c["file"] for part in contents["parts"] for c in part["chapters"]}
    listed = {Path(file).name for file in files if file.startswith("notebooks/")}
    assert {path.stem for path in CHAPTERS} == listed
    assert {path.stem for path in HERE.glob("*.ipynb")} == listed


def test_every_exercise_has_a_solution_that_runs(source: Path) -> None:
    """Two to four exercises; between the begin and the end of each solution stands code."""
    exercises, solved, inside = [], {}, None
    for cell in jupytext.read(source).cells:
        if cell.cell_type == "code" and inside:
            solved[inside] = True
        exercises += re.findall(r"```{exercise}[^\n]*\n:label: (\S+)", cell.source)
        for begun, end in re.findall(r"```{solution-(?:start} (\S+)|(end)})", cell.source):
            assert bool(end) == bool(inside), f"{source.name}: overlap at {begun or inside}"
            inside = None if end else begun
            if begun:
                assert f"```{{solution-start}} {begun}\n:class: dropdown" in cell.source, begun
    assert inside is None, f"{source.name}: the solution of {inside} has no end"
    assert 2 <= len(exercises) <= 4
    assert sorted(solved) == sorted(exercises)


def test_stored_scripts_are_the_librarys(source: Path) -> None:
    widgets = stored(source).metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    for widget in widgets.values():
        for kind in (Frames, Gas, Panel):
            if widget["state"].get("_anywidget_id", "").endswith(f".{kind.__name__}"):
                for part in ("_esm", "_css"):
                    assert widget["state"][part] == str(getattr(kind, part)), f"{part}: {HINT}"


def test_picture_of_the_readme_is_the_chapters() -> None:
    same = TARGET.read_bytes() == picture()  # pytest's own comparison of pictures takes hours
    assert same, HINT


@pytest.mark.parametrize(
    ("new", "stored", "equal"),
    [
        ("≈0.24 [0.20, 0.30]", "≈0.30 [0.25, 0.35]", True),
        ("≈0.24", "≈0.50", False),
        ("∼0.24", "∼0.50", True),
        ("0.24", "0.25", False),
        ("≈reproduced", "≈better than published", True),
        ("≈differs", "≈better than published", False),
        ("reproduced", "better than published", False),
        ("∼reproduced | ≈0.2", "∼differs | ≈0.3", True),
    ],
)
def test_marked_numbers_and_verdicts_may_scatter(new: str, stored: str, equal: bool) -> None:
    assert (settle({"text": [new]}, {"text": [stored]}) == {"text": [stored]}) == equal
