"""The permutation-invariant encoder alpha = rho(<h(x)>), Eq. (4)."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from ibvonns.ensemble import Density
from ibvonns.networks import MLP
from ibvonns.validation import count, finite, shaped

__all__ = ["GAUGE_EVERY", "Encoder"]

GAUGE_EVERY = 10  #: Steps between two times on which the gauge of alpha is measured.


class Encoder(nn.Module):
    """Deep-Sets encoder, Eq. (4), with its gauge fixed by construction.

    A realisation enters only through the ensemble average <h(x)>, so that their order cannot
    matter. alpha is defined up to a smooth monotone map (chapter 3). Here it is standardised over
    the training data, mean 0 and deviation 1, and rises with the mean position: alpha can therefore
    neither collapse to a constant, nor differ between seeds in offset, scale or sign.

    Args:
        rngs: one generator for each replica.
        features: widths of h after its input, the last being the number of averaged features.
        hidden: widths of rho between the features and alpha.
        internal: number of internal variables.
        reference: a position; where all realisations stand at it, the raw alpha is 0. Without one
            the zero of the raw gauge is an accident of the weights.

    Raises:
        ValueError: no generator, or a width below 1.

    Buffers: `position` (mean and deviation of x in the training data); `offset` and `scale` (the
    gauge of each replica, as `measure_gauge` returns it).

    >>> from ibvonns.networks import generators
    >>> encoder, cloud = Encoder(generators([0])), torch.randn(1, 50, dtype=torch.float64)
    >>> bool((encoder.encode(cloud) - encoder.encode(cloud.flip(1))).abs().max() < 1e-12)
    True
    """

    position: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(
        self,
        rngs: Sequence[Generator],
        features: Sequence[int] = (10, 10, 10),
        hidden: Sequence[int] = (10,),
        internal: int = 1,
        reference: float | None = None,
    ):
        super().__init__()
        self.reference = reference
        self.h = MLP(rngs, (1, *features))
        self.rho = MLP(rngs, (features[-1], *hidden, internal))
        self.register_buffer("position", torch.tensor([0.0, 1.0], dtype=torch.float64))
        one = torch.ones(len(rngs), 1, internal, dtype=torch.float64)
        self.register_buffer("offset", 0 * one)
        self.register_buffer("scale", one)

    def features(self, positions: Tensor) -> Tensor:
        """h(x) at single positions: (replicas, points, features).

        Args:
            positions: x, lengths, shape (points,).

        Raises:
            ValueError: wrong shape.
        """
        shaped("positions", positions, ("points",))
        mean, deviation = self.position
        return self.h(((positions - mean) / deviation)[:, None])

    def raw(self, density: Density) -> Tensor:
        """rho(<h>) of Eq. (4), before the gauge: (replicas, rows, internal).

        Args:
            density: compressed ensembles; all its leading axes count as rows.
        """
        return self._from_reference(density.expectation(self.features(density.grid)))

    def _from_reference(self, averages: Tensor) -> Tensor:
        """rho, less its value where all realisations stand at the reference position."""
        alpha: Tensor = self.rho(averages)
        if self.reference is None:
            return alpha
        here = self.features(self.position.new_tensor([self.reference]))
        zero: Tensor = self.rho(here)
        return alpha - zero

    def drift(self, density: Density, shift: float) -> Tensor:
        """Change of the raw alpha per length when whole ensembles are shifted.

        Args:
            density: compressed ensembles.
            shift: how far either way, a length: a central difference is taken.

        Returns:
            Shape (replicas, rows, internal), one over the unit of the grid.
        """
        moved = [
            self.rho(density.expectation(self.features(density.grid + step)))
            for step in (shift, -shift)
        ]
        return (moved[0] - moved[1]) / (2 * shift)

    def measure_gauge(self, raw: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """Offset and signed scale, each (replicas, 1, internal), that standardise `raw`.

        Args:
            raw: shape (replicas, rows, internal).
            means: mean positions of the same rows, shape (rows,); they orient alpha.

        Raises:
            ValueError: wrong shape.
        """
        shaped("raw", raw, ("replicas", "rows", "internal"))
        shaped("means", means, (raw.shape[1],))
        offset = raw.mean(1, keepdim=True)
        centred = raw - offset
        trend = (centred * (means - means.mean())[:, None]).sum(1, keepdim=True)
        orientation = torch.where(trend < 0, -1.0, 1.0).to(raw.dtype)
        scale = centred.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)
        return offset, orientation * scale

    def standardised(self, density: Density, means: Tensor, times: Tensor | None = None) -> Tensor:
        """alpha of the training data with its gauge measured afresh; differentiable.

        The gauge is measured on every tenth time, the same ones at every step: on others from step
        to step it would jitter. Only they and the wanted times are encoded.

        Args:
            density: rows (conditions, times, ...).
            means: mean positions of the rows, shape (conditions, times, ...).
            times: indices of the wanted times, shape (wanted,); all if not given.

        Returns:
            Shape (replicas, conditions, wanted, ..., internal).
        """
        number = means.shape[1]
        fixed = torch.arange(0, number, GAUGE_EVERY, device=means.device)
        wanted = torch.arange(number, device=means.device) if times is None else times
        needed, place = torch.unique(torch.cat([fixed, wanted]), return_inverse=True)
        some = means[:, needed]
        raw = self.raw(Density(density.grid, density.weights[:, needed])).unflatten(1, some.shape)
        gauge = raw[:, :, place[: len(fixed)]].flatten(1, -2)
        offset, scale = self.measure_gauge(gauge, means[:, fixed].flatten())
        axes = (len(raw), *(1,) * means.ndim, -1)
        return (raw[:, :, place[len(fixed) :]] - offset.reshape(axes)) / scale.reshape(axes)

    @torch.no_grad()
    def freeze(self, density: Density, means: Tensor) -> None:
        """Store the gauge, as `standardised` measures it.

        Args:
            density: of the training data, rows (conditions, times, ...).
            means: mean positions of the rows, shape (conditions, times, ...).
        """
        fixed = slice(None, None, GAUGE_EVERY)
        raw = self.raw(Density(density.grid, density.weights[:, fixed]))
        offset, scale = self.measure_gauge(raw, means[:, fixed].flatten())
        self.offset.copy_(offset)
        self.scale.copy_(scale)

    def forward(self, density: Density) -> Tensor:
        """alpha of Eq. (4) in the stored gauge, shape (replicas, rows, internal).

        Args:
            density: compressed ensembles; all its leading axes count as rows.
        """
        return (self.raw(density) - self.offset) / self.scale

    def encode(self, realisations: Tensor, block: int = 64) -> Tensor:
        """alpha from the realisations themselves, with no compression.

        Args:
            realisations: shape (rows, realisations), lengths.
            block: rows taken at a time, to bound memory.

        Returns:
            Shape (replicas, rows, internal).

        Raises:
            ValueError: NaN, wrong shape or an empty ensemble.
        """
        finite("realisations", realisations)
        if realisations.ndim != 2 or realisations.numel() == 0:
            raise ValueError(
                "realisations must have shape (rows, realisations) with at least 1 of each, "
                f"but has shape {tuple(realisations.shape)}"
            )
        averages = []
        for rows in realisations.split(count("block", block)):
            values = self.features(rows.flatten())
            averages.append(values.unflatten(1, rows.shape).mean(2))
        return (self._from_reference(torch.cat(averages, 1)) - self.offset) / self.scale

    def ungauged(self, alpha: Tensor) -> Tensor:
        """alpha in the gauge of `raw`, whose zero is at the reference position.

        Args:
            alpha: in the stored gauge, shape (replicas, ..., internal).

        Returns:
            The same shape.
        """
        axes = (len(alpha), *(1,) * (alpha.ndim - 2), -1)
        return alpha * self.scale.reshape(axes) + self.offset.reshape(axes)
