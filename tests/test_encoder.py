"""Encoder and decoder: order cannot matter, the gauge is fixed, densities are densities."""

from math import e, log, pi, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ibvonns.decoders import GaussianDecoder, gaussian_nll
from ibvonns.encoder import Encoder
from ibvonns.ensemble import Density, Ensemble
from ibvonns.networks import generators

SEEDS = [0, 1, 2]


def clouds(rows: int, count: int, seed: int = 0) -> Tensor:
    """Ensembles whose mean and width differ from row to row."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, count, generator=rng, dtype=torch.float64)
    row = torch.arange(rows, dtype=torch.float64)[:, None]
    return 0.4 * row + (0.3 + 0.1 * torch.sin(row)) * noise


def scaled_encoder(cloud: Tensor) -> Encoder:
    """An encoder that knows the scale of its positions."""
    encoder = Encoder(generators(SEEDS))
    encoder.position.copy_(torch.stack([cloud.mean(), cloud.std()]))
    return encoder


def compress(cloud: Tensor, points: int) -> Density:
    """The cloud on a grid."""
    times = torch.arange(len(cloud), dtype=torch.float64)
    low, high = float(cloud.min()) - 0.1, float(cloud.max()) + 0.1
    grid = torch.linspace(low, high, points, dtype=torch.float64)
    return Ensemble(times, cloud[None]).density(grid)


# --- encoder ---------------------------------------------------------------------------------


@given(st.permutations(range(12)), st.integers(0, 9))
def test_order_of_the_realisations_cannot_matter(order: list[int], seed: int) -> None:
    cloud = clouds(4, 12, seed)
    encoder = scaled_encoder(cloud)
    difference = encoder.encode(cloud) - encoder.encode(cloud[:, order])
    assert difference.abs().max() <= 1e-13


def test_raw_alpha_vanishes_at_the_reference() -> None:
    encoder = Encoder(generators(SEEDS), reference=0.3)
    at_rest = torch.full((1, 7), 0.3, dtype=torch.float64)
    assert encoder.ungauged(encoder.encode(at_rest)).abs().max() <= 1e-14
    cloud = clouds(3, 50)
    plain = Encoder(generators(SEEDS))
    moved = encoder.encode(cloud) - plain.encode(cloud)
    assert (moved - moved[:, :1]).abs().max() <= 1e-14  # a shift of the zero, nothing else
    raw = encoder.ungauged(encoder.encode(cloud))
    assert torch.allclose(encoder.raw(compress(cloud, 4001)).mean(1), raw.mean(1), atol=1e-6)


def test_repeating_every_realisation_changes_nothing() -> None:
    cloud = clouds(4, 12)
    encoder = scaled_encoder(cloud)
    difference = encoder.encode(cloud) - encoder.encode(cloud.repeat(1, 3))
    assert difference.abs().max() <= 1e-13


def test_rows_are_encoded_alike_in_any_block() -> None:
    cloud = clouds(7, 12)
    encoder = scaled_encoder(cloud)
    assert (encoder.encode(cloud, block=2) - encoder.encode(cloud)).abs().max() <= 1e-13


def test_compressed_ensemble_gives_the_same_alpha_up_to_the_square_of_the_spacing() -> None:
    cloud = clouds(20, 3000)
    encoder = scaled_encoder(cloud)
    with torch.no_grad():
        exact, errors = encoder.encode(cloud), []
        features = encoder.features(cloud.flatten()).unflatten(1, cloud.shape).mean(2)
        for points in (33, 65, 129):
            density = compress(cloud, points)
            low, high = float(density.grid[0]), float(density.grid[-1])
            fine = torch.linspace(low, high, 4001, dtype=torch.float64)
            values = encoder.features(fine)
            step = float(fine[1] - fine[0])
            bend = (values[:, 2:] - 2 * values[:, 1:-1] + values[:, :-2]).abs().max() / step**2
            miss = density.expectation(encoder.features(density.grid)) - features
            assert miss.abs().max() <= density.error_bound(1.01 * float(bend))
            errors.append(float((encoder(density) - exact).norm()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


@given(st.integers(0, 99))
def test_gauge_has_mean_0_and_deviation_1_and_rises_with_the_mean(seed: int) -> None:
    cloud = clouds(15, 50, seed)
    encoder, means = scaled_encoder(cloud), cloud.mean(1)
    with torch.no_grad():
        alphas = []
        for sign in (1, -1):  # of the last layer of rho, and so of alpha before its gauge
            for parameter in list(encoder.rho.parameters())[-2:]:
                parameter.mul_(sign)
            raw = encoder.raw(compress(cloud, 65))
            offset, scale = encoder.measure_gauge(raw, means)
            alphas.append((raw - offset) / scale)
    for alpha in alphas:
        assert alpha.mean(1).abs().max() <= 1e-12
        assert (alpha.square().mean(1) - 1).abs().max() <= 1e-12
        assert ((alpha * (means - means.mean())[:, None]).sum(1) > 0).all()
    assert (alphas[0] - alphas[1]).abs().max() <= 1e-12


def test_frozen_gauge_is_what_was_measured() -> None:
    cloud = clouds(9, 40)
    encoder, density = scaled_encoder(cloud), compress(cloud, 65)
    with torch.no_grad():
        offset, scale = encoder.measure_gauge(encoder.raw(density), cloud.mean(1))
        encoder.offset.copy_(offset)
        encoder.scale.copy_(scale)
        assert encoder(density).mean(1).abs().max() <= 1e-12


# --- decoder ---------------------------------------------------------------------------------


def scaled_decoder(seeds: list[int]) -> GaussianDecoder:
    """A decoder with a position scale of its own."""
    decoder = GaussianDecoder(generators(seeds))
    decoder.position.copy_(torch.tensor([0.7, 0.2]))
    return decoder


def states(replicas: int, count: int) -> Tensor:
    """alpha over its range."""
    row = torch.linspace(-2.5, 2.5, count, dtype=torch.float64)[:, None]
    return row.expand(replicas, count, 1)


@given(st.integers(0, 99))
def test_density_integrates_to_one(seed: int) -> None:
    decoder, alpha = scaled_decoder([seed]), states(1, 7)
    with torch.no_grad():
        mean, deviation = decoder(alpha)
        unit = torch.linspace(-12, 12, 801, dtype=torch.float64)
        x = mean[..., None] + deviation[..., None] * unit
        mass = torch.trapezoid(decoder.log_density(x, alpha).exp(), x)
    assert (mass - 1).abs().max() <= 1e-12


@given(st.integers(0, 99))
def test_nll_from_moments_is_the_mean_over_the_realisations(seed: int) -> None:
    decoder, alpha, cloud = scaled_decoder([seed, seed + 1]), states(2, 6), clouds(6, 500, seed)
    with torch.no_grad():
        variance = cloud.var(1, unbiased=False)
        centre, deviation = decoder(alpha)
        nll = gaussian_nll(centre, deviation, cloud.mean(1), variance)
        each = decoder.log_density(cloud.expand(2, -1, -1), alpha)
    assert torch.allclose(nll, -each.mean(-1), rtol=1e-12, atol=0)
    # no Gaussian fits better than the one with the ensemble's own moments
    entropy = 0.5 * torch.log(2 * pi * e * variance)
    assert (nll >= entropy - 1e-12).all()
    best = gaussian_nll(cloud.mean(1), variance.sqrt(), cloud.mean(1), variance)
    assert torch.allclose(best, entropy, rtol=0, atol=1e-12)


def test_nll_of_a_standard_gaussian_is_its_entropy() -> None:
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert float(gaussian_nll(zero, one, zero, one)) == pytest.approx(0.5 * log(2 * pi * e))


def test_samples_have_the_decoders_mean_and_deviation() -> None:
    decoder, alpha, count = scaled_decoder([0, 1]), states(2, 5), 40_000
    with torch.no_grad():
        mean, deviation = decoder(alpha)
        drawn = [decoder.sample(alpha, count, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    z_mean = (drawn[0].mean(-1) - mean) / deviation * sqrt(count)
    z_variance = (drawn[0].var(-1) / deviation**2 - 1) * sqrt(count / 2)
    assert z_mean.abs().max() < 4 and z_variance.abs().max() < 4
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
