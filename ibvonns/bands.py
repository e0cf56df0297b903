"""How wrong a learned law may be: bands from laws of resampled data, calibrated on what each has not seen.

Seeds alone share their data, and with them what these do not tell: their scatter is too small. So each law here has a
seed of its own and learns from two thirds of the conditions, dealt into three hands again and again, and from parts
drawn with replacement. Every condition is then unknown to a third of the laws. What these miss of it says by which
factor the scatter is too small, or too large, for the mean of laws is better than each: a step like that of conformal
prediction, over protocols. Forces, and the strains of a row, are calibrated so, where v_n is given and particles of the
first time are known; what follows from them has the largest of their factors, and is not.

Reference: Efron, Tibshirani, An Introduction to the Bootstrap, 1993; Diquigiovanni, Fontana, Vantini, Statistica
Sinica 35 (2025) 853: calibrate over whole curves; Barber, Candes, Ramdas, Tibshirani, Annals of Statistics 49 (2021)
486: by laws that have not seen a fold; Giampiccolo et al., npj Syst. Biol. Appl. 2026: seeds alone are overconfident
off the data.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, cast

import numpy
import torch
from torch import Tensor

from ibvonns.answers import Answer, Array
from ibvonns.ensemble import Ensemble
from ibvonns.layouts import Point, Row
from ibvonns.learning import Learned, driven, fit, inspected
from ibvonns.observations import Observations, observe
from ibvonns.seeds import force_noise
from ibvonns.validation import count, positive, require

__all__ = ["Banded", "Bands", "Interval", "banded"]

HANDS = 3  # into which conditions are dealt; a law knows all but one
MARGIN = 0.05  # of the range of the data, by which a path may leave it
WIDEST = 20.0  # times by which a band is made wider at most


@dataclass(frozen=True, eq=False)
class Interval:
    """A quantity with its band.

    Attributes:
        mean: over the laws.
        low: lower end.
        high: upper end.
    """

    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True, eq=False)
class Bands:
    """What resampled laws answer, with bands. Arrays are (conditions, times), and more axes where it is said.

    Attributes:
        times: shape (times,).
        force: F_ex by name.
        field: strains of a row, (..., sites); None at a point, whose controls are known.
        alpha: internal variables, (..., sites, internal), in the gauge of the first law.
        work: done from outside since the beginning.
        free_energy: gained since the beginning.
        dissipation: the energy dissipated since the beginning.
        outside: where a control, a row's length, a strain or an internal variable of over half of the laws has left
            the range of the data by over a twentieth, or a control or the length has changed faster than any of the
            data by as much: from there on no data have calibrated the band.
    """

    times: Array
    force: dict[str, Interval]
    field: Interval | None
    alpha: Interval
    work: Interval
    free_energy: Interval
    dissipation: Interval
    outside: Array


@dataclass(frozen=True)
class Banded:
    """Laws of resampled data, and by how much their scatter is too small.

    Attributes:
        laws: each of one seed and one draw.
        data: of all conditions.
        factors: of the scatter, by the name of a force, and "field" of a row.
        usual: the laws' mean square scatter on these data, by the same names.
        share: of the truth that bands should hold.
    """

    laws: tuple[Learned, ...]
    data: Observations
    factors: Mapping[str, float]
    usual: Mapping[str, float]
    share: float

    def predict(self, times: Any, controls: Mapping[str, Any], **how: Any) -> Bands:
        """As `answers.predict` of one law, with bands.

        Args:
            times: as there.
            controls: as there.
            how: what it takes besides.
        """
        answers = [law.predict(times, controls, **how) for law in self.laws]
        first, driven = answers[0], self.laws[0].model.law.layout.driven
        names = [name for name in first.force if name in self.factors]
        left = [_gone(law, self.data, one) for law, one in zip(self.laws, answers, strict=True)]
        gone = numpy.logical_or.accumulate(numpy.stack(left).mean(0) > 0.5, -1)  # what follows remembers it
        known = driven and "force" in controls  # then all laws have it
        force = {
            name: self._band([one.force[name].values for one in answers], "" if known else name, gone) for name in names
        }
        field = self._band([one.field.values for one in answers], "field", gone[..., None]) if driven else None
        work, free, lost = (
            self.ask([getattr(one, name).values for one in answers]) for name in ("work", "free_energy", "dissipation")
        )
        return Bands(first.times, force, field, self.ask(self._aligned(answers)), work, free, lost, gone)

    def ask(self, what: Callable[[Learned], Any] | Sequence[Array]) -> Interval:
        """A band of any number that a law tells, by the scatter of the laws and the largest factor, at least 1.

        Args:
            what: of a law, numbers with an axis of one seed in front; or these of each law.
        """
        values = numpy.concatenate([numpy.asarray(what(law)) for law in self.laws] if callable(what) else what)
        wide = max(1.0, *self.factors.values()) * student(self.share, len(values) - 1)
        return _interval(values, wide * values.std(0, ddof=1))

    def _band(self, values: Sequence[Array], name: str, gone: Array) -> Interval:
        """Of what is calibrated under a name, or of what is given; beyond the data no factor is known that narrows."""
        each, factor = numpy.concatenate(values), self.factors.get(name, 0.0)
        factors = numpy.where(gone, max(1.0, factor), factor) if name else 0.0
        return _interval(
            each, factors * _half_width(each.var(0, ddof=1), self.usual.get(name, 0.0), self.share, len(each))
        )

    def _aligned(self, answers: Sequence[Answer]) -> list[Array]:
        """alpha of every law in the gauge of the first: it is learned up to such a map."""
        own = [_with_one(law.model.encode(self.data).detach().flatten(0, -2)) for law in self.laws]
        maps = [torch.linalg.lstsq(each, own[0][:, :-1]).solution for each in own]
        found = [_with_one(torch.as_tensor(one.alpha.values)) @ each for one, each in zip(answers, maps, strict=True)]
        return [each.numpy() for each in found]


def _with_one(alpha: Tensor) -> Tensor:
    return torch.cat([alpha, torch.ones_like(alpha[..., :1])], -1)


def student(share: float, freedom: int) -> float:
    """Deviations that hold a share where so many degrees of freedom tell the deviation: Student's quantile.

    By its expansion in 1 / freedom (Abramowitz, Stegun, Handbook of Mathematical Functions, 1964, 26.7.5), to 1 % from
    five on.

    Args:
        share: of the probability, on both sides together.
        freedom: of the estimate.

    Raises:
        ValueError: a share that is not within 0 and 1, or no freedom.

    >>> round(student(0.9, 5), 2)
    2.01
    """
    require(positive("share", share) < 1, f"share must be below 1, but is {share:g}")
    z, of = NormalDist().inv_cdf((1 + share) / 2), count("freedom", freedom, 1)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + (z**3 + z) / 4 / of + second / of**2 + third / of**3


def _half_width(scatter: Any, usual: float, share: float, laws: int) -> Any:
    """Half width of a band by the laws' scatter, their variance.

    Where laws meet by chance their scatter tells nothing: there, half of it is what is usual. A mean with something
    that is known well has a quarter of its own error, and so four times the degrees of freedom.
    """
    return student(share, 4 * (laws - 1)) * (scatter + (usual - scatter).clip(0) / 2) ** 0.5


def _interval(values: Array, away: Any) -> Interval:
    mean = values.mean(0)
    return Interval(mean, mean - away, mean + away)


def _gone(law: Learned, data: Observations, answer: Answer) -> Array:
    """Where a law's path has left the range of the data, (conditions, times)."""
    given = law.model.law.layout.given if law.model.law.layout.driven else 0
    field = answer.field.values[0][..., None] if law.model.architecture.bonds else answer.field.values[0]
    left = numpy.zeros(field.shape[:2], dtype=bool)
    ends, known = field.sum(2), data.field[..., given:]  # over sites: of a point it is the control, of a row its length
    alpha = answer.alpha.values[0], law.model.encode(data).detach()
    for part, seen in ((field, known), (ends, known.sum(2)), alpha):
        low, high = (each.numpy() for each in torch.aminmax(seen.flatten(0, -2), dim=0))
        room = MARGIN * (high - low)
        inside = (part >= low - room) & (part <= high + room)  # false of a path that has run away
        left |= ~inside.reshape(*left.shape, -1).all(-1)
    usual = numpy.abs(numpy.diff(known.sum(2), axis=1) / numpy.diff(data.times)[..., None]).max((0, 1))
    speed = numpy.abs(numpy.diff(ends, axis=1) / numpy.diff(answer.times)[..., None])
    left[:, 1:] |= ~(speed <= (1 + MARGIN) * usual).all(-1)
    return left


def _listed(given: str | Sequence[str]) -> list[str]:
    """Names, of which a single one may come by itself."""
    return [given] if isinstance(given, str) else list(given)


def banded(
    ensemble: Ensemble | Iterable[Ensemble],
    controls: str | Sequence[str] = (),
    forces: str | Sequence[str] = "external_force",
    resamples: int = 6,
    share: float = 0.9,
    **how: Any,
) -> Banded:
    """Learn laws from resampled data, and calibrate their bands.

    Args:
        ensemble: the realisations, or independent parts of them, which are resampled, too.
        controls: as for `learning.fit`.
        forces: as for `learning.fit`; at least one.
        resamples: how many laws, a multiple of 3; each costs two thirds of a seed, or of all that `fit` tries.
        share: of the truth that a band should hold.
        how: what `learning.fit` takes besides, but for seeds. On a row of a single ensemble the noise of its force is
            not known, and counts as what laws miss.

    Raises:
        ValueError: fewer than six resamples or conditions, parts of other conditions, a share that is not below 1, no
            force, a layout where none is measured, laws that have run away, or as `fit`.
    """
    own = isinstance(ensemble, Ensemble | Observations)
    parts = cast(list[Ensemble], [ensemble] if own else list(cast(Iterable[Ensemble], ensemble)))
    good = len(parts) and all(isinstance(part, Ensemble) for part in parts)
    require(good, "ensemble must be one, or its parts, but is not")
    number, rows = count("resamples", resamples, 2 * HANDS), len(parts[0].realisations)
    alike = all(len(part.realisations) == rows for part in parts)
    require(alike, "parts of an ensemble must have the same conditions, but differ")
    require("seeds" not in how, "seeds must not be given, for each law has one of its own, but are")
    require(number % HANDS == 0, f"resamples must be a multiple of {HANDS}, but are {number}")
    require(positive("share", share) < 1, f"share must be below 1, but is {share:g}")
    require(rows >= 2 * HANDS, f"ensemble must hold at least {2 * HANDS} conditions, but holds {rows}")
    names = _listed(forces)
    require(names, "forces must name at least 1, but name none")
    layout = how.get("layout") or (
        Row(len(how["parameters"])) if how.get("parameters") else Point(len(_listed(controls)) or 1)
    )
    require(layout.driven or not layout.directions, f"layout must be a Point or a Row, but is {layout}")
    if how.get("check", True):
        inspected(parts[0], layout, _listed(controls), names, 1, how.get("spacing"))
    beside: dict[str, Any] = {"spacing": how.get("spacing") or 1.0, "parameters": how.get("parameters")}

    def seen(some: Sequence[Ensemble], taken: Tensor) -> Observations:
        return observe([part.select(taken) for part in some], controls, names, **beside)

    whole = driven(seen(parts, torch.arange(rows)), layout)
    require(whole.force is not None, f"ensemble must hold the record {names[0]!r}, but does not")
    laws, unknown = list[Learned](), torch.zeros(number, rows, dtype=torch.bool)
    for n in range(number):
        rng = torch.Generator().manual_seed(n // HANDS)
        unknown[n, torch.randperm(rows, generator=rng)[n % HANDS :: HANDS]] = True
        taken = (~unknown[n]).nonzero().flatten()
        rng.manual_seed(number + n)
        some = [parts[k] for k in torch.randint(len(parts), (len(parts),), generator=rng)]
        data = whole.select(taken) if len(parts) == 1 else seen(some, taken)
        law = fit(data, controls=controls, forces=names, seeds=[n], **how)
        law.model.architecture = replace(law.model.architecture, units=parts[0].units)
        laws.append(law)
    # in units of the variance of a law by all conditions: how laws scatter that lack some, which cancels in their mean
    # but for their number in the sample's variance, and how those that have some parts twice
    lacking, twice = number / (number - 1) / (HANDS - 1), HANDS / (HANDS - 1) * (1 - 1 / len(parts))
    least = ((1 + twice / number) / (lacking + twice)) ** 0.5
    return Banded(tuple(laws), whole, *_calibrated(laws, whole, unknown, share, least), share)


@torch.no_grad()
def _calibrated(
    laws: Sequence[Learned], data: Observations, unknown: Tensor, share: float, least: float = 1.0
) -> tuple[dict[str, float], dict[str, float]]:
    """By how much bands must be wider to hold their share of what no law of theirs has seen; and the usual scatter.

    Where the noise of the data hides what laws miss the factor is `least`, unless less holds even the noisy data.
    """
    layout, names = laws[0].model.law.layout, laws[0].model.architecture.forces or ("force",)
    runs = [law.model.predict(data, "velocity" if layout.driven else "force") for law in laws]
    found = {name: torch.cat([cast(Tensor, run.force)[..., n] for run in runs]) for n, name in enumerate(names)}
    force, noise = cast(Tensor, data.force), torch.zeros_like(cast(Tensor, data.force))
    if not layout.directions:
        noise = force_noise(data).view_as(force)
    elif "force" in data.blocks:
        noise = data.blocks["force"].std(0) / len(data.blocks["force"]) ** 0.5
    truth = {name: (force[..., n], noise[..., n]) for n, name in enumerate(names)}
    if layout.driven:
        found["field"] = torch.cat([run.field[..., -1] for run in runs])
        truth["field"] = data.field[..., -1], data.standard_error()[..., 0]
    lost = [
        law.model.seeds[0] for n, law in enumerate(laws) if not all(part[n].isfinite().all() for part in found.values())
    ]
    require(not lost, f"laws must not run away on their data, but those of the seeds {lost} do: try more steps")
    factors, usual = dict[str, float](), dict[str, float]()
    for name, (true, wrong) in truth.items():
        scatter = found[name].var(0)
        usual[name] = float(scatter.mean())
        strange = unknown.double().view(*unknown.shape, *[1] * (true.ndim - 1))
        number = strange.sum(0)
        middle = (strange * found[name]).sum(0) / number
        # what fewer laws miss is a little more than what all miss; and the data are noisy themselves
        more = scatter * (1 / number - 1 / len(laws)).clamp_min(0)
        unit, sure = _half_width(scatter.clip(1e-300), usual[name], share, len(laws)), student(share, 10**9)
        needed, enough = (
            float(numpy.quantile((((true - middle) ** 2 - sure**2 * part).clip(0).sqrt() / unit).numpy(), share))
            for part in (more + wrong**2, more)
        )  # to hold what is true; and to hold the noisy data, which is more
        factors[name] = min(WIDEST, max(needed, min(least, enough)))
    return factors, usual
