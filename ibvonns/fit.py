"""From an ensemble to a trained model: draws of first weights, stages, soundness, restarts."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import pi
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from ibvonns.answers import Answer, predict
from ibvonns.cache import stored
from ibvonns.ensemble import Density, Ensemble
from ibvonns.files import load_tensors
from ibvonns.inspection import inspect
from ibvonns.layouts import Layout, Point, Row
from ibvonns.metrics import each_error, gauge_free_error
from ibvonns.model import Architecture, Model
from ibvonns.networks import copy_replica
from ibvonns.observations import Observations, observe
from ibvonns.protocols import Protocol
from ibvonns.recipe import Recipe, Stage
from ibvonns.training import History, TrainingError, run_of, train
from ibvonns.validation import count, require

if TYPE_CHECKING:
    from ibvonns.selection import Choice

__all__ = ["Fit", "Score", "astray", "disagreement", "fit", "fitted", "scores", "unseen", "unsound"]

_log = logging.getLogger(__name__)
LOSS = 0.02  # nats that a Gaussian may lose
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
        choice: of the number of internal variables, if that was left to `fit`.
    """

    model: Model
    data: Observations
    history: History
    draws: list[int]
    scores: dict[str, Score]
    sound: float = 3.0
    choice: "Choice | None" = None

    def predict(self, times: Any, controls: Mapping[str, Any], **how: Any) -> Answer:
        """`answers.predict` of the model, for `times`, `controls` and `how` else that is asked."""
        return predict(self.model, times, controls, **how)

    def save(self, path: str | os.PathLike[str]) -> None:
        """`Model.save` to `path`."""
        self.model.save(path)

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


def fit(
    ensemble: Ensemble | Iterable[Ensemble] | Observations,
    layout: Layout | None = None,
    controls: str | Sequence[str] = (),
    forces: str | Sequence[str] = "external_force",
    internal: int | str = 1,
    seeds: int | Sequence[int] = 2,
    decoder: str = "auto",
    spacing: float | None = None,
    recipe: Recipe | None = None,
    folder: str | os.PathLike[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    temperature: float | None = None,
    steps: str = "midpoint",
    check: bool = True,
    **options: Any,
) -> Fit:
    """Learn encoder, decoder and law from an ensemble, whatever the system.

    Before anything is learned the data are inspected (`inspection.inspect`): what is wrong with them is raised,
    what may be wrong is told to the logger "ibvonns". A seed that is unsound in the end (`fitted`) is kept, and told.

    Args:
        ensemble: the realisations, their parts one after another, or what was observed of them.
        layout: of the sites; if not given, a point, or with parameters a row.
        controls: names of the records that are the controls of a point, as for `observe`.
        forces: names of the records of what they answer, in the same order, or of the force at the end of a row;
            none if it was not measured, at a point. F_ex is then known but for a function of the controls alone,
            which nothing that was measured tells; without the temperature, but for its unit, too.
        internal: number of internal variables of a site; or "auto", the smallest that predicts a quarter of the
            conditions, which it is not trained on, as well as any (`selection.choose`).
        seeds: one for each replica, or how many, from 0.
        decoder: one of `model.DECODERS`; or "auto": a Gaussian at a point where the positions are Gaussian, as far
            as skewness and kurtosis tell, else a flow.
        spacing: natural length of a site; a row needs it.
        recipe: if not given, that of `Recipe.of`, with its windows as shares of the record.
        folder: where checkpoints are kept while training runs, from which a run that was interrupted goes on; none
            if not given.
        parameters: of a row, by name: known numbers that tell its sites apart, each of shape (sites,).
        temperature: kBT, in the unit of F_ex times a position; with it heat is known, too (`answers.predict`).
        steps: "midpoint" for what goes on between two records, as all that is measured does; "euler" for what was
            simulated with one step from each record to the next.
        check: whether to inspect the data.
        options: further attributes of `Architecture`, such as neighbours, wells, reference or gas.

    Raises:
        ValueError: data that are wrong, or as `observe` and `Architecture`.
        TrainingError: a loss is not finite in a stage without rescues.

    >>> from ibvonns import Phase, Recipe, Stage
    >>> from ibvonns.systems.trap import Trap
    >>> few = Trap().simulate_paper(velocities=(0.5, 1.0), realisations=50)
    >>> short = Recipe((Stage((Phase(0, 5),), {"density": 1.0}),), attempts=0)
    >>> fit(few, controls="pulled_length", seeds=1, recipe=short).scores.keys()
    dict_keys(['force', 'alpha'])
    """
    names, answers = ((given,) if isinstance(given, str) else tuple(given) for given in (controls, forces))
    layout = layout or (Row(len(parameters)) if parameters else Point(len(names) or 1))
    units: Mapping[str, str] = {}
    if not isinstance(ensemble, Observations):
        first, parts = _opened(ensemble)
        units = getattr(first, "units", {})
        if check:
            _inspected(first, layout, names, answers, 1 if internal == "auto" else int(internal), spacing)
        known = {"parameters": parameters, "temperature": temperature}
        data = observe(parts, names, answers, spacing=spacing or 1.0, **known)  # type: ignore[arg-type]
    else:
        data = ensemble
    if layout.driven and data.velocity is None:  # the end moves by what all sites grow
        grown = data.spacing * data.field[..., -1].sum(2).diff(dim=1) / data.times.diff()
        data = replace(data, velocity=torch.cat([grown[:, :1], grown], 1))
    components = data.mean.shape[-1]
    if decoder == "auto":
        decoder = _dense(data, layout)
    of = Architecture(
        layout, data.spacing, 1, decoder, components, steps=steps, controls=names or tuple(parameters or ()),
        forces=answers if data.force is not None and len(answers) == data.force.shape[-1] else (), units=units,
        temperature=temperature,
        **{"sigmoids": 1 if components > 1 and decoder == "gaussians" else 2, **options},
    )  # fmt: skip
    recipe = recipe or _suited(Recipe.of(layout, of.gas), data, layout)
    seeds = range(count("seeds", seeds)) if isinstance(seeds, int) else seeds
    choice = None
    if internal == "auto":
        from ibvonns.selection import choose  # it fits

        held = torch.arange(len(data.field)) % 4 == 2
        enough = f"internal must be a number with fewer than 8 conditions, but is 'auto' with {len(held)}"
        require(len(held) >= 8, enough)
        kept, left = (data.select(which.nonzero().flatten()) for which in (~held, held))
        choice = choose(kept, left, of, seeds=seeds[:2], recipe=recipe, folder=folder)
        internal = choice.number
    found = fitted(replace(of, internal=int(internal)), data, seeds, recipe, folder, strict=False)
    for sentence in (found := replace(found, choice=choice)).unsound:
        _log.warning("%s", sentence)
    return found


def _opened(ensemble: Ensemble | Iterable[Ensemble]) -> tuple[Ensemble, Iterable[Ensemble]]:
    """The first part, and all."""
    parts = iter([ensemble] if isinstance(ensemble, Ensemble) else ensemble)
    first = next(parts, None)
    if first is None:
        raise ValueError("ensemble must have at least 1 part, but has none")
    return first, chain([first], parts)


def _inspected(
    part: Ensemble, layout: Layout, names: Sequence[str], answers: Sequence[str], internal: int, spacing: float | None
) -> None:
    """Raise what is wrong with an ensemble, and tell what may be."""
    if layout.directions and not layout.driven:
        return
    known = [name for name in answers if name in part.records]
    for finding in inspect(part, names, known, layout, internal, spacing).findings:
        require(finding.kind != "error", finding.what)
        _log.warning("%s", finding.what)


def _dense(data: Observations, layout: Layout) -> str:
    """A decoder: Gaussian at a point, if a Gaussian loses less than `LOSS` nats by its skewness and kurtosis."""
    if layout.directions:
        return "flow"
    some, away = data.at(slice(None, None, max(1, len(data.times) // 20))), data.mean.new_zeros(())
    for power, share in ((3, 12.0), (4, 48.0)):
        if isinstance(cloud := some.cloud, Density):
            moment = (cloud.weights[..., None] * (cloud.grid[:, None] - some.mean[..., None, :]) ** power).sum(-2)
        else:
            moment = (cloud.positions - some.mean[..., None, :]).pow(power).mean(-2)
        excess = moment / some.variance ** (power / 2) - (3 if power == 4 else 0)
        away = away + (excess.square() / share).mean()
    gaussian = "gaussian" if data.mean.shape[-1] == 1 else "gaussians"
    return gaussian if float(away) - 1 / data.count < LOSS else "flow"


def _suited(recipe: Recipe, data: Observations, layout: Layout) -> Recipe:
    """A recipe with windows as shares of the record, and without weight on what is but noise.

    The v_n of an end that a force drives is a mean of few realisations over a short time. Its term then has the
    weight of its noise, as neighbouring steps tell it.
    """
    last, stages = len(data.times) - 1, list[Stage]()
    for stage in recipe.stages:
        weights = dict(stage.weights)
        if layout.driven and data.velocity is not None and "end" in weights:
            bent = data.velocity[:, 1:].diff(n=2, dim=1).square().mean() / 6
            weights["end"] = min(weights["end"], float(data.velocity.square().mean() / bent.clamp_min(1e-300)))
        if data.force is None and data.mobility is not None:
            weights["fluctuation"] = 1.0
        phases = tuple(
            replace(each, window=min(last // each.stride, max(2, round(each.window * last / 300))))
            if each.window > 1 else each for each in stage.phases
        )  # fmt: skip
        stages.append(replace(stage, phases=phases, weights=weights))
    return replace(recipe, stages=tuple(stages))


def fitted(
    architecture: Architecture,
    data: Observations,
    seeds: Sequence[int],
    recipe: Recipe | None = None,
    folder: str | os.PathLike[str] | None = None,
    strict: bool = True,
) -> Fit:
    """`fit` for an architecture and observations.

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
    alpha = Score(tuple(each_error(run.alpha, model.encode(data), gauge_free_error)), noise)
    if data.force is None or run.force is None:
        return {"alpha": alpha}
    # how F_ex answers to the mean at given controls, the stiffness, by least squares from the data alone
    columns = data.mean.flatten(2), data.field.flatten(2), torch.ones_like(data.mean[..., 0])
    stiff = torch.linalg.lstsq(torch.cat(columns, -1).flatten(0, 1), data.force.flatten(0, 1)).solution
    answer = scatter.flatten(2).square() @ stiff[: data.mean.shape[-1]].square()  # (conditions, times, ends)
    floor = 100 * answer.sum((0, 1)).sqrt() / data.force.flatten(0, 1).norm(dim=0)
    names = (
        ["force"] if len(floor) == 1 else [f"force {name}" for name in model.architecture.forces or range(len(floor))]
    )
    each = zip(run.force.split(1, -1), data.force.split(1, -1), floor.tolist(), strict=True)
    found = {
        name: Score(tuple(each_error(ours, true)), low) for name, (ours, true, low) in zip(names, each, strict=True)
    }
    return {**found, "alpha": alpha}


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
