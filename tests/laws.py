"""Random laws on every layout, states far and near, and what a law breaks, as one number each."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from ibvonns.law import Law, Scales
from ibvonns.layouts import Grid, Layout, Point, Ring, Row
from ibvonns.networks import PositiveLinear, generators, softplus

LAYOUTS: dict[str, Layout] = {
    "point": Point(), "plane": Point(2), "row": Row(), "known": Row(2), "ring": Ring(), "grid": Grid(3, 3)
}  # fmt: skip
SITES = {Point: 1, Row: 5, Ring: 6, Grid: 9}
CASES = [(kind, n) for kind, layout in LAYOUTS.items() for n in range(layout.directions == 0, 4)]
#: Every layout, with as many internal variables as it may have up to three.
every = pytest.mark.parametrize(("kind", "internal"), CASES)
bonded = pytest.mark.parametrize(("kind", "internal"), [c for c in CASES if LAYOUTS[c[0]].directions])
ENERGY, RATE = 0.05, 2.0


def drawn(rng: Generator, *shape: int) -> Tensor:
    """Standard normal numbers in double precision."""
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def made(layout: Layout, internal: int = 1, wild: bool = False, seeds: Sequence[int] = (0, 1), **widths: Any) -> Law:
    """A law with random weights and scales unlike 1; wild weights are large, mobilities small beside them."""
    law = Law(generators(seeds), layout, 0.3 if layout.directions else 1.0, internal, **widths)
    mean, deviation = torch.linspace(0.8, 1.4, 2 * layout.fields, dtype=torch.float64).reshape(2, -1)
    law.set_scales(torch.stack([mean, deviation / 2]), ENERGY, RATE)
    with torch.no_grad():
        for name, parameter in law.named_parameters() if wild else ():
            if name == "mobility":
                parameter.fill_(-3.0)  # softplus of it: 1 / 20
            else:
                parameter.mul_(0.3 if "mix" in name else 2.0)  # that of the mixes: 1 / 4 and more
    return law


def states(law: Scales, number: int, reach: float = 1.0, sites: int = 0, seed: int = 0) -> Tensor:
    """Random states of two replicas, `reach` deviations about the mean."""
    layout, rng = law.layout, Generator().manual_seed(seed)
    sites = sites or SITES[type(layout)]
    field = law.field[0] + reach * law.field[1] * drawn(rng, 2, number, sites, layout.fields)
    return torch.cat([field, reach * drawn(rng, 2, number, sites, law.internal)], -1)


def thermodynamic(law: Law, z: Tensor, reach: float = 1.0, seed: int = 1) -> Tensor:
    """Random g at states z, of `reach` units."""
    bonds = law.layout.directions
    unit = torch.cat([law.force[-1:].expand(bonds), law.energy.expand(law.internal)])
    return reach * unit * drawn(Generator().manual_seed(seed), *z.shape[:3], bonds + law.internal)


def torn(layout: Layout) -> Layout:
    """The same layout, but what a bond brings to one site is not taken from the one behind."""

    def bonds(self: Any, sites: int) -> tuple[Tensor, Tensor]:
        head, tail = type(layout).bonds(self, sites)
        return head, torch.full_like(tail, -1)

    other: Layout = object.__new__(type("Torn", (type(layout),), {"bonds": bonds}))
    other.__dict__.update(layout.__dict__)
    return other


@pytest.fixture
def concave(monkeypatch: pytest.MonkeyPatch) -> Callable[[Law], Law]:
    """From its call on the weights that should be positive are negative, and no mobility makes up for it."""

    def spoiled(law: Law) -> Law:
        monkeypatch.setattr(PositiveLinear, "weight", property(lambda layer: -softplus(layer.free)))
        if law.mobility is not None:
            law.mobility.data.fill_(-30.0)
        return law

    return spoiled
