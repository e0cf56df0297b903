"""The double-well chain: its wells, its equilibrium at fixed length, its simulation."""

from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, interpolate, stats
from torch import Generator, Tensor

from ibvonns.systems.chain import LENGTHS, Chain, _falling, _inverted
from ibvonns.systems.trap import paper_times

CHAIN = Chain()
HARMONIC = Chain(barrier_strain=8.0, well_strain=16.0)  # the second well is out of reach
UNEQUAL = Chain(stiffness=(0.01, 0.04), well_strain=1.5)  # wells of different width that meet


@pytest.mark.parametrize("chain", [CHAIN, UNEQUAL])
@given(strain=st.floats(-3, 6))
def test_tension_is_the_slope_of_the_potential(chain: Chain, strain: float) -> None:
    if abs(strain - chain.barrier_strain) < 1e-9:
        return  # the slope jumps there
    value = torch.tensor(strain, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(chain.potential(value), value)
    tension = chain.spring_force(value.detach())
    assert float(slope) / chain.natural_length == pytest.approx(float(tension), abs=1e-15)


@pytest.mark.parametrize("chain", [CHAIN, UNEQUAL])
def test_potential_is_continuous_where_the_wells_meet(chain: Chain) -> None:
    sides = chain.barrier_strain + torch.tensor([0.0, 1e-12], dtype=torch.float64)
    left, right = chain.potential(sides).tolist()
    assert left == pytest.approx(chain.barrier) and right == pytest.approx(chain.barrier)


# --- equilibrium -----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0.05, 0.12, 0.2, 0.28, 0.6])
def test_equilibrium_has_the_length_and_does_not_underflow(length: float) -> None:
    strains = CHAIN.equilibrium(length, 200, Generator().manual_seed(0))
    assert strains.shape == (200, 10) and bool(strains.isfinite().all())
    assert (strains.sum(1) - (length / 0.01 - 10)).abs().max() < 1e-12


@pytest.mark.parametrize("springs", [2, 3, 50])
def test_equilibrium_of_any_number_of_springs(springs: int) -> None:
    chain = Chain(springs=springs)
    strains = chain.equilibrium(0.02 * springs, 300, Generator().manual_seed(0))
    assert strains.shape == (300, springs)
    assert (strains.sum(1) - springs).abs().max() < 1e-10


def test_a_table_read_backwards_is_zero_outside() -> None:
    table, ones = np.random.default_rng(0).random(9), np.ones(6)
    line = interpolate.interp1d(np.arange(-1, 10), np.pad(table, 1), bounds_error=False, fill_value=0)
    found = np.empty(6)
    for place in np.arange(-30, 40) + 0.25:
        _falling(np.pad(table[::-1], 1), place, ones, found)
        assert np.allclose(found, line(place - np.arange(6)), atol=1e-15)


@pytest.mark.parametrize("points", [2, 31, 33, 64, 65, 200])
@given(level=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 99))
def test_distribution_functions_are_inverted(points: int, level: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    density = rng.random(points) * rng.integers(0, 2, points)  # with gaps, where nothing may be drawn
    density[rng.integers(points)] = 1
    whole = integrate.cumulative_trapezoid(density, initial=0)
    place = _inverted(density, level)
    cell = min(int(place), points - 2)
    assert np.interp(place, np.arange(points), whole) == pytest.approx(level * whole[-1], abs=1e-12)
    assert density[cell] + density[cell + 1] > 0


def test_harmonic_chain_is_the_gaussian_of_its_constraint() -> None:
    """Variance s^2 (1 - 1/n) and covariance -s^2/n, with s^2 = kBT / (E1 L0)."""
    count, n = 20_000, HARMONIC.springs
    strains = HARMONIC.equilibrium(0.13, count, Generator().manual_seed(1))
    spread = HARMONIC.temperature / (0.01 * 0.01)
    expected = spread * (torch.eye(n, dtype=torch.float64) - 1 / n)
    assert (strains.mean(0) - 0.3).abs().max() < 5 * sqrt(spread / count)
    assert (torch.cov(strains.T) - expected).abs().max() < 5 * spread * sqrt(2 / count)
    deviation = sqrt(spread * (1 - 1 / n))
    for spring in (0, 4, 9):
        standard = (strains[:, spring] - 0.3) / deviation
        assert stats.kstest(standard.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("chain", [CHAIN, UNEQUAL])
@pytest.mark.parametrize("total", [0.4, 2.0, 3.1])
def test_two_springs_follow_the_quadrature(chain: Chain, total: float) -> None:
    pair = Chain(2, chain.stiffness, well_strain=chain.well_strain)
    strains = pair.equilibrium(0.01 * (total + 2), 20_000, Generator().manual_seed(2))
    grid = torch.linspace(-3, 6, 90_001, dtype=torch.float64)
    energy = (pair.potential(grid) + pair.potential(total - grid)) / pair.temperature
    cumulative = torch.cumulative_trapezoid((energy.min() - energy).exp(), grid)
    cumulative = torch.cat([cumulative.new_zeros(1), cumulative]) / cumulative[-1]

    uniform = cumulative[((strains + 3) * 1e4).round().long()]
    for spring in (0, 1):
        assert stats.kstest(uniform[:, spring].numpy(), "uniform").pvalue > 1e-3


def metropolis(chain: Chain, length: float, count: int, sweeps: int, seed: int) -> Tensor:
    """An independent sampler: a spring jumps between the wells, one or all others make up for it.

    One other alone would never change the number of springs in the second well.
    """
    rng = Generator().manual_seed(seed)
    n = chain.springs
    mean = length / chain.natural_length / n - 1
    strains = torch.full((count, n), mean, dtype=torch.float64)
    energy = chain.potential(strains).sum(1)
    for step in range(sweeps * n):
        one, other = torch.randperm(n, generator=rng)[:2].tolist()
        move = 0.2 * torch.randn(count, generator=rng, dtype=torch.float64)
        move += chain.well_strain * torch.randint(-1, 2, (count,), generator=rng)
        moved = strains.clone()
        if step % 2:
            moved[:, other] -= move
        else:
            moved -= (move / (n - 1))[:, None]
            moved[:, one] += move / (n - 1)
        moved[:, one] += move
        new = chain.potential(moved).sum(1)
        draw = torch.rand(count, generator=rng, dtype=torch.float64)
        accepted = draw < ((energy - new) / chain.temperature).exp()
        strains = torch.where(accepted[:, None], moved, strains)
        energy = torch.where(accepted, new, energy)
    return strains


@pytest.mark.parametrize("length", [0.12, 0.20, 0.28])
def test_equilibrium_is_that_of_an_independent_sampler(length: float) -> None:
    ours = CHAIN.equilibrium(length, 8000, Generator().manual_seed(3))
    reference = metropolis(CHAIN, length, 8000, 100, 4)
    for spring in (0, 5, 9):
        assert stats.ks_2samp(ours[:, spring].numpy(), reference[:, spring].numpy()).pvalue > 1e-3
    # how many springs are in the second well: what a barrier keeps a Langevin run from reaching
    crossed = [(part > 1).sum(1) for part in (ours, reference)]
    counts = torch.stack([torch.bincount(part, minlength=11) for part in crossed])
    counts = counts[:, counts.sum(0) > 20]
    assert stats.chi2_contingency(counts.numpy()).pvalue > 1e-3


def test_equilibrium_outlives_a_long_run_at_rest() -> None:
    """Detailed balance: ten thousand small steps of Eq. (36) leave the law as it was."""
    chain = Chain(springs=3, temperature=2e-5)  # hot: the barrier of 2.5 kBT is crossed often
    start = chain.equilibrium(0.06, 4000, Generator().manual_seed(5))
    strains, rng, step = start.clone(), Generator().manual_seed(6), 5e-4
    kick = sqrt(2 * chain.temperature / chain.viscosity * step) / chain.natural_length
    drift = step / chain.viscosity / chain.natural_length
    noise = torch.empty(4000, 2, dtype=torch.float64)
    for _ in range(10_000):
        move = drift * chain.spring_force(strains).diff(dim=1)
        move += kick * noise.normal_(generator=rng)
        strains[:, :-1] += move
        strains[:, 1:] -= move
    crossed = ((start > 1) != (strains > 1)).double().mean()
    assert crossed > 0.2  # the run was long enough to forget
    for spring in range(3):
        both = (start[:, spring].numpy(), strains[:, spring].numpy())
        assert stats.ks_2samp(*both).pvalue > 1e-3


# --- simulation ------------------------------------------------------------------------------


def test_strains_have_the_prescribed_length_at_all_times() -> None:
    few = CHAIN.simulate_paper(lengths=(0.12, 0.28), realisations=20)
    total = few.records["pulled_length"] / 0.01 - 10
    assert few.realisations.shape == (2, 301, 10, 20)
    assert (few.realisations.sum(2) - total[..., None]).abs().max() < 1e-10


def test_mean_of_a_harmonic_chain_is_its_closed_form() -> None:
    """The drift is linear: the mean obeys Euler's recursion without noise."""
    ensemble = HARMONIC.simulate_paper(lengths=(0.13,), realisations=2000, seed=1)
    lengths = ensemble.records["pulled_length"][0] / HARMONIC.natural_length
    mean = torch.full((10,), float(lengths[0]) / 10 - 1, dtype=torch.float64)
    path = [mean]
    for stretch in lengths.diff():
        move = 0.01 * 0.01 / HARMONIC.viscosity / HARMONIC.natural_length * mean.diff()
        mean = mean.clone()
        mean[:-1] += move
        mean[1:] -= move
        mean[-1] += stretch
        path.append(mean)
    scores = (ensemble.mean()[0] - torch.stack(path)) / ensemble.standard_error()[0]
    assert scores.square().mean() < 2 and scores.abs().max() < 6


def in_numpy(lengths: Tensor, times: Tensor, strains: Tensor, seed: int) -> np.ndarray:
    """Eq. (36) by a plain loop and NumPy's own normals: strains (times, springs, realisations)."""
    rng, path, total = np.random.default_rng(seed), [strains.numpy()], lengths.numpy() / CHAIN.natural_length
    for step, stretch in zip(times.diff().tolist(), np.diff(total), strict=True):
        old = path[-1]
        tension = np.where(old <= 1, 0.01 * old, 0.01 * (old - 2))
        move = step / CHAIN.viscosity / CHAIN.natural_length * np.diff(tension, axis=0)
        kick = sqrt(2 * CHAIN.temperature / CHAIN.viscosity * step) / CHAIN.natural_length
        move += kick * rng.standard_normal(move.shape)
        path.append(old + np.concatenate([move, [[stretch] * move.shape[1]]]) - np.pad(move, ((1, 0), (0, 0))))
    return np.stack(path)


def test_the_process_is_that_of_a_plain_loop() -> None:
    """Moments and covariances within four standard errors, and the law of each spring, at three times."""
    number, (lengths, times) = 20_000, CHAIN.pulls("smoothed-linear", (0.17,))
    start = CHAIN.initial(lengths[:, 0], number, Generator().manual_seed(1))
    ours = CHAIN.simulate(lengths, times, number, Generator().manual_seed(2), start).realisations[0].numpy()
    plain = in_numpy(lengths[0], times, start[0], 3)
    pairs = [(i, j) for i in range(10) for j in range(i, min(i + 3, 10))]
    for n in (10, 100, 300):
        for observable in (
            lambda x: x,
            lambda x: np.stack([x[i] * x[j] for i, j in pairs]),
            lambda x: x**3,
            lambda x: x * np.roll(x, 1, 0) ** 2,
        ):
            one, other = observable(ours[n]), observable(plain[n])
            # both begin with the same chains: what they share drops out of a difference of pairs
            gap = (one - other).mean(1) / ((one - other).std(1) / sqrt(number))
            assert np.abs(gap).max() < 4
        for spring in range(10):
            assert stats.ks_2samp(ours[n, spring], plain[n, spring]).pvalue > 1e-4


def test_more_realisations_and_other_conditions_leave_the_noise_of_the_first_as_it_is() -> None:
    lengths, times = CHAIN.pulls("smoothed-linear", (0.12, 0.28))
    start = CHAIN.initial(lengths[:, 0], 1100, Generator().manual_seed(0))  # in more than one block
    whole = CHAIN.simulate(lengths, times, 1100, Generator().manual_seed(1), start).realisations
    few = CHAIN.simulate(lengths[:1], times, 7, Generator().manual_seed(1), start[:1, :, :7]).realisations
    assert torch.equal(few, whole[:1, ..., :7])


def test_records_say_velocity_and_force_with_drag() -> None:
    few = CHAIN.simulate_paper("sinusoidal", (0.2,), realisations=50)
    lengths, velocity = few.records["pulled_length"], few.records["velocity"]
    assert float(velocity[0, 0]) == 0
    assert torch.allclose(velocity[:, 1:], lengths.diff(dim=1) / paper_times().diff())
    tension = CHAIN.spring_force(few.realisations[:, :, -1]).mean(-1)
    drag = few.records["external_force"] - tension
    assert torch.allclose(drag, 0.1 * velocity, atol=1e-15)


def test_conditions_are_those_of_the_captions() -> None:
    """Notes 2: 0.17 is a test condition, and the mean strains run from 0.2 to 1.8."""
    assert len(LENGTHS) == 17 and 0.17 in LENGTHS[1::2]
    strains = [length / 0.1 - 1 for length in LENGTHS]
    assert strains[0] == pytest.approx(0.2) and strains[-1] == pytest.approx(1.8)


def test_seeds_give_the_same_data_twice() -> None:
    one, same, other = (CHAIN.simulate_paper(realisations=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.realisations, same.realisations)
    assert not torch.equal(one.realisations, other.realisations)


def test_simulation_starts_where_it_is_told() -> None:
    """A one-well equilibrium is metastable in two wells: hardly any spring has crossed at first."""
    lengths = torch.full((1, 3), 0.14, dtype=torch.float64)
    start = HARMONIC.equilibrium(0.14, 300, Generator().manual_seed(0)).T[None]
    pulled = CHAIN.simulate(lengths, paper_times()[:3], 300, Generator().manual_seed(1), start)
    assert torch.equal(pulled.realisations[:, 0], start)
    fresh = CHAIN.simulate(lengths, paper_times()[:3], 300, Generator().manual_seed(1))
    crossed = [float((part.realisations[:, -1] > 1).double().mean()) for part in (pulled, fresh)]
    assert crossed[0] < 0.05 < crossed[1]


def test_a_force_drives_the_end_as_the_pull_that_it_makes() -> None:
    """Given -<V'>/L0 + the drag of the next step, a force moves the same chains the same way."""
    lengths, times = CHAIN.pulls("sinusoidal", (0.2, 0.23))
    few = CHAIN.simulate(lengths, times, 20, Generator().manual_seed(3))
    tension = CHAIN.spring_force(few.realisations[:, :, -1]).mean(-1)
    force = tension + CHAIN.viscosity * torch.nn.functional.pad(few.records["velocity"][:, 1:], (0, 1))
    held = torch.ones_like(lengths) * lengths[:, :1]  # what comes after the first does not count
    again = CHAIN.simulate(held, times, 20, Generator().manual_seed(3), force=force)
    assert (again.realisations - few.realisations).abs().max() < 1e-10
    assert (again.records["pulled_length"] - lengths).abs().max() < 1e-12
    with pytest.raises(ValueError, match="force"):
        CHAIN.simulate(held, times, 20, Generator().manual_seed(3), force=force[:, 1:])


def test_a_start_of_another_length_is_refused_in_whichever_condition() -> None:
    chain, times = Chain(springs=3), torch.tensor([0.0, 0.001], dtype=torch.float64)
    lengths = torch.tensor([[0.03, 0.03], [0.06, 0.06]], dtype=torch.float64)
    initial = chain.initial(lengths[:, 0], 4, Generator().manual_seed(0))
    assert chain.simulate(lengths, times, 4, Generator(), initial).count == 4
    for place in (0, 1):
        other = initial.clone()
        other[place, 0, 2] += 1e-3
        with pytest.raises(ValueError, match="^initial must have the first of lengths"):
            chain.simulate(lengths, times, 4, Generator(), other)
