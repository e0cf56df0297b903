"""Pulling protocols: their rates are their slopes, and they start from rest."""

import pytest
import torch

from ibvonns.protocols import PROTOCOLS, pulled_length

VELOCITIES = torch.tensor([-1.5, 0.0, 0.7], dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_pull_starts_at_zero_and_is_linear_in_the_velocity(name: str) -> None:
    times = torch.linspace(0, 3, 50, dtype=torch.float64)
    lengths = pulled_length(name, VELOCITIES, times)
    assert (lengths[:, 0] == 0).all()
    assert torch.allclose(pulled_length(name, 3 * VELOCITIES, times), 3 * lengths)


@pytest.mark.parametrize("name", ["oscillating", "smoothed-linear", "sinusoidal"])
def test_papers_pulls_start_from_rest(name: str) -> None:
    times = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    (rates,) = torch.autograd.grad(pulled_length(name, VELOCITIES, times).sum(), times)
    assert rates[0] == 0 and rates[1] != 0


def test_oscillating_pull_stays_in_the_plotted_range() -> None:
    """Notes 3: with the printed e^t it would reach dozens of lengths."""
    times = torch.linspace(0, 3, 301, dtype=torch.float64)
    assert pulled_length("oscillating", VELOCITIES.new_tensor([1.2]), times).abs().max() < 10
