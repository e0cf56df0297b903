"""SOAP: quick where Adam is slow, the same after a restart, and blind to other replicas."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ibvonns.optimiser import SOAP

SIZE, STEPS = 8, 200


def quadratic(seed: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """|A W B|^2 / 2 with turned axes and condition 10^4, and where W starts."""
    rng = torch.Generator().manual_seed(seed)
    draws = torch.randn(3, SIZE, SIZE, generator=rng, dtype=torch.float64)
    axes = torch.linalg.qr(draws[:2]).Q
    a, b = axes * torch.logspace(0, -1, SIZE, dtype=torch.float64) @ axes.mT

    def gradient(weight: Tensor) -> Tensor:
        return a.mT @ a @ weight @ b @ b.mT

    return gradient, draws[2:]


def height(gradient: Callable[[Tensor], Tensor], weight: Tensor) -> float:
    """The quadratic at a weight."""
    return 0.5 * float((weight * gradient(weight)).sum())


def rate_at(step: int, peak: float) -> float:
    """The same cosine for both optimisers."""
    return peak * (1e-3 + (1 + math.cos(math.pi * step / STEPS)) / 2)


@pytest.mark.parametrize("seed", [0, 1])
def test_soap_descends_a_turned_valley_far_below_adam_in_as_many_steps(seed: int) -> None:
    """Against Adam as it comes, and with SOAP's own memory, where only the axes differ."""
    gradient, start = quadratic(seed)
    reached: dict[str, float] = {}
    adams = {"Adam": (0.9, 0.999), "Adam of SOAP's memory": (0.95, 0.95)}
    for name in ("SOAP", *adams):
        for peak in (0.01, 0.03, 0.1, 0.3):  # each at the rate that suits it best
            weight = start.clone()
            soap = SOAP([weight])
            adam = torch.optim.Adam([weight], betas=adams.get(name, (0.9, 0.999)), eps=1e-12)
            for step in range(STEPS):
                if name == "SOAP":
                    soap.step([gradient(weight)], rate_at(step, peak))
                else:
                    adam.param_groups[0]["lr"] = rate_at(step, peak)
                    weight.grad = gradient(weight)
                    adam.step()
            final = height(gradient, weight) / height(gradient, start)
            reached[name] = min(final, reached.get(name, math.inf))
    assert reached["SOAP"] < 3e-5
    assert reached["SOAP"] < reached["Adam"] / 30
    assert reached["SOAP"] < reached["Adam of SOAP's memory"] / 5


def test_restored_state_goes_on_bit_by_bit() -> None:
    gradient, start = quadratic(2)
    weight = start.clone()
    optimiser = SOAP([weight])
    for _ in range(37):
        optimiser.step([gradient(weight)], 0.03)
    again = weight.clone()
    other = SOAP([again])
    for name, value in other.state.items():
        value.copy_(optimiser.state[name])
    for _ in range(25):
        optimiser.step([gradient(weight)], 0.03)
        other.step([gradient(again)], 0.03)
    assert torch.equal(weight, again)
    bare, fresh = again.clone(), SOAP([again])
    fresh.step([gradient(bare)], 0.03)  # without its state the next step is another
    optimiser.step([gradient(weight)], 0.03)
    assert not torch.equal(weight, again)


def test_replicas_never_meet() -> None:
    problems = [quadratic(seed) for seed in (3, 4)]
    both = torch.cat([start for _, start in problems])
    optimiser = SOAP([both])
    for _ in range(50):
        slopes = [gradient(part) for (gradient, _), part in zip(problems, both[:, None], strict=True)]
        optimiser.step([torch.cat(slopes)], 0.03)
    for place, (gradient, start) in enumerate(problems):
        alone = start.clone()
        single = SOAP([alone])
        for _ in range(50):
            single.step([gradient(alone)], 0.03)
        assert (both[place] - alone[0]).abs().max() <= 1e-10


@pytest.mark.parametrize("refresh", [1, 2, 10])
def test_axes_are_renewed_every_refresh_steps(refresh: int) -> None:
    rng = torch.Generator().manual_seed(0)
    weight = torch.zeros(1, 3, 3, dtype=torch.float64)
    optimiser = SOAP([weight], refresh=refresh)
    renewed = []
    for step in range(12):
        before = optimiser.state["left_axes.(1, 3, 3)"].clone()
        slope = torch.randn(1, 3, 3, generator=rng, dtype=torch.float64)
        optimiser.step([slope], 0.01)
        if not torch.equal(before, optimiser.state["left_axes.(1, 3, 3)"]):
            renewed.append(step)
    assert renewed == list(range(0, 12, refresh))
