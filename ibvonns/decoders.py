"""Decoders q(x | z): the microscopic density given back from the macroscopic state."""

from collections.abc import Sequence
from math import log, pi

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from ibvonns.networks import MLP
from ibvonns.validation import count, shaped

__all__ = ["GaussianDecoder", "gaussian_nll"]


def gaussian_nll(mean: Tensor, deviation: Tensor, first: Tensor, variance: Tensor) -> Tensor:
    r"""Mean negative log-likelihood of an ensemble under a Gaussian, in nats.

    The logarithm of a Gaussian is quadratic in x, so that the mean over realisations, the inner sum
    of Eq. (13), needs only the ensemble's mean and variance and is exact:

        -<log q> = log(2 pi sigma^2)/2 + (variance + (first - mean)^2) / (2 sigma^2).

    Args:
        mean, deviation: of the Gaussian, matching shapes.
        first, variance: mean and (biased) variance of the ensemble.

    >>> one, zero = torch.ones(1), torch.zeros(1)
    >>> gaussian_nll(zero, one, zero, one)  # the entropy of a standard Gaussian
    tensor([1.4189])
    """
    spread = deviation**2
    return 0.5 * log(2 * pi) + deviation.log() + (variance + (first - mean) ** 2) / (2 * spread)


class GaussianDecoder(nn.Module):
    """q(x | alpha) = N(mu, sigma^2), with mu and sigma from one network, Eq. (30).

    Buffer `position`: the scales mu* and sigma* of Eq. (30), the mean and the deviation of the
    particle's position in the training data.

    >>> from ibvonns.networks import generators
    >>> decoder = GaussianDecoder(generators([0]))
    >>> mean, deviation = decoder(torch.zeros(1, 3, 1, dtype=torch.float64))
    >>> mean.shape, bool((deviation > 0).all())
    (torch.Size([1, 3]), True)
    """

    position: Tensor

    def __init__(
        self, rngs: Sequence[Generator], hidden: Sequence[int] = (10, 10), internal: int = 1
    ):
        super().__init__()
        self.network = MLP(rngs, (internal, *hidden, 2))
        self.register_buffer("position", torch.tensor([0.0, 1.0], dtype=torch.float64))

    def forward(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each (replicas, points), lengths."""
        shaped("alpha", alpha, ("replicas", "points", "internal"))
        centre, scale = self.position
        outputs = self.network(alpha)
        # an offset rather than the product of Eq. (30): the same family, whatever the mean's sign
        return centre + scale * outputs[..., 0], scale * softplus(outputs[..., 1])

    def log_density(self, positions: Tensor, alpha: Tensor) -> Tensor:
        """log q(x | alpha) in nats per length, with positions matching (replicas, points, ...)."""
        mean, deviation = self(alpha)
        if positions.shape[: mean.ndim] != mean.shape:
            raise ValueError(
                f"positions must begin with shape {tuple(mean.shape)}, "
                f"but have shape {tuple(positions.shape)}"
            )
        spare = positions.ndim - mean.ndim
        mean, deviation = (part.reshape(part.shape + (1,) * spare) for part in (mean, deviation))
        return -0.5 * log(2 * pi) - deviation.log() - ((positions - mean) / deviation) ** 2 / 2

    def sample(self, alpha: Tensor, realisations: int, generator: Generator) -> Tensor:
        """Positions drawn from q(x | alpha), shape (replicas, points, realisations)."""
        mean, deviation = self(alpha)
        noise = torch.randn(
            (*mean.shape, count("realisations", realisations)),
            generator=generator,
            dtype=mean.dtype,
            device=mean.device,
        )
        return mean[..., None] + deviation[..., None] * noise
