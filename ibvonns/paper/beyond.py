"""Beyond the paper's pulls: a design that turns round, laws learned from it, and unseen protocols of each kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ibvonns.cache import cached
from ibvonns.files import plain
from ibvonns.layouts import Row
from ibvonns.metrics import each_error
from ibvonns.model import Architecture, Model
from ibvonns.observations import Observations, observe
from ibvonns.paper.results import restored_errors, result
from ibvonns.paper.scoreboard import piped, rounded, summary
from ibvonns.protocols import Protocol, lengths, rich
from ibvonns.recipe import Recipe
from ibvonns.seeds import fitted
from ibvonns.systems.chain import LENGTHS, VELOCITY, Chain
from ibvonns.systems.trap import paper_times
from ibvonns.validation import choice, count, require, seeded

__all__ = [
    "DESIGNS", "LAWS", "NEW", "UNSEEN", "Trial", "missed", "observed", "recipe", "scores", "told", "trained", "truth",
    "work",
]  # fmt: skip

LOW, HIGH, DURATION = 0.12, 0.42, 3.0  # lengths of the training data, and a record's time
TRAINING, TRUTH, BLOCKS = 2000, 8000, 8  # realisations of a condition; independent parts of them
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
    "pull": tuple(Protocol("smoothed-linear", VELOCITY, base) for base in LENGTHS[1::2]),
    "hold": (Protocol("hold", 0.12, 0.15, (1.1, 1.7, 2.7)), Protocol("hold", 0.10, 0.17, (0.8, 1.3, 2.6))),
    "cycle": (Protocol("cycle", 0.11, 0.16, (2.6,)), Protocol("cycle", 0.09, 0.15, (1.7,))),
    "unload": (Protocol("unload", 0.13, 0.14, (1.3, 2.7)), Protocol("unload", 0.10, 0.17, (1.2, 2.4))),
    "ramp": (Protocol("ramp", 0.12, 0.15, (0.9,)), Protocol("ramp", 0.09, 0.17, (0.7,))),
    "slow pull": (Protocol("pull", 0.022, 0.16, (1.0,)), Protocol("pull", 0.027, 0.18, (1.0,))),
    "sinusoidal": (Protocol("sinusoidal", VELOCITY, 0.2),),
}


@dataclass(frozen=True)
class Trial:
    """A law and what it learns from.

    Attributes:
        design: a key of `DESIGNS`.
        internal: number of internal variables of a site.
        neighbours: whether alpha feels how hard the sites around pull.
        seeds: how many.
        attempts: as for `Recipe`; 0 where no seed can be sound, and what it misses is what is to be shown.
    """

    design: str
    internal: int = 1
    neighbours: bool = False
    seeds: int = 8
    attempts: int = 2


NEW = "turning, neighbours"  #: The law of chapter 10, by its name in `LAWS`.
#: Laws by name.
#:
#: :meta hide-value:
LAWS: dict[str, Trial] = {
    "paper": Trial("paper"),
    "paper, two": Trial("paper", 2),
    "turning": Trial("rich", seeds=4, attempts=0),
    "turning, two": Trial("rich", 2, seeds=2),
    NEW: Trial("rich", neighbours=True),
    f"{NEW}, two": Trial("rich", 2, neighbours=True, seeds=4),
}


def observed(protocols: Sequence[Protocol], realisations: int, seed: int, points: int = 641) -> Observations:
    """A chain under some protocols, from equilibrium at their first lengths.

    Args:
        protocols: one for each condition.
        realisations: of each, a multiple of 8.
        seed: of every random number.
        points: of the grid of positions.

    Raises:
        ValueError: no protocol, or realisations that do not make 8 equal parts.
    """
    require(
        count("realisations", realisations, BLOCKS) % BLOCKS == 0,
        f"realisations must be a multiple of {BLOCKS}, but are {realisations}",
    )
    chain, times = Chain(), paper_times()
    reached = lengths(protocols, times)
    parts = (chain.simulate(reached, times, realisations // BLOCKS, seeded(BLOCKS * seed + n)) for n in range(BLOCKS))
    return observe(parts, spacing=chain.natural_length, points=points)


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


def recipe(design: str) -> Recipe:
    """The chain's recipe; with data that turn round its last stage has half of the steps, at half of the rate.

    There are more than twice as many conditions in each step, so that half of the steps see as many windows.

    Args:
        design: a key of `DESIGNS`.

    Raises:
        ValueError: unknown design.
    """
    whole = Recipe.of(Row())
    if choice("design", design, DESIGNS) == "paper":
        return whole
    *before, last = whole.stages
    fewer = tuple(replace(phase, steps=phase.steps // 2) for phase in last.phases)
    look = replace(whole.look, share=1)  # conditions that take turns end in larger errors here
    return replace(whole, stages=(*before, replace(last, phases=fewer, learning_rate=RATE)), look=look)


def trained(name: str) -> Model:
    """The seeds of a law, from the cache or trained now; the first is chapter 9's.

    Args:
        name: a key of `LAWS`.

    Raises:
        ValueError: unknown name.
    """
    trial = LAWS[choice("law", name, LAWS)]
    if trial == Trial("paper"):
        return result("chain-cnf")[0]
    plan, spacing = replace(recipe(trial.design), attempts=trial.attempts, coarse=1), Chain().natural_length
    site = Architecture(Row(), spacing, trial.internal, "flow", reference=0.0, neighbours=trial.neighbours)

    def compute() -> dict[str, Any]:
        data = observed(DESIGNS[trial.design], TRAINING, 1, points=161)  # of 641 on the way to as few: 2 GB more
        return fitted(site, data, range(trial.seeds), plan).model.exported()

    key = [Chain(), DESIGNS[trial.design], TRAINING, site, plan, trial.seeds]
    return Model.restored(cached(f"beyond-{name.replace(', ', '-')}", key, compute, Path(__file__)))


def work(force: Tensor, velocity: Tensor, times: Tensor) -> Tensor:
    """Work done at the pulled end, the integral of F_ex v_n, an energy: (...,).

    Around a closed cycle it is what has been dissipated, but for what the free energy has gained.

    Args:
        force: F_ex, shape (..., times), at the beginning of each step.
        velocity: v_n, shape (..., times), a backward difference as recorded.
        times: shape (times,).
    """
    return (force[..., :-1] * velocity[..., 1:] * times.diff()).sum(-1)


def scores(names: Sequence[str] = ()) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Errors of laws on each kind in percent, v_n given, one for each seed; and under "noise" those of the truth.

    Args:
        names: keys of `LAWS`; all if empty.

    Returns:
        By law, by kind, then "force" and "strain". The noise is the distance of two independent draws of the truth over
        the root of 2; conditional on the first state, as a rollout has it, that of the strain is less.

    Raises:
        ValueError: unknown name.
    """
    found = {}
    for name in (*(names or LAWS), "noise"):

        def compute(name: str = name) -> dict[str, Any]:
            model = None if name == "noise" else trained(name)
            return cast(dict[str, Any], plain({kind: missed(model, kind) for kind in UNSEEN}))

        key = [DESIGNS, UNSEEN, TRAINING, TRUTH, None if name == "noise" else LAWS[choice("law", name, LAWS)]]
        kept = cached(f"beyond-scores-{name.replace(', ', '-')}", key, compute, Path(__file__))
        found[name] = {kind: restored_errors(one) for kind, one in kept.items()}
    return found


def missed(model: Model | None, kind: str) -> dict[str, list[float]]:
    """Errors of F_ex and strain in percent, one for each seed, v_n given.

    Args:
        model: of a chain; None for another draw of the truth, whose distance is divided by the root of 2.
        kind: a key of `UNSEEN`.

    Raises:
        ValueError: unknown kind.
    """
    seen, share = truth(kind), 1.0 if model else 0.5**0.5
    found = model.predict(seen, "velocity") if model else truth(kind, 2)
    assert found.force is not None and seen.force is not None
    pairs = {"force": (found.force, seen.force), "strain": (found.field, seen.field)}
    lead = (lambda part: part) if model else (lambda part: part[None])
    return {name: [share * each for each in each_error(lead(ours), true)] for name, (ours, true) in pairs.items()}


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
