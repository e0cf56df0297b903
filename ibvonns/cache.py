"""The cache: what a computation gave, kept under a key of all that can change it."""

import ast
import hashlib
import logging
import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import numba
import numpy
import torch
from platformdirs import user_cache_path

from ibvonns.files import load_json, save_json

__all__ = ["cache_folder", "cached", "key_of", "sources"]

PACKAGE = "ibvonns"
_log = logging.getLogger(__name__)


def sources(module: Path) -> list[Path]:
    """Files of the library that a module depends on: itself and what it imports, directly or not.

    The inits of packages are among them, because an import runs them.

    Args:
        module: its file, somewhere in a folder that is named as the package.

    >>> {"law.py", "protocols.py"} <= {path.name for path in sources(Path(__file__).parent / "protocols.py")}
    True
    """
    root = next(folder for folder in module.resolve().parents if folder.name == PACKAGE)
    finder = ModuleFinder([str(root.parent)])
    finder.run_script(str(module.resolve()))
    return sorted(Path(found.__file__) for found in vars(finder)["modules"].values() if found.__file__)


@cache
def _code(source: str) -> str:
    r"""What of a module's text can change a result: its code without comments and docstrings.

    >>> _code('def f():  # why\n    "What."\n    return 1') == _code("def f(): return 1")
    True
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def key_of(module: Path, *parts: object) -> str:
    """A digest that no two results share: of the code, the versions it runs on, and its inputs.

    Of the code comments and docstrings do not count.

    Args:
        module: file in which the result is computed; with all that it imports.
        parts: inputs, told apart by their `repr`.

    >>> key_of(Path(__file__), "one") == key_of(Path(__file__), "other")
    False
    """
    versions = torch.__version__, numba.__version__, numpy.__version__, platform.python_version()
    digest = hashlib.sha256(repr((parts, versions)).encode())
    for path in sources(module):
        digest.update(path.name.encode() + _code(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where results are kept: the user's cache, or a temporary folder where that cannot be written.

    The environment variable XDG_CACHE_HOME moves it on Linux.
    """
    return _writable(user_cache_path(PACKAGE))


@cache
def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        spare = Path(tempfile.gettempdir()) / f"{PACKAGE}-{getattr(os, 'getuid', int)()}"
        _log.warning("results are kept in %s: %s; set XDG_CACHE_HOME to choose", spare, error)
        spare.mkdir(mode=0o700, exist_ok=True)
        return spare


def cached(name: str, parts: object, compute: Callable[[], Any], module: Path) -> Any:
    """What `compute` gives, as JSON, from the cache if this very code has computed it before.

    An entry that is damaged is made anew. Several processes may ask for it at once: each writes a
    whole file.

    Args:
        name: of the file, before its key.
        parts: what the result depends on besides the code, told apart by its `repr`.
        compute: called where the cache has nothing.
        module: file in which `compute` is written.

    Raises:
        ValueError: NaN or infinity in the result, which JSON does not know.
        OSError: neither the cache nor a temporary folder can be written.
    """
    path = cache_folder() / f"{name}-{key_of(module, name, parts)[:16]}.json"
    with suppress(FileNotFoundError, ValueError):
        return load_json(path)
    save_json(path, compute())
    return load_json(path)
