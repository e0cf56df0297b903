"""Weights from noise beside those set by hand: errors of the same studies, seeds and steps.

    python benchmarks/weights.py trap chain-gmm

With noise weights every relation is divided by its own residual (`Sampling.profiled`), the likelihood of positions
counts a nat as a nat, and what is at rest, and the shift of clouds, have the weights that they had.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from statistics import median

import torch

from ibvonns.losses import RELATIONS
from ibvonns.paper.results import result
from ibvonns.paper.studies import STUDIES, errors
from ibvonns.recipe import Recipe
from ibvonns.seeds import fitted


def by_noise(recipe: Recipe) -> Recipe:
    """The same without weights by hand."""
    stages = []
    for stage in recipe.stages:
        weights: Mapping[str, float] = {
            name: 1.0 if name in RELATIONS or name == "density" else by for name, by in stage.weights.items()
        }
        stages.append(replace(stage, weights=weights))
    return replace(recipe, stages=tuple(stages), look=replace(recipe.look, profiled=True), attempts=0)


def compared(name: str, seeds: int) -> None:
    """Print every number of a study, by hand and by noise: median, least and largest over the seeds."""
    study = STUDIES[name]
    data = study.data(0)
    fit = fitted(study.architecture, data["train"], range(seeds), by_noise(study.recipe))
    ours = errors(study, fit.model, data)[0]
    for row, values in result(name)[2]["errors"].items():
        hand, noise = ([each for each in some[:seeds] if each is not None] for some in (values, ours[row]))
        told = (f"{median(each):.3g} [{min(each):.3g}, {max(each):.3g}]" for each in (hand, noise))
        print(f"{row:<34} by hand {next(told):<28} by noise {next(told)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Weights from noise.")
    parser.add_argument("studies", nargs="*", default=["trap"], choices=[*STUDIES])
    parser.add_argument("--seeds", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for each in asked.studies:
        compared(each, asked.seeds)
