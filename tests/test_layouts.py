"""Layouts: every bond has its partner, what moves is conserved, forces are minus the transpose of it."""

import json

import pytest
import torch
from laws import LAYOUTS, SITES, drawn, torn
from torch import Generator, Tensor

from ibvonns.layouts import Grid, Layout, Point, Ring, Row, forces, layout_of, moved, named

BONDED = [kind for kind, layout in LAYOUTS.items() if layout.directions]
bonded = pytest.mark.parametrize("kind", BONDED)


def mismatch(layout: Layout, end: bool, sites: int, seed: int = 0) -> float:
    """|sum g v + sum T moved(v) - F_ex v_n| of random numbers, in units of the largest sum."""
    rng = Generator().manual_seed(seed)
    tension, v = drawn(rng, 4, sites), drawn(rng, 4, sites, layout.directions)
    pull = drawn(rng, 4) if end else None
    given = (forces(layout, tension, pull) * v).sum((1, 2))
    taken = (tension * moved(layout, v)).sum(1)
    work = torch.zeros(1) if pull is None else pull * v[:, -1, 0]
    return float((given + taken - work).abs().max() / (given.abs() + taken.abs()).max())


@bonded
@pytest.mark.parametrize("end", [False, True])
def test_forces_are_minus_the_transpose_of_what_moves(kind: str, end: bool) -> None:
    layout = LAYOUTS[kind]
    end = end and layout.driven
    if layout.driven and not end:  # a closed end: its bond feels no force, and must not move
        rng = Generator().manual_seed(0)
        assert forces(layout, drawn(rng, 5))[-1] == 0
        return
    sites = SITES[type(layout)]
    assert mismatch(layout, end, sites) < 1e-14
    assert mismatch(torn(layout), end, sites) > 1e-2  # a bond without its partner


def created(layout: Layout, sites: int) -> float:
    """|sum over sites of what the bonds bring - v of a driven end|, in units of the largest v."""
    v = drawn(Generator().manual_seed(1), 4, sites, layout.directions)
    end = v[:, -1, 0] if layout.driven else 0.0
    return float((moved(layout, v).sum(1) - end).abs().max() / v.abs().max())


@bonded
def test_what_one_site_gets_another_loses(kind: str) -> None:
    layout = LAYOUTS[kind]
    assert created(layout, SITES[type(layout)]) < 1e-14
    assert created(torn(layout), SITES[type(layout)]) > 0.1


@bonded
def test_equal_tensions_drive_nothing(kind: str) -> None:
    layout = LAYOUTS[kind]
    even = torch.full((SITES[type(layout)],), 0.3, dtype=torch.float64)
    assert forces(layout, even, even[0]).abs().max() == 0


@bonded
@pytest.mark.parametrize("sites", [1, 2, 9])
def test_the_tail_of_a_bonds_head_is_its_site(kind: str, sites: int) -> None:
    layout = LAYOUTS[kind]
    if isinstance(layout, Grid):
        layout = Grid(1, sites) if sites < 9 else Grid(3, 3)
    head, tail = layout.bonds(sites)
    here = torch.arange(sites)
    for ahead, behind in zip(head, tail, strict=True):
        inner = ahead >= 0
        assert torch.equal(behind[ahead[inner]], here[inner])
        assert torch.equal(ahead[behind[behind >= 0]], here[behind >= 0])
        assert (~inner).sum() == (behind < 0).sum() == int(layout.driven)


def test_bonds_of_a_grid_lead_to_the_right_and_down() -> None:
    head, tail = Grid(3, 3).bonds(9)
    assert head.tolist() == [[1, 2, 0, 4, 5, 3, 7, 8, 6], [3, 4, 5, 6, 7, 8, 0, 1, 2]]
    assert tail.tolist() == [[2, 0, 1, 5, 3, 4, 8, 6, 7], [6, 7, 8, 0, 1, 2, 3, 4, 5]]


def test_a_grid_of_one_row_is_a_ring() -> None:
    rng = Generator().manual_seed(2)
    tension, v = drawn(rng, 5), drawn(rng, 5, 2)
    across, along = forces(Grid(1, 5), tension).unbind(-1)
    assert torch.equal(across, forces(Ring(), tension)[:, 0])
    assert along.abs().max() == 0  # a bond that leads back to its own site
    assert torch.allclose(moved(Grid(1, 5), v), moved(Ring(), v[:, :1]), rtol=0, atol=1e-15)


def test_a_row_is_a_ring_that_is_cut() -> None:
    rng = Generator().manual_seed(3)
    tension = drawn(rng, 5)
    assert torch.equal(forces(Row(), tension, tension[0]), forces(Ring(), tension))
    v = drawn(rng, 5, 1)
    v[-1] = 0  # nothing passes where it is cut
    assert torch.equal(moved(Row(), v), moved(Ring(), v))


@pytest.mark.parametrize("front", [(), (4,), (2, 3)])
def test_axes_in_front_are_kept(front: tuple[int, ...]) -> None:
    rng = Generator().manual_seed(4)
    tension, v = drawn(rng, *front, 9), drawn(rng, *front, 9, 2)
    one = (0,) * len(front)
    for whole, alone in (
        (forces(Grid(3, 3), tension), forces(Grid(3, 3), tension[one])),
        (moved(Grid(3, 3), v), moved(Grid(3, 3), v[one])),
    ):
        assert whole.shape == (*front, *alone.shape)
        assert torch.equal(whole[one], alone)


def test_a_point_has_no_bonds() -> None:
    head, tail = Point(2).bonds(1)
    assert head.shape == tail.shape == (0, 1)
    tension: Tensor = torch.ones(4, 1, dtype=torch.float64)
    assert forces(Point(), tension).shape == (4, 1, 0)
    assert moved(Point(), forces(Point(), tension)).tolist() == [[0.0]] * 4


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_layout_is_read_back_from_json(kind: str) -> None:
    layout = LAYOUTS[kind]
    assert layout_of(json.loads(json.dumps(named(layout)))) == layout


def test_what_makes_no_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="^layout must be one of 'Grid', .*, but is 'Star'$"):
        layout_of({"kind": "Star"})
    with pytest.raises(ValueError, match="^sites must number 3 x 3 on this grid, but number 8$"):
        Grid(3, 3).bonds(8)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"^controls must be .* at least 1, but is {wrong}$"):
            Point(wrong)
        with pytest.raises(ValueError, match=f"^columns must be .* at least 1, but is {wrong}$"):
            Grid(3, wrong)
