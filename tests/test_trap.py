"""The trap: simulation against exact laws, exact laws against independent integrators."""

from dataclasses import replace
from math import log, pi, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.stats import kstest
from torch import Tensor

from ibvonns.ensemble import Ensemble
from ibvonns.protocols import PROTOCOLS, pulled_length
from ibvonns.systems.trap import Trap, paper_times

POSITIVE = st.floats(0.1, 10.0)
TRAPS = st.builds(Trap, POSITIVE, POSITIVE, POSITIVE)


def grid(steps: int, end: float = 3.0) -> Tensor:
    """Uniform times."""
    return torch.linspace(0, end, steps + 1, dtype=torch.float64)


def pulled(times: Tensor, protocol: str = "oscillating") -> Tensor:
    """Two pulls of different speed."""
    return pulled_length(protocol, torch.tensor([0.5, 1.0], dtype=torch.float64), times)


def simulated(trap: Trap, lengths: Tensor, times: Tensor, count: int, seed: int = 0) -> Ensemble:
    """A simulation from a seed."""
    return trap.simulate(lengths, times, count, torch.Generator().manual_seed(seed))


# --- simulation ------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [30, 150])
def test_mean_and_variance_are_those_of_the_discrete_process(steps: int) -> None:
    """A step of 0.1 at rate 3: the continuous laws would be missed by many standard errors."""
    trap, times = Trap(1.5, 1.0, 0.02), grid(steps)
    ensemble = simulated(trap, pulled(times), times, 20_000)
    deviation = trap.deviation(times)
    z_mean = (ensemble.mean() - trap.mean(pulled(times), times)) / deviation * sqrt(20_000)
    z_variance = (ensemble.variance() / deviation**2 - 1) / sqrt(2 / 19_999)
    for z in (z_mean, z_variance):
        assert z.abs().max() < 5
        assert 0.4 < float(z.square().mean()) < 2.5  # neither biased nor too good
    if steps == 30:
        smooth = trap.mean(pulled(times), times, steps="exact")
        assert ((ensemble.mean() - smooth) / deviation * sqrt(20_000)).abs().max() > 20


def test_particle_at_rest_keeps_the_gaussian_law() -> None:
    trap, times = Trap(), grid(200, 2.0)
    ensemble = simulated(trap, pulled(times, "at-rest"), times, 4000, seed=8)
    deviation = trap.deviation(times)
    for n in (0, 50, 200):
        for condition in (0, 1):
            scaled = ensemble.realisations[condition, n] / deviation[n]
            assert kstest(scaled.numpy(), "norm").pvalue > 0.05 / 6  # six samples are asked


def test_equilibrium_looks_the_same_backwards_in_time() -> None:
    trap, times, count = Trap(), grid(100, 1.0), 40_000
    x = simulated(trap, pulled(times, "at-rest")[:1], times, count, seed=5).realisations[0]
    variance = trap.equilibrium_deviation**2
    for n in (10, 50, 100):
        products = x[0] * x[n] / variance
        error = float(products.std()) / sqrt(count)
        decay = (1 - trap.rate * 0.01) ** n
        assert abs(float(products.mean()) - decay) < 4 * error
        # the slow exponential of the continuous process, to the order of the step
        assert decay == pytest.approx(float(torch.exp(-trap.rate * times[n])), rel=0.03)
        arrow = (x[0] ** 3 * x[n] - x[0] * x[n] ** 3) / variance**2
        bias = 3 * decay * float(trap.deviation(times)[n] ** 2 / variance - 1)  # the coarse step's
        assert abs(float(arrow.mean()) + bias) < 4 * float(arrow.std()) / sqrt(count)


def test_records_are_the_pull_and_hookes_force_on_the_mean() -> None:
    trap, times = Trap(2.0), grid(20)
    ensemble = simulated(trap, pulled(times), times, 7)
    force = trap.external_force(pulled(times), ensemble.mean())
    assert torch.equal(ensemble.records["pulled_length"], pulled(times))
    assert torch.equal(ensemble.records["external_force"], force)


def test_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    first, again, other = (Trap().simulate_paper(realisations=3, seed=s) for s in (4, 4, 5))
    assert torch.equal(first.realisations, again.realisations)
    assert not (first.realisations == other.realisations).any()
    assert first.realisations.shape == (21, 301, 3)


def test_units_scale_as_they_must() -> None:
    """With the same noise: forces, times and lengths in other units give the same motion."""
    times, trap = grid(40), Trap(1.3, 0.7, 0.02)
    reference = simulated(trap, pulled(times), times, 50).realisations
    heavier = Trap(2 * 1.3, 2 * 0.7, 2 * 0.02)  # twice the force
    same = simulated(heavier, pulled(times), times, 50)
    assert torch.allclose(same.realisations, reference, rtol=0, atol=1e-13)
    slower = replace(trap, viscosity=2 * trap.viscosity)  # twice the time
    same = simulated(slower, pulled(times), 2 * times, 50)
    assert torch.allclose(same.realisations, reference, rtol=0, atol=1e-13)
    larger = replace(trap, temperature=4 * trap.temperature)  # twice the length
    same = simulated(larger, 2 * pulled(times), times, 50)
    assert torch.allclose(same.realisations, 2 * reference, rtol=0, atol=1e-13)


# --- moments ---------------------------------------------------------------------------------


@given(TRAPS, st.lists(st.floats(-2, 2), min_size=2, max_size=6))
def test_exact_mean_solves_the_equation_of_motion(trap: Trap, heights: list[float]) -> None:
    lengths = torch.tensor([heights], dtype=torch.float64)
    times = torch.arange(len(heights), dtype=torch.float64).pow(1.3)  # unequal steps
    ours = trap.mean(lengths, times, steps="exact")[0]
    mean = heights[0] / 2
    for n in range(len(heights) - 1):
        start, end = float(times[n]), float(times[n + 1])
        slope = (heights[n + 1] - heights[n]) / (end - start)

        def rate(t: float, mu: float, n: int = n, start: float = start, s: float = slope) -> float:
            return trap.stiffness * (heights[n] + s * (t - start) - 2 * mu) / trap.viscosity

        solution = solve_ivp(rate, (start, end), [mean], method="LSODA", rtol=1e-11, atol=1e-12)
        mean = solution.y[0, -1]
        assert float(ours[n + 1]) == pytest.approx(mean, abs=1e-8)


@given(TRAPS, st.floats(0.05, 3.0))
def test_exact_deviation_solves_its_equation(trap: Trap, initial: float) -> None:
    times = torch.tensor([0.0, 0.1, 0.15, 0.6], dtype=torch.float64)
    ours = trap.deviation(times, initial, steps="exact")

    def rate(_: float, variance: float) -> float:
        return 2 * (trap.temperature - 2 * trap.stiffness * variance) / trap.viscosity

    span = (0.0, 0.6)
    solution = solve_ivp(rate, span, [initial**2], t_eval=times, rtol=1e-10, atol=1e-13)
    assert ours.tolist() == pytest.approx((solution.y[0] ** 0.5).tolist(), rel=1e-8)


def test_euler_approaches_the_continuous_process_with_order_one() -> None:
    trap, fine = Trap(), grid(4096)
    mean = trap.mean(pulled(fine), fine, steps="exact")
    width = trap.deviation(fine, 0.3, steps="exact")
    errors = []
    for every in (32, 16, 8):
        times = fine[::every]
        by_mean = trap.mean(pulled(times), times) - mean[:, ::every]
        by_width = trap.deviation(times, 0.3) - width[::every]
        errors.append((float(by_mean.abs().max()), float(by_width.abs().max())))
    for coarse, half in zip(errors[:-1], errors[1:], strict=True):
        assert coarse[0] / half[0] == pytest.approx(2, abs=0.15)
        assert coarse[1] / half[1] == pytest.approx(2, abs=0.15)


def test_realisations_start_in_equilibrium_wherever_the_pull_begins() -> None:
    trap, times = Trap(temperature=0.3), grid(2, 0.1)
    lengths = torch.tensor([[-1.0], [3.0]]).double().expand(-1, len(times))
    first = trap.simulate(lengths, times, 20_000, torch.Generator().manual_seed(0)).realisations[:, 0]
    assert ((first.mean(1) - lengths[:, 0] / 2) / trap.equilibrium_deviation * sqrt(20_000)).abs().max() < 4
    assert (first.std(1) / trap.equilibrium_deviation - 1).abs().max() < 0.03


def test_discrete_deviation_tends_to_its_own_equilibrium() -> None:
    trap, times = Trap(stiffness=0.7, viscosity=3.0, temperature=0.2), grid(2000, 200.0)
    rest = trap.temperature / (2 * trap.stiffness) / (1 - trap.stiffness * 0.1 / trap.viscosity)
    assert float(trap.deviation(times)[-1]) == pytest.approx(sqrt(rest), rel=1e-12)
    assert Trap().equilibrium_entropy() == pytest.approx(0.5 * log(2 * pi * 0.005) + 0.5, rel=1e-12)


# --- thermodynamics --------------------------------------------------------------------------


@given(TRAPS, st.integers(0, 99))
def test_potentials_obey_onsagers_equations(trap: Trap, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    draws = torch.randn(3, 50, generator=rng, dtype=torch.float64)
    lengths, means, rates = (part.clone().requires_grad_() for part in draws)
    energy = trap.free_energy(lengths, means).sum()
    by_length, by_mean = torch.autograd.grad(energy, (lengths, means))
    g = trap.thermodynamic_force(lengths, means)
    assert torch.allclose(by_length, trap.external_force(lengths, means), atol=1e-12)  # Eq. (23)
    assert torch.allclose(by_mean, -g, atol=1e-12)
    # Eq. (24), df/d mu + d psi/d rate = 0, on the motion of Eq. (20)
    motion = (trap.rate * (lengths / 2 - means)).detach().requires_grad_()
    (drag,) = torch.autograd.grad(trap.dissipation(motion).sum(), motion)
    assert torch.allclose(by_mean + drag, torch.zeros_like(drag), atol=1e-10)
    force = g.detach().requires_grad_()
    (flow,) = torch.autograd.grad(trap.dual_dissipation(force).sum(), force)
    assert torch.allclose(flow, motion, rtol=1e-12, atol=1e-12)
    # Fenchel and Young: equal on the motion, never below elsewhere
    both = trap.dissipation(motion) + trap.dual_dissipation(force)
    assert torch.allclose(both, force * motion, rtol=1e-12, atol=1e-12)
    assert (trap.dissipation(rates) + trap.dual_dissipation(force) >= rates * force - 1e-12).all()
    rest = trap.external_force(lengths, lengths / 2)
    assert torch.allclose(rest, trap.equilibrium_force(lengths), atol=1e-12)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pull_starts_at_0_and_is_linear_in_its_speed(protocol: str) -> None:
    speeds = torch.tensor([0.7], dtype=torch.float64)
    length = pulled_length(protocol, speeds, grid(300))
    assert float(length[0, 0]) == 0
    assert torch.equal(pulled_length(protocol, 2 * speeds, grid(300)), 2 * length)


def test_paper_times_are_301_from_0_to_3() -> None:
    assert torch.equal(paper_times(), torch.arange(301, dtype=torch.float64) / 100)
