"""From an ensemble to a trained model: draws of first weights, stages, soundness, restarts."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from ibvonns.ensemble import Ensemble
from ibvonns.layouts import Layout
from ibvonns.metrics import gauge_free_error, relative_error
from ibvonns.model import Architecture, Model
from ibvonns.networks import copy_replica
from ibvonns.observations import Observations, observe
from ibvonns.recipe import Recipe
from ibvonns.training import History, TrainingError, train

__all__ = ["Fit", "Score", "fit", "fitted", "scores"]

RESTART = 1000  # from one draw of a seed to the next


@dataclass(frozen=True)
class Score:
    """Error of rolled-out training data, and the sampling noise that it cannot be told from.

    Attributes:
        errors: percent, one for each replica; infinite where a rollout has run away.
        floor: percent, the sampling noise of the data themselves.
    """

    errors: tuple[float, ...]
    floor: float


@dataclass(frozen=True)
class Fit:
    """A trained model and how it came about.

    Attributes:
        model: one replica for each seed.
        data: what it was trained on.
        history: terms of the loss at every tenth step of all stages.
        draws: for each seed the draw of its first weights that went on, counted from 0.
        scores: of the training data, by the name of what is compared.
    """

    model: Model
    data: Observations
    history: History
    draws: list[int]
    scores: dict[str, Score]

    def __str__(self) -> str:
        lines = []
        for name, score in self.scores.items():
            ordered = sorted(score.errors)
            middle = ordered[len(ordered) // 2]
            lines.append(
                f"{name}: error {middle:.2g} % [{ordered[0]:.2g}, {ordered[-1]:.2g}], noise floor {score.floor:.2g} %"
            )
        return "\n".join(lines)


def fit(
    ensemble: Ensemble | Iterable[Ensemble] | Observations,
    layout: Layout,
    control: str | Sequence[str] = (),
    internal: int = 1,
    seeds: Sequence[int] = (0, 1),
    decoder: str | None = None,
    spacing: float = 1.0,
    recipe: Recipe | None = None,
    folder: str | os.PathLike[str] | None = None,
    wells: float = 2.0,
    reference: float | None = None,
) -> Fit:
    """Learn encoder, decoder and law from an ensemble, whatever the system.

    Args:
        ensemble: the realisations, their parts one after another, or what was observed of them.
        layout: of the sites.
        control: names of the records that are the controls of a point, as for `observe`.
        internal: number of internal variables of a site.
        seeds: one for each replica.
        decoder: one of `model.DECODERS`; "gaussian" at a point and "flow" elsewhere if not given.
        spacing: natural length of a site.
        recipe: that of `Recipe.of` if not given.
        folder: where checkpoints are kept while training runs; none if not given.
        wells: distance of a mixture's two Gaussians.
        reference: as for `Architecture`.

    Raises:
        ValueError: as `observe` and `Architecture`.
        TrainingError: a seed is unsound after all attempts, or a loss is not finite.

    >>> from ibvonns import Phase, Recipe, Stage, layouts
    >>> from ibvonns.systems.trap import Trap
    >>> few = Trap().simulate_paper(velocities=(0.5, 1.0), realisations=50)
    >>> short = Recipe((Stage((Phase(0, 5),), {"density": 1.0}),), attempts=0)
    >>> fit(few, layouts.Point(), "pulled_length", seeds=[0], recipe=short).scores.keys()
    dict_keys(['force', 'alpha'])
    """
    data = ensemble
    if not isinstance(data, Observations):
        data = observe(data, control, spacing=spacing)
    usual = "flow" if layout.directions else "gaussian"
    architecture = Architecture(layout, data.spacing, internal, decoder or usual, data.mean.shape[-1], reference, wells)
    return fitted(architecture, data, seeds, recipe, folder)


def fitted(
    architecture: Architecture,
    data: Observations,
    seeds: Sequence[int],
    recipe: Recipe | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Fit:
    """`fit` for an architecture and observations.

    Some draws of first weights end in a poor minimum, and a short training may tell them long
    before the long windows are paid for: every seed is drawn `recipe.candidates` times (from seed,
    seed + 1000, ...), all go through the first stage, and the one with the lowest loss over its
    last 50 steps goes on. A seed whose rollouts miss the training data in the end by over
    `recipe.sound` times their sampling noise is drawn anew. alpha cannot collapse, because its
    gauge is fixed (`Encoder`); no exact theory is asked.

    Args:
        architecture: of the model.
        data: the training observations.
        seeds: one for each replica.
        recipe: that of `Recipe.of` if not given.
        folder: where checkpoints are kept while training runs; none if not given.

    Raises:
        TrainingError: a seed is unsound after all attempts, or a loss is not finite.
    """
    recipe = recipe or Recipe.of(architecture.layout)
    model = Model(seeds, architecture)
    history, draws = _trained(model, data, recipe, folder)
    for attempt in range(1, max(recipe.attempts, 1) + 1):
        found = scores(model, data)
        poor = unsound(found, recipe.sound) if recipe.attempts else []
        if not poor:
            return Fit(model, data, history, draws, found)
        if attempt == recipe.attempts:
            break
        jump = RESTART * recipe.candidates * attempt
        again = Model([model.seeds[index] + jump for index in poor], architecture)
        anew, drawn = _trained(again, data, recipe, folder)
        for place, index in enumerate(poor):
            copy_replica(model, index, again, place)
            for name, terms in anew.items():
                history[name][:, index] = terms[:, place]
            draws[index] = recipe.candidates * attempt + drawn[place]
    bad = [model.seeds[index] for index in poor]
    raise TrainingError(
        f"seeds {bad} miss their training data by over {recipe.sound:g} times its sampling noise "
        f"after {recipe.attempts} attempts; try more steps, more candidates or a lower learning rate"
    )


def _trained(
    model: Model, data: Observations, recipe: Recipe, folder: str | os.PathLike[str] | None
) -> tuple[History, list[int]]:
    """Train a fresh model, each seed from the best of its draws; the history, and those draws."""
    seeds, number = model.seeds, recipe.candidates

    def file(name: str) -> Path | None:
        return None if folder is None else Path(folder) / f".{name}-{seeds[0]}.safetensors"

    def clear(name: str) -> None:
        if (path := file(name)) is not None:
            path.unlink(missing_ok=True)

    if number == 1:
        history = train(model, data, recipe, file("training"))
        clear("training")
        return history, [0] * len(seeds)
    many = Model([seed + RESTART * n for seed in seeds for n in range(number)], model.architecture)
    opening = replace(recipe, stages=recipe.stages[:1])
    first = train(many, data, opening, file("draws"))
    weights = recipe.stages[0].weights
    loss = torch.stack([weights[name] * terms[-5:].mean(0) for name, terms in first.items()]).sum(0)
    draws = loss.unflatten(0, (len(seeds), number)).argmin(1).tolist()
    places = [number * index + best for index, best in enumerate(draws)]
    for index, place in enumerate(places):
        copy_replica(model, index, many, place)
    rest = train(model, data, recipe, file("training"), first=1)
    clear("draws")
    clear("training")
    return _after({name: terms[:, places] for name, terms in first.items()}, rest), draws


def _after(one: History, other: History) -> History:
    """Two histories, one after the other."""
    rows = [len(next(iter(part.values()))) for part in (one, other)]
    like = next(iter(one.values()))

    def part(history: History, name: str, number: int) -> Tensor:
        return history.get(name, like.new_full((number, like.shape[1]), torch.nan))

    names = list(dict.fromkeys([*one, *other]))
    return {
        name: torch.cat([part(each, name, n) for each, n in zip((one, other), rows, strict=True)]) for name in names
    }


@torch.no_grad()
def scores(model: Model, data: Observations) -> dict[str, Score]:
    """Errors of rollouts over some observations, beside the sampling noise of the data themselves.

    Of sites with bonds the field is compared, with F_ex given; of a point F_ex and alpha. It asks
    nothing but the data, so that it serves where no theory is known.

    Args:
        model: trained, with its gauge frozen.
        data: what it was trained on, or other observations.

    Returns:
        By the name of what is compared.
    """
    noise = data.standard_error()
    if data.count < 2:
        raise ValueError("ensemble must hold at least 2 realisations for its sampling noise")
    run = model.predict(data)
    if model.architecture.bonds:
        floor = 100 * float(noise.norm() / data.mean.norm())
        return {"field": _score(run.field, data.field, floor)}
    assert data.force is not None and run.force is not None
    alpha = model.encode(data)
    mean_floor = 100 * float(noise.norm() / (data.mean - data.mean.mean()).norm())
    return {
        "force": _score(run.force, data.force, 100 * _answer(data, noise)),
        "alpha": Score(_each(run.alpha, alpha, gauge_free_error), mean_floor),
    }


def _answer(data: Observations, noise: Tensor) -> float:
    """Noise of F_ex over its norm: that of the mean, by how much F_ex answers to it.

    The answer at given controls, the stiffness, is fitted by least squares to the data alone.
    """
    assert data.force is not None
    columns = data.mean.flatten(2), data.field.flatten(2), torch.ones_like(data.mean[..., 0])
    state = torch.cat(columns, -1).flatten(0, 1)
    stiff = torch.linalg.lstsq(state, data.force.flatten(0, 1)).solution
    scatter = noise.flatten(2).square() @ stiff[: data.mean.shape[-1]].square()
    return float(scatter.sum().sqrt() / data.force.norm())


def _each(run: Tensor, truth: Tensor, measure: object) -> tuple[float, ...]:
    """An error of each replica, infinite where its rollout has run away."""
    pairs = zip(run, truth, strict=True)
    return tuple(
        measure(one, other) if bool(one.isfinite().all()) else inf  # type: ignore[operator]
        for one, other in pairs
    )


def _score(run: Tensor, truth: Tensor, floor: float) -> Score:
    return Score(_each(run, truth.expand_as(run), relative_error), floor)


def unsound(found: dict[str, Score], sound: float) -> list[int]:
    """Replicas that miss the data by more than so many times the noise, by index.

    Args:
        found: as `scores` gives it.
        sound: the largest error of a sound one, in units of the noise.
    """
    number = len(next(iter(found.values())).errors)
    return [
        index
        for index in range(number)
        if any(not score.errors[index] <= sound * score.floor for score in found.values())
    ]
