"""A Sphinx extension: the drawings of `book/drawings.py` stand in the page itself, not beside it.

A picture that is loaded knows the mode of the device alone. A drawing within the page follows the page's own light and
dark, and its words can be marked and found. Every image with the class ``ibv-drawing`` is put in so.
"""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

CLASS = "ibv-drawing"


def inline(app: Sphinx, doctree: nodes.document) -> None:
    """Replace the images of this class by what their files hold."""
    seen: dict[str, int] = {}
    for node in list(doctree.findall(nodes.image)):
        if CLASS not in node.get("classes", []):
            continue
        relative, whole = app.env.relfn2path(node["uri"])
        path = Path(whole)
        if path.suffix != ".svg" or not path.exists():
            raise ExtensionError(f"{app.env.docname}: a drawing must be an SVG that is there, not {relative}")
        app.env.note_dependency(relative)
        text, name = path.read_text(encoding="utf-8"), path.stem
        count = seen[name] = seen.get(name, 0) + 1
        for part in ("title", "desc"):  # an id stands once on a page
            text = text.replace(f"{name}-{part}", f"{CLASS}-{name}-{count}-{part}")
        drawing = nodes.raw("", f'<div class="{CLASS}">\n{text}</div>\n', format="html")
        node.parent.replace(node, drawing)  # `replace_self` would hand on the class, and so a second frame


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before Sphinx collects the images that it is to copy."""
    app.connect("doctree-read", inline, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
