r"""The fast engine of `rollout`: one compiled loop over steps, and its adjoint.

The reference is `law`, stepped by Euler's method under PyTorch's automatic differentiation. Its
networks are so small that nearly all of its time goes into starting operations. Here the whole
rollout is one compiled loop, and its gradient another.

**Scaled variables.** With s the standardised field, every g in units of its scale, v in units of
v* and time in those of `Scales.clock`, one step of length h from the state (s, alpha) is::

    G = grad_(s, alpha) of the INN                    tension and -g_alpha; with cubes W (W^T (s, alpha) + b)^2 more
    g_d = G_s at head_d - G_s,  F_ex - G_s at a driven end,  g_alpha = -G_alpha
    r = R(s, alpha, g) - R(s, alpha, 0) + m o g       R: slope of the PICINN in g, m: mobilities
    s <- s + h sum_d (r_d - r_d at tail_d)            r_d being the recorded velocity, if given
    alpha <- alpha + h r_alpha

with the bonds d of each site as index arrays head and tail (`layouts`). A point has no bonds: its
fields are given at all times, R knows nothing of them, m = 0, and F_ex = G_s. Fields of sites with bonds that are
given, their parameters, stand still in front of s.

**Midpoint rule.** A step is two stages, a half one and then the whole, which begins where the half one began, with
the rates at its end. So in every other stage what the new state adds to is the state before the last; on the way
back, its bar goes there.

With neighbours, R sees sum_d (g_d - g_d at tail_d) of the bonds beside s and alpha, and has slopes in g_alpha alone.

Where v_n is known instead of F_ex, each step first finds the g at which r = v_n, and so
F_ex = g + G_s (`_nearer`). Predictions need it; training does not, and it has no adjoint.

**Adjoint.** Let (l_s, l_alpha) be the derivative of the loss by the new state. Then, from the last
step to the first, with a bar for the derivative of the loss::

    r-bar_d = h (l_s - l_s at head_d)
    r-bar_d at a driven end = bar of the law's own v_n     plus h l_s, if the end follows it
    r-bar_alpha = h l_alpha
    z-bar, g-bar, weights <- transposed Jacobian of r, applied to r-bar
    G-bar_s = sum_d (g-bar_d at tail_d - g-bar_d),         G-bar_alpha = -g-bar_alpha
    z-bar, weights <- transposed Jacobian of G, applied to G-bar
    (l_s, l_alpha) <- (l_s, l_alpha) + z-bar + bar of the rolled-out state itself

and for a point G-bar_s is the bar of F_ex.

Only the states are kept on the way forward; what else happened within a step is computed once
more on the way back. Lanes, the sites of a block of trajectories, stand in the last axis of every
array, so that each inner loop runs over contiguous numbers and is vectorised. What is left of the
lanes, and of the last block, is filled with sites of which nothing is asked.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, types
from numba.core.cpu import CPUTargetOptions
from numba.core.options import TargetOptions
from numba.extending import overload
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor
from torch.nn.functional import pad

from ibvonns.compiled import INTERPRETED, compiled, first_only, on_threads
from ibvonns.law import Law, Scales
from ibvonns.layouts import Layout
from ibvonns.networks import softplus

__all__ = ["LOOPS", "Loops", "fused_rollout", "fused_weights", "fuses", "views"]

# sums may be taken in any order and products fused; NaN and infinity keep their meaning
FAST = {"reassoc", "contract", "nsz", "arcp"}
LITTLE = 8000  # steps of a site, some milliseconds, for which no second thread is started
LANES = 128  # sites of a block, about: their numbers fit into the nearest memory
PAD = 8  # lanes are filled up to a multiple, which leaves no remainder to the vectorised loops


def _series(terms: int) -> list[float]:
    """Coefficients in q = t^2 of log((1 + t) / (1 - t)) / t, for t in [0, 1/3], highest first."""

    def ratio(u: Any) -> Any:  # u from -1 to 1 is q from 0 to 1/9
        t = np.sqrt((1 + u) / 18)
        return 2 * np.arctanh(t) / t

    fit = Chebyshev.interpolate(ratio, terms - 1).convert(kind=Polynomial)
    return [float(c) for c in fit(Polynomial([-1, 18])).coef[::-1]]


def _activation(
    real: Any, whole: Any, bias: int, shift: int, terms: int, doublings: int, logs: int, low: float
) -> Callable[[Any], Any]:
    """softplus(p) and sigmoid(p), by e = exp(-|p|), cut at `low`; no branch, no table, no call.

    The exponential is a series in what is left of the exponent after whole powers of 2, which are
    put into the bits of the number; squared `doublings` times, so that few terms do. NaN stays NaN.
    """
    zero, half, one, two, cut = real(0), real(0.5), real(1), real(2), real(low)
    powers = tuple(real(2.0 ** (-doublings * k) / math.factorial(k)) for k in reversed(range(terms)))
    series = tuple(real(c) for c in _series(logs))
    log2e = real(1 / math.log(2))
    large, small = real(0.693359375), real(math.log(2) - 0.693359375)

    def bent(p: Any) -> Any:
        x = -p if p >= zero else p
        x = cut if x < cut else x
        n = np.int32(x * log2e - half)
        k = real(n)
        rest = (x - k * large) - k * small
        e = zero
        for c in powers:
            e = e * rest + c
        for _ in range(doublings):
            e *= e
        e *= whole((whole(n) + whole(bias)) << whole(shift)).view(real)
        t = e / (two + e)
        q = t * t
        log = zero  # of 1 + e
        for c in series:
            log = log * q + c
        return (zero if p < zero else p) + log * t, (one if p >= zero else e) / (one + e)

    return bent


ACTIVATIONS = {
    types.float32: _activation(np.float32, np.int32, 127, 23, 7, 0, 4, -80.0),
    types.float64: _activation(np.float64, np.int64, 1023, 52, 9, 3, 8, -700.0),
}
# called from compiled code alone: entries from Python and from C would be compiled in vain
# divisions do not look for 0, and nothing is allocated, so that nobody need count who uses an array
BARE: Any = {
    "fastmath": FAST,
    "error_model": "numpy",
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
# arrays that a leaf is given never overlap; else each inner loop would begin by comparing their addresses
CPUTargetOptions.noalias = TargetOptions.Mapping("noalias")  # Numba has the flag, but no option that sets it
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
inner: Decorator = njit(**BARE)
leaf: Decorator = njit(**BARE | {"noalias": True})
entry: Decorator = compiled(fastmath=FAST, no_cfunc_wrapper=True, _nrt=False)


def _bent(p: Any) -> Any:
    """softplus(p), sigmoid(p)."""
    raise NotImplementedError


@overload(_bent, jit_options={**BARE, "forceinline": True})  # type: ignore[typeddict-item]
def _(p: Any) -> Any:
    return ACTIVATIONS[p]


@leaf
def _activate(x: Any, slope: Any) -> None:
    """x, slope = softplus(x), sigmoid(x)."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j], slope[i, j] = _bent(x[i, j])


@leaf
def _times(x: Any, y: Any, out: Any) -> None:
    """out = x * y, in as many rows as x has."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = x[i, j] * y[i, j]


@leaf
def _copy(x: Any, out: Any) -> None:
    """out = x, in as many rows as x has. Assigning a slice would do the same, and compile for seconds."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = x[i, j]


@leaf
def _four(weight: Any, i: int, o: int) -> tuple[Any, Any, Any, Any]:
    """Weights of an output and of four inputs from i on."""
    return weight[i, o], weight[i + 1, o], weight[i + 2, o], weight[i + 3, o]


@leaf
def _forward(weight: Any, x: Any, out: Any) -> None:
    """out += W^T x, for W (inputs, outputs), x (inputs, lanes), out (outputs, lanes)."""
    (inputs, outputs), lanes = weight.shape, x.shape[1]
    whole, full = outputs - outputs % 4, inputs - inputs % 4
    for o in range(0, whole, 4):  # four rows of each at once: they are read and written less often
        for i in range(0, full, 4):
            a1, a2, a3, a4 = _four(weight, i, o)
            b1, b2, b3, b4 = _four(weight, i, o + 1)
            c1, c2, c3, c4 = _four(weight, i, o + 2)
            d1, d2, d3, d4 = _four(weight, i, o + 3)
            for j in range(lanes):
                u, v, w, y = x[i, j], x[i + 1, j], x[i + 2, j], x[i + 3, j]
                out[o, j] += a1 * u + a2 * v + a3 * w + a4 * y
                out[o + 1, j] += b1 * u + b2 * v + b3 * w + b4 * y
                out[o + 2, j] += c1 * u + c2 * v + c3 * w + c4 * y
                out[o + 3, j] += d1 * u + d2 * v + d3 * w + d4 * y
    for o in range(outputs):  # what is left: up to three outputs, up to three inputs
        for i in range(0, full if o >= whole else 0, 4):
            a1, a2, a3, a4 = _four(weight, i, o)
            for j in range(lanes):
                out[o, j] += a1 * x[i, j] + a2 * x[i + 1, j] + a3 * x[i + 2, j] + a4 * x[i + 3, j]
        for i in range(full, inputs):
            a1 = weight[i, o]
            for j in range(lanes):
                out[o, j] += a1 * x[i, j]


@leaf
def _affine(weight: Any, x: Any, start: Any, out: Any) -> None:
    """out = start + W^T x."""
    for o in range(weight.shape[1]):
        for j in range(x.shape[1]):
            out[o, j] = start[o, j]
    _forward(weight, x, out)


@leaf
def _outer(x: Any, y: Any, bar: Any) -> None:
    """bar += x y^T, summed over lanes: the derivative by W of a product W^T x."""
    (inputs, outputs), lanes, zero = bar.shape, x.shape[1], x.dtype.type(0)
    for i in range(0, inputs - 1, 2):
        k = i + 1
        for o in range(0, outputs - 3, 4):
            a, b, c, d, e, f, g, h = zero, zero, zero, zero, zero, zero, zero, zero
            for j in range(lanes):
                u, v, p, q, r, s = x[i, j], x[k, j], y[o, j], y[o + 1, j], y[o + 2, j], y[o + 3, j]
                a, b, c, d = a + u * p, b + u * q, c + u * r, d + u * s
                e, f, g, h = e + v * p, f + v * q, g + v * r, h + v * s
            for n, (first, second) in enumerate(((a, e), (b, f), (c, g), (d, h))):
                bar[i, o + n] += first
                bar[k, o + n] += second
    for i in range(inputs):  # what is left: an odd row, up to three columns
        odd = inputs % 2 == 1 and i == inputs - 1
        for o in range(0 if odd else outputs - outputs % 4, outputs):
            a = zero
            for j in range(lanes):
                a += x[i, j] * y[o, j]
            bar[i, o] += a


@inner
def _slope(net: Any, path: Any, x: Any, none: Any, mem: Any, out: Any) -> None:
    """out = slope in x of the network of two layers, with s = softplus::

        m . (k2 o s(M^T (k1 o s(D1^T (s1 o x) + h1)) + D2^T (s2 o x) + h2))

    The PICINN is one whose scales s, shifts h and gates k come from z (`_free`); the INN is one
    with s = k = 1 and no D2. What `_slope_adjoint` needs is kept in mem; none holds zeros.
    """
    (d1, mix, d2, m), (s1, h1, k1, s2, h2, k2) = net, path
    x1, x2, y, t1, v, q = mem[0], mem[1], mem[2], mem[3], mem[4], mem[5]
    t2, e2, c, e1, r1, r2 = mem[6], mem[7], mem[8], mem[9], mem[10], mem[11]
    inputs, (hidden, last), lanes = d1.shape[0], mix.shape, x.shape[1]
    _times(x[:inputs], s1, x1)
    _times(x[:inputs], s2, x2)
    _affine(d1, x1, h1, y)
    _activate(y[:hidden], t1)
    _times(y[:hidden], k1, v)
    _affine(d2, x2, h2, q)
    _forward(mix, v, q)
    for o in range(last):
        for j in range(lanes):
            t2[o, j] = _bent(q[o, j])[1]
            e2[o, j] = m[o, j] * k2[o, j] * t2[o, j]
    _affine(mix.T, e2, none, c)
    for i in range(hidden):
        for j in range(lanes):
            e1[i, j] = c[i, j] * k1[i, j] * t1[i, j]
    _affine(d1.T, e1, none, r1)
    _affine(d2.T, e2, none, r2)
    for k in range(inputs):
        for j in range(lanes):
            out[k, j] = r1[k, j] * s1[k, j] + r2[k, j] * s2[k, j]


@inner
def _slope_adjoint(
    net: Any, net_bar: Any, path: Any, path_bar: Any, x: Any, none: Any, mem: Any, tmp: Any, bar: Any, x_bar: Any
) -> None:
    """From the bar of `_slope` to those of weights, scales, shifts, gates and x (added to).

    bar . slope is the change of the network's value along x' = bar. So a tangent is carried
    forward, marked by ', and bars go back from it; those of the tangents are what mem has kept.
    """
    (d1, mix, d2, m), (s1, _, k1, s2, _, k2) = net, path
    (d1_bar, mix_bar, d2_bar, m_bar), (s1_bar, h1_bar, k1_bar, s2_bar, h2_bar, k2_bar) = net_bar, path_bar
    x1, x2, y, t1, v = mem[0], mem[1], mem[2], mem[3], mem[4]
    t2, e2, c, e1, r1, r2 = mem[6], mem[7], mem[8], mem[9], mem[10], mem[11]
    x1_, x2_, p_, y_, v_, q_ = tmp[0], tmp[1], tmp[2], tmp[3], tmp[4], tmp[5]
    p_bar, q_bar, v_bar, w1, w2 = tmp[6], tmp[7], tmp[8], tmp[9], tmp[10]
    inputs, (hidden, last), lanes = d1.shape[0], mix.shape, x.shape[1]
    _times(bar[:inputs], s1, x1_)
    _times(bar[:inputs], s2, x2_)
    _affine(d1, x1_, none, p_)
    _times(p_[:hidden], t1, y_)
    _times(y_[:hidden], k1, v_)
    _affine(d2, x2_, none, q_)
    _forward(mix, v_, q_)
    for o in range(last):
        for j in range(lanes):
            t = t2[o, j]
            m_bar[o, j] += q_[o, j] * k2[o, j] * t
            k2_bar[o, j] += q_[o, j] * m[o, j] * t
            q_bar[o, j] = q_[o, j] * m[o, j] * k2[o, j] * (t - t * t)
            h2_bar[o, j] += q_bar[o, j]
    _affine(mix.T, q_bar, none, v_bar)
    for i in range(hidden):
        for j in range(lanes):
            # y_ = t1 p', so that (1 - t1) y_ is what the slope t1 of p adds
            k1_bar[i, j] += v_bar[i, j] * y[i, j] + c[i, j] * y_[i, j]
            p_bar[i, j] = k1[i, j] * (v_bar[i, j] * t1[i, j] + c[i, j] * (y_[i, j] - t1[i, j] * y_[i, j]))
            h1_bar[i, j] += p_bar[i, j]
    _outer(x1, p_bar, d1_bar)
    _outer(x1_, e1, d1_bar)
    _outer(x2, q_bar, d2_bar)
    _outer(x2_, e2, d2_bar)
    _outer(v, q_bar, mix_bar)
    _outer(v_, e2, mix_bar)
    _affine(d1.T, p_bar, none, w1)
    _affine(d2.T, q_bar, none, w2)
    for k in range(inputs):
        for j in range(lanes):
            x_bar[k, j] += w1[k, j] * s1[k, j] + w2[k, j] * s2[k, j]
            s1_bar[k, j] += w1[k, j] * x[k, j] + r1[k, j] * bar[k, j]
            s2_bar[k, j] += w2[k, j] * x[k, j] + r2[k, j] * bar[k, j]


@inner
def _free(net: Any, z: Any, layers: Any, slopes: Any) -> None:
    """Free path of the PICINN: scales, shifts and gates of both layers, and slopes of what is bent."""
    (w1, b1, w2, b2, w3, b3), (one, two, three), (s1, s2, s3) = net, layers, slopes
    m1, m12 = s1.shape[0], s2.shape[0]
    _affine(w1, z, b1, one)
    _activate(one[:m1], s1)
    _affine(w2, one, b2, two)
    _activate(two[:m12], s2)
    _affine(w3, two[m1:], b3, three)
    _activate(three, s3)


@inner
def _layer_adjoint(weight: Any, weight_bar: Any, bias_bar: Any, x: Any, slope: Any, bar: Any, x_bar: Any) -> None:
    """From the bar of a layer of `_free`, the first rows of which are bent, to those of W, b and x (added to)."""
    for o in range(bar.shape[0]):
        for j in range(bar.shape[1]):
            bar[o, j] *= slope[o, j] if o < slope.shape[0] else slope.dtype.type(1)
            bias_bar[o, j] += bar[o, j]
    _outer(x, bar, weight_bar)
    _forward(weight.T, bar, x_bar)


@inner
def _free_adjoint(net: Any, net_bar: Any, layers: Any, bars: Any, slopes: Any, z: Any, z_bar: Any, skip: int) -> None:
    """From the bars of scales, shifts and gates to those of the weights and of z (added to).

    skip: rows of the second layer, in front, that the third does not see.
    """
    (w1, _, w2, _, w3, _), (w1_bar, b1_bar, w2_bar, b2_bar, w3_bar, b3_bar) = net, net_bar
    (one, two, _), (one_bar, two_bar, three_bar), (s1, s2, s3) = layers, bars, slopes
    _layer_adjoint(w3, w3_bar, b3_bar, two[skip:], s3, three_bar, two_bar[skip:])
    _layer_adjoint(w2, w2_bar, b2_bar, one, s2, two_bar, one_bar)
    _layer_adjoint(w1, w1_bar, b1_bar, z, s1, one_bar, z_bar)


@inner
def _nearer(g: Any, rate: Any, velocity: Any, head: Any, mobility: Any, marks: Any, turn: int) -> bool:
    """Move the g of driven ends to where r = v is expected, and say whether one has moved.

    r of the last bond rises with its g by a slope of at least its mobility m, so that the root of
    r = v lies within |r - v| / m of any guess, on a known side. Secants, which halve the bracket
    where they would leave it.
    """
    root, error, left, right = marks[0], marks[1], marks[2], marks[3]
    real, way = g.dtype.type, g.dtype.type(0)
    for j in range(g.shape[1]):
        x, wrong, steep = g[0, j], rate[0, j] - velocity[j], mobility[0, j]
        if head[0, j] < 0 and (turn == 0 or x != root[j]):
            reach = abs(wrong) / steep + abs(x) * real(1e-6)
            if turn == 0:
                left[j], right[j] = x - reach, x + reach
            else:
                steep = max(steep, (wrong - error[j]) / (x - root[j]))
            if wrong < 0:
                left[j] = x
            else:
                right[j] = x
            root[j], error[j] = x, wrong
            x -= wrong / steep
            if not left[j] <= x <= right[j]:
                x = real(0.5) * (left[j] + right[j])
            g[0, j] = x
            way = max(way, abs(x - root[j]) / (real(1) + abs(x)))
    return way > real(1e-15)


@inner
def _rates(weights: Any, room: Any, state: Any, given: Any, force: Any, head: Any, tail: Any, search: bool) -> None:
    """G, g and r of a state, left in room as all else that the way back needs.

    force: F_ex at driven ends, where head is -1; or first guess, if it is found from v_n (`search`).
    """
    net, (b1, b2), power, linear, mobility, _, (cube, shift), (along, factor, start) = weights
    rows, layers, slopes, path, _, _, mem, driven, resting, _, _ = room
    none, one, slope, g, rate, rest, marks = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6]
    (c, lanes), (bonds, _), zero = mobility.shape, head.shape, state.dtype.type(0)
    d, known, plain = state.shape[0], linear[0].shape[0], c - power[0].shape[0]
    strain = d - c + max(bonds - 1, 0)  # of a bonded site
    seen, local, sums, squares = rows[10], known - (1 if plain > 0 else 0), rows[12], rows[13]
    steep, bend, way, push = rows[15], rows[16], rows[17], rows[18]
    _slope(net, (one, b1, one, one, b2, one), state, none, mem, slope)
    _affine(cube, state, shift, sums)
    _times(sums[: len(shift)], sums, squares)
    _forward(cube.T, squares, slope)
    for k in range(c):
        for j in range(lanes):
            if k >= bonds:
                g[k, j] = -slope[d - c + k, j]
            else:
                to = head[k, j]
                g[k, j] = (slope[strain, to] if to >= 0 else force[j]) - slope[strain, j]
                if search and plain > 0 and to < 0:  # plain friction: no search
                    g[k, j] = given[1, j] / mobility[k, j]
    _copy(state[d - local :], seen)
    if plain > 0:
        for j in range(lanes):
            seen[local, j] = zero
            for k in range(bonds):
                seen[local, j] += g[k, j] - (g[k, tail[k, j]] if tail[k, j] >= 0 else zero)
    _free(linear, seen[:known], layers, slopes)
    _slope(power, path, none, none, resting, rest[plain:])
    _affine(factor, seen, start, steep)
    _activate(steep[: len(start)], bend)
    for turn in range(100):
        _slope(power, path, g[plain:], none, driven, rate[plain:])
        _affine(along, g[plain:], none, way)
        _times(way[: len(start)], steep, push)
        _forward(along.T, push, rate[plain:])
        for k in range(c):
            for j in range(lanes):
                rate[k, j] = mobility[k, j] * g[k, j] + (rate[k, j] - rest[k, j] if k >= plain else zero)
        if not search or plain > 0 or not _nearer(g, rate, given[1], head, mobility, marks, turn):
            break


@inner
def _gather(v: Any, tail: Any, sign: Any, c: int, d: int, out: Any) -> None:
    """out += sign * (what flows along bonds, v at each but v at its tail; behind them v itself)."""
    zero = v.dtype.type(0)
    for k in range(c):
        row = d - c + max(k, len(tail) - 1)
        for j in range(v.shape[1]):
            behind = v[k, tail[k, j]] if k < tail.shape[0] and tail[k, j] >= 0 else zero
            out[row, j] += sign * (v[k, j] - behind)


@inner
def _advance(rate: Any, own: Any, bonds: Any, moved: bool, c: int, base: Any, new: Any) -> None:
    """new = base + what the rates bring in a step; a driven end moves at the velocity that is given, if one is."""
    head, tail = bonds
    _copy(base, new)
    for k in range(c):
        for j in range(rate.shape[1]):
            if moved and k < len(head) and head[k, j] < 0:
                rate[k, j] = own[1, j]
            rate[k, j] *= own[2, j]
    _gather(rate, tail, rate.dtype.type(1), c, len(new), new)


@inner
def _rate_bars(new: Any, ends: Any, own: Any, head: Any, moved: bool, c: int, out: Any) -> None:
    """out = bars of the rates, from those of the state that they lead to and of what bonds answer."""
    d, zero = len(new), new.dtype.type(0)
    strain = d - c + max(len(head) - 1, 0)
    for k in range(c):
        for j in range(new.shape[1]):
            bar = own[2, j] * new[d - c + max(k, len(head) - 1), j]
            if k < len(head):
                to = head[k, j]
                beyond = new[strain, to] if to >= 0 else (new[strain, j] if moved else zero)
                bar = ends[k, j] + bar - own[2, j] * beyond
            out[k, j] = bar


@entry
def _roll(
    weights: Any, room: Any, path: Any, ends: Any, given: Any, bonds: Any, moved: bool, search: bool, halves: bool
) -> None:
    """Fill in a block of one replica.

    path: states, (steps + 1, d, lanes), with the first ones given.
    ends: what ends answer at each step, (steps, 1 or more, lanes): G_s of a point, r of the bonds,
    F_ex in place of that of a driven one if it is searched.
    given: F_ex, v_n, length of each step and, at a point, every field, (steps, 3 or more, lanes).
    bonds: head and tail of each.
    halves: whether every other stage begins where the one before it began.
    """
    (head, tail), rows = bonds, room[0]
    slope, g, rate = rows[2], rows[3], rows[4]
    (_, d, lanes), c, (low, high) = path.shape, weights[4].shape[0], weights[5]
    fields = d - c + max(len(head) - 1, 0)  # that are given
    for n in range(len(given)):
        state, new, own = path[n], path[n + 1], given[n]
        _copy(own[3:], state)
        _rates(weights, room, state, own, ends[max(n - 1, 0), 0] if search else own[0], head, tail, search)
        if len(head) == 0:
            _copy(slope[:fields], ends[n])
        for k in range(len(head)):
            for j in range(lanes):
                ends[n, k, j] = g[k, j] + slope[fields, j] if search else rate[k, j]
        _advance(rate, own, bonds, moved, c, path[n - 1] if halves and n % 2 == 1 else state, new)
        for k in range(len(head), c):
            for j in range(lanes):
                alpha = new[d - c + k, j]  # NaN stays NaN
                new[d - c + k, j] = low[k, j] if alpha < low[k, j] else high[k, j] if alpha > high[k, j] else alpha


@entry
def _roll_back(
    views: Any,
    room: Any,
    path: Any,
    path_bar: Any,
    ends_bar: Any,
    given: Any,
    bonds: Any,
    moved: bool,
    search: bool,
    halves: bool,
) -> None:
    """Add to the bars of the weights and of the states; those of the first ones are then what is asked.

    views: of the weights and of their bars.
    """
    (head, tail), (weights, bars) = bonds, views
    net, _, power, linear, mobility, (low, high), (cube, _), (along, factor, _) = weights
    (
        net_bar,
        (b1_bar, b2_bar),
        power_bar,
        linear_bar,
        mobility_bar,
        _,
        (cube_bar, shift_bar),
        (along_bar, factor_bar, start_bar),
    ) = bars
    rows, layers, slopes, gated, layers_bar, gated_bar, mem, driven, resting, tmp, spare = room
    none, one, slope, g, rate, rest = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]
    g_bar, waste, other, seen, seen_bar = rows[7], rows[8], rows[9], rows[10], rows[11]
    sums, squares, swell, steep, bend = rows[12], rows[13], rows[14], rows[15], rows[16]
    way, push, pull, turned = rows[17], rows[18], rows[19], rows[20]
    cond, cond_bar = (one, one, one, one, one, one), (waste, b1_bar, waste, other, b2_bar, waste)
    (_, d, lanes), c, known, zero = path.shape, mobility.shape[0], linear[0].shape[0], path.dtype.type(0)
    plain = c - power[0].shape[0]
    local = known - (1 if plain > 0 else 0)
    for n in range(len(given) - 1, -1, -1):
        state, old, new, own = path[n], path_bar[n], path_bar[n + 1], given[n]
        base = path_bar[n - 1] if halves and n % 2 == 1 else old
        for k in range(len(head), c):  # what is held back no longer tells of the state before
            for j in range(lanes):
                alpha = path[n + 1, d - c + k, j]
                if alpha <= low[k, j] or alpha >= high[k, j]:
                    new[d - c + k, j] = zero
        _rates(weights, room, state, own, own[0], head, tail, search)
        _rate_bars(new, ends_bar[n], own, head, moved, c, rate)  # from here on the bars of rate and rest
        for k in range(c):
            for j in range(lanes):
                mobility_bar[k, j] += rate[k, j] * g[k, j]
                g_bar[k, j] = mobility[k, j] * rate[k, j]
                rest[k, j] = -rate[k, j]
        for part in layers_bar:
            part[:] = zero
        _slope_adjoint(power, power_bar, gated, gated_bar, g[plain:], none, driven, spare, rate[plain:], g_bar[plain:])
        _slope_adjoint(power, power_bar, gated, gated_bar, none, none, resting, spare, rest[plain:], waste)
        _affine(along, rate[plain:], none, pull)
        for k in range(len(start_bar)):
            for j in range(lanes):
                turned[k, j] = way[k, j] * pull[k, j] * bend[k, j]
                pull[k, j] *= steep[k, j]
                start_bar[k, j] += turned[k, j]
        _forward(along.T, pull, g_bar[plain:])
        _outer(g[plain:], pull, along_bar)
        _outer(rate[plain:], push, along_bar)
        _outer(seen, turned, factor_bar)
        for k in range(d):  # from here on its bar
            for j in range(lanes):
                slope[k, j] = ends_bar[n, k, j] if k < d - c and len(head) == 0 else zero
                base[k, j] += new[k, j]
        _affine(factor.T, turned, none, seen_bar)
        _free_adjoint(linear, linear_bar, layers, layers_bar, slopes, seen[:known], seen_bar[:known], len(slopes[0]))
        for k in range(local):
            for j in range(lanes):
                old[d - local + k, j] += seen_bar[k, j]
        for k in range(plain):
            for j in range(lanes):
                to = head[k, j]
                g_bar[k, j] += seen_bar[local, j] - (seen_bar[local, to] if to >= 0 else zero)
        _gather(g_bar, tail, -one[0, 0], c, d, slope)
        _slope_adjoint(net, net_bar, cond, cond_bar, state, none, mem, tmp, slope, old)
        _affine(cube, slope, none, swell)
        for k in range(len(shift_bar)):
            for j in range(lanes):
                swell[k, j] *= 2 * sums[k, j]
                shift_bar[k, j] += swell[k, j]
        _outer(state, swell, cube_bar)
        _outer(slope, squares, cube_bar)
        _forward(cube.T, swell, old)


Arrays = tuple[Any, ...]  # of arrays, or of tuples of arrays


def views(weights: Sequence[Any]) -> Arrays:
    """All weights of one replica, or their bars, in the order of `fused_weights`, as the loops take them.

    INN: W1, W2, nothing, w3 and its biases b1, b2. PICINN: drive D1, mix M1 (positive), D2, m2; and of
    its free path W and b of what z feeds (free, scale and shift of layer 1, one after another), of what
    x1 feeds (gate of layer 1; free, scale and shift of layer 2) and of what x2 feeds (its gate). Then the
    mobilities. A network is thus as `_slope` takes it. Then the bounds of alpha, behind those of bonds,
    which do not count; and last the cubes of f and the squares of phi.

    Args:
        weights: of one replica, vectors for example with one column for each lane.
    """
    w1, w2, d1, mix, d2, s1, s2, s3, cube, along, factor, *vectors = weights
    b1, b2, w3, m, c1, c2, c3, shift, start, mobility, low, high = vectors
    networks = (w1, w2, w2[:0], w3), (b1, b2), (d1, mix, d2, m), (s1, c1, s2, c2, s3, c3)
    return *networks, mobility, (low, high), (cube, shift), (along, factor, start)


def _room(weights: Arrays, bonds: Arrays) -> Arrays:
    """Memory for one step of the loop and for its way back. Few arrays, for each is handed from call to call."""
    (w1, w2, *_), _, (d1, mix, *_), (s1, c1, _, c2, _, c3), mobility, _, (_, shift), (*_, start) = weights
    (forces, lanes), c, (m1, m2) = mobility.shape, len(d1), mix.shape
    top = max(4, len(w1), len(s1), forces, *w2.shape, m1, m2, len(shift), len(start))

    def make(*heights: int) -> Arrays:
        return tuple(np.zeros((height, lanes), w1.dtype) for height in heights)

    def path(one: Any, two: Any, gate: Any) -> Arrays:
        """Scale, shift and gate of both layers in the free path, or in its bars."""
        return one[m1 : m1 + c], one[m1 + c :], two[:m1], two[m1 + m2 : m1 + m2 + c], two[m1 + m2 + c :], gate

    rows, *tmp = (np.zeros((number, top, lanes), w1.dtype) for number in (21, 12, 12, 12, 11, 11))
    rows[1].fill(1)
    layers, bars = (make(len(c1), len(c2), len(c3)) for _ in range(2))
    return rows, layers, make(m1, m1 + m2, m2), path(*layers), bars, path(*bars), *tmp


class Run(NamedTuple):
    """What a rollout in scaled variables needs beside weights and first states; blocks in front.

    Attributes:
        given: F_ex, v_n (0 where there is none), length of each step and, of a point, its fields,
            (replicas, blocks, steps, 3 + fields, lanes).
        bonds: head and tail of the sites of a block, (directions, lanes), -1 at an end.
        moved: an end moves at the velocity that is given.
        search: F_ex is found from it.
        halves: steps are pairs of stages, of the midpoint rule.
    """

    given: Any
    bonds: tuple[Any, Any]
    moved: bool
    search: bool
    halves: bool

    def blocks(self, work: Callable[[tuple[int, int]], None]) -> None:
        """Call work((replica, block)) for all, on as many threads as pay."""
        replicas, number, steps, _, lanes = self.given.shape
        tasks = [(r, n) for n in range(number) for r in range(replicas)]
        threads = 1 if len(tasks) * steps * lanes < LITTLE else torch.get_num_threads()
        on_threads(work, tasks, threads)


class Loops(NamedTuple):
    """What the engine needs of a kind of law: its compiled loops, and how its weights are handed to them.

    Attributes:
        knows: whether the loops know such a law.
        weights: of a law, matrices (replicas, inputs, outputs) and vectors (replicas, outputs).
        views: of one replica's weights or of their bars, vectors with a column for each lane, as the loops take them.
        room: memory for a step there and back, from such a view and the bonds of a block.
        roll: fills in states and what ends answer, as `_roll`.
        back: adds to bars, as `_roll_back`.
    """

    knows: Callable[[Any], bool]
    weights: Callable[[Any], list[Tensor]]
    views: Callable[[Sequence[Any]], Arrays]
    room: Callable[[Arrays, Arrays], Arrays]
    roll: Callable[..., None]
    back: Callable[..., None]


class _Rollout(torch.autograd.Function):
    """Of each block the states and what ends answer (`_roll`), differentiable by first states and weights.

    In the precision of what is given throughout; the results come back in that of `start`.
    """

    @staticmethod
    def forward(ctx: Any, loops: Loops, run: Run, start: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        first, *parts = _arrays(run.given.dtype, start, *weights)
        (*front, d, lanes), (steps, rows, _) = first.shape, run.given.shape[2:]
        path = np.empty((*front, steps + 1, d, lanes), first.dtype)
        path[:, :, 0] = first
        ends = np.zeros((*front, steps, max(rows - 3, len(run.bonds[0])), lanes), first.dtype)
        parts = [part if part.ndim == 3 else np.repeat(part[..., None], lanes, 2) for part in parts]

        def work(at: tuple[int, int]) -> None:
            own = loops.views([part[at[0]] for part in parts])
            loops.roll(own, loops.room(own, run.bonds), path[at], ends[at], run.given[at], *run[1:])

        run.blocks(work)
        ctx.kept = loops, parts, path, run, start.dtype, [part.ndim for part in weights]
        return torch.from_numpy(path[:, :, 1:]).to(start.dtype), torch.from_numpy(ends).to(start.dtype)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[Any, ...]:
        first_only()
        loops, parts, path, run, dtype, axes = ctx.kept
        path_bar, ends_bar = np.zeros_like(path), np.ascontiguousarray(bars[1].numpy(), path.dtype)
        path_bar[:, :, 1:] = bars[0].numpy()
        found = [np.zeros((*path.shape[:2], *part.shape[1:]), path.dtype) for part in parts]

        def work(at: tuple[int, int]) -> None:
            own = loops.views([part[at[0]] for part in parts]), loops.views([part[at] for part in found])
            room = loops.room(own[0], run.bonds)
            loops.back(own, room, path[at], path_bar[at], ends_bar[at], run.given[at], *run[1:])

        run.blocks(work)
        path_bar[:, :, 0, : run.given.shape[3] - 3] = 0  # those of a point's first fields, which are replaced
        found = [part.sum(1 if number == 3 else (1, 3)) for part, number in zip(found, axes, strict=True)]
        return None, None, *(torch.from_numpy(part).to(dtype) for part in (path_bar[:, :, 0], *found))


def _arrays(real: Any, *parts: Tensor) -> list[Any]:
    """Copies of all as arrays in one precision: weights may change before the way back."""
    return [np.array(part.detach().numpy(), real, order="C") for part in parts]


def fused_weights(law: Law) -> list[Tensor]:
    """All weights of a law, those that must be positive made so, in the order of `views`.

    Args:
        law: of which `fuses` is true.

    Returns:
        Matrices, (replicas, inputs, outputs), then vectors, (replicas, outputs).

    >>> from ibvonns.layouts import Point
    >>> from ibvonns.networks import generators
    >>> weights = fused_weights(Law(generators([0, 1]), Point()))
    >>> weights[0].shape, weights[-1].shape
    (torch.Size([2, 2, 20]), torch.Size([2, 1]))
    """
    energy: Any = law.energy_network  # a list of modules has no types
    power: Any = law.dissipation_network
    (free1, free2), (scale1, scale2) = power.free, power.scale
    (shift1, shift2), (gate1, gate2) = power.shift, power.gate
    stacks = (free1, scale1, shift1), (gate1, free2, scale2, shift2), (gate2,)
    first, second = (power.gain[:, None] * drive.weight for drive in power.drive)
    matrices = [layer.weight for layer in energy.layers] + [first, power.mix[0].weight, second]
    matrices += [torch.cat([part.weight for part in stack], 2) for stack in stacks]
    cube, shift, along, factor, start = _polynomials(energy, power)
    matrices += [cube, along, factor]
    vectors = [layer.bias for layer in energy.layers] + [energy.last.weight, power.mix[1].weight]
    vectors += [torch.cat([part.bias for part in stack], 2) for stack in stacks]
    vectors += [shift, start]
    reach = pad(law.reach, (law.layout.directions, 0))
    vectors += [torch.zeros_like(reach[:, 0]) if law.mobility is None else softplus(law.mobility), *reach.unbind(1)]
    # cut from one row for each replica: where a softplus is rounded depends on how its gradient lies in memory
    rows = torch.cat([part.flatten(1) for part in vectors], 1)
    return [*matrices, *rows.split([part[0].numel() for part in vectors], 1)]


def _polynomials(energy: Any, power: Any) -> list[Tensor]:
    """Weight and bias of the cubes of f; directions, weight and bias of the squares of phi; without columns if none."""

    def some(layer: Any, beside: Any) -> list[Tensor]:
        # what is detached costs nothing on the way back
        parts = [part.detach()[..., :0] for part in (beside.weight, beside.bias)]
        return parts if layer is None else [layer.weight, layer.bias]

    along = power.drive[0].weight.detach()[..., :0] if power.along is None else power.along.weight
    return [*some(energy.cubes, energy.layers[0]), along, *some(power.factor, power.free[0])]


def _deep(law: Law) -> bool:
    return law.gas is None and {len(law.energy_network.layers), len(law.dissipation_network.free)} == {2}


#: Of each class of laws the loops that know it.
LOOPS: dict[type, Loops] = {Law: Loops(_deep, fused_weights, views, _room, _roll, _roll_back)}


def _loops(law: Any) -> Loops | None:
    return next((loops for kind, loops in LOOPS.items() if isinstance(law, kind) and loops.knows(law)), None)


def fuses(law: Any, z: Tensor) -> bool:
    """Whether loops know such a law and such states: two hidden layers, float64, processor.

    Args:
        law: anything; one of a class in `LOOPS` may be known.
        z: states.

    >>> from ibvonns.layouts import Point
    >>> from ibvonns.networks import generators
    >>> law = Law(generators([0]), Point())
    >>> fuses(law, torch.zeros(1, 3, 1, 2, dtype=torch.float64))
    True
    """
    return not INTERPRETED and z.device.type == "cpu" and z.dtype == torch.float64 and _loops(law) is not None


def fused_rollout(
    law: Scales, start: Tensor, drive: Iterable[Any], single: bool, halves: bool = False
) -> tuple[Tensor, Tensor]:
    """Rollouts by the compiled loop; `rollout` has the public function and says what they are.

    Args:
        law: of which `fuses` is true.
        start: first states, shape (replicas, trajectories, sites, fields + internal).
        drive: what is given at each step, all of shape (replicas, trajectories, steps), or None: its length in
            time; the fields of a point, in a last axis; F_ex at a driven end, which is found from v_n if it is
            not given, and nothing is differentiable then; and v_n, without which F_ex drives the end.
        single: whether in single precision.
        halves: whether steps are pairs of stages, of the midpoint rule.

    Nothing is checked here.

    Returns:
        States after each step, (replicas, trajectories, steps, sites, fields + internal), and what
        the end answers at the beginning of each, (replicas, trajectories, steps, ends).
    """
    layout, (replicas, trajectories, sites, _) = law.layout, start.shape
    number = min(max(-(-trajectories * sites // LANES), -(-torch.get_num_threads() // replicas)), trajectories)
    some = -(-trajectories // number)
    number = -(-trajectories // some)

    def packed(part: Tensor) -> Tensor:
        """From (replicas, trajectories, ..., sites) to blocks of lanes: (replicas, blocks, ..., lanes)."""
        part = pad(part.movedim(1, -2), (0, 0, 0, some * number - trajectories)).unflatten(-2, (number, some))
        return pad(part.flatten(-2), (0, -some * sites % PAD)).movedim(-2, 1)

    def unpacked(part: Tensor) -> Tensor:
        """And back, from (replicas, blocks, steps, rows, lanes) to (replicas, trajectories, steps, sites, rows)."""
        part = part[..., : some * sites].unflatten(-1, (some, sites)).movedim(-2, 2)
        return part.flatten(1, 2)[:, :trajectories].movedim(3, -1)

    (mean, deviation), (steps, field, force, velocity) = law.field, drive
    nothing = steps.new_zeros(steps.shape)
    pull = nothing if force is None else force / law.force[-1]
    speed = nothing if velocity is None else velocity / law.rate
    given = torch.stack([pull, speed, law.clock * steps], -1)
    if field is not None:
        given = torch.cat([given, (field - mean) / deviation], -1)
    (given,) = _arrays(np.float32 if single else np.float64, packed(given[..., None].expand(*given.shape, sites)))
    search = layout.driven and force is None
    run = Run(given, _bonds(layout, some, sites), velocity is not None, search, halves)
    loops: Any = _loops(law)
    rolled = _Rollout.apply(loops, run, packed(law.scaled(start).movedim(-1, 2)), *loops.weights(law))
    path, ends = map(unpacked, rolled)
    path = torch.cat([mean + deviation * path[..., : layout.fields], path[..., layout.fields :]], -1)
    unit = law.rate if layout.driven and not search else law.force[-layout.ends :]
    return path, unit * ends[..., -1, : layout.ends]


def _bonds(layout: Layout, trajectories: int, sites: int) -> tuple[Any, Any]:
    """Head and tail of the sites of a block, -1 at an end; spare lanes lead to themselves."""
    each = sites * torch.arange(trajectories)[:, None]
    spare = sites * trajectories + torch.arange(-sites * trajectories % PAD)
    parts = (torch.where(part[:, None] < 0, -1, part[:, None] + each).flatten(1) for part in layout.bonds(sites))
    head, tail = (torch.cat([part, spare.expand(len(part), -1)], 1).numpy() for part in parts)
    return head, tail
