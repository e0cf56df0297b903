"""The scoreboard: every published number beside ours, the noise floor and the theoretical limit."""

import csv
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from rich.table import Table

from ibvonns.metrics import summary
from ibvonns.studies import load_metrics, reproduce, study_folder
from ibvonns.training import Recipe
from ibvonns.validation import choice

__all__ = ["published", "score", "scored_rows", "table"]


def published(study: str | None = None) -> list[dict[str, str]]:
    """The paper's printed numbers, one row each, as `published.csv` holds them.

    >>> published("trap")[0]["printed_as"]
    'mean log-likelihood of -1.23'
    """
    with files("ibvonns").joinpath("published.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if study is None:
        return rows
    choice("study", study, {row["study"] for row in rows})
    return [row for row in rows if row["study"] == study]


def scored_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a scoreboard from the content of a `metrics.json`.

    Returns:
        For each published number: "id", "quantity", "split", "unit", "published", "median", "min",
        "max" over seeds, "floor", "limit", "seeds" (how many), and for alpha "gauge_free" (median,
        min and max in units of alpha's deviation).
    """
    rows = []
    for row in published(metrics["study"]):
        name = row["id"]
        entry: dict[str, Any] = {
            "id": name,
            "quantity": row["quantity"],
            "split": row["split"],
            "unit": "nats" if row["metric"] == "nll" else "%",
            "published": float(row["published"]),
            **summary(metrics["errors"][name]),
            "floor": metrics["floor"][name],
            "limit": metrics["limit"][name],
            "seeds": len(metrics["seeds"]),
        }
        if name in metrics["gauge_free"]:
            entry["gauge_free"] = summary(metrics["gauge_free"][name])
        rows.append(entry)
    return rows


def score(study: str, seeds: int = 5, out: str | None = None) -> list[dict[str, Any]]:
    """Scored rows of a study, from stored results if they are of this very code, else trained now.

    Args:
        study: a member of `STUDIES`.
        seeds: how many seeds.
        out: a folder that `reproduce` wrote; the cache if not given.
    """
    if out is not None:
        return scored_rows(load_metrics(f"{out}/metrics.json"))
    path = study_folder(study, seeds, Recipe()) / "metrics.json"
    # the folder's name holds the key of recipe, seeds and source: what is there is not stale
    metrics = load_metrics(path) if path.exists() else reproduce(study, seeds)
    return scored_rows(metrics)


def _text(value: float, unit: str) -> str:
    return f"{value:.3f}" if unit == "nats" else f"{value:.2g}" if value < 1 else f"{value:.3g}"


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Scored rows as a table for the terminal."""
    drawn = Table(title="Published numbers, ours, and how good any model can look")
    drawn.add_column("id", no_wrap=True)
    for name in ("published", "median", "min", "max", "floor", "limit", "seeds"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        numbers = (_text(row[name], row["unit"]) for name in
                   ("published", "median", "min", "max", "floor", "limit"))
        drawn.add_row(row["id"], *numbers, str(row["seeds"]))
    drawn.caption = (
        "Relative L2 errors in %, likelihoods as NLL in nats. floor: the exact theory against the "
        "same samples; limit: the best that a model may expect."
    )
    return drawn
