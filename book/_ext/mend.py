"""A Sphinx extension: mends in the theme's pages what costs its readers something.

Each mend replaces one piece of the theme's HTML on every page. A piece that no page has is a
warning, and so fails the build: then the theme has changed, and the mend is to be looked at again.
"""

import re
from pathlib import Path
from typing import NamedTuple

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


class Mend(NamedTuple):
    """A regular expression, what takes the place of its matches, and a sign of that."""

    old: str
    new: str
    done: str  # a page that Sphinx did not write again holds this


MENDS = (
    # 1.5 MB of script that draws icons, which the theme's style sheet draws as well from a font.
    Mend(
        r"<!-- So that users can add custom icons -->\s*"
        r"<script [^>]*fontawesome\.js[^>]*></script>",
        "<!-- icons: from the font -->",
        "<!-- icons: from the font -->",
    ),
    # One mark of a brand brings a font of all brands, 0.1 MB, to every page.
    Mend(r'<i class="fab fa-github"></i>', '<i class="fas fa-code-branch"></i>', '<i class="fas fa-code-branch"></i>'),
    # A screen reader lists the parts of a page by role and name; these have no role, or no name.
    Mend(
        r'<div id="pst-primary-sidebar" class="',
        '<div id="pst-primary-sidebar" role="navigation" aria-label="Book" class="',
        'id="pst-primary-sidebar" role=',
    ),
    Mend(
        r'<summary><span class="toctree-toggle"',
        '<summary aria-label="Pages below"><span class="toctree-toggle"',
        '<summary aria-label="Pages below">',
    ),
    Mend(
        r'<dialog id="pst-primary-sidebar-modal">',
        '<dialog id="pst-primary-sidebar-modal" aria-label="Contents of the book">',
        'id="pst-primary-sidebar-modal" aria-label=',
    ),
    Mend(
        r'<dialog id="pst-secondary-sidebar-modal">',
        '<dialog id="pst-secondary-sidebar-modal" aria-label="Contents of this page">',
        'id="pst-secondary-sidebar-modal" aria-label=',
    ),
    Mend(
        r'<dialog id="pst-search-dialog">',
        '<dialog id="pst-search-dialog" aria-label="Search">',
        'id="pst-search-dialog" aria-label=',
    ),
)


def mended(text: str) -> tuple[str, set[Mend]]:
    """The page's text with all mends, and the mends that found their piece."""
    found = set()
    for mend in MENDS:
        if mend.done not in text:
            text, count = re.subn(mend.old, mend.new, text)
            if not count:
                continue
        found.add(mend)
    return text, found


def mend_pages(app: Sphinx, exception: Exception | None) -> None:
    """Mend every page of the theme that was written."""
    if exception or app.builder.format != "html":
        return
    found = set()
    for path in Path(app.outdir).rglob("*.html"):
        before = path.read_text(encoding="utf-8")
        after, here = mended(before)
        found |= here
        if after != before:
            path.write_text(after, encoding="utf-8")
    for mend in MENDS:
        if mend not in found:
            logger.warning("the theme has no such piece any more: %s", mend.old)


def setup(app: Sphinx) -> dict[str, bool]:
    """Run when all pages are written."""
    app.connect("build-finished", mend_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
