r"""Fast training rollouts of the chain: one fused loop over steps and its adjoint.

The reference is `onsager.ChainPotentials`, stepped by Euler's method under PyTorch's automatic
differentiation. Its networks are so small that nearly all of its time goes into starting
operations. Here the whole rollout is one compiled loop, and its gradient another.

**Scaled variables.** With s the standardised strain, kappa = v* / (L0 std(eps)), every g in units
of its scale and v in units of v*, one step of length h from the state (s, alpha) is

    G = grad_(s, alpha) of the INN                    tension and -g_alpha
    g_v_i = G_s_{i+1} - G_s_i,  i < n,   g_v_n = F_ex - G_s_n,   g_alpha = -G_alpha
    r = R(s, alpha, g) - R(s, alpha, 0) + m o g       R: slope of the PICINN in g, m: mobilities
    s_i <- s_i + h kappa (r_v_i - r_v_{i-1}),         r_v_n being the recorded velocity, if given
    alpha <- alpha + h kappa r_alpha.

**Adjoint.** Let (l_s, l_alpha) be the derivative of the loss by the new state. Then, from the last
step to the first, with a bar for the derivative of the loss,

    r-bar_v_i = h kappa (l_s_i - l_s_{i+1}), i < n
    r-bar_v_n = bar of the law's own v_n              plus h kappa l_s_n, if the end follows it
    r-bar_alpha = h kappa l_alpha
    z-bar, g-bar, weights <- transposed Jacobian of r, applied to r-bar
    G-bar_s_i = g-bar_v_{i-1} - g-bar_v_i,            G-bar_alpha = -g-bar_alpha
    z-bar, weights <- transposed Jacobian of G, applied to G-bar
    (l_s, l_alpha) <- (l_s, l_alpha) + z-bar + bar of the rolled-out state itself.

Only the states are kept on the way forward; what happened within a step is computed once more on
the way back. Lanes, all sites of a few trajectories, stand in the last axis of every array, so that
each inner loop runs over contiguous numbers and is vectorised.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor

from ibvonns.networks import softplus
from ibvonns.onsager import ChainPotentials
from ibvonns.validation import choice, shaped

__all__ = ["chain_rollout"]

# sums may be taken in any order and products fused; NaN and infinity keep their meaning
FAST = {"reassoc", "contract", "nsz", "arcp"}
LANES = 128  # sites that are stepped together, about: their numbers fit into the nearest memory
PAD = 32  # lanes are filled up to a multiple, which leaves no remainder to the vectorised loops


def _series(terms: int) -> list[float]:
    """Coefficients in q = t^2 of log((1 + t) / (1 - t)) / t, for t in [0, 1/3], highest first."""

    def ratio(u: Any) -> Any:  # u from -1 to 1 is q from 0 to 1/9
        t = np.sqrt((1 + u) / 18)
        return 2 * np.arctanh(t) / t

    fit = Chebyshev.interpolate(ratio, terms - 1).convert(kind=Polynomial)
    return [float(c) for c in fit(Polynomial([-1, 18])).coef[::-1]]


def _scalar_functions(
    real: Any, whole: Any, bias: int, shift: int, terms: int, doublings: int, logs: int, low: float
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """exp(-|p|), cut at `low`, and log(1 + e) for e in [0, 1]; no branch, no table, no call.

    The exponential is a series in what is left of the exponent after whole powers of 2, which are
    put into the bits of the number; squared `doublings` times, so that few terms do. NaN in p is
    lost here, but stays in what is made of p.
    """
    zero, half, two, cut = real(0), real(0.5), real(2), real(low)
    powers = [2.0 ** (-doublings * k) / math.factorial(k) for k in range(terms)]
    powers = tuple(real(c) for c in reversed(powers))  # type: ignore[assignment]
    series = tuple(real(c) for c in _series(logs))
    log2e = real(1 / math.log(2))
    large, small = real(0.693359375), real(math.log(2) - 0.693359375)

    def decay(p: Any) -> Any:
        x = -p if p >= zero else p
        x = x if x > cut else cut
        n = np.int32(x * log2e - half)
        k = real(n)
        rest = (x - k * large) - k * small
        e = zero
        for c in powers:
            e = e * rest + c
        for _ in range(doublings):
            e *= e
        return e * whole((whole(n) + whole(bias)) << whole(shift)).view(real)

    def log_1p(p: Any) -> Any:
        t = p / (two + p)
        q = t * t
        value = zero
        for c in series:
            value = value * q + c
        return value * t

    return decay, log_1p


SCALARS = {
    types.float32: _scalar_functions(np.float32, np.int32, 127, 23, 7, 0, 4, -80.0),
    types.float64: _scalar_functions(np.float64, np.int64, 1023, 52, 9, 3, 8, -700.0),
}
INLINE: Any = {"fastmath": FAST, "error_model": "numpy", "forceinline": True}


def _decay(p: Any) -> Any:
    """exp(-|p|)."""
    raise NotImplementedError


def _log_1p(p: Any) -> Any:
    """log(1 + p), p from 0 to 1."""
    raise NotImplementedError


@overload(_decay, jit_options=INLINE)
def _(p: Any) -> Any:
    return SCALARS[p][0]


@overload(_log_1p, jit_options=INLINE)
def _(p: Any) -> Any:
    return SCALARS[p][1]


@njit(fastmath=FAST, error_model="numpy")
def _sigmoid(p: Any, slope: Any) -> None:
    """slope = sigmoid(p)."""
    zero, one = p.dtype.type(0), p.dtype.type(1)
    p, slope = p.reshape(-1), slope.reshape(-1)
    for j in range(p.shape[0]):
        e = _decay(p[j])
        slope[j] = (one if p[j] >= zero else e) / (one + e)


@njit(fastmath=FAST, error_model="numpy")
def _activate(p: Any, value: Any, slope: Any) -> None:
    """value = softplus(p), slope = sigmoid(p)."""
    zero, one = p.dtype.type(0), p.dtype.type(1)
    p, value, slope = p.reshape(-1), value.reshape(-1), slope.reshape(-1)
    for j in range(p.shape[0]):
        e = _decay(p[j])
        value[j] = (zero if p[j] < zero else p[j]) + _log_1p(e)
        slope[j] = (one if p[j] >= zero else e) / (one + e)


@njit(fastmath=FAST)
def _forward(weight: Any, x: Any, out: Any) -> None:
    """out += W^T x, for W (inputs, outputs), x (inputs, lanes), out (outputs, lanes)."""
    inputs, outputs = weight.shape
    lanes = x.shape[1]
    for o in range(0, outputs - 1, 2):  # two rows at once: each x is read half as often
        p = o + 1
        for i in range(0, inputs - 3, 4):
            a, b, c, d = weight[i, o], weight[i + 1, o], weight[i + 2, o], weight[i + 3, o]
            e, f, g, h = weight[i, p], weight[i + 1, p], weight[i + 2, p], weight[i + 3, p]
            for j in range(lanes):
                u, v, w, y = x[i, j], x[i + 1, j], x[i + 2, j], x[i + 3, j]
                out[o, j] += a * u + b * v + c * w + d * y
                out[p, j] += e * u + f * v + g * w + h * y
        for i in range(inputs - inputs % 4, inputs):
            a, b = weight[i, o], weight[i, p]
            for j in range(lanes):
                out[o, j] += a * x[i, j]
                out[p, j] += b * x[i, j]
    if outputs % 2:
        for i in range(inputs):
            a = weight[i, outputs - 1]
            for j in range(lanes):
                out[outputs - 1, j] += a * x[i, j]


@njit(fastmath=FAST)
def _affine(weight: Any, bias: Any, x: Any, out: Any) -> None:
    """out = W^T x + b, with b of shape (1, outputs)."""
    for o in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[o, j] = bias[0, o]
    _forward(weight, x, out)


@njit(fastmath=FAST)
def _outer(x: Any, y: Any, bar: Any) -> None:
    """bar += x y^T, summed over lanes: the derivative by W of a product W^T x."""
    inputs, lanes = x.shape
    outputs = y.shape[0]
    zero = x.dtype.type(0)
    for i in range(0, inputs - 1, 2):
        k = i + 1
        for o in range(0, outputs - 3, 4):
            a, b, c, d, e, f, g, h = zero, zero, zero, zero, zero, zero, zero, zero
            for j in range(lanes):
                u, v = x[i, j], x[k, j]
                p, q, r, s = y[o, j], y[o + 1, j], y[o + 2, j], y[o + 3, j]
                a += u * p
                b += u * q
                c += u * r
                d += u * s
                e += v * p
                f += v * q
                g += v * r
                h += v * s
            bar[i, o] += a
            bar[i, o + 1] += b
            bar[i, o + 2] += c
            bar[i, o + 3] += d
            bar[k, o] += e
            bar[k, o + 1] += f
            bar[k, o + 2] += g
            bar[k, o + 3] += h
    for i in range(inputs):  # what is left: an odd row, up to three columns
        odd = inputs % 2 == 1 and i == inputs - 1
        for o in range(0 if odd else outputs - outputs % 4, outputs):
            a = zero
            for j in range(lanes):
                a += x[i, j] * y[o, j]
            bar[i, o] += a


@njit(fastmath=FAST)
def _total(y: Any, bar: Any) -> None:
    """bar += y summed over lanes: the derivative by a bias."""
    for o in range(y.shape[0]):
        a = y.dtype.type(0)
        for j in range(y.shape[1]):
            a += y[o, j]
        bar[0, o] += a


@njit
def _views(flat: Any, d: int, e1: int, e2: int, m1: int, m2: int) -> Any:
    """The weight matrices in one flat vector: those of the INN, then those of the PICINN.

    INN: W1 b1 W2 b2 w3. PICINN, for each of its two layers: free F f, scale A a, shift H h,
    drive D, gate C c, mix M (positive). Last the mobilities.
    """
    at = 0
    energy = (
        flat[at : at + d * e1].reshape(d, e1),
        flat[at + d * e1 : at + (d + 1) * e1].reshape(1, e1),
        flat[at + (d + 1) * e1 : at + (d + 1 + e2) * e1].reshape(e1, e2),
        flat[at + (d + 1 + e2) * e1 : at + (d + 1 + e2) * e1 + e2].reshape(1, e2),
        flat[at + (d + 1 + e2) * e1 + e2 : at + (d + 1 + e2) * e1 + 2 * e2].reshape(e2, 1),
    )
    at += (d + 1 + e2) * e1 + 2 * e2
    first, at = _layer(flat, at, d, d, m1, m2)
    second, at = _layer(flat, at, m1, d, m2, 1)
    return energy, first, second, flat[at : at + d].reshape(1, d)


@njit
def _layer(flat: Any, at: int, source: int, d: int, width: int, after: int) -> Any:
    """Views of one layer of the PICINN, and where the next begins."""
    a = at + source * width
    b = a + width
    c = b + source * d
    e = c + d
    f = e + source * width
    g = f + width
    h = g + d * width
    k = h + width * width
    m = k + width
    n = m + width * after
    layer = (
        flat[at:a].reshape(source, width),
        flat[a:b].reshape(1, width),
        flat[b:c].reshape(source, d),
        flat[c:e].reshape(1, d),
        flat[e:f].reshape(source, width),
        flat[f:g].reshape(1, width),
        flat[g:h].reshape(d, width),
        flat[h:k].reshape(width, width),
        flat[k:m].reshape(1, width),
        flat[m:n].reshape(width, after),
    )
    return layer, n


@njit(fastmath=FAST)
def _energy(net: Any, z: Any, mem: Any, slope: Any) -> None:
    """G: slope of the INN; keeps x1, s1, s2, c1, a1, a2 in mem for the way back."""
    w1, b1, w2, b2, w3 = net
    p, q, x1, s1, s2, c1, a1, a2 = mem
    _affine(w1, b1, z, p)
    _activate(p, x1, s1)
    _affine(w2, b2, x1, q)
    _sigmoid(q, s2)
    for o in range(a2.shape[0]):
        for j in range(a2.shape[1]):
            a2[o, j] = w3[o, 0] * s2[o, j]
    c1[:] = 0
    _forward(w2.T, a2, c1)
    for i in range(a1.shape[0]):
        for j in range(a1.shape[1]):
            a1[i, j] = c1[i, j] * s1[i, j]
    slope[:] = 0
    _forward(w1.T, a1, slope)


@njit(fastmath=FAST)
def _energy_adjoint(net: Any, bar: Any, z: Any, mem: Any, tmp: Any, g_bar: Any, z_bar: Any) -> None:
    """From the bar of G to those of the weights and of z, which are added to."""
    w1, _, w2, _, w3 = net
    w1_bar, b1_bar, w2_bar, b2_bar, w3_bar = bar
    _, _, x1, s1, s2, c1, a1, a2 = mem
    a1_bar, c1_bar, a2_bar, p2_bar, x1_bar = tmp
    a1_bar[:] = 0
    _forward(w1, g_bar, a1_bar)
    _outer(g_bar, a1, w1_bar)
    for i in range(c1.shape[0]):
        for j in range(c1.shape[1]):
            c1_bar[i, j] = a1_bar[i, j] * s1[i, j]
    _outer(c1_bar, a2, w2_bar)
    a2_bar[:] = 0
    _forward(w2, c1_bar, a2_bar)
    for o in range(a2.shape[0]):
        total = a2.dtype.type(0)
        for j in range(a2.shape[1]):
            s = s2[o, j]
            total += a2_bar[o, j] * s
            p2_bar[o, j] = a2_bar[o, j] * w3[o, 0] * (s - s * s)
        w3_bar[o, 0] += total
    _outer(x1, p2_bar, w2_bar)
    _total(p2_bar, b2_bar)
    x1_bar[:] = 0
    _forward(w2.T, p2_bar, x1_bar)
    for i in range(c1.shape[0]):
        for j in range(c1.shape[1]):
            s = s1[i, j]
            c1_bar[i, j] = x1_bar[i, j] * s + a1_bar[i, j] * c1[i, j] * (s - s * s)
    _outer(z, c1_bar, w1_bar)
    _total(c1_bar, b1_bar)
    _forward(w1.T, c1_bar, z_bar)


@njit(fastmath=FAST)
def _free(first: Any, second: Any, z: Any, mem: Any, p: Any, q: Any) -> None:
    """Free path of the PICINN: scales, shifts and gates of both layers, with their slopes."""
    x1, x2, sx1, sx2, scale1, scale2, shift1, shift2, gate1, gate2, sg1, sg2 = mem
    _affine(first[0], first[1], z, p)
    _activate(p, x1, sx1)
    _affine(first[2], first[3], z, scale1)
    _affine(first[4], first[5], z, shift1)
    _affine(first[7], first[8], x1, p)
    _activate(p, gate1, sg1)
    _affine(second[0], second[1], x1, q)
    _activate(q, x2, sx2)
    _affine(second[2], second[3], x1, scale2)
    _affine(second[4], second[5], x1, shift2)
    _affine(second[7], second[8], x2, q)
    _activate(q, gate2, sg2)


@njit(fastmath=FAST)
def _convex(
    first: Any, second: Any, free: Any, g: Any, mem: Any, p: Any, q: Any, sign: float, out: Any
) -> None:
    """out += sign * slope in g of the PICINN before Eq. (12), at this g."""
    _, _, _, _, scale1, scale2, shift1, shift2, gate1, gate2, _, _ = free
    y1, t1, t2, v1, e1, e2, c1, gs1, gs2, q1, q2 = mem
    for k in range(g.shape[0]):
        for j in range(g.shape[1]):
            gs1[k, j] = g[k, j] * scale1[k, j]
            gs2[k, j] = g[k, j] * scale2[k, j]
    p[:] = shift1
    _forward(first[6], gs1, p)
    _activate(p, y1, t1)
    for i in range(v1.shape[0]):
        for j in range(v1.shape[1]):
            v1[i, j] = y1[i, j] * gate1[i, j]
    q[:] = shift2
    _forward(second[6], gs2, q)
    _forward(first[9], v1, q)
    _sigmoid(q, t2)
    mix = second[9]
    for o in range(e2.shape[0]):
        for j in range(e2.shape[1]):
            e2[o, j] = mix[o, 0] * gate2[o, j] * t2[o, j]
    c1[:] = 0
    _forward(first[9].T, e2, c1)
    for i in range(e1.shape[0]):
        for j in range(e1.shape[1]):
            e1[i, j] = c1[i, j] * gate1[i, j] * t1[i, j]
    q1[:] = 0
    q2[:] = 0
    _forward(first[6].T, e1, q1)
    _forward(second[6].T, e2, q2)
    for k in range(g.shape[0]):
        for j in range(g.shape[1]):
            out[k, j] += sign * (q1[k, j] * scale1[k, j] + q2[k, j] * scale2[k, j])


@njit(fastmath=FAST)
def _convex_adjoint(
    first: Any,
    second: Any,
    first_bar: Any,
    second_bar: Any,
    free: Any,
    free_bar: Any,
    g: Any,
    mem: Any,
    tmp: Any,
    sign: float,
    r_bar: Any,
    g_bar: Any,
) -> None:
    """From sign * r_bar, the bar of `_convex`, to those of weights, free path and g (added to)."""
    _, _, _, _, scale1, scale2, _, _, gate1, gate2, _, _ = free
    scale1_bar, scale2_bar, shift1_bar, shift2_bar, gate1_bar, gate2_bar = free_bar
    y1, t1, t2, v1, e1, e2, c1, gs1, gs2, q1, q2 = mem
    e1_bar, e2_bar, c1_bar, u1_bar, u2_bar, w1_bar, q1_bar, q2_bar, k1, k2 = tmp
    mix, mix_bar = second[9], second_bar[9]
    for k in range(g.shape[0]):
        for j in range(g.shape[1]):
            bar = sign * r_bar[k, j]
            scale1_bar[k, j] += bar * q1[k, j]
            scale2_bar[k, j] += bar * q2[k, j]
            q1_bar[k, j] = bar * scale1[k, j]
            q2_bar[k, j] = bar * scale2[k, j]
    _outer(q1_bar, e1, first_bar[6])
    _outer(q2_bar, e2, second_bar[6])
    e1_bar[:] = 0
    e2_bar[:] = 0
    _forward(first[6], q1_bar, e1_bar)
    _forward(second[6], q2_bar, e2_bar)
    for i in range(c1.shape[0]):
        for j in range(c1.shape[1]):
            c1_bar[i, j] = e1_bar[i, j] * gate1[i, j] * t1[i, j]
            gate1_bar[i, j] += e1_bar[i, j] * c1[i, j] * t1[i, j]
            # the part of u1-bar that comes from the slope t1 = sigmoid(u1)
            t = t1[i, j]
            u1_bar[i, j] = e1_bar[i, j] * c1[i, j] * gate1[i, j] * (t - t * t)
    _outer(c1_bar, e2, first_bar[9])
    _forward(first[9], c1_bar, e2_bar)
    for o in range(e2.shape[0]):
        total = e2.dtype.type(0)
        for j in range(e2.shape[1]):
            t = t2[o, j]
            total += e2_bar[o, j] * gate2[o, j] * t
            gate2_bar[o, j] += e2_bar[o, j] * mix[o, 0] * t
            u2_bar[o, j] = e2_bar[o, j] * mix[o, 0] * gate2[o, j] * (t - t * t)
            shift2_bar[o, j] += u2_bar[o, j]
        mix_bar[o, 0] += total
    _outer(gs2, u2_bar, second_bar[6])
    _outer(v1, u2_bar, first_bar[9])
    w1_bar[:] = 0
    _forward(first[9].T, u2_bar, w1_bar)
    for i in range(c1.shape[0]):
        for j in range(c1.shape[1]):
            gate1_bar[i, j] += w1_bar[i, j] * y1[i, j]
            u1_bar[i, j] += w1_bar[i, j] * gate1[i, j] * t1[i, j]
            shift1_bar[i, j] += u1_bar[i, j]
    _outer(gs1, u1_bar, first_bar[6])
    k1[:] = 0
    k2[:] = 0
    _forward(first[6].T, u1_bar, k1)
    _forward(second[6].T, u2_bar, k2)
    for k in range(g.shape[0]):
        for j in range(g.shape[1]):
            g_bar[k, j] += k1[k, j] * scale1[k, j] + k2[k, j] * scale2[k, j]
            scale1_bar[k, j] += k1[k, j] * g[k, j]
            scale2_bar[k, j] += k2[k, j] * g[k, j]


@njit(fastmath=FAST)
def _free_adjoint(
    first: Any,
    second: Any,
    first_bar: Any,
    second_bar: Any,
    free: Any,
    free_bar: Any,
    z: Any,
    tmp: Any,
    z_bar: Any,
) -> None:
    """From the bars of scales, shifts and gates to those of the weights and of z (added to)."""
    x1, x2, sx1, sx2, _, _, _, _, _, _, sg1, sg2 = free
    scale1_bar, scale2_bar, shift1_bar, shift2_bar, gate1_bar, gate2_bar = free_bar
    x1_bar, x2_bar = tmp
    for o in range(gate2_bar.shape[0]):
        for j in range(gate2_bar.shape[1]):
            gate2_bar[o, j] *= sg2[o, j]
    for i in range(gate1_bar.shape[0]):
        for j in range(gate1_bar.shape[1]):
            gate1_bar[i, j] *= sg1[i, j]
    _outer(x2, gate2_bar, second_bar[7])
    _total(gate2_bar, second_bar[8])
    x2_bar[:] = 0
    _forward(second[7].T, gate2_bar, x2_bar)
    for o in range(x2_bar.shape[0]):
        for j in range(x2_bar.shape[1]):
            x2_bar[o, j] *= sx2[o, j]
    x1_bar[:] = 0
    _affine_adjoint(second[0], second_bar[0], second_bar[1], x1, x2_bar, x1_bar)
    _affine_adjoint(second[2], second_bar[2], second_bar[3], x1, scale2_bar, x1_bar)
    _affine_adjoint(second[4], second_bar[4], second_bar[5], x1, shift2_bar, x1_bar)
    _affine_adjoint(first[7], first_bar[7], first_bar[8], x1, gate1_bar, x1_bar)
    for i in range(x1_bar.shape[0]):
        for j in range(x1_bar.shape[1]):
            x1_bar[i, j] *= sx1[i, j]
    _affine_adjoint(first[0], first_bar[0], first_bar[1], z, x1_bar, z_bar)
    _affine_adjoint(first[2], first_bar[2], first_bar[3], z, scale1_bar, z_bar)
    _affine_adjoint(first[4], first_bar[4], first_bar[5], z, shift1_bar, z_bar)


@njit(fastmath=FAST)
def _affine_adjoint(weight: Any, weight_bar: Any, bias_bar: Any, x: Any, y: Any, out: Any) -> None:
    """y is the bar of W^T x + b: add to those of W, b and x."""
    _outer(x, y, weight_bar)
    _total(y, bias_bar)
    _forward(weight.T, y, out)


@njit
def _energy_memory(e1: int, e2: int, lanes: int, real: Any) -> Any:
    a, b = (e1, lanes), (e2, lanes)
    return (
        np.empty(a, real), np.empty(b, real), np.empty(a, real), np.empty(a, real),
        np.empty(b, real), np.empty(a, real), np.empty(a, real), np.empty(b, real),
    )  # fmt: skip


@njit
def _free_memory(d: int, m1: int, m2: int, lanes: int, real: Any) -> Any:
    a, b, c = (m1, lanes), (m2, lanes), (d, lanes)
    return (
        np.empty(a, real), np.empty(b, real), np.empty(a, real), np.empty(b, real),
        np.empty(c, real), np.empty(c, real), np.empty(a, real), np.empty(b, real),
        np.empty(a, real), np.empty(b, real), np.empty(a, real), np.empty(b, real),
    )  # fmt: skip


@njit
def _convex_memory(d: int, m1: int, m2: int, lanes: int, real: Any) -> Any:
    a, b, c = (m1, lanes), (m2, lanes), (d, lanes)
    return (
        np.empty(a, real), np.empty(a, real), np.empty(b, real), np.empty(a, real),
        np.empty(a, real), np.empty(b, real), np.empty(a, real), np.empty(c, real),
        np.empty(c, real), np.empty(c, real), np.empty(c, real),
    )  # fmt: skip


@njit
def _adjoint_memory(
    d: int, e1: int, e2: int, m1: int, m2: int, lanes: int, real: Any
) -> tuple[Any, ...]:
    """Room for the bars: of the INN, of the convex path, of the free path, of its activations."""
    a, b, c = (m1, lanes), (m2, lanes), (d, lanes)
    inn = (
        np.empty((e1, lanes), real), np.empty((e1, lanes), real), np.empty((e2, lanes), real),
        np.empty((e2, lanes), real), np.empty((e1, lanes), real),
    )  # fmt: skip
    convex = (
        np.empty(a, real), np.empty(b, real), np.empty(a, real), np.empty(a, real),
        np.empty(b, real), np.empty(a, real), np.empty(c, real), np.empty(c, real),
        np.empty(c, real), np.empty(c, real),
    )  # fmt: skip
    free = (
        np.empty(c, real), np.empty(c, real), np.empty(a, real), np.empty(b, real),
        np.empty(a, real), np.empty(b, real),
    )  # fmt: skip
    return inn, convex, free, (np.empty(a, real), np.empty(b, real))


@njit(fastmath=FAST)
def _forces(slope: Any, force: Any, springs: int, g: Any) -> None:
    """g of every lane from G and F_ex; lanes are trajectory by trajectory, spring by spring."""
    for b in range(force.shape[0]):
        for i in range(springs):
            j = b * springs + i
            above = slope[0, j + 1] if i + 1 < springs else force[b]
            g[0, j] = above - slope[0, j]
    for k in range(1, g.shape[0]):
        for j in range(g.shape[1]):
            g[k, j] = -slope[k, j]


@njit(fastmath=FAST, nogil=True, cache=True)
def _roll(
    flat: Any,
    widths: Any,
    path: Any,
    ends: Any,
    force: Any,
    velocity: Any,
    clock: Any,
    unit: float,
    moved: bool,
    r: int,
    low: int,
    block: int,
) -> None:
    """Fill in one block of one replica.

    path: states (replicas, steps + 1, d, trajectories, springs), with the first ones given.
    ends: the law's v_n at each step, (replicas, steps, trajectories).
    """
    _, _, d, trajectories, springs = path.shape
    _, e1, e2, m1, m2 = widths
    steps = len(clock)
    high = min(low + block, trajectories)
    sites, real, one = (high - low) * springs, flat.dtype, flat.dtype.type(1)
    lanes = PAD * -(-sites // PAD)
    energy, first, second, mobility = _views(flat[r], d, e1, e2, m1, m2)
    inn = _energy_memory(e1, e2, lanes, real)
    free = _free_memory(d, m1, m2, lanes, real)
    convex = _convex_memory(d, m1, m2, lanes, real)
    p, q = np.empty((m1, lanes), real), np.empty((m2, lanes), real)
    c = (d, lanes)
    z, slope, g = np.zeros(c, real), np.empty(c, real), np.zeros(c, real)
    rest, rate = np.zeros(c, real), np.empty(c, real)
    z[:, :sites] = np.ascontiguousarray(path[r, 0, :, low:high]).reshape(d, sites)
    for n in range(steps):
        _energy(energy, z, inn, slope)
        _forces(slope, force[n, low:high], springs, g)
        for k in range(d):
            for j in range(lanes):
                rate[k, j] = mobility[0, k] * g[k, j]
        _free(first, second, z, free, p, q)
        _convex(first, second, free, g, convex, p, q, one, rate)
        _convex(first, second, free, rest, convex, p, q, -one, rate)
        h = clock[n] * unit
        for b in range(high - low):
            last = b * springs + springs - 1
            ends[r, n, low + b] = rate[0, last]
            if moved:
                rate[0, last] = velocity[n, low + b]
            for i in range(springs):
                j = b * springs + i
                z[0, j] += h * (rate[0, j] - rate[0, j - 1] if i else rate[0, j])
        for k in range(1, d):
            for j in range(sites):
                z[k, j] += h * rate[k, j]
        path[r, n + 1, :, low:high] = np.ascontiguousarray(z[:, :sites]).reshape(
            d, high - low, springs
        )


@njit(fastmath=FAST, nogil=True, cache=True)
def _roll_back(
    flat: Any,
    widths: Any,
    path: Any,
    path_bar: Any,
    ends_bar: Any,
    force: Any,
    clock: Any,
    unit: float,
    moved: bool,
    flat_bar: Any,
    start_bar: Any,
    r: int,
    low: int,
    block: int,
) -> None:
    """Add the bars of the weights (one vector for each block), fill in those of the first state."""
    _, _, d, trajectories, springs = path.shape
    _, e1, e2, m1, m2 = widths
    high = min(low + block, trajectories)
    sites, real, one = (high - low) * springs, flat.dtype, flat.dtype.type(1)
    lanes = PAD * -(-sites // PAD)
    energy, first, second, mobility = _views(flat[r], d, e1, e2, m1, m2)
    energy_bar, first_bar, second_bar, mobility_bar = _views(flat_bar, d, e1, e2, m1, m2)
    inn = _energy_memory(e1, e2, lanes, real)
    free = _free_memory(d, m1, m2, lanes, real)
    driven = _convex_memory(d, m1, m2, lanes, real)
    resting = _convex_memory(d, m1, m2, lanes, real)
    inn_tmp, tmp, free_bar, xs = _adjoint_memory(d, e1, e2, m1, m2, lanes, real)
    p, q = np.empty((m1, lanes), real), np.empty((m2, lanes), real)
    c = (d, lanes)
    z, g, rest, slope = np.zeros(c, real), np.zeros(c, real), np.zeros(c, real), np.empty(c, real)
    rate, z_bar, g_bar, none = (
        np.zeros(c, real), np.empty(c, real), np.empty(c, real), np.empty(c, real)
    )  # fmt: skip
    new = np.zeros(c, real)  # of the sites beyond the last, which only fill up the lanes: 0
    for n in range(len(clock) - 1, -1, -1):
        new[:, :sites] += np.ascontiguousarray(path_bar[r, n + 1, :, low:high]).reshape(d, sites)
        z[:, :sites] = np.ascontiguousarray(path[r, n, :, low:high]).reshape(d, sites)
        _energy(energy, z, inn, slope)
        _forces(slope, force[n, low:high], springs, g)
        _free(first, second, z, free, p, q)
        _convex(first, second, free, g, driven, p, q, one, rate)
        _convex(first, second, free, rest, resting, p, q, -one, rate)
        rate[:, sites:] = 0  # from here on the bar of the rate
        h = clock[n] * unit
        for t in range(high - low):
            for i in range(springs):
                j = t * springs + i
                if i + 1 < springs:
                    rate[0, j] = h * (new[0, j] - new[0, j + 1])
                else:
                    rate[0, j] = ends_bar[r, n, low + t]
                    if not moved:
                        rate[0, j] += h * new[0, j]
        for k in range(1, d):
            for j in range(sites):
                rate[k, j] = h * new[k, j]
        for k in range(d):
            total = rate.dtype.type(0)
            for j in range(lanes):
                total += rate[k, j] * g[k, j]
                g_bar[k, j] = mobility[0, k] * rate[k, j]
            mobility_bar[0, k] += total
        for part in free_bar:
            part[:] = 0
        _convex_adjoint(
            first, second, first_bar, second_bar, free, free_bar, g, driven, tmp, one, rate,
            g_bar,
        )  # fmt: skip
        none[:] = 0
        _convex_adjoint(
            first, second, first_bar, second_bar, free, free_bar, rest, resting, tmp, -one,
            rate, none,
        )  # fmt: skip
        z_bar[:] = 0
        _free_adjoint(first, second, first_bar, second_bar, free, free_bar, z, xs, z_bar)
        for t in range(high - low):
            for i in range(springs - 1, -1, -1):
                j = t * springs + i
                g_bar[0, j] = g_bar[0, j - 1] - g_bar[0, j] if i else -g_bar[0, j]
        for k in range(1, d):
            for j in range(lanes):
                g_bar[k, j] = -g_bar[k, j]
        _energy_adjoint(energy, energy_bar, z, inn, inn_tmp, g_bar, z_bar)
        new += z_bar
    start_bar[r, :, low:high] = np.ascontiguousarray(new[:, :sites]).reshape(d, high - low, springs)


def _block(trajectories: int, springs: int) -> int:
    """Trajectories in each block, as alike as can be."""
    blocks = -(-trajectories * springs // LANES)
    return -(-trajectories // min(blocks, trajectories))


def _in_blocks(work: Callable[[int, int], None], replicas: int, trajectories: int, by: int) -> None:
    """Call work(replica, first trajectory) for every block, on as many threads as torch has."""
    tasks = [(r, low) for low in range(0, trajectories, by) for r in range(replicas)]
    if torch.get_num_threads() == 1:
        for task in tasks:
            work(*task)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(lambda task: work(*task), tasks))


class _Rollout(torch.autograd.Function):
    """Scaled states and ends of a rollout, differentiable by the weights and the first state.

    In the precision of `flat` throughout; the results come back in that of `start`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        flat: Tensor,
        start: Tensor,
        force: Tensor,
        velocity: Tensor | None,
        clock: Tensor,
        unit: float,
        widths: tuple[int, ...],
    ) -> tuple[Tensor, Tensor]:
        moved = velocity is not None
        weights, first, pull, speed, lengths = (
            part.detach().to(flat.dtype).contiguous().numpy()
            for part in (flat, start, force, force if velocity is None else velocity, clock)
        )
        real = weights.dtype.type
        replicas, d, trajectories, springs = start.shape
        path = np.empty((replicas, len(clock) + 1, d, trajectories, springs), real)
        path[:, 0] = first
        ends = np.empty((replicas, len(clock), trajectories), real)
        shared = (pull, speed, lengths, real(unit), moved)
        by = _block(trajectories, springs)

        def block(r: int, low: int) -> None:
            _roll(weights, widths, path, ends, *shared, r, low, by)

        _in_blocks(block, replicas, trajectories, by)
        ctx.kept = (weights, widths, path, pull, lengths, real(unit), moved, start.dtype)
        return tuple(  # type: ignore[return-value]
            torch.from_numpy(part).to(start.dtype) for part in (path[:, 1:], ends)
        )

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[Any, ...]:
        flat, widths, path, force, clock, unit, moved, dtype = ctx.kept
        path_bar = np.zeros_like(path)
        path_bar[:, 1:] = bars[0].numpy()
        ends_bar = np.ascontiguousarray(bars[1].numpy(), path.dtype)
        replicas, _, _, trajectories, springs = path.shape
        by = _block(trajectories, springs)
        flat_bar = np.zeros((replicas, -(-trajectories // by), flat.shape[1]), path.dtype)
        start_bar = np.empty_like(path[:, 0])

        def block(r: int, low: int) -> None:
            own = flat_bar[r, low // by]
            _roll_back(
                *(flat, widths, path, path_bar, ends_bar, force, clock, unit, moved),
                *(own, start_bar, r, low, by),
            )

        _in_blocks(block, replicas, trajectories, by)
        slopes = torch.from_numpy(flat_bar.sum(1)), torch.from_numpy(start_bar).to(dtype)
        return *slopes, *[None] * 5


def _weights(law: ChainPotentials) -> Tensor:
    """All weights of the law, those that must be positive made so, in the order of `_views`."""
    energy: Any = law.energy_network  # a list of modules has no types
    power: Any = law.dissipation_network
    parts = [part for layer in energy.layers for part in (layer.weight, layer.bias)]
    parts.append(energy.last.weight)
    for n in range(2):
        for affine in (power.free[n], power.scale[n], power.shift[n]):
            parts += [affine.weight, affine.bias]
        parts += [
            power.gain[:, None] * power.drive[n].weight,
            power.gate[n].weight,
            power.gate[n].bias,
        ]
        parts.append(power.mix[n].weight)
    parts.append(softplus(law.mobility))
    return torch.cat([part.flatten(1) for part in parts], 1)


def chain_rollout(
    law: ChainPotentials,
    strain: Tensor,
    alpha: Tensor,
    external_force: Tensor,
    velocity: Tensor | None,
    steps: Tensor,
    backend: str = "fast",
) -> tuple[Tensor, Tensor, Tensor]:
    """Euler rollouts of a chain with F_ex known, differentiable by the weights and by alpha.

    Args:
        law: its potentials.
        strain: first strains, shape (trajectories, springs).
        alpha: first internal variables, shape (replicas, trajectories, springs, internal).
        external_force: F_ex of each step, shape (trajectories, steps).
        velocity: v_n of each step, same shape: the end then moves by it
            (`ChainPotentials.both_given`). Or None: it moves as F_ex drives it (`force_given`).
        steps: length of each step in time, shape (steps,).
        backend: "fast", "single" for the same in single precision, or "reference" for PyTorch's
            own differentiation. What the fast ones do not know (networks of other than two hidden
            layers, another device than the processor, states that are not float64) goes the
            reference way by itself.

    Returns:
        strain (replicas, trajectories, steps, springs) and alpha, with one more axis, after each
        step, and the law's own v_n at the beginning of each, (replicas, trajectories, steps).

    Raises:
        ValueError: wrong shape, or an unknown backend.
    """
    shaped("alpha", alpha, ("replicas", "trajectories", "springs", "internal"))
    shaped("strain", strain, alpha.shape[1:3])
    shaped("steps", steps, ("steps",))
    for name, part in (("external_force", external_force), ("velocity", velocity)):
        if part is not None:
            shaped(name, part, (len(strain), len(steps)))
    depths = {len(law.energy_network.layers), len(law.dissipation_network.free)}
    known = depths == {2} and alpha.device.type == "cpu" and alpha.dtype == torch.float64
    if choice("backend", backend, ("fast", "single", "reference")) == "reference" or not known:
        return _reference(law, strain, alpha, external_force, velocity, steps)
    hidden: list[Any] = [*law.energy_network.layers, *law.dissipation_network.free]
    widths = (alpha.shape[-1] + 1, *(layer.bias.shape[-1] for layer in hidden))
    mean, deviation = law.strain_scale
    scaled = ((strain - mean) / deviation).expand(alpha.shape[:-1])
    path, ends = _Rollout.apply(
        _weights(law).to(torch.float32 if backend == "single" else torch.float64),
        torch.cat([scaled[:, None], alpha.movedim(-1, 1)], 1),
        (external_force / law.force_scale).mT,
        None if velocity is None else (velocity / law.velocity_scale).mT,
        steps,
        float(law.velocity_scale / law.natural_length / deviation),
        widths,
    )  # path: (replicas, steps, 1 + internal, trajectories, springs)
    strains = mean + deviation * path[:, :, 0].transpose(1, 2)
    return strains, path[:, :, 1:].permute(0, 3, 1, 4, 2), law.velocity_scale * ends.mT


def _reference(
    law: ChainPotentials,
    strain: Tensor,
    alpha: Tensor,
    external_force: Tensor,
    velocity: Tensor | None,
    steps: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    now = strain.expand(alpha.shape[:-1])
    strains, alphas, ends = [], [], []
    for n, step in enumerate(steps.tolist()):
        if velocity is None:
            rate, change, end = law.force_given(now, alpha, external_force[:, n])
        else:
            rate, change, end = law.both_given(now, alpha, external_force[:, n], velocity[:, n])
        now, alpha = now + step * rate, alpha + step * change
        strains.append(now)
        alphas.append(alpha)
        ends.append(end)
    return torch.stack(strains, 2), torch.stack(alphas, 2), torch.stack(ends, 2)
