r"""The fast engine of `rollout`: one compiled loop over steps, and its adjoint.

The reference is `onsager`, stepped by Euler's method under PyTorch's automatic differentiation. Its
networks are so small that nearly all of its time goes into starting operations. Here the whole
rollout is one compiled loop, and its gradient another.

**Scaled variables.** With s the standardised strain, kappa = v* / (L0 std(eps)), every g in units
of its scale and v in units of v*, one step of length h of the chain from the state (s, alpha) is,
each trajectory having its own h::

    G = grad_(s, alpha) of the INN                    tension and -g_alpha
    g_v_i = G_s_{i+1} - G_s_i,  i < n,   g_v_n = F_ex - G_s_n,   g_alpha = -G_alpha
    r = R(s, alpha, g) - R(s, alpha, 0) + m o g       R: slope of the PICINN in g, m: mobilities
    s_i <- s_i + h kappa (r_v_i - r_v_{i-1}),         r_v_n being the recorded velocity, if given
    alpha <- alpha + h kappa r_alpha.

The trap's is the same without neighbours: s stands for the standardised chi, which is given at all
times and of which R knows nothing, kappa is alpha's rate scale, m = 0, and F_ex = G_s.

Where v_n is known instead of F_ex, each step first finds the g_v_n at which r_v_n = v_n, and so
F_ex = g_v_n + G_s_n (`_pull`). Predictions need it; training does not, and it has no adjoint.

**Adjoint.** Let (l_s, l_alpha) be the derivative of the loss by the new state. Then, from the last
step to the first, with a bar for the derivative of the loss::

    r-bar_v_i = h kappa (l_s_i - l_s_{i+1}), i < n
    r-bar_v_n = bar of the law's own v_n              plus h kappa l_s_n, if the end follows it
    r-bar_alpha = h kappa l_alpha
    z-bar, g-bar, weights <- transposed Jacobian of r, applied to r-bar
    G-bar_s_i = g-bar_v_{i-1} - g-bar_v_i,            G-bar_alpha = -g-bar_alpha
    z-bar, weights <- transposed Jacobian of G, applied to G-bar
    (l_s, l_alpha) <- (l_s, l_alpha) + z-bar + bar of the rolled-out state itself

and for the trap G-bar_s is the bar of F_ex.

Only the states and G are kept on the way forward; what else happened within a step is computed once
more on the way back. Lanes, the sites of a few trajectories or a tile of a long chain, stand in the
last axis of every array, so that each inner loop runs over contiguous numbers and is vectorised.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor

from ibvonns.networks import softplus
from ibvonns.onsager import ChainPotentials, Potentials

__all__ = ["Widths", "fused_rollout", "fused_weights", "fuses"]

# sums may be taken in any order and products fused; NaN and infinity keep their meaning
FAST = {"reassoc", "contract", "nsz", "arcp"}
LITTLE = 8000  # steps of a site, some milliseconds, for which no second thread is started
LANES = 128  # sites that are stepped together, about: their numbers fit into the nearest memory
PAD = 8  # lanes are filled up to a multiple, which leaves no remainder to the vectorised loops


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
BARE: Any = {"fastmath": FAST, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
NUMERIC: Any = {**BARE, "error_model": "numpy"}  # divisions do not look for 0
INLINE: Any = {**NUMERIC, "forceinline": True}
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
# called from compiled code alone: entries from Python and from C would be compiled in vain
inner: Decorator = njit(**BARE)
numeric: Decorator = njit(**NUMERIC)
ENTRY: Any = {"fastmath": FAST, "nogil": True, "cache": True, "no_cfunc_wrapper": True}
entry: Decorator = njit(**ENTRY)


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


@numeric
def _sigmoid(p: Any, slope: Any) -> None:
    """slope = sigmoid(p)."""
    zero, one = p.dtype.type(0), p.dtype.type(1)
    for i in range(p.shape[0]):
        for j in range(p.shape[1]):
            e = _decay(p[i, j])
            slope[i, j] = (one if p[i, j] >= zero else e) / (one + e)


@numeric
def _activate(p: Any, value: Any, slope: Any) -> None:
    """value = softplus(p), slope = sigmoid(p)."""
    zero, one = p.dtype.type(0), p.dtype.type(1)
    for i in range(p.shape[0]):
        for j in range(p.shape[1]):
            e = _decay(p[i, j])
            value[i, j] = (zero if p[i, j] < zero else p[i, j]) + _log_1p(e)
            slope[i, j] = (one if p[i, j] >= zero else e) / (one + e)


@inner
def _clear(x: Any) -> None:
    """x = 0. Loops compile sooner than assignments to slices."""
    zero = x.dtype.type(0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] = zero


@inner
def _scale(slope: Any, x: Any) -> None:
    """x *= slope, in as many rows as slope has."""
    for i in range(slope.shape[0]):
        for j in range(slope.shape[1]):
            x[i, j] *= slope[i, j]


@inner
def _copy(x: Any, out: Any) -> None:
    """out = x."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = x[i, j]


@inner
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


@inner
def _affine(weight: Any, bias: Any, x: Any, out: Any) -> None:
    """out = W^T x + b, with b of shape (1, outputs)."""
    for o in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[o, j] = bias[0, o]
    _forward(weight, x, out)


@inner
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


@inner
def _total(y: Any, bar: Any) -> None:
    """bar += y summed over lanes: the derivative by a bias."""
    for o in range(y.shape[0]):
        a = y.dtype.type(0)
        for j in range(y.shape[1]):
            a += y[o, j]
        bar[0, o] += a


@inner
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
    _clear(c1)
    _forward(w2.T, a2, c1)
    for i in range(a1.shape[0]):
        for j in range(a1.shape[1]):
            a1[i, j] = c1[i, j] * s1[i, j]
    _clear(slope)
    _forward(w1.T, a1, slope)


@inner
def _energy_adjoint(net: Any, bar: Any, z: Any, mem: Any, tmp: Any, g_bar: Any, z_bar: Any) -> None:
    """From the bar of G to those of the weights and of z, which are added to."""
    w1, _, w2, _, w3 = net
    w1_bar, b1_bar, w2_bar, b2_bar, w3_bar = bar
    _, _, x1, s1, s2, c1, a1, a2 = mem
    a1_bar, c1_bar, a2_bar, p2_bar, x1_bar = tmp
    _clear(a1_bar)
    _forward(w1, g_bar, a1_bar)
    _outer(g_bar, a1, w1_bar)
    for i in range(c1.shape[0]):
        for j in range(c1.shape[1]):
            c1_bar[i, j] = a1_bar[i, j] * s1[i, j]
    _outer(c1_bar, a2, w2_bar)
    _clear(a2_bar)
    _forward(w2, c1_bar, a2_bar)
    for o in range(a2.shape[0]):
        total = a2.dtype.type(0)
        for j in range(a2.shape[1]):
            s = s2[o, j]
            total += a2_bar[o, j] * s
            p2_bar[o, j] = a2_bar[o, j] * w3[o, 0] * (s - s * s)
        w3_bar[o, 0] += total
    _clear(x1_bar)
    _affine_adjoint(w2, w2_bar, b2_bar, x1, p2_bar, x1_bar)
    for i in range(c1.shape[0]):
        for j in range(c1.shape[1]):
            s = s1[i, j]
            c1_bar[i, j] = x1_bar[i, j] * s + a1_bar[i, j] * c1[i, j] * (s - s * s)
    _affine_adjoint(w1, w1_bar, b1_bar, z, c1_bar, z_bar)


@inner
def _free(net: Any, z: Any, mem: Any) -> None:
    """Free path of the PICINN: scales, shifts and gates of both layers, with their slopes."""
    lin1, lin2, lin3, x1, sx1, mid, smid, gate2, sg2 = mem
    m1, m12 = x1.shape[0], mid.shape[0]
    _affine(net[0], net[1], z, lin1)
    _activate(lin1[:m1], x1, sx1)
    _affine(net[2], net[3], x1, lin2)
    _activate(lin2[:m12], mid, smid)
    _affine(net[4], net[5], mid[m1:], lin3)
    _activate(lin3, gate2, sg2)


@inner
def _parts(lin1: Any, lin2: Any, m1: int, m2: int, c: int) -> Any:
    """Scales and shifts of both layers in the stacked outputs of `_free`, or in their bars."""
    return (
        lin1[m1 : m1 + c],
        lin2[m1 + m2 : m1 + m2 + c],
        lin1[m1 + c :],
        lin2[m1 + m2 + c :],
    )


@inner
def _convex(net: Any, free: Any, g: Any, mem: Any, p: Any, q: Any, sign: float, out: Any) -> None:
    """out += sign * slope in g of the PICINN before Eq. (12), at this g."""
    lin1, lin2, _, _, _, mid, _, gate2, _ = free
    m1, m2 = p.shape[0], q.shape[0]
    scale1, scale2, shift1, shift2 = _parts(lin1, lin2, m1, m2, g.shape[0])
    gate1 = mid[:m1]
    _, _, _, _, _, _, drive1, mix1, drive2, mix = net
    y1, t1, t2, v1, e1, e2, c1, gs1, gs2, q1, q2 = mem
    for k in range(g.shape[0]):
        for j in range(g.shape[1]):
            gs1[k, j] = g[k, j] * scale1[k, j]
            gs2[k, j] = g[k, j] * scale2[k, j]
    _copy(shift1, p)
    _forward(drive1, gs1, p)
    _activate(p, y1, t1)
    for i in range(v1.shape[0]):
        for j in range(v1.shape[1]):
            v1[i, j] = y1[i, j] * gate1[i, j]
    _copy(shift2, q)
    _forward(drive2, gs2, q)
    _forward(mix1, v1, q)
    _sigmoid(q, t2)
    for o in range(e2.shape[0]):
        for j in range(e2.shape[1]):
            e2[o, j] = mix[o, 0] * gate2[o, j] * t2[o, j]
    _clear(c1)
    _forward(mix1.T, e2, c1)
    for i in range(e1.shape[0]):
        for j in range(e1.shape[1]):
            e1[i, j] = c1[i, j] * gate1[i, j] * t1[i, j]
    _clear(q1)
    _clear(q2)
    _forward(drive1.T, e1, q1)
    _forward(drive2.T, e2, q2)
    for k in range(g.shape[0]):
        for j in range(g.shape[1]):
            out[k, j] += sign * (q1[k, j] * scale1[k, j] + q2[k, j] * scale2[k, j])


@inner
def _convex_adjoint(
    net: Any,
    net_bar: Any,
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
    lin1, lin2, _, _, _, mid, _, gate2, _ = free
    lin1_bar, lin2_bar, gate2_bar = free_bar
    m1, m2, c = mid.shape[0] - gate2.shape[0], gate2.shape[0], g.shape[0]
    scale1, scale2, _, _ = _parts(lin1, lin2, m1, m2, c)
    scale1_bar, scale2_bar, shift1_bar, shift2_bar = _parts(lin1_bar, lin2_bar, m1, m2, c)
    gate1, gate1_bar = mid[:m1], lin2_bar[:m1]
    _, _, _, _, _, _, drive1, mix1, drive2, mix = net
    _, _, _, _, _, _, drive1_bar, mix1_bar, drive2_bar, mix_bar = net_bar
    y1, t1, t2, v1, e1, e2, c1, gs1, gs2, q1, q2 = mem
    e1_bar, e2_bar, c1_bar, u1_bar, u2_bar, w1_bar, q1_bar, q2_bar, k1, k2 = tmp
    for k in range(g.shape[0]):
        for j in range(g.shape[1]):
            bar = sign * r_bar[k, j]
            scale1_bar[k, j] += bar * q1[k, j]
            scale2_bar[k, j] += bar * q2[k, j]
            q1_bar[k, j] = bar * scale1[k, j]
            q2_bar[k, j] = bar * scale2[k, j]
    _outer(q1_bar, e1, drive1_bar)
    _outer(q2_bar, e2, drive2_bar)
    _clear(e1_bar)
    _clear(e2_bar)
    _forward(drive1, q1_bar, e1_bar)
    _forward(drive2, q2_bar, e2_bar)
    for i in range(c1.shape[0]):
        for j in range(c1.shape[1]):
            c1_bar[i, j] = e1_bar[i, j] * gate1[i, j] * t1[i, j]
            gate1_bar[i, j] += e1_bar[i, j] * c1[i, j] * t1[i, j]
            # the part of u1-bar that comes from the slope t1 = sigmoid(u1)
            t = t1[i, j]
            u1_bar[i, j] = e1_bar[i, j] * c1[i, j] * gate1[i, j] * (t - t * t)
    _outer(c1_bar, e2, mix1_bar)
    _forward(mix1, c1_bar, e2_bar)
    for o in range(e2.shape[0]):
        total = e2.dtype.type(0)
        for j in range(e2.shape[1]):
            t = t2[o, j]
            total += e2_bar[o, j] * gate2[o, j] * t
            gate2_bar[o, j] += e2_bar[o, j] * mix[o, 0] * t
            u2_bar[o, j] = e2_bar[o, j] * mix[o, 0] * gate2[o, j] * (t - t * t)
            shift2_bar[o, j] += u2_bar[o, j]
        mix_bar[o, 0] += total
    _outer(gs2, u2_bar, drive2_bar)
    _outer(v1, u2_bar, mix1_bar)
    _clear(w1_bar)
    _forward(mix1.T, u2_bar, w1_bar)
    for i in range(c1.shape[0]):
        for j in range(c1.shape[1]):
            gate1_bar[i, j] += w1_bar[i, j] * y1[i, j]
            u1_bar[i, j] += w1_bar[i, j] * gate1[i, j] * t1[i, j]
            shift1_bar[i, j] += u1_bar[i, j]
    _outer(gs1, u1_bar, drive1_bar)
    _clear(k1)
    _clear(k2)
    _forward(drive1.T, u1_bar, k1)
    _forward(drive2.T, u2_bar, k2)
    for k in range(g.shape[0]):
        for j in range(g.shape[1]):
            g_bar[k, j] += k1[k, j] * scale1[k, j] + k2[k, j] * scale2[k, j]
            scale1_bar[k, j] += k1[k, j] * g[k, j]
            scale2_bar[k, j] += k2[k, j] * g[k, j]


@inner
def _free_adjoint(net: Any, net_bar: Any, free: Any, free_bar: Any, z: Any, z_bar: Any) -> None:
    """From the bars of scales, shifts and gates to those of the weights and of z (added to)."""
    _, _, _, x1, sx1, mid, smid, _, sg2 = free
    lin1_bar, lin2_bar, gate2_bar = free_bar
    m1, m12 = x1.shape[0], mid.shape[0]
    _scale(sg2, gate2_bar)
    _affine_adjoint(net[4], net_bar[4], net_bar[5], mid[m1:], gate2_bar, lin2_bar[m1:m12])
    _scale(smid, lin2_bar)
    _affine_adjoint(net[2], net_bar[2], net_bar[3], x1, lin2_bar, lin1_bar[:m1])
    _scale(sx1, lin1_bar)
    _affine_adjoint(net[0], net_bar[0], net_bar[1], z, lin1_bar, z_bar)


@inner
def _affine_adjoint(weight: Any, weight_bar: Any, bias_bar: Any, x: Any, y: Any, out: Any) -> None:
    """y is the bar of W^T x + b: add to those of W, b and x."""
    _outer(x, y, weight_bar)
    _total(y, bias_bar)
    _forward(weight.T, y, out)


@inner
def _load(full: Any, first: int, count: int, part: Any) -> None:
    """A tile of sites into lanes."""
    for k in range(full.shape[0]):
        for j in range(count):
            part[k, j] = full[k, first + j]


@inner
def _store(part: Any, first: int, count: int, full: Any) -> None:
    """Lanes back into their sites."""
    for k in range(full.shape[0]):
        for j in range(count):
            full[k, first + j] = part[k, j]


@inner
def _forces(slope: Any, force: Any, first: int, count: int, springs: int, g: Any) -> None:
    """g of a tile from G of all sites and from F_ex; sites go trajectory by trajectory."""
    for k in range(g.shape[0]):
        for j in range(count):
            g[k, j] = -slope[slope.shape[0] - g.shape[0] + k, first + j]
    if springs:
        for j in range(count):
            s = first + j
            g[0, j] += force[s // springs] if (s + 1) % springs == 0 else slope[0, s + 1]


@numeric
def _pull(
    power: Any,
    mobility: Any,
    room: Any,
    state: Any,
    slope: Any,
    velocity: Any,
    springs: int,
    low: int,
    high: int,
    force: Any,
) -> None:
    """F_ex of trajectories low to high, for which their ends move as given; a guess is replaced.

    r_v_n rises with g_v_n by a slope of at least its mobility m, so that the root of r_v_n = v lies
    within |r_v_n - v| / m of any guess, on a known side. Secants, which halve the bracket where
    they would leave it.
    """
    free, mem, (z, g, zero, base, rate), (p, q), (root, error, steep, left, right) = room
    one, none, half = g.dtype.type(1), g.dtype.type(0), g.dtype.type(0.5)
    skip, m = z.shape[0] - g.shape[0], mobility[0, 0]
    _clear(base)
    for j in range(high - low):
        last = (low + j + 1) * springs - 1
        for k in range(z.shape[0]):
            z[k, j] = state[k, last]
        for k in range(g.shape[0]):
            g[k, j] = -slope[skip + k, last]
        g[0, j] += force[low + j]
    _free(power, z[skip:], free)
    _convex(power, free, zero, mem, p, q, -one, base)
    for turn in range(100):
        _copy(base, rate)
        _convex(power, free, g, mem, p, q, one, rate)
        largest = none
        for j in range(high - low):
            x = g[0, j]
            wrong = rate[0, j] + m * x - velocity[low + j]
            if turn == 0:
                steep[0, j] = m
                reach = abs(wrong) / m + abs(x) * g.dtype.type(1e-6)
                left[0, j] = x - reach
                right[0, j] = x + reach
            elif x != root[0, j]:
                steep[0, j] = max(m, (wrong - error[0, j]) / (x - root[0, j]))
            if wrong < none:
                left[0, j] = x
            else:
                right[0, j] = x
            root[0, j] = x
            error[0, j] = wrong
            x -= wrong / steep[0, j]
            if not left[0, j] <= x <= right[0, j]:
                x = half * (left[0, j] + right[0, j])
            g[0, j] = x
            largest = max(largest, abs(x - root[0, j]) / (one + abs(x)))
        if not largest > g.dtype.type(1e-15):
            break
    for j in range(high - low):
        force[low + j] = g[0, j] + slope[0, (low + j + 1) * springs - 1]


@entry
def _roll(
    weights: Any,
    room: Any,
    path: Any,
    slopes: Any,
    ends: Any,
    force: Any,
    velocity: Any,
    clock: Any,
    unit: float,
    moved: bool,
    springs: int,
    low: int,
    high: int,
    ends_room: Any,
    search: bool,
) -> None:
    """Fill in the trajectories low to high of one replica.

    path: states (steps + 1, d, sites), with the first ones given and, for the trap, every chi.
    slopes: G, (steps, d, sites). ends: the law's own v_n at each step, (steps, trajectories).
    clock: length of each step of each site, (steps, sites); so for the way back.
    ends_room: memory for the ends of all chains; None where no F_ex is ever searched.
    search: find F_ex from v_n, and write it.
    """
    energy, power, mobility = weights
    inn, free, (driven, resting), (z, g, zero, slope, rate), (p, q) = room
    c, one, per = g.shape[0], clock.dtype.type(1), max(springs, 1)
    d, lanes = z.shape
    skip = d - c
    both, signs = (g, zero), (one, -one)
    for n in range(len(clock)):
        for at in range(low * per, high * per, lanes):
            number = min(lanes, high * per - at)
            _load(path[n], at, number, z)
            _energy(energy, z, inn, slope)
            _store(slope, at, number, slopes[n])
        if ends_room is not None:  # of the type of the argument: costs nothing where it is None
            if search:
                for b in range(low, high):  # a guess: that of the step before
                    force[n, b] = force[max(n - 1, 0), b]
                _pull(
                    power, mobility, ends_room, path[n], slopes[n], velocity[n], springs, low, high,
                    force[n],
                )  # fmt: skip
        for at in range(low * per, high * per, lanes):
            number = min(lanes, high * per - at)
            _load(path[n], at, number, z)
            _forces(slopes[n], force[n], at, number, springs, g)
            for k in range(c):
                for j in range(lanes):
                    rate[k, j] = mobility[0, k] * g[k, j]
            _free(power, z[skip:], free)
            for way in range(2):
                _convex(power, free, both[way], driven, p, q, signs[way], rate)
            for k in range(c):
                for j in range(number):
                    path[n + 1, skip + k, at + j] = rate[k, j]
        if springs:
            for b in range(low, high):
                last = (b + 1) * springs - 1
                ends[n, b] = path[n + 1, 0, last]
                if moved:
                    path[n + 1, 0, last] = velocity[n, b]
                for s in range(last, last + 1 - springs, -1):
                    path[n + 1, 0, s] -= path[n + 1, 0, s - 1]
        for k in range(skip, d):
            for s in range(low * per, high * per):
                path[n + 1, k, s] = path[n, k, s] + clock[n, s] * unit * path[n + 1, k, s]


@entry
def _roll_back(
    weights: Any,
    weights_bar: Any,
    room: Any,
    room_bar: Any,
    full_bar: Any,
    path: Any,
    slopes: Any,
    path_bar: Any,
    ends_bar: Any,
    force: Any,
    clock: Any,
    unit: float,
    moved: bool,
    springs: int,
    low: int,
    high: int,
) -> None:
    """Add to the bars of the weights; leave those of the first states in full_bar[0]."""
    energy, power, mobility = weights
    energy_bar, power_bar, mobility_bar = weights_bar
    inn, free, mems, (z, g, zero, slope, rate), (p, q) = room
    inn_tmp, tmp, free_bar, (z_bar, g_bar, none) = room_bar
    new, all_z_bar, all_g_bar = full_bar  # bars of all sites of these trajectories
    c, one, per = g.shape[0], clock.dtype.type(1), max(springs, 1)
    d, lanes = z.shape
    skip, begin, end = d - c, low * per, high * per
    both, signs, g_bars = (g, zero), (one, -one), (g_bar, none)
    _clear(new)
    for n in range(len(clock) - 1, -1, -1):
        for k in range(skip, d):
            for s in range(begin, end):
                new[k, s] += path_bar[n + 1, k, s]
        for at in range(begin, end, lanes):
            number = min(lanes, end - at)
            _load(path[n], at, number, z)
            _forces(slopes[n], force[n], at, number, springs, g)
            _free(power, z[skip:], free)
            for way in range(2):
                _convex(power, free, both[way], mems[way], p, q, signs[way], rate)
            _clear(rate)  # from here on its bar; lanes beyond the last site stay 0
            for k in range(c):
                for j in range(number):
                    rate[k, j] = clock[n, at + j] * unit * new[skip + k, at + j]
            if springs:
                for j in range(number):
                    s = at + j
                    if (s + 1) % springs:
                        rate[0, j] -= clock[n, s] * unit * new[0, s + 1]
                    else:
                        rate[0, j] = ends_bar[n, s // springs] + (
                            zero[0, 0] if moved else rate[0, j]
                        )
            for k in range(c):
                total = zero[0, 0]
                for j in range(lanes):
                    total += rate[k, j] * g[k, j]
                    g_bar[k, j] = mobility[0, k] * rate[k, j]
                mobility_bar[0, k] += total
            _clear(none)
            for part in free_bar:
                _clear(part)
            for way in range(2):
                _convex_adjoint(
                    power, power_bar, free, free_bar, both[way], mems[way], tmp, signs[way], rate,
                    g_bars[way],
                )  # fmt: skip
            _clear(z_bar)
            _free_adjoint(power, power_bar, free, free_bar, z[skip:], z_bar[skip:])
            _store(z_bar, at, number, all_z_bar)
            _store(g_bar, at, number, all_g_bar)
        for at in range(begin, end, lanes):
            number = min(lanes, end - at)
            _load(path[n], at, number, z)
            _load(all_z_bar, at, number, z_bar)
            _energy(energy, z, inn, slope)
            _clear(slope)  # from here on its bar
            for k in range(c):
                for j in range(number):
                    slope[skip + k, j] = -all_g_bar[k, at + j]
            for j in range(number):
                s = at + j
                if springs == 0:
                    slope[0, j] = ends_bar[n, s]
                elif s % springs:
                    slope[0, j] += all_g_bar[0, s - 1]
            _energy_adjoint(energy, energy_bar, z, inn, inn_tmp, slope, z_bar)
            for k in range(skip, d):
                for j in range(number):
                    new[k, at + j] += z_bar[k, j]


Arrays = tuple[Any, ...]  # of arrays, or of tuples of arrays


@dataclass(frozen=True)
class Widths:
    """Sizes of a law's networks.

    Attributes:
        state: width of the state, of which the INN is a function.
        forces: width of g.
        energy: hidden layers of the INN.
        power: hidden layers of the PICINN.
    """

    state: int
    forces: int
    energy: tuple[int, int]
    power: tuple[int, int]

    def views(self, flat: Any) -> Arrays:
        """The weight matrices in a flat vector, as `fused_weights` gives it for one replica.

        INN: W1 b1 W2 b2 w3. PICINN: what z feeds (free, scale and shift of layer 1, side by side),
        what x1 feeds (gate of layer 1; free, scale and shift of layer 2), what x2 feeds (its gate),
        each a W and a b; then drive D and mix M (positive) of both layers. Last the mobilities.
        """
        d, c, (e1, e2), (m1, m2) = self.state, self.forces, self.energy, self.power
        stacked = [(c, 2 * m1 + c), (m1, m1 + 2 * m2 + c), (m2, m2)]
        groups = [[(d, e1), (1, e1), (e1, e2), (1, e2), (e2, 1)]]
        groups.append([shape for rows, out in stacked for shape in ((rows, out), (1, out))])
        groups[-1] += [(c, m1), (m1, m2), (c, m2), (m2, 1)]
        parts: list[list[Any]] = []
        at = 0
        for group in [*groups, [(1, c)]]:
            parts.append([])
            for rows, columns in group:
                parts[-1].append(flat[at : at + rows * columns].reshape(rows, columns))
                at += rows * columns
        *networks, (mobility,) = (tuple(part) for part in parts)
        return *networks, mobility

    def ends_room(self, lanes: int, real: Any) -> Arrays:
        """Memory for the search of F_ex, the ends of a block's chains side by side.

        Args:
            lanes: how many of them.
            real: type of the numbers.
        """
        (_, free, (mem, _), states, sums), _ = self.room(lanes, real, False)
        return free, mem, states, sums, tuple(np.zeros((1, lanes), real) for _ in range(5))

    def room(self, lanes: int, real: Any, back: bool) -> tuple[Arrays, Arrays]:
        """Memory for one step of the loop, and for its way back.

        Args:
            lanes: sites side by side.
            real: type of the numbers.
            back: whether there is a way back; its memory is empty if not.
        """
        d, c, (e1, e2), (m1, m2) = self.state, self.forces, self.energy, self.power

        def make(*heights: int) -> Arrays:
            return tuple(np.zeros((height, lanes), real) for height in heights)

        forth = (
            make(e1, e2, e1, e1, e2, e1, e1, e2),
            make(2 * m1 + c, m1 + 2 * m2 + c, m2, m1, m1, m1 + m2, m1 + m2, m2, m2),
            tuple(make(m1, m1, m2, m1, m1, m2, m1, c, c, c, c) for _ in range(2)),
            make(d, c, c, d, c),
            make(m1, m2),
        )
        if not back:
            return forth, ()
        return forth, (
            make(e1, e1, e2, e2, e1),
            make(m1, m2, m1, m1, m2, m1, c, c, c, c),
            make(2 * m1 + c, m1 + 2 * m2 + c, m2),
            make(d, c, c),
        )


def _threads(steps: int) -> int:
    """As many as torch has, or one for few steps of a site: starting another would cost more."""
    return 1 if steps < LITTLE else torch.get_num_threads()


def _blocks(trajectories: int, springs: int, replicas: int, threads: int) -> list[tuple[int, int]]:
    """First and last trajectory of each block, alike in size, at least one for each thread."""
    number = -(-trajectories * max(springs, 1) // LANES)
    number = min(max(number, -(-threads // replicas)), trajectories)
    cuts = [trajectories * n // number for n in range(number + 1)]
    return list(zip(cuts[:-1], cuts[1:], strict=True))


def _lanes(low: int, high: int, springs: int) -> int:
    """Lanes that a block needs at once."""
    return PAD * -(-min((high - low) * max(springs, 1), LANES) // PAD)


def _in_blocks(work: Callable[..., None], tasks: Sequence[tuple[int, ...]], threads: int) -> None:
    """Call work(*task) for every task, on so many threads."""
    if threads == 1:
        for task in tasks:
            work(*task)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda task: work(*task), tasks))


def _arrays(flat: Tensor, *parts: Tensor) -> Arrays:
    """All of them as arrays in the precision of the first."""
    return tuple(part.detach().to(flat.dtype).contiguous().numpy() for part in (flat, *parts))


def _run(
    widths: Widths,
    inputs: Arrays,
    unit: float,
    moved: bool,
    springs: int,
    search: bool = False,
    forward_only: bool = True,
) -> tuple[Any, Any, Any]:
    """All replicas forward: states, G, and the law's own v_n or, if that is searched, F_ex.

    inputs: weights, first states, F_ex, v_n and clock, as `fused_rollout` has them. What is run
    forward only is one compilation for all end conditions; training does without the search.
    """
    weights, first, force, velocity, clock = inputs
    real, steps = weights.dtype.type, len(clock)
    replicas, d, sites = first.shape
    path = np.empty((replicas, steps + 1, d, sites), real)
    path[:, 0] = first
    if springs == 0:
        path[:, :, 0] = force
    slopes = np.empty((replicas, steps, d, sites), real)
    ends = np.empty((replicas, steps, sites // springs), real) if springs else path[:, :, 0]
    pulls = np.zeros_like(ends) if search else None
    threads = _threads(replicas * steps * sites)
    blocks = _blocks(sites // max(springs, 1), springs, replicas, threads)

    def block(r: int, low: int, high: int) -> None:
        room, _ = widths.room(_lanes(low, high, springs), real, False)
        ends_room = widths.ends_room(_lanes(low, high, 1), real) if forward_only else None
        pull = force if pulls is None else pulls[r]
        inputs: Arrays = (
            *(widths.views(weights[r]), room, path[r], slopes[r], ends[r], pull, velocity, clock),
            *(real(unit), moved, springs, low, high, ends_room, search),
        )
        _roll(*inputs)

    tasks = [(r, *span) for span in blocks for r in range(replicas)]
    _in_blocks(block, tasks, threads)
    found = ends if pulls is None else pulls
    return path, slopes, found if springs else slopes[:, :, 0]


class _Rollout(torch.autograd.Function):
    """`fused_rollout`, differentiable by the weights and the first state.

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
        springs: int,
        widths: Widths,
    ) -> tuple[Tensor, Tensor]:
        moved = velocity is not None
        speed = force if velocity is None else velocity
        inputs = _arrays(flat, start, force, speed, clock)
        path, slopes, ends = _run(widths, inputs, unit, moved, springs, forward_only=False)
        ctx.kept = (inputs, path, slopes, widths, unit, moved, springs, start.dtype)
        return tuple(  # type: ignore[return-value]
            torch.from_numpy(part).to(start.dtype) for part in (path[:, 1:], ends)
        )

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[Any, ...]:
        (flat, _, force, _, clock), path, slopes, widths, unit, moved, springs, dtype = ctx.kept
        path_bar = np.zeros_like(path)
        path_bar[:, 1:] = bars[0].numpy()
        ends_bar = np.ascontiguousarray(bars[1].numpy(), path.dtype)
        replicas, _, d, sites = path.shape
        threads = _threads(replicas * len(clock) * sites)
        blocks = _blocks(sites // max(springs, 1), springs, replicas, threads)
        flat_bar = np.zeros((replicas, len(blocks), flat.shape[1]), path.dtype)
        start_bar = np.zeros_like(path[:, 0])

        def block(r: int, number: int) -> None:
            low, high = blocks[number]
            room = widths.room(_lanes(low, high, springs), path.dtype, True)
            full = tuple(np.zeros((n, sites), path.dtype) for n in (d, d, widths.forces))
            bars = widths.views(flat[r]), widths.views(flat_bar[r, number]), *room, full
            records = path[r], slopes[r], path_bar[r], ends_bar[r]
            rest: Arrays = (force, clock, path.dtype.type(unit), moved, springs, low, high)
            inputs: Arrays = (*bars, *records, *rest)
            _roll_back(*inputs)
            here = slice(low * max(springs, 1), high * max(springs, 1))
            start_bar[r, :, here] = full[0][:, here]

        tasks = [(r, n) for n in range(len(blocks)) for r in range(replicas)]
        _in_blocks(block, tasks, threads)
        by_weights, by_start = torch.from_numpy(flat_bar.sum(1)), torch.from_numpy(start_bar)
        return by_weights, by_start.to(dtype), *[None] * 6


def fused_weights(law: Potentials | ChainPotentials) -> tuple[Widths, Tensor]:
    """Sizes of a law, and all its weights, those that must be positive made so: (replicas, all).

    `Widths.views` finds the matrices in a row.

    Args:
        law: potentials of which `fuses` is true.

    >>> from ibvonns.networks import generators
    >>> widths, flat = fused_weights(Potentials(generators([0, 1])))
    >>> widths.state, widths.forces, len(flat)
    (2, 1, 2)
    """
    energy: Any = law.energy_network  # a list of modules has no types
    power: Any = law.dissipation_network
    parts = [part for layer in energy.layers for part in (layer.weight, layer.bias)]
    parts.append(energy.last.weight)
    for group in (
        (power.free[0], power.scale[0], power.shift[0]),
        (power.gate[0], power.free[1], power.scale[1], power.shift[1]),
        (power.gate[1],),
    ):
        parts += [torch.cat([part.weight for part in group], 2)]
        parts += [torch.cat([part.bias for part in group], 2)]
    for n in range(2):
        parts += [power.gain[:, None] * power.drive[n].weight, power.mix[n].weight]
    if isinstance(law, ChainPotentials):
        parts.append(softplus(law.mobility))
    else:
        parts.append(parts[0].new_zeros(len(parts[0]), 1, power.inputs[1]))
    hidden = [layer.bias.shape[-1] for layer in [*energy.layers, *power.free]]
    inputs = law.energy_network.inputs, law.dissipation_network.inputs[1]
    widths = Widths(*inputs, (hidden[0], hidden[1]), (hidden[2], hidden[3]))
    return widths, torch.cat([part.flatten(1) for part in parts], 1)


def fuses(law: Any, alpha: Tensor) -> bool:
    """Whether the loop knows such a law and such states: two hidden layers, float64, processor.

    Args:
        law: anything; only potentials are known.
        alpha: internal variables of the states.

    >>> from ibvonns.networks import generators
    >>> fuses(Potentials(generators([0])), torch.zeros(1, 3, 1, dtype=torch.float64))
    True
    """
    if not isinstance(law, Potentials | ChainPotentials):
        return False
    depths = {len(law.energy_network.layers), len(law.dissipation_network.free)}
    return depths == {2} and alpha.device.type == "cpu" and alpha.dtype == torch.float64


def fused_rollout(
    law: Potentials | ChainPotentials,
    start: Tensor,
    force: Tensor | None,
    velocity: Tensor | None,
    clock: Tensor,
    unit: float,
    springs: int,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Rollouts in scaled variables by the compiled loop; `rollout` has the public functions.

    Args:
        law: potentials of which `fuses` is true.
        start: first states, shape (replicas, d, sites): strains or chi, then alpha.
        force: F_ex of each step, (steps, trajectories); for the trap chi, (steps + 1, sites). Or
            None: it is found from `velocity`, and nothing is differentiable.
        velocity: v_n of each step, or None where F_ex drives the end.
        clock: length of each step, shape (steps, trajectories).
        unit: kappa of the module's docstring.
        springs: of a trajectory; 0 for the trap.
        dtype: precision of the loop.

    Nothing is checked here.

    Returns:
        States after each step (replicas, steps, d, sites), and the law's own v_n, or F_ex where
        that is not given and for the trap, at the beginning of each, (replicas, steps,
        trajectories).
    """
    widths, flat = fused_weights(law)
    flat = flat.to(dtype)
    clock = clock.repeat_interleave(max(springs, 1), 1)  # of each site
    differentiable = torch.is_grad_enabled() and (flat.requires_grad or start.requires_grad)
    if force is not None and differentiable:
        return _Rollout.apply(flat, start, force, velocity, clock, unit, springs, widths)
    known = [part for part in (force, velocity) if part is not None]
    inputs = _arrays(flat, start, known[0], known[-1], clock)
    path, _, ends = _run(widths, inputs, unit, velocity is not None, springs, force is None)
    return torch.from_numpy(path[:, 1:]).to(start.dtype), torch.from_numpy(ends).to(start.dtype)
