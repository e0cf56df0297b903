"""What a sweep on two processes costs beside one after another, and whether a dead one changes a number.

    python benchmarks/cluster.py [--fits 64]

Short fits of the trap: one worker; two of a Dask cluster on this machine; the same with one killed half way. Two fits
at once may slow each other on some machines, whoever starts them. So two bare processes are measured, too.
"""

import argparse
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from distributed import Client, LocalCluster
from joblib import parallel_config

from ibvonns import Phase, Recipe, Stage, fit, sweep
from ibvonns.systems.trap import Trap


def short(task: Mapping[str, Any]) -> dict[str, Any]:
    """Errors of a law of some three seconds."""
    few = Trap().simulate_paper(velocities=(0.5, 0.7, 1.0), realisations=200, seed=task["draw"])
    weights = {"density": 0.01, "internal": 1.0, "end": 100.0}
    recipe = Recipe((Stage((Phase(0, 50), Phase(1, 250), Phase(30, 10, 2)), weights),), attempts=0)
    return {
        name: each.errors for name, each in fit(few, controls="pulled_length", seeds=[0], recipe=recipe).scores.items()
    }


def bare(tasks: Sequence[Mapping[str, Any]]) -> None:
    """Do tasks one after another."""
    torch.set_num_threads(1)
    for task in tasks:
        short(task)


def measured(fits: int) -> None:
    """Print times and whether tables are the same."""
    tasks, folder = [{"draw": draw} for draw in range(fits)], Path(tempfile.mkdtemp())

    def run(name: str) -> tuple[float, list[Any], float]:
        start = time.perf_counter()
        rows = sweep(work, tasks, folder / f"{name}.jsonl", say=lambda line: None)
        spent = sum(row["seconds"] for row in rows)
        return time.perf_counter() - start, [(row["key"], row.get("result")) for row in rows], spent

    alone, serial, own = run("serial")
    print(f"one process: {alone:.0f} s for {fits} fits", flush=True)
    halves = [multiprocessing.get_context("spawn").Process(target=bare, args=(tasks[n::2],)) for n in (0, 1)]
    start = time.perf_counter()
    for each in halves:
        each.start()
    for each in halves:
        each.join()
    peers = time.perf_counter() - start
    print(f"two bare processes: {peers:.0f} s, efficiency {alone / peers / 2:.2f}", flush=True)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        with parallel_config(backend="dask"):
            client.run(work, tasks[0])  # what a worker loads and compiles once
            both, rows, spent = run("two")
            told = f"efficiency {alone / both / 2:.2f}, against the bare ones {peers / both:.2f}"
            print(f"two of Dask: {both:.0f} s, {told}; same rows: {rows == serial}", flush=True)
            print(
                f"    of their time {spent / both / 2:.2f} in fits, which took {spent / own:.2f} times as long as alone"
            )
            victim = next(iter(client.run(os.getpid).values()))
            threading.Timer(both / 4, os.kill, (victim, signal.SIGKILL)).start()
            dead, rows, _ = run("killed")
            lines = len((folder / "killed.jsonl").read_text().splitlines())
            print(f"two, one killed after {both / 4:.0f} s: {dead:.0f} s; same rows: {rows == serial}; {lines} lines")


if __name__ == "__main__":
    from cluster import short as work  # by the name under which workers import it

    parser = argparse.ArgumentParser(description="Sweeps on two processes.")
    parser.add_argument("--fits", type=int, default=64)
    torch.set_num_threads(1)
    measured(parser.parse_args().fits)
