"""Cheaper bands than those of `bands.banded`, to be compared with them on data sets of the trap.

Reference: Kellner, Ceriotti, arXiv:2402.16621: the last layer's weights alone; Barber, Candes, Ramdas, Tibshirani,
Annals of Statistics 49 (2021) 486: conformal bands.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from statistics import NormalDist
from time import perf_counter
from typing import Any, cast

import numpy
import torch
from torch import Tensor

from ibvonns.answers import Array
from ibvonns.bands import student
from ibvonns.layouts import Point
from ibvonns.learning import Learned, fit
from ibvonns.observations import observe
from ibvonns.paper.certainty import DRAWN, PARTS, _pulls, _trap, asked, truth
from ibvonns.recipe import Phase, Recipe, Stage
from ibvonns.seeds import force_noise
from ibvonns.systems.trap import paper_times
from ibvonns.training import train

__all__ = ["WAYS", "ways"]

SHARE, LAWS = 0.9, 6
STEP = 1e-4  # of a weight, for a difference
#: Tasks of `ways`.
WAYS = [{"set": n} for n in range(6)]


def ways(task: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of times and conditions at which cheaper bands hold the force of a trap; a task of `WAYS`.

    - "seeds": six seeds on all of the data.
    - "warm": one law, and five that go on from it on resampled data for a sixth of the steps.
    - "last layer": one law, and the Gaussian approximation of what its last layers may be, by the noise of the force.
    - "conformal": one law of two thirds of the conditions, and what it misses of the others, everywhere alike.

    Args:
        task: "set", the seed of the data, as for `certainty.coverage`.

    Returns:
        By way "seconds", and "within" and "outside", shares held.
    """
    begin, whole = DRAWN * (task["set"] + 1), paper_times()
    parts = [_trap(_pulls("trap", 11), 1000, begin + n, whole) for n in range(PARTS)]
    data, plan = observe(parts, "pulled_length"), replace(Recipe.of(Point()), attempts=0)
    how: dict[str, Any] = {"controls": "pulled_length", "decoder": "gaussian", "steps": "euler", "recipe": plan}
    known, found = truth("trap"), dict[str, dict[str, float]]()
    wanted = {name: what["force"] for name, what in known.items()}

    def told(way: str, middle: Mapping[str, Array], away: Mapping[str, Any], seconds: float) -> None:
        held = {name: float((abs(true - middle[name]) <= away[name]).mean()) for name, true in wanted.items()}
        found[way] = {"seconds": round(seconds, 1), **held}

    def forces(law: Learned) -> dict[str, Array]:
        return {name: asked(law, "trap", what).force["external_force"].values for name, what in known.items()}

    start = perf_counter()
    seeds = fit(data, seeds=LAWS, **how)
    spent, each = perf_counter() - start, forces(seeds)
    mean = {name: part.mean(0) for name, part in each.items()}
    wide = {name: student(SHARE, LAWS - 1) * part.std(0, ddof=1) for name, part in each.items()}
    told("seeds", mean, wide, spent)

    start = perf_counter()
    base = fit(data, seeds=1, **how)
    one = perf_counter() - start
    laws, start = [forces(base)], perf_counter()
    weights = plan.stages[0].weights
    short = replace(plan, stages=(Stage((Phase(1, 170), Phase(30, 20, 4), Phase(100, 10, 2)), weights, 5e-3),))
    for n in range(1, LAWS):
        rng = torch.Generator().manual_seed(n)
        taken = torch.randint(len(data.field), (len(data.field),), generator=rng)
        some = [parts[k].select(taken) for k in torch.randint(PARTS, (PARTS,), generator=rng)]
        drawn, model = observe(some, "pulled_length"), deepcopy(base.model)
        train(model, drawn, short)
        laws.append(forces(replace(base, model=model)))
    both = {name: numpy.concatenate([law[name] for law in laws]) for name in wanted}
    wide = {name: student(SHARE, LAWS - 1) * part.std(0, ddof=1) for name, part in both.items()}
    told("warm", {name: part.mean(0) for name, part in both.items()}, wide, one + perf_counter() - start)

    start, middle = perf_counter(), {name: part[0] for name, part in laws[0].items()}
    scatter = _by_last_layer(base, forces)
    wide = {name: NormalDist().inv_cdf((1 + SHARE) / 2) * part for name, part in scatter.items()}
    told("last layer", middle, wide, one + perf_counter() - start)

    start, strange = perf_counter(), torch.arange(11) % 3 == 1
    law = fit(data.select((~strange).nonzero().flatten()), seeds=1, **how)
    left = data.select(strange.nonzero().flatten())
    missed = (cast(Tensor, law.model.predict(left).force)[0] - cast(Tensor, left.force)).abs()
    noise = NormalDist().inv_cdf((1 + SHARE) / 2) * force_noise(data).view_as(cast(Tensor, data.force))[strange]
    width = float((missed.square() - noise.square()).clamp_min(0).sqrt().quantile(SHARE))
    own = {name: part[0] for name, part in forces(law).items()}
    told("conformal", own, dict.fromkeys(wanted, width), perf_counter() - start)
    return found


def _by_last_layer(law: Learned, forces: Any) -> dict[str, Array]:
    """Deviation of the force by the weights of the last layers of f and phi, whose prior has a deviation of 1."""
    model, data, of = law.model, law.data, law.model.law
    last = [cast(Any, part) for part in (of.energy_network.last.weight, of.dissipation_network.mix[-1].free)]
    recorded = cast(Tensor, data.force)
    noise = force_noise(data).view_as(recorded).mean()
    apart = 50  # steps in which the noise of a mean forgets itself

    def answers() -> dict[str, Array]:
        seen = cast(Tensor, model.predict(data).force)[0, :, ::apart, 0] / noise
        return {"own": seen.flatten().numpy(), **{name: part[0] for name, part in forces(law).items()}}

    with torch.no_grad():
        still, slopes = answers(), dict[str, list[Array]]()
        for weight in last:
            flat = weight.view(-1)
            for n in range(len(flat)):
                flat[n] += STEP
                for name, part in answers().items():
                    slopes.setdefault(name, []).append((part - still[name]) / STEP)
                flat[n] -= STEP
    own = numpy.stack(slopes.pop("own"))
    spread = numpy.linalg.inv(own @ own.T + numpy.eye(len(own)))
    each = {name: numpy.stack(part) for name, part in slopes.items()}
    return {name: numpy.sqrt(numpy.einsum("i...,ij,j...->...", part, spread, part)) for name, part in each.items()}
