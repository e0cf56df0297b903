"""Layouts: the sites of a system, the bonds between them, and what may be given at an end.

A site carries fields, those given from outside first, and internal variables. Bond d of site s
leads to the site head[d, s]; the bond d that leads to site s begins at tail[d, s]. Where there
is no such site the entry is -1. With v the velocity (or flux) of each bond and T the tension of each site::

    d field/dt = moved(v) / spacing,   moved(v)_s = sum_d v[d, s] - v[d, tail[d, s]]
    g = forces(T),                     forces(T)[d, s] = T[head[d, s]] - T[s]

`forces` is minus the transpose of `moved`: sum g v = - sum T moved(v) + F_ex v_n. So whatever the
layout, what the sites lose the bonds dissipate, but for the work done at an end.
"""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ibvonns.validation import choice, count, require

__all__ = ["Grid", "Layout", "Point", "Ring", "Row", "bonds_of", "forces", "layout_of", "moved", "named"]


@dataclass(frozen=True)
class Point:
    """One site whose fields are controls, given from outside at all times: a trap.

    There is no bond, and the end's answer is the force of each control, F_ex = df/dfield.

    Attributes:
        controls: how many.

    >>> Point(controls=2).ends
    2
    """

    controls: int = 1
    directions: ClassVar[int] = 0
    driven: ClassVar[bool] = False

    def __post_init__(self) -> None:
        count("controls", self.controls)

    @property
    def given(self) -> int:
        """Fields of a site that are given from outside."""
        return self.controls

    @property
    def fields(self) -> int:
        """Fields of a site."""
        return self.controls

    @property
    def ends(self) -> int:
        """Numbers that an end answers."""
        return self.controls

    def bonds(self, sites: int) -> tuple[Tensor, Tensor]:
        """Head and tail of each bond, none, of shape (0, sites)."""
        return torch.empty(2, 0, sites, dtype=torch.long).unbind()  # type: ignore[return-value]


class _Bonded:
    """Sites with one field that moves, each with a bond ahead, and no end."""

    directions: ClassVar[int] = 1
    driven: ClassVar[bool] = False
    ends: ClassVar[int] = 0

    @property
    def given(self) -> int:
        """Fields of a site that are given from outside."""
        return 0

    @property
    def fields(self) -> int:
        """Fields of a site, the one that moves last."""
        return self.given + 1


@dataclass(frozen=True)
class Row(_Bonded):
    """Sites between a wall and an end that is pulled by F_ex or moved at v_n: a chain.

    Attributes:
        parameters: how many known numbers tell one site from another, such as the stiffness of its spring. They
            are its first fields, and stand still.

    >>> [index.tolist() for index in Row().bonds(3)]
    [[[1, 2, -1]], [[-1, 0, 1]]]
    """

    parameters: int = 0
    driven: ClassVar[bool] = True
    ends: ClassVar[int] = 1

    def __post_init__(self) -> None:
        count("parameters", self.parameters, 0)

    @property
    def given(self) -> int:
        """Fields of a site that are given from outside."""
        return self.parameters

    def bonds(self, sites: int) -> tuple[Tensor, Tensor]:
        """Head and tail of each bond, shape (1, sites); the last leads to the end."""
        here = torch.arange(sites)
        return torch.where(here + 1 < sites, here + 1, -1)[None], here[None] - 1


@dataclass(frozen=True)
class Ring(_Bonded):
    """Sites on a ring: a lattice gas.

    >>> [index.tolist() for index in Ring().bonds(3)]
    [[[1, 2, 0]], [[2, 0, 1]]]
    """

    def bonds(self, sites: int) -> tuple[Tensor, Tensor]:
        """Head and tail of each bond, shape (1, sites)."""
        here = torch.arange(sites)
        return here.roll(-1)[None], here.roll(1)[None]


@dataclass(frozen=True)
class Grid(_Bonded):
    """Sites in rows and columns, each row and each column a ring; sites are counted row by row.

    Attributes:
        rows: how many.
        columns: how many.

    >>> Grid(2, 3).bonds(6)[0].tolist()  # to the right, and down
    [[1, 2, 0, 4, 5, 3], [3, 4, 5, 0, 1, 2]]
    """

    rows: int
    columns: int
    directions: ClassVar[int] = 2

    def __post_init__(self) -> None:
        count("rows", self.rows)
        count("columns", self.columns)

    def bonds(self, sites: int) -> tuple[Tensor, Tensor]:
        """Head and tail of each bond, shape (2, sites).

        Raises:
            ValueError: the grid has another number of sites.
        """
        fits = f"sites must number {self.rows} x {self.columns} on this grid, but number {sites}"
        require(sites == self.rows * self.columns, fits)
        here = torch.arange(sites).reshape(self.rows, self.columns)
        head, tail = (torch.stack([here.roll(by, axis).flatten() for axis in (1, 0)]) for by in (-1, 1))
        return head, tail


#: One of the four.
Layout = Point | Row | Ring | Grid
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Point, Row, Ring, Grid)}


def named(layout: Layout) -> dict[str, Any]:
    """A layout as plain values, for JSON; `layout_of` reads it.

    >>> named(Grid(2, 3))
    {'kind': 'Grid', 'rows': 2, 'columns': 3}
    """
    sizes = {name: int(size) for name, size in asdict(layout).items()}  # NumPy's are no JSON
    return {"kind": type(layout).__name__, **sizes}


def layout_of(values: dict[str, Any]) -> Layout:
    """The layout that `named` wrote down as `values`.

    Raises:
        ValueError: an unknown kind.

    >>> layout_of({"kind": "Point", "controls": 2})
    Point(controls=2)
    """
    sizes = dict(values)
    return KINDS[choice("layout", sizes.pop("kind"), KINDS)](**sizes)


@cache
def bonds_of(layout: Layout, sites: int) -> tuple[Tensor, Tensor]:
    """`bonds` of a layout, made once: they are asked for at each step of a rollout.

    Args:
        layout: of the sites.
        sites: how many.
    """
    return layout.bonds(sites)


def forces(layout: Layout, tension: Tensor, end: Tensor | None = None) -> Tensor:
    """Thermodynamic force of each bond, Eqs. (44), (45): (..., sites, directions).

    Args:
        layout: of the sites.
        tension: df/dfield / spacing, shape (..., sites).
        end: F_ex, shape (...); if not given an end is closed: its bond feels no force.

    >>> forces(Row(), torch.tensor([1.0, 3.0]), torch.tensor(7.0))[:, 0].tolist()
    [2.0, 4.0]
    """
    head = bonds_of(layout, tension.shape[-1])[0].to(tension.device)
    here = tension[..., None, :].expand(*tension.shape[:-1], *head.shape)
    beyond = here if end is None else end[..., None, None]
    ahead = torch.where(head < 0, beyond, tension[..., head.clamp_min(0)])
    return (ahead - here).movedim(-2, -1)


def moved(layout: Layout, velocity: Tensor) -> Tensor:
    """What the bonds bring to each site, times the spacing: (..., sites).

    Args:
        layout: of the sites.
        velocity: of each bond, shape (..., sites, directions).

    >>> moved(Ring(), torch.tensor([[1.0], [3.0], [0.0]])).tolist()
    [1.0, 2.0, -3.0]
    """
    tail = bonds_of(layout, velocity.shape[-2])[1].to(velocity.device)
    v = velocity.movedim(-1, -2)
    behind = v.gather(-1, tail.clamp_min(0).expand(v.shape)).masked_fill(tail < 0, 0.0)
    return (v - behind).sum(-2)
