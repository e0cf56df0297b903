r"""Likelihoods of compressed ensembles, with their gradients from the same pass over the grid.

For each row, an ensemble of weights w_j at grid points x_j::

    NLL = -sum_j w_j log q(x_j).

PyTorch would keep several numbers for every point and component, and read them all again on the way
back. Here one compiled loop over the points that carry weight adds up the NLL and its derivatives
by the few parameters of q in that row; going back is then one product. The formulas of q are those
of `decoders`, which is the reference.
"""

from collections.abc import Callable
from itertools import pairwise
from math import log, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibvonns.adjoint import FAST, _bent, inner, leaf
from ibvonns.compiled import compiled, first_only, on_threads
from ibvonns.validation import require, shaped

__all__ = ["flow_nll", "mixture_nll"]

HALF_LOG = 0.5 * log(2 * pi)
loop: Callable[..., Any] = compiled(fastmath=FAST, error_model="numpy")


@inner
def _reach(weights: Any) -> Any:
    """First and last point of a row that carry weight, the last one more."""
    low, high = 0, len(weights)
    while low < high and weights[low] == 0:
        low += 1
    while high > low and weights[high - 1] == 0:
        high -= 1
    return low, high


# What is written stands in leaves, which compare no addresses: else where arrays happen to lie would choose between
# a loop in vectors and a plain one, and the last bit with them.
@leaf
def _log_sum(logs: Any, total: Any) -> None:
    """total = log of the sum of exp(logs) over the first axis, and logs = share of each."""
    for j in range(len(total)):
        total[j], logs[0, j] = logs[0, j], 1.0
    for k in range(1, len(logs)):
        for j in range(len(total)):
            more, share = _bent(logs[k, j] - total[j])
            total[j] += more
            logs[k, j] = share
        for i in range(k):
            for j in range(len(total)):
                logs[i, j] *= 1 - logs[k, j]


@leaf
def _standard(x: Any, centre: float, narrow: float, top: float, z: Any, log: Any) -> None:
    """A Gaussian's standardised positions, and logarithms of its density."""
    for j in range(len(x)):
        z[j] = (x[j] - centre) * narrow
        log[j] = top - 0.5 * z[j] * z[j]


@loop
def _mixture(grid: Any, weights: Any, parts: Any, value: Any, slopes: Any, low: int, high: int) -> None:
    """Rows low to high; parts are log weights, centres, log deviations, each (rows, k)."""
    d, points = parts.shape[2], len(grid)
    scratch, total = np.empty((2, d, points)), np.empty(points)
    for row in range(low, high):
        w = weights[row % len(weights)]
        first, last = _reach(w)
        x, w, all_of_it = grid[first:last], w[first:last], total[: last - first]
        standard, share = scratch[0, :, : last - first], scratch[1, :, : last - first]
        for k in range(d):
            narrow, top = np.exp(-parts[2, row, k]), parts[0, row, k] - parts[2, row, k] - HALF_LOG
            _standard(x, parts[1, row, k], narrow, top, standard[k], share[k])
        _log_sum(share, all_of_it)
        found = 0.0
        for j in range(len(x)):
            found += w[j] * all_of_it[j]
        value[row] -= found
        for k in range(d):
            narrow, by_log, by_centre, by_width = np.exp(-parts[2, row, k]), 0.0, 0.0, 0.0
            for j in range(len(x)):
                z, each = standard[k, j], w[j] * share[k, j]
                by_log += each
                by_centre += each * z
                by_width += each * (z * z - 1)
            slopes[0, row, k], slopes[1, row, k], slopes[2, row, k] = -by_log, -by_centre * narrow, -by_width


@leaf
def _sigmoid(x: Any, log_a: float, b: float, log_c: float, s: Any, below: Any, above: Any, steep: Any) -> None:
    """A sigmoid, and logarithms of its terms in S, T and D."""
    a = np.exp(log_a)
    for j in range(len(x)):
        p = a * x[j] + b
        soft, s[j] = _bent(p)
        below[j], above[j] = log_c + p - soft, log_c - soft
        steep[j] = log_c + log_a + p - 2 * soft


@leaf
def _likelihood(w: Any, below: Any, above: Any, dense: Any) -> Any:
    """NLL from log S, log T and log D; its derivatives by the former two take their place."""
    total = 0.0
    for j in range(len(w)):
        y = below[j] - above[j]
        total += w[j] * (below[j] + above[j] - dense[j] + 0.5 * y * y + HALF_LOG)
        below[j], above[j] = w[j] * (-y - 1), w[j] * (y - 1)
    return total


@loop
def _flow(grid: Any, weights: Any, parts: Any, value: Any, slopes: Any, low: int, high: int) -> None:
    r"""Rows low to high; parts are log a, b, log c, each (rows, d).

    With s = sigmoid(a x + b) and t = 1 - s, all sums over the d sigmoids, a flow is
    y = log S - log T with S = sum c s, T = sum c t; its slope is D / (S T), D = sum c a s t. So::

        log q = -y^2 / 2 - log(2 pi) / 2 + log D - log S - log T,

    whose derivatives by log S, log T, log D are -y - 1, y - 1, 1.
    """
    d, points = parts.shape[2], len(grid)
    scratch, logs = np.empty((4, d, points)), np.empty((3, points))
    for row in range(low, high):
        w = weights[row % len(weights)]
        first, last = _reach(w)
        x, w, number = grid[first:last], w[first:last], last - first
        s, below, above, steep = (
            scratch[0, :, :number],
            scratch[1, :, :number],
            scratch[2, :, :number],
            scratch[3, :, :number],
        )
        for k in range(d):
            log_a, b, log_c = parts[0, row, k], parts[1, row, k], parts[2, row, k]
            _sigmoid(x, log_a, b, log_c, s[k], below[k], above[k], steep[k])
        _log_sum(below, logs[0, :number])
        _log_sum(above, logs[1, :number])
        _log_sum(steep, logs[2, :number])
        by_below, by_above, dense = logs[0, :number], logs[1, :number], logs[2, :number]
        value[row] += _likelihood(w, by_below, by_above, dense)
        for k in range(d):
            a, by_a, by_b, by_c = np.exp(parts[0, row, k]), 0.0, 0.0, 0.0
            for j in range(number):
                under, over, direct = by_below[j] * below[k, j], by_above[j] * above[k, j], w[j] * steep[k, j]
                by_p = (under + direct) * (1 - s[k, j]) - (over + direct) * s[k, j]
                by_a += by_p * a * x[j] + direct
                by_b += by_p
                by_c += under + over + direct
            slopes[0, row, k], slopes[1, row, k], slopes[2, row, k] = -by_a, -by_b, -by_c


class _Compressed(torch.autograd.Function):
    """NLL of each row, (replicas, rows), differentiable by the parameters of q."""

    @staticmethod
    def forward(ctx: Any, kernel: Callable[..., None], grid: Tensor, weights: Tensor, *parts: Tensor) -> Tensor:
        front, threads = parts[0].shape[:2], torch.get_num_threads()
        together = torch.stack(parts).flatten(1, 2)
        value, slopes = together.new_zeros(front.numel()), torch.zeros_like(together)
        arrays = [part.contiguous().numpy() for part in (grid, weights, together, value, slopes)]
        spans = pairwise(len(value) * n // threads for n in range(threads + 1))
        on_threads(lambda span: kernel(*arrays, *span), spans, threads)
        ctx.save_for_backward(slopes.unflatten(1, front))
        return value.unflatten(0, front)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[Any, ...]:
        first_only()
        (slopes,) = ctx.saved_tensors
        return None, None, None, *(bars[0][..., None] * slopes)


def _nll(kernel: Callable[..., None], grid: Tensor, weights: Tensor, **parts: Tensor) -> Tensor:
    shaped("grid", grid, ("points",))
    shaped("weights", weights, ("rows", len(grid)))
    first, *_ = parts.values()
    for name, part in {"grid": grid, "weights": weights, **parts}.items():
        if part.dtype != torch.float64 or part.device.type != "cpu":
            came = f"{part.dtype} on the device {part.device}"
            raise TypeError(f"{name} must be of torch.float64 on the processor, but is of {came}")
        lost = f"{name} must not require a gradient: `log_density` gives one, this does not"
        require(name in parts or not part.requires_grad, lost)
    for name, part in parts.items():
        shaped(name, part, ("replicas", len(weights), first.shape[-1]))
    return _Compressed.apply(kernel, grid, weights, *parts.values())


def mixture_nll(grid: Tensor, weights: Tensor, logs: Tensor, centres: Tensor, deviations: Tensor) -> Tensor:
    """Negative log-likelihoods under mixtures of Gaussians, nats per unit of the grid.

    Args:
        grid: positions, shape (points,).
        weights: of the ensembles, shape (rows, points).
        logs: logarithms of the components' weights, shape (replicas, rows, components).
        centres: of the components, same shape.
        deviations: of the components, above 0, same shape.

    Returns:
        Shape (replicas, rows). All tensors in double precision, on the processor.

    Raises:
        ValueError: wrong shape, or a grid or weights that require a gradient.
        TypeError: another precision, or another device.

    >>> one = torch.ones(1, 1, 1, dtype=torch.float64)
    >>> at_centre = mixture_nll(one[0, 0], one[0], 0 * one, one, one)
    >>> round(at_centre.item(), 4)  # log(2 pi) / 2
    0.9189
    """
    return _nll(_mixture, grid, weights, logs=logs, centres=centres, deviations=deviations.log())


def flow_nll(grid: Tensor, weights: Tensor, log_a: Tensor, b: Tensor, log_c: Tensor) -> Tensor:
    """Negative log-likelihoods under sigmoidal flows from a standard Gaussian.

    Args:
        grid: positions in the units of the flow, shape (points,); nats are per this unit.
        weights: of the ensembles, shape (rows, points).
        log_a: as `decoders.SigmoidalFlow.parameters_at` gives it, shape (replicas, rows, d).
        b: from the same, same shape.
        log_c: from the same, same shape.

    Returns:
        Shape (replicas, rows). All tensors in double precision, on the processor.

    Raises:
        ValueError: wrong shape, or a grid or weights that require a gradient.
        TypeError: another precision, or another device.

    >>> zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    >>> nll = flow_nll(zero[0, 0], zero[0] + 1, zero, zero, zero)  # y = x, of slope 1
    >>> round(nll.item(), 4)
    0.9189
    """
    return _nll(_flow, grid, weights, log_a=log_a, b=b, log_c=log_c)
