"""A Sphinx extension: slides of each chapter, made of its figures, their captions, its question and its summary.

They are made from the page as it has been written, so that numbers and references are those of the page, and shown by
reveal.js. The first sentence of a caption stands on the slide; the rest is for the speaker (key S).
"""

import re
from copy import copy
from html import escape
from pathlib import Path

from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

FOLDER = "slides"
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: slides</title>
<link rel="stylesheet" href="../_static/reveal/reveal.css"><link rel="stylesheet" href="../_static/slides.css">
{math}
</head><body><div class="reveal"><div class="slides">
{sections}
</div></div>
<script src="../_static/reveal/reveal.js"></script><script src="../_static/reveal/notes.js"></script>
<script>
  Reveal.initialize({{
    hash: true, slideNumber: "c/t", width: 1100, height: 700, margin: 0.06, plugins: [RevealNotes],
  }});
</script>
</body></html>
"""
FIRST = re.compile(r"(?<=[^A-Z.])\.(?=\s|$)")


def _inside(tag: Tag | None) -> str:
    """The HTML inside a tag, without what only a page needs."""
    if tag is None:
        return ""
    kept = copy(tag)
    for extra in kept.select("a.headerlink, .caption-number, button"):
        extra.decompose()
    return kept.decode_contents().strip()


def _told(caption: Tag | None) -> tuple[str, str]:
    """The first sentence of a caption, and the rest. A formula is not cut."""
    inside = _inside(caption.select_one(".caption-text") if caption else None)
    ends = [end.end() for end in FIRST.finditer(inside)]
    whole = [end for end in ends if inside[:end].count("<span") == inside[:end].count("</span>")]
    return (inside[: whole[0]], inside[whole[0] :].strip()) if whole else (inside, "")


def slides(page: str, name: str) -> str:
    """Slides of a chapter's page, as HTML.

    Args:
        page: its HTML.
        name: of its file, without suffix: links of the slides lead to it.

    Raises:
        ExtensionError: a page without a title.
    """
    soup = BeautifulSoup(page, "html.parser")
    article = soup.select_one("article.bd-article")
    title = article and article.select_one("h1")
    if article is None or title is None:
        raise ExtensionError(f"{name}: a chapter must have a title, but has none")
    for anchor in article.select("a[href]"):  # as seen from the folder beside the chapters'
        goal = str(anchor["href"])
        if goal.startswith("#"):
            anchor["href"] = f"../notebooks/{name}.html{goal}"
        elif not re.match(r"\.\./|[a-z]+:", goal):
            anchor["href"] = f"../notebooks/{goal}"
    question, box = article.select_one("h1 ~ p > em"), article.select_one(".admonition")
    seen = next((p for p in (box.select("p") if box else []) if p.get_text().startswith("You will see")), None)
    parts = [
        f"<h1>{_inside(title)}</h1><p class='question'>{_inside(question)}</p>"
        f"<aside class='notes'>{_inside(seen)}</aside>"
    ]
    for figure in article.select("figure"):
        picture, heading = figure.select_one("img"), figure.find_previous("h2")
        if picture is None or figure.find_parent(class_="dropdown"):
            continue
        said, rest = _told(figure.select_one("figcaption"))
        image = f"<img src='{picture['src']}' alt='{escape(str(picture.get('alt', '')), quote=True)}'>"
        parts.append(f"<h2>{_inside(heading)}</h2>{image}<p>{said}</p><aside class='notes'>{rest}</aside>")
    remember = article.find("section", id=re.compile("^what-to-remember"))
    points = remember.select_one("ul") if isinstance(remember, Tag) else None
    parts.append(f"<h2>What to remember</h2><ul>{_inside(points)}</ul>")
    math = "\n".join(str(each) for each in soup.select("script") if re.search("mathjax|MathJax", str(each)))
    sections = "\n".join(f"<section>{part}</section>" for part in parts)
    return PAGE.format(title=_inside(title), math=math, sections=sections)


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the slides of all chapters."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir) / FOLDER
    folder.mkdir(exist_ok=True)
    for name in sorted(app.env.found_docs):
        if re.fullmatch(r"notebooks/\d\d_\w+", name):
            page = (Path(app.outdir) / f"{name}.html").read_text(encoding="utf-8")
            chapter = Path(name).name
            (folder / f"{chapter}.html").write_text(slides(page, chapter), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Run when the pages are written."""
    app.connect("build-finished", write, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
