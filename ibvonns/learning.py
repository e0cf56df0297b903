"""From an ensemble to a law in one call, whatever the system."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain
from math import log
from typing import Any

import torch

from ibvonns.answers import Answer, predict
from ibvonns.ensemble import Density, Ensemble
from ibvonns.inspection import inspect
from ibvonns.layouts import Layout, Point, Row
from ibvonns.model import Architecture
from ibvonns.observations import Observations, observe
from ibvonns.recipe import Phase, Recipe, Stage
from ibvonns.seeds import Fit, fitted
from ibvonns.selection import Choice, choose
from ibvonns.units import Units, units_of
from ibvonns.validation import choice, count, require

__all__ = ["Learned", "fit"]

_log = logging.getLogger(__name__)
OWN = "layout spacing internal decoder components steps controls forces units temperature law".split()
USUAL = 110  # sites of all conditions of the book's chain
LOSS = 0.02  # nats that a Gaussian may lose
CUBES, SQUARES = 8, 4  # what f and phi of a point have beside their networks
RESTED = 10.0  # weight of the term "rest" where data begin in equilibrium
BEGIN = 4  # first steps that tell whether a record begins at rest


@dataclass(frozen=True)
class Learned(Fit):
    """A trained model, how it came about, and what one asks it.

    Attributes:
        model: one replica for each seed.
        data: what it was trained on.
        history: terms of the loss at every tenth step of all stages.
        draws: for each seed the draw of its first weights that went on, counted from 0.
        scores: of the training data, by the name of what is compared.
        sound: largest error of a sound seed, in units of the noise.
        choice: of the number of internal variables, if that was left to `fit`.
    """

    choice: Choice | None = None

    def predict(self, times: Any, controls: Mapping[str, Any], **how: Any) -> Answer:
        """`answers.predict` of the model, for `times`, `controls` and `how` else that is asked."""
        return predict(self.model, times, controls, **how)

    def save(self, path: str | os.PathLike[str]) -> None:
        """`Model.save` to `path`."""
        self.model.save(path)

    def report(self, path: str | os.PathLike[str] | None = None, unseen: Observations | None = None) -> str:
        """`show.report.report` of it: a page, written to `path`, with its tests on `unseen` observations if given."""
        return import_module("ibvonns.show.report").report(self, path, unseen)  # by name: no training depends on it


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
    rested: bool | None = None,
    **options: Any,
) -> Learned:
    """Learn encoder, decoder and law from an ensemble, whatever the system.

    Before anything is learned the data are inspected (`inspection.inspect`): what is wrong with them is raised,
    what may be wrong is told to the logger "ibvonns". A seed that is unsound in the end (`fitted`) is kept, and told.
    A law is learned in units of the data's own, with some seven digits, and given back in those of the data (`units`):
    in double precision these change nothing.

    Args:
        ensemble: the realisations, their parts one after another, or what was observed of them.
        layout: of the sites; if not given, a point, or with parameters a row.
        controls: names of the records that are the controls of a point, as for `observe`.
        forces: names of the records of what they answer, in the same order, or of the force at the end of a row;
            none if it was not measured, at a point. How alpha moves is learned all the same, but no energy: what f
            and phi are by themselves, and so F_ex, work and dissipation, such data leave open.
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
        rested: whether all conditions are in equilibrium at the first time of their records, which then tell where f
            is lowest; if not given, what `observe` was told, or else whether mean and variance begin at rest at a
            point, as far as their noise tells.
        options: further attributes of `Architecture`, such as wells, reference or gas; neighbours, which is true on a
            row if not given; or anchored, of several variables at a point: both ways are tried if it is not given, and
            the better one stays.

    Raises:
        ValueError: data that are wrong, an unknown option, or as `observe` and `Architecture`.
        TrainingError: a loss is not finite in a stage without rescues.

    >>> from ibvonns import Phase, Recipe, Stage
    >>> from ibvonns.systems.trap import Trap
    >>> few = Trap().simulate_paper(velocities=(0.5, 1.0), realisations=50)
    >>> short = Recipe((Stage((Phase(0, 5),), {"density": 1.0}),), attempts=0)
    >>> fit(few, controls="pulled_length", seeds=1, recipe=short).scores.keys()
    dict_keys(['force', 'alpha'])
    """
    for option in options:
        choice("option", option, vars(Architecture()).keys() - set(OWN))
    names, answers = ((given,) if isinstance(given, str) else tuple(given) for given in (controls, forces))
    layout = layout or (Row(len(parameters)) if parameters else Point(len(names) or 1))
    units: Mapping[str, str] = {}
    if not isinstance(ensemble, Observations):
        first, parts = _opened(ensemble)
        units = getattr(first, "units", {})
        if check:
            inspected(first, layout, names, answers, 1 if internal == "auto" else int(internal), spacing)
        data = observe(parts, names, answers, spacing=spacing or 1.0, parameters=parameters)
    else:
        data = ensemble
    data = driven(data, layout)
    components = data.mean.shape[-1]
    if rested is None:
        rested = data.rested or _begins_at_rest(data, layout)
        if rested:
            _log.info("all conditions begin at rest: their equilibrium there is taken as known, unless rested=False")
    data = replace(data, rested=rested)
    theirs, given = data, None if data.moves is not None or options.get("gas") is not None else units_of(data, layout)
    data = data if given is None else given.data(data)
    if decoder == "auto":
        decoder = _dense(data, layout)
    usual = {"sigmoids": 1 if components > 1 and decoder == "gaussians" else 2}
    usual["neighbours"] = layout.driven and internal != 0
    usual |= {"cubes": 0 if layout.directions else CUBES, "squares": 0 if layout.directions else SQUARES}
    of = Architecture(
        layout, theirs.spacing, 1, decoder, components, steps=steps, controls=names or tuple(parameters or ()),
        forces=answers if data.force is not None and len(answers) == data.force.shape[-1] else (), units=units,
        temperature=temperature, **{**usual, **options},
    )  # fmt: skip
    inner = of if given is None else given.architecture(of)
    recipe = recipe or suited(Recipe.of(layout, of.gas), data, layout)
    drawn = range(count("seeds", seeds)) if isinstance(seeds, int) else [*map(int, seeds)]
    chosen, kinds = None, [inner] if internal == "auto" else inner.having(int(internal))
    if "anchored" in options:  # as it is asked for, and no other tried
        kinds = [replace(each, anchored=of.anchored) for each in kinds[:1]]
    if internal == "auto" or (len(kinds) > 1 and len(data.field) >= 8):
        numbers = (1, 2, 3) if internal == "auto" else (int(internal),)
        held = torch.arange(len(data.field)) % 4 == 2
        enough = f"internal must be a number with fewer than 8 conditions, but is 'auto' with {len(held)}"
        require(len(held) >= 8, enough)
        kept, left = (data.select(which.nonzero().flatten()) for which in (~held, held))
        chosen = choose(kept, left, inner, numbers, drawn[:2], recipe, folder)
        kinds = [chosen.fits[chosen.number].model.architecture]
    found = fitted(kinds[0], data, drawn, recipe, folder, strict=False)
    if given is not None:
        found = _returned(found, given, of, theirs)
        if chosen is not None:
            kept, more = theirs.select((~held).nonzero().flatten()), components * log(given.position)
            fits = {number: _returned(fit, given, of, kept) for number, fit in chosen.fits.items()}
            nll = {number: tuple(each + more for each in nats) for number, nats in chosen.nll.items()}
            chosen = replace(chosen, fits=fits, nll=nll)
    for sentence in found.unsound:
        _log.warning("%s", sentence)
    return Learned(**vars(found), choice=chosen)


def _returned(found: Fit, given: Units, of: Architecture, data: Observations) -> Fit:
    """A fit in the units of the user, with the data as they came."""
    more = data.mean.shape[-1] * log(given.position)  # nats, of a density per position
    history = {name: terms + more if name == "density" else terms for name, terms in found.history.items()}
    return replace(found, model=given.model(found.model, of), data=data, history=history)


def driven(data: Observations, layout: Layout) -> Observations:
    """The `data`, on a row with v_n: where it was not recorded the end moves by what all sites grow."""
    if not layout.driven or data.velocity is not None:
        return data
    require(torch.equal(data.field[..., -1:], data.mean), "data must hold strains on a row, but hold controls")
    grown = data.spacing * data.field[..., -1].sum(2).diff(dim=1) / data.times.diff()
    return replace(data, velocity=torch.cat([grown[:, :1], grown], 1))


def _opened(ensemble: Ensemble | Iterable[Ensemble]) -> tuple[Ensemble, Iterable[Ensemble]]:
    """The first part, and all."""
    parts = iter([ensemble] if isinstance(ensemble, Ensemble) else ensemble)
    first = next(parts, None)
    if first is None:
        raise ValueError("ensemble must have at least 1 part, but has none")
    return first, chain([first], parts)


def inspected(
    part: Ensemble, layout: Layout, names: Sequence[str], answers: Sequence[str], internal: int, spacing: float | None
) -> None:
    """Raise what is wrong with an ensemble, and tell what may be."""
    if layout.directions and not layout.driven:
        return
    known = [name for name in answers if name in part.records]
    for finding in inspect(part, names, known, layout, internal, spacing).findings:
        require(finding.kind != "error", finding.what)
        _log.warning("%s", finding.what)


def _begins_at_rest(data: Observations, layout: Layout) -> bool:
    """Whether mean and variance of no condition move in the first steps by more than they jitter anyway."""
    if layout.directions or len(data.times) < 10 * BEGIN:
        return False
    moved = torch.cat([data.mean, data.variance], -1)[:, :, 0]
    jitter = moved.diff(n=2, dim=1).square().mean((0, 1)) / 2 * BEGIN  # of independent steps, their drift taken out
    away = (moved[:, BEGIN] - moved[:, 0]).square() / jitter.clamp_min(1e-300)
    return float(away.mean()) < 1 + 3 * (2 / away.numel()) ** 0.5


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


def _fitting(phase: Phase, last: int) -> int:
    """A window as the same share of so many steps as it is of the book's 300; of one step, or none, as it is."""
    return phase.window if phase.window < 2 else min(last // phase.stride, max(2, round(phase.window * last / 300)))


def suited(recipe: Recipe, data: Observations, layout: Layout) -> Recipe:
    """A recipe with windows as shares of the record, as much work in a step as the book's, and no weight on mere noise.

    Data that begin in equilibrium have a term of their own, where the recipe looks at their first time.

    The v_n of an end that a force drives is a mean of few realisations over a short time. Its term then has the
    weight of its noise, as neighbouring steps tell it.
    """
    last, stages = len(data.times) - 1, list[Stage]()
    share = min(1.0, USUAL / (len(data.field) * data.field.shape[2])) if layout.directions else 1.0
    for stage in recipe.stages:
        weights = {**stage.weights, **({"rest": RESTED} if data.rested else {})}
        if layout.driven and data.velocity is not None and "end" in weights:
            bent = data.velocity[:, 1:].diff(n=2, dim=1).abs().median().square() * 1.4826**2 / 6  # kinks are few
            weights["end"] = min(weights["end"], float(data.velocity.square().mean() / bent.clamp_min(1e-300)))
        phases = tuple(
            replace(each, window=_fitting(each, last), starts=max(1, round(share * each.starts)))
            for each in stage.phases
        )
        stages.append(replace(stage, phases=phases, weights=weights))
    return replace(recipe, stages=tuple(stages), attempts=min(recipe.attempts, 2))
