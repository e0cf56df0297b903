"""Small networks with closed-form gradients, many replicas at a time.

Every weight carries leading replica axes, so that one module holds the networks of several seeds
and a matrix product serves them all. Replica s is drawn from its own generator and never sees
another.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, log
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from ibvonns.validation import count, require, seeded, shaped

__all__ = ["INN", "MLP", "PICINN", "Affine", "PositiveLinear", "copy_replica", "generators", "softplus"]

SLIGHT = 0.1  # first weights of cubes, in units of the usual ones
Generators = Sequence[Generator]


def generators(seeds: Sequence[int]) -> list[Generator]:
    """One generator on the processor for each of `seeds`.

    Raises:
        ValueError: no seed, or one below 0 or from 2**32 on.

    >>> [g.initial_seed() for g in generators([3, 4])]
    [3, 4]
    """
    require(len(seeds), "seeds must name at least 1 seed, but is empty")
    return [seeded(seed) for seed in seeds]


def copy_replica(target: nn.Module, index: int, source: nn.Module, place: int = 0) -> None:
    """Put replica `place` of one module in place of replica `index` of another of its kind.

    Everything that a replica owns, weights and gauge, has three axes with the replicas in front.

    Args:
        target: the module that is changed.
        index: of the replica that is replaced.
        source: the module that is read.
        place: of the replica that is copied.

    >>> one, two = Affine(generators([0]), 1, 1), Affine(generators([1, 2]), 1, 1)
    >>> copy_replica(two, 1, one)
    >>> bool(two.weight[1] == one.weight[0])
    True
    """
    values = source.state_dict()
    for name, tensor in target.state_dict().items():
        if tensor.ndim == 3:
            tensor[index] = values[name][place]


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) to rounding, element by element.

    PyTorch returns x itself beyond a threshold of 20, a downward jump of 2e-9 there: neither convex
    nor what `sigmoid` is the slope of. At 40 the jump is below the rounding of a double.

    >>> round(softplus(torch.tensor(0.0)).item(), 4)  # log 2
    0.6931
    """
    return functional.softplus(x, threshold=40)


def _draw(rngs: Generators, rows: int, columns: int, scale: float | None = None) -> Tensor:
    """Random matrices, of Glorot's scale if none is given."""
    require(len(rngs), "rngs must hold at least 1 generator, but is empty")
    rows, columns = count("width", rows), count("width", columns)
    draws = [torch.randn(rows, columns, generator=rng, dtype=torch.float64) for rng in rngs]
    return ((2 / (rows + columns)) ** 0.5 if scale is None else scale) * torch.stack(draws)


class Affine(nn.Module):
    """The map x W + b of each replica.

    Args:
        rngs: one generator for each replica.
        inputs: width of x.
        outputs: width of what is returned.
        bias: about which the entries of b are drawn; if None, there is no b.

    Raises:
        ValueError: no generator, or a width below 1.

    >>> Affine(generators([0, 1]), 2, 5)(torch.zeros(2, 7, 2, dtype=torch.float64)).shape
    torch.Size([2, 7, 5])
    """

    def __init__(self, rngs: Generators, inputs: int, outputs: int, *, bias: float | None = 0.0):
        super().__init__()
        self.weight = nn.Parameter(_draw(rngs, inputs, outputs))
        self.bias = None if bias is None else nn.Parameter(bias + _draw(rngs, 1, outputs, 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """From x of shape (replicas, points, inputs) to (replicas, points, outputs)."""
        if self.bias is None:
            return x @ self.weight
        # one operation instead of two: at these sizes its start is what takes time
        own = x.ndim == 3 and len(x) == len(self.weight)
        return torch.baddbmm(self.bias, x, self.weight) if own else x @ self.weight + self.bias


class PositiveLinear(nn.Module):
    """The map x W+ of each replica, every entry of W+ above 0: a sum that keeps convexity.

    Every entry is the `softplus` of a free parameter.

    Args:
        rngs: one generator for each replica.
        inputs: rows of the matrix.
        outputs: columns of the matrix.

    Raises:
        ValueError: no generator, or a width below 1.

    >>> bool((PositiveLinear(generators([0]), 20, 20).weight > 0).all())
    True
    """

    def __init__(self, rngs: Generators, inputs: int, outputs: int):
        super().__init__()
        count("width", inputs)
        # softplus(centre) = 1 / inputs: a sum over the inputs starts as an average
        centre = log(expm1(1.0 / inputs))
        self.free = nn.Parameter(centre + _draw(rngs, inputs, outputs, 0.5))

    @property
    def weight(self) -> Tensor:
        """W+, shape (replicas, inputs, outputs)."""
        return softplus(self.free)


class MLP(nn.Module):
    """A tanh network; the last layer is affine.

    Args:
        rngs: one generator for each replica.
        sizes: widths from input to output, for example (1, 10, 10, 2).

    Raises:
        ValueError: no generator, fewer than two sizes, or one below 1.

    >>> MLP(generators([0]), (1, 10, 2))(torch.zeros(1, 3, 1, dtype=torch.float64)).shape
    torch.Size([1, 3, 2])
    """

    def __init__(self, rngs: Generators, sizes: Sequence[int]):
        super().__init__()
        count("number of sizes", len(sizes), 2)
        self.inputs = sizes[0]
        self.layers = nn.ModuleList(Affine(rngs, inputs, outputs) for inputs, outputs in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """From x of shape (replicas, points, inputs) to (replicas, points, outputs).

        Raises:
            ValueError: x is of another width.
        """
        shaped("x", x, ("...", self.inputs))
        *hidden, last = self.layers
        for layer in hidden:
            x = torch.tanh(layer(x))
        return last(x)


class INN(nn.Module):
    r"""Integrable network: a softplus network whose gradient is what is fitted.

    With p_l = x_{l-1} W_l + b_l and x_l = softplus(p_l) the gradient is the product
    W_1 diag(sigmoid(p_1)) W_2 diag(sigmoid(p_2)) ... W_out, evaluated from the right.

    **Cubes.** Sums of cubes of affine functions, sum (z w + b)^3 / 3, are all polynomials of the third degree, if they
    are enough. A network comes near these where it has data, and leaves them at once beyond.

    Args:
        rngs: one generator for each replica.
        inputs: width of z.
        hidden: widths of the layers.
        cubes: how many are added.

    Raises:
        ValueError: no generator, no hidden layer, a width below 1, or a number of cubes below 0.

    Reference: Teichert et al. 2019; the paper's Sec. 2.3 and Eq. (11).

    >>> net, z = INN(generators([0]), 2, (20, 20)), torch.zeros(1, 3, 2, dtype=torch.float64)
    >>> net(z).shape, net.gradient(z).shape
    (torch.Size([1, 3, 1]), torch.Size([1, 3, 2]))
    """

    def __init__(self, rngs: Generators, inputs: int, hidden: Sequence[int], cubes: int = 0):
        super().__init__()
        count("number of hidden layers", len(hidden))
        self.inputs, widths = inputs, (inputs, *hidden)
        self.layers = nn.ModuleList(Affine(rngs, a, b) for a, b in pairwise(widths))
        self.last = Affine(rngs, widths[-1], 1, bias=None)  # a constant would vanish in Eq. (11)
        self.cubes = Affine(rngs, inputs, cubes) if count("cubes", cubes, 0) else None
        if self.cubes is not None:
            self.cubes.weight.data.mul_(SLIGHT)

    def forward(self, z: Tensor) -> Tensor:
        """Value at z, shape (replicas, points, inputs): (replicas, points, 1)."""
        shaped("z", z, ("...", self.inputs))
        beside = 0.0 if self.cubes is None else self.cubes(z).pow(3).sum(-1, keepdim=True) / 3
        for layer in self.layers:
            z = softplus(layer(z))
        return self.last(z) + beside

    def gradient(self, z: Tensor) -> Tensor:
        """d value / d z, of the shape of z, (replicas, points, inputs), in closed form."""
        shaped("z", z, ("...", self.inputs))
        kept, adjoint = list[tuple[Tensor, Any]](), self.last.weight.mT
        beside = 0.0 if self.cubes is None else self.cubes(z).square() @ self.cubes.weight.mT
        for layer in self.layers:
            before = layer(softplus(z) if kept else z)
            kept.append((torch.sigmoid(before), layer.weight.mT))
            z = before
        for slope, weight in reversed(kept):
            adjoint = (adjoint * slope) @ weight
        return adjoint + beside


class PICINN(nn.Module):
    r"""Partially input-convex integrable network: convex in g, free in z, no tangent at g = 0.

    With s = softplus and o the element-wise product, each weight its own::

        x_1 = s(z W + b),          y_1 = s((g o (z W + b)) W + z W + b),
        x_l = s(x_{l-1} W + b),    y_l = s((y_{l-1} o s(x_{l-1} W + b)) W+
                                           + (g o (x_{l-1} W + b)) W + x_{l-1} W + b),
        y   = (y_L o s(x_L W + b)) W+.

    **Squares.** Of fluctuations that are Gaussian y is a quadratic form in g. So sum s(z u + b) (g w)^2 / 2 may be
    added, whose factors go on as straight lines beyond the data.

    **Why it is convex in g.** At fixed z the argument of y_1 is affine in g, and s is convex, so
    y_1 is convex. If y_{l-1} is convex, then so is (y_{l-1} o s(.)) W+, a sum with positive
    weights; adding a function affine in g keeps that, and s, convex and increasing, of a convex
    function is convex. The output is again a positive sum. An affine part of the output layer would
    vanish in Eq. (12), which subtracts the tangent at g = 0, so it is left out.

    `forward` and `gradient` return Eq. (12) of the paper, y(z, g) - y(z, 0) - dy/dg(z, 0) . g: zero
    with zero slope at g = 0 and, being convex, never below 0.

    Args:
        rngs: one generator for each replica.
        free: width of z.
        convex: width of g.
        hidden: widths of the layers.
        gain: factors by which each part of g is seen, 1 if not given. A small one leaves the same
            functions within reach but makes the network slow to use that part.
        squares: how many are added.

    Raises:
        ValueError: no generator, no hidden layer, a width below 1, a wrong number of gains, or of squares below 0.

    Reference: Amos, Xu, Kolter 2017; Huang et al. 2022; the paper's Eq. (12).

    >>> net = PICINN(generators([0]), 1, 1, (20, 20))
    >>> z, g = torch.ones(1, 3, 1, dtype=torch.float64), torch.zeros(1, 3, 1, dtype=torch.float64)
    >>> net(z, g).abs().max().item(), net.gradient(z, g).abs().max().item()
    (0.0, 0.0)
    """

    def __init__(
        self,
        rngs: Generators,
        free: int,
        convex: int,
        hidden: Sequence[int],
        gain: Sequence[float] | None = None,
        squares: int = 0,
    ):
        super().__init__()
        count("number of hidden layers", len(hidden))
        self.inputs = (free, convex)
        gains = torch.tensor(gain or [1.0] * convex, dtype=torch.float64)
        self.gain = nn.Buffer(shaped("gain", gains, (convex,)), persistent=False)
        pairs = list(pairwise((free, *hidden)))  # widths along the free path
        self.free = nn.ModuleList(Affine(rngs, a, b) for a, b in pairs)
        self.scale = nn.ModuleList(Affine(rngs, a, convex, bias=1.0) for a, _ in pairs)
        self.shift = nn.ModuleList(Affine(rngs, a, b) for a, b in pairs)
        self.drive = nn.ModuleList(Affine(rngs, convex, b, bias=None) for _, b in pairs)  # shift has the bias
        gated = list(pairwise((*hidden, 1)))
        self.gate = nn.ModuleList(Affine(rngs, a, a) for a, _ in gated)
        self.mix = nn.ModuleList(PositiveLinear(rngs, a, b) for a, b in gated)
        some = count("squares", squares, 0) > 0
        self.along = Affine(rngs, convex, squares, bias=None) if some else None
        self.factor = Affine(rngs, free, squares) if some else None

    def evaluated(self, z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The network before Eq. (12): value (..., 1) and slope in g (..., convex).

        Args:
            z: shape (replicas, points, free).
            g: shape (..., replicas, points, convex).

        Raises:
            ValueError: z or g is of another width.
        """
        for name, values, width in zip("zg", (z, g), self.inputs, strict=True):
            shaped(name, values, ("...", width))
        value, kept, slope, beside = g.new_zeros(1), [], torch.zeros_like(g), 0.0
        if self.along is not None and self.factor is not None:
            way, steep = self.along(g), softplus(self.factor(z))
            beside = (steep * way.square()).sum(-1, keepdim=True) / 2
            slope = (steep * way) @ self.along.weight.mT
        parts: Any = zip(self.free, self.scale, self.shift, self.drive, self.gate, self.mix, strict=True)
        for free, scale, shift, drive, gate, mix in parts:
            seen = self.gain * scale(z)
            before = drive(g * seen) + shift(z) + value
            z = softplus(free(z))
            gates = softplus(gate(z))
            value = (softplus(before) * gates) @ mix.weight
            kept.append((seen, gates * torch.sigmoid(before), drive.weight.mT, mix.weight.mT))
        adjoint = torch.ones_like(value)
        for seen, steep, drive, mix in reversed(kept):
            adjoint = (adjoint @ mix) * steep
            slope = slope + (adjoint @ drive) * seen
        return value + beside, slope

    def forward(self, z: Tensor, g: Tensor) -> Tensor:
        """Value less its tangent at g = 0, Eq. (12), shape (replicas, points, 1).

        Args:
            z: shape (replicas, points, free).
            g: shape (replicas, points, convex).

        Raises:
            ValueError: z or g is of another width.
        """
        (value, value_0), (_, slope_0) = self.evaluated(z, torch.stack([g, torch.zeros_like(g)]))
        return value - value_0 - (slope_0 * g).sum(-1, keepdim=True)

    def gradient(self, z: Tensor, g: Tensor) -> Tensor:
        """Slope in g less that at g = 0, shape (replicas, points, convex), in closed form.

        Args:
            z: shape (replicas, points, free).
            g: shape (replicas, points, convex).

        Raises:
            ValueError: z or g is of another width.
        """
        slope, slope_0 = self.evaluated(z, torch.stack([g, torch.zeros_like(g)]))[1]
        return slope - slope_0
