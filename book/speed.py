"""Draw the page on speed from measurements: `python book/speed.py`, run by `make bench`.

`book/bench.json` is what `benchmarks/engines.py --json` printed; the page's table and picture follow from
it, so that `make html` needs no measurement.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from ibvonns_book.plots import use_style

HERE = Path(__file__).resolve().parent


def engines(found: dict[str, Any]) -> str:
    """The engines' table in markdown, and below it the simulations'."""
    lines = [
        "| system | engine | threads | ms | to the reference | first call, s | memory, MiB |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in found["gradient"]:
        if "missing" in row:
            lines.append(f"| {row['system']} | {row['engine']} | | not measured | | | |")
            continue
        first = f"{row['first']:.1f}" if "first" in row else ""
        memory = f"{row['memory']:.0f}" if "memory" in row else ""
        lines.append(
            f"| {row['system']} | {row['engine']} | {row['threads']} | {1e3 * row['seconds']:.3g} "
            f"| {row['ratio']:.2g} | {first} | {memory} |"
        )
    if found["gpu"]:
        lines += ["", "| device | engine | seeds in a batch | ms for each |", "|---|---|--:|--:|"]
    for row in found["gpu"]:
        each = f"{1e3 * row['seconds']:.3g}"
        lines.append(f"| {row['device']} | {row['engine']} | {row['seeds']} | {each} |")
    lines += ["", "| simulation of the chain, one core | particle-steps per second | to the loop |", "|---|--:|--:|"]
    for row in found["simulation"]:
        speed = f"{row['particle_steps_per_second'] / 1e6:.3g} million"
        lines.append(f"| {row['engine']} | {speed} | {row['ratio']:.3g} |")
    lines += ["", "| lattice gas, one core | bonds tried per second | to the loop |", "|---|--:|--:|"]
    for row in found["lattice"]:
        lines.append(f"| {row['engine']} | {row['tries_per_second'] / 1e9:.2g} billion | {row['ratio']:.3g} |")
    return "\n".join(lines) + "\n"


def growth(found: dict[str, Any], target: Path) -> None:
    """Time against springs, steps, seeds and realisations, on logarithmic axes."""
    use_style()
    fig, ax = plt.subplots()
    for of in ("springs", "steps", "seeds", "realisations"):
        rows = [row for row in found["growth"] if row["of"] == of]
        numbers = [row["number"] for row in rows]
        ax.loglog(numbers, [1e3 * row["seconds"] for row in rows], marker="o", ms=3, label=of)
    ax.loglog([10, 1e4], [1, 1e3], "-", color="0.75", lw=0.8, marker="", label="in proportion")
    ax.set(xlabel="number", ylabel="time (ms)")
    ax.legend()
    draft = target.with_suffix(".tmp")
    fig.savefig(draft, format="png", dpi=150)
    draft.replace(target)


if __name__ == "__main__":
    measured = json.loads((HERE / "bench.json").read_text(encoding="utf-8"))
    (HERE / "speed_table.md").write_text(engines(measured), encoding="utf-8")
    growth(measured, HERE / "images" / "growth.png")
