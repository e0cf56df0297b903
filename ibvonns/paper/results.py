"""Results: studies trained, scored and kept, each under a key of all that made it."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from ibvonns.cache import cache_folder, key_of, stored
from ibvonns.files import load_json, load_tensors, plain, save_json, save_tensors
from ibvonns.model import Model, load
from ibvonns.observations import Observations
from ibvonns.paper import studies
from ibvonns.paper.limits import limits
from ibvonns.paper.studies import Study, errors, study_of
from ibvonns.seeds import fitted
from ibvonns.training import History
from ibvonns.validation import count, require

__all__ = ["load_metrics", "reproduce", "result", "run_key", "study_folder"]

METRICS = {"study", "errors", "gauge_free", "floor", "limit"}  # what a scoreboard asks of a file


def restored_errors(stored: Mapping[str, list[float | None]]) -> dict[str, list[float]]:
    """Errors that `plain` made fit for JSON."""
    return {name: [inf if value is None else value for value in each] for name, each in stored.items()}


def run_key(study: str | Study, seeds: Sequence[int], data_seed: int = 0) -> str:
    """A digest that identifies a training: study, seeds, data, the code that it runs through, versions.

    How a trained model is scored does not count: `result` scores anew what was scored by other code.

    Args:
        study: one, or the name of one.
        seeds: of the replicas.
        data_seed: of the data.

    Raises:
        ValueError: unknown study.
    """
    return key_of(Path(studies.__file__), replace(study_of(study), seeds=1), list(seeds), data_seed)


def study_folder(study: str | Study, seeds: int | None = None, data_seed: int = 0) -> Path:
    """Folder in the cache for the results of a study; its name holds the key.

    Args:
        study: one, or the name of one.
        seeds: how many, from 0; as many as the book trains if not given.
        data_seed: of the data.

    Raises:
        ValueError: unknown study or no seeds.

    >>> study_folder("trap", 8).name[:5]
    'trap-'
    """
    one = study_of(study)
    key = run_key(one, range(count("seeds", one.seeds if seeds is None else seeds)), data_seed)
    return cache_folder() / f"{one.name}-{key[:16]}"


def load_metrics(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a `metrics.json` that `reproduce` wrote to `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.
    """
    content = load_json(path)
    whole = isinstance(content, dict) and content.keys() >= METRICS
    require(whole, f"path must name a metrics.json, but {os.fspath(path)!r} holds none")
    return content | {name: restored_errors(content[name]) for name in ("errors", "gauge_free")}


def reproduce(
    study: str | Study, seeds: int | None = None, out: str | os.PathLike[str] | None = None, data_seed: int = 0
) -> dict[str, Any]:
    """Simulate, train and score a study; write `metrics.json`, `model` and `history.safetensors`.

    A run that was interrupted goes on from its last checkpoint and ends with the same numbers.

    Args:
        study: one, or the name of one.
        seeds: how many seeds, from 0; as many as the book trains if not given.
        out: folder for the results; `study_folder` if not given.
        data_seed: of the data.

    Returns:
        The content of `metrics.json`. It has "errors", "gauge_free", "floor" and "limit" by the id
        of `published.csv`, in percent or nats, with the seeds, the draws of first weights that went
        on, and the seconds of training.

    Raises:
        ValueError: unknown study or no seeds.
        TrainingError: as `seeds.fitted`.
    """
    one = study_of(study)
    numbers = range(count("seeds", one.seeds if seeds is None else seeds))
    folder = Path(out) if out is not None else study_folder(one, len(numbers), data_seed)
    folder.mkdir(parents=True, exist_ok=True)
    data = one.data(data_seed)
    started = time.perf_counter()
    fit = fitted(one.architecture, data["train"], numbers, one.recipe, folder)
    told = {"draws": fit.draws, "training_seconds": round(time.perf_counter() - started, 1)}
    fit.model.save(folder / "model.safetensors")
    save_tensors(folder / "history.safetensors", fit.history, {"told": json.dumps(told)})
    return _scored(one, fit.model, data, told, data_seed, folder)


def _scored(
    study: Study, model: Model, data: Mapping[str, Observations], told: Mapping[str, Any], data_seed: int, folder: Path
) -> dict[str, Any]:
    """Score a trained model and write `metrics.json`."""
    found, gauge_free = errors(study, model, data)
    metrics = {
        "study": study.name,
        "key": run_key(study, model.seeds, data_seed),
        "scored": key_of(Path(__file__)),
        "seeds": model.seeds,
        "data_seed": data_seed,
        **told,
        "position_deviation": float(model.encoder.position[1, 0]),
        "errors": found,
        "gauge_free": gauge_free,
        **limits(study, data, model, data_seed),
    }
    save_json(folder / "metrics.json", plain(metrics))
    return metrics


def result(study: str | Study, seeds: int | None = None) -> tuple[Model, History, dict[str, Any]]:
    """Model, loss history and metrics: from the cache, or trained now and cached.

    What is in the folder was trained by this very code, for its name holds the key (`run_key`). What
    is missing or damaged is made anew, and scores of other code are.

    Args:
        study: one, or the name of one.
        seeds: how many, from 0; as many as the book trains if not given.

    Raises:
        ValueError: unknown study or no seeds.
        TrainingError: as `reproduce`.
    """
    one, folder = study_of(study), study_folder(study, seeds)

    def trained(file: Path) -> tuple[Model, History, dict[str, Any]]:
        history, metadata = load_tensors(file)
        return load(folder / "model.safetensors"), history, json.loads(metadata.get("told", ""))

    found = stored(folder / "history.safetensors", trained)
    if found is None:
        reproduce(study, seeds)
        found = trained(folder / "history.safetensors")
    model, history, told = found
    metrics = stored(folder / "metrics.json", load_metrics)
    if metrics is None or metrics.get("scored") != key_of(Path(__file__)):
        metrics = _scored(one, model, one.data(), told, 0, folder)
    return model, history, metrics
