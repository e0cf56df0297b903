"""The tables of chapter 15: how often bands hold the truth, and how much data a law needs.

    python benchmarks/certainty.py coverage --jobs 2     twenty data sets of trap and chain (an hour)
    python benchmarks/certainty.py ways --jobs 2         six of the trap, by cheaper bands (ten minutes)
    python benchmarks/certainty.py amount --jobs 2       over three hundred fits (an hour)

Rows are added to ibvonns_book/certainty.jsonl, each under the key of the code that made it; what it holds by this very
code is not done again. The stored rows of `ways` and `amount` were made by code that has been edited since: these two
commands do all anew.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from joblib import parallel_config

import ibvonns_book
from ibvonns import sweep
from ibvonns.paper.certainty import AMOUNTS, COVERAGE, amount, coverage
from ibvonns.paper.ways import WAYS, ways

KEPT = Path(ibvonns_book.__file__).with_name("certainty.jsonl")
DONE: Mapping[str, tuple[Any, list[dict[str, Any]]]] = {
    "coverage": (coverage, COVERAGE),
    "ways": (ways, WAYS),
    "amount": (amount, AMOUNTS),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How sure, and by how much data.")
    parser.add_argument("what", choices=DONE)
    parser.add_argument("--system", choices=("trap", "chain"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", type=Path, default=KEPT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    work, tasks = DONE[asked.what]
    with parallel_config(n_jobs=asked.jobs):
        sweep(work, [task for task in tasks if asked.system in (None, task.get("system"))], asked.table)
