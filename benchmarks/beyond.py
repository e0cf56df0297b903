"""Trials beyond the paper's pulls: laws learned from data that turn round, and the test of sufficiency.

    python benchmarks/beyond.py table          all laws of `paper.beyond` on each kind, for chapter 10 (an hour)
    python benchmarks/beyond.py recipe "half of the steps" ...   changes of the recipe, two seeds, for chapter 10
    python benchmarks/beyond.py wander --seeds 24    random protocols, with so many seeds more (ten minutes)
    python benchmarks/beyond.py choose         how many variables the trap needs (minutes)
    python benchmarks/beyond.py rows           the chain's published rows with two variables (ten minutes)
    python benchmarks/beyond.py sufficiency    false alarms on traps, power on the chain with one variable

The first two write what they find into ibvonns_book/beyond.json. The last reads the trained seeds of chapters 5 and 8.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

import ibvonns_book
from ibvonns import choose, observe, sufficiency
from ibvonns.files import load_json, plain, save_json
from ibvonns.layouts import Point, Row
from ibvonns.metrics import each_error
from ibvonns.model import Architecture, Model
from ibvonns.observations import Observations
from ibvonns.paper import beyond
from ibvonns.paper.beyond import DESIGNS, DURATION, HIGH, LOW, NEW, TRAINING, UNSEEN, observed, recipe
from ibvonns.paper.results import result
from ibvonns.paper.scoreboard import published
from ibvonns.paper.studies import STUDIES, errors
from ibvonns.protocols import wandering
from ibvonns.recipe import Phase, Recipe
from ibvonns.seeds import fitted
from ibvonns.systems.chain import LENGTHS, Chain
from ibvonns.systems.trap import VELOCITIES, Trap, paper_times

KEPT = Path(ibvonns_book.__file__).with_name("beyond.json")
TRIED = (5, 6)  # seeds of a trial, none drawn anew
WHOLE = Recipe.of(Row()).stages[-1].phases
SHORT, MIDDLE, LONG = Phase(10, 12, 15), Phase(50, 10, 4), Phase(300, 10, 1)


def turns(number: int) -> tuple[Phase, ...]:
    """Windows of 10, 50 and 300 steps by turns, so often."""
    return (*WHOLE[:2], *number * (SHORT, MIDDLE, LONG), Phase(300, 60, 1))


#: Changes of the recipe by name: the last stage's phases or weights, or another number of variables.
CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "all of the steps": {"phases": WHOLE},
    "short and long windows by turns": {"phases": turns(36)},
    "two variables": {"internal": 2},
    "two variables, windows by turns": {"internal": 2, "phases": turns(36)},
    "two variables, no shift term": {"internal": 2, "phases": WHOLE, "shift": 0.0},
}


def keep(part: str, name: str, found: dict[str, Any]) -> None:
    """Put what was found into the file that chapter 10 reads."""
    kept = load_json(KEPT) if KEPT.exists() else {}
    kept.setdefault(part, {})[name] = plain(found)
    save_json(KEPT, kept)


def table() -> None:
    """Errors of each law on each kind."""
    for name in beyond.LAWS:
        found = beyond.scores([name])
        keep("scores", name, found[name])
        keep("scores", "noise", found["noise"])
        print(beyond.told(found), flush=True)


def trained(change: dict[str, Any], seeds: Sequence[int]) -> tuple[Model, float]:
    """Seeds of the new law, none drawn anew, and the processor's seconds for each."""
    plan = recipe("rich")
    stages = list(plan.stages)
    if "phases" in change:
        stages[-1] = replace(stages[-1], phases=change["phases"])
    if "shift" in change:
        stages = [replace(each, weights={**each.weights, "shift": change["shift"]}) for each in stages]
    site = Architecture(
        Row(), Chain().natural_length, change.get("internal", 1), "flow", reference=0.0, neighbours=True
    )
    data, begin = observed(DESIGNS["rich"], TRAINING, 1), time.process_time()
    model = fitted(site, data, seeds, replace(plan, stages=tuple(stages), attempts=0)).model
    return model, (time.process_time() - begin) / len(seeds)


def changed(names: Sequence[str]) -> None:
    """Errors of two seeds for each change of the recipe."""
    for name in names or CHANGES:
        model, seconds = trained(CHANGES[name], TRIED)
        found = {kind: beyond.missed(model, kind) for kind in UNSEEN}
        keep("recipe", name, {"seconds": round(seconds), "scores": found})
        print(name, f"{seconds:.0f} s a seed", plain(found), flush=True)


@torch.no_grad()
def wander(more: int) -> None:
    """Seeds that are lost, or off by over 50 %, on 200 random protocols of 1.5 times the data's range and speed."""
    models = [beyond.trained(NEW)]
    if more:
        models.append(trained({}, range(100, 100 + more))[0])
    low, high, speed = (float(part) for part in _range())
    wild = observed(wandering(200, low, high, DURATION, speed, seed=7), 400, 900)
    for model in models:
        fields = model.predict(wild, "velocity").field
        missed = torch.tensor([each_error(fields[:, n : n + 1], wild.field[n : n + 1]) for n in range(200)])
        lost, far = (~missed.isfinite()).sum(0).tolist(), (missed > 50).sum(0).tolist()
        middle = [f"{float(each):.1f}" for each in missed.nanmedian(0).values]
        print(f"{len(lost)} seeds, of 200 protocols lost {lost}, off by over 50 % {far}, median error {middle}")


def _range() -> tuple[float, float, float]:
    """1.5 times the lengths of the rich design, and its speed."""
    fastest = max(float(protocol.velocity(paper_times()).abs().max()) for protocol in DESIGNS["rich"])
    half, middle = 0.75 * (HIGH - LOW), (LOW + HIGH) / 2
    return middle - half, middle + half, 1.5 * fastest


def chosen() -> None:
    """What `choose` says of the trap: one variable is enough."""
    data, unseen = _trap(0), _trap(1)
    print(choose(data, unseen, Architecture(Point(), decoder="gaussian"), (1, 2), seeds=range(4)))


def tested(traps: int = 100, chains: int = 8) -> None:
    """Shares of data sets in which the state is called insufficient at 5 %, for each of eight seeds."""
    for name, number, draw in (("trap", traps, _trap), ("chain-gmm", chains, _chain)):
        model = result(name)[0]
        p = torch.stack([sufficiency(model, draw(seed)).p for seed in range(number)])
        shares = " ".join(f"{100 * float(share):.0f}" for share in (p < 0.05).double().mean(0))
        print(f"{name}: insufficient in {shares} % of {number} data sets; largest p {float(p.max()):.2g}")


def rows() -> None:
    """The chain's published rows with two variables, eight seeds: median and worst beside the published value."""
    gmm, cnf = STUDIES["chain-gmm"], STUDIES["chain-cnf"]
    two = replace(gmm.architecture, internal=2)
    mixture = fitted(two, gmm.observed("train"), range(8), gmm.recipe, strict=False).model
    for study, model in ((gmm, mixture), (cnf, beyond.trained("paper, two"))):
        found = errors(study, model, study.data())[0]
        for row in published(study.name):
            each, told = found[row["id"]], f"{row['id']}: published {row['published']}"
            print(f"{told}, median {median(each):.3g}, worst {max(each):.3g}", flush=True)


def _trap(seed: int) -> Observations:
    return observe(
        Trap().simulate_paper("oscillating", VELOCITIES[1::2], 1000, 5000 + seed), "pulled_length", points=1025
    )


def _chain(seed: int) -> Observations:
    pulls = Chain().simulate_paper(lengths=LENGTHS[1::2], realisations=2000, seed=6000 + seed)
    return observe(pulls, spacing=Chain().natural_length, points=321)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trials beyond the paper's pulls.")
    parser.add_argument("what", choices=("table", "recipe", "wander", "choose", "sufficiency", "rows"))
    parser.add_argument("names", nargs="*", help="changes of the recipe; all if none is named")
    parser.add_argument("--seeds", type=int, default=0, help="how many seeds more than the book's wander")
    given = parser.parse_args()
    torch.set_num_threads(1)
    doing: dict[str, Any] = {"table": table, "choose": chosen, "sufficiency": tested, "rows": rows}
    if given.what == "recipe":
        changed(given.names)
    elif given.what == "wander":
        wander(given.seeds)
    else:
        doing[given.what]()
