"""Recipes: all that decides how a model is trained."""

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Generator, Tensor

from ibvonns.layouts import Layout
from ibvonns.losses import TERMS, Sampling
from ibvonns.validation import choice, count, positive, require

__all__ = ["Phase", "Recipe", "Stage"]


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        window: Euler steps of each rollout; 0 trains encoder and decoder alone.
        steps: optimiser steps.
        starts: windows drawn at each step, one from each of as many equal stretches of time.
        hold: encoder and decoder stand still, and only the law learns.
        stride: recorded times to an Euler step. Above 1 a window costs less, and its law is that of
            a coarser step: good enough to begin with.

    Raises:
        ValueError: a number below 0, or no step, start or stride.
    """

    window: int
    steps: int
    starts: int = 30
    hold: bool = False
    stride: int = 1

    def __post_init__(self) -> None:
        count("window", self.window, 0)
        for name in ("steps", "starts", "stride"):
            count(name, getattr(self, name))

    def draw(self, times: int, seeds: Sequence[int], step: int) -> Tensor:
        """First indices of one step's windows, each seed's own: (seeds, starts).

        They depend on nothing but the seed and the step: a seed that is trained alone sees the same
        windows as among others, and so does a run that is resumed.

        Args:
            times: of a trajectory, how many.
            seeds: of the replicas.
            step: of the optimiser.

        Raises:
            ValueError: the window does not fit.

        >>> Phase(window=1, steps=1, starts=3).draw(times=301, seeds=[0], step=0).tolist()
        [[97, 170, 245]]
        """
        latest = times - self.window  # one past the last possible start
        require(latest > 0, f"window must be below the number of times, {times}, but is {self.window}")
        rngs = [Generator().manual_seed(seed * 1_000_003 + step) for seed in seeds]
        share = torch.stack([torch.rand(self.starts, generator=rng, dtype=torch.float64) for rng in rngs])
        place = (share + torch.arange(self.starts)) * latest / self.starts
        return place.long().clamp_max(latest - 1)


@dataclass(frozen=True)
class Stage:
    """Phases that share an optimiser, a learning rate and the weights of the terms.

    Attributes:
        phases: in their order.
        weights: of the terms of the loss by name (`losses.TERMS`); a term without one is not asked.
        learning_rate: at its peak. It is constant while the window is 0, if other windows follow,
            then falls to a thousandth as a cosine. It rises anew over 50 steps wherever other
            weights begin to learn: the optimiser first has to see their gradients.
        clip: a replica's gradient is shortened to so many times its usual norm, a running mean; or
            None. Where a rollout is about to run away, one draw of windows could undo the rest.
        rescues: how often a replica whose loss or gradient is not finite is put back to where it
            was up to 25 steps before, to go on at half of its rate. After that it is given up: it
            rests, and its terms are NaN. With 0 the first such loss stops the run.

    Raises:
        ValueError: no phase, a learning rate that is not above 0, an unknown term or a negative
            weight.
    """

    phases: tuple[Phase, ...]
    weights: Mapping[str, float]
    learning_rate: float = 2e-2
    clip: float | None = None
    rescues: int = 0

    def __post_init__(self) -> None:
        count("number of phases", len(self.phases))
        count("rescues", self.rescues, 0)
        if self.clip is not None:
            positive("clip", self.clip, least=1.0)
        positive("learning_rate", self.learning_rate)
        for name, weight in self.weights.items():
            positive(f"weights[{choice('term', name, TERMS)!r}]", weight, least=0.0)

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """The phase to which a step belongs.

        Args:
            step: counted from 0 over all phases.

        Raises:
            ValueError: a step beyond the last.
        """
        require(step < self.steps, f"step must be below {self.steps}, the steps of the stage, but is {step}")
        return self.phases[bisect([*accumulate(phase.steps for phase in self.phases)], step)]

    def rate_at(self, step: int) -> float:
        """Learning rate of a step.

        Args:
            step: counted from 0 over all phases.

        >>> stage = Stage((Phase(0, 10), Phase(1, 90)), {})
        >>> stage.rate_at(0), stage.rate_at(99) < 1e-4
        (0.02, True)
        """
        alone = sum(phase.steps for phase in self.phases if phase.window == 0)
        alone = 0 if alone == self.steps else alone
        if step < alone:
            return self.learning_rate
        since = begin = alone
        held = None
        for phase in self.phases:  # where the stretch of phases that hold, or do not, began
            if (phase.window or not alone) and begin <= step:
                since = since if phase.hold == held else begin
                held = phase.hold
                begin += phase.steps
        done = (step - alone) / (self.steps - alone)
        rise = min(1.0, (step - since + 1) / 50)
        return self.learning_rate * rise * (1e-3 + (1 + math.cos(math.pi * done)) / 2)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: its stages, where the losses look, and when a seed is sound.

    `Recipe.of` has those of the book. Where that of a point differs from the paper's Sec. 3.3, and
    why (chapter 5 shows each):

    - SOAP in place of Adam: the loss is ill-conditioned, and Adam stalls far above the noise floor.
    - Encoder and decoder first, alone: alpha then means something before it has to move.
    - Windows of one step before those of 0.3 to 3: the sample mean is itself a Markov process. Its
      one-step errors are independent, so that they carry all the information, and they cost one
      evaluation.
    - The end term weighted 100: F_ex is a function of the state with no noise of its own.

    Attributes:
        stages: in their order.
        look: where the losses look.
        candidates: draws of a seed's first weights of which the best after the first stage goes on.
        attempts: how often a seed is trained before the run is given up; with 0 every seed is taken
            as it comes.
        sound: largest error of a sound seed on its training data, in units of the sampling noise.
        astray: how many times further than the median distance a seed may lie from the median of all
            on pulls that none has seen (`fit.astray`).
        coarse: points of the observed grid to one of the grid that training sees.
        checkpoint_every: steps between two checkpoints.

    Raises:
        ValueError: no stage, or a number out of range.
    """

    stages: tuple[Stage, ...]
    look: Sampling = field(default_factory=Sampling)
    candidates: int = 1
    attempts: int = 2
    sound: float = 3.0
    astray: float = 6.0
    coarse: int = 4
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("candidates", "coarse", "checkpoint_every"):
            count(name, getattr(self, name))
        count("number of stages", len(self.stages))
        count("attempts", self.attempts, 0)
        positive("sound", self.sound)
        positive("astray", self.astray)

    @classmethod
    def of(cls, layout: Layout, gas: float | None = None) -> "Recipe":
        """The book's recipe: the trap's at a point, the chain's on sites with bonds, that of a gas.

        A chain's first stage trains encoder and decoder alone: some first weights lead to poor
        minima, and this short training tells them. Then windows of one step; then longer ones, at
        first with three recorded times to an Euler step, at a third of the cost, at last with one.

        Args:
            layout: of the sites.
            gas: kBT of a lattice gas; None for any other system.

        >>> from ibvonns.layouts import Point, Row
        >>> [len(Recipe.of(layout).stages) for layout in (Point(), Row())]
        [1, 3]
        """
        return GAS if gas is not None else POINT if layout.directions == 0 else BONDS


# fmt: off
POINT = Recipe(
    (Stage((Phase(0, 150), Phase(1, 1000), Phase(30, 40, 4), Phase(100, 20, 2), Phase(300, 10, 1)),
           {"density": 0.01, "internal": 1.0, "end": 100.0}),),
    # all states of a window count; the gauge is measured on the density's times anyway
    Sampling(fixed=10, compared=1_000_000, asked=1, free=1_000_000, power=2),
    attempts=3, sound=1.75, coarse=8,
)
BONDS = Recipe(
    (  # lower rates end in poorer minima
        Stage((Phase(0, 150),), {"density": 1.0, "shift": 0.06}, learning_rate=3e-2),
        Stage((Phase(1, 150, 15, hold=True), Phase(1, 250, 15)),
              {"density": 0.5, "shift": 0.06, "field": 1.0, "internal": 0.3, "end": 30.0}, clip=3.0),
        # half of the rate ends with larger errors after as many steps
        Stage((Phase(6, 60, 8), Phase(20, 60, 4), Phase(20, 100, 4, stride=3), Phase(50, 300, 2, stride=3),
               Phase(100, 550, 1, stride=3), Phase(300, 360, 1)),
              {"density": 2.0, "shift": 0.36, "field": 5.0, "internal": 2.0, "end": 200.0},
              learning_rate=2.6e-2, clip=3.0, rescues=4),
    ),
    Sampling(share=2),  # as good as 1 (eight seeds of the mixture); 3 adds a twentieth to errors of F_ex (flow)
    candidates=4,
)
GAS = Recipe((Stage((Phase(0, 700),), {"drift": 1.0, "fluctuation": 1.0}, learning_rate=4e-2),), coarse=1)
# fmt: on
