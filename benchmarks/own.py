"""How well laws of foreign data are learned: the sets of `tests/foreign.py`, by the calls of a user.

    python benchmarks/own.py bead uneven double_well breathing plane turned chain unequal forced

Each is learned by three seeds from one draw and asked about protocols of another, from equilibrium; a chain from the
particles at its first time. Errors are against what is exact where it is known, else against as large a sample.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ibvonns
from ibvonns.learning import Learned

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import foreign  # noqa: E402

__all__ = ["CONTROLS", "foreign", "read"]  # for other benchmarks
SEEDS = 3
ANGLE = 0.7
CONTROLS = {
    "bead": (["lambda"], ["F"]),
    "double_well": (["lambda"], ["F"]),
    "breathing": (["centre", "stiffness"], ["F_centre", "F_stiffness"]),
    "plane": (["cx", "cy"], ["Fx", "Fy"]),
    "chain": ((), ["external_force"]),
}
#: By name the generator, what it is given, and what `fit` is.
SETS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "bead": ("bead", {}, {}),
    "uneven": ("bead", {"uneven": True}, {}),
    "double_well": ("double_well", {}, {"internal": "auto"}),
    "breathing": ("breathing", {}, {"internal": 2}),
    "plane": ("plane", {}, {"internal": 2}),
    "turned": ("plane", {"angle": ANGLE}, {"internal": 2}),
    "chain": ("chain", {}, {}),
    "unequal": ("chain", {"unequal": True}, {}),
    "forced": ("chain", {"drive": "force"}, {}),
}


def read(data: foreign.Set) -> ibvonns.Ensemble:
    """As a user reads it."""
    return ibvonns.from_arrays(data.positions, data.times, data.records, axes=data.axes)


def learned(name: str) -> tuple[Learned, foreign.Set]:
    """A law of one draw, and another draw."""
    kind, given, how = SETS[name]
    train, test = (getattr(foreign, kind)(seed, **given) for seed in (0, 1))
    controls, forces = CONTROLS[kind]
    if kind == "chain":
        sites = {key: np.asarray(value) for key, value in train.sites.items()}
        how = {**how, "layout": ibvonns.layouts.Row(len(sites)), "spacing": 0.02, "parameters": sites or None}
    return ibvonns.fit(read(train), controls=controls, forces=forces, seeds=SEEDS, **how), test


def relative(found: torch.Tensor, truth: Any) -> list[float]:
    """Percent, of each seed."""
    aim = torch.as_tensor(truth)
    return [100 * float((each - aim).norm() / aim.norm()) for each in found]


def measured(name: str) -> None:
    """Print errors of a set beside the noise of its records."""
    start = time.perf_counter()
    law, test = learned(name)
    seconds = time.perf_counter() - start
    kind = SETS[name][0]
    controls, forces = CONTROLS[kind]
    told = [f"{seconds:.0f} s, {law.model.architecture.internal} internal, {law.model.architecture.decoder}"]
    if kind == "chain":
        sites = {key: np.asarray(value) for key, value in test.sites.items()}
        seen = ibvonns.observe(read(test), spacing=0.02, parameters=sites or None)
        given = "force" if name == "forced" else "velocity"
        run = law.model.predict(seen, given)
        assert run.force is not None and run.velocity is not None and seen.force is not None
        noise = 100 * float(seen.standard_error().norm() / seen.mean.norm())
        told += [show("strain", relative(run.field[..., -1:], seen.field[..., -1:]), noise)]
        if name == "forced":
            told += [show("v_n", relative(run.velocity, seen.velocity), 0.0)]
        else:
            told += [show("F_ex", relative(run.force, seen.force), norm(test, "external_force"))]
    else:
        seen = ibvonns.observe(read(test), controls, forces)
        answer = law.predict(test.times, {key: test.records[key] for key in controls})
        for record in forces:
            truth = test.exact.get(record, test.records[record])
            told += [show(record, relative(torch.as_tensor(answer.force[record].values), truth), norm(test, record))]
        if "work" in test.exact:
            ratio = answer.work.values[..., -1].sum(1) / np.asarray(test.exact["work"])[:, -1].sum()
            told += [f"work {100 * abs(np.median(ratio) - 1):.2f} % off"]
            rate = np.gradient(answer.dissipation.values, test.times, axis=-1)[..., 2:-2]
            exact = np.asarray(test.exact["dissipation"])[:, 2:-2]
            gone = [100 * float(np.linalg.norm(each - exact) / np.linalg.norm(exact)) for each in rate]
            told += [show("dissipation", gone, 0.0)]
            free = np.asarray(test.exact["free_energy"])
            told += [show("f", relative(torch.as_tensor(answer.free_energy.values), free - free[:, :1]), 0.0)]
        told += [f"balance {100 * answer.balance:.2f} %"]
        if "entropy" in test.exact:
            nll = law.model.nll(seen, law.model.encode(seen)).tolist()
            told += [f"{sorted(nll)[len(nll) // 2]:.3f} nats, entropy {np.mean(test.exact['entropy']):.3f}"]
        if law.model.architecture.internal > 1:
            alpha = law.model.encode(law.data).detach().flatten(1, -2)
            told += [f"correlation {max(float(torch.corrcoef(each.T).triu(1).abs().max()) for each in alpha):.3f}"]
    print(f"{name}: {'; '.join(told)}", flush=True)
    for sentence in (*([] if law.choice is None else str(law.choice).splitlines()), *law.unsound):
        print("   ", sentence)


def norm(data: foreign.Set, record: str) -> float:
    """Noise of a record relative to its size, percent."""
    return 100 * float(np.linalg.norm(data.noise[record]) / np.linalg.norm(data.records[record]))


def show(name: str, errors: list[float], noise: float) -> str:
    """Median, worst, and noise if there is any."""
    beside = f" (noise {noise:.2g})" if noise else ""
    return f"{name} {sorted(errors)[len(errors) // 2]:.2f} [{max(errors):.2f}] %{beside}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Laws of foreign data.")
    parser.add_argument("names", nargs="*", choices=[*SETS, []], help="which sets; all if none is named")
    torch.set_num_threads(1)
    for each in parser.parse_args().names or SETS:
        measured(each)
