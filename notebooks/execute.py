"""Execute chapters: notebooks/NN_name.md (the source) -> notebooks/NN_name.ipynb (with outputs).

    python notebooks/execute.py                  every chapter
    python notebooks/execute.py 02_optical_trap  one; "02" or "2" will do
    python notebooks/execute.py -q 2             without a word on what to do next

Two runs write the same bytes, so that git shows a change only where a result changed. How long
each took, and how much memory, goes into book/running.json, from which the page on running is made.
"""

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import perf_counter
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "book"))  # running.py

from running import RUNNING, peak_megabytes, processor, record  # noqa: E402

from ibvonns.files import write  # noqa: E402

#: What a chapter's kernel finds in its environment, whatever the machine's: what a cell prints or draws may
#: depend on each of these.
FIXED = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # another one draws into nothing
    "MATPLOTLIBRC": os.devnull,  # a reader's own style
    "COLUMNS": "80",  # lines are broken at it
    "LINES": "24",
    "TERM": "dumb",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",  # sets print in one order
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a debugger's notice stays off the page
    "IBVONNS_PROGRESS": "off",  # execute.py shows its own
    # one thread: sums keep their order, whatever the machine's number of cores
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")},
    # as in the Makefile: a chapter holds less at its peak
    **{"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "16777216", "MALLOC_TRIM_THRESHOLD_": "33554432"},
}
# what a reader may have set, which colours, warns, leaves assertions out, or runs files of his own
DROPPED = re.compile(
    "LANG|LANGUAGE|LC_.*|(NO|FORCE|PY)_COLOR(S)?|CLICOLOR.*|COLORTERM|MPL(?!CONFIGDIR).*|IPYTHONDIR|NUMBA_(?!CACHE_DIR|CPU).*"
    "|PYTHON(STARTUP|OPTIMIZE|WARNINGS|DEVMODE|IOENCODING|UTF8|INSPECT|VERBOSE|BREAKPOINT|ASYNCIODEBUG)"
)
PICTURES = {"image/png", "application/vnd.jupyter.widget-view+json"}
WIDGETS = "application/vnd.jupyter.widget-state+json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}  # no version: it differs by machine
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class ChapterError(Exception):
    """A chapter that did not run to its end; the message names the chapter, the cell, the error."""


def environment(ipython: str) -> dict[str, str]:
    """The environment of a chapter's kernel.

    Args:
        ipython: an empty folder, in place of a reader's settings and startup files.
    """
    kept = {name: value for name, value in os.environ.items() if not DROPPED.fullmatch(name)}
    return {**kept, **FIXED, "IPYTHONDIR": ipython}


def undrawn(notebook: NotebookNode) -> list[int]:
    """Code cells, counted from 1, that announce a figure and show no picture."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kinds = [{kind for output in cell.get("outputs", []) for kind in output.get("data", {})} for cell in code]
    figures = ["figure" in cell.metadata.get("mystnb", {}) for cell in code]
    return [
        n for n, (figure, found) in enumerate(zip(figures, kinds, strict=True), 1) if figure and not found & PICTURES
    ]


def sources(folder: Path = HERE) -> list[Path]:
    """The chapters' MyST sources, in reading order."""
    return sorted(folder.glob("[0-9][0-9]_*.md"))


def normalise(notebook: NotebookNode) -> str:
    """The text to store: everything that differs between two equal runs is dropped or renumbered.

    A digest of all outputs is kept with them, so that none can be altered by hand unnoticed, not
    even where nbval grants a tolerance. Normalising a normalised notebook changes nothing.
    """
    notebook = nbformat.from_dict(json.loads(json.dumps(notebook)))
    widgets = notebook.metadata.get("widgets")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    notebook.nbformat, notebook.nbformat_minor = 4, 5  # 4.5 is the first with cell ids
    if widgets:
        notebook.metadata["widgets"] = widgets
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"
        cell.metadata.pop("execution", None)  # timings
    text = nbformat.writes(notebook, version=nbformat.NO_CONVERT)
    # A widget's random id stands in outputs, in the state's keys and inside other widgets' state.
    # The kernel reports the models in the order in which the chapter makes them.
    ids = list(widgets[WIDGETS]["state"]) if widgets and WIDGETS in widgets else []
    if ids:
        new = {old: f"widget-{number:04d}" for number, old in enumerate(ids)}
        text = re.sub("|".join(map(re.escape, ids)), lambda match: new[match[0]], text)
        notebook = nbformat.from_dict(json.loads(text))  # the keys are to be sorted once more
    outputs = [cell.get("outputs", []) for cell in notebook.cells]
    digest = hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()
    notebook.metadata["ibvonns"] = {"outputs": digest}
    text = nbformat.writes(notebook, version=nbformat.NO_CONVERT)
    return text.rstrip("\n") + "\n"


def execute(source: Path, running: Path | None = None) -> Path:
    """Run one chapter in a fresh kernel and write its notebook beside it, or write nothing.

    Args:
        source: the chapter.
        running: file that keeps the run's time and memory, if they are to be kept.

    Raises:
        ChapterError: a cell fails, its kernel dies, or a figure is announced and nothing drawn.
    """
    notebook = jupytext.read(source)
    positions = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    whole = started = perf_counter()
    used = processor()
    memory: int | None = None
    place = source.name

    def begin(cell: NotebookNode, cell_index: int) -> None:
        nonlocal started, place
        started = perf_counter()
        place = f"{source.name}, code cell {positions.index(cell_index) + 1} of {len(positions)}"
        print(f"{place} ... ", end="", file=sys.stderr, flush=True)

    def done(cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        nonlocal memory
        kernel: Any = client.km
        memory = peak_megabytes(kernel.provisioner.pid)  # after the last cell it is gone
        if execute_reply["content"]["status"] == "ok":
            print(f"{perf_counter() - started:.1f} s", file=sys.stderr, flush=True)

    client = NotebookClient(
        notebook,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(source.parent)}},  # the kernel's working directory
        timeout=None,
        # Errors only: not that the kernel's sockets on this machine are not encrypted.
        extra_arguments=["--IPKernelApp.log_level=40"],
        record_timing=False,
        coalesce_streams=True,  # as nbval does before it compares
        on_cell_execute=begin,
        on_cell_executed=done,
    )
    finished = Event()

    def tick() -> None:
        while not finished.wait(10):  # a training cell takes minutes: show that it lives
            print(".", end="", file=sys.stderr, flush=True)

    Thread(target=tick, daemon=True).start()
    try:
        with TemporaryDirectory() as folder:
            client.execute(env=environment(folder))
    except CellExecutionError as error:
        trace = ANSI.sub("", error.traceback).rstrip()
        raise ChapterError(f"{place}: {error.ename}: {error.evalue}\n\n{trace}") from None
    except (CellControlSignal, DeadKernelError, RuntimeError) as error:
        raise ChapterError(f"{place}: {error}") from None
    finally:
        finished.set()

    if empty := undrawn(client.nb):
        cells = ", ".join(str(number) for number in empty)
        raise ChapterError(f"{source.name}, code cell {cells} of {len(positions)}: a figure is announced, none drawn")
    target = source.with_suffix(".ipynb")
    write(target, normalise(client.nb).encode())
    if running is not None:
        record(running, source.stem, perf_counter() - whole, processor() - used, memory)
    return target


def next_step(done: list[Path]) -> str:
    """What to do after chapters have been executed, for their reader.

    >>> print(next_step([HERE / "00_quick.ipynb"]))
    Next: run `make html`, then open _build/html/notebooks/00_quick.html in a browser.
    """
    page = f"notebooks/{done[0].stem}" if len(done) == 1 else "index"
    return f"Next: run `make html`, then open _build/html/{page}.html in a browser."


def main(names: list[str]) -> int:
    """Execute the named chapters, or all; `-q` keeps the next step to itself. Returns the exit status."""
    quiet, names, done = "-q" in names, [name for name in names if name != "-q"], list[Path]()
    chapters = {path.stem: path for path in sources()}
    numbers = {str(int(stem[:2])): stem for stem in chapters}
    stems = [Path(name).stem for name in names] or list(chapters)
    wanted = [numbers.get(stem.lstrip("0") or stem[:1], stem) for stem in stems]  # "3" and "03" will do, and "00"
    unknown = [name for name in wanted if name not in chapters]
    if unknown or not wanted:
        known = ", ".join(chapters) or "none"
        print(f"no such chapter: {', '.join(unknown) or '-'} (there are: {known})", file=sys.stderr)
        return 2
    for number, name in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {name}", file=sys.stderr, flush=True)
        started = perf_counter()
        try:
            target = execute(chapters[name], RUNNING)
        except ChapterError as error:
            print(f"\nFAILED {error}", file=sys.stderr)
            return 1
        print(f"wrote {target.name} ({perf_counter() - started:.1f} s)", file=sys.stderr)
        done.append(target)
    if not quiet:
        print(next_step(done), file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
