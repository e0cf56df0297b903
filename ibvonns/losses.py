"""The terms of the loss, Eqs. (32)-(34), (51)-(53), for every layout."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ibvonns.model import Model
from ibvonns.observations import Observations
from ibvonns.rollout import rollout
from ibvonns.validation import at_least, count

__all__ = ["TERMS", "Sampling", "loss_terms"]

#: Names of the terms, in the order of the paper's sum.
TERMS = ("density", "shift", "field", "internal", "end")


@dataclass(frozen=True)
class Sampling:
    """Where a loss looks, and how an error is divided by what noise would leave of it.

    Attributes:
        rows: times of the density term while windows are rolled out, and before.
        turns: from one optimiser step to the next these times move on by so many; one that has no
            factor in common with their distance lets each time have its turn.
        fixed: if not 0, the times are instead every so many, the same ones always.
        compared: states of a long window at which alpha is compared, about.
        asked: first state of a window at which the end's answer is compared.
        free: window from which on a driven end is left to F_ex in every other step.
        along: share of the rolled-out states in the end term, beside the recorded ones.
        power: the squared error after j steps is divided by j to this power: 1 for the noise of a
            sum of j steps, 2 for a relative error of a rate.
        by: how far whole clouds are shifted in the shift term.

    Raises:
        ValueError: a number below what makes sense.
    """

    rows: tuple[int, int] = (3, 10)
    turns: int = 7
    fixed: int = 0
    compared: int = 15
    asked: int = 0
    free: int = 20
    along: float = 0.06
    power: int = 1
    by: float = 0.05

    def __post_init__(self) -> None:
        for name in ("turns", "compared", "free", "power"):
            count(name, getattr(self, name))
        for name in ("fixed", "asked"):
            count(name, getattr(self, name), 0)
        at_least("along", self.along, 0.0)

    def times(self, number: int, window: int, step: int) -> Tensor:
        """Indices of the times of the density term, of so many in all."""
        if self.fixed:
            return torch.arange(0, number, self.fixed)
        every = max(1, number // self.rows[window == 0])
        return torch.arange(self.turns * step % every, number, every)


def loss_terms(
    model: Model,
    data: Observations,
    window: int,
    starts: Tensor,
    look: Sampling,
    held: Tensor | None = None,
    step: int = 0,
    names: Collection[str] = TERMS,
    backend: str = "single",
) -> dict[str, Tensor]:
    """The terms of a model's loss, each made dimensionless, by name: (replicas,) each.

    - density, Eqs. (32), (51): mean negative log-likelihood in nats, at some of the times.
    - shift: mean square change of alpha, in its deviation, per unit of a shift of whole clouds. The
      field tells the place of a density, and alpha is for its shape: one that follows the place,
      too, goes astray where a pull turns back.
    - field, Eq. (52), where sites have bonds: mean square of the rolled-out field less the recorded
      one, in units of the rate scale. In a row and in windows below `Sampling.free` by the
      particles' positions, whose noise is independent from one to the next. In longer windows what
      is left is the law's own error, and all steps of a window are divided by the same.
    - internal, Eqs. (34), (53): the same for alpha.
    - end, Eq. (33): mean square error of what the end answers at recorded states, in its deviation:
      F_ex of a point, the v_n that F_ex drives in a row. A relation between records with no noise
      of its own: in a row it makes F_ex follow from v_n later, and keeps the end from drifting
      where F_ex pulls it. Where a long window moves the end as recorded, `Sampling.along` times the
      same at the rolled-out states is added, which is the error of the F_ex that they predict.

    F_ex is as recorded. A driven end moves as recorded or, in every other step with long windows,
    as F_ex drives it: the error that this feeds back must be trained, too.

    The error after j steps, at a time t after the window's start, is divided by t (j dt)^(power -
    1) dt^(2 - power), dt being the mean step of the record: the noise of a mean that wanders for a
    time t has a variance that grows as t, however the times are spaced. Each window has its own
    clock.

    Args:
        model: with its scales set.
        data: the training observations.
        window: Euler steps of each rollout, or 0 for the terms of encoder and decoder alone.
        starts: index of each window's first time, (starts,) or each replica's own, (replicas,
            starts); the same for every trajectory.
        look: where the loss looks.
        held: alpha at all times, as `Encoder.standardised` gave it, if encoder and decoder stand
            still; there are no terms of theirs then.
        step: of the optimiser, for what turns from step to step.
        names: terms that are wanted.
        backend: engine of the rollouts.

    Returns:
        The wanted terms that there are: absent is absent.

    >>> from ibvonns.model import Architecture
    >>> from ibvonns.layouts import Point
    >>> from ibvonns.observations import observe
    >>> from ibvonns.systems.trap import Trap
    >>> model = Model([0, 1], Architecture(Point(), decoder="gaussian"))
    >>> data = observe(Trap().simulate_paper(realisations=10), "pulled_length", points=64)
    >>> model.set_scales(data)
    >>> loss_terms(model, data, 1, torch.tensor([0]), Sampling()).keys()
    dict_keys(['density', 'shift', 'internal', 'end'])
    """
    law, number = model.law, len(data.times)
    layout, device = law.layout, data.mean.device
    rows = look.times(number, window, step).to(device)
    starts = starts.to(device).expand(len(model.seeds), -1)
    times = starts[..., None] + torch.arange(window + 1, device=device)
    # alpha's error changes little from one step of a long window to the next
    seen = torch.arange(0, window + 1, max(1, window // look.compared), device=device)
    visited = times[..., seen]
    out: dict[str, Tensor] = {}
    if held is None:
        wanted = visited.flatten(1) if window else None
        alpha, inner = model.encoder.standardised(data, rows, wanted)
        if "density" in names:
            inward = alpha[..., : law.internal]
            out["density"] = model.nll(data.at(rows), inward)
        if "shift" in names:
            cloud = data.cloud.at(rows)
            spread = model.encoder.raw(cloud).var(1, unbiased=False, keepdim=True)
            shifted = model.encoder.shift(cloud, look.by).square()
            out["shift"] = (shifted / spread).mean((1, 2))
    else:
        each = torch.arange(len(held), device=device)[:, None]
        inner = held.movedim(2, 1)[each, visited.flatten(1)].movedim(2, 1)
    if window == 0 or inner is None or not _finite(out):  # `train` then says which seed
        return out
    inner = inner[..., : law.internal].unflatten(2, visited.shape[1:]).flatten(1, 2)

    def windows(part: Tensor, at: Tensor) -> Tensor:
        """Histories (conditions, times, ...) by replica and window: (replicas, windows, ...)."""
        return part[:, at].movedim(1, 0).flatten(1, 2)

    clock = data.times[times].diff(dim=-1)
    steps = clock[:, None].expand(-1, len(data.field), -1, -1).flatten(1, 2)
    field = windows(data.field, times)
    state = torch.cat([field[:, :, seen], inner], -1)
    free = window >= look.free and step % 2 > 0
    driven: dict[str, Any] = {}
    if not layout.directions:
        driven["field"] = field[:, :, :-1, 0]
    if layout.driven:
        assert data.force is not None and data.velocity is not None
        driven["force"] = windows(data.force[..., 0], times)[:, :, :-1]
        velocity = windows(data.velocity, times)
        driven["velocity"] = None if free else velocity[:, :, 1:]
    path, ends = rollout(law, state[:, :, 0], steps, **driven, backend=backend)
    mean_step = (data.times[-1] - data.times[0]) / (number - 1)
    j = torch.arange(1, window + 1, device=device).to(steps)
    noise = steps.cumsum(-1) * (j * mean_step) ** (look.power - 1) * mean_step ** (2 - look.power)
    fields, long = layout.fields, window >= look.free
    if layout.directions and "field" in names:
        missed, by = path[..., 0] - field[:, :, 1:, :, 0], noise
        if long:
            by = noise[..., -1:] / 2
        elif layout.driven:
            missed = missed.cumsum(-1)[..., :-1]
        scaled = data.spacing / law.rate * missed / by[..., None].sqrt()
        out["field"] = scaled.square().mean((1, 2, 3))
    if "internal" in names:
        by = noise[..., -1:].expand_as(noise) / 2 if long and layout.directions else noise
        astray = path[:, :, seen[1:] - 1, :, fields:] - inner[:, :, 1:]
        scaled = astray / by[..., seen[1:] - 1, None, None].sqrt() / law.clock
        out["internal"] = scaled.square().sum((1, 2, 3, 4)) / max(1, scaled[0].numel())
    if layout.ends and "end" in names:
        out["end"] = _answers(model, data, state, visited, look.asked, backend)
        if layout.driven and long and not free:
            gone = (ends[..., 0] - velocity[:, :, :-1]) / law.rate
            out["end"] = out["end"] + look.along * gone.square().mean((1, 2))
    return {name: out[name] for name in TERMS if name in out}


def _answers(model: Model, data: Observations, state: Tensor, visited: Tensor, asked: int, backend: str) -> Tensor:
    """Mean square error of the end's answer at recorded states: (replicas,)."""
    law = model.law
    assert data.force is not None
    here = data.force[:, visited].movedim(1, 0).flatten(1, 2)[:, :, asked:].flatten(1, 2)
    last = state[:, :, asked:, -1:].flatten(1, 2)  # the end answers for its own site
    one = data.times.new_ones(1)
    if law.layout.driven:
        assert data.velocity is not None
        moves = data.velocity[:, visited].movedim(1, 0).flatten(1, 2)[:, :, asked:].flatten(1, 2)
        _, answer = rollout(law, last, one, force=here, backend=backend)
        return ((answer[:, :, 0, 0] - moves) / law.rate).square().mean(1)
    controls = last[:, :, :, : law.layout.fields]
    _, answer = rollout(law, last, one, controls, backend=backend)
    unit = data.force.flatten(0, 1).std(0)
    return ((answer[:, :, 0] - here) / unit).square().mean((1, 2))


def _finite(terms: dict[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(term).all()) for term in terms.values())
