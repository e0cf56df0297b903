"""What a model may see of an ensemble: fields and ends, each site's cloud, its moments, blocks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ibvonns.ensemble import Cloud, Density, Ensemble, Samples
from ibvonns.validation import count, finite, increasing, positive, shaped

__all__ = ["Observations", "joined", "observe"]

BLOCKS = 10  # parts into which a single ensemble is split
MARGIN = 0.01  # by which a grid outreaches the first ensemble, of its range


@dataclass(frozen=True, eq=False)
class Observations:
    """Per condition, time and site: the fields, the cloud of positions and its moments.

    Attributes:
        times: shape (times,), strictly increasing.
        field: of the state, shape (conditions, times, sites, fields): the controls of a point, else
            the mean position of each site.
        cloud: compressed positions, rows (conditions, times, sites).
        mean: of the positions, shape (conditions, times, sites, components).
        variance: of the positions, the biased one, same shape.
        count: realisations.
        force: F_ex, measured, shape (conditions, times, ends); None if it was not.
        velocity: v_n of a driven end, shape (conditions, times), the backward difference of its
            position; None where there is none.
        spacing: natural length of a site.
        blocks: "mean" and "force" of independent parts of the ensemble, each with the parts in
            front: what they scatter is the sampling noise.

    Raises:
        ValueError: NaN, wrong shape, unsorted times, or a variance that is not above 0.
        TypeError: tensors that are not float64.
    """

    times: Tensor
    field: Tensor
    cloud: Cloud
    mean: Tensor
    variance: Tensor
    count: int
    force: Tensor | None = None
    velocity: Tensor | None = None
    spacing: float = 1.0
    blocks: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        increasing("times", self.times)
        positive("spacing", self.spacing)
        count("count", self.count)
        shaped("field", self.field, ("conditions", len(self.times), "sites", "fields"))
        sites = tuple(self.field.shape[:3])
        shaped("mean", self.mean, (*sites, "components"))
        shaped("variance", self.variance, tuple(self.mean.shape))
        if self.force is not None:
            shaped("force", self.force, (*sites[:2], "ends"))
        if self.velocity is not None:
            shaped("velocity", self.velocity, sites[:2])
        for name in ("field", "mean", "variance", "force", "velocity"):
            if (part := getattr(self, name)) is not None:
                _double(name, finite(name, part))
        if not bool((self.variance > 0).all()):
            raise ValueError(
                f"variance must be above 0, but its smallest is {float(self.variance.min()):g}"
            )
        rows = self.cloud.weights if isinstance(self.cloud, Density) else self.cloud.positions
        _double("cloud", rows)
        shaped("cloud", rows.flatten(3), (*sites, "points"))

    def __repr__(self) -> str:
        conditions, times, sites, fields = self.field.shape
        return (
            f"<Observations of {self.count} realisations: {conditions} conditions, {times} times, "
            f"{sites} sites, {fields} fields>"
        )

    def _mapped(self, change: Callable[[Tensor], Tensor], **others: Any) -> "Observations":
        """The same with every history, (conditions, times, ...), changed alike."""
        new = {
            name: None if (part := getattr(self, name)) is None else change(part)
            for name in ("field", "mean", "variance", "force", "velocity")
        }
        blocks = {
            name: torch.stack([change(one) for one in part]) for name, part in self.blocks.items()
        }
        return replace(self, **{**new, "blocks": blocks, **others})

    def at(self, times: Tensor | slice) -> "Observations":
        """The same at some times, two or more, given by their indices in order."""
        return self._mapped(
            lambda part: part[:, times], times=self.times[times], cloud=self.cloud.at(times)
        )

    def every(self, stride: int) -> "Observations":
        """The same at every so many times; v_n is the mean since the time before.

        Args:
            stride: from one time to the next.

        Raises:
            ValueError: a stride below 1, or one that leaves a single time.
        """
        if count("stride", stride) == 1:
            return self
        thin = self.at(slice(None, None, stride))
        if self.velocity is None:
            return thin
        way = torch.zeros_like(self.velocity)
        way[:, 1:] = (self.velocity[:, 1:] * self.times.diff()).cumsum(1)
        between = way[:, ::stride].diff(dim=1) / thin.times.diff()
        return replace(thin, velocity=torch.cat([self.velocity[:, :1], between], 1))

    def coarser(self, factor: int) -> "Observations":
        """The same with its clouds on every so many points of their grid.

        Args:
            factor: points of the grid to one of the new grid.
        """
        return replace(self, cloud=self.cloud.coarser(factor))

    def select(self, conditions: Tensor | slice) -> "Observations":
        """The same for some of the conditions, given by a slice or an index tensor."""
        cloud: Cloud = (
            Density(self.cloud.grid, self.cloud.weights[conditions])
            if isinstance(self.cloud, Density)
            else Samples(self.cloud.positions[conditions])
        )
        return self._mapped(lambda part: part[conditions], cloud=cloud)

    def standard_error(self) -> Tensor:
        """Sampling noise of `mean`, in its shape.

        Raises:
            ValueError: a single realisation.
        """
        count("count", self.count, 2)
        return (self.variance / (self.count - 1)).sqrt()


def _double(name: str, values: Tensor) -> None:
    if values.dtype != torch.float64:
        raise TypeError(f"{name} must be of torch.float64, but is of {values.dtype}")


def observe(
    ensemble: Ensemble | Iterable[Ensemble],
    control: str | Sequence[str] = (),
    force: str | Sequence[str] = "external_force",
    velocity: str = "velocity",
    spacing: float = 1.0,
    points: int = 641,
    grid: Tensor | None = None,
) -> Observations:
    """Compress an ensemble to what a model may see of it, once and for all.

    An ensemble that is too large for the memory comes in parts, one after another: independent
    realisations under the same conditions. Each is a block of what is returned.

    Args:
        ensemble: one, or its parts.
        control: names of the records that are the controls of a point; if none is named, the field
            is the mean position of each site.
        force: names of the records of F_ex, one for each control; one that no ensemble has is left
            out, unless a control is named.
        velocity: name of the record of v_n; left out if no ensemble has it.
        spacing: natural length of a site.
        points: of the grid of positions; `Density` states the error, which falls as its square. Of
            positions with several components so many realisations are kept instead.
        grid: the positions themselves, if given: such as several ensembles share.

    Raises:
        ValueError: no ensemble, a record that is missing, positions of several components as a
            field, or a realisation outside of a given grid.

    >>> from ibvonns.systems.trap import Trap
    >>> seen = observe(Trap().simulate_paper(realisations=100), "pulled_length", points=256)
    >>> seen.field.shape, seen.cloud.weights.shape
    (torch.Size([21, 301, 1, 1]), torch.Size([21, 301, 1, 256]))
    """
    parts = [ensemble] if isinstance(ensemble, Ensemble) else ensemble
    controls = [control] if isinstance(control, str) else list(control)
    answers = [force] if isinstance(force, str) else list(force)
    count("points", points, 2)

    def seen() -> Iterator[Observations]:
        nonlocal grid
        own = grid is None
        for part in parts:
            if grid is None:
                grid = _grid(part, points)
            held = _reaching(part, grid) if own and part.components == 1 else grid
            yield _seen(part, controls, answers, velocity, spacing, held, points)

    return joined(seen())


def _grid(part: Ensemble, points: int) -> Tensor:
    low, high = part.realisations.double().aminmax()
    # a margin of 1 %, so that rounding leaves no realisation outside
    unit = torch.linspace(-MARGIN, 1 + MARGIN, points, dtype=low.dtype, device=low.device)
    return low + (high - low) * unit


def _reaching(part: Ensemble, grid: Tensor) -> Tensor:
    """The grid, with more points of the same spacing where a part reaches beyond it."""
    spacing = (grid[-1] - grid[0]) / (len(grid) - 1)
    low, high = part.realisations.aminmax()
    before = int(((grid[0] - low) / spacing).clamp_min(0).ceil())
    after = int(((high - grid[-1]) / spacing).clamp_min(0).ceil())
    if before == after == 0:
        return grid
    return grid[0] + spacing * torch.arange(-before, len(grid) + after).to(grid)


def _record(part: Ensemble, name: str, wanted: bool) -> Tensor | None:
    if wanted and name not in part.records:
        raise ValueError(
            f"ensemble must hold the record {name!r}, but holds {sorted(part.records)}"
        )
    record = part.records.get(name)
    return None if record is None else record.double()


def _seen(
    part: Ensemble,
    controls: list[str],
    answers: list[str],
    velocity: str,
    spacing: float,
    grid: Tensor,
    points: int,
) -> Observations:
    """One ensemble, in double precision; its field is the controls or the mean position."""
    part = replace(part, times=part.times.double(), realisations=part.realisations.double())
    axes = part.realisations.ndim - (2 if part.components == 1 else 3)
    positions = part.realisations if axes == 2 else part.realisations.unsqueeze(2)
    if positions.ndim != 4 + (part.components > 1):
        raise ValueError(
            "realisations must have axes (conditions, times, sites, realisations), "
            f"but have shape {tuple(part.realisations.shape)}"
        )
    one = replace(part, realisations=positions)
    if part.components == 1:
        cloud: Cloud = one.density(grid)
        positions = positions[..., None]
    else:
        cloud = Samples(positions[..., :points, :].clone())
    mean = positions.mean(-2)
    records = [_record(part, name, True) for name in controls]
    forces = [_record(part, name, bool(controls)) for name in answers]
    if not controls and part.components > 1:
        raise ValueError("control must be named where positions have several components")
    given = torch.stack([r for r in records if r is not None], -1)[:, :, None] if controls else mean
    measured = [f for f in forces if f is not None]
    pieces = [piece.mean(-2) for piece in positions.tensor_split(BLOCKS, -2)]
    whole = part.count % BLOCKS == 0
    return Observations(
        part.times,
        given,
        cloud,
        mean,
        positions.var(-2, unbiased=False),
        part.count,
        torch.stack(measured, -1) if measured else None,
        _record(part, velocity, False),
        spacing,
        {"mean": torch.stack(pieces)} if whole else {},
    )


def joined(parts: Iterable[Observations]) -> Observations:
    """Independent observations under the same conditions as one of all their realisations.

    Args:
        parts: two or more become the blocks of what is returned; a single one is returned as it is.

    Raises:
        ValueError: nothing to join, or other times, controls or grids.

    >>> from ibvonns.systems.trap import Trap
    >>> grid = torch.linspace(-2, 6, 400, dtype=torch.float64)
    >>> draws = [Trap().simulate_paper(realisations=5, seed=seed) for seed in (1, 2)]
    >>> one, two = (observe(draw, "pulled_length", grid=grid) for draw in draws)
    >>> bool((joined([one, two]).mean - (one.mean + two.mean) / 2).abs().max() < 1e-12)
    True
    """
    total: Observations | None = None
    blocks: dict[str, list[Tensor]] = {"mean": [], "force": []}
    for part in parts:
        for name, kept in blocks.items():
            if (value := getattr(part, name)) is not None:
                kept.append(value)
        total = part if total is None else _both(total, part)
    if total is None:
        raise ValueError("ensemble must have at least 1 part, but has none")
    if len(blocks["mean"]) == 1:
        return total
    return replace(total, blocks={name: torch.stack(kept) for name, kept in blocks.items() if kept})


def _both(total: Observations, part: Observations) -> Observations:
    """Observations so far and one part more; the field is a mean unless it is a control."""
    if not torch.equal(total.times, part.times) or total.mean.shape != part.mean.shape:
        raise ValueError("parts of an ensemble must have the same times, conditions and sites")
    number = total.count + part.count
    share = part.count / number

    def mean(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.lerp(a, b, share)

    middle = torch.lerp(total.mean, part.mean, share)
    square = torch.lerp(total.variance + total.mean**2, part.variance + part.mean**2, share)
    cloud: Any = total.cloud
    return replace(
        total,
        field=mean(total.field, part.field),
        cloud=cloud.joined(part.cloud, share),
        mean=middle,
        variance=square - middle**2,
        count=number,
        force=mean(total.force, part.force),
        velocity=mean(total.velocity, part.velocity),
        blocks={},
    )
