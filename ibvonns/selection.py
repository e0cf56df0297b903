r"""How many internal variables a system needs: held-out errors, and a test of what the state leaves out.

A state z is sufficient if nothing else that one could measure in the ensemble tells what comes next. Then what a
law misses in a step is noise: it has no mean, whatever the variance, the skewness or the share of realisations in
some region just were. `sufficiency` regresses what is missed, and these others, on the state and its forces, and asks
whether what is left of the one still goes with what is left of the other.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from ibvonns.answers import equilibrium
from ibvonns.ensemble import Density
from ibvonns.layouts import moved
from ibvonns.metrics import each_error
from ibvonns.model import Architecture, Model
from ibvonns.observations import Observations
from ibvonns.recipe import Recipe
from ibvonns.rollout import rollout
from ibvonns.seeds import Fit, fitted, scores
from ibvonns.validation import count, finite, require, shaped

__all__ = ["Choice", "Sufficiency", "choose", "missed", "shape_of", "sufficiency"]

DEGREE = 3  # of the polynomials of state and forces that are no news
ALIKE = 1.25  # errors of so many times the least are as good
REFUSED = 0.01  # chance below which a state is not enough
DENSE = 0.02  # nats by which a likelihood may fall behind


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
    here, known, both = z[:, :, :-1].flatten(1, 2), dict[str, Any](), 1 + (law.steps == "midpoint")

    def driven(part: Tensor) -> Tensor:  # at the beginning of each step, or at both ends
        return torch.stack([part[:, :-1], part[:, 1:]], 2)[:, :, :both].flatten(0, 1)

    pull = None if data.force is None or not law.layout.driven else data.force[:, :-1, 0].reshape(-1, 1)
    if law.layout.driven:
        known["velocity"] = None if data.velocity is None else data.velocity[:, 1:].reshape(-1, 1)
        known["force"] = None if data.force is None else driven(data.force[..., 0])
    elif not law.layout.directions:
        known["field"] = driven(data.field[:, :, 0])
    path, _ = rollout(law, here, steps.repeat(len(data.mean))[:, None], **known)
    wrong = (z[:, :, 1:].flatten(1, 2) - path[:, :, 0])[..., law.layout.given :]
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
        number: the smallest that predicts unseen conditions as well as any, and whose state is enough.
        fits: by number.
        errors: of the unseen conditions by number, percent, one for each seed; of several forces the root mean square.
        noise: of these, percent: a smaller error tells nothing.
        nll: of the unseen positions by number, nats, one for each seed.
        tests: of `sufficiency` by number; none where the positions have several components.
    """

    number: int
    fits: dict[int, Fit]
    errors: dict[int, tuple[float, ...]]
    noise: float
    nll: dict[int, tuple[float, ...]]
    tests: dict[int, Sufficiency]

    def __str__(self) -> str:
        lines = []
        for number, errors in self.errors.items():
            low, middle, high = (f"{each:.2g}" for each in (min(errors), median(errors), max(errors)))
            seen = f"unseen {middle} % [{low}, {high}], noise {self.noise:.2g} %, {median(self.nll[number]):.3f} nats"
            if number in self.tests:
                share, p = (float(part.median()) for part in (self.tests[number].share, self.tests[number].p))
                seen += f"; others tell {100 * share:.2g} % of what is missed, p {p:.2g}"
            lines.append(f"{number} internal: {seen}{' <- enough' if number == self.number else ''}")
        return "\n".join(lines)


@torch.no_grad()
def choose(
    data: Observations,
    unseen: Observations,
    architecture: Architecture,
    numbers: Sequence[int] = (1, 2, 3),
    seeds: Sequence[int] = (0, 1),
    recipe: Recipe | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Choice:
    """Fit with several numbers of internal variables; the smallest that is enough.

    Of those that predict what they have not seen as well as any it is the smallest whose state `sufficiency` does not
    refuse, or the smallest of all if it refuses each.

    At a point several variables are tried as they come and anchored (`encoder.Encoder`); the better of the two stays.
    Errors within a quarter of the smallest, or below the noise, are as good, and so are likelihoods within a
    fiftieth of a nat. Where a point is known to begin at rest (`Observations.rested`) the error is the larger of two,
    from the particles and from the law's own equilibrium. Once a number is no better than the one before it, larger
    ones are not tried.

    Args:
        data: for training.
        unseen: other conditions of the same system.
        architecture: of the models, but for the number of variables.
        numbers: to be tried, the smallest first; 0 needs sites with bonds.
        seeds: one for each replica.
        recipe: as for `seeds.fitted`; no seed is drawn anew.
        folder: as for `seeds.fitted`.

    Raises:
        ValueError: no number, or as `seeds.fitted`.
    """
    require(len(numbers) > 0, "numbers must name at least 1, but name 0")
    plan = replace(recipe or Recipe.of(architecture.layout, architecture.gas), attempts=0)
    fits, tests, noise = dict[int, Fit](), dict[int, Sufficiency](), 0.0
    errors, nll = dict[int, tuple[float, ...]](), dict[int, tuple[float, ...]]()
    for number in sorted(count("number", each, 0) for each in numbers):
        for each in architecture.having(number):
            fit = fitted(each, data, seeds, plan, folder)
            found = scores(fit.model, unseen)
            told = [score for name, score in found.items() if name != "alpha" or len(found) == 1]
            wrong = tuple(_together(each) for each in zip(*(score.errors for score in told), strict=True))
            if unseen.rested and unseen.force is not None and not architecture.bonds:
                wrong = tuple(map(max, wrong, _from_rest(fit.model, unseen)))
            if number not in fits or median(wrong) < median(errors[number]):
                fits[number], errors[number], model = fit, wrong, fit.model
                noise, nll[number] = _together([score.noise for score in told]), _nats(fit.model, unseen)
        if unseen.mean.shape[-1] == 1:
            tests[number] = sufficiency(model, unseen)
        *before, last = map(median, errors.values())
        *denser, dense = map(median, nll.values())
        if before and last > before[-1] / ALIKE and dense > denser[-1] - DENSE:
            break
    enough, likely = max(noise, ALIKE * min(map(median, errors.values()))), min(map(median, nll.values())) + DENSE
    good = [n for n, each in errors.items() if median(each) <= enough and median(nll[n]) <= likely]
    enough_of = [n for n in good if n not in tests or float(tests[n].p.median()) > REFUSED]
    return Choice(next(iter([*enough_of, *good]), max(errors)), fits, errors, noise, nll, tests)


def _from_rest(model: Model, data: Observations) -> tuple[float, ...]:
    """Errors of F_ex of each replica, percent, if a point starts from its own equilibrium."""
    begun = equilibrium(model, data.field[:, 0, 0])[..., data.field.shape[-1] :]
    force = cast(Tensor, model.predict(data, alpha=begun).force)
    each = zip(force.unbind(-1), cast(Tensor, data.force).unbind(-1), strict=True)
    return tuple(_together(errors) for errors in zip(*(each_error(*both) for both in each), strict=True))


def _nats(model: Model, data: Observations) -> tuple[float, ...]:
    """Mean negative log-likelihood of each replica."""
    return tuple(model.nll(data, model.encode(data)).tolist())


def _together(parts: Sequence[float]) -> float:
    """Root mean square."""
    return (sum(part**2 for part in parts) / len(parts)) ** 0.5
