"""The link from the landing page to the PDF, which is there once the PDF is."""

import re
import shutil
from pathlib import Path

NAME = "thermodynamics-from-particles.pdf"
PLACE = re.compile(r'<span class="ibv-pdf">.*?</span>', re.S)
ROOT_PAGE = Path("book") / "intro.html"


def offer(html: Path, pdf: Path) -> None:
    """Copy the PDF to the pages, and link it from the landing page.

    Args:
        html: folder of the built pages.
        pdf: the file; if it is not there, nothing is done.

    Raises:
        ValueError: a landing page with no place for the link.
    """
    if not pdf.exists():
        return
    shutil.copyfile(pdf, html / NAME)
    page = html / ROOT_PAGE
    link = f'<span class="ibv-pdf"><a href="../{NAME}">the PDF</a> ({pdf.stat().st_size / 2**20:.0f} MB)</span>'
    text, count = PLACE.subn(link, page.read_text(encoding="utf-8"))
    if not count:
        raise ValueError(f"{page} must have the place of the link to the PDF, a span of the class ibv-pdf")
    page.write_text(text, encoding="utf-8")
