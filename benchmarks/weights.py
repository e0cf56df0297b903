"""Weights from noise beside those set by hand: errors of the same studies, seeds and steps.

    python benchmarks/weights.py trap chain-gmm
    python benchmarks/weights.py --units      by how much another unit changes what is learned of a bead

With noise weights every relation is divided by its own residual (`Sampling.profiled`), the likelihood of positions
counts a nat as a nat, and what is at rest, and the shift of clouds, have the weights that they had. The numbers are
kept in ibvonns_book/weights.json, for chapter 15.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from own import foreign
from torch import Tensor

import ibvonns_book
from ibvonns import fit, from_arrays, observe
from ibvonns.files import load_json, save_json
from ibvonns.layouts import Point
from ibvonns.learning import suited
from ibvonns.losses import RELATIONS
from ibvonns.paper.results import result
from ibvonns.paper.studies import STUDIES, errors
from ibvonns.recipe import Recipe
from ibvonns.seeds import fitted

KEPT = Path(ibvonns_book.__file__).with_name("weights.json")


def by_noise(recipe: Recipe) -> Recipe:
    """The same without weights by hand."""
    stages = []
    for stage in recipe.stages:
        weights: Mapping[str, float] = {
            name: 1.0 if name in RELATIONS or name == "density" else by for name, by in stage.weights.items()
        }
        stages.append(replace(stage, weights=weights))
    return replace(recipe, stages=tuple(stages), look=replace(recipe.look, profiled=True), attempts=0)


def compared(name: str, seeds: int) -> dict[str, Any]:
    """Print every number of a study, by hand and by noise: median, least and largest over the seeds; return them."""
    study, kept = STUDIES[name], dict[str, Any]()
    data = study.data(0)
    found = fitted(study.architecture, data["train"], range(seeds), by_noise(study.recipe))
    ours = errors(study, found.model, data)[0]
    for row, values in result(name)[2]["errors"].items():
        hand, noise = ([each for each in some[:seeds] if each is not None] for some in (values, ours[row]))
        told = (f"{median(each):.3g} [{min(each):.3g}, {max(each):.3g}]" for each in (hand, noise))
        print(f"{row:<34} by hand {next(told):<28} by noise {next(told)}", flush=True)
        kept[row] = {"hand": hand, "noise": noise}
    return kept


def units(by_noise_too: bool) -> None:
    """Print how far the force of a bead's law moves, relative to its largest, if its data come in other units."""
    train, test = (foreign.bead(seed) for seed in (0, 1))

    def force(length: float, time: float, energy: float) -> Tensor:
        records = {"lambda": train.records["lambda"] * length, "F": train.records["F"] * energy / length}
        data = from_arrays(train.positions * length, train.times * time, records, axes=train.axes)
        plan = suited(Recipe.of(Point()), observe(data, "lambda", "F"), Point())
        how: dict[str, Any] = {"recipe": by_noise(plan) if by_noise_too else replace(plan, attempts=0)}
        law = fit(data, controls="lambda", forces="F", decoder="gaussian", seeds=1, check=False, **how)
        run = law.predict(test.times * time, {"lambda": test.records["lambda"] * length})
        return torch.as_tensor(run.force["F"].values) * length / energy

    first = force(1.0, 1.0, 1.0)
    for other in ((1e6, 1e3, 1e18), (2.0**20, 2.0**10, 2.0**60)):
        moved = float((force(*other) - first).abs().max() / first.abs().max())
        kind = "by noise" if by_noise_too else "by hand"
        print(f"weights {kind}, units of length, time, energy times {other}: moved by {moved:.2g}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Weights from noise.")
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], help="the trap if none is named")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--units", action="store_true", help="of a bead's data instead")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.units:
        units(False)
        units(True)
    else:
        kept = load_json(KEPT) if KEPT.exists() else {}
        for each in asked.studies or ["trap"]:
            kept[each] = compared(each, asked.seeds)
            save_json(KEPT, kept)
