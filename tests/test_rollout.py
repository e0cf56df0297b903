"""Rollouts: Euler's method where it is exact, what is conserved and what falls, the compiled engine."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import CASES, LAYOUTS, concave, drawn, every, made, states, torn
from torch import Generator, Tensor
from toys import architecture_of, seen_of

from ibvonns.adjoint import fuses
from ibvonns.law import STEPS, Law, Scales
from ibvonns.layouts import Grid, Layout, Point, Ring, Row
from ibvonns.losses import Sampling
from ibvonns.model import Model
from ibvonns.networks import generators
from ibvonns.paper.baselines import NeuralLaw
from ibvonns.recipe import Phase, Recipe, Stage
from ibvonns.rollout import _say, rollout
from ibvonns.training import train

__all__ = ["concave"]  # a fixture
Given = dict[str, Any]


class Relaxing(Scales):
    """A point whose states follow dalpha/dt = a function of field and alpha, and which answers its field."""

    def __init__(self, pull: Callable[[Tensor, Tensor], Tensor], internal: int = 1) -> None:
        super().__init__(Point(), internal=internal)
        self.pull = pull

    def step(self, z: Tensor, force: Tensor | None = None, velocity: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The pull, and the field."""
        field, alpha = z[..., :1], z[..., 1:]
        return torch.cat([0 * field, self.pull(field, alpha)], -1), field[:, :, 0]


DECAY = Relaxing(lambda chi, alpha: torch.sin(chi) - alpha - 0.3 * alpha**3)


def stepped(law: Relaxing, field: Tensor, alpha: Tensor, times: Tensor) -> Tensor:
    """alpha after each step, (replicas, trajectories, steps, internal); field is (trajectories, times)."""
    front = alpha.new_zeros(*alpha.shape[:-1], 1)
    start = torch.cat([front, alpha], -1)[:, :, None]
    return rollout(law, start, times.diff(), field[:, :-1, None])[0][:, :, :, 0, 1:]


def final(steps: int) -> float:
    """alpha at time 2 after so many steps."""
    times = torch.linspace(0, 2, steps + 1, dtype=torch.float64)
    return float(stepped(DECAY, times[None], times.new_ones(1, 1, 1), times)[0, 0, -1, 0])


def test_error_falls_with_the_first_order_of_the_step() -> None:
    reference = final(20_000)
    errors = [abs(final(steps) - reference) for steps in (50, 100, 200)]
    ratios = [a / b for a, b in zip(errors[:-1], errors[1:], strict=True)]
    assert all(1.9 < ratio < 2.1 for ratio in ratios)


def test_linear_decay_is_the_closed_form_of_eulers_method() -> None:
    times = torch.linspace(0, 3, 301, dtype=torch.float64)
    start = torch.tensor([[[1.0, -2.0]]], dtype=torch.float64)  # two internal variables
    path = stepped(Relaxing(lambda chi, alpha: -alpha, 2), 0 * times[None], start, times)
    steps = torch.arange(1, 301, dtype=torch.float64)[:, None]
    assert path.shape == (1, 1, 300, 2)
    assert torch.allclose(path[0, 0], start[0] * (1 - 0.01) ** steps, rtol=1e-12)


def test_uneven_steps_are_taken_as_they_come() -> None:
    times = torch.tensor([0.0, 0.1, 0.4, 0.45], dtype=torch.float64)
    path = stepped(Relaxing(lambda chi, alpha: chi), times[None], times.new_zeros(1, 1, 1), times)
    assert path[0, 0, :, 0].tolist() == pytest.approx([0.0, 0.03, 0.05])  # the field held at its start


def test_a_points_fields_are_those_that_a_step_began_with() -> None:
    field = drawn(Generator().manual_seed(0), 3, 4, 2)
    law, steps = made(Point(2)), torch.full((4,), 0.01, dtype=torch.float64)
    start = states(law, 3)
    for backend in ("fast", "reference"):
        path, answer = rollout(law, start, steps, field, backend=backend)
        assert torch.equal(path[:, :, :, 0, :2], field.expand(2, 3, 4, 2))
        before = torch.cat([start[:, :, None], path[:, :, :-1]], 2)
        at = torch.cat([path[..., :2], before[..., 2:]], -1)
        expected = law.slopes(at.flatten(1, 2))[0][:, :, 0].unflatten(1, (3, 4))
        assert torch.allclose(answer, expected, rtol=1e-12)


def test_rollout_passes_gradients_to_its_start() -> None:
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    start = torch.tensor([[[0.7]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda first: stepped(DECAY, times[None], first, times), start)


def ends(law: Scales, number: int, window: int, seed: int = 3) -> list[Given]:
    """What a rollout may be given of so many trajectories: fields, F_ex, F_ex and v_n, or nothing."""
    rng, layout = Generator().manual_seed(seed), law.layout
    if not layout.directions:
        return [{"field": law.field[0] + law.field[1] * drawn(rng, number, window, layout.fields)}]
    if not layout.driven:
        return [{}]
    force, velocity = law.force[-1] * drawn(rng, number, window), law.rate * drawn(rng, 2, number, window)
    return [{"force": force}, {"force": force, "velocity": velocity}]


def lengths(*shape: int) -> Tensor:
    """Steps of different lengths."""
    return 0.002 + 0.004 * torch.rand(*shape, generator=Generator().manual_seed(4), dtype=torch.float64)


@every
@pytest.mark.parametrize("backend", ["fast", "reference"])
def test_trajectories_and_replicas_never_meet(kind: str, internal: int, backend: str) -> None:
    law = made(LAYOUTS[kind], internal)
    start, steps = states(law, 4), lengths(2, 4, 6)
    for known in ends(law, 4, 6):
        whole = rollout(law, start, steps, **known, backend=backend)
        for replica, place in ((0, 1), (1, 3)):
            own = slice(replica, replica + 1), slice(place, place + 1)
            one = made(LAYOUTS[kind], internal, seeds=(replica,))
            alone_known = {
                name: part.expand(2, *part.shape[-3:] if name == "field" else part.shape[-2:])[own]
                for name, part in known.items()
            }
            alone = rollout(one, start[own], steps[own], **alone_known, backend=backend)
            for ours, expected in zip(whole, alone, strict=True):
                assert torch.allclose(ours[own], expected, rtol=1e-12, atol=1e-14)


def fall(law: Law, start: Tensor, steps: int, length: float, **known: Any) -> tuple[float, float]:
    """Largest change of sum f in a step, in units of its largest, and by how much the sum of the field wanders.

    States must move by 1 / 50 of their deviation, so that there is something to see.
    """
    clock = torch.full((steps,), length, dtype=torch.float64) / float(law.clock)
    with torch.no_grad():
        path = torch.cat([start[:, :, None], rollout(law, start, clock, **known)[0]], 2)
        if "field" in known:
            path[..., : law.layout.fields] = known["field"][:, :1, None]
        energy = law.free_energy(path.flatten(1, 2)).sum(-1).unflatten(1, path.shape[1:3])
    assert (law.scaled(path[:, :, -1]) - law.scaled(start)).abs().max() > 0.02
    total = path[..., 0].sum(-1)
    rise = energy.diff(dim=-1) / energy.abs().amax(-1, keepdim=True)
    return float(rise.max()), float((total - total[:, :, :1]).abs().max() / total.abs().max())


@pytest.mark.parametrize("internal", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", [0, 10, 20])
def test_a_ring_keeps_its_sum_while_its_free_energy_falls_at_each_of_1000_steps(internal: int, seed: int) -> None:
    law = made(Ring(), internal, seeds=(seed, seed + 1))
    rise, wandered = fall(law, states(law, 4, sites=10, seed=seed), 1000, 2e-3)
    assert rise < 0
    assert wandered < 1e-13


@pytest.mark.parametrize("internal", [0, 1, 2, 3])
def test_a_grid_keeps_its_sum_while_its_free_energy_falls_at_each_of_200_steps(internal: int) -> None:
    law = made(Grid(3, 3), internal)
    rise, wandered = fall(law, states(law, 4), 200, 5e-3)
    assert rise < 0
    assert wandered < 1e-13


@pytest.mark.parametrize("internal", [1, 2, 3])
@pytest.mark.parametrize("controls", [1, 2])
def test_the_free_energy_of_a_point_falls_while_its_controls_rest(internal: int, controls: int) -> None:
    law = made(Point(controls), internal)
    field = law.field[0] + law.field[1] * torch.linspace(-2, 2, 10, dtype=torch.float64)[:, None, None]
    start = states(law, 10)
    start[..., :controls] = field
    rise, _ = fall(law, start, 400, 2e-2, field=field.expand(10, 400, controls))
    assert rise < 0


@pytest.mark.parametrize("layout", [Ring(), Grid(3, 3)])
@pytest.mark.parametrize("internal", [0, 1, 2, 3])
def test_sums_wander_where_a_bond_has_no_partner(layout: Layout, internal: int) -> None:
    law = made(torn(layout), internal)
    assert fall(law, states(made(layout, internal), 4), 200, 2e-3)[1] > 1e-7


@pytest.mark.parametrize("kind", ["point", "ring", "grid"])
def test_free_energies_rise_where_the_network_is_not_convex(kind: str, concave: Callable[[Law], Law]) -> None:
    law = concave(made(LAYOUTS[kind], wild=True))
    known = ends(law, 4, 1)[0]
    start = states(law, 4)
    if known:
        known = {"field": known["field"].expand(4, 50, -1)}
        start[..., : law.layout.fields] = known["field"][:, :1]
    assert fall(law, start, 50, 1e-3, **known)[0] > 1e-6


@pytest.mark.parametrize("backend", ["fast", "reference"])
@pytest.mark.parametrize("both", [False, True])
def test_total_field_of_a_row_grows_as_its_end_moves(backend: str, both: bool) -> None:
    law = made(Row())
    start, steps = states(law, 3), lengths(100 if backend == "fast" else 10)
    known = ends(law, 3, len(steps))[1]
    if not both:
        known.pop("force")
    with torch.no_grad():
        path, _ = rollout(law, start, steps, **known, backend=backend)
    total = path[..., 0].sum(-1) - start[:, :, None, :, 0].sum(-1)
    expected = (steps * known["velocity"]).cumsum(-1) / law.spacing
    assert (total - expected).abs().max() <= 1e-13 * (expected.abs().max() + path[..., 0].abs().max() * 5)


# ---- the compiled engine ----


def gradients(law: Scales, start: Tensor, steps: Tensor, known: Given, backend: str) -> list[Tensor]:
    """Results, then gradients by start and by each weight, of a random weighted sum of them."""
    first = start.clone().requires_grad_()
    results = rollout(law, first, steps, **known, backend=backend)
    rng = Generator().manual_seed(1)
    total = sum((part * drawn(rng, *part.shape)).sum() for part in results)
    slopes = torch.autograd.grad(total, [first, *law.parameters()], materialize_grads=True)  # type: ignore[arg-type]
    return [*(part.detach() for part in results), *slopes]


def apart(found: list[Tensor], expected: list[Tensor], *, least: float = 1e-6) -> tuple[float, float]:
    """Largest relative error of one of several tensors, and that of all of the gradients together.

    least: norm below which a tensor counts as if it had this one.
    """
    errors = []
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype == torch.float64
        errors.append(float((one - other).norm() / other.norm().clamp_min(least)))
    one, other = (torch.cat([part.flatten() for part in parts[2:]]) for parts in (found, expected))
    return max(errors), float((one - other).norm() / other.norm())


ENGINE = [*CASES, *(("controls", n) for n in (1, 2, 3))]
FELT = [(kind, n, True) for kind in ("row", "ring", "grid") for n in (1, 2, 3)]


@pytest.mark.parametrize(("kind", "internal", "neighbours"), [*((*case, False) for case in ENGINE), *FELT])
def test_gradients_are_those_of_the_reference(kind: str, internal: int, neighbours: bool) -> None:
    """Each replica and each trajectory with a clock of its own."""
    law = made(LAYOUTS.get(kind, Point(3)), internal, neighbours=neighbours)
    start, steps = states(law, 5), lengths(2, 5, 7)
    for known in ends(law, 5, 7):
        found = {name: gradients(law, start, steps, known, name) for name in ("fast", "single", "reference")}
        assert apart(found["fast"], found["reference"])[0] <= 1e-10
        one, whole = apart(found["single"], found["reference"])
        # in weights that hardly matter the terms of a gradient cancel
        assert whole <= 1e-5 and one <= (1e-4 if internal else 1e-3)


width = st.integers(1, 9)


@settings(max_examples=30, deadline=None)
@given(
    layout=st.sampled_from((Point(), Point(2), Point(3), Row(), Ring(), Grid(3, 3), Grid(2, 5))),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 60), st.integers(1, 12), st.integers(0, 3)),
    energy=st.tuples(width, width),
    power=st.tuples(width, width),
    window=st.sampled_from((1, 2, 7, 30)),
    shape=st.integers(1, 3),
    polynomials=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_gradients_are_those_of_the_reference_whatever_the_sizes(
    layout: Layout,
    sizes: tuple[int, int, int, int],
    energy: tuple[int, int],
    power: tuple[int, int],
    window: int,
    shape: int,
    polynomials: tuple[int, int],
) -> None:
    replicas, trajectories, sites, internal = sizes
    internal = internal if layout.directions else max(1, internal)
    sites = layout.rows * layout.columns if isinstance(layout, Grid) else sites if layout.directions else 1
    cubes, squares = polynomials
    widths: Any = {"energy_hidden": energy, "dissipation_hidden": power, "cubes": cubes, "squares": squares}
    law = made(layout, internal, seeds=range(replicas), **widths)
    start = states(law, trajectories, sites=sites)[:1].repeat(replicas, 1, 1, 1)
    steps = lengths(*(replicas, trajectories, window)[-shape:])
    for known in ends(law, trajectories, window):
        known = {name: part[0] if name == "velocity" else part for name, part in known.items()}
        found = [gradients(law, start, steps, known, backend) for backend in ("fast", "reference")]
        assert apart(*found)[0] <= 1e-10


@pytest.mark.parametrize(("layout", "sites"), [(Row(), 301), (Ring(), 301), (Grid(13, 20), 260)])
def test_layouts_larger_than_the_lanes_agree(layout: Layout, sites: int) -> None:
    law = made(layout, seeds=(0,))
    start, steps = states(law, 2, sites=sites)[:1], lengths(3)
    for known in ends(law, 2, 3):
        known = {name: part[0] if name == "velocity" else part for name, part in known.items()}
        assert apart(*(gradients(law, start, steps, known, name) for name in ("fast", "reference")))[0] <= 1e-10


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("window", [1, 30, 300])
def test_short_and_long_windows_agree_too(kind: str, window: int) -> None:
    law = made(LAYOUTS[kind], 2)
    start, steps = states(law, 3), lengths(window)
    for known in ends(law, 3, window)[-1 if window == 300 else 0 :]:
        found = {name: gradients(law, start, steps, known, name) for name in ("fast", "single", "reference")}
        assert apart(found["fast"], found["reference"])[0] <= 1e-10
        one, whole = apart(found["single"], found["reference"])
        assert whole <= 1e-5 and one <= 1e-4


def trained(kind: str) -> tuple[Law, Tensor, Tensor, dict[str, Given]]:
    """A law after some training, first states and steps of its data, and what drives it."""
    data = seen_of(kind)
    model = Model([0, 1], architecture_of(kind))
    phases = Phase(0, 40), Phase(1, 60, 10), Phase(30, 10, 2)
    weights = {"density": 0.3, "shift": 0.2, "field": 1.0, "internal": 1.0, "end": 100.0}
    train(model, data, Recipe((Stage(phases, weights, clip=3.0),), Sampling(), attempts=0, coarse=1))
    start = model.states(data, model.encode(data))[:, :, 0].detach()
    known: dict[str, Given] = {"free": {}}
    if kind == "point":
        known = {"field": {"field": data.field[:, :-1, 0]}}
    if data.velocity is not None and data.force is not None:
        pull = {"force": data.force[:, :-1, 0]}
        known = {"force": pull, "both": {**pull, "velocity": data.velocity[:, 1:]}}
    return model.law, start, data.times.diff(), known


@pytest.mark.parametrize("kind", ["point", "row"])
def test_a_trained_laws_gradients_are_those_of_the_reference(kind: str) -> None:
    law, start, steps, drives = trained(kind)
    for window in (1, 7, 30, 300):
        for drive in drives.values():
            known = {name: part[:, :window] for name, part in drive.items()}
            found = {
                backend: gradients(law, start, steps[:window], known, backend)
                for backend in ("fast", "single", "reference")
            }
            assert apart(found["fast"], found["reference"])[0] <= 1e-10
            assert apart(found["single"], found["reference"])[0] <= 1e-3


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(1, 12), st.integers(0, 3)),
    window=st.sampled_from((1, 2, 30)),
    reach=st.sampled_from((0.0, 1e-3, 1.0, 1e3)),
    seed=st.integers(0, 1000),
)
def test_the_force_that_a_velocity_takes_is_that_of_the_reference(
    sizes: tuple[int, int, int, int], window: int, reach: float, seed: int
) -> None:
    replicas, trajectories, sites, internal = sizes
    law = made(Row(), internal, seeds=range(replicas))
    start = states(law, trajectories, sites=sites, seed=seed)[:1].repeat(replicas, 1, 1, 1)
    velocity = reach * law.rate * drawn(Generator().manual_seed(seed), replicas, trajectories, window)
    steps = lengths(trajectories, window) / 20
    with torch.no_grad():
        ours, expected = (
            rollout(law, start, steps, velocity=velocity, backend=backend) for backend in ("fast", "reference")
        )
        again = rollout(law, start, steps, force=ours[1][..., 0])
    for one, other in zip(ours, expected, strict=True):
        assert (one - other).norm() <= 1e-9 * other.norm().clamp_min(1e-6)
    # given back, the force drives the end as it was moved
    assert (again[1][..., 0] - velocity).abs().max() <= 1e-9 * (velocity.abs().max() + law.rate)


def test_a_velocitys_force_is_differentiable_by_the_reference() -> None:
    law = made(Row())
    force = rollout(law, states(law, 2), lengths(2), velocity=torch.ones(2, 2, dtype=torch.float64))[1]
    assert law.mobility is not None
    assert torch.autograd.grad(force.sum(), law.mobility)[0].isfinite().all()


@pytest.mark.parametrize("kind", ["point", "row", "ring"])
def test_finite_differences_agree(kind: str) -> None:
    law = made(LAYOUTS[kind])
    start, steps, known = states(law, 2), lengths(5), ends(law, 2, 5)[-1]

    def total(start: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in rollout(law, start, steps, **known)]).square().sum()

    first = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(total(first), first)
    along = drawn(Generator().manual_seed(0), *start.shape)
    h = 1e-5
    measured = (total(start + h * along) - total(start - h * along)) / (2 * h)
    assert float((slope * along).sum()) == pytest.approx(float(measured.detach()), rel=1e-7)


@pytest.mark.parametrize(("seeds", "number"), [((0,), 9), ((0, 1), 200)])
def test_threads_change_nothing_but_the_rounding(seeds: tuple[int, ...], number: int) -> None:
    """One seed is shared by threads, which sum in another order; several are not."""
    law = made(Row(), seeds=seeds)
    start, steps = states(law, number)[: len(seeds)], lengths(7)
    known = {"force": ends(law, number, 7)[0]["force"]}
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 20)[: 3 if len(seeds) == 1 else 2]:
            torch.set_num_threads(threads)
            results.append(gradients(law, start, steps, known, "fast"))
    finally:
        torch.set_num_threads(before)
    for one, *others in zip(*results, strict=True):
        for other in others:
            assert (one - other).norm() <= (1e-13 * one.norm() if len(seeds) == 1 else 0)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_nan_in_any_weight_comes_through_where_the_reference_lets_it(kind: str) -> None:
    """The loss must show it: `train` then names the seed."""
    for place in range(len(list(made(LAYOUTS[kind]).parameters()))):
        law = made(LAYOUTS[kind])
        with torch.no_grad():
            list(law.parameters())[place][1].view(-1)[0] = float("nan")
        known = ends(law, 2, 3)[0]
        found, expected = (
            rollout(law, states(law, 2), lengths(3), **known, backend=each) for each in ("fast", "reference")
        )
        assert all(bool(part[0].isfinite().all()) for part in found)
        assert any(part[1].isnan().any() for part in found) == any(part[1].isnan().any() for part in expected), place


def plain(layout: Layout, internal: int, hidden: tuple[int, ...] = (7, 5), seeds: Sequence[int] = (0, 1)) -> NeuralLaw:
    """A law whose rates are plain networks, with scales unlike 1."""
    law, other = NeuralLaw(generators(seeds), layout, 0.3, internal, hidden), made(layout, internal)
    law.set_scales(other.field, float(other.energy), float(other.rate))
    return law


@pytest.mark.parametrize("rule", STEPS)
@pytest.mark.parametrize(("kind", "internal"), ENGINE)
def test_gradients_of_plain_rates_are_those_of_the_reference(kind: str, internal: int, rule: str) -> None:
    """Where edges meet, the same velocity of all bonds moves nothing: what is left of its gradient is rounding."""
    law = plain(LAYOUTS.get(kind, Point(3)), internal)
    law.steps = rule
    start, steps = states(law, 5), lengths(2, 5, 7)
    for known in ends(law, 5, 7 + (rule != "euler")):
        known = {name: part[:, :, :7] if name == "velocity" else part for name, part in known.items()}
        found = {name: gradients(law, start, steps, known, name) for name in ("fast", "single", "reference")}
        assert apart(found["fast"], found["reference"], least=1e-3)[0] <= 1e-10
        one, whole = apart(found["single"], found["reference"], least=1e-3)
        assert whole <= 1e-5 and one <= (1e-4 if internal else 1e-3)


@settings(max_examples=20, deadline=None)
@given(
    layout=st.sampled_from((Point(2), Row(), Row(1), Ring(), Grid(2, 5))),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 60), st.integers(1, 12), st.integers(1, 3)),
    hidden=st.tuples(width, width),
    window=st.sampled_from((1, 2, 30)),
)
def test_plain_rates_are_those_of_the_reference_whatever_the_sizes(
    layout: Layout, sizes: tuple[int, int, int, int], hidden: tuple[int, int], window: int
) -> None:
    """And the force that belongs to a velocity drives the end at that velocity."""
    replicas, trajectories, sites, internal = sizes
    sites = layout.rows * layout.columns if isinstance(layout, Grid) else sites if layout.directions else 1
    law = plain(layout, internal, hidden, range(replicas))
    start, steps = states(law, trajectories, sites=sites)[:1].repeat(replicas, 1, 1, 1), lengths(trajectories, window)
    for known in ends(law, trajectories, window):
        known = {name: part[0] if name == "velocity" else part for name, part in known.items()}
        found = [gradients(law, start, steps, known, name) for name in ("fast", "reference")]
        assert apart(*found, least=1e-3)[0] <= 1e-10
        if "velocity" in known:
            given = {"velocity": known["velocity"]}
            with torch.no_grad():
                ours, expected = (rollout(law, start, steps, **given, backend=each) for each in ("fast", "reference"))
                again = rollout(law, start, steps, force=ours[1][..., 0])
            for one, other in zip((*ours, again[0]), (*expected, ours[0]), strict=True):
                assert torch.allclose(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


def test_other_depths_go_the_reference_way() -> None:
    law = made(Row(), energy_hidden=(5,))
    inputs = states(law, 2), lengths(2), ends(law, 2, 2)[1]
    for one, other in zip(*(gradients(law, *inputs, b) for b in ("fast", "reference")), strict=True):
        assert torch.equal(one, other)
    depths = [(5,), (5, 5), (5, 5, 5)]
    assert [fuses(plain(Row(), 1, hidden), states(law, 2)) for hidden in depths] == [False, True, False]


def test_the_log_says_once_which_engine_runs(caplog: pytest.LogCaptureFixture) -> None:
    _say.cache_clear()
    with caplog.at_level(logging.INFO, "ibvonns"):
        for law in (made(Row()), made(Row(), energy_hidden=(4, 4, 4)), made(Row())):
            for backend in ("fast", "single", "reference"):
                rollout(law, states(law, 1), lengths(2), **ends(law, 1, 2)[0], backend=backend)
    fast, slow = caplog.records
    assert fast.levelname == "INFO" and "compiled loop" in fast.message
    assert slow.levelname == "WARNING" and "reference engine" in slow.message


# ---- arguments ----


def ones(*shape: int) -> Tensor:
    """Ones in double precision."""
    return torch.ones(shape, dtype=torch.float64)


NAN = float("nan")
RIGHT: dict[str, dict[str, Any]] = {
    "point": {"start": ones(2, 3, 1, 2), "field": ones(3, 4, 1)},
    "row": {"start": ones(2, 3, 5, 2), "force": ones(3, 4)},
    "ring": {"start": ones(2, 3, 6, 2)},
    "grid": {"start": ones(2, 3, 9, 2)},
}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("row", {"start": ones(3, 5, 2)}, r"start must have shape \(.*, trajectories, sites, 2\), but has shape \(3, 5"),
    ("row", {"start": ones(2, 3, 5, 1)}, r"start must have shape \(.*, trajectories, sites, 2\)"),
    ("row", {"start": ones(2, 3, 5, 2) * NAN}, "start must be finite, but holds 60 NaN"),
    ("row", {"start": [1.0]}, "start must be a torch.Tensor, but is of type list"),
    ("row", {"start": ones(2, 3, 5, 2).long()}, "start must be of a floating-point type"),
    ("row", {"steps": ones(2, 4)}, r"steps must have shape \(3, 4\), but has shape \(2, 4\)"),
    ("row", {"steps": ones(1, 2, 3, 4)}, r"steps must have shape \(2, 3, 4\), but has shape \(1, 2, 3, 4\)"),
    ("row", {"steps": ones(4) * NAN}, "steps must be finite"),
    ("row", {"force": ones(3, 5)}, r"force must have shape \(3, 4\), but has shape \(3, 5\)"),
    ("row", {"force": ones(1, 3, 4)}, r"force must have shape \(2, 3, 4\), but has shape \(1, 3, 4\)"),
    ("row", {"force": ones(3, 4) / 0}, "force must be finite, but holds 12 NaN or inf"),
    ("row", {"velocity": ones(2, 4)}, r"velocity must have shape \(3, 4\), but has shape \(2, 4\)"),
    ("row", {"velocity": ones(3, 4) * NAN}, "velocity must be finite"),
    ("row", {"field": ones(3, 4, 1)}, "field must not be given.* a Row has none"),
    ("row", {"force": None}, "force and velocity must not both be None"),
    ("ring", {"force": ones(3, 4)}, "force must not be given.* a Ring has none"),
    ("ring", {"velocity": ones(3, 4)}, "velocity must not be given.* a Ring has none"),
    ("grid", {"force": ones(3, 4)}, "force must not be given.* a Grid has none"),
    ("grid", {"start": ones(2, 3, 6, 2)}, "sites must number 3 x 3 on this grid, but number 6$"),
    ("point", {"force": ones(3, 4)}, "force must not be given.* a Point has none"),
    ("point", {"field": None}, "field must be given at a point, whose fields are controls"),
    ("point", {"field": ones(3, 4, 2)}, r"field must have shape \(3, 4, 1\), but has shape \(3, 4, 2\)"),
    ("point", {"field": ones(3, 4)}, r"field must have shape \(3, 4, 1\), but has shape \(3, 4\)"),
    ("point", {"field": ones(3, 4, 1) * NAN}, "field must be finite"),
    ("point", {"backend": "quick"}, "backend must be one of 'fast', 'reference', 'single', but is 'quick'$"),
]
#: Not refused yet, or by an error that says nothing of the argument; strict, so that it is moved up once it is.
OPEN: list[tuple[str, dict[str, Any], str]] = [
    ("row", {"start": ones(3, 3, 5, 2)}, "start must .*, but has shape"),
    ("row", {"start": ones(1, 3, 5, 2)}, "start must .*, but has shape"),
    ("row", {"steps": ones()}, "steps must have shape"),
    ("row", {"steps": 0.01}, "steps must be a torch.Tensor, but is of type float"),
    ("row", {"steps": ones(0), "force": ones(3, 0)}, "steps must "),
    ("row", {"force": 1.0}, "force must be a torch.Tensor, but is of type float"),
    ("point", {"field": [1.0]}, "field must be a torch.Tensor, but is of type list"),
    ("point", {"start": ones(2, 3, 2, 2)}, "(start|sites) must"),
]


@pytest.mark.parametrize("backend", ["fast", "reference"])
@pytest.mark.parametrize(("kind", "change", "sentence"), [*WRONG, *OPEN])
def test_bad_arguments_are_refused_by_a_sentence_that_names_them(
    kind: str, change: dict[str, Any], sentence: str, backend: str
) -> None:
    law = made(LAYOUTS[kind])
    inputs = {"steps": 0.01 * ones(4), "backend": backend, **RIGHT[kind]}
    rollout(law, **inputs)
    with pytest.raises((ValueError, TypeError), match=f"^{sentence}"):
        rollout(law, **{**inputs, **change})


@every
def test_alpha_is_held_within_its_reach_by_both_engines(kind: str, internal: int) -> None:
    """A bound that many steps meet; what is held back passes no gradient on."""
    law, steps = made(LAYOUTS[kind], internal), lengths(2, 4, 6)
    if not internal:  # nothing to hold
        assert torch.equal(law.bounded(states(law, 4)), states(law, 4)) and law.reach.shape == (2, 2, 0)
        return
    start = states(law, 4).requires_grad_()
    fields = law.layout.fields
    free = rollout(law, start, steps, **ends(law, 4, 6)[0], backend="reference")[0][..., fields:]
    law.bound(
        free.detach().movedim(-1, 1).flatten(2).quantile(torch.tensor([0.3, 0.7]).double(), dim=2).movedim(0, 2).mT
    )
    for known in ends(law, 4, 6):
        found = []
        for backend in ("fast", "reference"):
            path, answer = rollout(law, start, steps, **known, backend=backend)
            found.append(
                [path, answer, *torch.autograd.grad(path.square().sum() + answer.sum(), [start, *law.parameters()])]
            )
        for ours, expected in zip(*found, strict=True):
            assert torch.allclose(ours, expected, rtol=1e-9, atol=1e-10 * float(expected.detach().norm()))
        alpha, (low, high) = found[0][0][..., fields:], law.reach.unbind(1)
        assert (alpha >= low[:, None, None, None]).all() and (alpha <= high[:, None, None, None]).all()
        assert ((alpha == low[:, None, None, None]) | (alpha == high[:, None, None, None])).any()
    law.bound()
    again = rollout(law, start, steps, **ends(law, 4, 6)[0], backend="reference")[0][..., fields:]
    assert torch.equal(again, free)


@pytest.mark.parametrize("sites", [1, 2, 7])
def test_the_force_of_a_row_with_neighbours_belongs_to_its_velocity_in_both_engines(sites: int) -> None:
    law, steps = made(Row(), 2, neighbours=True), lengths(6)
    start = states(law, 4, sites=sites)
    with torch.no_grad():
        velocity = law.rate * drawn(Generator().manual_seed(2), 4, 6)
        fast, slow = (rollout(law, start, steps, velocity=velocity, backend=each) for each in ("fast", "reference"))
        for one, other in zip(fast, slow, strict=True):
            assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)
        # and with this force the end moves at that velocity
        back = rollout(law, start, steps[:1], force=fast[1][0, :, :1, 0])
        assert torch.allclose(back[1][0, :, 0, 0], velocity[:, 0], rtol=1e-10, atol=0)
