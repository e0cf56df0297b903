"""Compiled loops: the same bits whoever compiled, and a result where nothing can be kept."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import _CacheLocator

import ibvonns
from ibvonns import compiled as module
from ibvonns.compiled import compiled

ROOT = Path(ibvonns.__file__).parents[1]
LOOP = """
import sys
import numpy as np
from numba import njit
from ibvonns.compiled import compiled

@njit(fastmath=True)
def inner(x):
    total = x.dtype.type(0)
    for value in x:
        total += value
    return total

@compiled(fastmath=True)
def total(x):
    return inner(x) + inner(x[1:])

for kind in sys.argv[1:]:
    print(repr(float(total((np.arange(1000) ** 0.5).astype(kind)))))
"""
GRADIENT = """
import hashlib, sys, torch
from ibvonns import Law, layouts, rollout
from ibvonns.networks import generators
law, rng = Law(generators(range(2)), layouts.Row()), torch.Generator().manual_seed(0)
start, force = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((2, 20, 10, 2), (20, 6)))
path, ends = rollout(law, start, torch.full((6,), 0.01, dtype=torch.float64), force=force)
(path.square().sum() + ends.square().sum()).backward()
parts = [path, ends, *(weight.grad for weight in law.parameters())]
print(hashlib.sha256(b"".join(part.detach().numpy().tobytes() for part in parts)).hexdigest())
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program in a process of its own, in a folder where the loop lies and may be kept."""
    (tmp_path / "loop.py").write_text(LOOP, encoding="utf-8")

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
        known = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}
        command = [sys.executable, "-W", "ignore", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=inherited | known | environment, capture_output=True, text=True, check=False
        )

    return run


def kept(folder: Path, kind: str) -> list[Path]:
    """Files of Numba's cache."""
    return sorted(folder.glob(f"**/loop.total*.{kind}"))


def test_who_compiles_and_who_loads_train_to_the_same_bits(run: Run, tmp_path: Path) -> None:
    """Otherwise a run that is interrupted goes on to other digits than it would have had."""
    both = [run("-c", GRADIENT, NUMBA_CACHE_DIR=str(tmp_path / "numba")) for _ in range(2)]
    assert both[0].stdout == both[1].stdout and len(both[0].stdout) == 65, both[0].stderr


def test_a_damaged_loop_is_compiled_anew_and_said(run: Run, tmp_path: Path) -> None:
    right = run("loop.py", "f8").stdout
    assert float(right) == pytest.approx(2 * np.sqrt(np.arange(1000)).sum())
    for kind in ("nbi", "nbc"):
        for damage in (b"", b"\x80\x04not a pickle", None):
            (file,) = kept(tmp_path, kind)
            file.write_bytes(file.read_bytes()[:40] if damage is None else damage)
            again = run("loop.py", "f8")
            assert again.stdout == right and "damaged" in again.stderr, again.stderr
            assert run("loop.py", "f8").stderr == ""  # it has been mended


def test_a_loop_is_compiled_anew_where_what_it_calls_has_changed(run: Run, tmp_path: Path) -> None:
    calls = "from ibvonns.compiled import compiled\nfrom other import one\n@compiled()\ndef two(x): return 2 * one(x)\n"
    (tmp_path / "calls.py").write_text(calls)
    show = "import sys; sys.path.insert(0, '.'); import calls; print(calls.two(1))"
    for factor in (3, 5):
        other = f"from numba import njit\n@njit\ndef one(x): return {factor} * x\n"
        (tmp_path / "other.py").write_text(other + factor * "#")  # of another length: Python's own cache tells by it
        assert run("-c", show).stdout == f"{2 * factor}\n"


def test_processes_that_compile_at_once_all_keep_what_they_compiled(run: Run, tmp_path: Path) -> None:
    kinds = ("f8", "f4", "i8", "i4")
    code = "import sys; sys.path.insert(0, '.'); import loop"
    inherited = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    many = [subprocess.Popen([sys.executable, "-c", code, kind], cwd=tmp_path, env=inherited) for kind in kinds]
    assert [process.wait() for process in many] == [0] * 4
    assert len(kept(tmp_path, "nbc")) == 4
    before = {file: file.stat().st_mtime_ns for file in kept(tmp_path, "nbc")}
    again = run("-c", code, *kinds)
    assert again.stderr == "" and len(again.stdout.split()) == 4
    assert {file: file.stat().st_mtime_ns for file in kept(tmp_path, "nbc")} == before


@pytest.mark.parametrize("temporary", [True, False])
def test_where_nothing_can_be_kept_a_loop_is_compiled_for_the_process(
    temporary: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(locator: _CacheLocator) -> None:
        if not (temporary and module.config.CACHE_DIR and locator.get_cache_path().startswith(module.config.CACHE_DIR)):
            raise OSError(30, "Read-only file system")
        os.makedirs(locator.get_cache_path(), exist_ok=True)

    monkeypatch.setattr(_CacheLocator, "ensure_cache_path", refuse)
    monkeypatch.setattr(module, "_say", logging.getLogger("ibvonns").warning)

    def triple(x: float) -> float:
        return 3 * x

    loop = compiled()(triple)
    assert caplog.messages == []  # nothing is compiled yet
    assert loop(2.0) == 6.0 and "set NUMBA_CACHE_DIR" in caplog.text


def test_the_command_needs_no_home(run: Run, tmp_path: Path) -> None:
    """`env -i`, as in some containers."""
    command = ["env", "-i", sys.executable, "-W", "ignore", "-m", "ibvonns.paper.cli", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == ibvonns.__version__, done.stderr


TRAINED = """
import torch
from ibvonns import Architecture, Model, Phase, Recipe, Stage, layouts, observe, train
from ibvonns.systems.trap import Trap
torch.set_num_threads(1)
data = observe(Trap().simulate_paper(velocities=(0.5, 1.0), realisations=10), "pulled_length", points=33)
model = Model([0], Architecture(layouts.Point(), decoder="flow"))
stage = Stage((Phase(0, 2), Phase(1, 2, 2)), {"density": 1.0, "internal": 1.0, "end": 100.0})
print(float(train(model, data, Recipe((stage,), coarse=1))["density"][0]))
"""


@pytest.mark.parametrize("variable", ["NUMBA_DISABLE_JIT", "NUMBA_NUM_THREADS"])
def test_numbas_switches_give_the_same_result(run: Run, variable: str) -> None:
    plain, other = run("-c", TRAINED), run("-c", TRAINED, **{variable: "1"})
    assert float(other.stdout) == pytest.approx(float(plain.stdout), rel=1e-9), other.stderr
    assert ("plain Python" in other.stderr) == (variable == "NUMBA_DISABLE_JIT")
