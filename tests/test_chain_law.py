"""The chain's law: one for every spring, two end conditions that invert one another, second law."""

import pytest
import torch
from torch import Generator, Tensor

from ibvonns.networks import generators
from ibvonns.onsager import ChainPotentials

LENGTH = 0.01


def law(seeds: tuple[int, ...] = (0, 1), factor: float = 1.0, internal: int = 1) -> ChainPotentials:
    """Random weights, enlarged by a factor, at the scales of the data."""
    made = ChainPotentials(generators(seeds), LENGTH, internal=internal)
    made.set_scales((2.4, 1.3), 0.006, 0.02)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(factor)
    return made


def states(
    springs: int, seed: int = 0, reach: float = 1.0, internal: int = 1, count: int = 6
) -> tuple[Tensor, Tensor]:
    """Random strains and internal variables of two replicas."""
    rng = Generator().manual_seed(seed)
    strain = 2.4 + 1.3 * reach * torch.randn(2, count, springs, generator=rng, dtype=torch.float64)
    shape = (2, count, springs, internal)
    return strain, reach * torch.randn(shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("internal", [1, 2])
def test_closed_forms_are_the_slopes_of_the_potentials(internal: int) -> None:
    model = law(internal=internal).requires_grad_(False)
    strain, alpha = (part.requires_grad_() for part in states(5, internal=internal))
    tension, g_alpha = model.slopes(strain, alpha)
    slope, other = torch.autograd.grad(model.free_energy(strain, alpha).sum(), (strain, alpha))
    assert torch.allclose(tension, slope / LENGTH, rtol=1e-10, atol=0)
    assert torch.allclose(g_alpha, -other, rtol=1e-10, atol=0)
    g_v = 0.01 * torch.randn_like(strain)
    forces = [part.detach().requires_grad_() for part in (g_v, g_alpha)]
    phi = model.dual_dissipation(strain, alpha, *forces).sum()
    rates = model.rates(strain, alpha, *forces)
    for ours, expected in zip(rates, torch.autograd.grad(phi, forces), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-18)


@pytest.mark.parametrize("reach", [1.0, 10.0])
@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_second_law_holds_whatever_the_weights(reach: float, factor: float) -> None:
    model = law(factor=factor).requires_grad_(False)
    strain, alpha = states(10, 1, reach, count=5000)
    rng = Generator().manual_seed(2)
    g_v, g_alpha = (
        size * reach * torch.randn(part.shape, generator=rng, dtype=torch.float64)
        for size, part in ((0.006, strain), (7.8e-5, alpha))
    )
    assert model.dual_dissipation(strain, alpha, g_v, g_alpha).min() >= 0
    assert model.dissipation(strain, alpha, g_v, g_alpha).min() >= 0
    zero = model.dual_dissipation(strain, alpha, 0 * g_v, 0 * g_alpha)
    still = model.rates(strain, alpha, 0 * g_v, 0 * g_alpha)
    assert zero.abs().max() == 0 and all(rate.abs().max() == 0 for rate in still)


@pytest.mark.parametrize("springs", [3, 10, 50])
@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_force_and_velocity_are_mutually_inverse(springs: int, factor: float) -> None:
    model = law(factor=factor).requires_grad_(False)
    strain, alpha = states(springs, springs)
    rng = Generator().manual_seed(3)
    force = 0.02 * torch.randn(2, 6, generator=rng, dtype=torch.float64)
    strain_rate, alpha_rate, velocity = model.force_given(strain, alpha, force)
    found = model.velocity_given(strain, alpha, velocity)
    assert torch.allclose(found[2], force, rtol=1e-8, atol=1e-12)
    assert torch.allclose(found[0], strain_rate, rtol=1e-8, atol=1e-10)
    assert torch.allclose(found[1], alpha_rate, rtol=1e-8, atol=1e-10)
    # any velocity has a force, however far it lies beyond the data
    velocity = 5.0 * torch.randn(2, 6, generator=rng, dtype=torch.float64)
    force = model.velocity_given(strain, alpha, velocity)[2]
    assert torch.allclose(model.force_given(strain, alpha, force)[2], velocity, rtol=1e-8)


def test_total_strain_follows_the_prescribed_velocity() -> None:
    model = law().requires_grad_(False)
    strain, alpha = states(10)
    velocity = torch.linspace(-0.1, 0.1, 6, dtype=torch.float64)
    rate = model.velocity_given(strain, alpha, velocity)[0]
    assert (rate.sum(-1) - velocity / LENGTH).abs().max() < 1e-12 * (velocity / LENGTH).abs().max()


def test_derivatives_pass_through_the_solved_force() -> None:
    model = law(seeds=(0, 1))
    strain, alpha = states(4, count=2)
    velocity = torch.tensor([0.03, -0.02], dtype=torch.float64)
    inputs = [part.requires_grad_() for part in (strain, alpha, velocity)]

    def outputs(*at: Tensor) -> tuple[Tensor, ...]:
        strain_rate, alpha_rate, force = model.velocity_given(*at)
        return strain_rate, alpha_rate, 1e3 * force  # all of order 1

    assert torch.autograd.gradcheck(outputs, inputs, eps=1e-6, rtol=1e-4, atol=1e-5)
    weight = model.mobility
    force = model.velocity_given(strain, alpha, velocity)[2].sum()
    (slope,) = torch.autograd.grad(force, weight)
    moved = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight.add_(step)
            moved.append(float(model.velocity_given(strain, alpha, velocity)[2].sum()))
            weight.sub_(step)
    assert float(slope.sum()) == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-5)


def test_law_is_the_same_for_every_spring_and_local() -> None:
    """A spring's rates do not know its number, only itself and its two neighbours."""
    model = law().requires_grad_(False)
    strain, alpha = states(8)
    force = torch.zeros(6, dtype=torch.float64)
    rate, alpha_rate, _ = model.force_given(strain, alpha, force)
    # springs 2 to 5 moved by one place keep their rates
    shifted, shifted_alpha, _ = model.force_given(strain.roll(1, 2), alpha.roll(1, 2), force)
    assert torch.allclose(shifted[..., 3:6], rate[..., 2:5], rtol=1e-10, atol=1e-12)
    assert torch.allclose(shifted_alpha[..., 3:6, :], alpha_rate[..., 2:5, :], rtol=1e-10)
    changed = strain.clone()
    changed[..., 4] += 0.5
    other = model.force_given(changed, alpha, force)[0]
    touched = ((other - rate).abs().amax((0, 1)) > 0).nonzero().flatten().tolist()
    assert touched == [3, 4, 5]


@pytest.mark.parametrize("springs", [3, 10])
def test_free_energy_never_rises_while_the_end_rests(springs: int) -> None:
    """d/dt sum f = -sum of dissipation when v_n = 0: the continuous law, by its own rates."""
    model = law().requires_grad_(False)
    strain, alpha = states(springs, 5, reach=2.0, count=500)
    rest = torch.zeros(500, dtype=torch.float64)
    strain_rate, alpha_rate, _ = model.velocity_given(strain, alpha, rest)
    tension, g_alpha = model.slopes(strain, alpha)
    power = (LENGTH * tension * strain_rate).sum(-1) - (g_alpha * alpha_rate).sum((-2, -1))
    assert power.max() <= 1e-15
