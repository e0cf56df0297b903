"""Fluctuations: what scatter measures is what drives, its errors are as stated, bad input is refused."""

from dataclasses import replace
from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ibvonns.fluctuations import Estimate, Moves, covariation, drift, richardson, shapes
from ibvonns.law import Law
from ibvonns.layouts import Ring
from ibvonns.networks import generators

LAPSE, TEMPERATURE = 0.3, 0.7


def draws(parts: int, runs: int, operator: Tensor, seed: int = 0) -> Tensor:
    """Moves whose covariance belongs to an operator."""
    rng = torch.Generator().manual_seed(seed)
    root = torch.linalg.cholesky(2 * TEMPERATURE * LAPSE * operator)
    return torch.randn(parts, runs, len(operator), generator=rng, dtype=torch.float64) @ root.mT


OPERATOR = torch.tensor([[2.0, -0.5, 0.0], [-0.5, 1.0, 0.3], [0.0, 0.3, 0.5]], dtype=torch.float64)


def test_operator_is_found_within_its_errors_and_no_other_is() -> None:
    found = covariation(draws(50, 2000, OPERATOR), LAPSE, TEMPERATURE)
    away = (found.value - OPERATOR) / found.error
    assert away.abs().max() < 4
    stated = ((OPERATOR.diagonal()[:, None] * OPERATOR.diagonal() + OPERATOR**2) / 100_000).sqrt()
    assert (found.error / stated - 1).abs().max() < 0.4  # of 50 parts
    assert ((found.value - 1.1 * OPERATOR) / found.error).abs().max() > 8  # negative control


def test_linear_forces_are_left_out() -> None:
    rng = torch.Generator().manual_seed(1)
    start = torch.randn(20, 5000, 3, generator=rng, dtype=torch.float64)
    pulled = draws(20, 5000, OPERATOR) - 0.4 * start
    plain, less = (covariation(pulled, LAPSE, TEMPERATURE, begun) for begun in (None, start))
    assert ((less.value - OPERATOR) / less.error).abs().max() < 4
    assert ((plain.value - OPERATOR) / plain.error).abs().max() > 8  # negative control


def test_drift_is_the_mean_rate() -> None:
    moves = draws(40, 1000, OPERATOR) + LAPSE * torch.tensor([1.0, 0.0, -2.0]).double()
    found = drift(moves, LAPSE)
    assert ((found.value - torch.tensor([1.0, 0.0, -2.0]).double()) / found.error).abs().max() < 4
    assert torch.allclose(found.covariance.diagonal().sqrt(), found.error)


def test_extrapolation_takes_off_what_grows_with_the_lapse() -> None:
    parts = torch.randn(10, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    short, long = Estimate(1 + 0.1 + parts), Estimate(1 + 0.2 + parts)
    assert torch.allclose(richardson(short, long).value, 1 + parts.mean(0))
    with pytest.raises(ValueError, match="must have the same parts"):
        richardson(short, Estimate(parts[:5]))


@given(number=st.integers(5, 40), per=st.integers(1, 12), kind=st.sampled_from(["spline", "hat"]))
def test_shapes_share_each_site(number: int, per: int, kind: str) -> None:
    bumps = shapes(number * per, number, kind)
    assert (bumps.sum(0) - 1).abs().max() < 1e-12 and (bumps >= 0).all()
    assert torch.allclose(bumps.roll((1, per), (0, 1)), bumps)  # alike, but for their places
    assert ((bumps > 0).sum(1) <= (4 if kind == "spline" else 2) * per).all()


def gas() -> Law:
    law = Law(generators([0, 1]), Ring(), internal=0, gas=1.3)
    law.set_scales(torch.tensor([[0.5], [0.2]]).double(), 0.26, 0.3)
    return law


def moves_of(law: Law, noise: float, parts: int = 60, seed: int = 0) -> Moves:
    """What a law of one replica would have shown, and some noise."""
    bumps = shapes(40, 10)
    place = 2 * torch.pi * torch.arange(40, dtype=torch.float64) / 40
    states = (0.5 + 0.2 * torch.sin(place)) + 0.01 * torch.arange(3)[:, None] * torch.cos(place)
    empty = Moves(
        bumps, states[None], [Estimate(torch.zeros(2, 10).double())], [Estimate(torch.zeros(2, 10, 10).double())]
    )
    rates, operator = (each[0, 0] for each in empty.expected(law))
    rng = torch.Generator().manual_seed(seed)
    scatter = [
        noise * torch.randn(parts, *each.shape, generator=rng, dtype=torch.float64) for each in (rates, operator)
    ]
    scatter[0] = scatter[0] - scatter[0].mean(1, keepdim=True)  # mass stays
    share = operator.abs().sqrt()
    return Moves(bumps, states[None], [Estimate(rates + scatter[0])], [Estimate(operator + share * scatter[1])])


def test_expected_drift_is_minus_the_operator_times_the_slope_of_the_free_energy() -> None:
    law, bumps = gas(), torch.eye(20, dtype=torch.float64)  # the sites themselves
    z = torch.rand(1, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.6 + 0.2
    nothing = [Estimate(torch.zeros(2, 20).double())], [Estimate(torch.zeros(2, 20, 20).double())]
    rates, operator = Moves(bumps, z[:, None].expand(1, 3, 20), *nothing).expected(law)
    state = z[None, ..., None].expand(2, 1, 20, 1).clone().requires_grad_()
    # Y = eta / L, and F is a mean over the sites: dF/dY is the slope of the sum
    (slope,) = torch.autograd.grad(law.free_energy(state).sum(), state)
    stated = -torch.einsum("rcij,rcj->rci", operator, slope[..., 0])
    assert torch.allclose(rates, stated, rtol=1e-9, atol=1e-14)
    assert (torch.linalg.eigvalsh(operator) > -1e-12).all()  # never negative, whatever the weights


@torch.no_grad()
def test_own_law_misses_by_nothing_and_noise_by_one() -> None:
    law = gas()
    for part in moves_of(law, 1e-9).missed(law).values():
        assert part[0] < 20  # the error of the mean of 60 parts, whatever its size
    noisy = [moves_of(law, 0.05, seed=seed).missed(law) for seed in range(20)]
    for name in ("drift", "fluctuation"):
        mean = torch.stack([each[name][0] for each in noisy]).mean()
        assert 0.7 < float(mean) < 1.5, name
    other = gas()
    other.rate.mul_(1.5)  # negative control: another mobility
    wrong = moves_of(law, 1e-5).missed(other)
    assert min(float(part[0]) for part in wrong.values()) > 5


@pytest.mark.parametrize(
    ("sentence", "call"),
    [
        ("number of parts must be a whole number of at least 2", lambda: Estimate(torch.zeros(1, 3))),
        ("parts must", lambda: Estimate(torch.full((3, 2), torch.nan))),
        ("moves must have shape", lambda: covariation(torch.zeros(3, 4), 1.0, 1.0)),
        ("lapse must be a finite number above 0", lambda: covariation(torch.zeros(3, 4, 1), 0.0, 1.0)),
        ("temperature must be a finite number above 0", lambda: covariation(torch.zeros(3, 4, 1), 1.0, -1.0)),
        ("start must have shape", lambda: covariation(torch.zeros(3, 4, 1), 1.0, 1.0, torch.zeros(3, 4, 2))),
        ("number must be a whole number of at least 5", lambda: shapes(20, 4)),
        ("sites must be a whole number of at least 10", lambda: shapes(9, 10)),
        ("kind must be", lambda: shapes(20, 5, "box")),
    ],
)
def test_bad_input_is_refused_in_one_sentence(sentence: str, call: object) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        call()  # type: ignore[operator]
    assert "\n" not in str(refused.value)


def test_moves_must_fit_together() -> None:
    good = moves_of(gas(), 0.01)
    with pytest.raises(ValueError, match="states must have shape"):
        replace(good, states=good.states[..., :-1])
    with pytest.raises(ValueError, match="drift must have shape"):
        replace(good, drift=[Estimate(torch.zeros(3, 9).double())])
    with pytest.raises(ValueError, match="shapes must"):
        replace(good, shapes=good.shapes * torch.nan)


def test_error_falls_with_the_root_of_the_parts() -> None:
    many, few = (Estimate(torch.randn(n, 5, generator=torch.Generator().manual_seed(n)).double()) for n in (4000, 1000))
    assert abs(float((few.error / many.error).mean()) - sqrt(4)) < 0.2
