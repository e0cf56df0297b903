"""A Sphinx extension: what a folded cell is called, by its tag.

A cell with the tag ``checked`` (and ``hide-cell``) holds assertions alone: it is folded under the word "Checked". One
with ``imports`` (and ``hide-input``) is folded under "Imports". All others keep the words of MyST-NB.
"""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

WORDS = {"tag_checked": "Checked", "tag_imports": "Imports"}


class NameFolds(SphinxTransform):
    """Put our words on the folds of MyST-NB, which have not been made yet."""

    default_priority = 200  # its own transform of folds runs after the page has been read

    def apply(self, **kwargs: Any) -> None:
        """Go through one page."""
        for node in self.document.findall(nodes.container):
            for name in node.get("classes", []):
                if name in WORDS and "prompt_show" in node:
                    node["prompt_show"] = node["prompt_hide"] = WORDS[name]


def setup(app: Sphinx) -> dict[str, bool]:
    """Run on every page."""
    app.add_transform(NameFolds)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
