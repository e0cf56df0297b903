"""Where the time of a gradient goes: `python benchmarks/parts.py` prints a table, in processor time on one thread.

The work is that of `engines.py`, 300 steps in single precision. Products and activations are timed alone, as often
as the loops call them and on arrays of the same shapes; the rest of the loops is what remains of them.
"""

from collections.abc import Callable
from time import process_time
from typing import Any

import engines
import numpy as np
import torch
from numba import njit

from ibvonns.adjoint import FAST, LOOPS, PAD, _activate, _affine, _outer, fused_weights, views
from ibvonns.law import Law

STEPS = 300


def alone(kernel: Any, *arrays: Any) -> float:
    """Seconds of a kernel that is called at each step."""

    @njit(fastmath=FAST)
    def loop(parts: Any) -> None:
        for _ in range(STEPS):
            kernel(*parts)

    loop(arrays)
    return engines._best(lambda: loop(arrays), 20)


def profile(system: str) -> dict[str, float]:
    """Milliseconds of each part of one gradient, and of the arithmetic alone."""
    lanes = -(-{"trap": 11, "chain": 90}[system] // PAD) * PAD
    weights = views([part[0].detach().numpy() for part in fused_weights(engines._law(system, dtype=torch.float32))])
    (w1, w2, _, w3), _, (d1, mix, d2, m), free, *_ = weights
    x, y, none = (np.full((80, lanes), value, np.float32) for value in (0.1, 0.1, 0.0))
    # how often a step there and one back call: W^T x, W x, x y^T
    counts = [((w1, w2), (3, 3, 2)), ((d1, mix, d2), (6, 6, 4)), (free[::2], (2, 1, 1))]
    products = 0.0
    for matrices, (ahead, back, outer) in counts:
        for matrix in map(np.ascontiguousarray, matrices):
            inputs, outputs = matrix.shape
            products += ahead * alone(_affine, matrix, x[:inputs], none, y)
            products += back * alone(_affine, matrix.T, x[:outputs], none, y)
            products += outer * alone(_outer, x[:inputs], y[:outputs], np.zeros_like(matrix))
    bent = 2 * (w2.shape[0] + len(w3) + 2 * (mix.shape[0] + len(m)) + 2 * mix.shape[0] + 2 * mix.shape[1])
    activations = bent / len(x) * alone(_activate, x.copy(), y)
    spent, loops, work = [0.0], LOOPS[Law], engines.gradient_work(system, "single", steps=STEPS)

    def timed(loop: Callable[..., None], *parts: Any) -> None:
        begin = process_time()
        loop(*parts)
        spent[0] += process_time() - begin

    LOOPS[Law] = loops._replace(roll=lambda *p: timed(loops.roll, *p), back=lambda *p: timed(loops.back, *p))
    inside, whole = [], []
    for _ in range(40):
        spent[0], begin = 0.0, process_time()
        work()
        whole.append(process_time() - begin)
        inside.append(spent[0])
    LOOPS[Law] = loops
    rest, around = min(inside[1:]) - products - activations, min(whole[1:]) - min(inside[1:])
    found = {"products": products, "activations": activations, "rest of the loops": rest, "around the loops": around}
    found |= {"whole": min(whole[1:]), "arithmetic alone": engines.floor_seconds(system, STEPS)}
    return {name: 1e3 * seconds for name, seconds in found.items()}


def main() -> None:
    """Print it for both systems."""
    torch.set_num_threads(1)
    vars(engines)["perf_counter"] = process_time
    for system in engines.SYSTEMS:
        found = profile(system)
        for name, each in found.items():
            print(f"{system:6} {name:18} {each:6.2f} ms {each / found['arithmetic alone']:5.1f}")


if __name__ == "__main__":
    main()
