"""Decoders q(x | z): the microscopic density given back from the macroscopic state."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from ibvonns.compiled import INTERPRETED
from ibvonns.ensemble import Density
from ibvonns.likelihood import HALF_LOG, flow_nll, mixture_nll
from ibvonns.networks import MLP, Generators
from ibvonns.observations import Observations
from ibvonns.validation import count, finite, positive, require, shaped

__all__ = ["Decoder", "FlowDecoder", "GaussianDecoder", "MixtureDecoder", "SigmoidalFlow", "gaussian_nll"]

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

    def nll(self, data: Observations, z: Tensor) -> Tensor:
        """-<log q(x | z)> of each row in nats, by the weights of the grid: (replicas, rows).

        In one compiled pass in double precision on the processor; else, and where the gradient by the
        grid or its weights is asked, by `log_density`.

        Args:
            data: rows (conditions, times, sites), with their positions on a grid.
            z: states, shape (replicas, rows, fields + internal).

        Raises:
            ValueError: wrong shape.
        """
        cloud = data.cloud
        assert isinstance(cloud, Density)  # `Architecture` sees to it
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
        components: of a position; they are independent.

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
        mean, deviation = (part[:, :, None] for part in self(z))
        drawn = mean + deviation * _random(torch.randn, mean, realisations, generator, mean.shape[-1])
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
        """Positions drawn from q(x | z), shape (replicas, points, realisations).

        Args:
            z: states, shape (replicas, points, 1 + internal).
            realisations: how many draws for each replica and point.
            generator: source of every random number.

        Raises:
            ValueError: wrong shape, or no realisation.
        """
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

    Args:
        rngs: one generator for each replica.
        sigmoids: d; the paper takes 2.
        internal: number of internal variables.
        fields: of the state.

    Raises:
        ValueError: no generator, no sigmoid, or a width below 1.

    >>> from ibvonns.networks import generators
    >>> decoder, z = FlowDecoder(generators([0])), torch.ones(1, 3, 2, dtype=torch.float64)
    >>> decoder.log_density(z[..., 0], z).shape
    torch.Size([1, 3])
    """

    def __init__(self, rngs: Generators, sigmoids: int = 2, internal: int = 1, fields: int = 1):
        super().__init__(fields)
        self.flow = SigmoidalFlow(rngs, fields + internal, sigmoids)

    def log_density(self, values: Tensor, z: Tensor) -> Tensor:
        """As `Decoder.log_density`, of `values` at `z`."""
        centre, scale = self.position
        y, log_slope = self.flow((values - centre) / scale, self.scaled(z))
        return log_slope - scale.log() - 0.5 * y**2 - HALF_LOG

    def compiled(self, grid: Tensor, weights: Tensor, z: Tensor) -> Tensor:
        """As `Decoder.compiled`, for `grid`, `weights` and `z`."""
        centre, scale = self.position
        nll = flow_nll((grid - centre) / scale, weights, *self.flow.parameters_at(self.scaled(z)))
        return nll + weights.sum(-1) * scale.log()

    def sample(self, z: Tensor, realisations: int, generator: Generator) -> Tensor:
        """Positions drawn from q(x | z), shape (replicas, points, realisations).

        Args:
            z: states, shape (replicas, points, fields + internal).
            realisations: how many draws for each replica and point.
            generator: source of every random number.

        Raises:
            ValueError: wrong shape, or no realisation.
        """
        state, (centre, scale) = self.scaled(z), self.position
        return centre + scale * self.flow.inverse(_random(torch.randn, state, realisations, generator), state)


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
