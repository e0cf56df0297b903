"""Training: every replica of a model at once, with checkpoints, and what stops a run."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ibvonns.files import load_tensors, save_tensors
from ibvonns.losses import TERMS, loss_terms
from ibvonns.model import Model
from ibvonns.observations import Observations
from ibvonns.optimiser import SOAP
from ibvonns.recipe import Recipe, Stage
from ibvonns.validation import require

__all__ = ["History", "TrainingError", "run_of", "train"]

_log = logging.getLogger(__name__)
#: Terms of the loss at every tenth step by name, (records, replicas); NaN where one was not asked.
History = dict[str, Tensor]
SAFE_EVERY = 25  # steps between two states to which a replica may be put back


class TrainingError(RuntimeError):
    """A training run that cannot go on; the message names the step, the term and what to try."""


@contextmanager
def _progress(total: int, done: int, label: str) -> Iterator[Progress]:
    """A bar on standard error or in a notebook; IBVONNS_PROGRESS=off hides it, files get none."""
    console = Console(stderr=True)
    shown = os.environ.get("IBVONNS_PROGRESS") != "off" and (console.is_terminal or console.is_jupyter)
    with Progress(console=console, transient=True, disable=not shown) as bar:
        bar.add_task(label, total=total, completed=done)
        yield bar


def run_of(model: Model, data: Observations, recipe: Recipe) -> str:
    """A digest that identifies a run: of recipe, seeds, architecture and data.

    Args:
        model: that is trained.
        data: the training observations.
        recipe: of the training.
    """
    digest = hashlib.sha256(f"{recipe} {model.seeds} {model.architecture}".encode())
    moves = [] if data.moves is None else [data.moves.states, *data.moves._known]
    for part in [*vars(data).values(), *vars(data.cloud).values(), *moves]:
        if isinstance(part, Tensor):
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _clipped(gradients: Sequence[Tensor], usual: Tensor, clip: float) -> list[Tensor]:
    """Gradients of each replica no longer than `clip` times the usual norm, which follows them."""
    norm = torch.stack([part.square().sum((1, 2)) for part in gradients]).sum(0).sqrt()
    usual.copy_(torch.where(usual == 0, norm, 0.98 * usual + 0.02 * torch.minimum(norm, 5 * usual)))
    share = (clip * usual / norm.clamp_min(1e-300)).clamp_max(1.0)[:, None, None]
    return [part * share for part in gradients]


def train(
    model: Model,
    data: Observations,
    recipe: Recipe | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    optimiser: Callable[[list[Tensor]], Any] = SOAP,
    first: int = 0,
) -> History:
    """Train every replica of a model in place through all stages, then freeze its gauge.

    Args:
        model: fresh from its seeds.
        data: the training observations.
        recipe: that of `Recipe.of` for the model's layout if not given.
        checkpoint: a file written every `recipe.checkpoint_every` steps. If it exists, training
            goes on from it and ends with the very numbers of a run that was never interrupted.
        optimiser: makes one from the weights, with the `step` and the `state` of `optimiser.SOAP`; it
            is made anew for each stage.
        first: stage with which training begins, counted from 0: those before have been run.

    Returns:
        The terms of the loss at every tenth step of all stages by name, (records, replicas), NaN
        where a term was not asked, or of a replica that has been given up (`Stage.rescues`).

    Raises:
        TrainingError: a loss term or a gradient became NaN or infinite in a stage without rescues;
            the last good checkpoint is kept.
        ValueError: the checkpoint is damaged, or belongs to another run; or data of another layout.

    >>> from ibvonns.layouts import Point
    >>> from ibvonns.model import Architecture
    >>> from ibvonns.observations import observe
    >>> from ibvonns.recipe import Phase
    >>> from ibvonns.systems.trap import Trap
    >>> data = observe(Trap().simulate_paper(realisations=10), "pulled_length", points=65)
    >>> short = Recipe((Stage((Phase(0, 11),), {"density": 1.0}),))
    >>> history = train(Model([0, 1], Architecture(Point(), decoder="gaussian")), data, short)
    >>> history["density"].shape  # steps 0 and 10
    torch.Size([2, 2])
    """
    recipe = recipe or Recipe.of(model.law.layout, model.architecture.gas)
    model.set_scales(data)
    for phase in (phase for stage in recipe.stages[first:] for phase in stage.phases):
        phase.draw((len(data.times) - 1) // phase.stride + 1, [0], 0)  # refuses a window that does not fit
    data = replace(data, cloud=model.encoder.averaged(data.cloud), blocks={}).coarser(recipe.coarse)
    run = run_of(model, data, recipe) if checkpoint is not None else ""
    begun: dict[str, Tensor] = {}
    if checkpoint is not None and Path(checkpoint).exists():
        what = f"checkpoint must belong to this recipe, seeds and data, but {os.fspath(checkpoint)!r} is"
        try:
            begun, metadata = load_tensors(checkpoint)
        except ValueError as error:
            raise ValueError(f"{what} damaged: remove it or name another file ({error})") from None
        require(metadata.get("run") == run, f"{what} of another run: remove it or name another file")
    steps = [stage.steps if number >= first else 0 for number, stage in enumerate(recipe.stages)]
    names = [name for name in TERMS if any(name in stage.weights for stage in recipe.stages)]
    records = sum(-(-stage.steps // 10) for stage in recipe.stages)
    history = {name: torch.full((records, len(model.seeds)), torch.nan, dtype=torch.float64) for name in names}
    kept = {f"history.{name}": part for name, part in history.items()}
    with (
        torch.enable_grad(),
        _progress(sum(steps), int(begun.get("done", 0)), f"Training {len(model.seeds)} seeds") as bar,
    ):
        for number, stage in enumerate(recipe.stages):
            done, begin = sum(steps[:number]), sum(-(-one.steps // 10) for one in recipe.stages[:number])
            ended = int(begun.get("done", 0)) >= done + stage.steps and stage is not recipe.stages[-1]
            if number < first or ended:
                continue
            own, since = _Run(model, data, recipe, stage, optimiser), int(begun.get("done", done)) - done
            if begun:
                whole = (own.live | kept).keys() <= begun.keys()
                require(whole, f"{what} of another run: it lacks what this optimiser remembers")
                # a stage begins with an optimiser of its own: what the last one remembered is not for it
                mine = {name: part for name, part in own.live.items() if since or name.startswith("model.")}
                for name, part in (mine | kept).items():
                    part.copy_(begun[name])
                own.safe, begun = own.copied(), {}
            for step in range(since, stage.steps):
                terms = own.advance(step)
                if step % 10 == 0:
                    row = begin + step // 10
                    for name, term in terms.items():  # a replica that was put back keeps what it had
                        seen = torch.where(own.good, term.detach(), history[name][row - 1])
                        history[name][row] = seen.masked_fill(own.left < 0, torch.nan)
                bar.update(bar.task_ids[0], advance=1)
                whole = all(bool(part.isfinite().all()) for part in own.parameters)
                if checkpoint is not None and whole and (step + 1) % recipe.checkpoint_every == 0:
                    parts = {**own.live, **kept, "done": torch.tensor(done + step + 1)}
                    try:
                        save_tensors(checkpoint, parts, {"run": run})
                    except OSError as error:  # weeks of training are worth more than a file
                        _log.warning("step %d: training goes on, but its checkpoint cannot be kept: %s", step, error)
    model.freeze(data)
    return history


class _Run:
    """One stage of a training: the optimiser and what is remembered from step to step."""

    def __init__(
        self, model: Model, data: Observations, recipe: Recipe, stage: Stage, optimiser: Callable[[list[Tensor]], Any]
    ):
        self.model, self.recipe, self.stage = model, recipe, stage
        self.parameters = list(model.parameters())
        self.optimiser = optimiser(self.parameters)  # type: ignore[arg-type]
        self.thinned = {phase.stride: data.every(phase.stride) for phase in stage.phases}
        self.usual = torch.zeros(len(model.seeds), dtype=data.mean.dtype, device=data.mean.device)
        self.left = torch.full_like(self.usual, stage.rescues)  # rescues of each replica; -1 where it is given up
        self.good = self.usual == 0
        self.held: Tensor | None = None
        parts = {"model": model.state_dict(), "optimiser": self.optimiser.state}
        # everything that the next step depends on, changed in place
        self.live = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
        self.live |= {"usual": self.usual, "left": self.left}
        self.safe = self.copied()

    def copied(self) -> dict[str, Tensor]:
        """A copy of `live`, to which a replica may be put back."""
        return {name: part.clone() for name, part in self.live.items()}

    def advance(self, step: int) -> dict[str, Tensor]:
        """One step of the optimiser; the terms of the loss before it."""
        model, stage = self.model, self.stage
        phase = stage.phase_at(step)
        seen = self.thinned[phase.stride]
        starts = phase.draw(len(seen.times), model.seeds, step)
        if not phase.hold:
            self.held = None
        elif self.held is None:
            self.held = model.encoder.standardised(seen)[0].detach()
        terms = loss_terms(model, seen, phase.window, starts, self.recipe.look, self.held, step, stage.weights)
        for name, term in terms.items():
            self._check(term, step, f"{name} term")
        weighted = [stage.weights[name] * term for name, term in terms.items()]
        loss = torch.stack(weighted).sum()
        gradients = list(torch.autograd.grad(loss, self.parameters, materialize_grads=True))
        slopes = torch.stack([gradient.sum((1, 2)) for gradient in gradients]).sum(0)
        self._check(slopes, step, "gradient")
        self.good = torch.isfinite(torch.stack([*weighted, slopes])).all(0)
        lost, whole = ~self.good, bool(self.good.all())
        if not whole:
            gradients = [part.masked_fill(lost[:, None, None], 0.0) for part in gradients]
            self.left.sub_(lost.to(self.left.dtype)).clamp_min_(-1)
        elif stage.rescues and (step % SAFE_EVERY == 0 or step % self.recipe.checkpoint_every == 0):
            self.safe = self.copied()
        if stage.clip is not None:
            gradients = _clipped(gradients, self.usual, stage.clip)
        shares = (0.5 ** (stage.rescues - self.left)).masked_fill(self.left < 0, 0.0) if stage.rescues else None
        self.optimiser.step(gradients, stage.rate_at(step), shares)
        for name, part in self.live.items() if not whole else ():
            if part.ndim > 2:  # what a replica owns has its axis third from the last
                part[..., lost, :, :] = self.safe[name][..., lost, :, :]
        return terms

    def _check(self, values: Tensor, step: int, name: str) -> None:
        """Stop a stage without rescues where a value of a seed is not finite."""
        bad = [seed for seed, good in zip(self.model.seeds, values.isfinite().tolist(), strict=True) if not good]
        if bad and not self.stage.rescues:
            raise TrainingError(
                f"step {step}: the {name} of seeds {bad} is not finite; try a lower learning rate, and "
                "look for NaN or a constant record in the data"
            )
