"""Pulling protocols: their rates are their slopes, and they start from rest."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibvonns.protocols import PROTOCOLS, pulled_length, pulling_rate

VELOCITIES = torch.tensor([-1.5, 0.0, 0.7], dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@given(time=st.floats(0.01, 5.0))
def test_rate_is_the_slope_of_the_length(name: str, time: float) -> None:
    step = 1e-6
    times = time + torch.tensor([-step, 0.0, step], dtype=torch.float64)
    lengths, rates = (f(name, VELOCITIES, times) for f in (pulled_length, pulling_rate))
    slope = (lengths[:, 2] - lengths[:, 0]) / (times[2] - times[0])
    assert torch.allclose(slope, rates[:, 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_pull_starts_at_zero_and_is_linear_in_the_velocity(name: str) -> None:
    times = torch.linspace(0, 3, 50, dtype=torch.float64)
    lengths = pulled_length(name, VELOCITIES, times)
    assert (lengths[:, 0] == 0).all()
    assert torch.allclose(pulled_length(name, 3 * VELOCITIES, times), 3 * lengths)


@pytest.mark.parametrize("name", ["oscillating", "smoothed-linear", "sinusoidal"])
def test_papers_pulls_start_from_rest(name: str) -> None:
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert (pulling_rate(name, VELOCITIES, times)[:, 0] == 0).all()


def test_oscillating_pull_stays_in_the_plotted_range() -> None:
    """Notes 3: with the printed e^t it would reach dozens of lengths."""
    times = torch.linspace(0, 3, 301, dtype=torch.float64)
    assert pulled_length("oscillating", VELOCITIES.new_tensor([1.2]), times).abs().max() < 10
