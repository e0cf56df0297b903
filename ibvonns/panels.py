"""Live panels: a learned law that runs in the reader's browser, beside particles that do, too.

The JavaScript of `ibvonns/live/panel.js` reads what `exports.exported` writes, and evaluates Eqs.
(10) to (12), (23), (28), (29), (30) of the trap, and Eqs. (41) to (50), (54) of the chain.
"""

import base64
import math
from typing import Any

import torch
from torch import Generator, Tensor

from ibvonns.chain_model import ChainModel, observe_chain
from ibvonns.ensemble import Density
from ibvonns.exports import exported
from ibvonns.model import TrapModel
from ibvonns.systems.chain import LENGTHS, VELOCITY, Chain
from ibvonns.systems.trap import VELOCITIES, Trap, paper_times
from ibvonns.validation import count
from ibvonns.widgets import Panel

__all__ = ["chain_content", "chain_panel", "trap_content", "trap_panel"]

PARTICLES = 200  # of a cloud in the browser
RANGE = (-3.0, 6.0)  # strains that `packed` can hold; the chain's stay within
POOLED = 20_000  # realisations from which the first alpha of a chain is encoded


def packed(strains: Tensor) -> str:
    """Strains as base64 of little-endian 16-bit integers over `RANGE`: four digits, for a cloud.

    >>> len(packed(torch.zeros(3, 2)))
    16
    """
    low, high = RANGE
    levels = ((strains.clamp(low, high) - low) / (high - low) * 65535).round().to(torch.int32)
    return base64.b64encode(levels.numpy().astype("<u2").tobytes()).decode()


def _reach(values: Tensor, margin: float = 0.08) -> list[float]:
    """Smallest and largest with a margin, for an axis; short numbers."""
    low, high = float(values.min()), float(values.max())
    pad = margin * (high - low)
    return [float(f"{low - pad:.3g}"), float(f"{high + pad:.3g}")]


@torch.no_grad()
def trap_content(model: TrapModel, replica: int = 0, trap: Trap | None = None) -> dict[str, Any]:
    """What the panel of the trap needs: the law, the trap, the protocols and the first state.

    Args:
        model: trained, with its gauge frozen.
        replica: which of its seeds runs.
        trap: in which the particles move; the paper's if not given.

    Raises:
        ValueError: see `exported`.
    """
    trap = trap or Trap()
    law = exported(model, replica)
    # the first state is equilibrium at lambda = 0, encoded from the exact density
    centre, deviation = model.encoder.position
    spread = trap.equilibrium_deviation
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64) * spread
    bell = torch.exp(-(grid**2) / (2 * spread**2))
    start = model.encoder(Density(grid, (bell / bell.sum())[None]))[replica, 0].tolist()
    # axes that hold all that the paper's protocols do, from the exact theory
    pulls = trap.simulate_paper(realisations=1).records["pulled_length"]
    times = paper_times()
    means = trap.mean(pulls, times)
    initial = torch.tensor(start, dtype=torch.float64).expand(len(model.seeds), len(pulls), 1)
    alpha = model.predict(pulls, initial, times)[0]
    power = trap.thermodynamic_force(pulls, means) ** 2 / trap.viscosity
    axes = {
        "length": _reach(pulls, 0.3),
        "position": _reach(torch.cat([means - 4 * spread, means + 4 * spread]), 0.0),
        "density": [0.0, float(f"{0.55 / spread:.2g}")],
        "force": _reach(trap.external_force(pulls, means)),
        "alpha": _reach(alpha[replica]),
        "dissipation": [0.0, _reach(power)[1]],
    }
    return {
        "kind": "trap",
        "description": "Live panel: a particle in a trap, pulled by you, and the law that was "
        "learned from particles",
        "law": law,
        "system": {name: getattr(trap, name) for name in ("stiffness", "viscosity", "temperature")},
        "particles": PARTICLES,
        "start": start,
        "trained": [float(pulls[::2].min()), float(pulls[::2].max())],
        "axes": axes,
        "protocols": [
            {"name": "oscillating", "label": "Oscillating", "values": list(VELOCITIES)},
            {"name": "smoothed-linear", "label": "Smoothed linear", "values": [1.2]},
        ],
    }


@torch.no_grad()
def chain_content(
    model: ChainModel, replica: int = 0, chain: Chain | None = None, seed: int = 0
) -> dict[str, Any]:
    """What the panel of the chain needs: the law, the chain, the protocols and the first states.

    In equilibrium all springs are alike. So the first strain is the same for all, exactly, and so
    is the first alpha, encoded from 20 000 strains of all springs together. The particles start
    from independent draws of that equilibrium, rounded to four digits.

    Args:
        model: trained, with its gauge frozen, and a mixture for a decoder.
        replica: which of its seeds runs.
        chain: whose particles move; the paper's if not given.
        seed: of the draws.

    Raises:
        ValueError: see `exported`.
    """
    chain = chain or Chain()
    law = exported(model, replica)
    rng = Generator().manual_seed(count("seed", seed, 0))
    starts = []
    for length in LENGTHS:
        drawn = chain.equilibrium(length, POOLED // chain.springs, rng)
        alpha = model.encoder.encode(drawn.reshape(1, -1))[replica, 0].tolist()
        mean = length / chain.natural_length / chain.springs - 1
        starts.append({"strain": mean, "alpha": alpha, "cloud": packed(drawn[:PARTICLES])})
    shape = ("springs", "natural_length", "barrier_strain", "well_strain", "viscosity")
    system = {name: getattr(chain, name) for name in (*shape, "temperature")}
    trials = {"smoothed-linear": (LENGTHS[0], LENGTHS[-1]), "sinusoidal": (0.20,)}
    seen = [
        observe_chain(
            chain.simulate_paper(protocol, lengths, PARTICLES, seed), chain.natural_length
        )
        for protocol, lengths in trials.items()
    ]
    strains = torch.cat([part.mean.flatten() for part in seen])
    alphas = torch.cat([model.encode(part)[replica].flatten() for part in seen])
    forces = torch.cat([part.external_force.flatten() for part in seen])
    drag = torch.cat([part.velocity.flatten() for part in seen]).square().max() * chain.viscosity
    return {
        "kind": "chain",
        "description": "Live panel: a chain of ten double-well springs, pulled by you, and the law "
        "that was learned from particles",
        "law": law,
        "system": system | {"stiffness": list(chain.stiffness)},
        "particles": PARTICLES,
        "starts": starts,
        "range": list(RANGE),
        "velocity": VELOCITY,
        "trained": [0.0, VELOCITY * 3 * (1 - math.exp(-3.0))],
        "axes": {
            "length": [-0.04, 0.2],
            "strain": _reach(strains),
            "force": _reach(forces),
            "alpha": _reach(alphas),
            "dissipation": [0.0, 2 * float(drag)],
        },
        "protocols": [
            {"name": "smoothed-linear", "label": "Smoothed linear", "values": list(LENGTHS)},
            {"name": "sinusoidal", "label": "Sinusoidal", "values": [0.20]},
        ],
    }


def trap_panel(model: TrapModel, replica: int = 0, trap: Trap | None = None) -> Panel:
    """The panel of the trap as a widget, in Jupyter and in the page.

    Args:
        model, replica, trap: as for `trap_content`, and with the same errors.
    """
    return Panel(content=trap_content(model, replica, trap))


def chain_panel(model: ChainModel, replica: int = 0, chain: Chain | None = None) -> Panel:
    """The panel of the chain as a widget, in Jupyter and in the page.

    Args:
        model, replica, chain: as for `chain_content`, and with the same errors.
    """
    return Panel(content=chain_content(model, replica, chain))
