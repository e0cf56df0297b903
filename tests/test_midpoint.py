"""The midpoint rule: both engines, the square of the step, what is conserved and what falls; known numbers of sites."""

from typing import Any

import pytest
import torch
from laws import CASES, LAYOUTS, drawn, made, states
from torch import Generator, Tensor

from ibvonns.law import Law
from ibvonns.layouts import Point, Row
from ibvonns.rollout import rollout

SOME = [case for case in CASES if case[1] in (0, 2)]
some = pytest.mark.parametrize(("kind", "internal"), SOME)
rows = pytest.mark.parametrize("kind", ["row", "known"])
Given = dict[str, Any]


def ends(law: Law, number: int, window: int) -> list[Given]:
    """What may be given: fields or F_ex at both ends of each step, F_ex and v_n, or nothing."""
    rng, layout = Generator().manual_seed(3), law.layout
    if not layout.directions:
        return [{"field": law.field[0] + law.field[1] * drawn(rng, number, window + 1, layout.fields)}]
    if not layout.driven:
        return [{}]
    force, velocity = law.force[-1] * drawn(rng, number, window + 1), law.rate * drawn(rng, 2, number, window)
    return [{"force": force}, {"force": force, "velocity": velocity}]


def lengths(*shape: int) -> Tensor:
    """Steps of different lengths."""
    return 0.002 + 0.004 * torch.rand(*shape, generator=Generator().manual_seed(4), dtype=torch.float64)


@some
@pytest.mark.parametrize("bounded", [False, True])
def test_engines_agree_in_states_ends_and_gradients(kind: str, internal: int, bounded: bool) -> None:
    law, steps = made(LAYOUTS[kind], internal), lengths(2, 3, 7)
    start, fields = states(law, 3).requires_grad_(), law.layout.fields
    for known in ends(law, 3, 7):
        with torch.no_grad():
            law.bound()
            path = rollout(law, start, steps, **known, backend="reference", rule="midpoint")[0]
            law.bound(0.4 * path[..., fields:] if bounded else None)
        found = []
        for backend in ("fast", "reference"):
            path, answer = rollout(law, start, steps, **known, backend=backend, rule="midpoint")
            loss = path.square().sum() + answer.sum()
            found.append([path, answer, *torch.autograd.grad(loss, [start, *law.parameters()], allow_unused=True)])
        for ours, expected in zip(*found, strict=True):
            assert (ours is None) == (expected is None)
            if ours is not None:
                assert (ours - expected).norm() <= 1e-10 * expected.norm() + 1e-13
        if bounded and internal:
            low, high = (part[:, None, None, None] for part in law.reach.unbind(1))
            alpha = found[0][0][..., fields:]
            assert bool((alpha >= low).all() and (alpha <= high).all() and ((alpha == low) | (alpha == high)).any())


@some
def test_a_step_is_half_a_step_of_euler_and_then_a_whole_one_from_where_it_began(kind: str, internal: int) -> None:
    law, h = made(LAYOUTS[kind], internal), 0.003
    start, steps = states(law, 3), torch.tensor([h], dtype=torch.float64)
    for known in ends(law, 3, 1):
        path, answer = rollout(law, start, steps, **known, rule="midpoint")
        z, parts = start, [dict[str, Tensor](), dict[str, Tensor]()]
        for name in ("force", "velocity"):
            if name in known:
                now = known[name].expand(2, 3, -1)
                parts[0][name], parts[1][name] = now[..., 0], now.mean(-1)
        if "field" in known:
            z = torch.cat([known["field"][:, :1].expand(2, 3, 1, -1), start[..., law.layout.fields :]], -1)
        rate, end = law.step(z, **parts[0])
        middle = z + h / 2 * rate
        if "field" in known:
            mean = known["field"].mean(1, keepdim=True).expand(2, 3, 1, -1)
            middle = torch.cat([mean, middle[..., law.layout.fields :]], -1)
        expected = z + h * law.step(middle, **parts[1])[0]
        assert torch.allclose(path[:, :, 0], expected, rtol=1e-12, atol=1e-13)
        assert torch.allclose(answer[:, :, 0], end, rtol=1e-10, atol=1e-12)


def last(law: Law, start: Tensor, number: int, rule: str) -> Tensor:
    """The state after a smooth drive, in so many steps."""
    times = torch.linspace(0, 1, number + 1, dtype=torch.float64)
    wave = torch.sin(3 * times)
    wave = wave if rule == "midpoint" else wave[:-1]
    if law.layout.driven:
        known: Given = {"force": law.force[-1] * wave}
    else:
        known = {"field": law.field[0] + law.field[1] * wave[:, None]}
    known = {name: part.expand(start.shape[1], *part.shape) for name, part in known.items()}
    clock = times.diff() / float(law.clock)
    return rollout(law, start, clock, **known, rule=rule)[0][:, :, -1, :, law.layout.fields - law.layout.driven :]


@pytest.mark.parametrize("kind", ["point", "plane", "row", "known"])
def test_errors_fall_with_the_square_of_the_step_and_eulers_with_the_step(kind: str) -> None:
    law = made(LAYOUTS[kind])
    start = states(law, 2, 0.5)
    with torch.no_grad():
        exact = last(law, start, 3200, "midpoint")
        for rule, order in (("euler", 1.0), ("midpoint", 2.0)):
            errors = [float((last(law, start, number, rule) - exact).norm()) for number in (50, 100, 200)]
            found = [torch.tensor(a / b).log2().item() for a, b in zip(errors[:-1], errors[1:], strict=True)]
            assert found == pytest.approx([order, order], abs=0.15), (rule, errors)


@rows
@pytest.mark.parametrize("backend", ["fast", "reference"])
@pytest.mark.parametrize("both", [False, True])
def test_the_end_of_a_row_moves_by_what_is_given_and_known_numbers_stand_still(
    kind: str, backend: str, both: bool
) -> None:
    law, steps = made(LAYOUTS[kind]), lengths(8)
    start, known = states(law, 3), ends(law, 3, 8)[1]
    known = known if both else {"velocity": known["velocity"]}
    with torch.no_grad():
        path, answer = rollout(law, start, steps, **known, backend=backend, rule="midpoint")
    given = law.layout.given
    total = law.spacing * (path[..., given].sum(-1) - start[:, :, None, :, given].sum(-1))
    assert torch.allclose(total, (known["velocity"] * steps).cumsum(-1), rtol=1e-10, atol=1e-12)
    assert torch.equal(path[..., :given], start[:, :, None, :, :given].expand_as(path[..., :given]))
    assert answer.shape == (2, 3, 8, 1)


@rows
def test_the_force_that_a_velocity_takes_is_that_of_the_reference(kind: str) -> None:
    law, steps = made(LAYOUTS[kind]), lengths(8)
    start, velocity = states(law, 3), ends(law, 3, 8)[1]["velocity"]
    with torch.no_grad():
        for rule in ("euler", "midpoint"):
            pair = (
                rollout(law, start, steps, velocity=velocity, backend=each, rule=rule) for each in ("fast", "reference")
            )
            for ours, expected in zip(*pair, strict=True):
                assert torch.allclose(ours, expected, rtol=1e-8, atol=1e-10)


@some
def test_free_energy_falls_while_nothing_changes_outside(kind: str, internal: int) -> None:
    """Fields rest, or the end does; in steps that are short beside the law's clock."""
    law = made(LAYOUTS[kind], internal)
    start = states(law, 20)
    steps = torch.full((60,), 1e-3, dtype=torch.float64) / float(law.clock)
    known: Given = {}
    if law.layout.driven:
        known = {"velocity": torch.zeros(60, dtype=torch.float64).expand(20, -1)}
    elif not law.layout.directions:
        known = {"field": (law.field[0] + 0.3 * law.field[1]).expand(20, 61, -1)}
        start = torch.cat([known["field"][:, :1].expand(2, 20, 1, -1), start[..., law.layout.fields :]], -1)
    with torch.no_grad():
        path = torch.cat([start[:, :, None], rollout(law, start, steps, **known, rule="midpoint")[0]], 2)
        energy = law.free_energy(path.flatten(1, 2)).sum(-1).unflatten(1, path.shape[1:3])
    assert energy.diff(dim=2).max() <= 1e-12 * energy.abs().max()
    assert (energy[..., -1] < energy[..., 0]).all()


@pytest.mark.parametrize("kind", ["ring", "grid"])
def test_sums_of_what_bonds_exchange_are_kept(kind: str) -> None:
    law = made(LAYOUTS[kind])
    start = states(law, 4)
    with torch.no_grad():
        path = rollout(law, start, lengths(30), rule="midpoint")[0]
    assert (path[..., 0].sum(-1) - start[:, :, None, :, 0].sum(-1)).abs().max() <= 1e-11


def test_the_rule_is_the_laws_own_if_none_is_named() -> None:
    law, start = made(Point()), torch.zeros(2, 3, 1, 2, dtype=torch.float64)
    field, steps = torch.rand(3, 6, 1, generator=Generator().manual_seed(0), dtype=torch.float64), lengths(5)
    with torch.no_grad():
        named = rollout(law, start, steps, field, rule="midpoint")[0]
        euler = rollout(law, start, steps, field[:, :-1])[0]
        law.steps = "midpoint"
        assert torch.equal(rollout(law, start, steps, field)[0], named)
        assert torch.equal(rollout(law, start, steps, field[:, :-1], rule="euler")[0], euler)
    assert not torch.equal(named, euler)


def test_known_numbers_are_felt() -> None:
    law = made(Row(2))
    z = states(law, 5)
    force = torch.zeros(5, dtype=torch.float64)
    other = z.clone()
    other[..., 1] += 0.5
    assert (law.step(other, force)[0] - law.step(z, force)[0])[..., 2:].abs().min(0).values.max() > 1e-6
