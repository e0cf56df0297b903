"""Training: losses, Eqs. (32)-(34), (51)-(53), growing windows, checkpoints, what stops a run."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import singledispatch
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Generator, Tensor, nn

from ibvonns.chain_model import ChainModel, ChainObservations
from ibvonns.decoders import gaussian_nll
from ibvonns.encoder import GAUGE_EVERY
from ibvonns.ensemble import Density, load_tensors, save_tensors
from ibvonns.model import Observations, TrapModel
from ibvonns.optimiser import SOAP
from ibvonns.rollout import chain_rollout, rollout
from ibvonns.validation import at_least, count, positive

__all__ = [
    "CHAIN_DRAW",
    "CHAIN_RECIPE",
    "CHAIN_START",
    "DENSITY_RECIPE",
    "Phase",
    "Recipe",
    "TrainingError",
    "loss_terms",
    "train",
]


Model = TrapModel | ChainModel


class TrainingError(RuntimeError):
    """A training run that cannot go on; the message names the step, the term and what to try."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        window: Euler steps of each rollout; 0 trains encoder and decoder alone.
        steps: optimiser steps.
        starts: windows drawn at each step, one from each of as many equal stretches of time.
        hold: encoder and decoder stand still, and only the potentials learn.
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

    def draw(self, times: int, seed: int) -> Tensor:
        """First indices of one step's windows in trajectories, shape (starts,).

        Args:
            times: of a trajectory, how many.
            seed: of the draw.

        Raises:
            ValueError: the window does not fit.

        >>> Phase(window=1, steps=1, starts=3).draw(times=301, seed=0).tolist()
        [97, 170, 245]
        """
        if times <= self.window:
            raise ValueError(
                f"window must be below the number of times, {times}, but is {self.window}"
            )
        rng = Generator().manual_seed(seed)
        latest = times - self.window  # one past the last possible start
        place = torch.arange(self.starts) + torch.rand(
            self.starts, generator=rng, dtype=torch.float64
        )
        return (place * latest / self.starts).long().clamp_max(latest - 1)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are the trap's.

    Where it differs from Sec. 3.3, and why (chapter 3 shows each):

    - SOAP in place of Adam: the loss is ill-conditioned, and Adam stalls far above the noise floor.
    - Encoder and decoder first, alone: alpha then means something before it has to move.
    - Windows of one step before those of 0.3 to 3: the sample mean is itself a Markov process. Its
      one-step errors are independent, so that they carry all the information, and they cost one
      evaluation.
    - The force term weighted 100: F_ex is a function of the state with no noise of its own.

    Attributes:
        phases: in their order.
        learning_rate: at its peak. It is constant while the window is 0, if other windows follow,
            then falls to a thousandth as a cosine. It rises anew over 50 steps wherever other
            weights begin to learn: the optimiser first has to see their gradients.
        weights: of the terms of the model's loss, in the order of `terms`; each is dimensionless.
        checkpoint_every: steps between two checkpoints.
        clip: a replica's gradient is shortened to so many times its usual norm, a running mean; or
            None. Where a rollout is about to run away, one draw of windows could undo the rest.
        rescues: how often a replica whose loss or gradient is not finite is put back to where it
            was up to 25 steps before, to go on at half of its rate; after that the run stops.

    Raises:
        ValueError: no phase, a learning rate that is not above 0, a negative weight, or no step
            between checkpoints.
    """

    phases: tuple[Phase, ...] = (
        Phase(0, 150),
        Phase(1, 1000, 30),
        Phase(30, 40, 4),
        Phase(100, 20, 2),
        Phase(300, 10, 1),
    )
    learning_rate: float = 2e-2
    weights: tuple[float, ...] = (0.01, 100.0, 1.0)
    checkpoint_every: int = 200
    clip: float | None = None
    rescues: int = 0

    def __post_init__(self) -> None:
        count("number of phases", len(self.phases))
        count("rescues", self.rescues, 0)
        if self.clip is not None:
            at_least("clip", self.clip, 1.0)
        positive("learning_rate", self.learning_rate)
        count("checkpoint_every", self.checkpoint_every)
        for place, weight in enumerate(self.weights):
            at_least(f"weights[{place}]", weight, 0.0)

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

        >>> Recipe().phase_at(150).window
        1
        """
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        raise ValueError(f"step must be below {self.steps}, the steps of the recipe")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step.

        Args:
            step: counted from 0 over all phases.

        >>> Recipe().rate_at(0), Recipe().rate_at(Recipe().steps - 1) < 1e-4
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

    def key(self) -> str:
        """A text that two recipes share only if they are equal.

        >>> Recipe().key() == Recipe(clip=2.0).key()
        False
        """
        return json.dumps(asdict(self), sort_keys=True)


#: The chain's first recipe: encoder and decoder alone. Some first weights lead to poor minima, and
#: this short training tells them (`chain_studies.train_chain`).
CHAIN_DRAW = Recipe(
    (Phase(0, 150),), learning_rate=3e-2, weights=(1.0, 0.1, 0.0, 0.0, 0.0), checkpoint_every=50
)
#: The chain's second recipe: windows of one step.
CHAIN_START = Recipe(
    (Phase(1, 150, 15, hold=True), Phase(1, 250, 15)),
    weights=(0.5, 0.1, 1.0, 0.3, 30.0),
    clip=3.0,
)
#: The chain's third recipe: longer windows, at first with three recorded times to an Euler step, at
#: a third of the cost, at last with one. Half of the rate ends with larger errors after as many
#: steps.
CHAIN_RECIPE = Recipe(
    (
        Phase(6, 60, 8),
        Phase(20, 60, 4),
        Phase(20, 100, 4, stride=3),
        Phase(50, 300, 2, stride=3),
        Phase(100, 550, 1, stride=3),
        Phase(300, 360, 1),
    ),
    learning_rate=2.6e-2,
    weights=(2.0, 0.6, 5.0, 2.0, 200.0),
    clip=3.0,
    rescues=4,
)
#: Encoder and decoder alone, with nothing else asked of alpha. Lower rates end in poorer minima.
DENSITY_RECIPE = Recipe((Phase(0, 1000),), learning_rate=0.06, weights=(1.0, 0.0, 0.0, 0.0, 0.0))
FREE = 20  # window from which on the chain's end is left to F_ex, in every other step
SAFE_EVERY = 25  # steps between two states to which a replica may be put back
ALONG = 0.06  # share of the rolled-out states in the drive term, beside the recorded ones


@singledispatch
def loss_terms(
    model: nn.Module,
    data: Any,
    window: int,
    starts: Tensor,
    held: Tensor | None = None,
    step: int = 0,
) -> Tensor:
    """The terms of a model's loss, each made dimensionless: (terms, replicas).

    The trap's are those of Eqs. (32) to (34):

    - density, Eq. (32): mean negative log-likelihood in nats, at every tenth time. There the gauge
      is measured, too: at other times from step to step it would jitter by more than the errors
      that are left at the end.
    - force, Eq. (33): mean square error of df/dlambda at the encoded states of the windows, divided
      by the variance of the measured force.
    - internal, Eq. (34): mean square over j = 1..window of alpha_NN(t_j) - alpha(t_j), divided by
      t_j j dt and the square of the rate scale: the relative error of a rate, whatever the window.
      t_j is the time since the window began, dt the record's mean step: where steps are uneven,
      the noise of a rolled-out mean has a variance that grows as the time, not as the steps.

    The chain's are those of Eqs. (51) to (53), and two more:

    - density, Eq. (51): mean negative log-likelihood in nats per strain, at three times spread over
      the record while the rest of the loss is there, at ten before.
    - drift: mean square change of alpha, in its deviation, per unit of strain when a whole ensemble
      is shifted. The strain tells the place of a density, and alpha is for its shape: one that
      follows the place, too, goes astray where a pull turns back.
    - strain, Eq. (52), in windows below 20 steps (`FREE`) by the particles' positions, whose
      noise is independent from one to the next: mean square of the rolled-out position less the
      recorded one after j = 1..window steps, divided by t_j dt (j dt^2 where steps are even) and
      the square of the velocity scale. The noise of j steps adds up to a variance that grows as
      t_j, so that each j counts alike. In longer windows what is left is the law's own error: there
      the strains are compared, and t_j is half the window throughout.
    - internal, Eq. (53): the same for alpha, with the rate of strain in units of its deviation, at
      15 times of a long window.
    - drive: mean square of the v_n that F_ex drives at the recorded states of these times, less the
      recorded v_n, over the square of the velocity scale. A relation between records with no noise
      of its own: it is what makes F_ex follow from v_n later, and what keeps the end from drifting
      where F_ex pulls it. Where a long window moves the end as recorded, 0.06 (`ALONG`) times the
      same at the rolled-out states, which is the error of the F_ex that they predict.

    F_ex is as recorded. The end moves as recorded or, in every other step with windows of 20 or
    more, as F_ex drives it: the error that this feeds back must be trained, too.

    Args:
        model: a `TrapModel` or a `ChainModel`, with its scales set.
        data: `Observations` for the one, `ChainObservations` for the other.
        window: Euler steps of each rollout, or 0 for the terms of the encoder and decoder.
        starts: index of each window's first time, shape (starts,), the same for every trajectory.
        held: alpha at all times, as `model.standardised(data)` gave it, if encoder and decoder
            stand still; the density term is then 0.
        step: of the optimiser; a chain's loss takes other rows and another end from step to step.

    Raises:
        TypeError: a model of another kind.

    >>> from ibvonns.model import observe
    >>> from ibvonns.systems.trap import Trap
    >>> model, data = TrapModel([0, 1]), observe(Trap().simulate_paper(realisations=10))
    >>> model.set_scales(data)
    >>> loss_terms(model, data, 0, torch.tensor([0])).shape
    torch.Size([3, 2])
    """
    raise TypeError(f"model must be a TrapModel or a ChainModel, but is a {type(model).__name__}")


def _mean_step(times: Tensor) -> Tensor:
    return (times[-1] - times[0]) / (len(times) - 1)


@loss_terms.register
def _(
    model: TrapModel,
    data: Observations,
    window: int,
    starts: Tensor,
    held: Tensor | None = None,
    step: int = 0,
) -> Tensor:
    """The trap's terms; `loss_terms` says what they are."""
    times = starts[:, None] + torch.arange(window + 1, device=starts.device)
    gauged = torch.arange(0, len(data.times), GAUGE_EVERY, device=starts.device)
    if held is None:
        wanted, place = torch.unique(torch.cat([gauged, times.flatten()]), return_inverse=True)
        alpha = model.standardised(data, wanted)
        mean, deviation = model.decoder(alpha[:, :, place[: len(gauged)]].flatten(1, 2))
        sampled = data.mean[:, gauged].flatten(), data.variance[:, gauged].flatten()
        nll = gaussian_nll(mean, deviation, *sampled).mean(-1)
        target = alpha[:, :, place[len(gauged) :]].unflatten(2, times.shape)
    else:
        target, nll = held[:, :, times], held.new_zeros(len(held))
    if window == 0 or not torch.isfinite(nll).all():  # `train` then says which seed
        return torch.stack([nll, 0 * nll, 0 * nll])
    controls = data.controls[:, times]  # (conditions, starts, window + 1)
    force = model.external_force(controls[..., 1:].flatten(1), target[..., 1:, :].flatten(2, 3))
    error = force - data.external_force[:, times[:, 1:]].flatten(1)
    force_term = error.square().mean((1, 2)) / data.external_force.var()
    clock = (data.times[times] - data.times[starts, None]).repeat(len(data.mean), 1)
    initial = target[..., 0, :].flatten(1, 2)
    path = rollout(model.potentials, controls.flatten(0, 1), initial, clock, "single")
    even = _mean_step(data.times) * torch.arange(1, window + 1).to(clock)
    missed = (path - target.flatten(1, 2))[:, :, 1:].square() / (clock[:, 1:] * even)[..., None]
    internal_term = missed.mean((1, 2, 3)) / model.potentials.rate_scale**2
    return torch.stack([nll, force_term, internal_term])


@loss_terms.register
def _(
    model: ChainModel,
    data: ChainObservations,
    window: int,
    starts: Tensor,
    held: Tensor | None = None,
    step: int = 0,
) -> Tensor:
    """The chain's terms; `loss_terms` says what they are."""
    times = starts[:, None] + torch.arange(window + 1, device=starts.device)
    # alpha's error changes little from one step of a long window to the next
    seen = torch.arange(0, window + 1, max(1, window // 15), device=starts.device)
    visited = times[:, seen]
    if held is None:
        every = max(1, len(data.times) // (3 if window else 10))
        # 7 has no factor in common with 30, 33 or 100: in as many steps each row has its turn
        some = torch.arange(7 * step % every, len(data.times), every, device=starts.device)
        wanted, place = torch.unique(torch.cat([some, visited.flatten()]), return_inverse=True)
        alpha = model.standardised(data, wanted)
        rows = Density(data.density.grid, data.density.weights[:, some])
        of_rows = alpha[:, :, place[: len(some)]].flatten(1, 3)
        nll = model.nll(rows, data.mean[:, some].flatten(), of_rows)
        drift = model.drift(rows)
        if window == 0:
            return torch.stack([nll, drift, *[0 * nll] * 3])
        inner = alpha[:, :, place[len(some) :]].unflatten(2, visited.shape).flatten(1, 2)
    else:
        inner, nll = held[:, :, visited].flatten(1, 2), held.new_zeros(len(held))
        drift = nll
    strain, force, velocity = (
        part[:, times].flatten(0, 1) for part in (data.mean, data.external_force, data.velocity)
    )
    law, steps = model.potentials, data.times[times].diff().repeat(len(data.mean), 1)
    free = window >= FREE and step % 2 > 0
    moves = None if free else velocity[:, 1:]
    strains, states, ends = chain_rollout(
        law, strain[:, 0], inner[:, :, 0], force[:, :-1], moves, steps, "single"
    )
    missed, astray = strains - strain[:, 1:], states[:, :, seen[1:] - 1] - inner[:, :, 1:]
    clock = (steps.cumsum(1) * _mean_step(data.times)).sqrt()  # of each trajectory
    if window < FREE:
        missed = missed.cumsum(-1)[..., :-1]
    else:
        clock = clock[:, -1:].expand_as(clock) / math.sqrt(2)
    missed = data.natural_length / law.velocity_scale * missed / clock[..., None]
    unit = law.velocity_scale / data.natural_length / law.strain_scale[1]
    astray = astray / clock[:, seen[1:] - 1, None, None] / unit
    pulled = [part[:, visited].flatten(0, 2) for part in (data.mean, data.external_force)]
    _, _, at_records = chain_rollout(
        *(law, pulled[0], inner.flatten(1, 2), pulled[1][:, None], None, steps[0, :1], "single")
    )
    driven = (at_records[..., 0] - data.velocity[:, visited].flatten()) / law.velocity_scale
    drive = driven.square().mean(1)
    if window >= FREE and not free:
        astray_ends = (ends - velocity[:, :-1]) / law.velocity_scale
        drive = drive + ALONG * astray_ends.square().mean((1, 2))
    return torch.stack(
        [
            nll,
            drift,
            missed.square().mean((1, 2, 3)),
            astray.square().sum((1, 2, 3, 4)) / max(1, astray[0].numel()),
            drive,
        ]
    )


@contextmanager
def _progress(total: int, done: int, label: str) -> Iterator[Progress]:
    """A bar on standard error or in a notebook; IBVONNS_PROGRESS=off hides it, files get none."""
    console = Console(stderr=True)
    shown = os.environ.get("IBVONNS_PROGRESS", "on") != "off"
    shown = shown and (console.is_terminal or console.is_jupyter)
    with Progress(console=console, transient=True, disable=not shown) as bar:
        bar.add_task(label, total=total, completed=done)
        yield bar


def _fingerprint(model: Model, data: Observations | ChainObservations, recipe: Recipe) -> str:
    """Identifies a run: recipe, seeds, architecture and data."""
    shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
    digest = hashlib.sha256(f"{recipe.key()} {model.seeds} {shapes}".encode())
    for field in fields(data):
        part = getattr(data, field.name)
        tensors = (part.grid, part.weights) if isinstance(part, Density) else (part,)
        for tensor in tensors:
            digest.update(torch.as_tensor(tensor, dtype=torch.float64).cpu().numpy().tobytes())
    return digest.hexdigest()


def _check(values: Tensor, step: int, name: str, model: Model, left: Tensor) -> None:
    """Stop if one of the values, one for each seed, is not finite and no rescue is left to it."""
    good = (torch.isfinite(values) | (left > 0)).tolist()
    if not all(good):
        bad = [seed for seed, fine in zip(model.seeds, good, strict=True) if not fine]
        raise TrainingError(
            f"step {step}: the {name} of seeds {bad} is not finite; try a lower learning rate, and "
            "look for NaN or a constant record in the data"
        )


def _clipped(
    gradients: Sequence[Tensor], usual: Tensor, clip: float
) -> tuple[list[Tensor], Tensor]:
    """Gradients of each replica no longer than `clip` times the usual norm, and that norm anew."""
    norm = torch.stack([part.square().sum((1, 2)) for part in gradients]).sum(0).sqrt()
    first = usual == 0
    kept = torch.where(first, norm, 0.98 * usual + 0.02 * torch.minimum(norm, 5 * usual))
    share = (clip * kept / norm.clamp_min(1e-300)).clamp_max(1.0)[:, None, None]
    return [part * share for part in gradients], kept


def train(
    model: Model,
    data: Observations | ChainObservations,
    recipe: Recipe | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Tensor:
    """Train every replica of a model in place, then freeze its gauge.

    Args:
        model: fresh from its seeds.
        data: the training observations.
        recipe: `Recipe()` if not given; a chain's must be named, as its third alone learns little.
        checkpoint: a file written every `recipe.checkpoint_every` steps. If it exists, training
            goes on from it and ends with the very numbers of a run that was never interrupted.

    Returns:
        The loss terms at every tenth step, shape (records, terms, replicas).

    Raises:
        TrainingError: a loss term or a gradient became NaN or infinite; the last good checkpoint is
            kept.
        ValueError: the checkpoint is damaged, or belongs to another run; the recipe has another
            number of weights than the loss has terms, or is not named for a chain.
        TypeError: the data are another system's.

    >>> from ibvonns.model import observe
    >>> from ibvonns.systems.trap import Trap
    >>> data = observe(Trap().simulate_paper(realisations=10))
    >>> train(TrapModel([0, 1]), data, Recipe((Phase(0, 11),))).shape  # steps 0 and 10
    torch.Size([2, 3, 2])
    """
    if recipe is None and isinstance(model, ChainModel):
        raise ValueError(
            "recipe must be named for a chain, whose training has three: use "
            "chain_studies.train_chain for all of them"
        )
    recipe = recipe or Recipe()
    if len(recipe.weights) != len(model.terms):
        raise ValueError(
            f"weights must number {len(model.terms)}, one for each of {', '.join(model.terms)}, "
            f"but number {len(recipe.weights)}"
        )
    if not isinstance(data, model.observes):
        raise TypeError(f"data must be {model.observes.__name__}, but is {type(data).__name__}")
    model.set_scales(data)  # type: ignore[arg-type]  # the lines above
    parameters = list(model.parameters())
    optimiser = SOAP(parameters)
    fingerprint = _fingerprint(model, data, recipe)
    history: list[Tensor] = []
    first = 0
    usual = torch.zeros(len(model.seeds), dtype=data.mean.dtype, device=data.mean.device)
    left = torch.full_like(usual, recipe.rescues)
    if checkpoint is not None and Path(checkpoint).exists():
        tensors, metadata = load_tensors(checkpoint)
        if metadata.get("run") != fingerprint:
            raise ValueError(
                "checkpoint must belong to this recipe, seeds and data, but "
                f"{os.fspath(checkpoint)!r} is of another run: remove it or name another file"
            )
        model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
        optimiser.restore({name: tensors[f"optimiser.{name}"] for name in optimiser.tensors()})
        history = list(tensors["history"])
        first = int(tensors["step"])
        usual, left = tensors["usual"], tensors["left"]
    held: Tensor | None = None
    safe: tuple[list[Tensor], dict[str, Tensor]] | None = None
    strides = {phase.stride for phase in recipe.phases}
    thinned: dict[int, Any] = {stride: data.every(stride) for stride in strides}
    weights = torch.tensor(recipe.weights, dtype=data.mean.dtype, device=data.mean.device)
    label = f"Training {len(model.seeds)} seeds"
    with torch.enable_grad(), _progress(recipe.steps, first, label) as bar:
        for step in range(first, recipe.steps):
            phase = recipe.phase_at(step)
            seen = thinned[phase.stride]
            # each step draws from its own generator, so that a resumed run draws the same
            starts = phase.draw(len(seen.times), step).to(data.mean.device)
            if not phase.hold:
                held = None
            elif held is None:
                held = model.standardised(seen).detach()
            terms = loss_terms(model, seen, phase.window, starts, held, step)
            for name, term in zip(model.terms, terms, strict=True):
                _check(term, step, f"{name} term", model, left)
            loss = (weights[:, None] * terms).sum()
            gradients = list(torch.autograd.grad(loss, parameters, materialize_grads=True))
            slopes = torch.stack([gradient.sum((1, 2)) for gradient in gradients]).sum(0)
            _check(slopes, step, "gradient", model, left)
            lost = ~(torch.isfinite(terms).all(0) & torch.isfinite(slopes))
            if bool(lost.any()):
                gradients = [part.masked_fill(lost[:, None, None], 0.0) for part in gradients]
                left = left - lost.to(left.dtype)
            elif recipe.rescues and (step % SAFE_EVERY == 0 or step % recipe.checkpoint_every == 0):
                safe = [part.detach().clone() for part in parameters], optimiser.copied()
            if recipe.clip is not None:
                gradients, usual = _clipped(gradients, usual, recipe.clip)
            shares = 0.5 ** (recipe.rescues - left) if recipe.rescues else None
            optimiser.step(gradients, recipe.rate_at(step), shares)
            if bool(lost.any()) and safe is not None:
                optimiser.put_back(safe[1], lost)
                for part, before in zip(parameters, safe[0], strict=True):
                    part.data[lost] = before[lost]
            if step % 10 == 0:
                history.append(torch.where(lost, history[-1] if history else terms, terms).detach())
            bar.update(bar.task_ids[0], advance=1)
            if checkpoint is not None and (step + 1) % recipe.checkpoint_every == 0:
                extra = {"history": torch.stack(history), "usual": usual, "left": left}
                _save_checkpoint(checkpoint, model, optimiser, extra, step + 1, fingerprint)
    model.freeze(data)  # type: ignore[arg-type]
    return torch.stack(history)


def _save_checkpoint(
    path: str | os.PathLike[str],
    model: Model,
    optimiser: SOAP,
    extra: dict[str, Tensor],
    step: int,
    fingerprint: str,
) -> None:
    tensors = {
        **{f"model.{name}": value for name, value in model.state_dict().items()},
        **{f"optimiser.{name}": value for name, value in optimiser.tensors().items()},
        **extra,
        "step": torch.tensor(step),
    }
    save_tensors(path, tensors, {"run": fingerprint})
