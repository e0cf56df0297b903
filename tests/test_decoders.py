"""Gaussian decoder: densities that integrate to 1, samples that follow them, likelihoods."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibvonns.decoders import GaussianDecoder, gaussian_nll
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
