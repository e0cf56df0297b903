"""Print the built book into one PDF: `python book/pdf.py`, run by `make pdf`.

The pages in `_build/html` become one document, which a headless Chromium prints: no TeX is needed.
It is printed twice, because the contents can name pages only when these are known.

Jupyter Book's own builder does not do as well. Tried in November 2026 with Debian's TeX, it stopped for want of `bbm`
(fonts of 1.4 GB), then at pictures in WebP. Mended by hand, it gave 501 pages, not 360, without the SVG drawings, the
cards as plain text, and all chapters numbered one too high, so that "chapter 10" leads to another.
"""

import json
import logging
import os
import re
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import matplotlib
import yaml
from bs4 import BeautifulSoup, Tag
from chromium import CHROMIUM, QUIET
from offered import NAME, offer
from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import BooleanObject, NameObject, TextStringObject

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
HTML = ROOT / "_build" / "html"
WORK = ROOT / "_build" / "pdf"
TARGET = ROOT / "_build" / NAME
A_FEW_LINES, A_FEW_ROWS = 10, 30  # so much code or output, or so large a table, stays on one page
# The tokens of code that print.css tells apart. To wrap up the others would double the file.
TOKENS = set("k kn kc kd ow mi mf c c1 sd s1 s2 sa se".split())

# Matplotlib brings these fonts, so that the PDF looks the same on every machine.
FONTS = {
    ("Text", "normal", 400): "STIXGeneral",
    ("Text", "italic", 400): "STIXGeneralItalic",
    ("Text", "normal", 700): "STIXGeneralBol",
    ("Text", "italic", 700): "STIXGeneralBolIta",
    ("Code", "normal", 400): "DejaVuSansMono",
    ("Code", "italic", 400): "DejaVuSansMono-Oblique",
    ("Code", "normal", 700): "DejaVuSansMono-Bold",
    ("Heads", "normal", 400): "DejaVuSans",
    ("Heads", "normal", 700): "DejaVuSans-Bold",
}

ABOUT = """
<section class="imprint">
<p class="lead">About this PDF</p>
<p>This is the book of version {version} of the library <code>ibvonns</code>, printed from its web
pages: every chapter, figure, number and reference is here. References are links, and the
viewer’s side bar holds the contents.</p>
<p>Paper differs from the pages in three ways. Code that only draws a figure, folded on the web
page, is left out. The solutions of exercises stand open below them: cover them first. What moves
on the web page, a slider or a panel to play with, stands still or is only named here.</p>
<p>The sources, and how to build both: <a href="{url}">{url}</a>.</p>
<p>© {year} {author}. Licences: CC BY 4.0 for text and figures, MIT for the code.</p>
</section>
"""


@dataclass
class Article:
    """A page of the book: its name in `_toc.yml`, the part it begins, and its content."""

    name: str
    part: str
    body: Tag

    @property
    def anchor(self) -> str:
        """The name under which the page is linked to."""
        return prefix(self.name)

    @property
    def title(self) -> str:
        """The heading of the page, with the chapter's number."""
        heading = self.body.find("h1")
        return heading.get_text().strip() if heading else self.name


def prefix(page: str) -> str:
    """What makes a page's ids unique in the book."""
    return "p-" + re.sub(r"\W+", "-", page)


def table_of_contents() -> Iterator[tuple[str, str]]:
    """Each page of `_toc.yml` in reading order, and the title of the part that it begins, or ""."""

    def below(listed: list[dict[str, Any]], part: str) -> Iterator[tuple[str, str]]:
        for entry in listed:
            if "file" in entry:
                yield entry["file"], part
                part = ""
            yield from below(entry.get("sections", []), "")

    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    yield contents["root"], ""
    for part in contents.get("parts", [contents]):
        yield from below(part["chapters"], part.get("caption", ""))


def classes(tag: Tag) -> set[str]:
    """The classes of an element."""
    return {str(each) for each in tag.get_attribute_list("class") if each}


def note(soup: BeautifulSoup, text: str) -> Tag:
    """A line in place of what cannot be printed."""
    tag = soup.new_tag("p", attrs={"class": "instead"})
    tag.string = text
    return tag


def drop_what_paper_cannot_do(body: Tag, soup: BeautifulSoup) -> None:
    """Remove buttons and folded code, open what is folded, let sliders stand still."""
    for place in body.select("span.ibv-pdf"):  # book/offered.py
        place.string = "this is the PDF"
    for live in body.select("div.ibv-live"):  # book/_ext/live.py
        if live.get("data-ibvonns") == "Frames" and live.script:
            labels = json.loads(live.script.get_text())["labels"]
            text = f"{labels[0]}, the first of {len(labels)} frames of the slider in the online book."
            live.append(note(soup, text))
        for words in live.find_all("p"):
            words["class"] = "instead"
    for kept in body.find_all("noscript"):
        kept.unwrap()
    useless = (
        "script, :not(svg) > style, button, input, select, output, canvas, a.headerlink, .viewcode-link, "
        "summary svg, .toctree-wrapper, .tag_hide-input > details.above-input"
    )
    for tag in body.select(useless):
        tag.decompose()
    for details in body.find_all("details"):
        details["open"] = ""
        for summary in details.select("summary p.collapsed, summary p.expanded"):
            summary.decompose()
    for cell in body.select("div.cell"):
        if not cell.get_text().strip() and not cell.find(["img", "svg", "table"]):
            cell.decompose()


def mark_for_layout(body: Tag) -> None:
    """Say which blocks are short enough to be kept on one page; leave out plain code's marks."""
    for pre in body.find_all("pre"):
        for span in pre.find_all("span"):
            if not classes(span) & TOKENS:
                span.unwrap()
        if len(pre.get_text().strip().splitlines()) <= A_FEW_LINES:
            pre["class"] = " ".join([*classes(pre), "short"])
    for table in body.find_all("table"):
        if len(table.find_all("tr")) <= A_FEW_ROWS:
            table["class"] = " ".join([*classes(table), "short"])


def link(href: str, page: str, pages: set[str]) -> str | None:
    """Where a link of a page leads in the PDF: to the web, to an id, or (None) nowhere."""
    parts = urlsplit(href)
    if parts.scheme or parts.netloc:
        return href
    path = PurePosixPath(os.path.normpath(PurePosixPath(page).parent / unquote(parts.path)))
    target = page if not parts.path else str(path.with_suffix(""))
    if target not in pages or (parts.path and path.suffix != ".html"):
        return None
    return f"#{prefix(target)}" + (f"--{unquote(parts.fragment)}" if parts.fragment else "")


def read(page: str, part: str, pages: set[str]) -> Article:
    """One built page, ready to stand beside the others."""
    soup = BeautifulSoup((HTML / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    body = soup.find("article")
    if not isinstance(body, Tag):
        raise SystemExit(f"{page}: no article on the page")
    drop_what_paper_cannot_do(body, soup)
    mark_for_layout(body)
    seen = set()
    for tag in body.find_all(True):
        if tag.get("id") in seen:  # sphinx-exercise names the inside of every exercise alike
            del tag["id"]
        seen.add(tag.get("id", ""))
        for key in ("id", "for", "aria-labelledby", "aria-describedby"):
            if key in tag.attrs:
                own = " ".join(map(str, tag.get_attribute_list(key))).split()
                tag[key] = " ".join(f"{prefix(page)}--{each}" for each in own)
    for anchor in body.find_all("a", href=True):
        goal = link(str(anchor["href"]), page, pages)
        if goal is None:  # a download, or a page that is not in the book
            anchor.unwrap()
        else:
            anchor["href"] = goal
    for image in body.find_all(["img", "source"]):
        key = "src" if image.name == "img" else "srcset"
        path = str(image[key])
        if not urlsplit(path).scheme:
            image[key] = (HTML / page).parent.joinpath(unquote(path)).resolve().as_uri()
        image.attrs.pop("loading", None)  # what is lazy may miss the print
    return Article(page, part, body)


def check_links(book: BeautifulSoup) -> None:
    """Stop at an id that stands twice, or a link that leads nowhere."""
    ids = [str(tag["id"]) for tag in book.find_all(id=True)]
    twice = {each for each in ids if ids.count(each) > 1}
    hrefs = [str(a["href"]) for a in book.find_all("a", href=True)]
    lost = {href for href in hrefs if href.startswith("#") and href[1:] not in set(ids)}
    if twice or lost:
        raise SystemExit(f"ids that stand twice: {sorted(twice)}; no such id: {sorted(lost)}")


def contents(articles: list[Article]) -> str:
    """The list of parts, pages and chapters' sections, with room for the page numbers."""

    def line(level: str, anchor: str, title: str) -> str:
        return (
            f'<li class="{level}"><a href="#{anchor}"><span class="entry">{title}</span>'
            f'<span class="dots"></span><span class="page" data-of="{anchor}">000</span></a></li>'
        )

    lines = []
    for article in articles:
        if article.part:
            lines.append(f'<li class="part">{escape(article.part)}</li>')
        lines.append(line("chapter", article.anchor, heading_html(article.body.find("h1"))))
        numbered = article.body.select_one("h1 > .section-number")
        for heading in article.body.find_all("h2") if numbered else ():
            section = heading.find_parent("section")
            if section and section.get("id"):
                lines.append(line("section", str(section["id"]), heading_html(heading)))
    return f'<section class="contents"><h1>Contents</h1><ul>{"".join(lines)}</ul></section>'


def heading_html(heading: Tag | None) -> str:
    """A heading's inside without links, for use elsewhere."""
    if heading is None:
        return ""
    copy = BeautifulSoup(heading.decode_contents(), "html.parser")
    for tag in copy.find_all("a"):
        tag.unwrap()
    return copy.decode().strip()


def rules(articles: list[Article], title: str) -> str:
    """The parts of the style that depend on the book: fonts, and each chapter's running head."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    out = [
        f'@font-face {{ font-family: "Book {family}"; font-style: {style}; font-weight: {weight}; '
        f'src: url("{(folder / name).as_uri()}.ttf"); }}'
        for (family, style, weight), name in FONTS.items()
    ]

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'

    for number, article in enumerate(articles):
        out.append(
            f"@page chapter{number} {{ @top-left {{ content: {quoted(title)}; }} "
            f"@top-right {{ content: {quoted(article.title)}; }} }}\n"
            f"#{article.anchor} {{ page: chapter{number}; }}"
        )
    return "\n".join(out)


def assemble() -> str:
    """The whole book as one page of HTML."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    title, author = config["title"], config["author"]
    names = list(table_of_contents())
    pages = {name for name, _ in names}
    articles = [read(name, part, pages) for name, part in names]
    first = articles[0].body.find("h1")
    if first is not None and first.get_text().strip() == title:
        first.string = "About this book"  # the title has a page of its own
    about = ABOUT.format(
        version=project["version"], url=config["repository"]["url"], year=config["copyright"], author=escape(author)
    )
    picture = (HERE / "images" / "trap.png").as_uri()
    chapters = "".join(
        f'<div class="chapter" id="{each.anchor}">{each.body.decode_contents()}</div>' for each in articles
    )
    mathjax = (HTML / "_static" / "mathjax" / "es5" / "startup.js").as_uri()
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<link rel="stylesheet" href="{(HERE / "print.css").as_uri()}">
<style>{rules(articles, title)}</style>
<script>window.MathJax = {{ loader: {{ load: ["core", "input/tex", "output/chtml"] }}, options: {{
  processHtmlClass: "tex2jax_process|mathjax_process|math|output_area",
  enableMenu: false,
  menuOptions: {{ settings: {{ assistiveMml: false }} }} }} }}</script>
<script defer src="{mathjax}"></script></head>
<body class="tex2jax_ignore mathjax_ignore">
<section class="cover"><p class="title">{escape(title)}</p>
<p class="subtitle">{escape(project["description"])}</p><p class="author">{escape(author)}</p>
<img src="{picture}" alt="">
<p class="version">Version {project["version"]}, {config["copyright"]}</p>
</section>{about}{contents(articles)}{chapters}</body></html>
"""
    return text


# Formulas and tables wider than the page are made smaller, and pictures printed with 120 dots per
# inch or more, tall ones over the whole page. What sticks out even so is returned.
FIT = """() => {
  const wide = (e) => e.getBoundingClientRect().width;
  const shrink = (e, inner, room) => {
    if (inner > room + 0.5) {
      e.style.fontSize = (parseFloat(getComputedStyle(e).fontSize) * room / inner * 0.99) + "px";
    }
  };
  for (const e of document.querySelectorAll("mjx-container")) {
    const math = e.querySelector("mjx-math");
    const holder = e.parentElement.closest("td, th, li, dd, p, div");
    if (math && e.getAttribute("display")) shrink(e, wide(math), wide(e));
    else if (math && holder) shrink(e, wide(math), wide(holder));
  }
  for (const e of document.querySelectorAll("table")) {
    const room = e.parentElement.clientWidth;
    e.classList.add("one-line");  // no cell is broken, if the letters stay large enough
    if (e.scrollWidth > 1.25 * room) e.classList.remove("one-line");
    for (let k = 0; k < 3; k++) shrink(e, e.scrollWidth, room);
  }
  for (const e of document.images) {
    e.style.maxWidth = `min(100%, ${0.8 * e.naturalWidth}px)`;
    if (e.naturalHeight > e.naturalWidth) e.classList.add("tall");
  }
  const edge = document.body.getBoundingClientRect().right + 1;
  return [...document.querySelectorAll("img, svg, table, pre span, p, mjx-math, mjx-container, td")]
    .filter(e => e.getClientRects().length && e.getBoundingClientRect().right > edge)
    .map(e => e.tagName + " in " + (e.closest(".chapter")?.id ?? "the front matter") + ": "
         + e.textContent.trim().slice(0, 60));
}"""

# A screen reader is given the TeX source, which the drawn glyphs no longer show.
NAME_FORMULAS = """() => {
  for (const item of MathJax.startup.document.math) {
    item.typesetRoot.setAttribute("role", "img");
    item.typesetRoot.setAttribute("aria-label", item.math.trim());
  }
}"""

FILL_IN = """(pages) => {
  for (const e of document.querySelectorAll(".contents .page")) e.textContent = pages[e.dataset.of];
}"""


def draw(page: Page, source: Path) -> None:
    """Open the book and wait until fonts, pictures and formulas are there."""
    page.set_default_timeout(300_000)  # a machine may be busy
    page.emulate_media(media="print")
    page.goto(source.as_uri(), wait_until="load")
    page.evaluate("() => MathJax.startup.promise")
    page.evaluate("() => document.fonts.ready")
    broken = page.evaluate("() => [...document.images].filter(i => !i.naturalWidth).map(i => i.src.slice(0, 99))")
    errors = page.locator("mjx-merror, [data-mjx-error]").count()
    if broken or errors:
        raise SystemExit(f"pictures that are not there: {broken}; formulas with errors: {errors}")
    page.evaluate(NAME_FORMULAS)
    out = page.evaluate(FIT)
    if out:
        raise SystemExit("wider than the page:\n" + "\n".join(out))


def print_to(page: Page, target: Path) -> None:
    """Print the open document."""
    page.pdf(path=target, prefer_css_page_size=True, print_background=True, outline=True, tagged=True)


def destinations(path: Path) -> dict[str, int]:
    """The page, from 1 on, of each name that a link leads to."""
    reader = PdfReader(path)
    numbers = {name: reader.get_destination_page_number(each) for name, each in reader.named_destinations.items()}
    return {name.removeprefix("/"): number + 1 for name, number in numbers.items() if number is not None}


def entries(outline: list[Any]) -> Iterator[Any]:
    """The entries of an outline, whose lists lie in one another, in reading order."""
    for each in outline:
        yield from entries(each) if isinstance(each, list) else [each.node]


def name_entries(writer: PdfWriter, headings: list[str]) -> None:
    """Write the outline's titles again: Chromium doubles a heading at the top of a page."""
    outline = list(entries(writer.outline))
    if len(outline) != len(headings):
        raise SystemExit(f"{len(headings)} headings, but {len(outline)} entries of the outline")
    for entry, heading in zip(outline, headings, strict=True):
        text = re.sub(r"\\[()]|\\", "", heading)  # of a formula the letters remain
        entry[NameObject("/Title")] = TextStringObject(" ".join(text.split()))


def finish(draft: Path, target: Path, headings: list[str]) -> int:
    """Name title and author, write the file in one go, and return the number of pages."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    writer = PdfWriter(clone_from=draft)
    name_entries(writer, headings)
    writer.add_metadata(
        {
            "/Title": config["title"],
            "/Author": config["author"],
            "/Subject": project["description"],
            "/Keywords": ", ".join(project["keywords"]),
            "/Creator": f"ibvonns {project['version']}, book/pdf.py",
        }
    )
    writer.page_mode = "/UseOutlines"
    writer.create_viewer_preferences()[NameObject("/DisplayDocTitle")] = BooleanObject(True)
    part = target.with_suffix(".part")
    writer.write(part)
    part.replace(target)
    return len(writer.pages)


def main() -> None:
    """Print the book."""
    begin = time.perf_counter()
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # Chromium leaves numbers unused
    if CHROMIUM is None and "--if-possible" in sys.argv:
        print("No Chromium or Chrome is here: no PDF is printed.", file=sys.stderr)
        return
    if CHROMIUM is None:
        raise SystemExit("The PDF is printed by Chromium or Chrome, and neither is here.")
    if not (HTML / "index.html").exists():
        raise SystemExit("The pages are not built: run `make html` first.")
    WORK.mkdir(parents=True, exist_ok=True)
    source, draft = WORK / "book.html", WORK / "draft.pdf"
    text = assemble()
    source.write_text(text, encoding="utf-8")
    book = BeautifulSoup(text, "html.parser")
    check_links(book)
    headings = [tag.get_text() for tag in book.find_all(["h1", "h2", "h3", "h4", "h5", "h6"])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        # As wide as the text on A4 in print.css, so that what fits here fits there.
        page = browser.new_page(viewport={"width": 643, "height": 1000})
        draw(page, source)
        print_to(page, draft)
        page.evaluate(FILL_IN, destinations(draft))
        print_to(page, draft)
        browser.close()
    number = finish(draft, TARGET, headings)
    offer(HTML, TARGET)
    size = TARGET.stat().st_size / 2**20
    seconds = time.perf_counter() - begin
    print(f"{TARGET}: {number} pages, {size:.1f} MiB, in {seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
