"""Ensembles: what compression keeps, its error bound, coarser grids, parts joined to one, files."""

from math import pi
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import few_of

from ibvonns.ensemble import Density, Ensemble, Samples
from ibvonns.inspection import inspect
from ibvonns.reading import from_arrays, read

TIMES = torch.tensor([0.0, 0.5], dtype=torch.float64)
POSITIONS = st.lists(st.floats(-3, 3), min_size=2, max_size=20)


def ensemble_of(values: list[float]) -> Ensemble:
    """One condition, two times: the values and their negatives."""
    row = torch.tensor(values, dtype=torch.float64)
    return Ensemble(TIMES, torch.stack([row, -row])[None], {"length": torch.zeros(1, 2)})


def grid_of(points: int, low: float = -3.0, high: float = 3.0) -> Tensor:
    """A uniform grid."""
    return torch.linspace(low, high, points, dtype=torch.float64)


@given(POSITIONS, st.integers(2, 60))
def test_compression_keeps_the_mean_and_the_mass(values: list[float], points: int) -> None:
    ensemble, grid = ensemble_of(values), grid_of(points)
    weights = ensemble.density(grid).weights
    assert weights.shape == (1, 2, points)
    assert (weights >= -1e-12).all()
    assert torch.allclose(weights.sum(-1), torch.ones(1, 2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(weights @ grid, ensemble.mean(), rtol=0, atol=1e-12)


@given(POSITIONS, st.integers(2, 60), st.floats(0.1, 6), st.floats(0, 2 * pi))
def test_error_of_an_average_is_within_its_bound(
    values: list[float], points: int, frequency: float, phase: float
) -> None:
    def wave(x: Tensor) -> Tensor:
        return torch.sin(frequency * x + phase)

    ensemble, grid = ensemble_of(values), grid_of(points)
    density = ensemble.density(grid)
    ours = density.expectation(wave(grid)[:, None])[:, 0]
    miss = (ours - wave(ensemble.realisations).mean(-1).flatten()).abs().max()
    assert miss <= density.error_bound(frequency**2) + 1e-12


def test_expectation_takes_each_network_and_feature_for_itself() -> None:
    density = ensemble_of([0.1, 0.7, -2.0]).density(grid_of(9))
    values = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = density.expectation(values)
    expected = torch.einsum("rg,ngf->nrf", density.weights.flatten(0, -2), values)
    assert ours.shape == (4, 2, 5)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-12)


@given(POSITIONS, st.integers(2, 40), st.integers(1, 9))
def test_coarser_density_is_that_of_the_coarse_grid_at_once(values: list[float], points: int, factor: int) -> None:
    fine = grid_of(points)
    found = ensemble_of(values).density(fine).coarser(factor)
    spacing, number = factor * float(fine[1] - fine[0]), len(found.grid)
    assert (number - 1) * factor in range(points - 1, points + factor - 1)  # just spans the fine one
    coarse = -3 + spacing * torch.arange(number, dtype=torch.float64)
    expected = ensemble_of(values).density(torch.cat([coarse[:-1], coarse[-1:] + 1e-12]))
    assert (found.grid - coarse).abs().max() <= 1e-13
    assert (found.weights - expected.weights).abs().max() <= 1e-10 / spacing
    # and on one that both sides reach bit by bit, to rounding
    fine = torch.arange(-4.0, 4 + 1 / 64, 1 / 64, dtype=torch.float64)
    factor = 2 ** (factor % 4)
    found = ensemble_of(values).density(fine).coarser(factor)
    expected = ensemble_of(values).density(fine[::factor])
    assert torch.equal(found.grid, expected.grid)
    assert (found.weights - expected.weights).abs().max() <= 1e-13


@given(POSITIONS, POSITIONS, st.integers(-70, 70), st.integers(-70, 70))
def test_joined_densities_are_that_of_all_realisations(
    one: list[float], other: list[float], left: int, right: int
) -> None:
    """The second grid is shifted and longer or shorter, as far as its realisations allow."""
    spacing = 0.125
    first = spacing * torch.arange(-24, 25, dtype=torch.float64)
    reach = (min(left - 24, int(min(-abs(v) for v in other) // spacing)),
             max(24 + right, int(max(abs(v) for v in other) // spacing) + 1))  # fmt: skip
    second = spacing * torch.arange(reach[0], reach[1] + 1, dtype=torch.float64)
    densities = ensemble_of(one).density(first), ensemble_of(other).density(second)
    joined = densities[0].joined(densities[1], len(other) / len(one + other))
    expected = ensemble_of(one + other).density(joined.grid)
    assert float(joined.grid[0]) == min(-3.0, float(second[0]))
    assert float(joined.grid[-1]) == max(3.0, float(second[-1]))
    assert (joined.weights - expected.weights).abs().max() <= 1e-13


def test_densities_on_other_grids_are_not_joined() -> None:
    density = ensemble_of([1.0]).density(grid_of(7))
    for grid in (grid_of(8), grid_of(7) + 0.3):
        other = Density(grid, torch.ones(1, 2, len(grid), dtype=torch.float64) / len(grid))
        with pytest.raises(ValueError, match="^grids must have the same spacing and be shifted"):
            density.joined(other, 0.5)


def test_samples_average_select_and_join_like_the_realisations() -> None:
    whole = few_of("plane")
    samples = Samples(whole.realisations[:, :, None])

    def features(x: Tensor) -> Tensor:
        return torch.stack([x.prod(-1), x.square().sum(-1)], -1)[None]

    found = samples.average(features)[0].unflatten(0, (2, 61))
    assert torch.allclose(found, features(whole.realisations)[0].mean(2))
    own = torch.tensor([[3, 0], [60, 5]])

    def two(x: Tensor) -> Tensor:
        return features(x)[0] * torch.tensor([1.0, 2.0], dtype=torch.float64)[:, None, None]

    each = samples.average(two, own).unflatten(1, (2, 2))
    for replica, factor in enumerate((1, 2)):
        assert torch.allclose(each[replica], factor * found[:, own[replica]])
    assert torch.equal(samples.at(slice(3, 5)).positions, samples.positions[:, 3:5])
    assert torch.equal(samples.shifted(torch.tensor([0.5, 0.5])).positions, samples.positions + 0.5)
    assert samples.coarser(4).positions.shape == (2, 61, 1, 15, 2)
    assert torch.equal(samples.joined(samples, 0.5).positions[..., 60:, :], samples.positions)


def test_density_averages_each_replicas_own_times() -> None:
    density = ensemble_of([0.1, 0.7, -2.0]).density(grid_of(9))

    def features(x: Tensor) -> Tensor:
        return torch.stack([x, 2 * x])

    whole = density.average(features)
    for own in ([[1], [0]], [[1, 0, 1], [0, 1, 1]]):  # of its own, and shared
        found = density.average(features, torch.tensor(own))
        assert torch.allclose(found, torch.stack([whole[n, times] for n, times in enumerate(own)]))


@pytest.mark.parametrize("grid", [[1.0], [1.0, 1.0], [1.0, 2.0, 1.0], [0.0, 0.5, 3.0]])
def test_a_grid_is_refused_before_anything_is_written(grid: list[float]) -> None:
    memory = torch.zeros(1, 2, 1, len(grid) + 4, dtype=torch.float64)
    ensemble = Ensemble(TIMES, torch.ones(1, 2, 1, 3, dtype=torch.float64))
    for before in (memory[..., : len(grid)], memory.flatten()[: 2 * len(grid)].view(1, 2, 1, -1)):
        with pytest.raises(ValueError, match="^grid must"):
            ensemble.density(torch.tensor(grid, dtype=torch.float64), before)
        assert not memory.any()


def test_single_precision_can_be_compressed() -> None:
    positions = torch.rand(1, 2, 50, generator=torch.Generator().manual_seed(0))
    density = Ensemble(TIMES, positions).density(torch.linspace(-0.01, 1.01, 256))
    assert density.weights.dtype == torch.float32


def test_standard_error_is_the_deviation_over_the_root_of_the_count() -> None:
    ensemble = ensemble_of([1.0, 2.0, 6.0])
    assert ensemble.mean().tolist() == [[3.0, -3.0]]
    assert ensemble.variance().tolist() == [[7.0, 7.0]]
    assert torch.allclose(ensemble.standard_error() ** 2, ensemble.variance() / 3)


def test_positions_of_several_components_are_averaged_over_the_realisations() -> None:
    whole = few_of("plane")
    assert whole.count == 60
    assert torch.equal(whole.mean(), whole.realisations.mean(2))
    assert torch.equal(whole.variance(), whole.realisations.var(2))


def test_selection_takes_records_along() -> None:
    positions = torch.arange(12, dtype=torch.float64).reshape(3, 2, 2)
    for components in (1, 2):
        whole = Ensemble(
            TIMES,
            positions if components == 1 else torch.stack([positions, positions], -1),
            {"length": positions[..., 0]},
            components,
        )
        some = whole.select(slice(1, 3))
        assert torch.equal(some.realisations, whole.realisations[1:])
        assert torch.equal(some.records["length"], positions[1:, :, 0])
        assert some.components == components
        assert torch.equal(whole.select(torch.tensor([2])).realisations, whole.realisations[2:])


def test_units_are_words_on_what_is_there_and_go_where_it_goes(tmp_path: Path) -> None:
    units = {"positions": "um", "length": "nm"}
    whole = Ensemble(TIMES, torch.zeros(2, 2, 3), {"length": torch.zeros(2, 2)}, units=units)
    units["times"] = "s"  # what is given is copied
    assert whole.units == whole.select(slice(1)).units == {"positions": "um", "length": "nm"}
    whole.save(tmp_path / "own")
    assert Ensemble.load(tmp_path / "own").units == whole.units and ensemble_of([1.0, 2.0]).units == {}


def test_read_only_values_keep_their_precision_and_are_not_written() -> None:
    for kind in (np.float32, np.float64, np.float16, np.int64):
        x = np.arange(12).reshape(1, 2, 6).astype(kind)
        x.flags.writeable = False
        for part in (x, x[..., ::2], x.T[:1].reshape(1, 2, 1)):
            ours = Ensemble(TIMES, part).realisations  # type: ignore[arg-type]
            assert ours.dtype == (torch.float32 if kind == np.float32 else torch.float64)
            assert torch.equal(ours, torch.tensor(part.tolist(), dtype=ours.dtype))
            ours += 1
        assert (x == np.arange(12).reshape(1, 2, 6)).all()


def test_an_ensemble_is_read_and_looked_at_by_its_own_methods(tmp_path: Path) -> None:
    few = few_of("point")
    few.save(path := tmp_path / "own.safetensors")
    arrays = few.realisations[0], few.times
    for ours, theirs in (
        (Ensemble.open(path, length=2.0), read(path, length=2.0)),
        (Ensemble.from_arrays(*arrays, units={"times": "s"}), from_arrays(*arrays, units={"times": "s"})),
    ):
        assert torch.equal(ours.realisations, theirs.realisations) and ours.units == theirs.units
    names = ["pulled_length"], ["external_force"]
    assert str(few.summary(*names, internal=0)) == str(inspect(few, *names, internal=0))


def test_ensembles_are_told_apart_as_tensors_are_and_shown_in_a_line() -> None:
    one, other = few_of("point"), few_of("point").select(slice(None))
    assert one != other and one == one and len({one, other, one}) == 2
    assert repr(one) == ("<Ensemble of 200 realisations, shape (2, 301, 200), records: external_force, pulled_length>")
    assert "60 realisations" in repr(few_of("plane"))


# --- files -----------------------------------------------------------------------------------


@given(values=POSITIONS, components=st.sampled_from([1, 2]))
def test_what_is_saved_is_loaded_bit_by_bit(
    values: list[float], components: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("round") / "deep" / "ensemble.safetensors"
    ensemble = ensemble_of(values)
    if components == 2:
        twice = torch.stack([ensemble.realisations, ensemble.realisations + 1], -1)
        ensemble = Ensemble(TIMES, twice, ensemble.records, 2)
    ensemble.save(path)
    again = Ensemble.load(path)
    assert torch.equal(again.times, ensemble.times) and again.components == components
    assert torch.equal(again.realisations, ensemble.realisations)
    assert again.records.keys() == ensemble.records.keys()
    assert torch.equal(again.records["length"], ensemble.records["length"])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
