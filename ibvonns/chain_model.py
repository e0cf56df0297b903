"""IB-VONNs for the chain: encoder, decoder and potentials, tied to observations (Sec. 4)."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ibvonns.decoders import FlowDecoder, MixtureDecoder
from ibvonns.encoder import Encoder
from ibvonns.ensemble import Density, Ensemble, load_tensors, save_tensors
from ibvonns.networks import generators
from ibvonns.onsager import ChainPotentials
from ibvonns.rollout import chain_rollout
from ibvonns.validation import choice, count, finite, increasing, positive, shaped

__all__ = ["DECODERS", "ChainModel", "ChainObservations", "observe_chain"]

DECODERS = ("mixture", "flow")  #: The decoders of Sec. 4.3 and of Sec. 4.4.
AXES = ("replicas", "conditions", "springs")
SHIFT = 0.05  # in strain, of `ChainModel.drift`


@dataclass(frozen=True)
class ChainObservations:
    """What training may see of the chain's ensemble: records, mean strains, compressed densities.

    Attributes:
        times: shape (times,).
        velocity: of the last particle, shape (conditions, times).
        external_force: measured F_ex, shape (conditions, times).
        mean: mean strain, shape (conditions, times, springs).
        density: strains compressed to a grid, rows (conditions, times, springs).
        natural_length: L0.

    Raises:
        ValueError: NaN, wrong shape or unsorted times.
    """

    times: Tensor
    velocity: Tensor
    external_force: Tensor
    mean: Tensor
    density: Density
    natural_length: float

    def __post_init__(self) -> None:
        increasing("times", self.times)
        positive("natural_length", self.natural_length)
        axes = ("conditions", len(self.times))
        shaped("velocity", finite("velocity", self.velocity), axes)
        front = tuple(self.velocity.shape)
        shaped("external_force", finite("external_force", self.external_force), front)
        shaped("mean", finite("mean", self.mean), (*front, "springs"))
        shaped("density", self.density.weights, (*self.mean.shape, "grid"))

    def every(self, stride: int) -> "ChainObservations":
        """The same at every so many times; v_n is the mean over the time since the one before.

        Args:
            stride: from one time to the next.

        Raises:
            ValueError: a stride below 1, or one that leaves a single time.
        """
        if count("stride", stride) == 1:
            return self
        steps = (len(self.times) - 1) // stride
        some = slice(1, steps * stride + 1)
        moved = (self.velocity * self.times.diff(prepend=self.times[:1]))[:, some]
        elapsed = self.times[::stride].diff()
        between = moved.unflatten(1, (steps, stride)).sum(2) / elapsed
        return ChainObservations(
            self.times[::stride],
            torch.cat([self.velocity[:, :1], between], 1),
            self.external_force[:, ::stride],
            self.mean[:, ::stride],
            Density(self.density.grid, self.density.weights[:, ::stride]),
            self.natural_length,
        )


def observe_chain(
    ensemble: Ensemble,
    natural_length: float = 0.01,
    points: int = 160,
    grid: Tensor | None = None,
) -> ChainObservations:
    """Compress an ensemble of the chain to what training needs, once and for all.

    Args:
        ensemble: with the records "velocity" and "external_force".
        natural_length: L0 of the chain; the paper's if not given.
        points: size of the grid of strains; `Density` states the error.
        grid: the strains themselves, if given: such as several ensembles share.

    Raises:
        ValueError: a record is missing, or a realisation lies outside of the grid.

    >>> from ibvonns.systems.chain import Chain
    >>> seen = observe_chain(Chain().simulate_paper(lengths=(0.2,), realisations=10))
    >>> seen.velocity.shape, seen.density.weights.shape
    (torch.Size([1, 301]), torch.Size([1, 301, 10, 160]))
    """
    for name in ("velocity", "external_force"):
        if name not in ensemble.records:
            raise ValueError(
                f"ensemble must hold the record {name!r}, but holds {sorted(ensemble.records)}"
            )
    if grid is None:
        low, high = ensemble.realisations.min(), ensemble.realisations.max()
        unit = torch.linspace(-0.01, 1.01, count("points", points, 2), dtype=torch.float64)
        grid = low + (high - low) * unit
    return ChainObservations(
        ensemble.times,
        ensemble.records["velocity"],
        ensemble.records["external_force"],
        ensemble.mean(),
        ensemble.density(grid),
        natural_length,
    )


class ChainModel(nn.Module):
    """Encoder, decoder and potentials of Secs. 4.3 and 4.4, one replica for each seed.

    Args:
        seeds: one for each replica; they draw the initial weights and nothing else.
        decoder: "mixture", Eq. (54), or "flow".
        sigmoids: d of the flow.
        internal: number of internal variables of a spring; with 0, for a flow, strain alone is the
            state, and the encoder stands idle.
        law: what makes the law from generators, `natural_length` and `internal`; another for a
            comparison.
        natural_length: L0 of the chain.
        well_strain: eps_h of the chain, for a mixture.

    Raises:
        ValueError: no seed, an unknown decoder, no sigmoid, a mixture with no internal variable, or
            an L0 or eps_h that is not above 0.

    >>> sum(weight[0].numel() for weight in ChainModel([0], "flow").parameters())
    3417
    """

    observes = ChainObservations
    terms = ("density", "drift", "strain", "internal", "drive")  # of the loss, as its weights

    def __init__(
        self,
        seeds: Sequence[int],
        decoder: str = "mixture",
        sigmoids: int = 2,
        internal: int = 1,
        law: Callable[..., Any] = ChainPotentials,
        natural_length: float = 0.01,
        well_strain: float = 2.0,
    ):
        super().__init__()
        self.natural_length = positive("natural_length", natural_length)
        self.well_strain = positive("well_strain", well_strain)
        self.seeds, self.sigmoids = list(seeds), count("sigmoids", sigmoids)
        self.internal = count("internal", internal, 0)
        rngs = generators(self.seeds)
        # alpha vanishes where no spring is strained
        self.encoder = Encoder(rngs, internal=max(1, internal), reference=0.0)
        self.decoder: MixtureDecoder | FlowDecoder
        if choice("decoder", decoder, DECODERS) == "mixture":
            self.decoder = MixtureDecoder(rngs, well_strain, internal=internal)
        else:
            self.decoder = FlowDecoder(rngs, sigmoids, internal=internal)
        self.potentials: ChainPotentials = law(
            rngs, natural_length=natural_length, internal=internal
        )

    def set_scales(self, data: ChainObservations) -> None:
        """Take the scales, f* of Eq. (55) among them, from the training `data`.

        Raises:
            ValueError: the data are of a chain with another natural length.
        """
        if data.natural_length != self.natural_length:
            raise ValueError(
                f"data must be of a chain with the model's natural_length, {self.natural_length}, "
                f"but theirs is {data.natural_length}"
            )
        grid = data.density.grid
        moments = data.density.expectation(torch.stack([grid, grid**2], 1)).mean(0)
        position = torch.stack([moments[0], (moments[1] - moments[0] ** 2).sqrt()])
        for module in (self.encoder, self.decoder):
            module.position.copy_(position)
        moved, steps = data.natural_length * data.mean.cumsum(-1).diff(dim=1), data.times.diff()
        self.potentials.set_scales(
            (float(data.mean.mean()), float(data.mean.std())),
            float(data.external_force.std()),
            # the squares of moved / steps, weighted by time
            float(((moved.square() / steps[:, None]).mean() / steps.mean()).sqrt()),
        )

    def standardised(self, data: ChainObservations, times: Tensor | None = None) -> Tensor:
        """alpha of the training data by `Encoder.standardised`.

        Args:
            data: the training observations.
            times: indices of the wanted times; all if not given.

        Returns:
            Shape (replicas, conditions, times, springs, internal).
        """
        return self.encoder.standardised(data.density, data.mean, times)[..., : self.internal]

    def drift(self, rows: Density) -> Tensor:
        """Mean square change of alpha, in its deviation over these rows, per unit of strain.

        By how much alpha follows a shift of a whole ensemble, which the strain already tells.

        Args:
            rows: compressed ensembles.

        Returns:
            Shape (replicas,).
        """
        spread = self.encoder.raw(rows).var(1, unbiased=False, keepdim=True)
        return (self.encoder.drift(rows, SHIFT).square() / spread).mean((1, 2))

    def freeze(self, data: ChainObservations) -> None:
        """Store the gauge of alpha, as the training `data` have it."""
        self.encoder.freeze(data.density, data.mean)

    def encode(self, data: ChainObservations) -> Tensor:
        """alpha of Eq. (4) in the frozen gauge.

        Args:
            data: any observations.

        Returns:
            Shape (replicas, conditions, times, springs, internal).
        """
        alpha: Tensor = self.encoder(data.density)
        return alpha.unflatten(1, data.mean.shape)[..., : self.internal]

    def nll(self, density: Density, strain: Tensor, alpha: Tensor) -> Tensor:
        """Mean negative log-likelihood of each replica, Eq. (51), in nats per strain: (replicas,).

        Args:
            density: compressed strains; all its leading axes count as rows.
            strain: mean strain of these rows, shape (rows,).
            alpha: of these rows, shape (replicas, rows, internal).
        """
        weights = density.weights.flatten(0, -2)
        return self.decoder.nll(density.grid, weights, strain, alpha).mean(-1)

    def predict(
        self,
        strain: Tensor,
        alpha: Tensor,
        times: Tensor,
        known: Tensor,
        boundary: str,
        backend: str = "fast",
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Roll the chain out from its first state by Euler's method, Eqs. (44) to (50).

        v_n is recorded as a backward difference: the step from time j moves the end at entry j + 1,
        so that the total strain is the prescribed one. F_ex of entry j belongs to the state at j.

        Args:
            strain: at the first time, shape (conditions, springs) or with replicas in front.
            alpha: at the first time, shape (replicas, conditions, springs, internal).
            times: shape (times,), strictly increasing.
            known: F_ex or v_n, shape (conditions, times), as recorded.
            boundary: "force" or "velocity", which of the two is known.
            backend: as for `chain_rollout`.

        Returns:
            strain (replicas, conditions, times, springs), alpha with one more axis, and the other
            of F_ex and v_n, (replicas, conditions, times).

        Raises:
            ValueError: NaN, wrong shape, unsorted times or an unknown boundary.
        """
        increasing("times", times)
        choice("boundary", boundary, ("force", "velocity"))
        shaped("alpha", finite("alpha", alpha), (*AXES, self.internal))
        shaped("strain", finite("strain", strain), ("...", *alpha.shape[1:3]))
        shaped("known", finite("known", known), (alpha.shape[1], len(times)))
        law, steps, first = self.potentials, torch.diff(times), strain.expand(alpha.shape[:3])

        def rolled(strain: Tensor, alpha: Tensor, given: Tensor, steps: Tensor) -> Any:
            force, moves = (given, None) if boundary == "force" else (None, given)
            return chain_rollout(law, strain, alpha, force, moves, steps, backend)

        driven = known[:, :-1] if boundary == "force" else known[:, 1:]
        path, inner, _ = rolled(first, alpha, driven, steps)
        path = torch.cat([first[:, :, None], path], 2)
        inner = torch.cat([alpha[:, :, None], inner], 2)
        # at every state, with what is known there; where its step would lead is of no interest
        states = path.flatten(1, 2), inner.flatten(1, 2)
        _, _, other = rolled(*states, known.flatten()[:, None], times[:1].new_ones(1))
        return path, inner, other.reshape(len(other), *known.shape)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, gauge and scales to a safetensors file `path`, whole or not at all.

        Raises:
            ValueError: a law other than potentials, which `load` would not know.
        """
        if type(self.potentials) is not ChainPotentials:
            raise ValueError(f"law must be potentials to be saved, but is {type(self.potentials)}")
        metadata = {
            "kind": "ibvonns.ChainModel",
            "seeds": ",".join(str(seed) for seed in self.seeds),
            "decoder": "flow" if isinstance(self.decoder, FlowDecoder) else "mixture",
            "sigmoids": str(self.sigmoids),
            "internal": str(self.internal),
            "natural_length": repr(self.natural_length),
            "well_strain": repr(self.well_strain),
        }
        save_tensors(path, self.state_dict(), metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ChainModel":
        """Read a model that `save` wrote to `path`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or holds something else.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("kind") != "ibvonns.ChainModel":
            raise ValueError(
                f"path must name a saved ChainModel, but {os.fspath(path)!r} holds none"
            )
        seeds = [int(seed) for seed in metadata["seeds"].split(",")]
        sizes = int(metadata["sigmoids"]), int(metadata["internal"])
        model = cls(
            seeds,
            metadata["decoder"],
            *sizes,
            natural_length=float(
                metadata.get("natural_length", "0.01")
            ),  # older files: the paper's
            well_strain=float(metadata.get("well_strain", "2.0")),
        )
        model.load_state_dict(tensors)
        return model
