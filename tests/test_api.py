"""The pages on the library: nothing public is missing from them, and every docstring is whole."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.inventory import InventoryFile

import ibvonns
import ibvonns_book
from ibvonns.paper.cli import app

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "book" / "api"
INVENTORY = ROOT / "_build" / "html" / "objects.inv"
MODULES = [
    part.name
    for package in (ibvonns, ibvonns_book)
    for part in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not part.ispkg
]


def members(module: str) -> dict[str, Any]:
    """What a module offers, and the methods of its classes, by full name."""
    home = importlib.import_module(module)
    found: dict[str, Any] = {f"{module}.{name}": getattr(home, name) for name in home.__all__}
    for name, thing in list(found.items()):
        for part, value in vars(thing).items() if inspect.isclass(thing) else ():
            method = value.fget if isinstance(value, property) else inspect.unwrap(value)
            method = getattr(method, "__func__", method)
            if not part.startswith("_") and inspect.isfunction(method):
                found[f"{name}.{part}"] = method
    return found


def parameters(thing: Any) -> list[str]:
    """Names of the parameters of a function, or of what makes a class."""
    own = getattr(thing.__init__, "__module__", None) if inspect.isclass(thing) else ""
    if own is None or not (own == "" or own.startswith("ibvonns")):
        return []  # made as another library says
    signature = inspect.signature(thing.__init__ if inspect.isclass(thing) else thing)
    return [name for name in signature.parameters if name not in ("self", "cls")]


@pytest.mark.parametrize("module", MODULES)
def test_every_docstring_names_every_parameter(module: str) -> None:
    comments = ModuleAnalyzer.for_module(module).find_attr_docs()
    for name, thing in members(module).items():
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            assert ("", name.rpartition(".")[2]) in comments, f"{name} has no comment with #:"
            continue
        text = thing.__doc__ or ""  # its own, and not that of a class it is made from
        assert text, f"{name} has no docstring"
        unnamed = [each for each in parameters(thing) if not re.search(rf"\b{each}\b", text)]
        assert unnamed == [], name


def test_every_module_is_on_one_page_and_in_the_table() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))
    assert sorted(re.findall(r"automodule:: (\S+)", pages)) == sorted(MODULES)
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\{py:mod\}`.*?<(.*?)>`", index)) == sorted(MODULES)


@pytest.mark.skipif(not INVENTORY.exists(), reason="the book is not built: run `make html`")
def test_every_name_is_on_a_page() -> None:
    with INVENTORY.open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, place: place)
    listed = {name for kind, names in inventory.items() if kind[:3] == "py:" for name in names}
    assert {name for module in MODULES for name in members(module)} - listed == set()


def test_equations_stand_where_the_table_says() -> None:
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\(\d+\).*?) \| (.*) \|$", index, re.M)
    assert len(rows) > 20
    for numbers, places in rows:
        text = ""
        for name in re.findall(r"<(ibvonns\..*?)>", places):
            module = next(one for one in MODULES if name.startswith(f"{one}."))
            thing: Any = importlib.import_module(module)
            text += thing.__doc__
            for part in name.removeprefix(f"{module}.").split("."):
                thing = getattr(thing, part)
                text += thing.__doc__
        for number in re.findall(r"\(\d+\)", numbers):
            assert re.search(rf"Eqs?\. [^A-Za-z]*{re.escape(number)}", text), (number, places)


def test_the_command_line_is_told_in_full() -> None:
    from typer.main import get_command

    told = importlib.import_module("ibvonns.paper.cli").__doc__ or ""
    command: Any = get_command(app)
    for name, part in command.commands.items():
        block = told.split(f"\n`ibvonns {name}")[1].split("\n`")[0]
        for option in part.params:
            assert option.param_type_name == "argument" or max(option.opts, key=len) in block
