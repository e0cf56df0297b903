"""`ibvonns bench`: what the engines cost, as ratios to the reference measured in the same process.

The work is that of one training step's heart: the rollout of a law over 300 Euler steps and the
gradient of the sum of its squares by every weight. Peers are taken where the optional extra `bench`
is installed. Random weights do: no branch depends on them.
"""

import ctypes
import gc
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from ibvonns.adjoint import fused_weights
from ibvonns.networks import generators
from ibvonns.onsager import ChainPotentials, Potentials
from ibvonns.rollout import chain_rollout, rollout
from ibvonns.systems.chain import Chain
from ibvonns.validation import count

__all__ = ["bench", "tables"]

Work = Callable[[], object]
EIGHT = "fast, float32, each of 8 seeds"
STEP = 0.01  # of time, as in the paper's protocols


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _law(system: str, seeds: int = 1, dtype: torch.dtype = torch.float64) -> Any:
    law: Any
    if system == "trap":
        law = Potentials(generators(range(seeds)))
        law.set_scales((1.0, 0.5), 1.0, 1.0)
    else:
        law = ChainPotentials(generators(range(seeds)))
        law.set_scales((1.2, 0.6), 0.006, 0.02)
    return law.to(dtype)


def _inputs(
    system: str, sites: int, steps: int, seeds: int, dtype: torch.dtype, pulls: int = 9
) -> tuple[Any, ...]:
    """First states and records: 11 pulls of the trap, or so many of the chain."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

    times = STEP * torch.arange(steps + 1, dtype=dtype)
    if system == "trap":
        return 1 + 0.3 * draw(11, steps + 1), draw(seeds, 11, 1), times
    force = 0.006 * draw(pulls, steps)
    return 1 + 0.3 * draw(pulls, sites), draw(seeds, pulls, sites, 1), force, times.diff()


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
    """One full gradient by one of our engines; the lengths of the steps stay on the processor."""
    law = _law(system, seeds, dtype).to(device)
    *records, lengths = _inputs(system, sites, steps, seeds, dtype, pulls)
    inputs = (*(part.to(device) for part in records), lengths)
    weights = list(law.parameters())

    def work() -> list[Tensor]:
        if system == "trap":
            chi, first, times = inputs
            loss = rollout(law, chi, first, times, backend).square().sum()
        else:
            strain, alpha, force, lengths = inputs
            paths = chain_rollout(law, strain, alpha, force, None, lengths, backend)
            loss = paths[0].square().sum() + paths[1].square().sum()
        return list(torch.autograd.grad(loss, weights, materialize_grads=True))

    return work


def _right_hand_side(np: Any, law: Any, system: str) -> tuple[Any, Callable[..., Any]]:
    """The law in JAX: its flat weights, and the rate of the scaled state (d, sites)."""
    import jax

    softplus, sigmoid = jax.nn.softplus, jax.nn.sigmoid
    widths, flat = fused_weights(law)
    weights = np.asarray(flat[0].detach().numpy())

    def convex(net: Any, free: Any, g: Any) -> Any:
        scale1, scale2, shift1, shift2, gate1, gate2 = free
        drive1, mix1, drive2, mix2 = net[6:]
        u1 = (g * scale1) @ drive1 + shift1
        t2 = sigmoid((g * scale2) @ drive2 + shift2 + (softplus(u1) * gate1) @ mix1)
        e2 = mix2.T * gate2 * t2
        e1 = (e2 @ mix1.T) * gate1 * sigmoid(u1)
        return (e1 @ drive1.T) * scale1 + (e2 @ drive2.T) * scale2

    def rate(flat: Any, state: Any, force: Any) -> Any:
        (w1, b1, w2, b2, w3), net, mobility = widths.views(flat)
        p1 = state @ w1 + b1
        p2 = softplus(p1) @ w2 + b2
        slope = (((w3.T * sigmoid(p2)) @ w2.T) * sigmoid(p1)) @ w1.T
        z = state if system == "chain" else state[..., 1:]
        g = -slope[..., state.shape[-1] - z.shape[-1] :]
        if system == "chain":
            above = np.concatenate([slope[:, 1:, 0], force[:, None]], 1)
            g = g.at[..., 0].add(above)
        (m1, m2), c = widths.power, widths.forces
        free1, scale1, shift1 = np.split(z @ net[0] + net[1], [m1, m1 + c], -1)
        cuts = [m1, m1 + m2, m1 + m2 + c]
        gate1, free2, scale2, shift2 = np.split(softplus(free1) @ net[2] + net[3], cuts, -1)
        gate2 = softplus(softplus(free2) @ net[4] + net[5])
        free = (scale1, scale2, shift1, shift2, softplus(gate1), gate2)
        r = convex(net, free, g) - convex(net, free, 0 * g) + mobility * g
        if system == "chain":
            moved = r[..., 0] - np.pad(r[..., :-1, 0], ((0, 0), (1, 0)))
            r = r.at[..., 0].set(moved)
        return r

    return weights, rate


def jax_work(system: str, dtype: torch.dtype, steps: int = 300, solver: str = "scan") -> Work:
    """The same gradient by a jitted scan in JAX, or by diffrax's Euler method.

    Raises:
        ImportError: JAX or diffrax is not installed.
    """
    import jax
    from jax import numpy as jnp

    jax.config.update("jax_enable_x64", True)
    law, inputs = _law(system, 1, dtype), _inputs(system, 10, steps, 1, dtype)
    weights, rate = _right_hand_side(jnp, law, system)
    lengths: Any
    if system == "trap":
        chi, first, times = inputs
        mean, deviation = law.control
        driven = jnp.asarray(((chi - mean) / deviation).T.numpy())
        start = jnp.asarray(first[0].numpy())
        lengths, unit = jnp.asarray(times.diff().numpy()), float(law.rate_scale)
    else:
        strain, alpha, force, lengths = inputs
        mean, deviation = law.strain_scale
        start = jnp.asarray(torch.stack([(strain - mean) / deviation, alpha[0, ..., 0]], -1))
        driven = jnp.asarray((force / law.force_scale).T.numpy())
        lengths = jnp.asarray(lengths.numpy())
        unit = float(law.velocity_scale / law.natural_length / deviation)

    def field(flat: Any, state: Any, drive: Any) -> Any:
        if system == "trap":
            return unit * rate(flat, jnp.concatenate([drive[:, None], state], -1), None)
        return unit * rate(flat, state, drive)

    if solver == "scan":

        def path(flat: Any) -> Any:
            def step(state: Any, given: Any) -> tuple[Any, Any]:
                new = state + given[0] * field(flat, state, given[1])
                return new, new

            return jax.lax.scan(step, start, (lengths, driven[: len(lengths)]))[1]

    else:
        import diffrax

        def path(flat: Any) -> Any:
            def vector(t: Any, state: Any, _: Any) -> Any:
                return field(flat, state, driven[jnp.round(t / STEP).astype(int)])

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

    gradient = jax.jit(jax.grad(lambda flat: (path(flat) ** 2).sum()))
    return lambda: gradient(weights).block_until_ready()


def torchdiffeq_work(system: str, steps: int = 300) -> Work:
    """The same gradient by torchdiffeq's Euler method.

    Raises:
        ImportError: torchdiffeq is not installed.
    """
    from torchdiffeq import odeint

    law, inputs = _law(system), _inputs(system, 10, steps, 1, torch.float64)
    weights = list(law.parameters())

    def work() -> list[Tensor]:
        if system == "trap":
            chi, first, times = inputs

            def field(t: Tensor, state: Any) -> Any:
                return law.evolution(chi[:, round(float(t) / STEP)][:, None], state)

            path = odeint(field, first, times, method="euler")
            loss = path.square().sum()
        else:
            strain, alpha, force, lengths = inputs
            times = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])

            def field(t: Tensor, state: Any) -> Any:
                return law.force_given(*state, force[:, round(float(t) / STEP)])[:2]

            paths = odeint(field, (strain[None], alpha), times, method="euler")
            loss = paths[0].square().sum() + paths[1].square().sum()
        return list(torch.autograd.grad(loss, weights, materialize_grads=True))

    return work


def compiled_work(steps: int = 300, chunk: int = 10) -> Work:
    """The chain's gradient with torch.compile of so many reference steps at a time."""
    law, inputs = _law("chain"), _inputs("chain", 10, steps, 1, torch.float64)
    strain, alpha, force, lengths = inputs
    weights, length = list(law.parameters()), float(lengths[0])

    def several(now: Tensor, inner: Tensor, pulls: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss = now.new_zeros(())
        for n in range(chunk):
            rate, change, _ = law.force_given(now, inner, pulls[:, n])
            now, inner = now + length * rate, inner + length * change
            loss = loss + now.square().sum() + inner.square().sum()
        return now, inner, loss

    fast: Any = torch.compile(several)

    def work() -> list[Tensor]:
        now, inner, total = strain[None], alpha, strain.new_zeros(())
        for at in range(0, steps, chunk):
            now, inner, loss = fast(now, inner, force[:, at : at + chunk])
            total = total + loss
        return list(torch.autograd.grad(total, weights, materialize_grads=True))

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
    widths, flat = fused_weights(law)
    energy, power, _ = widths.views(flat[0].detach().numpy())
    products = 2 * sum(part.size for part in energy[::2]) + sum(power[n].size for n in (0, 2, 4))
    products += 4 * sum(part.size for part in power[6:])  # driven and at rest, there and back
    a = torch.randn(1024, 1024, dtype=torch.float32)
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

    Seconds for each seed, with and without CUDA graphs; no row where there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return []
    name = torch.cuda.get_device_name() if device == "cuda" else device
    rows: list[dict[str, Any]] = []
    for seeds in (1, 8, 64):
        work = gradient_work("chain", "reference", steps=steps, seeds=seeds, device=device)
        works = [("reference", work)]
        if device == "cuda":
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


def simulation_rows(realisations: int = 2000) -> list[dict[str, Any]]:
    """Particle-steps per second of the simulation, and of a plain NumPy loop over the steps."""
    chain, rng = Chain(), np.random.default_rng(0)
    begun = chain.simulate_paper(lengths=(0.12, 0.16, 0.2, 0.24), realisations=realisations)
    lengths, first = begun.records["pulled_length"], begun.realisations[:, 0].clone()
    generator = torch.Generator().manual_seed(0)
    begin = perf_counter()
    chain.simulate(lengths, begun.times, realisations, generator, first)
    ours = perf_counter() - begin
    strains, (one, two) = first.numpy(), chain.stiffness
    steps, stretch = begun.times.diff().numpy(), lengths.diff(dim=1).numpy() / chain.natural_length
    history = np.empty(tuple(begun.realisations.shape))  # every state is kept, as `simulate` does
    begin = perf_counter()
    for n, step in enumerate(steps):
        bent = two * (strains - chain.well_strain)
        tension = np.where(strains <= chain.barrier_strain, one * strains, bent)
        noise = (2 * chain.temperature / chain.viscosity * step) ** 0.5 / chain.natural_length
        moves = noise * rng.standard_normal((len(first), chain.springs - 1, realisations))
        moves += step / chain.viscosity / chain.natural_length * np.diff(tension, axis=1)
        strains = strains.copy()
        strains[:, :-1] += moves
        strains[:, 1:] -= moves
        strains[:, -1] += stretch[:, n, None]
        history[:, n + 1] = strains
    plain = perf_counter() - begin
    moved = chain.springs * len(lengths) * realisations * len(steps)
    return [
        {"engine": "ibvonns", "particle_steps_per_second": moved / ours},
        {"engine": "NumPy, a loop over steps", "particle_steps_per_second": moved / plain},
    ]


def bench(repeats: int = 5) -> dict[str, Any]:
    """All measurements: "gradient", "gpu", "growth", "simulation" and the "machine".

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
        "simulation": simulation_rows(),
    }


def tables(found: dict[str, Any]) -> list[Table]:
    """What `bench` returned, as tables for a terminal.

    Args:
        found: the measurements.

    >>> len(tables({"gradient": [], "gpu": [], "growth": [], "simulation": []}))  # no graphics card
    3
    """
    engines = Table(
        "system", "engine", "threads", "ms", "to reference", "first call, s", "peak memory, MiB"
    )
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
    simulation = Table("simulation", "particle-steps per second")
    for row in found["simulation"]:
        simulation.add_row(row["engine"], f"{row['particle_steps_per_second']:.3g}")
    return [engines, *([gpu] if gpu.rows else []), growth, simulation]
