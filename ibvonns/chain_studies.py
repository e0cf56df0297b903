"""The chain's two studies: data, errors, noise floors, the entropy limit, and sound training."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import hypot, inf, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibvonns.chain_model import ChainModel, ChainObservations, observe_chain
from ibvonns.ensemble import Ensemble
from ibvonns.metrics import gauge_free_error, relative_error, spacing_entropy
from ibvonns.networks import copy_replica
from ibvonns.onsager import ChainPotentials
from ibvonns.systems.chain import LENGTHS, Chain
from ibvonns.training import CHAIN_DRAW, CHAIN_RECIPE, CHAIN_START, Recipe, TrainingError, train
from ibvonns.validation import choice, count

__all__ = [
    "CHAIN_STUDIES",
    "EntropyLimit",
    "Rollouts",
    "chain_data",
    "chain_errors",
    "chain_floors",
    "entropy_limit",
    "roll_out",
    "train_chain",
    "unsound_chain",
]

#: For each study of the chain the prefix of its rows in `published.csv`, and its decoder.
CHAIN_STUDIES = {"chain-gmm": ("gmm", "mixture"), "chain-cnf": ("cnf", "flow")}
CANDIDATES = 4  # draws of each seed of which one goes on
AGAIN = 1000  # from one draw of a seed to the next
FINE = 640  # grid points for the errors; training makes do with fewer
INDEPENDENT = 10_000  # added to the data's seed for ensembles that no training has seen
SOUND = 3.0  # largest error of a sound rollout, in units of the sampling noise

Errors = dict[str, list[float]]


def chain_data(
    chain: Chain | None = None, seed: int = 0, realisations: int = 2000
) -> dict[str, Ensemble]:
    """The chain's ensembles: "train" (9 lengths), "test" (the 8 between them) and "sine".

    "sine" is the sinusoidal protocol of Figs. 14 and 19, from L_tot = 0.20, and an independent
    draw. Lengths and pulled distances are the paper's, whatever the chain.

    Args:
        chain: the paper's if not given.
        seed: of the noise; "sine" draws from seed + 1.
        realisations: chains for each length.

    Raises:
        ValueError: no realisation.

    >>> {name: part.realisations.shape[0] for name, part in chain_data(realisations=1).items()}
    {'train': 9, 'test': 8, 'sine': 1}
    """
    chain = chain or Chain()
    pulled = chain.simulate_paper("smoothed-linear", LENGTHS, realisations, seed)
    return {
        "train": pulled.select(slice(0, None, 2)),
        "test": pulled.select(slice(1, None, 2)),
        "sine": chain.simulate_paper("sinusoidal", (0.2,), realisations, seed + 1),
    }


@dataclass(frozen=True)
class Rollouts:
    """What a model predicts from the first state of each trajectory, under both end conditions.

    Attributes:
        strain: by boundary, shape (replicas, conditions, times, springs).
        alpha: by boundary, with one more axis.
        velocity: v_n, where F_ex is known, shape (replicas, conditions, times).
        external_force: F_ex, where v_n is known, same shape.
    """

    strain: Mapping[str, Tensor]
    alpha: Mapping[str, Tensor]
    velocity: Tensor
    external_force: Tensor


@torch.no_grad()
def roll_out(model: ChainModel, data: ChainObservations, alpha: Tensor | None = None) -> Rollouts:
    """Predictions for every trajectory of some observations, under both end conditions.

    Args:
        model: trained, with its gauge frozen.
        data: observations.
        alpha: as `model.encode(data)` gives it, if it is at hand.
    """
    alpha = model.encode(data) if alpha is None else alpha
    begin = (data.mean[:, 0], alpha[:, :, 0], data.times)
    pulled = model.predict(*begin, data.external_force, "force")
    moved = model.predict(*begin, data.velocity, "velocity")
    paths = {"force": pulled, "velocity": moved}
    return Rollouts(
        {name: path[0] for name, path in paths.items()},
        {name: path[1] for name, path in paths.items()},
        pulled[2],
        moved[2],
    )


def _error(prediction: Tensor, truth: Tensor) -> float:
    """`relative_error`, or infinity where a rollout has run away."""
    return relative_error(prediction, truth) if bool(prediction.isfinite().all()) else inf


@torch.no_grad()
def chain_errors(
    model: ChainModel, data: Mapping[str, Ensemble | ChainObservations], prefix: str
) -> tuple[Errors, Errors]:
    """The errors that the paper reports, for each replica.

    The realisations are compressed to a grid four times finer than that of training.

    Args:
        model: trained, with its gauge frozen.
        data: as `chain_data` gives it, or what was observed of it.
        prefix: "gmm" or "cnf", for the ids.

    Returns:
        Errors by the id of `published.csv`, one for each replica, in percent, or nats per strain
        for likelihoods; then the alpha rows once more in units of alpha's standard deviation, which
        no gauge shifts. In the first, alpha is in the raw gauge, in which it vanishes where no
        spring is strained; which zero the paper's has is not said.
    """
    errors: Errors = {}
    gauge_free: Errors = {}
    for split, part in data.items():
        length = model.natural_length
        seen = observe_chain(part, length, FINE) if isinstance(part, Ensemble) else part
        alpha = model.encode(seen)
        if split != "sine":
            nll = model.nll(seen.density, seen.mean.flatten(), alpha.flatten(1, 3))
            errors[f"{prefix}-nll-{split}"] = nll.tolist()
        paths = roll_out(model, seen, alpha)
        for boundary in ("force", "velocity"):
            name = f"{split}-{boundary}"
            errors[f"{prefix}-strain-{name}"] = [
                _error(row, seen.mean) for row in paths.strain[boundary]
            ]
            if model.internal == 0:
                continue
            pairs = list(zip(paths.alpha[boundary], alpha, strict=True))
            gauge_free[f"{prefix}-alpha-{name}"] = [
                gauge_free_error(*pair) if bool(pair[0].isfinite().all()) else inf for pair in pairs
            ]
            raw = zip(*map(model.encoder.ungauged, (paths.alpha[boundary], alpha)), strict=True)
            errors[f"{prefix}-alpha-{name}"] = [_error(*pair) for pair in raw]
        errors[f"{prefix}-force-{split}-velocity"] = [
            _error(row, seen.external_force) for row in paths.external_force
        ]
    return errors, gauge_free


@torch.no_grad()
def chain_floors(
    data: Mapping[str, Ensemble],
    again: Mapping[str, Ensemble],
    model: ChainModel | None = None,
    prefix: str = "chain",
) -> dict[str, float]:
    """Noise floor of each error row: the truth is itself a mean over a finite ensemble (chapter 4).

    A perfect theory differs from a sample by the sample's noise, which is that between two
    independent samples over the root of two.

    Args:
        data: as `chain_data` gives it.
        again: an independent draw of the same.
        model: for the alpha rows, which need an encoder; the median over its replicas counts.
        prefix: of the ids.

    Returns:
        Percent by id; both boundaries of a row have the same floor.
    """
    floors: dict[str, float] = {}
    for split, ensemble in data.items():
        other = again[split]
        parts = {
            "strain": relative_error(other.mean(), ensemble.mean()),
            "force": relative_error(
                other.records["external_force"], ensemble.records["external_force"]
            ),
        }
        if model is not None:
            length = model.natural_length
            seen = [
                model.encoder.ungauged(model.encode(observe_chain(part, length)))
                for part in (other, ensemble)
            ]
            each = [relative_error(*pair) for pair in zip(*seen, strict=True)]
            parts["alpha"] = float(torch.tensor(each, dtype=torch.float64).median())
        for quantity, error in parts.items():
            for boundary in ("force", "velocity"):
                if (quantity, boundary) != ("force", "force"):
                    floors[f"{prefix}-{quantity}-{split}-{boundary}"] = error / sqrt(2)
    return floors


@dataclass(frozen=True)
class EntropyLimit:
    """The lowest expected NLL that any density can have, in nats per strain, and its error.

    Attributes:
        value: mean differential entropy of the single strain over conditions, times and springs.
        error: standard error of `value`.
    """

    value: float
    error: float


def entropy_limit(
    chain: Chain | None = None,
    realisations: int = 10_000,
    seed: int = INDEPENDENT,
    every: int = 15,
    block: int = 2000,
) -> dict[str, EntropyLimit]:
    """Entropy limits of the "train" and the "test" conditions, from ensembles of their own.

    Each marginal's entropy is estimated by nearest spacings (`metrics.spacing_entropy`), whose bias
    is far below that of a histogram. What is left of it falls about as the number of realisations:
    the change from one block to all of them tells it, and it is taken off. Every `every`-th time is
    used, and more at first; between them the entropies are interpolated. The error is the scatter
    between blocks and half of the change from one block to all.

    Args:
        chain: the paper's if not given.
        realisations: chains for each length, at least two blocks.
        seed: of the first block; the next ones count up.
        every: steps between two times.
        block: realisations simulated at a time, to bound memory.

    Raises:
        ValueError: fewer than two blocks.
    """
    chain = chain or Chain()
    blocks = count("number of blocks", realisations // count("block", block), 2)

    def simulated(number: int) -> tuple[Tensor, Tensor, int]:
        part = chain.simulate_paper(realisations=block, seed=seed + number)
        steps = len(part.times)
        # denser at first, when the coarse step widens the wells of the exact equilibrium
        dense = torch.tensor([0, 1, 2, 3, 4, 6, 8, 11, steps - 1])
        times = torch.cat([dense, torch.arange(every, steps, every)]).unique()
        return part.realisations[:, times], times, steps

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        parts = list(threads.map(simulated, range(blocks)))
    kept = [part for part, _, _ in parts]
    times, steps = parts[0][1:]
    alone = [spacing_entropy(part) for part in kept]
    whole = spacing_entropy(torch.cat(kept, -1))  # (conditions, times, springs)
    # weight of each time kept: its hat function summed over all times
    share = torch.zeros(len(times), dtype=torch.float64)
    for step in range(steps):
        right = int(torch.searchsorted(times, step))
        left = max(right - 1, 0)
        part_right = (
            1.0 if right == left else float((step - times[left]) / (times[right] - times[left]))
        )
        share[right] += part_right
        share[left] += 1 - part_right
    share /= steps
    limits = {}
    for split, conditions in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        mean, *each = (
            float((values[conditions].mean((0, 2)) * share).sum()) for values in (whole, *alone)
        )
        alike = torch.tensor(each, dtype=torch.float64)
        change = mean - float(alike.mean())
        error = hypot(float(alike.std()) / sqrt(blocks), change / 2)
        limits[split] = EntropyLimit(mean + change / (blocks - 1), error)
    return limits


@torch.no_grad()
def unsound_chain(model: ChainModel, data: ChainObservations, ensemble: Ensemble) -> list[int]:
    """Replicas whose rollouts miss the training data by more than its own sampling noise allows.

    Args:
        model: trained, with its gauge frozen.
        data: what it was trained on.
        ensemble: where `data` came from, for the sampling noise.

    Returns:
        Indices of the replicas that do.
    """
    noise = 100 * float(ensemble.standard_error().norm() / data.mean.norm())
    alpha = model.encode(data)
    begin = (data.mean[:, 0], alpha[:, :, 0], data.times)
    strain, *_ = model.predict(*begin, data.external_force, "force")
    bad = []
    for index, path in enumerate(strain):
        sound = bool(torch.isfinite(path).all())
        if not (sound and relative_error(path, data.mean) <= SOUND * noise):
            bad.append(index)
    return bad


def train_chain(
    ensemble: Ensemble,
    seeds: Sequence[int],
    study: str,
    recipe: Recipe = CHAIN_RECIPE,
    draw: Recipe = CHAIN_DRAW,
    start: Recipe = CHAIN_START,
    folder: Path | None = None,
    sigmoids: int = 2,
    attempts: int = 2,
    internal: int = 1,
    law: Callable[..., Any] = ChainPotentials,
    chain: Chain | None = None,
) -> tuple[ChainModel, Tensor, list[int]]:
    """Train all seeds at once, each from the best of `CANDIDATES` draws of its first weights.

    Some draws end in a poor minimum, and a short training tells them long before the long windows
    are paid for: every seed is drawn `CANDIDATES` times (from seed, seed + 1000, ...), all are
    trained with `draw`, and the one with the lowest loss over its last 50 steps goes on. A seed
    that misses its training data in the end by over `SOUND` times the sampling noise is drawn anew.

    Args:
        ensemble: the training ensemble.
        seeds: one for each replica.
        study: a key of `CHAIN_STUDIES`.
        recipe: of the long training, the last.
        draw: recipe of the training of all draws, the first.
        start: recipe of the training in between.
        folder: where checkpoints are kept while training runs; none if not given.
        sigmoids: d of the flow.
        attempts: how often a seed may be trained before the run is given up; with 0 every seed is
            taken as it comes.
        internal: as for `ChainModel`.
        law: as for `ChainModel`.
        chain: that the ensemble is of; the paper's if not given.

    Returns:
        The model, the loss history of all trainings one after the other, as `training.train` gives
        it, and for each seed the draw that went on, counted from 0.

    Raises:
        ValueError: unknown study.
        TrainingError: a loss term is not finite, or a seed misses its data after all attempts.
    """
    decoder = CHAIN_STUDIES[choice("study", study, CHAIN_STUDIES)][1]
    chain = chain or Chain()
    data = observe_chain(ensemble, chain.natural_length)

    def trained(model: ChainModel, by: Recipe, name: str) -> Tensor:
        file = None if folder is None else folder / f"checkpoint-{name}-{seeds[0]}.safetensors"
        return train(model, data, by, file)

    kind = (decoder, sigmoids, internal, law, chain.natural_length, chain.well_strain)
    many = ChainModel([seed + AGAIN * n for seed in seeds for n in range(CANDIDATES)], *kind)
    first = trained(many, draw, "draw")
    weights = torch.tensor(draw.weights, dtype=first.dtype)
    loss = (first[-5:].mean(0) * weights[:, None]).sum(0).unflatten(0, (len(seeds), CANDIDATES))
    chosen = loss.argmin(1).tolist()
    places = [CANDIDATES * index + best for index, best in enumerate(chosen)]
    model = ChainModel(seeds, *kind)
    for index, place in enumerate(places):
        copy_replica(model, index, many, place)
    rest = [trained(model, start, "start"), trained(model, recipe, "long")]
    history = torch.cat([first[:, :, places], *rest])
    poor = unsound_chain(model, data, ensemble) if attempts else []
    if poor and attempts == 1:
        bad = [model.seeds[index] for index in poor]
        raise TrainingError(
            f"seeds {bad} miss their training data by over {SOUND:g} times its sampling noise; try "
            "more steps, more candidates or a lower learning rate"
        )
    for index in poor:
        anew = [seeds[index] + AGAIN * CANDIDATES]
        same = (study, recipe, draw, start, folder, sigmoids, attempts - 1, internal, law, chain)
        again, found, drawn = train_chain(ensemble, anew, *same)
        copy_replica(model, index, again)
        history[:, :, index] = found[:, :, 0]
        chosen[index] = CANDIDATES + drawn[0]
    return model, history, chosen
