"""Studies: the paper's experiments from simulated particles to errors, seed by seed."""

import ast
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import Tensor

from ibvonns.chain_model import ChainModel, observe_chain
from ibvonns.chain_studies import (
    AGAIN,
    CHAIN_STUDIES,
    INDEPENDENT,
    EntropyLimit,
    chain_data,
    chain_errors,
    chain_floors,
    entropy_limit,
    train_chain,
)
from ibvonns.decoders import gaussian_nll
from ibvonns.ensemble import Ensemble, load_tensors, save_tensors
from ibvonns.metrics import gauge_free_error, relative_error
from ibvonns.model import Observations, TrapModel, observe
from ibvonns.networks import copy_replica
from ibvonns.systems.trap import VELOCITIES, Trap
from ibvonns.training import CHAIN_RECIPE, DENSITY_RECIPE, Recipe, TrainingError, train
from ibvonns.validation import choice, count

__all__ = [
    "SEEDS",
    "STUDIES",
    "TrapErrors",
    "cached",
    "chain_limits",
    "exact_trap_errors",
    "flow_likelihoods",
    "load_metrics",
    "recipe_of",
    "reproduce",
    "result",
    "run_key",
    "sources",
    "study_folder",
    "train_trap",
    "trap_data",
    "trap_errors",
    "unsound",
]

#: How many seeds of each study the book trains.
SEEDS = {"trap": 8, **dict.fromkeys(CHAIN_STUDIES, 8)}
STUDIES = tuple(SEEDS)  #: The three studies: the trap, the chain with a mixture, and with a flow.
FLOW_DRAWS = 3  # first weights of each flow in `flow_likelihoods`
RESTART = 1000  # a restarted seed draws from seed + RESTART
FINE = 2048  # grid points for the errors; training makes do with fewer
SOUND = 1.75  # largest error of a sound rollout, in units of the sampling noise

METRICS = {"study", "errors", "gauge_free", "floor", "limit"}  # what a scoreboard asks of a file
#: Errors by the id of `published.csv`, one for each seed.
TrapErrors = dict[str, list[float]]


def trap_data(
    trap: Trap | None = None, seed: int = 0, realisations: int = 4000
) -> dict[str, Ensemble]:
    """The trap's ensembles: "train", "test" (the paper's 11 + 10 velocities) and "linear".

    "linear" is the smoothed-linear protocol of Fig. 9, velocity 1.2, from an independent draw.

    Args:
        trap: the paper's if not given.
        seed: of the noise; "linear" draws from seed + 1.
        realisations: particles for each velocity.

    Raises:
        ValueError: no realisation.

    >>> {name: part.realisations.shape[0] for name, part in trap_data(realisations=1).items()}
    {'train': 11, 'test': 10, 'linear': 1}
    """
    trap = trap or Trap()
    oscillating = trap.simulate_paper("oscillating", VELOCITIES, realisations, seed)
    return {
        "train": oscillating.select(slice(0, None, 2)),
        "test": oscillating.select(slice(1, None, 2)),
        "linear": trap.simulate_paper("smoothed-linear", (1.2,), realisations, seed + 1),
    }


def _standardised(values: Tensor, training: Tensor) -> Tensor:
    return (values - training.mean()) / training.std(unbiased=False)


def exact_trap_errors(data: Mapping[str, Ensemble], trap: Trap | None = None) -> dict[str, Any]:
    """How good can any model look on these ensembles? The exact theory, scored as a model would be.

    Args:
        data: as `trap_data` gives it.
        trap: the paper's if not given.

    Returns:
        A dictionary of two, each by the id of `published.csv`, in percent or nats. First "floor",
        the errors of the exact mean and density against the sampled ones (chapter 2). Then "limit",
        what an ideal model may reach: the same theory started from each ensemble's own initial mean
        for the rollouts, 0 for the potentials, the entropy of the exact law for the likelihoods.
        alpha stands for the standardised mean.

    >>> sorted(exact_trap_errors(trap_data(realisations=10)))
    ['floor', 'limit']
    """
    trap = trap or Trap()
    floor: dict[str, float] = {}
    limit: dict[str, float] = {}
    training = data["train"].mean()  # its mean and deviation set the gauge
    for split, ensemble in data.items():
        lengths, times = ensemble.records["pulled_length"], ensemble.times
        force, sampled = ensemble.records["external_force"], ensemble.mean()
        mean = trap.mean(lengths, times)
        # the equation is linear: an initial deviation decays and the rest is unchanged
        decay = torch.cumprod(1 - trap.rate * torch.diff(times), 0)
        decay = torch.cat([torch.ones(1, dtype=decay.dtype), decay])
        started = mean + (sampled[:, :1] - mean[:, :1]) * decay
        for store, theory in ((floor, mean), (limit, started)):
            store[f"trap-force-{split}"] = relative_error(
                trap.external_force(lengths, theory), force
            )
            store[f"trap-alpha-{split}"] = relative_error(
                _standardised(theory, training), _standardised(sampled, training)
            )
        if split == "linear":
            continue
        deviation = trap.deviation(times)
        spread = ensemble.realisations.var(-1, unbiased=False)
        floor[f"trap-nll-{split}"] = float(gaussian_nll(mean, deviation, sampled, spread).mean())
        limit[f"trap-nll-{split}"] = float(gaussian_nll(mean, deviation, mean, deviation**2).mean())
        energy, power = trap.free_energy, trap.dual_dissipation
        floor[f"trap-f-{split}"] = relative_error(energy(lengths, sampled), energy(lengths, mean))
        floor[f"trap-phi-{split}"] = relative_error(
            power(trap.thermodynamic_force(lengths, sampled)),
            power(trap.thermodynamic_force(lengths, mean)),
        )
        limit[f"trap-f-{split}"] = limit[f"trap-phi-{split}"] = 0.0
    return {"floor": floor, "limit": limit}


@torch.no_grad()
def trap_errors(
    model: TrapModel, data: Mapping[str, Ensemble | Observations], trap: Trap | None = None
) -> tuple[TrapErrors, TrapErrors]:
    """The errors that the paper reports, for each replica.

    The realisations are compressed to a grid so fine that alpha is that of the realisations
    themselves to 1e-5, far below every error (chapter 3 compares the two).

    f and phi are compared with the analytic potentials, Eqs. (25), (26), at the states of the data;
    F_ex and alpha are rolled out from the encoded initial state.

    Args:
        model: trained, with its gauge frozen.
        data: as `trap_data` gives it, or what was observed of it.
        trap: the paper's if not given.

    Returns:
        Errors by the id of `published.csv` (percent, or nats for likelihoods), and the same for the
        alpha rows in units of alpha's standard deviation, which no change of gauge shifts.
    """
    trap = trap or Trap()
    errors: TrapErrors = {}
    gauge_free: TrapErrors = {}
    for split, part in data.items():
        seen = observe(part, FINE) if isinstance(part, Ensemble) else part
        lengths, times, record = seen.controls, seen.times, seen.external_force
        chi = lengths.flatten()[:, None]
        alpha = model.encode(seen)
        encoded = alpha.flatten(1, 2)
        path, force = model.predict(lengths, alpha[:, :, 0], times)
        errors[f"trap-force-{split}"] = [relative_error(row, record) for row in force]
        pairs = list(zip(path, alpha, strict=True))
        errors[f"trap-alpha-{split}"] = [relative_error(*pair) for pair in pairs]
        gauge_free[f"trap-alpha-{split}"] = [gauge_free_error(*pair) for pair in pairs]
        if split == "linear":
            continue
        centre, deviation = model.decoder(encoded)
        nll = gaussian_nll(centre, deviation, seen.mean.flatten(), seen.variance.flatten())
        errors[f"trap-nll-{split}"] = nll.mean(1).tolist()
        mean = trap.mean(lengths, times)
        energy = trap.free_energy(lengths, mean).flatten()
        power = trap.dual_dissipation(trap.thermodynamic_force(lengths, mean)).flatten()
        learned = model.potentials.free_energy(chi, encoded)
        g = model.potentials.forces(chi, encoded)[1]
        errors[f"trap-f-{split}"] = [relative_error(row, energy) for row in learned]
        dual = model.potentials.dual_dissipation(encoded, g)
        errors[f"trap-phi-{split}"] = [relative_error(row, power) for row in dual]
    return errors, gauge_free


@torch.no_grad()
def unsound(model: TrapModel, data: Observations, ensemble: Ensemble) -> list[int]:
    """Replicas whose rollouts miss the training data by more than its own sampling noise allows.

    It asks the training data alone, so that it serves where no theory is known.

    Args:
        model: trained, with its gauge frozen.
        data: what it was trained on, as `observe` gave it.
        ensemble: where `data` came from, for the sampling noise.

    Returns:
        Indices of the replicas to be trained again.
    """
    noise = ensemble.standard_error()
    measured = data.external_force
    # by how much F_ex answers to the mean at a given length: the stiffness, from the data alone
    columns = (data.mean, data.controls, torch.ones_like(data.mean))
    state = torch.stack([column.flatten() for column in columns], 1)
    answer = torch.linalg.lstsq(state, measured.flatten()[:, None]).solution[0].abs()
    force_floor = 100 * float(answer * noise.norm() / measured.norm())
    mean_floor = 100 * float(noise.norm() / (data.mean - data.mean.mean()).norm())
    alpha = model.encode(data)
    path, force = model.predict(data.controls, alpha[:, :, 0], data.times)
    return [
        index
        for index in range(len(model.seeds))
        if not (
            relative_error(force[index], measured) <= SOUND * force_floor
            and gauge_free_error(path[index], alpha[index]) <= SOUND * mean_floor
        )
    ]


def train_trap(
    ensemble: Ensemble,
    seeds: Sequence[int],
    recipe: Recipe | None = None,
    folder: Path | None = None,
    attempts: int = 3,
) -> tuple[TrapModel, Tensor, list[int]]:
    """Train all seeds at once; a seed that comes out unsound is drawn anew and trained again.

    alpha cannot collapse, because its gauge is fixed (`Encoder`). A seed may still end in a poor
    minimum. It is told by its training data: its rollouts miss F_ex or alpha by more than `SOUND`
    times the sampling noise of the ensemble. It then starts again from `seed + 1000`, and so on.

    Args:
        ensemble: the training ensemble.
        seeds: one for each replica.
        recipe: `Recipe()` if not given.
        folder: where checkpoints are kept while training runs; none if not given.
        attempts: how often a seed may be drawn before the run is given up.

    Returns:
        The model, the loss history of `training.train`, and the attempts that each seed took.

    Raises:
        TrainingError: a seed is unsound after all attempts, or a loss term is not finite.
    """
    data = observe(ensemble)
    checkpoint = None if folder is None else folder / "checkpoint.safetensors"
    model = TrapModel(seeds)
    history = train(model, data, recipe, checkpoint)
    taken = [1] * len(model.seeds)
    for attempt in range(1, attempts + 1):
        poor = unsound(model, data, ensemble)
        if not poor:
            return model, history, taken
        if attempt == attempts:
            break
        for index in poor:
            again = TrapModel([model.seeds[index] + RESTART * attempt])
            name = f"checkpoint-{again.seeds[0]}.safetensors"
            history_again = train(again, data, recipe, None if folder is None else folder / name)
            copy_replica(model, index, again)
            history[:, :, index] = history_again[:, :, 0]
            taken[index] += 1
    bad = [model.seeds[index] for index in poor]
    raise TrainingError(
        f"seeds {bad} miss their training data by over {SOUND} times its sampling noise after "
        f"{attempts} attempts; try more steps or a lower learning rate"
    )


def sources(module: Path) -> list[Path]:
    """Files of the library that a module depends on: itself and what it imports, directly or not.

    Args:
        module: its file.

    >>> [path.name for path in sources(Path(__file__).parent / "protocols.py")]
    ['protocols.py', 'validation.py']
    """
    found: set[Path] = set()
    ahead, root = [module], module.parent
    while (root.parent / "__init__.py").exists():  # up from a subpackage
        root = root.parent
    while ahead:
        path = ahead.pop()
        if path not in found:
            found.add(path)
            names = re.findall(r"^from ibvonns\.([\w.]+) import", path.read_text("utf-8"), re.M)
            ahead += [root / f"{name.replace('.', '/')}.py" for name in names]
    return sorted(found)


def _code(source: str) -> str:
    """What of a module's text can change a result: all but comments, docstrings and layout.

    >>> _code('def f():  # why\\n    "What."\\n    return 1') == _code("def f(): return 1")
    True
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _library_digest(module: Path | None = None) -> str:
    """Changes with any code that a result depends on: it cannot outlive its code."""
    digest = hashlib.sha256()
    for path in sources(module or Path(__file__)):
        digest.update(path.name.encode() + _code(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def recipe_of(study: str) -> Recipe:
    """The recipe of a study.

    Args:
        study: a member of `STUDIES`.

    Raises:
        ValueError: unknown study.

    >>> recipe_of("trap") == Recipe()
    True
    """
    return Recipe() if choice("study", study, STUDIES) == "trap" else CHAIN_RECIPE


def run_key(study: str, seeds: Sequence[int], recipe: Recipe, data_seed: int) -> str:
    """A digest that identifies a result: study, recipe, seeds, data, library, PyTorch and Python.

    Of the library it is the code that counts; comments and docstrings do not.

    Args:
        study: a member of `STUDIES`.
        seeds: that are trained.
        recipe: of the training.
        data_seed: of `trap_data` or `chain_data`.

    Raises:
        ValueError: unknown study.

    >>> run_key("trap", [0], Recipe(), 0) == run_key("trap", [1], Recipe(), 0)
    False
    """
    choice("study", study, STUDIES)
    versions = (torch.__version__, platform.python_version())
    parts = (study, recipe.key(), list(seeds), data_seed, _library_digest(), versions)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def study_folder(study: str, seeds: int, recipe: Recipe | None = None, data_seed: int = 0) -> Path:
    """Where results are cached if no folder is named; a new folder for every new `run_key`.

    Args:
        study: a member of `STUDIES`.
        seeds: how many, from 0.
        recipe: that of `recipe_of` if not given.
        data_seed: of the data.

    Raises:
        ValueError: unknown study.

    >>> study_folder("trap", 8).name[:5]
    'trap-'
    """
    key = run_key(study, range(seeds), recipe or recipe_of(study), data_seed)
    return user_cache_path("ibvonns") / f"{study}-{key[:16]}"


def cached(
    name: str,
    parts: Sequence[object],
    compute: Callable[[], dict[str, Any]],
    module: Path | None = None,
) -> Any:
    """What `compute` gives, as JSON, from the cache if this very library has computed it before.

    Args:
        name: of the file, before its key.
        parts: what else the result depends on.
        compute: called where the cache has nothing.
        module: file in which `compute` is written; this one if not given.
    """
    versions = (_library_digest(module), torch.__version__)
    key = hashlib.sha256(repr((name, *parts, *versions)).encode())
    path = user_cache_path("ibvonns") / f"{name}-{key.hexdigest()[:16]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_json(path, compute())
    return json.loads(path.read_text(encoding="utf-8"))


def chain_limits(data_seed: int = 0) -> dict[str, EntropyLimit]:
    """`entropy_limit` of the paper's chain, from ensembles of their own; kept in the cache.

    Args:
        data_seed: of the data of which it is the limit; the ensembles' own seeds lie far from it.

    Returns:
        For "train" and "test" the limit, in nats per strain.
    """

    def compute() -> dict[str, Any]:
        limits = entropy_limit(seed=data_seed + INDEPENDENT)
        return {split: asdict(limit) for split, limit in limits.items()}

    stored = cached("chain-entropy", [data_seed], compute)
    return {split: EntropyLimit(**entry) for split, entry in stored.items()}


def flow_likelihoods(
    sigmoids: Sequence[int] = (1, 2, 4, 8), data_seed: int = 0
) -> dict[int, dict[str, list[float]]]:
    """NLL of flows of several sizes, encoder and decoder trained alone; kept in the cache.

    Some first weights lead to a poor minimum: `FLOW_DRAWS` are tried for each size.

    Args:
        sigmoids: d of each flow.
        data_seed: of `chain_data`.

    Returns:
        For each d the NLL of every draw on "train" and "test", in nats per strain. The draw with
        the lowest on "train" comes first.

    Raises:
        ValueError: a d below 1.
    """
    for number in sigmoids:
        count("sigmoids", number)

    def compute() -> dict[str, Any]:
        data = chain_data(seed=data_seed)
        seen = {split: observe_chain(data[split]) for split in ("train", "test")}
        found: dict[str, Any] = {}
        for number in sigmoids:
            model = ChainModel([AGAIN * n for n in range(FLOW_DRAWS)], "flow", number)
            train(model, seen["train"], DENSITY_RECIPE)
            each: dict[str, Tensor] = {}
            with torch.no_grad():
                for split, part in seen.items():
                    alpha = model.encode(part).flatten(1, 3)
                    each[split] = model.nll(part.density, part.mean.flatten(), alpha)
            order = each["train"].argsort()
            found[str(number)] = {split: nll[order].tolist() for split, nll in each.items()}
        return found

    stored = cached("flow-likelihoods", [list(sigmoids), data_seed], compute)
    return {int(number): values for number, values in stored.items()}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(draft, path)


def load_metrics(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a `metrics.json` that `reproduce` wrote to `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"path must name an existing file, but {os.fspath(path)!r} is none")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"path must name a whole metrics.json, but {os.fspath(path)!r} is damaged ({error})"
        ) from None
    if not isinstance(content, dict) or not METRICS <= content.keys():
        raise ValueError(f"path must name a metrics.json, but {os.fspath(path)!r} holds none")
    return content


def reproduce(
    study: str,
    seeds: int | None = None,
    out: str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    data_seed: int = 0,
) -> dict[str, Any]:
    """Simulate, train and score a study; write `metrics.json` and `model.safetensors`.

    A run that was interrupted goes on from its last checkpoint and ends with the same numbers.

    Args:
        study: a member of `STUDIES`.
        seeds: how many seeds, from 0; as many as the book trains if not given.
        out: folder for the results; the cache of `study_folder` if not given.
        recipe: that of `recipe_of` if not given.
        data_seed: of `trap_data` or `chain_data`.

    Returns:
        The content of `metrics.json`. It has "errors", "gauge_free", "floor" and "limit" by the id
        of `published.csv`, in percent or nats, with the seeds, the attempts that they took and the
        seconds of training.

    Raises:
        ValueError: unknown study or no seeds.
        TrainingError: see `train_trap` and `train_chain`.
    """
    choice("study", study, STUDIES)
    seeds = count("seeds", SEEDS[study] if seeds is None else seeds)
    recipe = recipe or recipe_of(study)
    folder = Path(out) if out is not None else study_folder(study, seeds, recipe, data_seed)
    folder.mkdir(parents=True, exist_ok=True)
    run = _run_trap if study == "trap" else _run_chain
    model, scores = run(study, range(seeds), recipe, data_seed, folder)
    metrics = {
        "study": study,
        "key": run_key(study, range(seeds), recipe, data_seed),
        "seeds": list(range(seeds)),
        "data_seed": data_seed,
        **scores,
    }
    model.save(folder / "model.safetensors")
    _write_json(folder / "metrics.json", metrics)
    for leftover in folder.glob("checkpoint*.safetensors"):
        leftover.unlink()
    return metrics


def _run_trap(
    study: str, seeds: Sequence[int], recipe: Recipe, data_seed: int, folder: Path
) -> tuple[TrapModel, dict[str, Any]]:
    data = trap_data(seed=data_seed)
    started = time.perf_counter()
    model, _, attempts = train_trap(data["train"], seeds, recipe, folder)
    seconds = round(time.perf_counter() - started, 1)
    errors, gauge_free = trap_errors(model, data)
    scores = {"attempts": attempts, "training_seconds": seconds}
    scores |= {"errors": errors, "gauge_free": gauge_free, **exact_trap_errors(data)}
    return model, scores


def _run_chain(
    study: str, seeds: Sequence[int], recipe: Recipe, data_seed: int, folder: Path
) -> tuple[ChainModel, dict[str, Any]]:
    prefix = CHAIN_STUDIES[study][0]
    data = chain_data(seed=data_seed)
    started = time.perf_counter()
    model, history, attempts = train_chain(data["train"], seeds, study, recipe, folder=folder)
    seconds = round(time.perf_counter() - started, 1)
    save_tensors(folder / "history.safetensors", {"history": history})
    errors, gauge_free = chain_errors(model, data, prefix)
    again = chain_data(seed=data_seed + INDEPENDENT)
    entropies = chain_limits(data_seed)
    limit = {f"{prefix}-nll-{split}": entry.value for split, entry in entropies.items()}
    scores = {
        "attempts": attempts,
        "training_seconds": seconds,
        "strain_deviation": float(model.encoder.position[1]),
        "errors": errors,
        "gauge_free": gauge_free,
        "floor": chain_floors(data, again, model, prefix) | limit,
        "limit": limit,
        "limit_error": {f"{prefix}-nll-{s}": entry.error for s, entry in entropies.items()},
    }
    return model, scores


def result(
    study: str, seeds: int | None = None
) -> tuple[TrapModel | ChainModel, Tensor | None, dict[str, Any]]:
    """Model, loss history (of a chain) and metrics: from the cache, or trained now and cached.

    The folder's name holds the key of recipe, seeds, data and library source (`run_key`): what is
    there was made by this very code, and what another version made is never found.

    Args:
        study: a member of `STUDIES`.
        seeds: how many, from 0; as many as the book trains if not given.

    Raises:
        ValueError: unknown study or no seeds.
        TrainingError: as `reproduce`.
    """
    seeds = SEEDS[choice("study", study, STUDIES)] if seeds is None else seeds
    folder = study_folder(study, seeds)
    if not (folder / "metrics.json").exists():
        reproduce(study, seeds)
    metrics = load_metrics(folder / "metrics.json")
    model = (TrapModel if study == "trap" else ChainModel).load(folder / "model.safetensors")
    kept = folder / "history.safetensors"
    return model, load_tensors(kept)[0]["history"] if kept.exists() else None, metrics
