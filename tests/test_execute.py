"""notebooks/execute.py: repeatable bytes, and nothing written where a cell fails."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

PATH = Path(__file__).parents[1] / "notebooks" / "execute.py"
WIDGETS = """
import ipywidgets as w

print("one", end=" ")
display(w.IntSlider())
print("two")
box = w.Stack([w.HTML("a"), w.HTML("b")], selected_index=0)
slider = w.IntSlider(max=1)
w.jslink((slider, "value"), (box, "selected_index"))
w.VBox([slider, box])
"""


@pytest.fixture(scope="module")
def execute() -> ModuleType:
    """The script as a module: it is no part of the package."""
    spec = importlib.util.spec_from_file_location("execute", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["execute"] = module
    spec.loader.exec_module(module)
    return module


def chapter(folder: Path, code: str) -> Path:
    """A source with one cell of text and one of code."""
    path = folder / "01_trial.md"
    head = "---\njupytext: {text_representation: {extension: .md, format_name: myst}}\n"
    kernel = "kernelspec:\n  display_name: Python 3\n  language: python\n  name: python3\n---\n"
    path.write_text(f"{head}{kernel}\n# Trial\n\n```{{code-cell}}\n{code}\n```\n", encoding="utf-8")
    return path


def test_two_runs_write_the_same_bytes(execute: ModuleType, tmp_path: Path) -> None:
    source = chapter(tmp_path, WIDGETS)
    first = execute.execute(source).read_bytes()
    kept = tmp_path / "running.json"
    target = execute.execute(source, kept)
    assert target.read_bytes() == first
    assert set(json.loads(kept.read_text("utf-8"))[source.stem]) >= {"seconds", "machine"}
    notebook = nbformat.read(target, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert execute.normalise(notebook).encode() == first
    stream, *views = notebook.cells[1].outputs
    assert stream.text == "one two\n"  # two prints, one output
    state = notebook.metadata.widgets[execute.WIDGETS]["state"]
    for view in views:
        model = view.data["application/vnd.jupyter.widget-view+json"]["model_id"]
        assert model.startswith("widget-") and model in state


FIGURE = """
---
mystnb:
  figure:
    caption: A line.
---
{code}
"""
SHOWN = """
import locale, time
import matplotlib.pyplot as plt, sympy as sp
from rich import print as shown
plt.plot([0, 1])
plt.show()
shown("[red]" + "word " * 30)
print(time.tzname, locale.getpreferredencoding(), sum(sp.symbols("x:40")), len({"a", "b"}))
assert plt.rcParams["lines.linewidth"] == 1.5
"""


def test_the_environment_changes_nothing(execute: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a container, a terminal's multiplexer, another country, a reader's own style and startup files."""
    source = chapter(tmp_path, FIGURE.format(code=SHOWN).strip())
    plain = execute.execute(source).read_bytes()
    assert b"image/png" in plain
    (tmp_path / "startup").mkdir()
    (tmp_path / "own/profile_default/startup").mkdir(parents=True)
    (tmp_path / "own/profile_default/startup/00.py").write_text("print('good morning')")
    (tmp_path / "own/matplotlibrc").write_text("lines.linewidth: 5")
    odd = {"MPLBACKEND": "agg", "COLUMNS": "40", "LINES": "7", "LC_ALL": "C", "LANG": "de_DE.UTF-8", "TZ": "Asia/Tokyo",
           "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm-256color", "PYTHONOPTIMIZE": "1", "PYTHONHASHSEED": "7",
           "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "2", "IPYTHONDIR": str(tmp_path / "own"),
           "MATPLOTLIBRC": str(tmp_path / "own/matplotlibrc"), "NUMBA_DISABLE_JIT": "1"}  # fmt: skip
    for name, value in odd.items():
        monkeypatch.setenv(name, value)
    assert execute.execute(source).read_bytes() == plain


def test_a_figure_that_is_not_drawn_is_refused(execute: ModuleType, tmp_path: Path) -> None:
    source = chapter(tmp_path, FIGURE.format(code="print(1)").strip())
    with pytest.raises(execute.ChapterError, match="01_trial.md, code cell 1 of 1: a figure is announced, none drawn"):
        execute.execute(source)
    assert list(tmp_path.iterdir()) == [source]


def test_failing_cell_is_named_and_nothing_is_written(
    execute: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = chapter(tmp_path, "print(1)\n1 / 0")
    monkeypatch.setattr(execute, "sources", lambda: [source])
    assert execute.main([]) == 1
    complaint = capsys.readouterr().err
    assert "FAILED 01_trial.md, code cell 1 of 1: ZeroDivisionError: division by zero" in complaint
    assert list(tmp_path.iterdir()) == [source]


def test_chapter_may_be_named_by_its_number_and_says_what_comes_next(
    execute: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, source = chapter(tmp_path, "print(1)").replace(tmp_path / "00_first.md"), chapter(tmp_path, "print(1)")
    monkeypatch.setattr(execute, "sources", lambda: [first, source])
    monkeypatch.setattr(execute, "RUNNING", tmp_path / "running.json")
    names = {first: ("0", "00"), source: ("1", "01", "01_trial", "notebooks/01_trial.md")}
    for path, spelt in names.items():
        for name in spelt:
            assert execute.main([name]) == 0
            path.with_suffix(".ipynb").unlink()
            last = capsys.readouterr().err.splitlines()[-1]
            assert "make html" in last and f"_build/html/notebooks/{path.stem}.html" in last
    assert execute.main(["-q", "0"]) == 0
    assert "make html" not in capsys.readouterr().err


def test_unknown_chapter_is_refused(execute: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute.main(["99_none"]) == 2
    assert "no such chapter: 99_none" in capsys.readouterr().err


def test_output_altered_by_hand_is_no_normal_form(execute: ModuleType, tmp_path: Path) -> None:
    """Even a marked number, which nbval allows a factor of two."""
    target = execute.execute(chapter(tmp_path, 'print("≈0.25 [0.24, 0.46]")'))
    text = target.read_text(encoding="utf-8")
    altered = text.replace("0.25", "0.26")
    assert altered != text
    for version, normal in ((text, True), (altered, False)):
        notebook = nbformat.reads(version, as_version=nbformat.NO_CONVERT)
        assert (execute.normalise(notebook) == version) is normal
