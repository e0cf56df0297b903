"""What the abstract of Stat-PINNs claims, tried on lattice gases whose laws are known.

That paper prints no number that could be compared here, and its sizes are not at hand.
"""

from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from statistics import median
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ibvonns.cache import cached
from ibvonns.fluctuations import Estimate, shapes
from ibvonns.layouts import Ring, forces
from ibvonns.model import Model
from ibvonns.paper.gases import GASES, SHAPES, Gas, trained
from ibvonns.paper.scoreboard import piped, ranged, rounded, summary
from ibvonns.rollout import relaxed, steepest
from ibvonns.systems.lattice import box, density, nearest

__all__ = ["FEW", "LATER", "VERDICTS", "claims", "errors", "futures", "operator", "told"]

VERDICTS = ("holds", "does not hold")  #: Of a claim.
FEW = 20  #: Times fewer runs, for the claim of robustness.
#: Times of a prediction by the name of the gas, far beyond those of the training.
LATER = {"attracting": (100.0, 400.0), "repelling": (20.0, 80.0), "long": (100.0, 400.0)}


def operator(gas: Gas, profile: NDArray[Any], kind: str = "spline") -> Tensor:
    """The exact K of coarse variables, from the mean rates of jumps in local equilibrium.

    Args:
        gas: whose K it is.
        profile: density at each place, shape (sites,).
        kind: of the shape functions.
    """
    slope = forces(Ring(), shapes(gas.lattice.sites, SHAPES, kind))[..., 0]
    right, left = (torch.from_numpy(each) for each in gas.lattice.rates(profile))
    return (slope * (right + left) / 2 / gas.lattice.temperature) @ slope.mT / gas.lattice.sites


def errors(gas: Gas, model: Model) -> dict[str, list[float]]:
    """Errors of a learned law in percent, one for each replica, against the exact one.

    Of a local law "m", "mu", "curvature" (f'') and "diffusivity" at densities from 0.09 to 0.91. Else "m" and
    "mu" of the unseen profiles, the worst of them; "mean field", the error of that formula's m, beside. mu is
    known up to a number.

    Args:
        gas: whose law it is.
        model: trained on it.
    """
    law, seeds = model.law, len(model.seeds)
    if not gas.local:
        profiles = torch.from_numpy(gas.densities(gas.unseen))
        strength, reach = 2 * sum(gas.lattice.couplings) / gas.lattice.temperature, gas.lattice.reach
        mu, m = box(profiles, strength, reach)
        z = profiles[None, ..., None].expand(seeds, -1, -1, -1)
        pairs = {"m": (law.operator(z, z)[..., 0], m), "mu": (_centred(law.slopes(z)[0][..., 0]), _centred(mu))}
        found = {name: _missed(*pair).amax(1).tolist() for name, pair in pairs.items()}
        rough = _missed(box(profiles, strength, reach, exact=False)[1], m)
        return found | {"mean field": [float(rough.max())]}
    r = torch.linspace(0.09, 0.91, 83).double()
    z = r[None, :, None, None].expand(seeds, -1, 1, 1).clone().requires_grad_()
    mu = law.slopes(z)[0]
    curved = torch.autograd.grad(mu.sum(), z)[0][..., 0, 0]
    m, mu = law.operator(z, z).detach()[..., 0, 0], mu.detach()[..., 0, 0]
    exact_mu, exact_curved, exact_m, _ = nearest(r, exp(-gas.lattice.couplings[0] / gas.lattice.temperature))
    pairs = {"m": (m, exact_m), "mu": (_centred(mu), _centred(exact_mu)), "curvature": (curved, exact_curved)}
    pairs["diffusivity"] = m * curved, exact_m * exact_curved
    return {name: _missed(*pair).tolist() for name, pair in pairs.items()}


@torch.no_grad()
def futures(name: str, model: Model, words: int = 1000, seed: int = 90_000) -> dict[str, list[float]]:
    """Long after the runs that were seen, from unseen profiles: errors in percent of what is not uniform.

    Args:
        name: a key of `GASES`.
        model: trained on it.
        words: of 64 realisations each, that are simulated; with 0 none are.
        seed: of the simulation.

    Returns:
        "equation", of each replica against the exact law; "simulation", of each against the particles; and
        "floor", of the exact mean against them, as their scatter tells.
    """
    gas, times = GASES[name], torch.tensor([0.0, *LATER[name]]).double()
    profiles = gas.densities(gas.unseen)
    z = torch.from_numpy(profiles)[None, ..., None]
    begin = z.expand(len(model.seeds), -1, -1, -1)
    ours = relaxed(model.law, begin, times, step=1.6 / steepest(model.law, begin))[:, :, 1:, :, 0]
    exact = relaxed(gas.lattice, z, times)[0, :, 1:, :, 0]  # type: ignore[arg-type]
    found = {"equation": _missed(ours.flatten(1), _centred(exact).flatten(), exact.flatten())}
    if words:
        seen = list[Estimate]()
        for place, profile in enumerate(profiles):
            states = gas.lattice.equilibrium(profile, words, seed + place)
            for step, lapse in enumerate(times.diff().tolist(), 1):
                states = gas.lattice.hopped(states, lapse, seed + 100 * step + place)
                seen.append(Estimate(density(states)))
        truth, noise = (torch.stack([getattr(one, part) for one in seen]).view_as(exact) for part in ("value", "error"))
        found["simulation"] = _missed(ours.flatten(1), _centred(truth).flatten(), truth.flatten())
        found["floor"] = 100 * noise.norm()[None] / _centred(truth).norm()
    return {name: values.tolist() for name, values in found.items()}


def claims() -> list[dict[str, Any]]:
    """What the abstract claims, with our number, what it is held against, and whether it holds; from the cache.

    Returns:
        A row for each claim: "claim"; "gas"; "quantity", what is measured, in percent; "ours", median, smallest
        and largest over the seeds; "beside", what that is held against, and "what" that is; and "verdict", one of
        `VERDICTS`, which holds where the median is at most "share" times "beside".
    """
    return cached("claims", [], _claims, Path(__file__))


def _claims() -> list[dict[str, Any]]:
    rows = []

    def row(claim: str, gas: str, quantity: str, ours: list[float], what: str, beside: float, share: float) -> None:
        found = summary(ours)
        told = {"claim": claim, "gas": gas, "quantity": quantity, "ours": found, "what": what, "beside": beside}
        rows.append({**told, "share": share, "verdict": VERDICTS[found["median"] > share * beside]})

    models = {name: trained(name) for name in GASES}
    far = errors(GASES["long"], models["long"])
    row("recovers what is known of a long reach", "long", "m", far["m"], "the mean field", far["mean field"][0], 1.0)
    for name in ("attracting", "repelling"):
        near = errors(GASES[name], models[name])
        for quantity in ("m", "curvature"):
            row("finds the law of a short reach", name, quantity, near[quantity], "one percent", 1.0, 1.0)
    short, bare = "attracting", "without fluctuations"
    both = {few: [trained(short, fluctuations=each, fewer=few) for each in (True, False)] for few in (1, FEW)}
    for claim, quantity, few in (("makes the pair unique", "m", 1), ("is robust", f"m, runs / {FEW}", FEW)):
        ours, theirs = (errors(GASES[short], model)["m"] for model in both[few])
        row(claim, short, quantity, ours, bare, median(theirs), 0.1)
    for name, model in models.items():
        ahead = futures(name, model)
        ours, noise = ahead["simulation"], ahead["floor"][0]
        row("predicts long times from short runs", name, "particles", ours, "noise floor", noise, 1.2)
    ours, theirs = (futures(short, model, words=0)["equation"] for model in both[FEW])
    row("predicts better", short, f"exact law, runs / {FEW}", ours, bare, median(theirs), 0.8)
    return rows


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `claims` as a Markdown table.

    Args:
        rows: as `claims` gives them.

    >>> print(told([]).splitlines()[0])
    | claim | gas | error of, % | ours [min, max] | beside | verdict |
    """
    heads = ("claim", "gas", "error of, %", "ours [min, max]", "beside", "verdict")
    lines = []
    for row in rows:
        ours, beside = ranged(row["ours"], "%", "≈"), f"{row['what']}, {rounded(row['beside'], '%')}"
        lines.append((row["claim"], row["gas"], row["quantity"], ours, beside, row["verdict"]))
    return piped(heads, lines, 2)


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(-1, keepdim=True)


def _missed(ours: Tensor, size: Tensor, exact: Tensor | None = None) -> Tensor:
    """Error over the last axis in percent, against `exact` if it is not what tells the size."""
    return 100 * (ours - (size if exact is None else exact)).norm(dim=-1) / size.norm(dim=-1)
