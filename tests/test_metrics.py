"""Errors: pooled as the paper pools them, and the one that no gauge can change; rollouts."""

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ibvonns.metrics import gauge_free_error, relative_error
from ibvonns.paper.scoreboard import summary
from ibvonns.protocols import pulled_length
from ibvonns.rollout import rollout
from ibvonns.systems.trap import Trap, paper_times

VALUES = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=12)


@given(VALUES.filter(lambda pairs: max(abs(b) for _, b in pairs) > 1e-3))
def test_relative_error_has_one_numerator_and_one_denominator(
    pairs: list[tuple[float, float]],
) -> None:
    above = sum((a - b) ** 2 for a, b in pairs)
    below = sum(b**2 for _, b in pairs)
    ours, truth = torch.tensor(pairs, dtype=torch.float64).T
    assert relative_error(ours, truth) == pytest.approx(100 * sqrt(above / below))
    stacked = torch.stack([ours, ours]), torch.stack([truth, truth])
    assert relative_error(*stacked) == pytest.approx(relative_error(ours, truth))


def test_pooled_error_is_no_mean_of_ratios() -> None:
    truth = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    assert relative_error(truth + 1, truth) == pytest.approx(100 * sqrt(2 / 10))


@given(
    VALUES.filter(lambda pairs: max(b for _, b in pairs) - min(b for _, b in pairs) > 1e-2),
    st.floats(-50, 50),
    st.one_of(st.floats(-20, -0.1), st.floats(0.1, 20)),
)
def test_gauge_free_error_is_the_same_in_every_gauge(
    pairs: list[tuple[float, float]], shift: float, factor: float
) -> None:
    ours, truth = torch.tensor(pairs, dtype=torch.float64).T
    moved = gauge_free_error(shift + factor * ours, shift + factor * truth)
    assert moved == pytest.approx(gauge_free_error(ours, truth), rel=1e-6, abs=1e-9)


def test_relative_error_depends_on_the_gauge() -> None:
    truth = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    assert relative_error(truth + 11, truth + 10) < relative_error(truth + 1, truth) / 5
    assert gauge_free_error(truth + 11, truth + 10) == pytest.approx(100 * sqrt(3 / 2))


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=9))
def test_summary_is_the_same_in_any_order(values: list[float]) -> None:
    ordered, found = sorted(values), summary(values)
    assert found == summary(ordered) == summary(ordered[::-1])
    assert found["min"] == ordered[0] and found["max"] == ordered[-1]
    assert found["min"] <= found["median"] <= found["max"]


# --- rollouts --------------------------------------------------------------------------------


def test_rollout_is_of_order_one() -> None:
    """d alpha/dt = chi - alpha with chi = t: alpha = t - 1 + 2 exp(-t) from alpha = 1."""
    errors = []
    for steps in (50, 100, 200):
        times = torch.linspace(0, 2, steps + 1, dtype=torch.float64)
        start = torch.ones(1, 1, dtype=torch.float64)
        path = rollout(lambda chi, alpha: chi - alpha, times[None], start, times)[0, :, 0]
        errors.append(float((path - (times - 1 + 2 * torch.exp(-times))).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.05)


def test_rollout_with_the_exact_potentials_is_the_exact_discrete_mean() -> None:
    trap, times = Trap(1.2, 0.9), paper_times()
    lengths = pulled_length("oscillating", torch.tensor([0.5, 1.0], dtype=torch.float64), times)

    def evolution(chi: Tensor, mu: Tensor) -> Tensor:
        return trap.thermodynamic_force(chi, mu) / trap.viscosity

    path = rollout(evolution, lengths, lengths[:, :1] / 2, times)
    assert (path[..., 0] - trap.mean(lengths, times)).abs().max() <= 1e-12


def test_rollout_takes_unequal_steps_and_leading_axes() -> None:
    times = torch.tensor([0.0, 0.1, 0.4], dtype=torch.float64)
    start = torch.tensor([[[1.0]], [[2.0]]], dtype=torch.float64)
    path = rollout(lambda chi, alpha: -alpha, 0 * times[None], start, times)
    assert path.shape == (2, 1, 3, 1)
    expected = torch.tensor([1.0, 0.9, 0.63], dtype=torch.float64)
    assert torch.allclose(path[:, 0, :, 0], torch.stack([expected, 2 * expected]))


def test_rollout_is_differentiable() -> None:
    times = torch.tensor([0.0, 0.1, 0.4, 0.5], dtype=torch.float64)

    def final(start: Tensor, controls: Tensor, strength: Tensor) -> Tensor:
        return rollout(lambda x, a: x - strength * a**3, controls, start, times)

    rng = torch.Generator().manual_seed(0)
    inputs = [torch.randn(s, generator=rng, dtype=torch.float64) for s in ((2, 1), (2, 4), (1,))]
    assert torch.autograd.gradcheck(final, [part.requires_grad_() for part in inputs])
