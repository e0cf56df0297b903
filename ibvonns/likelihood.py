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
from numba import njit
from torch import Tensor

from ibvonns.compiled import compiled, first_only, on_threads
from ibvonns.validation import require, shaped

__all__ = ["flow_nll", "mixture_nll"]

HALF_LOG = 0.5 * log(2 * pi)
TINY = 1e-280  # sums below it, some 650 widths out, are taken by their logarithms


@compiled(error_model="numpy")
def _mixture(grid: Any, weights: Any, parts: Any, value: Any, slopes: Any, low: int, high: int) -> None:
    """Rows low to high; parts are log weights, centres, log deviations, each (rows, k)."""
    components = parts.shape[2]
    logs, standard = np.empty(components), np.empty(components)
    for row in range(low, high):
        narrow = np.exp(-parts[2, row])
        for j, w in enumerate(weights[row % len(weights)]):
            if w == 0:
                continue
            top, total = -np.inf, 0.0
            for k in range(components):
                standard[k] = (grid[j] - parts[1, row, k]) * narrow[k]
                logs[k] = parts[0, row, k] - parts[2, row, k] - 0.5 * standard[k] ** 2
                top = max(top, logs[k])
            for k in range(components):
                logs[k] = np.exp(logs[k] - top)
                total += logs[k]
            value[row] -= w * (top + np.log(total) - HALF_LOG)
            for k in range(components):
                share = w * logs[k] / total
                slopes[0, row, k] -= share
                slopes[1, row, k] -= share * standard[k] * narrow[k]
                slopes[2, row, k] -= share * (standard[k] ** 2 - 1)


@njit(error_model="numpy")
def _log_sum(logs: Any) -> Any:
    top = logs.max()
    return top + np.log(np.exp(logs - top).sum())


@njit(error_model="numpy")
def _far(x: float, a: Any, b: Any, log_c: Any, slopes: Any) -> Any:
    """log q so far out that sums underflow; its derivatives by log a, b, log c are left in slopes."""
    p = a * x + b
    log_s = np.minimum(p, 0.0) - np.log1p(np.exp(-np.abs(p)))
    log_t = log_s - p
    low, high, steep = log_c + log_s, log_c + log_t, log_c + np.log(a) + log_s + log_t
    below, above, dense = _log_sum(low), _log_sum(high), _log_sum(steep)
    y = below - above
    low, high, steep = np.exp(low - below) * (-y - 1), np.exp(high - above) * (y - 1), np.exp(steep - dense)
    s, t = np.exp(log_s), np.exp(log_t)
    by_p = low * t - high * s + steep * (t - s)
    slopes[0], slopes[1], slopes[2] = by_p * a * x + steep, by_p, low + high + steep
    return dense - below - above - 0.5 * y * y - HALF_LOG


@compiled(error_model="numpy")
def _flow(grid: Any, weights: Any, parts: Any, value: Any, slopes: Any, low: int, high: int) -> None:
    r"""Rows low to high; parts are log a, b, log c, each (rows, d).

    With s_k = sigmoid(p_k), t_k = 1 - s_k, p_k = a_k x + b_k and the sums S = c.s, T = c.t and
    D = sum c_k a_k s_k t_k, y = log S - log T and

        log q = -y^2 / 2 - log(2 pi) / 2 + log D - log S - log T,

    whose derivatives by S, T, D are (-y - 1) / S, (y - 1) / T, 1 / D.
    """
    d = parts.shape[2]
    s, t, far = np.empty(d), np.empty(d), np.empty((3, d))
    for row in range(low, high):
        a, c = np.exp(parts[0, row]), np.exp(parts[2, row])
        for j, w in enumerate(weights[row % len(weights)]):
            if w == 0:
                continue
            below, above, dense = 0.0, 0.0, 0.0
            for k in range(d):
                p = a[k] * grid[j] + parts[1, row, k]
                e = np.exp(-abs(p))
                big, small = 1 / (1 + e), e / (1 + e)
                s[k], t[k] = (big, small) if p > 0 else (small, big)
                below += c[k] * s[k]
                above += c[k] * t[k]
                dense += c[k] * a[k] * big * small
            if not min(below, above, dense) > TINY:
                value[row] -= w * _far(grid[j], a, parts[1, row], parts[2, row], far)
                slopes[:, row] -= w * far
                continue
            log_below, log_above = np.log(below), np.log(above)
            y = log_below - log_above
            value[row] -= w * (np.log(dense) - log_below - log_above - 0.5 * y * y - HALF_LOG)
            by_below, by_above, by_dense = w * (-y - 1) / below, w * (y - 1) / above, w / dense
            for k in range(d):
                both = s[k] * t[k]
                by_p = c[k] * both * (by_below - by_above + by_dense * a[k] * (t[k] - s[k]))
                direct = c[k] * by_dense * a[k] * both
                slopes[0, row, k] -= by_p * a[k] * grid[j] + direct
                slopes[1, row, k] -= by_p
                slopes[2, row, k] -= c[k] * (by_below * s[k] + by_above * t[k]) + direct


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
