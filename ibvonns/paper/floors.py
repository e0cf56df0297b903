"""Noise floors with their scatter, and truths with hardly any noise, from many small ensembles.

The truth of a study is a mean over 2000 or 4000 realisations, and its own noise hides how good a
model is. Independent ensembles of the same size tell how large that noise is and how it varies. All
of them together are a truth in which a seventh of it is left (chain), or a fifth (trap).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibvonns.cache import cached
from ibvonns.metrics import relative_error
from ibvonns.model import Model
from ibvonns.observations import Observations, joined
from ibvonns.paper.limits import exact_limits
from ibvonns.paper.results import plain, restored_errors, result
from ibvonns.paper.studies import STUDIES, Study, errors, study_of
from ibvonns.validation import count, finite

__all__ = ["Floor", "floor_of", "truth_scores"]

REALISATIONS = 100_000
FIRST = 20_000  # data seed of the first ensemble; nothing else draws from it or the next ones


@dataclass(frozen=True)
class Floor:
    """Error of a perfect theory against one ensemble: what the ensemble's own noise leaves.

    Attributes:
        value: percent, the mean over ensembles.
        scatter: standard deviation from one ensemble to another.
    """

    value: float
    scatter: float


def _floor(values: Tensor) -> Floor:
    return Floor(float(values.mean()), float(values.std()))


def floor_of(samples: Tensor) -> Floor:
    """Noise floor of a mean of which several independent samples are at hand.

    Each is compared with the mean of all. That contains a share 1/n of the sample itself, which
    makes the difference too small by a factor sqrt(1 - 1/n).

    Args:
        samples: shape (ensembles, ...), two or more.

    Raises:
        ValueError: NaN, fewer than two ensembles, or a mean that is zero everywhere.

    >>> rng = torch.Generator().manual_seed(0)
    >>> noise = torch.randn(50, 1000, generator=rng, dtype=torch.float64)
    >>> round(floor_of(10 + noise).value)  # a deviation of 1 around 10
    10
    """
    number = count("number of ensembles", len(finite("samples", samples)), 2)
    middle = samples.mean(0)
    each = torch.tensor([relative_error(sample, middle) for sample in samples], dtype=torch.float64)
    return _floor(each / (1 - 1 / number) ** 0.5)


def _middle(samples: Tensor) -> Floor:
    """Floor of the middle one of several replicas: samples (ensembles, replicas, ...)."""
    each = sorted((floor_of(one) for one in samples.unbind(1)), key=lambda one: one.value)
    return each[len(each) // 2]


Scores = dict[str, tuple[dict[str, list[float]], dict[str, Floor]]]


@torch.no_grad()
def _scores(studies: Mapping[str, Study], models: Mapping[str, Model], number: int) -> Scores:
    """Errors and floors of studies that share their data, a split and an ensemble at a time."""
    study = next(iter(studies.values()))
    found: Scores = {name: ({}, {}) for name in studies}
    light: list[dict[str, Observations]] = [{} for _ in range(number)]  # moments and records alone
    for split in study.splits:
        total: Any = None
        encoded: dict[str, list[Tensor]] = {name: [] for name in studies}
        for index in range(number):
            seen = study.observed(split, FIRST + index)
            light[index][split] = replace(seen.coarser(study.points), blocks={})
            for name, model in models.items():
                if study.exact is None:
                    encoded[name].append(model.encoder.ungauged(model.encode(seen)).float())
            cloud: Any = seen.cloud
            total = total or cloud
            total.weights.lerp_(cloud.weights, 1 / (index + 1))  # in place: clouds are large
        whole = replace(joined(one[split] for one in light), cloud=total)
        records = {"strain": "mean", "force": "force"}
        samples = {ours: torch.stack([getattr(one[split], name) for one in light]) for ours, name in records.items()}
        for name, own in studies.items():
            found[name][0].update(errors(own, models[name], {split: whole})[0])
            if study.exact is None:
                floors = {quantity: floor_of(each) for quantity, each in samples.items()}
                floors["alpha"] = _middle(torch.stack(encoded[name]))
                for quantity, floor in floors.items():
                    found[name][1].update(dict.fromkeys(own.ids(quantity, split), floor))
    if study.exact is not None:
        each = [exact_limits(study.exact, one, study.prefix)["floor"] for one in light]
        for name in studies:
            rows = {key: torch.tensor([one[key] for one in each], dtype=torch.float64) for key in each[0]}
            found[name][1].update({key: _floor(values) for key, values in rows.items()})
    return found


def truth_scores(study: str | Study, realisations: int = REALISATIONS) -> dict[str, Any]:
    """A study's trained models against ensembles of 100 000 realisations; kept in the cache.

    Errors and floors are of the same grid. Studies that share their data are scored at once.

    Args:
        study: one, or the name of one.
        realisations: in all, a multiple of those of the study's own ensembles.

    Returns:
        A dictionary of two, each by the id of `published.csv`: "errors", one for each seed, as in
        `metrics.json`; and "floor", the value and the scatter of a `Floor`, for ensembles of the
        study's own size. Percent, or nats for likelihoods.

    Raises:
        ValueError: an unknown study, or too few realisations.
    """
    one = study_of(study)
    number = count("number of ensembles", realisations // one.realisations, 2)
    peers = {name: other for name, other in STUDIES.items() if other.drawn == one.drawn} | {one.name: one}
    found = {name: result(each) for name, each in peers.items()}

    def compute() -> dict[str, Any]:
        scores = _scores(peers, {name: parts[0] for name, parts in found.items()}, number)
        return {
            name: {"errors": plain(own), "floor": {key: [f.value, f.scatter] for key, f in floors.items()}}
            for name, (own, floors) in scores.items()
        }

    keys = [number, *(metrics["key"] for *_, metrics in found.values())]
    stored = cached("truth", keys, compute, Path(__file__))[one.name]
    return stored | {"errors": restored_errors(stored["errors"])}
