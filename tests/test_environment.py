"""The places that name versions agree with pyproject.toml."""

import json
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(lines: list[str]) -> dict[str, str]:
    """`name==version` lines by name, spelt as PEP 503 has it."""
    split = [line.split("==") for line in lines if "==" in line]
    return {re.sub(r"[-_.]+", "-", name).lower(): version.strip() for name, version in split}


# extras of users', and the tools of a release, with lower bounds; the other extras serve the book
USERS = {"plots", "hdf5", "zarr", "trajectories", "tables", "cluster", "release"}
GROUPS = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name not in USERS}
BOUNDS = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["plots"]]


def declared() -> dict[str, str]:
    """Every version that pyproject.toml pins."""
    return pins([line for group in GROUPS.values() for line in group])


def constraints() -> dict[str, str]:
    """The versions that the book is built with."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    held = pins(lines)
    assert len(held) == len(lines), "a line of constraints.txt is no pin, or a name stands twice"
    return held


def test_constraints_hold_every_declared_version() -> None:
    held = constraints()
    assert {name: held.get(name) for name in declared()} == declared()


def test_every_requirement_of_the_book_is_pinned() -> None:
    assert len(declared()) == sum(map(len, GROUPS.values()))


def test_the_library_asks_for_lower_bounds_that_the_books_versions_meet() -> None:
    held = constraints()
    for line in BOUNDS:
        name, least = line.split(">=")
        numbers = [[int(part) for part in version.split(".")] for version in (held[name], least)]
        assert numbers[0] >= numbers[1], line


def test_conda_environment_agrees() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    minimum = PROJECT["requires-python"].removeprefix(">=")
    assert conda == [f"python={minimum}", "pip"]
    constrained, torch, project = pip["pip"]
    assert constrained == "-c constraints.txt"
    assert pins([torch]) == {"torch": constraints()["torch"]}
    # peers of the benchmarks serve neither the book nor its tests; Binder has a JupyterLab
    extras = ",".join(name for name in GROUPS if name not in {"bench", "lab"})
    assert project == f"-e .[{extras}]"


def test_binder_reads_environment_yml() -> None:
    # repo2docker takes a Dockerfile or the folder `binder` where there is one, and this file else
    for first in ("binder", ".binder", "Dockerfile"):
        assert not (ROOT / first).exists()


def test_jupyter_book_stays_below_2() -> None:
    assert int(declared()["jupyter-book"].split(".")[0]) < 2


def test_a_release_has_one_version_one_date_and_one_name() -> None:
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    zenodo = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    changes, new = (ROOT / path for path in ("CHANGELOG.md", "book/new.md"))
    head = re.search(r"(?m)^## \[(.+)\] - (.+)$", changes.read_text(encoding="utf-8"))
    told = re.search(r"(?m)^Version (\S+) ", new.read_text(encoding="utf-8"))
    assert head and told
    assert {cff["version"], zenodo["version"], head[1], told[1]} == {PROJECT["version"]}
    assert head[2] == str(cff["date-released"])
    assert (zenodo["title"], zenodo["keywords"]) == (cff["title"], cff["keywords"])
    assert cff["keywords"] == PROJECT["keywords"] and zenodo["license"] == cff["license"] == PROJECT["license"]
    assert [one["name"] for one in cff["authors"]] == [one["name"] for one in zenodo["creators"]]
    assert f"[{head[1]}]: {cff['repository-code']}/" in changes.read_text(encoding="utf-8")
