"""A Sphinx extension: figures open alone at full size, keep their place, and weigh a third.

Around each picture of a page stands a link to its file: on a phone a tap shows it large, and a
lecturer may project it. The stored size reserves the picture's place before it is loaded, so that
a link into the page does not lose its target. PNGs of matplotlib's 24 bits a pixel are stored with
a palette of 256 colours: nobody sees the difference, and a page loads two thirds faster. A figure whose letters would
be too small at a phone's width is shown wider there, and scrolls (phone.css).
"""

import re
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageStat
from sphinx.application import Sphinx

# An image that is not yet in a link. (Sphinx links an image whose size the source gives.)
ALONE = re.compile(r'(<img\b[^>]*?\bsrc="([^"]*_images/([^"/]+))"[^>]*?)\s*/?>(?!\s*</a>)')
BROAD = 1000  # pixels, at 200 an inch: letters of 9.5 points of a wider one are under 9 pixels at a phone's 342
SEEN = 0.5  # mean difference of a colour, of 255, below which a palette is taken


def link_figures(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Put a link to the file around each picture of the page's body, and its size into it."""
    sources = {name: source for source, name in app.builder.images.items()}

    def linked(match: re.Match[str]) -> str:
        tag, target, name = match[1], match[2], match[3]
        kind = "picture"
        if name.endswith(".png") and name in sources and not re.search(r"\b(width|style)=", tag):
            with Image.open(Path(app.srcdir) / sources[name]) as image:
                tag += f' width="{image.width}" height="{image.height}"'
                if image.width > BROAD:
                    kind, tag = "picture broad", tag + f' style="--natural: {image.width}px"'
        title = "Open this picture alone, at its full size"
        return f'<a class="{kind}" href="{target}" title="{title}">{tag} /></a>'

    if "body" in context:
        context["body"] = ALONE.sub(linked, context["body"])


def lean(path: Path) -> None:
    """Store a PNG with a palette, unless it has one, is transparent, or would look different."""
    with Image.open(path) as image:
        if image.mode not in ("RGB", "RGBA"):
            return
        if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
            return
        whole = image.convert("RGB")
    small = whole.quantize(256, dither=Image.Dither.NONE)
    if max(ImageStat.Stat(ImageChops.difference(whole, small.convert("RGB"))).mean) < SEEN:
        small.save(path)


def lean_figures(app: Sphinx, exception: Exception | None) -> None:
    """Store all pictures of the written book with palettes."""
    if not exception and app.builder.format == "html":
        for path in sorted((Path(app.outdir) / "_images").glob("*.png")):
            lean(path)


def setup(app: Sphinx) -> dict[str, bool]:
    """Run when a page's body is ready, and when all pages are written."""
    app.connect("html-page-context", link_figures)
    app.connect("build-finished", lean_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
