"""nbval for this book: kernels start as execute.py starts them, and marked numbers may differ by the
scatter of training. `conftest.py` loads it.

Training amplifies the last bit of a sum into the scatter between seeds: another processor, or
another number of threads, ends at another draw of the same distribution. Chapters mark what depends
on it with a sign, as in "≈0.093 [0.08, 0.11]". nbval compares everything else to the letter, and
these numbers to within a factor of two. Those marked ∼ are errors of extrapolation, which differ by
two and more between the seeds of one run: to within a factor of four. A marked verdict of the
scoreboard may be the next better or worse one. (What a number must not exceed, a cell asserts.)
"""

import re
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import nbval.kernel
from execute import environment
from nbval.plugin import IPyNbCell

from ibvonns.paper.scoreboard import VERDICTS

_ipython = TemporaryDirectory()  # until the process ends
nbval.kernel.start_new_kernel = partial(nbval.kernel.start_new_kernel, env=environment(_ipython.name))

MARKED = re.compile(r"[≈∼][\d.]*\d(?: \[[\d.]+, [\d.]+\])?")
NUMBER = re.compile(r"[\d.]*\d")
FACTOR = {"≈": 2.0, "∼": 4.0}
VERDICT = re.compile(f"[≈∼]({'|'.join(VERDICTS)})")


def settle(new: Any, stored: Any) -> Any:
    """`new` with each marked number replaced by the stored one where the two are close."""
    if isinstance(new, dict) and isinstance(stored, dict):
        return {key: settle(value, stored.get(key)) for key, value in new.items()}
    if isinstance(new, list) and isinstance(stored, list) and len(new) == len(stored):
        return [settle(*pair) for pair in zip(new, stored, strict=True)]
    if not (isinstance(new, str) and isinstance(stored, str)):
        return new
    there = iter(MARKED.findall(stored))

    def choose(match: re.Match[str]) -> str:
        mine, theirs = match[0], next(there, "")
        pairs = list(zip(NUMBER.findall(mine), NUMBER.findall(theirs), strict=False))
        factor = FACTOR[mine[0]]
        close = all(max(float(a), float(b)) <= factor * min(float(a), float(b)) for a, b in pairs)
        same = theirs[:1] == mine[0] and len(NUMBER.findall(mine)) == len(NUMBER.findall(theirs))
        return theirs if same and close else mine

    verdicts = iter(VERDICT.findall(stored))

    def judge(match: re.Match[str]) -> str:
        theirs = next(verdicts, match[1])
        near = abs(VERDICTS.index(theirs) - VERDICTS.index(match[1])) <= 1
        return match[0][0] + theirs if near else match[0]

    return VERDICT.sub(judge, MARKED.sub(choose, new))


_compare = IPyNbCell.compare_outputs


def compare_outputs(self: Any, test: Any, ref: Any, skip_compare: Any = None) -> bool:
    """nbval's comparison, after marked numbers have been settled."""
    # the outputs are dictionaries with attributes; settling a copy leaves nbval's report its own
    settled = [type(new)(settle(dict(new), dict(old))) for new, old in zip(test, ref, strict=False)]
    return bool(_compare(self, [*settled, *test[len(ref) :]], ref, skip_compare))


IPyNbCell.compare_outputs = compare_outputs
