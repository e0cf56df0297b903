"""Encoder: order cannot matter, compression is exact to its square, the gauge is fixed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor
from toys import LAYOUTS, frozen, seen_of

from ibvonns.encoder import GAUGE_EVERY, Encoder
from ibvonns.ensemble import Density, Ensemble, Samples
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
    encoder.position.copy_(torch.stack([cloud.mean(), cloud.std()])[:, None])
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
        features = encoder.features(cloud.reshape(-1, 1)).unflatten(1, cloud.shape).mean(2)
        for points in (33, 65, 129):
            density = compress(cloud, points)
            low, high = float(density.grid[0]), float(density.grid[-1])
            fine = torch.linspace(low, high, 4001, dtype=torch.float64)
            values = encoder.features(fine[:, None])
            step = float(fine[1] - fine[0])
            bend = (values[:, 2:] - 2 * values[:, 1:-1] + values[:, :-2]).abs().max() / step**2
            miss = density.expectation(encoder.features(density.grid[:, None])) - features
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
            offset, scale, _ = encoder.measure_gauge(raw, means)
            alphas.append((raw - offset) / scale)
    for alpha in alphas:
        assert alpha.mean(1).abs().max() <= 1e-12
        assert (alpha.square().mean(1) - 1).abs().max() <= 1e-12
        assert ((alpha * (means - means.mean())[:, None]).sum(1) > 0).all()
    assert (alphas[0] - alphas[1]).abs().max() <= 1e-12


@pytest.mark.parametrize("internal", [1, 2])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_frozen_alpha_is_standardised_and_rises_with_the_mean(kind: str, internal: int) -> None:
    model, seen = frozen(kind, (0, 1, 2), internal=internal), seen_of(kind)
    with torch.no_grad():
        alpha = model.encode(seen)
        assert alpha.shape == (3, *seen.mean.shape[:3], internal)
        afresh, own = model.encoder.standardised(seen)
    assert own is None and torch.allclose(alpha, afresh, rtol=0, atol=1e-12)
    gauged = alpha[:, :, ::GAUGE_EVERY].flatten(1, 3)
    assert gauged.mean(1).abs().max() <= 1e-12
    assert (gauged.square().mean(1) - 1).abs().max() <= 1e-12
    means = seen.mean[:, ::GAUGE_EVERY, :, 0].flatten()
    assert ((gauged * (means - means.mean())[:, None]).sum(1)[:, 0] > 0).all()
    if internal > 1:  # each tells what those before it do not
        assert (gauged[..., 0] * gauged[..., 1]).mean(1).abs().max() <= 1e-6
        assert torch.allclose(model.encoder.ungauged(alpha).flatten(1, 3), model.encoder.raw(seen.cloud), atol=1e-9)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_alpha_of_some_times_is_that_of_all(kind: str) -> None:
    """Those that all replicas want, in any order, and those that each wants for itself."""
    encoder, seen = frozen(kind, (0, 1)).encoder, seen_of(kind)
    wanted, own = torch.tensor([7, 3, 50, 3]), torch.tensor([[0, 9, 9], [59, 2, 20]])
    with torch.no_grad():
        alpha = encoder.standardised(seen)[0]
        some, each = encoder.standardised(seen, wanted, own)
    assert torch.allclose(some, alpha[:, :, wanted], rtol=0, atol=1e-12)
    assert each is not None and each.shape[2] == 3
    for replica in (0, 1):
        assert torch.allclose(each[replica], alpha[replica][:, own[replica]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_shift_is_the_slope_of_alpha_along_a_shift(kind: str) -> None:
    """In units of the deviation of all positions, each component by its own."""
    encoder, step = frozen(kind).encoder, 1e-4
    deviation = encoder.position[1]
    some = seen_of(kind).cloud.at(slice(None, None, 20))

    def moved(by: float) -> Density | Samples:
        if isinstance(some, Density):
            return Density(some.grid + by * deviation, some.weights)
        return Samples(some.positions + by * deviation)

    with torch.no_grad():
        slope = (encoder.raw(moved(step)) - encoder.raw(moved(-step))) / (2 * step)
        assert torch.allclose(encoder.shift(some, step), slope, rtol=1e-6, atol=1e-9)


def test_samples_are_encoded_as_their_realisations() -> None:
    """The order of samples cannot matter either; each component has a scale of its own."""
    seen, encoder = seen_of("plane"), frozen("plane").encoder
    assert isinstance(seen.cloud, Samples)
    flat = seen.cloud.positions.flatten(0, 3)
    found = encoder.position
    assert torch.allclose(found, torch.stack([flat.mean(0), flat.std(0, unbiased=False)]))
    turned = Samples(seen.cloud.positions.flip(-2))
    assert (encoder(turned) - encoder(seen.cloud)).abs().max() <= 1e-12
    swapped = Samples(seen.cloud.positions.flip(-1))
    assert (encoder(swapped) - encoder(seen.cloud)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["point", "row"])
def test_answer_of_alpha_to_one_realisation_is_that_of_autograd(kind: str) -> None:
    seen = seen_of(kind)
    encoder, times = Encoder(generators(SEEDS)), torch.tensor([0, 30])
    encoder.position.copy_(torch.stack([seen.mean.mean(), seen.variance.mean().sqrt()])[:, None])
    grid = seen.cloud.grid  # type: ignore[union-attr]
    weights = seen.cloud.at(times).weights.flatten(0, -2)  # type: ignore[union-attr]
    positions = grid.expand(len(weights), -1).clone().requires_grad_()
    features = encoder.features(positions[..., None].flatten(0, 1)).unflatten(1, positions.shape)
    alpha = encoder.rho((weights[..., None] * features).sum(2))[..., 0]
    _, scale, _ = encoder.measure_gauge(encoder.raw(seen.cloud.at(torch.arange(0, len(seen.times), GAUGE_EVERY))),
                                     seen.mean[:, ::GAUGE_EVERY, :, 0].flatten())  # fmt: skip
    for replica in range(len(SEEDS)):
        (slope,) = torch.autograd.grad(alpha[replica].sum(), positions, retain_graph=True)
        exact = torch.where(weights > 0, slope.square() / weights.clamp_min(1e-300), 0.0).sum(-1)
        found = encoder.response(seen, times)[replica].flatten()
        assert torch.allclose(found, exact / scale[replica].square(), rtol=1e-5)


# --- polynomials and anchors -----------------------------------------------------------------


def anchored_encoder(x: Tensor, internal: int = 3) -> Encoder:
    """An anchored encoder that knows the scale of its positions, (rows, realisations, components)."""
    encoder = Encoder(generators(SEEDS), internal, x.shape[-1], anchored=True).requires_grad_(False)
    encoder.position.copy_(torch.stack([x.mean((0, 1)), x.flatten(0, 1).std(0)]))
    return encoder


def skewed(rows: int, count: int, components: int, seed: int = 0) -> Tensor:
    """Ensembles of several means, widths and skewnesses: (rows, realisations, components)."""
    x = torch.stack([clouds(rows, count, seed + n) for n in range(components)], -1)
    return x + 0.3 * x.square().cumsum(-1)


def positions_of(x: Tensor) -> Tensor:
    """As an encoder takes them: with no axis of one component."""
    return x[..., 0] if x.shape[-1] == 1 else x


@pytest.mark.parametrize("components", [1, 2])
@given(st.integers(0, 99))
def test_an_anchored_encoder_knows_the_mean_itself_and_of_the_rest_the_shape_alone(components: int, seed: int) -> None:
    x = skewed(5, 40, components, seed)
    encoder, rng = anchored_encoder(x), torch.Generator().manual_seed(seed)

    def raw(x: Tensor) -> Tensor:
        return encoder.raw(Samples(x))

    alpha, order = raw(x), torch.randperm(40, generator=rng)
    assert (alpha - raw(x[:, order])).abs().max() <= 1e-12
    centre, deviation = encoder.position
    mean = (x.mean(1) - centre) / deviation
    assert (alpha[..., :components] - mean).abs().max() <= 1e-12
    shifted = raw(x + torch.randn(components, generator=rng, dtype=torch.float64))
    assert (shifted[..., components:] - alpha[..., components:]).abs().max() <= 1e-9
    assert (raw(1.5 * x)[..., components:] - alpha[..., components:]).abs().max() > 1e-4


@pytest.mark.parametrize(("components", "anchored"), [(1, True), (2, True), (2, False)])
def test_averages_that_are_kept_are_those_that_are_taken(components: int, anchored: bool) -> None:
    x = skewed(6, 60, components)
    encoder = Encoder(generators(SEEDS), 3, components, anchored=anchored).requires_grad_(False)
    cloud: Samples | Density = Samples(x.unflatten(0, (2, 3)))
    if components == 1:
        times = torch.arange(3, dtype=torch.float64)
        cloud = Ensemble(times, x[..., 0].unflatten(0, (2, 3))).density(
            torch.linspace(-3, 12, 301, dtype=torch.float64)
        )
    kept = encoder.averaged(cloud)
    assert kept.averages is not None and cloud.averages is None
    assert torch.equal(encoder.raw(kept), encoder.raw(cloud))
    wanted = torch.tensor([[2, 0]] * len(SEEDS))
    assert torch.equal(encoder.raw(kept, wanted), encoder.raw(cloud, wanted))
    some = encoder.raw(kept.at(torch.tensor([0, 2])))
    assert torch.allclose(some, encoder.raw(cloud).unflatten(1, (2, 3))[:, :, [0, 2]].flatten(1, 2), atol=1e-12)


def test_hermite_polynomials_are_orthonormal() -> None:
    encoder = Encoder(generators([0]), 1, 2)
    nodes, weights = (torch.tensor(part) for part in hermegauss(12))
    x = torch.cartesian_prod(nodes, nodes)
    share = torch.cartesian_prod(weights, weights).prod(-1) / (2 * torch.pi)
    found = encoder.hermite(x)
    assert found.shape == (144, 14)
    assert torch.allclose((share[:, None, None] * found[:, :, None] * found[:, None]).sum(0), torch.eye(14).double())


def test_an_anchored_encoder_of_one_component_is_compressed_as_its_samples() -> None:
    x = skewed(4, 2000, 1)
    encoder = anchored_encoder(x, 2)
    exact = encoder.raw(Samples(x))
    assert (exact - encoder.raw(compress(x[..., 0], 4001)).reshape(exact.shape)).abs().max() <= 1e-4
    assert torch.equal(encoder.encode(positions_of(x)[..., None]), encoder(Samples(x)))
