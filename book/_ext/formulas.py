"""A Sphinx extension: no line begins with the comma after a formula.

A browser may break a line on either side of a drawn formula. So what belongs to one, a bracket
before it or a stop after it, is put into one unbroken piece with it. It also gives the list of
references the roles that a screen reader knows.
"""

import re
from typing import Any

from sphinx.application import Sphinx

FORMULA = r'<span class="math notranslate nohighlight">[^<]*</span>'
HELD = re.compile(rf"([(\[“‘]*)({FORMULA})([.,;:!?)\]”’%]*)(?=[\s<—-])")
# sphinxcontrib-bibtex writes a list, whose items must be items of a list
ROLES = (
    (' role="doc-biblioentry"', ' role="listitem"'),
    (' role="doc-backlink"', ""),
)


def hold(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Mend the page's body."""
    body = context.get("body", "")

    def held(match: re.Match[str]) -> str:
        before, formula, after = match.groups()
        return f'<span class="held">{match[0]}</span>' if before or after else formula

    body = HELD.sub(held, body)
    for old, new in ROLES:
        body = body.replace(old, new)
    if body:
        context["body"] = body


def setup(app: Sphinx) -> dict[str, bool]:
    """Run when a page's body is ready."""
    app.connect("html-page-context", hold)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
