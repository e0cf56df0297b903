"""How often bands of resampled laws hold the truth, on independent data sets of `tests/foreign.py`.

    python benchmarks/bands.py bead --sets 20

Each set is learned by `ibvonns.banded` and asked about twelve protocols of another draw, whose exact force is known;
of the bead also about the same, one and a half times as wide: its force is linear in the path.
"""

import argparse

import numpy as np
import torch
from own import CONTROLS, foreign, read

import ibvonns


def measured(kind: str, sets: int) -> None:
    """Print the share of times and conditions that bands of 90 % hold, of each set and of all."""
    controls, forces = CONTROLS[kind]
    held: dict[float, list[float]] = {}
    for seed in range(sets):
        train, test = (getattr(foreign, kind)(begin + seed) for begin in (100, 1000))
        bands = ibvonns.banded(read(train), controls, forces, **({"internal": 2} if len(controls) > 1 else {}))
        for wide in (1.0, 1.5) if kind == "bead" else (1.0,):
            found = bands.predict(test.times, {name: wide * test.records[name][:12] for name in controls})
            for name, force in found.force.items():
                truth = wide * test.exact[name][:12]
                inside = (truth >= force.low) & (truth <= force.high)
                bare = np.abs(truth - force.mean) <= (force.high - force.mean) / bands.factors[name]
                told = f"holds {inside.mean():.3f}, without its factor {bands.factors[name]:.2f} {bare.mean():.3f}"
                print(f"{seed} {name}, {wide} as wide: {told}; {found.outside.mean():.2f} outside", flush=True)
                held.setdefault(wide, []).append(float(inside.mean()))
    for wide, shares in held.items():
        print(f"{wide} as wide: {np.mean(shares):.3f} of {len(shares)}, least {min(shares):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Coverage of bands.")
    parser.add_argument("kind", choices=("bead", "double_well", "breathing"))
    parser.add_argument("--sets", type=int, default=20)
    torch.set_num_threads(1)
    measured(**vars(parser.parse_args()))
