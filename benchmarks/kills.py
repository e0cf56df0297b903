"""kill -9 at random moments: every rerun of `ibvonns reproduce` ends with the same numbers.

    python benchmarks/kills.py [KILLS]    thirty if not given; some minutes

The study is that of the chain with a flow, two seeds, with few realisations and a recipe of a few steps
in every phase. Of each kill it prints when it fell and what it met; at last how many left what was not
theirs to leave: other numbers, a part of a file, a file too many.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ibvonns.files import load_tensors

CODE = """
from dataclasses import replace
from ibvonns import Phase, Recipe, Stage
from ibvonns.losses import Sampling
from ibvonns.paper.studies import STUDIES
weights = {"density": 1.0, "shift": 0.1, "field": 1.0, "internal": 0.3, "end": 30.0}
stages = (
    Stage((Phase(0, 40),), {"density": 1.0, "shift": 0.1}, 1e-2),
    Stage((Phase(1, 30, 5, hold=True), Phase(4, 20, 2)), weights, 1e-2, clip=3.0),
    Stage((Phase(6, 30, 2), Phase(20, 30, 1, stride=3)), weights, 1e-2, clip=3.0, rescues=4),
)
recipe = Recipe(stages, Sampling(), candidates=2, attempts=0, coarse=2, checkpoint_every=10)
STUDIES["chain-cnf"] = replace(STUDIES["chain-cnf"], realisations=20, points=65, recipe=recipe)
from ibvonns.paper.cli import app
app()
"""
FILES = ["history.safetensors", "log.jsonl", "metrics.json", "model.safetensors"]


def start(out: Path, cache: Path) -> subprocess.Popen[str]:
    """A run of the command, in a group of processes of its own."""
    command = [sys.executable, "-W", "ignore", "-c", CODE, "reproduce", "chain-cnf", "--seeds", "2", "--out", str(out)]
    own = {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1", "IBVONNS_PROGRESS": "off"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=os.environ | own, start_new_session=True, **pipes)


def finish(out: Path, cache: Path) -> float:
    """Run to the end; the seconds it took."""
    begun = time.monotonic()
    process = start(out, cache)
    said = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"a run ended with {process.returncode}: {said}")
    return time.monotonic() - begun


def kill(out: Path, cache: Path, after: float) -> list[str]:
    """Start a run and kill it, so many seconds later; the files that lie there then."""
    process = start(out, cache)
    time.sleep(after)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return sorted(path.name for path in out.iterdir()) if out.exists() else []


def wrong(out: Path, right: Path) -> list[str]:
    """In what a finished folder differs from another, to the bit, but for the seconds it took."""
    found = [path.name for path in sorted(out.iterdir())]
    faults = [] if found == FILES else [f"holds {found}"]
    mine, theirs = (json.loads((folder / "metrics.json").read_text("utf-8")) for folder in (out, right))
    faults += [f"{name} differ" for name in theirs if name != "training_seconds" and mine[name] != theirs[name]]
    for file in ("history.safetensors", "model.safetensors"):
        (ours, _), (others, _) = load_tensors(out / file), load_tensors(right / file)
        same = ours.keys() == others.keys() and all(
            torch.equal(ours[n].nan_to_num(), others[n].nan_to_num()) for n in others
        )
        faults += [] if same else [f"{file} differs"]
    return faults


def trials(shares: Sequence[Sequence[float]], folder: Path) -> list[str]:
    """Kill runs after such shares of what one takes, one after another in a folder, and finish them.

    Args:
        shares: for each folder those of its kills.
        folder: in which all is made.

    Returns:
        What was wrong, in words; nothing if all is well.
    """
    cache, right, faults = folder / "cache", folder / "right", list[str]()
    finish(folder / "warm", cache)  # compiles, and fills the cache of limits
    usual = finish(right, cache)
    for number, moments in enumerate(shares):
        out = folder / f"killed-{number}"
        left = [kill(out, cache, share * usual) for share in moments]
        finish(out, cache)
        here = wrong(out, right)
        faults += [f"kill {number}: {fault}" for fault in here]
        at = ", ".join(
            f"{share * usual:.1f} s of {usual:.1f} ({', '.join(names) or 'nothing'})"
            for share, names in zip(moments, left, strict=True)
        )
        print(f"kill {number}: {at}: {'; '.join(here) or 'the same numbers'}", flush=True)
    odd = [str(path) for path in cache.rglob("*") if path.is_file() and path.suffix != ".json"]
    return faults + [f"the cache holds {odd}"] * bool(odd)


def main(number: int = 30) -> int:
    """Kill so many runs, some of them twice; the exit status."""
    rng = random.Random(0)
    shares = [[rng.uniform(0, 1) for _ in range(rng.choice((1, 1, 2)))] for _ in range(number)]
    with tempfile.TemporaryDirectory() as folder:
        faults = trials(shares, Path(folder))
    print("\n".join(faults) or f"{number} of {number} ended with the same numbers, and left nothing half-written")
    return bool(faults)


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
