"""The second law of the potentials, for weights that were never trained, and Legendre duality."""

import pytest
import torch
from torch import Tensor

from ibvonns.networks import generators
from ibvonns.onsager import Potentials
from ibvonns.rollout import rollout

SEEDS = [0, 1, 2, 3]
ENERGY, RATE = 0.05, 2.0


def potentials(factor: float = 1.0, internal: int = 1) -> Potentials:
    """Untrained potentials with the scales of a trap and weights enlarged."""
    made = Potentials(generators(SEEDS), internal=internal)
    made.set_scales((0.8, 0.5), ENERGY, RATE)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(factor)
    return made


def states(count: int, reach: float = 1.0, internal: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """chi, alpha and g over the range of the data, or `reach` times beyond."""
    rng = torch.Generator().manual_seed(7)
    shape = (len(SEEDS), count, 1 + 2 * internal)
    unit = 2 * torch.rand(shape, generator=rng, dtype=torch.float64) - 1
    chi, alpha, g = unit.split([1, internal, internal], -1)
    return 0.8 + 1.5 * reach * chi, 2.5 * reach * alpha, 3 * ENERGY * reach * g


@pytest.mark.parametrize("factor", [1.0, 5.0])
@pytest.mark.parametrize("reach", [1.0, 10.0])
def test_second_law_holds_for_100_000_states_whatever_the_weights(
    factor: float, reach: float
) -> None:
    """Eq. (12) subtracts values of the raw network, so that rounding is relative to their size."""
    made = potentials(factor)
    _, alpha, g = states(25_000, reach)  # for each of 4 seeds
    with torch.no_grad():
        net = made.dissipation_network
        raw, slope = net._convex_path(net._free_path(alpha), g / ENERGY)
        base, tangent = net._convex_path(net._free_path(alpha), 0 * g)
        size = raw.abs() + base.abs() + ((slope.abs() + tangent.abs()) * g.abs() / ENERGY)
        allowed = 1e-12 * ENERGY * RATE * size[..., 0]
        phi, dissipated = made.dual_dissipation(alpha, g), made.dissipation(alpha, g)
        assert (phi >= -allowed).all()
        assert (dissipated >= -allowed).all()
        assert (dissipated >= phi - allowed).all()  # what is dissipated is phi + psi
        assert (made.dual_dissipation(alpha, 0 * g) == 0).all()
        assert (made.rates(alpha, 0 * g) == 0).all()


@pytest.mark.parametrize("internal", [1, 2])
def test_second_law_holds_along_the_evolution(internal: int) -> None:
    made = potentials(2.0, internal)
    chi, alpha, _ = states(20_000, 3.0, internal)
    with torch.no_grad():
        g = made.forces(chi, alpha)[1]
        power = (g * made.evolution(chi, alpha)).sum(-1)
        assert (power >= -1e-12 * power.abs().max()).all()
        assert power.max() > 0


@pytest.mark.parametrize("factor", [1.0, 5.0])
def test_dual_dissipation_is_convex_in_the_force(factor: float) -> None:
    made = potentials(factor)
    _, alpha, _ = states(50)
    line = torch.linspace(-30, 30, 601, dtype=torch.float64) * ENERGY
    with torch.no_grad():
        phi = torch.stack([made.dual_dissipation(alpha, torch.full_like(alpha, g)) for g in line])
    second = phi[2:] - 2 * phi[1:-1] + phi[:-2]
    assert second.min() >= -1e-12 * phi.max()


@pytest.mark.parametrize("internal", [1, 2])
def test_forces_and_rates_are_the_slopes_of_the_potentials(internal: int) -> None:
    made = potentials(1.5, internal)
    chi, alpha, g = (part.requires_grad_() for part in states(200, 1.0, internal))
    by_chi, by_alpha = torch.autograd.grad(made.free_energy(chi, alpha).sum(), (chi, alpha))
    (by_g,) = torch.autograd.grad(made.dual_dissipation(alpha, g).sum(), g)
    external, force = made.forces(chi, alpha)
    pairs = ((external, by_chi), (-force, by_alpha), (made.rates(alpha, g), by_g))
    for ours, expected in pairs:
        assert (ours - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_free_energy_is_zero_at_its_reference() -> None:
    made = potentials()
    chi, alpha, _ = states(1)
    made.set_reference(chi[0], alpha)
    assert (made.free_energy(chi[0].expand_as(chi), alpha) == 0).all()
    assert (made.free_energy(chi[0].expand_as(chi) + 0.3, alpha) != 0).all()


@pytest.mark.parametrize("internal", [1, 2])
def test_free_energy_never_rises_while_the_control_rests(internal: int) -> None:
    made = potentials(1.0, internal)
    _, alpha, _ = states(30, 1.0, internal)
    times = torch.linspace(0, 2, 401, dtype=torch.float64)
    control = torch.linspace(0, 1.6, 30, dtype=torch.float64)
    with torch.no_grad():
        path = rollout(made.evolution, control[:, None].expand(30, 401), alpha, times)
        chi = control[:, None].expand(30, 401).reshape(-1, 1)
        energy = made.free_energy(chi, path.flatten(1, 2)).unflatten(1, (30, 401))
    assert torch.diff(energy, dim=-1).max() <= 1e-12 * energy.abs().max()
    assert (energy[..., 0] - energy[..., -1]).max() > 1e-3 * ENERGY


def test_dissipation_potential_and_its_dual_are_legendre_transforms_of_each_other() -> None:
    """psi(w) = max_g (w g - phi(g)) on a dense grid; the maximum lies where phi has the slope w."""
    made = potentials(2.0)
    grid = torch.arange(-1000, 1001, dtype=torch.float64) / 100 * ENERGY
    g = grid[None, :, None].expand(len(SEEDS), -1, 1)
    for state in (-1.5, 0.0, 1.0):
        alpha = torch.full_like(g, state)
        with torch.no_grad():
            phi, rate = made.dual_dissipation(alpha, g), made.rates(alpha, g)[..., 0]
        psi = (rate[:, :, None] * grid - phi[:, None, :]).amax(2)
        again = (rate[:, :, None] * grid[None, None, :] - psi[:, :, None]).amax(1)
        size = float((rate * grid).abs().max())
        assert psi.min() >= -1e-12 * size
        assert (psi[:, 1000] == 0).all() and (rate[:, 1000] == 0).all()  # psi(0) = 0
        assert (psi - (rate * grid - phi)).abs().max() <= 1e-12 * size
        assert (again - phi).abs().max() <= 1e-12 * size
