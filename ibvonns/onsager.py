"""Variational Onsager networks: free energy, dual dissipation potential, and what follows."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from ibvonns.networks import INN, PICINN
from ibvonns.validation import finite, positive, shaped

__all__ = ["Potentials"]


class Potentials(nn.Module):
    r"""Free energy f(chi, alpha), Eq. (11), and dual dissipation potential phi(alpha, g), Eq. (12).

    Onsager's principle then gives the external force and the evolution of the internal variable,

        F_ex = df/dchi                                                             Eq. (23)
        g = -df/dalpha,     dalpha/dt = dphi/dg(alpha, g)                     Eqs. (10), (28)

    and the dissipation g . dalpha/dt >= phi >= 0 by the construction of phi, whatever the weights.

    Args:
        rngs: one generator for each replica.
        free_energy_hidden, dissipation_hidden: widths of the hidden layers of f and of phi.
        internal: number of internal variables.

    Buffers, set from the training data: `control` (mean and deviation of chi), `energy_scale` (f*
    of Eq. (31), an energy), `rate_scale` (alpha is dimensionless, so an inverse time) and
    `reference` (the state at which f is 0, one for each replica).
    """

    control: Tensor
    energy_scale: Tensor
    rate_scale: Tensor
    reference: Tensor

    def __init__(
        self,
        rngs: Sequence[Generator],
        free_energy_hidden: Sequence[int] = (20, 20),
        dissipation_hidden: Sequence[int] = (20, 20),
        internal: int = 1,
    ):
        super().__init__()
        self.energy_network = INN(rngs, 1 + internal, free_energy_hidden)
        self.dissipation_network = PICINN(rngs, internal, internal, dissipation_hidden)
        self.register_buffer("control", torch.tensor([0.0, 1.0], dtype=torch.float64))
        self.register_buffer("energy_scale", torch.tensor(1.0, dtype=torch.float64))
        self.register_buffer("rate_scale", torch.tensor(1.0, dtype=torch.float64))
        zero = torch.zeros(len(rngs), 1, 1 + internal, dtype=torch.float64)
        self.register_buffer("reference", zero)

    def set_scales(
        self, control: tuple[float, float], energy_scale: float, rate_scale: float
    ) -> None:
        """Fix the scales: mean and deviation of chi, f* (energy) and the rate of alpha.

        Raises:
            ValueError: a mean that is not finite, or a scale that is not above 0.
        """
        if not math.isfinite(control[0]):
            raise ValueError(f"mean must be a finite number, but is {control[0]}")
        self.control.copy_(torch.tensor([control[0], positive("deviation", control[1])]))
        self.energy_scale.fill_(positive("energy_scale", energy_scale))
        self.rate_scale.fill_(positive("rate_scale", rate_scale))

    def set_reference(self, chi: Tensor, alpha: Tensor) -> None:
        """Put the zero of f at (chi, alpha): a number, and shape (replicas, 1, internal)."""
        if finite("chi", chi).numel() != 1:
            raise ValueError(f"chi must be a single number, but has shape {tuple(chi.shape)}")
        replicas, one, inputs = self.reference.shape
        shaped("alpha", finite("alpha", alpha), (replicas, one, inputs - 1))
        self.reference.copy_(self._state(chi.reshape(1, 1), alpha))

    def _state(self, chi: Tensor, alpha: Tensor) -> Tensor:
        mean, deviation = self.control
        shaped("alpha", alpha, ("...", self.reference.shape[-1] - 1))
        shaped("chi", chi, ("...", alpha.shape[-2], 1))
        chi = ((chi - mean) / deviation).expand_as(alpha[..., :1])
        return torch.cat([chi, alpha], -1)

    def free_energy(self, chi: Tensor, alpha: Tensor) -> Tensor:
        """f, Eq. (11), shape (replicas, points), an energy, zero at `reference`.

        Args:
            chi: equilibrium state variable, shape (points, 1) or (replicas, points, 1).
            alpha: internal variables, shape (replicas, points, internal).
        """
        value = self.energy_network(self._state(chi, alpha))
        return (self.energy_scale * (value - self.energy_network(self.reference)))[..., 0]

    def forces(self, chi: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """F_ex = df/dchi, shape (..., 1), and g = -df/dalpha, (..., internal), in closed form."""
        slope = self.energy_scale * self.energy_network.gradient(self._state(chi, alpha))
        return slope[..., :1] / self.control[1], -slope[..., 1:]

    def dual_dissipation(self, alpha: Tensor, g: Tensor) -> Tensor:
        """phi(alpha, g), Eq. (12), shape (replicas, points), an energy per time."""
        value = self.dissipation_network(alpha, g / self.energy_scale)
        return (self.energy_scale * self.rate_scale * value)[..., 0]

    def rates(self, alpha: Tensor, g: Tensor) -> Tensor:
        """dalpha/dt = dphi/dg, Eq. (28), shape (replicas, points, internal), in closed form."""
        return self.rate_scale * self.dissipation_network.gradient(alpha, g / self.energy_scale)

    def evolution(self, chi: Tensor, alpha: Tensor) -> Tensor:
        """dalpha/dt at a state: `rates` at the thermodynamic force of `forces`."""
        return self.rates(alpha, self.forces(chi, alpha)[1])

    def dissipation(self, alpha: Tensor, g: Tensor) -> Tensor:
        """g . dalpha/dt, shape (replicas, points), an energy per time, never negative."""
        return (g * self.rates(alpha, g)).sum(-1)
