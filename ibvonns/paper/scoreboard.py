"""The scoreboard: every published number beside ours, the noise floor, the limit, and a verdict."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from math import isnan, log
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ibvonns.paper.floors import truth_scores
from ibvonns.paper.results import load_metrics, result
from ibvonns.paper.studies import STUDIES
from ibvonns.validation import choice, require

__all__ = [
    "VERDICTS", "WAYS", "board", "by_encoder", "comma_separated", "counted", "piped", "published", "ranged", "rounded",
    "score", "score_errors", "scored_rows", "stored", "summary", "table", "verdict", "worsened",
]  # fmt: skip

#: The verdicts, the best first, and what stands outside of that order.
VERDICTS = ("at the noise floor", "better than published", "reproduced", "differs", "not comparable")
#: Three ways to count them (`counted`), from the mildest to those that forgive less.
WAYS = ("by the median", "by the worst seed", "without their notebook")
CLOSE = 0.1  # relative excess up to which an error counts as reproduced
NATS = 0.005  # difference that counts for a likelihood
SLACK = {"%": 0.02, "nats": 0.001}  # of an error relative: what another processor may change


def published(study: str | None = None) -> list[dict[str, str]]:
    """The paper's printed numbers, one row each, as `published.csv` holds them.

    Args:
        study: a member of `STUDIES`; all if not given.

    Raises:
        ValueError: unknown study.

    >>> published("trap")[0]["printed_as"]
    'mean log-likelihood of -1.23'
    """
    with files("ibvonns.paper").joinpath("published.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if study is None:
        return rows
    choice("study", study, {row["study"] for row in rows})
    return [row for row in rows if row["study"] == study]


def score_errors(
    study: str, errors: Mapping[str, list[float]], gauge_free: Mapping[str, list[float]], exact: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows of a scoreboard from the errors of each seed.

    Args:
        study: whose rows.
        errors: by id, one entry for each seed, as `studies.errors` returns them.
        gauge_free: the second of what it returns.
        exact: "floor" and "limit" by id, as `limits.limits` returns them, and for a
            chain "position_deviation", the unit of the flow's published likelihoods.

    Returns:
        A row for each published number, with "id", "quantity", "split", "boundary", "unit",
        "published", "comparable" (published, in our units), "authors_code" (what the authors'
        notebook prints, None if not known), "median", "min", "max" over seeds, "floor", "limit"
        (None if not known), "limit_error", "seeds" (how many), and for alpha "gauge_free" (median,
        min and max in units of alpha's deviation).

    Raises:
        ValueError: unknown study.
    """
    rows = []
    shift = log(exact.get("position_deviation", 1.0))
    for row in published(study):
        name = row["id"]
        entry: dict[str, Any] = {
            "id": name,
            "quantity": row["quantity"],
            "split": row["split"],
            "unit": "nats" if row["metric"] == "nll" else "%",
            "published": float(row["published"]),
            # the CNF's likelihoods are printed for the standardised strain (chapter 7)
            "comparable": float(row["published"]) + (shift if "cnf-nll" in name else 0.0),
            "authors_code": float(row["authors_code"]) if row["authors_code"] else None,
            "boundary": row["boundary"],
            **summary(errors[name]),
            "floor": exact["floor"][name],
            "limit": exact["limit"].get(name),
            "limit_error": exact.get("limit_error", {}).get(name, 0.0),
            "seeds": len(errors[name]),
        }
        if name in gauge_free:
            entry["gauge_free"] = summary(gauge_free[name])
        rows.append(entry)
    return rows


def scored_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a scoreboard, as from `score_errors`, from a `metrics.json`.

    Args:
        metrics: its content, as `results.load_metrics` reads it.
    """
    return score_errors(metrics["study"], metrics["errors"], metrics["gauge_free"], metrics)


def score(study: str, seeds: int | None = None, out: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
    """Scored rows of a study, from stored results if they are of this very code, else trained now.

    Args:
        study: a member of `STUDIES`.
        seeds: how many seeds; as many as the book trains if not given.
        out: a folder that `reproduce` wrote; the cache if not given.

    Raises:
        FileNotFoundError: there are no metrics in that folder.
        ValueError: unknown study, or metrics that are damaged.
    """
    return scored_rows(result(study, seeds)[2] if out is None else load_metrics(Path(out) / "metrics.json"))


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of `values`, one for each seed.

    Raises:
        ValueError: NaN, or no values.

    >>> summary([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    require(len(values) > 0, "values must hold at least 1 number, but is empty")
    require(not any(map(isnan, values)), "values must be numbers, but hold NaN")
    return {"median": median(values), "min": min(values), "max": max(values)}


def verdict(row: Mapping[str, Any]) -> str:
    """One of `VERDICTS` for a row of `board`, by its numbers alone.

    - "not comparable": an alpha of the chain. The zero of the paper's alpha is not known, and by
      the choice of a zero a relative error gets any size. (The trap's alpha has a mean of zero, and
      with it the largest error that a choice of the zero can give.)
    - "at the noise floor": the model's own error, against 25 times the realisations, is no larger than
      the floor (its median); for a likelihood, the median is no further from the entropy limit than
      `NATS`. On the study's own data no less is seen of their noise than of the model's error.
    - "better than published": the median is below the published value by a twentieth (`NATS`).
    - "reproduced": the median is at most a tenth (`NATS`) above the published value, or above what
      the authors' own notebook prints.
    - "differs": none of these.

    Args:
        row: with "id", "quantity", "unit", "median", "comparable", "limit", "authors_code", "floor"
            and "model"; of a likelihood four of them do.

    >>> nats = {"unit": "nats", "median": 0.523, "comparable": 0.524, "limit": 0.497}
    >>> verdict(nats), verdict({**nats, "median": 0.501})
    ('reproduced', 'at the noise floor')
    """
    ours, goal = row["median"], row["comparable"]
    if row["unit"] == "nats":
        at_floor = row["limit"] is not None and abs(ours - row["limit"]) <= NATS
        below, above = goal - NATS, goal + NATS
    elif by_encoder(row):
        return VERDICTS[4]
    else:
        at_floor = row["model"]["median"] <= row["floor"]
        below, above = (1 - CLOSE / 2) * goal, (1 + CLOSE) * max(goal, row["authors_code"] or 0.0)
    return VERDICTS[[at_floor, ours < below, ours <= above, True].index(True)]


def counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How many rows have each verdict, by `WAYS` and `VERDICTS`.

    By the median over the seeds, as the verdicts of the board; by the worst seed in its place; and
    by the median where what the authors' notebook prints does not excuse a row.

    Args:
        rows: as `board` gives them.

    >>> sum(counted(list(stored().values()))["by the worst seed"].values())
    46
    """
    worst = [{**row, "median": row["max"], "model": {"median": row["model"]["max"]}} for row in rows]
    strict = [{**row, "authors_code": None} for row in rows]
    found = (Counter(map(verdict, each)) for each in (rows, worst, strict))
    return {way: {name: counts[name] for name in VERDICTS} for way, counts in zip(WAYS, found, strict=True)}


def board(study: str | None = None) -> list[dict[str, Any]]:
    """Scored rows of one study or of all, with verdicts, from the seeds that the book trains.

    Besides what `score_errors` gives, each has "floor" and "floor_error" (mean and deviation over
    independent ensembles), "model" (median, min and max over seeds of the error against 25
    times the realisations) and "verdict". Likelihoods keep the floor that `score_errors` gives.

    Args:
        study: a member of `STUDIES`; all if not given.

    Raises:
        ValueError: unknown study.
    """
    rows = []
    for name in STUDIES if study is None else (choice("study", study, STUDIES),):
        truth = truth_scores(name)
        for row in score(name):
            if row["unit"] == "%":
                row["floor"], row["floor_error"] = truth["floor"][row["id"]]
            row["model"] = summary(truth["errors"][row["id"]])
            rows.append({**row, "verdict": verdict(row)})
    return rows


def stored() -> dict[str, dict[str, Any]]:
    """Rows of the scoreboard as they were when the book was last built, by id.

    >>> len(stored())
    46
    """
    with files("ibvonns.paper").joinpath("scoreboard.json").open(encoding="utf-8") as file:
        return {row["id"]: row for row in json.load(file)}


def worsened(rows: Sequence[Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is worse than it was: a sentence for each row with a worse verdict or a worse median.

    A median is worse when it lies beyond the largest of the stored seeds by more than half of their
    scatter and `SLACK`. A verdict is worse when it would still be so with all errors less by
    `CLOSE` (`NATS`): one that sits on the edge of two may fall to either side with the processor.

    Args:
        rows: as `board` gives them.
        before: as `stored` gives them.

    >>> worsened(list(stored().values()), stored())
    []
    """
    said = []
    for row in rows:
        old = before[row["id"]]
        slack = SLACK[row["unit"]] * (abs(old["median"]) if row["unit"] == "%" else 1.0)
        allowed = old["max"] + (old["max"] - old["min"]) / 2 + slack
        if VERDICTS.index(verdict(_eased(row))) > VERDICTS.index(old["verdict"]):
            said.append(f"{row['id']}: {row['verdict']!r}, but was {old['verdict']!r}")
        elif not row["median"] <= allowed:
            now, was = (f"{one['median']:.4g}" for one in (row, old))
            said.append(f"{row['id']}: median {now}, but was {was} and may be up to {allowed:.4g}")
    return said


def _eased(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with errors less by `CLOSE`, likelihoods by `NATS`."""
    if row["unit"] == "nats":
        limit = float("-inf") if row["limit"] is None else row["limit"]
        return {**row, "median": max(row["median"] - NATS, min(row["median"], limit))}
    own = {**row["model"], "median": (1 - CLOSE) * row["model"]["median"]}
    return {**row, "median": (1 - CLOSE) * row["median"], "model": own}


def comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """Scored rows as CSV, what is nested under joined names.

    Args:
        rows: as `score` or `board` give them.

    >>> comma_separated([{"id": "one", "model": {"min": 1, "max": 2}}])
    'id,model_min,model_max\\none,1,2\\n'
    """
    flat: list[dict[str, Any]] = [{} for _ in rows]
    for row, line in zip(rows, flat, strict=True):
        for key, value in row.items():
            nested = isinstance(value, Mapping)
            line |= {f"{key}_{part}": inner for part, inner in value.items()} if nested else {key: value}
    names = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writerows([dict(zip(names, names, strict=True)), *flat])
    return text.getvalue()


def rounded(value: float | None, unit: str) -> str:
    """A number with as many digits as mean anything: 2 of an error, 3 decimals of a nat.

    Args:
        value: the number, or None for what is not known, of which nothing is written.
        unit: "%" or "nats".

    >>> rounded(0.0934, "%"), rounded(12.4, "%"), rounded(-1.22927, "nats")
    ('0.093', '12', '-1.229')
    """
    if value is None or unit == "nats":
        return "" if value is None else f"{value:.3f}"
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:#.2g}"


def ranged(found: Mapping[str, Any], unit: str, sign: str = "") -> str:
    """Median and range over the seeds, for a cell of a table.

    Args:
        found: as `summary` gives it, or a row that holds its entries.
        unit: "%" or "nats".
        sign: in front.

    >>> ranged(summary([3.0, 1.0, 2.0]), "%", "≈")
    '≈2.0 [1.0, 3.0]'
    """
    median, low, high = (rounded(found[name], unit) for name in ("median", "min", "max"))
    return f"{sign}{median} [{low}, {high}]"


def piped(heads: Sequence[str], lines: Sequence[Sequence[str]], words: int) -> str:
    """A Markdown table whose first column and last ones hold words.

    Args:
        heads: of the columns.
        lines: of cells.
        words: how many of the last columns hold words.
    """
    rule = ["---"] + ["---:"] * (len(heads) - 1 - words) + ["---"] * words
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines))


def by_encoder(row: Mapping[str, Any]) -> bool:
    """Whether the floor of a row is one that a trained encoder sees.

    Args:
        row: with "id" and "quantity".
    """
    return not row["id"].startswith("trap") and row["quantity"] == "alpha"


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Scored rows as a table for the terminal, readable in 80 columns.

    Args:
        rows: as `score` or `board` give them, one or more.

    >>> table(list(stored().values())).row_count
    46
    """
    title = "Published numbers, ours, and how good any model can look"
    drawn = Table(title=title, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    drawn.add_column("row", no_wrap=True)
    for name in ("published", r"ours \[min, max]", "floor"):
        drawn.add_column(name, justify="right", no_wrap=True)
    judged = all("verdict" in row for row in rows)
    if judged:
        drawn.add_column("verdict", min_width=12)
    for row in rows:
        floor = rounded(row["limit" if row["unit"] == "nats" else "floor"], row["unit"])
        words = (row["verdict"],) if judged else ()
        drawn.add_row(row["id"], f"{row['comparable']:.3g}", ranged(row, row["unit"]), floor, *words)
    drawn.caption = (
        f"Over {rows[0]['seeds']} seeds. nll: negative log-likelihood in nats, its floor the "
        "entropy limit; others: relative L2 error in %, the floor what the samples' noise leaves "
        "to an exact theory from the same start. --json and --csv tell more."
    )
    for way, counts in counted(rows).items() if judged else ():
        drawn.caption += f"\n{way}: " + ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    return drawn
