"""Euler rollouts: exact where Euler is exact, of first order, blind to other trajectories."""

import pytest
import torch
from torch import Tensor

from ibvonns.rollout import rollout


def decay(chi: Tensor, alpha: Tensor) -> Tensor:
    """A pulled, nonlinear relaxation."""
    return torch.sin(chi) - alpha - 0.3 * alpha**3


def final(steps: int) -> float:
    """alpha at time 2 after so many steps."""
    times = torch.linspace(0, 2, steps + 1, dtype=torch.float64)
    return float(rollout(decay, times[None], times.new_ones(1, 1), times)[0, -1, 0])


def test_error_falls_with_the_first_order_of_the_step() -> None:
    reference = final(40_000)
    errors = [abs(final(steps) - reference) for steps in (50, 100, 200)]
    ratios = [a / b for a, b in zip(errors[:-1], errors[1:], strict=True)]
    assert all(1.9 < ratio < 2.1 for ratio in ratios)


def test_linear_decay_is_the_closed_form_of_eulers_method() -> None:
    times = torch.linspace(0, 3, 301, dtype=torch.float64)
    start = torch.tensor([[1.0, -2.0]], dtype=torch.float64)  # two internal variables
    path = rollout(lambda chi, alpha: -alpha, 0 * times[None], start, times)
    steps = torch.arange(301, dtype=torch.float64)[:, None]
    assert path.shape == (1, 301, 2)
    assert torch.allclose(path[0], start * (1 - 0.01) ** steps, rtol=1e-12)


def test_uneven_steps_are_taken_as_they_come() -> None:
    times = torch.tensor([0.0, 0.1, 0.4, 0.45], dtype=torch.float64)
    path = rollout(lambda chi, alpha: chi + 0 * alpha, times[None], times.new_zeros(1, 1), times)
    assert path[0, :, 0].tolist() == pytest.approx([0.0, 0.0, 0.03, 0.05])  # chi held at its start


def test_trajectories_and_replicas_never_meet() -> None:
    rng = torch.Generator().manual_seed(0)
    times = torch.linspace(0, 1, 21, dtype=torch.float64)
    controls = torch.randn(4, 21, generator=rng, dtype=torch.float64)
    start = torch.randn(3, 4, 1, generator=rng, dtype=torch.float64)
    whole = rollout(decay, controls, start, times)
    assert whole.shape == (3, 4, 21, 1)
    for replica in range(3):
        for place in range(4):
            alone = rollout(
                decay, controls[place : place + 1], start[replica, place : place + 1], times
            )
            assert torch.equal(whole[replica, place], alone[0])


def test_rollout_passes_gradients_to_its_start() -> None:
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    start = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda first: rollout(decay, times[None], first, times), start)
