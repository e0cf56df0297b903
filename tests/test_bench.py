"""The benchmarks run, and every peer computes what is measured."""

import importlib
import json
from pathlib import Path
from typing import Any

import engines
import numpy as np
import parts
import pytest
import torch

from ibvonns.adjoint import LOOPS, fused_weights
from ibvonns.law import Law
from ibvonns.observations import observe
from ibvonns.reading import read_parts
from ibvonns.rollout import rollout


def test_floor_is_below_what_is_measured() -> None:
    fast = engines.gradient_work("chain", "single", steps=20)
    fast()
    assert 0 < engines.floor_seconds("chain", 20) < engines.floor_seconds("chain", 300)


def test_parts_of_a_gradient_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "STEPS", 2)
    found = parts.profile("trap")
    assert len(found) == 6 and min(found["products"], found["activations"], found["arithmetic alone"]) > 0
    assert LOOPS[Law].roll.__name__ == "_roll"  # what was timed is as it was


def test_block_for_a_gpu_runs_on_any_device() -> None:
    rows = engines.gpu_rows(1, "cpu", steps=2)
    assert [row["seeds"] for row in rows] == [1, 8, 64]
    assert torch.cuda.is_available() or engines.gpu_rows(1) == []


def test_an_ensemble_from_a_large_file_is_the_trap_it_was_made_of(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    large = importlib.import_module("large")
    count = large.make(path := tmp_path / "own.h5", 0.02)
    blocks = read_parts(path, size=2**20, records=["centre", "force"], axes="conditions times realisations")
    seen = observe(blocks, "centre", "force")
    assert seen.count == count == 2 * large.BLOCK and len(seen.blocks["mean"]) > 2
    # <x> relaxes to the centre by its rate: m' = rate (c - m), where the force is rate (c - m)
    stiff = seen.force[..., 0] - large.RATE * (seen.field[..., 0, 0] - seen.mean[..., 0, 0])  # type: ignore[index]
    assert stiff.abs().max() < 6 * large.RATE * large.DEVIATION / count**0.5
    assert (seen.variance / large.DEVIATION**2 - 1).abs().max() < 6 * (2 / count) ** 0.5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux")
def test_peak_memory_is_that_of_the_run() -> None:
    assert 60 < engines._peak_memory(lambda: torch.ones(8 * 1024**2, dtype=torch.float64)) < 80
    assert engines._peak_memory(lambda: None) < 10


@pytest.mark.parametrize("solver", ["scan", "diffrax"])
@pytest.mark.parametrize("system", engines.SYSTEMS)
def test_jax_computes_the_same_gradient(system: str, solver: str) -> None:
    pytest.importorskip("jax" if solver == "scan" else solver)
    found: Any = engines.jax_work(system, torch.float64, 5, solver)()
    law = engines._law(system)
    start, lengths, given = engines._inputs(system, steps=5)
    assert [part.shape for part in found] == [part[0].shape for part in fused_weights(law)]
    states, _ = rollout(law, start, lengths, given.get("field"), given.get("force"))
    first = next(law.energy_network.parameters())
    (slope,) = torch.autograd.grad(law.scaled(states).square().sum(), first)
    ours = slope[0].numpy()
    assert np.abs(np.asarray(found[0]) - ours).max() < 1e-10 * np.abs(ours).max()


@pytest.mark.parametrize("system", engines.SYSTEMS)
def test_torchdiffeq_computes_the_same_gradient(system: str) -> None:
    pytest.importorskip("torchdiffeq")
    found: Any = engines.torchdiffeq_work(system, 5)()
    ours: Any = engines.gradient_work(system, "fast", steps=5)()
    for one, other in zip(found, ours, strict=True):
        assert float((one - other).abs().max()) <= 1e-10 * float(other.abs().max())


def test_command_prints_tables_or_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"system": "chain", "engine": "fast", "threads": 1, "seconds": 0.1, "ratio": 0.05}
    found = {
        "machine": {"python": "3", "torch": "2"},
        "gradient": [{**row, "first": 1.0}, {"system": "chain", "engine": "JAX", "missing": "No module named 'jax'"}],
        "gpu": [{"device": "a GPU", "engine": "reference", "seeds": 8, "seconds": 0.01}],
        "growth": [{"of": "springs", "number": 10, "seconds": 0.01}],
        "simulation": [{"engine": "ibvonns", "particle_steps_per_second": 1e7, "ratio": 9.0}],
        "lattice": [{"engine": "64 in a word", "tries_per_second": 4e9, "ratio": 90.0}],
    }
    monkeypatch.setattr(engines, "bench", lambda repeats: found)
    engines.main(["--json", "--repeats", "1"])
    assert json.loads(capsys.readouterr().out) == found
    engines.main([])
    shown = capsys.readouterr().out
    assert "No module" in shown and "a GPU" in shown


def test_no_repeat_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats must be"):
        engines.bench(repeats=0)
