"""What `benchmarks/certainty.py` measured of bands and of the amount of data, for chapter 15: too long for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from ibvonns.files import load_json
from ibvonns.paper.scoreboard import piped
from ibvonns.sweeps import rows_of

__all__ = ["cheaper", "covered", "errors", "measured", "weighed", "weights"]

KINDS = ("coverage", "ways", "amount")
Rows = Sequence[Mapping[str, Any]]


def measured() -> dict[str, list[dict[str, Any]]]:
    """Rows of the table by the command that made them, each with its task, its result and its seconds.

    >>> sorted(measured())
    ['amount', 'coverage', 'ways']
    """
    rows = [row for row in rows_of(Path(__file__).with_name("certainty.jsonl")).values() if "result" in row]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in KINDS}
    for row in {str(sorted(row["task"].items())): row for row in rows}.values():  # of the newest code that did a task
        known = row["task"].keys()
        found["amount" if "realisations" in known else "coverage" if "system" in known else "ways"].append(row)
    return found


def _percent(shares: Sequence[float]) -> str:
    low, middle, high = (f"{100 * each:.0f}" for each in (min(shares), mean(shares), max(shares)))
    return f"{middle} [{low}, {high}]"


def covered(rows: Rows) -> str:
    """How much of the truth bands of 90 % hold, as a Markdown table: percent, mean over the data sets [least, most].

    Args:
        rows: of "coverage", as `measured` has them.
    """
    lines = []
    for system in ("trap", "chain"):
        some = [row["result"] for row in rows if row["task"]["system"] == system]
        for what in ("force", "field") if system == "chain" else ("force",):
            line = [system, {"force": "force", "field": "strains"}[what], str(len(some))]
            for where in ("within", "outside"):
                each = [one[f"{where} {what}"] for one in some]
                line.append(_percent([one["held"] for one in each]))
                if where == "outside":
                    line.append(_percent([one["told"] for one in each]))
            wide = [100 * one[f"within {what}"]["width"] for one in some]
            lines.append([*line, f"{median(wide):.2g}"])
    return piped(
        ["system", "quantity", "sets", "within", "outside", "said to be outside, at least", "half width, %"], lines, 0
    )


def cheaper(rows: Rows, bands: Rows) -> str:
    """How much of the trap's truth cheaper bands hold, beside these, as a Markdown table of the same sets.

    Args:
        rows: of "ways", as `measured` has them.
        bands: of "coverage".
    """
    sets = {row["task"]["set"] for row in rows}
    own = [row for row in bands if row["task"]["system"] == "trap" and row["task"]["set"] in sets]
    each: dict[str, list[tuple[float, float, float]]] = {
        "six laws of two thirds": [
            (row["seconds"], *(row["result"][f"{where} force"]["held"] for where in ("within", "outside")))
            for row in own
        ]
    }
    for row in rows:
        for way, found in row["result"].items():
            each.setdefault(way, []).append((found["seconds"], found["within"], found["outside"]))
    lines = []
    for way, parts in each.items():
        seconds, within, outside = zip(*parts, strict=True)
        lines.append([way, f"{median(seconds):.0f}", _percent(within), _percent(outside)])
    return piped(["bands by", "seconds", "within", "outside"], lines, 0)


def weights(study: str) -> dict[str, dict[str, list[float]]]:
    """Errors of a study with weights by "hand" and by "noise", by row, one for each seed.

    Args:
        study: "trap" or "chain-gmm".
    """
    found: dict[str, dict[str, list[float]]] = load_json(Path(__file__).with_name("weights.json"))[study]
    return found


def weighed(study: str) -> str:
    """Errors of a study with weights by hand and by noise as a Markdown table: median [least, largest] over the seeds.

    Args:
        study: "trap" or "chain-gmm".
    """
    lines = []
    for row, both in weights(study).items():
        if "nll" not in row:
            each = (both[name] for name in ("hand", "noise"))
            lines.append([row, *(f"{median(one):.2g} [{min(one):.2g}, {max(one):.2g}]" for one in each)])
    return piped(["row, %", "by hand", "by noise"], lines, 0)


def errors(
    rows: Rows, system: str, by: str, what: str = "force", **fixed: float
) -> dict[float, tuple[float, float, float]]:
    """Errors of laws by one property of their data: median, least and largest over the draws, percent.

    Args:
        rows: of "amount", as `measured` has them.
        system: "trap" or "chain".
        by: "realisations", "conditions", "times" or "noise".
        what: "force", "field", or "noise" of the data.
        fixed: other properties, where they are not the usual ones: 2000, 10, 301 and 0.
    """
    wanted = {"realisations": 2000, "conditions": 10, "times": 301, "noise": 0.0, **fixed, "system": system}
    del wanted[by]
    found: dict[float, list[float]] = {}
    for row in rows:
        if all(row["task"][name] == value for name, value in wanted.items()):
            found.setdefault(row["task"][by], []).append(row["result"][what])
    return {place: (median(each), min(each), max(each)) for place, each in sorted(found.items())}
