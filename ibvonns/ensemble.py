"""Ensembles of realisations: the microscopic truth, and what a macroscopic model may know."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor

from ibvonns.compiled import compiled
from ibvonns.files import load_tensors, save_tensors
from ibvonns.validation import choice, count, finite, increasing, positive, require, shaped, tensor

__all__ = ["Cloud", "Density", "Ensemble", "Samples"]

KIND = "ibvonns.Ensemble"
Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Density:
    """An ensemble compressed to weights on a uniform grid of positions.

    Each realisation is shared between its two neighbouring grid points in proportion to its
    distance (cloud in cell), so that the mean is kept exactly. For any other function u of the
    position the error is that of linear interpolation::

        |<u>_grid - <u>| <= spacing^2 / 8 * max |u''|

    Attributes:
        grid: positions, shape (grid,), uniform.
        weights: shape (..., grid), each row sums to 1.
        averages: of functions that an encoder has chosen (`Encoder.averaged`), (..., functions).

    Raises:
        ValueError: NaN, wrong shape, or a grid that is not uniform.
    """

    grid: Tensor
    weights: Tensor
    averages: Tensor | None = None

    def __post_init__(self) -> None:
        steps, spacing = increasing("grid", self.grid).diff(), self.spacing
        # a spacing comes out of a subtraction: its rounding is that of the positions
        allowed = 1e-9 * spacing + 4 * torch.finfo(self.grid.dtype).eps * self.grid.abs().max()
        even = (steps - spacing).abs().max() <= allowed
        require(even, f"grid must be uniform, but its spacings range from {steps.min():.4g} to {steps.max():.4g}")
        shaped("weights", finite("weights", self.weights), ("...", len(self.grid)))

    @property
    def spacing(self) -> Tensor:
        """Distance of two neighbouring points of the grid."""
        return (self.grid[-1] - self.grid[0]) / (len(self.grid) - 1)

    def expectation(self, values: Tensor) -> Tensor:
        """<u> of each row, for one or more functions u given on the grid.

        Args:
            values: u, shape (..., grid, features).

        Returns:
            Shape (..., rows, features), where all leading axes of `weights` count as rows.

        Raises:
            ValueError: wrong shape.

        >>> grid, weights = torch.linspace(0, 1, 3), torch.tensor([[0.5, 0.5, 0.0]])
        >>> Density(grid, weights).expectation(grid[:, None]).tolist()
        [[0.25]]
        """
        shaped("values", values, ("...", len(self.grid), "features"))
        rows = self.weights.flatten(0, -2)
        # one matrix product for all leading axes: the weights, which are large, are read once
        flat = rows @ values.movedim(-2, 0).flatten(1)
        return flat.unflatten(1, values.shape[:-2] + values.shape[-1:]).movedim(0, -2)

    def average(self, features: Features, times: Tensor | None = None) -> Tensor:
        """<h> of each row, for h given by a function of positions.

        Args:
            features: from positions (points, 1) to (replicas, points, features).
            times: if given, each replica's own, indices of shape (replicas, wanted), of rows
                (conditions, times, ...).

        Returns:
            Shape (replicas, rows, features).
        """
        values = features(self.grid[:, None])
        if times is None:
            return self.expectation(values)
        needed, place = times.unique(return_inverse=True)
        if 2 * len(needed) > times.numel():
            return self.weights[:, times].movedim(1, 0).flatten(1, -2) @ values
        # replicas share times: one product for all of them, and each picks its own
        found = self.at(needed).expectation(values).unflatten(1, (len(self.weights), len(needed), -1)).transpose(1, 2)
        return found[torch.arange(len(times))[:, None], place].transpose(1, 2).flatten(1, 3)

    def shifted(self, by: Tensor) -> "Density":
        """The same ensembles, moved by a length, of shape (1,)."""
        return replace(self, grid=self.grid + by)

    def at(self, times: Tensor | slice, conditions: Tensor | slice = slice(None)) -> "Density":
        """Some `times`, and some `conditions`, of rows (conditions, times, ...)."""
        averages = None if self.averages is None else self.averages[conditions][:, times]
        return replace(self, weights=self.weights[conditions][:, times], averages=averages)

    def coarser(self, factor: int) -> "Density":
        """The same on every so many points of the grid, exactly as if compressed to it at once.

        The share of a coarse point is linear between fine ones, so that nothing is lost on the way
        but what the coarse grid cannot hold.

        Args:
            factor: points of the grid to one of the new grid.

        Raises:
            ValueError: a factor below 1.

        >>> fine = Density(torch.linspace(0, 1, 5), torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]]))
        >>> fine.coarser(2).weights.tolist()
        [[0.5, 0.5, 0.0]]
        """
        if count("factor", factor) == 1:
            return self
        points = -(-(len(self.grid) - 1) // factor) + 1
        weights = self.weights.new_zeros(*self.weights.shape[:-1], points)
        for place in range(factor):  # between a coarse point and the next
            part = self.weights[..., place::factor]
            number = part.shape[-1]
            weights[..., :number].add_(part, alpha=1 - place / factor)
            if place:
                weights[..., 1 : number + 1].add_(part, alpha=place / factor)
        grid = self.grid[0] + factor * self.spacing * torch.arange(points).to(self.grid)
        return Density(grid, weights, self.averages)

    def reaching(self, points: int, before: int = 0) -> "Density":
        """The same on a grid of so many points, some of weight 0 before and the rest behind.

        Args:
            points: of the new grid.
            before: how many of them lie before the old grid.
        """
        if points == len(self.grid):
            return self
        place = torch.arange(points).to(self.grid) - before
        padded = torch.nn.functional.pad(self.weights, (before, points - before - len(self.grid)))
        return Density(self.grid[0] + self.spacing * place, padded)

    def joined(self, other: "Density", share: float) -> "Density":
        """Both as one ensemble, on a grid that holds both.

        Args:
            other: of the same rows, on a grid of the same spacing, shifted by whole points.
            share: of the other in the whole, from 0 to 1.

        Raises:
            ValueError: grids that do not match.
        """
        offset, ratio = float((other.grid[0] - self.grid[0]) / self.spacing), float(other.spacing / self.spacing)
        whole = abs(offset - round(offset)) < 1e-6 and abs(ratio - 1) < 1e-9
        require(whole, "grids must have the same spacing and be shifted by whole points, but are not")
        first, second = max(0, -round(offset)), max(0, round(offset))
        points = max(first + len(self.grid), second + len(other.grid))
        mine, theirs = self.reaching(points, first), other.reaching(points, second)
        return replace(mine, weights=torch.lerp(mine.weights, theirs.weights, share))

    def error_bound(self, curvature: float) -> float:
        """Largest error of `expectation` for a function whose second derivative is bounded.

        Args:
            curvature: the largest modulus of u'', in the unit of u over that of position squared.

        Raises:
            ValueError: a curvature below 0.

        >>> grid = torch.linspace(0, 1, 11, dtype=torch.float64)
        >>> round(Density(grid, torch.ones(1, 11) / 11).error_bound(2.0), 6)
        0.0025
        """
        return float(self.spacing) ** 2 / 8 * positive("curvature", curvature, least=0.0)


@dataclass(frozen=True, eq=False)
class Samples:
    """An ensemble as some of its own realisations: where a grid would need too many points.

    Attributes:
        positions: shape (..., realisations, components).
        averages: over all realisations, of functions that an encoder has chosen (`Encoder.averaged`), (..., functions).

    Raises:
        ValueError: NaN or wrong shape.
    """

    positions: Tensor
    averages: Tensor | None = None

    def __post_init__(self) -> None:
        shaped("positions", finite("positions", self.positions), ("...", "realisations", "components"))

    def average(self, features: Features, times: Tensor | None = None) -> Tensor:
        """<h> of each row, as `Density.average`: (replicas, rows, features).

        Args:
            features: from positions (points, components) to (replicas, points, features).
            times: if given, each replica's own, indices of shape (replicas, wanted).
        """
        x = self.positions
        rows = x.flatten(0, -3) if times is None else x[:, times].movedim(1, 0).flatten(1, -3)
        return features(rows.flatten(-3, -2)).unflatten(1, rows.shape[-3:-1]).mean(2)

    def shifted(self, by: Tensor) -> "Samples":
        """The same ensembles, moved by a length in each direction, shape (components,)."""
        return Samples(self.positions + by)

    def at(self, times: Tensor | slice, conditions: Tensor | slice = slice(None)) -> "Samples":
        """Some `times`, and some `conditions`, of rows (conditions, times, ...)."""
        averages = None if self.averages is None else self.averages[conditions][:, times]
        return Samples(self.positions[conditions][:, times], averages)

    def coarser(self, factor: int) -> "Samples":
        """One of every `factor` realisations; the averages stay."""
        return replace(self, positions=self.positions[..., ::factor, :])

    def joined(self, other: "Samples", share: float) -> "Samples":
        """Both as one: this one's realisations and those of the `other`, whose `share` they are."""
        return Samples(torch.cat([self.positions, other.positions], -2))


#: The positions of an ensemble as a model sees them.
Cloud = Density | Samples


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble:
    """Realisations of a stochastic system under several conditions, with its macroscopic records.

    Tensors, or NumPy's arrays and lists, which become tensors: in single precision what is, else in double.

    Attributes:
        times: shape (times,), strictly increasing.
        realisations: microscopic positions, shape (conditions, times, ..., realisations), with one
            more axis at the end where positions have several components.
        records: macroscopic histories by name, each of shape (conditions, times, ...).
        components: of a position.
        units: of "positions", "times" and records, by name: words that are kept and nowhere computed with.

    Raises:
        ValueError: NaN, wrong shape, unsorted times, an empty ensemble, tensors that require a gradient, or units of
            something else.
        TypeError: no real numbers, or units that are no words.

    >>> times = torch.tensor([0.0, 0.1], dtype=torch.float64)
    >>> pair = Ensemble(times, torch.tensor([[[1.0, 3.0], [2.0, 4.0]]], dtype=torch.float64))
    >>> pair.mean().tolist(), pair.count
    ([[2.0, 3.0]], 2)
    """

    times: Tensor
    realisations: Tensor
    records: Mapping[str, Tensor] = field(default_factory=dict)
    components: int = 1
    units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {name: tensor(f"records[{name!r}]", record) for name, record in self.records.items()}
        parts = {"times": tensor("times", self.times), "realisations": tensor("realisations", self.realisations)}
        for name, part in {**parts, "records": known}.items():
            object.__setattr__(self, name, part)
        for name, part in parts.items():
            require(not part.requires_grad, f"{name} must not require a gradient, but do: give `{name}.detach()`")
        increasing("times", self.times)
        several = count("components", self.components) > 1
        shape = tuple(self.realisations.shape)
        require(0 not in shape, f"realisations must hold at least 1 realisation, but has shape {shape}")
        wanted = f"(conditions, {len(self.times)}, ..., realisations)" + several * " and then components"
        ends = not several or shape[-1:] == (self.components,)
        good = len(shape) >= 3 + several and shape[1] == len(self.times) and ends
        require(good, f"realisations must have shape {wanted}, but has shape {shape}")
        for name, record in self.records.items():
            came = tuple(record.shape)
            require(came[:2] == shape[:2], f"records[{name!r}] must begin with shape {shape[:2]}, but has shape {came}")
        if not (isinstance(self.units, Mapping) and all(isinstance(unit, str) for unit in self.units.values())):
            raise TypeError(f"units must be words by name, but are {self.units!r}")
        object.__setattr__(self, "units", dict(self.units))
        for name in self.units:
            choice("units", name, ("positions", "times", *self.records))

    def __repr__(self) -> str:
        shape, records = tuple(self.realisations.shape), ", ".join(sorted(self.records)) or "none"
        return f"<Ensemble of {self.count} realisations, shape {shape}, records: {records}>"

    @property
    def axis(self) -> int:
        """Axis of the realisations, counted from the end."""
        return -1 if self.components == 1 else -2

    @property
    def count(self) -> int:
        """Number of realisations."""
        return self.realisations.shape[self.axis]

    def mean(self) -> Tensor:
        """Ensemble average <x>, shape (conditions, times, ...)."""
        return self.realisations.mean(self.axis)

    def variance(self) -> Tensor:
        """Unbiased ensemble variance, shape (conditions, times, ...).

        Raises:
            ValueError: a single realisation.
        """
        require(self.count > 1, "realisations must number at least 2 for a variance, but number 1")
        return self.realisations.var(self.axis)

    def standard_error(self) -> Tensor:
        """Sampling noise of `mean`: the deviation over the root of the realisations' number.

        Shape (conditions, times, ...).

        Raises:
            ValueError: a single realisation.
        """
        return (self.variance() / self.count).sqrt()

    def select(self, conditions: Tensor | slice) -> "Ensemble":
        """The ensemble of some of the conditions, given by a slice or an index tensor."""
        records = {name: record[conditions] for name, record in self.records.items()}
        return Ensemble(self.times, self.realisations[conditions], records, self.components, self.units)

    def density(self, grid: Tensor, before: Tensor | None = None, share: float = 1.0) -> Density:
        """Compress to weights on a uniform grid (see `Density` for the error).

        Args:
            grid: shape (grid,), uniform, spanning every realisation.
            before: weights to which these are added in place, (conditions, times, ..., grid).
            share: of these in the whole.

        Raises:
            ValueError: the grid is not uniform, or a realisation lies outside.
        """
        require(self.components == 1, f"components must be 1 on a grid, but are {self.components}")
        spacing = Density(grid, grid[None]).spacing  # refuses a grid before the kernel, which checks nothing, writes
        shape = (*self.realisations.shape[:-1], len(grid))
        weights = self.realisations.new_zeros(shape) if before is None else shaped("before", before, shape)
        (low, high), first, last = self.realisations.aminmax(), grid[0], grid[-1]
        spans = f"[{low:.4g}, {high:.4g}], but spans [{first:.4g}, {last:.4g}]"
        require(first <= low and high <= last, f"grid must span every realisation, {spans}")
        rows, sums = (part.flatten(0, -2).cpu() for part in (self.realisations, weights))
        _share(rows.numpy(), float(first), float(spacing), share / self.count, sums.numpy())
        return Density(grid, weights if sums.data_ptr() == weights.data_ptr() else weights.copy_(sums.view(shape)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a safetensors file `path`, whole or not at all."""
        records = {f"records.{name}": record for name, record in self.records.items()}
        parts = {"times": self.times, "realisations": self.realisations, **records}
        metadata = {"kind": KIND, "components": str(self.components), "units": json.dumps(dict(self.units))}
        save_tensors(path, parts, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Ensemble":
        """Read an ensemble that `save` wrote to `path`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or holds something else.
        """
        tensors, metadata = load_tensors(path)
        whole = metadata.get("kind") == KIND and {"times", "realisations"} <= tensors.keys()
        require(whole, f"path must name a saved ensemble, but {os.fspath(path)!r} holds none")
        records = {name.removeprefix("records."): part for name, part in tensors.items() if "." in name}
        components, units = int(metadata.get("components", "1")), json.loads(metadata.get("units", "{}"))
        return cls(tensors["times"], tensors["realisations"], records, components, units)

    @classmethod
    def from_arrays(
        cls, positions: Any, times: Any, records: Mapping[str, Any] | None = None, **keys: Any
    ) -> "Ensemble":
        """An ensemble of arrays with axes in any order: `reading.from_arrays`.

        Args:
            positions: microscopic positions.
            times: shape (times,).
            records: macroscopic histories by name.
            keys: `axes`, `lost`, `least` and `units`, as there.

        Raises:
            ValueError: as there.
            TypeError: as there.

        >>> Ensemble.from_arrays([[1.0, 2.0], [3.0, 4.0]], [0.0, 0.1], axes="realisation time", units={"times": "s"})
        <Ensemble of 2 realisations, shape (1, 2, 2), records: none>
        """
        return cast(Ensemble, _tool("reading").from_arrays(positions, times, records, **keys))

    @classmethod
    def open(cls, path: Any, **keys: Any) -> "Ensemble":
        """An ensemble from a file of any known format: `reading.read`. `reading.read_parts` reads a large one in parts.

        Args:
            path: of a file, or a list of several.
            keys: as there.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: as there.
            ImportError: the package that reads the format is missing.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Ensemble.from_arrays(torch.zeros(2, 9), [0.0, 0.1]).save(f"{folder}/own.safetensors")
        ...     Ensemble.open(f"{folder}/own.safetensors")
        <Ensemble of 9 realisations, shape (1, 2, 9), records: none>
        """
        return cast(Ensemble, _tool("reading").read(path, **keys))

    def summary(self, controls: Sequence[str] = (), forces: Sequence[str] = (), **keys: Any) -> Any:
        """What the ensemble holds, and what looks wrong in it: `inspection.inspect`.

        Args:
            controls: names of the records that are controls.
            forces: names of the records of the forces conjugate to them.
            keys: `layout`, `internal` and `spacing`, as there.

        Raises:
            ValueError: as there.

        >>> from ibvonns.systems.trap import Trap
        >>> Trap().simulate_paper(realisations=100).summary(["pulled_length"], ["external_force"]).sound
        True
        """
        return _tool("inspection").inspect(self, controls, forces, **keys)


def _tool(name: str) -> Any:
    """A module that needs this one; by name, so that nothing that was trained depends on it."""
    return import_module(f"ibvonns.{name}")


@compiled(error_model="numpy")
def _share(samples: Any, first: float, spacing: float, each: float, weights: Any) -> None:
    """Rows of samples, each of the same weight, shared between grid points."""
    last, steps = weights.shape[1] - 2, 1 / spacing
    for row in range(len(samples)):
        for n in range(samples.shape[1]):
            place = (samples[row, n] - first) * steps
            left = min(int(place), last)
            share = each * (place - left)
            weights[row, left] += each - share
            weights[row, left + 1] += share
