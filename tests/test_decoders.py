"""Decoders: densities that integrate to 1, samples that follow them, likelihoods."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from toys import few_of, frozen, seen_of

from ibvonns.decoders import FlowDecoder, GaussianDecoder, GaussiansDecoder, MixtureDecoder, SigmoidalFlow, gaussian_nll
from ibvonns.ensemble import Density
from ibvonns.likelihood import HALF_LOG
from ibvonns.networks import generators
from ibvonns.observations import Observations, observe

Decoder = GaussianDecoder | GaussiansDecoder | MixtureDecoder | FlowDecoder
FIELD = torch.linspace(-1, 6, 9, dtype=torch.float64)
SPAN = torch.linspace(-6, 6, 9, dtype=torch.float64)


def states(internal: int = 1, fields: int = 1) -> torch.Tensor:
    """Fields and internal variables over their range: (2, 9, fields + internal)."""
    known = [FIELD, FIELD.flip(0)][:fields]
    inner = [SPAN, SPAN.roll(3), SPAN.roll(5)][:internal]
    return torch.stack([*known, *inner], -1).expand(2, -1, -1)


def cloudy(grid: torch.Tensor, weights: torch.Tensor) -> Observations:
    """Nine rows, a site's at as many times, of which nothing but the cloud is asked."""
    zero = torch.zeros(1, 9, 1, 1, dtype=torch.float64)
    times = torch.arange(9, dtype=torch.float64)
    return Observations(times, zero, Density(grid, weights[None, :, None]), zero, zero + 1, 1)


RNGS = [0, 1]
DECODERS: dict[str, tuple[Callable[[], Decoder], torch.Tensor]] = {
    "gaussian": (lambda: GaussianDecoder(generators(RNGS)), states()),
    "gaussian of 2 controls and 3 variables": (
        lambda: GaussianDecoder(generators(RNGS), internal=3, fields=2), states(3, 2)),
    "gaussians-1": (lambda: GaussiansDecoder(generators(RNGS), 1), states()),
    "gaussians-3": (lambda: GaussiansDecoder(generators(RNGS), 3), states()),
    "gaussians of 2 controls": (lambda: GaussiansDecoder(generators(RNGS), internal=2, fields=2), states(2, 2)),
    "mixture": (lambda: MixtureDecoder(generators(RNGS)), states()),
    "mixture of other wells": (lambda: MixtureDecoder(generators(RNGS), 0.7, internal=2), states(2)),
    "flow-1": (lambda: FlowDecoder(generators(RNGS), 1), states()),
    "flow-2": (lambda: FlowDecoder(generators(RNGS)), states()),
    "flow-8": (lambda: FlowDecoder(generators(RNGS), 8), states()),
    "flow without variables": (lambda: FlowDecoder(generators(RNGS), internal=0), states(0)),
    "flow of 2 controls": (lambda: FlowDecoder(generators(RNGS), fields=2), states(1, 2)),
}  # fmt: skip
COMPILED = [name for name in DECODERS if "gaussian" not in name or "gaussians" in name]


def made(name: str) -> tuple[Decoder, torch.Tensor]:
    """A decoder with random weights and the data's scales, and states."""
    make, z = DECODERS[name]
    decoder = make()
    decoder.position.copy_(torch.tensor([[2.4], [1.3]]))
    decoder.given.copy_(torch.tensor([[2.0], [1.5]]).expand_as(decoder.given))
    return decoder.requires_grad_(False), z


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("shape", [(2,), (3, 9, 1), (2, 8, 1)])
def test_positions_of_another_shape_than_the_states_are_refused(name: str, shape: tuple[int, ...]) -> None:
    decoder, z = made(name)
    said = re.escape("must begin with shape (2, 9), but have shape")
    with pytest.raises(ValueError, match=said):
        decoder.log_density(torch.zeros(shape, dtype=torch.float64), z)


@pytest.mark.parametrize("name", DECODERS)
def test_density_integrates_to_one(name: str) -> None:
    # a grid that is fine in the middle and reaches far: x = sinh
    decoder, z = made(name)
    steps = torch.linspace(-14, 14, 40_001, dtype=torch.float64)
    values = (2.4 + steps.sinh()).expand(2, 9, -1)
    total = torch.trapezoid(decoder.log_density(values, z).exp(), values)
    assert (total - 1).abs().max() < 1e-6


@given(st.integers(0, 99))
def test_gaussian_integrates_to_one(seed: int) -> None:
    decoder = GaussianDecoder(generators([seed])).requires_grad_(False)
    decoder.position.copy_(torch.tensor([[0.6], [0.5]]))
    z = states()[:1] * 3
    mean, deviation = decoder(z)
    x = mean + deviation * torch.linspace(-12, 12, 4001, dtype=torch.float64)
    assert (torch.trapezoid(decoder.log_density(x, z).exp(), x) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("name", DECODERS)
def test_density_is_finite_in_the_far_tails(name: str) -> None:
    decoder, z = made(name)
    values = torch.tensor([-1e6, -1e3, 1e3, 1e6], dtype=torch.float64).expand(2, 9, -1)
    tails = decoder.log_density(values, z)
    assert bool(tails.isfinite().all()) and bool((tails < -100).all())
    assert bool((tails[..., 0] < tails[..., 1]).all() and (tails[..., 3] < tails[..., 2]).all())


@pytest.mark.parametrize("name", DECODERS)
def test_samples_follow_their_density(name: str) -> None:
    decoder, z = made(name)
    one, again, other = (decoder.sample(z, 3, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    drawn = decoder.sample(z, 1500, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 9, 1500)
    grid = torch.linspace(-30, 40, 10_001, dtype=torch.float64)
    density = decoder.log_density(grid.expand(2, 9, -1), z).exp()
    cumulative = torch.cumulative_trapezoid(density, grid)
    place = ((drawn - grid[0]) / (grid[1] - grid[0])).round().long().clamp(1, 10_000)
    uniform = cumulative.gather(-1, place - 1)
    for point in range(9):
        assert stats.kstest(uniform[0, point].numpy(), "uniform").pvalue > 1e-4


# --- likelihoods -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPILED)
def test_compressed_likelihood_is_that_of_the_density(name: str) -> None:
    """The compiled pass against `log_density`, values and gradients, also where q is tiny."""
    decoder, first = made(name)
    decoder.requires_grad_(True)
    rng = torch.Generator().manual_seed(3)
    for reach in (4.0, 60.0):
        grid = torch.linspace(-reach, reach, 50, dtype=torch.float64)
        weights = torch.rand(9, 50, generator=rng, dtype=torch.float64)
        weights[:, ::3] = 0
        data = cloudy(grid, weights)
        z = first.clone().requires_grad_(True)
        logs = decoder.log_density(grid.expand(2, 9, -1), z)
        found = decoder.nll(data, z), -(weights * logs).sum(-1)
        assert torch.allclose(*found, rtol=1e-12, atol=0)
        bars = torch.randn(2, 9, generator=rng, dtype=torch.float64)
        wanted = [z, *decoder.parameters()]
        each = [torch.autograd.grad((bars * nll).sum(), wanted, materialize_grads=True) for nll in found]
        for ours, theirs in zip(*each, strict=True):
            assert (ours - theirs).norm() <= 1e-11 * theirs.norm()


@pytest.mark.parametrize("name", COMPILED)
def test_compressed_likelihood_takes_any_number_of_threads(name: str) -> None:
    decoder, z = made(name)
    weights = torch.full((9, 50), 0.02, dtype=torch.float64)
    data = cloudy(torch.linspace(-4, 9, 50, dtype=torch.float64), weights)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(decoder.nll(data, z))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("kind", ["point", "plane"])
def test_likelihood_by_moments_is_that_of_the_single_realisations(kind: str) -> None:
    """The sum of Eq. (13) over realisations, by moments and one by one; no Gaussian beats them."""
    model, seen, few = frozen(kind), seen_of(kind), few_of(kind)
    with torch.no_grad():
        z = model.states(seen, model.encode(seen)).flatten(1, 3)
        by_moments = model.decoder.nll(seen, z)
        positions = few.realisations.flatten(0, 1)[None].repeat_interleave(2, 0)
        one_by_one = -model.decoder.log_density(positions, z).mean(-1)
    assert torch.allclose(by_moments, one_by_one, rtol=1e-12)
    entropy = 0.5 * (2 * math.pi * math.e * seen.variance).log().sum(-1).flatten()
    assert (by_moments >= entropy - 1e-12).all()


@pytest.mark.parametrize("decoder", ["mixture", "flow"])
def test_likelihood_over_the_grid_is_that_of_the_realisations(decoder: str) -> None:
    """Compression moves it by no more than the square of the spacing times a curvature."""
    model, few = frozen("row", decoder=decoder), few_of("row")
    fine = observe(few, spacing=0.01, points=1200).at(torch.tensor([150, 151]))
    with torch.no_grad():
        z = model.states(fine, model.encode(fine)).flatten(1, 3)
        values = few.realisations[:, 150:152].flatten(0, 2).expand(2, -1, -1)
        direct = -model.decoder.log_density(values, z).mean(-1)
        assert torch.allclose(direct, model.decoder.nll(fine, z), atol=1e-2)
        assert torch.allclose(direct.mean(-1), model.nll(fine, model.encode(fine)), atol=1e-3)


@given(mean=st.floats(-3, 3), deviation=st.floats(0.05, 5), first=st.floats(-3, 3), variance=st.floats(0.01, 5))
def test_no_gaussian_beats_the_one_with_the_ensembles_moments(
    mean: float, deviation: float, first: float, variance: float
) -> None:
    values = (torch.tensor(value, dtype=torch.float64) for value in (mean, deviation))
    moments = [torch.tensor(value, dtype=torch.float64) for value in (first, variance)]
    best = gaussian_nll(moments[0], moments[1].sqrt(), *moments)
    assert gaussian_nll(*values, *moments) >= best - 1e-12
    entropy = 0.5 * math.log(2 * math.pi * math.e * variance)
    assert float(best) == pytest.approx(entropy, abs=1e-12)


def test_likelihood_in_other_units_shifts_by_the_logarithm() -> None:
    """What separates the paper's two chain likelihoods (notes 1): nats per length have units."""
    one = torch.ones(1, dtype=torch.float64)
    shift = gaussian_nll(3 * one, 2 * 3 * one, 3 * one, 9 * one)
    assert float(shift - gaussian_nll(one, 2 * one, one, one)) == pytest.approx(math.log(3))


def test_decoders_know_the_units_of_their_data() -> None:
    """The same data in other units: every likelihood moves by the logarithm of the scale alone."""
    for name in ("flow-2", "gaussian"):
        decoder, z = made(name)
        values = 2 + torch.linspace(-3, 3, 20, dtype=torch.float64).expand(2, 9, -1)
        before = decoder.log_density(values, z)
        decoder.position.mul_(10)
        decoder.given.mul_(10)
        z = torch.cat([10 * z[..., :1], z[..., 1:]], -1)
        after = decoder.log_density(10 * values, z)
        assert torch.allclose(after, before - math.log(10), rtol=0, atol=1e-10), name


def test_components_of_a_gaussian_are_independent() -> None:
    decoder = GaussianDecoder(generators([0, 1]), components=2).requires_grad_(False)
    z, rng = states(), torch.Generator().manual_seed(0)
    mean, deviation = decoder(z)
    assert mean.shape == deviation.shape == (2, 9, 2)
    values = torch.randn(2, 9, 7, 2, generator=rng, dtype=torch.float64)
    normal = torch.distributions.Normal(mean[:, :, None], deviation[:, :, None])
    expected = normal.log_prob(values).sum(-1)
    assert torch.allclose(decoder.log_density(values, z), expected, rtol=0, atol=1e-12)
    drawn = decoder.sample(z, 4000, rng)
    assert drawn.shape == (2, 9, 4000, 2)
    assert ((drawn.mean(2) - mean).abs() < 5 * deviation / math.sqrt(4000)).all()
    assert ((drawn.std(2) - deviation).abs() < 5 * deviation / math.sqrt(40_000)).all()
    assert torch.corrcoef(drawn[0, 0].T)[0, 1].abs() < 5 / math.sqrt(4000)


@pytest.mark.parametrize("wells", [2.0, 0.7])
def test_mean_of_the_mixture_is_the_field(wells: float) -> None:
    decoder = MixtureDecoder(generators([0, 1]), wells).requires_grad_(False)
    logs, centres, _ = decoder(states())
    assert ((logs.exp() * centres).sum(-1) - FIELD).abs().max() < 1e-12
    assert torch.allclose(centres.diff(dim=-1), torch.tensor(wells).double())


@pytest.mark.parametrize("sigmoids", [1, 2, 8])
@given(seed=st.integers(0, 10_000), stretch=st.floats(0.1, 5))
def test_flow_inverts_and_its_slope_is_that_of_autograd(sigmoids: int, seed: int, stretch: float) -> None:
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


# --- several Gaussians, several components, entropies ----------------------------------------

PLANE: dict[str, Callable[[], Decoder]] = {
    "gaussians-1": lambda: GaussiansDecoder(generators(RNGS), 1, components=2),
    "gaussians-3": lambda: GaussiansDecoder(generators(RNGS), 3, components=2),
    "flow": lambda: FlowDecoder(generators(RNGS), components=2),
}
plane = pytest.mark.parametrize("name", PLANE)


def flat(name: str, stretch: float = 1.5) -> tuple[Decoder, torch.Tensor]:
    """A decoder of positions in a plane with larger weights than at first, and states."""
    decoder = PLANE[name]().requires_grad_(False)
    decoder.position.copy_(torch.tensor([[2.4, -1.0], [1.3, 0.4]]))
    for part in decoder.parameters():
        part.mul_(stretch)
    return decoder, states()[:, ::4] / 3


@plane
def test_density_in_a_plane_integrates_to_one(name: str) -> None:
    decoder, z = flat(name, 1.0)
    steps = torch.linspace(-6, 6, 401, dtype=torch.float64).sinh() / 4  # far and, in the middle, fine
    center, scale = decoder.position
    x, y = (middle + wide * steps for middle, wide in zip(center, scale, strict=True))
    values = torch.stack(torch.meshgrid(x, y, indexing="ij"), -1)
    dense = decoder.log_density(values[None, None].expand(2, 3, -1, -1, -1), z).exp()
    total = torch.trapezoid(torch.trapezoid(dense, y), x)
    assert dense.shape == (2, 3, 401, 401) and (total - 1).abs().max() < 1e-3


@plane
def test_entropy_in_a_plane_is_that_of_the_samples(name: str) -> None:
    """So samples follow the density: another density has a larger cross entropy."""
    decoder, z = flat(name)
    drawn = decoder.sample(z, 4000, torch.Generator().manual_seed(3))
    assert drawn.shape == (2, 3, 4000, 2)
    own, entropy = decoder.log_density(drawn, z), decoder.entropy(z)
    assert ((own.mean(-1) + entropy).abs() < 5 * own.std(-1) / 512**0.5).all()  # so many samples it takes
    far = decoder.log_density(drawn + 0.3 * drawn.std(2, keepdim=True), z).mean(-1)
    assert (far < own.mean(-1)).all()
    # a density is the share of samples in a small box over its area
    middle, wide = drawn.median(2).values, 0.15 * drawn.std(2)
    share = ((drawn - middle[:, :, None]).abs() < wide[:, :, None]).all(-1).double().mean(-1)
    box = torch.cartesian_prod(*2 * [torch.linspace(-1, 1, 9, dtype=torch.float64)])
    inside = decoder.log_density(middle[:, :, None] + wide[:, :, None] * box, z).exp().mean(-1)
    expected = inside * 4 * wide.prod(-1)
    assert ((share - expected).abs() < 5 * (share / 4000).sqrt() + 0.05 * expected).all()


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("components", [1, 2])
def test_moments_of_samples_are_those_of_the_gaussians(number: int, components: int) -> None:
    decoder = GaussiansDecoder(generators(RNGS), number, components=components).requires_grad_(False)
    z = states()[:, ::4] / 3
    logs, centres, roots = decoder(z)
    away = torch.linalg.inv(roots) * decoder.position[1][:, None]
    mean = (logs.exp()[..., None] * centres).sum(2)
    second = away @ away.mT + (centres - mean[:, :, None])[..., None] * (centres - mean[:, :, None])[..., None, :]
    covariance = (logs.exp()[..., None, None] * second).sum(2)
    drawn = decoder.sample(z, 40_000, torch.Generator().manual_seed(1))
    drawn = drawn[..., None] if components == 1 else drawn
    size = covariance.diagonal(dim1=-2, dim2=-1).amax(-1)
    assert ((drawn.mean(2) - mean).abs().amax(-1) < 0.03 * size.sqrt()).all()
    found = torch.stack([torch.stack([torch.cov(point.T).reshape(2 * [components]) for point in row]) for row in drawn])
    assert ((found - covariance).abs().amax((-2, -1)) < 0.05 * size).all()


def test_entropy_of_one_gaussian_is_the_closed_form() -> None:
    z = states()[:, ::4]
    for decoder in (GaussiansDecoder(generators(RNGS), 1), GaussianDecoder(generators(RNGS))):
        decoder.requires_grad_(False).position.copy_(torch.tensor([[2.4], [1.3]]))
        if isinstance(decoder, GaussiansDecoder):
            wide = decoder.position[1] / decoder(z)[2][..., 0, 0, 0]
        else:
            wide = decoder(z)[1][..., 0]
        expected = 0.5 * math.log(2 * math.pi * math.e) + wide.log()
        assert (decoder.entropy(z) - expected).abs().max() < 1e-3


def test_full_covariance_is_found_by_the_largest_likelihood() -> None:
    rng = torch.Generator().manual_seed(0)
    root = torch.tensor([[0.8, 0.0], [-0.5, 0.3]], dtype=torch.float64)
    x = torch.tensor([1.0, -2.0]) + torch.randn(400, 2, generator=rng, dtype=torch.float64) @ root.T
    decoder, z = GaussiansDecoder(generators([0]), 1, components=2), torch.zeros(1, 1, 2, dtype=torch.float64)
    descent = torch.optim.LBFGS(decoder.parameters(), max_iter=80, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        descent.zero_grad()
        nll = -decoder.log_density(x[None, None], z).mean()
        nll.backward()
        return nll

    descent.step(loss)
    _, centre, inverse = (part.detach()[0, 0] for part in decoder(z))
    found = torch.linalg.inv(inverse[0])
    assert torch.allclose(centre[0], x.mean(0), atol=1e-3)
    assert torch.allclose(found @ found.T, torch.cov(x.T, correction=0), atol=1e-3)


def test_a_flow_of_one_component_is_what_it_was() -> None:
    one = FlowDecoder(generators(RNGS))
    assert not any("later" in name for name in one.state_dict())
    both = FlowDecoder(generators(RNGS), components=2)
    assert sorted(one.state_dict()) == sorted(name for name in both.state_dict() if "later" not in name)
    flow, z = SigmoidalFlow(generators(RNGS), 2), states()
    x = torch.linspace(-3, 3, 9, dtype=torch.float64).expand(2, -1)
    y, log_slope = flow(x, z)
    expected = log_slope - 0.5 * y**2 - 0.5 * math.log(2 * math.pi)
    assert torch.equal(one.log_density(x, z), log_slope - one.position[1].log().sum() - 0.5 * y**2 - HALF_LOG)
    assert torch.allclose(one.log_density(x, z), expected, rtol=1e-14)
