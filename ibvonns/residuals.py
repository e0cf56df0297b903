"""What a trained law misses in a step, in observations it has not seen: is it noise, and of which size?

Where the state is enough and the law is right, a step misses what the particles' own noise adds: without memory,
Gaussian where particles are many, and as large as their number says. Each of the three is measured.
"""

from dataclasses import dataclass
from math import exp, sqrt
from typing import Any

import torch
from torch import Tensor

from ibvonns.model import Model
from ibvonns.observations import Observations
from ibvonns.selection import missed
from ibvonns.validation import count

__all__ = ["Residuals", "residuals"]

FEW = 100  # above so many values the distance is scaled to that number


@dataclass(frozen=True)
class Residuals:
    """Statistics of what is missed in single steps, each of shape (replicas, variables).

    All but the deviations are of residuals over the root of their step in time, in units of each site's deviation.

    Attributes:
        names: of the variables, the field of sites with bonds and each alpha.
        lag: autocorrelation from one time to the next.
        scatter: standard error of `lag`, were there none.
        white: chance of so large a `lag`, were there none.
        distance: largest distance of a site's distribution from the normal one (Kolmogorov, Smirnov).
        normal: chance of so large a distance at one of the sites, were all normal and without memory.
        mean: of the residuals.
        skewness: 0 of a normal distribution.
        kurtosis: 3 of a normal distribution.
        realised: root mean square of the residuals themselves, in units of the field and of alpha.
        predicted: the same as the scatter of independent blocks of the data predicts it; NaN where it cannot, None if
            the data have no blocks.

    Printed, each replica has a line for each variable, of which its place and the name stand in front.
    """

    names: tuple[str, ...]
    lag: Tensor
    scatter: Tensor
    white: Tensor
    distance: Tensor
    normal: Tensor
    mean: Tensor
    skewness: Tensor
    kurtosis: Tensor
    realised: Tensor
    predicted: Tensor | None = None

    def __str__(self) -> str:
        columns: tuple[str, ...] = (
            "lag",
            "scatter",
            "white",
            "distance",
            "normal",
            "mean",
            "skewness",
            "kurtosis",
            "realised",
        )
        columns += () if self.predicted is None else ("predicted",)
        lines = [f"{'':14}" + "".join(f"{title:>10}" for title in columns)]
        for place, row in enumerate(torch.stack([getattr(self, column) for column in columns], -1).tolist()):
            for name, values in zip(self.names, row, strict=True):
                lines.append(f"{f'{place}: {name}':14}" + "".join(f"{value:10.2g}" for value in values))
        return "\n".join(lines)


@torch.no_grad()
def residuals(model: Model, data: Observations) -> Residuals:
    """What a law misses in each step, as statistics that tell noise from error.

    Sites of one condition at one time are not independent: the scatter of `lag` is taken from time to time, and the
    chance of `normal` is that of the worst site, times their number.

    The prediction takes what the means of `Observations.blocks` scatter in a step. Of alpha it is that times
    `Encoder.response`, as if every realisation had the same noise; of positions with components, or where alpha is
    anchored, it is NaN.

    Args:
        model: trained, with its gauge frozen.
        data: which it has not seen, of four times or more.

    Raises:
        ValueError: observations of another layout, or fewer times.

    Reference: Dallal, Wilkinson, Am. Stat. 40 (1986) 294: p of the distance where mean and deviation are estimated.

    >>> from ibvonns.layouts import Point
    >>> from ibvonns.model import Architecture
    >>> from ibvonns.observations import observe
    >>> from ibvonns.systems.trap import Trap
    >>> model = Model([0, 1], Architecture(Point(), decoder="gaussian"))
    >>> data = observe(Trap().simulate_paper(realisations=10), "pulled_length", points=64)
    >>> model.set_scales(data)
    >>> model.freeze(data)
    >>> residuals(model, data).lag.shape
    torch.Size([2, 1])
    """
    count("number of times", len(data.times), 4)
    wrong = missed(model, data)[2].unflatten(1, (len(data.mean), -1))
    moving = bool(model.law.layout.directions)
    names = moving * ("field",) + tuple(f"alpha {n + 1}" for n in range(model.law.internal))
    predicted = None
    if "mean" in data.blocks:
        steps = data.blocks["mean"].diff(dim=2)
        noise = (steps.var(0) / len(steps)).mean(-1, keepdim=True)  # of the mean of all, (conditions, times, sites, 1)
        scale = noise.new_full((*wrong.shape[:4], model.law.internal), torch.nan)
        if model.law.internal and not model.encoder.powers:
            times = torch.arange(1, len(data.times), device=noise.device)
            scale = model.encoder.response(data, times, stored=True)[..., : model.law.internal]
        parts = [noise.expand(*wrong.shape[:4], 1)] * moving + [scale * noise]
        predicted = torch.cat(parts, -1).mean((1, 2, 3)).sqrt()
    found: list[Any] = [*statistics(wrong, data.times.diff()), wrong.square().mean((1, 2, 3)).sqrt(), predicted]
    return Residuals(names, *found)


def statistics(wrong: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
    """From `lag` to `kurtosis` of `Residuals`.

    Args:
        wrong: residuals, shape (replicas, conditions, times, sites, variables).
        steps: in time, shape (times,).
    """
    x = wrong / (steps / steps.mean()).sqrt()[:, None, None]
    mean, deviation = x.mean((1, 2), keepdim=True), x.std((1, 2), keepdim=True).clamp_min(1e-300)
    x = (x - mean) / deviation
    pairs, power = (x[:, :, 1:] * x[:, :, :-1]).sum(3), x.square().sum((1, 2, 3))
    lag, scatter = pairs.sum((1, 2)) / power, pairs.square().sum((1, 2)).sqrt() / power
    white = torch.special.erfc((lag / scatter).abs() / sqrt(2))
    moments = ((mean / deviation).mean((1, 2, 3)), *(x.pow(power).mean((1, 2, 3)) for power in (3, 4)))
    return lag, scatter, white, *_normal(x.flatten(1, 2)), *moments


def _normal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and chance of (replicas, values, sites, variables), each site's in units of its deviation."""
    number, few = x.shape[1], min(x.shape[1], FEW)
    below = torch.special.ndtr(x).sort(1).values
    rank = torch.arange(number, dtype=x.dtype, device=x.device)[:, None, None] / number
    distance = torch.maximum(rank + 1 / number - below, below - rank).amax(1)
    far, wide = distance * (number / few) ** 0.49, few + 2.78019
    least = exp(-0.122119 + 0.974598 / sqrt(few) + 1.67997 / few)
    chance = least * (-7.01256 * far**2 * wide + 2.99587 * far * sqrt(wide)).exp()
    return distance.amax(1), (chance.amin(1) * x.shape[2]).clamp_max(1.0)
