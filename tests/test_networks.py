"""Networks: closed-form gradients, convexity by construction, replicas that never meet."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from ibvonns.networks import INN, MLP, PICINN, PositiveLinear, generators, softplus

WIDTHS = st.lists(st.integers(1, 7), min_size=1, max_size=3)
DIMENSION = st.integers(1, 3)
SEEDS = st.lists(st.integers(0, 99), min_size=1, max_size=3)
FACTOR = st.sampled_from([0.3, 1.0, 3.0])


def enlarge(module: nn.Module, factor: float) -> None:
    """Multiply every weight."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)


def points(seed: int, replicas: int, count: int, width: int) -> Tensor:
    """Standard normal points."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(replicas, count, width, generator=rng, dtype=torch.float64)


def slope_of(values: Tensor, inputs: Tensor) -> Tensor:
    """Gradient by automatic differentiation."""
    return torch.autograd.grad(values.sum(), inputs)[0]


def magnitude(net: PICINN, z: Tensor, g: Tensor) -> float:
    """Size of what Eq. (12) subtracts: its rounding is relative to this, not to the difference."""
    value, slope = net.evaluated(z, g)
    base, tangent = net.evaluated(z, 0 * g)
    parts = (value, base, (tangent * g).sum(-1), slope)
    return max(float(part.detach().abs().max()) for part in parts)


@given(DIMENSION, WIDTHS, SEEDS, FACTOR, st.integers(0, 4))
def test_gradient_of_inn_is_that_of_autograd(
    inputs: int, hidden: list[int], seeds: list[int], factor: float, cubes: int
) -> None:
    net = INN(generators(seeds), inputs, hidden, cubes)
    enlarge(net, factor)
    z = points(0, len(seeds), 5, inputs).requires_grad_()
    expected = slope_of(net(z), z)
    assert (net.gradient(z) - expected).abs().max() <= 1e-10 * expected.abs().max()


@given(DIMENSION, DIMENSION, WIDTHS, SEEDS, FACTOR, st.sampled_from([0.1, 1.0, 3.0]), st.integers(0, 3))
def test_gradient_of_picinn_is_that_of_autograd(
    free: int, convex: int, hidden: list[int], seeds: list[int], factor: float, gain: float, squares: int
) -> None:
    net = PICINN(generators(seeds), free, convex, hidden, [gain] * convex, squares)
    enlarge(net, factor)
    z = points(0, len(seeds), 5, free)
    g = points(1, len(seeds), 5, convex).requires_grad_()
    expected = slope_of(net(z, g), g)
    assert (net.gradient(z, g) - expected).abs().max() <= 1e-10 * expected.abs().max()


class Slope(nn.Module):
    """A network's closed-form gradient, as a module whose weights can be put in from outside."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        gradient: Tensor = self.net.gradient(*inputs)  # type: ignore[operator]
        return gradient.square().sum()


@pytest.mark.parametrize(
    ("net", "widths"), [(INN(generators([0, 1]), 2, (3, 2)), (2,)), (PICINN(generators([0, 1]), 2, 1, (3, 2)), (2, 1))]
)
def test_loss_on_a_closed_form_gradient_has_the_right_slope_in_the_weights(
    net: nn.Module, widths: Sequence[int]
) -> None:
    module = Slope(net)
    names, weights = zip(*module.named_parameters(), strict=True)
    inputs = tuple(points(index, 2, 3, width) for index, width in enumerate(widths))

    def loss(*values: Tensor) -> Tensor:
        result: Tensor = functional_call(module, dict(zip(names, values, strict=True)), inputs)
        return result

    assert torch.autograd.gradcheck(loss, weights)


@given(DIMENSION, DIMENSION, WIDTHS, st.integers(0, 99), st.sampled_from([1.0, 5.0, 20.0]))
def test_picinn_is_convex_in_g_whatever_the_weights(
    free: int, convex: int, hidden: list[int], seed: int, factor: float
) -> None:
    net = PICINN(generators([seed]), free, convex, hidden)
    enlarge(net, factor)
    z, origin, along = (points(k, 1, 40, d) for k, d in enumerate((free, convex, convex)))
    line = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None, None, None]
    with torch.no_grad():
        values = torch.stack([net(z, origin + s * along) for s in line])
    second = values[2:] - 2 * values[1:-1] + values[:-2]
    far = magnitude(net, z, origin.abs() + 3 * along.abs()) + float(values.abs().max())
    assert second.min() >= -1e-12 * far  # the rounding of three values, each up to `far`


@given(DIMENSION, DIMENSION, WIDTHS, st.integers(0, 99), st.sampled_from([1.0, 5.0, 20.0]))
def test_picinn_is_zero_with_zero_slope_at_no_force_and_never_below(
    free: int, convex: int, hidden: list[int], seed: int, factor: float
) -> None:
    net = PICINN(generators([seed]), free, convex, hidden)
    enlarge(net, factor)
    z, g = points(0, 1, 200, free), 3 * points(1, 1, 200, convex)
    with torch.no_grad():
        assert (net(z, 0 * g) == 0).all()
        assert (net.gradient(z, 0 * g) == 0).all()
        assert net(z, g).min() >= -1e-12 * magnitude(net, z, g)
        assert (net(z, g).max() > 0) or factor == 20.0  # a network that is large may be flat


def test_gain_is_a_factor_of_g() -> None:
    z, g = points(0, 1, 9, 2), points(1, 1, 9, 2)
    plain, faint = (PICINN(generators([0]), 2, 2, (5, 4), gain) for gain in (None, [0.1, 1.0]))
    gain = torch.tensor([0.1, 1.0], dtype=torch.float64)
    assert torch.allclose(faint(z, g), plain(z, gain * g), rtol=1e-12)
    with pytest.raises(ValueError, match="^gain must have shape"):
        PICINN(generators([0]), 2, 2, (5, 4), [1.0])


@given(st.integers(1, 30), st.integers(1, 5), st.sampled_from([1.0, 20.0]))
def test_positive_weights_are_positive(inputs: int, outputs: int, factor: float) -> None:
    layer = PositiveLinear(generators([0]), inputs, outputs)
    enlarge(layer, factor)
    assert (layer.weight > 0).all()


@given(st.lists(st.integers(0, 999), min_size=2, max_size=4, unique=True), st.data())
def test_replica_is_what_its_seed_gives_alone(seeds: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(seeds) - 1))
    z, g = points(0, len(seeds), 6, 2), points(1, len(seeds), 6, 1)
    for build, inputs in (
        (lambda rngs: INN(rngs, 2, (5, 4)), (z,)),
        (lambda rngs: MLP(rngs, (2, 5, 3)), (z,)),
        (lambda rngs: PICINN(rngs, 2, 1, (5, 4)), (z, g)),
    ):
        together = build(generators(seeds))(*inputs)[place]
        alone = build(generators([seeds[place]]))(*(part[place : place + 1] for part in inputs))[0]
        assert (together - alone).abs().max() <= 1e-12 * alone.abs().max()
        other = build(generators([seeds[place] + 1000]))(*(part[:1] for part in inputs))[0]
        assert not torch.equal(together, other)


def test_softplus_is_convex_where_pytorchs_own_jumps() -> None:
    x = torch.linspace(19, 41, 2201, dtype=torch.float64)
    value = softplus(x)
    assert torch.diff(value).min() > 0.01 - 1e-8  # the slope at 19 is 1 - 6e-9
    assert (value[2:] - 2 * value[1:-1] + value[:-2]).min() >= -3e-14  # rounding of 40
    assert (torch.diff(torch.nn.functional.softplus(x)) - torch.diff(value)).min() < -1e-9
