"""The page of figures, made from the stored notebooks whenever the pages are built.

    python book/gallery.py   write book/written/figures.md and the small pictures beside it

Each of our figures has a card. First those that answer a figure of the paper's two examples, with
what that shows and where ours stands by the scoreboard; then the others. Texts for those who cannot
see the pictures are the chapters'. A chapter that was run again for another system shows in its own table
other numbers than the scoreboard's: its cards then have those, and no verdict. `book/_ext/written.py` calls
this; the same notebooks give the same bytes.
"""

import re
from base64 import b64decode
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from ibvonns.paper.scoreboard import ranged, rounded, stored
from ibvonns_book.tables import quoted

HERE = Path(__file__).resolve().parent
CHAPTERS = HERE.parent / "notebooks"
WRITTEN = HERE / "written"
OURS = "ours [min, max]"  # the column of the chapters' tables
WIDTH = 320  # of a small picture, in pixels; twice as many are stored, for fine screens


@dataclass(frozen=True)
class Answer:
    """A figure of the paper's examples and the one of ours that answers it.

    Attributes:
        paper: number of the figure, with its panel.
        shows: what it shows, in a few words.
        ours: name of our figure.
        rows: rows of the scoreboard that measure what it shows.
    """

    paper: str
    shows: str
    ours: str
    rows: tuple[str, ...] = ()


ANSWERS = (
    Answer("6a", "decoded mean position", "fig-learning-decoder", ("trap-nll-test",)),
    Answer("6a", "positions whose mean is its truth", "fig-trap-realisations"),
    Answer("6b", "internal variable against mean position", "fig-learning-alpha"),
    Answer("7a", "free energy, learned against exact", "fig-learning-potentials", ("trap-f-test",)),
    Answer("7b", "dual dissipation potential, learned against exact", "fig-learning-potentials", ("trap-phi-test",)),
    Answer("8a", "external force in time", "fig-learning-rollout", ("trap-force-test",)),
    Answer("8b", "internal variable in time", "fig-learning-rollout", ("trap-alpha-test",)),
    Answer("8a", "equilibrium value of the external force", "fig-trap-force"),
    Answer("9a", "states that a new protocol visits", "fig-learning-linear"),
    Answer("9b", "decoded mean position under the new protocol", "fig-learning-linear"),
    Answer("10a", "its external force", "fig-learning-linear", ("trap-force-linear",)),
    Answer("10b", "its internal variable", "fig-learning-linear", ("trap-alpha-linear",)),
    Answer("11", "the potential of one spring", "fig-chain-potential"),
    Answer("13a", "states that the springs visit", "fig-cnf-phase"),
    Answer("13b", "external force, flow", "fig-cnf-force", ("cnf-force-test-velocity",)),
    Answer("13c", "mean strains, flow", "fig-cnf-velocity-given", ("cnf-strain-test-velocity",)),
    Answer("13d", "internal variables, flow", "fig-cnf-velocity-given", ("cnf-alpha-test-velocity",)),
    Answer("14a", "mean strains under the sinusoidal protocol, flow", "fig-cnf-sine", ("cnf-strain-sine-velocity",)),
    Answer("14b", "its internal variables, flow", "fig-cnf-sine", ("cnf-alpha-sine-velocity",)),
    Answer(
        "14c", "external force under the sinusoidal protocol, flow", "fig-cnf-sine-force", ("cnf-force-sine-velocity",)
    ),
    Answer("15", "decoded standard deviation", "fig-learning-decoder", ("trap-nll-test",)),
    Answer("15", "sampled standard deviation", "fig-trap-width"),
    Answer("16", "densities of the ten springs, mixture", "fig-gmm-marginals", ("gmm-nll-test",)),
    Answer("16", "histograms of the ten springs and their equilibrium densities", "fig-chain-marginals"),
    Answer("17a", "mean strains with the force given, mixture", "fig-gmm-force-given", ("gmm-strain-test-force",)),
    Answer("17b", "internal variables with the force given, mixture", "fig-gmm-force-given", ("gmm-alpha-test-force",)),
    Answer("18a", "states that the springs visit", "fig-gmm-phase"),
    Answer("18b", "external force, mixture", "fig-gmm-force", ("gmm-force-test-velocity",)),
    Answer("18c", "mean strains, mixture", "fig-gmm-velocity-given", ("gmm-strain-test-velocity",)),
    Answer("18d", "internal variables, mixture", "fig-gmm-velocity-given", ("gmm-alpha-test-velocity",)),
    Answer("19a", "mean strains under the sinusoidal protocol, mixture", "fig-gmm-sine", ("gmm-strain-sine-velocity",)),
    Answer("19b", "its internal variables, mixture", "fig-gmm-sine", ("gmm-alpha-sine-velocity",)),
    Answer(
        "19c",
        "external force under the sinusoidal protocol, mixture",
        "fig-gmm-sine-force",
        ("gmm-force-sine-velocity",),
    ),
    Answer("20", "densities of the ten springs, flow", "fig-cnf-marginals", ("cnf-nll-test",)),
    Answer("21a", "mean strains with the force given, flow", "fig-cnf-force-given", ("cnf-strain-test-force",)),
    Answer("21b", "internal variables with the force given, flow", "fig-cnf-force-given", ("cnf-alpha-test-force",)),
)


@dataclass(frozen=True)
class Figure:
    """A figure that a chapter stores: name, caption, text for the blind, picture, file, and the chapter's numbers."""

    name: str
    caption: str
    alt: str
    png: bytes
    file: str  # of the chapter, without suffix
    numbers: dict[str, str] = field(default_factory=dict)  # by identifier, as the chapter's own table shows them

    @property
    def chapter(self) -> int:
        """The number of its chapter."""
        return int(self.file[:2])


def figures(folder: Path = CHAPTERS) -> dict[str, Figure]:
    """All named figures of the stored notebooks, in reading order.

    Raises:
        ValueError: a figure without a text for those who cannot see it.
    """
    found = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
        shown = [[output.get("data", {}) for output in cell.get("outputs", [])] for cell in cells]
        numbers: dict[str, str] = {}
        for part in (part for data in shown for part in data):
            numbers |= tabled(part.get("text/markdown", ""))
        for cell, data in zip(cells, shown, strict=True):
            options = cell.metadata.get("mystnb", {})
            name = options.get("figure", {}).get("name")
            images = [part["image/png"] for part in data if "image/png" in part]
            if not name or not images:
                continue
            alt = " ".join(options.get("image", {}).get("alt", "").split())
            if not alt:
                raise ValueError(f"{path.name}: the figure {name!r} needs an `alt`")
            caption = " ".join(options["figure"]["caption"].split())
            found[name] = Figure(name, caption, alt, b64decode(images[0]), path.stem, numbers)
    return found


def tabled(table: str) -> dict[str, str]:
    """By the identifier of its row, what a table of `ibvonns_book.tables` shows as ours.

    >>> from ibvonns.paper.scoreboard import ranged, stored
    >>> from ibvonns_book.tables import judged
    >>> row = stored()["trap-f-test"]
    >>> tabled(judged([row])) == {"trap-f-test": ranged(row, "%")}
    True
    """
    heads, *lines = ([cell.strip() for cell in line.split("|")] for line in table.splitlines() or [""])
    if OURS not in heads:
        return {}
    named = ((re.search(r'title="([a-z-]+)"', "|".join(cells)), cells) for cells in lines)
    return {name[1]: cells[heads.index(OURS)].replace("*", "").replace("\u00a0", " ") for name, cells in named if name}


def first_sentence(caption: str) -> str:
    """What a figure shows, without what it answers.

    >>> first_sentence("One spring (left), answering the paper's Figure 11, and two. Thin: it.")
    'One spring (left), and two.'
    """
    sentence = re.split(r"(?<=[^A-Z.])\. ", caption)[0].rstrip(".") + "."
    return re.sub(r", answering [^.,]*(?=[.,])", "", sentence)


def standing(rows: tuple[str, ...], figure: Figure, board: dict[str, dict[str, Any]]) -> str:
    """Where ours stands by the scoreboard; nothing where the paper prints no number, or the chapter shows none.

    Args:
        rows: their identifiers.
        figure: which shows what they measure.
        board: the scoreboard, as `stored` gives it.
    """
    said = []
    for row in (board[name] for name in rows if name in figure.numbers):
        name, unit, now = row["id"], row["unit"], figure.numbers[row["id"]]
        kind = "negative log-likelihood" if unit == "nats" else "error"
        if now == ranged(row, unit):
            goal = rounded(row["comparable"], unit)
            said.append(f"{kind} {quoted(name)} {unit}, published {goal} {unit}: {row['verdict']}")
        else:
            said.append(f"{kind} {now} {unit} when the chapter was last run; this is not the run of the scoreboard")
    return f"; {'; '.join(said)}" if said else ""


def small(picture: bytes) -> bytes:
    """A picture made small, as WebP."""
    image = Image.open(BytesIO(picture)).convert("RGB")
    height = round(2 * WIDTH * image.height / image.width)
    out = BytesIO()
    image.resize((2 * WIDTH, height), Image.Resampling.LANCZOS).save(out, "WEBP", quality=45)
    return out.getvalue()


def card(figure: Figure, lines: list[str]) -> str:
    """One card: the small picture as a link to the figure, then some lines."""
    return "\n".join(
        [
            "::::{grid-item-card}",
            f":::{{image}} written/{figure.name}.webp",
            f":alt: {figure.alt}",
            f":width: {WIDTH}px",
            f":target: ../{CHAPTERS.name}/{figure.file}.html#{figure.name}",
            ":::",
            "",
            *lines,
            "",
            f"[Figure in chapter {figure.chapter}](#{figure.name})",
            "::::",
        ]
    )


def page(found: dict[str, Figure]) -> str:
    """The cards of both parts, in Markdown, with paths as seen from `book/`."""
    board = stored()
    answering: dict[str, list[str]] = {}
    for answer in ANSWERS:
        place = standing(answer.rows, found[answer.ours], board)
        said = f"**Figure {answer.paper}**, {answer.shows}{place}.\n"
        answering.setdefault(answer.ours, []).append(said)
    theirs = [card(found[name], lines) for name, lines in answering.items()]
    own = [card(figure, [first_sentence(figure.caption)]) for figure in found.values() if figure.name not in answering]
    begin, end = ":::::{grid} 1 1 2 2\n:gutter: 3", ":::::"
    parts = ["## The paper's figures, answered", begin, *theirs, end]
    return "\n\n".join([*parts, "## Figures of our own", begin, *own, end]) + "\n"


def write(target: Path = WRITTEN) -> None:
    """Write the cards and the small pictures, and touch no file that would stay as it is."""
    found = figures()
    target.mkdir(exist_ok=True)
    content = {f"{figure.name}.webp": small(figure.png) for figure in found.values()}
    content["figures.md"] = page(found).encode()
    for name, data in content.items():
        path = target / name
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


if __name__ == "__main__":
    write()
