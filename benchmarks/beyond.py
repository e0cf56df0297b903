"""Trials beyond the paper's pulls: what a law learned from `protocols.rich` predicts, and the test of sufficiency.

    python benchmarks/beyond.py law --seeds 5 6 7      errors by kind of protocol, paths that are lost (minutes)
    python benchmarks/beyond.py sufficiency            false alarms on traps, power on the chain with one variable

The second reads the trained seeds of chapters 3 and 5 from the cache.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from ibvonns import observe, sufficiency
from ibvonns.fit import fitted
from ibvonns.layouts import Row
from ibvonns.metrics import each_error
from ibvonns.model import Architecture
from ibvonns.observations import Observations
from ibvonns.paper.results import result
from ibvonns.protocols import Protocol, lengths, rich, wandering
from ibvonns.recipe import Recipe
from ibvonns.systems.chain import LENGTHS, VELOCITY, Chain
from ibvonns.systems.trap import VELOCITIES, Trap, paper_times
from ibvonns.validation import seeded

LOW, HIGH, DURATION = 0.12, 0.42, 3.0
UNSEEN: dict[str, Sequence[Protocol]] = {
    "pull": [Protocol("pull", VELOCITY, base, (1.0,)) for base in (0.15, 0.19, 0.25)],
    "hold": [Protocol("hold", 0.12, 0.15, (1.1, 1.7, 2.7)), Protocol("hold", 0.10, 0.17, (0.8, 1.3, 2.6))],
    "cycle": [Protocol("cycle", 0.11, 0.16, (2.6,)), Protocol("cycle", 0.09, 0.15, (1.7,))],
    "unload": [Protocol("unload", 0.13, 0.14, (1.3, 2.7)), Protocol("unload", 0.10, 0.17, (1.2, 2.4))],
    "ramp": [Protocol("ramp", 0.12, 0.15, (0.9,)), Protocol("ramp", 0.09, 0.17, (0.7,))],
    "slow pull": [Protocol("pull", 0.022, 0.16, (1.0,)), Protocol("pull", 0.027, 0.18, (1.0,))],
    "sinusoidal": [Protocol("sinusoidal", VELOCITY, 0.2)],
}


def simulated(protocols: Sequence[Protocol], realisations: int, seed: int) -> Observations:
    """A chain under protocols, in four blocks."""
    times = paper_times()
    reached = lengths(protocols, times)
    blocks = (Chain().simulate(reached, times, realisations // 4, seeded(4 * seed + block)) for block in range(4))
    return observe(blocks, spacing=Chain().natural_length)


@torch.no_grad()
def tried(seeds: Sequence[int], internal: int, rate: float) -> None:
    """Train on the rich design, no seed drawn anew, and print errors in percent, v_n given."""
    whole = Recipe.of(Row())
    *before, last = whole.stages
    recipe = replace(whole, stages=(*before, replace(last, learning_rate=rate)), attempts=0)
    site = Architecture(Row(), Chain().natural_length, internal, "flow", reference=0.0)
    model = fitted(site, simulated(rich(LOW, HIGH, DURATION), 2000, 1), seeds, recipe).model
    print("seeds", *seeds)
    for place, (kind, protocols) in enumerate(UNSEEN.items()):
        seen, again = (simulated(protocols, 8000, 100 * copy + place) for copy in (1, 2))
        run = model.predict(seen, "velocity")
        assert run.force is not None and seen.force is not None and again.force is not None
        for name, ours, truth, other in (
            ("F_ex", run.force, seen.force, again.force), ("strain", run.field, seen.field, again.field),
        ):  # fmt: skip
            errors = " ".join(f"{each:.2f}" for each in each_error(ours, truth))
            print(f"{kind:10} {name:6} {errors}   noise of the truth {each_error(other[None], truth)[0] / 2**0.5:.2f}")
    half = 0.75 * (HIGH - LOW)
    middle, speed = (
        (LOW + HIGH) / 2,
        1.5 * max(float(p.velocity(paper_times()).abs().max()) for p in rich(LOW, HIGH, DURATION)),
    )
    wild = simulated(wandering(200, middle - half, middle + half, DURATION, speed, seed=7), 400, 900)
    missed = torch.stack([torch.tensor(each_error(part, wild.field[c : c + 1])) for c in range(200)
                          for part in [model.predict(wild.select(slice(c, c + 1)), "velocity").field]])  # fmt: skip
    print(
        "of 200 wandering protocols lost:",
        (~missed.isfinite()).sum(0).tolist(),
        "over 50 %:",
        (missed > 50).sum(0).tolist(),
    )


def tested(traps: int = 100, chains: int = 8) -> None:
    """Shares of data sets in which the state is called insufficient at 5 %, for each of eight seeds."""
    for name, number, draw in (("trap", traps, _trap), ("chain-gmm", chains, _chain)):
        model = result(name)[0]
        p = torch.stack([sufficiency(model, draw(seed)).p for seed in range(number)])
        shares = " ".join(f"{100 * float(share):.0f}" for share in (p < 0.05).double().mean(0))
        print(f"{name}: insufficient in {shares} % of {number} data sets; largest p {float(p.max()):.2g}")


def _trap(seed: int) -> Observations:
    return observe(
        Trap().simulate_paper("oscillating", VELOCITIES[1::2], 1000, 5000 + seed), "pulled_length", points=1025
    )


def _chain(seed: int) -> Observations:
    pulls = Chain().simulate_paper(lengths=LENGTHS[1::2], realisations=2000, seed=6000 + seed)
    return observe(pulls, spacing=Chain().natural_length, points=321)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trials beyond the paper's pulls.")
    parser.add_argument("what", choices=("law", "sufficiency"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7])
    parser.add_argument("--internal", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1.3e-2, help="learning rate of the last stage")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "law":
        tried(given.seeds, given.internal, given.rate)
    else:
        tested()
