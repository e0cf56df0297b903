"""Ensembles of realisations: the microscopic truth, and what a macroscopic model may know."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ibvonns.validation import at_least, finite, increasing, shaped

__all__ = ["Density", "Ensemble", "load_tensors", "save_tensors"]

CACHED = 200_000  # realisations that are compressed at a time


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named tensors to a safetensors file, whole or not at all.

    The file is written beside its final place and then renamed, so that a reader, or a run that is
    killed half-way, meets either the old file or the new one.

    Args:
        path: of the file; its folder is made if there is none.
        tensors: by name; they are written from the processor's memory, whatever their device.
        metadata: texts by name, kept in the same file.

    Raises:
        OSError: the folder cannot be made or written.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save_tensors(f"{folder}/one.safetensors", {"x": torch.zeros(2)}, {"kind": "toy"})
    ...     load_tensors(f"{folder}/one.safetensors")
    ({'x': tensor([0., 0.])}, {'kind': 'toy'})
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        plain: dict[str, Tensor] = {}
        owned: set[int] = set()
        for name, tensor in tensors.items():
            part = tensor.detach().cpu().contiguous()
            # the format refuses two names for the same memory, such as a view beside its base
            plain[name] = part.clone() if part.untyped_storage().data_ptr() in owned else part
            owned.add(part.untyped_storage().data_ptr())
        save_file(plain, draft, dict(metadata or {}))
        os.replace(draft, target)
    finally:
        Path(draft).unlink(missing_ok=True)


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file: two dictionaries, by name.

    Args:
        path: of the file, as `save_tensors` wrote it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is not a safetensors file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path must name an existing file, but {os.fspath(path)!r} is none")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"path must name a whole safetensors file, but {os.fspath(path)!r} is damaged ({error})"
        ) from None


def _uniform(grid: Tensor) -> Tensor:
    """Spacing of a grid, or ValueError if it has no single one."""
    increasing("grid", grid)
    spacing = (grid[-1] - grid[0]) / (len(grid) - 1)
    # a spacing comes out of a subtraction: its rounding is that of the positions
    allowed = 1e-9 * spacing + 4 * torch.finfo(grid.dtype).eps * grid.abs().max()
    if float((torch.diff(grid) - spacing).abs().max()) > float(allowed):
        raise ValueError(
            "grid must be uniform, but its spacings range from "
            f"{float(torch.diff(grid).min()):.4g} to {float(torch.diff(grid).max()):.4g}"
        )
    return spacing


@dataclass(frozen=True)
class Density:
    """An ensemble compressed to weights on a uniform grid of positions.

    Each realisation is shared between its two neighbouring grid points in proportion to its
    distance (cloud in cell), so that the mean is kept exactly. For any other function u of the
    position the error is that of linear interpolation::

        |<u>_grid - <u>| <= spacing^2 / 8 * max |u''|

    Attributes:
        grid: positions, shape (grid,), uniform.
        weights: shape (..., grid), each row sums to 1.

    Raises:
        ValueError: NaN, wrong shape, or a grid that is not uniform.
    """

    grid: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        _uniform(self.grid)
        finite("weights", self.weights)
        shaped("weights", self.weights, ("...", len(self.grid)))

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
        spacing = float(self.grid[1] - self.grid[0])
        return spacing**2 / 8 * at_least("curvature", curvature, 0.0)


@dataclass(frozen=True)
class Ensemble:
    """Realisations of a stochastic system under several conditions, with its macroscopic records.

    Attributes:
        times: shape (times,), strictly increasing.
        realisations: microscopic positions, shape (conditions, times, ..., realisations).
        records: macroscopic histories by name, each of shape (conditions, times, ...).

    Raises:
        ValueError: NaN, wrong shape, unsorted times or an empty ensemble.

    >>> times = torch.tensor([0.0, 0.1], dtype=torch.float64)
    >>> pair = Ensemble(times, torch.tensor([[[1.0, 3.0], [2.0, 4.0]]], dtype=torch.float64))
    >>> pair.mean().tolist(), pair.count
    ([[2.0, 3.0]], 2)
    """

    times: Tensor
    realisations: Tensor
    records: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        increasing("times", self.times)
        finite("realisations", self.realisations)
        if self.realisations.numel() == 0:
            raise ValueError(
                "realisations must hold at least 1 realisation, but has shape "
                f"{tuple(self.realisations.shape)}"
            )
        if self.realisations.ndim < 3 or self.realisations.shape[1] != len(self.times):
            raise ValueError(
                f"realisations must have shape (conditions, {len(self.times)}, ..., realisations), "
                f"but has shape {tuple(self.realisations.shape)}"
            )
        for name, record in self.records.items():
            finite(f"records[{name!r}]", record)
            first = tuple(self.realisations.shape[:2])
            if record.shape[:2] != first:
                raise ValueError(
                    f"records[{name!r}] must begin with shape {first}, "
                    f"but has shape {tuple(record.shape)}"
                )

    @property
    def count(self) -> int:
        """Number of realisations."""
        return self.realisations.shape[-1]

    def mean(self) -> Tensor:
        """Ensemble average <x>, shape (conditions, times, ...)."""
        return self.realisations.mean(-1)

    def variance(self) -> Tensor:
        """Unbiased ensemble variance, shape (conditions, times, ...).

        Raises:
            ValueError: a single realisation.
        """
        if self.count < 2:
            raise ValueError("realisations must number at least 2 for a variance, but number 1")
        return self.realisations.var(-1)

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
        return Ensemble(self.times, self.realisations[conditions], records)

    def density(self, grid: Tensor) -> Density:
        """Compress to weights on a uniform grid (see `Density` for the error).

        Args:
            grid: shape (grid,), uniform, spanning every realisation.

        Raises:
            ValueError: the grid is not uniform, or a realisation lies outside.
        """
        spacing = _uniform(grid)
        low, high = float(self.realisations.min()), float(self.realisations.max())
        if low < float(grid[0]) or high > float(grid[-1]):
            raise ValueError(
                f"grid must span every realisation, [{low:.4g}, {high:.4g}], "
                f"but spans [{float(grid[0]):.4g}, {float(grid[-1]):.4g}]"
            )
        rows = self.realisations.flatten(0, -2)
        weights = torch.zeros(len(rows), len(grid), dtype=rows.dtype, device=rows.device)
        few = max(1, CACHED // rows.shape[1])  # rows at a time, which stay in the processor's cache
        for some, weight in zip(rows.split(few), weights.split(few), strict=True):
            place = (some - grid[0]) / spacing
            left = place.floor().clamp_(max=len(grid) - 2)
            share = place.sub_(left)
            index = left.long()
            weight.scatter_add_(1, index, 1 - share)
            weight.scatter_add_(1, index + 1, share)
        shape = (*self.realisations.shape[:-1], len(grid))
        return Density(grid, (weights / self.count).reshape(shape))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a safetensors file `path`, whole or not at all."""
        records = {f"records.{name}": record for name, record in self.records.items()}
        parts = {"times": self.times, "realisations": self.realisations, **records}
        save_tensors(path, parts, {"kind": "ibvonns.Ensemble"})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Ensemble":
        """Read an ensemble that `save` wrote to `path`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or holds something else.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("kind") != "ibvonns.Ensemble":
            raise ValueError(f"path must name a saved ensemble, but {os.fspath(path)!r} holds none")
        names = [name for name in tensors if name.startswith("records.")]
        records = {name.removeprefix("records."): tensors[name] for name in names}
        if not {"times", "realisations"} <= tensors.keys():
            raise ValueError(
                "path must name an ensemble with times and realisations, "
                f"but {os.fspath(path)!r} holds {sorted(tensors)}"
            )
        return cls(tensors["times"], tensors["realisations"], records)
