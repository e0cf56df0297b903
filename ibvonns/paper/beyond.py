"""Beyond the paper's pulls: a design that turns round, laws learned from it, and unseen protocols of each kind."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ibvonns.cache import cached
from ibvonns.fit import fitted
from ibvonns.layouts import Row
from ibvonns.metrics import each_error
from ibvonns.model import Architecture, Model
from ibvonns.observations import Observations, observe
from ibvonns.paper.results import plain, restored_errors, result
from ibvonns.paper.scoreboard import piped, rounded, summary
from ibvonns.protocols import Protocol, lengths, rich
from ibvonns.recipe import Recipe
from ibvonns.systems.chain import LENGTHS, VELOCITY, Chain
from ibvonns.systems.trap import paper_times
from ibvonns.validation import choice, count, require, seeded

__all__ = ["DESIGNS", "LAWS", "UNSEEN", "observed", "scores", "told", "trained", "truth", "work"]

LOW, HIGH, DURATION = 0.12, 0.42, 3.0  # lengths of the training data, and a record's time
TRAINING, TRUTH, BLOCKS = 2000, 8000, 4  # realisations of a condition; independent parts of them
RATE = 1.3e-2  # of the last stage: with the paper's data twice as much is better, here some seeds are then lost
#: Designs of training data by name.
#:
#: :meta hide-value:
DESIGNS: dict[str, tuple[Protocol, ...]] = {
    "paper": tuple(Protocol("smoothed-linear", VELOCITY, base) for base in LENGTHS[::2]),
    "rich": rich(LOW, HIGH, DURATION),
}
#: Protocols of every kind that no design has.
#:
#: :meta hide-value:
UNSEEN: dict[str, tuple[Protocol, ...]] = {
    "pull": tuple(Protocol("pull", VELOCITY, base, (1.0,)) for base in (0.15, 0.19, 0.25)),
    "hold": (Protocol("hold", 0.12, 0.15, (1.1, 1.7, 2.7)), Protocol("hold", 0.10, 0.17, (0.8, 1.3, 2.6))),
    "cycle": (Protocol("cycle", 0.11, 0.16, (2.6,)), Protocol("cycle", 0.09, 0.15, (1.7,))),
    "unload": (Protocol("unload", 0.13, 0.14, (1.3, 2.7)), Protocol("unload", 0.10, 0.17, (1.2, 2.4))),
    "ramp": (Protocol("ramp", 0.12, 0.15, (0.9,)), Protocol("ramp", 0.09, 0.17, (0.7,))),
    "slow pull": (Protocol("pull", 0.022, 0.16, (1.0,)), Protocol("pull", 0.027, 0.18, (1.0,))),
    "sinusoidal": (Protocol("sinusoidal", VELOCITY, 0.2),),
}
#: Laws by name: the design that they learn from, whether alpha feels its neighbours, and how many seeds the book has.
LAWS: dict[str, tuple[str, bool, int]] = {
    "paper's data": ("paper", False, 8), "rich data": ("rich", False, 4), "rich data, neighbours": ("rich", True, 8),
}  # fmt: skip


def observed(protocols: Sequence[Protocol], realisations: int, seed: int) -> Observations:
    """A chain under some protocols, from equilibrium at their first lengths.

    Args:
        protocols: one for each condition.
        realisations: of each, a multiple of 4.
        seed: of every random number.

    Raises:
        ValueError: no protocol, or realisations that do not make 4 equal parts.
    """
    require(
        count("realisations", realisations, BLOCKS) % BLOCKS == 0,
        f"realisations must be a multiple of {BLOCKS}, but are {realisations}",
    )
    chain, times = Chain(), paper_times()
    reached = lengths(protocols, times)
    parts = (chain.simulate(reached, times, realisations // BLOCKS, seeded(BLOCKS * seed + n)) for n in range(BLOCKS))
    return observe(parts, spacing=chain.natural_length)


def truth(kind: str, copy: int = 1) -> Observations:
    """8000 realisations of each unseen protocol of a kind.

    Args:
        kind: a key of `UNSEEN`.
        copy: 1, or another for an independent draw.

    Raises:
        ValueError: unknown kind.
    """
    place = list(UNSEEN).index(choice("kind", kind, UNSEEN))
    return observed(UNSEEN[kind], TRUTH, 100 * count("copy", copy) + place)


def trained(name: str) -> Model:
    """The seeds of a law, from the cache or trained now; that of the paper's data is chapter 6's.

    Args:
        name: a key of `LAWS`.

    Raises:
        ValueError: unknown name.
    """
    design, neighbours, seeds = LAWS[choice("law", name, LAWS)]
    if design == "paper":
        return result("chain-cnf")[0]
    whole = Recipe.of(Row())
    *before, last = whole.stages
    recipe = replace(whole, stages=(*before, replace(last, learning_rate=RATE)))
    chain = Chain()
    site = Architecture(Row(), chain.natural_length, 1, "flow", reference=0.0, neighbours=neighbours)

    def compute() -> dict[str, Any]:
        return fitted(site, observed(DESIGNS[design], TRAINING, 1), range(seeds), recipe).model.exported()

    key = [chain, DESIGNS[design], TRAINING, site, recipe, seeds]
    return Model.restored(cached(f"beyond-{design}-{neighbours:d}", key, compute, Path(__file__)))


def work(force: Tensor, velocity: Tensor, times: Tensor) -> Tensor:
    """Work done at the pulled end, the integral of F_ex v_n, an energy: (...,).

    Around a closed cycle it is what has been dissipated, but for what the free energy has gained.

    Args:
        force: F_ex, shape (..., times), at the beginning of each step.
        velocity: v_n, shape (..., times), a backward difference as recorded.
        times: shape (times,).
    """
    return (force[..., :-1] * velocity[..., 1:] * times.diff()).sum(-1)


def scores() -> dict[str, dict[str, dict[str, list[float]]]]:
    """Errors of each law on each kind in percent, v_n given, one for each seed; and under "noise" those of the truth.

    Returns:
        By law, by kind, then "force" and "strain". The noise is the distance of two independent draws of the truth over
        the root of 2; conditional on the first state, as a rollout has it, that of the strain is less.
    """

    def compute() -> dict[str, Any]:
        models = {name: trained(name) for name in LAWS}
        found: dict[str, Any] = {name: {} for name in (*LAWS, "noise")}
        for kind in UNSEEN:
            seen, again = truth(kind), truth(kind, 2)
            assert again.force is not None
            found["noise"][kind] = _missed(again.force[None], again.field[None], seen, 0.5**0.5)
            for name, model in models.items():
                run = model.predict(seen, "velocity")
                found[name][kind] = _missed(run.force, run.field, seen)
        return cast(dict[str, Any], plain(found))

    key = [LAWS, DESIGNS, UNSEEN, TRAINING, TRUTH]
    kept = cached("beyond-scores", key, compute, Path(__file__))
    return {name: {kind: restored_errors(one) for kind, one in kinds.items()} for name, kinds in kept.items()}


def _missed(force: Tensor | None, field: Tensor, seen: Observations, share: float = 1.0) -> dict[str, list[float]]:
    """Errors of F_ex and strain, with replicas in front, times a share."""
    assert force is not None and seen.force is not None
    pairs = {"force": (force, seen.force), "strain": (field, seen.field)}
    return {name: [share * each for each in each_error(*pair)] for name, pair in pairs.items()}


def told(found: Mapping[str, Any]) -> str:
    """Scores as a Markdown table: F_ex / strain, median and worst seed, percent.

    Args:
        found: as `scores` gives it.
    """
    laws = [name for name in found if name != "noise"]
    lines = []
    for kind, noise in found["noise"].items():
        line = [kind]
        for name in laws:
            parts = [summary(found[name][kind][quantity]) for quantity in ("force", "strain")]
            line.append(" / ".join(f"≈{rounded(p['median'], '%')} [{rounded(p['max'], '%')}]" for p in parts))
        lines.append([*line, " / ".join(rounded(noise[quantity][0], "%") for quantity in ("force", "strain"))])
    return piped(["kind", *laws, "noise"], lines, 0)
