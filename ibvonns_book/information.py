r"""How much the state tells about the microstate: the mutual information I(Z; X) of Eqs. (2), (3).

A row is a condition, a time and a site. One is drawn, all alike, then a realisation of it: X is the
position there, and Z the state of the row, (chi, alpha) or alpha alone. Then::

    H(X) + E log q(x | z)  <=  I(Z; X)  <=  H(X) - H(X | row)

On the left a decoder, whose gap is the mean Kullback-Leibler divergence from p(x | z) to q. On the
right what the row itself tells, of which Z is a function. Where both agree, Z is sufficient. A third
estimate, by nearest neighbours, knows neither decoder nor rows. All are in nats, 1 bit being 0.693.
"""

from dataclasses import dataclass, replace
from math import cos, pi, sqrt
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator, Tensor

from ibvonns.cache import cached
from ibvonns.ensemble import Density, Ensemble
from ibvonns.likelihood import HALF_LOG
from ibvonns.model import Model
from ibvonns.observations import Observations
from ibvonns.paper.limits import spacing_entropy
from ibvonns.paper.studies import BLOCKS, Study, study_of
from ibvonns.seeds import fitted
from ibvonns.systems.trap import Trap
from ibvonns.validation import count, finite, require, shaped

__all__ = [
    "Information",
    "decoded_information",
    "exact_information",
    "information",
    "neighbour_information",
    "pooled_entropy",
    "spacing_information",
    "trained_without_density",
    "without_density",
]


@dataclass(frozen=True)
class Information:
    """An estimate of a mutual information, in nats.

    Attributes:
        value: on all realisations.
        error: its standard error, from the scatter of independent blocks of realisations.
    """

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f} nats"


def pooled_entropy(cloud: Density) -> float:
    """H(X): entropy of the positions of all rows together, each row with the same weight, in nats.

    Args:
        cloud: whose rows together are smooth on its grid.

    >>> grid = torch.linspace(-6, 6, 601, dtype=torch.float64)
    >>> bell = torch.exp(-(grid**2) / 2)
    >>> round(pooled_entropy(Density(grid, (bell / bell.sum())[None])), 4)  # half the log of 2 pi e
    1.4189
    """
    weights = cloud.weights.flatten(0, -2).mean(0)
    return float(-torch.special.xlogy(weights, weights).sum() + cloud.spacing.log())


@torch.no_grad()
def decoded_information(model: Model, data: Observations, alpha: Tensor | None = None) -> Tensor:
    """H(X) less the NLL of the decoder: at most I(Z; X), of each replica, shape (replicas,).

    Args:
        model: whose decoder is asked.
        data: on a grid.
        alpha: of its rows, (replicas, conditions, times, sites, internal); encoded if not given.

    Reference: Barber, Agakov, The IM algorithm, 2003; Alemi et al., Deep variational information
    bottleneck, 2017.
    """
    alpha = model.encode(data) if alpha is None else alpha
    return pooled_entropy(cast(Density, data.cloud)) - model.nll(data, alpha)


def spacing_information(realisations: Tensor) -> float:
    """H(X) - H(X | row) by spacings (`limits.spacing_entropy`): at least I(Z; X) for any state Z.

    Args:
        realisations: shape (..., realisations), the leading axes being rows.

    Raises:
        ValueError: as `limits.spacing_entropy`.

    >>> rng = torch.Generator().manual_seed(0)
    >>> same = torch.randn(2, 4000, generator=rng, dtype=torch.float64)
    >>> apart = same + torch.tensor([[0.0], [100.0]])  # the row is then known: log 2
    >>> abs(spacing_information(same)) < 0.02, abs(spacing_information(apart) - 0.693) < 0.02
    (True, True)
    """
    return float(spacing_entropy(realisations.flatten()) - spacing_entropy(realisations).mean())


def _scores(values: Tensor) -> Tensor:
    """Normal scores of each column: what only its order decides."""
    require(all(len(column.unique()) == len(values) for column in values.T), "x and z must hold no value twice, but do")
    return torch.special.ndtri((values.argsort(0).argsort(0) + 0.5) / len(values))


def neighbour_information(x: Tensor, z: Tensor, neighbours: int = 5) -> float:
    """I(Z; X) from pairs alone, by the distances to nearest neighbours (Kraskov's first estimate).

    Each variable is first replaced by its normal scores. I(Z; X) knows no monotone map of a
    variable, and this estimate does not, either.

    Args:
        x: shape (pairs,), no two equal.
        z: shape (pairs, variables), no two of a variable equal.
        neighbours: k; more mean less scatter and more bias.

    Raises:
        ValueError: NaN, wrong shape, two values that are equal, or too few pairs.

    Reference: Kraskov, Stögbauer, Grassberger, Phys. Rev. E 69 (2004) 066138.

    >>> rng = torch.Generator().manual_seed(0)
    >>> x, z = torch.randn(2, 1000, generator=rng, dtype=torch.float64)
    >>> abs(neighbour_information(x, z[:, None])) < 0.05
    True
    """
    number = len(shaped("x", finite("x", x), ("pairs",)))
    shaped("z", finite("z", z), (number, "variables"))
    require(number > count("neighbours", neighbours), f"pairs must number more than {neighbours}, but number {number}")
    one, other = _scores(x[:, None].double()), _scores(z.double())
    total, digamma = 0.0, torch.special.digamma
    for some in torch.arange(number).split(500):  # to bound memory
        near = [torch.cdist(each[some], each, p=torch.inf) for each in (one, other)]
        radius = torch.maximum(*near).kthvalue(neighbours + 1, dim=1, keepdim=True).values  # the first is itself
        total += float(sum(digamma((part < radius).sum(1).double()).sum() for part in near))
    ends = digamma(torch.tensor([neighbours, number], dtype=torch.float64)).sum()
    return float(ends) - total / number


def exact_information(trap: Trap, lengths: Tensor, times: Tensor) -> float:
    """I of the trap's mean and a particle's position, all conditions and times alike, in nats.

    The mean decides the density (its width is nearly one), so that this is what any state can tell.

    Args:
        trap: whose moments are exact.
        lengths: pulled length, shape (conditions, times).
        times: shape (times,).
    """
    mean = trap.mean(lengths, times).flatten()
    deviation = trap.deviation(times).expand(lengths.shape).flatten()
    reach = 8 * float(deviation.max())
    grid = torch.linspace(float(mean.min()) - reach, float(mean.max()) + reach, 4001, dtype=torch.float64)
    parts = zip(mean.split(200), deviation.split(200), strict=True)
    bells = [(torch.exp(-(((grid - m[:, None]) / s[:, None]) ** 2) / 2) / s[:, None]).sum(0) for m, s in parts]
    weights = torch.stack(bells).sum(0)
    pooled = pooled_entropy(Density(grid, (weights / weights.sum())[None]))
    return pooled - float((deviation.log() + HALF_LOG + 0.5).mean())


@torch.no_grad()
def information(
    study: Study, model: Model, split: str = "test", replica: int = 0, every: int = 1, pairs: int = 3000
) -> dict[str, Information]:
    """I(Z; X) of a split in three ways, each with its standard error.

    Args:
        study: whose data they are, of seed 0.
        model: trained on it.
        split: a key of its splits.
        replica: of the model.
        every: times from one that counts to the next.
        pairs: of state and position that are drawn of each block for "neighbours".

    Returns:
        "decoder", at most I(Z; X); "spacings", at least; and "neighbours", the thing itself but for
        its bias. Z is (chi, alpha), but alpha alone at a point, whose density knows no control.
    """
    blocks = [
        Ensemble(
            part.times[::every],
            part.realisations[:, ::every].clone(),
            {n: r[:, ::every] for n, r in part.records.items()},
        )
        for part in study.blocks(split)
    ]
    grid, rng = study.grid(split), Generator().manual_seed(0)
    data = study.observe(blocks, grid)
    alpha = model.encode(data)
    states = model.states(data, alpha) if model.architecture.bonds else alpha
    z = states[replica].flatten(0, 2)
    found: dict[str, list[float]] = {"decoder": [], "spacings": [], "neighbours": []}
    for block in blocks:
        rows = block.realisations.flatten(0, -2)
        own = replace(study.observe(block, grid), field=data.field)
        found["decoder"].append(float(decoded_information(model, own, alpha)[replica]))
        found["spacings"].append(spacing_information(rows))
        some = torch.randperm(len(rows), generator=rng)[:pairs]
        # another realisation for each row: the positions of one are tied through time
        one = torch.randint(rows.shape[1], (len(some),), generator=rng)
        found["neighbours"].append(neighbour_information(rows[some, one], z[some]))
    means = torch.tensor(list(found.values()), dtype=torch.float64)
    whole = {
        "decoder": float(decoded_information(model, data, alpha)[replica]),
        "spacings": spacing_information(torch.cat([block.realisations for block in blocks], -1)),
        "neighbours": float(means[2].mean()),
    }
    errors = (means.std(1) / sqrt(BLOCKS)).tolist()
    return {name: Information(value, error) for (name, value), error in zip(whole.items(), errors, strict=True)}


def without_density(study: str | Study) -> Study:
    """The same study with lambda_pdf = 0 in Eq. (16): nothing is asked of the decoder.

    >>> [stage.weights["density"] for stage in without_density("trap").recipe.stages]
    [0.0]
    """
    one = study_of(study)
    stages = tuple(replace(stage, weights={**stage.weights, "density": 0.0}) for stage in one.recipe.stages)
    return replace(one, recipe=replace(one.recipe, stages=stages))


def trained_without_density(study: str | Study = "trap", steps: int = 600) -> Model:
    """A study trained with lambda_pdf = 0, its decoder afterwards; from the cache if it is there.

    The decoder learns for `steps` with all else as it is: it tells what alpha knows, and cannot
    teach it.

    Args:
        study: one, or the name of one; of a point.
        steps: of the decoder's training.
    """
    one = without_density(study)

    def compute() -> dict[str, Any]:
        seen = one.observed("train")
        model = fitted(one.architecture, seen, range(one.seeds), one.recipe).model
        few = seen.every(10).coarser(one.recipe.coarse)
        alpha, adam = model.encode(few).detach(), torch.optim.Adam(model.decoder.parameters())
        for step in range(steps):
            adam.param_groups[0]["lr"] = 2e-2 * (1 + cos(pi * step / steps)) / 2
            adam.zero_grad()
            model.nll(few, alpha).sum().backward()
            adam.step()
        return model.exported()

    return Model.restored(
        cached("no-density", [one.drawn, one.architecture, one.recipe, one.seeds, steps], compute, Path(__file__))
    )
