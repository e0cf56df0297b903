"""Errors: pooled as the paper pools them, and the one that no gauge can change."""

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibvonns.metrics import gauge_free_error, relative_error
from ibvonns.paper.scoreboard import summary

VALUES = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=12)


@given(VALUES.filter(lambda pairs: max(abs(b) for _, b in pairs) > 1e-3))
def test_relative_error_has_one_numerator_and_one_denominator(pairs: list[tuple[float, float]]) -> None:
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


@pytest.mark.parametrize("unit", [1e-21, 1.0, 1e12])
def test_a_constant_does_not_vary_whatever_its_unit(unit: float) -> None:
    constant = torch.full((7,), 0.1 * unit, dtype=torch.float64)
    with pytest.raises(ValueError, match="truth must vary"):
        gauge_free_error(constant + unit, constant)
    assert gauge_free_error(constant + unit, constant + unit * torch.arange(7)) == pytest.approx(100 * sqrt(2))


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
