"""Lattice gases learned from short runs, as Stat-PINNs does: the studies of chapters 12 and 13."""

from dataclasses import dataclass, replace
from math import log, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ibvonns.cache import cached
from ibvonns.ensemble import Density
from ibvonns.fluctuations import Estimate, Moves, covariation, drift, richardson, shapes
from ibvonns.layouts import Ring
from ibvonns.model import Architecture, Model
from ibvonns.observations import Observations
from ibvonns.recipe import Phase, Recipe
from ibvonns.seeds import fitted
from ibvonns.systems.lattice import BITS, Lattice, density, moments
from ibvonns.validation import choice, count, require

__all__ = ["GASES", "SEEDS", "STUDY", "Gas", "observed", "scattered", "trained"]

SHAPES, PARTS = 20, 400  # coarse variables; independent parts of the data
SEEDS = 8  #: Of the book.
LEAST, SKEWED = 100, 10.0  # words of a covariation; its bias in errors beyond which no extrapolation helps
Waves = tuple[float, ...]  # mean, then amplitudes of sin x, cos x, sin 2x, cos 2x, ...


@dataclass(frozen=True)
class Gas:
    """A lattice gas, the short runs that are observed of it, and profiles that none has seen.

    Attributes:
        lattice: the gas.
        profiles: densities at first, by their waves.
        unseen: others.
        lapse: of time, of the drift.
        words: of 64 runs for each profile, for the drift.
        scatter_lapse: half of the time in which the scatter is seen.
        scatter_words: for it.
        local: whether the law is; else it sees the mean over all that couple, too.
        steps: of the training. A law of two variables has more freedom than the drift's noise allows for: more
            steps fit the noise, and the potential goes astray off the data (chapter 13).
    """

    lattice: Lattice
    profiles: tuple[Waves, ...]
    unseen: tuple[Waves, ...]
    lapse: float
    words: int
    scatter_lapse: float
    scatter_words: int
    local: bool = True
    steps: int = 700

    @property
    def architecture(self) -> Architecture:
        """Of its models: no internal variable, and an idle encoder and decoder."""
        kernel = () if self.local else self.lattice.couplings
        return Architecture(Ring(), internal=0, decoder="flow", gas=self.lattice.temperature, kernel=kernel)

    def densities(self, waves: tuple[Waves, ...]) -> NDArray[Any]:
        """Profiles from their waves, shape (profiles, sites).

        Args:
            waves: of each profile.

        >>> GASES["attracting"].densities(((0.5, 0.1),)).max().round(3)
        np.float64(0.6)
        """
        x = 2 * pi * np.arange(self.lattice.sites) / self.lattice.sites
        parts = [1 + 0 * x, *(wave(n * x) for n in range(1, 4) for wave in (np.sin, np.cos))]
        return np.stack([sum(a * part for a, part in zip(each, parts, strict=False)) for each in waves])


# waves of the ring's length: what the lattice adds to the law falls as the square of the wave number
_SHORT = ((.5, .42), (.5, 0, .36), (.3, 0, .22), (.7, .22), (.5, .3, 0, 0, .08), (.5, 0, -.25, .1))  # fmt: skip
_UNSEEN = ((.5, .2, .1, -.08), (.35, 0, .15, .05, .05), (.6, -.2, 0, 0, .1))  # fmt: skip
_LONG = ((.5, .38), (.5, 0, .3, .1), (.3, 0, .2), (.7, .2), (.5, 0, 0, 0, .33), (.5, -.3, 0, 0, 0, 0, .1),
         (.3, 0, .05, .15), (.7, 0, 0, -.08, .12))  # fmt: skip
_HELD = ((.5, 0, .3, -.08), (.4, .2, 0, 0, .1), (.6, 0, 0, .2))  # fmt: skip
#: Gases by name: with nearest neighbours that attract and that repel, and with a long reach.
#:
#: :meta hide-value:
GASES: dict[str, Gas] = {
    "attracting": Gas(Lattice(200, (log(4),)), _SHORT, _UNSEEN, 40.0, 20_000, 0.5, 8000),
    "repelling": Gas(Lattice(200, (-log(4),)), _SHORT, _UNSEEN, 10.0, 20_000, 0.1, 8000),
    "long": Gas(Lattice(160, (2 / 80,) * 40), _LONG, _HELD, 20.0, 4000, 0.5, 4000, local=False, steps=300),
}


#: The studies of the command line, and their gases.
STUDY: dict[str, tuple[str, ...]] = {"lattice-short": ("attracting", "repelling"), "lattice-long": ("long",)}


def observed(gas: Gas, seed: int = 0, fewer: int = 1) -> Observations:
    """Short runs from local equilibria: densities, and drift and scatter of coarse variables.

    Args:
        gas: that is observed.
        seed: of every random number.
        fewer: times fewer runs.

    Raises:
        ValueError: too few runs, or as `scattered`.
    """
    lattice, basis = gas.lattice, shapes(gas.lattice.sites, SHAPES)
    parts = min(PARTS, count("words", gas.words // fewer, 2 * SHAPES))
    per = gas.words // fewer // parts
    smooth = basis.mT @ torch.linalg.lstsq(basis.mT, torch.eye(lattice.sites).double()).solution
    drifts, operators, states, fields = [], [], [], []
    for place, profile in enumerate(gas.densities(gas.profiles)):
        start = 1000 * seed + 10 * place
        path = [lattice.equilibrium(profile, per * parts, start)]
        for half in (1, 2):
            path.append(lattice.hopped(path[-1], gas.lapse / 2, start + half))
        begun, middle, end = (density(each).unflatten(0, (parts, -1)).mean(1) for each in path)
        drifts.append(drift((end - begun)[:, None] @ basis.mT / lattice.sites, gas.lapse))
        field = torch.stack([torch.from_numpy(profile), middle.mean(0), end.mean(0)])
        fields.append(field)
        states.append(field[:1] + (field - field[:1]) @ smooth)  # of the small change alone
        operators.append(scattered(gas, profile, gas.scatter_words // fewer, start + 3))
    whole, times = torch.stack(fields)[..., None], torch.tensor([0.0, gas.lapse / 2, gas.lapse]).double()
    weights = torch.cat([0 * whole, 1 - whole, whole, 0 * whole, 0 * whole], -1)  # of eta = -1, 0, 1, 2, 3
    cloud = Density(torch.arange(-1, 4).double(), weights)
    moves = Moves(basis, torch.stack(states), drifts, operators)
    return Observations(times, whole, cloud, whole, whole * (1 - whole), BITS * per * parts, moves=moves)


def scattered(gas: Gas, profile: NDArray[Any], words: int, seed: int) -> Estimate:
    """K of coarse variables in a local equilibrium, from the scatter over two lapses, extrapolated to none.

    Args:
        gas: whose `scatter_lapse` is the shorter one; the other is its double.
        profile: density at each place, shape (sites,).
        words: of 64 realisations each; every word is a part of the estimate.
        seed: of every random number.

    Raises:
        ValueError: fewer than 100 words, or a lapse too large: what it adds to K, which the extrapolation takes
            off but in part, is over ten times the noise.
    """
    lattice, basis = gas.lattice, shapes(gas.lattice.sites, SHAPES)
    path = [lattice.equilibrium(profile, count("words", words, LEAST), seed)]
    for part in (1, 2):
        path.append(lattice.hopped(path[-1], gas.scatter_lapse, seed + part))
    begun, *ends = (moments(each, basis) for each in path)
    unit = lattice.temperature / lattice.sites
    found = [covariation(y - begun, n * gas.scatter_lapse, unit) for n, y in enumerate(ends, 1)]
    skew = float(((found[0].value - found[1].value) / found[0].error).diagonal().median())
    allowed = f"scatter_lapse must leave K a bias of under {SKEWED:g} errors, but leaves {skew:.3g}"
    require(skew < SKEWED, allowed)
    return richardson(*found)


def trained(name: str, data_seed: int = 0, seeds: int = SEEDS, fluctuations: bool = True, fewer: int = 1) -> Model:
    """The models of a gas, one replica for each seed; from the cache, or trained now.

    Args:
        name: a key of `GASES`.
        data_seed: of the data.
        seeds: how many, from 0.
        fluctuations: whether the scatter counts; else the drift alone.
        fewer: times fewer runs.

    Raises:
        ValueError: unknown name, or no seeds.
    """
    gas = GASES[choice("gas", name, GASES)]

    def compute() -> dict[str, Any]:
        recipe = Recipe.of(Ring(), gas.lattice.temperature)
        weights = {"drift": 1.0} | ({"fluctuation": 1.0} if fluctuations else {})
        stage = replace(recipe.stages[0], phases=(Phase(0, gas.steps),), weights=weights)
        recipe = replace(recipe, stages=(stage,), attempts=0)
        return fitted(gas.architecture, observed(gas, data_seed, fewer), range(seeds), recipe).model.exported()

    key = [gas, data_seed, count("seeds", seeds), fluctuations, fewer]
    return Model.restored(cached(f"gas-{name}", key, compute, Path(__file__)))
