"""Variational Onsager networks: free energy, dual dissipation potential, and what follows."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Generator, Tensor, nn

from ibvonns.networks import INN, PICINN, PositiveLinear, softplus
from ibvonns.validation import count, finite, positive, shaped

__all__ = ["ChainPotentials", "Potentials"]

FAINT = 0.1  # gain of g_v in the chain's dissipation network


class Potentials(nn.Module):
    r"""Free energy f(chi, alpha), Eq. (11), and dual dissipation potential phi(alpha, g), Eq. (12).

    Onsager's principle then gives the external force and the evolution of the internal variable::

        Eq. (23)  F_ex = df/dchi
        Eq. (24)  g = -df/dalpha
        Eq. (28)  dalpha/dt = dphi/dg(alpha, g), an instance of Eq. (10)

    The dissipation is g . dalpha/dt >= phi >= 0 by the construction of phi, whatever the weights.

    Args:
        rngs: one generator for each replica.
        free_energy_hidden: widths of the hidden layers of f.
        dissipation_hidden: widths of the hidden layers of phi.
        internal: number of internal variables.

    Raises:
        ValueError: no generator, no hidden layer, or a width below 1.

    Buffers, set from the training data: `control` (mean and deviation of chi), `energy_scale` (f*
    of Eq. (31), an energy), `rate_scale` (alpha is dimensionless, so an inverse time) and
    `reference` (the state at which f is 0, one for each replica).

    >>> from ibvonns.networks import generators
    >>> law = Potentials(generators([0]))
    >>> chi = torch.linspace(0, 1, 3, dtype=torch.float64)[:, None]
    >>> alpha = torch.zeros(1, 3, 1, dtype=torch.float64)
    >>> force, g = law.forces(chi, alpha)
    >>> bool((law.dissipation(alpha, g) >= law.dual_dissipation(alpha, g)).all())
    True
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
        """Fix the scales.

        Args:
            control: mean and deviation of chi.
            energy_scale: f* of Eq. (31), an energy.
            rate_scale: of alpha, one over a time.

        Raises:
            ValueError: a mean that is not finite, or a scale that is not above 0.
        """
        if not math.isfinite(control[0]):
            raise ValueError(f"mean must be a finite number, but is {control[0]}")
        scale = [control[0], positive("deviation", control[1])]
        self.control.copy_(torch.tensor(scale, dtype=torch.float64))
        self.energy_scale.fill_(positive("energy_scale", energy_scale))
        self.rate_scale.fill_(positive("rate_scale", rate_scale))

    def set_reference(self, chi: Tensor, alpha: Tensor) -> None:
        """Put the zero of f at a state, Eq. (11).

        Args:
            chi: a single number.
            alpha: shape (replicas, 1, internal).

        Raises:
            ValueError: NaN or wrong shape.
        """
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

        Raises:
            ValueError: wrong shape.
        """
        value = self.energy_network(self._state(chi, alpha))
        return (self.energy_scale * (value - self.energy_network(self.reference)))[..., 0]

    def forces(self, chi: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """F_ex = df/dchi, Eq. (23), and g = -df/dalpha, Eq. (24), in closed form.

        Args:
            chi: shape (points, 1) or (replicas, points, 1).
            alpha: shape (replicas, points, internal).

        Returns:
            F_ex, an energy over the unit of chi, shape (replicas, points, 1), and g, an energy,
            shape (replicas, points, internal).

        Raises:
            ValueError: wrong shape.
        """
        slope = self.energy_scale * self.energy_network.gradient(self._state(chi, alpha))
        return slope[..., :1] / self.control[1], -slope[..., 1:]

    def dual_dissipation(self, alpha: Tensor, g: Tensor) -> Tensor:
        """phi(alpha, g), Eq. (12), shape (replicas, points), an energy per time.

        Args:
            alpha: shape (replicas, points, internal).
            g: thermodynamic force, an energy, same shape.
        """
        value = self.dissipation_network(alpha, g / self.energy_scale)
        return (self.energy_scale * self.rate_scale * value)[..., 0]

    def rates(self, alpha: Tensor, g: Tensor) -> Tensor:
        """dalpha/dt = dphi/dg, Eq. (28), shape (replicas, points, internal), in closed form.

        Args:
            alpha: shape (replicas, points, internal).
            g: thermodynamic force, an energy, same shape.
        """
        return self.rate_scale * self.dissipation_network.gradient(alpha, g / self.energy_scale)

    def evolution(self, chi: Tensor, alpha: Tensor) -> Tensor:
        """dalpha/dt at a state, Eq. (28): `rates` at the thermodynamic force of `forces`.

        Args:
            chi: shape (points, 1) or (replicas, points, 1).
            alpha: shape (replicas, points, internal).

        Returns:
            Shape (replicas, points, internal), one over a time.
        """
        return self.rates(alpha, self.forces(chi, alpha)[1])

    def dissipation(self, alpha: Tensor, g: Tensor) -> Tensor:
        """g . dalpha/dt, shape (replicas, points), an energy per time, never negative.

        Args:
            alpha: shape (replicas, points, internal).
            g: thermodynamic force, an energy, same shape.
        """
        return (g * self.rates(alpha, g)).sum(-1)


class ChainPotentials(nn.Module):
    r"""One law for every spring of a chain: f(eps, alpha) and phi(eps, alpha, g_v, g_alpha).

    Onsager's principle gives, with n springs of natural length L0 and v_0 = 0 (Sec. 4.2)::

        Eq. (44)  g_v_i = (df/deps_{i+1} - df/deps_i) / L0,  i < n
        Eq. (45)  g_v_n = F_ex - (df/deps_n) / L0
        Eq. (46)  g_alpha_i = -df/dalpha_i
        Eq. (47)  v_i = dphi/dg_v
        Eq. (48)  dalpha_i/dt = dphi/dg_alpha
                  deps_i/dt = (v_i - v_{i-1}) / L0

    There are two end conditions: F_ex given, or v_n given. The latter turns Eq. (47) at the last
    spring into an equation for g_v_n and so for F_ex, where the paper trains a further network.

    To the network of Eq. (12), phi adds g_v^2 m_v / 2 + g_alpha^2 m_alpha / 2 with two positive
    mobilities, learned too. A network of softplus functions grows only linearly: its slope is
    bounded, and beyond the bound no force would belong to a velocity. With the mobilities phi is
    strictly convex, each velocity has exactly one force, and phi >= 0 with phi(0) = 0 still holds
    by construction.

    Tensors: strain, v, g_v of shape (replicas, trajectories, springs); alpha, g_alpha with one more
    axis, internal; F_ex, v_n of shape (replicas, trajectories), or without replicas.

    Args:
        rngs: one generator for each replica.
        natural_length: L0.
        free_energy_hidden: widths of the hidden layers of f.
        dissipation_hidden: widths of the hidden layers of phi.
        internal: number of internal variables of a spring; with none alpha has a last axis of 0.

    Raises:
        ValueError: no generator, no hidden layer, a width below 1, or an L0 that is not above 0.

    Buffers, set from the training data: `strain_scale` (mean and deviation of the mean strain),
    `force_scale` (deviation of F_ex) and `velocity_scale`.

    >>> from ibvonns.networks import generators
    >>> law = ChainPotentials(generators([0]))
    >>> strain = torch.linspace(0, 2, 10, dtype=torch.float64)[None, None]
    >>> alpha, pull = strain[..., None], torch.ones(1, 1, dtype=torch.float64)
    >>> strain_rate, alpha_rate, v_n = law.force_given(strain, alpha, pull)
    >>> _, _, force = law.velocity_given(strain, alpha, v_n)
    >>> bool((force - pull).abs().max() < 1e-8)
    True
    """

    strain_scale: Tensor
    force_scale: Tensor
    velocity_scale: Tensor

    def __init__(
        self,
        rngs: Sequence[Generator],
        natural_length: float = 0.01,
        free_energy_hidden: Sequence[int] = (20, 20),
        dissipation_hidden: Sequence[int] = (20, 20),
        internal: int = 1,
    ):
        super().__init__()
        self.natural_length = positive("natural_length", natural_length)
        self.internal = count("internal", internal, 0)
        both = 1 + internal
        self.energy_network = INN(rngs, both, free_energy_hidden)
        gain = [FAINT] + internal * [1.0]
        self.dissipation_network = PICINN(rngs, both, both, dissipation_hidden, gain)
        # softplus of it, in units of the scales. That of g_v starts above any that is likely, and
        # the network's own part ten times smaller than usual, with g_v faint in it: a sum of both
        # can only come down to plain friction through the mobility, which goes on beyond the forces
        # of the data, where the network's part does not.
        last = cast(PositiveLinear, self.dissipation_network.mix[-1])
        with torch.no_grad():
            last.free.sub_(math.log(10))
        first = torch.tensor([5.0] + internal * [1.0], dtype=torch.float64)
        self.mobility = nn.Parameter(first.expm1().log().repeat(len(rngs), 1, 1))
        self.register_buffer("strain_scale", torch.tensor([0.0, 1.0], dtype=torch.float64))
        self.register_buffer("force_scale", torch.tensor(1.0, dtype=torch.float64))
        self.register_buffer("velocity_scale", torch.tensor(1.0, dtype=torch.float64))

    def set_scales(
        self, strain: tuple[float, float], force_scale: float, velocity_scale: float
    ) -> None:
        """Fix the scales.

        Args:
            strain: mean and deviation of the mean strain.
            force_scale: deviation of F_ex, a force.
            velocity_scale: of the particles, a velocity.

        Raises:
            ValueError: a mean that is not finite, or a scale that is not above 0.
        """
        if not math.isfinite(strain[0]):
            raise ValueError(f"mean must be a finite number, but is {strain[0]}")
        scale = [strain[0], positive("deviation", strain[1])]
        self.strain_scale.copy_(torch.tensor(scale, dtype=torch.float64))
        self.force_scale.fill_(positive("force_scale", force_scale))
        self.velocity_scale.fill_(positive("velocity_scale", velocity_scale))

    @property
    def energy_scale(self) -> Tensor:
        """Scale f* of Eq. (55), an energy: L0 times the deviations of F_ex and of the strain."""
        return self.force_scale * self.strain_scale[1] * self.natural_length

    def _state(self, strain: Tensor, alpha: Tensor) -> Tensor:
        shaped("alpha", alpha, ("replicas", "trajectories", "springs", self.internal))
        shaped("strain", strain, alpha.shape[:-1])
        mean, deviation = self.strain_scale
        return torch.cat([((strain - mean) / deviation)[..., None], alpha], -1)

    def free_energy(self, strain: Tensor, alpha: Tensor) -> Tensor:
        """f of each spring, an energy, up to a constant: (replicas, trajectories, springs).

        Args:
            strain: shape (replicas, trajectories, springs).
            alpha: with one more axis, internal.

        Raises:
            ValueError: wrong shape.
        """
        state = self._state(strain, alpha)
        value = self.energy_network(state.flatten(1, 2))
        return self.energy_scale * value[..., 0].unflatten(1, state.shape[1:3])

    def slopes(self, strain: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """df/deps / L0, the tension of each spring, and g_alpha, Eq. (46), in closed form.

        Args:
            strain: shape (replicas, trajectories, springs).
            alpha: with one more axis, internal.

        Returns:
            A force, in the shape of the strain, and an energy, in the shape of alpha.

        Raises:
            ValueError: wrong shape.
        """
        state = self._state(strain, alpha)
        slope = self.energy_network.gradient(state.flatten(1, 2)).unflatten(1, state.shape[1:3])
        slope = self.energy_scale * slope
        tension = slope[..., 0] / self.strain_scale[1] / self.natural_length
        return tension, -slope[..., 1:]

    def _scaled(self, g_v: Tensor, g_alpha: Tensor) -> Tensor:
        return torch.cat([(g_v / self.force_scale)[..., None], g_alpha / self.energy_scale], -1)

    def dual_dissipation(
        self, strain: Tensor, alpha: Tensor, g_v: Tensor, g_alpha: Tensor
    ) -> Tensor:
        """phi of each spring, an energy per time: (replicas, trajectories, springs).

        Args:
            strain: shape (replicas, trajectories, springs).
            alpha: with one more axis, internal.
            g_v: a force, in the shape of the strain.
            g_alpha: an energy, in the shape of alpha.

        Raises:
            ValueError: wrong shape.
        """
        state, g = self._state(strain, alpha), self._scaled(g_v, g_alpha)
        value = self.dissipation_network(state.flatten(1, 2), g.flatten(1, 2))[..., 0]
        value = value + (softplus(self.mobility) * g.flatten(1, 2) ** 2).sum(-1) / 2
        return self.force_scale * self.velocity_scale * value.unflatten(1, state.shape[1:3])

    def rates(
        self, strain: Tensor, alpha: Tensor, g_v: Tensor, g_alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """v and dalpha/dt, Eqs. (47), (48), in closed form.

        Args:
            strain: shape (replicas, trajectories, springs).
            alpha: with one more axis, internal.
            g_v: a force, in the shape of the strain.
            g_alpha: an energy, in the shape of alpha.

        Returns:
            A velocity, in the shape of the strain, and one over a time, in the shape of alpha.

        Raises:
            ValueError: wrong shape.
        """
        state, g = self._state(strain, alpha), self._scaled(g_v, g_alpha)
        flat = g.flatten(1, 2)
        slope = self.dissipation_network.gradient(state.flatten(1, 2), flat)
        slope = (slope + softplus(self.mobility) * flat).unflatten(1, state.shape[1:3])
        power = self.force_scale * self.velocity_scale
        return self.velocity_scale * slope[..., 0], power / self.energy_scale * slope[..., 1:]

    def dissipation(self, strain: Tensor, alpha: Tensor, g_v: Tensor, g_alpha: Tensor) -> Tensor:
        """g_v v + g_alpha . dalpha/dt of each spring, an energy per time, never negative.

        Args:
            strain: shape (replicas, trajectories, springs).
            alpha: with one more axis, internal.
            g_v: a force, in the shape of the strain.
            g_alpha: an energy, in the shape of alpha.

        Raises:
            ValueError: wrong shape.
        """
        v, rate = self.rates(strain, alpha, g_v, g_alpha)
        return g_v * v + (g_alpha * rate).sum(-1)

    def force_given(
        self, strain: Tensor, alpha: Tensor, external_force: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rates of strain and of alpha, and v_n, when F_ex is known, Eqs. (44) to (48).

        Args:
            strain: shape (replicas, trajectories, springs).
            alpha: with one more axis, internal.
            external_force: F_ex, shape (trajectories,) or (replicas, trajectories).

        Returns:
            deps/dt and dalpha/dt in the shapes of strain and alpha, and v_n, (replicas,
            trajectories).

        Raises:
            ValueError: wrong shape.
        """
        v, alpha_rate = self._driven(strain, alpha, external_force)
        return self._stretching(v), alpha_rate, v[..., -1]

    def both_given(
        self, strain: Tensor, alpha: Tensor, external_force: Tensor, velocity: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rates of strain and of alpha, and the law's own v_n, when F_ex and v_n are recorded.

        For training: the end moves as recorded, the forces are as recorded, and the v_n that the
        law would have given is there to be compared.

        Args:
            strain: shape (replicas, trajectories, springs).
            alpha: with one more axis, internal.
            external_force: F_ex, shape (trajectories,) or (replicas, trajectories).
            velocity: v_n, same shape.

        Returns:
            deps/dt and dalpha/dt in the shapes of strain and alpha, and the law's v_n, (replicas,
            trajectories).

        Raises:
            ValueError: wrong shape.
        """
        shaped("velocity", velocity, ("...", strain.shape[1]))
        v, alpha_rate = self._driven(strain, alpha, external_force)
        moved = torch.cat([v[..., :-1], velocity.expand(strain.shape[:2])[..., None]], -1)
        return self._stretching(moved), alpha_rate, v[..., -1]

    def velocity_given(
        self, strain: Tensor, alpha: Tensor, velocity: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rates of strain and of alpha, and F_ex, when v_n is known.

        The total strain then grows at v_n / L0 exactly, whatever the weights.

        Args:
            strain: shape (replicas, trajectories, springs).
            alpha: with one more axis, internal.
            velocity: v_n, shape (trajectories,) or (replicas, trajectories).

        Returns:
            deps/dt and dalpha/dt in the shapes of strain and alpha, and F_ex, (replicas,
            trajectories).

        Raises:
            ValueError: wrong shape.
        """
        tension, g_alpha = self.slopes(strain, alpha)
        shaped("velocity", velocity, ("...", strain.shape[1]))
        wanted = velocity.expand(strain.shape[:2])
        last = self._drive(strain[..., -1:], alpha[..., -1:, :], g_alpha[..., -1:, :], wanted)
        g_v = torch.cat([tension.diff(dim=-1), last[..., None]], -1)
        v, alpha_rate = self.rates(strain, alpha, g_v, g_alpha)
        v = torch.cat([v[..., :-1], wanted[..., None]], -1)
        return self._stretching(v), alpha_rate, last + tension[..., -1]

    def _driven(
        self, strain: Tensor, alpha: Tensor, external_force: Tensor
    ) -> tuple[Tensor, Tensor]:
        """v and dalpha/dt of every spring under F_ex, Eqs. (44) to (48)."""
        tension, g_alpha = self.slopes(strain, alpha)
        shaped("external_force", external_force, ("...", strain.shape[1]))
        last = external_force.expand(strain.shape[:2])[..., None] - tension[..., -1:]
        return self.rates(strain, alpha, torch.cat([tension.diff(dim=-1), last], -1), g_alpha)

    def _stretching(self, v: Tensor) -> Tensor:
        wall = torch.zeros_like(v[..., :1])
        return torch.cat([wall, v], -1).diff(dim=-1) / self.natural_length

    def _drive(self, strain: Tensor, alpha: Tensor, g_alpha: Tensor, velocity: Tensor) -> Tensor:
        """g_v at which dphi/dg_v is the velocity: (replicas, trajectories); differentiable.

        dphi/dg_v rises with a slope of at least m_v, so that the root lies within
        |v - v(0)| / m_v of 0. Newton's method, which halves the bracket where it would leave it;
        then one more step with a gradient: by the implicit function theorem it carries the exact
        derivative of the root.
        """

        def speed(g_v: Tensor) -> Tensor:
            return self.rates(strain, alpha, g_v[..., None], g_alpha)[0][..., 0]

        def speed_and_slope(g_v: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                at = g_v.detach().requires_grad_()
                value = speed(at)
                (slope,) = torch.autograd.grad(value.sum(), at)
            return value.detach(), slope

        target, root = velocity.detach(), torch.zeros_like(velocity)
        value, slope = speed_and_slope(root)
        with torch.no_grad():
            unit = self.velocity_scale * softplus(self.mobility[:, 0, :1]) / self.force_scale
            reach = (target - value).abs() / unit * (1 + 1e-6) + 1e-12 * self.force_scale
        low, high = -reach, reach
        for _ in range(200):
            below = value < target
            low, high = torch.where(below, root, low), torch.where(below, high, root)
            newton = root - (value - target) / slope
            inside = (newton > low) & (newton < high)
            new = torch.where(inside, newton, (low + high) / 2)
            done = bool(((new - root).abs() <= 1e-14 * (root.abs() + self.force_scale)).all())
            root = new
            value, slope = speed_and_slope(root)
            if done:
                break
        return root - (speed(root) - velocity) / slope
