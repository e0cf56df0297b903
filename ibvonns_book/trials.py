"""Trials of a law beyond its data: far pulls, cycles that may yield no work, longer chains."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ibvonns.ensemble import Ensemble
from ibvonns.metrics import each_error
from ibvonns.model import Model
from ibvonns.observations import observe
from ibvonns.protocols import pulled_length
from ibvonns.systems.chain import VELOCITY, Chain
from ibvonns.systems.trap import paper_times
from ibvonns.validation import count, positive, shaped
from ibvonns_book.stiv import bell

__all__ = [
    "FAR",
    "LongChain",
    "cycle_work",
    "decoded_energy",
    "dissipated",
    "far_data",
    "held_rate",
    "held_truth",
    "long_chain",
    "marginal_energy",
]

FINE = 641  # grid points for the first states, as for the studies' errors
#: First length and factor of the paper's pulling speed by name; the training data know no push.
FAR = {"faster": (0.2, 1.5), "fast": (0.28, 3.0), "push": (0.2, -0.5)}


def far_data(realisations: int = 2000, seed: int = 30_000) -> dict[str, Ensemble]:
    """Ensembles of the chain of ten far from its training data, by the names of `FAR`.

    Args:
        realisations: chains in each.
        seed: of the first; the next ones count up.

    Raises:
        ValueError: no realisation.

    >>> sorted(far_data(realisations=1))
    ['fast', 'faster', 'push']
    """
    times = paper_times()
    data = {}
    for number, (name, (start, faster)) in enumerate(FAR.items()):
        speed = torch.tensor([faster * VELOCITY], dtype=torch.float64)
        length = start + pulled_length("smoothed-linear", speed, times)
        generator = torch.Generator().manual_seed(seed + number)
        data[name] = Chain().simulate(length, times, realisations, generator)
    return data


@torch.no_grad()
def dissipated(model: Model, states: Tensor, force: Tensor) -> Tensor:
    """Dissipation of a whole chain, g_v . v + g_alpha . dalpha/dt, summed over its springs.

    Args:
        model: with potentials for a law.
        states: shape (replicas, states, springs, 1 + internal), strain first.
        force: F_ex, shape (states,) or (replicas, states).

    Returns:
        An energy per time, shape (replicas, states).

    Raises:
        ValueError: wrong shape.

    >>> from ibvonns.model import Architecture
    >>> model, states = Model([0], Architecture()), torch.ones(1, 1, 10, 2, dtype=torch.float64)
    >>> float(dissipated(model, states, torch.ones(1).double())) > 0
    True
    """
    return model.law.dissipation(states, model.law.driving(states, force)).sum(-1)


@torch.no_grad()
def decoded_energy(model: Model, states: Tensor, points: int = 801) -> tuple[Tensor, Tensor]:
    """Free energy of the decoded densities, sum over springs of <V> + kBT <log q>.

    It asks the decoder and not the law, so that it serves for a law with no potentials, too. The
    springs count as independent: what binds them, their length, has a small share in the entropy.

    Args:
        model: whose decoder is asked.
        states: shape (replicas, states, springs, 1 + internal), strain first.
        points: of the grid of strains from -3 to 7, how many.

    Returns:
        An energy, shape (replicas, states), and how far from 1 the integral of the worst density
        is, same shape: far from its data a decoder may put it anywhere.

    Raises:
        ValueError: wrong shape, or fewer than two points.

    >>> from ibvonns.model import Architecture
    >>> model, states = Model([0], Architecture()), torch.ones(1, 2, 10, 2, dtype=torch.float64)
    >>> decoded_energy(model, states)[0].shape
    torch.Size([1, 2])
    """
    chain = Chain()
    grid = torch.linspace(-3, 7, count("points", points, 2), dtype=torch.float64)
    rows = states.flatten(1, 2)
    logs = model.decoder.log_density(grid.expand(*rows.shape[:2], -1), rows)
    density = logs.exp() * (grid[1] - grid[0])
    inside = chain.potential(grid) + chain.temperature * logs.clamp_min(-700)
    energy = (density * inside).sum(-1).unflatten(1, states.shape[1:3]).sum(-1)
    missing = (density.sum(-1) - 1).abs().unflatten(1, states.shape[1:3])
    return energy, missing.amax(-1)


@torch.no_grad()
def held_rate(model: Model, states: Tensor, step: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Rate of `decoded_energy` while the pulled end is held.

    A free energy may only fall then. That of the decoded densities leaves out what binds the springs
    to one another, so that a small rise breaks no law: `held_truth` tells what the chains do.

    Args:
        model: whose law and decoder are asked.
        states: as for `decoded_energy`.
        step: of time, for the difference.

    Returns:
        An energy per time, shape (replicas, states), and the second result of `decoded_energy`.

    Raises:
        ValueError: wrong shape, or a step that is not above 0.
    """
    rate, _ = model.law.step(states, velocity=states.new_zeros(states.shape[1]))
    before, missing = decoded_energy(model, states)
    after, _ = decoded_energy(model, states + positive("step", step) * rate)
    return (after - before) / step, missing


def marginal_energy(chain: Chain, strains: Tensor, points: int = 501, width: float = 0.1) -> Tensor:
    """The free energy of `decoded_energy` from realisations, their densities smoothed a little.

    Args:
        chain: whose potential it is.
        strains: shape (states, springs, realisations).
        points: of the grid of strains from -3 to 7.
        width: deviation of the Gaussian that smooths the densities, a strain.

    Returns:
        An energy, shape (states,).

    Raises:
        ValueError: a strain outside of the grid.
    """
    grid = torch.linspace(-3, 7, points, dtype=torch.float64)
    times = torch.arange(len(strains), dtype=torch.float64)  # states in their place
    weights = Ensemble(times, strains[None]).density(grid).weights[0]
    near = bell((grid[:, None] - grid) / width) / width
    logs = (weights @ near).clamp_min(1e-300).log()
    return (weights * (chain.potential(grid) + chain.temperature * logs)).sum((-2, -1))


def held_truth(chain: Chain, strains: Tensor, seed: int = 50_000, copies: int = 5, steps: int = 2) -> Tensor:
    """What `held_rate` asks of a law, by simulation: the rate of the true marginals' free energy.

    Each chain is run on in many copies with both ends held, and the rate taken from the first step
    to the last, so that both are densities of as many chains.

    Args:
        chain: that is simulated.
        strains: realisations to begin from, shape (states, springs, realisations).
        seed: of the noise.
        copies: of each realisation.
        steps: of 0.01, two or more.

    Returns:
        An energy per time, shape (states,).

    Raises:
        ValueError: strains of another shape, or fewer than two steps.
    """
    times = 0.01 * torch.arange(1 + count("steps", steps, 2), dtype=torch.float64)
    rates, rng = [], torch.Generator().manual_seed(seed)
    for state in shaped("strains", strains, ("states", chain.springs, "realisations")):
        begin = state.repeat(1, copies)[None]
        length = (begin.sum(1).mean() + chain.springs) * chain.natural_length
        run = chain.simulate(length.expand(1, len(times)), times, begin.shape[-1], rng, begin)
        energy = marginal_energy(chain, run.realisations[0, 1 :: steps - 1])
        rates.append((energy[1] - energy[0]) / (times[-1] - times[1]))
    return torch.stack(rates)


@torch.no_grad()
def cycle_work(
    model: Model,
    start: Tensor,
    amplitude: Tensor,
    period: float,
    periods: int = 4,
    step: float = 0.01,
    drag: float = 0.0,
) -> Tensor:
    """Work that the pulled end does in the last of several equal cycles, by the law's own force.

    The end moves as amplitude * (1 - cos(2 pi t / period)) / 2. In a cycle that has become periodic
    state and free energy come back to where they were: at one temperature the second law then
    leaves no sign to the work but that of dissipation, W >= 0.

    Args:
        model: whose law is asked.
        start: first states, shape (replicas, conditions, springs, 1 + internal).
        amplitude: of each condition, a length, shape (conditions,).
        period: of the cycle, a time.
        periods: how many; the earlier ones lead to the periodic state.
        step: of Euler's method, about.
        drag: viscosity of the end itself, whose loss eta v_n^2 is no part of what is returned.

    Returns:
        An energy, shape (replicas, conditions); NaN or infinite where a rollout ran away.

    Raises:
        ValueError: a period or step that is not above 0, or fewer than two periods.
    """
    each = max(2, round(positive("period", period) / positive("step", step)))
    total = each * count("periods", periods, 2)
    times = torch.arange(total + 1, dtype=torch.float64) * (period / each)
    wave = (1 - torch.cos(2 * torch.pi * times / period)) / 2
    velocity = _backward(amplitude[:, None] * wave, times)
    _, force = model.rolled(start, times, {"velocity": velocity})
    return ((force[..., 0] - drag * velocity) * velocity)[..., -each:].sum(-1) * (period / each)


def _backward(length: Tensor, times: Tensor) -> Tensor:
    """Velocity of the end as records have it: its backward difference, 0 at first."""
    moved = torch.diff(length, dim=1) / torch.diff(times)
    return torch.cat([torch.zeros_like(length[:, :1]), moved], 1)


@dataclass(frozen=True)
class LongChain:
    """A law learned at ten springs, tried on a chain of another size.

    Attributes:
        springs: of the chain.
        strain: its error with v_n given, of each replica, percent.
        force: error of F_ex with v_n given, of each replica, percent.
        by_spring: of the strain, of the median replica: shape (springs,), percent of each spring's.
        reach: largest mean strain of each spring in the simulation, shape (springs,).
        simulated: seconds that the simulation took.
        predicted: seconds that the prediction took.
    """

    springs: int
    strain: list[float]
    force: list[float]
    by_spring: Tensor
    reach: Tensor
    simulated: float
    predicted: float


@torch.no_grad()
def long_chain(
    model: Model,
    springs: int,
    lengths: Sequence[float] = (0.13, 0.17, 0.21, 0.25),
    realisations: int = 20_000,
    faster: float = 1.0,
    seed: int = 40_000,
    block: int = 200,
) -> LongChain:
    """Direct simulation of a chain and the law's prediction of it.

    At the end's own speed the springs near it go through what those of ten springs do. A speed in
    proportion to the length (`faster` = springs / 10) stretches them further than any data: strain
    spreads along the chain like heat, and has no time to.

    Args:
        model: trained, with its gauge frozen.
        springs: of the chain.
        lengths: first total lengths, for ten springs; they grow with the chain.
        realisations: chains for each length, a multiple of `block`.
        faster: factor of the paper's pulling speed.
        seed: of the first block; the next ones count up.
        block: chains that are simulated at a time, to bound memory.

    Raises:
        ValueError: fewer than two springs, or fewer realisations than a block.
    """
    chain, factor = Chain(springs=count("springs", springs, 2)), springs / 10
    times = paper_times()
    pull = pulled_length("smoothed-linear", torch.tensor([VELOCITY], dtype=torch.float64), times)
    starts = factor * torch.tensor(lengths, dtype=torch.float64)
    length = starts[:, None] + positive("faster", faster) * pull
    number = count("number of blocks", realisations // count("block", block))
    begun = time.perf_counter()
    means, forces, firsts = [], [], []
    for index in range(number):
        part = chain.simulate(length, times, block, torch.Generator().manual_seed(seed + index))
        means.append(part.mean())
        forces.append(part.records["external_force"])
        firsts.append(part.realisations[:, :2].clone())
    simulated = time.perf_counter() - begun
    strain, force = (torch.stack(parts).mean(0) for parts in (means, forces))
    begun = time.perf_counter()
    first = Ensemble(times[:2], torch.cat(firsts, -1))
    alpha = model.encode(observe(first, spacing=chain.natural_length, points=FINE))[:, :, 0]
    start = torch.cat([strain[:, 0, :, None].expand(*alpha.shape[:-1], 1), alpha], -1)
    path, pulled = model.rolled(start, times, {"velocity": _backward(length, times)})
    predicted = time.perf_counter() - begun
    errors = each_error(path[..., 0], strain)
    middle = path[sorted(range(len(errors)), key=errors.__getitem__)[len(errors) // 2], ..., 0]
    by_spring = 100 * ((middle - strain).square().sum((0, 1)) / strain.square().sum((0, 1))).sqrt()
    reach, answer = strain.amax((0, 1)), each_error(pulled[..., 0], force)
    return LongChain(springs, errors, answer, by_spring, reach, simulated, predicted)
