"""The wheel in an empty environment: what a user gets, where the checkout can lend it nothing."""

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
import release
from release import ROOT

import ibvonns

# the interpreter of this run, and those that a machine with several Pythons names
PYTHONS = [sys.executable, *filter(None, os.getenv("IBVONNS_PYTHONS", "").split(os.pathsep))]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Removed at once: pytest would keep its own, and PyTorch in each, for three more runs."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def built(folder: Path) -> tuple[Path, Path]:
    """Built from a copy of the checkout. CI has a network, so there its absence is a failure."""
    ask = [sys.executable, "-m", "pip", *"download --retries=0 --timeout=15 --no-deps setuptools>=77 -d".split()]
    asked = subprocess.run([*ask, folder / "asked"], capture_output=True, text=True)
    if asked.returncode:
        say = pytest.fail if os.getenv("CI") == "true" else pytest.skip
        say(f"pip finds no index to build and to install a wheel from: {asked.stderr[-300:]}")
    return release.built(folder)


def package() -> set[str]:
    """The files of both packages in the checkout."""
    both = [*(ROOT / "ibvonns").rglob("*.*"), *(ROOT / "ibvonns_book").rglob("*.*")]
    return {path.relative_to(ROOT).as_posix() for path in both if path.parent.name != "__pycache__"}


def test_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    """A file that `package-data` forgets is there in every checkout, so no other test misses it."""
    (about,) = distributions(path=[str(built[1])])
    assert about.version == ibvonns.__version__
    assert about.metadata["License-Expression"] == "MIT" and about.metadata.get_all("License-File") == ["LICENSE"]
    names = set(ZipFile(built[1]).namelist())
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == package()
    for needed in (
        "py.typed",
        "show/live/panel.js",
        "show/live/gas.js",
        "show/live/shared.js",
        "paper/published.csv",
        "paper/scoreboard.json",
    ):
        assert f"ibvonns/{needed}" in inside


def test_sdist_holds_the_package_and_what_builds_it(built: tuple[Path, Path]) -> None:
    """The wheel was built from it; book, tests and what they keep stay in the repository."""
    with tarfile.open(built[0]) as opened:
        names = {name.partition("/")[2] for name in opened.getnames() if opened.getmember(name).isfile()}
    around = {name for name in names - package() if ".egg-info/" not in name}
    told = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}
    assert package() < names and around == told | {"pyproject.toml", "MANIFEST.in", "PKG-INFO", "setup.cfg"}


@pytest.mark.parametrize("python", PYTHONS)
def test_quick_start_runs_in_an_empty_environment(python: str, built: tuple[Path, Path], folder: Path) -> None:
    """The README's first promise: an install, a paste, and an answer. What it takes, `benchmarks/quick.py` measures."""
    assert "noise floor" in release.quick_start(python, built[1], folder)
