"""Two Gaussians for each spring: exact where springs are harmonic, lawful where they hop."""

import pytest
import torch
from torch import Generator, Tensor

from ibvonns.ensemble import Ensemble
from ibvonns.metrics import relative_error
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap, paper_times
from ibvonns_book.stiv import Gaussians, Springs, chain_springs, first_state, trap_springs
from ibvonns_book.wells import Moments, Wells, _crossed, _within, first_wells, wells_errors

TRAP, CHAIN = Trap(), Chain()
SPRINGS = chain_springs(CHAIN)


@pytest.fixture(scope="module")
def pulled() -> Ensemble:
    return CHAIN.simulate_paper("sinusoidal", (0.14, 0.2), 400)


@pytest.fixture(scope="module")
def chains(pulled: Ensemble) -> Wells:
    return Wells.rolled(SPRINGS, first_wells(pulled), pulled.times, pulled.records["pulled_length"])


def halves(y: Tensor) -> Moments:
    """Of samples of y, (conditions, springs, realisations), with wells on either side of 0."""
    natural = CHAIN.natural_length
    strains = (y / natural + CHAIN.barrier_strain)[:, None].expand(-1, 2, -1, -1)
    return first_wells(Ensemble(torch.tensor([0.0, 1.0], dtype=torch.float64), strains, {}))


@pytest.mark.parametrize("spread", [1.0, 1.5])
def test_a_harmonic_trap_is_exact_at_any_step(spread: float) -> None:
    """The two springs of a trap are its particle's position x and what is left of the length."""
    times = paper_times()
    length = torch.stack([0.5 * torch.sin(times), times * (1.5 - times)])
    x = spread * TRAP.equilibrium_deviation * torch.randn(2, 1, 500, generator=Generator().manual_seed(0)).double()
    first = halves(torch.cat([x, -x], 1))
    found = Wells.rolled(trap_springs(TRAP), first, times, length)
    begin = first[0][:, :1], first[1][:, :1, :1]
    exact = Gaussians.rolled(trap_springs(TRAP), *begin, times, length)
    assert (found.elongation[..., 0] - exact.mean[..., 0]).abs().max() <= 1e-14
    assert (found.covariance[..., 0, 0] - exact.covariance[..., 0, 0]).abs().max() <= 1e-14
    centred = x - x.mean(-1, keepdim=True)
    still = centred / centred.square().mean(-1, keepdim=True).sqrt() * TRAP.equilibrium_deviation
    found = Wells.rolled(trap_springs(TRAP), halves(torch.cat([still, -still], 1)), times, length)
    assert (found.elongation[..., 0] - TRAP.mean(length, times)).abs().max() <= 1e-10
    assert (found.covariance[..., 0, 0].sqrt() - TRAP.deviation(times)).abs().max() <= 1e-10


def test_a_chain_of_single_wells_is_the_one_gaussian(pulled: Ensemble) -> None:
    springs = Springs(SPRINGS.stiffness, (0.0, 0.0), SPRINGS.barrier, SPRINGS.viscosity, SPRINGS.temperature)
    length = pulled.records["pulled_length"]
    found = Wells.rolled(springs, first_wells(pulled), pulled.times, length)
    one = Gaussians.rolled(springs, *first_state(pulled, CHAIN.natural_length), pulled.times, length)
    assert (found.elongation - one.elongation).abs().max() <= 1e-14
    variance = found.covariance.diagonal(dim1=-2, dim2=-1)[..., : CHAIN.springs]
    assert (variance.sqrt() - one.deviation).abs().max() <= 1e-12


def test_the_length_of_the_chain_is_kept(chains: Wells) -> None:
    assert (chains.elongation.sum(-1) - chains.length).abs().max() <= 1e-12
    within = chains.covariance[..., : CHAIN.springs].sum(-1)  # it does not fluctuate, either
    assert within.abs().max() <= 1e-12


def test_shares_are_probabilities(chains: Wells) -> None:
    assert chains.share.min() >= 0 and chains.share.max() <= 1
    assert (chains.variance > 0).all()


def test_wells_that_change_places_change_nothing_else() -> None:
    """y -> -y and z -> 1 - z: a chain pushed as another is pulled."""
    y = CHAIN.natural_length * (CHAIN.simulate_paper(lengths=(0.17,), realisations=200).realisations[:, 0] - 1)
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    start = y.sum(1).mean(-1, keepdim=True)
    there = Wells.rolled(SPRINGS, halves(y), times, start + 0.05 * times)
    back = Wells.rolled(SPRINGS, halves(-y), times, -start - 0.05 * times)
    assert (there.mean[..., :10] + back.mean[..., :10]).abs().max() <= 1e-12
    assert (there.share + back.share - 1).abs().max() <= 1e-10


def test_a_held_chain_at_equilibrium_stays() -> None:
    times = paper_times()
    strains = CHAIN.equilibrium(0.2, 1000, Generator().manual_seed(0)).T[None]
    strains = torch.cat([strains, 2 - strains], -1)  # both wells alike
    first = first_wells(Ensemble(times[:2], strains[:, None].expand(-1, 2, -1, -1), {}))
    found = Wells.rolled(SPRINGS, first, times, torch.full((1, len(times)), 0.2, dtype=torch.float64))
    assert (found.share - 0.5).abs().max() <= 1e-10
    assert found.external_force(torch.zeros_like(found.length)).abs().max() <= 1e-10 * CHAIN.stiffness[0]


def test_force_given_back_moves_the_end_as_before(pulled: Ensemble, chains: Wells) -> None:
    ahead = torch.diff(chains.length, dim=1) / torch.diff(chains.times)
    force = chains.external_force(torch.cat([ahead, ahead[:, -1:]], 1))  # with the drag of the step to come
    again = Wells.rolled(SPRINGS, first_wells(pulled), chains.times, chains.length, force)
    assert (again.length - chains.length).abs().max() <= 1e-12


def test_moments_within_wells_are_those_of_the_sample(pulled: Ensemble) -> None:
    mean, covariance, variance = first_wells(pulled)
    y = CHAIN.natural_length * (pulled.realisations[:, 0] - CHAIN.barrier_strain)
    shares, middle, pooled, slope = _within(mean, covariance)
    below = y[0, 3][y[0, 3] <= 0]
    assert torch.allclose(middle[0, 3, 0], below.mean(), atol=1e-12)
    assert torch.allclose(variance[0, 3, 0], below.var(correction=0), rtol=1e-9)
    assert torch.allclose((shares * variance).sum(-1), pooled, rtol=1e-9)
    assert torch.allclose(slope[:, :10].diagonal(dim1=-2, dim2=-1), torch.ones_like(pooled))
    assert slope[:, 10:].diagonal(dim1=-2, dim2=-1).abs().max() <= 1e-9 / 0.01  # z is known in a well


@pytest.mark.parametrize("middle", [-1.5, -0.7, -0.2, 0.1])
def test_flux_is_the_integral_over_the_step(middle: float) -> None:
    """Over y < 0 and y' > 0 of a Gaussian and of the noise of the step, on a grid of both."""
    deviation, after, slope, noise = 0.4, middle + 0.15, 0.8, 0.25
    y = torch.linspace(-6 * deviation + middle, 0, 4001, dtype=torch.float64)[:, None]
    new = torch.linspace(0, 4, 4001, dtype=torch.float64)
    here = torch.exp(-0.5 * ((y - middle) / deviation) ** 2)
    there = torch.exp(-0.5 * ((new - after - slope * (y - middle)) / noise) ** 2) / noise / (2 * torch.pi) ** 0.5
    whole = torch.trapezoid(here[:, 0], y[:, 0])
    wanted = [torch.trapezoid(torch.trapezoid(here * there * new**power, new), y[:, 0]) / whole for power in range(3)]
    given = (torch.tensor([value], dtype=torch.float64) for value in (middle, deviation, after, slope, noise))
    for found, value in zip(_crossed(*given), wanted, strict=True):
        assert abs(float(found) - float(value)) <= 1e-6


def test_two_gaussians_are_far_better_than_one(pulled: Ensemble, chains: Wells) -> None:
    length, natural = pulled.records["pulled_length"], CHAIN.natural_length
    one = Gaussians.rolled(SPRINGS, *first_state(pulled, natural), pulled.times, length)
    ours, theirs = (relative_error(path.elongation / natural - 1, pulled.mean()) for path in (chains, one))
    assert ours < theirs / 3


def test_blocks_are_one_ensemble() -> None:
    whole = CHAIN.simulate_paper(lengths=(0.2,), realisations=100)
    assert wells_errors({"near": whole}) == pytest.approx(wells_errors({"near": [whole, whole]}))


def test_wells_must_be_equally_stiff(pulled: Ensemble) -> None:
    springs = Springs((1.0, 2.0), (0.02, 0.01), 0.02, 0.1, 5e-6)
    with pytest.raises(ValueError, match="equally stiff wells, but have 1 and 2"):
        Wells.rolled(springs, first_wells(pulled), pulled.times, pulled.records["pulled_length"])
