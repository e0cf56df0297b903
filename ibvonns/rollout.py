"""Rollouts: states carried forward in time, by Euler's method, Eqs. (29), (49), (50), or by the midpoint rule.

The reference engine is plain PyTorch, one step after another, on any device and for any law. The
fast one is the compiled loop of `adjoint`, for laws of two hidden layers in double precision on
the processor; "single" is the same loop in single precision. Gradients agree with the reference's
to 1e-10, in single precision to 1e-5.
"""

import logging
from collections.abc import Iterable
from functools import cache
from math import ceil
from typing import Any

import torch
from torch import Tensor

from ibvonns.adjoint import fused_rollout, fuses
from ibvonns.law import STEPS, Law, Scales
from ibvonns.validation import choice, finite, increasing, positive, require, shaped

__all__ = ["BACKENDS", "relaxed", "rollout"]

#: The engines: compiled in double precision, in single precision, and plain PyTorch.
BACKENDS = ("fast", "single", "reference")


@cache
def _say(known: bool) -> None:
    """Tell the log, once in a process, which engine runs."""
    log = logging.getLogger("ibvonns")
    if known:
        log.info("Rollouts by the compiled loop; its first use on a machine compiles it.")
    else:
        why = "the compiled loop needs networks of two hidden layers in float64 on the processor"
        log.warning("Rollouts by the reference engine: %s.", why)


def rollout(
    law: Scales,
    start: Tensor,
    steps: Tensor,
    field: Tensor | None = None,
    force: Tensor | None = None,
    velocity: Tensor | None = None,
    backend: str = "fast",
    rule: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Rollouts of a law, Eqs. (29), (49), (50), differentiable by weights and first states.

    The microscopic truth of the book is itself an Euler-Maruyama process, so that an Euler rollout at the same
    step is not an approximation there: with the exact potentials it gives the exact discrete mean. What was
    measured goes on between two records: the midpoint rule, with a half step first, misses it by the square
    of the step, where Euler's method does so by the step.

    Args:
        law: a `Law`, or other `law.Scales` with a `step` of their own.
        start: first states, shape (replicas, trajectories, sites, fields + internal).
        steps: length of each step in time, shape (steps,), or with trajectories, or with replicas
            and trajectories in front, as all that follow.
        field: of a point at the beginning of each step, (trajectories, steps, fields); by the midpoint rule at
            both ends of each, (trajectories, steps + 1, fields).
        force: F_ex of each step at a driven end, (trajectories, steps), or with steps + 1 likewise. Or None: it
            is what the given velocity takes.
        velocity: v_n of each step, same shape: the end then moves by it. Or None: it moves as F_ex
            drives it.
        backend: "fast", "single" for the same in single precision, or "reference" for PyTorch's
            own differentiation. What the fast ones do not know (other laws, networks of other than
            two hidden layers, another device than the processor, states that are not float64) goes
            the reference way by itself, and so does a gradient where F_ex is not given. The logger
            "ibvonns" says once which engine runs.
        rule: "euler" or "midpoint"; that of the law if not given.

    Returns:
        States after each step, (replicas, trajectories, steps, sites, fields + internal), in which
        the fields of a point are those that the step began with; and what the end answers at the
        beginning of each, (replicas, trajectories, steps, ends), as `law.Law.step`.

    Raises:
        ValueError: NaN, wrong shape, something missing that the layout asks for or given that it
            has no use for, or an unknown backend or rule.

    >>> from ibvonns.law import Law
    >>> from ibvonns.layouts import Row
    >>> from ibvonns.networks import generators
    >>> start, still = torch.ones(1, 1, 10, 2).double(), torch.zeros(1, 2).double()
    >>> path, force = rollout(Law(generators([0]), Row()), start, still[0] + 0.01, velocity=still)
    >>> path.shape, bool((path[..., 0].sum(-1) - 10).abs().max() < 1e-12)  # the end stands still
    (torch.Size([1, 1, 2, 10, 2]), True)
    """
    layout = law.layout
    choice("backend", backend, BACKENDS)
    halves = choice("rule", rule or law.steps, STEPS) == "midpoint"
    weights = list(law.parameters())
    replicas = len(weights[0]) if weights else "replicas"
    sites = "sites" if layout.directions else 1
    shaped("start", finite("start", start), (replicas, "trajectories", sites, layout.fields + law.internal))
    shape = (*start.shape[:2], shaped("steps", finite("steps", steps), ("...", "steps")).shape[-1])
    parts: dict[str, Any] = {"steps": steps, "field": field, "force": force, "velocity": velocity}
    asked = {"steps": True, "field": not layout.directions, "force": layout.driven, "velocity": layout.driven}
    for name, part in parts.items():
        if part is not None:
            require(asked[name], f"{name} must not be given, because a {type(layout).__name__} has none, but is")
            both = halves and name in ("field", "force")
            whole = (*shape[:2], shape[2] + both, layout.fields)[: 4 if name == "field" else 3]
            least = 1 if name == "steps" else len(whole) - 1  # steps may be the same for all trajectories
            axes = max(least, min(len(whole), finite(name, part).ndim))
            parts[name] = shaped(name, part, whole[len(whole) - axes :]).expand(whole)
    require(layout.directions or field is not None, "field must be given at a point, whose fields are controls")
    pulled = not layout.driven or force is not None
    require(pulled or velocity is not None, "force and velocity must not both be None: a driven end needs one")
    given = [start, *weights, *(part for part in parts.values() if part is not None)]
    graded = torch.is_grad_enabled() and any(part.requires_grad for part in given)
    driving = any(part is not None and part.requires_grad for part in (steps, field, force, velocity))
    fused = backend != "reference" and fuses(law, start)
    if backend != "reference":
        _say(fused)
    parts = {name: _stages(name, part) for name, part in parts.items()} if halves else parts
    if fused and (not graded or (pulled and not driving)):
        path, ends = fused_rollout(law, start, parts.values(), backend == "single", halves)
    else:
        path, ends = _reference(law, start, parts.values(), halves)
    if halves:
        path, ends = path[:, :, 1::2], ends[:, :, ::2]
    if not layout.directions:
        given = parts["field"][:, :, ::2] if halves else parts["field"]
        path = torch.cat([given[:, :, :, None], path[..., layout.fields :]], -1)
    return path, ends


def _stages(name: str, part: Tensor | None) -> Tensor | None:
    """What holds in the two stages of each step, which are a half step and then the whole."""
    if part is None:
        return None
    if name == "steps":
        return torch.stack([part / 2, part], -1).flatten(-2)
    if name == "velocity":
        return part.repeat_interleave(2, -1)
    return torch.stack([part[:, :, :-1], (part[:, :, :-1] + part[:, :, 1:]) / 2], 3).flatten(2, 3)


def _reference(law: Scales, z: Tensor, drive: Iterable[Any], halves: bool) -> tuple[Tensor, Tensor]:
    steps, field, *known = drive
    path, ends, base = list[Tensor](), list[Tensor](), z
    for n, step in enumerate(steps.unbind(-1)):
        if field is not None:
            z = torch.cat([field[:, :, n, None], z[..., law.layout.fields :]], -1)
        rate, end = law.step(z, *(None if part is None else part[:, :, n] for part in known))
        base = base if halves and n % 2 else z
        z = law.bounded(base + step[..., None, None] * rate)
        path.append(z)
        ends.append(end)
    return torch.stack(path, 2), torch.stack(ends, 2)


@torch.no_grad()
def relaxed(law: Law, start: Tensor, times: Tensor, step: float | None = None) -> Tensor:
    """A gas left to itself: finite volumes, Euler's method, as many stable steps as it takes.

    What one site loses its neighbour gets, so that the mass is kept to rounding. The rates of the shortest
    waves bound the step: it is stable up to 2 / rate, where f falls at each; 1 / rate is taken.

    Args:
        law: of a gas.
        start: first states, shape (replicas, trajectories, sites, 1).
        times: shape (times,), strictly increasing.
        step: the largest; what is stable if not given.

    Returns:
        (replicas, trajectories, times, sites, 1).

    Raises:
        ValueError: densities that are not above 0 and below 1, unsorted times, or a step that is not stable.

    >>> from ibvonns.layouts import Ring
    >>> from ibvonns.networks import generators
    >>> law, start = Law(generators([0]), Ring(), internal=0, gas=1.0), torch.rand(1, 1, 20, 1).double()
    >>> path = relaxed(law, start, torch.tensor([0.0, 5.0]).double())
    >>> bool((path[0, 0].sum(1) - start.sum()).abs().max() < 1e-12)
    True
    """
    low, high = (float(end) for end in finite("start", start).aminmax())
    require(0 < low and high < 1, f"start must be above 0 and below 1, but spans [{low:.3g}, {high:.3g}]")
    increasing("times", times)
    fastest = steepest(law, start)
    most = 1 / fastest if step is None else positive("step", step)
    require(most < 2 / fastest, f"step must be below {2 / fastest:.3g} to be stable, but is {most:.3g}")
    path, z = [start], start
    for lapse in times.diff().tolist():
        for _ in range(number := ceil(lapse / most)):
            z = z + lapse / number * law.step(z)[0]
        path.append(z)
    return torch.stack(path, 2)


def steepest(law: Law, z: Tensor, rounds: int = 30) -> float:
    """A bound of the rates at which waves on a gas decay near some states, by the power method.

    Args:
        law: of a gas.
        z: states, shape (replicas, trajectories, sites, 1).
        rounds: of the method, which begins with the shortest wave.
    """
    wave = torch.where(torch.arange(z.shape[2]) % 2 == 0, 1.0, -1.0).to(z)[:, None].expand_as(z)
    wave = wave * (1 + 0.1 * torch.sin(torch.arange(z.shape[2]).to(z)))[:, None]
    for _ in range(rounds):
        wave = wave / wave.flatten(2).norm(dim=2)[..., None, None]
        tiny = 1e-7 * float(torch.minimum(z, 1 - z).min())
        wave = (law.step(z + tiny * wave)[0] - law.step(z - tiny * wave)[0]) / (2 * tiny)
    return 1.05 * float(wave.flatten(2).norm(dim=2).max())
