"""The scoreboard as tables in Markdown, with signs where a number varies with the processor."""

from collections.abc import Mapping, Sequence
from typing import Any

from ibvonns.paper.scoreboard import by_encoder, piped, ranged, rounded

__all__ = ["judged", "markdown"]


def _sign(row: Mapping[str, Any]) -> str:
    """Whether trained numbers vary with the processor: no sign, ≈ by training, ∼ extrapolated."""
    if row["split"] in ("sinusoidal", "smoothed-linear"):
        return "∼"
    return "" if row["id"].startswith("trap-nll") else "≈"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Scored rows as a Markdown table, for a chapter.

    The sign ≈ marks numbers that vary with the processor by the scatter of training, ∼ those of
    protocols of another kind, which are extrapolated and scatter most.

    Args:
        rows: as `score` or `board` give them.

    >>> print(markdown([]).splitlines()[0])
    | row | published | ours [min, max] | in deviations | noise floor | limit |
    """
    heads = ("row", "published", "ours [min, max]", "in deviations", "noise floor", "limit")
    lines = []
    for row in rows:
        unit, sign = row["unit"], _sign(row)
        free = sign + rounded(row["gauge_free"]["median"], unit) if "gauge_free" in row else ""
        floor = sign * by_encoder(row) + rounded(row["floor"], unit)
        goal = f"{row['published']:g} {unit}"
        lines.append((row["id"], goal, ranged(row, unit, sign), free, floor, rounded(row["limit"], unit)))
    return piped(heads, lines, 0)


def judged(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `board` as a Markdown table, for chapter 16; the signs are those of `markdown`.

    A verdict with a sign may be the next one of the list on another processor.

    Args:
        rows: as `board` gives them.

    >>> print(judged([]).splitlines()[0])
    | row | published | their notebook | ours [min, max] | floor | limit | verdict |
    """
    heads = ("row", "published", "their notebook", "ours [min, max]", "floor", "limit", "verdict")
    lines = []
    for row in rows:
        unit, sign, seen = row["unit"], _sign(row), "≈" * by_encoder(row)
        floor = " ± ".join(seen + rounded(row[name], unit) for name in ("floor", "floor_error") if unit == "%")
        known = "" if row["authors_code"] is None else f"{row['authors_code']:g}"
        goal, limit = f"{row['comparable']:#.3g} {unit}", rounded(row["limit"], unit)
        lines.append((row["id"], goal, known, ranged(row, unit, sign), floor, limit, sign + row["verdict"]))
    return piped(heads, lines, 1)
