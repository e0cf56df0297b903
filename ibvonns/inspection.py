r"""What looks wrong in an ensemble before anything is learned from it, and what to do about it.

Most faults of data train for minutes, without a word, to a law that is wrong: an outlier, a force with the other sign,
a control that was read a frame late. `inspect` looks for them in a second. It knows of the system only which records
are controls, and which are the forces conjugate to them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement as chosen
from textwrap import fill
from typing import Literal

import torch
from torch import Tensor

from ibvonns.ensemble import Ensemble
from ibvonns.layouts import Layout, Row
from ibvonns.validation import count, positive, require, seeded

__all__ = ["Finding", "Summary", "inspect"]

FAR = 50  # robust widths to an outlier; wells 300 kBT deep are nearer
ROUNDED = 0.05  # robust widths of a step to which values are rounded
COARSE = 0.3  # relaxation times in a step
LATE = 1.15  # times better that a force fits with a control moved
OUTSIDE = 0.15  # share of held-out states that lie outside of the others
DRIFT = 0.05  # relative error of a velocity
UNEVEN = 1.5  # times that the longest step is the shortest
UNEQUAL = 10  # times that the noise of one condition is another's
UNITS = 1e3  # times that a mean's change is its control's, or the reverse
ENOUGH = 20  # times that tell a delay or a still track from chance
FEW = 200  # realisations for a width
TINY = 1e-300  # stands for a width of 0


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong.

    Attributes:
        kind: "error" if a law learned from the data would be wrong, "warning" if it may be.
        what: a sentence that names the argument, says what came and what to do.
    """

    kind: Literal["error", "warning"]
    what: str


@dataclass(frozen=True)
class Summary:
    """What an ensemble holds, and what looks wrong in it; as a string, a table of 80 columns.

    Attributes:
        conditions: how many.
        times: how many.
        sites: how many, 1 if there is no axis of sites.
        components: of a position.
        realisations: how many.
        width: robust width of the positions, the median absolute deviation from the median of a condition, time and
            site in units of that of a Gaussian of standard deviation 1; the median of all.
        noise: standard error of the mean of a condition, time and site; the median of all.
        ranges: smallest and largest value by name, of the positions and of each record.
        findings: errors, then warnings.
    """

    conditions: int
    times: int
    sites: int
    components: int
    realisations: int
    width: float
    noise: float
    ranges: Mapping[str, tuple[float, float]]
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is an error."""
        return all(each.kind != "error" for each in self.findings)

    def __str__(self) -> str:
        rows = {name: f"{value:.6g}" for name, value in vars(self).items() if name not in ("ranges", "findings")}
        rows |= {name: f"{low:.6g} to {high:.6g}" for name, (low, high) in self.ranges.items()}
        said = [fill(f"{each.kind[0].upper()} {each.what}", 80, subsequent_indent="  ") for each in self.findings]
        return "\n".join([f"{name:<15} {value}" for name, value in rows.items()] + (said or ["nothing looks wrong"]))


def inspect(
    ensemble: Ensemble,
    controls: Sequence[str] = (),
    forces: Sequence[str] = (),
    layout: Layout | None = None,
    internal: int = 1,
    spacing: float | None = None,
) -> Summary:
    """What an ensemble holds, and what looks wrong in it, each with what to do; nothing is changed.

    It takes less than a second for four million positions.

    Args:
        ensemble: whose realisations keep their place from time to time.
        controls: names of the records that are controls, each of shape (conditions, times).
        forces: names of the records of the forces conjugate to the controls, in the same order, if they were measured.
            Of a row without controls: that of the force at its end.
        layout: of the sites; a point if not given.
        internal: number of internal variables that are to be learned.
        spacing: natural length of a site of a row, whose positions are strains and whose record "velocity", if there
            is one, is that of its end.

    Raises:
        ValueError: a record that is missing or of another shape, forces that do not match the controls, a number of
            internal variables below 0, or, where a velocity is compared, a spacing that is not above 0.

    >>> from ibvonns.systems.trap import Trap
    >>> good = Trap().simulate_paper(realisations=100)
    >>> inspect(good, ["pulled_length"], ["external_force"]).findings
    ()
    >>> records = {"centre": good.records["pulled_length"], "F": 0 * good.mean()}
    >>> print(inspect(Ensemble(good.times, good.realisations, records), ["centre"], ["F"]).findings[0].what)
    forces['F'] is 0 throughout: it is not measured, leave it out
    """
    records, found, row, parts = ensemble.records, list[str](), isinstance(layout, Row), ensemble.components
    x, times, rows = ensemble.realisations.double(), ensemble.times.double(), tuple(ensemble.realisations.shape[:2])
    for name in (*controls, *forces):
        came = tuple(records[name].shape) if name in records else "none"
        require(came == rows, f"records[{name!r}] must have shape {rows}, but has {came}")
        if float(records[name].std()) <= 1e-9 * float(records[name].abs().max()):
            kind, why = ("controls", "a parameter") if name in controls else ("forces", "not measured")
            found += [f"E {kind}[{name!r}] is {records[name].mean():.3g} throughout: it is {why}, leave it out"]
    require(len(forces) in (0, len(controls) or row), f"forces must be as many as controls, but are {len(forces)}")
    ranges = {name: (float(part.min()), float(part.max())) for name, part in (("positions", x), *records.items())}
    # one column for each component of each site
    x, width = _cleaned((x.mT if parts > 1 else x).reshape(*rows, -1, ensemble.count), parts, found)
    mean, spread, sizes = x.mean(-1), x.std(-1, correction=0), (*rows, x.shape[2] // parts, parts, ensemble.count)
    given, answers = (torch.stack([mean[..., 0], *(records[n] for n in of)], -1)[..., 1:] for of in (controls, forces))
    # without a control, a row is driven at the place of its end
    moving, place = given if controls or not row else mean.sum(-1, keepdim=True), mean[..., : 0 if row else None]
    late = [] if row else [*_late(torch.cat([given, mean, spread**2], -1), answers, controls)]
    found += late or _signs(times, place, moving, answers, forces)
    found += _ends(mean, times, records.get("velocity"), spacing) if row else _units(times, mean, given, controls)
    found += [*_steps(x, times), *_repeated(x), *_rounded(x, width), *_unequal(spread)]
    found += _covered(given, mean, spread, sizes[2], count("internal", internal, 0))
    findings = [Finding("error" if each[0] == "E" else "warning", each[2:]) for each in sorted(found)]
    return Summary(*sizes, width, float(spread.median()) / ensemble.count**0.5, ranges, tuple(findings))  # type: ignore[arg-type, call-arg]


# --- regressions of rows (rows, columns) ---------------------------------------------------------


def _standard(values: Tensor) -> Tensor:
    """The columns of (..., columns) as rows, less their mean, of norm 1 or, where they are constant, 0."""
    return torch.nn.functional.normalize(values.flatten(0, -2) - values.flatten(0, -2).mean(0), dim=0, eps=TINY)


def _axes(basis: Tensor) -> Tensor:
    """Orthonormal columns that span what `basis` spans besides constants."""
    axes, sizes, _ = torch.linalg.svd(_standard(basis), full_matrices=False)
    return axes[:, sizes > 1e-6 * sizes.sum()]


def _left(values: Tensor, basis: Tensor) -> Tensor:
    """What a regression of values (..., number) on the basis (..., columns) and a constant leaves of them."""
    axes, away = _axes(basis), values.flatten(0, -2) - values.flatten(0, -2).mean(0)
    return away - axes @ (axes.T @ away)


def _powers(values: Tensor, degree: int) -> Tensor:
    """All products of up to so many columns of (..., columns)."""
    x = _standard(values).T.unflatten(1, values.shape[:-1])
    return torch.stack([x[list(each)].prod(0) for n in range(1, degree + 1) for each in chosen(range(len(x)), n)], -1)


# --- what may be wrong: sentences that begin with E or W -----------------------------------------


def _cleaned(x: Tensor, components: int, found: list[str]) -> tuple[Tensor, float]:
    """The positions with outliers replaced by the median, and their robust width; adds to what was found."""
    some = x[..., :: max(1, x.shape[-1] // FEW)]
    median = some.median(-1, keepdim=True).values
    width = 1.4826 * (some - median).abs().median(-1, keepdim=True).values
    # a median of few tells little, and is 0 where most are alike, as at a common start: the deviation is a bound
    bound = 0.06 * x.std(-1, keepdim=True, correction=0) * ((width == 0) | (x.shape[-1] < ENOUGH))
    off = (x - median).abs_().div_(torch.maximum(width, bound).clamp_min(TINY))
    if number := int((off > FAR).sum()):
        row, time, column, one = map(int, torch.unravel_index(off.argmax(), off.shape))
        where = f"condition {row}, time {time}, site {column // components}, realisation {one} lies {off.max():.3g}"
        found += [f"E positions hold {number} outlier{'s'[: number - 1]}: {where} robust widths off; drop each"]
    return torch.where(off > FAR, median, x) if number else x, float(width.median())


def _repeated(x: Tensor) -> Iterator[str]:
    """Realisations that stand still for most of the time, and pairs that are the same."""
    still, weights = (x[:, 1:] == x[:, :-1]).sum(1) / (x.shape[1] - 1), torch.rand(x.shape[1:3], generator=seeded(0))
    # where many stand still, they are rounded
    stuck = (still > 0.6).nonzero().tolist() if still.mean() < 0.1 and x.shape[1] > ENOUGH else []
    for row, _, one in stuck[:1]:
        yield f"E positions stand still, {len(stuck)} tracks, such as realisation {one} of condition {row}: drop them"
    keys, order = torch.einsum("ctkr,tk->cr", x, weights.double()).sort(-1)
    for row, place in (keys.diff() <= 1e-12 * keys.abs().max()).nonzero().tolist()[:1]:
        pair = " and ".join(str(each) for each in sorted(order[row, place : place + 2].tolist()))
        yield f"E realisations {pair} of condition {row} are the same: draw the noise of each anew, drop copies"


def _steps(x: Tensor, times: Tensor) -> Iterator[str]:
    """Steps that are uneven, or coarse beside the relaxation of realisations about their mean."""
    steps, away = times.diff(), x[..., :: max(1, x.shape[-1] // FEW)]
    if (ratio := float(steps.max() / steps.min())) > UNEVEN:
        yield f"W times are uneven, the longest step {ratio:.2g} times the shortest: give all records at these times"
    away = (away - away.mean(-1, keepdim=True)).movedim(0, -1).flatten(-2)
    alike = torch.cosine_similarity(away[1:], away[:-1], dim=-1, eps=TINY).clamp(0.05, 1.0)
    share = float((-alike.log() / steps[:, None]).median(0).values.max() * steps.max())
    if share > COARSE and away.any():
        yield f"W a step of {steps.max():.3g} in times is {share:.1g} relaxation times, not resolved: record more often"


def _ends(mean: Tensor, times: Tensor, velocity: Tensor | None, spacing: float | None) -> Iterator[str]:
    """A row's velocity beside the rate of its length."""
    if spacing is None:
        yield "E spacing is needed for a chain: give the natural length of a site"
    elif velocity is not None:
        length = positive("spacing", spacing) * (1 + mean).sum(-1)
        rate, rounding = length.diff(dim=1) / times.diff(), 1e-6 * length[:, 1:] / times.diff()
        off = float((velocity[:, 1:] - rate).norm() / torch.maximum(rate.norm(), rounding.norm()))
        if off > DRIFT:
            yield f"E velocity differs from d(end)/dt by {off:.0%}: is it that of the step before? is spacing right?"


def _units(times: Tensor, mean: Tensor, given: Tensor, controls: Sequence[str]) -> Iterator[str]:
    """Controls that a mean position follows, in time and whatever the others do, at another scale."""
    for place, name in enumerate(controls):
        rest = [given[..., :place], given[..., place + 1 :], torch.gradient(mean, spacing=(times,), dim=1)[0]]
        lead, means = (_left(part, torch.cat(rest, -1)) for part in (given[..., place, None], mean))
        follows, column = (_standard(lead) * _standard(means)).sum(0).abs().max(0)
        ours, theirs = float(means[:, column].std()), float(lead.std())
        if follows > 0.5 and not theirs / UNITS < ours < theirs * UNITS:
            yield f"W positions spread by {ours:.2g} but controls[{name!r}] by {theirs:.2g}: metres and nanometres?"


def _late(known: Tensor, answers: Tensor, controls: Sequence[str]) -> Iterator[str]:
    """Controls that a force fits better, by regression on controls and state, if they are moved by one or two frames.

    The fit must be better than at both neighbours, too: else what lags is something in the system, such as the shape of
    an ensemble in an anharmonic trap. Something unseen that follows a control within a few frames, such as a filter of
    the force, looks like a control that leads.
    """
    force, columns = _standard(answers).unflatten(0, answers.shape[:2]), torch.arange(known.shape[-1])
    for place, name in enumerate(controls if answers.shape[-1] and known.shape[1] > ENOUGH else ()):
        moved = [torch.where(columns == place, known.roll(-shift, 1), known)[:, 3:-3, :8] for shift in range(-3, 4)]
        left = torch.stack([_left(force[:, 3:-3], _powers(each, 2)).norm(dim=0) for each in moved]).clamp_min(1e-4)
        fit = left[:, (left[3] / left.amin(0)).argmax()].tolist()
        best, better = fit.index(min(fit)), fit[3] / min(fit)
        if best in (1, 2, 4, 5) and better > LATE and min(fit[best - 1], fit[best + 1]) > LATE**0.5 * fit[best]:
            how, by = "lags" if best > 3 else "leads", "one frame" if best in (2, 4) else "two frames"
            yield f"W controls[{name!r}] {how}: the forces fit {better:.2g} times better with it moved by {by}"


def _signs(times: Tensor, mean: Tensor, moving: Tensor, answers: Tensor, forces: Sequence[str]) -> Iterator[str]:
    """Forces of the other sign, by three criteria, of which one must be clear and none may say the opposite.

    The force of a spring between control and position, F = k (control - mean) + constant, which a regression tells and
    better so than by the control alone, has k above 0. And by the second law a force is the larger the faster its
    control moves ahead, among states of the same controls, and among those of the same mean, too: the friction of
    controls is positive. That holds for any control, be it a place or a stiffness, if realisations start near
    equilibrium and controls are not faster than all relaxation. It must be clear over the conditions, which are
    independent.

    Reference: Sivak, Crooks, Phys. Rev. Lett. 108 (2012) 190602.
    """
    for place, name in enumerate(forces):
        force, control = answers[..., place, None], moving[..., place, None]
        alike = (_standard(torch.cat([control, control - mean], -1)).T @ _standard(force)).flatten().tolist()
        alone, best = alike[0], max(alike[1:], key=abs, default=0.0)
        votes = [best * (1 - best**2 < min(0.01, (1 - alone**2) / 4))]
        for state in (moving, torch.cat([moving, mean[..., :3]], -1)):  # powers of many columns are too many
            speeds = torch.gradient(state, spacing=(times,), dim=1)[0]
            others = torch.cat([_powers(state, 3), speeds[..., :place], speeds[..., place + 1 :]], -1)
            both = _left(torch.cat([force, speeds[..., place, None]], -1), others)
            work = _standard(both).prod(-1).unflatten(0, answers.shape[:2]).sum(1)
            sure = len(work) > 2 and float(work.mean().abs()) * len(work) ** 0.5 > 3 * float(work.std())
            votes += [float(work.sum()) * (float(work.sum().abs()) > (0.3 if sure else 0.6))]
        if min(votes) < 0 and max(votes) <= 0:
            yield f"E forces[{name!r}] does negative work: is it the force on the particle instead of on the control?"


def _covered(given: Tensor, mean: Tensor, spread: Tensor, sites: int, internal: int) -> Iterator[str]:
    """Conditions too few: states of one, controls, mean and spread, lie outside the convex hull of the others'."""
    both = [part.unflatten(2, (sites, -1)) for part in (mean, spread.clamp_min(TINY).log())]
    state = torch.cat([given[:, :, None].expand(-1, -1, sites, -1), *both[: 1 + (internal > 1 or sites > 1)]], -1)
    axes = _axes(state[:, :: max(1, state.shape[1] // 100)])
    ways = torch.randn(axes.shape[-1], 200, generator=seeded(0), dtype=torch.float64)
    reach = (axes @ ways).unflatten(0, (len(state), -1))
    most, margin = reach.amax(1), 0.05 * (reach.amax((0, 1)) - reach.amin((0, 1)))
    first, second = torch.cat([most, most[:1] - 1e9]).topk(2, 0).values
    outside = (reach > (torch.where(most == first, second, first) + margin)[:, None]).any(-1).double().mean()
    if outside > OUTSIDE:
        few = f"W {len(state)} conditions for {given.shape[-1]} controls and {internal} internal variables"
        yield f"{few}: {outside:.0%} of the held-out states lie outside of training; add conditions"


def _unequal(spread: Tensor) -> Iterator[str]:
    noise = spread.median(1).values
    ratio, column = (noise.amax(0) / noise.amin(0).clamp_min(TINY)).max(0)
    if ratio > UNEQUAL:
        yield f"W noise of condition {noise[:, column].argmax()} is {ratio:.2g} times that of another: the same system?"


def _rounded(x: Tensor, width: float) -> Iterator[str]:
    values = x.flatten()[:: max(1, x.numel() // 4000)].sort().values
    same, gaps = torch.nn.functional.pad(values.diff() == 0, (1, 1)), values.diff()
    doubled, step = int((same[1:] | same[:-1]).sum()), min(gaps[gaps > 1e-9 * gaps.sum()].tolist(), default=0.0)
    if 2 * doubled > len(values) and step > ROUNDED * width:
        yield f"W values are rounded to {step:.2g} ({doubled} of {len(values)} doubled): precision of XTC? keep digits"
