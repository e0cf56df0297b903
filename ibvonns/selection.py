r"""How many internal variables a system needs: held-out errors, and a test of what the state leaves out.

A state z is sufficient if nothing else that one could measure in the ensemble tells what comes next. Then what a
law misses in a step is noise: it has no mean, whatever the variance, the skewness or the share of realisations in
some region just were. `sufficiency` regresses what is missed, and these others, on the state and its forces, and asks
whether what is left of the one still goes with what is left of the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ibvonns.ensemble import Density
from ibvonns.fit import Fit, fit, scores
from ibvonns.layouts import Layout, moved
from ibvonns.model import Model
from ibvonns.observations import Observations
from ibvonns.rollout import rollout
from ibvonns.validation import count, finite, require, shaped

__all__ = ["Choice", "Sufficiency", "choose", "missed", "shape_of", "sufficiency"]

DEGREE = 3  # of the polynomials of state and forces that are no news
ALIKE = 1.25  # errors of so many times the least are as good


@dataclass(frozen=True)
class Sufficiency:
    """Whether the state was enough, for each replica.

    Attributes:
        p: chance of so clear a sign of something else, were the state enough, shape (replicas,).
        share: of what the law misses in a step that the others tell beforehand, beyond what chance would, shape
            (replicas,); noise, which nothing tells, included.
    """

    p: Tensor
    share: Tensor


def shape_of(data: Observations) -> Tensor:
    """What an ensemble shows besides its mean: log variance, skewness and kurtosis of each site, in its last axis.

    Args:
        data: on a grid.

    Raises:
        ValueError: data that keep realisations instead.
    """
    require(isinstance(data.cloud, Density), "data must be on a grid for their shape, but hold realisations")
    away, weights = data.cloud.grid - data.mean, data.cloud.weights  # type: ignore[union-attr]
    second, third, fourth = ((weights * away**power).sum(-1) for power in (2, 3, 4))
    return torch.stack([second.log(), third / second**1.5, fourth / second**2], -1)


@torch.no_grad()
def missed(model: Model, data: Observations) -> tuple[Tensor, Tensor, Tensor]:
    """States, their forces, and what the law misses in the step from each to the next.

    Args:
        model: with its gauge frozen.
        data: observations.

    Returns:
        z, g as `Law.driving` gives it, and the next state less the predicted one without the fields that are given,
        (replicas, conditions (times - 1), sites, ...), the times of a condition in a row.

    Raises:
        ValueError: observations of another layout.
    """
    law, steps = model.law, data.times.diff()
    z = model.states(model.matched(data), model.encode(data))
    here, known = z[:, :, :-1].flatten(1, 2), dict[str, Any]()
    pull = None if data.force is None or not law.layout.driven else data.force[:, :-1, 0].reshape(-1, 1)
    if law.layout.driven:
        known = {"force": pull, "velocity": None if data.velocity is None else data.velocity[:, 1:].reshape(-1, 1)}
    elif not law.layout.directions:
        known = {"field": data.field[:, :-1, 0].flatten(0, 1)[:, None]}
    path, _ = rollout(law, here, steps.repeat(len(data.mean))[:, None], **known)
    first = law.layout.fields - bool(law.layout.directions)  # of a row the last field moves
    wrong = (z[:, :, 1:].flatten(1, 2) - path[:, :, 0])[..., first:]
    return here, law.driving(here, None if pull is None else pull[:, 0]), wrong


@torch.no_grad()
def sufficiency(model: Model, data: Observations, others: Tensor | None = None) -> Sufficiency:
    """Test whether others than the state tell what the law will miss in the next step.

    Sites of one condition at one time are not independent, so that the scatter is taken from time to time; what is
    missed at different times is independent, if the state is enough.

    Args:
        model: trained, with its gauge frozen.
        data: which it has not seen.
        others: that may tell more, shape (conditions, times, sites, others); `shape_of` the data if not given.

    Raises:
        ValueError: NaN, wrong shape, too few times for so many others, or observations of another layout.

    Reference: Liang, Zeger, Biometrika 73 (1986) 13: errors of a regression from groups that are independent.
    """
    others = shape_of(model.matched(data)) if others is None else others
    shaped("others", finite("others", others), (*data.mean.shape[:3], "others"))
    here, g, wrong = missed(model, data)
    state = torch.cat([here, g], -1)
    if model.architecture.neighbours:
        layout = model.law.layout
        state = torch.cat([state, moved(layout, g[..., : layout.directions])[..., None]], -1)
    news = others[:, :-1].flatten(0, 1)
    tested = [_tested(*parts, news) for parts in zip(state, wrong, strict=True)]
    return Sufficiency(*torch.tensor(tested, dtype=torch.float64).T)


def _tested(state: Tensor, missed: Tensor, news: Tensor) -> tuple[float, float]:
    """p and share of one replica; all of shape (times of all conditions, sites, ...)."""
    times, sites, width = *news.shape[:2], news.shape[2] * missed.shape[2]
    x, new = (_standard(part.flatten(0, 1)) for part in (state, news))
    columns = [x.new_ones(len(x))]
    for degree in range(1, DEGREE + 1):
        columns += [torch.stack(some).prod(0) for some in combinations_with_replacement(x.unbind(1), degree)]
    basis, _ = torch.linalg.qr(torch.stack(columns, 1))
    allowed = f"times must number over {len(columns) + width} for so many others, but number {times}"
    require(times > len(columns) + width, allowed)
    new, left = (part - basis @ (basis.T @ part) for part in (new, _standard(missed.flatten(0, 1))))
    slope = torch.linalg.lstsq(new, left).solution
    score = (new[:, :, None] * (left - new @ slope)[:, None]).unflatten(0, (times, sites)).sum(1).flatten(1)
    # what the score is at slope 0, in units of how it scatters from time to time
    aim = (new.T @ left).flatten()
    squared = float(aim @ torch.linalg.solve(score.T @ score, aim)) * (times - width) / times
    p = torch.special.gammaincc(aim.new_tensor(width / 2), aim.new_tensor(squared / 2))
    told = float((new @ slope).square().sum() / left.square().sum())
    return float(p), max(0.0, told - new.shape[1] / len(left))


def _standard(values: Tensor) -> Tensor:
    return (values - values.mean(0)) / values.std(0).clamp_min(1e-300)


@dataclass(frozen=True)
class Choice:
    """Fits with several numbers of internal variables, and which of these is enough.

    Attributes:
        number: the smallest that predicts unseen conditions as well as any.
        fits: by number.
        errors: of the unseen conditions by number, percent, one for each seed.
        noise: of these, percent: a smaller error tells nothing.
        tests: of `sufficiency` by number.
    """

    number: int
    fits: dict[int, Fit]
    errors: dict[int, tuple[float, ...]]
    noise: float
    tests: dict[int, Sufficiency]

    def __str__(self) -> str:
        lines = []
        for number, errors in self.errors.items():
            low, middle, high = (f"{each:.2g}" for each in (min(errors), median(errors), max(errors)))
            share, p = (float(part.median()) for part in (self.tests[number].share, self.tests[number].p))
            told = f"others tell {100 * share:.2g} % of what is missed, p {p:.2g}"
            seen = f"unseen {middle} % [{low}, {high}], noise {self.noise:.2g} %"
            lines.append(f"{number} internal: {seen}; {told}{' <- enough' if number == self.number else ''}")
        return "\n".join(lines)


def choose(
    data: Observations, unseen: Observations, layout: Layout, numbers: Sequence[int] = (1, 2, 3), **options: Any
) -> Choice:
    """Fit with several numbers of internal variables; the smallest that predicts what it has not seen as well as any.

    Errors within a quarter of the smallest, or below the noise, are as good.

    Args:
        data: for training.
        unseen: other conditions of the same system.
        layout: of the sites.
        numbers: to be tried, increasing; 0 needs sites with bonds.
        options: as for `fit.fit`.

    Raises:
        ValueError: no number, or as `fit.fit`.
    """
    require(len(numbers) > 0, "numbers must name at least 1, but name 0")
    fits = {count("number", each, 0): fit(data, layout, internal=each, **options) for each in sorted(numbers)}
    found = {number: scores(each.model, unseen) for number, each in fits.items()}
    first = "field" if layout.directions else "force"
    errors = {number: each[first].errors for number, each in found.items()}
    noise = next(iter(found.values()))[first].noise
    enough = max(noise, ALIKE * min(median(each) for each in errors.values()))
    number = next(number for number, each in errors.items() if median(each) <= enough)
    tests = {number: sufficiency(each.model, unseen) for number, each in fits.items()}
    return Choice(number, fits, errors, noise, tests)
