r"""A lattice gas on a ring: particles that hop over barriers, exact equilibrium and simulation.

Each of `sites` places holds a particle or none, eta = 0 or 1. A particle at x jumps to an empty
neighbour at the rate (Arrhenius)::

    frequency * exp(-U(x) / kBT),    U(x) = sum_z J(z) eta(x + z),    z = +-1, ..., +-range

so that J > 0 attracts. This obeys detailed balance with H = -1/2 sum_x U(x) eta(x). With nearest
neighbours alone it is the exchange process of Katz, Lebowitz and Spohn (1984).

Sixty-four realisations stand in the bits of a word, for each place one ("multi-spin coding"). They
share the order in which bonds are tried, and nothing else; so the independent unit is the word.
"""

from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from ibvonns.compiled import compiled
from ibvonns.validation import count, positive, require, seeded, shaped, tensor

__all__ = ["BITS", "Lattice", "box", "density", "moments", "nearest"]

BITS = 64  #: Realisations in a word.
EXACT = 4  # reach up to which local equilibrium is drawn with its correlations
ROUNDING = 1e-13  # of a density
LAPS = 100_000  # places after which a chain has forgotten where it began, or never will
Array = NDArray[Any]
Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Lattice:
    """The lattice gas.

    Attributes:
        sites: places on the ring, L.
        couplings: J at the distances 1, 2, ...: energies, above 0 where particles attract.
        temperature: kBT, an energy.
        frequency: jumps per time of a particle that feels no other.

    Raises:
        ValueError: a constant out of range, or couplings that reach around the ring.

    >>> Lattice(couplings=(log(4),)).bound  # nothing speeds a jump up
    1.0
    """

    sites: int = 200
    couplings: tuple[float, ...] = (log(4),)
    temperature: float = 1.0
    frequency: float = 1.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        positive("frequency", self.frequency)
        given = shaped("couplings", tensor("couplings", self.couplings), ("distances",))
        sites, least = count("sites", self.sites, 4), 2 * len(given) + 2
        require(sites >= least, f"sites must be at least {least}, twice the couplings' reach and two, but are {sites}")
        object.__setattr__(self, "couplings", tuple(given.tolist()))

    @property
    def reach(self) -> int:
        """The largest distance at which particles feel each other."""
        return len(self.couplings)

    @property
    def bound(self) -> float:
        """The largest rate of a jump, in units of `frequency`."""
        pushes = [max(0.0, -each) for each in self.couplings]  # from behind, and all but the first from ahead
        return exp((2 * sum(pushes) - pushes[0]) / self.temperature)

    # --- equilibrium in a field that varies from place to place ---------------------------------

    def _chain(self, fields: Array) -> tuple[Array, Array]:
        """The law with weights exp(-H / kBT + sum fields eta), as a Markov chain along the ring.

        Where the ring is long beside what places know of each other, its closing is of no account.

        Args:
            fields: beta mu of each place, (sites, cases), of which there may be one.

        Returns:
            For each place and last places s (bit z - 1 is that at a distance z): the chances of 0
            and 1 there, (sites, 2**reach, 2, cases), and of s, (sites, 2**reach, cases).
        """
        codes, ways = self._codes
        # the weight of a particle behind the places s
        weights = np.exp(fields[:, None] + (codes @ self._strength)[:, None])
        weights = np.stack([np.ones_like(weights), weights], 2)
        steps, shares = np.empty_like(weights), np.empty_like(weights[:, :, 0])

        def back(after: Array) -> Array:
            for x in reversed(range(len(fields))):
                steps[x] = weights[x] * after[ways]
                total = steps[x].sum(1)
                steps[x], after = steps[x] / total[:, None], total / total.sum(0)
            return after

        def forth(share: Array) -> Array:
            for x in range(len(fields)):
                shares[x] = share
                share = _followed(share[None], steps[x : x + 1], ways)[0]
            return share

        for lap in (back, forth):
            begun, now = np.zeros(1), np.full_like(shares[0], 1 / len(codes))
            laps = LAPS // len(fields) + 2
            while np.abs(now - begun).max() > 1e-15 and (laps := laps - 1):
                begun, now = now, lap(now)
        return steps, shares

    @property
    def _strength(self) -> Array:
        return np.array(self.couplings) / self.temperature

    @property
    def _codes(self) -> tuple[Array, NDArray[np.int64]]:
        """Whether there is a particle at each distance in states s, and the states that follow them."""
        states = np.arange(2**self.reach)
        follow = (states[:, None] << 1 | np.arange(2)) & (len(states) - 1)
        return (states[:, None] >> np.arange(self.reach) & 1).astype(float), follow

    def _marginals(self, fields: Array) -> Array:
        """The density at each place in fields beta mu, both (sites, cases)."""
        steps, shares = self._chain(fields)
        return (shares * steps[:, :, 1]).sum(1)

    def rates(self, density: Array) -> tuple[Array, Array]:
        """Mean rates of jumps to the right and to the left over the bond behind each place.

        In local equilibrium (`equilibrium`), exactly: their difference is the current, half of their sum
        the mobility that fluctuations show at once, times kBT.

        Args:
            density: above 0 and below 1 at each place, shape (sites,).

        Returns:
            Two of that shape, one over a time.

        Raises:
            ValueError: as `fields`.

        >>> right, left = Lattice(couplings=(0.0,)).rates(np.full(200, 0.5))
        >>> float(right[0]), float(left[0])  # no couplings: an empty place behind a particle
        (0.25, 0.25)
        """
        if self.reach <= EXACT:
            right, left = self._rates(self.fields(density)[:, None])
            return right[:, 0], left[:, 0]
        here = _density(density, self.sites)
        slow = [1 - (1 - exp(-each)) * np.roll(here, by) for z, each in enumerate(self._strength, 1) for by in (z, -z)]
        free, there = np.prod(slow, 0), np.roll(here, -1)
        beyond, behind = slow[1], np.roll(slow[0], -1)  # the place that a jump needs empty slows none
        scale = self.frequency * free / beyond, self.frequency * np.roll(free, -1) / behind
        return scale[0] * here * (1 - there), scale[1] * there * (1 - here)

    def _rates(self, fields: Array) -> tuple[Array, Array]:
        """As `rates`, in fields beta mu, all of shape (sites, cases)."""
        steps, shares = self._chain(fields)
        slow, (codes, ways) = np.exp(-self._strength), self._codes
        found = []
        for first in (1, 0):  # the place that is left, or that is entered
            behind, ahead = (slow, slow[1:]) if first else (slow[1:], slow)
            flow = shares * np.prod(np.where(codes[:, : len(behind)] > 0, behind, 1.0), 1)[:, None]
            factors = [(1.0 - first, 1.0 * first), (1.0 * first, 1.0 - first), *((1.0, each) for each in ahead)]
            for place, factor in enumerate(factors):
                flow = _followed(flow, np.roll(steps, -place, 0) * np.array(factor)[:, None], ways)
            found.append(self.frequency * flow.sum(1))
        return found[0], found[1]

    def law(self, density: Array) -> tuple[Array, Array, Array]:
        """What a homogeneous equilibrium gives: mu, d mu / d density and the mobility m of a bond.

        m = <rate of a jump to the right> / kBT. With nearest neighbours alone the current of
        particles is a difference of local functions, and this is the mobility of the hydrodynamic
        law; with a longer reach it is that of short times only.

        Args:
            density: above 0 and below 1, of any shape.

        Returns:
            Energies, energies, and one over energy and time, of that shape.

        Raises:
            ValueError: a density out of range.
        """
        wanted = _density(density)
        fields = self._uniform(wanted.ravel())
        slope = self._marginals(fields + 1e-30j).imag / 1e-30  # to rounding: a complex step
        found = self.temperature * fields, self.temperature / slope, self._rates(fields)[0] / self.temperature
        return tuple(each.reshape(wanted.shape) for each in found)  # type: ignore[return-value]

    def _uniform(self, density: Array) -> Array:
        """beta mu of homogeneous equilibria, (1, cases)."""
        fields = (np.log(density / (1 - density)) - 2 * self._strength.sum() * density)[None]
        for _ in range(100):
            at = self._marginals(fields + 1e-30j)
            odds = at.real / (1 - at.real)
            slope = at.imag / 1e-30 / at.real / (1 - at.real)
            move = (np.log(density / (1 - density)) - np.log(odds)) / slope
            fields = fields + move.clip(-2, 2)
            if np.abs(move).max() < 1e-14:
                break
        return fields

    def fields(self, density: Array) -> Array:
        """Fields beta mu in which the density is the given one at each place, both (sites,).

        Raises:
            ValueError: a density out of range, or one so uneven that no fields are found.
        """
        wanted = _density(density, self.sites)
        fields = self._uniform(wanted)[0]
        stiff, rate, best = 1 / (self._marginals(fields[None] + 1e-30j)[0].imag / 1e-30), 1.0, np.inf
        while best > ROUNDING and rate > 1e-2:
            missed = wanted - self._marginals(fields[:, None])[:, 0]
            if (off := np.abs(missed).max()) < best:
                best, kept, lacks = off, fields, missed
            else:  # short waves overshoot where particles repel
                rate /= 2
            fields = kept + rate * stiff * lacks
        require(best < 1e-9, f"density must vary slowly from place to place, but is missed by {best:.2g}")
        return kept

    def equilibrium(self, density: Array, words: int, seed: int) -> Words:
        """Independent draws of local equilibrium, exact on the ring: places, shape (words, sites).

        Where particles feel each other further than `EXACT` places, each place is drawn by itself: local
        equilibrium but for corrections of order 1 / reach.

        Args:
            density: above 0 and below 1 at each place, shape (sites,).
            words: of 64 realisations each.
            seed: of every random number.

        Raises:
            ValueError: as `fields`, or no word.
        """
        rng = np.random.default_rng(seeded(seed).initial_seed())
        states = np.zeros((count("words", words), self.sites), np.uint64)
        exact = self.reach <= EXACT
        table = self._table(self.fields(density)) if exact else _density(density, self.sites)[:, None, None]
        _draw(states, _seeds(rng, words), _chances(table), self.reach if exact else 0)
        return states

    def _table(self, fields: Array) -> Array:
        """Chance of a particle at each place behind the first places f and the last ones s: (sites, f, s).

        At one of the first places f are those before it, and s is 0.
        """
        (codes, ways), reach, strength = self._codes, self.reach, self._strength
        # how the last places, s, feel the first ones, f: place i and that at the distance z behind it
        ends = np.exp(sum(np.outer(codes[:, z - i - 1], codes[:, i]) * strength[z - 1]
                          for i in range(reach) for z in range(i + 1, reach + 1)))  # fmt: skip
        chances = np.zeros((len(fields), len(codes), len(codes)))
        for x in reversed(range(reach, len(fields))):
            filled = np.exp(fields[x] + codes @ strength)[:, None] * ends[ways[:, 1]]
            total = filled + ends[ways[:, 0]]
            chances[x] = (filled / total).T
            ends = total / total.max()
        begun = (codes[:, ::-1] @ 2 ** np.arange(reach)).astype(int)  # f as s, where the last place comes first
        inner = sum(codes[:, i] * codes[:, i - z] * strength[z - 1] for i in range(reach) for z in range(1, i + 1))
        shares = ends[begun, np.arange(len(codes))] * np.exp(codes @ fields[:reach] + inner)
        for x in reversed(range(reach)):
            shares = shares.reshape(2, -1)
            chances[x, : 2**x, 0] = shares[1] / shares.sum(0)
            shares = shares.sum(0)
        return chances

    def step(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The hydrodynamic law, as `law.Law.step` gives it, so that `rollout.relaxed` can carry it on.

        Known of nearest neighbours, and of many that couple alike, whose mean field is right but for
        corrections of order 1 / reach^2.

        Args:
            z: densities, shape (..., sites, 1).

        Raises:
            ValueError: other couplings.
        """
        density, strength = z[..., 0], self._strength
        require(len(set(self.couplings)) == 1, f"couplings must all be the same, but are {self.couplings}")
        if self.reach == 1:
            flux = (potential := nearest(density, exp(-strength[0]))[3]).roll(-1, -1) - potential
        else:
            mu, mobility = box(density, float(2 * strength.sum()), self.reach)
            flux = mobility * (mu.roll(-1, -1) - mu)
        return self.frequency * (flux - flux.roll(1, -1))[..., None], z[..., :0, 0]

    # --- simulation ---------------------------------------------------------------------------

    def hopped(self, states: Words, time: float, seed: int) -> Words:
        """The same realisations a time later.

        Args:
            states: places of 64 realisations each, shape (words, sites).
            time: that passes.
            seed: of every random number.

        Raises:
            ValueError: wrong shape, or a time below 0.
        """
        require(states.shape[1:] == (self.sites,), f"states must have shape (words, {self.sites}), but {states.shape}")
        mean = self.sites * self.bound * self.frequency * positive("time", time, least=0.0)
        rng = np.random.default_rng(seeded(seed).initial_seed())
        tries, seeds, after = rng.poisson(mean, len(states)), _seeds(rng, len(states)), states.copy()
        if self.reach > 3 and min(self.couplings) == max(self.couplings) > 0:
            digits = 2.0 ** np.arange((2 * self.reach).bit_length())
            _hop_in_box(after, tries, seeds, _chances(np.exp(-self._strength[0] * digits)), self.reach)
        else:
            offsets = np.array([*range(-self.reach, 0), *range(2, self.reach + 1)])
            each = self._strength[np.abs(offsets) - 1]
            flips = np.where(each < 0, ~np.uint64(0), np.uint64(0))
            _hop(after, tries, seeds, offsets, _chances(np.exp(-np.abs(each))), flips)
        return after


def nearest(density: Tensor, slowed: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """beta mu, beta f'', the mobility m and Phi of the gas whose nearest neighbours couple: closed forms.

    d density/dt = d^2 Phi/dx^2 with Phi' = m f'', in units of sites and of the frequency.

    Args:
        density: of any shape.
        slowed: exp(-J / kBT), the factor by which a neighbour behind slows a jump.

    Reference: Katz, Lebowitz, Spohn, J. Stat. Phys. 34 (1984) 497: the rates of their model with no field.

    >>> [round(float(each), 4) for each in nearest(torch.tensor(0.5), 1.0)]  # no couplings
    [0.0, 4.0, 0.25, 0.5]
    """
    a, q = slowed, density * (1 - density)
    w = 2 * q / (1 + (1 + 4 * (1 / a - 1) * q).sqrt())  # chance of a particle with an empty place ahead
    mu = log(a) + ((density - w) / (1 - density - w)).log() - torch.logit(density)
    return mu, w / (q * (2 * q - w)), w * (w + a * (density - w)) / density, a * density + (1 - a) * w**2 / density


def box(density: Tensor, strength: float, reach: int, exact: bool = True) -> tuple[Tensor, Tensor]:
    """beta mu and the mobility of each bond, of the gas in which all within reach couple alike.

    The mean field, mu = ln[rho/(1 - rho)] - J*rho and m = rho (1 - rho) exp(-J*rho), and the factor by
    which a finite reach changes m.

    Args:
        density: shape (..., sites).
        strength: J / kBT summed over all neighbours.
        reach: to how many places on either side they couple.
        exact: whether that factor counts.
    """

    def around(values: Tensor) -> Tensor:  # the mean over all neighbours
        wide = torch.cat([values[..., -reach:], values, values[..., :reach]], -1).cumsum(-1)
        wide = torch.cat([torch.zeros_like(wide[..., :1]), wide], -1)
        return (wide[..., 2 * reach + 1 :] - wide[..., : -2 * reach - 1] - values) / (2 * reach)

    between = (density + density.roll(-1, -1)) / 2
    slowed = -strength * around(between)
    if exact:
        slowed = slowed + strength * (between + strength / 2 * around(between * (1 - between))) / (2 * reach)
    return torch.logit(density) - strength * around(density), between * (1 - between) * slowed.exp()


def moments(states: Words, shapes: Tensor) -> Tensor:
    """Coarse variables of each realisation, mean over sites of shape * eta: (words, 64, variables).

    Args:
        states: as `Lattice.equilibrium` gives them, (words, sites).
        shapes: shape functions, (variables, sites).

    Raises:
        ValueError: NaN or wrong shape.
    """
    weights = shaped("shapes", tensor("shapes", shapes), ("variables", states.shape[1])).double().numpy()
    out = np.zeros((len(states), len(weights), BITS))
    _project(states, weights / states.shape[1], out)
    return torch.from_numpy(out).mT


def density(states: Words) -> Tensor:
    """Mean of each word at each place: (words, sites).

    Args:
        states: as `Lattice.equilibrium` gives them.
    """
    return torch.from_numpy(np.bitwise_count(states) / BITS)


def _density(values: Any, *shape: int) -> Array:
    density = tensor("density", values)
    low, high = density.numpy().min(), density.numpy().max()
    require(low > 0 and high < 1, f"density must be above 0 and below 1, but spans [{low:.3g}, {high:.3g}]")
    return shaped("density", density, shape or ("...",)).numpy()


def _followed(shares: Array, steps: Array, ways: NDArray[np.int64]) -> Array:
    """Shares of the last places s, (sites, s, cases), after a step to the next place."""
    after = np.zeros_like(shares)
    for taken in (0, 1):
        for s, follow in enumerate(ways[:, taken]):
            after[:, follow] += shares[:, s] * steps[:, s, taken]
    return after


def _seeds(rng: np.random.Generator, words: int) -> Words:
    return rng.integers(0, 2**64, words, dtype=np.uint64)


def _chances(values: NDArray[Any]) -> Words:
    """Probabilities as binary fractions of 64 digits, rounded to 40; 1 becomes the largest below it.

    More digits would be those of rounding, which other processors round otherwise: 1/2 would ask for one random
    word here and for fifty there, and all later ones would differ.
    """
    digits = np.rint(np.asarray(values) * 2.0**40).astype(np.uint64)
    return np.where(digits >> np.uint64(40) > 0, ~np.uint64(0), digits << np.uint64(24))


ONE, GOLDEN = np.uint64(1), np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
U27, U30, U31, U32, U63 = (np.uint64(by) for by in (27, 30, 31, 32, 63))


@njit
def _mixed(counter: Any) -> Any:
    """The random word of a counter (splitmix64)."""
    z = (counter ^ (counter >> U30)) * FIRST
    z = (z ^ (z >> U27)) * SECOND
    return z ^ (z >> U31)


@njit
def _coin(asked: Any, chance: Any, counter: Any) -> Any:
    """Which of the bits asked win, each for itself, and the counter after."""
    won = np.uint64(0)
    while asked and chance:
        counter += GOLDEN
        word = _mixed(counter)
        if chance >> U63:
            won |= asked & ~word
            asked &= word
        else:
            asked &= ~word
        chance <<= ONE
    return won, counter


@njit
def _bond(row: Any, counter: Any) -> Any:
    """A bond drawn at random: its two places, who can hop over it to the right and to the left, the counter after."""
    counter += GOLDEN
    x = np.int64(((_mixed(counter) >> U32) * np.uint64(len(row))) >> U32)
    y = x + 1 if x + 1 < len(row) else 0
    return x, y, row[x] & ~row[y], row[y] & ~row[x], counter


@njit
def _slowed(right: Any, left: Any, asked: Any, chance: Any, counter: Any) -> Any:
    """Who still hops after a toss that those asked must win, and the counter after."""
    won, counter = _coin(asked, chance, counter)
    return right & (won | ~asked), left & (won | ~asked), counter


@compiled()
def _hop(states: Any, tries: Any, seeds: Any, offsets: Any, chances: Any, flips: Any) -> None:
    """Try bonds of each word in random order; both ways of a bond at once, for only one can be open.

    Of a particle that jumps to the right the places at `offsets` each win or lose it a toss; to the
    left those at the opposite side. Where particles repel, empty places do.
    """
    last = states.shape[1]
    for w in range(len(states)):
        row, counter = states[w], seeds[w]
        for _ in range(tries[w]):
            x, y, right, left, counter = _bond(row, counter)
            for k in range(len(offsets)):
                a, b = x + offsets[k], y - offsets[k]
                a = a + last if a < 0 else (a - last if a >= last else a)
                b = b + last if b < 0 else (b - last if b >= last else b)
                asked = (right | left) & (((right & row[a]) | (left & row[b])) ^ flips[k])
                right, left, counter = _slowed(right, left, asked, chances[k], counter)
            row[x] ^= right | left
            row[y] ^= right | left


@njit
def _add(planes: Any, place: Any, more: Any, less: Any) -> None:
    """Count up the bits of `more` and down those of `less`, which share none."""
    for k in range(len(planes)):
        old = planes[k, place]
        planes[k, place] = old ^ (more | less)
        more, less = old & more, ~old & less
        if not (more | less):
            break


@compiled()
def _hop_in_box(states: Any, tries: Any, seeds: Any, chances: Any, reach: Any) -> None:
    """As `_hop`, where all within reach couple alike: neighbours are counted, in digits of a word each."""
    last = states.shape[1]
    planes = np.empty((len(chances), last), np.uint64)
    none = np.uint64(0)
    for w in range(len(states)):
        row, counter = states[w], seeds[w]
        planes[:] = none
        for place in range(last):
            for z in range(1, reach + 1):
                _add(planes, place, row[(place + z) % last], none)
                _add(planes, place, row[(place - z) % last], none)
        for _ in range(tries[w]):
            x, y, right, left, counter = _bond(row, counter)
            for k in range(len(chances)):
                asked = (right & planes[k, x]) | (left & planes[k, y])
                right, left, counter = _slowed(right, left, asked, chances[k], counter)
            row[x] ^= right | left
            row[y] ^= right | left
            _add(planes, x, right, left)
            _add(planes, y, left, right)
            _add(planes, (x - reach) % last, left, right)
            _add(planes, (y + reach) % last, right, left)


@compiled()
def _draw(states: Any, seeds: Any, chances: Any, reach: Any) -> None:
    """Fill in places one after another, each with its chances behind the first and the last ones."""
    every: Any = ~np.uint64(0)
    for w in range(len(states)):
        row, counter = states[w], seeds[w]
        for x in range(states.shape[1]):
            begun, behind = min(x, reach), reach if x >= reach else 0
            filled = every ^ every
            for f in range(1 << begun):
                mine = every
                for i in range(begun):
                    mine &= row[i] if f >> i & 1 else ~row[i]
                for s in range(1 << behind):
                    asked = mine
                    for i in range(behind):
                        asked &= row[x - 1 - i] if s >> i & 1 else ~row[x - 1 - i]
                    won, counter = _coin(asked, chances[x, f, s], counter)
                    filled |= won
            row[x] = filled


@compiled()
def _project(states: Any, weights: Any, out: Any) -> None:
    """Add the weight of each place to the realisations that have a particle there."""
    for w in range(len(states)):
        for x in range(states.shape[1]):
            word = states[w, x]
            for i in range(len(weights)):
                if weights[i, x] != 0.0:
                    for bit in range(64):
                        out[w, i, bit] += weights[i, x] * np.float64((word >> np.uint64(bit)) & ONE)
