r"""A chain of double-well springs (Sec. 4): exact equilibrium sampling and simulation.

The positions x_i of the particles, and the strains eps_i of the springs between them, obey::

    Eq. (36)  eta dx_i/dt = (V'(eps_{i+1}) - V'(eps_i)) / L0 + sqrt(2 eta kBT) xi_i(t)
              eps_i = (x_i - x_{i-1}) / L0 - 1,   x_0 = 0,   x_n = pulled length

Lengths are total lengths: they contain the springs' natural length L0 (errata). Units: any
consistent set; the paper's numbers, Eq. (38), come without units.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, sqrt

import numpy
import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from ibvonns.ensemble import Ensemble
from ibvonns.protocols import pulled_length
from ibvonns.systems.trap import Values, paper_times, stable_steps
from ibvonns.validation import count, positive, require, seeded, shaped, tensor

__all__ = ["LENGTHS", "VELOCITY", "Chain"]

#: First total lengths of Sec. 4.1: even entries are for training, odd for test.
LENGTHS = tuple(round(0.12 + 0.01 * i, 2) for i in range(17))
FINE = 22.3  # points of a grid of strains to a thermal width, at least
MOST = 30_000  # points of such a grid: convolving more takes minutes
VELOCITY = 0.05  #: v of the pulled end in Sec. 4.1, a length per time.


@dataclass(frozen=True)
class Chain:
    """The chain and its equilibrium.

    Attributes:
        springs: how many, n.
        stiffness: E1 and E2 of the two wells, forces.
        natural_length: L0 of one spring.
        barrier_strain: eps_c, where the wells meet.
        well_strain: eps_h, the bottom of the second well; the first is at 0.
        viscosity: eta, force times time per length, of each particle.
        temperature: kBT, energy.

    Raises:
        ValueError: a constant out of range, or wells that do not meet at eps_c (Eq. (37) needs
            E1 eps_c^2 = E2 (eps_h - eps_c)^2).

    >>> chain = Chain()
    >>> chain.barrier / chain.temperature
    10.0
    """

    springs: int = 10
    stiffness: tuple[float, float] = (0.01, 0.01)
    natural_length: float = 0.01
    barrier_strain: float = 1.0
    well_strain: float = 2.0
    viscosity: float = 0.1
    temperature: float = 5e-6

    def __post_init__(self) -> None:
        count("springs", self.springs, 2)
        for place, value in enumerate(self.stiffness):
            positive(f"stiffness[{place}]", value)
        for name in ("natural_length", "barrier_strain", "viscosity", "temperature"):
            positive(name, getattr(self, name))
        low, high = self.barrier_strain, positive("well_strain", self.well_strain)
        require(high > low, f"well_strain must be above barrier_strain, {low}, but is {high}")
        first, second = self.stiffness
        left, right = first * low**2, second * (high - low) ** 2
        sides = f"E1 eps_c^2 = E2 (eps_h - eps_c)^2, but the sides are {left:.6g} and {right:.6g}"
        require(abs(left - right) <= 1e-9 * left, f"stiffness must make the wells meet, {sides}")

    @property
    def barrier(self) -> float:
        """Height of the barrier above the wells, an energy."""
        return 0.5 * self.stiffness[0] * self.natural_length * self.barrier_strain**2

    @property
    def rate(self) -> float:
        """Fastest relaxation rate of the chain in one of its wells, below 4 k / eta."""
        return 4 * max(self.stiffness) / self.natural_length / self.viscosity

    def potential(self, strain: Tensor) -> Tensor:
        """V of Eq. (37), an energy.

        Args:
            strain: of a spring, of any shape.

        Raises:
            ValueError: NaN.

        >>> Chain().potential(torch.tensor([0.0, 2.0]))  # the two wells
        tensor([0., 0.])
        """
        strain = tensor("strain", strain)
        first, second = (0.5 * self.natural_length * value for value in self.stiffness)
        return torch.where(strain <= self.barrier_strain, first * strain**2, second * (strain - self.well_strain) ** 2)

    def spring_force(self, strain: Tensor) -> Tensor:
        """Tension of a spring, V'(eps) / L0, a force.

        Args:
            strain: of a spring, of any shape.

        Raises:
            ValueError: NaN.
        """
        return self._tension(tensor("strain", strain))

    def _tension(self, strain: Tensor) -> Tensor:
        first, second = self.stiffness
        return torch.where(strain <= self.barrier_strain, first * strain, second * (strain - self.well_strain))

    # --- equilibrium -------------------------------------------------------------------------

    def equilibrium(
        self, length: float, realisations: int, generator: Generator, spacing: float | None = None
    ) -> Tensor:
        r"""Independent draws from the equilibrium of the chain at a fixed total length (chapter 7).

        The law is prod_i w(eps_i) delta(sum_i eps_i - S) with w = exp(-V/kBT). Let W_k be the
        density of the sum of k springs, the k-fold convolution of w. Given that k springs are left
        and share a sum r, the next one has the density w(eps) W_{k-1}(r - eps): springs are drawn
        one by one, each by inverting its distribution function, and the last takes what is left.
        First w is tilted by exp(theta eps) so that its mean is S/n. The law at fixed S does not
        change, but S then lies where W_n is large, and nothing underflows.

        Args:
            length: total length, natural lengths included.
            realisations: how many draws.
            generator: source of every random number.
            spacing: of the grid of strains; a 22nd of the narrower well's thermal width if not given. The
                error of the law falls as its square.

        Returns:
            Strains, shape (realisations, springs); each row sums to length / L0 - n.

        Raises:
            ValueError: no realisation, a length or a spacing that is not above 0, a spacing as wide as the
                narrower well, or one that takes a grid of more than 30 000 points.

        >>> strains = Chain().equilibrium(0.2, 3, torch.Generator().manual_seed(0))
        >>> bool((strains.sum(1) - 10).abs().max() < 1e-12)
        True
        """
        total = positive("length", length) / self.natural_length - self.springs
        count("realisations", realisations)
        narrow = min(self._widths)
        # a whole number of points to a unit of strain
        spacing = 1 / ceil(FINE / narrow) if spacing is None else positive("spacing", spacing)
        wide = f"spacing must be below the narrower well's thermal width at this temperature, {narrow:.3g}, but is"
        require(spacing < narrow, f"{wide} {spacing:.3g}")
        strains, sums = _sums(self, total / self.springs, spacing)
        levels = torch.rand(realisations, self.springs - 1, generator=generator, dtype=torch.float64)
        # block by block: the densities of all at once would not fit into the processor's cache
        return torch.cat([_draw(total, strains, sums, part) for part in levels.split(500)])

    @property
    def _widths(self) -> list[float]:
        """Thermal widths of the two wells, strains."""
        return [sqrt(self.temperature / self.natural_length / value) for value in self.stiffness]

    def _tilted(self, mean: float, spacing: float) -> tuple[Tensor, Tensor]:
        """Grid of strains and normalised weights exp(-V/kBT + theta eps) with the wanted mean."""
        widest = max(self._widths)
        low, high = min(mean, 0.0) - 10 * widest, max(mean, self.well_strain) + 10 * widest
        points = _bounded((high - low) / spacing, 100 * MOST)
        strains = low + spacing * torch.arange(int(points) + 2, dtype=torch.float64)
        energy = self.potential(strains) / self.temperature

        def tilted(theta: float) -> tuple[Tensor, float]:
            weight = torch.softmax(theta * strains - energy, 0)
            return weight, float((weight * strains).sum())

        lower, upper = -1e4, 1e4
        while tilted(lower)[1] > mean or tilted(upper)[1] < mean:  # a cold chain
            lower, upper = 2 * lower, 2 * upper
        for _ in range(200):  # bisection: the mean rises with theta
            theta = (lower + upper) / 2
            weight, at = tilted(theta)
            lower, upper = (theta, upper) if at < mean else (lower, theta)
        seen = (weight > 1e-25 * weight.max()).nonzero()
        kept = slice(int(seen[0]), int(seen[-1]) + 1)  # what no draw reaches only costs time
        _bounded(kept.stop - kept.start, MOST)
        return strains[kept], weight[kept] / spacing

    # --- simulation --------------------------------------------------------------------------

    def initial(self, lengths: Tensor, realisations: int, generator: Generator) -> Tensor:
        """Strains at `equilibrium` for several lengths: (conditions, springs, realisations).

        Args:
            lengths: total lengths, shape (conditions,).
            realisations: how many draws for each.
            generator: source of every random number.

        Raises:
            ValueError: as `equilibrium`.
        """
        return torch.stack([self.equilibrium(each, realisations, generator).T for each in lengths.tolist()])

    def simulate(
        self,
        lengths: Tensor,
        times: Tensor,
        realisations: int,
        generator: Generator,
        initial: Tensor | None = None,
        force: Tensor | None = None,
    ) -> Ensemble:
        """Euler-Maruyama realisations of Eq. (36), from equilibrium at the first length or not.

        Args:
            lengths: position of the last particle, shape (conditions, times).
            times: shape (times,), strictly increasing; also the steps of the integrator.
            realisations: how many chains for each condition.
            generator: source of every random number.
            initial: strains to start from, shape (conditions, springs, realisations), each chain
                of the first length; drawn from equilibrium if not given.
            force: F_ex that drives the last particle of all chains of a condition, from the first
                of `lengths` on, whose others then do not count: eta v_n is F_ex less the mean
                tension, in each step with that of its beginning. Shape (conditions, times).

        Returns:
            Strains of shape (conditions, times, springs, realisations), with records of shape
            (conditions, times): "pulled_length", "velocity" (of the last particle, the backward
            difference of its position, 0 at first) and "external_force", <V'(eps_n)>/L0 + eta v_n
            (errata).

        Raises:
            ValueError: NaN, wrong shape, unsorted times, no realisation, a length that is not above
                0, initial strains of another length, or a time step at which the integrator
                diverges.

        >>> times = torch.tensor([0.0, 0.01], dtype=torch.float64)
        >>> lengths = torch.full((1, 2), 0.2, dtype=torch.float64)
        >>> pulled = Chain().simulate(lengths, times, 5, torch.Generator().manual_seed(0))
        >>> pulled.realisations.shape
        torch.Size([1, 2, 10, 5])
        """
        lengths, times = tensor("lengths", lengths).double(), tensor("times", times).double()
        steps, least = stable_steps(lengths, times, self.rate), float(lengths.min())
        require(least > 0, f"lengths must be above 0, but the smallest is {least:g}")
        shape = (len(lengths), len(times), self.springs, count("realisations", realisations))
        strains = torch.empty(shape, dtype=torch.float64)
        begun = self.initial(lengths[:, 0], realisations, generator) if initial is None else tensor("initial", initial)
        strains[:, 0] = shaped("initial", begun, (shape[0], *shape[2:]))
        off = float((strains[:, 0].sum(1) - (lengths[:, :1] / self.natural_length - self.springs)).abs().max())
        sentence = f"initial must have the first of lengths, but its total strain is off by up to {off:.3g}"
        require(off <= 1e-9 * self.springs, sentence)
        if force is not None:
            force = shaped("force", tensor("force", force), shape[:2])
            lengths = lengths.clone()
        stretch = torch.diff(lengths, dim=1) / self.natural_length
        amplitude = (2 * self.temperature / self.viscosity * steps).sqrt() / self.natural_length
        drift = steps / self.viscosity / self.natural_length
        moves = torch.empty((len(lengths), self.springs - 1, realisations), dtype=torch.float64)
        for n in range(len(steps)):  # `moves`: of the free particles, in natural lengths
            here, new = strains[:, n], strains[:, n + 1]
            if force is not None:
                pull = (force[:, n] - self._tension(here[:, -1]).mean(-1)) * drift[n]
                stretch[:, n] = pull
                lengths[:, n + 1] = lengths[:, n] + self.natural_length * pull
            moves.normal_(generator=generator).mul_(amplitude[n])
            moves.add_(self._tension(here).diff(dim=1), alpha=float(drift[n]))
            new.copy_(here)
            new[:, :-1] += moves
            new[:, 1:] -= moves
            new[:, -1] += stretch[:, n, None]
        velocity = pad(torch.diff(lengths, dim=1) / steps, (1, 0))
        force = self.spring_force(strains[:, :, -1]).mean(-1) + self.viscosity * velocity
        records = {"pulled_length": lengths, "velocity": velocity, "external_force": force}
        return Ensemble(times, strains, records)

    def simulate_paper(
        self, protocol: str = "smoothed-linear", lengths: Values = LENGTHS, realisations: int = 2000, seed: int = 0
    ) -> Ensemble:
        """The paper's data (Sec. 4.1): `simulate` from several lengths under a named protocol.

        Args:
            protocol: a key of `protocols.PROTOCOLS`.
            lengths: first total length of each condition.
            realisations: how many chains for each condition.
            seed: of every random number.

        Raises:
            ValueError: unknown protocol, a length that is not above 0, or no realisation.

        >>> Chain().simulate_paper(lengths=(0.2,), realisations=2).realisations.shape
        torch.Size([1, 301, 10, 2])
        """
        return self.simulate(*self.pulls(protocol, lengths), realisations, seeded(seed))

    def pulls(self, protocol: str, lengths: Values) -> tuple[Tensor, Tensor]:
        """Total lengths under a named protocol at the paper's times, (conditions, times), and these.

        Args:
            protocol: a key of `protocols.PROTOCOLS`.
            lengths: first total length of each condition.

        Raises:
            ValueError: unknown protocol.
        """
        times = paper_times()
        pull = pulled_length(protocol, torch.tensor([VELOCITY], dtype=torch.float64), times)
        return torch.tensor(lengths, dtype=torch.float64)[:, None] + pull, times


@lru_cache(maxsize=len(LENGTHS) + 1)  # blocks of one condition ask for the same again
def _sums(chain: Chain, mean: float, spacing: float) -> tuple[Tensor, list[Tensor]]:
    """Grid of strains with the wanted mean, and W_k on the grid that starts at k times the first."""
    strains, weight = chain._tilted(mean, spacing)
    sums = [weight]
    for _ in range(chain.springs - 2):
        # a sum of positive products: no cancellation, unlike by FFT
        sums.append(torch.from_numpy(numpy.convolve(sums[-1].numpy(), weight.numpy())) * spacing)
    return strains, sums


def _bounded(points: float, most: int) -> float:
    allowed = f"at most {MOST} points of the grid of strains at this temperature"
    require(points <= most, f"spacing must leave {allowed}, but leaves {points:.3g}")
    return points


def _draw(total: float, strains: Tensor, sums: list[Tensor], levels: Tensor) -> Tensor:
    """Strains that share a total, one spring after another, from uniform levels (rows, n - 1)."""
    spacing, weight = float(strains[1] - strains[0]), sums[0]
    left = torch.full((len(levels), 1), total, dtype=torch.float64)
    drawn = []
    for rest, level in zip(range(len(sums), 0, -1), levels.unbind(1), strict=True):
        # where r - eps lies in the table of W_rest, in units of the spacing
        place = (left - (rest + 1) * strains[0]) / spacing
        density = weight * _falling(sums[rest - 1], place, len(strains))
        cumulative = pad(torch.cumulative_trapezoid(density, dim=1), (1, 0))
        aim = level[:, None].clamp_min(2.0**-54) * cumulative[:, -1:]  # above 0: its cell has a weight
        cell = torch.searchsorted(cumulative, aim) - 1
        below, above = (cumulative.gather(1, cell + side) for side in (0, 1))
        strain = strains[cell] + spacing * (aim - below) / (above - below)
        drawn.append(strain)
        left = left - strain
    return torch.cat([*drawn, left], 1)


def _falling(table: Tensor, place: Tensor, number: int) -> Tensor:
    """Values of a table at place, place - 1, ... between its entries, linearly; 0 outside.

    Each row of places, shape (rows, 1), falls by whole entries: it reads one stretch of the table,
    with the same shares throughout. Returns (rows, number).
    """
    cell = place.floor()
    share = place - cell
    # turned round, so that the stretches rise; a stretch with nothing to read begins in the zeros
    padded = pad(table.flip(0), (number + 1, number + 1))
    first = (len(table) + number - 1 - cell).long().clamp(0, len(table) + number + 1)
    rows = padded.unfold(0, number + 1, 1)[first[:, 0]]
    return torch.lerp(rows[:, 1:], rows[:, :-1], share)
