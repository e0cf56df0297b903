"""The second law at ten million states: not part of `make test`, but of `make long`.

Along a law's own flow d/dt sum f = work of the end - sum g . dphi/dg (`test_law`), so that on a closed
layout the free energy falls wherever the dissipation is not below 0.
"""

from collections.abc import Callable
from time import perf_counter

import pytest
import torch
from laws import CASES, LAYOUTS, SITES, concave, made, states, thermodynamic
from torch import Tensor

from ibvonns.law import Law

__all__ = ["concave"]  # a fixture
STATES = 10_000_000
BATCH = 50_000  # states that are held at a time
ROUNDING = 1e-14  # of the sum of what is added and subtracted, in units of which nothing may be broken


def sums(law: Law, z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """What is added up, without its signs, for phi and for the dissipation: the scale of their rounding."""
    known, scaled, _ = law._parts(z, g)
    parts = [law.dissipation_network.evaluated(*(part.flatten(1, 2) for part in (known, at))) for at in (scaled, 0 * g)]
    (value, slope), (value_0, slope_0) = parts
    flat = scaled.flatten(1, 2).abs()
    of_phi = (value.abs() + value_0.abs())[..., 0] + (slope_0.abs() * flat).sum(-1)
    of_rates = ((slope.abs() + slope_0.abs()) * flat).sum(-1)
    unit = law.energy * law.clock
    return unit * of_phi.unflatten(1, z.shape[1:3]), unit * of_rates.unflatten(1, z.shape[1:3])


@torch.no_grad()
def broken(law: Law, number: int, reach: float, seed: int) -> tuple[int, int]:
    """States, and those at which phi is below 0, or the dissipation below 0 or below phi."""
    z = states(law, number, reach, seed=seed)
    g = thermodynamic(law, z, reach, seed + 1)
    phi, dissipated, (of_phi, of_rates) = law.dual_dissipation(z, g), law.dissipation(z, g), sums(law, z, g)
    low = (phi < -ROUNDING * of_phi) | (dissipated < -ROUNDING * of_rates)
    low |= dissipated < phi - ROUNDING * (of_phi + of_rates)
    assert bool(phi.isfinite().all() and dissipated.isfinite().all())
    return phi.numel(), int(low.sum())


def counted(number: int, spoiled: Callable[[Law], Law] = lambda law: law) -> tuple[int, int]:
    """The same over all layouts and numbers of internal variables, weights one to ten times, states to a hundred."""
    found, violations, batch = 0, 0, 0
    while found < number:
        kind, internal = CASES[batch % len(CASES)]
        law = spoiled(made(LAYOUTS[kind], internal, batch % 2 == 1, (2 * batch, 2 * batch + 1)))
        share = torch.rand((), generator=torch.Generator().manual_seed(batch))
        for parameter in law.parameters():
            parameter.data.mul_(1 + 9 * share)
        reach = (1.0, 10.0, 100.0)[batch // len(CASES) % 3]
        some = min(BATCH, number) // 2 // SITES[type(law.layout)]
        seen, low = broken(law, some, reach, 2 * batch)
        found, violations, batch = found + seen, violations + low, batch + 1
    return found, violations


@pytest.mark.long
def test_no_state_of_ten_million_breaks_the_second_law(capsys: pytest.CaptureFixture[str]) -> None:
    begun = perf_counter()
    found, violations = counted(STATES)
    with capsys.disabled():
        print(f"\nsecond law: {violations} violations at {found} states, {perf_counter() - begun:.0f} s")
    assert violations == 0 and found >= STATES


def test_the_count_finds_what_a_network_breaks_that_is_not_convex(concave: Callable[[Law], Law]) -> None:
    assert counted(20_000)[1] == 0
    found, violations = counted(20_000, concave)
    assert violations > found / 2
