"""What moves in a notebook and in the page: JavaScript with its content, and no kernel behind it.

Each widget is one module of `ibvonns/show/live`, after what all of them share, and one dictionary, `content`.
Jupyter hands both to the browser through anywidget; the book's build writes them into the page
(`book/_ext/live.py`). Either way the module runs alone: it asks neither Python nor another host for anything.
"""

from pathlib import Path

import anywidget
import traitlets

__all__ = ["Frames", "Gas", "Panel", "script"]

LIVE = Path(__file__).parent / "live"


def script(name: str) -> str:
    """The module of a widget: what all share, and its own.

    Args:
        name: of its file, without suffix.
    """
    return "".join((LIVE / f"{part}.js").read_text(encoding="utf-8") for part in ("shared", name))


class _Widget(anywidget.AnyWidget):
    """A module of JavaScript with its content, shown in one line: the same on every run, for nbval compares it."""

    _css = LIVE / "live.css"
    content = traitlets.Dict().tag(sync=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.content['description']}>"


class Frames(_Widget):
    """A slider over finished pictures (`ibvonns_book.plots.slider_figure` makes one).

    `content`: "sources", one data URI a frame; "labels", one a frame, shown beside the slider;
    "description", of all of them; "width", in pixels of the page.

    >>> Frames(content={"description": "A cloud in time", "labels": ["t = 0"], "sources": [""]})
    <Frames: A cloud in time>
    """

    _esm = script("frames")


class Panel(_Widget):
    """A learned law beside simulated particles (`panels.panel` makes one).

    `content`: "kind", "trap" or "chain"; "description"; "law", as `Model.exported` gives it, without
    the axis of the replicas; and what the system and its protocols are (`panels.content`).

    >>> Panel(content={"description": "The trap"})
    <Panel: The trap>
    """

    _esm = script("panel")


class Gas(_Widget):
    """Lattice gases that hop, beside the equation of their density (`panels.gas` makes one).

    `content`: as `panels.gas_content` gives it.

    >>> Gas(content={"description": "Particles on a ring"})
    <Gas: Particles on a ring>
    """

    _esm = script("gas")
