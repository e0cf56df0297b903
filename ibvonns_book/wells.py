r"""Stochastic thermodynamics with internal variables: two Gaussians for each spring, fitting nothing.

Let y_i be the elongation of a spring from its barrier, and z_i tell its well: 0 below, 1 above. Of
wells that are equally stiff the tension is linear in both, and so is a step of the particles::

    f_i = k (y_i + l1 - (l1 + l2) z_i),   eta dy = -L f dt + noise,   L = tridiag(-1, 2, -1), 1 at ends.

So the mean and the covariance of x = (y, z) obey closed equations, but for the hops of z. For them
a spring is the mixture of two Gaussians, one in each well, with these moments and with variances of
their own, which E[y^2 | z] gives. A Gaussian that was cut at the barrier takes a step; what then
lies beyond is the flux, and leaves with its moments. A step must not be much shorter than the
chain's own: of what it takes across, a little comes back before it has left the barrier. Other
springs follow it by regression on y_i within a well: that neighbours pull harder where one
stretches farther is what independent springs would miss. For harmonic springs the hops change
nothing, and the ansatz is exact.

Reference: densities other than a Gaussian, Leadbetter, Purohit, Reina, J. Non-Equilib. Thermodyn.
(2025) 10.1515/jnet-2025-0071. They project by a gradient flow; here moments are matched, and no
second law is built in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from ibvonns.ensemble import Ensemble
from ibvonns.systems.chain import Chain
from ibvonns.validation import finite, increasing, require, shaped
from ibvonns_book.stiv import Springs, ansatz_errors, bell

__all__ = ["Moments", "Wells", "first_wells", "wells_errors"]

Moments = tuple[Tensor, Tensor, Tensor]  #: Mean and covariance of (y, z), variances of y in the wells.

SIDES = torch.tensor([1.0, -1.0], dtype=torch.float64)  # the way out of either well
NODES, WEIGHTS = (torch.from_numpy(part) for part in numpy.polynomial.legendre.leggauss(48))
PAPER = Chain()


@dataclass(frozen=True)
class Wells:
    """The ansatz along trajectories, for each of several conditions.

    Attributes:
        times: shape (times,).
        length: position of the pulled end, shape (conditions, times).
        mean: of (y, z), lengths and shares, shape (conditions, times, 2 springs).
        covariance: of (y, z), shape (conditions, times, 2 springs, 2 springs).
        variance: of y in each well, shape (conditions, times, springs, 2).
        springs: their law.
    """

    times: Tensor
    length: Tensor
    mean: Tensor
    covariance: Tensor
    variance: Tensor
    springs: Springs

    @staticmethod
    def rolled(
        springs: Springs, first: Moments, times: Tensor, length: Tensor, external_force: Tensor | None = None
    ) -> "Wells":
        """The ansatz from its first state on, stepped as the particles are.

        Args:
            springs: their law, with wells that are equally stiff.
            first: mean and covariance of (y, z) and variance of y in each well, as `first_wells`
                gives them.
            times: shape (times,), strictly increasing; also the steps.
            length: position of the pulled end, shape (conditions, times).
            external_force: if given, F_ex, shape (conditions, times): the end then moves as it
                drives it, from the first of `length` on.

        Raises:
            ValueError: wells of unequal stiffness, NaN, wrong shape or unsorted times.

        >>> from ibvonns_book.stiv import chain_springs
        >>> pulled = Chain().simulate_paper(lengths=(0.2,), realisations=100)
        >>> length = pulled.records["pulled_length"]
        >>> found = Wells.rolled(chain_springs(Chain()), first_wells(pulled), pulled.times, length)
        >>> bool((found.elongation.sum(-1) - length).abs().max() < 1e-14)
        True
        """
        low, high = sorted(springs.stiffness)
        require(low == high, f"springs must have equally stiff wells, but have {low:g} and {high:g}")
        increasing("times", times)
        shaped("length", finite("length", length), ("conditions", len(times)))
        number = shaped("first[2]", finite("first[2]", first[2]), (len(length), "springs", 2)).shape[1]
        for place, sizes in enumerate([(2 * number,), (2 * number, 2 * number)]):
            shaped(f"first[{place}]", finite(f"first[{place}]", first[place]), (len(length), *sizes))
        if external_force is not None:
            shaped("external_force", finite("external_force", external_force), length.shape)
        ends, states = [length[:, 0]], [first]
        for step, h in enumerate((torch.diff(times) / springs.viscosity).tolist()):
            pull = _tension(springs, states[-1][0])[:, -1]
            driven = None if external_force is None else ends[-1] + h * (external_force[:, step] - pull)
            ends.append(length[:, step + 1] if driven is None else driven)
            states.append(_stepped(springs, states[-1], h, ends[-1] - ends[-2]))
        means, covariances, variances = (torch.stack(part, 1) for part in zip(*states, strict=True))
        return Wells(times, torch.stack(ends, 1), means, covariances, variances, springs)

    @property
    def elongation(self) -> Tensor:
        """Mean of each spring's, shape (conditions, times, springs); they sum to the length."""
        return self.mean.chunk(2, -1)[0] + self.springs.barrier

    @property
    def share(self) -> Tensor:
        """Probability of the second well, shape (conditions, times, springs)."""
        return self.mean.chunk(2, -1)[1]

    def external_force(self, velocity: Tensor) -> Tensor:
        """F_ex, a force, with the drag on the pulled end (errata): (conditions, times).

        Args:
            velocity: v_n, shape (conditions, times).
        """
        return _tension(self.springs, self.mean)[..., -1] + self.springs.viscosity * velocity


def first_wells(ensemble: Ensemble, chain: Chain = PAPER) -> Moments:
    """Mean and covariance of (y, z), and variances in each well, of a chain at the first time.

    Args:
        ensemble: strains of the chain, as `Chain.simulate` gives them.
        chain: that was simulated.

    Returns:
        Shapes (conditions, 2 springs), (conditions, 2 springs, 2 springs), (conditions, springs, 2).
    """
    y = chain.natural_length * (ensemble.realisations[:, 0] - chain.barrier_strain)
    above = (y > 0).to(y)
    both = torch.cat([y, above], 1)
    mean = both.mean(-1)
    centred = both - mean[..., None]
    inside = torch.stack([1 - above, above], -1)
    number = inside.sum(2).clamp_min(1)
    middle = (inside * y[..., None]).sum(2) / number
    variance = (inside * (y[..., None] - middle[:, :, None]) ** 2).sum(2) / number
    thermal = chain.temperature * chain.natural_length / chain.stiffness[0]  # few draws say nothing
    return mean, centred @ centred.mT / y.shape[-1], torch.where(number > 5, variance, thermal)


def wells_errors(data: Mapping[str, Ensemble | Iterable[Ensemble]]) -> dict[str, float]:
    """Errors of the ansatz, by the ids of the mixture's rows, in percent.

    It starts from each ensemble's own first state, and fits nothing.

    Args:
        data: as for `stiv.ansatz_errors`.

    >>> len(wells_errors({"near": Chain().simulate_paper(lengths=(0.2,), realisations=100)}))
    3
    """
    return ansatz_errors("gmm", Wells.rolled, lambda first: [first_wells(first)], data)


def _tension(springs: Springs, mean: Tensor) -> Tensor:
    y, share = mean.chunk(2, -1)
    return springs.stiffness[0] * (y + springs.wells[0] - sum(springs.wells) * share)


def _stepped(springs: Springs, state: Moments, h: float, moved: Tensor) -> Moments:
    """Moments after a step of length h eta, in which the end has moved."""
    mean, covariance, variance = state
    number, stiffness = mean.shape[1] // 2, springs.stiffness[0]
    thermal = springs.temperature / stiffness
    eye, beside = (torch.diag_embed(torch.ones(number - off, dtype=mean.dtype), off) for off in (0, 1))
    coupling = torch.diag((beside + beside.T).sum(0)) - beside - beside.T  # L
    own = torch.cat([eye - h * stiffness * coupling, h * stiffness * sum(springs.wells) * coupling], 1)
    whole = torch.cat([own, torch.cat([0 * eye, eye], 1)])
    y, share = mean.chunk(2, 1)
    shares, middle, pooled, slope = _within(mean, covariance)
    variance = variance * (pooled / (shares * variance).sum(-1))[..., None]
    mean = torch.cat([y - h * _tension(springs, mean) @ coupling + moved[:, None] * eye[-1], share], 1)
    covariance = whole @ covariance @ whole.T
    covariance[:, :number, :number] += 2 * springs.temperature * h * coupling
    # y' of a spring given its y and its well: a slope, and a variance of its own
    keeps = (own @ slope).diagonal(dim1=-2, dim2=-1)[..., None]
    _, after, pooled_after, slope = _within(mean, covariance)
    noise = (pooled_after[..., None] - keeps**2 * pooled[..., None]).clamp_min(1e-6 * thermal)
    gone = _crossed(SIDES * middle, variance.sqrt(), SIDES * after, keeps, noise.sqrt())
    left, moment, square = (shares * part for part in gone)  # probability that hops, and <y'>, <y'^2> of it
    squares = shares * (after**2 + keeps**2 * variance + noise) - square + square.flip(-1)
    drawn = (moment - SIDES * left * after).sum(-1)[:, None]
    gain = slope * drawn - covariance[..., number:] * (left / shares).sum(-1)[:, None]
    covariance[..., number:] += gain
    covariance[:, number:] += gain.mT
    share = (share + (SIDES * left).sum(-1)).clamp(0, 1)
    covariance[:, number:, number:].diagonal(dim1=-2, dim2=-1).copy_(share * (1 - share))
    mean = torch.cat([mean[:, :number], share], 1)
    shares, middle, _, _ = _within(mean, covariance)
    # a well that empties leaves noise: no variance is far from the thermal one
    return mean, covariance, (squares / shares - middle**2).clamp(0.02 * thermal, 20 * thermal)


def _within(mean: Tensor, covariance: Tensor) -> tuple[Tensor, ...]:
    """Share and mean of y in each well, its variance in a well, and slopes of every x on y there."""
    number = mean.shape[1] // 2
    shares = torch.stack([1 - mean[:, number:], mean[:, number:]], -1).clamp(1e-6, 1 - 1e-6)
    with_y, with_z = covariance.split(number, -1)
    own, both = (part[:, :number].diagonal(dim1=-2, dim2=-1) for part in (with_y, with_z))
    spread = shares.prod(-1)
    middle = mean[:, :number, None] - SIDES * both[..., None] / shares
    variance = (own - both**2 / spread).clamp_min(1e-9 * float(own.max()))
    slope = (with_y - with_z * (both / spread)[:, None]) / variance[:, None]
    return shares, middle, variance, slope


def _crossed(middle: Tensor, deviation: Tensor, after: Tensor, slope: Tensor, noise: Tensor) -> list[Tensor]:
    """<1>, <y'>, <y'^2> over y' > 0, of a Gaussian cut at y < 0 that takes a step to y'."""
    top = (-middle / deviation).clamp(-5.9, 6)[..., None]
    points = -6 + (top + 6) * (NODES + 1) / 2
    weight = (top + 6) / 2 * WEIGHTS * bell(points) / torch.special.ndtr(top)
    mean, noise = after[..., None] + (slope * deviation)[..., None] * points, noise[..., None]
    above, edge = torch.special.ndtr(mean / noise), noise * bell(mean / noise)
    parts = (above, mean * above + edge, (mean**2 + noise**2) * above + mean * edge)
    return [(weight * part).sum(-1) for part in parts]
