"""The wheel in an empty environment: what a user gets, where the checkout can lend it nothing."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

import ibvonns

ROOT = Path(__file__).parents[1]
# the interpreter of this run, and those that a machine with several Pythons names
PYTHONS = [sys.executable, *filter(None, os.getenv("IBVONNS_PYTHONS", "").split(os.pathsep))]
# a `build` left by an earlier wheel would slip its old files into this one
OTHERS = shutil.ignore_patterns(".*", "_build", "build", "dist", "*.egg-info", "__pycache__")


def run(*words: str | Path, where: Path | None = None, **new: str) -> str:
    """What a command prints; where it fails, the test fails with its words, not its number."""
    ran = subprocess.run(words, env=os.environ | new, cwd=where, timeout=1800, capture_output=True, text=True)
    assert ran.returncode == 0, f"{words}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Removed at once: pytest would keep its own, and PyTorch in each, for three more runs."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    """Built from a copy of the checkout. CI has a network, so there its absence is a failure."""
    pip = [sys.executable, "-m", "pip"]
    ask = "download --retries=0 --timeout=15 --no-deps setuptools>=77 -d".split()
    asked = subprocess.run([*pip, *ask, folder / "asked"], capture_output=True, text=True)
    if asked.returncode:
        say = pytest.fail if os.getenv("CI") == "true" else pytest.skip
        say(f"pip finds no index to build and to install a wheel from: {asked.stderr[-300:]}")
    shutil.copytree(ROOT, folder / "source", ignore=OTHERS)
    run(*pip, "wheel", "-q", "--no-deps", "-w", folder, folder / "source")
    return next(folder.glob("ibvonns-*.whl"))


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """A file that `package-data` forgets is there in every checkout, so no other test misses it."""
    (about,) = distributions(path=[str(wheel)])
    assert about.version == ibvonns.__version__
    inside = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    both = [*(ROOT / "ibvonns").rglob("*.*"), *(ROOT / "ibvonns_book").rglob("*.*")]
    kept = [path for path in both if path.parent.name != "__pycache__"]
    assert inside == {path.relative_to(ROOT).as_posix() for path in kept}
    for needed in (
        "py.typed",
        "show/live/panel.js",
        "show/live/gas.js",
        "show/live/shared.js",
        "paper/published.csv",
        "paper/scoreboard.json",
    ):
        assert f"ibvonns/{needed}" in inside


@pytest.mark.parametrize("python", PYTHONS)
def test_quick_start_runs_in_an_empty_environment(python: str, wheel: Path, folder: Path) -> None:
    """The README's first promise: an install, a paste, and an answer. What it takes, `benchmarks/quick.py` measures."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Quick start\n")[2]
    code = re.search(r"^```python\n(.*?)^```$", section.partition("\n## ")[0], re.M | re.S)
    assert code, "README.md needs a ```python block under '## Quick start'"
    venv = folder / "venv"  # one at a time: PyTorch is large
    run(python, "-m", "venv", "--clear", venv)
    its = venv / ("Scripts" if os.name == "nt" else "bin")
    # pinned, as what the book runs on is. pip only warns where there is no such extra.
    run(its / "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[plots]")
    # -I: nothing but this environment is on the path. Caches of its own: the first run compiles.
    own = {"XDG_CACHE_HOME": str(venv), "NUMBA_CACHE_DIR": str(venv), "OMP_NUM_THREADS": "1"}
    assert "noise floor" in run(its / "python", "-I", "-c", code[1], where=folder, MPLBACKEND="Agg", **own)
