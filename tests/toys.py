"""Small systems on every layout, their observations, architectures and recipes, each made once."""

from functools import cache

import torch
from torch import Tensor

from ibvonns.ensemble import Ensemble
from ibvonns.layouts import Grid, Layout, Point, Ring, Row
from ibvonns.losses import Sampling
from ibvonns.model import Architecture, Model
from ibvonns.observations import Observations, observe
from ibvonns.recipe import POINT, Phase, Recipe, Stage
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap, paper_times

#: A trap, a particle in two dimensions under two controls, a chain, and particles on lattices.
LAYOUTS: dict[str, Layout] = {"point": Point(), "plane": Point(2), "row": Row(), "ring": Ring(), "grid": Grid(2, 3)}
CONTROLS = {"point": ("pulled_length",), "plane": ("right", "up")}
ANSWERS = {"point": ("external_force",), "plane": ("force_right", "force_up")}
SPACING = {"row": 0.01, "ring": 0.5, "grid": 0.5}

PHASES = (Phase(0, 20), Phase(1, 20, 5), Phase(10, 10, 2))
_POINT = Stage(PHASES, {"density": 0.01, "internal": 1.0, "end": 30.0}, 1e-2)
_WEIGHTS = {"density": 1.0, "shift": 0.1, "field": 1.0, "internal": 0.3, "end": 30.0}
_BONDS = (
    Stage((Phase(0, 10),), {"density": 1.0, "shift": 0.1}, 1e-2),
    Stage((Phase(1, 10, 5, hold=True), Phase(4, 6, 2), Phase(25, 2, 1)), _WEIGHTS, 1e-2, clip=3.0),
)
#: Recipes of a few steps that have every kind of phase, with which every seed passes.
TINY = {
    kind: Recipe((_POINT,), POINT.look, attempts=0, coarse=1, checkpoint_every=5)
    if kind in CONTROLS
    else Recipe(_BONDS, Sampling(), attempts=0, coarse=1, checkpoint_every=4)
    for kind in LAYOUTS
}


def _plane() -> Ensemble:
    """A particle held by springs of two stiffnesses to a place that two controls move."""
    times, rng = paper_times()[::5], torch.Generator().manual_seed(0)
    speeds = torch.tensor([[0.5, 1.0], [1.0, -0.5]], dtype=torch.float64)
    place = speeds[:, None] * torch.sin(2 * times)[:, None]  # (conditions, times, 2)
    stiff = torch.tensor([1.0, 2.0], dtype=torch.float64)
    x = 0.1 * torch.randn(2, 60, 2, generator=rng, dtype=torch.float64)
    path = [x]
    for now, step in zip(place.unbind(1), times.diff().tolist(), strict=False):
        noise = torch.randn(x.shape, generator=rng, dtype=torch.float64)
        x = x + step * stiff * (now[:, None] - x) + (0.02 * step) ** 0.5 * noise
        path.append(x)
    positions = torch.stack(path, 1)
    force = stiff * (place - positions.mean(2))
    records = {
        name: part[..., axis]
        for names, part in ((CONTROLS["plane"], place), (ANSWERS["plane"], force))
        for axis, name in enumerate(names)
    }
    return Ensemble(times, positions, records, components=2)


def _lattice(rows: int, columns: int) -> Ensemble:
    """Densities that diffuse on a lattice whose edges meet."""
    times, rng = paper_times()[:121], torch.Generator().manual_seed(0)
    shape = (2, rows, columns, 50)
    x = torch.rand(2, rows, columns, 1, generator=rng, dtype=torch.float64)
    x = x + 0.1 * torch.randn(shape, generator=rng, dtype=torch.float64)
    path = [x]
    for step in times.diff().tolist():
        for axis in (1, 2)[rows == 1 :]:
            noise = (0.1 * step) ** 0.5 * torch.randn(shape, generator=rng, dtype=torch.float64)
            flux = step * (x - x.roll(-1, axis)) + noise
            x = x - flux + flux.roll(1, axis)
        path.append(x)
    return Ensemble(times, torch.stack(path, 1).flatten(2, 3))


@cache
def few_of(kind: str) -> Ensemble:
    """A small ensemble on a layout."""
    if kind == "point":
        return Trap().simulate_paper(velocities=(0.5, 1.0), realisations=200)
    if kind == "plane":
        return _plane()
    if kind == "row":
        return Chain().simulate_paper(lengths=(0.12, 0.2), realisations=100)
    return _lattice(1, 6) if kind == "ring" else _lattice(2, 3)


@cache
def seen_of(kind: str) -> Observations:
    """What training sees of it."""
    return observe(
        few_of(kind),
        CONTROLS.get(kind, ()),
        ANSWERS.get(kind, "external_force"),
        spacing=SPACING.get(kind, 1.0),
        points=81,
    )


def architecture_of(kind: str, decoder: str = "", internal: int = 1) -> Architecture:
    """An architecture for it, with the layout's usual decoder if none is named."""
    usual = "gaussian" if kind in CONTROLS else "flow"
    return Architecture(LAYOUTS[kind], SPACING.get(kind, 1.0), internal, decoder or usual, 2 if kind == "plane" else 1)


def frozen(kind: str, seeds: tuple[int, ...] = (0, 1), decoder: str = "", internal: int = 1) -> Model:
    """An untrained model with scales and gauge."""
    model = Model(seeds, architecture_of(kind, decoder, internal))
    model.set_scales(seen_of(kind))
    model.freeze(seen_of(kind))
    return model


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of everything that a model holds."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal bit by bit, NaN with NaN."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name].nan_to_num(-1.0), other[name].nan_to_num(-1.0)) for name in one
    )
