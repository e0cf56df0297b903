"""What an ensemble larger than the memory takes: a file of it is made, then compressed part by part, or learned from.

A particle in a harmonic trap is pulled to and fro in 20 ways, by Euler's steps, in single precision. A law is learned
in one attempt, and taken as it is: so many realisations may have less noise than any law has error.

Usage:
    python benchmarks/large.py FOLDER [--gigabytes 10] [--size 67108864] [--fit]
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import perf_counter

import h5py
import numpy

import ibvonns
from ibvonns.ensemble import Ensemble
from ibvonns.reading import read_parts

CONDITIONS, TIMES, BLOCK = 20, 301, 512
STEP, RATE, DEVIATION = 0.01, 2.0, 0.07  # RATE: of relaxation; DEVIATION: in equilibrium


def make(path: Path, gigabytes: float) -> int:
    """Write positions, times and records block by block; return the number of realisations.

    The force is that of the mean: it has no noise of sampling.
    """
    rng, times = numpy.random.default_rng(0), STEP * numpy.arange(TIMES)
    speeds, waves = numpy.linspace(0.2, 1.5, CONDITIONS), numpy.linspace(0.5, 4.0, CONDITIONS)[:, None]
    centre = speeds[:, None] * times * numpy.sin(waves * times)
    keep, blocks = 1 - RATE * STEP, max(1, round(gigabytes * 1e9 / (4 * CONDITIONS * TIMES * BLOCK)))
    mean, shape = numpy.zeros_like(centre), (CONDITIONS, TIMES, blocks * BLOCK)
    for n in range(1, TIMES):
        mean[:, n] = centre[:, n - 1] + (mean[:, n - 1] - centre[:, n - 1]) * keep
    with h5py.File(path, "w") as file:
        x = file.create_dataset("positions", shape, "f4", chunks=(1, TIMES, BLOCK))
        file["times"], file["centre"], file["force"] = times, centre, RATE * (centre - mean)
        for first in range(0, shape[-1], BLOCK):
            noise = rng.standard_normal((CONDITIONS, TIMES, BLOCK), numpy.float32) * numpy.float32(DEVIATION)
            noise[:, 1:] *= numpy.sqrt(1 - keep**2, dtype=numpy.float32)
            for n in range(1, TIMES):  # each step from the one before, in place
                noise[:, n] += numpy.float32(keep) * noise[:, n - 1]
            x[..., first : first + BLOCK] = noise + mean[..., None].astype(numpy.float32)
    return shape[-1]


def main() -> None:
    """Make the file, go through it, and print seconds and the peak of the memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--size", type=int, default=2**26)
    parser.add_argument("--fit", action="store_true")
    given = parser.parse_args()

    def told(what: str, start: float) -> None:
        peak = getrusage(RUSAGE_SELF).ru_maxrss / 1e6  # kB, on Linux
        print(f"{what}: {perf_counter() - start:.0f} s, peak of the memory {peak:.2f} GB", flush=True)

    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path, start = Path(folder) / "large.h5", perf_counter()
        count = make(path, given.gigabytes)
        told(f"made {count} realisations, {path.stat().st_size / 1e9:.2f} GB", start)

        def blocks() -> Iterator[Ensemble]:
            axes = "conditions times realisations"
            return read_parts(path, size=given.size, records=["centre", "force"], axes=axes)

        start = perf_counter()
        seen = ibvonns.observe(blocks(), "centre", "force")
        told(f"compressed to {seen}", start)
        miss = (seen.variance / DEVIATION**2 - 1).abs().max()
        print(f"variance off by {100 * float(miss):.2f} % at most")
        if given.fit:
            start = perf_counter()
            point = ibvonns.layouts.Point()
            once = replace(ibvonns.Recipe.of(point), attempts=0)
            learned = ibvonns.fit(seen, point, "centre", seeds=[0], recipe=once)
            told(f"learned\n{learned}", start)


if __name__ == "__main__":
    main()
