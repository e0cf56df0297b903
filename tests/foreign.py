"""Data of other systems as other people have them: NumPy arrays, made by code that shares nothing with ibvonns.

Every function simulates overdamped particles in small steps between the recorded frames, and returns a `Set`. Its
protocols depend on the seed only, the noise on the number of realisations too: where nothing is exact, records of
20 000 realisations with `keep=1` are the truth on the same conditions, and independent of the data.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import pi

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_banded

Array = NDArray[np.float64]
Drift = Callable[[Array, int], Array]  # of the state (conditions, ..., realisations) at a fine step
Measure = Callable[[Array, int], dict[str, Array]]  # of the same, each (conditions, realisations)


@dataclass(frozen=True)
class Set:
    """An ensemble of every condition.

    Attributes:
        positions: of the particles, with axes as named.
        times: of the frames.
        records: controls, and measured means over realisations, each (conditions, times).
        axes: names of the axes of `positions`, in their order.
        temperature: kBT.
        mean: of all realisations, the axes of `positions` less that one.
        noise: standard errors of the measured records, each (conditions, times).
        exact: what is known, each (conditions, times): forces by the names of their records, "mean", "variance" or
            "entropy", "free_energy" <V> + kBT <log p>, "work" done since the first time, and "dissipation", the rate
            friction * <v^2> of the irreversible velocity v. Empty where nothing is.
        constants: of the system.
        sites: parameters of the sites, each (sites,).
    """

    positions: Array
    times: Array
    records: dict[str, Array]
    axes: str
    temperature: float
    mean: Array
    noise: dict[str, Array]
    exact: dict[str, Array] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)
    sites: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    positions: Array
    mean: Array
    measured: dict[str, Array]
    noise: dict[str, Array]


# --- protocols and time ----------------------------------------------------------------------


def _fine(times: Array, inner: int) -> Array:
    """Times of the steps, so many to a frame."""
    return np.interp(np.arange((len(times) - 1) * inner + 1) / inner, np.arange(len(times)), times)


def _step(x: Array) -> Array:
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def _shape(rng: np.random.Generator, kind: int, share: Array, pace: float) -> Array:
    """From 0 to 1 and in between: there and back, a sine, or random waves."""
    if kind == 0:
        begin, out, rest, back = rng.uniform((0, 0.1, 0, 0.1), (0.1, 0.5, 0.2, 0.5)) / pace
        return _step((share - begin) / out) - _step((share - begin - out - rest) / back)
    if kind == 1:
        return (1 - np.cos(2 * pi * (pace * rng.uniform(0.5, 3) * share + rng.uniform()))) / 2
    number = np.arange(1, 2 + round(5 * pace))[:, None]
    amplitude, phase = rng.normal(size=number.shape) / number, rng.uniform(0, 2 * pi, number.shape)
    waves = (amplitude * np.sin(pi * number * share + phase)).sum(0)
    return (waves - waves.min()) / np.ptp(waves)


def _paths(seed: int, channel: int, conditions: int, fine: Array, pace: float = 1.0) -> Array:
    """Smooth protocols within -1 and 1 that start at rest, (conditions, fine times).

    Their three kinds take turns, so that every second or fourth condition has them all, and those of two channels
    meet in every pair. A condition is the same however many there are.
    """
    share = (fine - fine[0]) / np.ptp(fine)
    share = share + 0.03 * np.expm1(-share / 0.03)
    rows = []
    for condition in range(conditions):
        rng = np.random.default_rng([seed, channel, condition])
        ends = rng.permutation(rng.uniform(0.2, 1, 2) * (-1, 1))
        kind = (condition + channel * (condition // 3)) % 3
        rows.append(ends[0] + (ends[1] - ends[0]) * _shape(rng, kind, share, pace))
    return np.stack(rows)


def _run(
    rng: np.random.Generator,
    state: Array,
    drift: Drift,
    diffusion: float | Array,
    fine: Array,
    inner: int,
    measure: Measure = lambda state, n: {},
    keep: int | None = None,
) -> _Run:
    """Frames of dx = drift dt + sqrt(2 diffusion dt) xi.

    An Euler-Maruyama step is a predictor only: with the mean of the drifts at both ends (Heun) the bias of a step
    falls as its square, so that the data are of continuous time within their noise.
    """
    kept, means, measured, noise = [], [], [], []
    scatter = np.sqrt(2 * np.asarray(diffusion))
    for n in range(len(fine)):
        if n % inner == 0:
            kept.append(state[..., :keep].copy())
            means.append(state.mean(-1))
            values = measure(state, n)
            measured.append({name: value.mean(-1) for name, value in values.items()})
            noise.append({name: value.std(-1) / np.sqrt(value.shape[-1]) for name, value in values.items()})
        if n + 1 < len(fine):
            step = fine[n + 1] - fine[n]
            moved = state
            if scatter.any():
                kicks = rng.standard_normal(state.shape)
                kicks *= scatter * np.sqrt(step)
                moved = kicks + state
            first = drift(state, n)
            first *= step
            second = drift(first + moved, n + 1)
            second *= step
            second += first
            second /= 2
            state = second + moved
    frames = [{name: np.stack([row[name] for row in rows], 1) for name in rows[0]} for rows in (measured, noise)]
    return _Run(np.stack(kept, 1), np.stack(means, 1), *frames)


def _work(*pairs: tuple[Array, Array]) -> Array:
    """Integral of forces over their controls since the first time."""
    each = [((force[:, 1:] + force[:, :-1]) / 2 * np.diff(control)).cumsum(1) for force, control in pairs]
    return np.pad(np.sum(each, axis=0), ((0, 0), (1, 0)))


def _frames(inner: int, **values: Array) -> dict[str, Array]:
    return {name: value[:, ::inner].copy() for name, value in values.items()}


def _noise(seed: int, realisations: int) -> np.random.Generator:
    return np.random.default_rng([seed, realisations, 1])


def _inverse(levels: Array, grid: Array, density: Array) -> Array:
    """Draws from a density on a grid by uniform levels."""
    return np.interp(levels, np.cumsum(density) / density.sum() - density / density.sum() / 2, grid)


# --- harmonic traps: everything is exact ------------------------------------------------------


def bead(
    seed: int,
    uneven: bool = False,
    realisations: int = 300,
    conditions: int = 14,
    frames: int = 251,
    inner: int = 20,
    keep: int | None = None,
) -> Set:
    """A bead of a micrometre in water in a trap of optical tweezers that moves, in SI units.

    Records "lambda", the centre, and "F", the mean force on the trap. If uneven, frames lie up to three times as far
    apart as others.
    """
    heat, stiffness, friction = 4.11e-21, 5e-7, 6 * pi * 1e-3 * 0.5e-6
    rate = stiffness / friction
    steps = np.ones(frames - 1)
    if uneven:
        steps = np.random.default_rng([seed, 2]).uniform(0.5, 1.5, frames - 1)
    times = np.concatenate([[0.0], steps.cumsum() * 5 / rate / steps.sum()])
    fine = _fine(times, inner)
    centre = 9e-7 * _paths(seed, 0, conditions, fine)
    rng = _noise(seed, realisations)

    def drift(x: Array, n: int) -> Array:
        return rate * (centre[:, n, None] - x)

    def measure(x: Array, n: int) -> dict[str, Array]:
        return {"F": stiffness * (centre[:, n, None] - x)}

    start = rng.normal(centre[:, :1], np.sqrt(heat / stiffness), (conditions, realisations))
    run = _run(rng, start, drift, heat / friction, fine, inner, measure, keep)
    mean = _run(rng, centre[:, :1], drift, 0.0, fine, 1).mean
    lag = centre - mean
    exact = _frames(
        inner,
        mean=mean,
        F=stiffness * lag,
        work=_work((stiffness * lag, centre)),
        dissipation=friction * (rate * lag) ** 2,
        free_energy=stiffness / 2 * lag**2 - heat / 2 * np.log(2 * pi * heat / stiffness),
    )
    records = _frames(inner, **{"lambda": centre}) | run.measured
    constants = {"stiffness": stiffness, "friction": friction}
    axes = "conditions times realisations"
    return Set(run.positions, times, records, axes, heat, run.mean, run.noise, exact, constants)


def breathing(
    seed: int,
    realisations: int = 1000,
    conditions: int = 40,
    frames: int = 201,
    inner: int = 10,
    keep: int | None = None,
) -> Set:
    """A harmonic trap whose centre and stiffness both vary; kBT and friction are 1.

    Records "centre" and "stiffness", and the means of what the potential changes by with each, "F_centre" and
    "F_stiffness".
    """
    times = np.linspace(0, 3, frames)
    fine = _fine(times, inner)
    centre = 3 * _paths(seed, 0, conditions, fine)
    stiffness = 2 * np.exp(0.8 * _paths(seed, 1, conditions, fine))
    rng = _noise(seed, realisations)

    def drift(x: Array, n: int) -> Array:
        return stiffness[:, n, None] * (centre[:, n, None] - x)

    def measure(x: Array, n: int) -> dict[str, Array]:
        lag = centre[:, n, None] - x
        return {"F_centre": stiffness[:, n, None] * lag, "F_stiffness": lag**2 / 2}

    def spread(variance: Array, n: int) -> Array:
        return 2 - 2 * stiffness[:, n, None] * variance

    start = rng.normal(centre[:, :1], stiffness[:, :1] ** -0.5, (conditions, realisations))
    run = _run(rng, start, drift, 1.0, fine, inner, measure, keep)
    mean = _run(rng, centre[:, :1], drift, 0.0, fine, 1).mean
    variance = _run(rng, 1 / stiffness[:, :1], spread, 0.0, fine, 1).mean
    lag, width = centre - mean, np.sqrt(variance)
    forces = {"F_centre": stiffness * lag, "F_stiffness": (lag**2 + variance) / 2}
    exact = _frames(
        inner,
        **forces,
        mean=mean,
        variance=variance,
        work=_work((forces["F_centre"], centre), (forces["F_stiffness"], stiffness)),
        dissipation=(stiffness * lag) ** 2 + (1 / width - stiffness * width) ** 2,
        free_energy=stiffness * forces["F_stiffness"] - np.log(2 * pi * np.e * variance) / 2,
    )
    records = _frames(inner, centre=centre, stiffness=stiffness) | run.measured
    axes = "conditions times realisations"
    return Set(run.positions, times, records, axes, 1.0, run.mean, run.noise, exact, {"friction": 1.0})


# --- a double well: exact on a grid -----------------------------------------------------------


def double_well(
    seed: int,
    realisations: int = 1500,
    conditions: int = 24,
    frames: int = 201,
    inner: int = 10,
    keep: int | None = None,
    barrier: float = 3.0,
    stiffness: float = 2.0,
) -> Set:
    """A particle in the wells of barrier * (x^2 - 1)^2 and in a harmonic trap that moves; kBT and friction are 1.

    Records "lambda", the trap's centre, and "F", the mean force on the trap.
    """
    times = np.linspace(0, 4, frames)
    fine = _fine(times, inner)
    centre = 2 * _paths(seed, 0, conditions, fine)
    rng = _noise(seed, realisations)

    def drift(x: Array, n: int) -> Array:
        out = x * x
        out *= -4 * barrier
        out += 4 * barrier - stiffness
        out *= x
        out += stiffness * centre[:, n, None]
        return out

    def measure(x: Array, n: int) -> dict[str, Array]:
        return {"F": stiffness * (centre[:, n, None] - x)}

    grid = np.linspace(-2.6, 2.6, 417)
    wells = barrier * (grid**2 - 1) ** 2
    density = np.exp(-wells - stiffness / 2 * (grid - centre[:, :1]) ** 2)
    levels = rng.uniform(size=(conditions, realisations))
    start = np.stack([_inverse(row, grid, each) for row, each in zip(levels, density, strict=True)])
    run = _run(rng, start, drift, 1.0, fine, inner, measure, keep)
    exact = _frames(inner, **_fokker_planck(grid, wells, stiffness, centre, fine))
    records = _frames(inner, **{"lambda": centre}) | run.measured
    constants = {"barrier": barrier, "stiffness": stiffness, "friction": 1.0}
    axes = "conditions times realisations"
    return Set(run.positions, times, records, axes, 1.0, run.mean, run.noise, exact, constants)


def _fokker_planck(grid: Array, wells: Array, stiffness: float, centre: Array, fine: Array) -> dict[str, Array]:
    """The density by Scharfetter and Gummel's fluxes and Crank and Nicolson's steps, all conditions in one matrix."""
    gap = grid[1] - grid[0]
    slope = np.diff(wells) + stiffness * gap * (grid[1:] + grid[:-1]) / 2
    conditions, points = len(centre), len(grid)

    def rates(n: int) -> tuple[Array, Array]:
        """To the right from every point, and back; 0 at the last one, so that conditions do not mix."""
        rise = slope - stiffness * gap * centre[:, n, None]
        rise = np.where(np.abs(rise) < 1e-9, 1e-9, rise)  # where the quotient below is 0 / 0
        right = rise / np.expm1(rise) / gap**2
        return np.pad(right, ((0, 0), (0, 1))), np.pad(right + rise / gap**2, ((0, 0), (0, 1)))

    def change(density: Array, right: Array, left: Array) -> Array:
        flux = right * density - left * np.roll(density, -1, 1)
        return np.roll(flux, 1, 1) - flux

    density = np.exp(-wells - stiffness / 2 * (grid - centre[:, :1]) ** 2)
    density /= density.sum(1, keepdims=True) * gap
    found: list[tuple[Array, ...]] = []
    bands = np.zeros((3, conditions * points))
    ahead = rates(0)
    for n in range(len(fine)):
        right, left = ahead
        logarithm = np.log(np.maximum(density, 1e-300))
        energy = wells + stiffness / 2 * (grid - centre[:, n, None]) ** 2 + logarithm
        flux = right * density - left * np.roll(density, -1, 1)
        entropy, free = -(density * logarithm).sum(1) * gap, (density * energy).sum(1) * gap
        loss = (flux[:, :-1] * -np.diff(energy, axis=1)).sum(1) * gap
        found.append(((density * grid).sum(1) * gap, entropy, free, loss))
        if n + 1 < len(fine):
            half = (fine[n + 1] - fine[n]) / 2
            ahead = rates(n + 1)
            density = density + half * change(density, right, left)
            right, left = ahead
            bands[0, 1:] = -half * left.ravel()[:-1]
            bands[1] = (1 + half * (right + np.roll(left, 1, 1))).ravel()
            bands[2] = -half * right.ravel()
            density = solve_banded((1, 1), bands, density.ravel(), check_finite=False).reshape(conditions, points)
    mean, entropy, free, loss = (np.stack(each, 1) for each in zip(*found, strict=True))
    force = stiffness * (centre - mean)
    work = _work((force, centre))
    return {"mean": mean, "F": force, "entropy": entropy, "free_energy": free, "work": work, "dissipation": loss}
