"""The benchmarks run, and every peer computes what is measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ibvonns import bench
from ibvonns.adjoint import fused_weights
from ibvonns.cli import app
from ibvonns.rollout import chain_rollout, rollout


def test_floor_is_below_what_is_measured() -> None:
    fast = bench.gradient_work("chain", "single", steps=20)
    fast()
    assert 0 < bench.floor_seconds("chain", 20) < bench.floor_seconds("chain", 300)


def test_block_for_a_gpu_runs_on_any_device() -> None:
    rows = bench.gpu_rows(1, "cpu", steps=2)
    assert [row["seeds"] for row in rows] == [1, 8, 64]
    assert torch.cuda.is_available() or bench.gpu_rows(1) == []


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux")
def test_peak_memory_is_that_of_the_run() -> None:
    assert 60 < bench._peak_memory(lambda: torch.ones(8 * 1024**2, dtype=torch.float64)) < 80
    assert bench._peak_memory(lambda: None) < 10


@pytest.mark.parametrize("system", ["chain", "trap"])
def test_jax_scan_computes_the_same_gradient(system: str) -> None:
    pytest.importorskip("jax")
    found: Any = np.asarray(bench.jax_work(system, torch.float64, 5)())
    law: Any = bench._law(system)
    inputs = bench._inputs(system, 10, 5, 1, torch.float64)
    assert found.shape == fused_weights(law)[1][0].shape
    mean, deviation = law.strain_scale if system == "chain" else (0.0, 1.0)
    if system == "chain":
        strain, alpha, force, lengths = inputs
        paths = chain_rollout(law, strain, alpha, force, None, lengths, "fast")
        loss = ((paths[0] - mean) / deviation).square().sum() + paths[1].square().sum()
    else:
        chi, first, times = inputs
        loss = rollout(law, chi, first, times, "fast")[:, :, 1:].square().sum()
    weights = [law.energy_network.layers[0].weight]
    (slope,) = torch.autograd.grad(loss, weights)
    ours = slope.flatten().numpy()
    assert np.abs(found[: ours.size] - ours).max() < 1e-10 * np.abs(ours).max()


def test_command_prints_tables_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"system": "chain", "engine": "fast", "threads": 1, "seconds": 0.1, "ratio": 0.05}
    found = {
        "machine": {"python": "3", "torch": "2"},
        "gradient": [
            {**row, "first": 1.0},
            {"system": "chain", "engine": "JAX", "missing": "No module named 'jax'"},
        ],
        "gpu": [{"device": "a GPU", "engine": "reference", "seeds": 8, "seconds": 0.01}],
        "growth": [{"of": "springs", "number": 10, "seconds": 0.01}],
        "simulation": [{"engine": "ibvonns", "particle_steps_per_second": 1e7}],
    }
    monkeypatch.setattr(bench, "bench", lambda repeats: found)
    text = CliRunner().invoke(app, ["bench", "--json", "--repeats", "1"])
    assert text.exit_code == 0 and json.loads(text.output) == found
    shown = CliRunner().invoke(app, ["bench"])
    assert shown.exit_code == 0 and "No module" in shown.output and "a GPU" in shown.output
