"""IB-VONNs for the trap: encoder, decoder and potentials, tied to observations (Sec. 2.4)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ibvonns.decoders import GaussianDecoder
from ibvonns.encoder import Encoder
from ibvonns.ensemble import Density, Ensemble, load_tensors, save_tensors
from ibvonns.networks import generators
from ibvonns.onsager import Potentials
from ibvonns.rollout import rollout
from ibvonns.validation import count, finite, increasing, shaped

__all__ = ["Observations", "TrapModel", "observe"]


@dataclass(frozen=True)
class Observations:
    """What training may see of an ensemble: its records, its moments and its compressed density.

    Attributes:
        times: shape (times,).
        controls: the state variable chi, here the pulled length, shape (conditions, times).
        external_force: measured F_ex, shape (conditions, times).
        mean: of the positions, shape (conditions, times).
        variance: of the positions, the biased one, shape (conditions, times).
        density: positions compressed to a grid, rows (conditions, times).

    Raises:
        ValueError: NaN, wrong shape, unsorted times or a variance that is not above 0.
    """

    times: Tensor
    controls: Tensor
    external_force: Tensor
    mean: Tensor
    variance: Tensor
    density: Density

    def __post_init__(self) -> None:
        increasing("times", self.times)
        shaped("controls", finite("controls", self.controls), ("conditions", len(self.times)))
        for name in ("external_force", "mean", "variance"):
            values = getattr(self, name)
            shaped(name, finite(name, values), tuple(self.controls.shape))
        if not bool((self.variance > 0).all()):
            raise ValueError(
                f"variance must be above 0, but its smallest is {float(self.variance.min()):g}"
            )
        shaped("density", self.density.weights, (*self.controls.shape, "grid"))

    def every(self, stride: int) -> "Observations":
        """The same at every so many times.

        Args:
            stride: from one time to the next.

        Raises:
            ValueError: a stride below 1.
        """
        if count("stride", stride) == 1:
            return self
        some = slice(None, None, stride)
        return Observations(
            self.times[some],
            self.controls[:, some],
            self.external_force[:, some],
            self.mean[:, some],
            self.variance[:, some],
            Density(self.density.grid, self.density.weights[:, some]),
        )


def observe(ensemble: Ensemble, points: int = 256, grid: Tensor | None = None) -> Observations:
    """Compress an ensemble of the trap to what training needs, once and for all.

    Args:
        ensemble: with the records "pulled_length" and "external_force".
        points: size of the position grid; `Density` states the error, which falls as its square.
        grid: the positions themselves, if given: such as several ensembles share.

    Raises:
        ValueError: a record is missing, or a realisation lies outside of the grid.

    >>> from ibvonns.systems.trap import Trap
    >>> seen = observe(Trap().simulate_paper(realisations=100))
    >>> seen.controls.shape, seen.density.weights.shape
    (torch.Size([21, 301]), torch.Size([21, 301, 256]))
    """
    for name in ("pulled_length", "external_force"):
        if name not in ensemble.records:
            raise ValueError(
                f"ensemble must hold the record {name!r}, but holds {sorted(ensemble.records)}"
            )
    if grid is None:
        low, high = ensemble.realisations.min(), ensemble.realisations.max()
        # a margin of 1 %, so that rounding leaves no realisation outside
        unit = torch.linspace(-0.01, 1.01, count("points", points, 2), dtype=torch.float64).to(low)
        grid = low + (high - low) * unit
    return Observations(
        ensemble.times,
        ensemble.records["pulled_length"],
        ensemble.records["external_force"],
        ensemble.mean(),
        ensemble.realisations.var(-1, unbiased=False),
        ensemble.density(grid),
    )


class TrapModel(nn.Module):
    """Encoder, Gaussian decoder and potentials of Sec. 3.3, one replica for each seed.

    Args:
        seeds: one for each replica; they draw the initial weights and nothing else.
        internal: number of internal variables.

    Raises:
        ValueError: no seed, one below 0, or no internal variable.

    >>> model = TrapModel([0, 1])
    >>> sum(weight[0].numel() for weight in model.parameters())  # of one replica
    3256
    """

    observes = Observations
    terms = ("density", "force", "internal")  # of the loss, in the order of a recipe's weights

    def __init__(self, seeds: Sequence[int], internal: int = 1):
        super().__init__()
        self.seeds, self.internal = list(seeds), count("internal", internal)
        rngs = generators(self.seeds)
        self.encoder = Encoder(rngs, internal=internal)
        self.decoder = GaussianDecoder(rngs, internal=internal)
        self.potentials = Potentials(rngs, internal=internal)

    def set_scales(self, data: Observations) -> None:
        """Take the scales of Eqs. (30), (31) from the training `data`."""
        centre = data.mean.mean()
        deviation = (data.variance + (data.mean - centre) ** 2).mean().sqrt()
        for module in (self.encoder, self.decoder):
            module.position.copy_(torch.stack([centre, deviation]))
        controls, step = data.controls, torch.diff(data.times)
        rate = torch.diff(data.mean, dim=1) / step / data.mean.std()
        self.potentials.set_scales(
            control=(float(controls.mean()), float(controls.std())),
            energy_scale=float(data.external_force.std() * controls.std()),
            # weighted by time: many short steps must not count as many rates
            rate_scale=float(((rate.square() * step).mean() / step.mean()).sqrt()),
        )

    def standardised(self, data: Observations, times: Tensor | None = None) -> Tensor:
        """alpha of the training data by `Encoder.standardised`.

        Args:
            data: the training observations.
            times: indices of the wanted times; all if not given.

        Returns:
            Shape (replicas, conditions, times, internal).
        """
        return self.encoder.standardised(data.density, data.mean, times)

    @torch.no_grad()
    def freeze(self, data: Observations) -> None:
        """Store the gauge of alpha and the zero of f, which is at the mean initial state.

        Args:
            data: the training observations.
        """
        self.encoder.freeze(data.density, data.mean)
        start = self.encode(data)[:, :, 0].mean(1, keepdim=True)
        self.potentials.set_reference(data.controls[:, 0].mean(), start)

    def encode(self, data: Observations) -> Tensor:
        """alpha of Eq. (4) in the frozen gauge, shape (replicas, conditions, times, internal).

        Args:
            data: any observations.
        """
        return self.encoder(data.density).unflatten(1, data.mean.shape)

    def external_force(self, controls: Tensor, alpha: Tensor) -> Tensor:
        """F_ex = df/dchi along trajectories, a force, Eq. (23): (replicas, conditions, times).

        Args:
            controls: pulled length, shape (conditions, times).
            alpha: shape (replicas, conditions, times, internal).
        """
        chi = controls.flatten()[:, None]
        force = self.potentials.forces(chi, alpha.flatten(1, 2))[0]
        return force[..., 0].unflatten(1, controls.shape)

    def predict(self, controls: Tensor, initial: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Roll alpha out from its initial value and read F_ex off, Eqs. (23), (28), (29).

        Args:
            controls: pulled length, shape (conditions, times).
            initial: alpha at the first time, shape (replicas, conditions, internal).
            times: shape (times,), strictly increasing.

        Returns:
            alpha, shape (replicas, conditions, times, internal), and F_ex without the last axis.

        Raises:
            ValueError: NaN, wrong shape or unsorted times.
        """
        shaped("controls", finite("controls", controls), ("conditions", len(times)))
        shaped("initial", finite("initial", initial), (len(self.seeds), len(controls), "internal"))
        alpha = rollout(self.potentials, controls, initial, times)
        return alpha, self.external_force(controls, alpha)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, gauge and scales to a safetensors file `path`, whole or not at all."""
        seeds = ",".join(str(seed) for seed in self.seeds)
        metadata = {"kind": "ibvonns.TrapModel", "seeds": seeds, "internal": str(self.internal)}
        save_tensors(path, self.state_dict(), metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TrapModel":
        """Read a model that `save` wrote to `path`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or holds something else.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("kind") != "ibvonns.TrapModel":
            raise ValueError(
                f"path must name a saved TrapModel, but {os.fspath(path)!r} holds none"
            )
        seeds = [int(seed) for seed in metadata["seeds"].split(",")]
        model = cls(seeds, int(metadata.get("internal", "1")))
        model.load_state_dict(tensors)
        return model
