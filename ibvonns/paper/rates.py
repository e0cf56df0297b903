"""Compiled loops of laws whose rates come from plain networks of two hidden layers, and their adjoint.

With the scaled variables of `ibvonns.adjoint`, whose kernels do the work, and tanh networks N and E, the rates are::

    r = N(state, states ahead)                     the last site of a row has none ahead, but
    r = o + u F_ex, (o, u) = E(state)              with u of the velocity made positive, so that F_ex = (v_n - o) / u
    F_ex = E(state)                                at a point

E sees ends alone, whose lanes are gathered.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ibvonns.adjoint import (
    PAD,
    Arrays,
    Loops,
    _advance,
    _affine,
    _bent,
    _copy,
    _free_adjoint,
    _rate_bars,
    entry,
    inner,
    leaf,
)

__all__ = ["PLAIN"]


@leaf
def _bend(x: Any, slope: Any) -> None:
    """x, slope = tanh(x), 1 - tanh(x)^2."""
    one = x.dtype.type(1)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            half = _bent(x[i, j] + x[i, j])[1]
            x[i, j] = half + half - one
            slope[i, j] = one - x[i, j] * x[i, j]


@inner
def _through(net: Any, x: Any, layers: Any, slopes: Any) -> None:
    """Layers of the network of x, the last of which is what it gives, and slopes of what is bent."""
    _affine(net[0], x, net[1], layers[0])
    _bend(layers[0], slopes[0])
    _affine(net[2], layers[0], net[3], layers[1])
    _bend(layers[1], slopes[1])
    _affine(net[4], layers[1], net[5], layers[2])


@inner
def _rates(weights: Any, room: Any, state: Any, own: Any, head: Any, search: bool) -> None:
    """r of a state, left in room with F_ex at driven ends, its slope of v_n and all else that the way back needs."""
    (edge, pull, turn), (seen, layers, slopes, _, _), (last, below, steep, _, _) = room
    rate, out, d, c, zero = layers[2], below[2], len(state), len(layers[2]), state.dtype.type(0)
    _copy(state, seen)
    for k in range(len(head)):
        for i in range(d):
            for j in range(state.shape[1]):
                seen[d + k * d + i, j] = state[i, head[k, j]] if head[k, j] >= 0 else zero
    for i in range(d):
        for e in range(len(edge)):
            last[i, e] = state[i, edge[e]]
    _through(weights[0], seen, layers, slopes)
    _through(weights[1], last, below, steep)
    for e in range(len(edge) if len(head) else 0):
        j = edge[e]
        out[c, e], turn[e] = _bent(out[c, e] + state.dtype.type(2))
        pull[e] = (own[1, j] - out[0, e]) / out[c, e] if search else own[0, j]
        for k in range(c):
            rate[k, j] = out[k, e] + out[c + k, e] * pull[e]


@entry
def _roll(
    weights: Any, room: Any, path: Any, ends: Any, given: Any, bonds: Any, moved: bool, search: bool, halves: bool
) -> None:
    """Fill in a block of one replica, as `ibvonns.adjoint._roll`."""
    head, (edge, pull, _), rate, out = bonds[0], room[0], room[1][1][2], room[2][1][2]
    for n in range(len(given)):
        state, own = path[n], given[n]
        _copy(own[3:], state)
        _rates(weights, room, state, own, head, search)
        _copy(rate[: len(head)] if len(head) else out, ends[n])
        for e in range(len(edge) if search else 0):
            ends[n, 0, edge[e]] = pull[e]
        base = path[n - 1] if halves and n % 2 == 1 else state
        _advance(rate, own, bonds, moved, len(rate), base, path[n + 1])


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
    """Add to the bars of the weights and of the states, as `ibvonns.adjoint._roll_back`."""
    (head, tail), (weights, weights_bar), zero = bonds, views, path.dtype.type(0)
    (edge, pull, turn), (seen, layers, slopes, bars, seen_bar), (last, below, steep, below_bars, last_bar) = room
    bar, out_bar, (_, d, lanes), c = bars[2], below_bars[2], path.shape, len(bars[2])
    for n in range(len(given) - 1, -1, -1):
        old, new = path_bar[n], path_bar[n + 1]
        base = path_bar[n - 1] if halves and n % 2 == 1 else old
        _rates(weights, room, path[n], given[n], head, search)
        for part in (*bars, *below_bars, seen_bar, last_bar):
            part[:] = zero
        _rate_bars(new, ends_bar[n], given[n], head, moved, c, bar)
        if len(head) == 0:
            _copy(ends_bar[n], out_bar)
        for e in range(len(edge) if len(head) else 0):
            for k in range(c):
                out_bar[k, e], out_bar[c + k, e] = bar[k, edge[e]], bar[k, edge[e]] * pull[e]
                bar[k, edge[e]] = zero
            out_bar[c, e] *= turn[e]
        _free_adjoint(weights[0], weights_bar[0], layers, bars, slopes, seen, seen_bar, 0)
        _free_adjoint(weights[1], weights_bar[1], below, below_bars, steep, last, last_bar, 0)
        for i in range(d):
            for j in range(lanes):
                base[i, j] += new[i, j]
                old[i, j] += seen_bar[i, j]
                for k in range(len(head)):
                    old[i, j] += seen_bar[d + k * d + i, tail[k, j]] if tail[k, j] >= 0 else zero
            for e in range(len(edge)):
                old[i, edge[e]] += last_bar[i, e]


def _weights(law: Any) -> list[Tensor]:
    """Matrices of N and of E, then biases; where there is no end, N stands for E, which sees no lane then."""
    layers = [layer for net in (law.between, getattr(law, "end", law.between)) for layer in net.layers]
    return [layer.weight for layer in layers] + [layer.bias[:, 0] for layer in layers]


def _views(weights: Sequence[Any]) -> Arrays:
    """N and E, each a matrix and a bias of each layer in turn."""
    return tuple(tuple(weights[3 * net + n // 2 + 6 * (n % 2)] for n in range(6)) for net in range(2))


def _room(weights: Arrays, bonds: Arrays) -> Arrays:
    """Lanes of ends, F_ex and a slope there; of each network its input, layers, slopes and bars of both."""
    head, real = bonds[0], weights[0][0].dtype
    edge = np.flatnonzero(head[0] < 0) if len(head) else np.arange(head.shape[1])

    def make(net: Arrays, lanes: int) -> Arrays:
        seen, *sizes = len(net[0]), *(matrix.shape[1] for matrix in net[::2])

        def some(*heights: int) -> Arrays:
            return tuple(np.zeros((height, lanes), real) for height in heights)

        return *some(seen), some(*sizes), some(*sizes[:2], 0), some(*sizes), *some(seen)

    marks = edge, np.zeros(len(edge), real), np.zeros(len(edge), real)
    return marks, make(weights[0], head.shape[1]), make(weights[1], -(-len(edge) // PAD) * PAD)


def _deep(law: Any) -> bool:
    return {len(net.layers) for net in law.children()} == {3}


#: For `ibvonns.adjoint.LOOPS`: of laws with MLPs `between` and, if the layout has ends, `end`.
PLAIN = Loops(_deep, _weights, _views, _room, _roll, _roll_back)
