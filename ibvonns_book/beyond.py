"""What `benchmarks/beyond.py` measured of laws beyond the pull, for chapter 10: too long to be trained in it."""

from pathlib import Path
from statistics import median
from typing import Any

from ibvonns.files import load_json
from ibvonns.paper.beyond import UNSEEN
from ibvonns.paper.scoreboard import piped, rounded

__all__ = ["changes", "measured"]


def measured() -> dict[str, Any]:
    """Under "scores" the errors of each law as `paper.beyond.scores` has them, under "recipe" trials of two seeds.

    >>> sorted(measured())
    ['recipe', 'scores']
    """
    found: dict[str, Any] = load_json(Path(__file__).with_name("beyond.json"))
    return found


def changes(found: dict[str, Any]) -> str:
    """Trials of the recipe as a Markdown table: seconds of a processor for a seed, F_ex / strain in percent, medians.

    Args:
        found: by the name of a change, as `measured` has them under "recipe".
    """
    lines = []
    for name, trial in sorted(found.items(), key=lambda item: float(item[1]["seconds"])):
        each = [[median(trial["scores"][kind][part]) for part in ("force", "strain")] for kind in UNSEEN]
        errors = [" / ".join(rounded(error, "%") for error in both) for both in each]
        lines.append([name, f"{trial['seconds']:.0f}", *errors])
    return piped(["change", "seconds", *UNSEEN], lines, 0)
