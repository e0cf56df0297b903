"""The printed book as its readers get it: `_build/thermodynamics-from-particles.pdf`."""

import logging
import re
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag
from pdf import HTML, TARGET, table_of_contents
from pypdf import PdfReader
from pypdf.errors import PdfReadError
from pypdf.generic import DictionaryObject

STAMP = HTML / "searchindex.js"  # written by each build of the pages

pytestmark = pytest.mark.skipif(
    not (TARGET.exists() and STAMP.exists() and TARGET.stat().st_mtime > STAMP.stat().st_mtime),
    reason="there is no PDF of the pages as they are: run `make pdf`",
)


@pytest.fixture(scope="module")
def book() -> PdfReader:
    """The printed book."""
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    return PdfReader(TARGET)


def letters(font: Any) -> dict[bytes, str]:
    """What the codes of a font stand for, by its ToUnicode table."""
    table = font["/ToUnicode"].get_data()
    found = {}
    for kind, block in re.findall(rb"beginbf(char|range)(.*?)endbf", table, re.DOTALL):
        codes = re.findall(rb"<([0-9A-Fa-f]+)>", block)
        step = 2 if kind == b"char" else 3
        for first, *rest in zip(*(codes[k::step] for k in range(step)), strict=True):
            begin, end = int(first, 16), int(rest[0] if step == 3 else first, 16)
            units = bytes.fromhex(rest[-1].decode())
            for code in range(begin, end + 1):
                last = int.from_bytes(units[-2:], "big") + code - begin
                text = units[:-2] + last.to_bytes(2, "big")
                found[b"%0*X" % (len(first), code)] = text.decode("utf-16-be")
    return found


@pytest.fixture(scope="module")
def text(book: PdfReader) -> list[str]:
    """What stands on each page, code left out: there a dollar or a backslash may stand.

    pypdf's `extract_text` reads any PDF, and takes half a minute; this one, Chromium's.
    """
    known: dict[int, dict[bytes, str]] = {}
    pages = []
    token = re.compile(rb"/(\w+) [\d.]+ Tf|<([0-9A-F]+)> Tj|\n(ET)\b")
    for page in book.pages:
        contents = page.get_contents()
        assert contents is not None
        data = contents.get_data()
        resources: Any = page["/Resources"]
        fonts = resources["/Font"]
        code: dict[bytes, str] = {}
        is_code = False
        found = []
        for font, glyphs, end in token.findall(data):
            if font:
                where = fonts.raw_get("/" + font.decode()).idnum
                if where not in known:
                    known[where] = letters(fonts["/" + font.decode()])
                code = known[where]
                is_code = "Mono" in fonts["/" + font.decode()].get("/BaseFont", "")
            elif end:
                found.append("\n")
            else:
                width = len(next(iter(code)))
                letters_of = (code[glyphs[k : k + width]] for k in range(0, len(glyphs), width))
                spelt = "".join(letters_of)
                found.append("" if is_code else spelt)
        assert len(re.findall(rb" T[jJ]\b", data)) == sum(part != "\n" for part in found)
        pages.append("".join(found))
    return pages


@pytest.fixture(scope="module")
def pages() -> list[Tag]:
    """The articles of the built book."""
    found = []
    for name, _ in table_of_contents():
        page = BeautifulSoup((HTML / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        article = page.find("article")
        assert isinstance(article, Tag)
        found.append(article)
    return found


def links(book: PdfReader) -> list[Any]:
    """Every link on every page."""
    notes = (each.get_object() for page in book.pages for each in page.get("/Annots", []))
    return [each for each in notes if each["/Subtype"] == "/Link"]


def test_links_lead_somewhere(book: PdfReader) -> None:
    there = book.named_destinations.keys()
    inside = [str(each["/Dest"]) for each in links(book) if "/Dest" in each]
    assert len(inside) > 100
    assert {name for name in inside if name not in there and f"/{name}" not in there} == set()
    outside = {str(each["/A"]["/URI"]) for each in links(book) if "/A" in each}
    assert {url for url in outside if not url.startswith(("https://", "http://"))} == set()


def test_outline_and_contents_name_every_chapter(book: PdfReader, text: list[str], pages: list[Tag]) -> None:
    chapters = [page.h1.get_text().removesuffix("#").strip() for page in pages[1:] if page.h1]
    outline = [entry for entry in book.outline if not isinstance(entry, list)]
    titles = [str(entry.title).strip() for entry in outline]
    assert titles == ["Contents", "About this book", *chapters]
    front = "".join("".join(text[2:8]).split())
    # The number in the contents is that of the page where the chapter begins, and printed there.
    for entry, title in zip(outline[2:], chapters, strict=True):
        number = book.get_destination_page_number(entry)
        assert number is not None
        assert "".join(title.split()) + str(number + 1) in front
        assert str(number + 1) in text[number].split("\n")[:4]  # head and foot are printed first


def test_no_markup_is_left(text: list[str]) -> None:
    assert 50 < len(text) < 400
    for number, page in enumerate(text, 1):
        for mark in ("???", "```", "{eq}", "{numref}", "{ref}", "{cite}", "$$", "\\frac", "\\["):
            assert mark not in page, f"{mark} on page {number}"
        assert not re.search(r"\bUnknown\b|Traceback|Show code cell", page), number


def test_equations_and_figures_are_numbered(text: list[str], pages: list[Tag]) -> None:
    whole = "\n".join(text)
    for page in pages:
        numbers = [tag.get_text().removesuffix("#") for tag in page.select(".eqno")]
        captions = [tag.get_text().strip() for tag in page.select(".caption-number")]
        for number in numbers + captions:
            assert re.fullmatch(r"\((\d+\.)?\d+\)|(Fig|Table|Exercise)\.? (\d+\.)?\d+", number)
            assert number in whole
        # Every displayed equation, but what a cell printed and what stands in a box.
        for formula in page.select("div.math"):
            if not formula.find_parent(class_=re.compile("cell_output|admonition")):
                starred = "*}" in formula.get_text()
                assert formula.select_one(".eqno") or starred, formula.get_text()


def test_fonts_lie_in_the_file(book: PdfReader) -> None:
    fonts = {}
    for page in book.pages:
        resources: Any = page["/Resources"]
        for name, font in resources.get("/Font", {}).items():
            fonts[resources["/Font"].raw_get(name).idnum] = font.get_object()
    assert fonts
    for font in fonts.values():
        if font["/Subtype"] == "/Type3":
            assert font["/CharProcs"]
            continue
        inner = font["/DescendantFonts"][0].get_object() if "/DescendantFonts" in font else font
        assert inner["/FontDescriptor"].keys() & {"/FontFile", "/FontFile2", "/FontFile3"}


def test_file_names_title_author_and_language(book: PdfReader) -> None:
    assert book.metadata is not None
    assert book.metadata.title == "Thermodynamics from particles"
    assert book.metadata.author
    assert book.trailer["/Root"]["/Lang"] == "en"  # type: ignore[index]
    assert book.trailer["/Root"]["/MarkInfo"]["/Marked"]  # type: ignore[index]


def test_a_screen_reader_is_told_of_every_formula_and_picture(book: PdfReader, pages: list[Tag]) -> None:
    told = 0
    for number in range(1, int(book.trailer["/Size"])):  # type: ignore[call-overload]
        try:
            element: Any = book.get_object(number)
        except PdfReadError:  # a number that Chromium left unused
            continue
        told += isinstance(element, DictionaryObject) and "/Alt" in element
    formulas = sum(len(page.select(".math:not(.output)")) for page in pages)
    pictures = sum(len(page.select("img")) for page in pages)
    assert told >= formulas + pictures
