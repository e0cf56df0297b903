"""The Gaussian ansatz: exact where springs are harmonic, lawful where they are not."""

import pytest
import torch
from torch import Tensor

from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap, paper_times
from ibvonns_book.stiv import Gaussians, Springs, chain_springs, first_state, trap_springs

TRAP, CHAIN = Trap(), Chain()


def pulled(times: Tensor) -> Tensor:
    """Lengths of two trajectories that turn back."""
    return torch.stack([0.5 * torch.sin(times), times * (1.5 - times)])


def rolled(times: Tensor, spread: float) -> Gaussians:
    """The trap's particle from its equilibrium, or `spread` times as wide."""
    length = pulled(times)
    variance = spread**2 * TRAP.equilibrium_deviation**2 * torch.ones(2, 1, 1, dtype=times.dtype)
    springs = trap_springs(TRAP)
    return Gaussians.rolled(springs, length[:, :1] / 2, variance, times, length)


def test_a_harmonic_trap_is_exact_at_any_step() -> None:
    times = paper_times()
    found = rolled(times, 1.0)
    assert (found.mean[..., 0] - TRAP.mean(pulled(times), times)).abs().max() <= 1e-14
    exact = TRAP.deviation(times)
    assert (found.covariance[:, :, 0, 0].sqrt() - exact).abs().max() <= 1e-12


def test_a_fine_step_gives_the_equations_of_continuous_time() -> None:
    """mu' = -(2k mu - k lambda) / eta and (sigma^2)' = -4k/eta sigma^2 + 2 kBT/eta, at rest."""
    times = torch.linspace(0, 1, 2_000_01, dtype=torch.float64)[:20_001]  # to t = 0.1
    length = torch.ones(1, len(times), dtype=torch.float64)
    start = torch.full((1, 1), 0.2, dtype=torch.float64)
    variance = 4 * TRAP.equilibrium_deviation**2 * torch.ones(1, 1, 1, dtype=torch.float64)
    found = Gaussians.rolled(trap_springs(TRAP), start, variance, times, length)
    coarse = Gaussians.rolled(trap_springs(TRAP), start, variance, times[::2], length[:, ::2])
    # Richardson: the error of a step is in proportion to it
    mean = 2 * found.mean[0, -1, 0] - coarse.mean[0, -1, 0]
    square = 2 * found.covariance[0, -1, 0, 0] - coarse.covariance[0, -1, 0, 0]
    decay = torch.exp(-TRAP.rate * times[-1])
    equilibrium = TRAP.equilibrium_deviation**2
    assert abs(mean - (0.5 - 0.3 * decay)) <= 1e-8
    assert abs(square.sqrt() - (equilibrium * (1 + 3 * decay**2)).sqrt()) <= 1e-8


@pytest.mark.parametrize("middle", [-0.02, -0.003, 0.0, 0.004, 0.03])
@pytest.mark.parametrize("deviation", [1e-3, 0.01])
def test_averages_are_integrals_over_the_gaussian(middle: float, deviation: float) -> None:
    springs = chain_springs(CHAIN)
    grid = torch.linspace(-12, 12, 200_000, dtype=torch.float64)
    weight = torch.exp(-0.5 * grid**2) / (2 * torch.pi) ** 0.5
    strain = (middle + deviation * grid + springs.barrier) / CHAIN.natural_length - 1
    force = CHAIN.spring_force(strain)
    pair = torch.tensor(middle, dtype=torch.float64), torch.tensor(deviation, dtype=torch.float64)
    average, stiffness = springs.pull(*pair)
    assert abs(average - torch.trapezoid(weight * force, grid)) <= 1e-5 * force.abs().max()
    # <V''> = <V' y> / s by partial integration
    slope = torch.trapezoid(weight * force * grid, grid) / deviation
    assert abs(stiffness - slope) <= 1e-4 * max(springs.stiffness)


@pytest.fixture(scope="module")
def chains() -> tuple[Gaussians, Tensor]:
    """The ansatz along a pull and back, and the velocity of the end."""
    ensemble = CHAIN.simulate_paper("sinusoidal", (0.14, 0.2), 200)
    mean, covariance = first_state(ensemble, CHAIN.natural_length)
    length = ensemble.records["pulled_length"]
    found = Gaussians.rolled(chain_springs(CHAIN), mean, covariance, ensemble.times, length)
    return found, ensemble.records["velocity"]


def test_the_length_of_the_chain_is_kept(chains: tuple[Gaussians, Tensor]) -> None:
    found, _ = chains
    assert (found.elongation.sum(-1) - found.length).abs().max() <= 1e-14


def test_first_states_are_moments_of_the_sample() -> None:
    ensemble = CHAIN.simulate_paper(lengths=(0.2,), realisations=50)
    mean, covariance = first_state(ensemble, CHAIN.natural_length)
    positions = CHAIN.natural_length * (1 + ensemble.realisations[0, 0]).cumsum(0)[:-1]
    assert torch.allclose(mean[0], positions.mean(1), atol=1e-15)
    assert torch.allclose(covariance[0], torch.cov(positions, correction=0), atol=1e-18)


def test_force_given_back_moves_the_end_as_before(chains: tuple[Gaussians, Tensor]) -> None:
    found, _ = chains
    ahead = torch.diff(found.length, dim=1) / torch.diff(found.times)
    ahead = torch.cat([ahead, ahead[:, -1:]], 1)
    force = found.external_force(ahead)  # with the drag of the step to come
    start = found.mean[:, 0], found.covariance[:, 0]
    again = Gaussians.rolled(found.springs, *start, found.times, found.length, force)
    assert (again.length - found.length).abs().max() <= 1e-12


def test_second_law(chains: tuple[Gaussians, Tensor]) -> None:
    found, velocity = chains
    assert (found.dissipation(velocity) >= 0).all()


def test_dissipation_is_the_work_less_the_rise_of_the_free_energy() -> None:
    """By differences along a trap's trajectory of small steps, from a state too wide."""
    times = torch.linspace(0, 1, 4001, dtype=torch.float64)
    found = rolled(times, 1.5)
    velocity = torch.diff(found.length, dim=1) / torch.diff(times)
    velocity = torch.cat([velocity, velocity[:, -1:]], 1)
    mean, variance = found.mean[..., 0], found.covariance[:, :, 0, 0]
    k = TRAP.stiffness
    energy = 0.5 * k * (mean**2 + (found.length - mean) ** 2 + 2 * variance)
    free = energy - 0.5 * TRAP.temperature * variance.log()
    power = k * (found.length - mean) * velocity  # without the drag, which is in both
    at = slice(1, -1)
    rate = (free[:, 2:] - free[:, :-2]) / (times[2:] - times[:-2])
    drag = TRAP.viscosity * velocity**2
    expected = (power + drag)[:, at] - rate
    assert (found.dissipation(velocity)[:, at] - expected).abs().max() <= 2e-3 * expected.abs().max()


def test_one_well_of_two_equal_springs_is_harmonic() -> None:
    springs = Springs((2.0, 2.0), (0.0, 0.0), 0.3, 1.0, 0.01)
    middle = torch.linspace(-1, 1, 5, dtype=torch.float64)
    force, stiffness = springs.pull(middle, torch.full_like(middle, 0.2))
    assert torch.allclose(force, 2 * middle) and torch.allclose(stiffness, 2 + 0 * middle)
