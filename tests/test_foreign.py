"""The foreign data obey their physics."""

import ast
from math import pi
from pathlib import Path

import foreign
import numpy as np
import pytest
from foreign import Array, Set, bead, breathing, chain, double_well, plane


def far(data: Set, name: str) -> Array:
    """A measured record from the exact one, in standard errors."""
    return np.abs(data.records[name] - data.exact[name]) / data.noise[name]


def balance(data: Set) -> Array:
    """Work less what is stored and what is lost, in shares of the largest work of all."""
    loss, free, work = (data.exact[name] for name in ("dissipation", "free_energy", "work"))
    lost = ((loss[:, 1:] + loss[:, :-1]) / 2 * np.diff(data.times)).cumsum(1)
    return (work[:, 1:] - free[:, 1:] + free[:, :1] - lost) / np.abs(work).max()


def test_no_code_is_shared() -> None:
    tree = ast.parse(Path(foreign.__file__).read_text())
    names = [each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    known = {"collections", "dataclasses", "math", "typing", "numpy", "scipy"}
    assert {name.split(".")[0] for name in names} == known


@pytest.mark.parametrize("uneven", [False, True])
def test_bead_is_the_exact_one_within_its_noise(uneven: bool) -> None:
    data = bead(0, uneven)
    error = np.sqrt(data.temperature / data.constants["stiffness"] / 300)
    assert np.abs(data.mean - data.exact["mean"]).max() < 4 * error
    assert far(data, "F").max() < 4.5
    assert np.abs(balance(data)).max() < 1e-3
    steps = np.diff(data.times)
    low, high = (2, 3) if uneven else (1, 1 + 1e-9)
    assert low <= steps.max() / steps.min() <= high


def test_exact_mean_of_the_bead_relaxes_to_the_centre() -> None:
    data = bead(0, realisations=1)  # its exact mean
    rate = data.constants["stiffness"] / data.constants["friction"]
    centre, mean = data.records["lambda"], data.exact["mean"]
    change = np.gradient(mean, data.times, axis=1)[:, 1:-1]
    expected = (rate * (centre - mean))[:, 1:-1]
    assert np.abs(change - expected).max() < 2e-3 * np.abs(expected).max()


def test_breathing_has_the_exact_moments() -> None:
    data = breathing(0, conditions=20)
    ratio = data.positions.var(2) / data.exact["variance"]
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / 1000)
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert max(far(data, "F_centre").max(), far(data, "F_stiffness").max()) < 5
    assert np.abs(balance(data)).max() < 1e-3


def test_double_well_follows_fokker_and_planck() -> None:
    data = double_well(0, conditions=9)
    assert far(data, "F").max() < 5 and (far(data, "F") ** 2).mean() < 2
    assert np.abs(balance(data)).max() < 1e-3
    # histograms miss the part of the entropy that is inside of a bin
    last = data.positions[:, -1]
    counts = np.stack([np.histogram(row, 40, (-2, 2))[0] for row in last]) / last.shape[1]
    entropy = -(counts * np.log(np.maximum(counts, 1e-300) / 0.1)).sum(1)
    assert np.abs(entropy - data.exact["entropy"][:, -1]).max() < 0.1


def test_double_well_hops_during_the_record() -> None:
    data = double_well(0, realisations=400, conditions=6)
    right = data.positions > 0
    assert (right[:, 0] != right[:, -1]).mean() > 0.2


@pytest.mark.parametrize("unequal", [False, True])
def test_chain_is_as_long_as_it_is_pulled(unequal: bool) -> None:
    data = chain(0, unequal=unequal, realisations=100, conditions=4)
    natural, springs = data.constants["natural_length"], data.positions.shape[2]
    total = natural * (springs + data.positions.sum(2))
    assert np.abs(total - data.records["length"][..., None]).max() < 1e-12
    moved = (data.records["velocity"][:, 1:] * np.diff(data.times)).sum(1)
    assert moved == pytest.approx(np.diff(data.records["length"][:, [0, -1]])[:, 0], abs=1e-12)
    assert list(data.sites) == ["stiffness"] * unequal


@pytest.mark.parametrize("unequal", [False, True])
def test_chain_starts_in_equilibrium(unequal: bool) -> None:
    data = chain(1, unequal=unequal, realisations=4000, conditions=5, frames=2)
    strain, well = data.positions[:, 0], data.constants["well_strain"]
    factors = data.sites.get("stiffness", np.ones(strain.shape[1]))
    pulls = (strain - well * (strain > well / 2)) * factors[:, None]
    error = pulls.std(-1) / np.sqrt(pulls.shape[-1])
    assert (np.abs(pulls.mean(-1) - pulls.mean((1, 2))[:, None]) / error).max() < 4.5  # no spring pulls more


def test_chain_under_a_force_moves_as_its_friction_lets_it() -> None:
    data = chain(0, "force", realisations=200, conditions=4)
    last = data.positions[:, :, -1]
    pull = (data.constants["stiffness"] * (last - data.constants["well_strain"] * (last > 0.8))).mean(-1)
    drag = data.records["external_force"] - pull
    middle = (drag[:, 1:] + drag[:, :-1]) / 2  # of a step, as the velocity is
    given = data.constants["viscosity"] * data.records["velocity"][:, 1:]
    assert np.sqrt(((middle - given) ** 2).mean()) < 0.1 * np.sqrt((given**2).mean())
    assert np.array_equal(data.records["external_force"], data.exact["external_force"])


def test_plane_turns_as_a_whole() -> None:
    straight, turned = (plane(0, 100, 6, angle=angle) for angle in (0.0, pi / 5))
    turn = np.array([[np.cos(pi / 5), -np.sin(pi / 5)], [np.sin(pi / 5), np.cos(pi / 5)]])
    for pair in (("cx", "cy"), ("Fx", "Fy")):
        old, new = (np.stack([data.records[name] for name in pair], -1) for data in (straight, turned))
        assert new == pytest.approx(old @ turn.T, abs=1e-12)
    assert turned.positions == pytest.approx(straight.positions @ turn.T, abs=1e-12)
    # and its forces are those of its own positions
    lag = np.stack([turned.records[name] for name in ("cx", "cy")], -1)[:, :, None] - turned.positions
    force = (lag * (1 + (lag**2).sum(-1, keepdims=True))).mean(2)
    assert np.stack([turned.records["Fx"], turned.records["Fy"]], -1) == pytest.approx(force, abs=1e-12)


def test_plane_moves_by_its_mean_force() -> None:
    data = plane(0, conditions=12)
    drift = np.stack([data.records[name] for name in ("Fx", "Fy")], -1)
    moved = ((drift[:, 1:] + drift[:, :-1]) / 2 * np.diff(data.times)[:, None]).sum(1)
    error = np.sqrt(2 * data.times[-1] / data.positions.shape[2])
    assert np.abs(data.mean[:, -1] - data.mean[:, 0] - moved).max() < 4 * error


def test_a_large_sample_is_the_truth_on_the_same_conditions() -> None:
    few, many = plane(0, 200, 3), plane(0, 5000, 3, keep=1)
    assert np.array_equal(few.records["cx"], many.records["cx"]) and many.positions.shape[2] == 1
    assert np.abs((few.records["Fx"] - many.records["Fx"]) / few.noise["Fx"]).max() < 5
