"""Trained seeds of a model: draws of first weights, stages, soundness, restarts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import pi
from pathlib import Path
from statistics import median
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from ibvonns.cache import stored
from ibvonns.files import load_tensors
from ibvonns.layouts import Layout
from ibvonns.metrics import each_error, gauge_free_error
from ibvonns.model import Architecture, Model
from ibvonns.networks import copy_replica
from ibvonns.observations import Observations
from ibvonns.protocols import Protocol
from ibvonns.recipe import Recipe
from ibvonns.training import History, TrainingError, run_of, train

__all__ = ["Fit", "Score", "astray", "disagreement", "fitted", "force_noise", "scores", "unseen", "unsound"]

SWELL = 0.5  # share by which an unseen pull swells and fades
WIDER = 1.25  # range and speed of a random one, in units of the data's
RESTART = 1000  # from one draw of a seed to the next


@dataclass(frozen=True)
class Score:
    """Error of rolled-out training data beside the sampling noise of the data.

    Attributes:
        errors: percent, one for each replica; infinite where a rollout has run away.
        noise: percent, of the data themselves. The noise floor of a rollout, the error of an exact
            theory that starts as they do, is at most that.
    """

    errors: tuple[float, ...]
    noise: float


@dataclass(frozen=True)
class Fit:
    """A trained model and how it came about.

    Attributes:
        model: one replica for each seed.
        data: what it was trained on.
        history: terms of the loss at every tenth step of all stages.
        draws: for each seed the draw of its first weights that went on, counted from 0.
        scores: of the training data, by the name of what is compared.
        sound: largest error of a sound seed, in units of the noise.
    """

    model: Model
    data: Observations
    history: History
    draws: list[int]
    scores: dict[str, Score]
    sound: float = 3.0

    @property
    def unsound(self) -> list[str]:
        """A sentence for each seed that misses its training data by more than a sound one may."""
        said = []
        for index in unsound(self.scores, self.sound):
            parts = (
                f"{name} {score.errors[index] / score.noise:.2g} times its noise ({score.errors[index]:.2g} to "
                f"{score.noise:.2g} %)"
                for name, score in self.scores.items()
                if not score.errors[index] <= self.sound * score.noise
            )
            seed = self.model.seeds[index]
            said.append(f'seed {seed}: {", ".join(parts)}: try internal="auto", more conditions or more steps')
        return said

    def __str__(self) -> str:
        lines = []
        for name, score in self.scores.items():
            low, middle, high = (f"{each:.2g}" for each in (min(score.errors), median(score.errors), max(score.errors)))
            lines.append(f"{name}: error {middle} % [{low}, {high}], noise floor at most {score.noise:.2g} %")
        return "\n".join(lines)


def fitted(
    architecture: Architecture,
    data: Observations,
    seeds: Sequence[int],
    recipe: Recipe | None = None,
    folder: str | os.PathLike[str] | None = None,
    strict: bool = True,
) -> Fit:
    """Train an architecture on observations, each seed until it is sound.

    Some draws of first weights end in a poor minimum, and a short training may tell them long
    before the long windows are paid for: every seed is drawn `recipe.candidates` times (from seed,
    seed + 1000, ...), all go through the first stage, and the one with the lowest loss over its
    last 50 steps goes on. A seed whose rollouts miss the training data in the end by over
    `recipe.sound` times their sampling noise is drawn anew, and so is one that training gave up
    (`Stage.rescues`), or that goes astray on protocols that none has seen, random ones among them
    (`astray`). alpha cannot collapse, because its gauge is fixed (`Encoder`); no exact theory is asked.

    Args:
        architecture: of the model.
        data: the training observations.
        seeds: one for each replica.
        recipe: that of `Recipe.of` if not given.
        folder: where checkpoints are kept while training runs; none if not given.
        strict: whether a seed that is unsound after all attempts ends it; else it is kept (`Fit.unsound`).

    Raises:
        TrainingError: a seed is unsound or lost after all attempts, or a loss is not finite in a stage
            without rescues.
    """
    recipe = recipe or Recipe.of(architecture.layout, architecture.gas)
    model = Model(seeds, architecture)
    history, draws = _trained(model, data, recipe, folder)
    for attempt in range(1, recipe.attempts + 1):
        found = scores(model, data)
        gone = torch.stack([terms[-1].isnan() for terms in history.values()]).all(0)
        poor = sorted({*unsound(found, recipe.sound), *gone.nonzero().flatten().tolist()})
        odd = sorted({*poor, *astray(model, data, found, recipe.astray)})
        if not odd or (attempt == recipe.attempts and not (poor and strict)):
            break
        if attempt == recipe.attempts:
            raise TrainingError(
                f"seeds {[model.seeds[index] for index in poor]} miss their training data by over {recipe.sound:g} "
                f"times its sampling noise, or were lost on the way, after {attempt} attempts; try more steps, "
                "more candidates or a lower rate"
            )
        jump = RESTART * recipe.candidates * attempt
        again = Model([model.seeds[index] + jump for index in odd], architecture)
        anew, drawn = _trained(again, data, recipe, folder)
        for place, index in enumerate(odd):
            copy_replica(model, index, again, place)
            draws[index] = recipe.candidates * attempt + drawn[place]
            for name, terms in anew.items():
                history[name][:, index] = terms[:, place]
    found = scores(model, data)
    return Fit(model, data, history, draws, found, recipe.sound)


def _trained(
    model: Model, data: Observations, recipe: Recipe, folder: str | os.PathLike[str] | None
) -> tuple[History, list[int]]:
    """Train a fresh model, each seed from the best of its draws; the history, and those draws."""
    seeds, number, draws = model.seeds, recipe.candidates, [0] * len(model.seeds)
    files = list[Path]()

    def checkpoint(of: Model, plan: Recipe) -> Path | None:
        """A file that no other run writes, so that it is this run's to go on from, and to remove."""
        if folder is None:
            return None
        files.append(Path(folder) / f".checkpoint-{run_of(of, data, plan)[:24]}.safetensors")
        if stored(files[-1], load_tensors) is None:
            files[-1].unlink(missing_ok=True)
        return files[-1]

    if number > 1:
        many = Model([seed + RESTART * n for seed in seeds for n in range(number)], model.architecture)
        plan = replace(recipe, stages=recipe.stages[:1])
        opening = train(many, data, plan, checkpoint(many, plan))
        weights = recipe.stages[0].weights
        loss = torch.stack([weights[name] * terms[-5:].mean(0) for name, terms in opening.items()]).sum(0)
        draws = loss.nan_to_num(torch.inf).unflatten(0, (len(seeds), number)).argmin(1).tolist()
        places = [number * index + best for index, best in enumerate(draws)]
        for index, place in enumerate(places):
            copy_replica(model, index, many, place)
    history = train(model, data, recipe, checkpoint(model, recipe), first=int(number > 1))
    if number > 1:
        for name, terms in opening.items():
            history[name][: len(terms)] = terms[:, places]
    for file in files:
        file.unlink(missing_ok=True)
    return history, draws


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
    scatter, run, bonds = data.standard_error(), model.predict(data), model.architecture.bonds
    spread = data.mean if bonds else data.mean - data.mean.mean()
    noise = 100 * float(scatter.norm() / spread.norm())

    if bonds:
        return {"field": Score(tuple(each_error(run.field[..., -1:], data.field[..., -1:])), noise)}
    told = slice(model.encoder.anchored or None)  # the mean, whose noise is known
    alpha = Score(tuple(each_error(run.alpha[..., told], model.encode(data)[..., told], gauge_free_error)), noise)
    if data.force is None or run.force is None:
        return {"alpha": alpha}
    floor = 100 * force_noise(data).norm(dim=0) / data.force.flatten(0, 1).norm(dim=0)
    names = (
        ["force"] if len(floor) == 1 else [f"force {name}" for name in model.architecture.forces or range(len(floor))]
    )
    each = zip(run.force.split(1, -1), data.force.split(1, -1), floor.tolist(), strict=True)
    found = {
        name: Score(tuple(each_error(ours, true)), low) for name, (ours, true, low) in zip(names, each, strict=True)
    }
    return {**found, "alpha": alpha}


def force_noise(data: Observations) -> Tensor:
    """Sampling noise of F_ex of a point, (rows, ends): by what it answers to mean and variance, from the data alone.

    The answer is a regression, by polynomials of the second degree, on controls, mean and variance.

    Args:
        data: of a point whose forces were measured.
    """
    parts = data.field[:, :, 0].flatten(0, 1), data.mean.flatten(0, 2), data.variance.flatten(0, 2)
    known, number = torch.cat(parts, -1), data.mean.shape[-1]
    noise = torch.cat([(parts[2] / data.count).sqrt(), parts[2] * (2 / data.count) ** 0.5], -1)
    centre, scale = known.mean(0), known.std(0).clamp_min(1e-300)

    def basis(x: Tensor) -> Tensor:
        x = torch.cat([torch.ones_like(x[:, :1]), (x - centre) / scale], -1)
        pairs = torch.combinations(torch.arange(x.shape[-1]), with_replacement=True)
        return x[:, pairs].prod(-1)

    here = basis(known)
    still = torch.linalg.lstsq(here, data.force.flatten(0, 1), driver="gelsd").solution  # type: ignore[union-attr]
    total, fields = torch.zeros_like(data.force).flatten(0, 1), data.field.shape[-1]  # type: ignore[arg-type]
    for n in range(2 * number):
        away = known.clone()
        away[:, fields + n] += noise[:, n]
        total += ((basis(away) - here) @ still).square()
    return total.sqrt()


def unsound(found: dict[str, Score], sound: float) -> list[int]:
    """Replicas that miss the data by more than so many times the noise, by index.

    Args:
        found: as `scores` gives it.
        sound: the largest error of a sound one, in units of the noise.
    """
    each = zip(*([error <= sound * score.noise for error in score.errors] for score in found.values()), strict=True)
    return [index for index, good in enumerate(each) if not all(good)]


def unseen(data: Observations, layout: Layout) -> dict[str, Observations]:
    """Histories of what pulls that nobody has recorded, from the recorded first states.

    Args:
        data: the training observations.
        layout: of the sites.

    Returns:
        Under "swelled" the recorded pulls, which swell and fade by half over the record; under "wandering" smooth
        random ones, a quarter wider and faster than the data. They move a driven end, or are the controls of a
        point; where nothing pulls, there is none.
    """
    if layout.directions and data.velocity is None:
        return {}
    times = data.times
    path = data.spacing * data.field[..., -1:].sum(2) if layout.directions else data.field[:, :, 0]  # (.., controls)
    share = (times - times[0]) / (times[-1] - times[0])
    swell = 1 + SWELL * torch.sin(2 * pi * share)
    gone = path.diff(dim=1)
    low, high = path.amin((0, 1)), path.amax((0, 1))
    wide, fast = WIDER * (high - low), WIDER * (gone.abs() / times.diff()[:, None]).amax((0, 1))
    first, middle = path[:, :1], (low + high) / 2
    shape = [Protocol("random", times=(1.0,), seed=seed).length(share) for seed in range(first.numel())]
    way = torch.stack(shape, 1).unflatten(1, first[:, 0].shape).movedim(0, 1)
    way = way - way[:, :1]
    reach = way.amax(1, True), -way.amin(1, True), (way.diff(dim=1).abs() / times.diff()[:, None]).amax(1, True)
    room = middle + wide / 2 - first, first - middle + wide / 2, fast.expand_as(first)
    size = (torch.stack(room) / torch.stack(reach).clamp_min(1e-9)).amin(0)

    def along(path: Tensor) -> Observations:
        if data.velocity is None or not layout.directions:
            return replace(data, field=path[:, :, None])
        velocity = path[..., 0].diff(dim=1) / times.diff()
        return replace(data, velocity=torch.cat([data.velocity[:, :1], velocity], 1))

    swelled = first + pad((gone * swell[1:, None]).cumsum(1), (0, 0, 1, 0))
    return {"swelled": along(swelled), "wandering": along(first + size * way)}


@torch.no_grad()
def disagreement(model: Model, data: Observations) -> dict[str, Tensor]:
    """How far each seed lies from the median of all on what none has seen: percent, (replicas,) for each of `unseen`.

    Nothing is known of what the system would do: a seed that was lucky on its training data, but goes its own way
    off them, is told by the others. Compared are the fields of sites with bonds and F_ex of a point.

    Args:
        model: trained, with its gauge frozen.
        data: what it was trained on.

    Reference: Seung, Opper, Sompolinsky, Query by committee, 1992.
    """
    out = {}
    for name, asked in unseen(data, model.law.layout).items():
        run = model.predict(asked, "velocity")
        answer = run.field[..., -1:] if model.architecture.bonds else cast(Tensor, run.force) / model.law.force
        middle = answer.nanmedian(0).values
        out[name] = 100 * (answer - middle).flatten(1).norm(dim=1) / (middle - middle.mean()).norm()
    return out


def astray(model: Model, data: Observations, found: dict[str, Score], times: float) -> list[int]:
    """Replicas that run away where none has been, or lie further from the median than others and noise, by index.

    Args:
        model: trained, with its gauge frozen.
        data: what it was trained on.
        found: as `scores` gives it.
        times: by how much further than the median distance; below four seeds none is judged by it.
    """
    odd = set[int]()
    for apart in disagreement(model, data).values():
        least = max(times * float(apart.nanmedian()), max(score.noise for score in found.values()))
        odd |= {*(~(apart <= (least if len(apart) > 3 else torch.inf))).nonzero().flatten().tolist()}
    return sorted(odd)
