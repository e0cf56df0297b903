r"""Stochastic thermodynamics with internal variables: a Gaussian ansatz, which fits nothing.

The internal variables are the mean mu and the covariance Sigma of the positions of the free
particles. With B from positions to elongations y_i = x_i - x_{i-1}, measured from the barrier, let
m and s be mean and deviation of each elongation under the Gaussian, r = m / s, Phi and phi the
normal distribution function and density. Wells at -l1 and l2, of stiffness k1 and k2, pull on
average with the force M and the stiffness w::

    M = k1 (m + l1) Phi(-r) + k2 (m - l2) Phi(r) + (k2 - k1) s phi(r)
    w = k1 Phi(-r) + k2 Phi(r) - (k1 l1 + k2 l2) phi(r) / s,

and with A = B^T diag(w) B::

    mu' = -B^T M / eta,   Sigma' = -(A Sigma + Sigma A) / eta + 2 kBT / eta.

Here they are stepped as the particles are, Sigma <- (1 - A h/eta) Sigma (1 - A h/eta) + 2 kBT h/eta
in a step of length h: for harmonic springs that is the law of the simulated process itself.

Reference: Leadbetter, Purohit, Reina, PNAS Nexus 2 (2023) pgad417.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ibvonns.decoders import gaussian_nll
from ibvonns.ensemble import Ensemble
from ibvonns.metrics import relative_error
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap
from ibvonns.validation import finite, increasing, shaped

__all__ = [
    "Gaussians", "Springs", "ansatz_errors", "bell", "chain_springs", "first_state", "gaussian_errors", "trap_springs",
]  # fmt: skip


@dataclass(frozen=True)
class Springs:
    """Springs in a row between a wall and a pulled end, each with one well or two.

    Attributes:
        stiffness: k1 and k2, force per length.
        wells: l1 and l2, distances of the wells from the barrier.
        barrier: elongation at which the wells meet.
        viscosity: eta, of each particle.
        temperature: kBT.
    """

    stiffness: tuple[float, float]
    wells: tuple[float, float]
    barrier: float
    viscosity: float
    temperature: float

    def pull(self, middle: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean force M and mean stiffness w of springs under a Gaussian.

        Args:
            middle: mean elongation from the barrier, a length, of any shape.
            deviation: of the elongation, a length above 0, same shape.

        Returns:
            A force and a force per length, in the same shape.
        """
        (k1, k2), (l1, l2) = self.stiffness, self.wells
        ratio = middle / deviation
        right, left = torch.special.ndtr(ratio), torch.special.ndtr(-ratio)
        edge = bell(ratio)
        force = k1 * (middle + l1) * left + k2 * (middle - l2) * right
        force = force + (k2 - k1) * deviation * edge
        return force, k1 * left + k2 * right - (k1 * l1 + k2 * l2) * edge / deviation


def bell(x: Tensor) -> Tensor:
    """Density of a standard normal variable.

    Args:
        x: of any shape.

    >>> bell(torch.zeros(1))
    tensor([0.3989])
    """
    return torch.exp(-0.5 * x**2) / (2 * torch.pi) ** 0.5


def chain_springs(chain: Chain) -> Springs:
    """Those of the double-well `chain`: tension E eps of a strain eps = y / L0 - 1.

    >>> chain_springs(Chain()).wells
    (0.01, 0.01)
    """
    length, (first, second) = chain.natural_length, chain.stiffness
    wells = length * chain.barrier_strain, length * (chain.well_strain - chain.barrier_strain)
    barrier = length * (1 + chain.barrier_strain)
    return Springs((first / length, second / length), wells, barrier, chain.viscosity, chain.temperature)


def trap_springs(trap: Trap) -> Springs:
    """Those of the optical `trap`: harmonic, one on either side of the particle.

    For them the ansatz is exact:

    >>> trap, times = Trap(), torch.linspace(0, 1, 11, dtype=torch.float64)
    >>> mean, covariance = times[:1, None], trap.equilibrium_deviation**2 + times[:1, None, None]
    >>> path = Gaussians.rolled(trap_springs(trap), mean, covariance, times, times[None])
    >>> bool((path.mean[..., 0] - trap.mean(times[None], times)).abs().max() < 1e-15)
    True
    """
    k = trap.stiffness
    return Springs((k, k), (0.0, 0.0), 0.0, trap.viscosity, trap.temperature)


@dataclass(frozen=True)
class Gaussians:
    """The ansatz along trajectories, for each of several conditions.

    Attributes:
        times: shape (times,).
        length: position of the pulled end, shape (conditions, times).
        mean: mu, shape (conditions, times, particles).
        covariance: Sigma, shape (conditions, times, particles, particles).
        springs: their law.
    """

    times: Tensor
    length: Tensor
    mean: Tensor
    covariance: Tensor
    springs: Springs

    @staticmethod
    def rolled(
        springs: Springs,
        mean: Tensor,
        covariance: Tensor,
        times: Tensor,
        length: Tensor,
        external_force: Tensor | None = None,
    ) -> "Gaussians":
        """The ansatz from its first state on.

        Args:
            springs: their law.
            mean: first mu, shape (conditions, particles).
            covariance: first Sigma, shape (conditions, particles, particles).
            times: shape (times,), strictly increasing; also the steps.
            length: position of the pulled end, shape (conditions, times).
            external_force: if given, F_ex, shape (conditions, times): the end then moves as it
                drives it, from the first of `length` on.

        Raises:
            ValueError: NaN, wrong shape or unsorted times.
        """
        increasing("times", times)
        shaped("mean", finite("mean", mean), ("conditions", "particles"))
        particles = mean.shape[1]
        shaped("covariance", finite("covariance", covariance), (len(mean), particles, particles))
        shaped("length", finite("length", length), (len(mean), len(times)))
        if external_force is not None:
            shaped("external_force", finite("external_force", external_force), length.shape)
        eye = torch.eye(particles, dtype=mean.dtype)
        ends, means, covariances = [length[:, 0]], [mean], [covariance]
        for step, h in enumerate((torch.diff(times) / springs.viscosity).tolist()):
            force, curvature = _averages(springs, means[-1], covariances[-1], ends[-1])
            means.append(means[-1] - h * _gathered(force))
            shrink = eye - h * curvature
            covariances.append(shrink @ covariances[-1] @ shrink + 2 * springs.temperature * h * eye)
            driven = None if external_force is None else external_force[:, step] - force[:, -1]
            ends.append(length[:, step + 1] if driven is None else ends[-1] + h * driven)
        end, middle, spread = (torch.stack(part, 1) for part in (ends, means, covariances))
        return Gaussians(times, end, middle, spread, springs)

    @property
    def elongation(self) -> Tensor:
        """Mean of each spring's, shape (conditions, times, springs); they sum to the length."""
        return _elongations(self.mean, self.length)

    @property
    def deviation(self) -> Tensor:
        """Deviation of each spring's elongation, shape (conditions, times, springs)."""
        return _variances(self.covariance).sqrt()

    def external_force(self, velocity: Tensor) -> Tensor:
        """F_ex, a force, with the drag on the pulled end (errata): (conditions, times).

        Args:
            velocity: v_n, shape (conditions, times).
        """
        force, _ = _averages(self.springs, self.mean, self.covariance, self.length)
        return force[..., -1] + self.springs.viscosity * velocity

    def dissipation(self, velocity: Tensor) -> Tensor:
        """F_ex v_n less the rate of <V> - kBT/2 log det Sigma, an energy per time.

        It is never negative::

            eta v_n^2 + |B^T M|^2 / eta + tr[(A - kBT/Sigma) Sigma (A - kBT/Sigma)] / eta

        Args:
            velocity: v_n, shape (conditions, times).

        Returns:
            Shape (conditions, times).
        """
        springs = self.springs
        force, curvature = _averages(springs, self.mean, self.covariance, self.length)
        excess = curvature - springs.temperature * torch.linalg.inv(self.covariance)
        spread = torch.diagonal(excess @ self.covariance @ excess, dim1=-2, dim2=-1).sum(-1)
        moved = _gathered(force).square().sum(-1)
        return springs.viscosity * velocity**2 + (moved + spread) / springs.viscosity


def first_state(ensemble: Ensemble, natural_length: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a chain's free particles at the first time.

    Args:
        ensemble: strains of the chain, as `Chain.simulate` gives them.
        natural_length: L0.

    Returns:
        Lengths, shape (conditions, particles), and their squares, (conditions, particles,
        particles).

    >>> pulled = Chain().simulate_paper(lengths=(0.2,), realisations=5)
    >>> [part.shape for part in first_state(pulled, 0.01)]
    [torch.Size([1, 9]), torch.Size([1, 9, 9])]
    """
    strains = ensemble.realisations[:, 0]  # (conditions, springs, realisations)
    positions = natural_length * (1 + strains).cumsum(1)[:, :-1]
    mean = positions.mean(-1)
    centred = positions - mean[..., None]
    return mean, centred @ centred.mT / positions.shape[-1]


@torch.no_grad()
def ansatz_errors(
    prefix: str,
    rolled: Callable[..., Any],
    start: Callable[[Ensemble], Iterable[Any]],
    data: Mapping[str, Ensemble | Iterable[Ensemble]],
) -> dict[str, float]:
    """Errors of an ansatz for the paper's chain, which starts as the data do: percent, nats for a likelihood.

    Args:
        prefix: of the ids.
        rolled: from springs, a first state, times, lengths and, if it drives, F_ex to what follows.
        start: from the ensemble at its first times to a first state.
        data: by split, an ensemble of the chain or its equal blocks, as `Study.blocks` gives them.
    """
    errors, unit = dict[str, float](), Chain().natural_length
    names = ("external_force", "velocity", "pulled_length")
    for split, given in data.items():
        light = []
        for part in [given] if isinstance(given, Ensemble) else given:
            x = part.realisations
            square = torch.einsum("...n,...n->...", x, x) / part.count
            light.append((x[:, :2].clone(), part.mean(), square, *(part.records[name] for name in names)))
        firsts, *averaged = zip(*light, strict=True)
        strain, square, force, velocity, length = (torch.stack(each).mean(0) for each in averaged)
        first = Ensemble(part.times[:2], torch.cat(firsts, -1))
        begin = (chain_springs(Chain()), *start(first), part.times, length)
        moved = rolled(*begin)
        for name, path in (("velocity", moved), ("force", rolled(*begin, force))):
            errors[f"{prefix}-strain-{split}-{name}"] = relative_error(path.elongation / unit - 1, strain)
        errors[f"{prefix}-force-{split}-velocity"] = relative_error(moved.external_force(velocity), force)
        if isinstance(moved, Gaussians):
            middle, deviation = moved.elongation / unit - 1, moved.deviation / unit
            errors[f"{prefix}-nll-{split}"] = float(gaussian_nll(middle, deviation, strain, square - strain**2).mean())
    return errors


def gaussian_errors(data: Mapping[str, Ensemble | Iterable[Ensemble]]) -> dict[str, float]:
    """Errors of the Gaussian ansatz, by the ids of the flow's rows.

    It starts from each ensemble's own mean and covariance, and fits nothing.

    Args:
        data: as for `ansatz_errors`.

    >>> len(gaussian_errors({"near": Chain().simulate_paper(lengths=(0.2,), realisations=10)}))
    4
    """
    return ansatz_errors("cnf", Gaussians.rolled, lambda first: first_state(first, Chain().natural_length), data)


def _elongations(mean: Tensor, length: Tensor) -> Tensor:
    wall = torch.zeros_like(length)[..., None]
    return torch.cat([wall, mean, length[..., None]], -1).diff(dim=-1)


def _gathered(force: Tensor) -> Tensor:
    """B^T M: what the springs on either side of a particle pull it down by."""
    return force[..., :-1] - force[..., 1:]


def _variances(covariance: Tensor) -> Tensor:
    """Of every spring's elongation: (..., springs)."""
    variance = torch.diagonal(covariance, dim1=-2, dim2=-1)
    neighbours = torch.diagonal(covariance, offset=1, dim1=-2, dim2=-1)
    none = torch.zeros_like(variance[..., :1])
    spread = torch.cat([none, variance], -1) + torch.cat([variance, none], -1)
    return spread - 2 * torch.cat([none, neighbours, none], -1)


def _averages(springs: Springs, mean: Tensor, covariance: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """M of every spring, and A = B^T diag(w) B of the free particles."""
    middle = _elongations(mean, length) - springs.barrier
    force, stiffness = springs.pull(middle, _variances(covariance).sqrt())
    curvature = torch.diag_embed(stiffness[..., :-1] + stiffness[..., 1:])
    beside = torch.diag_embed(stiffness[..., 1:-1], offset=1)
    return force, curvature - beside - beside.mT
