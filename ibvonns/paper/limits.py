"""What no model can beat: the noise floor of a prediction, and the entropy of the densities.

The noise floor of a row is the error that an exact theory would show given what the prediction is
given: the ensemble's own first state, and its own F_ex where that drives the end. For the trap this
theory is known (`exact_limits`); for the chain the simulator stands in for it, run again from the
very same chains with other noise (`sampled_floors`). A law's own error and the floor add in squares.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import hypot, sqrt
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy
import torch
from torch import Generator, Tensor

from ibvonns.cache import cached
from ibvonns.decoders import gaussian_nll
from ibvonns.ensemble import Ensemble
from ibvonns.metrics import relative_error
from ibvonns.model import Model
from ibvonns.observations import Observations
from ibvonns.paper.studies import Study, exact_potentials
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap
from ibvonns.validation import count, finite, require, shaped

__all__ = [
    "EntropyLimit",
    "Restarted",
    "comparable",
    "entropy_limit",
    "entropy_limits",
    "exact_limits",
    "limits",
    "restart_floors",
    "sampled_floors",
    "spacing_entropy",
]

INDEPENDENT = 10_000  # added to the data's seed for ensembles that no training has seen


def exact_limits(system: Trap, data: Mapping[str, Observations], prefix: str = "trap") -> dict[str, Any]:
    """How good can any model look on these data? The exact theory, scored as a model would be.

    Args:
        system: whose theory is known.
        data: by split, "train" among them.
        prefix: of the ids.

    Returns:
        A dictionary of two, each by the id of `published.csv`, in percent or nats. First "floor",
        the errors of the exact theory given what a model is given: rolled out from each ensemble's
        own first mean (F_ex and alpha, for which the standardised mean stands), or at the sampled
        states (f, phi and the density). Then "limit", of the likelihoods: the entropy of the exact
        law.

    >>> from ibvonns.paper.studies import STUDIES
    >>> data = STUDIES["trap"].data(realisations=20)
    >>> sorted(exact_limits(STUDIES["trap"].system, data))
    ['floor', 'limit']
    """
    floor: dict[str, float] = {}
    limit: dict[str, float] = {}
    training = data["train"].mean  # its mean and deviation set the gauge
    for split, seen in data.items():
        lengths, times, sampled = seen.field[:, :, 0, 0], seen.times, seen.mean[:, :, 0, 0]
        assert seen.force is not None
        force, mean, deviation = seen.force[..., 0], system.mean(lengths, times), system.deviation(times)
        # the equation is linear: an initial deviation decays and the rest is unchanged
        decay = torch.cumprod(torch.cat([times.new_ones(1), 1 - system.rate * times.diff()]), 0)
        started = mean + (sampled[:, :1] - mean[:, :1]) * decay
        alphas = ((each - training.mean()) / training.std(unbiased=False) for each in (started, sampled))
        nll = gaussian_nll(mean, deviation, sampled, seen.variance[:, :, 0, 0])
        found = {"force": relative_error(system.external_force(lengths, started), force)}
        found |= {"alpha": relative_error(*alphas), "nll": float(nll.mean())}
        exact, ours = (exact_potentials(system, lengths, each) for each in (mean, sampled))
        found |= {quantity: relative_error(ours[quantity], truth) for quantity, truth in exact.items()}
        floor |= {f"{prefix}-{quantity}-{split}": value for quantity, value in found.items()}
        limit[f"{prefix}-nll-{split}"] = float(gaussian_nll(mean, deviation, mean, deviation**2).mean())
    return {"floor": floor, "limit": limit}


@dataclass(frozen=True, eq=False)
class Restarted:
    """A chain whose realisations start where those of the system do, and then meet other noise.

    Attributes:
        system: whose first states these are, for the same seed.
        noise: 1 to 3: each is another noise.
        force: F_ex that drives the ends, as `Chain.simulate` takes it; the pull if not given.
    """

    system: Chain
    noise: int = 1
    force: Tensor | None = None

    def simulate_paper(self, protocol: str, values: tuple[float, ...], realisations: int, seed: int, /) -> Ensemble:
        """As `Chain.simulate_paper`, whose parameters these are.

        Args:
            protocol: a key of `protocols.PROTOCOLS`.
            values: first total length of each condition.
            realisations: how many chains for each condition.
            seed: of the first states, and with `noise` of what comes after.

        >>> one, other = (each.simulate_paper("sinusoidal", (0.2,), 2, 0) for each in (Chain(), Restarted(Chain())))
        >>> torch.equal(one.realisations[:, 0], other.realisations[:, 0]), torch.equal(one.mean(), other.mean())
        (True, False)
        """
        lengths, times = self.system.pulls(protocol, values)
        first = self.system.initial(lengths[:, 0], realisations, Generator().manual_seed(seed))
        fresh = Generator().manual_seed(seed + self.noise * 2**30)
        return self.system.simulate(lengths, times, realisations, fresh, first, self.force)


def comparable(seen: Observations, model: Model | None = None) -> dict[str, Tensor]:
    """What a rollout is compared with, by quantity: (1 or replicas, conditions, times, ...).

    Args:
        seen: of a chain.
        model: whose alpha is encoded, in single precision, zero where no spring is strained.
    """
    known = {"strain": seen.mean[None], "force": cast(Tensor, seen.force)[None]}
    if model is None or not model.architecture.internal:
        return known
    return known | {"alpha": model.encoder.ungauged(model.encode(seen)).float()}


def restart_floors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Noise floors in percent by quantity, one for each replica, of two runs from one start.

    Each differs from what an exact theory would say of the start by its own noise, and so from the
    other by the root of two times the floor.

    Args:
        one: as `comparable` gives it.
        other: of the second run.
    """
    pairs = {name: zip(other[name], one[name], strict=True) for name in one}
    return {name: [relative_error(*pair) / sqrt(2) for pair in each] for name, each in pairs.items()}


@torch.no_grad()
def sampled_floors(
    study: Study, data: Mapping[str, Observations], seed: int = 0, model: Model | None = None
) -> dict[str, float]:
    """Noise floor of each error row, from the same realisations run again with other noise (chapter 7).

    Args:
        study: of a chain, whose data they are.
        data: by split.
        seed: of the data.
        model: for the alpha rows, which need an encoder; the median over its replicas counts.

    Returns:
        Percent by id. With F_ex given, the second run's ends are driven by that of the first.

    Raises:
        ValueError: data of another seed: they do not start where the second run does.
    """
    floors: dict[str, float] = {}
    for split, seen in data.items():
        own = comparable(seen, model)
        for given in study.ends:
            force = own["force"][0, ..., 0] if given == "force" else None
            again = study.with_system(Restarted(cast(Chain, study.system), force=force))
            other = again.observed(split, seed, seen.count, study.grid(split))
            same = torch.allclose(other.mean[:, 0], seen.mean[:, 0], atol=1e-9)
            require(same, f"seed must be that of the data, but {seed} starts the {split} data elsewhere")
            for quantity, values in restart_floors(own, comparable(other, model)).items():
                if study.asked(quantity, given):
                    floors[study.row(quantity, split, given)] = median(values)
    return floors


def spacing_entropy(samples: Tensor) -> Tensor:
    r"""Differential entropy of a density of one variable from samples of it, in nats.

    Between neighbours in sorted order, (n + 1) times the spacing is near an exponential variable of
    mean 1/q, whose logarithm has the mean -log q - gamma with Euler's constant gamma. So::

        H = mean log[(n + 1)(x_(i+1) - x_(i))] + gamma,

    with no bins to choose. What bias is left, from the tails, is below 0.004 nats at n = 2000 and
    below 0.001 at 20 000 for a Gaussian or two; a histogram's is 0.01 at 2000 (chapter 7).

    Args:
        samples: independent draws in the last axis, shape (..., samples), no two of them equal.

    Returns:
        Shape (...), float64.

    Raises:
        ValueError: NaN, fewer than two samples, or two that are equal (as in single precision).

    Reference: Kozachenko and Leonenko, Probl. Inf. Transm. 23 (1987) 95; Hall, Math. Proc. Camb.
    Philos. Soc. 96 (1984) 517, for spacings.

    >>> rng = torch.Generator().manual_seed(0)
    >>> draws = torch.randn(20000, generator=rng, dtype=torch.float64)
    >>> abs(float(spacing_entropy(draws)) - 1.4189) < 0.02  # half the log of 2 pi e
    True
    """
    number = shaped("samples", finite("samples", samples), ("...", "samples")).shape[-1]
    require(number >= 2, f"samples must number at least 2, but number {number}")
    spacings = torch.from_numpy(numpy.sort(samples.numpy(force=True))).diff(dim=-1).double()  # with no indices
    distinct = bool((spacings > 0).all())
    require(distinct, "samples must all differ, for a density has no two equal draws, but two are equal")
    return spacings.mul_(number + 1).log_().mean(-1) + numpy.euler_gamma


@dataclass(frozen=True)
class EntropyLimit:
    """The lowest expected NLL that any density can have, in nats per site, and its error.

    Attributes:
        value: mean differential entropy of a single site over conditions, times and sites.
        error: standard error of `value`.
    """

    value: float
    error: float


def entropy_limit(
    study: Study, split: str, seed: int = INDEPENDENT, every: int = 15, ensembles: int = 5
) -> EntropyLimit:
    """Entropy limit of a split, from ensembles of its own, each as large as the study's.

    Each marginal's entropy is estimated by nearest spacings (`spacing_entropy`), whose bias is far
    below that of a histogram. What is left of it falls about as the number of realisations: the
    change from one ensemble to all of them tells it, and it is taken off. Every `every`-th time is
    used, and more at first; between them the entropies are interpolated. The error is the scatter
    between ensembles and half of the change from one to all.

    Args:
        study: that is asked.
        split: a key of its splits.
        seed: of the first ensemble's data; the next ones count up.
        every: steps between two times.
        ensembles: how many, two or more.

    Raises:
        ValueError: fewer than two ensembles.
    """
    kept, times, steps = list[Tensor](), torch.empty(0, dtype=torch.long), 0
    for index in range(count("ensembles", ensembles, 2)):
        parts = []
        for block in study.blocks(split, seed + index):
            steps = len(block.times)
            # denser at first, when the coarse step widens the wells of the exact equilibrium
            dense = torch.tensor([0, 1, 2, 3, 4, 6, 8, 11, steps - 1])
            times = torch.cat([dense, torch.arange(every, steps, every)]).unique()
            parts.append(block.realisations[:, times])
        kept.append(torch.cat(parts, -1))
    # weight of each time kept: its hat function averaged over all times
    hats = [numpy.interp(range(steps), times, hat).mean() for hat in numpy.eye(len(times))]
    share = torch.tensor(hats, dtype=torch.float64)

    def mean(several: list[Tensor]) -> float:  # condition by condition, to bound memory
        rows = [spacing_entropy(torch.cat(each, -1)) for each in zip(*several, strict=True)]
        return float((torch.stack(rows).flatten(2).mean((0, 2)) * share).sum())

    whole, each = mean(kept), torch.tensor([mean([part]) for part in kept], dtype=torch.float64)
    change = whole - float(each.mean())
    error = hypot(float(each.std()) / sqrt(ensembles), change / 2)
    return EntropyLimit(whole + change / (ensembles - 1), error)


def entropy_limits(study: Study, data_seed: int = 0) -> dict[str, EntropyLimit]:
    """`entropy_limit` of "train" and "test", from ensembles of their own; kept in the cache.

    Args:
        study: that is asked; studies that differ by their models alone share the result.
        data_seed: of the data of which it is the limit; the ensembles' own seeds lie far from it.
    """

    def compute() -> dict[str, Any]:
        seed = data_seed + INDEPENDENT
        return {split: asdict(entropy_limit(study, split, seed)) for split in ("train", "test")}

    stored = cached("entropy", [study.drawn, data_seed], compute, Path(__file__))
    return {split: EntropyLimit(**entry) for split, entry in stored.items()}


def limits(study: Study, data: Mapping[str, Observations], model: Model, data_seed: int = 0) -> dict[str, Any]:
    """Floors and limits of a study: from its exact theory where it has one, else from more draws.

    Args:
        study: whose data they are.
        data: by split.
        model: for the floors that need an encoder.
        data_seed: of the data.

    Returns:
        "floor" and "limit" by id, as `exact_limits` says, and "limit_error" where it is known.
    """
    if (exact := study.exact) is not None:
        return exact_limits(exact, data, study.prefix)
    known = {f"{study.prefix}-nll-{split}": entry for split, entry in entropy_limits(study, data_seed).items()}
    limit, error = ({key: getattr(entry, name) for key, entry in known.items()} for name in ("value", "error"))
    floor = sampled_floors(study, data, data_seed, model)
    return {"floor": floor | limit, "limit": limit, "limit_error": error}
