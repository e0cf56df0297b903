"""Gaussian decoder: densities that integrate to 1, samples that follow them, likelihoods."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ibvonns.decoders import (
    FlowDecoder,
    GaussianDecoder,
    MixtureDecoder,
    SigmoidalFlow,
    gaussian_nll,
)
from ibvonns.networks import generators

ALPHA = torch.linspace(-20, 20, 9, dtype=torch.float64)[None, :, None].expand(2, -1, -1)


@pytest.fixture(scope="module")
def decoder() -> GaussianDecoder:
    """Random weights, and a position scale that is not the standard one."""
    made = GaussianDecoder(generators([0, 1]))
    made.position.copy_(torch.tensor([0.6, 0.5]))
    return made.requires_grad_(False)


def test_density_integrates_to_one_at_every_state(decoder: GaussianDecoder) -> None:
    mean, deviation = decoder(ALPHA)
    steps = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    positions = mean[..., None] + deviation[..., None] * steps
    density = decoder.log_density(positions, ALPHA).exp()
    total = torch.trapezoid(density, positions)
    assert (total - 1).abs().max() < 1e-12


def test_samples_have_the_moments_of_the_density(decoder: GaussianDecoder) -> None:
    count = 20_000
    drawn = decoder.sample(ALPHA, count, torch.Generator().manual_seed(0))
    mean, deviation = decoder(ALPHA)
    assert drawn.shape == (2, 9, count)
    # five standard errors of the mean and of the deviation
    assert ((drawn.mean(-1) - mean).abs() < 5 * deviation / math.sqrt(count)).all()
    assert ((drawn.std(-1) - deviation).abs() < 5 * deviation / math.sqrt(2 * count)).all()


def test_mean_likelihood_is_that_of_the_single_realisations(decoder: GaussianDecoder) -> None:
    """The sum of Eq. (13) over realisations, by moments and one by one."""
    rng = torch.Generator().manual_seed(1)
    positions = torch.randn(2, 9, 50, generator=rng, dtype=torch.float64)
    mean, deviation = decoder(ALPHA)
    spread = positions.var(-1, unbiased=False)
    by_moments = gaussian_nll(mean, deviation, positions.mean(-1), spread)
    one_by_one = -decoder.log_density(positions, ALPHA).mean(-1)
    assert torch.allclose(by_moments, one_by_one, rtol=1e-12)


@given(
    mean=st.floats(-3, 3),
    deviation=st.floats(0.05, 5),
    first=st.floats(-3, 3),
    variance=st.floats(0.01, 5),
)
def test_no_gaussian_beats_the_one_with_the_ensembles_moments(
    mean: float, deviation: float, first: float, variance: float
) -> None:
    values = (torch.tensor(value, dtype=torch.float64) for value in (mean, deviation))
    moments = [torch.tensor(value, dtype=torch.float64) for value in (first, variance)]
    best = gaussian_nll(moments[0], moments[1].sqrt(), *moments)
    assert gaussian_nll(*values, *moments) >= best - 1e-12
    entropy = 0.5 * math.log(2 * math.pi * math.e * variance)
    assert float(best) == pytest.approx(entropy, abs=1e-12)


def test_likelihood_in_other_units_shifts_by_the_logarithm(decoder: GaussianDecoder) -> None:
    """What separates the paper's two chain likelihoods (notes 1): nats per length have units."""
    one = torch.ones(1, dtype=torch.float64)
    shift = gaussian_nll(3 * one, 2 * 3 * one, 3 * one, 9 * one)
    assert float(shift - gaussian_nll(one, 2 * one, one, one)) == pytest.approx(math.log(3))


# --- the chain's decoders --------------------------------------------------------------------

STRAIN = torch.linspace(-1, 6, 9, dtype=torch.float64)
STATES = torch.linspace(-6, 6, 9, dtype=torch.float64)[None, :, None].expand(2, -1, -1)
CHAIN_DECODERS: dict[str, Callable[[], MixtureDecoder | FlowDecoder]] = {
    "mixture": lambda: MixtureDecoder(generators([0, 1])),
    "flow-1": lambda: FlowDecoder(generators([0, 1]), 1),
    "flow-2": lambda: FlowDecoder(generators([0, 1])),
    "flow-8": lambda: FlowDecoder(generators([0, 1]), 8),
}


@pytest.fixture(params=CHAIN_DECODERS)
def marginal(request: pytest.FixtureRequest) -> MixtureDecoder | FlowDecoder:
    """Each decoder of a spring's strain, with random weights and the data's scales."""
    made = CHAIN_DECODERS[request.param]()
    made.position.copy_(torch.tensor([2.4, 1.3]))
    return made.requires_grad_(False)


def test_marginal_integrates_to_one(marginal: MixtureDecoder | FlowDecoder) -> None:
    # a grid that is fine in the middle and reaches far: strain = sinh
    steps = torch.linspace(-14, 14, 40_001, dtype=torch.float64)
    values = (2.4 + steps.sinh()).expand(2, 9, -1)
    total = torch.trapezoid(marginal.log_density(values, STRAIN, STATES).exp(), values)
    assert (total - 1).abs().max() < 1e-6


def test_marginal_is_finite_in_the_far_tails(marginal: MixtureDecoder | FlowDecoder) -> None:
    values = torch.tensor([-1e6, -1e3, 1e3, 1e6], dtype=torch.float64).expand(2, 9, -1)
    tails = marginal.log_density(values, STRAIN, STATES)
    assert bool(tails.isfinite().all()) and bool((tails < -100).all())
    assert bool((tails[..., 0] < tails[..., 1]).all() and (tails[..., 3] < tails[..., 2]).all())


def test_marginal_samples_follow_their_density(marginal: MixtureDecoder | FlowDecoder) -> None:
    drawn = marginal.sample(STRAIN, STATES, 5000, torch.Generator().manual_seed(0))
    grid = torch.linspace(-30, 40, 20_001, dtype=torch.float64)
    density = marginal.log_density(grid.expand(2, 9, -1), STRAIN, STATES).exp()
    cumulative = torch.cumulative_trapezoid(density, grid)
    place = ((drawn - grid[0]) / (grid[1] - grid[0])).round().long().clamp(1, 20_000)
    uniform = cumulative.gather(-1, place - 1)
    for point in range(9):
        assert stats.kstest(uniform[0, point].numpy(), "uniform").pvalue > 1e-4


def test_compressed_likelihood_is_that_of_the_density(
    marginal: MixtureDecoder | FlowDecoder,
) -> None:
    """The compiled pass against `log_density`, values and gradients, also where q is tiny."""
    marginal.requires_grad_(True)
    rng = torch.Generator().manual_seed(3)
    for reach in (4.0, 60.0):
        grid = torch.linspace(-reach, reach, 50, dtype=torch.float64)
        weights = torch.rand(9, 50, generator=rng, dtype=torch.float64)
        weights[:, ::3] = 0
        states = STATES.clone().requires_grad_(True)
        logs = marginal.log_density(grid.expand(2, 9, -1), STRAIN, states)
        found = marginal.nll(grid, weights, STRAIN, states), -(weights * logs).sum(-1)
        assert torch.allclose(*found, rtol=1e-12, atol=0)
        bars = torch.randn(2, 9, generator=rng, dtype=torch.float64)
        wanted = [states, *marginal.parameters()]
        each = [torch.autograd.grad((bars * nll).sum(), wanted) for nll in found]
        for ours, theirs in zip(*each, strict=True):
            assert (ours - theirs).norm() <= 1e-11 * theirs.norm()


def test_compressed_likelihood_takes_any_number_of_threads(
    marginal: MixtureDecoder | FlowDecoder,
) -> None:
    grid = torch.linspace(-4, 9, 50, dtype=torch.float64)
    weights = torch.full((9, 50), 0.02, dtype=torch.float64)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(marginal.nll(grid, weights, STRAIN, STATES))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_mean_of_the_mixture_is_the_strain() -> None:
    decoder = MixtureDecoder(generators([0, 1])).requires_grad_(False)
    logs, centres, _ = decoder(STRAIN, STATES)
    assert ((logs.exp() * centres).sum(-1) - STRAIN).abs().max() < 1e-12
    assert torch.allclose(centres.diff(dim=-1), torch.tensor(2.0).double())


@pytest.mark.parametrize("sigmoids", [1, 2, 8])
@given(seed=st.integers(0, 10_000), stretch=st.floats(0.1, 5))
def test_flow_inverts_and_its_slope_is_that_of_autograd(
    sigmoids: int, seed: int, stretch: float
) -> None:
    flow = SigmoidalFlow(generators([seed]), 2, sigmoids).requires_grad_(False)
    rng = torch.Generator().manual_seed(seed)
    state = stretch * torch.randn(1, 5, 2, generator=rng, dtype=torch.float64)
    x = 3 * torch.randn(1, 5, 20, generator=rng, dtype=torch.float64)
    x.requires_grad_()
    y, log_slope = flow(x, state)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(log_slope.exp(), slope, rtol=1e-9)
    assert bool((slope > 0).all())
    found = flow.inverse(y.detach(), state)
    assert (found - x).abs().max() < 1e-8
    # and the other way, for any y
    y = 8 * torch.randn(1, 5, 20, generator=rng, dtype=torch.float64)
    assert (flow(flow.inverse(y, state), state)[0] - y).abs().max() < 1e-8
