"""One page on a learned law: data, errors beside their noise, tests, figures, and what the data leave open.

The page is one file of HTML: its figures are drawn in it, nothing is fetched and nothing runs. It needs
matplotlib, the extra `plots`.
"""

import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import isfinite
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from ibvonns import __version__
from ibvonns.answers import equilibrium
from ibvonns.files import write
from ibvonns.law import Law
from ibvonns.layouts import Row, named
from ibvonns.learning import Learned
from ibvonns.model import Architecture, Model
from ibvonns.observations import Observations
from ibvonns.residuals import residuals
from ibvonns.seeds import scores
from ibvonns.selection import sufficiency

__all__ = ["report"]

INK = "#010203"  # stands for the colour of the text, whichever that is
# Okabe and Ito's, on a light page and on a dark one; dashes and markers repeat what they say
LIGHT, DARK = ("#0072b2", "#d55e00", "#009e73"), ("#56b4e9", "#e69f00", "#009e73")
COLOURS = (*LIGHT, INK)
DASHES, MARKERS = ("-", "--", "-.", ":"), "osD^"
CLEAR = 0.01  # chance below which something else than the state is called needed
SPOTS = 400  # points of a cloud
STEPS = """What the law misses in single steps: memory, the correlation of one step with the next, 0 of noise; distance
from a normal distribution, whose kurtosis is 3; size, and the size that the noise of the particles predicts"""
STYLE = """
:root{color-scheme:light dark;--ink:#1b1b1b;--paper:#fff;--rule:#bbb;%s}
@media (prefers-color-scheme:dark){:root{--ink:#e6e6e6;--paper:#15181b;--rule:#555;%s}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:62rem;margin:auto;padding:1rem;overflow-wrap:break-word}h1{line-height:1.2}
dl{display:grid;grid-template-columns:minmax(6rem,max-content) 1fr;gap:.2rem 1rem}dt{font-weight:600}dd{margin:0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.15rem .6rem;text-align:right;border-bottom:1px solid var(--rule)}
th:first-child,td:first-child{text-align:left;white-space:nowrap}caption{text-align:left;padding:.3rem .6rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%%,26rem),1fr));gap:1rem}
figure{margin:0}svg{width:100%%;height:auto;color:var(--ink)}figcaption{font-size:.9rem}
main{counter-reset:f}figcaption::before{counter-increment:f;content:"Figure " counter(f) ". "}
@media print{figure{break-inside:avoid}}
"""


def report(learned: Learned, path: str | os.PathLike[str] | None = None, unseen: Observations | None = None) -> str:
    """A page on a learned law, of one file: errors and tests in words and tables, figures, and what is left open.

    Args:
        learned: what `fit` gave.
        path: of the file that is written, whole or not at all; none if not given.
        unseen: observations of other conditions, on which state and steps are tested; the training data if not given.

    Returns:
        The page, HTML.

    Raises:
        ImportError: matplotlib is missing; the sentence says how to install it.
        ValueError: observations of another layout.
        OSError: the file cannot be written.

    >>> import ibvonns
    >>> from ibvonns.systems.trap import Trap
    >>> few = Trap().simulate_paper(velocities=(0.5, 1.0), realisations=50)
    >>> short = ibvonns.Recipe((ibvonns.Stage((ibvonns.Phase(0, 5),), {"density": 1.0}),), attempts=0)
    >>> page = report(ibvonns.fit(few, controls="pulled_length", seeds=2, recipe=short))
    >>> page.count("<figure"), "http" in page
    (4, False)
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        says = "matplotlib must be there to draw a report, but is not"
        raise ImportError(f'{says}: pip install "ibvonns[plots]"') from error
    model, data = learned.model, learned.data
    which = "observations that training has not seen" if unseen else "the data it was trained on, which flatter it"
    which = which if learned.history or unseen else "the data of this report"
    head = f"A {'law learned from' if learned.history else 'saved law beside'} {data.count} realisations"
    parts = [f"<h1>{head}</h1>", _head(learned), "<h2>Errors beside their noise</h2>", _errors(learned, unseen)]
    if learned.choice:
        parts += ["<h2>How many internal variables</h2>", f'<pre class="wide">{escape(str(learned.choice))}</pre>']
    parts += [
        f"<h2>Is the state enough, is the rest noise?</h2><p>Tested on {which}.</p>",
        _tests(model, unseen or data),
    ]
    parts += ['<h2>Figures</h2><div class="figures">', *_figures(model, unseen or data), "</div>"]
    parts += ["<h2>What these data leave open</h2><ul>", *(f"<li>{each}</li>" for each in _open(model, data)), "</ul>"]
    light, dark = ("".join(f"--c{n}:{colour};" for n, colour in enumerate(each)) for each in (LIGHT, DARK))
    body = "\n".join(parts)
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{head}</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE % (light, dark)}</style></head>
<body><main>{body}</main></body></html>
"""
    if path is not None:
        write(path, page.encode())
    return page


# --- words and tables ----------------------------------------------------------------------------


def _named(model: Model, name: str, what: str = "") -> str:
    """A name with its unit, if that is known."""
    unit = model.architecture.units.get(name)
    return f"{what or name} [{unit}]" if unit else what or name


def _energies(of: Architecture, rate: bool = False) -> str:
    """The unit of an energy, or of its rate: force times control, if both are known."""
    units = [of.units.get(name) for name in (*of.forces[:1], *of.controls[:1], *rate * ["times"])]
    known = len(units) == 2 + rate and all(units) and not of.bonds
    return f" [{units[0]} {units[1]}{f'/{units[2]}' if rate else ''}]" if known else ""


def _span(values: Tensor) -> str:
    return f"{float(values.min()):.3g} to {float(values.max()):.3g}"


def _short(number: float) -> str:
    return f"{number:.3g}" if isfinite(number) else "–"


def _ranges(model: Model, data: Observations) -> list[tuple[str, str]]:
    """From where to where each field goes, after its name with its unit."""
    own, fields = list(model.architecture.controls), data.field.shape[-1]
    if model.architecture.bonds:
        own += ["strain" if isinstance(model.law.layout, Row) else "field"]
    names = own if len(own) == fields else [f"control {n}" for n in range(fields)]
    return [(_named(model, name), _span(part)) for name, part in zip(names, data.field.unbind(-1), strict=True)]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str) -> str:
    def line(cells: Sequence[object], tag: str) -> str:
        words = (_short(cell) if isinstance(cell, float) else escape(str(cell)) for cell in cells)
        return "<tr>" + "".join(f"<{tag}>{word}</{tag}>" for word in words) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table><caption>{caption}</caption>{line(head, "th")}{body}</table></div>'


def _head(learned: Learned) -> str:
    """What was learned from what."""
    model, data, of = learned.model, learned.data, learned.model.architecture
    conditions, times, sites, _ = data.field.shape
    layout = "a point" if not of.bonds else f"a {named(of.layout)['kind'].lower()} of {sites} sites"
    steps = "the midpoint rule" if of.steps == "midpoint" else "Euler's rule"
    size = (
        f"{conditions} conditions, {times} times from {_span(data.times)} {of.units.get('times', '')}".rstrip() + ", "
    )
    size += f"{data.count} realisations"
    forces = ", ".join(_named(model, name) for name in of.forces) or "measured, without a name"
    rows = {
        "Data": size,
        "Controls" if not of.bonds else "Fields": "; ".join(f"{n}: {r}" for n, r in _ranges(model, data)),
        "Forces": "not measured" if data.force is None else forces,
        "kBT": "not given" if of.temperature is None else f"{of.temperature:.4g}",
        "Model": f"{layout}, internal variables of a site: {of.internal}; decoder: {of.decoder}; steps by {steps}",
        "Seeds": ", ".join(map(str, model.seeds)),
        "Units": "as given" if of.units else "none were given: all numbers are in those of the data",
        "Made by": f"ibvonns {__version__}",
    }
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in rows.items()) + "</dl>"


def _errors(learned: Learned, unseen: Observations | None) -> str:
    """Errors of rollouts, and whether each seed is sound."""
    found = {"": learned.scores} | ({" (unseen)": scores(learned.model, unseen)} if unseen else {})
    rows = ([name + of, score.noise, *score.errors] for of, each in found.items() for name, score in each.items())
    head = ["percent", "noise of the data", *(f"seed {seed}" for seed in learned.model.seeds)]
    good = f"Every seed meets its data within {learned.sound:g} times their noise: all are sound."
    said = "".join(f"<p>Unsound: {escape(each)}.</p>" for each in learned.unsound) or f"<p>{good}</p>"
    return said + _table(head, rows, "Rollouts from the first states against what was measured")


def _tests(model: Model, data: Observations) -> str:
    """What else than the state tells of the next step, and what is missed in one."""
    try:
        found = sufficiency(model, data)
        p, share = float(found.p.median()), 100 * float(found.share.median())
        least = (
            "something else than the state seems to be needed" if p < CLEAR else "no sign that the state is not enough"
        )
        said = f"Variance, skewness and kurtosis tell {share:.2g} % of what a step misses, p {p:.2g}: {least}."
    except ValueError as error:  # components, or too few times
        said = f"Whether the state is enough was not tested: {error}."
    try:
        left = residuals(model, data)
    except ValueError as error:
        return f"<p>{escape(said)}</p><p>Steps were not tested: {escape(str(error))}.</p>"
    told = {"lag": "memory", "white": "p", "distance": "distance", "normal": "p", "skewness": "skewness",
            "kurtosis": "kurtosis", "realised": "size", "predicted": "by noise"}  # fmt: skip
    kept = {name: head for name, head in told.items() if getattr(left, name) is not None}
    values = torch.stack([getattr(left, name) for name in kept], -1).tolist()
    rows = (
        [f"seed {seed}, {name}", *row]
        for seed, each in zip(model.seeds, values, strict=True) for name, row in zip(left.names, each, strict=True)
    )  # fmt: skip
    return f"<p>{escape(said)}</p>" + _table(["", *kept.values()], rows, STEPS)


def _open(model: Model, data: Observations) -> list[str]:
    """What no fit could tell from these data."""
    of, said = model.architecture, ["f is known up to a constant, which no force tells."]
    if data.force is None:
        said = ["No force was measured: any function of the controls may be added to f, and its scale and that of phi "
                "are free. How alpha moves is known; F_ex, work and dissipation are not."]  # fmt: skip
    ranges = "; ".join(f"{name} from {span}" for name, span in _ranges(model, data))
    said += [f"Outside of what was seen ({escape(ranges)}) and for changes faster than these, the law extrapolates."]
    if of.temperature is None:
        said += ["kBT was not given: dissipation has no heat beside it."]
    if len(model.seeds) == 1:
        said += ["One seed alone shows no scatter: how far another training would differ is not known."]
    return said


# --- figures -------------------------------------------------------------------------------------


@torch.no_grad()
def _figures(model: Model, data: Observations) -> list[str]:
    """Histories, internal variables, f and phi, as far as there are such."""
    alpha, of = model.encode(data), model.architecture
    drawn = [_histories(model, data, *each) for each in _compared(model, data, alpha)]
    if of.internal:
        drawn += [_clouds(model, data, alpha[0])]
    if isinstance(model.law, Law) and (of.bonds or data.force is not None):
        drawn += [_energy(model, data), _potential(model, data, alpha)]
    return drawn


def _compared(model: Model, data: Observations, alpha: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """What was measured, (conditions, times), and the same as it was rolled out, (replicas, conditions, times)."""
    run, of = model.predict(data), model.architecture
    if isinstance(of.layout, Row):
        return [("strain, mean of all sites", data.field[..., -1].mean(-1), run.field[..., -1].mean(-1))]
    if of.bonds:
        return [("field of the first site", data.field[..., 0, -1], run.field[..., 0, -1])]
    if data.force is None or run.force is None:
        return [("alpha of the first seed", alpha[0, :, :, 0, 0], run.alpha[:1, :, :, 0, 0])]
    names = [_named(model, name) for name in of.forces] or [f"force {n}" for n in range(data.force.shape[-1])]
    return [*zip(names, data.force.unbind(-1), run.force.unbind(-1), strict=True)]


def _drawn(draw: Callable[[Any], None], alt: str, caption: str, panels: int = 1) -> str:
    """A figure of some panels beside each other, which takes its colours from the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False, "font.size": 9.5}
    style |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    style |= {
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.spines.right": False,
        "axes.spines.top": False,
    }
    style |= {"svg.fonttype": "none", "svg.hashsalt": alt, "text.parse_math": False}  # names are no formulas
    with rc_context(style):
        figure, file = Figure((4.6, 3.1), layout="constrained"), io.StringIO()
        draw(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', svg)
    start = f'<svg {box and box[0]} role="img" aria-label="{escape(alt)}">'
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{crc32(alt.encode()):x}-", start + svg[svg.index(">") + 1 :])
    for n, colour in enumerate(COLOURS):
        svg = svg.replace(colour, "currentColor" if colour == INK else f"var(--c{n})")
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _band(axes: Any, x: Tensor, values: Tensor, place: int = 0, **how: Any) -> None:
    """A line of the median of (replicas, points), and a band from the smallest to the largest."""
    values = values.where(values.isfinite(), torch.nan)
    whole = values.nan_to_num(torch.inf).amin(0), values.nan_to_num(-torch.inf).amax(0)
    low, high = (each.where(each.isfinite(), torch.nan) for each in whole)  # a seed may have run away
    axes.fill_between(x, low, high, color=COLOURS[place], alpha=0.25, linewidth=0)
    axes.plot(x, values.nanquantile(0.5, 0), DASHES[place], color=COLOURS[place], **how)


def _histories(model: Model, data: Observations, name: str, seen: Tensor, rolled: Tensor) -> str:
    """A quantity of a few conditions, measured and rolled out."""
    number, every = len(seen), max(1, len(data.times) // 15)
    shown = sorted({round(n * (number - 1) / 3) for n in range(4)})

    def draw(panels: Any) -> None:
        (axes,) = panels
        for place, row in enumerate(shown):
            _band(axes, data.times, rolled[:, row], place)
            axes.plot(data.times[::every], seen[row, ::every], MARKERS[place], color=COLOURS[place], markersize=4,
                      fillstyle="none", label=f"{row}")  # fmt: skip
        low, high = float(seen[shown].min()), float(seen[shown].max())
        room = 0.25 * (high - low) or 1.0
        axes.set(xlabel=_named(model, "times", "time"), ylabel=name, ylim=(low - room, high + room))
        axes.figure.legend(loc="outside upper center", ncols=4, title="condition")

    seeds = "the seed" if len(rolled) == 1 else f"the median of {len(rolled)} seeds, with a band that holds all"
    alt = f"{name} over time under {len(shown)} of {number} conditions, measured as markers and rolled out as lines"
    return _drawn(draw, alt, f"{name}: measured (markers), and rolled out from the first state (lines: {seeds}).")


def _clouds(model: Model, data: Observations, alpha: Tensor) -> str:
    """Internal variables of one seed, (conditions, times, sites, internal), against what the positions show."""
    rows = alpha.flatten(0, 2)
    some = slice(None, None, max(1, len(rows) // SPOTS))
    moments = data.mean[..., 0].flatten(), data.variance.sum(-1).flatten()
    several, unit = model.architecture.components > 1, model.architecture.units.get("positions")
    labels = f"mean of {'the first component' if several else 'positions'}", f"variance{' (sum)' if several else ''}"
    units = (f" [{unit}]", f" [{unit}²]") if unit else ("", "")

    def draw(panels: Any) -> None:
        for axes, moment, label, of in zip(panels, moments, labels, units, strict=True):
            for place, variable in enumerate(rows.unbind(-1)[:4]):
                axes.plot(moment[some], variable[some], MARKERS[place], color=COLOURS[place], markersize=2.5,
                          fillstyle="none", label=f"alpha {place + 1}" if axes is panels[0] else None)  # fmt: skip
            axes.set(xlabel=label + of)
            axes.locator_params(axis="x", nbins=3)
        panels[0].set(ylabel="internal variable")
        if rows.shape[-1] > 1:
            panels[0].figure.legend(loc="outside upper center", ncols=4)

    alt = "Internal variables of the first seed against mean and variance of the positions, as scattered points"
    return _drawn(draw, alt, f"What alpha of seed {model.seeds[0]} tells of the positions, at some of the data.", 2)


def _energy(model: Model, data: Observations) -> str:
    """f along each field, with alpha at rest there, or on other layouts than a point and a row at its mean."""
    law, layout, of = model.law, model.law.layout, model.architecture
    still, lines = data.field.flatten(0, 2).median(0).values, list[tuple[str, Tensor, Tensor]]()
    rows = isinstance(layout, Row)
    for n, (name, _) in list(enumerate(_ranges(model, data)))[layout.given * rows :][:3]:
        x = torch.linspace(float(data.field[..., n].min()), float(data.field[..., n].max()), 33, dtype=still.dtype)
        first = still.repeat(len(x), 1)
        first[:, n] = x
        if of.bonds and not rows:
            z = torch.cat([first, first.new_zeros(len(x), law.internal)], -1)[None, :, None]
            z = z.expand(len(model.seeds), -1, data.mean.shape[2], -1)
        elif rows:
            z = equilibrium(model, x[:, None] * law.spacing, True, 1, data.field[0, 0, :1, : layout.given])
        else:
            z = equilibrium(model, first)
        lines.append((name, x, law.free_energy(z).mean(-1)))

    def draw(panels: Any) -> None:
        for axes, (name, x, values) in zip(panels, lines, strict=True):
            _band(axes, x, values)
            axes.set(xlabel=name)
            axes.locator_params(axis="x", nbins=max(3, 6 // len(lines)))
        panels[0].set(ylabel=f"f of a site{_energies(of)}")

    where = "at its mean" if of.bonds and not rows else "at rest"
    alt = f"Free energy f along {', '.join(name for name, *_ in lines)}, as lines with a band of the seeds"
    return _drawn(draw, alt, f"Free energy f with alpha {where}, and other fields at their medians.", len(lines))


def _potential(model: Model, data: Observations, alpha: Tensor) -> str:
    """phi along the first force, of alpha or else of a bond, in the middle of the data."""
    law, layout = model.law, model.law.layout
    states = model.states(data, alpha).flatten(1, 2)
    pull = data.force[..., 0].flatten() if layout.driven and data.force is not None else None
    driving = law.driving(states, pull).flatten(1, 2)
    place = layout.directions if law.internal else 0
    most = float(driving[:, :: max(1, driving.shape[1] // 10**5), place].abs().quantile(0.98, 1).median())
    g = driving.new_zeros(len(states), 41, data.mean.shape[2], driving.shape[-1])
    g[..., place] = torch.linspace(-most, most, 41, dtype=g.dtype)[:, None]
    middle = states.flatten(1, 2).median(1).values[:, None, None].expand(-1, *g.shape[1:3], -1)
    value = law.dual_dissipation(middle, g).mean(-1)
    name = "force g of alpha 1" if law.internal else "force g of a bond"
    name += _energies(model.architecture) if law.internal else ""

    def draw(panels: Any) -> None:
        (axes,) = panels
        _band(axes, g[0, :, 0, place], value)
        axes.set(xlabel=name, ylabel=f"phi of a site{_energies(model.architecture, True)}")

    alt = f"Dissipation potential phi over {name}, as a line with a band of the seeds"
    return _drawn(draw, alt, f"Dissipation potential phi along {name}, other forces 0, at the median state.")
