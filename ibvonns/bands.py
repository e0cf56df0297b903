"""How wrong a learned law may be: bands from laws of resampled data, calibrated on what each has not seen.

Seeds alone share their data, and with them what these do not tell: their scatter is too small. So each law here has a
seed of its own and learns from a bootstrap, as many conditions and parts as there are, drawn with replacement. Every
condition is then unknown to about a third of the laws. What these miss of it beside their scatter says by which
factor the scatter is too small, and the bands are made wider by it, never narrower: a conformal step over protocols,
which needs no model of the error.

Reference: Efron, Tibshirani, An Introduction to the Bootstrap, 1993; Diquigiovanni, Fontana, Vantini, Statistica
Sinica 35 (2025) 853: calibrate over whole curves; Giampiccolo et al., npj Syst. Biol. Appl. 2026: seeds alone are
overconfident off the data.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, cast

import numpy
import torch
from torch import Tensor

from ibvonns.answers import Array
from ibvonns.ensemble import Ensemble
from ibvonns.learning import Learned, fit
from ibvonns.observations import Observations, observe
from ibvonns.seeds import force_noise
from ibvonns.validation import count, positive, require

__all__ = ["Banded", "Bands", "Interval", "banded"]

LEAST = 2  # laws to which a condition is unknown, for their scatter
WIDEST = 20.0  # times by which a band is made wider at most


@dataclass(frozen=True, eq=False)
class Interval:
    """A quantity with its band.

    Attributes:
        mean: over the laws.
        low: lower end.
        high: upper end.
    """

    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True, eq=False)
class Bands:
    """What resampled laws answer, with bands. Arrays are (conditions, times).

    Attributes:
        times: shape (times,).
        force: F_ex by name.
        work: done from outside since the beginning.
        dissipation: the energy dissipated since the beginning.
        outside: where a control, or an internal variable of over half of the laws, has left the range of the training
            data: from there on no data have calibrated the band.
    """

    times: Array
    force: dict[str, Interval]
    work: Interval
    dissipation: Interval
    outside: Array


@dataclass(frozen=True)
class Banded:
    """Laws of resampled data, and by how much their scatter is too small.

    Attributes:
        laws: each of one seed and one draw.
        factors: of the scatter, by the name of the force.
        share: of the truth that bands should hold.
    """

    laws: tuple[Learned, ...]
    factors: Mapping[str, float]
    share: float

    def predict(self, times: Any, controls: Mapping[str, Any], **how: Any) -> Bands:
        """As `answers.predict` of one law, with bands; of a point.

        Args:
            times: as there.
            controls: as there.
            how: what it takes besides.
        """
        answers = [law.predict(times, controls, **how) for law in self.laws]
        widest = max(self.factors.values())

        def interval(values: Sequence[Array], factor: float) -> Interval:
            return _interval(numpy.concatenate(values), factor, self.share)

        force = {
            name: interval([one.force[name].values for one in answers], self.factors[name]) for name in self.factors
        }
        work, lost = ([getattr(one, name).values for one in answers] for name in ("work", "dissipation"))
        known = torch.stack([torch.as_tensor(part) for part in answers[0].controls.values()], -1)
        gone = [
            _gone(law, known, torch.as_tensor(one.alpha.values)) for law, one in zip(self.laws, answers, strict=True)
        ]
        outside = torch.stack(gone).double().mean(0) > 0.5
        return Bands(answers[0].times, force, interval(work, widest), interval(lost, widest), outside.numpy())


def _interval(values: Array, factor: float, share: float) -> Interval:
    mean, away = values.mean(0), factor * NormalDist().inv_cdf((1 + share) / 2) * values.std(0, ddof=1)
    return Interval(mean, mean - away, mean + away)


def _gone(law: Learned, controls: Tensor, alpha: Tensor) -> Tensor:
    """Where a path has left the range of the law's data, (conditions, times)."""
    seen, own = law.data.field.flatten(0, 2), law.model.encode(law.data).detach().flatten(1, 3)[0]
    told = [
        (part < known.amin(0)) | (part > known.amax(0)) for part, known in ((controls, seen), (alpha[0, :, :, 0], own))
    ]
    return torch.cat([each.any(-1, keepdim=True) for each in told], -1).any(-1)


def banded(
    ensemble: Ensemble | Iterable[Ensemble],
    controls: str | Sequence[str],
    forces: str | Sequence[str],
    resamples: int = 8,
    share: float = 0.9,
    **how: Any,
) -> Banded:
    """Learn laws of a point from resampled data, and calibrate their bands.

    Args:
        ensemble: the realisations, or independent parts of them, which are resampled, too.
        controls: as for `learning.fit`.
        forces: as for `learning.fit`; at least one.
        resamples: how many laws; the cost is that of so many seeds.
        share: of the truth that a band should hold.
        how: what `learning.fit` takes besides, but for seeds.

    Raises:
        ValueError: fewer than four resamples or conditions, a share that is not below 1, no force, or as `fit`.
    """
    parts = [ensemble] if isinstance(ensemble, Ensemble) else list(ensemble)
    number, rows = count("resamples", resamples, 4), len(parts[0].realisations)
    require(positive("share", share) < 1, f"share must be below 1, but is {share:g}")
    require(rows > 3, f"ensemble must hold at least 4 conditions, but holds {rows}")
    names = [forces] if isinstance(forces, str) else list(forces)
    require(names, "forces must name at least 1, but name none")
    whole, laws, unknown = observe(parts, controls, names), list[Learned](), torch.ones(number, rows, dtype=torch.bool)
    for n in range(number):
        rng = torch.Generator().manual_seed(n)
        taken = torch.randint(rows, (rows,), generator=rng)
        some = [parts[k] for k in torch.randint(len(parts), (len(parts),), generator=rng)]
        unknown[n, taken] = False
        data = (
            whole.select(taken) if len(parts) == 1 else observe([part.select(taken) for part in some], controls, names)
        )
        laws.append(fit(data, controls=controls, forces=names, seeds=[n], **how))
    return Banded(tuple(laws), _factors(laws, whole, unknown, names, share), share)


@torch.no_grad()
def _factors(
    laws: Sequence[Learned], data: Observations, unknown: Tensor, names: Sequence[str], share: float
) -> dict[str, float]:
    """By how much bands must be wider to hold their share of what no law of theirs has seen, whose noise is known."""
    found = torch.cat([cast(Tensor, law.model.predict(data).force) for law in laws])
    enough = unknown.sum(0) >= LEAST
    weights = unknown.double()[:, :, None, None]
    middle = (weights * found).sum(0) / weights.sum(0).clamp_min(1)
    scatter = ((weights * (found - middle) ** 2).sum(0) / (weights.sum(0) - 1).clamp_min(1)).sqrt()
    assert data.force is not None
    missed, reach = (data.force - middle).abs()[enough], NormalDist().inv_cdf((1 + share) / 2)
    noise = force_noise(data).unflatten(0, data.force.shape[:2])[enough]
    # what is missed beyond the noise, in units of the scatter: bands so much wider hold just that point
    needed = ((missed / reach) ** 2 - noise**2).clamp_min(0).sqrt() / scatter[enough].clamp_min(1e-300)
    wide = needed.flatten(0, 1).quantile(share, dim=0).clamp(1.0, WIDEST)  # less than their scatter nobody knows
    return dict(zip(names, wide.tolist(), strict=True))
