"""Training: every replica of a model at once, with checkpoints, and what stops a run."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ibvonns.files import load_tensors, save_tensors
from ibvonns.losses import loss_terms
from ibvonns.model import Model
from ibvonns.observations import Observations
from ibvonns.optimiser import SOAP
from ibvonns.recipe import Recipe, Stage

__all__ = ["History", "Optimiser", "TrainingError", "train"]

#: Terms of the loss at every tenth step by name, (records, replicas); NaN where one was not asked.
History = dict[str, Tensor]
SAFE_EVERY = 25  # steps between two states to which a replica may be put back


class TrainingError(RuntimeError):
    """A training run that cannot go on; the message names the step, the term and what to try."""


class Optimiser(Protocol):
    """What training needs of an optimiser; `optimiser.SOAP` is one and says what each method does."""

    def step(self, gradients: Sequence[Tensor], learning_rate: float, shares: Tensor | None = None) -> None: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None: ...

    def copied(self) -> dict[str, Tensor]: ...

    def put_back(self, tensors: Mapping[str, Tensor], replicas: Tensor) -> None: ...


@contextmanager
def _progress(total: int, done: int, label: str) -> Iterator[Progress]:
    """A bar on standard error or in a notebook; IBVONNS_PROGRESS=off hides it, files get none."""
    console = Console(stderr=True)
    shown = os.environ.get("IBVONNS_PROGRESS", "on") != "off"
    shown = shown and (console.is_terminal or console.is_jupyter)
    with Progress(console=console, transient=True, disable=not shown) as bar:
        bar.add_task(label, total=total, completed=done)
        yield bar


def _fingerprint(model: Model, data: Observations, recipe: Recipe) -> str:
    """Identifies a run: recipe, seeds, architecture and data."""
    digest = hashlib.sha256(f"{recipe.key()} {model.seeds} {model.architecture}".encode())
    parts = (data.times, data.field, data.mean, data.variance, data.force, data.velocity)
    cloud = vars(data.cloud).values()
    for tensor in (*parts, *cloud):
        if tensor is not None:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
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


def _clipped(gradients: Sequence[Tensor], usual: Tensor, clip: float) -> tuple[list[Tensor], Tensor]:
    """Gradients of each replica no longer than `clip` times the usual norm, and that norm anew."""
    norm = torch.stack([part.square().sum((1, 2)) for part in gradients]).sum(0).sqrt()
    first = usual == 0
    kept = torch.where(first, norm, 0.98 * usual + 0.02 * torch.minimum(norm, 5 * usual))
    share = (clip * kept / norm.clamp_min(1e-300)).clamp_max(1.0)[:, None, None]
    return [part * share for part in gradients], kept


def train(
    model: Model,
    data: Observations,
    recipe: Recipe | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    optimiser: Callable[[list[Tensor]], Optimiser] = SOAP,
    first: int = 0,
) -> History:
    """Train every replica of a model in place through all stages, then freeze its gauge.

    Args:
        model: fresh from its seeds.
        data: the training observations.
        recipe: that of `Recipe.of` for the model's layout if not given.
        checkpoint: a file written every `recipe.checkpoint_every` steps. If it exists, training
            goes on from it and ends with the very numbers of a run that was never interrupted.
        optimiser: makes one from the weights; it is made anew for each stage.
        first: stage with which training begins, counted from 0: those before have been run.

    Returns:
        The terms of the loss at every tenth step.

    Raises:
        TrainingError: a loss term or a gradient became NaN or infinite; the last good checkpoint is
            kept.
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
    recipe = recipe or Recipe.of(model.law.layout)
    data = data.coarser(recipe.coarse)
    model.set_scales(data)
    run = _fingerprint(model, data, recipe) if checkpoint is not None else ""
    history: list[dict[str, Tensor]] = []
    begun: dict[str, Tensor] = {}
    if checkpoint is not None and Path(checkpoint).exists():
        begun, metadata = load_tensors(checkpoint)
        if metadata.get("run") != run:
            raise ValueError(
                "checkpoint must belong to this recipe, seeds and data, but "
                f"{os.fspath(checkpoint)!r} is of another run: remove it or name another file"
            )
        model.load_state_dict({name: begun[f"model.{name}"] for name in model.state_dict()})
        history = _unstacked(begun)
        first = int(begun["stage"])
    total = sum(stage.steps for stage in recipe.stages[first:])
    done = int(begun.get("step", torch.tensor(0)))
    with torch.enable_grad(), _progress(total, done, f"Training {len(model.seeds)} seeds") as bar:
        for number, stage in enumerate(recipe.stages[first:], first):
            own = _Run(model, data, recipe, stage, optimiser)
            if begun:
                own.restore(begun)
                begun = {}
            for step in range(own.step, stage.steps):
                terms = own.advance(step)
                if step % 10 == 0:
                    lost = ~own.good
                    before = history[-1] if history else terms
                    history.append(
                        {name: torch.where(lost, before.get(name, term), term).detach() for name, term in terms.items()}
                    )
                bar.update(bar.task_ids[0], advance=1)
                if checkpoint is not None and (step + 1) % recipe.checkpoint_every == 0:
                    stacked = {f"history.{k}": v for k, v in _stacked(history, model).items()}
                    here = {"stage": torch.tensor(number), "step": torch.tensor(step + 1)}
                    save_tensors(checkpoint, {**own.tensors(), **stacked, **here}, {"run": run})
    model.freeze(data)
    return _stacked(history, model)


def _stacked(history: list[dict[str, Tensor]], model: Model) -> History:
    names = list(dict.fromkeys(name for terms in history for name in terms))
    none = torch.full((len(model.seeds),), torch.nan, dtype=torch.float64)
    return {name: torch.stack([terms.get(name, none) for terms in history]) for name in names}


def _unstacked(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    kept = {k.removeprefix("history."): v for k, v in tensors.items() if k.startswith("history.")}
    number = max((len(part) for part in kept.values()), default=0)
    return [
        {name: part[row] for name, part in kept.items() if not bool(part[row].isnan().all())} for row in range(number)
    ]


class _Run:
    """One stage of a training: the optimiser and what is remembered from step to step."""

    def __init__(
        self,
        model: Model,
        data: Observations,
        recipe: Recipe,
        stage: Stage,
        optimiser: Callable[[list[Tensor]], Optimiser],
    ):
        self.model, self.recipe, self.stage = model, recipe, stage
        self.parameters = list(model.parameters())
        self.optimiser = optimiser(self.parameters)
        strides = {phase.stride for phase in stage.phases}
        self.thinned = {stride: data.every(stride) for stride in strides}
        self.usual = torch.zeros(len(model.seeds), dtype=data.mean.dtype, device=data.mean.device)
        self.left = torch.full_like(self.usual, stage.rescues)  # rescues of each replica
        self.good = self.usual == 0
        self.held: Tensor | None = None
        self.safe: tuple[list[Tensor], dict[str, Tensor]] | None = None
        self.step = 0

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        return {
            **{f"model.{name}": value for name, value in self.model.state_dict().items()},
            **{f"optimiser.{name}": value for name, value in self.optimiser.tensors().items()},
            "usual": self.usual,
            "left": self.left,
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave."""
        self.optimiser.restore({name: tensors[f"optimiser.{name}"] for name in self.optimiser.tensors()})
        self.usual, self.left = tensors["usual"], tensors["left"]
        self.step = int(tensors["step"])

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
        look = self.recipe.look
        terms = loss_terms(model, seen, phase.window, starts, look, self.held, step, stage.weights)
        for name, term in terms.items():
            _check(term, step, f"{name} term", model, self.left)
        weighted = [stage.weights[name] * term for name, term in terms.items()]
        loss = torch.stack(weighted).sum()
        gradients = list(torch.autograd.grad(loss, self.parameters, materialize_grads=True))
        slopes = torch.stack([gradient.sum((1, 2)) for gradient in gradients]).sum(0)
        _check(slopes, step, "gradient", model, self.left)
        self.good = torch.isfinite(torch.stack([*weighted, slopes])).all(0)
        lost, whole = ~self.good, bool(self.good.all())
        if not whole:
            gradients = [part.masked_fill(lost[:, None, None], 0.0) for part in gradients]
            self.left = self.left - lost.to(self.left.dtype)
        elif stage.rescues and (step % SAFE_EVERY == 0 or step % self.recipe.checkpoint_every == 0):
            self.safe = [p.detach().clone() for p in self.parameters], self.optimiser.copied()
        if stage.clip is not None:
            gradients, self.usual = _clipped(gradients, self.usual, stage.clip)
        shares = 0.5 ** (stage.rescues - self.left) if stage.rescues else None
        self.optimiser.step(gradients, stage.rate_at(step), shares)
        if not whole and self.safe is not None:
            self.optimiser.put_back(self.safe[1], lost)
            for part, before in zip(self.parameters, self.safe[0], strict=True):
                part.data[lost] = before[lost]
        return terms
