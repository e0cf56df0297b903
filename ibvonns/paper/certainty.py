"""How sure a learned law is, and how much data it needs: the fits of chapter 15, each a task of a sweep.

A task is a dictionary of plain values, and so is what comes of it: `sweeps.sweep` does many of them, on whatever
workers there are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from inspect import getfile
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from torch import Tensor

from ibvonns.answers import Array
from ibvonns.bands import Banded, banded
from ibvonns.cache import cached
from ibvonns.ensemble import Ensemble
from ibvonns.layouts import Point, Row
from ibvonns.learning import Learned, fit, suited
from ibvonns.observations import observe
from ibvonns.paper.beyond import DESIGNS, DURATION, HIGH, LOW, TRAINING, UNSEEN, recipe
from ibvonns.protocols import Protocol, lengths, wandering
from ibvonns.recipe import Recipe
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import VELOCITIES, Trap, paper_times
from ibvonns.validation import choice, seeded

__all__ = ["AMOUNTS", "COVERAGE", "amount", "asked", "bands_of", "coverage", "truth"]

PARTS = 4  # independent parts of a data set
WIDER = 1.5  # how far and how fast, in units of the data's, what leaves them
MANY, PART = 100_000, 2500  # realisations of a truth; at a time
FAST = 2.0  # fastest random pull of a chain, in units of its range over the duration of a record
FEWER = 3  # a share of the steps of the chain's last stage: twenty sets are 120 laws
DRAWN = 10_000  # seed of a data set and the next
#: Tasks of `coverage`: twenty independent data sets of either system.
COVERAGE = [{"system": system, "set": n} for system in ("trap", "chain") for n in range(20)]


def _amounts() -> Iterator[dict[str, Any]]:
    usual: dict[str, Any] = {"realisations": 2000, "conditions": 10, "times": 301, "noise": 0.0}
    for system, counts, rows, draws in (
        ("trap", (20, 60, 200, 600, 2000, 5000, 20_000), (3, 5, 10, 30), 8),
        ("chain", (20, 200, 2000, 20_000), (3, 10, 30), 2),
    ):
        vary: list[dict[str, Any]] = [{"realisations": n, "conditions": c} for n in counts for c in rows]
        vary += [{"times": times} for times in (151, 76, 31)]
        vary += [{"noise": noise} for noise in (0.003, 0.01, 0.03, 0.1)]
        for each in vary:
            yield from ({"system": system, **usual, **each, "draw": draw} for draw in range(draws))


#: Tasks of `amount`: realisations and conditions, recorded times, noise on the recorded force.
#:
#: :meta hide-value:
AMOUNTS = [*_amounts()]


# --- data ----------------------------------------------------------------------------------------


def _pulls(system: str, conditions: int) -> tuple[Protocol, ...]:
    """Protocols to learn from, the same kind however many there are."""
    if system == "trap":
        speeds = torch.linspace(VELOCITIES[0], VELOCITIES[-1], conditions, dtype=torch.float64)
        return tuple(Protocol("oscillating", each) for each in speeds.tolist())
    return wandering(conditions, LOW, HIGH, DURATION, FAST * (HIGH - LOW) / DURATION, seed=7)


def _trap(protocols: tuple[Protocol, ...], realisations: int, seed: int, times: Tensor) -> Ensemble:
    return Trap().simulate(lengths(protocols, times), times, realisations, seeded(seed))


def _chain(protocols: tuple[Protocol, ...], realisations: int, seed: int, times: Tensor) -> Ensemble:
    return Chain().simulate(lengths(protocols, times), times, realisations, seeded(seed))


def _unseen(system: str) -> dict[str, tuple[Protocol, ...]]:
    """Protocols to ask about, within the data and beyond them."""
    if system == "trap":
        near = VELOCITIES[1::2]
        return {
            "within": tuple(Protocol("oscillating", each) for each in near),
            "outside": tuple(Protocol("oscillating", WIDER * each) for each in near),
        }
    far, speed = HIGH + (WIDER - 1) * (HIGH - LOW), WIDER * FAST * (HIGH - LOW) / DURATION
    return {
        "within": tuple(each for kind in UNSEEN.values() for each in kind),
        "outside": wandering(4, LOW, far, DURATION, speed, seed=99),
    }


def truth(system: str) -> dict[str, dict[str, Array]]:
    """What is so on unseen protocols: of the trap exactly, of the chain by 100 000 realisations.

    Args:
        system: "trap" or "chain".

    Returns:
        Under "within" and "outside" the "path" that pulls, "force" and, of the chain, "field" and its "start",
        particles of the first time.

    Raises:
        ValueError: an unknown system.
    """
    times, found = paper_times(), dict[str, dict[str, Array]]()
    for name, protocols in _unseen(choice("system", system, ("trap", "chain"))).items():
        path = lengths(protocols, times)
        if system == "trap":
            force = Trap().external_force(path, Trap().mean(path, times))
            found[name] = {"path": path.numpy(), "force": force.numpy()}
            continue

        def compute(protocols: tuple[Protocol, ...] = protocols) -> Any:
            force, field = torch.zeros(2, 1)
            for n in range(MANY // PART):
                one = _chain(protocols, PART, 2**31 + n, paper_times())
                force = force + one.records["external_force"] * PART / MANY
                field = field + one.mean() * PART / MANY
            return [force.tolist(), field.tolist()]

        means, fields = map(
            numpy.array, cached(f"truth-chain-{name}", [protocols, MANY], compute, Path(getfile(Chain)))
        )
        short = _chain(protocols, 4 * PART, 2**31, times[:2]).realisations.numpy()
        moved = path - Chain().natural_length * Chain().springs
        found[name] = {"path": moved.numpy(), "force": means, "field": fields, "start": short}
    return found


# --- coverage ------------------------------------------------------------------------------------


def bands_of(system: str, seed: int, resamples: int = 6) -> Banded:
    """Laws with bands of one data set: 4000 realisations of eleven pulls of a trap, 2000 of the rich design of a chain.

    The chain's laws have two variables, and a third of the book's steps in their last stage.

    Args:
        system: "trap" or "chain".
        seed: of the data.
        resamples: as for `bands.banded`.

    Raises:
        ValueError: an unknown system.
    """
    times, begin = paper_times(), DRAWN * (seed + 1)
    how: dict[str, Any] = {"steps": "euler", "check": False, "resamples": resamples}
    if choice("system", system, ("trap", "chain")) == "trap":
        parts = [_trap(_pulls("trap", 11), 1000, begin + n, times) for n in range(PARTS)]
        plan = replace(Recipe.of(Point()), attempts=0)
        return banded(parts, "pulled_length", decoder="gaussian", recipe=plan, **how)
    parts = [_chain(DESIGNS["rich"], TRAINING // PARTS, begin + n, times) for n in range(PARTS)]
    *before, last = recipe("rich").stages
    phases = tuple(replace(phase, steps=max(10, phase.steps // FEWER)) for phase in last.phases)
    plan = replace(recipe("rich"), stages=(*before, replace(last, phases=phases)), candidates=1, attempts=0)
    spacing = Chain().natural_length
    return banded(parts, layout=Row(), spacing=spacing, internal=2, reference=0.0, recipe=plan, **how)


def asked(of: Any, system: str, what: Mapping[str, Array]) -> Any:
    """What laws say of unseen protocols, as `predict` gives it.

    Args:
        of: `Learned` or `Banded`.
        system: "trap" or "chain".
        what: one of those that `truth` gives.
    """
    if system == "trap":
        return of.predict(paper_times(), {"pulled_length": what["path"]})
    begun = Ensemble(paper_times()[:2], torch.as_tensor(what["start"]))
    start = observe(begun, spacing=Chain().natural_length)
    return of.predict(paper_times(), {"length": what["path"]}, start=start)


def coverage(task: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of times and conditions at which bands of 90 % hold the truth; a task of `COVERAGE`.

    Args:
        task: "system" and "set", the seed of the data.

    Returns:
        Under "within" and "outside", for "force" and, of the chain, "field": "held", also "plain" without the factor;
        the band's half "width" and what the mean "missed", each the root mean square in units of the truth's; and
        "told", the share that the bands themselves call outside, with "held known", the share held of the rest.
    """
    system = task["system"]
    made = bands_of(system, task["set"])
    found: dict[str, Any] = {"factors": dict(made.factors)}
    for name, what in truth(system).items():
        bands = asked(made, system, what)
        parts = {"force": (*bands.force.values(),)[0]} | ({"field": bands.field} if "field" in what else {})
        factors = dict(zip(parts, made.factors.values(), strict=True))
        for quantity, band in parts.items():
            true, away = what[quantity], band.high - band.mean
            held = abs(true - band.mean) <= away
            size, known = numpy.sqrt((true**2).mean()), ~bands.outside
            found[f"{name} {quantity}"] = {
                "held": held.mean(),
                "plain": (abs(true - band.mean) <= away / factors[quantity]).mean(),
                "width": numpy.sqrt((away**2).mean()) / size,
                "missed": numpy.sqrt(((true - band.mean) ** 2).mean()) / size,
                "told": bands.outside.mean(),
                "held known": held[known].mean() if known.any() else None,
            }
    return found


# --- how much data -------------------------------------------------------------------------------


@cache
def _known(system: str) -> dict[str, Array]:
    return truth(system)["within"]


def amount(task: Mapping[str, Any]) -> dict[str, float]:
    """Error of one law on what it has not seen, percent; a task of `AMOUNTS`.

    Args:
        task: "system", "realisations", "conditions", "times" of a record, "noise" on the recorded force in units of
            its deviation, and "draw", the seed of data and law.

    Returns:
        "force" and, of the chain, "field": what the law misses. And "noise" of the training data: of the trap's mean
        force, of the chain's mean strains.
    """
    system, number, draw = task["system"], task["realisations"], task["draw"]
    times = paper_times()
    every, begin = (len(times) - 1) // (task["times"] - 1), DRAWN * (draw + 1) + 100
    simulate, protocols = {"trap": _trap, "chain": _chain}[system], _pulls(system, task["conditions"])
    controls = ("pulled_length",) if system == "trap" else ()
    spacing = 1.0 if system == "trap" else Chain().natural_length
    size = min(number, PART)
    data = observe(
        (simulate(protocols, size, begin + n, times) for n in range(number // size)), controls, spacing=spacing
    ).every(every)
    force = cast(Tensor, data.force)
    wrong = torch.randn(force.shape, generator=seeded(begin + 99), dtype=torch.float64) * force.std() * task["noise"]
    data = replace(data, force=force + wrong)
    layout: Any = Row() if data.velocity is not None else Point()
    plan = replace(suited(Recipe.of(layout), data, layout), attempts=0)
    how: dict[str, Any] = {"controls": controls, "recipe": plan, "steps": "euler" if every == 1 else "midpoint"}
    if system == "chain":
        how |= {"layout": layout, "reference": 0.0}
    law: Learned = fit(data, seeds=[draw], decoder="gaussian" if system == "trap" else "flow", **how)
    what, answer = _known(system), asked(law, system, _known(system))
    told = {"force": (*answer.force.values(),)[0].values} | ({"field": answer.field.values} if "field" in what else {})
    missed = {
        name: 100 * float(numpy.linalg.norm(part - what[name]) / numpy.linalg.norm(what[name]))
        for name, part in told.items()
    }
    return {**missed, "noise": next(iter(law.scores.values())).noise}
