r"""A colloidal particle in an optical trap (Sec. 3): simulation and everything that is exact.

The position x of the particle obeys::

    Eq. (17)  eta dx/dt = k (lambda(t) - 2 x) + sqrt(2 eta kBT) xi(t)

Two springs of stiffness k hold the particle: one to a wall at 0, one to the pulled end at
lambda(t). Units: any consistent set; the paper's numbers (k = eta = 1, kBT = 0.01) are
dimensionless.
"""

from dataclasses import dataclass
from math import exp, log, pi, sqrt
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Generator, Tensor

from ibvonns.compiled import compiled, on_threads
from ibvonns.ensemble import Ensemble
from ibvonns.protocols import pulled_length
from ibvonns.systems.noise import TOGETHER, WIDTH, fresh_key, normals
from ibvonns.validation import choice, count, finite, increasing, positive, require, seeded, shaped, tensor

__all__ = ["VELOCITIES", "Trap", "paper_times", "stable_steps"]

Values = tuple[float, ...]  # one for each condition

#: Pulling velocities of Sec. 3.1, lengths per time: even entries are for training, odd for test.
VELOCITIES = tuple(0.5 * (1 + i / 20) for i in range(21))


def paper_times() -> Tensor:
    """The paper's times: 0 to 3 in steps of 0.01, shape (301,).

    >>> paper_times()[[0, 1, -1]].tolist()
    [0.0, 0.01, 3.0]
    """
    return torch.arange(301, dtype=torch.float64) / 100


def stable_steps(lengths: Tensor, times: Tensor, rate: float) -> Tensor:
    """Steps between the times, at which an explicit integrator is stable, shape (times - 1,).

    Args:
        lengths: of the pull, shape (conditions, times); checked here.
        times: shape (times,), strictly increasing.
        rate: the fastest of the system.

    Raises:
        ValueError: NaN, wrong shape, unsorted times, or a step of 2 / rate and more.
    """
    steps = increasing("times", times).diff()
    shaped("lengths", finite("lengths", lengths), ("conditions", len(times)))
    limit, largest = 2 / rate, float(steps.max())
    sentence = f"below {limit:.4g}, where the integrator is stable, but the largest is {largest:.4g}"
    require(largest < limit, f"times must have steps {sentence}")
    return steps


def _matching(lengths: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    lengths, means = tensor("lengths", lengths), tensor("means", means)
    fits = all(a == b or 1 in (a, b) for a, b in zip(lengths.shape[::-1], means.shape[::-1], strict=False))
    require(fits, f"means must match the shape of lengths, {tuple(lengths.shape)}, but has shape {tuple(means.shape)}")
    return lengths, means


@dataclass(frozen=True)
class Trap:
    """The trap and its exact theory.

    Attributes:
        stiffness: k of each of the two springs, force per length.
        viscosity: eta, force times time per length.
        temperature: kBT, energy.

    Raises:
        ValueError: a stiffness, viscosity or temperature that is not above 0.

    >>> Trap().equilibrium_deviation
    0.07071067811865475
    """

    stiffness: float = 1.0
    viscosity: float = 1.0
    temperature: float = 0.01

    def __post_init__(self) -> None:
        for name in ("stiffness", "viscosity", "temperature"):
            positive(name, getattr(self, name))

    @property
    def rate(self) -> float:
        """Relaxation rate 2 k / eta of the mean, Eq. (20)."""
        return 2 * self.stiffness / self.viscosity

    @property
    def equilibrium_deviation(self) -> float:
        """Standard deviation of the position in equilibrium, sqrt(kBT / 2k)."""
        return sqrt(self.temperature / (2 * self.stiffness))

    def equilibrium_entropy(self) -> float:
        """Entropy of the Gaussian equilibrium law in nats: no decoder has a lower expected NLL.

        >>> round(Trap().equilibrium_entropy(), 3)
        -1.23
        """
        return 0.5 * log(2 * pi * exp(1) * self.equilibrium_deviation**2)

    # --- microscopic -------------------------------------------------------------------------

    def simulate(self, lengths: Tensor, times: Tensor, realisations: int, generator: Generator) -> Ensemble:
        """Euler-Maruyama realisations of Eq. (17) from equilibrium at lambda(0).

        Args:
            lengths: pulled length lambda, shape (conditions, times).
            times: shape (times,), strictly increasing; also the steps of the integrator.
            realisations: how many particles for each condition.
            generator: source of every random number, on the device of `lengths`; the noise has a key from it (`noise`).

        Returns:
            Positions of shape (conditions, times, realisations), with records "pulled_length" and
            "external_force" of shape (conditions, times).

        Raises:
            ValueError: NaN, wrong shape, unsorted times, no realisation, or a time step at which
                the integrator diverges.

        >>> times = torch.tensor([0.0, 0.1], dtype=torch.float64)
        >>> Trap().simulate(times[None], times, 5, torch.Generator().manual_seed(0)).count
        5
        """
        lengths, times = tensor("lengths", lengths), tensor("times", times)
        steps = stable_steps(lengths, times, self.rate)
        # NumPy asks for large pages of memory, which a simulation fills twice as fast
        positions = torch.from_numpy(np.empty((*lengths.shape, count("realisations", realisations))))
        start = lengths.new_empty(len(lengths), realisations).normal_(generator=generator)
        positions[:, 0] = self.equilibrium_deviation * start + lengths[:, :1] / 2
        kicks, drifts = (2 * self.temperature / self.viscosity * steps).sqrt(), self.rate / 2 * steps
        pull, kick, drift = (part.cpu().double().numpy() for part in (lengths, kicks, drifts))
        key, out = fresh_key(generator), positions.numpy()

        def work(c: int) -> None:
            _run(out[c], pull[c], kick, drift, key, c)

        on_threads(work, range(len(out)), torch.get_num_threads())
        positions = positions.to(lengths)
        force = self.stiffness * (lengths - positions.mean(-1))
        return Ensemble(times, positions, {"pulled_length": lengths, "external_force": force})

    def simulate_paper(
        self, protocol: str = "oscillating", velocities: Values = VELOCITIES, realisations: int = 4000, seed: int = 0
    ) -> Ensemble:
        """The paper's data (Sec. 3.1): `simulate` under a named protocol at the paper's times.

        Args:
            protocol: a key of `protocols.PROTOCOLS`.
            velocities: of the pulled end, lengths per time, one for each condition.
            realisations: how many particles for each condition.
            seed: of every random number.

        Raises:
            ValueError: unknown protocol, or no realisation.

        >>> Trap().simulate_paper(realisations=2).realisations.shape
        torch.Size([21, 301, 2])
        """
        times = paper_times()
        lengths = pulled_length(protocol, torch.tensor(velocities, dtype=torch.float64), times)
        return self.simulate(lengths, times, realisations, seeded(seed))

    # --- moments -----------------------------------------------------------------------------

    def mean(self, lengths: Tensor, times: Tensor, *, steps: str = "euler") -> Tensor:
        """Exact mean position mu(t), Eq. (20), from equilibrium at lambda(0).

        Args:
            lengths: pulled length lambda, shape (conditions, times).
            times: shape (times,), strictly increasing.
            steps: "euler", the mean of the simulated, discrete process; or "exact", the continuous
                process under a lambda that is linear between the times.

        Returns:
            Shape (conditions, times), a length.

        Raises:
            ValueError: NaN, wrong shape, unsorted times or unknown steps.

        >>> times = torch.linspace(0, 1, 3, dtype=torch.float64)
        >>> Trap().mean(times[None], times, steps="exact")[0, -1].item()  # t/2 - (1 - exp(-2t))/4
        0.2838338208091532
        """
        choice("steps", steps, ("euler", "exact"))
        times = increasing("times", tensor("times", times))
        lengths = shaped("lengths", tensor("lengths", lengths), ("conditions", len(times)))
        means = [lengths[:, 0] / 2]
        for n, step in enumerate(torch.diff(times).tolist()):
            before, after, mean = lengths[:, n], lengths[:, n + 1], means[-1]
            if steps == "euler":
                means.append(mean + step * self.rate * (before / 2 - mean))
            else:
                # mu follows lambda/2 with a lag slope/rate, to which it relaxes exponentially
                lag = (after - before) / (2 * step * self.rate)
                decay = exp(-self.rate * step)
                means.append(after / 2 - lag + decay * (mean - before / 2 + lag))
        return torch.stack(means, 1)

    def deviation(self, times: Tensor, initial: float | None = None, *, steps: str = "euler") -> Tensor:
        """Exact standard deviation sigma(t), Eq. (21), shape (times,).

        The equation that the paper prints for a "variance" is that of the standard deviation.

        Args:
            times: shape (times,), strictly increasing.
            initial: sigma at the first time; equilibrium if not given.
            steps: "euler" for the discrete process, whose variance tends to
                kBT/2k / (1 - k dt/eta); "exact" for the continuous one.

        Raises:
            ValueError: unsorted times, an initial sigma that is not above 0, or unknown steps.

        >>> Trap().deviation(paper_times(), steps="exact").std().item() < 1e-15
        True
        """
        choice("steps", steps, ("euler", "exact"))
        times = increasing("times", tensor("times", times))
        rest = self.equilibrium_deviation**2
        variances = [rest if initial is None else positive("initial", initial) ** 2]
        for step in torch.diff(times).tolist():
            if steps == "euler":
                noise = 2 * self.temperature / self.viscosity * step
                variances.append(variances[-1] * (1 - self.rate * step) ** 2 + noise)
            else:
                variances.append(rest + (variances[-1] - rest) * exp(-2 * self.rate * step))
        return torch.tensor(variances, dtype=times.dtype, device=times.device).sqrt()

    # --- thermodynamics ----------------------------------------------------------------------

    def free_energy(self, lengths: Tensor, means: Tensor) -> Tensor:
        """f = k (lambda - mu)^2 / 2 + k mu^2 / 2, Eq. (25), an energy.

        Args:
            lengths: lambda, of any shape.
            means: mu, of a shape that matches.

        Raises:
            ValueError: NaN, or shapes that do not match.

        >>> Trap().free_energy(torch.tensor(2.0), torch.tensor(1.0))
        tensor(1.)
        """
        lengths, means = _matching(lengths, means)
        return self.stiffness / 2 * ((lengths - means) ** 2 + means**2)

    def dissipation(self, rates: Tensor) -> Tensor:
        """psi = eta (d mu/dt)^2 / 2, Eq. (26), an energy per time.

        Args:
            rates: d mu/dt, of any shape.

        Raises:
            ValueError: NaN.
        """
        return self.viscosity / 2 * tensor("rates", rates) ** 2

    def dual_dissipation(self, forces: Tensor) -> Tensor:
        """phi = g^2 / (2 eta), the Legendre transform of `dissipation`, Eq. (7).

        An energy per time.

        Args:
            forces: g, which pairs with d mu/dt, of any shape.

        Raises:
            ValueError: NaN.

        >>> trap, rate = Trap(), torch.tensor(3.0)
        >>> force = trap.viscosity * rate
        >>> trap.dual_dissipation(force) + trap.dissipation(rate) - force * rate
        tensor(0.)
        """
        return tensor("forces", forces) ** 2 / (2 * self.viscosity)

    def thermodynamic_force(self, lengths: Tensor, means: Tensor) -> Tensor:
        """g = -df/d mu = k (lambda - 2 mu), a force, Eq. (24).

        Args:
            lengths: lambda, of any shape.
            means: mu, of a shape that matches.

        Raises:
            ValueError: NaN, or shapes that do not match.
        """
        lengths, means = _matching(lengths, means)
        return self.stiffness * (lengths - 2 * means)

    def external_force(self, lengths: Tensor, means: Tensor) -> Tensor:
        """F_ex = df/d lambda = k (lambda - mu), a force, Eq. (23).

        Args:
            lengths: lambda, of any shape.
            means: mu, of a shape that matches.

        Raises:
            ValueError: NaN, or shapes that do not match.
        """
        lengths, means = _matching(lengths, means)
        return self.stiffness * (lengths - means)

    def equilibrium_force(self, lengths: Tensor) -> Tensor:
        """F_ex if the pulled length were held until equilibrium: k lambda / 2, a force.

        Args:
            lengths: lambda, of any shape.

        Raises:
            ValueError: NaN.
        """
        return self.stiffness * tensor("lengths", lengths) / 2


@njit(error_model="numpy")
def _moved(old: Any, noise: Any, pull: float, kick: float, drift: float, new: Any) -> None:
    """A step of Eq. (17)."""
    for j in range(len(old)):
        new[j] = old[j] + drift * (pull - 2 * old[j]) + kick * noise[j]


@compiled(error_model="numpy")
def _run(positions: Any, pull: Any, kick: Any, drift: Any, key: Any, condition: int) -> None:
    """Fill in the positions of a condition, (times, realisations), from the first on."""
    times, realisations = positions.shape
    width = min(WIDTH, realisations)
    noise = np.empty((TOGETHER, width), np.float32)
    for first in range(0, realisations, width):
        part = positions[:, first : first + width]
        some = part.shape[1]
        for n in range(times - 1):
            if n % TOGETHER == 0:
                normals(key, condition, 0, n // TOGETHER, first, noise)
            _moved(part[n], noise[n % TOGETHER, :some], pull[n], kick[n], drift[n], part[n + 1])
