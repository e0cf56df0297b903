"""Laws to compare with: no internal variable, and no potentials; `stiv` has a third.

All are trained on the same data by the same recipe (`chain_studies.train_chain`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ibvonns.chain_model import ChainModel
from ibvonns.chain_studies import chain_data, train_chain
from ibvonns.networks import MLP, softplus
from ibvonns.studies import cached
from ibvonns.validation import choice, count, positive, shaped

__all__ = ["BASELINES", "NeuralLaw", "trained_baseline"]

#: Potentials of the strain alone, and plain networks for rates.
BASELINES = ("strain-only", "neural-ode")
SEEDS = 3


class NeuralLaw(nn.Module):
    """Rates of strain and alpha by plain networks of the state: no energy, no dissipation.

    The velocity of a particle and the rate of alpha follow from the states of the springs on either
    side of it; for the pulled end from its spring's state and, as an affine function with a slope
    above 0, from F_ex, so that F_ex can be had from v_n. Nothing else is asked of them: there is no
    second law.

    It stands where `onsager.ChainPotentials` stands, with the same scales and end conditions.

    Args:
        rngs: one generator for each replica.
        natural_length: L0.
        hidden: widths of the hidden layers; these make it as large as the potentials.
        internal: number of internal variables of a spring.

    Raises:
        ValueError: no generator, a width below 1, or an L0 that is not above 0.

    >>> from ibvonns.networks import generators
    >>> law, strain = NeuralLaw(generators([0])), torch.ones(1, 1, 10, dtype=torch.float64)
    >>> alpha, pull = 0 * strain[..., None], torch.ones(1, 1, dtype=torch.float64)
    >>> _, _, v_n = law.force_given(strain, alpha, pull)
    >>> _, _, force = law.velocity_given(strain, alpha, v_n)
    >>> bool((force - pull).abs().max() < 1e-12)
    True
    """

    strain_scale: Tensor
    force_scale: Tensor
    velocity_scale: Tensor

    def __init__(
        self,
        rngs: Sequence[Generator],
        natural_length: float = 0.01,
        hidden: Sequence[int] = (34, 34),
        internal: int = 1,
    ):
        super().__init__()
        self.natural_length = positive("natural_length", natural_length)
        self.internal = count("internal", internal, 0)
        each = 1 + internal
        self.between = MLP(rngs, (2 * each, *hidden, each))
        self.end = MLP(rngs, (each, *hidden, 2 * each))  # offsets and slopes in F_ex
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
            ValueError: a scale of force or velocity that is not above 0.
        """
        self.strain_scale.copy_(torch.tensor(strain))
        self.force_scale.fill_(positive("force_scale", force_scale))
        self.velocity_scale.fill_(positive("velocity_scale", velocity_scale))

    def _parts(self, strain: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled rates (v, alpha) of all springs but the last; offsets and slopes of the last."""
        axes = ("replicas", "trajectories", "springs")
        shaped("alpha", alpha, (*axes, self.internal))
        shaped("strain", strain, alpha.shape[:-1])
        mean, deviation = self.strain_scale
        state = torch.cat([((strain - mean) / deviation)[..., None], alpha], -1)
        pairs = torch.cat([state[:, :, :-1], state[:, :, 1:]], -1)
        between = self.between(pairs.flatten(1, 2)).unflatten(1, pairs.shape[1:3])
        offset, slope = self.end(state[:, :, -1]).chunk(2, -1)
        first = softplus(slope[..., :1] + 2)  # of v_n: above 0
        return between, offset, torch.cat([first, slope[..., 1:]], -1)

    def _rates(self, between: Tensor, last: Tensor, moved: Tensor | None) -> Any:
        """Rates of strain and alpha in their units, and v_n, which may be prescribed."""
        rates = torch.cat([between, last[:, :, None]], 2)
        v = self.velocity_scale * rates[..., 0]
        own = v[..., -1]
        if moved is not None:
            v = torch.cat([v[..., :-1], moved.expand(own.shape)[..., None]], -1)
        wall = torch.zeros_like(v[..., :1])
        stretch = torch.cat([wall, v], -1).diff(dim=-1) / self.natural_length
        unit = self.velocity_scale / self.natural_length / self.strain_scale[1]
        return stretch, unit * rates[..., 1:], own

    def force_given(
        self, strain: Tensor, alpha: Tensor, external_force: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rates of strain and of alpha, and v_n, when F_ex is known.

        Args:
            strain: shape (replicas, trajectories, springs).
            alpha: with one more axis, internal.
            external_force: F_ex, shape (trajectories,) or (replicas, trajectories).

        Returns:
            As `onsager.ChainPotentials.force_given`.

        Raises:
            ValueError: wrong shape.
        """
        between, offset, slope = self._parts(strain, alpha)
        pull = (external_force / self.force_scale).expand(offset.shape[:2])[..., None]
        return self._rates(between, offset + slope * pull, None)

    def both_given(
        self, strain: Tensor, alpha: Tensor, external_force: Tensor, velocity: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rates of strain and of alpha, and the law's own v_n, when both are recorded.

        Args:
            strain: shape (replicas, trajectories, springs).
            alpha: with one more axis, internal.
            external_force: F_ex, shape (trajectories,) or (replicas, trajectories).
            velocity: v_n, same shape.

        Returns:
            As `onsager.ChainPotentials.both_given`.

        Raises:
            ValueError: wrong shape.
        """
        between, offset, slope = self._parts(strain, alpha)
        pull = (external_force / self.force_scale).expand(offset.shape[:2])[..., None]
        return self._rates(between, offset + slope * pull, velocity)

    def velocity_given(
        self, strain: Tensor, alpha: Tensor, velocity: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rates of strain and of alpha, and F_ex, when v_n is known.

        Args:
            strain: shape (replicas, trajectories, springs).
            alpha: with one more axis, internal.
            velocity: v_n, shape (trajectories,) or (replicas, trajectories).

        Returns:
            As `onsager.ChainPotentials.velocity_given`.

        Raises:
            ValueError: wrong shape.
        """
        between, offset, slope = self._parts(strain, alpha)
        wanted = (velocity / self.velocity_scale).expand(offset.shape[:2])
        pull = (wanted - offset[..., 0]) / slope[..., 0]
        last = offset + slope * pull[..., None]
        stretch, change, _ = self._rates(between, last, velocity)
        return stretch, change, self.force_scale * pull


def trained_baseline(kind: str, seeds: int = SEEDS) -> ChainModel:
    """A baseline with a flow for a decoder, trained on the chain's data by the chain's recipe.

    From the cache, if this very code has trained it before. A seed is taken as it comes: whether
    its rollouts are sound is for the scores to tell.

    Args:
        kind: "strain-only" (potentials of the strain alone) or "neural-ode" (`NeuralLaw`).
        seeds: how many, from 0.

    Raises:
        ValueError: another kind, or no seed.
    """
    differs: Any = {"internal": 0} if choice("kind", kind, BASELINES) == "strain-only" else {}
    differs |= {"law": NeuralLaw} if kind == "neural-ode" else {}
    numbers = range(count("seeds", seeds))

    def compute() -> dict[str, Any]:
        ensemble = chain_data()["train"]
        trained, *_ = train_chain(ensemble, numbers, "chain-cnf", attempts=0, **differs)
        return {name: value.tolist() for name, value in trained.state_dict().items()}

    weights = cached("chain-baseline", [kind, seeds], compute, Path(__file__))
    model = ChainModel(numbers, "flow", **differs)
    model.load_state_dict(
        {
            name: torch.tensor(weights[name], dtype=value.dtype).view_as(value)
            for name, value in model.state_dict().items()
        }
    )
    return model
