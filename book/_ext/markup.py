"""A Sphinx extension: mends in what Sphinx writes of a page's text.

No line begins with the comma after a formula: a browser may break a line on either side of a drawn
formula, so what belongs to one, a bracket before it or a stop after it, is put into one unbroken
piece with it. The list of references is a list of items to a screen reader. A signature over
several lines is one text, not a list of definitions of nothing.
"""

import re
from typing import Any

from sphinx.application import Sphinx

FORMULA = r'<span class="math notranslate nohighlight">[^<]*</span>'
HELD = re.compile(rf"([(\[“‘]*)({FORMULA})([.,;:!?)\]”’%]*)(?=[\s<—-])")
PARAMETERS = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*</dd>\n)+)</dl>')
ROLES = ((' role="doc-biblioentry"', ' role="listitem"'), (' role="doc-backlink"', ""))


def held(match: re.Match[str]) -> str:
    """A formula in one piece with what stands close to it."""
    before, formula, after = match.groups()
    return f'<span class="held">{match[0]}</span>' if before or after else formula


def lines(match: re.Match[str]) -> str:
    """The parameters of a signature, one a line on a screen."""
    return match[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")


def mend(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Mend the page's body."""
    if body := context.get("body"):
        body = PARAMETERS.sub(lines, HELD.sub(held, body))
        for old, new in ROLES:
            body = body.replace(old, new)
        context["body"] = body


def setup(app: Sphinx) -> dict[str, bool]:
    """Run when a page's body is ready."""
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
