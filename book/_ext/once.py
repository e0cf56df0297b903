"""A Sphinx extension: each inline script stands on a page once.

The theme writes sphinx-thebe's inline script twice. A second `const` of the same name is a
JavaScript error, shown in the console of every page.
"""

from typing import Any

from sphinx.application import Sphinx


def drop_repeats(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Keep the first of the scripts that have the same body; leave those with a file alone."""
    bodies: set[str] = set()
    kept = []
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        if body and body in bodies:
            continue
        if body:
            bodies.add(body)
        kept.append(script)
    context["script_files"] = kept


def setup(app: Sphinx) -> dict[str, bool]:
    """Run after the extensions that add the scripts."""
    app.connect("html-page-context", drop_repeats, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
