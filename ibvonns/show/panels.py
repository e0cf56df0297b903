"""Live panels: a learned law that runs in the reader's browser, beside particles that do, too.

The JavaScript of `show/live/panel.js` reads what `Model.exported` writes, and evaluates Eqs. (10) to
(12), (23), (28), (29), (30) of the trap, and Eqs. (41) to (50), (54) of the chain, where two laws may
run beside each other. That of `show/live/gas.js` lets a lattice gas hop beside its exact law, in
which nothing is learned.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from math import exp
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from ibvonns.bands import MARGIN, Banded, student
from ibvonns.layouts import Point, Row
from ibvonns.model import Model
from ibvonns.observations import Observations, observe
from ibvonns.protocols import Protocol, lengths
from ibvonns.show.widgets import Gas, Panel
from ibvonns.systems.chain import LENGTHS, VELOCITY, Chain
from ibvonns.systems.lattice import BITS, Lattice
from ibvonns.systems.trap import VELOCITIES, Trap, paper_times
from ibvonns.validation import choice, count, require, seeded

__all__ = ["content", "gas", "gas_content", "packed", "panel"]

PARTICLES = 200  # of a cloud in the browser
POOLED = 20_000  # positions from which the first alpha is encoded
POINTS = 101  # of the grid of positions: enough for where axes end
DIGITS = 9  # of the weights of two laws, which would make a page heavy
ROUND = 7  # digits of lengths, of which a velocity of the end keeps four
LIVE, FROM = "Live panel:", "pulled by you, and the law that was learned from particles"

# of each system: what its script can run, what pulls it, and what it says of itself
TOLD: dict[str, tuple[dict[str, tuple[Any, ...]], dict[str, tuple[float, ...]], dict[str, Any]]] = {
    "Trap": (
        {"layout": (Point(),), "decoder": ("gaussian",), "internal": (1,)},
        {"oscillating": VELOCITIES, "smoothed-linear": (1.2,)},
        {"kind": "trap", "description": f"{LIVE} a particle in a trap, {FROM}"},
    ),
    "Chain": (
        {"layout": (Row(),), "decoder": ("mixture", "flow")},
        {"smoothed-linear": LENGTHS, "sinusoidal": (0.20,)},
        {"kind": "chain", "description": f"{LIVE} a chain of double-well springs, {FROM}", "velocity": VELOCITY},
    ),
}


def packed(values: Tensor, low: float, high: float) -> str:
    """Numbers as base64 of little-endian 16-bit integers: four digits, for a cloud.

    Args:
        values: of any shape.
        low: what 0 stands for.
        high: what 65535 stands for.

    >>> len(packed(torch.zeros(3, 2), -1.0, 1.0))
    16
    """
    levels = ((values.clamp(low, high) - low) / (high - low) * 65535).round().to(torch.int32)
    return base64.b64encode(levels.numpy().astype("<u2").tobytes()).decode()


def _reach(values: list[Tensor], margin: float = 0.08) -> list[float]:
    """Smallest and largest with a margin, for an axis; short numbers. A law that ran away does not stretch it."""
    every = torch.cat(values)
    low, high = (float(end) for end in every[every.isfinite()].aminmax())
    pad = margin * (high - low)
    return [float(f"{low - pad:.3g}"), float(f"{high + pad:.3g}")]


def _rounded(values: Tensor, digits: int) -> Tensor:
    """Numbers of which only the first digits are kept."""
    kept = [float(f"{x:.{digits}g}") for x in values.flatten().tolist()]
    return torch.tensor(kept, dtype=torch.float64).view_as(values)


def _known(name: str, model: Model, needs: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise unless the script knows a model's architecture."""
    for what, known in {**needs, "law": ("potentials",), "steps": ("euler",)}.items():
        found, words = getattr(model.architecture, what), " or ".join(map(repr, known))
        require(found in known, f"{name} must have the {what} {words} to run in a page, but has {found!r}")
    require(model.architecture.internal, f"{name} must have an internal variable to run in a page, but has none")


def _law(model: Model, drawn: bool, digits: int | None) -> dict[str, Any]:
    """A model of one replica as its script reads it: no axis of replicas, and only a decoder that is drawn."""
    kept = {name: part for name, part in model.state_dict().items() if drawn or not name.startswith("decoder.")}
    parts = {name: (part[0] if part.ndim == 3 else part) for name, part in kept.items()}
    tensors = {name: (_rounded(part, digits) if digits else part).tolist() for name, part in parts.items()}
    return model.exported() | {"gain": model.law.dissipation_network.gain.tolist(), "tensors": tensors}


def _ends(values: Tensor) -> list[float]:
    """Smallest and largest."""
    return [float(end) for end in values.aminmax()]


def _banded(bands: Banded, first: Tensor) -> dict[str, Any]:
    """Laws of bands as the script reads them, what they make of first positions, and the ranges of their data."""

    def ends(values: Tensor) -> list[float]:
        low, high = _ends(values)
        return [low - MARGIN * (high - low), high + MARGIN * (high - low)]

    name, factor = next(iter(bands.factors.items()))
    laws = []
    for each in bands.laws:
        begun, own = each.model.encoder.encode(first)[0].tolist(), ends(each.model.encode(bands.data))
        law = None if each is bands.laws[0] else _law(each.model, False, DIGITS)  # the panel has that one anyway
        laws.append({"law": law, "starts": begun, "alpha": own})
    unit = student(bands.share, 4 * (len(laws) - 1))
    wide = {"share": bands.share, "reach": factor * unit, "beyond": max(1.0, factor) * unit, "usual": bands.usual[name]}
    return {**wide, "length": ends(bands.data.field), "laws": laws}


@torch.no_grad()
def content(
    model: Model,
    system: Trap | Chain,
    replica: int = 0,
    seed: int = 0,
    rival: Model | None = None,
    protocols: Mapping[str, Protocol] | None = None,
    rival_replica: int = 0,
    labels: tuple[str, str] = ("learned law", "other law"),
    trained: tuple[float, float] | None = None,
    bands: Banded | None = None,
    data: Observations | None = None,
) -> dict[str, Any]:
    """What a panel needs: law, system, protocols, first states, and axes that hold all that they do.

    The first states are those of equilibrium. Sites are alike in it: their alpha is encoded from 20 000
    positions of all together. The particles start from 200 of these draws, rounded to four digits. With a
    rival or protocols of one's own, lengths and weights are rounded, too, for the sake of the page.

    A panel tells where a path leaves what the law has learned from: by the pulled end, by a strain, or by an internal
    variable. The model knows the range of the last (`law.Law.bound`). Those of the others are the paper's training
    data's, where its protocols pull, or those of `data`, and else are not known.

    Args:
        model: trained, with its gauge frozen, and potentials for a law. Of the trap one internal variable and a
            Gaussian; of the chain any number, and a mixture or a flow, whose density is not drawn.
        system: whose particles move.
        replica: which of the model's seeds runs.
        seed: of the draws.
        rival: for a chain, another such model, whose law runs beside as a dashed line.
        protocols: for a chain, what pulls it instead of the paper's protocols, by label.
        rival_replica: which of the rival's seeds runs.
        labels: of the law and of the rival.
        trained: total lengths between which the law was trained, for a band, if protocols are given; else the data's.
        data: what the model was trained on, if that is not the paper's.
        bands: for a trap, laws of resampled data, of which the model is the first: the force is then their mean, in its
            band.

    Returns:
        Plain numbers, ready for JSON.

    Raises:
        ValueError: another system, no such replica, an architecture that the script does not know, a rival or
            protocols for a trap, bands for a chain or of another model, no protocol, data of another kind than the
            model's, or as `Chain.simulate`.
    """
    needs, pulls, told = TOLD[choice("system", type(system).__name__, TOLD)]
    laws = {"model": (model, replica)} | ({} if rival is None else {"rival": (rival, rival_replica)})
    for name, (each, _) in laws.items():
        _known(name, each, needs)
    own = rival is not None or protocols is not None
    require(isinstance(system, Chain) or not own, "rival and protocols must be None for a Trap, but are given")
    whose = bands is None or (isinstance(system, Trap) and bands.laws[0].model is model)
    require(whose, "bands must be of a Trap, the model their first law, but are not")
    for one_of in bands.laws if bands is not None else ():
        _known("bands", one_of.model, needs)
    both = [Model.restored(each.exported(number)) for each, number in laws.values()]
    one, bonds, spacing = both[0], model.architecture.bonds, model.architecture.spacing
    if protocols is None:
        runs = [system.simulate_paper(name, each, PARTICLES, count("seed", seed, 0)) for name, each in pulls.items()]
        rows = list(range(len(runs[0].records["pulled_length"])))
        given: list[dict[str, Any]] = [
            {"name": name, "label": name.replace("-", " ").capitalize(), "values": list(values)}
            for name, values in pulls.items()
        ]
    else:
        total = lengths(list(protocols.values()), paper_times())
        base, path = _rounded(total[:, 0], ROUND), _rounded(total - total[:, :1], ROUND)
        runs = [cast(Chain, system).simulate(base[:, None] + path, paper_times(), PARTICLES, seeded(seed))]
        rows = [base.tolist().index(first) for first in dict.fromkeys(base.tolist())]
        given = [
            {"name": f"{each.kind}-{n}", "label": label, "lengths": path[n].tolist(), "values": [float(base[n])]}
            for n, (label, each) in enumerate(protocols.items())
        ]
    axes: dict[str, list[Tensor]] = {}
    strains = None if data is None else one.matched(data).field
    for drawn, one_law in product(runs, both):
        pulled = drawn.records["pulled_length"]
        seen = observe(drawn, () if bonds else "pulled_length", spacing=spacing, points=POINTS)
        run, law = one_law.predict(seen, "velocity"), one_law.law
        assert run.force is not None
        if strains is None and protocols is None:
            strains = seen.field[::2]  # the paper's, every second condition of the first protocol
        z, edge = run.states.flatten(1, 2), 0 if bonds else 3 * seen.variance.sqrt()  # a density needs room
        g = law.driving(z, run.force[..., 0].flatten(1) if bonds else None)
        for name, part in {
            "length": pulled - pulled[:, :1],
            "position": torch.stack([seen.mean - edge, seen.mean + edge]),
            "force": run.force,
            "alpha": run.alpha[..., 0] if one_law is one else run.alpha[:0],  # a rival's is not drawn
            "dissipation": law.dissipation(z, g).sum(-1),
        }.items():
            axes.setdefault(name, []).append(part.flatten())
    if own:
        axes["force"] += [drawn.records["external_force"].flatten() for drawn in runs]
    record, sites, rng = runs[0].records["pulled_length"], seen.mean.shape[2], Generator().manual_seed(seed)
    first = system.simulate(record[rows, :2], seen.times[:2], POOLED // sites, rng).realisations[:, 0]
    first = first.reshape(len(first), sites, -1)
    clouds, alphas = first[..., :PARTICLES], [each.encoder.encode(first.flatten(1))[0].tolist() for each in both]
    low, high = _ends(clouds)
    ends: Tensor | None = None if protocols is not None else record[::2] - record[::2, :1]
    if data is not None:
        length = spacing * (1 + data.field[..., -1]).sum(2) if bonds else data.field[:, :, 0, 0]
        ends = length if protocols is not None else length - length[:, :1]
    if protocols is not None and trained is not None:
        ends = torch.tensor(trained, dtype=torch.float64)
    whole: dict[str, Any] = {
        **told,
        "law": _law(one, one.architecture.decoder != "flow", DIGITS if own else None),
        "system": asdict(system),
        "particles": PARTICLES,
        "starts": [
            {"mean": float(mean), "alpha": alpha, "cloud": packed(cloud, low, high)}
            for mean, alpha, cloud in zip(first.mean((1, 2)), alphas[0], clouds, strict=True)
        ],
        "range": [low, high],
        "trained": None if ends is None else _ends(ends),
        "strains": _ends(strains) if bonds and strains is not None else None,
        "axes": {name: _reach(parts, 0.3 if name == "length" else 0.08) for name, parts in axes.items()},
        "protocols": given,
    }
    if bands is not None:
        whole["bands"] = _banded(bands, first.flatten(1))
    if rival is not None:
        starts = [{"alpha": alpha} for alpha in alphas[1]]
        whole |= {
            "description": told["description"].replace("the law that was", "two laws that were"),
            "label": labels[0],
            "rival": {"law": _law(both[1], False, DIGITS), "starts": starts, "label": labels[1]},
        }
    return whole


def panel(model: Model, system: Trap | Chain, replica: int = 0, seed: int = 0, **more: Any) -> Panel:
    """The panel of a learned law as a widget, in Jupyter and in the page.

    Args:
        model, system, replica, seed, more: as for `content`, and with the same errors.
    """
    return Panel(content=content(model, system, replica, seed, **more))


def gas_content(
    gases: Sequence[Lattice], profiles: Mapping[str, NDArray[np.float64]], words: int = 4, seed: int = 0
) -> dict[str, Any]:
    """What a panel of lattice gases needs: gases, first profiles, and draws of local equilibrium for each pair.

    Args:
        gases: of which nearest neighbours alone couple, as many sites in each.
        profiles: first densities by name, of shape (sites,).
        words: of 64 realisations each.
        seed: of the draws.

    Returns:
        Plain numbers, ready for JSON.

    Raises:
        ValueError: no gas or profile, a longer reach, or as `Lattice.equilibrium`.

    >>> gas_content([Lattice(8)], {"uniform": np.full(8, 0.5)}, words=1)["gases"]
    [{'label': 'attracting, a = 0.25', 'slowed': 0.25, 'frequency': 1.0}]
    """
    numbers = len(gases), len(profiles)
    require(all(numbers), "gases and profiles must not be empty, but number {}, {}".format(*numbers))
    told = []
    for each in gases:
        require(each.reach == 1, f"gases must couple nearest neighbours alone, but one has a reach of {each.reach}")
        coupling, slowed = each.couplings[0], exp(-each.couplings[0] / each.temperature)
        kind = "attracting" if coupling > 0 else "repelling" if coupling < 0 else "no coupling"
        told.append({"label": f"{kind}, a = {slowed:.3g}", "slowed": slowed, "frequency": each.frequency})
    drawn = [[each.equilibrium(density, words, seed) for density in profiles.values()] for each in gases]
    return {
        "description": "Live panel: particles that hop on a ring, and the equation of their density",
        "sites": gases[0].sites,
        "runs": BITS * words,
        "gases": told,
        "profiles": [{"label": name, "density": density.tolist()} for name, density in profiles.items()],
        "starts": [[base64.b64encode(s.astype("<u8").tobytes()).decode() for s in of_gas] for of_gas in drawn],
    }


def gas(gases: Sequence[Lattice], profiles: Mapping[str, NDArray[np.float64]], words: int = 4, seed: int = 0) -> Gas:
    """The panel of lattice gases as a widget, in Jupyter and in the page.

    Args:
        gases, profiles, words, seed: as for `gas_content`, and with the same errors.
    """
    return Gas(content=gas_content(gases, profiles, words, seed))
