"""What the engines cost, as ratios to the reference measured in the same process.

`python benchmarks/engines.py` prints tables, with `--json` all measurements, and takes `--repeats N`,
runs of each measurement, of which the shortest counts. The work is that of one training step's heart:
the rollout of a law over 300 Euler steps and the gradient of the sum of its squares by every weight.
Peers are taken where the optional extra `bench` is installed. Random weights do: no branch depends on
them.
"""

import argparse
import ctypes
import gc
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numba import njit
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ibvonns.adjoint import fused_weights, views
from ibvonns.law import Law
from ibvonns.layouts import Point, Row
from ibvonns.networks import generators
from ibvonns.rollout import rollout
from ibvonns.systems.chain import Chain
from ibvonns.systems.lattice import Lattice
from ibvonns.systems.noise import TOGETHER, WIDTH, normals
from ibvonns.validation import count

__all__ = ["bench", "main", "tables"]

Work = Callable[[], object]
EIGHT = "fast, float32, each of 8 seeds"
STEP = 0.01  # of time, as in the paper's protocols
#: Of each system: layout, spacing, and the scales of a law: mean and deviation of the field, energy and rate.
SYSTEMS: dict[str, Any] = {
    "trap": (Point(), 1.0, (1.0, 0.5), 1.0, 1.0),
    "chain": (Row(), 0.01, (1.2, 0.6), 0.006 * 0.6 * 0.01, 0.02),
}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _law(system: str, seeds: int = 1, dtype: torch.dtype = torch.float64) -> Law:
    layout, spacing, field, energy, rate = SYSTEMS[system]
    law = Law(generators(range(seeds)), layout, spacing)
    law.set_scales(torch.tensor(field, dtype=torch.float64)[:, None], energy, rate)
    return law.to(dtype)


def _inputs(
    system: str, sites: int = 10, steps: int = 300, seeds: int = 1, dtype: torch.dtype = torch.float64, pulls: int = 9
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """First states, steps, and what is given at each of them: 11 pulls of the trap, or so many of the chain."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

    lengths = torch.full((steps,), STEP, dtype=dtype)
    if system == "trap":
        field = 1 + 0.3 * draw(11, steps, 1)
        first, given = field[:, :1], {"field": field}
    else:
        given = {"force": 0.006 * draw(pulls, steps)}
        first = 1 + 0.3 * draw(pulls, sites, 1)
    alpha = draw(seeds, *first.shape)
    return torch.cat([first.expand_as(alpha), alpha], -1), lengths, given


def _step(law: Law, z: Tensor, given: dict[str, Tensor], n: int) -> Tensor:
    """dz/dt at step n, by the reference; the controls of a point do not change by it."""
    if "field" in given:
        z = torch.cat([given["field"][:, n, None].expand_as(z[..., :1]), z[..., 1:]], -1)
        return law.step(z)[0]
    return law.step(z, given["force"][:, n])[0]


def _gradient(loss: Tensor, law: Law) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(law.parameters()), materialize_grads=True))


def gradient_work(
    system: str,
    backend: str,
    sites: int = 10,
    steps: int = 300,
    seeds: int = 1,
    dtype: torch.dtype = torch.float64,
    pulls: int = 9,
    device: str = "cpu",
) -> Work:
    """One full gradient by one of our engines."""
    law = _law(system, seeds, dtype).to(device)
    start, lengths, given = _inputs(system, sites, steps, seeds, dtype, pulls)
    start, lengths = start.to(device), lengths.to(device)
    known: dict[str, Any] = {name: part.to(device) for name, part in given.items()}
    return lambda: _gradient(rollout(law, start, lengths, **known, backend=backend)[0].square().sum(), law)


def _right_hand_side(np: Any, law: Law) -> tuple[Any, Callable[..., Any]]:
    """The law in JAX: its weights, and the rates of scaled states (trajectories, sites, width)."""
    import jax

    softplus, sigmoid = jax.nn.softplus, jax.nn.sigmoid
    weights = [np.asarray(part[0].detach().numpy()) for part in fused_weights(law)]
    driven = law.layout.driven

    def convex(net: Any, free: Any, g: Any) -> Any:
        drive1, mix1, drive2, mix2 = net
        scale1, scale2, shift1, shift2, gate1, gate2 = free
        u1 = (g * scale1) @ drive1 + shift1
        t2 = sigmoid((g * scale2) @ drive2 + shift2 + (softplus(u1) * gate1) @ mix1)
        e2 = mix2 * gate2 * t2
        e1 = (e2 @ mix1.T) * gate1 * sigmoid(u1)
        return (e1 @ drive1.T) * scale1 + (e2 @ drive2.T) * scale2

    def rate(weights: Any, state: Any, given: Any) -> Any:
        (w1, w2, _, w3), (b1, b2), net, path, mobility, *_ = views(weights)
        p1 = state @ w1 + b1
        p2 = softplus(p1) @ w2 + b2
        slope = (((w3 * sigmoid(p2)) @ w2.T) * sigmoid(p1)) @ w1.T
        z = state[..., len(w1) - len(path[0]) :]
        g = -slope[..., len(w1) - len(mobility) :]
        if driven:
            g = g.at[..., 0].add(np.concatenate([slope[:, 1:, 0], given[:, None]], 1))
        (m1, m2), c = net[1].shape, len(net[0])
        free1, scale1, shift1 = np.split(z @ path[0] + path[1], [m1, m1 + c], -1)
        cuts = [m1, m1 + m2, m1 + m2 + c]
        gate1, free2, scale2, shift2 = np.split(softplus(free1) @ path[2] + path[3], cuts, -1)
        gate2 = softplus(softplus(free2) @ path[4] + path[5])
        free = (scale1, scale2, shift1, shift2, softplus(gate1), gate2)
        r = convex(net, free, g) - convex(net, free, 0 * g) + mobility * g
        if driven:
            r = r.at[..., 0].set(r[..., 0] - np.pad(r[..., :-1, 0], ((0, 0), (1, 0))))
        return r

    return weights, rate


def jax_work(system: str, dtype: torch.dtype, steps: int = 300, solver: str = "scan") -> Work:
    """The same gradient by a jitted scan in JAX, or by diffrax's Euler method; of scaled states.

    Raises:
        ImportError: JAX or diffrax is not installed.
    """
    import jax
    from jax import numpy as jnp

    jax.config.update("jax_enable_x64", True)
    law, (first, steps_of, given) = _law(system, 1, dtype), _inputs(system, 10, steps, 1, dtype)
    weights, rate = _right_hand_side(jnp, law)
    driven, unit, scaled = law.layout.driven, float(law.clock), law.scaled(first)[0]
    start: Any = scaled if driven else scaled[..., 1:]  # of a point alpha alone is a state
    drive: Any = given["force"] / law.force if driven else ((given["field"] - law.field[0]) / law.field[1])[..., 0]
    start, drive, lengths = (jnp.asarray(part.numpy()) for part in (start, drive.T, steps_of))

    def field(weights: Any, state: Any, now: Any) -> Any:
        whole = state if driven else jnp.concatenate([now[:, None, None], state], -1)
        return unit * rate(weights, whole, now)

    if solver == "scan":

        def path(weights: Any) -> Any:
            def step(state: Any, here: Any) -> tuple[Any, Any]:
                new = state + here[0] * field(weights, state, here[1])
                return new, new

            return jax.lax.scan(step, start, (lengths, drive))[1]

    else:
        import diffrax

        def path(weights: Any) -> Any:
            def vector(t: Any, state: Any, _: Any) -> Any:
                return field(weights, state, drive[jnp.round(t / STEP).astype(int)])

            return diffrax.diffeqsolve(
                diffrax.ODETerm(vector),
                diffrax.Euler(),
                0.0,
                STEP * len(lengths),
                STEP,
                start,
                saveat=diffrax.SaveAt(ts=STEP * (1.0 + jnp.arange(len(lengths)))),
                max_steps=len(lengths) + 2,
            ).ys

    gradient = jax.jit(jax.grad(lambda weights: (path(weights) ** 2).sum()))
    return lambda: jax.block_until_ready(gradient(weights))


def torchdiffeq_work(system: str, steps: int = 300) -> Work:
    """The same gradient by torchdiffeq's Euler method.

    Raises:
        ImportError: torchdiffeq is not installed.
    """
    from torchdiffeq import odeint

    law, (start, lengths, given) = _law(system), _inputs(system, steps=steps)
    times = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])

    def field(t: Tensor, z: Tensor) -> Tensor:
        return _step(law, z, given, round(float(t) / STEP))

    return lambda: _gradient(odeint(field, start, times, method="euler").square().sum(), law)


def compiled_work(steps: int = 300, chunk: int = 10) -> Work:
    """The chain's gradient with torch.compile of so many reference steps at a time."""
    law, (start, _, given) = _law("chain"), _inputs("chain", steps=steps)

    def several(z: Tensor, pulls: Tensor) -> tuple[Tensor, Tensor]:
        loss = z.new_zeros(())
        for n in range(chunk):
            z = z + STEP * _step(law, z, {"force": pulls}, n)
            loss = loss + z.square().sum()
        return z, loss

    fast: Any = torch.compile(several)

    def work() -> list[Tensor]:
        z, total = start, start.new_zeros(())
        for at in range(0, steps, chunk):
            z, loss = fast(z, given["force"][:, at : at + chunk])
            total = total + loss
        return _gradient(total, law)

    return work


def _best(work: Work, repeats: int) -> float:
    """Shortest of several runs, seconds."""
    shortest = math.inf
    for _ in range(repeats):
        begin = perf_counter()
        work()
        shortest = min(shortest, perf_counter() - begin)
    return shortest


def _peak_memory(work: Work) -> float:
    """MiB that a run needs at most beyond what was there before it; NaN where Linux is not.

    Linux forgets a process's peak on request; memory that was freed before is handed back first.
    """
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(name: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])

    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        forget.write_text("5")
        before = read("VmRSS")
        work()
        return (read("VmHWM") - before) / 1024
    except (OSError, AttributeError):
        return math.nan


def floor_seconds(system: str, steps: int = 300) -> float:
    """Arithmetic alone: three times the forward products, at the rate of a large matrix product."""
    law = _law(system, dtype=torch.float32)
    sites = 11 if system == "trap" else 90
    energy, _, power, free, *_ = views([part[0].detach().numpy() for part in fused_weights(law)])
    products = 2 * sum(part.size for part in energy) + sum(part.size for part in free[::2])
    products += 4 * sum(part.size for part in power)  # driven and at rest, there and back
    a = torch.randn(1024, 1024)
    with _threads(1):
        rate = 2 * 1024**3 / _best(lambda: a @ a, 5)
    return 3 * 2 * products * sites * steps / rate


def gradient_rows(repeats: int) -> list[dict[str, Any]]:
    """One row for each system, engine and number of threads: seconds, ratio, MiB."""
    rows: list[dict[str, Any]] = []
    double, single = torch.float64, torch.float32
    for system in ("chain", "trap"):
        works: list[tuple[str, int, Callable[[], Work]]] = [
            ("reference", 1, partial(gradient_work, system, "reference")),
            ("reference, float32", 1, partial(gradient_work, system, "reference", dtype=single)),
            ("fast", 1, partial(gradient_work, system, "fast")),
            ("fast", 2, partial(gradient_work, system, "fast")),
            ("fast, float32", 1, partial(gradient_work, system, "single")),
            ("fast, float32", 2, partial(gradient_work, system, "single")),
            (EIGHT, 1, partial(gradient_work, system, "single", seeds=8)),
            (EIGHT, 2, partial(gradient_work, system, "single", seeds=8)),
            ("JAX, jitted scan", 1, partial(jax_work, system, double)),
            ("JAX, jitted scan, float32", 1, partial(jax_work, system, single)),
            ("diffrax", 1, partial(jax_work, system, double, solver="diffrax")),
            ("torchdiffeq", 1, partial(torchdiffeq_work, system)),
        ]
        if system == "chain":
            works.append(("torch.compile, 10 steps", 1, compiled_work))
        base = math.nan
        for name, threads, make in works:
            with _threads(threads):
                try:
                    work = make()
                    begin = perf_counter()
                    work()
                    first = perf_counter() - begin
                except Exception as error:  # a peer that is not installed, or has no compiler
                    rows.append({"system": system, "engine": name, "missing": str(error)[:60]})
                    continue
                share = 8 if name == EIGHT else 1
                seconds = _best(work, repeats) / share
                base = seconds if name == "reference" else base
                rows.append(
                    {
                        "system": system,
                        "engine": name,
                        "threads": threads,
                        "seconds": seconds,
                        "ratio": seconds / base,
                        "first": first,
                        "memory": _peak_memory(work),
                    }
                )
        rows.append(
            {"system": system, "engine": "arithmetic alone, float32", "threads": 1,
             "seconds": floor_seconds(system), "ratio": floor_seconds(system) / base}
        )  # fmt: skip
    return rows


def _captured(work: Work) -> Work:
    """The same work as one CUDA graph: recorded once, then replayed without Python."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):  # allocations and autograd's own setting up are not to be recorded
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def gpu_rows(repeats: int, device: str = "cuda", steps: int = 300) -> list[dict[str, Any]]:
    """The chain's gradient by the reference engine, 1, 8 and 64 seeds in one batch, on a GPU.

    Seconds for each seed, and by CUDA graphs where they can be captured; no row where there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return []
    name = torch.cuda.get_device_name() if device == "cuda" else device
    rows: list[dict[str, Any]] = []
    for seeds in (1, 8, 64):
        work = gradient_work("chain", "reference", steps=steps, seeds=seeds, device=device)
        works = [("reference", work)]
        if device == "cuda":
            with suppress(RuntimeError):  # a check of arguments or a copy from the processor forbids it
                works.append(("reference, CUDA graph", _captured(work)))
        for engine, one in works:

            def whole(one: Work = one) -> None:
                one()
                if device == "cuda":
                    torch.cuda.synchronize()

            whole()
            seconds = _best(whole, repeats) / seeds
            rows.append({"device": name, "engine": engine, "seeds": seeds, "seconds": seconds})
    return rows


def growth_rows(repeats: int) -> list[dict[str, Any]]:
    """How the fast engine's time grows with springs, steps and seeds, on one thread."""
    rows: list[dict[str, Any]] = []
    with _threads(1):
        for springs in (10, 30, 100, 300, 1000, 3000, 10_000):
            work = gradient_work("chain", "single", sites=springs, steps=100, pulls=1)
            work()
            rows.append({"of": "springs", "number": springs, "seconds": _best(work, repeats)})
        for steps in (10, 30, 100, 300, 1000):
            work = gradient_work("chain", "single", steps=steps)
            rows.append({"of": "steps", "number": steps, "seconds": _best(work, repeats)})
        for seeds in (1, 2, 4, 8, 16):
            work = gradient_work("chain", "single", steps=100, seeds=seeds)
            rows.append({"of": "seeds", "number": seeds, "seconds": _best(work, repeats)})
        for realisations in (20, 200, 2000):
            draw = partial(Chain().simulate_paper, lengths=(0.2,), realisations=realisations)
            draw()
            seconds = _best(draw, repeats)
            rows.append({"of": "realisations", "number": realisations, "seconds": seconds})
    return rows


def simulation_rows(realisations: int = 2000, repeats: int = 5) -> list[dict[str, Any]]:
    """Particle-steps per second of the simulation on one core, and of its random numbers alone, beside plain NumPy.

    Args:
        realisations: of four conditions.
        repeats: of each measurement, of which the shortest counts.
    """
    chain, rng = Chain(), np.random.default_rng(0)
    lengths, times = chain.pulls("smoothed-linear", (0.12, 0.16, 0.2, 0.24))
    generator = torch.Generator().manual_seed(0)
    first = chain.initial(lengths[:, 0], realisations, generator)
    steps, stretch = times.diff().numpy(), lengths.diff(dim=1).numpy() / chain.natural_length
    free, (one, two), history = chain.springs - 1, chain.stiffness, np.empty((4, 301, 10, realisations))

    def simulated() -> object:
        return chain.simulate(lengths, times, realisations, generator, first)

    def looped() -> None:
        strains = history[:, 0] = first.numpy()
        for n, step in enumerate(steps):
            tension = np.where(strains <= chain.barrier_strain, one * strains, two * (strains - chain.well_strain))
            noise = (2 * chain.temperature / chain.viscosity * step) ** 0.5 / chain.natural_length
            moves = noise * rng.standard_normal((len(first), free, realisations))
            moves += step / chain.viscosity / chain.natural_length * np.diff(tension, axis=1)
            strains = strains.copy()
            strains[:, :-1] += moves
            strains[:, 1:] -= moves
            strains[:, -1] += stretch[:, n, None]
            history[:, n + 1] = strains  # every state is kept, as `simulate` does

    def numpys() -> None:
        for _ in steps:
            rng.standard_normal((len(first), free, realisations))

    groups = len(lengths) * free * -(-len(steps) // TOGETHER) * -(-realisations // WIDTH)
    works: dict[str, Work] = {
        "ibvonns": simulated,
        "its normals alone": partial(_normals_alone, groups),
        "NumPy, a loop over steps": looped,
        "its normals alone, PCG64": numpys,
    }
    with _threads(1):
        took = {name: (work(), _best(work, repeats))[1] for name, work in works.items()}
    moved, plain = free * len(lengths) * realisations * len(steps), took["NumPy, a loop over steps"]
    return [
        {"engine": name, "particle_steps_per_second": moved / seconds, "ratio": plain / seconds}
        for name, seconds in took.items()
    ]


@njit
def _normals_alone(groups: Any) -> None:
    """So many groups of normals, as the simulation asks for them, and nothing else."""
    out = np.empty((TOGETHER, WIDTH), np.float32)
    for group in range(groups):
        normals(np.uint64(1), 0, 0, group, 0, out)


@njit
def _plain_hops(eta: Any, tries: int, slowed: float, seed: int) -> None:
    """One realisation of the lattice gas, a bond tried at a time: what a compiled loop does without bits of words."""
    np.random.seed(seed)
    sites = len(eta)
    for _ in range(tries):
        x = np.random.randint(sites)
        y = x + 1 if x + 1 < sites else 0
        if eta[x] != eta[y]:
            behind = x - 1 if eta[x] else (y + 1 if y + 1 < sites else 0)
            if not eta[behind] or np.random.random() < slowed:
                eta[x], eta[y] = eta[y], eta[x]


def lattice_rows(repeats: int = 5) -> list[dict[str, Any]]:
    """Bonds tried per second by the lattice gas' kernels on one core, half filled, and by a plain compiled loop.

    Args:
        repeats: of each measurement, of which the shortest counts.
    """
    rows, half = list[dict[str, Any]](), np.full(200, 0.5)
    eta, tries = (np.arange(200) % 2).astype(np.int64), 10_000_000
    _plain_hops(eta, 10, 0.25, 0)
    plain = tries / _best(partial(_plain_hops, eta, tries, 0.25, 1), repeats)
    wide = Lattice(200, (2 / 80,) * 40)
    gases = {f"a = {a:g}": Lattice(200, (-float(np.log(a)),)) for a in (0.25, 4.0, 0.3)} | {"reach of 40": wide}
    for name, gas in gases.items():
        states, lapse = gas.equilibrium(half, 100, 0), 400.0
        gas.hopped(states, 1.0, 0)
        speed = 64 * 100 * 200 * gas.bound * lapse / _best(partial(gas.hopped, states, lapse, 1), repeats)
        rows.append({"engine": f"64 in a word, {name}", "tries_per_second": speed, "ratio": speed / plain})
    return [*rows, {"engine": "plain compiled loop, a = 0.25", "tries_per_second": plain, "ratio": 1.0}]


def bench(repeats: int = 5) -> dict[str, Any]:
    """All measurements: "gradient", "gpu", "growth", "simulation", "lattice" and the "machine".

    Args:
        repeats: of each measurement, of which the shortest counts.

    Returns:
        For each name the rows of a table; times in seconds, memory in MiB. What is not installed
        has the reason under "missing".

    Raises:
        ValueError: no repeat.
    """
    count("repeats", repeats)
    return {
        "machine": {"python": sys.version.split()[0], "torch": torch.__version__},
        "gradient": gradient_rows(repeats),
        "gpu": gpu_rows(repeats),
        "growth": growth_rows(repeats),
        "simulation": simulation_rows(repeats=repeats),
        "lattice": lattice_rows(repeats),
    }


def tables(found: dict[str, Any]) -> list[Table]:
    """What `bench` returned, as tables for a terminal.

    Args:
        found: the measurements.

    >>> len(tables({"gradient": [], "gpu": [], "growth": [], "simulation": [], "lattice": []}))  # no graphics card
    4
    """
    engines = Table("system", "engine", "threads", "ms", "to reference", "first call, s", "peak memory, MiB")
    for row in found["gradient"]:
        if "missing" in row:
            engines.add_row(row["system"], row["engine"], "", row["missing"])
            continue
        texts = [f"{1e3 * row['seconds']:.3g}", f"{row['ratio']:.2g}"]
        texts.append(f"{row['first']:.2g}" if "first" in row else "")
        texts.append(f"{row['memory']:.3g}" if "memory" in row else "")
        engines.add_row(row["system"], row["engine"], str(row["threads"]), *texts)
    gpu = Table("device", "engine", "seeds in a batch", "ms for each")
    for row in found["gpu"]:
        gpu.add_row(row["device"], row["engine"], str(row["seeds"]), f"{1e3 * row['seconds']:.3g}")
    growth = Table("growth with", "number", "ms", "us each")
    for row in found["growth"]:
        each = f"{1e6 * row['seconds'] / row['number']:.3g}"
        growth.add_row(row["of"], str(row["number"]), f"{1e3 * row['seconds']:.3g}", each)
    simulation = Table("simulation, one core", "particle-steps per second", "to the loop")
    for row in found["simulation"]:
        simulation.add_row(row["engine"], f"{row['particle_steps_per_second']:.3g}", f"{row['ratio']:.3g}")
    lattice = Table("lattice gas, one core", "bonds tried per second", "to the loop")
    for row in found["lattice"]:
        lattice.add_row(row["engine"], f"{row['tries_per_second']:.3g}", f"{row['ratio']:.3g}")
    return [engines, *([gpu] if gpu.rows else []), growth, simulation, lattice]


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print tables or JSON.

    Args:
        arguments: of the command line; those of this process if not given.
    """
    parser = argparse.ArgumentParser(description="Measure the engines, and other libraries where they are installed.")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each measurement, of which the shortest counts")
    parser.add_argument("--json", action="store_true", help="print all measurements as JSON instead of tables")
    wanted = parser.parse_args(arguments)
    found = bench(wanted.repeats)
    if wanted.json:
        print(json.dumps(found, indent=1))
        return
    for part in tables(found):
        Console(width=max(Console().width, 80)).print(part)  # no number is cut


if __name__ == "__main__":
    main()
