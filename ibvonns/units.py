"""Units that data bring with them, so that what is learned does not know in which others they came.

Training amplifies a rounding by many orders of magnitude, even in double precision, and another unit rounds
otherwise. So a law is learned in units of the data's own, with digits that rounding in double precision hardly ever
reaches, and is put back into the user's. Nothing else changes: whatever a loss compares is in units of the data anyway.
Data in single precision, and positions thousands of deviations away from 0, have no such digits to spare.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import Any

import torch
from torch import Tensor

from ibvonns.ensemble import Density
from ibvonns.layouts import Layout
from ibvonns.model import Architecture, Model
from ibvonns.observations import Observations

__all__ = ["Units", "units_of"]

DIGITS, MORE = 2.0**24, 2.0**36  # of values; of the few times
MANY = 16  # powers of two: realisations up to which weights have no more digits


def _rounded(values: Tensor, digits: float = DIGITS) -> Tensor:
    return (values * digits).round() / digits


@dataclass(frozen=True, eq=False)
class Units:
    """Units of some data, in those of the user.

    Attributes:
        position: of a position: the deviation of a usual ensemble.
        time: the duration of a record.
        energy: what F_ex does over the deviation of its control.
        field: of each field, shape (fields,).
        spacing: of a site, in the user's units; in these it is 1.
        bonds: whether a velocity is one of a bond, and not of alpha.
    """

    position: float
    time: float
    energy: float
    field: Tensor
    spacing: float
    bonds: bool

    @property
    def rate(self) -> float:
        """Of the velocity of a bond, else of alpha."""
        return (self.spacing * self.position if self.bonds else 1.0) / self.time

    def data(self, data: Observations) -> Observations:
        """The `data` in these units, with some seven digits."""
        force = self.energy / self.spacing / self.field
        by: dict[str, Any] = {"field": self.field, "mean": self.position, "variance": self.position**2}
        by |= {"force": 1.0 if data.force is None else force[-data.force.shape[-1] :], "velocity": self.rate}
        new: dict[str, Any] = {
            name: _rounded(part / unit) for name, unit in by.items() if (part := getattr(data, name)) is not None
        }
        tiny = new["variance"] <= 0  # below all digits
        new["variance"] = torch.where(tiny, 1 / DIGITS, new["variance"])
        new["blocks"] = {name: _rounded(part / by[name]) for name, part in data.blocks.items()}
        if data.force is not None:  # each by what is usual of it: the units are those of the last
            usual = new["force"].flatten(0, 1).std(0).clamp_min(1e-300)
            usual = usual / usual[-1]
            new["force"] = _rounded(data.force / by["force"] / usual) * usual
        if data.mobility is not None:
            length = (self.spacing if self.bonds else 1.0) * self.position
            new["mobility"] = _rounded(data.mobility * self.time * self.energy / length**2)
        cloud = data.cloud
        if isinstance(cloud, Density):
            first, step = (_rounded(part / self.position, MORE) for part in (cloud.grid[0], cloud.spacing))
            grid = first + step * torch.arange(len(cloud.grid)).to(step)
            finer = max(1.0, 2.0 ** ceil(log2(data.count) - MANY))  # of many realisations each has little weight
            new["cloud"] = replace(cloud, grid=grid, weights=_rounded(cloud.weights, finer * DIGITS))
        else:
            new["cloud"] = replace(cloud, positions=_rounded(cloud.positions / self.position))
        times = data.times / self.time
        times = _rounded(times, MORE) if float(times.diff().min()) > 1e3 / MORE else times
        return replace(data, times=times, spacing=1.0, **new)

    def architecture(self, of: Architecture) -> Architecture:
        """That of a model in these units, for one `of` the user's."""
        reference = None if of.reference is None else of.reference / self.position
        return replace(of, spacing=1.0, reference=reference, wells=of.wells / self.position)

    @torch.no_grad()
    def model(self, model: Model, of: Architecture) -> Model:
        """A `model` that was learned in these units in the user's.

        Args:
            model: trained.
            of: its architecture in the user's units; its number of variables, and anchor, are the model's.
        """
        a = model.architecture
        found = Model(model.seeds, replace(of, internal=a.internal, anchored=a.anchored))
        found.load_state_dict(model.state_dict())
        by: Mapping[str, Any] = {
            "encoder.position": self.position, "decoder.position": self.position, "decoder.given": self.field,
            "law.field": self.field, "law.energy": self.energy, "law.rate": self.rate,
        }  # fmt: skip
        for name, unit in by.items():
            found.get_buffer(name).mul_(unit)
        return found


def units_of(data: Observations, layout: Layout) -> Units:
    """Units of some data.

    Args:
        data: of a system that is no gas.
        layout: of the sites.
    """
    position, bonds = float(data.variance.mean().sqrt()), bool(layout.directions)
    field = data.field.flatten(0, 2).std(0)
    field = torch.where(field > 0, field, 1.0)
    if bonds:
        field[-1] = position
    energy = data.spacing * position if bonds else 1.0
    if data.force is not None:
        usual = float(data.force.flatten(0, 1).std(0)[-1] * field[-1]) * data.spacing
        energy = usual or energy
    time = float(data.times[-1] - data.times[0])
    return Units(position, time, energy, field, data.spacing, bonds)
