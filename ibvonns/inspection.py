r"""What looks wrong in an ensemble before anything is learned from it, and what to do about it.

Most faults of data train for minutes, without a word, to a law that is wrong: an outlier, a force with the other sign,
a control that was read a frame late. `inspect` looks for them in a second. It knows of the system only which records
are controls, and which are the forces conjugate to them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import sqrt
from textwrap import wrap
from typing import Literal

import torch
from torch import Tensor

from ibvonns.ensemble import Ensemble
from ibvonns.layouts import Layout, Row
from ibvonns.validation import count, positive, require, seeded

__all__ = ["Finding", "Summary", "inspect"]

FAR = 50  # robust widths, beyond which a position is an outlier: wells 300 kBT deep are nearer
COARSE = 0.3  # relaxation times in a step
LATE = 1.5  # times better that a force fits with a control moved
OUTSIDE = 0.2  # share of held-out states outside of training
ROUNDED = 0.05  # step of rounding in robust widths
UNITS = 1e3  # slope of a mean on its control, or its inverse
UNEQUAL = 10  # ratio of the errors of the mean of two conditions
DRIFT = 0.05  # relative error of a velocity
UNEVEN = 1.5  # ratio of the longest step to the shortest
ENOUGH = 20  # times that tell a delay, or a track that stands still, from chance
FEW = 200  # realisations that suffice for a robust width and an autocorrelation
TINY = 1e-300  # instead of a width of 0
Records = Mapping[str, Tensor]


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
        range: smallest and largest position.
        width: robust width of the positions, the median absolute deviation from the median of a condition, time and
            site in units of that of a Gaussian of standard deviation 1; the median of all.
        noise: standard error of the mean of a condition, time and site; the median of all.
        records: smallest and largest value by name.
        findings: errors, then warnings.
    """

    conditions: int
    times: int
    sites: int
    components: int
    realisations: int
    range: tuple[float, float]
    width: float
    noise: float
    records: Mapping[str, tuple[float, float]]
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is an error."""
        return all(each.kind != "error" for each in self.findings)

    def __str__(self) -> str:
        sizes = ("conditions", "times", "sites", "components", "realisations")
        lines = [f"{name:<23} {getattr(self, name)}" for name in sizes]
        ranges = {"positions": self.range, **self.records}
        lines += [f"{name:<23} {low:.5g} to {high:.5g}" for name, (low, high) in ranges.items()]
        lines += [f"{name:<23} {getattr(self, name):.3g}" for name in ("width", "noise")]
        for each in self.findings:
            lines += wrap(f"{each.kind[0].upper()} {each.what}", 80, subsequent_indent="  ")
        return "\n".join(lines + ["nothing looks wrong"] * (not self.findings))


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
            internal variables below 0, or a spacing that is not above 0.

    >>> from ibvonns.systems.trap import Trap
    >>> good = Trap().simulate_paper(realisations=100)
    >>> inspect(good, ["pulled_length"], ["external_force"]).findings
    ()
    >>> records = {"centre": good.records["pulled_length"], "F": 0 * good.mean()}
    >>> print(inspect(Ensemble(good.times, good.realisations, records), ["centre"], ["F"]).findings[0].what)
    forces['F'] is 0 throughout: leave it out, or read it anew
    """
    row, length = isinstance(layout, Row), None if spacing is None else positive("spacing", spacing)
    rows, wanted = tuple(ensemble.realisations.shape[:2]), len(controls) or int(row)
    for name in (*controls, *forces):
        came = tuple(ensemble.records[name].shape) if name in ensemble.records else "none"
        require(came == rows, f"records[{name!r}] must have shape {rows}, but has {came}")
    require(len(forces) in (0, wanted), f"forces must name 0 or {wanted}, one for each control, but name {len(forces)}")
    count("internal", internal, 0)
    # one column for each component of each site
    x, times = ensemble.realisations.double(), ensemble.times.double()
    x = (x.movedim(-1, -2) if ensemble.components > 1 else x).reshape(*rows, -1, ensemble.count)
    given, answers = ({name: ensemble.records[name].double() for name in names} for names in (controls, forces))
    x, width, found = _outliers(x, ensemble.components)
    mean, spread = x.mean(-1), x.std(-1, correction=0)
    found += [*_repeated(x), *_constant(given, answers), *_steps(x, times)]
    if row:
        found += _ends(mean, times, ensemble.records.get("velocity"), length)
        state = torch.stack([mean, spread.clamp_min(TINY).log()], -1)
        driven, position = given or {"end": mean.sum(-1)}, mean[..., :0]
    else:
        found += [*_units(mean, given), *_late(torch.cat([mean, spread.square()], -1), given, answers)]
        parts = [*given.values(), *mean.unbind(-1), *(internal > 1) * spread.clamp_min(TINY).log().unbind(-1)]
        state, driven, position = torch.stack(parts, -1)[:, :, None], given, mean
    known = f"{len(given)} controls and {internal} internal variables"
    found += [
        *_signs(times, position, driven, answers),
        *_covered(state, known),
        *_unequal(spread),
        *_rounded(x, width),
    ]
    kinds: dict[str, Literal["error", "warning"]] = {"E": "error", "W": "warning"}
    findings = tuple(Finding(kinds[each[0]], each[2:]) for each in sorted(found, key=lambda each: each[0]))
    sizes = (*rows, x.shape[2] // ensemble.components, ensemble.components, ensemble.count)
    ranges = {name: _range(record) for name, record in ensemble.records.items()}
    noise = float(spread.median()) / sqrt(ensemble.count)
    return Summary(*sizes, _range(ensemble.realisations), width, noise, ranges, findings)


def _range(values: Tensor) -> tuple[float, float]:
    return float(values.min()), float(values.max())


# --- regressions of rows (rows, columns) ---------------------------------------------------------


def _standard(values: Tensor) -> Tensor:
    """The columns of (..., columns) as rows, less their mean, of norm 1 or, where they are constant, 0."""
    away = values.flatten(0, -2) - values.flatten(0, -2).mean(0)
    return away / away.norm(dim=0).clamp_min(TINY)


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
    columns, numbers = _standard(values).mT.unflatten(1, values.shape[:-1]), range(values.shape[-1])
    some = [each for power in range(1, degree + 1) for each in combinations_with_replacement(numbers, power)]
    return torch.stack([columns[list(each)].prod(0) for each in some], -1)


# --- what may be wrong: sentences that begin with E or W -----------------------------------------


def _outliers(x: Tensor, components: int) -> tuple[Tensor, float, list[str]]:
    """The positions with outliers replaced by the median, their robust width, and what is to be said."""
    some = x[..., :: max(1, x.shape[-1] // FEW)]
    median = some.median(-1, keepdim=True).values
    width = 1.4826 * (some - median).abs().median(-1, keepdim=True).values
    # where most are alike, as at a common start, the width is 0: a lone outlier of 7 or more is beyond this, too
    least, (low, high) = 0.05 * x.std(-1, keepdim=True, correction=0), x.aminmax(dim=-1, keepdim=True)
    scale = torch.maximum(width, least).clamp_min(TINY)
    if float((torch.maximum(high - median, median - low) / scale).max()) <= FAR:
        return x, float(width.median()), []
    off = (x - median).abs() / scale
    far, (condition, time, column, one) = off > FAR, map(int, torch.unravel_index(off.argmax(), off.shape))
    site = f"site {column // components}, " * (x.shape[2] > components)
    which = f"condition {condition}, time {time}, {site}realisation {one}"
    number = "1 outlier" if far.sum() == 1 else f"{far.sum()} outliers"
    lies = f"lies {float(f'{off.max():.2g}'):,.0f} robust widths off".replace(",", " ")
    found = f"E positions hold {number}: {which} {lies}; drop that realisation"
    return torch.where(far, median, x), float(width.median()), [found]


def _repeated(x: Tensor) -> Iterator[str]:
    """Realisations that stand still for most of the time, and pairs that are the same."""
    steps = x.shape[1] - 1
    still = (x[:, 1:] == x[:, :-1]).sum(1) / steps
    usual = float(still.mean())  # rounded positions repeat now and then
    stuck = (still >= usual + max((1 - usual) / 2, 6 * sqrt(usual * (1 - usual) / steps))).nonzero().tolist()
    if stuck and steps >= ENOUGH:
        which = f"{len(stuck)} tracks, such as realisation {stuck[0][-1]} of condition {stuck[0][0]}"
        yield f"E positions stand still in {which}: lost or stuck? drop them"
    weights = torch.rand(*x.shape[1:3], generator=seeded(0), dtype=torch.float64)
    keys, order = torch.einsum("ctkr,tk->cr", x, weights).sort(-1)
    close = (keys.diff() <= 1e-9 * (keys[:, -1:] - keys[:, :1])).nonzero().tolist()
    pairs = [(row, *sorted(order[row, at : at + 2].tolist())) for row, at in close]
    same = [(row, a, b) for row, a, b in pairs if torch.equal(x[row, ..., a], x[row, ..., b])]
    if same:
        which = f"{len(same)} pairs, such as {same[0][1]} and {same[0][2]} of condition {same[0][0]}"
        yield f"E realisations are the same in {which}: draw the noise of each anew, or drop the copies"


def _constant(controls: Records, forces: Records) -> Iterator[str]:
    for name, control in controls.items():
        if float(control.max() - control.min()) <= 1e-12 * float(control.abs().max()):
            yield f"E controls[{name!r}] is constant: it is a parameter, leave it out"
    for name, force in forces.items():
        if not force.any():
            yield f"E forces[{name!r}] is 0 throughout: leave it out, or read it anew"


def _steps(x: Tensor, times: Tensor) -> Iterator[str]:
    """Steps that are uneven, or coarse beside the relaxation of realisations about their mean."""
    steps = times.diff()
    low, high = _range(steps)
    if high > UNEVEN * low:
        uneven = f"W steps of times are uneven, the longest {high / low:.2g} times the shortest"
        yield f"{uneven}: give records at these times, not at even ones"
    away = x[..., :: max(1, x.shape[-1] // FEW)]
    away = away - away.mean(-1, keepdim=True)
    norm, both = away.square().sum((0, 3)).sqrt(), (away[:, 1:] * away[:, :-1]).sum((0, 3))
    alike = both / (norm[1:] * norm[:-1]).clamp_min(TINY)
    rates = -alike.clamp(0.05, 1.0).log() / steps[:, None]
    share = high * float(rates.median(0).values.max())
    if share > COARSE and away.shape[-1] > 2 and norm.any():
        coarse = f"a step of {high:.3g} is {share:.1g} relaxation times{' or more' if share > 2.9 else ''}"
        yield f"W times are coarse: {coarse}, the law between frames is not resolved; record more often"


def _ends(mean: Tensor, times: Tensor, velocity: Tensor | None, spacing: float | None) -> Iterator[str]:
    """A row's velocity beside the rate of its length."""
    if spacing is None:
        yield "E spacing is needed for a chain: give the natural length of a site"
    elif velocity is not None:
        rate, given = spacing * mean.sum(-1).diff(dim=1) / times.diff(), velocity.double()[:, 1:]
        off = float((given - rate).norm() / torch.maximum(rate.norm(), given.norm()).clamp_min(TINY))
        if off > DRIFT:
            yield (
                f"E velocity differs from d(end)/dt by {100 * off:.0f} %: give that of the step before each time, "
                f"and strains of a natural length of {spacing:g}"
            )


def _units(mean: Tensor, controls: Records) -> Iterator[str]:
    """Controls that a mean position follows, whatever the others do, at another scale."""
    for name, control in controls.items():
        others = torch.stack([mean[..., 0], *(other for each, other in controls.items() if each != name)], -1)[..., 1:]
        lead, means = _left(control[..., None], others), _left(mean, others)
        follows = (_standard(lead) * _standard(means)).sum(0).abs()
        slope = float((means.norm(dim=0) / lead.norm().clamp_min(TINY))[follows.argmax()])
        if follows.max() > 0.5 and not 1 / UNITS < slope < UNITS:
            spans = f"{float(means.std(0).max()):.2g} but controls[{name!r}] by {float(lead.std()):.2g}"
            yield f"W positions spread by {spans}: one in metres, one in nanometres? give both in one unit"


def _late(state: Tensor, controls: Records, forces: Records) -> Iterator[str]:
    """Controls that a force fits better, by regression on state and controls, if they are moved by one or two frames.

    The fit must be better than at both neighbours, too: else what lags is something in the system.
    """
    times, reach = state.shape[1], 3
    if not controls or not forces or times < ENOUGH:
        return
    inner, force = slice(reach, times - reach), torch.stack(list(forces.values()), -1)
    for name in controls:
        fits = []
        for shift in range(-reach, reach + 1):
            moved = {each: part.roll(-shift, 1) if each == name else part for each, part in controls.items()}
            known = torch.cat([torch.stack(list(moved.values()), -1), state], -1)[:, inner]
            left = _left(force[:, inner], _powers(known, 2 if known.shape[-1] < 8 else 1))
            fits.append(left.norm(dim=0) / (force - force.mean((0, 1))).norm(dim=(0, 1)).clamp_min(TINY))
        for each in torch.stack(fits, 1).clamp_min(1e-4).tolist():
            best = min(range(len(each)), key=each.__getitem__)
            better, frames = each[reach] / each[best], best - reach
            if 0 < abs(frames) < reach and better > LATE and min(each[best - 1], each[best + 1]) > 1.2 * each[best]:
                how, by = "lags" if frames > 0 else "leads", "one frame" if abs(frames) == 1 else "two frames"
                yield f"W controls[{name!r}] {how}: the forces fit {better:.2g} times better with it moved by {by}"
                break


def _signs(times: Tensor, mean: Tensor, controls: Records, forces: Records) -> Iterator[str]:
    """Forces of the other sign, by one of two criteria.

    Where a force is that of a spring between control and position, F = k (control - mean) + constant, which a
    regression tells, k must be above 0. Else the second law decides: among states of the same controls a force is the
    larger the faster its control moves ahead, as the friction of controls is positive. That holds for any control, be
    it a place or a stiffness, if realisations start from equilibrium and controls are not faster than all relaxation.

    Reference: Sivak, Crooks, Phys. Rev. Lett. 108 (2012) 190602, Eq. (12).
    """
    if not forces or not controls:
        return
    moving = torch.stack(list(controls.values()), -1)
    powers, speeds = _powers(moving, 3), torch.gradient(moving, spacing=(times,), dim=1)[0]
    for place, (name, force) in enumerate(forces.items()):
        columns = torch.cat([moving[..., place, None], mean], -1)
        scales = (columns.flatten(0, 1) - columns.mean((0, 1))).norm(dim=0).clamp_min(TINY)
        slopes = (torch.linalg.pinv(_standard(columns)) @ force.flatten()) / scales
        good = _left(force[..., None], columns).norm() < 0.1 * (force - force.mean()).norm()
        spring = mean.shape[-1] > 0 and good and abs(float(slopes.sum())) < 0.2 * abs(float(slopes[0]))
        others = torch.cat([powers, speeds[..., :place], speeds[..., place + 1 :]], -1)
        both = _standard(_left(torch.stack([force, speeds[..., place]], -1), others))
        work = both.prod(-1).unflatten(0, force.shape).sum(1)  # of conditions, which are independent
        sure = len(work) > 2 and float(work.mean()) * sqrt(len(work)) < -3 * float(work.std())
        if slopes[0] < 0 if spring else float(work.sum()) < (-0.3 if sure else -0.6):
            yield f"E forces[{name!r}] does negative work: is it the force on the particle instead of on the control?"


def _covered(state: Tensor, known: str) -> Iterator[str]:
    """Conditions too few: states (conditions, times, sites, ...) of one lie outside the convex hull of the others'."""
    conditions, times = state.shape[:2]
    axes = _axes(state[:, :: max(1, times // 100)])
    ways = torch.randn(axes.shape[-1], 200, generator=seeded(0), dtype=torch.float64)
    reach = (axes @ ways).unflatten(0, (conditions, -1))
    most, outside = reach.amax(1), 1.0
    if conditions > 1:
        others = torch.stack([most[torch.arange(conditions) != each].amax(0) for each in range(conditions)])
        margin = 0.05 * (reach.amax((0, 1)) - reach.amin((0, 1)))
        outside = float((reach > (others + margin)[:, None]).any(-1).double().mean())
    if outside > OUTSIDE:
        few = f"{conditions} conditions for {known}"
        yield f"W {few}: {100 * outside:.0f} % of the held-out states lie outside of training; add conditions"


def _unequal(spread: Tensor) -> Iterator[str]:
    noise = spread.median(1).values
    ratio, place = (noise.amax(0) / noise.amin(0).clamp_min(TINY)).max(0)
    if ratio > UNEQUAL:
        worst, best = (int(each) for each in (noise[:, place].argmax(), noise[:, place].argmin()))
        what = f"W noise of the mean is {float(ratio):.2g} times larger in condition {worst} than in condition {best}"
        yield f"{what}: is it the same system? leave one out, or say it by a control"


def _rounded(x: Tensor, width: float) -> Iterator[str]:
    values = x.flatten()[:: max(1, x.numel() // 4000)].sort().values
    gaps = values.diff()
    same, apart = torch.nn.functional.pad(gaps == 0, (1, 1)), gaps[gaps > 1e-9 * (values[-1] - values[0])]
    doubled, step = int((same[1:] | same[:-1]).sum()), float(apart.min()) if len(apart) else 0.0
    if 2 * doubled > len(values) and step > ROUNDED * width:
        share = f"{step:.2g} ({doubled} of {len(values)} doubled)"
        yield f"W positions are rounded to {share}, at a width of {width:.2g}: precision of XTC? save more digits"
