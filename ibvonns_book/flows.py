"""Flows of several sizes: how good a density each of them finds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ibvonns.cache import cached
from ibvonns.model import Model
from ibvonns.paper.studies import Study, study_of
from ibvonns.recipe import Phase, Recipe, Stage
from ibvonns.training import train

__all__ = ["flow_likelihoods"]

DRAWS = (0, 1000, 2000)  # seeds of the first weights of each flow
DENSITY = Stage((Phase(0, 1000),), {"density": 1.0}, learning_rate=0.06)


def flow_likelihoods(
    study: str | Study = "chain-cnf", sigmoids: Sequence[int] = (1, 2, 4, 8), data_seed: int = 0
) -> dict[int, dict[str, list[float]]]:
    """NLL of flows of several sizes, encoder and decoder trained alone; kept in the cache.

    Some first weights lead to a poor minimum: `DRAWS` are tried for each size.

    Args:
        study: one with a flow, or the name of one.
        sigmoids: d of each flow.
        data_seed: of the data.

    Returns:
        For each d the NLL of every draw on "train" and "test", in nats per site. The draw with the
        lowest on "train" comes first.

    Raises:
        ValueError: a d below 1.
    """
    one = study_of(study)
    kinds = {number: replace(one.architecture, sigmoids=number) for number in sigmoids}
    recipe = Recipe((DENSITY,), one.recipe.look, coarse=one.recipe.coarse)

    def compute() -> dict[str, Any]:
        data = {split: one.observed(split, data_seed) for split in ("train", "test")}
        found: dict[str, Any] = {}
        for number, kind in kinds.items():
            model = Model(DRAWS, kind)
            train(model, data["train"], recipe)
            with torch.no_grad():
                nll = {split: model.nll(seen, model.encode(seen)) for split, seen in data.items()}
            order = nll["train"].argsort()
            found[str(number)] = {split: each[order].tolist() for split, each in nll.items()}
        return found

    stored = cached("flow-likelihoods", [one, list(kinds), recipe, data_seed], compute, Path(__file__))
    return {int(number): values for number, values in stored.items()}
