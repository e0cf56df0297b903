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
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Generator, Tensor
from torch.nn.functional import pad

from ibvonns.compiled import compiled, on_threads
from ibvonns.ensemble import Ensemble
from ibvonns.protocols import pulled_length
from ibvonns.systems.noise import TOGETHER, WIDTH, fresh_key, normals
from ibvonns.systems.trap import Values, paper_times, stable_steps
from ibvonns.validation import count, positive, require, seeded, shaped, tensor

__all__ = ["LENGTHS", "VELOCITY", "Chain"]

#: First total lengths of Sec. 4.1: even entries are for training, odd for test.
LENGTHS = tuple(round(0.12 + 0.01 * i, 2) for i in range(17))
FINE = 22.3  # points of a grid of strains to a thermal width, at least
CELLS = 32  # of a grid of strains, summed before one of them is looked for
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
        low, weight, tables, begins = _sums(self, total / self.springs, spacing)
        levels = torch.rand(realisations, self.springs - 1, generator=generator, dtype=torch.float64)
        drawn = np.empty((realisations, self.springs))
        _draw(total, low, spacing, weight, tables, begins, levels.numpy(), drawn)
        return torch.from_numpy(drawn)

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
        strains = torch.from_numpy(np.empty(shape))  # which asks for large pages of memory, as the trap does
        begun = self.initial(lengths[:, 0], realisations, generator) if initial is None else tensor("initial", initial)
        strains[:, 0] = shaped("initial", begun, (shape[0], *shape[2:]))
        off = float((strains[:, 0].sum(1) - (lengths[:, :1] / self.natural_length - self.springs)).abs().max())
        sentence = f"initial must have the first of lengths, but its total strain is off by up to {off:.3g}"
        require(off <= 1e-9 * self.springs, sentence)
        driven = force is not None
        pull = shaped("force", tensor("force", force), shape[:2]) if driven else lengths
        stretch = torch.diff(lengths, dim=1) / self.natural_length
        kick = (2 * self.temperature / self.viscosity * steps).sqrt() / self.natural_length
        drift = steps / self.viscosity / self.natural_length
        tension = torch.zeros_like(lengths)
        parts = [part.double().numpy() for part in (strains, pull, stretch, tension, kick, drift)]
        wells, key = (*self.stiffness, self.barrier_strain, self.well_strain), fresh_key(generator)

        def work(c: int) -> None:
            _run(*(part[c] for part in parts[:4]), *parts[4:], tuple(map(float, wells)), key, c, driven)

        on_threads(work, range(len(lengths)), torch.get_num_threads())
        if driven:
            lengths = lengths[:, :1] + self.natural_length * pad(stretch.cumsum(1), (1, 0))
        velocity = pad(torch.diff(lengths, dim=1) / steps, (1, 0))
        force = tension + self.viscosity * velocity
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
def _sums(chain: Chain, mean: float, spacing: float) -> tuple[float, Any, Any, Any]:
    """Lowest strain of the grid with the wanted mean, the weights on it, and all W_k, one behind another.

    W_k lies on the grid that starts at k times the first strain, turned round and between two zeros;
    the table of W_1 begins at the first of `begins`, and so on.
    """
    strains, tilted = chain._tilted(mean, spacing)
    weight = tilted.numpy()
    sums = [weight]
    for _ in range(chain.springs - 2):
        # a sum of positive products: no cancellation, unlike by FFT
        sums.append(np.convolve(sums[-1], weight) * spacing)
    tables = [np.pad(table[::-1], 1) for table in sums]
    begins = np.cumsum([0, *map(len, tables)])
    return float(strains[0]), weight, np.concatenate(tables), begins


def _bounded(points: float, most: int) -> float:
    allowed = f"at most {MOST} points of the grid of strains at this temperature"
    require(points <= most, f"spacing must leave {allowed}, but leaves {points:.3g}")
    return points


@njit(fastmath={"reassoc"}, error_model="numpy")
def _sum(values: Any) -> Any:
    total = 0.0
    for j in range(len(values)):
        total += values[j]
    return total


@njit(error_model="numpy")
def _falling(table: Any, place: float, weight: Any, out: Any) -> None:
    """out = weight times the table's values at place, place - 1, ... between its entries, linearly; 0 outside.

    Places count from the first entry; the table is turned round and lies between two zeros (`_sums`).
    """
    cell = int(np.floor(place))
    share, entries, points = place - cell, len(table) - 2, len(out)
    begin, end = min(max(cell - entries + 1, 0), points), max(min(cell + 2, points), 0)
    out[:begin] = 0
    out[end:] = 0
    values, some, under = table[entries - 1 - cell + begin :], out[begin:end], weight[begin:end]
    for j in range(len(some)):
        some[j] = under[j] * (share * values[j] + (1 - share) * values[j + 1])


@njit(error_model="numpy")
def _inverted(density: Any, level: float) -> Any:
    """Where, in cells from the first point, the distribution function of a density on points reaches a level."""
    parts = np.empty(len(density) // CELLS + 1)
    for b in range(len(parts)):
        own = density[b * CELLS : (b + 1) * CELLS + 1]  # the last point is the next part's first
        parts[b] = _sum(own) - (own[0] + own[-1]) / 2 if len(own) else 0.0
    aim, below, b = max(level, 2.0**-54) * _sum(parts), 0.0, 0  # above 0: its cell has a weight
    while b < len(parts) - 1 and below + parts[b] < aim:
        below += parts[b]
        b += 1
    found, begun, step = 0, 0.0, 1.0
    for j in range(b * CELLS, min((b + 1) * CELLS, len(density) - 1)):
        more = (density[j] + density[j + 1]) / 2
        if more > 0:
            found, begun, step = j, below, more
        below += more
        if below >= aim:
            break
    return found + min((aim - begun) / step, 1.0)  # the part's sum was rounded otherwise


@compiled(error_model="numpy")
def _draw(total: Any, low: Any, spacing: Any, weight: Any, tables: Any, begins: Any, levels: Any, out: Any) -> None:
    """Strains that share a total, (rows, n), one spring after another, from uniform levels (rows, n - 1)."""
    rows, springs = levels.shape
    density = np.empty(len(weight))
    for row in range(rows):
        left = total
        for k in range(springs):
            rest = springs - k
            # where r - eps lies in the table of W_rest, in units of the spacing
            place = (left - (rest + 1) * low) / spacing
            _falling(tables[begins[rest - 1] : begins[rest]], place, weight, density)
            out[row, k] = low + spacing * _inverted(density, levels[row, k])
            left -= out[row, k]
        out[row, springs] = left


@njit(error_model="numpy")
def _pulled(strain: Any, wells: Any, out: Any) -> None:
    """Tension of a spring."""
    first, second, barrier, well = wells
    for j in range(len(out)):
        out[j] = first * strain[j] if strain[j] <= barrier else second * (strain[j] - well)


@njit(error_model="numpy")
def _moved(noise: Any, above: Any, below: Any, kick: float, drift: float, out: Any) -> None:
    """By how much a particle moves, in natural lengths."""
    for j in range(len(out)):
        out[j] = drift * (above[j] - below[j]) + kick * noise[j]


@njit(error_model="numpy")
def _stretched(old: Any, move: Any, before: Any, new: Any) -> None:
    for j in range(len(old)):
        new[j] = old[j] + (move[j] - before[j])


@compiled(error_model="numpy")
def _run(
    strains: Any, pull: Any, stretch: Any, mean: Any, kick: Any, drift: Any, wells: Any, key: Any, c: int, driven: bool
) -> None:
    """Fill in the strains of condition c, (times, springs, realisations), from the first on, by Eq. (36).

    And the `mean` tension of the last spring at each time; and, where a force drives the end, each step's `stretch`.
    """
    times, springs, realisations = strains.shape
    width = realisations if driven else min(WIDTH, realisations)  # the mean tension is that of all
    noise, move = np.empty((springs, TOGETHER, width), np.float32), np.zeros((springs + 1, width))
    tension = np.empty((springs, width))
    for first in range(0, realisations, width):
        part = strains[:, :, first : first + width]
        some = part.shape[2]
        for n in range(times):
            for i in range(springs):
                _pulled(part[n, i], wells, tension[i, :some])
            mean[n] += _sum(tension[springs - 1, :some]) / realisations
            if n == times - 1:
                break
            for i in range(springs - 1):
                if n % TOGETHER == 0:
                    normals(key, c, i, n // TOGETHER, first, noise[i])
                now = noise[i, n % TOGETHER, :some]
                _moved(now, tension[i + 1, :some], tension[i, :some], kick[n], drift[n], move[i + 1, :some])
            if driven:
                stretch[n] = drift[n] * (pull[n] - mean[n])
            move[springs] = stretch[n]
            for i in range(springs):
                _stretched(part[n, i], move[i + 1, :some], move[i, :some], part[n + 1, i])
