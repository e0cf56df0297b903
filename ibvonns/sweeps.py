r"""Many fits as one table: each is a pure function of its task, and runs on whatever workers there are.

A task is a dictionary of plain values: files, seeds, numbers. What comes of it is a row of a table of JSON lines,
under a key of the code, the task and the content of its files. So a sweep that was broken off goes on, sweeps share
what they have in common, and nothing is counted twice.
"""

import hashlib
import inspect
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ibvonns.cache import key_of
from ibvonns.ensemble import Ensemble
from ibvonns.files import plain
from ibvonns.layouts import layout_of
from ibvonns.learning import fit
from ibvonns.observations import observe
from ibvonns.reading import read
from ibvonns.seeds import scores
from ibvonns.validation import choice, count, require

__all__ = ["fitted_task", "rows_of", "sweep", "tasks_of"]

Task = Mapping[str, Any]
Row = dict[str, Any]
RUNS = 3  # times that a task is given to workers before their death is taken for its own fault
DEATHS = ("TerminatedWorkerError", "BrokenProcessPool", "KilledWorker")  # of workers, by joblib's backends
FILES = ("train", "test")  # entries of a task that name files


# --- the table -----------------------------------------------------------------------------------


def rows_of(table: str | os.PathLike[str]) -> dict[str, Row]:
    """Rows of a table by their key; of several of one key the last, and none that was not written to its end.

    Args:
        table: a file of JSON lines; there need be none.

    Raises:
        ValueError: a line that is whole, but no row.
    """
    rows, path = dict[str, Row](), Path(table)
    text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            row = json.loads(line)
            rows[row["key"]] = row
        except (ValueError, TypeError, KeyError):
            # a writer that died has left half a line, and the next one has begun behind it
            require(not line.rstrip().endswith("}"), f"table must hold rows, but line {number} of {path} is none")
    return rows


def _added(path: Path, row: Row) -> None:
    """Append a row as one line, whole; behind half a line of another it begins a new one."""
    with open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = size > 0 and file.read(1) != b"\n"
        file.write(b"\n" * torn + json.dumps(row, sort_keys=True, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _key(code: str, task: Task) -> str:
    """A digest of the code, the task and what its files hold."""
    held = [hashlib.sha256(Path(each).read_bytes()).hexdigest() for name in FILES for each in _files(task, name)]
    known = {name: value for name, value in task.items() if name not in FILES}
    return hashlib.sha256(json.dumps([code, known, held], sort_keys=True).encode()).hexdigest()[:24]


def _worked(work: Callable[[Task], Any], task: Task) -> Row:
    """What comes of a task, or why nothing does; on one thread, so that every worker finds the same numbers."""
    started, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {"result": plain(work(task))}
    except Exception as error:  # of whatever the work calls: one line in the table, and the others go on
        found = {"failed": f"{type(error).__name__}: {error}"}
    finally:
        torch.set_num_threads(threads)
    return {**found, "seconds": round(time.perf_counter() - started, 2)}


def sweep(
    work: Callable[[Task], Any],
    tasks: Sequence[Task],
    table: str | os.PathLike[str],
    resume: bool = True,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Do every task that a table has no result of, on the workers of the caller, and add a row for each.

    Workers are those of joblib: a single one, or what `joblib.parallel_config` sets around this call: processes of
    this machine (`n_jobs=4`), of a Dask cluster (`backend="dask"`) or of Ray (`backend="ray"`). Rows are written by
    this process alone, one by one as they come. Where a worker dies, what it was at is done again by another.

    Args:
        work: a function of a module, that a worker can import: from a task to plain values.
        tasks: of plain values; those under "train" and "test" name files, which every worker can read.
        table: a file of JSON lines, made if there is none.
        resume: whether what the table holds is left as it is; a task that failed is tried again in any case.
        say: is told how far it is, what is left and why a task failed, a line each.

    Returns:
        A row for each task in their order: "key", "task", "seconds", and "result" or "failed".

    Raises:
        ImportError: joblib is missing.
        ValueError: a table that is damaged, or an entry of a task that is not plain.
    """
    try:
        import joblib
    except ImportError:
        raise ImportError('a sweep needs joblib, which is missing: pip install "ibvonns[cluster]"') from None
    code = key_of(Path(inspect.getfile(work)), work.__name__)
    path, keys = Path(table), [_key(code, task) for task in tasks]
    done = {key: row for key, row in rows_of(path).items() if resume and "result" in row}
    left = {key: task for key, task in zip(keys, tasks, strict=True) if key not in done}
    path.parent.mkdir(parents=True, exist_ok=True)
    started, number = time.perf_counter(), len(left)
    for run in range(RUNS):
        jobs = [joblib.delayed(_keyed)(work, key, task) for key, task in left.items()]
        try:
            for key, found in _given_out(joblib, jobs):
                row = {"key": key, "task": dict(left.pop(key)), **found}
                _added(path, row)
                done[key] = row
                if "failed" in row:
                    say(f"failed: {json.dumps(row['task'], sort_keys=True)}: {row['failed']}")
                spent = time.perf_counter() - started
                say(f"{number - len(left)} of {number}, {spent * len(left) / (number - len(left)):.0f} s left")
            break
        except Exception as error:  # of one backend or another; what others did meanwhile is in the table
            if type(error).__name__ not in DEATHS or run + 1 == RUNS:
                raise
            say(f"{type(error).__name__}: {len(left)} tasks are given out again")
    return [done[key] for key in keys]


def _given_out(joblib: Any, jobs: Sequence[Any]) -> Iterator[tuple[str, Row]]:
    """What comes of jobs, each as soon as it is there; or in portions, of a backend that gives lists alone (Ray's)."""
    how = {"batch_size": 1, "pre_dispatch": "all"}
    try:
        pool = joblib.Parallel(return_as="generator_unordered", **how)
    except ValueError:
        pool, size = joblib.Parallel(**how), 4 * joblib.effective_n_jobs()
        for first in range(0, len(jobs), size):
            yield from pool(jobs[first : first + size])
    else:
        yield from pool(jobs)


def _keyed(work: Callable[[Task], Any], key: str, task: Task) -> tuple[str, Row]:
    return key, _worked(work, task)


# --- fits as tasks -------------------------------------------------------------------------------


def tasks_of(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tasks of `fitted_task` for every combination of what a plan varies.

    Args:
        plan: "train", "test", "read" and "fit", as for `fitted_task`; and "vary", lists of
            values by name: of "seed", "draw" and "conditions", as for `fitted_task`, or of what "fit" holds.

    Raises:
        ValueError: an unknown name, or nothing to be trained on.

    >>> [task["seed"] for task in tasks_of({"train": "a.npz", "vary": {"seed": [0, 1]}})]
    [0, 1]
    """
    for name in plan:
        choice("name in a plan", name, (*FILES, "read", "fit", "vary"))
    require("train" in plan, "plan must name a file to train on under 'train', but does not")
    vary, own = dict(plan.get("vary", {})), ("seed", "draw", "conditions")
    for name, values in vary.items():
        require(isinstance(values, list), f"vary[{name!r}] must be a list, but is {values!r}")
    rest = {name: plan[name] for name in (*FILES, "read") if name in plan}
    tasks = []
    for each in product(*vary.values()):
        chosen = dict(zip(vary, each, strict=True))
        how = {**plan.get("fit", {}), **{name: value for name, value in chosen.items() if name not in own}}
        tasks.append({**rest, "fit": how, **{name: chosen[name] for name in own if name in chosen}})
    return tasks


def fitted_task(task: Task) -> dict[str, Any]:
    """Fit a law as a task says, and tell its errors: the work of `ibvonns sweep`.

    Args:
        task: "train", a file or several, which are independent parts of one ensemble; "read", what `reading.read`
            takes by name besides; "fit", what `learning.fit` takes, "controls" and "forces" for example, with its
            layout as in `{"kind": "Row"}` (`layouts.named`); "seed", 0 if not given; "conditions", how many of the
            first are taken, all if not given; "draw", which bootstrap is taken, none if not given: as many conditions,
            and as many parts, drawn with replacement; "test", a file of other data, or several.

    Returns:
        Errors and noise of training and test data in percent by the name of what is compared, the likelihood of the
        test data in nats, and sentences on what is unsound.

    Raises:
        ValueError: as `reading.read`, `Ensemble` and `learning.fit`.
    """
    how = dict(task.get("fit", {}))
    if "layout" in how:
        how["layout"] = layout_of(how["layout"])
    parts = [*_read(task, "train")]
    there = len(parts[0].realisations)
    number = count("conditions", task.get("conditions", there))
    require(number <= there, f"conditions must be at most {there}, as many as there are, but are {number}")
    taken = torch.arange(number)
    if (draw := task.get("draw")) is not None:  # a record is a mean of all its realisations: these stay together
        rng = torch.Generator().manual_seed(count("draw", draw, 0))
        taken = torch.randint(number, (number,), generator=rng)
        parts = [parts[n] for n in torch.randint(len(parts), (len(parts),), generator=rng)]
    learned = fit([part.select(taken) for part in parts], seeds=[count("seed", task.get("seed", 0), 0)], **how)
    found: dict[str, Any] = {"unsound": learned.unsound, "train": _told(learned.scores)}
    if _files(task, "test"):
        names = {"controls": how.get("controls", ()), "forces": how.get("forces", "external_force")}
        test = observe(_read(task, "test"), **names, spacing=how.get("spacing") or 1.0)
        found["test"] = _told(scores(learned.model, test))
        found["nll"] = learned.model.nll(test, learned.model.encode(test)).item()
    return found


def _files(task: Task, name: str) -> list[str]:
    paths = task.get(name) or []
    return [paths] if isinstance(paths, str) else list(paths)


def _read(task: Task, name: str) -> Iterator[Ensemble]:
    """The parts, with the records that the fit asks for, if no others are named."""
    how = task.get("fit", {})
    asked = [how.get(part, ()) for part in ("controls", "forces")]
    records = [each for part in asked for each in ([part] if isinstance(part, str) else part)]
    for path in _files(task, name):
        known = {} if path.endswith(".safetensors") or not records else {"records": records}
        yield read(path, **{**known, **task.get("read", {})})


def _told(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"error": score.errors[0], "noise": score.noise} for name, score in found.items()}
