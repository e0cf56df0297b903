"""A Sphinx extension: the search page shows where a word stands, also when opened from a disk.

Sphinx fetches each page that it found, which a browser forbids to a page from a disk, and begins
its summaries with the theme's menus. This writes the prose of all pages into one script, which only
the search page loads; `search_text.js` hands it to Sphinx in place of the pages.
"""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SKIPPED = (nodes.section, nodes.math_block, nodes.literal_block, nodes.raw, nodes.comment)
# page -> its sections in order, each with its anchor and the prose before its first subsection
TEXTS: dict[str, list[tuple[str, str]]] = {}


def prose(node: nodes.Node) -> str:
    """The words of a node, without those of the nodes in it that are skipped."""
    if isinstance(node, nodes.Text):
        return node.astext()
    between = "" if isinstance(node, nodes.TextElement) else " "
    return between.join(prose(child) for child in node.children if not isinstance(child, SKIPPED))


def keep(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Keep the text of a page; give the search page the scripts."""
    if doctree is not None:
        sections = doctree.findall(nodes.section)
        TEXTS[page] = [(f"#{part['ids'][0]}", " ".join(prose(part).split())) for part in sections]
    if page == "search":
        for script in ("search_texts.js", "search_text.js"):
            app.add_js_file(script, loading_method="defer")


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write all texts into one script."""
    if not exception and app.builder.format == "html":
        script = f"const SEARCH_TEXTS = {json.dumps(TEXTS, ensure_ascii=False, sort_keys=True)};\n"
        (Path(app.outdir) / "_static" / "search_texts.js").write_text(script, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Run as the pages are written, and after."""
    TEXTS.clear()
    app.connect("html-page-context", keep)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
