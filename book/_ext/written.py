"""A Sphinx extension: what the pages take from stored results is written before they are read.

Into `book/written`, which git ignores: the cards of the page of figures, with their small pictures,
the table of the page on running, and the problem sheet. So none can be out of step with the chapters.
"""

import json
import sys
from pathlib import Path

from sphinx.application import Sphinx

BOOK = Path(__file__).resolve().parents[1]
sys.path.append(str(BOOK))

import gallery  # noqa: E402
import problems  # noqa: E402
import running  # noqa: E402


def write(app: Sphinx, config: object) -> None:
    """Write all of it."""
    gallery.write()
    problems.write()
    entries = json.loads(running.RUNNING.read_text(encoding="utf-8"))
    table = running.table(entries, BOOK.parent / "notebooks")
    (gallery.WRITTEN / "running.md").write_text(table, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before the contents are read."""
    app.connect("config-inited", write, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
