"""The two pictures of the landing page, and its numbers.

    python book/landing.py           draw both from book/landing.json
    python book/landing.py measure   simulate and predict anew what that file keeps, from the trained seeds

Two chains with equal mean strains, one of them in equilibrium, are pulled alike; and the force of an unseen pull,
simulated and predicted by two kinds of law. What is printed in the paper and what is scored here comes from the
scoreboard alone. `book/_ext/written.py` puts the numbers into the page.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from drawings import TARGET, Drawing, number

from ibvonns.paper.scoreboard import rounded, stored

KEPT = Path(__file__).resolve().with_name("landing.json")
EVERY = 6  # steps of 0.01 between two points of a line
CHAINS = 2000
LENGTH = 0.15  # at which both chains start: a mean strain of a half
Record = dict[str, Any]


def short(values: Any) -> list[Any]:
    """A tensor as nested lists, with four digits of each number."""

    def kept(value: Any) -> Any:
        return [kept(each) for each in value] if isinstance(value, list) else float(f"{value:.4g}")

    return kept(values.tolist())


def futures() -> Record:
    """What two chains of equal mean strains do under the same pull: force, strain of the last spring, its histogram."""
    import torch

    from ibvonns.protocols import pulled_length
    from ibvonns.systems.chain import VELOCITY, Chain
    from ibvonns.systems.trap import paper_times

    chain, times, rng = Chain(), paper_times(), torch.Generator().manual_seed(0)
    one_well = replace(chain, barrier_strain=8.0, well_strain=16.0)  # what no spring can cross
    lengths = LENGTH + pulled_length("smoothed-linear", torch.tensor([VELOCITY], dtype=times.dtype), times)
    found: Record = {"times": short(times[::EVERY])}
    for name, kind in (("settled", chain), ("uncrossed", one_well)):
        first = kind.equilibrium(LENGTH, CHAINS, rng).T[None]
        part = chain.simulate(lengths, times, CHAINS, rng, first)
        bars = torch.histc(first[0, -1], 32, -1.0, 3.0) / CHAINS
        found[name] = {
            "force": short(part.records["external_force"][0, ::EVERY]),
            "strain": short(part.mean()[0, ::EVERY, -1]),
            "bars": short(bars),
            "mean": float(f"{float(first[0, -1].mean()):.4g}"),
        }
    return found


def predicted() -> Record:
    """The force of the sinusoidal pull: simulated, by the law of chapter 9, and by a neural ODE with its errors."""
    from ibvonns.paper.baselines import trained_baseline
    from ibvonns.paper.results import result
    from ibvonns.paper.studies import STUDIES, errors

    flow = STUDIES["chain-cnf"]
    data = flow.observed("sine")
    seen = data.coarser(flow.recipe.coarse)
    assert seen.force is not None
    found: Record = {"times": short(seen.times[::EVERY]), "simulated": short(seen.force[0, ::EVERY, 0])}
    for name, law in (("law", result(flow)[0]), ("neural ODE", trained_baseline("neural-ode"))):
        force = law.predict(seen, "velocity").force
        assert force is not None
        found[name] = short(force[:, 0, ::EVERY, 0])
    found["errors of neural ODE"] = errors(flow, law, {"sine": data})[0]["cnf-force-sine-velocity"]
    return found


def kept() -> Record:
    """What was measured."""
    return json.loads(KEPT.read_text(encoding="utf-8"))


def numbers(data: Record | None = None, board: dict[str, Record] | None = None) -> dict[str, str]:
    """The numbers of the landing page, by the names that it calls them."""
    data, board = data or kept(), board or stored()
    said, ours = {}, []
    for decoder in ("gmm", "cnf"):
        row = board[f"{decoder}-force-sine-velocity"]
        said[f"{decoder}_printed"] = f"{row['published']:g} %"
        ours.append(f"∼{rounded(row['median'], '%')} %")
    said["floor"] = f"{rounded(board['gmm-force-sine-velocity']['floor'], '%')} %"
    one, other = ours
    said["here"] = f"both miss it by {one}" if one == other else f"they miss it by {one} and {other}"
    said["ode_here"] = f"∼{rounded(median(data['predicted']['errors of neural ODE']), '%')} %"
    said["rows"] = str(len(board))
    return said


@dataclass(frozen=True)
class Plot:
    """Axes in a drawing: a box of it, and the values at its edges."""

    draw: Drawing
    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def axes(self, along: Sequence[float], up: Sequence[float], words: str, digits: int = 2) -> None:
        """Lines, ticks and what runs along."""
        self.draw.line(self.left, self.bottom, self.right, self.bottom, stroke="line", width=1)
        for value in along:
            x, _ = self.at(value, self.y[0])
            self.draw.line(x, self.bottom, x, self.bottom + 4, stroke="line", width=1)
            self.draw.text(x, self.bottom + 16, f"{value:g}".replace("-", "−"), soft=True)
        for value in up:
            _, y = self.at(self.x[0], value)
            self.draw.line(self.left, y, self.right, y, stroke="line", width=0.5, more='opacity="0.5"')
            self.draw.text(self.left - 4, y + 4, f"{value:.{digits}f}".replace("-", "−"), anchor="end", soft=True)
        self.draw.text((self.left + self.right) / 2, self.bottom + 31, words, soft=True)

    def line(self, xs: Sequence[float], ys: Sequence[float], **how: object) -> None:
        """A line; what leaves the box is left out."""
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if self.y[0] <= y <= self.y[1]]
        self.draw.curve([self.at(x, y) for x, y in points], **how)


SHOWN = 2.0  # of the time of the two chains: later they come together again
DASHED = 'stroke-dasharray="6 3"'


def motive(data: Record) -> Drawing:
    """Equal mean strains, different futures."""
    says = (
        "Above, two histograms of the strain of the last spring with the same mean, one half. Left, for chains in "
        "equilibrium, it has two humps, at 0 and at 2. Right, where no spring has crossed the barrier, it has one "
        "hump, at the mean itself. Below, both chains are pulled alike. The force starts at zero for the first and "
        "well above zero for the second. The mean strain of the last spring starts at the same value for both, and "
        "then the second chain is ahead for a while."
    )
    draw = Drawing("motive", 372, "Equal mean strains, different futures", says)
    kinds = (("settled", "blue", "A: in equilibrium", 26.0), ("uncrossed", "red", "B: no spring crossed", 206.0))
    draw.text(180, 14, "Strain of the last spring, before the pull")
    for name, colour, words, left in kinds:
        part = data[name]
        plot = Plot(draw, left, left + 142, 56, 132, (-1, 3), (0, 0.28))
        for n, bar in enumerate(part["bars"]):
            low, high = -1 + n / 8, -1 + (n + 1) / 8
            (x1, y1), (x2, y2) = plot.at(low, bar), plot.at(high, 0)
            if bar:
                box = f"M{number(x1)} {number(y2)}V{number(y1)}H{number(x2)}V{number(y2)}Z"
                draw.path(box, stroke="none", fill=colour, more='opacity="0.75"')
        plot.axes((-1, 0, 1, 2, 3), (), "strain")
        x, _ = plot.at(part["mean"], 0)
        draw.line(x, 52, x, 132, width=1.5, more='stroke-dasharray="4 3"')
        draw.text(x + 4, 62, f"mean {part['mean']:.1f}", anchor="start")
        draw.text(left + 71, 38, words, fill=colour)
    begin = sum(time <= SHOWN for time in data["times"])
    times = data["times"][:begin]
    draw.text(180, 194, "The same pull for both")
    force = Plot(draw, 42, 170, 226, 316, (0, SHOWN), (-0.002, 0.022))
    force.axes((0, 1, 2), (0, 0.01, 0.02), "time")
    draw.text(106, 215, "force on the end")
    strain = Plot(draw, 214, 346, 226, 316, (0, SHOWN), (0, 4))
    strain.axes((0, 1, 2), (0, 2, 4), "time", 0)
    draw.text(280, 215, "mean strain, last spring")
    letters = {"settled": ((4, 12, 8), (14, 12, 8)), "uncrossed": ((2, 2, -8), (13, -10, -4))}
    for name, colour, words, _ in kinds:
        more = DASHED if name == "uncrossed" else ""
        for plot, values, (place, dx, dy) in zip((force, strain), ("force", "strain"), letters[name], strict=True):
            plot.line(times, data[name][values][:begin], stroke=colour, width=2, more=more)
            x, y = plot.at(times[place], data[name][values][place])
            draw.text(x + dx, y + dy, words[0], fill=colour)
    draw.text(180, 366, "Time and force are dimensionless.", soft=True)
    return draw


def unseen(data: Record) -> Drawing:
    """A pull of an unseen kind, and two kinds of law."""
    says = (
        "The external force in time under the sinusoidal pull, which no law was trained on. Dots: simulated; the "
        "force rises and then falls. Eight blue lines, the learned law from eight random starts, run through the "
        "dots. Three dashed lines, a neural ODE trained on the same data, leave the dots."
    )
    draw = Drawing("unseen", 262, "An unseen pull: the law with potentials follows it, a neural ODE does not", says)
    every = [data["simulated"], *data["law"], *data["neural ODE"]]
    low, high = min(map(min, every)), max(map(max, every))
    room = 0.05 * (high - low)
    plot = Plot(draw, 44, 350, 34, 216, (0, 3), (low - room, high + room))
    ticks = [n / 50 for n in range(-5, 6) if low - room < n / 50 < high + room]
    plot.axes((0, 1, 2, 3), ticks, "time (dimensionless)")
    draw.text(8, 14, "external force $F_ex| $", anchor="start")
    for line in data["neural ODE"]:
        plot.line(data["times"], line, stroke="red", width=1.8, more=DASHED)
    for line in data["law"]:
        plot.line(data["times"], line, stroke="blue", width=1.6)
    for time, value in list(zip(data["times"], data["simulated"], strict=True))[::2]:
        x, y = plot.at(time, value)
        draw.dot(x, y, 3, fill="none", stroke="ink")
    for (time, value), words, colour in (((1.98, 0.046), "neural ODE", "red"), ((1.76, 0.0285), "learned law", "blue")):
        x, y = plot.at(time, value)
        draw.text(x, y, words, anchor="end", fill=colour)
    x, y = plot.at(0.9, 0.0145)
    draw.dot(x - 34, y - 4, 3, fill="none", stroke="ink")
    draw.text(x - 26, y, "simulated", anchor="start")
    return draw


def write(target: Path = TARGET) -> None:
    """Draw both."""
    data = kept()
    for drawing in (motive(data["futures"]), unseen(data["predicted"])):
        (target / f"{drawing.name}.svg").write_text(drawing.svg(), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        text = json.dumps({"futures": futures(), "predicted": predicted()}, indent=None, separators=(",", ":"))
        KEPT.write_text(text.replace('},"', '},\n"').replace('],"', '],\n"') + "\n", encoding="utf-8")
    write()
