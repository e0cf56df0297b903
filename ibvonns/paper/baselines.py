"""Laws to compare with: no internal variable, and no potentials; `stiv` has a third.

All are trained on the same data by the same recipe as the chain with a flow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from ibvonns.adjoint import LOOPS
from ibvonns.cache import cached
from ibvonns.law import Scales
from ibvonns.layouts import Layout, bonds_of
from ibvonns.model import LAWS, Model
from ibvonns.networks import MLP, softplus
from ibvonns.paper.rates import PLAIN
from ibvonns.paper.studies import STUDIES
from ibvonns.seeds import fitted
from ibvonns.validation import choice, count

__all__ = ["BASELINES", "NeuralLaw", "trained_baseline"]

#: By name in what an architecture differs from ours: potentials of the strain alone, plain rates.
BASELINES: Mapping[str, Mapping[str, Any]] = {"strain-only": {"internal": 0}, "neural-ode": {"law": "rates"}}


class NeuralLaw(Scales):
    """Velocities of the bonds and rates of alpha by plain networks of the states: a neural ODE.

    They follow from the state of a site and of those ahead of it; at a driven end from its site's
    state and, as an affine function with a slope above 0, from F_ex, so that F_ex can be had from
    v_n; at a point from its state, and so does F_ex. It stands where `law.Law` stands, with the
    same units and end conditions.

    Args:
        rngs: one generator for each replica.
        layout: of the sites.
        spacing: as for `Scales`.
        internal: number of internal variables of a site.
        hidden: widths of the hidden layers; these make it as large as the potentials.

    Raises:
        ValueError: no generator, a width below 1, or as `Scales`.

    >>> from ibvonns.layouts import Row
    >>> from ibvonns.networks import generators
    >>> law, z = NeuralLaw(generators([0]), Row()), torch.ones(1, 1, 10, 2, dtype=torch.float64)
    >>> pull = torch.ones(1, 1, dtype=torch.float64)
    >>> _, v_n = law.step(z, force=pull)
    >>> bool((law.step(z, velocity=v_n[..., 0])[1] - pull).abs().max() < 1e-12)
    True
    """

    def __init__(
        self,
        rngs: Sequence[Generator],
        layout: Layout,
        spacing: float = 1.0,
        internal: int = 1,
        hidden: Sequence[int] = (34, 34),
    ):
        super().__init__(layout, spacing, internal)
        width, out = layout.fields + internal, layout.directions + internal
        self.between = MLP(rngs, ((1 + layout.directions) * width, *hidden, out))
        if layout.ends:  # of a driven end offsets and slopes in F_ex; of a point F_ex
            self.end = MLP(rngs, (width, *hidden, 2 * out if layout.driven else layout.ends))

    def step(self, z: Tensor, force: Tensor | None = None, velocity: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """dz/dt, and what an end answers, as `law.Law.step`.

        Args:
            z: shape (replicas, trajectories, sites, fields + internal).
            force: F_ex, shape (replicas, trajectories) or (trajectories,).
            velocity: v_n, same shapes.

        Raises:
            ValueError: a driven end of which nothing is known.
        """
        layout, state = self.layout, self.scaled(z)
        head, _ = bonds_of(layout, z.shape[2])
        if layout.driven:
            head = head[:, :-1]
        here = state[:, :, : head.shape[1]]
        ahead = [state[:, :, bond] for bond in head.to(z.device)]
        pairs = torch.cat([here, *ahead], -1)
        rates = self.between(pairs.flatten(1, 2)).unflatten(1, pairs.shape[1:3])
        answer: Tensor | None = None
        if layout.driven:
            offset, slope = self.end(state[:, :, -1]).chunk(2, -1)
            slope = torch.cat([softplus(slope[..., :1] + 2), slope[..., 1:]], -1)  # v_n rises
            if force is not None:
                pull = (force / self.force[-1]).expand(z.shape[:2])
            elif velocity is not None:
                pull = ((velocity / self.rate).expand(z.shape[:2]) - offset[..., 0]) / slope[..., 0]
                answer = (self.force[-1] * pull)[..., None]
            else:
                raise ValueError("force and velocity must not both be None at a driven end")
            last = offset + slope * pull[..., None]
            rates = torch.cat([rates, last[:, :, None]], 2)
        elif layout.ends:
            answer = self.force * self.end(state[:, :, 0])
        v, inner = rates.tensor_split([layout.directions], -1)
        velocity = None if velocity is None else velocity.expand(z.shape[:2])
        change, own = self.changed(self.rate * v, self.clock * inner, velocity)
        return change, (own if layout.driven else own[..., :0]) if answer is None else answer


LAWS["rates"] = NeuralLaw
LOOPS[NeuralLaw] = PLAIN


def trained_baseline(kind: str, seeds: int = 3) -> Model:
    """A baseline with a flow for a decoder, trained on the chain's data by the chain's recipe.

    From the cache, if this very code has trained it before. A seed is taken as it comes: whether
    its rollouts are sound is for the scores to tell.

    Args:
        kind: "strain-only" (potentials of the strain alone) or "neural-ode" (`NeuralLaw`).
        seeds: how many, from 0.

    Raises:
        ValueError: another kind, or no seed.
    """
    study = STUDIES["chain-cnf"]
    architecture = replace(study.architecture, **BASELINES[choice("kind", kind, BASELINES)])
    recipe = replace(study.recipe, attempts=0)
    numbers = range(count("seeds", seeds))

    def compute() -> dict[str, Any]:
        return fitted(architecture, study.observed("train"), numbers, recipe).model.exported()

    parts = [study.drawn, architecture, recipe, seeds]
    return Model.restored(cached(f"baseline-{kind}", parts, compute, Path(__file__)))
