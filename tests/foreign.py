"""Data of other systems as other people have them: NumPy arrays, made by code that shares nothing with ibvonns.

Every function simulates overdamped particles in small steps between the recorded frames, and returns a `Set`. Its
protocols depend on the seed only, the noise on the number of realisations too: where nothing is exact, records of
20 000 realisations with `keep=1` are the truth on the same conditions, and independent of the data.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import comb, cos, pi, sin
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_banded

ALL = 10**9  # more than there are
Array = NDArray[np.float64]
Drift = Callable[[Array, slice, int], Array]  # of the state (conditions, ..., realisations) of some at a fine step
Measure = Callable[[Array, slice, int], dict[str, Array]]  # of the same, each (conditions, realisations)


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
    start: Array,
    drift: Drift,
    diffusion: float | Array,
    fine: Array,
    inner: int,
    measure: Measure = lambda state, c, n: {},
    keep: int = ALL,
) -> _Run:
    """Frames of dx = drift dt + sqrt(2 diffusion dt) xi.

    An Euler-Maruyama step is a predictor only: with the mean of the drifts at both ends (Heun) the bias of a step
    falls as its square, so that the data are of continuous time within their noise.
    """
    shape = (len(start), (len(fine) - 1) // inner + 1)
    positions = np.empty((*shape, *start.shape[1:-1], min(keep, start.shape[-1])))
    run = _Run(positions, np.empty(positions.shape[:-1]), {}, {})
    scatter = np.sqrt(2 * np.asarray(diffusion))
    size = max(1, 20_000 // start[0].size)  # of a block of conditions that fits into the processor's cache
    for c in (slice(first, first + size) for first in range(0, len(start), size)):
        state = start[c]
        for n, step in enumerate(np.diff(fine, append=fine[-1])):
            if n % inner == 0:
                frame = n // inner
                positions[c, frame], run.mean[c, frame] = state[..., :keep], state.mean(-1)
                for name, value in measure(state, c, n).items():
                    run.measured.setdefault(name, np.empty(shape))[c, frame] = value.mean(-1)
                    run.noise.setdefault(name, np.empty(shape))[c, frame] = value.std(-1) / np.sqrt(value.shape[-1])
            if n + 1 < len(fine):
                kicks = rng.standard_normal(state.shape)
                kicks *= scatter * np.sqrt(step)
                kicks += state
                slope = drift(state, c, n)
                slope *= step
                move = drift(slope + kicks, c, n + 1)
                move *= step
                move += slope
                move /= 2
                state = np.add(move, kicks, out=kicks)
    return run


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
    seed: int, uneven: bool = False, realisations: int = 300, conditions: int = 14, frames: int = 251, keep: int = ALL
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
    fine = _fine(times, inner := 20)
    centre = 9e-7 * _paths(seed, 0, conditions, fine)
    rng = _noise(seed, realisations)

    def drift(x: Array, c: slice, n: int) -> Array:
        return rate * (centre[c, n, None] - x)

    def measure(x: Array, c: slice, n: int) -> dict[str, Array]:
        return {"F": friction * drift(x, c, n)}

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


def breathing(seed: int, realisations: int = 1000, conditions: int = 40, frames: int = 201, keep: int = ALL) -> Set:
    """A harmonic trap whose centre and stiffness both vary; kBT and friction are 1.

    Records "centre" and "stiffness", and the means of what the potential changes by with each, "F_centre" and
    "F_stiffness".
    """
    times = np.linspace(0, 3, frames)
    fine = _fine(times, inner := 10)
    centre = 3 * _paths(seed, 0, conditions, fine)
    stiffness = 2 * np.exp(0.8 * _paths(seed, 1, conditions, fine))
    rng = _noise(seed, realisations)

    def drift(x: Array, c: slice, n: int) -> Array:
        return stiffness[c, n, None] * (centre[c, n, None] - x)

    def measure(x: Array, c: slice, n: int) -> dict[str, Array]:
        lag = centre[c, n, None] - x
        return {"F_centre": stiffness[c, n, None] * lag, "F_stiffness": lag**2 / 2}

    def spread(variance: Array, c: slice, n: int) -> Array:
        return 2 - 2 * stiffness[c, n, None] * variance

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


def double_well(seed: int, realisations: int = 1500, conditions: int = 24, frames: int = 201, keep: int = ALL) -> Set:
    """A particle in the wells of barrier * (x^2 - 1)^2 and in a harmonic trap that moves; kBT and friction are 1.

    Records "lambda", the trap's centre, and "F", the mean force on the trap.
    """
    barrier, stiffness = 3.0, 2.0
    times = np.linspace(0, 4, frames)
    fine = _fine(times, inner := 10)
    centre = 2 * _paths(seed, 0, conditions, fine)
    rng = _noise(seed, realisations)

    def drift(x: Array, c: slice, n: int) -> Array:
        out = x * x
        out *= -4 * barrier
        out += 4 * barrier - stiffness
        out *= x
        out += stiffness * centre[c, n, None]
        return out

    def measure(x: Array, c: slice, n: int) -> dict[str, Array]:
        return {"F": stiffness * (centre[c, n, None] - x)}

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


# --- a chain and a plane: a large sample is the truth -----------------------------------------


def chain(
    seed: int,
    drive: Literal["velocity", "force"] = "velocity",
    unequal: bool = False,
    realisations: int = 500,
    conditions: int = 20,
    springs: int = 20,
    frames: int = 251,
    keep: int = ALL,
) -> Set:
    """Bistable springs in a row between a wall and a driven end, started from equilibrium at the end's first place.

    The potential of a spring is quadratic around strain 0 and around `well_strain`, with its kink half way. Positions
    are the strains. Records: "length" from the wall to the end, "velocity" of the end (backward difference, 0 at
    first) and "external_force". If a force drives, it is prescribed, the end has its friction and feels the mean
    tension, so that it is at one place in all realisations. If unequal, `sites` has each spring's "stiffness" in units
    of the common one.
    """
    natural, stiffness, well, viscosity, heat = 0.02, 0.008, 1.6, 0.03, 5e-6
    factors = np.random.default_rng([seed, 3]).uniform(0.6, 1.6, springs) if unequal else np.ones(springs)
    times = np.linspace(0, 3, frames)
    fine = _fine(times, inner := 4)
    paths = _paths(seed, 0, conditions, fine, pace=0.4)
    paths -= paths[:, :1]
    first = well * springs * (np.random.default_rng([seed, 4]).permutation(conditions) + 0.5) / conditions
    # an end that is faster than the springs only strains the last of them
    speeds = np.gradient(paths, fine, axis=1)
    speeds *= springs * np.minimum(0.8, 0.4 / np.abs(speeds).max(1, keepdims=True))
    forces = 0.8 * stiffness * paths
    diffusion = np.where(np.arange(springs) < springs - 1, heat / viscosity / natural**2, 0.0)[:, None]
    rng, rows = _noise(seed, realisations), factors[:, None] * stiffness

    def pulls(u: Array) -> Array:
        """Tensions, from places in natural lengths, each counted from its own at rest."""
        strain = u.copy()
        strain[:, 1:] -= u[:, :-1]
        strain -= well * (strain > well / 2)
        strain *= rows
        return strain

    def drift(u: Array, c: slice, n: int) -> Array:
        tension, out = pulls(u), np.empty_like(u)
        np.subtract(tension[:, 1:], tension[:, :-1], out=out[:, :-1])
        out[:, -1] = forces[c, n, None] - tension[:, -1].mean(-1, keepdims=True)
        out /= viscosity * natural
        if drive == "velocity":
            out[:, -1] = speeds[c, n, None]
        return out

    def measure(u: Array, c: slice, n: int) -> dict[str, Array]:
        return {"external_force": pulls(u)[:, -1]}

    start = np.stack([_strains(rng, each, realisations, natural / heat * rows, well) for each in first]).cumsum(1)
    run = _run(rng, start, drift, diffusion, fine, inner, measure, keep)
    length = natural * (springs + run.mean[..., -1])
    for places in (run.positions, run.mean):  # to strains, in place: they are large
        for spring in range(springs - 1, 0, -1):
            places[:, :, spring] -= places[:, :, spring - 1]
    velocity = np.pad(np.diff(length) / np.diff(times), ((0, 0), (1, 0)))
    force = run.measured["external_force"] + viscosity * velocity
    exact = {"external_force": forces[:, ::inner].copy()} if drive == "force" else {}
    records = {"length": length, "velocity": velocity, "external_force": force} | exact
    noise = {} if exact else run.noise
    constants = {"natural_length": natural, "stiffness": stiffness, "well_strain": well, "viscosity": viscosity}
    sites = {"stiffness": factors} if unequal else {}
    axes = "conditions times sites realisations"
    return Set(run.positions, times, records, axes, heat, run.mean, noise, exact, constants, sites)


def _strains(rng: np.random.Generator, total: float, realisations: int, stiff: Array, well: float) -> Array:
    """Equilibrium of springs with a total strain, (springs, realisations); stiffnesses (springs, 1) in kBT.

    exp(-V/kBT) is the larger of two Gaussians with one width. Of their sums a product is a mixture over the springs
    in the second well, whose weight depends on their number only; a draw of it is accepted with the share of the
    larger ones.
    """
    springs, soft = len(stiff), 1 / stiff
    number = np.arange(springs + 1)
    miss = (total - well * number) ** 2 / (2 * soft.sum())
    weight = np.array([comb(springs, each) for each in number]) * np.exp(miss.min() - miss)
    found = np.empty((springs, 0))
    while found.shape[1] < realisations:
        many = rng.choice(number, realisations, p=weight / weight.sum())
        far = rng.permuted(np.arange(springs)[:, None] < many, axis=0)
        strain = well * far + rng.normal(size=far.shape) * np.sqrt(soft)
        strain += (total - strain.sum(0)) * soft / soft.sum()
        share = 1 / (1 + np.exp(-np.abs(strain - well / 2) * well * stiff))
        found = np.concatenate([found, strain[:, rng.uniform(size=realisations) < share.prod(0)]], 1)
    return found[:, :realisations]


def plane(
    seed: int, realisations: int = 800, conditions: int = 40, frames: int = 201, angle: float = 0.0, keep: int = ALL
) -> Set:
    """A particle in the plane in a trap stiffness / 2 * r^2 + quartic / 4 * r^4 that moves; kBT and friction are 1.

    Records "cx" and "cy", the trap's centre, and "Fx" and "Fy", the mean force on it; all is turned by an angle.
    """
    stiffness, quartic = 1.0, 1.0
    times = np.linspace(0, 2.5, frames)
    fine = _fine(times, inner := 8)
    centre = 3 * np.stack([_paths(seed, channel, conditions, fine) for channel in (0, 1)], 1)
    rng = _noise(seed, realisations)

    def drift(x: Array, c: slice, n: int) -> Array:
        lag = centre[c, :, n, None] - x
        square = (lag * lag).sum(1, keepdims=True)
        square *= quartic
        square += stiffness
        lag *= square
        return lag

    def measure(x: Array, c: slice, n: int) -> dict[str, Array]:
        force = drift(x, c, n)
        turned = {"Fx": cos(angle) * force[:, 0] - sin(angle) * force[:, 1]}
        return turned | {"Fy": sin(angle) * force[:, 0] + cos(angle) * force[:, 1]}

    grid = np.linspace(0, 6, 6001)
    density = grid * np.exp(-stiffness / 2 * grid**2 - quartic / 4 * grid**4)
    radius = _inverse(rng.uniform(size=(conditions, 1, realisations)), grid, density)
    way = rng.uniform(0, 2 * pi, radius.shape)
    start = centre[:, :, :1] + radius * np.concatenate([np.cos(way), np.sin(way)], 1)
    run = _run(rng, start, drift, 1.0, fine, inner, measure, keep)
    turn = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    at = turn @ centre[:, :, ::inner]
    records = {"cx": at[:, 0].copy(), "cy": at[:, 1].copy()} | run.measured
    constants = {"stiffness": stiffness, "quartic": quartic, "friction": 1.0}
    positions = np.einsum("ij,ctjr->ctri", turn, run.positions)
    axes = "conditions times realisations dims"
    return Set(positions, times, records, axes, 1.0, run.mean @ turn.T, run.noise, {}, constants)
