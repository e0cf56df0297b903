r"""Operators from fluctuations: drift and covariation of coarse variables over a short time.

Coarse variables of many particles, Y_i, that follow a free energy F obey, with kBT = temperature::

    dY_i/dt = -sum_j K_ij dF/dY_j        K_ij = lim_(h -> 0) Cov[Y_i(h) - Y_i(0), Y_j(h) - Y_j(0)] / (2 kBT h)

so that particles tell the operator K by how they scatter, without any model of F. The variables may be
the positions themselves: those of a trap give 1 / eta. What h does to K is of the order h, or of its root
where a variable's slope has kinks; `richardson` takes the former off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import torch
from torch import Tensor

from ibvonns.law import Law
from ibvonns.layouts import forces
from ibvonns.validation import choice, count, finite, positive, require, shaped, tensor

__all__ = ["Estimate", "Moves", "covariation", "drift", "richardson", "shapes"]

KNOWN = 2e-3  # share of an entry of K by which it may be wrong besides its scatter: what h leaves


@dataclass(frozen=True, eq=False)
class Estimate:
    """A mean over independent parts, and what its scatter says of its error.

    Attributes:
        parts: of each part, (parts, ...).

    Raises:
        ValueError: NaN, or fewer than two parts.
    """

    parts: Tensor

    def __post_init__(self) -> None:
        count("number of parts", len(finite("parts", self.parts)), 2)

    @property
    def value(self) -> Tensor:
        """The mean over the parts."""
        return self.parts.mean(0)

    @property
    def error(self) -> Tensor:
        """Its standard error."""
        return self.parts.std(0) / sqrt(len(self.parts))

    @property
    def covariance(self) -> Tensor:
        """Of the errors of a vector's entries, (entries, entries)."""
        return torch.cov(self.parts.T) / len(self.parts)


@dataclass(frozen=True, eq=False)
class Moves:
    """What coarse variables did in short times under each condition: their mean rates, and K.

    Attributes:
        shapes: of the variables, as `shapes` gives them, (variables, sites).
        states: field at the beginning, in the middle and at the end of the drift, (conditions, 3, sites).
        drift: mean rates over it, one estimate for each condition.
        operator: K at the first of the states, one for each condition.

    Raises:
        ValueError: NaN, or shapes that do not match.
    """

    shapes: Tensor
    states: Tensor
    drift: Sequence[Estimate]
    operator: Sequence[Estimate]

    def __post_init__(self) -> None:
        number, sites = shaped("shapes", finite("shapes", self.shapes), ("variables", "sites")).shape
        shaped("states", finite("states", self.states), (len(self.drift), 3, sites))
        count("number of operators", len(self.operator), len(self.drift))
        for name, parts, shape in (("drift", self.drift, (number,)), ("operator", self.operator, (number, number))):
            for each in parts:
                shaped(name, each.parts, ("parts", *shape))

    @cached_property
    def _known(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Drift, what makes its errors independent and 1, K, and its errors."""
        scale, axes = torch.linalg.eigh(torch.stack([each.covariance for each in self.drift]))
        # what all shapes share does not move: they add up to 1, and mass stays
        scale, axes = scale[:, 1:], axes[..., 1:]
        operator = torch.stack([each.value for each in self.operator])
        error = torch.hypot(torch.stack([each.error for each in self.operator]), KNOWN * operator)
        return torch.stack([each.value for each in self.drift]), axes / scale.sqrt()[:, None], operator, error

    @cached_property
    def _weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Simpson's, over the states; which entries of K count, each pair once; and their share."""
        operator = self._known[2]
        beside = (operator.abs() > 1e-6 * operator.abs().amax((1, 2), keepdim=True)).triu()
        return operator.new_tensor([1.0, 4.0, 1.0]) / 6, beside, beside.sum() / beside.numel()

    def expected(self, law: Law) -> tuple[Tensor, Tensor]:
        """Drift and K of a law at these states.

        The drift by Simpson's rule over its lapse.

        Args:
            law: of a gas.

        Returns:
            (replicas, conditions, variables) and (replicas, conditions, variables, variables).
        """
        conditions, nodes, sites = self.states.shape
        z = self.states.flatten(0, 1)[None, :, :, None].expand(len(law.reference), -1, -1, -1)
        g = law.driving(z)
        mobility = law.operator(z, g)  # asked once, for `law.step` would ask it again
        change = law.changed(mobility * g, z[..., :0], None)[0][..., 0]
        rates = change.unflatten(1, (conditions, nodes)) @ self.shapes.mT / sites
        slope = forces(law.layout, self.shapes) / law.spacing
        first = mobility.unflatten(1, (conditions, nodes))[:, :, 0]
        operator = torch.einsum("rcsd,isd,jsd->rcij", first, slope, slope) / sites
        return torch.einsum("n,rcnv->rcv", self._weights[0], rates), operator

    def missed(self, law: Law) -> dict[str, Tensor]:
        """Mean square error of a law in units of the data's own errors, "drift" and "fluctuation": (replicas,)."""
        (drift, whitening, operator, error), (_, beside, share) = self._known, self._weights
        found, scatter = self.expected(law)
        away = torch.einsum("rcv,cvw->rcw", found - drift, whitening)
        near = torch.where(beside, (scatter - operator) / error, 0.0)
        return {"drift": away.square().mean((1, 2)), "fluctuation": near.square().mean((1, 2, 3)) / share}


def shapes(sites: int, number: int, kind: str = "spline") -> Tensor:
    """Shape functions on a ring, which add up to 1 at each site: (number, sites).

    The coarse variables are sums over the particles, Y_i = mean over sites of shapes[i] * eta.

    Args:
        sites: of the ring.
        number: of shape functions, evenly spaced.
        kind: "spline", cubic B-splines, or "hat", whose kinks bias a covariation by the root of h.

    Raises:
        ValueError: an unknown kind, fewer than 5 shapes, or fewer sites than shapes.

    >>> bool((shapes(20, 5).sum(0) - 1).abs().max() < 1e-15)
    True
    """
    count("sites", sites, count("number", number, 5))
    place = torch.arange(sites, dtype=torch.float64) * number / sites
    away = (place - torch.arange(number, dtype=torch.float64)[:, None]).abs()
    away = torch.minimum(away, number - away)
    if choice("kind", kind, ("spline", "hat")) == "hat":
        return (1 - away).clamp_min(0)
    return ((2 - away).clamp_min(0) ** 3 - 4 * (1 - away).clamp_min(0) ** 3) / 6


def drift(moves: Tensor, lapse: float) -> Estimate:
    """Mean rate of coarse variables over a lapse of time.

    Args:
        moves: how each variable has changed, (parts, realisations, variables): parts are independent.
        lapse: of time.

    Raises:
        ValueError: NaN, wrong shape, fewer than two parts, or a lapse that is not above 0.
    """
    return Estimate(_moves(moves).mean(1) / positive("lapse", lapse))


def covariation(moves: Tensor, lapse: float, temperature: float, start: Tensor | None = None) -> Estimate:
    """The operator K of coarse variables from their scatter over a short lapse of time.

    Args:
        moves: how each variable has changed, (parts, realisations, variables). All realisations begin
            alike, or in one ensemble; parts are independent, realisations of a part need not be.
        lapse: of time.
        temperature: kBT, in the unit of F; for variables that are means over L sites, of which F is a
            mean, too, that of a site over L.
        start: the variables at the beginning, in the shape of `moves`, if what they tell of the moves,
            linearly, is to be left out: of an Euler step of linear forces K is then exact, whatever its length.

    Returns:
        Of shape (variables, variables).

    Raises:
        ValueError: NaN, wrong shape, fewer than two parts, or a number that is not above 0.

    >>> moves = torch.randn(10, 5000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> found = covariation(moves, lapse=0.5, temperature=1.0)  # their variance is 1
    >>> bool((found.value - 1).abs() < 4 * found.error)
    True
    """
    moves = _moves(moves)
    away = moves - moves.mean((0, 1))
    if start is not None:
        begun = shaped("start", tensor("start", start).double(), moves.shape)
        begun = begun - begun.mean((0, 1))
        away = away - begun @ torch.linalg.lstsq(begun.flatten(0, 1), away.flatten(0, 1)).solution
    scale = 2 * positive("temperature", temperature) * positive("lapse", lapse) * (1 - 1 / moves[..., 0].numel())
    return Estimate(away.mT @ away / moves.shape[1] / scale)


def richardson(short: Estimate, long: Estimate) -> Estimate:
    """What two estimates at h and 2 h, of the same realisations, say of h = 0: 2 short - long.

    Raises:
        ValueError: estimates of other parts.
    """
    require(short.parts.shape == long.parts.shape, "short and long must have the same parts, but have not")
    return Estimate(2 * short.parts - long.parts)


def _moves(moves: Tensor) -> Tensor:
    return shaped("moves", tensor("moves", moves).double(), ("parts", "realisations", "variables"))
