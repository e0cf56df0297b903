"""Noise floors with their scatter, and truths with hardly any noise, from many small ensembles.

The truth of a study is a mean over 2000 or 4000 realisations, and its own noise hides how good a
model is. Independent ensembles of the same size tell how large that noise is and how it varies. All
of them together are a truth in which a seventh of it is left (chain), or a fifth (trap).
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ibvonns.chain_model import ChainModel, ChainObservations, observe_chain
from ibvonns.chain_studies import CHAIN_STUDIES, chain_data, chain_errors
from ibvonns.ensemble import Density
from ibvonns.metrics import relative_error
from ibvonns.model import Observations, TrapModel, observe
from ibvonns.studies import STUDIES, cached, exact_trap_errors, result, trap_data, trap_errors
from ibvonns.validation import choice, count, finite

__all__ = ["Floor", "floor_of", "pooled", "truth_scores"]

REALISATIONS = 100_000
FIRST = 20_000  # data seed of the first ensemble; nothing else draws from it or the next ones
BLOCKS = {"trap": 4000, "chain": 2000}  # realisations of a study's own ensembles
POINTS = {"trap": 1024, "chain": 320}  # of the grid
MARGIN = 0.15  # by which the grid outreaches the first ensemble, of its range

Seen = ChainObservations | Observations


@dataclass(frozen=True)
class Floor:
    """Error of a perfect theory against one ensemble: what the ensemble's own noise leaves.

    Attributes:
        value: percent, the mean over ensembles.
        scatter: standard deviation from one ensemble to another.
    """

    value: float
    scatter: float


def floor_of(samples: Tensor) -> Floor:
    """Noise floor of a mean of which several independent samples are at hand.

    Each is compared with the mean of all. That contains a share 1/n of the sample itself, which
    makes the difference too small by a factor sqrt(1 - 1/n).

    Args:
        samples: shape (ensembles, ...), two or more.

    Raises:
        ValueError: NaN, fewer than two ensembles, or a mean that is zero everywhere.

    >>> rng = torch.Generator().manual_seed(0)
    >>> noise = torch.randn(50, 1000, generator=rng, dtype=torch.float64)
    >>> round(floor_of(10 + noise).value)  # a deviation of 1 around 10
    10
    """
    number = count("number of ensembles", len(finite("samples", samples)), 2)
    middle = samples.mean(0)
    errors = torch.tensor(
        [relative_error(sample, middle) for sample in samples], dtype=torch.float64
    )
    errors /= (1 - 1 / number) ** 0.5
    return Floor(float(errors.mean()), float(errors.std()))


def pooled(parts: Sequence[Seen]) -> Seen:
    """Several observations of equal size, on one grid, as one of all their realisations.

    Args:
        parts: of one system, under the same conditions.

    Raises:
        ValueError: nothing to pool, or grids that differ.

    >>> from ibvonns.systems.trap import Trap
    >>> grid = torch.linspace(-2, 6, 400, dtype=torch.float64)
    >>> draws = [Trap().simulate_paper(realisations=5, seed=seed) for seed in (1, 2)]
    >>> one, two = (observe(draw, grid=grid) for draw in draws)
    >>> bool((pooled([one, two]).mean - (one.mean + two.mean) / 2).abs().max() < 1e-12)
    True
    """
    count("number of observations", len(parts))
    total: Any = parts[0]
    for number, part in enumerate(parts[1:], 1):
        total = _joined(total, part, number)
    return total


def _joined(total: Any, part: Any, number: int) -> Any:
    """The mean of `number` observations so far, and of one more."""
    if not torch.equal(total.density.grid, part.density.grid):
        raise ValueError("parts must share one grid, but differ: give `observe` a grid")

    def both(name: str) -> Tensor:
        before, new = getattr(total, name), getattr(part, name)
        return before + (new - before) / (number + 1)

    before, new = total.density.weights, part.density.weights
    changed: dict[str, Any] = {name: both(name) for name in ("mean", "external_force")}
    changed["density"] = Density(part.density.grid, torch.lerp(before, new, 1 / (number + 1)))
    if isinstance(part, Observations):
        second = [each.variance + each.mean**2 for each in (total, part)]
        square = second[0] + (second[1] - second[0]) / (number + 1)
        changed["variance"] = square - changed["mean"] ** 2
    return replace(total, **changed)


def _grids(parts: Mapping[str, Any], points: int) -> dict[str, Tensor]:
    """For each split a grid that outreaches one ensemble by so much that it holds all others."""
    grids = {}
    for split, part in parts.items():
        low, high = part.realisations.aminmax()
        unit = torch.linspace(-MARGIN, 1 + MARGIN, points, dtype=torch.float64)
        grids[split] = low + (high - low) * unit
    return grids


def _ensembles(system: str, number: int) -> Iterator[dict[str, tuple[Seen, Any]]]:
    """Observations of one ensemble after another, each split on a grid of its own."""
    block = BLOCKS[system]
    draw: Any = trap_data if system == "trap" else chain_data
    look: Any = observe if system == "trap" else observe_chain
    grids = _grids(draw(seed=FIRST, realisations=block), POINTS[system])

    def seen(index: int) -> dict[str, tuple[Seen, Any]]:
        # a seed further on draws "sine" and "linear", which must not be that of the next ensemble
        data = draw(seed=FIRST + 2 * index, realisations=block)
        exact = exact_trap_errors(data)["floor"] if system == "trap" else None
        return {split: (look(part, grid=grids[split]), exact) for split, part in data.items()}

    side = torch.get_num_threads()
    with ThreadPoolExecutor(side) as threads:
        for first in range(0, number, side):  # no more at once than are looked at: they are large
            yield from threads.map(seen, range(first, min(first + side, number)))


def _trap(model: TrapModel, number: int) -> dict[str, Any]:
    totals: dict[str, Any] = {}
    floors: dict[str, list[float]] = {}
    for index, parts in enumerate(_ensembles("trap", number)):
        for split, (seen, _) in parts.items():
            totals[split] = _joined(totals[split], seen, index) if index else seen
        for name, value in parts["train"][1].items():
            floors.setdefault(name, []).append(value)
    spread = {name: torch.tensor(values, dtype=torch.float64) for name, values in floors.items()}
    floor = {name: Floor(float(each.mean()), float(each.std())) for name, each in spread.items()}
    return {"trap": (trap_errors(model, totals)[0], floor)}


def _chain(models: Mapping[str, ChainModel], number: int) -> dict[str, Any]:
    totals: dict[str, Any] = {}
    samples: dict[tuple[str, ...], list[Tensor]] = {}
    for index, parts in enumerate(_ensembles("chain", number)):
        for split, (seen, _) in parts.items():
            totals[split] = _joined(totals[split], seen, index) if index else seen
            samples.setdefault(("strain", split), []).append(seen.mean)
            samples.setdefault(("force", split), []).append(seen.external_force)
            for study, model in models.items():
                alpha = model.encoder.ungauged(model.encode(cast(ChainObservations, seen)))
                samples.setdefault(("alpha", split, study), []).append(alpha.float())
    scores: dict[str, Any] = {}
    for study, model in models.items():
        prefix = CHAIN_STUDIES[study][0]
        floor = {}
        for split in totals:
            for quantity in ("strain", "alpha", "force"):
                own = (study,) if quantity == "alpha" else ()
                stack = torch.stack(samples[(quantity, split, *own)])
                if own:  # of the replicas the middle one
                    each = [floor_of(stack[:, replica]) for replica in range(stack.shape[1])]
                    found = sorted(each, key=lambda one: one.value)[len(each) // 2]
                else:
                    found = floor_of(stack)
                for boundary in ("force", "velocity"):
                    if (quantity, boundary) != ("force", "force"):
                        floor[f"{prefix}-{quantity}-{split}-{boundary}"] = found
        scores[study] = (chain_errors(model, totals, prefix)[0], floor)
    return scores


@torch.no_grad()
def truth_scores(study: str, realisations: int = REALISATIONS) -> dict[str, Any]:
    """A study's trained models against ensembles of 100 000 realisations; kept in the cache.

    Args:
        study: a member of `STUDIES`; both studies of the chain are scored at once.
        realisations: in all, a multiple of those of the study's own ensembles.

    Returns:
        A dictionary of two, each by the id of `published.csv`: "errors", one for each seed, as in
        `metrics.json`; and "floor", the value and the scatter of a `Floor`, for ensembles of the
        study's own size. Percent, or nats for likelihoods.

    Raises:
        ValueError: an unknown study, or too few realisations.
    """
    system = "trap" if choice("study", study, STUDIES) == "trap" else "chain"
    number = count("number of ensembles", realisations // BLOCKS[system], 2)
    names = ["trap"] if system == "trap" else list(CHAIN_STUDIES)
    found = {name: result(name) for name in names}

    def compute() -> dict[str, Any]:
        models: dict[str, Any] = {name: parts[0] for name, parts in found.items()}
        scores = _trap(models["trap"], number) if system == "trap" else _chain(models, number)
        return {
            name: {
                "errors": errors,
                "floor": {key: list(asdict(floor).values()) for key, floor in floors.items()},
            }
            for name, (errors, floors) in scores.items()
        }

    parts = [[parts[2]["key"] for parts in found.values()], number]
    return cached(f"{system}-truth", parts, compute, Path(__file__))[study]
