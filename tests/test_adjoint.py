"""The compiled rollout and its adjoint against PyTorch's own differentiation, weight by weight."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ibvonns.chain_model import ChainModel, observe_chain
from ibvonns.model import TrapModel, observe
from ibvonns.networks import generators
from ibvonns.onsager import ChainPotentials, Potentials
from ibvonns.rollout import _say, chain_rollout, rollout
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap
from ibvonns.training import Phase, Recipe, train


def problem(
    replicas: int, trajectories: int, springs: int, internal: int, window: int, seed: int
) -> tuple[Tensor, ...]:
    """Random first states, forces, velocities and steps."""
    rng = torch.Generator().manual_seed(seed)
    draw = {"generator": rng, "dtype": torch.float64}
    strain = 1 + torch.randn(trajectories, springs, **draw)  # type: ignore[call-overload]
    alpha = torch.randn(replicas, trajectories, springs, internal, **draw)  # type: ignore[call-overload]
    force, velocity = 0.01 * torch.randn(2, trajectories, window, **draw)  # type: ignore[call-overload]
    steps = 0.005 + 0.01 * torch.rand(window, **draw)  # type: ignore[call-overload]
    return strain, alpha, force, velocity, steps


def made(
    replicas: int,
    internal: int = 1,
    energy: tuple[int, ...] = (20, 20),
    power: tuple[int, ...] = (20, 20),
) -> ChainPotentials:
    """Potentials with random weights and the scales of the paper's chain."""
    law = ChainPotentials(generators(range(replicas)), 0.01, energy, power, internal)
    law.set_scales((1.2, 0.6), 0.006, 0.02)
    return law


def gradients(
    law: ChainPotentials, inputs: tuple[Tensor | None, ...], backend: str
) -> list[Tensor]:
    """Results, then gradients by alpha and by each weight, of a random weighted sum of them."""
    strain, alpha, *rest = inputs
    assert alpha is not None
    alpha = alpha.clone().requires_grad_()
    results = chain_rollout(law, strain, alpha, *rest, backend)  # type: ignore[arg-type,call-arg]
    rng = torch.Generator().manual_seed(1)
    total = sum(
        (part * torch.randn(part.shape, generator=rng, dtype=part.dtype)).sum() for part in results
    )
    wanted = [alpha, *law.parameters()]
    slopes = torch.autograd.grad(total, wanted, materialize_grads=True)  # type: ignore[arg-type]
    return [*(part.detach() for part in results), *slopes]


width = st.integers(1, 9)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(2, 12), st.integers(1, 3)),
    energy=st.tuples(width, width),
    power=st.tuples(width, width),
    window=st.sampled_from((1, 2, 7, 30)),
    seed=st.integers(0, 1000),
    moved=st.booleans(),
)
def test_gradients_are_those_of_the_reference(
    sizes: tuple[int, int, int, int],
    energy: tuple[int, int],
    power: tuple[int, int],
    window: int,
    seed: int,
    moved: bool,
) -> None:
    law = made(sizes[0], sizes[3], energy, power)
    strain, alpha, force, velocity, steps = problem(*sizes, window, seed)
    inputs = (strain, alpha, force, velocity if moved else None, steps)
    ours, expected = (gradients(law, inputs, backend) for backend in ("fast", "reference"))
    for one, other in zip(ours, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= 1e-10 * other.norm().clamp_min(1e-6)


@pytest.mark.parametrize("window", [30, 300])
@pytest.mark.parametrize("internal", [1, 2, 3])
@pytest.mark.parametrize("moved", [False, True])
def test_long_windows_agree_too(window: int, internal: int, moved: bool) -> None:
    law = made(2, internal)
    strain, alpha, force, velocity, steps = problem(2, 3, 10, internal, window, 5)
    inputs = (strain, alpha, force, velocity if moved else None, steps)
    ours, expected = (gradients(law, inputs, backend) for backend in ("fast", "reference"))
    for one, other in zip(ours, expected, strict=True):
        assert (one - other).norm() <= 1e-10 * other.norm().clamp_min(1e-6)


@pytest.mark.parametrize("moved", [False, True])
def test_chains_longer_than_the_lanes_agree(moved: bool) -> None:
    law = made(1)
    strain, alpha, force, velocity, steps = problem(1, 2, 301, 1, 3, 5)
    inputs = (strain, alpha, force, velocity if moved else None, steps)
    ours, expected = (gradients(law, inputs, backend) for backend in ("fast", "reference"))
    for one, other in zip(ours, expected, strict=True):
        assert (one - other).norm() <= 1e-10 * other.norm().clamp_min(1e-6)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(2, 12), st.integers(1, 3)),
    window=st.sampled_from((1, 2, 30)),
    reach=st.sampled_from((0.0, 1e-3, 1.0, 1e3)),
    seed=st.integers(0, 1000),
)
def test_the_force_that_a_velocity_takes_is_that_of_the_reference(
    sizes: tuple[int, int, int, int], window: int, reach: float, seed: int
) -> None:
    law = made(sizes[0], sizes[3])
    strain, alpha, _, velocity, steps = problem(*sizes, window, seed)
    moved = reach * velocity
    with torch.no_grad():
        ours, expected = (
            chain_rollout(law, strain, alpha, None, moved, steps, backend)
            for backend in ("fast", "reference")
        )
        again = chain_rollout(law, strain, alpha, ours[2][0], None, steps)
    for one, other in zip(ours, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= 1e-10 * other.norm().clamp_min(1e-6)
    # given back, the force drives the end as it was moved
    assert (again[2][0] - moved).abs().max() <= 1e-9 * (moved.abs().max() + law.velocity_scale)


def test_a_velocitys_force_is_differentiable_by_the_reference() -> None:
    law = made(1)
    strain, alpha, _, velocity, steps = problem(1, 2, 3, 1, 2, 5)
    force = chain_rollout(law, strain, alpha, None, velocity, steps)[2]
    assert torch.autograd.grad(force.sum(), law.mobility)[0].isfinite().all()


@pytest.fixture(scope="module")
def chain() -> tuple[ChainModel, tuple[Tensor, ...]]:
    """A chain's law after some training, and first states, F_ex, v_n and steps of its data."""
    data = observe_chain(Chain().simulate_paper(lengths=(0.14, 0.2, 0.26), realisations=200))
    model = ChainModel([0, 1])
    phases = (Phase(0, 40), Phase(1, 60, 10), Phase(30, 10, 2))
    train(model, data, Recipe(phases, weights=(0.3, 0.2, 1.0, 2.0, 200.0), clip=3.0))
    alpha = model.encode(data)[:, :, 0].detach()
    records = data.external_force[:, :-1], data.velocity[:, 1:]
    return model, (data.mean[:, 0], alpha, *records, torch.diff(data.times))


@pytest.mark.parametrize("window", [1, 7, 30, 300])
@pytest.mark.parametrize("moved", [False, True])
def test_a_trained_chains_gradients_are_those_of_the_reference(
    chain: tuple[ChainModel, tuple[Tensor, ...]], window: int, moved: bool
) -> None:
    model, (strain, alpha, force, velocity, steps) = chain
    pulled = force[:, :window], velocity[:, :window] if moved else None, steps[:window]
    found = {
        backend: gradients(model.potentials, (strain, alpha, *pulled), backend)
        for backend in ("fast", "single", "reference")
    }
    for backend, allowed in (("fast", 1e-10), ("single", 1e-3)):
        for one, other in zip(found[backend], found["reference"], strict=True):
            assert (one - other).norm() <= allowed * other.norm().clamp_min(1e-6)


@pytest.mark.parametrize("window", [1, 7, 30, 300])
def test_a_trained_traps_gradients_are_those_of_the_reference(window: int) -> None:
    data = observe(Trap().simulate_paper("oscillating", (0.4, 1.2), 200))
    model = TrapModel([0, 1])
    train(model, data, Recipe((Phase(0, 30), Phase(1, 100, 10), Phase(30, 10, 2))))
    times, chi = data.times[: window + 1], data.controls[:, : window + 1]
    first = model.encode(data)[:, :, 0].detach()
    wanted = list(model.potentials.parameters())
    slopes = [
        torch.autograd.grad(rollout(model.potentials, chi, first, times, backend).sum(), wanted)
        for backend in ("fast", "reference")
    ]
    for one, other in zip(*slopes, strict=True):
        assert (one - other).norm() <= 1e-10 * other.norm().clamp_min(1e-6)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 140), st.integers(1, 3)),
    energy=st.tuples(width, width),
    power=st.tuples(width, width),
    window=st.sampled_from((1, 7, 30)),
    seed=st.integers(0, 1000),
)
def test_the_traps_gradients_are_those_of_the_reference(
    sizes: tuple[int, int, int],
    energy: tuple[int, int],
    power: tuple[int, int],
    window: int,
    seed: int,
) -> None:
    replicas, trajectories, internal = sizes
    law = Potentials(generators(range(replicas)), energy, power, internal)
    law.set_scales((1.5, 0.8), 2.0, 0.7)
    rng = torch.Generator().manual_seed(seed)
    draw = {"generator": rng, "dtype": torch.float64}
    chi = torch.randn(trajectories, window + 1, **draw)  # type: ignore[call-overload]
    first = torch.randn(replicas, trajectories, internal, **draw)  # type: ignore[call-overload]
    times = torch.rand(window + 1, **draw).cumsum(0) / 50  # type: ignore[call-overload]
    bar = torch.randn(replicas, trajectories, window + 1, internal, **draw)  # type: ignore[call-overload]
    found = {}
    for backend in ("reference", "fast", "single"):
        start = first.clone().requires_grad_()
        path = rollout(law, chi, start, times, backend)
        wanted = [start, *law.parameters()]
        slopes = torch.autograd.grad((path * bar).sum(), wanted, materialize_grads=True)
        found[backend] = [path.detach(), *slopes]
    for backend, allowed in (("fast", 1e-10), ("single", 1e-3)):
        for one, other in zip(found[backend], found["reference"], strict=True):
            assert one.shape == other.shape and one.dtype == torch.float64
            assert (one - other).norm() <= allowed * other.norm().clamp_min(1e-6)


@pytest.mark.parametrize("internal", [0, 1, 2])
@pytest.mark.parametrize("moved", [False, True])
def test_each_trajectory_of_a_chain_has_its_own_clock(internal: int, moved: bool) -> None:
    law = made(2, internal)
    strain, alpha, force, velocity, _ = problem(2, 29, 10, internal, 7, 5)  # more than the lanes
    steps = 0.02 * torch.rand(29, 7, generator=torch.Generator().manual_seed(1)).double()
    inputs = (strain, alpha, force, velocity if moved else None, steps)
    ours, expected = (gradients(law, inputs, backend) for backend in ("fast", "reference"))
    for one, other in zip(ours, expected, strict=True):
        assert (one - other).norm() <= 1e-10 * other.norm().clamp_min(1e-6)
    with torch.no_grad():
        for place in (0, 28):
            some = slice(place, place + 1)
            records = force[some], velocity[some] if moved else None
            alone = chain_rollout(law, strain[some], alpha[:, some], *records, steps[place])
            assert torch.allclose(alone[0][:, 0], ours[0][:, place], rtol=1e-12)
        pulled = [
            chain_rollout(law, strain, alpha, None, velocity, steps, backend)[2]
            for backend in ("fast", "reference")
        ]
    assert (pulled[0] - pulled[1]).norm() <= 1e-10 * pulled[1].norm()


def test_each_trajectory_of_the_trap_has_its_own_clock() -> None:
    law = Potentials(generators([0, 1]), internal=2)
    rng = torch.Generator().manual_seed(0)
    draw = {"generator": rng, "dtype": torch.float64}
    chi, first = torch.randn(140, 8, **draw), torch.randn(2, 140, 2, **draw)  # type: ignore[call-overload]
    times = torch.rand(140, 8, **draw).cumsum(1) / 50  # type: ignore[call-overload]
    found = []
    for backend in ("fast", "reference"):
        start = first.clone().requires_grad_()
        path = rollout(law, chi, start, times, backend)
        total = (path * path.detach().cos()).sum()
        wanted = [start, *law.parameters()]
        found.append([path, *torch.autograd.grad(total, wanted, materialize_grads=True)])
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 1e-10 * other.norm().clamp_min(1e-6)
    alone = rollout(law, chi[:1], first[:, :1], times[0])
    assert torch.allclose(alone[:, 0], found[0][0][:, 0], rtol=1e-12)
    times[1, 3] = times[1, 2]
    with pytest.raises(ValueError, match="^times must increase strictly, but entry 3"):
        rollout(law, chi, first, times)


@pytest.mark.parametrize("window", [1, 30, 300])
@pytest.mark.parametrize("moved", [False, True])
def test_single_precision_agrees_to_its_own(window: int, moved: bool) -> None:
    law, (strain, alpha, force, velocity, steps) = made(2), problem(2, 9, 10, 1, window, 7)
    inputs = (strain, alpha, force, velocity if moved else None, steps)
    ours, expected = (gradients(law, inputs, backend) for backend in ("single", "reference"))
    for one, other in zip(ours, expected, strict=True):
        assert one.dtype == other.dtype == torch.float64
        assert (one - other).norm() <= 1e-4 * other.norm().clamp_min(1e-6)


def test_finite_differences_agree() -> None:
    law, inputs = made(1), problem(1, 2, 4, 1, 5, 3)
    strain, alpha, *rest = inputs

    def total(alpha: Tensor) -> Tensor:
        parts = chain_rollout(law, strain, alpha, *rest)  # type: ignore[arg-type]
        return torch.cat([part.flatten() for part in parts]).square().sum()

    moved = alpha.clone().requires_grad_()
    (slope,) = torch.autograd.grad(total(moved), moved)
    along = torch.randn(alpha.shape, generator=torch.Generator().manual_seed(0), dtype=alpha.dtype)
    h = 1e-5
    measured = (total(alpha + h * along) - total(alpha - h * along)) / (2 * h)
    assert float((slope * along).sum()) == pytest.approx(float(measured.detach()), rel=1e-7)


def test_threads_share_one_seed_and_change_nothing_but_the_rounding() -> None:
    law, inputs = made(1), problem(1, 9, 10, 1, 7, 5)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 20):
            torch.set_num_threads(threads)
            results.append(gradients(law, inputs, "fast"))
    finally:
        torch.set_num_threads(before)
    for one, *others in zip(*results, strict=True):
        for other in others:
            assert (one - other).norm() <= 1e-13 * one.norm()


def test_one_thread_and_two_give_the_same_numbers_where_each_has_seeds() -> None:
    law, inputs = made(2), problem(2, 20, 10, 1, 7, 5)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(gradients(law, inputs, "fast"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_nan_comes_through() -> None:
    """The loss must show it: `train` then names the seed."""
    law, (strain, alpha, *rest) = made(2), problem(2, 2, 3, 1, 2, 0)
    with torch.no_grad():
        next(law.dissipation_network.parameters())[1] = float("nan")
    strains, *_ = chain_rollout(law, strain, alpha, *rest)  # type: ignore[arg-type]
    assert torch.isfinite(strains[0]).all() and torch.isnan(strains[1]).any()


def test_other_depths_go_the_reference_way() -> None:
    law, inputs = made(1, energy=(5,)), problem(1, 2, 3, 1, 2, 0)
    for one, other in zip(*(gradients(law, inputs, b) for b in ("fast", "reference")), strict=True):
        assert torch.equal(one, other)


def test_the_log_says_once_which_engine_runs(caplog: pytest.LogCaptureFixture) -> None:
    _say.cache_clear()
    strain, alpha, force, _, steps = problem(1, 1, 3, 1, 2, 0)
    with caplog.at_level(logging.INFO, "ibvonns"):
        for law in (made(1), made(1, energy=(4, 4, 4)), made(1)):
            for backend in ("fast", "single", "reference"):
                chain_rollout(law, strain, alpha, force, None, steps, backend)
    fast, slow = caplog.records
    assert fast.levelname == "INFO" and "compiled loop" in fast.message
    assert slow.levelname == "WARNING" and "reference engine" in slow.message
