"""The cache: what a computation gave, kept under a key of all that can change it."""

import ast
import errno
import hashlib
import logging
import os
import platform
import tempfile
from collections.abc import Callable
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import numba
import numpy
import torch
from platformdirs import user_cache_path

from ibvonns.files import load_json, save_json

__all__ = ["cache_folder", "cached", "key_of", "sources", "stored"]

PACKAGE = "ibvonns"
_log = logging.getLogger(__name__)


def sources(module: Path) -> list[Path]:
    """Files that a module depends on: itself and what it imports, directly or not, that lies beside its package.

    The inits of packages are among them, because an import runs them.

    Args:
        module: its file; its package lies in the first folder above it that is no package.

    >>> {"law.py", "protocols.py"} <= {path.name for path in sources(Path(__file__).parent / "protocols.py")}
    True
    """
    root = next(folder for folder in module.resolve().parents if not (folder / "__init__.py").exists())
    finder = ModuleFinder([str(root)])
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
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, False) is not None:
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

    Raises:
        OSError: neither can be written.
    """
    try:
        return _writable(user_cache_path(PACKAGE))
    except RuntimeError:  # the system knows no home of the user
        return _writable(Path("~"))


@cache
def _writable(folder: Path) -> Path:
    try:
        if not folder.is_absolute():  # "~", as an older platformdirs has it
            raise FileNotFoundError(errno.ENOENT, "there is no home", str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        spare = Path(tempfile.gettempdir()) / f"{PACKAGE}-{getattr(os, 'getuid', int)()}"
        spare.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and (spare.is_symlink() or spare.stat().st_uid != os.getuid()):
            spare = Path(tempfile.mkdtemp(prefix=f"{PACKAGE}-"))  # another user has taken the name
        _log.warning("results are kept in %s: %s; set XDG_CACHE_HOME to choose", spare, error)
        return spare


def stored(path: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of a file of the cache; None if there is none, or if it is damaged, which is said.

    Args:
        path: of the file.
        read: raises FileNotFoundError, or ValueError or OSError for what cannot be read.
    """
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("what the cache holds is made anew: %s", error)
        return None


def cached(name: str, parts: object, compute: Callable[[], Any], module: Path) -> Any:
    """What `compute` gives, as JSON, from the cache if this very code has computed it before.

    An entry that is damaged is made anew, and so is one that may not be read; it is said. Several
    processes may ask for it at once: each computes it and writes a whole file.

    Args:
        name: of the file, before its key.
        parts: what the result depends on besides the code, told apart by its `repr`.
        compute: called where the cache has nothing.
        module: file in which `compute` is written.

    Raises:
        ValueError: NaN or infinity in the result, which JSON does not know.
        OSError: neither the cache nor a temporary folder can be written, or the disk is full.
    """
    path = cache_folder() / f"{name}-{key_of(module, name, parts)[:16]}.json"
    if (found := stored(path, lambda file: [load_json(file)])) is None:  # a list, for a result may be None
        save_json(path, compute())
        found = [load_json(path)]
    return found[0]
