"""Ensembles: what compression keeps, its error bound, and files that are whole or not there."""

from math import pi
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ibvonns import ensemble as module
from ibvonns.ensemble import Ensemble, load_tensors, save_tensors

TIMES = torch.tensor([0.0, 0.5], dtype=torch.float64)
POSITIONS = st.lists(st.floats(-3, 3), min_size=2, max_size=20)


def ensemble_of(values: list[float]) -> Ensemble:
    """One condition, two times: the values and their negatives."""
    row = torch.tensor(values, dtype=torch.float64)
    return Ensemble(TIMES, torch.stack([row, -row])[None], {"length": torch.zeros(1, 2)})


@given(POSITIONS, st.integers(2, 60))
def test_compression_keeps_the_mean_and_the_mass(values: list[float], points: int) -> None:
    grid = torch.linspace(-3, 3, points, dtype=torch.float64)
    ensemble = ensemble_of(values)
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

    grid = torch.linspace(-3, 3, points, dtype=torch.float64)
    ensemble = ensemble_of(values)
    density = ensemble.density(grid)
    ours = density.expectation(wave(grid)[:, None])[:, 0]
    miss = (ours - wave(ensemble.realisations).mean(-1).flatten()).abs().max()
    assert miss <= density.error_bound(frequency**2) + 1e-12


def test_expectation_takes_each_network_and_feature_for_itself() -> None:
    density = ensemble_of([0.1, 0.7, -2.0]).density(torch.linspace(-3, 3, 9, dtype=torch.float64))
    values = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = density.expectation(values)
    expected = torch.einsum("rg,ngf->nrf", density.weights.flatten(0, -2), values)
    assert ours.shape == (4, 2, 5)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-12)


def test_single_precision_can_be_compressed() -> None:
    positions = torch.rand(1, 2, 50, generator=torch.Generator().manual_seed(0))
    density = Ensemble(TIMES, positions).density(torch.linspace(-0.01, 1.01, 256))
    assert density.weights.dtype == torch.float32


def test_standard_error_is_the_deviation_over_the_root_of_the_count() -> None:
    ensemble = ensemble_of([1.0, 2.0, 6.0])
    assert ensemble.mean().tolist() == [[3.0, -3.0]]
    assert ensemble.variance().tolist() == [[7.0, 7.0]]
    assert torch.allclose(ensemble.standard_error() ** 2, ensemble.variance() / 3)


def test_selection_takes_records_along() -> None:
    positions = torch.arange(12, dtype=torch.float64).reshape(3, 2, 2)
    whole = Ensemble(TIMES, positions, {"length": positions[..., 0]})
    some = whole.select(slice(1, 3))
    assert torch.equal(some.realisations, positions[1:])
    assert torch.equal(some.records["length"], positions[1:, :, 0])
    assert torch.equal(whole.select(torch.tensor([2])).realisations, positions[2:])


# --- files -----------------------------------------------------------------------------------


@given(values=POSITIONS)
def test_what_is_saved_is_loaded_bit_by_bit(
    values: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("round") / "deep" / "ensemble.safetensors"
    ensemble = ensemble_of(values)
    ensemble.save(path)
    again = Ensemble.load(path)
    assert torch.equal(again.times, ensemble.times)
    assert torch.equal(again.realisations, ensemble.realisations)
    assert again.records.keys() == ensemble.records.keys()
    assert torch.equal(again.records["length"], ensemble.records["length"])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    save_tensors(tmp_path / "shared", {"base": base, "view": base[2:4], "row": base[None]})
    tensors, metadata = load_tensors(tmp_path / "shared")
    assert metadata == {}
    assert tensors["view"].tolist() == [2.0, 3.0] and tensors["row"].shape == (1, 6)


def test_reader_of_the_old_file_is_not_disturbed_by_a_new_one(tmp_path: Path) -> None:
    """The new file takes the old one's name; it is not written into the old one."""
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"x": torch.zeros(3)})
    whole = path.read_bytes()
    with path.open("rb") as reader:
        save_tensors(path, {"x": torch.ones(5)})
        assert reader.read() == whole
    assert load_tensors(path)[0]["x"].tolist() == [1.0] * 5


def test_failing_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "numbers"
    save_tensors(path, {"x": torch.ones(3)})
    before = path.read_bytes()

    def fail(_: object, draft: str, __: object) -> None:
        Path(draft).write_bytes(before[:20])
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_tensors(path, {"x": torch.zeros(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "longer", "half header"])
def test_damaged_file_is_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ensemble.safetensors"
    ensemble_of([1.0, 2.0]).save(path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "garbage": b"not a file of tensors " * 20,
            "truncated": whole[:-7],
            "longer": whole + b"more",
            "half header": whole[:30],
        }[damage]
    )
    with pytest.raises(
        ValueError, match="^path must name a whole safetensors file, but .* damaged"
    ):
        Ensemble.load(path)
