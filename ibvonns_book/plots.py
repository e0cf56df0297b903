"""The book's figures: one style, a few plots, and a slider that works in a page with no kernel.

Arrays may be NumPy arrays, torch tensors on the CPU, or sequences of numbers. Each plot draws on
the Axes that it is given and returns them. Titles, axis labels with units and legends are left to
the caller, who knows them. Colours are Okabe and Ito's, which colour-blind readers can tell
apart; line styles and markers repeat what the colours say, so that every plot reads in grey.

Needs matplotlib, which brings Pillow, and anywidget: the extra `plots`.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ibvonns.show.widgets import Frames
from ibvonns.validation import count, finite, positive, shaped

__all__ = [
    "COLOURS",
    "LINES",
    "density_with_histogram",
    "histories",
    "log_convergence",
    "ladder",
    "parity",
    "shades",
    "slider_figure",
    "use_style",
]

Array = npt.NDArray[Any]
Values = Array | Tensor | Sequence[float]

#: Okabe and Ito's colours by name.
COLOURS = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "grey": "#595959",
}
#: Line styles, in the order of the colours.
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
_MARKERS = "osD^vP"
_CYCLE = ("blue", "vermilion", "green", "purple", "orange", "sky")


def use_style() -> None:
    """Set matplotlib's defaults to the book's style: sharp, and readable at a phone's width.

    >>> use_style()
    >>> mpl.rcParams["figure.dpi"]
    200.0
    """
    cycle = cycler(color=[COLOURS[name] for name in _CYCLE]) + cycler(linestyle=list(LINES))
    mpl.rcParams.update(
        {
            "axes.grid": True,
            "axes.prop_cycle": cycle,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
            "figure.dpi": 200,  # twice matplotlib's default
            "figure.figsize": (6.4, 3.6),
            "font.size": 11,
            "grid.alpha": 0.25,
            "legend.fontsize": 9.5,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
        }
    )


def shades(number: int) -> list[Any]:
    """Colours for `number` ordered conditions, light to dark (cividis without its pale end).

    Raises:
        ValueError: no condition.

    >>> len(shades(3))
    3
    """
    count("number", number)
    return [mpl.colormaps["cividis"](0.8 * (1 - i / max(number - 1, 1))) for i in range(number)]


def _array(name: str, values: Values, shape: Sequence[int | str]) -> Array:
    tensor = torch.as_tensor(values).detach().to(dtype=torch.float64)
    return shaped(name, finite(name, tensor), shape).numpy()


def histories(
    ax: Axes,
    times: Values,
    truth: Values | None = None,
    prediction: Values | None = None,
    labels: Sequence[str] = (),
    *,
    every: int = 10,
) -> Axes:
    """Histories under several conditions: truth as markers, prediction as lines, light to dark.

    Args:
        ax: where to draw.
        times: shape (times,).
        truth: shape (conditions, times), or None; every `every`-th time is marked.
        prediction: shape (conditions, times), or None.
        labels: one for each condition, for a legend; an empty string gives no entry.
        every: distance of the markers in steps.

    Raises:
        ValueError: NaN, shapes that do not match, a wrong number of labels, or nothing to draw.

    >>> ax = histories(Figure().subplots(), [0, 1], [[1, 2], [2, 3]], labels=["slow", "fast"])
    >>> len(ax.lines)
    2
    """
    if truth is None and prediction is None:
        raise ValueError("truth and prediction must not both be None: there is nothing to draw")
    count("every", every)
    time = _array("times", times, ("times",))
    given = {"truth": truth, "prediction": prediction}
    curves = {
        name: _array(name, values, ("conditions", len(time))) for name, values in given.items() if values is not None
    }
    conditions = {len(values) for values in curves.values()}
    if len(conditions) > 1:
        raise ValueError(
            "truth and prediction must have as many conditions as each other, but have "
            f"{len(curves['truth'])} and {len(curves['prediction'])}"
        )
    number = conditions.pop()
    if labels and len(labels) != number:
        raise ValueError(f"labels must number {number}, one a condition, but number {len(labels)}")
    for i, colour in enumerate(shades(number)):
        label = labels[i] if labels and labels[i] else None
        if "truth" in curves:
            marker, own = _MARKERS[i % 6], None if "prediction" in curves else label
            every_nth = (time[::every], curves["truth"][i, ::every])
            ax.plot(*every_nth, marker, color=colour, ls="", mfc="none", ms=4, label=own)
        if "prediction" in curves:
            ax.plot(time, curves["prediction"][i], color=colour, ls=LINES[i % 6], label=label)
    return ax


def parity(ax: Axes, truth: Values, prediction: Values, *, label: str | None = None) -> Axes:
    """Prediction against truth, point by point, with the line on which they agree.

    Args:
        ax: where to draw.
        truth: any shape.
        prediction: the shape of `truth`.
        label: of the points, for a legend.

    Raises:
        ValueError: NaN, no values, or shapes that differ.

    >>> len(parity(Figure().subplots(), [1, 2, 3], [1.1, 2.0, 2.9]).lines)  # points and diagonal
    2
    """
    shape = tuple(torch.as_tensor(truth).shape)
    x = _array("truth", truth, shape).ravel()
    y = _array("prediction", prediction, shape).ravel()
    count("the number of values of truth", len(x))
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    ax.plot(x, y, "o", ls="", ms=3, alpha=0.4, mew=0, label=label)
    ax.plot([low, high], [low, high], "-", color="k", lw=1)
    ax.set_aspect("equal", adjustable="datalim")
    return ax


def ladder(ax: Axes, names: Sequence[str], published: Values, ours: Values, floor: Values) -> Axes:
    """Rows one below another on a logarithmic axis: published value, ours, and the floor.

    Published values are open diamonds, ours dots with a bar from the smallest to the largest, and
    grey reaches up to the floor. What lies left of the axis is drawn at its end.

    Args:
        ax: where to draw, with a logarithmic x-axis whose limits are set.
        names: of the rows, from top to bottom.
        published: shape (rows,).
        ours: median, smallest and largest, shape (rows, 3).
        floor: what a perfect theory shows, shape (rows,).

    Raises:
        ValueError: NaN or wrong shape.

    >>> axes = Figure().subplots()
    >>> axes.set(xscale="log", xlim=(0.1, 10))  # doctest: +ELLIPSIS
    [...]
    >>> ladder(axes, ["force"], [1.2], [[0.4, 0.3, 0.6]], [0.2]).get_yticks().tolist()
    [0]
    """
    number = count("number of names", len(names))
    left, height = ax.get_xlim()[0], np.arange(number)
    goal = _array("published", published, (number,)).clip(left)
    middle, low, high = _array("ours", ours, (number, 3)).clip(left).T
    reach = _array("floor", floor, (number,)).clip(left)
    ax.barh(height, reach - left, left=left, color="0.85", height=0.85, label="noise floor")
    ax.hlines(height, low, high, color=COLOURS["blue"], linestyle="-", lw=3, alpha=0.5)
    ax.plot(middle, height, "o", color=COLOURS["blue"], label="ours, median and range")
    ax.plot(goal, height, "D", mfc="none", color=COLOURS["vermilion"], label="published")
    ax.set_yticks(height, names)
    ax.set_ylim(number - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    return ax


def density_with_histogram(
    ax: Axes, realisations: Values, positions: Values, density: Values, *, bins: int = 30, label: str | None = None
) -> Axes:
    """A density as a line over the histogram of realisations, scaled to unit area.

    Args:
        ax: where to draw.
        realisations: shape (realisations,), in the unit of `positions`.
        positions: shape (positions,); the histogram spans them, values beyond are left out.
        density: shape (positions,), one over the unit of `positions`.
        bins: number of bins.
        label: of the line, for a legend.

    Raises:
        ValueError: NaN or wrong shapes.

    >>> positions = np.linspace(-3, 3, 61)
    >>> bell = np.exp(-(positions**2) / 2) / np.sqrt(2 * np.pi)
    >>> len(density_with_histogram(Figure().subplots(), [-1, 0, 1], positions, bell).lines)
    1
    """
    samples = _array("realisations", realisations, ("realisations",))
    place = _array("positions", positions, ("positions",))
    values = _array("density", density, (len(place),))
    count("bins", bins)
    edges = torch.linspace(float(place[0]), float(place[-1]), bins + 1, dtype=torch.float64).numpy()
    counts = torch.histogram(torch.from_numpy(samples), torch.from_numpy(edges)).hist.numpy()
    heights = counts / (len(samples) * (edges[1] - edges[0]))
    ax.stairs(heights, edges, fill=True, color="0.82", ec="0.55", lw=0.6)
    ax.plot(place, values, label=label)
    return ax


def log_convergence(ax: Axes, sizes: Values, errors: Values, order: float, *, label: str | None = None) -> Axes:
    """Errors against step sizes on logarithmic axes, and a thin line of slope `order` beside them.

    The thin line passes through the error at the smallest size: errors that follow it are of that
    order.

    Args:
        ax: where to draw.
        sizes: shape (sizes,), above 0.
        errors: shape (sizes,), above 0.
        order: slope of the thin line, above 0.
        label: of the errors, for a legend.

    Raises:
        ValueError: NaN, wrong shapes, or a value that is not above 0.

    >>> sizes = np.array([0.1, 0.2, 0.4])
    >>> log_convergence(Figure().subplots(), sizes, 3 * sizes**2, order=2).get_xscale()
    'log'
    """
    positive("order", order)
    x = _array("sizes", sizes, ("sizes",))
    y = _array("errors", errors, (len(x),))
    positive("the smallest of sizes", float(x.min()))
    positive("the smallest of errors", float(y.min()))
    marker = _MARKERS[sum(line.get_marker() != "None" for line in ax.lines) % 6]
    first = int(x.argmin())
    ax.loglog(x, y, marker=marker, label=label)
    ax.loglog(x, y[first] * (x / x[first]) ** order, "-", color="0.6", lw=0.8, zorder=0)
    return ax


def slider_figure(frames: Sequence[Figure], labels: Sequence[str], description: str, *, dpi: float = 150) -> Frames:
    """A slider over finished pictures, which runs in the browser: no kernel is needed.

    Each figure is stored as a PNG of 32 colours, about 20 kB. The figures are closed.

    Args:
        frames: figures of one size; 6.4 inches are shown 640 pixels wide, or as wide as the page.
        labels: one for each frame, shown beside the slider as it moves.
        description: what the pictures show, in one sentence; with the label it is the alt text.
        dpi: stored pixels per inch; beyond 100 for sharp screens.

    Raises:
        ValueError: no frames, or a number of labels other than that of the frames.
    """
    count("the number of frames", len(frames))
    positive("dpi", dpi)
    if len(labels) != len(frames):
        raise ValueError(f"labels must number {len(frames)}, one a frame, but number {len(labels)}")
    width, sources = round(100 * frames[0].get_figwidth()), []
    for figure in frames:
        whole, small = io.BytesIO(), io.BytesIO()
        figure.savefig(whole, format="png", dpi=dpi)
        Image.open(whole).convert("RGB").quantize(32).save(small, format="png", optimize=True)
        sources.append("data:image/png;base64," + base64.b64encode(small.getvalue()).decode())
        plt.close(figure)
    content = {"sources": sources, "labels": list(labels), "description": description}
    return Frames(content={**content, "width": width})
