"""What a model may see of an ensemble: fields and ends, each site's cloud, its moments, blocks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from ibvonns.ensemble import Cloud, Density, Ensemble, Samples
from ibvonns.fluctuations import Moves
from ibvonns.validation import count, finite, increasing, positive, require, shaped, tensor

__all__ = ["Observations", "joined", "observe"]

BLOCKS = 10  # parts into which a single ensemble is split


@dataclass(frozen=True, eq=False)
class Observations:
    """Per condition, time and site: the fields, the cloud of positions and its moments.

    Attributes:
        times: shape (times,), strictly increasing.
        field: of the state, shape (conditions, times, sites, fields): the controls of a point, else
            the parameters of each site, if there are any, and its mean position.
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
        mobility: of the positions, d^2 phi/dg^2 as their fluctuations tell it (`fluctuations.covariation`), shape
            (sites,): of each bond, or of a point. None if it was not measured.
        moves: what a gas did in short times; None if that was not measured.
        rested: whether all ensembles are known to be in equilibrium at the first time.

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
    blocks: Mapping[str, Tensor] = field(default_factory=dict)  # type: ignore[operator]
    mobility: Tensor | None = None
    moves: Moves | None = None
    rested: bool = False

    def __post_init__(self) -> None:
        increasing("times", self.times)
        positive("spacing", self.spacing)
        count("count", self.count)
        sites = tuple(shaped("field", self.field, ("conditions", len(self.times), "sites", "fields")).shape[:3])
        rows = self.cloud.weights if isinstance(self.cloud, Density) else self.cloud.positions
        shapes: dict[str, Any] = {"field": (*sites, "fields"), "mean": (*sites, "components"), "times": ("times",)}
        shapes |= {"variance": self.mean.shape, "force": (*sites[:2], "ends"), "velocity": sites[:2]}
        for name, shape in {**shapes, "cloud": (*sites, "points")}.items():
            part = rows.flatten(3) if name == "cloud" else getattr(self, name)
            if part is not None and shaped(name, finite(name, part), shape).dtype != torch.float64:
                raise TypeError(f"{name} must be of torch.float64, but is of {part.dtype}")
        if self.mobility is not None:
            positive("mobility", float(shaped("mobility", self.mobility, (sites[2],)).min()))
        least = float(self.variance.min())
        require(least > 0, f"variance must be above 0, but its smallest is {least:g}")

    def __repr__(self) -> str:
        sizes = zip(self.field.shape, ("conditions", "times", "sites", "fields"), strict=True)
        return f"<Observations of {self.count} realisations: {', '.join(f'{n} {name}' for n, name in sizes)}>"

    def _mapped(self, change: Callable[[Tensor], Tensor], **others: Any) -> "Observations":
        """The same with every history, (conditions, times, ...), changed alike."""
        parts = {name: getattr(self, name) for name in ("field", "mean", "variance", "force", "velocity")}
        new: dict[str, Any] = {name: change(part) for name, part in parts.items() if part is not None}
        blocks = {name: torch.stack([*map(change, part)]) for name, part in self.blocks.items()}
        return replace(self, blocks=blocks, **new, **others)

    def at(self, times: Tensor | slice) -> "Observations":
        """The same at some times, two or more, given by their indices in order."""
        return self._mapped(lambda part: part[:, times], times=self.times[times], cloud=self.cloud.at(times))

    def every(self, stride: int) -> "Observations":
        """The same at every so many times; v_n is the mean since the time before.

        Args:
            stride: from one time to the next.

        Raises:
            ValueError: a stride below 1, or one that leaves a single time.
        """
        thin = self if count("stride", stride) == 1 else self.at(slice(None, None, stride))
        if thin is self or self.velocity is None:
            return thin
        way = pad((self.velocity[:, 1:] * self.times.diff()).cumsum(1), (1, 0))
        between = way[:, ::stride].diff(dim=1) / thin.times.diff()
        return replace(thin, velocity=torch.cat([self.velocity[:, :1], between], 1))

    def speed(self, rule: str) -> Tensor | None:
        """v_n at the recorded states: as recorded, or by the midpoint rule the mean of the steps before and behind.

        Args:
            rule: "euler" or "midpoint", by which a rollout takes its steps.
        """
        if self.velocity is None or rule == "euler":
            return self.velocity
        steps = self.velocity[:, 1:]
        return (torch.cat([steps[:, :1], steps], 1) + torch.cat([steps, steps[:, -1:]], 1)) / 2

    def coarser(self, factor: int) -> "Observations":
        """The same with its clouds on every so many points of their grid.

        Args:
            factor: points of the grid to one of the new grid.
        """
        return replace(self, cloud=self.cloud.coarser(factor))

    def select(self, conditions: Tensor | slice) -> "Observations":
        """The same for some of the conditions, given by a slice or an index tensor."""
        return self._mapped(lambda part: part[conditions], cloud=self.cloud.at(slice(None), conditions))

    def standard_error(self) -> Tensor:
        """Sampling noise of `mean`, in its shape.

        Raises:
            ValueError: a single realisation.
        """
        count("count", self.count, 2)
        return (self.variance / (self.count - 1)).sqrt()


def observe(
    ensemble: Ensemble | Iterable[Ensemble],
    controls: str | Sequence[str] = (),
    forces: str | Sequence[str] = "external_force",
    velocity: str = "velocity",
    spacing: float = 1.0,
    points: int = 641,
    grid: Tensor | None = None,
    parameters: Mapping[str, Any] | None = None,
    rested: bool = False,
) -> Observations:
    """Compress an ensemble to what a model may see of it, once and for all.

    An ensemble that is too large for the memory comes in parts, one after another: independent
    realisations under the same conditions. Each is a block of what is returned.

    Args:
        ensemble: one, or its parts.
        controls: names of the records that are the controls of a point; if none is named, the field
            is the mean position of each site.
        forces: names of the records of F_ex, one for each control, or none if they were not measured; one that
            no ensemble has is left out, unless a control is named.
        velocity: name of the record of v_n; left out if no ensemble has it.
        spacing: natural length of a site.
        points: of the grid of positions, 5 or more; `Density` states the error, which falls as its square. Of
            positions with several components so many realisations are kept instead.
        grid: the positions themselves, if given: such as several ensembles share.
        parameters: by name, known numbers that tell one site from another, each of shape (sites,).
        rested: whether all conditions are in equilibrium at the first time.

    Raises:
        ValueError: no ensemble, a record that is missing, positions of several components as a
            field, or a realisation outside of a given grid.

    >>> from ibvonns.systems.trap import Trap
    >>> seen = observe(Trap().simulate_paper(realisations=100), "pulled_length", points=256)
    >>> seen.field.shape, seen.cloud.weights.shape
    (torch.Size([21, 301, 1, 1]), torch.Size([21, 301, 1, 256]))
    """
    controls, answers = ([given] if isinstance(given, str) else list(given) for given in (controls, forces))
    fits = not controls or len(answers) in (0, len(controls))
    require(fits, f"forces must name one for each of {len(controls)} controls, or none, but name {len(answers)}")
    count("points", points, 5)
    known = {name: tensor(f"parameters[{name!r}]", each) for name, each in (parameters or {}).items()}

    def seen() -> Iterator[Observations]:
        step = 0.0
        for part in [ensemble] if isinstance(ensemble, Ensemble) else ensemble:
            low, high = map(float, part.realisations.aminmax())
            # a margin of a point on either side, so that rounding leaves no realisation outside; the
            # points are multiples of the step, so that grids of later parts fit that of the first
            step = step or (max(high - low, 1e-12 * abs(high)) or 1.0) / (points - 4)
            places = torch.arange(floor(low / step) - 1, ceil(high / step) + 2, dtype=torch.float64)
            one = _seen(part, controls, answers, velocity, spacing, step * places if grid is None else grid, points)
            del part  # before the next one is made: they are large
            own = [shaped(f"parameters[{n!r}]", each, one.field.shape[2:3]).double() for n, each in known.items()]
            beside = [each[:, None].expand(*one.field.shape[:3], 1) for each in own]
            yield replace(one, field=torch.cat([*beside, one.field], -1)) if own else one

    return replace(joined(seen()), rested=rested)


def _seen(
    part: Ensemble, controls: list[str], answers: list[str], velocity: str, spacing: float, grid: Tensor, points: int
) -> Observations:
    """One ensemble, in double precision; its field is the controls or the mean position."""
    several, times, positions = part.components > 1, part.times.double(), part.realisations.double()
    positions = positions if several else positions[..., None]
    positions = positions.unsqueeze(2) if positions.ndim == 4 else positions
    came = tuple(part.realisations.shape)
    require(positions.ndim == 5, f"realisations must have one axis of sites at most, but have shape {came}")
    require(controls or not several, "controls must be named where positions have several components, but is not")
    records = {name: record.double() for name, record in part.records.items()}
    for name in controls + answers if controls else ():
        require(name in records, f"ensemble must hold the record {name!r}, but holds {sorted(records)}")
    measured = [records[name] for name in answers if name in records]
    mean, variance = positions.mean(-2), positions.var(-2, unbiased=False)
    field = torch.stack([records[name] for name in controls], -1)[:, :, None] if controls else mean
    force = torch.stack(measured, -1) if measured else None
    cloud = Samples(positions[..., :points, :].clone()) if several else Ensemble(times, positions[..., 0]).density(grid)
    pieces = positions.tensor_split(BLOCKS, -2) if part.count % BLOCKS == 0 else ()
    blocks = {"mean": torch.stack([piece.mean(-2) for piece in pieces])} if pieces else {}
    return Observations(times, field, cloud, mean, variance, part.count, force, records.get(velocity), spacing, blocks)


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
            kept += [] if (value := getattr(part, name)) is None else [value]
        total = part if total is None else _both(total, part)
        del part
    if total is None:
        raise ValueError("ensemble must have at least 1 part, but has none")
    new = {name: torch.stack(kept) for name, kept in blocks.items() if kept}
    return total if len(new["mean"]) == 1 else replace(total, blocks=new)


def _both(total: Observations, part: Observations) -> Observations:
    """Observations so far and one part more; the field is a mean unless it is a control."""
    same = torch.equal(total.times, part.times) and total.mean.shape == part.mean.shape
    require(same, "parts of an ensemble must have the same times, conditions and sites, but differ")
    given = total.field.shape[-1] - torch.equal(total.field[..., -1:], total.mean)  # the last may be a mean
    alike = torch.equal(total.field[..., :given], part.field[..., :given])
    require(alike, "parts of an ensemble must have the same controls or parameters, but differ")
    number = total.count + part.count
    share, new = part.count / number, dict[str, Any]()
    for name in ("field", "mean", "force", "velocity"):
        ours, theirs = getattr(total, name), getattr(part, name)
        new[name] = None if ours is None or theirs is None else torch.lerp(ours, theirs, share)
    # squares of means, taken from one another, would cancel
    variance = torch.lerp(total.variance, part.variance, share) + share * (1 - share) * (part.mean - total.mean) ** 2
    cloud = cast(Any, total.cloud).joined(part.cloud, share)
    return replace(total, cloud=cloud, variance=variance, count=number, blocks={}, **new)
