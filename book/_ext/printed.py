"""A Sphinx extension: the landing page links to the PDF, once there is one.

The PDF is printed from the built pages (`book/pdf.py`), so that it comes after them. Whichever comes second, the build
of the pages or the printer, puts a copy beside the pages and the link into the first of them. Until then the page says
how to print it.
"""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.append(str(Path(__file__).resolve().parents[1]))

from offered import NAME, offer  # noqa: E402


def offer_built(app: Sphinx, exception: Exception | None) -> None:
    """Offer the PDF that stands beside the built pages."""
    if not exception and app.builder.format == "html":
        offer(Path(app.outdir), Path(app.outdir).parent / NAME)


def setup(app: Sphinx) -> dict[str, bool]:
    """Run when all pages are written."""
    app.connect("build-finished", offer_built)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
