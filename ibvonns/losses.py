"""The terms of the loss, Eqs. (32)-(34), (51)-(53), for every layout."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ibvonns.encoder import mixed, mixing
from ibvonns.model import Model
from ibvonns.observations import Observations
from ibvonns.rollout import rollout
from ibvonns.validation import count, positive

__all__ = ["TERMS", "Sampling", "loss_terms"]

#: Names of the terms, in the order of the paper's sum, then those that fluctuations add.
TERMS = ("density", "shift", "field", "internal", "end", "rest", "drift", "fluctuation")

RELATIONS = ("field", "internal", "end")  # between a state and what comes of it; those at rest an f of 0 would meet
NEVER = 1e-30  # a mean square that is none
BETWEEN = (0.0, 0.5, 1.0)  # where the curvature of phi is compared, in shares of a state's forces


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
        profiled: whether a relation has no weight by hand: its term is then half the logarithm of its mean square, of
            several internal variables of the determinant of their mean product. That is the likelihood of Gaussian
            residuals whose noise is what they scatter by: each is divided by its own noise, where it has one, and else
            by what the model leaves of it. No unit and no linear gauge of alpha enters.
        by: how far whole clouds are shifted in the shift term, in deviations of all positions.
        share: windows of every so many-th condition are rolled out in a step, each in its turn, of three at least: a
            step costs so much less, and the optimiser's memory is longer than a turn.

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
    by: float = 0.04
    profiled: bool = False
    share: int = 1

    def __post_init__(self) -> None:
        for name in ("turns", "compared", "free", "power", "share", "fixed", "asked"):
            count(name, getattr(self, name), int(name not in ("fixed", "asked")))
        for number in self.rows:
            count("rows", number)
        positive("along", self.along, least=0.0)
        positive("by", self.by)

    def times(self, number: int, window: int, step: int) -> Tensor:
        """Indices of the times of the density term.

        Args:
            number: of times in all.
            window: Euler steps of the rollouts.
            step: of the optimiser.
        """
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
    - rest: mean square of g_alpha in equilibrium, at the first time of data that begin there (`Observations.rested`),
      in units of the energy. Slow variables hardly move near it: their rates alone would not tell where it is.
    - drift: of a gas, the mean rates of its coarse variables over a short time (`Observations.moves`), in
      units of their errors.
    - fluctuation: d^2 phi/dg^2 against what fluctuations tell of it: of a gas by its K, in units of the
      errors; else, where `Observations.mobility` was measured, the mean square of the logarithm of their
      ratio, of the bonds, or of alpha of a point. N realisations move alpha by sum (d alpha/dx_i) dx_i,
      so that its operator is their mobility times `Encoder.response`. The noise of a diffusion is Gaussian
      whatever drives it, and phi quadratic: it is compared at the state's forces, at half of them, and at rest.

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
    law, number, device = model.law, len(data.times), data.mean.device
    first = slice(None, None if law.steps == "midpoint" else -1)  # of what drives a step, its ends or its beginning
    layout, fields, seeds = law.layout, law.layout.fields, len(model.seeds)
    rows = look.times(number, window, step).to(device)
    times = starts.to(device).expand(seeds, -1)[..., None] + torch.arange(window + 1, device=device)
    # alpha's error changes little from one step of a long window to the next
    seen = torch.arange(0, window + 1, max(1, window // look.compared), device=device)
    visited = times[..., seen]
    every = max(1, min(look.share, len(data.field) // 3))
    among = slice(step // 2 % every, None, every)  # so that an end is driven both ways in each turn
    out: dict[str, Tensor] = {}
    if data.moves is not None and {"drift", "fluctuation"} & set(names):
        out |= {name: term for name, term in data.moves.missed(law).items() if name in names}
    if out and window == 0:
        return out
    told = data.mobility if "fluctuation" in names else None
    if held is None:
        some = data.at(rows)
        alpha, inner = model.encoder.standardised(data, rows, visited.flatten(1) if window else None, among)
        if "density" in names:
            out["density"] = model.nll(some, alpha[..., : law.internal])
        if "shift" in names:
            raw, shifted = model.encoder.raw(some.cloud), model.encoder.shift(some.cloud, look.by)
            mix = mixing(raw)
            raw, shifted = mixed(raw, mix), mixed(shifted, mix)
            out["shift"] = (shifted.square() / raw.var(1, unbiased=False, keepdim=True)).mean((1, 2))
    else:
        alpha, replicas = held[:, :, rows], torch.arange(seeds, device=device)[:, None]
        inner = held[:, among].movedim(2, 1)[replicas, visited.flatten(1)].movedim(2, 1)
    if data.rested and "rest" in names and int(rows[0]) == 0:
        begun = alpha[:, :, 0, :, : law.internal]
        g = law.slopes(torch.cat([data.field[:, 0].expand(*begun.shape[:-1], -1), begun], -1))[1]
        out["rest"] = (g / law.energy).square().mean((1, 2, 3))
    if told is not None:
        some = data.at(rows)
        z = model.states(some, alpha[..., : law.internal].detach()).flatten(1, 2)
        g = law.driving(z, None if some.force is None or not layout.driven else some.force[..., 0].flatten())
        moved = 1.0 if layout.directions else model.encoder.response(data, rows).flatten(1, 2)
        away = [law.operator(z, share * g)[..., : layout.directions or law.internal] for share in BETWEEN]
        goal = (told[:, None] * moved).log()
        out["fluctuation"] = torch.stack([(each.log() - goal).square().mean((1, 2, 3)) for each in away]).mean(0)
    if window == 0 or inner is None:
        return out
    inner = inner[..., : law.internal].unflatten(2, visited.shape[1:]).flatten(1, 2)
    inner = inner.where(inner.isfinite(), 0.0)  # a replica that is lost is told by its other terms or its gradient

    def windows(part: Tensor | None, at: Tensor) -> Tensor:
        """Histories (conditions, times, ...) by replica and window: (replicas, windows, ...)."""
        assert part is not None  # `Model.matched` has seen to it
        return part[among][:, at].movedim(1, 0).flatten(1, 2)

    steps = data.times[times].diff(dim=-1)[:, None].expand(-1, len(data.field[among]), -1, -1).flatten(1, 2)
    field = windows(data.field, times)
    state = torch.cat([field[:, :, seen], inner], -1)
    long, free = window >= look.free, window >= look.free and step % 2 > 0
    given: dict[str, Any] = {} if layout.directions else {"field": field[:, :, first, 0]}
    if layout.driven:
        velocity, speed = windows(data.velocity, times), data.speed(law.steps)
        given = {"force": windows(data.force, times)[:, :, first, 0], "velocity": None if free else velocity[:, :, 1:]}
    path, ends = rollout(law, state[:, :, 0], steps, **given, backend=backend)
    mean_step = (data.times[-1] - data.times[0]) / (number - 1)
    after = torch.arange(1, window + 1, device=device) * mean_step
    noise = steps.cumsum(-1) * after ** (look.power - 1) * mean_step ** (2 - look.power)
    if long and layout.directions:
        noise = noise[..., -1:].expand_as(noise) / 2
    if layout.directions and "field" in names:
        missed = path[..., fields - 1] - field[:, :, 1:, :, -1]
        missed = missed.cumsum(-1)[..., :-1] if layout.driven and not long else missed
        out["field"] = (data.spacing / law.rate * missed / noise[..., None].sqrt()).square().mean((1, 2, 3))
    if "internal" in names:
        astray = path[:, :, seen[1:] - 1, :, fields:] - inner[:, :, 1:]
        scaled = astray / noise[..., seen[1:] - 1, None, None].sqrt() / law.clock
        out["internal"] = scaled.square().sum((1, 2, 3, 4)) / max(1, scaled[0].numel())
        if look.profiled and law.internal > 1:
            flat = scaled.flatten(1, -2)
            out["internal"] = torch.linalg.det(flat.mT @ flat / max(1, flat.shape[1]))
    if layout.ends and "end" in names and data.force is not None:  # the end answers for its site, at recorded states
        here = state[:, :, look.asked :, -1:].flatten(1, 2)
        truth = windows(data.force, visited)[:, :, look.asked :].flatten(1, 2)
        known = {"force": truth} if layout.driven else {"field": here[..., :fields].detach()}  # the fast engine's
        _, answer = rollout(law, here, data.times.new_ones(1), **known, backend=backend, rule="euler")
        if layout.driven:
            truth = windows(speed, visited)[:, :, look.asked :].flatten(1, 2)[..., None]
        unit = law.rate if layout.driven else data.force.flatten(0, 1).std(0)
        out["end"] = ((answer[:, :, 0] - truth) / unit).square().mean((1, 2))
        if layout.driven and long and not free:
            gone = (ends[..., 0] - windows(speed, times)[:, :, :-1]) / law.rate
            out["end"] = out["end"] + look.along * gone.square().mean((1, 2))
    if look.profiled:
        out |= {name: out[name].clamp_min(NEVER).log() / 2 for name in RELATIONS if name in out}
    return {name: out[name] for name in TERMS if name in out}
