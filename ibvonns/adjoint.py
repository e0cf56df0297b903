r"""The fast engine of `rollout`: one compiled loop over steps, and its adjoint.

The reference is `law`, stepped by Euler's method under PyTorch's automatic differentiation. Its
networks are so small that nearly all of its time goes into starting operations. Here the whole
rollout is one compiled loop, and its gradient another.

**Scaled variables.** With s the standardised field, every g in units of its scale, v in units of
v* and time in those of `Scales.clock`, one step of length h from the state (s, alpha) is::

    G = grad_(s, alpha) of the INN                    tension and -g_alpha
    g_d = G_s at head_d - G_s,  F_ex - G_s at a driven end,  g_alpha = -G_alpha
    r = R(s, alpha, g) - R(s, alpha, 0) + m o g       R: slope of the PICINN in g, m: mobilities
    s <- s + h sum_d (r_d - r_d at tail_d)            r_d being the recorded velocity, if given
    alpha <- alpha + h r_alpha

with the bonds d of each site as index arrays head and tail (`layouts`). A point has no bonds: its
fields are given at all times, R knows nothing of them, m = 0, and F_ex = G_s.

Where v_n is known instead of F_ex, each step first finds the g at which r = v_n, and so
F_ex = g + G_s (`_pull`). Predictions need it; training does not, and it has no adjoint.

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

Only the states and G are kept on the way forward; what else happened within a step is computed once
more on the way back. Lanes, the sites of a block of trajectories, stand in the last axis of every
array, so that each inner loop runs over contiguous numbers and is vectorised. What is left of the
lanes, and of the last block, is filled with sites of which nothing is asked.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor
from torch.nn.functional import pad

from ibvonns.law import Law
from ibvonns.layouts import Layout
from ibvonns.networks import softplus

__all__ = ["Widths", "fused_rollout", "fused_weights", "fuses"]

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
# called from compiled code alone: entries from Python and from C would be compiled in vain
BARE: Any = {"fastmath": FAST, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
NUMERIC: Any = {**BARE, "error_model": "numpy"}  # divisions do not look for 0
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
inner: Decorator = njit(**BARE)
numeric: Decorator = njit(**NUMERIC)
entry: Decorator = njit(fastmath=FAST, nogil=True, cache=True, no_cfunc_wrapper=True)  # type: ignore[call-overload]


def _decay(p: Any) -> Any:
    """exp(-|p|)."""
    raise NotImplementedError


def _log_1p(p: Any) -> Any:
    """log(1 + p), p from 0 to 1."""
    raise NotImplementedError


@overload(_decay, jit_options={**NUMERIC, "forceinline": True})  # type: ignore[typeddict-item]
def _(p: Any) -> Any:
    return SCALARS[p][0]


@overload(_log_1p, jit_options={**NUMERIC, "forceinline": True})  # type: ignore[typeddict-item]
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
def _times(x: Any, y: Any, out: Any) -> None:
    """out = x * y, in as many rows as x has."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = x[i, j] * y[i, j]


@inner
def _copy(x: Any, out: Any) -> None:
    """out = x."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = x[i, j]


@inner
def _spread(bias: Any, out: Any) -> None:
    """out = b in every lane, with b of shape (1, outputs)."""
    for o in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[o, j] = bias[0, o]


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
    """out = W^T x + b."""
    _spread(bias, out)
    _forward(weight, x, out)


@inner
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
def _total(y: Any, bar: Any) -> None:
    """bar += y summed over lanes: the derivative by a bias."""
    for o in range(y.shape[0]):
        a = y.dtype.type(0)
        for j in range(y.shape[1]):
            a += y[o, j]
        bar[0, o] += a


@inner
def _affine_adjoint(weight: Any, weight_bar: Any, bias_bar: Any, x: Any, y: Any, out: Any) -> None:
    """y is the bar of W^T x + b: add to those of W, b and x."""
    _outer(x, y, weight_bar)
    _total(y, bias_bar)
    _forward(weight.T, y, out)


@inner
def _slope(net: Any, path: Any, x: Any, mem: Any, sign: float, out: Any) -> None:
    """out += sign * slope in x of the network of two layers, with s = softplus::

        m . (k2 o s(M^T (k1 o s(D1^T (s1 o x) + h1)) + D2^T (s2 o x) + h2))

    The PICINN is one whose scales s, shifts h and gates k come from z (`_free`); the INN is one
    with s = k = 1 and no D2. What `_slope_adjoint` needs is kept in mem.
    """
    (d1, mix, d2, m), (s1, h1, k1, s2, h2, k2) = net, path
    x1, x2, p, y, t1, v, q, t2, e2, c, e1, r1, r2 = mem
    _times(x, s1, x1)
    _times(x, s2, x2)
    _copy(h1, p)
    _forward(d1, x1, p)
    _activate(p, y, t1)
    _times(y, k1, v)
    _copy(h2, q)
    _forward(d2, x2, q)
    _forward(mix, v, q)
    _sigmoid(q, t2)
    for o in range(e2.shape[0]):
        for j in range(e2.shape[1]):
            e2[o, j] = m[o, 0] * k2[o, j] * t2[o, j]
    _clear(c)
    _forward(mix.T, e2, c)
    for i in range(e1.shape[0]):
        for j in range(e1.shape[1]):
            e1[i, j] = c[i, j] * k1[i, j] * t1[i, j]
    _clear(r1)
    _clear(r2)
    _forward(d1.T, e1, r1)
    _forward(d2.T, e2, r2)
    for k in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[k, j] += sign * (r1[k, j] * s1[k, j] + r2[k, j] * s2[k, j])


@inner
def _slope_adjoint(
    net: Any, net_bar: Any, path: Any, path_bar: Any, x: Any, mem: Any, tmp: Any, sign: float, bar: Any, x_bar: Any
) -> None:
    """From sign * bar, of `_slope`, to the bars of weights, scales, shifts, gates and x (added to).

    bar . slope is the change of the network's value along x' = sign * bar. So a tangent is carried
    forward, marked by ', and bars go back from it; those of the tangents are what mem has kept.
    """
    (d1, mix, d2, m), (s1, _, k1, s2, _, k2) = net, path
    (d1_bar, mix_bar, d2_bar, m_bar), (s1_bar, h1_bar, k1_bar, s2_bar, h2_bar, k2_bar) = net_bar, path_bar
    x1, x2, _, y, t1, v, _, t2, e2, c, e1, r1, r2 = mem
    x1_, x2_, y_, v_, q_, p_bar, q_bar, v_bar, w1, w2 = tmp
    for k in range(x.shape[0]):
        for j in range(x.shape[1]):
            x1_[k, j] = sign * bar[k, j] * s1[k, j]
            x2_[k, j] = sign * bar[k, j] * s2[k, j]
    _clear(y_)
    _forward(d1, x1_, y_)
    _times(t1, y_, y_)
    _times(k1, y_, v_)
    _clear(q_)
    _forward(d2, x2_, q_)
    _forward(mix, v_, q_)
    for o in range(e2.shape[0]):
        total = e2.dtype.type(0)
        for j in range(e2.shape[1]):
            t = t2[o, j]
            total += q_[o, j] * k2[o, j] * t
            k2_bar[o, j] += q_[o, j] * m[o, 0] * t
            q_bar[o, j] = q_[o, j] * m[o, 0] * k2[o, j] * (t - t * t)
            h2_bar[o, j] += q_bar[o, j]
        m_bar[o, 0] += total
    _clear(v_bar)
    _forward(mix.T, q_bar, v_bar)
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
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
    _clear(w1)
    _clear(w2)
    _forward(d1.T, p_bar, w1)
    _forward(d2.T, q_bar, w2)
    for k in range(x.shape[0]):
        for j in range(x.shape[1]):
            x_bar[k, j] += w1[k, j] * s1[k, j] + w2[k, j] * s2[k, j]
            s1_bar[k, j] += w1[k, j] * x[k, j] + r1[k, j] * sign * bar[k, j]
            s2_bar[k, j] += w2[k, j] * x[k, j] + r2[k, j] * sign * bar[k, j]


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
def _free_adjoint(net: Any, net_bar: Any, free: Any, free_bar: Any, z: Any, z_bar: Any) -> None:
    """From the bars of scales, shifts and gates to those of the weights and of z (added to)."""
    _, _, _, x1, sx1, mid, smid, _, sg2 = free
    lin1_bar, lin2_bar, gate2_bar = free_bar
    m1, m12 = x1.shape[0], mid.shape[0]
    _times(sg2, gate2_bar, gate2_bar)
    _affine_adjoint(net[4], net_bar[4], net_bar[5], mid[m1:], gate2_bar, lin2_bar[m1:m12])
    _times(smid, lin2_bar, lin2_bar)
    _affine_adjoint(net[2], net_bar[2], net_bar[3], x1, lin2_bar, lin1_bar[:m1])
    _times(sx1, lin1_bar, lin1_bar)
    _affine_adjoint(net[0], net_bar[0], net_bar[1], z, lin1_bar, z_bar)


@inner
def _forces(slope: Any, force: Any, head: Any, g: Any) -> None:
    """g from G and from F_ex at driven ends, where head is -1 - trajectory."""
    bonds, skip = head.shape[0], slope.shape[0] - g.shape[0]
    for k in range(g.shape[0]):
        for j in range(g.shape[1]):
            if k >= bonds:
                g[k, j] = -slope[skip + k, j]
            else:
                to = head[k, j]
                g[k, j] = (slope[0, to] if to >= 0 else force[-1 - to]) - slope[0, j]


@numeric
def _pull(weights: Any, search: Any, state: Any, slope: Any, velocity: Any, force: Any) -> None:
    """F_ex of all trajectories, for which their ends move as given; a guess is replaced.

    r of the last bond rises with its g by a slope of at least its mobility m, so that the root of
    r = v lies within |r - v| / m of any guess, on a known side. Secants, which halve the bracket
    where they would leave it.
    """
    (_, _, power, linear, mobility), (room, lasts, rows, base) = weights, search
    (z, g, zero, rate, _, _, free, path, mems), (root, error, steep, left, right) = room, rows
    one, none, half, m = g.dtype.type(1), g.dtype.type(0), g.dtype.type(0.5), mobility[0, 0]
    _clear(base)
    for j, last in enumerate(lasts):
        for k in range(z.shape[0]):
            z[k, j] = state[k, last]
            g[k, j] = -slope[k, last]
        g[0, j] += force[j]
    _free(linear, z, free)
    _slope(power, path, zero, mems[1], -one, base)
    for turn in range(100):
        _copy(base, rate)
        _slope(power, path, g, mems[0], one, rate)
        largest = none
        for j in range(len(lasts)):
            x = g[0, j]
            wrong = rate[0, j] + m * x - velocity[j]
            if turn == 0:
                reach = abs(wrong) / m + abs(x) * g.dtype.type(1e-6)
                steep[0, j], left[0, j], right[0, j] = m, x - reach, x + reach
            elif x != root[0, j]:
                steep[0, j] = max(m, (wrong - error[0, j]) / (x - root[0, j]))
            if wrong < none:
                left[0, j] = x
            else:
                right[0, j] = x
            root[0, j], error[0, j] = x, wrong
            x -= wrong / steep[0, j]
            if not left[0, j] <= x <= right[0, j]:
                x = half * (left[0, j] + right[0, j])
            g[0, j] = x
            largest = max(largest, abs(x - root[0, j]) / (one + abs(x)))
        if not largest > g.dtype.type(1e-15):
            break
    for j, last in enumerate(lasts):
        force[j] = g[0, j] + slope[0, last]


@entry
def _roll(weights: Any, room: Any, record: Any, given: Any, bonds: Any, moved: bool, search: Any) -> None:
    """Fill in a block of one replica.

    record: states (steps + 1, d, lanes), with the first ones given and, at a point, every field; G,
    (steps, d, lanes); the law's own v_n at each step, (steps, trajectories).
    given: F_ex, v_n, (steps, trajectories) each, and the length of each step, (steps, lanes).
    bonds: head and tail of each.
    search: memory to find F_ex from v_n, which then is written; None where it is given.
    """
    (path, slopes, ends), (force, velocity, clock), (head, tail) = record, given, bonds
    (net, biases, power, linear, mobility), (_, g, zero, rate, cond, mem, free, gated, mems) = weights, room
    (_, d, lanes), c, one, none = path.shape, g.shape[0], clock.dtype.type(1), clock.dtype.type(0)
    skip, known = d - c, d - linear[0].shape[0]
    _spread(biases[0], cond[1])
    _spread(biases[1], cond[4])
    for n in range(len(clock)):
        state, new, slope = path[n], path[n + 1], slopes[n]
        _clear(slope)
        _slope(net, cond, state, mem, one, slope)
        if search is not None:  # of the type of the argument: costs nothing where it is None
            for b in range(force.shape[1]):  # a guess: that of the step before
                force[n, b] = force[max(n - 1, 0), b]
            _pull(weights, search, state, slope, velocity[n], force[n])
        _forces(slope, force[n], head, g)
        for k in range(c):
            for j in range(lanes):
                rate[k, j] = mobility[0, k] * g[k, j]
        _free(linear, state[known:], free)
        _slope(power, gated, g, mems[0], one, rate)
        _slope(power, gated, zero, mems[1], -one, rate)
        for k in range(head.shape[0], c):
            for j in range(lanes):
                new[skip + k, j] = state[skip + k, j] + clock[n, j] * rate[k, j]
        if head.shape[0]:
            for j in range(lanes):
                if head[0, j] < 0:
                    ends[n, -1 - head[0, j]] = rate[0, j]
                    if moved:
                        rate[0, j] = velocity[n, -1 - head[0, j]]
            for j in range(lanes):
                brought = none
                for k in range(head.shape[0]):
                    brought += rate[k, j] - (rate[k, tail[k, j]] if tail[k, j] >= 0 else none)
                new[0, j] = state[0, j] + clock[n, j] * brought


@entry
def _roll_back(
    weights: Any, weights_bar: Any, room: Any, room_bar: Any, record: Any, given: Any, bonds: Any, moved: bool
) -> None:
    """Add to the bars of the weights; leave those of the first states in the last of record.

    record: as in `_roll`, with the bars of the states, those of the end's answers (of the law's own
    v_n, (steps, 1, trajectories), or of F_ex at a point, (steps, fields, lanes)).
    """
    (path, slopes, path_bar, ends_bar, new), (force, _, clock), (head, tail) = record, given, bonds
    (net, biases, power, linear, mobility), (net_bar, biases_bar, power_bar, linear_bar, mobility_bar) = (
        weights,
        weights_bar,
    )
    _, g, zero, rate, cond, mem, free, gated, mems = room
    z_bar, slope, g_bar, unused, cond_bar, tmp, free_bar, gated_bar, power_tmp = room_bar
    (_, d, lanes), c, one, none = path.shape, g.shape[0], clock.dtype.type(1), clock.dtype.type(0)
    skip, known, directions = d - c, d - linear[0].shape[0], head.shape[0]
    first = 0 if directions else skip  # of the state's parts that evolve
    _spread(biases[0], cond[1])
    _spread(biases[1], cond[4])
    for n in range(len(clock) - 1, -1, -1):
        state = path[n]
        for k in range(first, d):
            for j in range(lanes):
                new[k, j] += path_bar[n + 1, k, j]
        _forces(slopes[n], force[n], head, g)
        _free(linear, state[known:], free)
        _slope(power, gated, g, mems[0], one, rate)
        _slope(power, gated, zero, mems[1], one, rate)
        for k in range(c):  # from here on its bar
            total = none
            for j in range(lanes):
                if k >= directions:
                    rate[k, j] = clock[n, j] * new[skip + k, j]
                else:
                    to = head[k, j]
                    if to >= 0:
                        rate[k, j] = clock[n, j] * (new[0, j] - new[0, to])
                    else:
                        rate[k, j] = ends_bar[n, 0, -1 - to] + (none if moved else clock[n, j] * new[0, j])
                total += rate[k, j] * g[k, j]
                g_bar[k, j] = mobility[0, k] * rate[k, j]
            mobility_bar[0, k] += total
        for part in free_bar:
            _clear(part)
        _slope_adjoint(power, power_bar, gated, gated_bar, g, mems[0], power_tmp, one, rate, g_bar)
        _slope_adjoint(power, power_bar, gated, gated_bar, zero, mems[1], power_tmp, -one, rate, unused)
        _clear(z_bar)
        _free_adjoint(linear, linear_bar, free, free_bar, state[known:], z_bar[known:])
        _slope(net, cond, state, mem, one, slope)
        _clear(slope)  # from here on its bar
        for k in range(directions, c):
            for j in range(lanes):
                slope[skip + k, j] = -g_bar[k, j]
        for k in range(directions):
            for j in range(lanes):
                slope[0, j] += (g_bar[k, tail[k, j]] if tail[k, j] >= 0 else none) - g_bar[k, j]
        if directions == 0:
            _copy(ends_bar[n], slope)
        _slope_adjoint(net, net_bar, cond, cond_bar, state, mem, tmp, one, slope, z_bar)
        for k in range(first, d):
            for j in range(lanes):
                new[k, j] += z_bar[k, j]
    _total(cond_bar[1], biases_bar[0])
    _total(cond_bar[4], biases_bar[1])


Arrays = tuple[Any, ...]  # of arrays, or of tuples of arrays


class Widths(NamedTuple):
    """Sizes of a law's networks.

    Attributes:
        state: width of the state, of which the INN is a function.
        known: of what the PICINN is a free function.
        forces: width of g.
        energy: hidden layers of the INN.
        power: hidden layers of the PICINN.
    """

    state: int
    known: int
    forces: int
    energy: tuple[int, int]
    power: tuple[int, int]

    def views(self, flat: Any) -> Arrays:
        """The weight matrices in a flat vector, as `fused_weights` gives it for one replica.

        INN: W1, W2, nothing, w3 and its biases b1, b2. PICINN: drive D1, mix M1 (positive), D2, M2;
        and its free path: what z feeds (free, scale and shift of layer 1, side by side), what x1
        feeds (gate of layer 1; free, scale and shift of layer 2), what x2 feeds (its gate), each a
        W and a b. Last the mobilities. A network is thus as `_slope` takes it.
        """
        d, c, (e1, e2), (m1, m2) = self.state, self.forces, self.energy, self.power
        stacked = [(self.known, 2 * m1 + c), (m1, m1 + 2 * m2 + c), (m2, m2)]
        groups = [[(d, e1), (e1, e2), (0, e2), (e2, 1)], [(1, e1), (1, e2)], [(c, m1), (m1, m2), (c, m2), (m2, 1)]]
        groups += [[shape for rows, out in stacked for shape in ((rows, out), (1, out))], [(1, c)]]
        parts: list[Arrays] = []
        at = 0
        for group in groups:
            ends = np.cumsum([at] + [rows * columns for rows, columns in group]).tolist()
            pairs = zip(ends[:-1], ends[1:], group, strict=True)
            parts.append(tuple(flat[low:high].reshape(shape) for low, high, shape in pairs))
            at = ends[-1]
        return *parts[:-1], parts[-1][0]

    def room(self, lanes: int, real: Any) -> tuple[Arrays, Arrays]:
        """Memory for one step of the loop and for its way back.

        Args:
            lanes: sites side by side.
            real: type of the numbers.
        """
        d, c, (e1, e2), (m1, m2) = self.state, self.forces, self.energy, self.power

        def make(*heights: int) -> Arrays:
            return tuple(np.zeros((height, lanes), real) for height in heights)

        nets, one = ((d, e1, e2), (c, m1, m2)), np.ones((max(d, e1, e2), lanes), real)
        cond = one[:d], *make(e1), one[:e1], one[:d], *make(e2), one[:e2]
        free, bar = (make(2 * m1 + c, m1 + 2 * m2 + c, m2) for _ in range(2))
        free = (*free, *make(m1, m1, m1 + m2, m1 + m2, m2, m2))
        mem, *mems = (make(x, x, a, a, a, a, b, b, b, a, a, x, x) for x, a, b in (*nets, nets[1]))
        tmp, power_tmp = (make(x, x, a, a, b, a, b, a, x, x) for x, a, b in nets)
        forth = *make(d, c, c, c), cond, mem, free, _gated(*free[:2], free[5], free[7], c), tuple(mems)  # type: ignore[call-arg]
        back = *make(d, d, c, c), make(d, e1, e1, d, e2, e2), tmp, bar, _gated(*bar[:2], *bar[1:], c), power_tmp  # type: ignore[call-arg]
        return forth, back


def _gated(lin1: Any, lin2: Any, mid: Any, gate: Any, c: int) -> Arrays:
    """Scale, shift and gate of both layers in the stacked outputs of `_free`, or in their bars."""
    m2 = len(gate)
    m1 = (len(lin1) - c) // 2
    return lin1[m1 : m1 + c], lin1[m1 + c :], mid[:m1], lin2[m1 + m2 : m1 + m2 + c], lin2[m1 + m2 + c :], gate


class Run(NamedTuple):
    """What a rollout in scaled variables needs beside weights and first states; blocks in front.

    Attributes:
        widths: sizes of the law's networks.
        given: F_ex and v_n of each step, (replicas, blocks, steps, trajectories), 0 where there is
            none, and the length of each step, (replicas, blocks, steps, lanes).
        field: of a point, (replicas, blocks, steps, fields, lanes).
        bonds: head and tail of the sites of a block, (directions, lanes), a driven end being -1 -
            trajectory.
        moved: an end moves at the velocity that is given.
        search: F_ex is found from it.
    """

    widths: Widths
    given: Arrays
    field: Any
    bonds: tuple[Any, Any]
    moved: bool
    search: bool

    def blocks(self, work: Callable[[tuple[int, int]], None]) -> None:
        """Call work((replica, block)) for all, on as many threads as pay."""
        replicas, number, steps, lanes = self.given[2].shape
        tasks = [(r, n) for n in range(number) for r in range(replicas)]
        threads = 1 if len(tasks) * steps * lanes < LITTLE else torch.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:
            list(map(work, tasks) if threads == 1 else pool.map(work, tasks))


class _Rollout(torch.autograd.Function):
    """Of each block the states, G and the end's answers, differentiable by weights and first states.

    In the precision of `flat` throughout; the results come back in that of `start`.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, start: Tensor, run: Run) -> tuple[Tensor, Tensor]:
        weights, first = _arrays(flat.dtype, flat, start)
        (*front, d, lanes), steps, point = first.shape, run.given[2].shape[2], len(run.bonds[0]) == 0
        path, slopes = (np.empty((*front, steps + more, d, lanes), weights.dtype) for more in (1, 0))
        ends, (force, velocity, clock) = np.zeros_like(run.given[0]), run.given
        path[:, :, 0] = first
        if point:
            path[:, :, :-1, : run.field.shape[3]] = run.field
        force = np.zeros_like(ends) if run.search else force

        def work(at: tuple[int, int]) -> None:
            search, lasts = None, np.flatnonzero(run.bonds[0][:1] < 0)
            if run.search:
                wide = PAD * -(-len(lasts) // PAD)
                rows = tuple(np.zeros((n, wide), weights.dtype) for n in (1, 1, 1, 1, 1, run.widths.forces))
                search = run.widths.room(wide, weights.dtype)[0], lasts, rows[:5], rows[5]
            room, record = run.widths.room(lanes, weights.dtype)[0], (path[at], slopes[at], ends[at])
            given = force[at], velocity[at], clock[at]
            _roll(run.widths.views(weights[at[0]]), room, record, given, run.bonds, run.moved, search)

        run.blocks(work)
        ctx.kept = weights, path, slopes, run, start.dtype
        answers = slopes[:, :, :, : run.field.shape[3]] if point else (force if run.search else ends)[:, :, :, None]
        return torch.from_numpy(path[:, :, 1:]).to(start.dtype), torch.from_numpy(answers).to(start.dtype)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[Any, ...]:
        weights, path, slopes, run, dtype = ctx.kept
        path_bar, ends_bar = np.zeros_like(path), np.ascontiguousarray(bars[1].numpy(), path.dtype)
        path_bar[:, :, 1:] = bars[0].numpy()
        weights_bar = np.zeros((*path.shape[:2], weights.shape[1]), path.dtype)
        start_bar = np.zeros_like(path[:, :, 0])

        def work(at: tuple[int, int]) -> None:
            record = path[at], slopes[at], path_bar[at], ends_bar[at], start_bar[at]
            views = run.widths.views(weights[at[0]]), run.widths.views(weights_bar[at])
            room = run.widths.room(path.shape[4], path.dtype)
            _roll_back(*views, *room, record, tuple(part[at] for part in run.given), run.bonds, run.moved)

        run.blocks(work)
        return torch.from_numpy(weights_bar.sum(1)), torch.from_numpy(start_bar).to(dtype), None


def _arrays(dtype: torch.dtype, *parts: Tensor) -> list[Any]:
    """All of them as arrays in one precision."""
    return [part.detach().to(dtype).contiguous().numpy() for part in parts]


def fused_weights(law: Law) -> tuple[Widths, Tensor]:
    """Sizes of a law, and all its weights, those that must be positive made so: (replicas, all).

    `Widths.views` finds the matrices in a row.

    Args:
        law: of which `fuses` is true.

    >>> from ibvonns.layouts import Point
    >>> from ibvonns.networks import generators
    >>> widths, flat = fused_weights(Law(generators([0, 1]), Point()))
    >>> widths.state, widths.forces, len(flat)
    (2, 1, 2)
    """
    energy: Any = law.energy_network  # a list of modules has no types
    power: Any = law.dissipation_network
    parts = [layer.weight for layer in (*energy.layers, energy.last)] + [layer.bias for layer in energy.layers]
    for n in range(2):
        parts += [power.gain[:, None] * power.drive[n].weight, power.mix[n].weight]
    for group in (
        (power.free[0], power.scale[0], power.shift[0]),
        (power.gate[0], power.free[1], power.scale[1], power.shift[1]),
        (power.gate[1],),
    ):
        parts += [torch.cat([part.weight for part in group], 2), torch.cat([part.bias for part in group], 2)]
    none = parts[0].new_zeros(len(parts[0]), 1, power.inputs[1])
    parts.append(none if law.mobility is None else softplus(law.mobility))
    hidden = [layer.bias.shape[-1] for layer in [*energy.layers, *power.free]]
    widths = Widths(energy.inputs, *power.inputs, (hidden[0], hidden[1]), (hidden[2], hidden[3]))  # type: ignore[call-arg]
    return widths, torch.cat([part.flatten(1) for part in parts], 1)


def fuses(law: Any, z: Tensor) -> bool:
    """Whether the loop knows such a law and such states: two hidden layers, float64, processor.

    Args:
        law: anything; only a `Law` is known.
        z: states.

    >>> from ibvonns.layouts import Point
    >>> from ibvonns.networks import generators
    >>> law = Law(generators([0]), Point())
    >>> fuses(law, torch.zeros(1, 3, 1, 2, dtype=torch.float64))
    True
    """
    if not isinstance(law, Law):
        return False
    depths = {len(law.energy_network.layers), len(law.dissipation_network.free)}
    return depths == {2} and z.device.type == "cpu" and z.dtype == torch.float64


def fused_rollout(
    law: Law,
    start: Tensor,
    steps: Tensor,
    field: Tensor | None,
    force: Tensor | None,
    velocity: Tensor | None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Rollouts by the compiled loop; `rollout` has the public function and says what they are.

    Args:
        law: of which `fuses` is true.
        start: first states, shape (replicas, trajectories, sites, fields + internal).
        steps: lengths in time, shape (replicas, trajectories, steps), as all that follow.
        field: of a point at each step, with a last axis for the fields.
        force: F_ex at a driven end; if not given it is found from `velocity`, and nothing is
            differentiable.
        velocity: v_n of a driven end; if not given F_ex drives it.
        dtype: precision of the loop.

    Nothing is checked here.

    Returns:
        States after each step, (replicas, trajectories, steps, sites, fields + internal), and what
        the end answers at the beginning of each, (replicas, trajectories, steps, ends).
    """
    layout, (replicas, trajectories, sites, _), fields = law.layout, start.shape, law.layout.fields
    widths, flat = fused_weights(law)
    flat, (mean, deviation) = flat.to(dtype), law.field
    number = min(max(-(-trajectories * sites // LANES), -(-torch.get_num_threads() // replicas)), trajectories)
    some = -(-trajectories // number)
    number, spare = -(-trajectories // some), -some * sites % PAD

    def packed(part: Tensor, wide: bool = True) -> Tensor:
        """From (replicas, trajectories, ..., last) to blocks of lanes: (replicas, blocks, ..., lanes)."""
        part = part.movedim(1, -2) if wide else part.movedim(1, -1)[..., None]  # (..., trajectories, sites)
        part = pad(part, (0, 0, 0, some * number - trajectories)).unflatten(-2, (number, some))
        return pad(part.flatten(-2), (0, spare if wide else 0)).movedim(-2, 1)

    nothing = steps.new_zeros(steps.shape)
    pull = nothing if force is None else force / law.force
    speed = nothing if velocity is None else velocity / law.rate
    controls = nothing[..., None] if field is None else (field - mean) / deviation
    clock = packed((law.clock * steps)[..., None].expand(*steps.shape, sites))
    parts = packed(pull, False), packed(speed, False), clock, packed(controls, False)
    *given, controls = _arrays(dtype, *parts[:3], pad(parts[3], (0, spare)))
    search = layout.driven and force is None
    run = Run(widths, tuple(given), controls, _bonds(layout, some, sites), velocity is not None, search)
    path, ends = _Rollout.apply(flat, packed(law.scaled(start).movedim(-1, 2)), run)

    def unpacked(part: Tensor, each: int) -> Tensor:
        """From blocks to trajectories: (replicas, trajectories, ..., last)."""
        part = part[..., : some * each].unflatten(-1, (some, each)).movedim(-2, 2)
        return part.flatten(1, 2)[:, :trajectories]

    path = unpacked(path, sites).movedim(3, -1)
    path = torch.cat([mean + deviation * path[..., :fields], path[..., fields:]], -1)
    unit = law.rate if layout.driven and not search else law.force
    return path, unit * unpacked(ends, 1)[..., 0][..., : layout.ends]


def _bonds(layout: Layout, trajectories: int, sites: int) -> tuple[Any, Any]:
    """Head and tail of the sites of a block; ends are -1 - trajectory, spare lanes lead to themselves."""
    head, tail = (part[:, None] for part in layout.bonds(sites))
    each = torch.arange(trajectories)[:, None]
    head = torch.where(head < 0, -1 - each, head + sites * each).flatten(1)
    tail = torch.where(tail < 0, tail, tail + sites * each).flatten(1)
    spare = (sites * trajectories + torch.arange(-sites * trajectories % PAD)).expand(len(head), -1)
    return torch.cat([head, spare], 1).numpy(), torch.cat([tail, spare], 1).numpy()
