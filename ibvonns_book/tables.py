"""The scoreboard in words: what its rows mean, its numbers for any page, and its tables in Markdown.

Each number that is shown comes from the rows that the library keeps (`ibvonns.paper.scoreboard.stored`).
Seeds that are trained now are compared with them (`kept`): their numbers differ a little with the
processor, and a reader should not meet one quantity with two values.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ibvonns.paper import scoreboard
from ibvonns.paper.scoreboard import VERDICTS, piped, ranged, rounded, worsened

__all__ = ["judged", "kept", "markdown", "quoted", "words"]

#: What identifiers of rows begin with, and whose law it is.
WHOSE = {"trap": "of the trap's law", "gmm": "of the mixture's law", "cnf": "of the flow's law"}
QUANTITIES = {
    "nll": "negative log-likelihood", "f": "free energy", "phi": "dissipation potential", "force": "external force",
    "alpha": "internal variable", "strain": "strains",
}  # fmt: skip
PULLS = {
    "train": "training pulls", "test": "test pulls", "linear": "unseen smoothed pull", "sine": "unseen sinusoidal pull",
}  # fmt: skip


def words(row: str, whole: bool = True) -> str:
    """What a row of the scoreboard is about, for a reader.

    Args:
        row: its identifier.
        whole: whether to say whose law it is; not needed where all rows are of one law.

    >>> words("gmm-strain-train-velocity")
    "strains of the mixture's law, training pulls, velocity given"
    >>> words("trap-phi-test", whole=False)
    'dissipation potential, test pulls'
    """
    law, quantity, split, *given = row.split("-")
    what = f"{QUANTITIES[quantity]} {WHOSE[law]}" if whole else QUANTITIES[quantity]
    return ", ".join([what, PULLS[split], *(f"{each} given" for each in given)])


def quoted(row: str, what: str = "median") -> str:
    """A number of the scoreboard for a sentence or a caption, as every page writes it.

    Args:
        row: its identifier.
        what: "median" of our seeds, or another entry of the row: "min", "max", "floor", "limit", "published" (as
            printed), "comparable" (in our units), or "model" (the law's own error, the median).

    >>> float(quoted("trap-phi-test")) < float(quoted("trap-phi-test", "published"))
    True
    """
    one = scoreboard.stored()[row]
    if what == "published":
        return f"{one[what]:g}"
    return rounded(one[what]["median"] if what == "model" else one[what], one["unit"])


def kept(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The library's rows in the place of some that were trained now, which may not be worse than those.

    Args:
        rows: as `score`, `score_errors` or `board` give them, of the paper's systems.

    Raises:
        ValueError: a median or a verdict is worse, beyond the scatter of the seeds (`scoreboard.worsened`).

    >>> from ibvonns.paper.scoreboard import stored
    >>> new = stored()["trap-phi-test"] | {"median": 0.3}
    >>> kept([new]) == [stored()["trap-phi-test"]]
    True
    """
    board = scoreboard.stored()
    errors = ("median", "min", "max")
    now = [row if "verdict" in row else board[row["id"]] | {name: row[name] for name in errors} for row in rows]
    if said := worsened(now, board):
        raise ValueError("; ".join(said))
    return [board[row["id"]] for row in rows]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Scored rows as a Markdown table, for a chapter.

    Args:
        rows: as `kept` gives them, or as `score` does.

    >>> print(markdown([]).splitlines()[0])
    | error of | published | ours [min, max] | in deviations | noise floor | limit |
    """
    heads = ("error of", "published", "ours [min, max]", "in deviations", "noise floor", "limit")
    lines = []
    for name, row in zip(_named(rows), rows, strict=True):
        unit = row["unit"]
        free = rounded(row["gauge_free"]["median"], unit) if "gauge_free" in row else ""
        least = (rounded(row[each], unit) for each in ("floor", "limit"))
        lines.append((name, f"{row['published']:g} {unit}", ranged(row, unit), free, *least))
    return piped(heads, lines, 0)


def judged(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `board` as a Markdown table, for chapter 16: the verdict, and the numbers from which it follows.

    The two that decide are bold. After a published number that of the authors' notebook stands in brackets, if known.

    Args:
        rows: as `kept` or `board` give them.

    >>> print(judged([]).splitlines()[0])
    | verdict | error of | ours [min, max] | published | own error | floor |
    """
    heads = ("verdict", "error of", "ours [min, max]", "published", "own error", "floor")
    lines = []
    for name, row in zip(_named(rows), rows, strict=True):
        unit, nats, said = row["unit"], row["unit"] == "nats", row["verdict"]
        goal, code = f"{row['comparable']:#.3g}", row["authors_code"]
        noted = "" if code is None else f" ({code:{'g' if code < 1 else '.2f'}})"
        cells = {
            "ours": ranged(row, unit).replace(", ", ",\u00a0"),  # not broken between two lines
            "published": f"{goal}{noted}\u00a0{unit}",
            "own": "" if nats else rounded(row["model"]["median"], unit),
            "floor": rounded(row["limit" if nats else "floor"], unit),
        }
        deciding = ("ours" if nats else "own", "floor") if said == VERDICTS[0] else ("ours", "published")
        for each in () if said == VERDICTS[4] else deciding:
            cells[each] = re.sub(r"^\S+", r"**\g<0>**", cells[each])
        lines.append((said, name, *cells.values()))
    return piped(heads, lines, 0).replace("| --- | ---: |", "| --- | --- |", 1)


def _named(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each row is about, with the identifier as a title; whose law it is only where there are several."""
    names = [row["id"] for row in rows]
    whole = len({name.split("-")[0] for name in names}) > 1
    return [f'<span title="{name}">{words(name, whole)}</span>' for name in names]
