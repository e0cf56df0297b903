"""Protocols: their rates are their slopes, they start from rest, and designs keep to their range."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibvonns.protocols import KINDS, PROTOCOLS, Protocol, lengths, pulled_length, rich, wandering
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap

VELOCITIES = torch.tensor([-1.5, 0.0, 0.7], dtype=torch.float64)
TIMES = torch.linspace(0, 3, 301, dtype=torch.float64)
#: One of each kind, with the times that it asks for.
EACH = [
    *(Protocol(name, 0.3, 1.0) for name in PROTOCOLS),
    *(Protocol(kind, 0.3, 1.0, (1.2,)) for kind in ("pull", "push", "ramp", "cycle")),
    Protocol("unload", 0.3, 1.0, (1.0, 2.2)), Protocol("hold", 0.3, 1.0, (0.8, 1.5, 2.6)),
    Protocol("random", 0.3, 1.0, (3.0,), seed=5),
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_pull_starts_at_zero_and_is_linear_in_the_velocity(name: str) -> None:
    times = torch.linspace(0, 3, 50, dtype=torch.float64)
    moved = pulled_length(name, VELOCITIES, times)
    assert (moved[:, 0] == 0).all()
    assert torch.allclose(pulled_length(name, 3 * VELOCITIES, times), 3 * moved)


@pytest.mark.parametrize("name", ["oscillating", "smoothed-linear", "sinusoidal"])
def test_papers_pulls_start_from_rest(name: str) -> None:
    times = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    (rates,) = torch.autograd.grad(pulled_length(name, VELOCITIES, times).sum(), times)
    assert rates[0] == 0 and rates[1] != 0


def test_oscillating_pull_stays_in_the_plotted_range() -> None:
    """Notes 3: with the printed e^t it would reach dozens of lengths."""
    assert pulled_length("oscillating", VELOCITIES.new_tensor([1.2]), TIMES).abs().max() < 10


def test_every_kind_is_tried() -> None:
    assert {protocol.kind for protocol in EACH} == set(KINDS)
    assert all(protocol.sentence.endswith(".") for protocol in EACH)


@pytest.mark.parametrize("protocol", EACH, ids=lambda each: each.kind)
def test_velocity_is_the_slope_of_the_length(protocol: Protocol) -> None:
    step = 1e-5
    middle = TIMES[1:-1]
    slope = (protocol.length(middle + step) - protocol.length(middle - step)) / (2 * step)
    assert torch.allclose(protocol.velocity(middle), slope, atol=1e-7)


@pytest.mark.parametrize("protocol", EACH, ids=lambda each: each.kind)
def test_length_is_in_proportion_to_the_size(protocol: Protocol) -> None:
    half = replace(protocol, size=protocol.size / 2)
    assert torch.allclose(protocol.length(TIMES) - 1.0, 2 * (half.length(TIMES) - 1.0))


def test_what_goes_out_comes_back() -> None:
    for protocol in EACH:
        moved = (protocol.length(TIMES) - 1.0) / 0.3
        if protocol.kind in ("unload", "hold", "cycle", "ramp", "random"):
            assert moved.min() > -1e-12 and moved.max() < 1 + 1e-12 and moved.max() > 0.99
        if protocol.kind in ("unload", "hold"):
            assert moved[0] == 0 and abs(moved[-1]) < 1e-12
        if protocol.kind != "random":
            assert protocol.length(TIMES)[0] == 1.0


def test_a_pull_and_a_push_mirror_each_other_and_a_pull_is_the_papers() -> None:
    pull, push = Protocol("pull", 0.05, times=(1.0,)), Protocol("push", 0.05, times=(1.0,))
    assert torch.equal(pull.length(TIMES), -push.length(TIMES))
    assert torch.equal(
        pull.length(TIMES), pulled_length("smoothed-linear", torch.tensor([0.05], dtype=torch.float64), TIMES)[0]
    )


def test_the_rich_design_keeps_to_its_range_and_turns_back() -> None:
    reached = lengths(rich(0.12, 0.42, 3.0), TIMES)
    assert reached.min() >= 0.12 - 1e-12 and reached.max() <= 0.42 + 0.3 / 50  # as its docstring says
    turns = (reached.diff(dim=1).sign().diff(dim=1) != 0).any(1)
    assert turns.sum() >= 10 and {each.kind for each in rich(0.0, 1.0, 1.0)} == set(KINDS) - set(PROTOCOLS)
    moved = lengths(rich(1.0, 4.0, 6.0), 2 * TIMES)
    assert torch.allclose((moved - 1.0) / 3, (reached - 0.12) / 0.3)


@given(st.integers(0, 1000), st.floats(0.05, 2.0))
def test_wandering_protocols_keep_to_length_and_speed(seed: int, speed: float) -> None:
    protocols = wandering(5, -1.0, 2.0, 3.0, speed, seed)
    reached = lengths(protocols, TIMES)
    assert reached.min() >= -1.0 - 1e-9 and reached.max() <= 2.0 + 1e-9
    assert max(float(one.velocity(TIMES).abs().max()) for one in protocols) <= speed * 1.001
    assert len({one.seed for one in protocols}) == 5


def test_systems_follow_protocols() -> None:
    design = rich(0.12, 0.42, 3.0)[::7]
    chain = Chain().simulate(lengths(design, TIMES[:3]), TIMES[:3], 2, torch.Generator().manual_seed(0))
    assert chain.realisations.shape == (len(design), 3, 10, 2)
    trap = Trap().simulate(lengths(rich(0.0, 3.0, 3.0)[::7], TIMES[:3]), TIMES[:3], 2, torch.Generator().manual_seed(0))
    assert trap.realisations.shape[:2] == (len(design), 3)
