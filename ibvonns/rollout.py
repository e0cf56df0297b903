"""Rollouts: states carried forward in time by an evolution equation, Eq. (29)."""

from collections.abc import Callable

import torch
from torch import Tensor

from ibvonns.validation import finite, increasing, shaped

__all__ = ["rollout"]

Evolution = Callable[[Tensor, Tensor], Tensor]


def rollout(evolution: Evolution, controls: Tensor, initial: Tensor, times: Tensor) -> Tensor:
    """Euler's method for d alpha/dt = evolution(chi(t), alpha), Eq. (29); differentiable.

    The microscopic truth is itself an Euler-Maruyama process, so that an Euler rollout at the same
    step is not an approximation here: with the exact potentials it gives the exact discrete mean.

    Args:
        evolution: takes chi, shape (trajectories, 1), and alpha, shape (..., trajectories,
            internal), and returns d alpha/dt in the shape of alpha.
        controls: chi, shape (trajectories, times).
        initial: alpha at the first time, shape (..., trajectories, internal).
        times: shape (times,), strictly increasing.

    Returns:
        alpha, shape (..., trajectories, times, internal); the first entry is `initial`.

    Raises:
        ValueError: NaN, wrong shape or unsorted times.

    >>> times = torch.linspace(0, 1, 101, dtype=torch.float64)
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> path = rollout(lambda chi, alpha: -alpha, 0 * times[None], one, times)
    >>> round(path[0, -1, 0].item(), 3)  # exp(-1) = 0.368
    0.366
    """
    increasing("times", times)
    shaped("controls", finite("controls", controls), ("trajectories", len(times)))
    shaped("initial", finite("initial", initial), ("...", len(controls), "internal"))
    states = [initial]
    for chi, step in zip(controls.T[:, :, None], torch.diff(times).tolist(), strict=False):
        rate = evolution(chi, states[-1])
        if rate.shape != initial.shape:
            raise ValueError(
                f"evolution must return the shape of alpha, {tuple(initial.shape)}, "
                f"but returned shape {tuple(rate.shape)}"
            )
        states.append(states[-1] + step * rate)
    return torch.stack(states, -2)
