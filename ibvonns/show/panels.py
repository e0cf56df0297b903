"""Live panels: a learned law that runs in the reader's browser, beside particles that do, too.

The JavaScript of `show/live/panel.js` reads what `Model.exported` writes, and evaluates Eqs. (10) to
(12), (23), (28), (29), (30) of the trap, and Eqs. (41) to (50), (54) of the chain. That of
`show/live/gas.js` lets a lattice gas hop beside its exact law, in which nothing is learned.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import exp
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from ibvonns.layouts import Point, Row
from ibvonns.model import Model
from ibvonns.observations import observe
from ibvonns.show.widgets import Gas, Panel
from ibvonns.systems.chain import LENGTHS, VELOCITY, Chain
from ibvonns.systems.lattice import BITS, Lattice
from ibvonns.systems.trap import VELOCITIES, Trap
from ibvonns.validation import choice, count, require

__all__ = ["content", "gas", "gas_content", "packed", "panel"]

PARTICLES = 200  # of a cloud in the browser
POOLED = 20_000  # positions from which the first alpha is encoded
POINTS = 101  # of the grid of positions: enough for where axes end
LIVE, FROM = "Live panel:", "pulled by you, and the law that was learned from particles"

# of each system: what its script can draw, what pulls it, and what it says of itself
TOLD: dict[str, tuple[dict[str, Any], dict[str, tuple[float, ...]], dict[str, Any]]] = {
    "Trap": (
        {"layout": Point(), "decoder": "gaussian"},
        {"oscillating": VELOCITIES, "smoothed-linear": (1.2,)},
        {"kind": "trap", "description": f"{LIVE} a particle in a trap, {FROM}"},
    ),
    "Chain": (
        {"layout": Row(), "decoder": "mixture"},
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
    """Smallest and largest with a margin, for an axis; short numbers."""
    low, high = (float(end) for end in torch.cat(values).aminmax())
    pad = margin * (high - low)
    return [float(f"{low - pad:.3g}"), float(f"{high + pad:.3g}")]


@torch.no_grad()
def content(model: Model, system: Trap | Chain, replica: int = 0, seed: int = 0) -> dict[str, Any]:
    """What a panel needs: law, system, protocols, first states, and axes that hold all that they do.

    The first states are those of equilibrium. Sites are alike in it: their alpha is encoded from 20 000
    positions of all together. The particles start from 200 of these draws, rounded to four digits.

    Args:
        model: trained, with its gauge frozen; one internal variable, and potentials for a law.
        system: whose particles move.
        replica: which of the model's seeds runs.
        seed: of the draws.

    Returns:
        Plain numbers, ready for JSON.

    Raises:
        ValueError: another system, no such replica, or an architecture that the script does not know.
    """
    needs, pulls, told = TOLD[choice("system", type(system).__name__, TOLD)]
    for name, known in {**needs, "internal": 1, "law": "potentials"}.items():
        if (found := getattr(model.architecture, name)) != known:
            raise ValueError(f"model must have the {name} {known!r} to run in a page, but has {found!r}")
    exported = model.exported(replica)
    one = Model.restored(exported)
    law, bonds, spacing = one.law, one.architecture.bonds, one.architecture.spacing
    axes: dict[str, list[Tensor]] = {}
    records = []
    for protocol, values in pulls.items():
        drawn = system.simulate_paper(protocol, values, PARTICLES, count("seed", seed, 0))
        records.append(drawn.records["pulled_length"])
        data = observe(drawn, () if bonds else "pulled_length", spacing=spacing, points=POINTS)
        run = one.predict(data, "velocity")
        assert run.force is not None
        z, edge = run.states.flatten(1, 2), 0 if bonds else 3 * data.variance.sqrt()  # a density needs room
        g = law.driving(z, run.force[..., 0].flatten(1) if bonds else None)
        for name, part in {
            "length": records[-1] - records[-1][:, :1],
            "position": torch.stack([data.mean - edge, data.mean + edge]),
            "force": run.force,
            "alpha": run.alpha,
            "dissipation": law.dissipation(z, g).sum(-1),
        }.items():
            axes.setdefault(name, []).append(part.flatten())
    sites, rng = data.mean.shape[2], Generator().manual_seed(seed)
    first = system.simulate(records[0][:, :2], data.times[:2], POOLED // sites, rng).realisations[:, 0]
    first = first.reshape(len(first), sites, -1)
    clouds, alphas = first[..., :PARTICLES], one.encoder.encode(first.flatten(1))[0]
    low, high = (float(end) for end in clouds.aminmax())
    trained = (records[0] - records[0][:, :1])[::2].aminmax()
    state = one.state_dict().items()
    return {
        **told,
        "law": exported
        | {
            "gain": law.dissipation_network.gain.tolist(),
            "tensors": {name: (part[0] if part.ndim == 3 else part).tolist() for name, part in state},
        },
        "system": asdict(system),
        "particles": PARTICLES,
        "starts": [
            {"mean": float(mean), "alpha": alpha.tolist(), "cloud": packed(cloud, low, high)}
            for mean, alpha, cloud in zip(first.mean((1, 2)), alphas, clouds, strict=True)
        ],
        "range": [low, high],
        "trained": [float(end) for end in trained],
        "axes": {name: _reach(parts, 0.3 if name == "length" else 0.08) for name, parts in axes.items()},
        "protocols": [
            {"name": name, "label": name.replace("-", " ").capitalize(), "values": list(values)}
            for name, values in pulls.items()
        ],
    }


def panel(model: Model, system: Trap | Chain, replica: int = 0) -> Panel:
    """The panel of a learned law as a widget, in Jupyter and in the page.

    Args:
        model, system, replica: as for `content`, and with the same errors.
    """
    return Panel(content=content(model, system, replica))


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
    require(
        len(gases) and len(profiles), f"gases and profiles must not be empty, but number {len(gases)}, {len(profiles)}"
    )
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
