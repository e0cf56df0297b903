r"""Which data determine the potentials of the trap, and how far f is free where they do not.

Let two pairs (f, psi), with psi convex in the rate r and least at rest, obey Eqs. (23) and (24) on
all states (mu, lambda) that data visit. The slice of the visited set at mu, as rates
r = k (lambda - 2 mu) / eta, falls into intervals, its connected components.

Theorem. On each component I the difference of the pairs is

    Delta f = C_I(mu),   d Delta psi / dr = eta d_I(mu),   C_I' = -eta d_I;

d_I = 0 if I contains rest; and d_J - d_I >= -(distance of I and J) for J above I, where rest
counts as a component of its own, with d = 0, if it is not visited. Where components meet, as mu
varies, their C and d agree. Any d that do all this, with the last inequality strict, belong to a pair.

Proof. Both f have the slope F_ex in lambda along I, so that Delta f is a number C_I there, one for
each mu. Then Eq. (24) gives C_I' + d Delta psi / dr = 0, with a first term that is the same all
over I. A convex psi has a slope that rises from 0 at rest, which is the inequality. For the
converse, join the slopes r + d_I across the gaps by straight lines: they rise, and their integral
is convex. Join the C_I smoothly. Appendix A.2 of the paper is the case of a single component.

The bound on Delta f is therefore a linear programme in C and d. It is solved on a grid of mu, by
SciPy, which comes with the extra `book`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibvonns.systems.trap import Trap
from ibvonns.validation import count, finite, positive, require, shaped

__all__ = ["Pair", "Visited", "components"]

Array = NDArray[Any]
TOUCH = 1e-9  # intervals this close are one
STEEPEST = 2.0  # the largest d of a pair, in units of the rate


def components(intervals: Array) -> Array:
    """Connected components of a union of closed intervals, sorted, shape (components, 2).

    Args:
        intervals: lower and upper ends, shape (intervals, 2), one or more.

    >>> components(np.array([[2.0, 3.0], [0.0, 1.0], [0.5, 1.5]])).tolist()
    [[0.0, 1.5], [2.0, 3.0]]
    """
    low, high = intervals[np.argsort(intervals[:, 0])].T
    covered = np.maximum.accumulate(high)
    first = np.flatnonzero(np.append(True, low[1:] > covered[:-1] + TOUCH))
    return np.stack([low[first], covered[np.append(first[1:] - 1, -1)]], 1)


def _slices(corners: Array, places: Array) -> tuple[Array, Array]:
    """Least and greatest rate of quadrilaterals (quads, 4, 2) at each mu: two of (places, quads)."""
    low = np.full((len(places), len(corners)), np.inf)
    high = -low
    for start, stop in zip(corners.swapaxes(0, 1), np.roll(corners, -1, 1).swapaxes(0, 1), strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            part = (places[:, None] - start[:, 0]) / (stop[:, 0] - start[:, 0])
            rate = start[:, 1] + part * (stop[:, 1] - start[:, 1])
        inside = (part >= 0) & (part <= 1)
        low, high = np.where(inside, np.minimum(low, rate), low), np.where(inside, np.maximum(high, rate), high)
    return low, high


@dataclass(frozen=True)
class Visited:
    """What pulls at all velocities from the slowest to 1 visit, by components of slices at mu.

    The trap is linear: a pull at velocity v visits v (mu, r), with the path (mu, r) at velocity 1.

    >>> from ibvonns.protocols import pulled_length
    >>> from ibvonns.systems.trap import paper_times
    >>> lengths = pulled_length("oscillating", torch.ones(1, dtype=torch.float64), paper_times())
    >>> means = Trap().mean(lengths, paper_times())
    >>> Visited.by(Trap(), lengths, means, slowest=0.0, cells=100).freedom(mean=1.0)
    (0.0, 0.0)

    Attributes:
        trap: whose states they are.
        places: even grid of mu, shape (places,), a length.
        at: index of the place of each node, shape (nodes,). A node is a component, widened to
            what the two cells beside its place visit; rest is a node where it is not visited.
        hull: its least and greatest rate, shape (nodes, 2).
        slice: those of the slice itself, shape (nodes, 2).
        links: nodes left and right of each component of a cell, shape (links, 2).
    """

    trap: Trap
    places: Array
    at: Array
    hull: Array
    slice: Array
    links: Array

    @staticmethod
    def by(
        trap: Trap, lengths: Tensor, means: Tensor, slowest: float, cells: int = 1600, blur: float = 0.0
    ) -> "Visited":
        """The set that pulls visit, with straight lines between their times.

        Args:
            trap: that is pulled.
            lengths: lambda at velocity 1, shape (protocols, times).
            means: mu there, same shape.
            slowest: velocity, from 0 to 1.
            cells: of the grid of mu.
            blur: a rate, by which components are widened on both sides, for noise.

        Raises:
            ValueError: NaN, wrong shape, a velocity out of range, no cell, or a blur below 0.
        """
        shaped("means", finite("means", means), ("protocols", "times"))
        shaped("lengths", finite("lengths", lengths), means.shape)
        require(positive("slowest", slowest, least=0.0) <= 1, f"slowest must be at most 1, but is {slowest}")
        points = torch.stack([means, trap.thermodynamic_force(lengths, means) / trap.viscosity], -1).numpy()
        one, other = points[:, :-1].reshape(-1, 2), points[:, 1:].reshape(-1, 2)
        corners = np.stack([slowest * one, slowest * other, other, one], 1)
        step = float(np.ptp(corners[..., 0])) / count("cells", cells)
        ends = np.floor(corners[..., 0].min() / step), np.ceil(corners[..., 0].max() / step)
        places = step * np.arange(ends[0], ends[1] + 1)  # with 0, where everything starts
        low, high = _slices(corners, places)
        low, high = low - positive("blur", blur, least=0.0), high + blur
        least, greatest = np.minimum(low[1:], low[:-1]), np.maximum(high[1:], high[:-1])
        for corner in corners.swapaxes(0, 1):
            cell = np.clip(np.searchsorted(places, corner[:, 0], side="right") - 1, 0, len(least) - 1)
            for near in (cell, np.maximum(cell - (places[cell] == corner[:, 0]), 0)):
                np.minimum.at(least, (near, np.arange(len(cell))), corner[:, 1] - blur)
                np.maximum.at(greatest, (near, np.arange(len(cell))), corner[:, 1] + blur)
        parts = [components(np.stack(pair, 1)[pair[0] <= pair[1]]) for pair in zip(least, greatest, strict=True)]
        nodes = [_and_rest(components(np.concatenate(parts[max(n - 1, 0) : n + 1]))) for n in range(len(places))]
        at, hull = np.repeat(np.arange(len(nodes)), [len(node) for node in nodes]), np.concatenate(nodes)
        cell, start = np.repeat(np.arange(len(parts)), [len(part) for part in parts]), np.concatenate(parts)[:, 0]
        links = np.stack([_owner(at, hull, place, start) for place in (cell, cell + 1)], 1)
        place, quad = np.nonzero(low <= high)
        owner, inner = _owner(at, hull, place, low[place, quad]), np.tile([np.inf, -np.inf], (len(at), 1))
        np.minimum.at(inner[:, 0], owner, low[place, quad])
        np.maximum.at(inner[:, 1], owner, high[place, quad])
        return Visited(trap, places, at, hull, np.where(inner[:, :1] > inner[:, 1:], hull, inner), links)

    @property
    def met(self) -> Array:
        """Whether a node is visited, shape (nodes,)."""
        return self.hull[:, 1] > self.hull[:, 0]

    @property
    def rests(self) -> Array:
        """Whether a node contains rest that is visited, shape (nodes,)."""
        return _holds_rest(self.hull) & self.met

    def resting(self) -> Array:
        """Intervals of mu in which rest is visited, shape (intervals, 2)."""
        half, middle = (self.places[1] - self.places[0]) / 2 + TOUCH, self.places[self.at[self.rests]]
        return components(np.stack([middle - half, middle + half], 1)) + [half, -half]

    def with_rest(self, lengths: Tensor, means: Tensor) -> Tensor:
        """Whether states lie in components that contain rest, in the shape of `lengths` and `means`."""
        rates = (self.trap.thermodynamic_force(lengths, means) / self.trap.viscosity).numpy()
        place = np.rint((means.numpy() - self.places[0]) / (self.places[1] - self.places[0])).astype(int)
        node = _owner(self.at, self.hull, place, rates)
        return torch.from_numpy(self.rests[node] & (rates <= self.hull[node, 1]))

    def freedom(self, mean: float) -> tuple[float, float]:
        """Least and greatest Delta f at rest, an energy; infinite where there is no limit.

        Args:
            mean: mu, where rest is visited.

        Raises:
            ValueError: a place where rest is not visited.
        """
        node = self._at_rest(mean)
        ends = [self._extreme(node, sign, self.slice)[0, node] for sign in (-1.0, 1.0)]
        least, greatest = self.trap.viscosity * np.nan_to_num(np.abs(ends), nan=np.inf)
        return 0.0 - float(least), float(greatest)

    def pair(self, mean: float, sign: float = 1.0, margin: float = 0.99) -> "Pair":
        """Potentials that obey both equations on all that is visited, with f shifted most at rest.

        Args:
            mean: mu, where rest is visited.
            sign: 1 to shift f up there, -1 to shift it down.
            margin: the share of each gap that is used, below 1: the rest keeps psi strictly convex.

        Raises:
            ValueError: a place where rest is not visited.
        """
        offset, tilt = self._extreme(self._at_rest(mean), sign, self.hull, margin, STEEPEST)
        met, missed = np.flatnonzero(self.met), np.flatnonzero(~self.met)
        offset[missed] = np.interp(missed, met, offset[met])  # some number for rest where it is not visited
        counts = np.bincount(self.at)  # the last component fills up the rows
        rows = (counts.cumsum() - counts)[:, None] + np.minimum(np.arange(counts.max()), counts[:, None] - 1)
        arrays = [self.places, *(each[rows] for each in (*self.hull.T, offset, tilt))]
        return Pair(self.trap, *(torch.from_numpy(each) for each in arrays))

    def _at_rest(self, mean: float) -> int:
        away = np.where(self.rests, np.abs(self.places[self.at] - mean), np.inf)
        allowed = f"mean must be where rest is visited, but is {mean}"
        require(away.min() <= self.places[1] - self.places[0], allowed)
        return int(away.argmin())

    def _extreme(self, node: int, sign: float, bounds: Array, margin: float = 1.0, steepest: float = np.inf) -> Array:
        """C / eta and d of nodes, (2, nodes), with the largest sign * C at one; NaN if unbounded."""
        from scipy.optimize import linprog
        from scipy.sparse import csr_array

        nodes, links = len(self.at), np.arange(len(self.links))
        columns = np.concatenate([self.links, nodes + self.links], 1)  # C left and right, d left and right
        half = (self.places[1] - self.places[0]) / 2
        entries = np.tile([-1.0, 1.0, half, half], len(links)), (np.repeat(links, 4), columns.ravel())
        above = np.flatnonzero(np.diff(self.at) == 0)  # a node and the next
        gaps, rows = margin * (bounds[above + 1, 0] - bounds[above, 1]), np.tile(np.arange(len(above)), 2)
        rises = np.repeat([1.0, -1.0], len(above)), (rows, nodes + np.append(above, above + 1))
        limits, goal = np.full((2 * nodes, 2), [-np.inf, np.inf]), np.zeros(2 * nodes)
        limits[nodes:] = np.where(_holds_rest(self.hull)[:, None], 0.0, [-steepest, steepest])
        limits[np.flatnonzero(self.rests & (self.places[self.at] == 0))] = 0.0
        goal[node] = -sign
        matrices = csr_array(rises, (len(above), 2 * nodes)), gaps, csr_array(entries, (len(links), 2 * nodes))
        found = linprog(goal, *matrices, np.zeros(len(links)), limits, options={"primal_feasibility_tolerance": 1e-10})
        return found.x.reshape(2, nodes) if found.status == 0 else np.full((2, nodes), np.nan)


def _holds_rest(intervals: Array) -> Array:
    return (intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)


def _and_rest(intervals: Array) -> Array:
    if _holds_rest(intervals).any():
        return intervals
    return np.insert(intervals, np.searchsorted(intervals[:, 0], 0), 0.0, 0)


def _owner(at: Array, hull: Array, place: Array, rate: Array) -> Array:
    """The last node at each place whose least rate is not above the given one."""
    scale = 4 * np.abs(hull).max()
    return np.searchsorted(scale * at + hull[:, 0], scale * place + rate, side="right") - 1


@dataclass(frozen=True)
class Pair:
    """Potentials (f, psi) of the trap, changed by what the data leave free; phi is the dual of psi.

    Attributes:
        trap: whose f and psi are changed.
        places: grid of mu, shape (places,).
        low: least rate of each component, from the lowest up, shape (places, components).
        high: greatest rate, same shape.
        offset: C / eta, same shape.
        tilt: d, a rate, same shape.
    """

    trap: Trap
    places: Tensor
    low: Tensor
    high: Tensor
    offset: Tensor
    tilt: Tensor

    def free_energy(self, lengths: Tensor, means: Tensor) -> Tensor:
        """f(lambda, mu), an energy.

        Args:
            lengths: lambda, of any shape.
            means: mu, same shape.
        """
        rate = self.trap.thermodynamic_force(lengths, means) / self.trap.viscosity
        cell, part = self._cell(means)
        shift = torch.zeros_like(part)
        step = self.places[1] - self.places[0]
        # Hermite's polynomial, with the slopes C' = -d
        for place, away, sign in ((cell, part, 1), (cell + 1, 1 - part, -1)):
            level, slope = self._joined(self.offset, place, rate), self._joined(self.tilt, place, rate)
            shift = shift + (1 - away) ** 2 * ((1 + 2 * away) * level - sign * step * away * slope)
        return self.trap.free_energy(lengths, means) + self.trap.viscosity * shift

    def dissipation(self, means: Tensor, rates: Tensor) -> Tensor:
        """psi(mu, r), an energy per time, convex in r, zero and least at rest.

        Args:
            means: mu, of any shape.
            rates: r, same shape.
        """
        cell, part = self._cell(means)
        bend = (1 - part) * self._bend(cell, rates) + part * self._bend(cell + 1, rates)
        return self.trap.dissipation(rates) + self.trap.viscosity * bend

    def rates(self, means: Tensor, forces: Tensor) -> Tensor:
        """d phi/dg, the rate at which d psi/dr is the force g, by bisection.

        Args:
            means: mu, of any shape.
            forces: g, same shape.
        """
        reach = forces.detach().abs() / self.trap.viscosity + self.tilt.abs().max()
        below, above = -reach, reach
        for _ in range(60):
            middle = ((below + above) / 2).requires_grad_()
            slope = torch.autograd.grad(self.dissipation(means.detach(), middle).sum(), middle)[0]
            below, above = torch.where(slope < forces, middle, below), torch.where(slope < forces, above, middle)
        return ((below + above) / 2).detach()

    def dual_dissipation(self, means: Tensor, forces: Tensor) -> Tensor:
        """phi(mu, g), an energy per time, Eq. (7).

        Args:
            means: mu, of any shape.
            forces: g, same shape.
        """
        rates = self.rates(means, forces)
        return forces * rates - self.dissipation(means, rates)

    def _cell(self, means: Tensor) -> tuple[Tensor, Tensor]:
        step = self.places[1] - self.places[0]
        cell = ((means.detach() - self.places[0]) / step).floor().long().clamp(0, len(self.places) - 2)
        return cell, (means - self.places[cell]) / step

    def _gaps(self, place: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Width of each gap, and the way through it in these widths."""
        width = (self.low[place][..., 1:] - self.high[place][..., :-1]).clamp(min=1e-12)
        return width, (rate[..., None] - self.high[place][..., :-1]) / width

    def _joined(self, values: Tensor, place: Tensor, rate: Tensor) -> Tensor:
        """Values on the components, joined smoothly across the gaps."""
        way = self._gaps(place, rate)[1].clamp(0, 1)
        return values[place][..., 0] + (values[place].diff(dim=-1) * way**2 * (3 - 2 * way)).sum(-1)

    def _bend(self, place: Tensor, rates: Tensor) -> Tensor:
        """The integral from rest on of d, joined by straight lines."""
        bends = []
        for rate in (rates, torch.zeros_like(rates)):
            width, way = self._gaps(place, rate)
            inside = way.clamp(0, 1)
            ramps = width * inside * (way - inside / 2)
            bends.append(self.tilt[place][..., 0] * rate + (self.tilt[place].diff(dim=-1) * ramps).sum(-1))
        return bends[0] - bends[1]
