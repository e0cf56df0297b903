"""A Sphinx extension: the search page leads to sections and shows their words, also when opened from a disk.

Sphinx finds pages, fetches each of them, which a browser forbids to a page from a disk, and begins its summaries with
the theme's menus. This writes the titles and the prose of all sections and of the glossary's entries into one script,
with the words that a reader may type in place of the book's (`book/synonyms.json`). Only the search page loads it;
`search_text.js` searches in it.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import glossary
from sphinx.application import Sphinx

SYNONYMS = Path(__file__).parents[1] / "synonyms.json"
SKIPPED = (nodes.section, nodes.math_block, nodes.literal_block, nodes.raw, nodes.comment, glossary)
# page -> its parts in order, each with its anchor, its title and the prose before its first subsection
TEXTS: dict[str, list[tuple[str, str, str]]] = {}
#: Commands of TeX whose name is no letter of theirs.
SIGNS = {
    "cdot": "·", "times": "×", "approx": "≈", "sim": "∼", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠",
    "to": "→", "mapsto": "↦", "infty": "∞", "partial": "∂", "nabla": "∇", "int": "∫", "sum": "∑", "sqrt": "√",
    "pm": "±", "langle": "⟨", "rangle": "⟩", "in": "∈", "propto": "∝", "ll": "≪", "gg": "≫", "dots": "…", "ldots": "…",
    "cdots": "…", "Vert": "‖", "lVert": "‖", "rVert": "‖", "mid": "|", "quad": " ", "qquad": " ", "prime": "′",
    "circ": "°", "star": "*",
}  # fmt: skip
ACCENTS = {"dot": "\u0307", "ddot": "\u0308", "hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "vec": "\u20d7"}
SPOKEN = {"epsilon": "ε", "varepsilon": "ε", "phi": "φ", "varphi": "φ", "varsigma": "ς", "vartheta": "ϑ"}
NAMES = {"log", "ln", "exp", "sin", "cos", "tan", "tanh", "cosh", "sinh", "min", "max", "det", "arg", "lim"}


def plain(tex: str) -> str:
    r"""A formula of a line in letters alone.

    >>> plain(r"k_\mathrm{B}T"), plain(r"\phi = g^2 / 2\eta"), plain(r"\sqrt{k_\mathrm{B}T/2k}")
    ('kBT', 'φ = g² / 2η', '√kBT/2k')
    """

    def sign(match: re.Match[str]) -> str:
        name, after = match[1], match[2]
        if name in SIGNS or name in NAMES:
            found = SIGNS.get(name, name)
            return found if found in "⟨∂∇√∫∑" else found + after
        kind = "CAPITAL" if name[0].isupper() else "SMALL"
        try:
            spelt = name.upper().replace("LAMBDA", "LAMDA")
            return (SPOKEN.get(name) or unicodedata.lookup(f"GREEK {kind} LETTER {spelt}")) + after
        except KeyError:
            return ""  # a font, a size, a space

    tex = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2", tex)
    letter = rf"\\({'|'.join(ACCENTS)})\s*\{{?\s*(\\[A-Za-z]+|[A-Za-z])\s*\}}?"
    tex = re.sub(letter, lambda match: f"{match[2]}{{}}{ACCENTS[match[1]]}", tex)
    tex = re.sub(r"\^\{?(\d)\}?", lambda match: "⁰¹²³⁴⁵⁶⁷⁸⁹"[int(match[1])], tex)
    tex = re.sub(r"\\([A-Za-z]+)(\s*)", sign, re.sub(r"\\[,;:! ]|~", " ", tex))
    tex = re.sub(r"[\\{}_^$&]", "", tex)
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", tex)).strip()


def prose(node: nodes.Node) -> str:
    """The words of a node, without those of the nodes in it that are skipped; formulas in letters."""
    if isinstance(node, nodes.Text):
        return node.astext()
    if isinstance(node, nodes.math):
        return plain(node.astext())
    if isinstance(node, nodes.Element) and "toctree-wrapper" in node.get("classes", ()):
        return ""  # titles of other pages
    between = "" if isinstance(node, nodes.TextElement) else " "
    return between.join(prose(child) for child in node.children if not isinstance(child, SKIPPED))


def parts(doctree: nodes.document) -> Iterator[tuple[str, str, str]]:
    """Anchor, title and prose of each section of a page and of each entry of a glossary."""
    for section in doctree.findall(nodes.section):
        title = next((child for child in section.children if isinstance(child, nodes.title)), None)
        if title is None:
            continue
        body = " ".join(prose(child) for child in section.children if not isinstance(child, (nodes.title, *SKIPPED)))
        yield f"#{section['ids'][0]}", " ".join(prose(title).split()), " ".join(body.split())
    for item in doctree.findall(nodes.definition_list_item):
        terms = [term for term in item.children if isinstance(term, nodes.term) and term["ids"]]
        if isinstance(item.parent.parent, glossary) and terms:
            body = " ".join(" ".join(prose(child) for child in item.children if child not in terms).split())
            for term in terms:  # the same words, twice
                name = term.children[0].astext()
                yield f"#{term['ids'][0]}", name, body


def keep(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Keep the parts of a page; give the search page the scripts."""
    if doctree is not None:
        TEXTS[page] = list(parts(doctree))
    if page == "search":
        for script in ("search_texts.js", "search_text.js"):
            app.add_js_file(script, loading_method="defer")


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write all texts, and the synonyms, into one script."""
    if not exception and app.builder.format == "html":
        synonyms = json.loads(SYNONYMS.read_text(encoding="utf-8"))
        said = {"SEARCH_TEXTS": TEXTS, "SEARCH_SYNONYMS": synonyms}
        lines = (
            f"const {name} = {json.dumps(each, ensure_ascii=False, sort_keys=True)};" for name, each in said.items()
        )
        (Path(app.outdir) / "_static" / "search_texts.js").write_text("\n".join(lines) + "\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Run as the pages are written, and after."""
    TEXTS.clear()
    app.add_css_file("search.css")
    app.connect("html-page-context", keep)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
