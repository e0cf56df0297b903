"""Noise floors with their scatter, and truths with hardly any noise, from many small ensembles.

The truth of a study is a mean over 2000 or 4000 realisations, and its own noise hides how good a
model is. Other ensembles of the same size tell how large that noise is and how it varies. All of
them together are a truth in which a fifth of it is left. Those of a chain come in pairs: the second
starts from the very chains of the first, with other noise.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ibvonns.cache import cached
from ibvonns.ensemble import Density
from ibvonns.files import plain
from ibvonns.model import Model
from ibvonns.observations import Observations, joined
from ibvonns.paper.limits import Restarted, comparable, exact_limits, restart_floors
from ibvonns.paper.results import restored_errors, result
from ibvonns.paper.studies import STUDIES, Study, errors, study_of
from ibvonns.systems.chain import Chain
from ibvonns.validation import count, finite, shaped

__all__ = ["Floor", "floor_of", "truth_scores"]

ENSEMBLES = 25  # of which a truth consists, each as large as the study's own
FIRST = 20_000  # data seed of the first ensemble; nothing else draws from it or the next ones
FORCED = 4  # ensembles that are run again with their F_ex given


@dataclass(frozen=True)
class Floor:
    """Error of an exact theory given what a prediction is given: what the noise leaves (`limits`).

    Attributes:
        value: percent, the mean over ensembles.
        scatter: standard deviation from one ensemble to another.
    """

    value: float
    scatter: float


def floor_of(errors: Sequence[Sequence[float]]) -> Floor:
    """Noise floor from those of several ensembles; of several replicas, the middle one.

    Args:
        errors: percent, shape (ensembles, replicas), two ensembles or more.

    Raises:
        ValueError: NaN, or fewer than two ensembles.

    >>> floor_of([[1.0, 9.0, 2.0], [2.0, 9.0, 3.0]])
    Floor(value=2.5, scatter=0.7071067811865476)
    """
    values = shaped("errors", torch.tensor(errors, dtype=torch.float64), ("ensembles", "replicas"))
    count("number of ensembles", len(finite("errors", values)), 2)
    middle = values.mean(0).argsort()[values.shape[1] // 2]
    return Floor(float(values[:, middle].mean()), float(values[:, middle].std()))


def _runs(study: Study, split: str, number: int) -> Iterator[tuple[str, Observations]]:
    """Ensembles of a truth, each with what was given if it starts where the last new one did, else "".

    With v_n given, a second run is as good a part of the truth as the first. With F_ex given, the
    F_ex of the first drives it, so that it is no part of the truth: a few of these must do.
    """
    grid, paired = study.grid(split), study.exact is None
    for index in range((number + 1) // 2 if paired else number):
        seen = study.observed(split, FIRST + index, grid=grid)
        force = cast(Tensor, seen.force)[..., 0]
        yield "", seen
        del seen  # clouds are large
        for noise, given, pull in ((1, "velocity", None), (2, "force", force)) if paired else ():
            if index < FORCED if given == "force" else 2 * index + 1 < number:
                again = study.with_system(Restarted(cast(Chain, study.system), noise, pull))
                yield given, again.observed(split, FIRST + index, grid=grid)


Scores = dict[str, tuple[dict[str, list[float]], dict[str, Floor]]]


@torch.no_grad()
def _scores(studies: Mapping[str, Study], models: Mapping[str, Model], number: int) -> Scores:
    """Errors and floors of studies that share their data, a split and an ensemble at a time."""
    study = next(iter(studies.values()))
    found: Scores = {name: ({}, {}) for name in studies}
    light: dict[str, list[Observations]] = {}  # moments and records alone
    for split in study.splits:
        total: Any = None
        start: dict[str, dict[str, Tensor]] = {}
        floors = defaultdict[tuple[str, str], list[list[float]]](list)
        parts: list[Observations] = light.setdefault(split, [])
        for given, seen in _runs(study, split, number):
            thin = seen.coarser(study.recipe.coarse)  # enough to tell two runs apart
            now = {} if study.exact else {name: comparable(thin, model) for name, model in models.items()}
            start = start if given else now
            for name in now if given else ():
                for quantity, values in restart_floors(start[name], now[name]).items():
                    if studies[name].asked(quantity, given):
                        floors[name, studies[name].row(quantity, split, given)].append(values)
            if given != "force":
                parts.append(replace(thin.coarser(study.points), blocks={}))
                total = total or seen.cloud
                total.weights.lerp_(cast(Density, seen.cloud).weights, 1 / len(parts))  # in place: clouds are large
            del seen, thin
        whole = replace(joined(parts), cloud=total)
        for name, own in studies.items():
            found[name][0].update(errors(own, models[name], {split: whole})[0])
        for (name, row), each in floors.items():
            found[name][1][row] = floor_of(each)
    if study.exact is not None:
        each_split = (dict(zip(light, one, strict=True)) for one in zip(*light.values(), strict=True))
        known = [exact_limits(study.exact, one, study.prefix)["floor"] for one in each_split]
        for name in studies:
            found[name][1].update({key: floor_of([[one[key]] for one in known]) for key in known[0]})
    return found


def truth_scores(study: str | Study, ensembles: int = ENSEMBLES) -> dict[str, Any]:
    """A study's trained models against 25 times its realisations; kept in the cache.

    Errors and floors are of the same grid. Studies that share their data are scored at once.

    Args:
        study: one, or the name of one.
        ensembles: of the study's own size, which are the truth together.

    Returns:
        A dictionary of two, each by the id of `published.csv`: "errors", one for each seed, as in
        `metrics.json`; and "floor", the value and the scatter of a `Floor`, for ensembles of the
        study's own size. Percent, or nats for likelihoods.

    Raises:
        ValueError: an unknown study, or fewer than two ensembles.
    """
    one = study_of(study)
    count("ensembles", ensembles, 2)
    peers = {name: other for name, other in STUDIES.items() if other.drawn == one.drawn} | {one.name: one}
    found = {name: result(each) for name, each in peers.items()}

    def compute() -> dict[str, Any]:
        scores = _scores(peers, {name: parts[0] for name, parts in found.items()}, ensembles)
        return {
            name: {"errors": plain(own), "floor": {key: [f.value, f.scatter] for key, f in floors.items()}}
            for name, (own, floors) in scores.items()
        }

    keys = [ensembles, *(metrics["key"] for *_, metrics in found.values())]
    stored = cached("truth", keys, compute, Path(__file__))[one.name]
    return stored | {"errors": restored_errors(stored["errors"])}
