"""Decoders q(x | z): the microscopic density given back from the macroscopic state."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from ibvonns.compiled import INTERPRETED
from ibvonns.ensemble import Density
from ibvonns.likelihood import HALF_LOG, flow_nll, mixture_nll
from ibvonns.networks import MLP, Generators
from ibvonns.observations import Observations
from ibvonns.validation import count, finite, positive, require, seeded, shaped

__all__ = [
    "Decoder", "FlowDecoder", "GaussianDecoder", "GaussiansDecoder", "MixtureDecoder", "SigmoidalFlow", "gaussian_nll",
]  # fmt: skip

ROWS, SAMPLES = 2048, 512  # for an entropy, at a time
HIDDEN = (10, 10)  # widths of the hidden layers of every network


def gaussian_nll(mean: Tensor, deviation: Tensor, first: Tensor, variance: Tensor) -> Tensor:
    r"""Mean negative log-likelihood of an ensemble under a Gaussian, in nats.

    The logarithm of a Gaussian is quadratic in x, so that the mean over realisations, the inner sum
    of Eq. (13), needs only the ensemble's mean and variance and is exact::

        -<log q> = log(2 pi sigma^2)/2 + (variance + (first - mean)^2) / (2 sigma^2).

    Args:
        mean: mu of the Gaussian, of any shape.
        deviation: sigma of the Gaussian, above 0, of a shape that matches.
        first: mean of the ensemble, of a shape that matches.
        variance: biased variance of the ensemble, of a shape that matches.

    Returns:
        Nats per unit of the position, in the common shape.

    >>> one, zero = torch.ones(1), torch.zeros(1)
    >>> gaussian_nll(zero, one, zero, one)  # the entropy of a standard Gaussian
    tensor([1.4189])
    """
    return HALF_LOG + deviation.log() + (variance + (first - mean) ** 2) / (2 * deviation**2)


class Decoder(nn.Module):
    """What all decoders share: the units, set from the training data, and the likelihood on a grid.

    Buffers: `position`, mean and deviation of the positions, (2, components), the scales mu* and
    sigma* of Eq. (30); and `given`, the same of the fields, (2, fields).
    """

    def __init__(self, fields: int = 1, components: int = 1):
        super().__init__()
        self.fields = fields
        unit = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        self.position, self.given = nn.Buffer(unit.repeat(1, components)), nn.Buffer(unit.repeat(1, fields))

    def scaled(self, z: Tensor) -> Tensor:
        """States with their fields standardised: (replicas, points, fields + internal).

        Args:
            z: states, of the same shape.

        Raises:
            ValueError: wrong shape.
        """
        shaped("z", z, ("replicas", "points", f"{self.fields} + internal"))
        mean, deviation = self.given
        return torch.cat([(z[..., : self.fields] - mean) / deviation, z[..., self.fields :]], -1)

    def log_density(self, values: Tensor, z: Tensor) -> Tensor:
        """log q(x | z) in nats, shape (replicas, points, ...).

        Args:
            values: x, shape (replicas, points, ...), or with 1 for either; with a last axis for the
                components, if there are several.
            z: states, shape (replicas, points, fields + internal).

        Raises:
            ValueError: wrong shape.
        """
        raise NotImplementedError

    def compiled(self, grid: Tensor, weights: Tensor, z: Tensor) -> Tensor:
        """`nll` in one compiled pass over the `grid` (`likelihood`), for its `weights` and states `z`."""
        raise NotImplementedError

    def sample(self, z: Tensor, realisations: int, generator: Generator) -> Tensor:
        """Positions drawn from q(x | z), shape (replicas, points, realisations).

        Args:
            z: states, shape (replicas, points, fields + internal).
            realisations: how many draws for each replica and point.
            generator: source of every random number.

        Returns:
            With a last axis for the components, if there are several.

        Raises:
            ValueError: wrong shape, or no realisation.
        """
        raise NotImplementedError

    def entropy(self, z: Tensor) -> Tensor:
        """-<log q(x | z)> of q itself in nats, (replicas, points).

        By the trapezoidal rule; of several components by samples, with an error of a few hundredths.

        Args:
            z: states, shape (replicas, points, fields + internal).

        Raises:
            ValueError: wrong shape.
        """
        found, share = [], torch.linspace(-10, 10, 501, dtype=torch.float64, device=z.device)
        for part in z.split(ROWS, 1):
            x, wide = self.sample(part, SAMPLES, seeded(0)), z.new_tensor(1.0)
            weight: Tensor | float = 1 / SAMPLES
            if len(self.position[0]) == 1:
                wide = x.std(-1, keepdim=True)
                x = x.mean(-1, keepdim=True) + wide * share
            logs = self.log_density(x, part)
            weight = weight if len(self.position[0]) > 1 else logs.exp() * wide * (share[1] - share[0])
            found.append(-(weight * logs).sum(-1))
        return torch.cat(found, 1)

    def nll(self, data: Observations, z: Tensor) -> Tensor:
        """-<log q(x | z)> of each row in nats, by the weights of the grid or over samples: (replicas, rows).

        In one compiled pass in double precision on the processor; else, and where the gradient by the
        grid or its weights is asked, by `log_density`.

        Args:
            data: rows (conditions, times, sites).
            z: states, shape (replicas, rows, fields + internal).

        Raises:
            ValueError: wrong shape.
        """
        cloud = data.cloud
        if not isinstance(cloud, Density):
            return -self.log_density(cloud.positions.flatten(0, -3)[None], z).mean(-1)
        weights = cloud.weights.flatten(0, -2)
        data_too = cloud.grid.requires_grad or weights.requires_grad
        if z.device.type == "cpu" and z.dtype == torch.float64 and not (data_too or INTERPRETED):
            return self.compiled(cloud.grid, weights, z)
        return -(weights * self.log_density(cloud.grid.expand(*z.shape[:2], -1), z)).sum(-1)


class GaussianDecoder(Decoder):
    """q(x | alpha) = N(mu, sigma^2), with mu and sigma from one network, Eq. (30).

    Args:
        rngs: one generator for each replica.
        internal: number of internal variables.
        fields: of the state, of which this density knows nothing.
        components: of a position; they are independent, unless `GaussiansDecoder` is taken, with one.

    Raises:
        ValueError: no generator, or a width below 1.

    >>> from ibvonns.networks import generators
    >>> decoder = GaussianDecoder(generators([0]))
    >>> mean, deviation = decoder(torch.zeros(1, 3, 2, dtype=torch.float64))
    >>> mean.shape, bool((deviation > 0).all())
    (torch.Size([1, 3, 1]), True)
    """

    def __init__(self, rngs: Generators, internal: int = 1, fields: int = 1, components: int = 1):
        super().__init__(fields, components)
        self.network = MLP(rngs, (internal, *HIDDEN, 2 * components))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each (replicas, points, components), lengths.

        Args:
            z: states, shape (replicas, points, fields + internal).

        Raises:
            ValueError: wrong shape.
        """
        shaped("z", z, ("replicas", "points", "fields + internal"))
        centre, scale = self.position
        mean, width = self.network(z[..., self.fields :]).chunk(2, -1)
        # an offset rather than the product of Eq. (30): the same family, whatever the mean's sign
        return centre + scale * mean, scale * softplus(width)

    def log_density(self, values: Tensor, z: Tensor) -> Tensor:
        """As `Decoder.log_density`, of `values` at `z`."""
        values = values[..., None] if self.position.shape[1] == 1 else values
        mean, deviation = _beside("values", values, self(z))
        standard = (values - mean) / deviation
        return (-HALF_LOG - deviation.log() - standard**2 / 2).sum(-1)

    def nll(self, data: Observations, z: Tensor) -> Tensor:
        """-<log q(x | z)> of each row in nats, exact from the moments: (replicas, rows).

        Args:
            data: rows (conditions, times, sites).
            z: states, shape (replicas, rows, fields + internal).
        """
        moments = data.mean.flatten(0, 2), data.variance.flatten(0, 2)
        return gaussian_nll(*self(z), *moments).sum(-1)  # type: ignore[call-arg]

    def sample(self, z: Tensor, realisations: int, generator: Generator) -> Tensor:
        """As `Decoder.sample`, so many `realisations` at `z` by the `generator`."""
        mean, deviation = (part[:, :, None] for part in self(z))
        drawn = mean + deviation * _random(torch.randn, mean, realisations, generator, mean.shape[-1])
        return drawn[..., 0] if drawn.shape[-1] == 1 else drawn


class GaussiansDecoder(Decoder):
    r"""q(x | z) = sum_k pi_k N(mu_k, C_k), all of it free and from one network: a density of a few humps.

    A precision C^-1 = A^T A / scale^2 has a triangular root A, whose diagonal is an exponential.

    Args:
        rngs: one generator for each replica.
        number: how many Gaussians.
        internal: number of internal variables.
        fields: of the state.
        components: of a position.

    Raises:
        ValueError: no generator, no Gaussian, or a width below 1.

    >>> from ibvonns.networks import generators
    >>> decoder = GaussiansDecoder(generators([0]), 3, components=2)
    >>> z = torch.ones(1, 4, 2, dtype=torch.float64)
    >>> decoder.log_density(decoder.sample(z, 10, generators([0])[0]), z).shape
    torch.Size([1, 4, 10])
    """

    def __init__(self, rngs: Generators, number: int = 2, internal: int = 1, fields: int = 1, components: int = 1):
        super().__init__(fields, components)
        self.number, pairs = count("number", number), components * (components - 1) // 2
        self.sizes = [1, components, components, pairs]
        self.network = MLP(rngs, (fields + internal, *HIDDEN, number * sum(self.sizes)))
        row, column = torch.tril_indices(components, components, -1)
        self.below = torch.nn.functional.one_hot(components * row + column, components**2)  # where pairs stand in A
        # apart from one another at first: alike they would have the same gradients, nearly
        self.apart = torch.linspace(-1, 1, number, dtype=torch.float64)[:, None] if number > 1 else 0.0

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of the weights, (replicas, points, Gaussians), centres (..., components), and roots A.

        Args:
            z: states, shape (replicas, points, fields + internal).

        Raises:
            ValueError: wrong shape.
        """
        out = self.network(self.scaled(z)).unflatten(-1, (self.number, -1))
        logit, mean, steep, pairs = out.split(self.sizes, -1)
        root, (centre, scale) = torch.diag_embed(steep.exp()), self.position
        root = root + (pairs @ self.below.to(pairs)).view_as(root)
        return torch.log_softmax(logit[..., 0], -1), centre + scale * (mean + self.apart), root

    def log_density(self, values: Tensor, z: Tensor) -> Tensor:
        """As `Decoder.log_density`, of `values` at `z`."""
        (logs, centres, roots), scale = self(z), self.position[1]
        values = values[..., None] if len(scale) == 1 else values
        _beside("values", values, [logs])
        between = (slice(None), slice(None), *(None,) * (values.ndim - 3))
        away = (values[..., None, :] - centres[between]) / scale
        standard = (roots[between] * away[..., None, :]).sum(-1)
        dense = logs + roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        exponent = dense[between] - standard.square().sum(-1) / 2
        return torch.logsumexp(exponent, -1) - len(scale) * HALF_LOG - scale.log().sum()

    def compiled(self, grid: Tensor, weights: Tensor, z: Tensor) -> Tensor:
        """As `Decoder.compiled`, for `grid`, `weights` and `z`."""
        logs, centres, roots = self(z)
        return mixture_nll(grid, weights, logs, centres[..., 0], self.position[1] / roots[..., 0, 0])

    def sample(self, z: Tensor, realisations: int, generator: Generator) -> Tensor:
        """As `Decoder.sample`, so many `realisations` at `z` by the `generator`."""
        logs, centres, roots = self(z)
        chance = logs.exp().cumsum(-1)[:, :, None, :-1]
        one = (_random(torch.rand, logs, realisations, generator)[..., None] >= chance).sum(-1)
        pick = one[..., None].expand(*one.shape, centres.shape[-1])
        noise = _random(torch.randn, logs, realisations, generator, centres.shape[-1])
        root = roots.gather(2, pick[..., None].expand(*pick.shape, pick.shape[-1]))
        away = torch.linalg.solve_triangular(root, noise[..., None], upper=False)[..., 0]
        drawn = centres.gather(2, pick) + self.position[1] * away
        return drawn[..., 0] if drawn.shape[-1] == 1 else drawn


class MixtureDecoder(Decoder):
    r"""q(x | z): two Gaussians a fixed distance apart, with the mean built in, Eq. (54)::

        q = pi N(eps + (pi - 1) eps_h, s_l^2) + (1 - pi) N(eps + pi eps_h, s_r^2)

    pi depends on alpha alone, s_l and s_r on the state z = (eps, alpha). Whatever the weights, the
    mean of q is the field eps, a strain for a chain.

    Args:
        rngs: one generator for each replica.
        wells: eps_h, the distance of the two Gaussians.
        internal: number of internal variables.

    Raises:
        ValueError: no generator, a width below 1, or a distance that is not above 0.

    >>> from ibvonns.networks import generators
    >>> decoder, z = MixtureDecoder(generators([0])), torch.ones(1, 3, 2, dtype=torch.float64)
    >>> decoder.log_density(z[..., 0], z).shape
    torch.Size([1, 3])
    """

    def __init__(self, rngs: Generators, wells: float = 2.0, internal: int = 1):
        super().__init__()
        self.wells = positive("wells", wells)
        self.share = MLP(rngs, (internal, *HIDDEN, 1))
        self.widths = nn.ModuleList(MLP(rngs, (1 + internal, *HIDDEN, 1)) for _ in "lr")

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of the two weights, centres and deviations: (replicas, points, 2) each.

        Args:
            z: states, shape (replicas, points, 1 + internal).

        Raises:
            ValueError: wrong shape.
        """
        state, logit = self.scaled(z), self.share(z[..., 1:])
        logs, share = torch.cat([logsigmoid(logit), logsigmoid(-logit)], -1), torch.sigmoid(logit)
        centres = z[..., :1] + self.wells * torch.cat([share - 1, share], -1)
        widths = torch.cat([softplus(network(state)) for network in self.widths], -1)
        return logs, centres, self.position[1] * widths

    def log_density(self, values: Tensor, z: Tensor) -> Tensor:
        """As `Decoder.log_density`, of `values` at `z`."""
        logs, centres, deviations = _beside("values", values[..., None], self(z))
        standard = (values[..., None] - centres) / deviations
        return torch.logsumexp(logs - deviations.log() - 0.5 * standard**2, -1) - HALF_LOG

    def compiled(self, grid: Tensor, weights: Tensor, z: Tensor) -> Tensor:
        """As `Decoder.compiled`, for `grid`, `weights` and `z`."""
        return mixture_nll(grid, weights, *self(z))

    def sample(self, z: Tensor, realisations: int, generator: Generator) -> Tensor:
        """As `Decoder.sample`, so many `realisations` at `z` by the `generator`."""
        logs, centres, deviations = self(z)
        well = (_random(torch.rand, logs, realisations, generator) >= logs[..., :1].exp()).long()
        noise = _random(torch.randn, logs, realisations, generator)
        return centres.gather(-1, well) + deviations.gather(-1, well) * noise


class SigmoidalFlow(nn.Module):
    r"""An increasing map of the line to itself, with parameters a, b, c from a state (Sec. 2.2.1)::

        y = logit(S),   S = sum_k c_k sigmoid(p_k),   p_k = a_k x + b_k,   a > 0, c > 0, sum c = 1

    Everything is done with logarithms, so that nothing is clipped however far out x lies: log S and
    log(1 - S) are logsumexps over k of log c_k + logsigmoid(+-p_k), and::

        log dy/dx = logsumexp_k[log c_k + log a_k + logsigmoid(p_k) + logsigmoid(-p_k)]
                    - log S - log(1 - S).

    Reference: Huang, Krueger, Lacoste, Courville, Neural autoregressive flows, 2018.

    Args:
        rngs: one generator for each replica.
        inputs: size of the state.
        sigmoids: d, how many.

    Raises:
        ValueError: no generator, no sigmoid, or a width below 1.

    >>> from ibvonns.networks import generators
    >>> flow, state = SigmoidalFlow(generators([0]), 1), torch.zeros(1, 3, 1, dtype=torch.float64)
    >>> x = torch.tensor([[-2.0, 0.0, 5.0]], dtype=torch.float64)
    >>> y, log_slope = flow(x, state)
    >>> bool((flow.inverse(y, state) - x).abs().max() < 1e-9)
    True
    """

    def __init__(self, rngs: Generators, inputs: int, sigmoids: int = 2):
        super().__init__()
        self.sigmoids = count("sigmoids", sigmoids)
        self.network = MLP(rngs, (inputs, *HIDDEN, 3 * sigmoids))

    def parameters_at(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log a, b and log c, each (replicas, points, d).

        Args:
            state: shape (replicas, points, inputs).
        """
        log_a, b, c = self.network(state).split(self.sigmoids, -1)
        return log_a, b, torch.log_softmax(c, -1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """y and log dy/dx, each (replicas, points, ...).

        Args:
            x: shape (replicas, points, ...), or with 1 for either.
            state: shape (replicas, points, inputs).

        Raises:
            ValueError: wrong shape.
        """
        log_a, b, log_c = _beside("x", x[..., None], self.parameters_at(state))
        p = log_a.exp() * x[..., None] + b
        rising, falling = logsigmoid(p), logsigmoid(-p)
        log_s, log_rest = (torch.logsumexp(log_c + part, -1) for part in (rising, falling))
        log_slope = torch.logsumexp(log_c + log_a + rising + falling, -1)
        return log_s - log_rest, log_slope - log_s - log_rest

    @torch.no_grad()
    def inverse(self, y: Tensor, state: Tensor) -> Tensor:
        """x with the given y, by bisection; not differentiable.

        At the smallest of (y - b_k) / a_k every p_k is at most y, so that S is at most sigmoid(y);
        at the largest it is at least that: the root lies between.

        Args:
            y: shape (replicas, points, ...).
            state: shape (replicas, points, inputs).

        Returns:
            The shape of y.

        Raises:
            ValueError: NaN or wrong shape.
        """
        log_a, b, _ = _beside("y", finite("y", y)[..., None], self.parameters_at(state))
        low, high = ((y[..., None] - b) / log_a.exp()).aminmax(dim=-1)
        for _ in range(60):
            middle = (low + high) / 2
            below = self(middle, state)[0] < y
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


class FlowDecoder(Decoder):
    """q(x | z): a standard Gaussian pulled back through a `SigmoidalFlow` (Sec. 4.4).

    Of several components each has a flow of its own, which knows the components before it: so their
    joint density is any.

    Args:
        rngs: one generator for each replica.
        sigmoids: d; the paper takes 2.
        internal: number of internal variables.
        fields: of the state.
        components: of a position.

    Raises:
        ValueError: no generator, no sigmoid, or a width below 1.

    >>> from ibvonns.networks import generators
    >>> decoder, z = FlowDecoder(generators([0])), torch.ones(1, 3, 2, dtype=torch.float64)
    >>> decoder.log_density(z[..., 0], z).shape
    torch.Size([1, 3])
    """

    def __init__(self, rngs: Generators, sigmoids: int = 2, internal: int = 1, fields: int = 1, components: int = 1):
        super().__init__(fields, components)
        self.flow = SigmoidalFlow(rngs, fields + internal, sigmoids)
        later = (SigmoidalFlow(rngs, fields + internal + n, sigmoids) for n in range(1, components))
        self.later: Any = nn.ModuleList(later)  # a list of modules has no types

    def log_density(self, values: Tensor, z: Tensor) -> Tensor:
        """As `Decoder.log_density`, of `values` at `z`."""
        (centre, scale), state = self.position, self.scaled(z)
        x = ((values[..., None] if len(scale) == 1 else values) - centre) / scale
        y, log_slope = self.flow(x[..., 0], state)
        log_density = log_slope - scale.log().sum() - 0.5 * y**2 - HALF_LOG
        if len(self.later):  # each value has a state of its own, with what comes before it
            x = x.expand(*state.shape[:2], *x.shape[2:])
            own = state[(..., *(None,) * (x.ndim - 3), slice(None))].expand(*x.shape[:-1], -1)
            own, x = torch.cat([own, x], -1).flatten(1, -2), x.flatten(1, -2)
        for n, flow in enumerate(self.later, 1):
            y, log_slope = flow(x[..., n], own[..., : state.shape[-1] + n])
            log_density = log_density + (log_slope - 0.5 * y**2 - HALF_LOG).view_as(log_density)
        return log_density

    def compiled(self, grid: Tensor, weights: Tensor, z: Tensor) -> Tensor:
        """As `Decoder.compiled`, for `grid`, `weights` and `z`."""
        centre, scale = self.position
        nll = flow_nll((grid - centre) / scale, weights, *self.flow.parameters_at(self.scaled(z)))
        return nll + weights.sum(-1) * scale.log()

    def sample(self, z: Tensor, realisations: int, generator: Generator) -> Tensor:
        """As `Decoder.sample`, so many `realisations` at `z` by the `generator`."""
        state, (centre, scale) = self.scaled(z), self.position
        y = _random(torch.randn, state, realisations, generator, len(scale))
        x = self.flow.inverse(y[..., 0], state)[..., None]
        for n, flow in enumerate(self.later, 1):
            own = torch.cat([state[:, :, None].expand(*x.shape[:3], -1), x], -1).flatten(1, 2)
            x = torch.cat([x, flow.inverse(y[..., n].flatten(1), own).view_as(y[..., n])[..., None]], -1)
        drawn = centre + scale * x
        return drawn[..., 0] if len(scale) == 1 else drawn


def _beside(name: str, values: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    """Parts (replicas, points, n) with as many axes in between as the values, (replicas, points, ..., n)."""
    came, front = tuple(values.shape[:-1]), tuple(parts[0].shape[:2])
    fits = len(came) >= 2 and all(a in (1, b) for a, b in zip(came, front, strict=False))
    require(fits, f"{name} must begin with shape {front}, but have shape {came}")
    return [part.reshape(*front, *(1,) * (len(came) - 2), -1) for part in parts]


def _random(draw: Callable[..., Tensor], like: Tensor, realisations: int, generator: Generator, *more: int) -> Tensor:
    """Random numbers for each point of `like`, (replicas, points, realisations, ...)."""
    shape = (*like.shape[:2], count("realisations", realisations), *more)
    return draw(*shape, generator=generator, dtype=like.dtype, device=like.device)
