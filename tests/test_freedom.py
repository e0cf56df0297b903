"""Which data determine the potentials: laws of the components, of the bound and of the pairs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ibvonns.protocols import pulled_length
from ibvonns.systems.trap import VELOCITIES, Trap, paper_times
from ibvonns_book.freedom import Pair, Visited, components

TOP = 1.2  # mu, above all holes
SPEEDS = torch.tensor(VELOCITIES, dtype=torch.float64)


def pulled(trap: Trap, protocol: str = "oscillating", speeds: Tensor = SPEEDS) -> tuple[Tensor, Tensor]:
    """lambda and mu of the paper's pulls."""
    lengths = pulled_length(protocol, speeds, paper_times())
    return lengths, trap.mean(lengths, paper_times())


def visited(trap: Trap, slowest: float = 0.5, cells: int = 1600, protocol: str = "oscillating") -> Visited:
    return Visited.by(trap, *pulled(trap, protocol, SPEEDS[-1:]), slowest, cells)


TRAP = Trap()
PAPER = visited(TRAP)
PAIRS = [PAPER.pair(TOP, sign) for sign in (1.0, -1.0)]
both = pytest.mark.parametrize("pair", PAIRS, ids=["up", "down"])


def shift(pair: Pair, mean: float) -> float:
    """Of f at rest."""
    means = torch.tensor([mean], dtype=torch.float64)
    return float(pair.free_energy(2 * means, means) - pair.trap.free_energy(2 * means, means))


def residuals(pair: Pair, lengths: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """What Eqs. (23) and (24) leave."""
    rates = (pair.trap.thermodynamic_force(lengths, means) / pair.trap.viscosity).requires_grad_()
    lengths, means = lengths.clone().requires_grad_(), means.clone().requires_grad_()
    f_length, f_mean = torch.autograd.grad(pair.free_energy(lengths, means).sum(), (lengths, means))
    psi_rate = torch.autograd.grad(pair.dissipation(means, rates).sum(), rates)[0]
    return f_length - pair.trap.external_force(lengths, means).detach(), f_mean + psi_rate


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), min_size=1, max_size=12))
def test_components_cover_the_same_points_and_are_apart(drawn: list[tuple[int, int]]) -> None:
    intervals = np.array([(low, low + length) for low, length in drawn], dtype=float)
    found = components(intervals)
    assert (found[1:, 0] > found[:-1, 1]).all()
    points = np.arange(-1, 48, 0.5)
    inside = [((each[:, :1] <= points) & (points <= each[:, 1:])).any(0) for each in (intervals, found)]
    assert (inside[0] == inside[1]).all()


def test_every_state_of_the_data_lies_in_a_node() -> None:
    lengths, means = pulled(TRAP)
    rates = TRAP.thermodynamic_force(lengths, means).numpy()[..., None]
    place = np.abs(means.numpy()[..., None] - PAPER.places).argmin(-1)
    for each in np.unique(place):
        low, high = PAPER.hull[PAPER.at == each].T
        here = rates[place == each]
        assert ((low - 1e-9 <= here) & (here <= high + 1e-9)).any(-1).all()


def test_slices_lie_in_their_hulls() -> None:
    assert (PAPER.hull[:, 0] <= PAPER.slice[:, 0] + 1e-9).all()
    assert (PAPER.slice[:, 1] <= PAPER.hull[:, 1] + 1e-9).all()


@both
def test_pairs_obey_both_equations_on_all_data(pair: Pair) -> None:
    assert max(part.abs().max() for part in residuals(pair, *pulled(TRAP))) <= 1e-10


@given(st.floats(0.5, 1))
@settings(max_examples=10, deadline=None)
def test_and_at_any_velocity_between(speed: float) -> None:
    data = pulled(TRAP, speeds=torch.tensor([speed], dtype=torch.float64))
    assert max(part.abs().max() for pair in PAIRS for part in residuals(pair, *data)) <= 1e-10


@both
def test_phi_is_convex_least_at_zero_and_gives_the_rates(pair: Pair) -> None:
    lengths, means = pulled(TRAP)
    force = -torch.autograd.grad(pair.free_energy(lengths, m := means.clone().requires_grad_()).sum(), m)[0]
    assert (pair.rates(means, force) - TRAP.thermodynamic_force(lengths, means)).abs().max() <= 1e-10
    forces = torch.linspace(-5, 5, 201, dtype=torch.float64)
    for mean in torch.linspace(-0.03, 1.5, 12, dtype=torch.float64):
        phi = pair.dual_dissipation(mean.expand(201), forces)
        assert phi.diff().diff().min() >= -1e-12 and abs(phi[100]) <= 1e-15 and phi.min() >= -1e-15


@given(st.floats(-0.03, 1.5))
@settings(max_examples=30, deadline=None)
def test_psi_is_strictly_convex_zero_and_flat_at_rest(mean: float) -> None:
    for pair in PAIRS:
        rates = torch.linspace(-6, 6, 601, dtype=torch.float64).requires_grad_()
        psi = pair.dissipation(torch.full((601,), mean, dtype=torch.float64), rates)
        slope = torch.autograd.grad(psi.sum(), rates)[0]
        assert slope.diff().min() > 1e-5 and abs(slope[300]) <= 1e-12 and abs(psi[300].detach()) <= 1e-15


def test_the_bound_holds_the_pairs_and_is_nearly_attained() -> None:
    least, greatest = PAPER.freedom(TOP)
    up, down = (shift(pair, TOP) for pair in PAIRS)
    assert 0.95 * greatest <= up <= greatest and least <= down <= 0.95 * least
    assert min(up, -down) >= 0.2
    for low, high in PAPER.resting():
        least, greatest = PAPER.freedom((low + high) / 2)
        assert all(least - 1e-9 <= shift(pair, (low + high) / 2) <= greatest + 1e-9 for pair in PAIRS)


def test_the_bound_hardly_depends_on_the_grid() -> None:
    coarse, fine = visited(TRAP, cells=800).freedom(TOP), PAPER.freedom(TOP)
    assert all(abs(a / b - 1) <= 0.02 for a, b in zip(coarse, fine, strict=True))


def test_more_velocities_leave_less_freedom_and_all_leave_none() -> None:
    widths = [np.ptp(visited(TRAP, slowest, 400).freedom(TOP)) for slowest in (0.7, 0.5, 0.3, 0.2, 0.0)]
    assert (np.diff(widths) <= 0).all() and widths[1] > 0.6 and widths[2] < 0.05 and widths[-1] <= 1e-12
    whole = visited(TRAP, 0.0)
    lengths, means = pulled(TRAP)
    assert whole.with_rest(lengths, means).all() and not PAPER.with_rest(lengths, means).all()


def test_a_wider_pair_survives_the_noise_of_sample_means() -> None:
    lengths, means = pulled(TRAP)
    pair = Visited.by(TRAP, lengths[-1:], means[-1:], 0.5, blur=0.2).pair(TOP)
    noisy = means + 0.001 * torch.randn(means.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert 0.1 < shift(pair, TOP) < shift(PAIRS[0], TOP)
    assert max(part.abs().max() for part in residuals(pair, lengths, means)) <= 1e-10
    sharp, wide = (residuals(each, lengths, noisy)[1].square().mean().sqrt() for each in (PAIRS[0], pair))
    assert wide <= sharp / 10 and wide <= 0.01


def test_one_way_pulls_leave_f_free_without_limit() -> None:
    with pytest.raises(ValueError, match="mean must be where rest is visited, but is 0.5"):
        visited(TRAP, cells=200, protocol="constant-speed").freedom(0.5)


def test_other_units() -> None:
    """In units of length 2, of time 3 and of energy 5 every energy is five times as large."""
    trap = Trap(stiffness=5 / 4, viscosity=3 * 5 / 4, temperature=0.05)
    times = 3 * paper_times()
    lengths = 2 * pulled_length("oscillating", SPEEDS[-1:], paper_times())
    found = Visited.by(trap, lengths, trap.mean(lengths, times), 0.5)
    assert np.allclose(found.freedom(2 * TOP), 5 * np.array(PAPER.freedom(TOP)), rtol=1e-6)
    pair = found.pair(2 * TOP)
    data = 2 * pulled(TRAP)[0], 2 * pulled(TRAP)[1]
    assert max(part.abs().max() for part in residuals(pair, *data)) <= 1e-10


@pytest.mark.parametrize("slowest", [-0.1, 1.5, float("nan")])
def test_velocities_out_of_range_are_refused(slowest: float) -> None:
    with pytest.raises(ValueError, match="slowest must be"):
        visited(TRAP, slowest)
