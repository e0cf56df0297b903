"""A Sphinx extension: the library's docstrings as they are written, with links.

A word in single backticks is code. Where it names something public of the library, as seen from
the module or the class whose docstring it stands in, it is also a link; a link that leads nowhere
fails the build. Attributes of a class are listed under that name.
"""

import inspect
import re
from importlib import import_module
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject  # type: ignore[attr-defined]
from sphinx.ext.autodoc import Documenter, ModuleDocumenter

LIBRARY = "ibvonns"
SHORTER = re.compile(r"(numpy\.ndarray)\[.*?\]\]|\bt\.(?=Any)")


class InSourceOrder(ModuleDocumenter):
    """Members of a module as they follow each other in its source, not in `__all__`."""

    def sort_members(self, documenters: list[tuple[Documenter, bool]], order: str) -> list[tuple[Documenter, bool]]:
        """Sort as members of a class are sorted."""
        return Documenter.sort_members(self, documenters, order)


def _from(start: object, path: str) -> Any:
    """What a dotted path leads to from an object, or None."""
    for name in path.split("."):
        start = getattr(start, name, None)
    return start


def _public(found: Any, module: ModuleType, path: str) -> str | None:
    """Full name of what was found, if the library documents it."""
    if isinstance(found, ModuleType):
        return found.__name__ if found.__name__.startswith(f"{LIBRARY}.") else None
    if isinstance(found, property):
        found = found.fget
    if inspect.isroutine(found) or inspect.isclass(found):
        home, path = getattr(found, "__module__", None) or "", found.__qualname__
    else:
        home = module.__name__
        path = path if path in getattr(module, "__all__", ()) else ""
    first, _, last = path.partition(".")
    if not home.startswith(LIBRARY) or last.startswith("_"):
        return None
    return f"{home}.{path}" if first in getattr(import_module(home), "__all__", ()) else None


def full_name(text: str, module: str, owner: str | None = None) -> str | None:
    """The public name that a word in backticks stands for.

    >>> full_name("Density", "ibvonns.model"), full_name("metrics.json", "ibvonns.studies")
    ('ibvonns.ensemble.Density', None)
    """
    here = import_module(module)
    starts = [(here, f"{owner}.{text}")] if owner else []
    for start, path in [*starts, (here, text), (import_module(LIBRARY), text)]:
        name = _public(_from(start, path), start, path)
        if name is not None:
            return name
    return None


def code_or_link(
    role: str, raw: str, text: str, line: int, inliner: Any, *rest: Any
) -> tuple[list[nodes.Node], list[nodes.Node]]:
    """The role of single backticks."""
    context = inliner.document.settings.env.ref_context
    module = context.get("py:module")
    code = nodes.literal(raw, text)
    name = full_name(text, module, context.get("py:class")) if module else None
    if name is None:
        return [code], []
    link = pending_xref("", code, refdomain="py", reftype="obj", reftarget=name, refexplicit=True)
    link.source, link.line = inliner.document.current_source, line
    return [link], []


def for_napoleon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Prepare a docstring before napoleon reads it."""
    if what == "module":
        lines[:0] = [".. highlight:: none", ""]  # formulas are not Python; examples still are
    elif what in ("attribute", "data", "property"):
        # an empty comment: or what stands before a colon in the first line would be a type
        lines[:0] = ["..", ""]


def short_types(
    app: Sphinx, what: str, name: str, obj: object, options: object, given: str, back: str
) -> tuple[str, str] | None:
    """Show NumPy's arrays without what they hold, always numbers, and `Any` without its module."""
    return (SHORTER.sub(lambda found: found[1] or "", given), back) if given else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the role; `default_role` in _config.yml names it."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_autodocumenter(InSourceOrder, override=True)
    app.add_role("library", code_or_link)
    app.connect("autodoc-process-signature", short_types)
    app.connect("autodoc-process-docstring", for_napoleon, priority=100)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
