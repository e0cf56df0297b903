"""The permutation-invariant encoder alpha = rho(<h(x)>), Eq. (4)."""

from dataclasses import replace
from itertools import combinations_with_replacement
from math import factorial
from typing import Any

import torch
from torch import Tensor, nn

from ibvonns.ensemble import Cloud, Density, Samples
from ibvonns.networks import MLP, Generators
from ibvonns.observations import Observations
from ibvonns.validation import count, require, shaped, tensor

__all__ = ["GAUGE_EVERY", "Encoder", "mixing"]

DEGREE = 4  # of polynomials
GAUGE_EVERY = 10  #: Steps between two times on which the gauge of alpha is measured.
WIDTH = 10  # of every hidden layer of h and of rho, and the number of averaged features
RESPONSE = 1e-3  # of the deviation of all positions, for a difference
SAME = 1e-9  # share of its variance by which a variable must differ from those before it, to be told
Gauge = tuple[Tensor, Tensor, Tensor | None]


class Encoder(nn.Module):
    """Deep-Sets encoder, Eq. (4), with its gauge fixed by construction.

    A realisation enters only through the ensemble average <h(x)>, so that their order cannot
    matter. alpha is defined up to a smooth monotone map (chapter 5). Here it is standardised over
    the training data, mean 0 and deviation 1, and rises with the mean position: alpha can therefore
    neither collapse to a constant, nor differ between seeds in offset, scale or sign. Of several
    internal variables each is rid of what those before it tell of it, linearly: they would all
    become the same one otherwise, but for a difference that a law could not see for its size.

    Of positions with several components h is a linear map of Hermite polynomials up to the fourth degree, whose
    averages are taken once: a network's would be taken anew in each step, over all realisations. They span the same
    functions whatever the axes, so that turned data give turned answers.

    **Anchored.** Several variables easily become functions of the mean all of them, with what else they tell too faint
    for a law to see. An anchored encoder has the mean itself as its first variables, one for each component; the
    others are learned from such polynomials about the mean, and so tell of the shape alone.

    Args:
        rngs: one generator for each replica.
        internal: number of internal variables.
        components: of a position.
        reference: a position; where all realisations stand at it, the raw alpha is 0. Without one
            the zero of the raw gauge is an accident of the weights.
        anchored: whether the first variables are the mean.

    Raises:
        ValueError: no generator, a width below 1, or an anchored encoder of fewer variables than components, or with a
            reference.

    Buffers: `position` (mean and deviation of x in the training data, shape (2, components)); `offset`, `scale` and,
    of several internal variables, `mix` (the gauge of each replica, as `measure_gauge` returns it).

    >>> from ibvonns.networks import generators
    >>> encoder, cloud = Encoder(generators([0])), torch.randn(1, 50, dtype=torch.float64)
    >>> bool((encoder.encode(cloud) - encoder.encode(cloud.flip(1))).abs().max() < 1e-12)
    True
    """

    def __init__(
        self,
        rngs: Generators,
        internal: int = 1,
        components: int = 1,
        reference: float | None = None,
        anchored: bool = False,
    ):
        super().__init__()
        self.reference, self.anchored = reference, components if anchored else 0
        learned = internal - self.anchored
        fits = learned >= 0 and (reference is None or not anchored)
        require(
            fits, f"internal must be at least {components} of an anchored encoder without reference, but is {internal}"
        )
        of = range(1 + anchored, DEGREE + 1) if components > 1 or anchored else ()
        self.powers = [each for degree in of for each in combinations_with_replacement(range(components), degree)]
        self.h = MLP(rngs, (len(self.powers), WIDTH) if self.powers else (components, WIDTH, WIDTH, WIDTH))
        self.rho = MLP(rngs, (WIDTH, WIDTH, max(1, learned)))
        self.learned = learned
        self.position = nn.Buffer(torch.tensor([[0.0], [1.0]], dtype=torch.float64).repeat(1, components))
        self.offset = nn.Buffer(torch.zeros(len(rngs), 1, internal, dtype=torch.float64))
        self.scale = nn.Buffer(torch.ones_like(self.offset))
        one = torch.eye(internal, dtype=torch.float64).repeat(len(rngs), 1, 1)
        self.mix = nn.Buffer(one) if internal > 1 else None

    def features(self, positions: Tensor) -> Tensor:
        """h(x) at single positions: (replicas, points, features).

        Args:
            positions: x, lengths, shape (points, components) or with replicas in front.

        Raises:
            ValueError: wrong shape.
        """
        mean, deviation = self.position
        scaled = (positions - mean) / deviation
        return self.h(self.hermite(scaled) if self.powers else scaled)

    def hermite(self, x: Tensor) -> Tensor:
        """Products of Hermite polynomials of standardised positions `x`, (..., components), of variance 1 each."""
        one = [torch.ones_like(x), x]
        for n in range(1, DEGREE):
            one.append(x * one[n] - n * one[n - 1])
        each = torch.stack([part / factorial(n) ** 0.5 for n, part in enumerate(one)])
        axes = range(x.shape[-1])
        parts = [torch.stack([each[way.count(axis), ..., axis] for axis in axes]).prod(0) for way in self.powers]
        return torch.stack(parts, -1)

    @torch.no_grad()
    def averaged(self, cloud: Cloud) -> Any:
        """A `cloud`, (conditions, ...), with what never changes of <h>: averages of `hermite`, behind anchored means.

        Without them they are taken whenever the cloud is encoded.
        """
        mean, deviation = self.position
        if not self.powers:
            return cloud
        found = []
        for part in cloud.weights if isinstance(cloud, Density) else cloud.positions:
            x = (cloud.grid[:, None] if isinstance(cloud, Density) else part) - mean
            weights = part[..., None] if isinstance(cloud, Density) else part.new_full((1,), 1 / part.shape[-2])
            middle = (weights * x).sum(-2) * bool(self.anchored)
            shape = (weights * self.hermite((x - middle[..., None, :]) / deviation)).sum(-2)
            found.append(torch.cat([(middle / deviation)[..., : self.anchored], shape], -1))
        return replace(cloud, averages=torch.stack(found))

    def raw(self, cloud: Cloud, times: Tensor | None = None) -> Tensor:
        """rho(<h>) of Eq. (4), before the gauge: (replicas, rows, internal).

        Args:
            cloud: compressed ensembles; all their leading axes count as rows.
            times: if given, each replica's own, indices of shape (replicas, wanted), of rows
                (conditions, times, ...).
        """
        if not self.powers:
            alpha: Tensor = self.rho(cloud.average(self.features, times))
        else:
            rows: Any = (cloud if cloud.averages is not None else self.averaged(cloud)).averages
            rows = rows.flatten(0, -2)[None] if times is None else rows[:, times].movedim(1, 0).flatten(1, -2)
            means, rest = rows.tensor_split([self.anchored], -1)
            alpha = self.rho(self.h(rest))[..., : self.learned]
            alpha = torch.cat([means.expand(*alpha.shape[:2], -1), alpha], -1)
        if self.reference is None:
            return alpha
        return alpha - self.rho(self.features(torch.full_like(self.position[:1], self.reference)))

    def shift(self, cloud: Cloud, by: float) -> Tensor:
        """Change of the raw alpha when whole ensembles are shifted, by the deviation of all positions.

        Args:
            cloud: compressed ensembles.
            by: how far either way, in these deviations: a central difference is taken.

        Returns:
            Shape (replicas, rows, internal); no unit of the positions enters.
        """
        step = by * self.position[1]
        moved = [self.rho(cloud.shifted(way).average(self.features)) for way in (step, -step)]
        return (moved[0] - moved[1]) / (2 * by)

    @torch.no_grad()
    def response(self, data: Observations, times: Tensor, stored: bool = False) -> Tensor:
        """How alpha answers to realisations that move, sum (d alpha/dx_i)^2 times their number.

        Args:
            data: observations of positions with one component; they set the gauge.
            times: indices of the times that are wanted, shape (wanted,).
            stored: whether the stored gauge is taken instead, as for `data` not of the training.

        Returns:
            Shape (replicas, conditions, wanted, sites, internal), one over a length squared.
        """
        step, cloud = RESPONSE * self.position[1], data.cloud.at(times)
        _, scale, mix = (self.offset, self.scale, self.mix) if stored else self._measured(data, times)[1]
        with torch.enable_grad():
            mean = cloud.average(self.features).detach().requires_grad_()
            rows = mixed(self.rho(mean), mix).unbind(-1)
            slopes = [torch.autograd.grad(alpha.sum(), mean, retain_graph=True)[0] for alpha in rows]

        def pairs(positions: Tensor) -> Tensor:  # of the features' slopes
            slope = (self.features(positions + step) - self.features(positions - step)) / (2 * step)
            return (slope[..., None, :] * slope[..., :, None]).flatten(-2)

        square = cloud.average(pairs).unflatten(-1, (mean.shape[-1], -1))
        found = torch.stack([torch.einsum("...i,...ij,...j->...", each, square, each) for each in slopes], -1)
        return (found / scale.square()).unflatten(1, (len(data.mean), len(times), -1))

    def measure_gauge(self, raw: Tensor, means: Tensor) -> Gauge:
        """Offset and signed scale, each (replicas, 1, internal), that standardise `raw`, mixed first; and the mix.

        The first variable rises with the mean position; the others have the sign of their networks.

        Args:
            raw: shape (replicas, rows, internal).
            means: mean positions of the same rows, shape (rows,); they orient alpha.

        Returns:
            The mix is None of a single variable, else of shape (replicas, internal, internal).

        Raises:
            ValueError: wrong shape.
        """
        shaped("raw", raw, ("replicas", "rows", "internal"))
        shaped("means", means, (raw.shape[1],))
        mix = mixing(raw)
        raw = mixed(raw, mix)
        offset = raw.mean(1, keepdim=True)
        centred = raw - offset
        trend = (centred * (means - means.mean())[:, None]).sum(1, keepdim=True)
        scale = centred.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)
        first = torch.arange(raw.shape[2], device=raw.device) == 0
        return offset, torch.where(first & (trend < 0), -1.0, 1.0).to(raw.dtype) * scale, mix

    def standardised(
        self, data: Observations, times: Tensor | None = None, own: Tensor | None = None, among: slice = slice(None)
    ) -> tuple[Tensor, Tensor | None]:
        """alpha of the training data with its gauge measured afresh; differentiable.

        The gauge is measured on every tenth time, the same ones at every step: on others from step
        to step it would jitter. Only they and the wanted times are encoded.

        Args:
            data: the training observations.
            times: indices of the times that all replicas want, shape (wanted,); all if not given.
            own: indices of the times that each replica wants for itself, (replicas, wanted).
            among: conditions of which it wants them.

        Returns:
            alpha at the one and at the other, (replicas, conditions, wanted, sites, internal), the
            second None if none are wanted.
        """
        every = torch.arange(len(data.times), device=data.mean.device)
        raw, (offset, scale, mix) = self._measured(data, every if times is None else times)
        offset, scale = (part[:, :, None, None] for part in (offset, scale))
        alpha = (raw - offset) / scale
        if own is None:
            return alpha, None
        cloud, front = data.cloud.at(slice(None), among), (len(data.mean[among]), -1, data.mean.shape[2])
        raw = mixed(self.raw(cloud, own), mix).unflatten(1, front)
        return alpha, (raw - offset) / scale

    def _measured(self, data: Observations, wanted: Tensor) -> tuple[Tensor, Gauge]:
        """The raw alpha at the wanted times, mixed, and the gauge that every tenth time gives."""
        fixed = torch.arange(0, len(data.times), GAUGE_EVERY, device=wanted.device)
        needed, place = torch.unique(torch.cat([fixed, wanted]), return_inverse=True)
        raw = self.raw(data.cloud.at(needed)).unflatten(1, (len(data.mean), -1, data.mean.shape[2]))
        gauge = self.measure_gauge(raw[:, :, place[: len(fixed)]].flatten(1, -2), data.mean[:, fixed, :, 0].flatten())
        return mixed(raw[:, :, place[len(fixed) :]], gauge[2]), gauge

    @torch.no_grad()
    def freeze(self, data: Observations) -> None:
        """Store the gauge of the training `data`, as `standardised` measures it."""
        measured = self._measured(data, torch.arange(1, device=data.mean.device))[1]
        for buffer, part in zip((self.offset, self.scale, self.mix), measured, strict=True):
            if buffer is not None and part is not None:
                buffer.copy_(part)

    def forward(self, cloud: Cloud) -> Tensor:
        """alpha of Eq. (4) in the stored gauge, shape (replicas, rows, internal).

        Args:
            cloud: compressed ensembles; all their leading axes count as rows.
        """
        return (mixed(self.raw(cloud), self.mix) - self.offset) / self.scale

    def encode(self, realisations: Tensor, block: int = 64) -> Tensor:
        """alpha from the realisations themselves, with no compression.

        Args:
            realisations: shape (rows, realisations), lengths, with a last axis for several components.
            block: rows taken at a time, to bound memory.

        Returns:
            Shape (replicas, rows, internal).

        Raises:
            ValueError: NaN, wrong shape or an empty ensemble.
        """
        shape = ("rows", "realisations", len(self.position[0]))[: 3 if self.powers else 2]
        realisations = shaped("realisations", tensor("realisations", realisations), shape)
        rows = (realisations if self.powers else realisations[..., None]).split(count("block", block))
        return torch.cat([self(Samples(some)) for some in rows], 1)

    def ungauged(self, alpha: Tensor) -> Tensor:
        """alpha in the gauge of `raw`, whose zero is at the reference position.

        Args:
            alpha: in the stored gauge, shape (replicas, ..., internal).

        Returns:
            The same shape.
        """
        axes = (len(alpha), *(1,) * (alpha.ndim - 2), -1)
        raw = alpha * self.scale.reshape(axes) + self.offset.reshape(axes)
        if self.mix is None:
            return raw
        return torch.linalg.solve_triangular(self.mix, raw.flatten(1, -2), upper=True, left=False).view_as(alpha)


def mixing(raw: Tensor) -> Tensor | None:
    """The matrix that takes from each variable what those before it tell of it; None of a single one.

    Args:
        raw: shape (replicas, rows, internal).

    Returns:
        Upper triangular with a diagonal of ones, (replicas, internal, internal), for the right of `raw`.

    >>> raw = torch.randn(1, 50, 2, dtype=torch.float64).cumsum(-1)
    >>> bool(torch.corrcoef((raw @ mixing(raw))[0].T)[0, 1].abs() < 1e-6)
    True
    """
    if raw.shape[-1] == 1:
        return None
    centred = raw - raw.mean(1, keepdim=True)
    covariance = centred.mT @ centred / raw.shape[1]
    # variables that are one and the same would leave no root
    root = torch.linalg.cholesky(covariance + SAME * torch.diag_embed(covariance.diagonal(dim1=1, dim2=2) + SAME))
    unit = root / root.diagonal(dim1=1, dim2=2)[:, None]
    one = torch.eye(raw.shape[-1], dtype=raw.dtype, device=raw.device).expand_as(unit)
    return torch.linalg.solve_triangular(unit, one, upper=False, unitriangular=True).mT


def mixed(raw: Tensor, mix: Tensor | None) -> Tensor:
    """Variables rid of what those before them tell, as `mixing` found it: the shape of `raw`.

    Args:
        raw: shape (replicas, ..., internal).
        mix: None of a single variable.
    """
    return raw if mix is None else (raw.flatten(1, -2) @ mix).view_as(raw)
