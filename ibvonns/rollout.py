"""Rollouts: states carried forward in time by Euler's method, Eq. (29), by either of two engines.

The reference engine is plain PyTorch, one step after another, on any device and for any law. The
fast one is the compiled loop of `adjoint`, for potentials of two hidden layers in double precision
on the processor; "single" is the same loop in single precision. Gradients agree with the
reference's to 1e-10, in single precision to 1e-5.
"""

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ibvonns.adjoint import fused_rollout, fuses
from ibvonns.onsager import ChainPotentials, Potentials
from ibvonns.validation import choice, finite, increasing, shaped

__all__ = ["BACKENDS", "chain_rollout", "rollout"]

Evolution = Callable[[Tensor, Tensor], Tensor]
#: The engines: compiled in double precision, in single precision, and plain PyTorch.
BACKENDS = ("fast", "single", "reference")


@cache
def _say(level: int, message: str) -> None:
    """Tell the log, once in a process, which engine runs."""
    logging.getLogger("ibvonns").log(level, message)


def _fast(backend: str, law: object, alpha: Tensor) -> bool:
    """Whether the compiled loop is asked for and knows this law; says once which engine runs."""
    if choice("backend", backend, BACKENDS) == "reference":
        return False
    if not fuses(law, alpha):
        _say(logging.WARNING, "Rollouts by the reference engine: the compiled loop needs potentials"
             " of two hidden layers in float64 on the processor.")  # fmt: skip
        return False
    _say(logging.INFO, "Rollouts by the compiled loop; its first use on a machine compiles it.")
    return True


def rollout(
    evolution: Evolution | Potentials,
    controls: Tensor,
    initial: Tensor,
    times: Tensor,
    backend: str = "fast",
) -> Tensor:
    """Euler's method for d alpha/dt = evolution(chi(t), alpha), Eq. (29); differentiable.

    The microscopic truth is itself an Euler-Maruyama process, so that an Euler rollout at the same
    step is not an approximation here: with the exact potentials it gives the exact discrete mean.

    Args:
        evolution: takes chi, shape (trajectories, 1), and alpha, shape (..., trajectories,
            internal), and returns d alpha/dt in the shape of alpha; or potentials, whose
            `evolution` it is.
        controls: chi, shape (trajectories, times).
        initial: alpha at the first time, shape (..., trajectories, internal).
        times: shape (times,), or (trajectories, times) where each has its own; strictly increasing.
        backend: "fast", "single" or "reference". What the fast ones do not know goes the reference
            way by itself; the logger "ibvonns" says once which engine runs.

    Returns:
        alpha, shape (..., trajectories, times, internal); the first entry is `initial`.

    Raises:
        ValueError: NaN, wrong shape, unsorted times or an unknown backend.

    >>> times = torch.linspace(0, 1, 101, dtype=torch.float64)
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> path = rollout(lambda chi, alpha: -alpha, 0 * times[None], one, times)
    >>> round(path[0, -1, 0].item(), 3)  # exp(-1) = 0.368
    0.366
    """
    if times.ndim == 2:  # of many clocks, the one with the smallest step tells
        shaped("times", finite("times", times), (len(controls), "times"))
        increasing("times", times[times.diff(append=times[:, -1:] + 1).amin(1).argmin()])
    else:
        increasing("times", times)
    shaped("controls", finite("controls", controls), ("trajectories", times.shape[-1]))
    steps = torch.diff(times).expand(len(controls), -1)
    shaped("initial", finite("initial", initial), ("...", len(controls), "internal"))
    choice("backend", backend, BACKENDS)
    batched = initial.ndim == 3
    if isinstance(evolution, Potentials) and batched and _fast(backend, evolution, initial):
        mean, deviation = evolution.control
        chi = ((controls - mean) / deviation).T
        path, _ = fused_rollout(
            evolution,
            torch.cat([chi[0].expand(len(initial), 1, -1), initial.mT], 1),
            chi,
            None,
            steps.mT,
            float(evolution.rate_scale),
            0,
            torch.float32 if backend == "single" else torch.float64,
        )  # (replicas, steps, 1 + internal, trajectories)
        return torch.cat([initial[:, :, None], path[:, :, 1:].permute(0, 3, 1, 2)], 2)
    if isinstance(evolution, Potentials):
        evolution = evolution.evolution
    states = [initial]
    for chi, step in zip(controls.T[:, :, None], steps.mT.to(initial)[:, :, None], strict=False):
        rate = evolution(chi, states[-1])
        if rate.shape != initial.shape:
            raise ValueError(
                f"evolution must return the shape of alpha, {tuple(initial.shape)}, "
                f"but returned shape {tuple(rate.shape)}"
            )
        states.append(states[-1] + step * rate)
    return torch.stack(states, -2)


def chain_rollout(
    law: ChainPotentials,
    strain: Tensor,
    alpha: Tensor,
    external_force: Tensor | None,
    velocity: Tensor | None,
    steps: Tensor,
    backend: str = "fast",
) -> tuple[Tensor, Tensor, Tensor]:
    """Euler rollouts of a chain, Eqs. (49), (50), differentiable by the weights and by alpha.

    Args:
        law: its potentials.
        strain: first strains, shape (trajectories, springs) or with replicas in front.
        alpha: first internal variables, shape (replicas, trajectories, springs, internal).
        external_force: F_ex of each step, shape (trajectories, steps). Or None: it is what the
            given velocity takes (`ChainPotentials.velocity_given`).
        velocity: v_n of each step, same shape: the end then moves by it
            (`ChainPotentials.both_given`). Or None: it moves as F_ex drives it (`force_given`).
        steps: length of each step in time, shape (steps,), or (trajectories, steps) where each
            trajectory has its own.
        backend: "fast", "single" for the same in single precision, or "reference" for PyTorch's
            own differentiation. What the fast ones do not know (networks of other than two hidden
            layers, another device than the processor, states that are not float64) goes the
            reference way by itself, and so does a gradient where F_ex is not given.

    Returns:
        strain (replicas, trajectories, steps, springs) and alpha, with one more axis, after each
        step, and at the beginning of each the law's own v_n, or F_ex if that was not given,
        (replicas, trajectories, steps).

    Raises:
        ValueError: wrong shape, neither F_ex nor v_n, or an unknown backend.

    >>> from ibvonns.networks import generators
    >>> law = ChainPotentials(generators([0]))
    >>> strain, still = torch.ones(1, 10, dtype=torch.float64), torch.zeros(1, 2).double()
    >>> begin = law, strain, torch.zeros(1, 1, 10, 1).double()
    >>> path, alpha, force = chain_rollout(*begin, None, still, still[0] + 0.01, "reference")
    >>> path.shape, bool((path.sum(-1) - 10).abs().max() < 1e-12)  # the end stands still
    (torch.Size([1, 1, 2, 10]), True)
    """
    shaped("alpha", alpha, ("replicas", "trajectories", "springs", law.internal))
    shaped("strain", strain, alpha.shape[:3] if strain.ndim == 3 else alpha.shape[1:3])
    shaped("steps", steps, (alpha.shape[1], "steps") if steps.ndim == 2 else ("steps",))
    for name, part in (("external_force", external_force), ("velocity", velocity)):
        if part is not None:
            shaped(name, part, (alpha.shape[1], steps.shape[-1]))
    if external_force is None and velocity is None:
        raise ValueError("external_force and velocity must not both be None: nothing is given")
    steps = steps.expand(alpha.shape[1], -1)
    wanted = alpha.requires_grad or any(part.requires_grad for part in law.parameters())
    differentiable = torch.is_grad_enabled() and wanted
    if not _fast(backend, law, alpha) or (external_force is None and differentiable):
        return _chain_reference(law, strain, alpha, external_force, velocity, steps)
    mean, deviation = law.strain_scale
    scaled = ((strain - mean) / deviation).expand(alpha.shape[:-1])
    path, ends = fused_rollout(
        law,
        torch.cat([scaled[:, None], alpha.movedim(-1, 1)], 1).flatten(2),
        None if external_force is None else (external_force / law.force_scale).mT,
        None if velocity is None else (velocity / law.velocity_scale).mT,
        steps.mT,
        float(law.velocity_scale / law.natural_length / deviation),
        alpha.shape[2],
        torch.float32 if backend == "single" else torch.float64,
    )
    path = path.unflatten(-1, alpha.shape[1:3])  # (replicas, steps, 1 + internal, *alpha's)
    strains = mean + deviation * path[:, :, 0].transpose(1, 2)
    unit = law.force_scale if external_force is None else law.velocity_scale
    return strains, path[:, :, 1:].permute(0, 3, 1, 4, 2), unit * ends.mT


def _chain_reference(
    law: ChainPotentials,
    strain: Tensor,
    alpha: Tensor,
    external_force: Tensor | None,
    velocity: Tensor | None,
    steps: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    now = strain.expand(alpha.shape[:-1])
    strains, alphas, ends = [], [], []
    for n, step in enumerate(steps.mT.to(alpha)[..., None]):  # (trajectories, 1)
        pulled, moved = (
            None if part is None else part[:, n] for part in (external_force, velocity)
        )
        if pulled is not None and moved is not None:
            rate, change, end = law.both_given(now, alpha, pulled, moved)
        elif pulled is not None:
            rate, change, end = law.force_given(now, alpha, pulled)
        elif moved is not None:
            rate, change, end = law.velocity_given(now, alpha, moved)
        now, alpha = now + step * rate, alpha + step[..., None] * change
        strains.append(now)
        alphas.append(alpha)
        ends.append(end)
    return torch.stack(strains, 2), torch.stack(alphas, 2), torch.stack(ends, 2)
