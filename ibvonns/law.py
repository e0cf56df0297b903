"""The law of a system: free energy f(z), dual dissipation potential phi(z, g), and what follows."""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import conv1d, pad

from ibvonns.layouts import Layout, bonds_of, forces, moved
from ibvonns.networks import INN, PICINN, PositiveLinear, softplus
from ibvonns.validation import choice, count, finite, positive, require, shaped, tensor

__all__ = ["Law", "Scales"]

STEPS = ("euler", "midpoint")  # rules of a step
FAINT = 0.1  # gain of the forces of bonds in the dissipation network
SLIGHT = 0.1  # first weights of what networks add to an ideal gas, in units of the usual ones
PLAIN = 5.0  # first mobility of a bond, in units of the scales
NOWHERE = torch.tensor([[-1e6], [1e6]], dtype=torch.float64)  # where alpha is not bounded
BEYOND = 0.5  # by so much of its width in the data alpha may leave them on either side


class Scales(nn.Module):
    """Units of a law, set from the training data, so that its networks see numbers near 1.

    Args:
        layout: of the sites.
        spacing: natural length of a site; its field is a strain, or a density, in these lengths.
        internal: number of internal variables of a site.

    Raises:
        ValueError: a spacing that is not above 0, or a number of variables below 0.

    Buffers: `field` (mean and deviation of each field, shape (2, fields)), `energy` (f* of Eqs.
    (31), (55)) and `rate` (of alpha at a point, one over a time; else a velocity of the bonds).
    """

    gas: float | None = None  # kBT of a lattice gas
    steps: str = "euler"  # rule of a step

    def __init__(self, layout: Layout, spacing: float = 1.0, internal: int = 1):
        super().__init__()
        self.layout, self.spacing = layout, positive("spacing", spacing)
        self.internal = count("internal", internal, 0 if layout.directions else 1)
        self.field = nn.Buffer(torch.tensor([[0.0], [1.0]], dtype=torch.float64).repeat(1, layout.fields))
        self.energy, self.rate = (nn.Buffer(torch.ones((), dtype=torch.float64)) for _ in range(2))

    def set_scales(self, field: Tensor, energy: float, rate: float) -> None:
        """Fix the units.

        Args:
            field: mean and deviation of each field, shape (2, fields).
            energy: f*.
            rate: of alpha at a point, one over a time; else a velocity.

        Raises:
            ValueError: a mean that is not finite, or a scale that is not above 0.
        """
        shaped("field", finite("field", field), (2, self.layout.fields))
        positive("deviation of the field", float(field[1].min()))
        energy, rate = positive("energy", energy), positive("rate", rate)
        self.field.copy_(field)
        self.energy.fill_(energy)
        self.rate.fill_(rate)

    @property
    def force(self) -> Tensor:
        """Unit of the force that is conjugate to each field, shape (fields,); that of a bond is the last."""
        return self.energy / self.field[1] / self.spacing

    @property
    def clock(self) -> Tensor:
        """Unit of the rate of alpha, one over a time."""
        return self.rate / self.spacing / self.field[1, -1] if self.layout.directions else self.rate

    def scaled(self, z: Tensor) -> Tensor:
        """States with their fields standardised.

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).

        """
        fields = self.layout.fields
        mean, deviation = self.field
        return torch.cat([(z[..., :fields] - mean) / deviation, z[..., fields:]], -1)

    def changed(self, v: Tensor, inner: Tensor, velocity: Tensor | None) -> tuple[Tensor, Tensor]:
        """dz/dt from the velocities of the bonds and the rates of alpha; and the end's own v_n.

        Args:
            v: velocity of each bond, shape (replicas, trajectories, sites, directions).
            inner: rates of alpha, shape (replicas, trajectories, sites, internal).
            velocity: v_n at which a driven end moves instead, shape (replicas, trajectories).
        """
        own = v[..., -1, :]
        if velocity is not None:
            v = torch.cat([v[..., :-1, :], velocity[..., None, None]], -2)
        parts = [inner.new_zeros(*inner.shape[:-1], self.layout.given), inner]
        if self.layout.directions:
            parts.insert(1, moved(self.layout, v)[..., None] / self.spacing)
        return torch.cat(parts, -1), own

    def bounded(self, z: Tensor) -> Tensor:
        """States as a rollout may have them after a step (`Law.bounded`).

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).
        """
        return z

    def step(self, z: Tensor, force: Tensor | None = None, velocity: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """dz/dt, and what an end answers: what a rollout asks of a law (`Law.step`).

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).
            force: F_ex, shape (replicas, trajectories) or (trajectories,).
            velocity: v_n, same shapes.
        """
        raise NotImplementedError


class Law(Scales):
    r"""Free energy f(z) of a site, Eq. (11), and dual dissipation potential phi(z, g), Eq. (12).

    z = (field, alpha) is the state of a site and g = (g of its bonds, g_alpha) the thermodynamic
    forces. Onsager's principle gives everything else. At a point, where the field is a control::

        Eq. (23)  F_ex = df/dfield            Eq. (24)  g_alpha = -df/dalpha
        Eq. (28)  dalpha/dt = dphi/dg(alpha, g), an instance of Eq. (10)

    and on sites with bonds, with the tension T = df/dfield / spacing::

        Eqs. (44), (45)  g of a bond = T ahead - T here, and F_ex - T at a driven end
        Eq. (46)         g_alpha = -df/dalpha
        Eqs. (47), (48)  v = dphi/dg of a bond,   dalpha/dt = dphi/dg_alpha
                         d field/dt = moved(v) / spacing

    The dissipation sum g . dphi/dg >= phi >= 0 follows from the construction of phi, whatever the
    weights. A driven end knows F_ex or v_n; the latter turns Eq. (47) at the last site into an
    equation for F_ex, where the paper trains a further network.

    With bonds, phi has in addition sum m g^2 / 2 with positive mobilities m, learned too. A network
    of softplus functions grows only linearly: its slope is bounded, and beyond the bound no force
    would belong to a velocity. With the mobilities phi is strictly convex, each velocity has
    exactly one force, and phi >= 0 with phi(0) = 0 still holds by construction.

    **A gas.** Where the field is the density rho of a lattice gas and the whole state, the law is
    that of an ideal gas and what networks add to it::

        f = kBT [rho ln rho + (1 - rho) ln(1 - rho)] + f_net,   phi = m g^2 / 2,   m = rho (1 - rho) e^(m_net)

    with m at the mean density of a bond's two sites. Both networks see rho and, with a `kernel`, the
    average w*rho over the sites around, too; T then has the share w*(df/d(w*rho)) besides.

    Args:
        rngs: one generator for each replica.
        layout: of the sites.
        spacing: as for `Scales`.
        internal: number of internal variables of a site; a point has at least one, a gas none.
        energy_hidden: widths of the hidden layers of f.
        dissipation_hidden: widths of the hidden layers of phi.
        gas: kBT of a lattice gas; None for any other system.
        kernel: weights w of the sites at the distances 1, 2, ... on either side of a ring, of which the
            shares count; if empty, the law is local.
        neighbours: whether phi of alpha knows the net force on a site.
        steps: "euler" or "midpoint", the rule by which a rollout takes a step (`rollout.rollout`).
        cubes: of f, beside its network (`networks.INN`); a gas has none.
        squares: of phi, likewise (`networks.PICINN`).

    Raises:
        ValueError: no generator, no hidden layer, a width below 1, an unknown rule, a gas on sites with ends or with
            internal variables, a kernel of something else, neighbours without bonds or without internal variables, or
            as `Scales`.

    **Neighbours.** A spring that is about to snap knows how hard its neighbours pull. With `neighbours`, phi of alpha
    depends on the net force s = moved(g) of a site's bonds, too; the bonds themselves have plain friction::

        phi = sum m g^2 / 2 + phi_net(z, s, g_alpha)

    s is made of the tensions of the states around, and of F_ex at an end: it stands among what phi knows, beside z,
    and stands still in dphi/dg. At any s phi is convex in g, and so the second law holds as before.

    **Bounds.** Far from all data networks go on as they like, and a step as long as those of the data may
    be too long there: alpha would then swing, and within ten steps be lost. So alpha is held within the range of the
    training data, and half of its width beyond on either side, as by a wall: `reach`, which `bound` sets. At the
    wall alpha does not move as the law says, and the second law is not promised.

    States have shape (replicas, trajectories, sites, fields + internal). Buffers: those of
    `Scales`; `reference`, the scaled state at which f is 0, one for each replica; and `reach`, the smallest and the
    largest alpha, (replicas, 2, internal), which hold back none until training has ended.

    >>> from ibvonns.layouts import Row
    >>> from ibvonns.networks import generators
    >>> law = Law(generators([0]), Row())
    >>> z = torch.linspace(0, 2, 20, dtype=torch.float64).reshape(1, 1, 10, 2)
    >>> pull = torch.ones(1, 1, dtype=torch.float64)
    >>> rate, v_n = law.step(z, force=pull)
    >>> bool((law.step(z, velocity=v_n[..., 0])[1] - pull).abs().max() < 1e-8)
    True
    """

    def __init__(
        self,
        rngs: Sequence[Generator],
        layout: Layout,
        spacing: float = 1.0,
        internal: int = 1,
        energy_hidden: Sequence[int] = (20, 20),
        dissipation_hidden: Sequence[int] = (20, 20),
        gas: float | None = None,
        kernel: Sequence[float] = (),
        neighbours: bool = False,
        steps: str = "euler",
        cubes: int = 0,
        squares: int = 0,
    ):
        super().__init__(layout, spacing, internal)
        self.steps = choice("steps", steps, STEPS)
        bonds, width = layout.directions, layout.fields + internal
        self.known = width if bonds else internal  # phi knows no control: those may change at will
        self.neighbours = neighbours
        able = bonds and internal and gas is None
        require(able or not neighbours, "neighbours must be False without bonds or internal variables, but is True")
        self.gas = gas
        self.kernel = tensor("kernel", kernel).double() if len(kernel) else None
        self.mobility: nn.Parameter | None = None
        self.reference = nn.Buffer(torch.zeros(len(rngs), 1, width, dtype=torch.float64))
        self.reach = nn.Buffer(NOWHERE.expand(len(rngs), 2, internal).clone())
        require(gas is not None or self.kernel is None, "kernel must be empty but for a gas, but is not")
        if gas is not None:
            positive("gas", gas)
            closed = bonds and not layout.ends and not internal
            require(closed, f"gas must be on a Ring or a Grid, with no internal variable, but is on a {layout}")
            seen = 1
            if self.kernel is not None:
                positive("sum of the kernel", float(shaped("kernel", self.kernel, ("distances",)).sum()))
                require(bonds == 1, "kernel must be empty but on a Ring, but is not")
                sides, seen = self.kernel / self.kernel.sum() / 2, 2
                self.kernel = torch.cat([sides.flip(0), sides.new_zeros(1), sides])
            self.energy_network = INN(rngs, seen, energy_hidden)
            # a network of softplus functions goes on as a straight line, where tanh would level off
            self.mobility_network = INN(rngs, seen, dissipation_hidden)
            self.mobility = nn.Parameter(torch.zeros(len(rngs), 1, 1, dtype=torch.float64))
            for network in (self.energy_network, self.mobility_network):  # at first nearly an ideal gas
                network.last.weight.data.mul_(SLIGHT)
            return
        self.energy_network = INN(rngs, width, energy_hidden, cubes)
        gain = (0 if neighbours else bonds) * [FAINT] + internal * [1.0]
        self.dissipation_network = PICINN(rngs, self.known + neighbours, len(gain), dissipation_hidden, gain, squares)
        if squares:  # which come first
            cast(PositiveLinear, self.dissipation_network.mix[-1]).free.data.sub_(math.log(10))
        if bonds:
            # Softplus of it. That of a bond starts above any that is likely, and the network's own
            # part ten times smaller than usual, with g of the bond faint in it: a sum of both can
            # only come down to plain friction through the mobility, which goes on beyond the forces
            # of the data, where the network's part does not.
            if not (neighbours or squares):
                cast(PositiveLinear, self.dissipation_network.mix[-1]).free.data.sub_(math.log(10))
            first = torch.tensor(bonds * [PLAIN] + internal * [1.0], dtype=torch.float64)
            self.mobility = nn.Parameter(first.expm1().log().repeat(len(rngs), 1, 1))

    @torch.no_grad()
    def set_reference(self, z: Tensor) -> None:
        """Put the zero of f at a state of each replica, Eq. (11).

        Args:
            z: shape (replicas, 1, 1, fields + internal).

        Raises:
            ValueError: NaN or wrong shape.
        """
        replicas, one, width = self.reference.shape
        self.reference.copy_(self.scaled(shaped("z", finite("z", z), (replicas, one, 1, width)))[:, 0])

    @torch.no_grad()
    def bound(self, alpha: Tensor | None = None) -> None:
        """Hold alpha near the data from now on, or nowhere.

        Args:
            alpha: of all training data, (replicas, ..., internal); if not given, no alpha is held back.
        """
        if alpha is None:
            self.reach.copy_(NOWHERE)
        elif self.internal:
            low, high = alpha.flatten(1, -2).aminmax(dim=1)
            wide = BEYOND * (high - low)
            self.reach.copy_(torch.stack([low - wide, high + wide], 1))

    def bounded(self, z: Tensor) -> Tensor:
        """States with their alpha within `reach`.

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).
        """
        field, alpha = z.tensor_split([self.layout.fields], -1)
        return torch.cat([field, alpha.clamp(*self.reach[:, None].split(1, 2))], -1)

    def free_energy(self, z: Tensor) -> Tensor:
        """f of each site, an energy, zero at `reference`: (replicas, trajectories, sites).

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).

        Raises:
            ValueError: wrong shape.
        """
        mean, deviation = self.field
        values = []
        for state in (self.scaled(z), self.reference[:, None]):
            value = self.energy * each(self.energy_network, self._around(state))[..., 0]
            if self.gas is not None:
                density = (mean + deviation * state)[..., 0]
                value = value - self.gas * sum(map(torch.special.entr, (density, 1 - density)))
            values.append(value)
        return values[0] - values[1]

    def _around(self, scaled: Tensor) -> Tensor:
        """Scaled states, and beside them their averages over the kernel."""
        return scaled if self.kernel is None else torch.cat([scaled, self._averaged(scaled)], -1)

    def _averaged(self, values: Tensor) -> Tensor:
        """The average of each site's surroundings, in the shape of (..., sites, 1)."""
        if self.kernel is None or values.shape[-2] == 1:
            return values
        sites, reach = values.shape[-2], len(self.kernel) // 2
        require(sites > 2 * reach, f"sites must number over {2 * reach} for this kernel, but number {sites}")
        rows = pad(values.reshape(-1, 1, sites), (reach, reach), "circular")
        return conv1d(rows, self.kernel[None, None].to(values.device)).view_as(values)

    def slopes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """df/dfield / spacing and g_alpha = -df/dalpha, Eqs. (23), (24), (46), in closed form.

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).

        Returns:
            The force F_ex of each control, (replicas, trajectories, sites, fields), or the tension, with 1 for them;
            and an energy, (replicas, trajectories, sites, internal).

        Raises:
            ValueError: wrong shape.
        """
        fields = self.layout.fields
        slope = each(self.energy_network.gradient, self._around(self.scaled(z)))
        if self.gas is not None:
            ideal = self.gas * torch.logit(z) / self.spacing
            own = slope[..., :1] if self.kernel is None else slope[..., :1] + self._averaged(slope[..., 1:])
            return ideal + self.force * own, z[..., :0]
        free = slice(self.layout.given if self.layout.directions else 0, fields)
        return self.force[free] * slope[..., free], -self.energy * slope[..., fields:]

    def _parts(self, z: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What phi knows of the states, its forces in units of the scales, and those in which its network is convex."""
        shaped("g", g, ("...", self.layout.directions + self.internal))
        known, scaled = self.scaled(z)[..., z.shape[-1] - self.known :], g / self._units(self.force[-1], self.energy)
        if self.neighbours:
            net = moved(self.layout, scaled[..., : self.layout.directions])
            return torch.cat([known, net[..., None]], -1), scaled, scaled[..., self.layout.directions :]
        return known, scaled, scaled

    def _units(self, bond: Tensor, inner: Tensor) -> Tensor:
        """Units of the bonds, then those of alpha."""
        return torch.stack(self.layout.directions * [bond] + self.internal * [inner])

    def dual_dissipation(self, z: Tensor, g: Tensor) -> Tensor:
        """phi of each site, Eq. (12), an energy per time: (replicas, trajectories, sites).

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).
            g: forces of the bonds, then g_alpha, energies: (..., sites, directions + internal).

        Raises:
            ValueError: wrong shape.
        """
        if self.gas is not None:
            return (self.operator(z, g) * g.square()).sum(-1) / 2
        known, scaled, convex = self._parts(z, g)
        if self.neighbours:  # the net force stands still in dphi/dg
            known = torch.cat([known[..., :-1], known[..., -1:].detach()], -1)
        value = each(self.dissipation_network, known, convex)[..., 0]
        if self.mobility is not None:
            value = value + (softplus(self.mobility)[:, :, None] * scaled**2).sum(-1) / 2
        return self.energy * self.clock * value

    def rates(self, z: Tensor, g: Tensor) -> Tensor:
        """dphi/dg, Eqs. (10), (28), (47), (48), in closed form, in the shape of g.

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).
            g: forces of the bonds, then g_alpha, energies: (..., sites, directions + internal).

        Returns:
            Velocities of the bonds, then rates of alpha, one over a time.

        Raises:
            ValueError: wrong shape.
        """
        if self.gas is not None:
            return self.operator(z, g) * g
        known, scaled, convex = self._parts(z, g)
        slope = each(self.dissipation_network.gradient, known, convex)
        if self.neighbours:
            slope = pad(slope, (self.layout.directions, 0))
        if self.mobility is not None:
            slope = slope + softplus(self.mobility)[:, :, None] * scaled
        return slope * self._units(self.rate, self.clock)

    def operator(self, z: Tensor, g: Tensor) -> Tensor:
        """d^2 phi/dg^2 of each force by itself, what fluctuations measure, in the shape of g; never negative.

        Of a gas it is m, whatever g is.

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).
            g: forces of the bonds, then g_alpha, energies: (..., sites, directions + internal).

        Raises:
            ValueError: wrong shape.
        """
        if self.gas is None:
            with torch.enable_grad():
                at = g if g.requires_grad else g.detach().requires_grad_()
                slope = self.rates(z, at)
                grad = [torch.autograd.grad(part.sum(), at, create_graph=True)[0] for part in slope.unbind(-1)]
            return torch.stack([part[..., n] for n, part in enumerate(grad)], -1)
        mean, deviation = self.field
        scaled = self._around(self.scaled(z))
        head = bonds_of(self.layout, z.shape[-2])[0].to(z.device)
        bond = (scaled[..., None, :, :] + scaled[..., head, :]) / 2  # (..., directions, sites, seen)
        density = (mean + deviation * bond)[..., 0]
        centre = self.mobility_network(bond.new_zeros(len(bond), 1, bond.shape[-1])) - cast(Tensor, self.mobility)
        factor = each(self.mobility_network, bond.flatten(2, 3)) - centre[:, None]
        return (self.rate / self.force * density * (1 - density) * factor.view(density.shape).exp()).movedim(-2, -1)

    def dissipation(self, z: Tensor, g: Tensor) -> Tensor:
        """sum g . dphi/dg of each site, an energy per time, never negative.

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).
            g: forces of the bonds, then g_alpha, energies: (..., sites, directions + internal).

        Raises:
            ValueError: wrong shape.
        """
        return (g * self.rates(z, g)).sum(-1)

    def driving(self, z: Tensor, force: Tensor | None = None) -> Tensor:
        """g at a state: forces of the bonds, then g_alpha, (..., sites, directions + internal).

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).
            force: F_ex at a driven end, shape (replicas, trajectories) or (trajectories,); the end
                is closed if it is not given.

        Raises:
            ValueError: wrong shape.
        """
        tension, g_alpha = self.slopes(z)
        if not self.layout.directions:
            return g_alpha
        end = None if force is None else force.expand(z.shape[:2])
        return torch.cat([forces(self.layout, tension[..., 0], end), g_alpha], -1)

    def step(self, z: Tensor, force: Tensor | None = None, velocity: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """dz/dt, and what an end answers, Eqs. (23), (24), (28), (44) to (48).

        A point needs neither force nor velocity and answers F_ex of each control. A driven end
        answers v_n where F_ex is known, and F_ex where v_n alone is; where both are, it moves at
        the v_n that is given, and answers the one that the law would have given. The total field of
        a row then grows at v_n / spacing exactly, whatever the weights.

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).
            force: F_ex, shape (replicas, trajectories) or (trajectories,).
            velocity: v_n, same shapes.

        Returns:
            In the shape of z, and (replicas, trajectories, ends).

        Raises:
            ValueError: wrong shape, or a driven end of which nothing is known.
        """
        layout, bonds = self.layout, self.layout.directions
        if not bonds:
            return self.changed(z[..., :0], self.rates(z, self.driving(z)), None)[0], self.slopes(z)[0][..., 0, :]
        velocity = None if velocity is None else velocity.expand(z.shape[:2])
        end = self._pull(z[..., -1:, :], velocity) if layout.driven and force is None else force
        w = self.rates(z, self.driving(z, end))
        rate, own = self.changed(w[..., :bonds], w[..., bonds:], velocity)
        return rate, own[..., : layout.ends] if end is None or end is force else end[..., None]

    def _pull(self, z: Tensor, velocity: Tensor | None) -> Tensor:
        """F_ex at which the end of the last site moves at the velocity: (replicas, trajectories)."""
        if velocity is None or self.mobility is None:
            raise ValueError("force and velocity must not both be None at a driven end")
        tension, g_alpha = self.slopes(z)

        def speed(g: Tensor) -> Tensor:
            return self.rates(z, torch.cat([g[..., None, None], g_alpha], -1))[..., 0, 0]

        slope, unit = self.rate * softplus(self.mobility[:, 0, :1]) / self.force[-1], float(self.force[-1])
        return root(speed, velocity, slope.detach(), unit) + tension[..., 0, 0]


def each(network: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """A network of points, applied to sites: (replicas, trajectories, sites, ...)."""
    return network(*(part.flatten(1, 2) for part in parts)).unflatten(1, parts[0].shape[1:3])


def root(function: Callable[[Tensor], Tensor], target: Tensor, slope: Tensor, unit: float) -> Tensor:
    """x with function(x) = target, for a function that rises by at least `slope`; differentiable.

    The root lies within |target - function(0)| / slope of 0. Newton's method, which halves the
    bracket where it would leave it or is not twice as near as before (it may run in circles); then
    one more step with a gradient: by the implicit function theorem it carries the exact derivative
    of the root.
    """
    aim, x = target.detach(), torch.zeros_like(target)
    reach = (function(x).detach() - aim).abs() / slope * (1 + 1e-6) + 1e-12 * unit
    low, high, way = -reach, reach, 2 * reach
    for _ in range(200):
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            value = function(at)
            (steep,) = torch.autograd.grad(value.sum(), at)
        wrong = value.detach() - aim
        low, high = torch.where(wrong < 0, x, low), torch.where(wrong < 0, high, x)
        newton, old = x - wrong / steep, x
        nearer = (newton >= low) & (newton <= high) & ((newton - x).abs() <= way / 2)
        x = torch.where(nearer, newton, (low + high) / 2)
        way = (x - old).abs()
        if bool((way <= 1e-14 * (old.abs() + unit)).all()):
            break
    return x - (function(x) - target) / steep
