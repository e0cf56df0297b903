"""Trials beyond the paper's pulls: laws learned from data that turn round, and the test of sufficiency.

    python benchmarks/beyond.py law --seeds 5 6 7 --neighbours     errors by kind, paths that are lost (minutes)
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
from ibvonns.paper.beyond import DESIGNS, DURATION, HIGH, LOW, TRAINING, UNSEEN, observed, truth
from ibvonns.paper.results import result
from ibvonns.protocols import wandering
from ibvonns.recipe import Recipe
from ibvonns.systems.chain import LENGTHS, Chain
from ibvonns.systems.trap import VELOCITIES, Trap


@torch.no_grad()
def tried(seeds: Sequence[int], internal: int, rate: float, neighbours: bool) -> None:
    """Train on the rich design, no seed drawn anew, and print errors in percent, v_n given."""
    whole = Recipe.of(Row())
    *before, last = whole.stages
    recipe = replace(whole, stages=(*before, replace(last, learning_rate=rate)), attempts=0)
    site = Architecture(Row(), Chain().natural_length, internal, "flow", reference=0.0, neighbours=neighbours)
    data = observed(DESIGNS["rich"], TRAINING, 1)
    model = fitted(site, data, seeds, recipe).model
    print("seeds", *seeds)
    for kind in UNSEEN:
        seen, again = truth(kind), truth(kind, 2)
        run = model.predict(seen, "velocity")
        assert run.force is not None and seen.force is not None and again.force is not None
        for name, ours, true, other in (
            ("F_ex", run.force, seen.force, again.force), ("strain", run.field, seen.field, again.field),
        ):  # fmt: skip
            errors = " ".join(f"{each:.2f}" for each in each_error(ours, true))
            print(f"{kind:10} {name:6} {errors}   noise of the truth {each_error(other[None], true)[0] / 2**0.5:.2f}")
    assert data.velocity is not None
    half, middle, speed = 0.75 * (HIGH - LOW), (LOW + HIGH) / 2, 1.5 * float(data.velocity.abs().max())
    wild = observed(wandering(200, middle - half, middle + half, DURATION, speed, seed=7), 400, 900)
    fields = model.predict(wild, "velocity").field
    missed = torch.tensor([each_error(fields[:, n : n + 1], wild.field[n : n + 1]) for n in range(200)])
    lost, far = (~missed.isfinite()).sum(0).tolist(), (missed > 50).sum(0).tolist()
    print("of 200 wandering protocols lost:", lost, "over 50 %:", far)


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
    parser.add_argument("--internal", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.3e-2, help="learning rate of the last stage")
    parser.add_argument("--neighbours", action="store_true", help="alpha feels how hard the sites around pull")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "law":
        tried(given.seeds, given.internal, given.rate, given.neighbours)
    else:
        tested()
