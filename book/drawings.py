"""Draw the trap, the chain, the lattice gas and the method: `python book/drawings.py`.

Each drawing is one SVG in `book/images`, 360 units wide, so that its letters can be read on a phone. Its colours
follow the reader's mode: that of the device, or that of the page into which `book/_ext/drawn.py` puts the drawing.
The same script gives the same bytes.
"""

from collections.abc import Sequence
from math import cos, exp, pi, sin
from pathlib import Path
from statistics import NormalDist
from xml.sax.saxutils import escape

TARGET = Path(__file__).resolve().parent / "images"
WIDTH = 360

# Okabe and Ito's blue, vermilion and green, darker on white and lighter on black.
STYLE = """
svg.ibv-drawn{--ink:#1b1f24;--soft:#4b5563;--line:#6b7280;--blue:#0059a8;--red:#b5470b;--green:#00694c;--ground:#eef2f6;
--fluid:#ddebf7;color-scheme:light}
@media (prefers-color-scheme:dark){svg.ibv-drawn:root{--ink:#e8eaed;--soft:#b4bcc6;--line:#9aa3ae;--blue:#6cb8f5;
--red:#f2a65a;--green:#5fcba5;--ground:#1e252d;--fluid:#1b2c3d}}
html[data-theme=dark] svg.ibv-drawn{--ink:#e8eaed;--soft:#b4bcc6;--line:#9aa3ae;--blue:#6cb8f5;--red:#f2a65a;
--green:#5fcba5;--ground:#1e252d;--fluid:#1b2c3d}
svg.ibv-drawn text{font:12px system-ui,sans-serif;fill:var(--ink)}
svg.ibv-drawn text.soft{fill:var(--soft);font-size:11px}
svg.ibv-drawn .m{font-family:serif;font-style:italic;font-size:14px}
svg.ibv-drawn .sub{font-family:serif;font-size:10.5px}
"""


class Drawing:
    """An SVG that grows by pieces.

    Args:
        name: of the file.
        height: in the units of `WIDTH`.
        title: what it is.
        says: what is seen, for those who cannot see it.
    """

    def __init__(self, name: str, height: float, title: str, says: str) -> None:
        self.name = name
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="ibv-drawn" viewBox="0 0 {WIDTH} {number(height)}" '
            f'role="img" aria-labelledby="{name}-title {name}-desc">',
            f'<title id="{name}-title">{escape(title)}</title>',
            f'<desc id="{name}-desc">{escape(says)}</desc>',
            f"<style>{STYLE}</style>",
        ]

    def path(self, data: str, stroke: str = "ink", width: float = 1.5, fill: str = "none", more: str = "") -> None:
        """A path in a colour of the style."""
        paint = fill if fill == "none" else f"var(--{fill})"
        line = "none" if stroke == "none" else f"var(--{stroke})"
        self.parts.append(
            f'<path d="{data}" fill="{paint}" stroke="{line}" stroke-width="{number(width)}" stroke-linejoin="round" '
            f'stroke-linecap="round"{more and " " + more}/>'
        )

    def curve(self, points: Sequence[tuple[float, float]], **how: object) -> None:
        """A line through points."""
        self.path("M" + "L".join(f"{number(x)} {number(y)}" for x, y in points), **how)  # type: ignore[arg-type]

    def line(self, x1: float, y1: float, x2: float, y2: float, **how: object) -> None:
        """A straight line."""
        self.curve([(x1, y1), (x2, y2)], **how)

    def arrow(self, x1: float, y1: float, x2: float, y2: float, stroke: str = "ink", width: float = 1.5) -> None:
        """A straight arrow."""
        far = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        a, b = (x2 - x1) / far, (y2 - y1) / far
        self.line(x1, y1, x2 - 5 * a, y2 - 5 * b, stroke=stroke, width=width)
        self.head(x2, y2, a, b, stroke)

    def head(self, x: float, y: float, a: float, b: float, stroke: str = "ink") -> None:
        """The head of an arrow whose tip is at x, y and which points along a, b."""
        one, two = (x - 8 * a - 4 * b, y - 8 * b + 4 * a), (x - 8 * a + 4 * b, y - 8 * b - 4 * a)
        self.curve([(x, y), one, two, (x, y)], stroke="none", fill=stroke)

    def dot(self, x: float, y: float, radius: float, fill: str = "blue", stroke: str = "none", more: str = "") -> None:
        """A disc."""
        paint = "none" if fill == "none" else f"var(--{fill})"
        line = "" if stroke == "none" else f' stroke="var(--{stroke})" stroke-width="1.5"'
        place = f'cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"'
        self.parts.append(f'<circle {place} fill="{paint}"{line}{more and " " + more}/>')

    def box(self, x: float, y: float, width: float, height: float, fill: str = "ground", stroke: str = "line") -> None:
        """A box with round corners."""
        line = "" if stroke == "none" else f' stroke="var(--{stroke})" stroke-width="1.2"'
        self.parts.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" rx="4" '
            f'fill="var(--{fill})"{line}/>'
        )

    def text(self, x: float, y: float, words: str, anchor: str = "middle", soft: bool = False, fill: str = "") -> None:
        """Words; what stands between dollars is a formula, in which _ lowers what follows, up to a bar."""
        pieces = []
        for place, piece in enumerate(words.split("$")):
            if place % 2 == 0:
                pieces.append(escape(piece))
                continue
            symbol, _, low = piece.partition("_")
            pieces.append(f'<tspan class="m">{escape(symbol)}</tspan>')
            if low:
                low, _, rest = low.partition("|")
                after = escape(rest) or "&#8203;"  # what carries the line back up
                pieces.append(
                    f'<tspan class="sub" dy="3">{escape(low)}</tspan><tspan class="m" dy="-3">{after}</tspan>'
                )
        kind = ' class="soft"' if soft else ""
        colour = f' style="fill:var(--{fill})"' if fill else ""
        self.parts.append(
            f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}"{kind}{colour}>{"".join(pieces)}</text>'
        )

    def spring(self, x1: float, x2: float, y: float, turns: int, high: float = 6, **how: object) -> None:
        """A spring between two places, straight at its ends."""
        end = min(6.0, 0.14 * (x2 - x1))
        points, step = [(x1, y), (x1 + end, y)], (x2 - x1 - 2 * end) / (2 * turns)
        points += [(x1 + end + step * (n + 0.5), y + (high if n % 2 else -high)) for n in range(2 * turns)]
        self.curve([*points, (x2 - end, y), (x2, y)], **how)

    def wall(self, x: float, y: float, half: float) -> None:
        """A wall on the left, hatched."""
        self.line(x, y - half, x, y + half, width=2)
        for n in range(int(half / 4)):
            top = y - half + 4 + 8 * n
            self.line(x - 6, top + 4, x, top - 2, stroke="line", width=1)

    def svg(self) -> str:
        """The whole."""
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def number(value: float) -> str:
    """A number with one decimal, or none.

    >>> number(2.04), number(3.16)
    ('2', '3.2')
    """
    return f"{value:.1f}".rstrip("0").rstrip(".") if "." in f"{value:.1f}" else f"{value:.1f}"


def spread(count: int) -> list[float]:
    """Normal numbers that fill the bell evenly, in a disorderly order."""
    halves = [sum(((n >> bit) & 1) / 2 ** (bit + 1) for bit in range(12)) for n in range(1, count + 1)]
    return [NormalDist().inv_cdf(value) for value in halves]


def thirds(n: int) -> float:
    """A number between 0 and 1: the digits of n to the base 3, behind the point and turned round."""
    value, unit = 0.0, 1 / 3
    while n:
        value, unit, n = value + unit * (n % 3), unit / 3, n // 3
    return value


def bell(middle: float, width: float, base: float, high: float) -> list[tuple[float, float]]:
    """Points of a Gaussian over a base line."""
    places = [n / 10 for n in range(-30, 31)]
    return [(middle + width * z, base - high * exp(-z * z / 2)) for z in places]


def trap() -> Drawing:
    """A particle between two springs, and what many runs of it give."""
    says = (
        "A wall at the origin, a spring, a bead, a second spring and an end that is pulled to the right along lambda "
        "of t with the force F ex. Below, on an axis of positions, one dot for each of many runs. The dots pile up to "
        "a bell around their mean mu, which lies to the left of lambda / 2, the middle between wall and end. An arrow "
        "leads from the bell to the internal variable alpha, one number for the whole cloud."
    )
    draw = Drawing("trap", 230, "A bead between two springs, and the cloud of its positions in many runs", says)
    wall, end, mean, bead, y, base = 24.0, 282.0, 134.0, 148.0, 52.0, 178.0
    draw.box(10, 24, 306, 56, fill="fluid", stroke="none")
    draw.text(92, 17, "one run, in water", soft=True)
    draw.wall(wall, y, 20)
    draw.spring(wall, bead - 8, y, 7)
    draw.spring(bead + 8, end, y, 7)
    draw.dot(bead, y, 8)
    draw.box(end, y - 9, 8, 18, fill="ink", stroke="none")
    draw.arrow(end + 8, y, 346, y, stroke="red", width=2)
    draw.text(330, y - 8, "$F_ex$", fill="red")
    draw.text(end + 4, 17, "pulled end $λ(t)$")
    # many runs: dots piled up in columns
    columns: dict[int, int] = {}
    step = 5.0
    for place in spread(120):
        column = round(place * 20 / step)
        high = columns[column] = columns.get(column, 0) + 1
        draw.dot(mean + step * column, base - step * (high - 0.5), 2, more='opacity="0.75"')
    draw.arrow(wall - 10, base, 346, base, stroke="ink", width=1.2)
    draw.text(346, base - 8, "position $x$", anchor="end")
    draw.line(wall, base - 4, wall, base + 4)
    draw.text(wall, base + 16, "0")
    middle = (wall + end + 4) / 2
    for tick, words in ((middle, "$λ/2$"), (end + 4, "$λ$")):
        draw.line(tick, base - 4, tick, base + 4)
        draw.text(tick + (8 if tick == middle else 0), base + 18, words)
    draw.line(end + 4, y + 11, end + 4, base - 6, stroke="line", width=1, more='stroke-dasharray="2 4"')
    draw.line(mean, 88, mean, base + 5, stroke="red", width=1.5, more='stroke-dasharray="5 3"')
    draw.text(mean + 8, base + 18, "mean $μ$", anchor="end", fill="red")
    draw.text(wall - 10, 104, "many runs:", anchor="start", soft=True)
    draw.text(wall - 10, 118, "a dot for each", anchor="start", soft=True)
    draw.arrow(mean + 50, 146, mean + 84, 146, stroke="green", width=2)
    draw.dot(mean + 100, 146, 13, fill="ground", stroke="green")
    draw.text(mean + 100, 150, "$α$", fill="green")
    draw.text(mean + 22, 112, "one number for the", anchor="start", soft=True)
    draw.text(mean + 22, 126, "whole cloud", anchor="start", soft=True)
    draw.text(180, 220, "At rest the mean is at $λ/2$. When the end moves, it lags.", soft=True)
    return draw


def chain() -> Drawing:
    """The chain of ten springs, each of them short or long, and the energy of one."""
    says = (
        "A wall on the left, then ten springs with ten particles between and behind them, in a fluid. The last "
        "particle is pulled to the right with the force F ex. Seven springs are short, and three, drawn in another "
        "colour, are three times as long. Below, the energy V of one spring against its strain: two equal wells, at "
        "strain 0 for a short spring and at strain 2 for a long one, and a barrier between them at strain 1."
    )
    draw = Drawing("chain", 262, "A wall, ten springs with two wells each, and a pulled end", says)
    unit, x, y = 18.4, 22.0, 52.0
    long = {3, 6, 7}
    draw.box(10, 26, 318, 54, fill="fluid", stroke="none")
    draw.text(12, 17, "wall", anchor="start")
    draw.text(172, 17, "ten springs in a viscous fluid", soft=True)
    draw.wall(x, y, 20)
    places = [x]
    for spring in range(1, 11):
        x += unit * (3 if spring in long else 1)
        places.append(x)
    for spring, (left, right) in enumerate(zip(places, places[1:], strict=False), 1):
        tall = 7 if spring in long else 8
        draw.spring(left, right, y, 4, tall, stroke="red" if spring in long else "blue", width=1.6)
    for place in places[1:-1]:
        draw.dot(place, y, 4, fill="ink")
    draw.dot(places[-1], y, 5.5, fill="ink")
    draw.arrow(places[-1] + 6, y, 352, y, stroke="red", width=2)
    draw.text(342, y - 9, "$F_ex$", fill="red")
    draw.text(354, 17, "pulled", anchor="end")
    one, two = places[2], places[3]
    draw.path(f"M{number(one)} 68V74H{number(two)}V68", width=1)
    draw.text((one + two) / 2, 94, "length $L_0|(1 + ε)$", anchor="middle")
    draw.text(348, 94, "$ε$: the spring's strain", anchor="end")
    # the energy of one spring
    left, base, scale, high = 122.0, 208.0, 58.0, 56.0
    strains = [n / 20 for n in range(-21, 62)]
    draw.curve([(left + scale * s, base - high * min(s * s, (s - 2) ** 2)) for s in strains], width=2)
    draw.arrow(24, base + 8, 346, base + 8, width=1.2)
    for strain in (0, 1, 2):
        draw.line(left + scale * strain, base + 5, left + scale * strain, base + 11)
        draw.text(left + scale * strain, base + 24, str(strain))
    draw.text(346, base + 24, "strain $ε$", anchor="end")
    draw.text(left + scale, 124, "energy $V$ of one spring")
    draw.text(left + scale, base - high - 8, "barrier", soft=True)
    draw.dot(left, base, 4.5, fill="blue")
    draw.dot(left + 2 * scale, base, 4.5, fill="red")
    draw.spring(left - 9, left + 9, base + 40, 4, 6, stroke="blue", width=1.6)
    draw.text(left - 16, base + 44, "short", anchor="end", fill="blue")
    draw.spring(left + 2 * scale - 27, left + 2 * scale + 27, base + 40, 4, 6, stroke="red", width=1.6)
    draw.text(left + 2 * scale + 34, base + 44, "long", anchor="start", fill="red")
    return draw


FULL = (0, 1, 2, 3, 5, 8, 9, 10, 13, 14, 19, 20, 21, 22, 23)
SITES = 24


def lattice() -> Drawing:
    """The ring of sites, and the density that is seen from afar."""
    says = (
        "A ring of 24 sites, 15 of them full. One particle with an empty site beside it has an arrow to that site: it "
        "may hop. Where particles are neighbours a short line binds them: they hold one another back. Below, the ring "
        "unrolled: the sites as a row of full and empty places, and above them a smooth line, the coarse density rho, "
        "high where many sites are full and low where few are."
    )
    draw = Drawing("lattice", 300, "Particles that hop on a ring of sites, and their coarse density", says)
    cx, cy, radius = 92.0, 92.0, 70.0

    def place(site: float, r: float = radius) -> tuple[float, float]:
        angle = 2 * pi * site / SITES - pi / 2
        return cx + r * cos(angle), cy + r * sin(angle)

    for site in FULL:
        if (site + 1) % SITES in FULL:
            draw.line(*place(site), *place(site + 1), stroke="red", width=4)
    for site in range(SITES):
        full = site in FULL
        draw.dot(*place(site), 7, fill="blue" if full else "ground", stroke="blue" if full else "line")
    # the hop: from site 5 to 6
    (x1, y1), (x2, y2) = place(5, radius + 10), place(6, radius + 10)
    mx, my = place(5.5, radius + 24)
    hop = f"M{number(x1)} {number(y1)}Q{number(mx)} {number(my)} {number(x2 + 2)} {number(y2 - 2)}"
    draw.path(hop, stroke="green", width=2)
    draw.head(x2, y2, -0.62, 0.78, "green")
    draw.text(cx, cy - 4, "a ring of", soft=True)
    draw.text(cx, cy + 10, "sites", soft=True)
    draw.dot(206, 28, 7, fill="blue", stroke="blue")
    draw.text(220, 32, "full", anchor="start")
    draw.dot(268, 28, 7, fill="ground", stroke="line")
    draw.text(282, 32, "empty", anchor="start")
    draw.arrow(198, 62, 218, 62, stroke="green", width=2)
    draw.text(226, 60, "hops to an empty", anchor="start")
    draw.text(226, 75, "site beside it", anchor="start")
    draw.line(200, 110, 216, 110, stroke="red", width=4)
    draw.text(226, 106, "neighbours attract:", anchor="start")
    draw.text(226, 121, "they hold one", anchor="start")
    draw.text(226, 136, "another back", anchor="start")
    # unrolled
    left, step, base = 26.0, 13.4, 274.0
    draw.text(20, 194, "coarse density $ρ$:", anchor="start", fill="blue")
    draw.text(128, 194, "the share of full sites around", anchor="start", soft=True)
    points = []
    for n in range(0, 4 * SITES - 3):
        at = n / 4
        apart = [(abs((at - s + SITES / 2) % SITES - SITES / 2), s in FULL) for s in range(SITES)]
        weights = [(exp(-(d**2) / (2 * 1.8**2)), full) for d, full in apart]
        share = sum(w for w, full in weights if full) / sum(w for w, _ in weights)
        points.append((left + step * at, base - 18 - 48 * share))
    draw.line(left - 8, base - 18, left + step * SITES, base - 18, stroke="line", width=1)
    right = left + step * SITES
    draw.line(left - 8, base - 66, right, base - 66, stroke="line", width=1, more='stroke-dasharray="2 4"')
    draw.text(left - 11, base - 14, "0", anchor="end")
    draw.text(left - 11, base - 62, "1", anchor="end")
    draw.curve(points, stroke="blue", width=2.5)
    for site in range(SITES):
        full = site in FULL
        draw.dot(left + step * site, base, 5, fill="blue" if full else "ground", stroke="blue" if full else "line")
    draw.text(180, base + 21, "the same ring, unrolled", soft=True)
    return draw


def method() -> Drawing:
    """What the networks are, and what goes from one to the next."""
    says = (
        "Upper row: an ensemble of realisations goes into the encoder, out comes the internal variable alpha; alpha "
        "goes into the decoder, and out comes the density of the particles. Lower row: alpha and the pulled length "
        "are the state z. A network f of z, the free energy, gives the driving force g; a network phi of z and g, the "
        "friction, gives the rate of alpha, and so the motion. The slope of f along the pulled length is the force on "
        "the end. An arrow leads from the motion back to the state."
    )
    draw = Drawing("method", 286, "Encoder, internal variable, decoder; free energy, friction, motion", says)
    y = 60.0
    draw.box(8, y - 34, 66, 68, fill="ground")
    for n, z in enumerate(spread(40)):
        draw.dot(41 + 11 * z, y - 28 + 56 * thirds(n + 1), 2, more='opacity="0.8"')
    draw.text(41, y + 50, "many runs", soft=True)
    draw.arrow(76, y, 92, y)
    draw.path(f"M94 {y - 26:g}L152 {y - 12:g}V{y + 12:g}L94 {y + 26:g}Z", stroke="blue", fill="ground")
    draw.text(121, y + 4, "encoder", fill="blue")
    draw.arrow(154, y, 166, y)
    draw.dot(180, y, 13, fill="ground", stroke="green")
    draw.text(180, y + 4, "$α$", fill="green")
    draw.text(180, 16, "internal variable", fill="green")
    draw.line(180, 21, 180, y - 15, stroke="green", width=1, more='stroke-dasharray="2 3"')
    draw.arrow(194, y, 206, y)
    draw.path(f"M208 {y - 12:g}L266 {y - 26:g}V{y + 26:g}L208 {y + 12:g}Z", stroke="blue", fill="ground")
    draw.text(237, y + 4, "decoder", fill="blue")
    draw.arrow(268, y, 284, y)
    draw.box(286, y - 34, 66, 68, fill="ground")
    draw.curve(bell(319, 10, y + 24, 48), stroke="blue", width=2)
    draw.line(290, y + 24, 348, y + 24, stroke="line", width=1)
    draw.text(319, y + 50, "density", soft=True)
    # the law
    low = 176.0
    draw.path(f"M180 {y + 13:g}V122H50V{low - 22:g}", stroke="green", more="")
    draw.head(50, low - 17, 0, 1, "green")
    draw.box(14, low - 16, 72, 32)
    draw.text(50, low + 5, "state $z$")
    draw.text(50, low + 33, "$α$ and the", soft=True)
    draw.text(50, low + 46, "pulled length", soft=True)
    draw.arrow(88, low, 110, low)
    draw.box(112, low - 22, 66, 44, stroke="red")
    draw.text(145, low + 5, "$f(z)$", fill="red")
    draw.text(145, low + 38, "free energy", soft=True)
    draw.arrow(180, low, 210, low)
    draw.text(194, low - 8, "$g$")
    draw.box(212, low - 22, 66, 44, stroke="red")
    draw.text(245, low + 5, "$φ(z, g)$", fill="red")
    draw.text(245, low + 38, "friction", soft=True)
    draw.arrow(280, low, 296, low)
    draw.box(298, low - 30, 54, 60)
    settling = [(304 + 0.42 * n, low + 22 - 42 * (1 - exp(-n / 35))) for n in range(0, 101, 4)]
    draw.curve(settling, stroke="green", width=2)
    draw.text(325, low + 46, "motion", soft=True)
    draw.path(f"M325 {low - 30:g}V138H70V{low - 22:g}", stroke="line", more='stroke-dasharray="5 3"')
    draw.head(70, low - 17, 0, 1, "line")
    draw.text(214, 133, "and on to the next step", soft=True)
    draw.text(14, 254, "driving force $g = −∂f/∂α$", anchor="start")
    draw.text(346, 254, "rate $dα/dt = ∂φ/∂g$", anchor="end")
    draw.text(180, 276, "force on the pulled end $F_ex| = ∂f/∂λ$")
    return draw


DRAWINGS = (trap, chain, lattice, method)


def write(target: Path = TARGET) -> None:
    """Write all of them."""
    target.mkdir(exist_ok=True)
    for make in DRAWINGS:
        drawing = make()
        (target / f"{drawing.name}.svg").write_text(drawing.svg(), encoding="utf-8")


if __name__ == "__main__":
    write()
