"""The commands for data of one's own: `ibvonns inspect`, `fit`, `predict`, `report`, `merge` and `sweep`.

What each takes is told by `ibvonns.paper.cli`, to which they belong.
"""

import csv
import io
import json
import os
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from threading import Event, Thread
from typing import Annotated, Any

import numpy
import torch
import typer
from safetensors import SafetensorError, safe_open

from ibvonns import __version__, reading
from ibvonns.answers import Answer
from ibvonns.answers import predict as predicted
from ibvonns.ensemble import Ensemble
from ibvonns.files import plain, save_json, write
from ibvonns.inspection import inspect as inspected
from ibvonns.layouts import Layout, Point, Row
from ibvonns.learning import Learned
from ibvonns.learning import fit as fitted
from ibvonns.model import DECODERS, KIND, Model, load
from ibvonns.observations import observe
from ibvonns.seeds import scores
from ibvonns.sweeps import fitted_task, tasks_of
from ibvonns.sweeps import sweep as swept
from ibvonns.training import TrainingError
from ibvonns.validation import choice, require

__all__ = ["app", "merged", "told", "watched"]

#: Commands for data of one's own; those of `ibvonns.paper.cli` stand beside them.
#:
#: :meta hide-value:
app = typer.Typer()
LARGE = 2 * 10**9  # bytes from which a file is read in parts
WAIT, SAY = 0.5, 10.0  # seconds between two looks at a training, and between two lines
File = Annotated[Path, typer.Argument(help="The data, in any format that `ibvonns.read` knows.", show_default=False)]
Saved = Annotated[Path, typer.Argument(help="A saved law, .safetensors or .json.", show_default=False)]
Control = Annotated[
    list[str] | None, typer.Option(help="A record that is a control of a point; again for each.", show_default=False)
]
Force = Annotated[
    list[str] | None,
    typer.Option(
        help="A record of the force conjugate to it, in the same order; or at the end of a row.", show_default=False
    ),
]
Of = Annotated[str, typer.Option(help="Layout of the sites: point or row.")]
Spacing = Annotated[float | None, typer.Option(help="Natural length of a site of a row.")]
Positions = Annotated[str | None, typer.Option(help="Key of the positions in FILE, or columns as in x,y.")]
Times = Annotated[str | None, typer.Option(help="Key of the times in FILE, or the column.")]
Axes = Annotated[str | None, typer.Option(help='Axes of the positions, as in "condition time realisation".')]


@contextmanager
def told() -> Iterator[None]:
    """What is wrong is said in one sentence, with exit status 2."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, TrainingError) as error:
        raise typer.BadParameter(str(error)) from None


# --- reading -------------------------------------------------------------------------------------


def _read(
    path: Path,
    names: Sequence[str],
    positions: str | None,
    times: str | None,
    axes: str | None,
    units: Sequence[str] = (),
) -> Iterator[Ensemble]:
    """The parts of a file: one, unless it is large."""
    keys: dict[str, Any] = {"times": times, "axes": axes, "positions": positions}
    if units:
        for unit in units:
            require("=" in unit, f"unit must be a name, = and a word, but is {unit!r}")
        keys["units"] = {name: word for name, _, word in (unit.partition("=") for unit in units)}
    if path.suffix.lower() in (".csv", ".parquet", ".feather") and positions:
        keys["positions"] = positions.replace(",", " ").split()
    if names and path.suffix.lower() != ".safetensors":  # a saved ensemble has its records with it
        keys["records"] = list(names)
    given = {name: value for name, value in keys.items() if value is not None}
    if not (path.is_file() and path.stat().st_size > LARGE):
        given["size"] = sys.maxsize  # in one part
    return reading.read_parts(path, **given)


def _layout(kind: str, controls: Sequence[str]) -> Layout:
    return Row() if choice("layout", kind, ("point", "row")) == "row" else Point(len(controls) or 1)


@app.command()
@told()
def inspect(
    file: File,
    control: Control = None,
    force: Force = None,
    layout: Of = "point",
    spacing: Spacing = None,
    positions: Positions = None,
    times: Times = None,
    axes: Axes = None,
) -> None:
    """Tell what FILE holds and what looks wrong in it; exit with 1 if a law learned from it would be wrong.

    Of a file of more than 2 GB the first part is inspected.
    """
    controls, forces = control or [], force or []
    part = next(_read(file, [*controls, *forces], positions, times, axes))
    summary = inspected(part, controls, forces, _layout(layout, controls), spacing=spacing)
    print(summary, flush=True)
    raise typer.Exit(0 if summary.sound else 1)


# --- fitting -------------------------------------------------------------------------------------


def _seen(path: Path) -> tuple[int, int, dict[str, Any]] | None:
    """Step, steps in all and the last terms of the loss, as a checkpoint tells them; None if it has just gone."""
    try:
        with safe_open(path, framework="pt") as file:
            done = int(file.get_tensor("done"))
            terms = {n[8:]: file.get_tensor(n) for n in file.keys() if n.startswith("history.")}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    seen = torch.stack([*terms.values()]).isfinite().any(0).any(-1).nonzero().flatten()
    if not len(seen):
        return None
    first, last, records = int(seen[0]), int(seen[-1]), len(next(iter(terms.values())))
    return done, 10 * (records - first), {name: part[last].tolist() for name, part in terms.items()}


@contextmanager
def watched(folder: Path, wait: float = WAIT, say: float = SAY) -> Iterator[Callable[..., None]]:
    """Keep `log.jsonl` while a training writes its checkpoints into a folder, and tell of it on standard error.

    A line of the log is an object with its time; of a step it has "step", "of", the steps of this run, and "terms",
    the loss by name, for each seed. A model whose seeds are drawn several times, or a choice, is several runs, and each
    is told by the name of its checkpoint, "run". On a terminal, where training has a bar, its end alone is told.

    Args:
        folder: of checkpoints and log; it is made if there is none.
        wait: seconds between two looks.
        say: seconds between two lines on standard error.

    Yields:
        A function that logs what it is given by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ended, runs = Event(), dict[Path, tuple[int, int, float]]()  # step, first step, and when that was seen
    quiet, bar = os.environ.get("IBVONNS_PROGRESS") == "off", sys.stderr.isatty()

    def log(**what: Any) -> None:
        line = {"time": datetime.now().astimezone().isoformat(timespec="milliseconds"), **plain(what)}
        with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def watch() -> None:
        said = due = time.monotonic()
        line = ""
        while not ended.wait(wait):
            paths, clock = [*folder.glob(".checkpoint-*.safetensors")], time.monotonic()
            for path in paths:
                now = _seen(path)
                if now is None or runs.get(path, (-1,))[0] == now[0]:
                    continue
                runs[path] = step, first, since = (now[0], *runs.get(path, (0, now[0], clock))[1:])
                log(run=path.stem[12:20], step=step, of=now[1], terms=now[2])
                due = clock + (now[1] - step) * (clock - since) / max(1, step - first)
                line = f"step {step} of {now[1]}"
            if line and not (quiet or (bar and paths)) and clock - said >= say:
                said, left = clock, round(due - clock)
                text = line + f", {timedelta(seconds=left)} left" * (left > 0)
                print(text if paths else "trained, and now scored", file=sys.stderr, flush=True)
                line = line if paths else ""

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield log
    finally:
        ended.set()
        thread.join()


@app.command()
@told()
def fit(
    file: File,
    out: Annotated[Path, typer.Option(help="Folder for the law, its scores, a log and a report.", show_default=False)],
    layout: Of = "point",
    control: Control = None,
    force: Force = None,
    internal: Annotated[str, typer.Option(help="Internal variables of a site, or auto.")] = "1",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 2,
    seed_offset: Annotated[int, typer.Option(min=0, help="The first seed, for jobs that are merged later.")] = 0,
    decoder: Annotated[str, typer.Option(help=f"One of: auto, {', '.join(DECODERS)}.")] = "auto",
    spacing: Spacing = None,
    temperature: Annotated[float | None, typer.Option(help="kBT, in the unit of force times position.")] = None,
    steps: Annotated[str, typer.Option(help="midpoint, or euler for what was simulated so.")] = "midpoint",
    unit: Annotated[
        list[str] | None, typer.Option(help="A unit, as in times=ms; again for positions and each record.")
    ] = None,
    positions: Positions = None,
    times: Times = None,
    axes: Axes = None,
) -> None:
    """Learn a law from FILE; write law.safetensors, law.json, scores.json and, with matplotlib, report.html.

    A run that was interrupted goes on from its last checkpoint in the same folder.
    """
    controls, forces = control or [], force or []
    require(internal == "auto" or internal.isdecimal(), f"internal must be a number or 'auto', but is {internal!r}")
    number, sites = internal if internal == "auto" else int(internal), _layout(layout, controls)
    parts = _read(file, [*controls, *forces], positions, times, axes, unit or [])
    first = next(parts)
    summary = inspected(first, controls, forces, sites, 1 if number == "auto" else int(number), spacing)
    print(summary, flush=True)
    for finding in summary.findings:
        require(finding.kind != "error", finding.what)
    drawn = range(seed_offset, seed_offset + seeds)
    with watched(out) as log:
        log(stage="start", file=str(file), seeds=[*drawn], version=__version__)
        learned = fitted(
            chain([first], parts), sites, controls, forces, number, drawn, decoder, spacing, folder=out,
            temperature=temperature, steps=steps, check=False,
        )  # fmt: skip
        log(stage="end", terms={name: term[-1].tolist() for name, term in learned.history.items()})
    for name in ("law.safetensors", "law.json"):
        learned.save(out / name)
    save_json(out / "scores.json", _told(learned))
    print("\n".join([str(learned.choice)] * (learned.choice is not None) + [str(learned), *learned.unsound]))
    if find_spec("matplotlib"):
        learned.report(out / "report.html")
    else:
        print('no report, for matplotlib is missing: pip install "ibvonns[plots]"')
    print(f"wrote {out / 'law.safetensors'}")


def _told(learned: Learned) -> Any:
    """What came out, for JSON."""
    choice = learned.choice
    return plain({
        "version": __version__, "seeds": learned.model.seeds, "draws": learned.draws, "unsound": learned.unsound,
        "scores": {name: {"errors": score.errors, "noise": score.noise} for name, score in learned.scores.items()},
        "choice": choice and {"number": choice.number, "errors": choice.errors, "nll": choice.nll},
    })  # fmt: skip


# --- what a saved law is asked -------------------------------------------------------------------


def _histories(path: Path) -> dict[str, numpy.ndarray[Any, Any]]:
    """Arrays by name: of `.npz`, or columns of `.csv`, those of several conditions as (conditions, times)."""
    ends = choice("the ending of FILE", path.suffix.lower(), (".npz", ".csv"))
    require(path.is_file(), f"FILE must name an existing file, but {str(path)!r} is none")
    try:
        if ends == ".npz":
            with numpy.load(path) as file:
                return {"time" if name == "times" else name: file[name] for name in file}
        with path.open(encoding="utf-8", newline="") as lines:
            head, *rows = csv.reader(lines)
        table = numpy.array(rows, float).T
        columns = {"time" if name == "times" else name: part for name, part in zip(head, table, strict=True)}
    except Exception as error:  # of NumPy, zip and csv
        raise ValueError(f"FILE must be whole and hold numbers, but {str(path)!r} does not ({error})") from None
    labels = columns.pop("condition", numpy.zeros(len(rows)))
    places = [labels == label for label in dict.fromkeys(labels.tolist())]
    require(len({int(each.sum()) for each in places}) == 1, "conditions must have as many times, but differ")
    wide = {name: numpy.stack([column[each] for each in places]) for name, column in columns.items()}
    clock = wide.get("time", numpy.zeros((1, 1)))
    require((clock == clock[0]).all(), "conditions must have the same times, but differ")
    return wide | ({"time": clock[0]} if "time" in wide else {})


def _rows(answer: Answer) -> str:
    """A table of an answer, CSV: a line for each condition and time, of each quantity the mean and the scatter."""
    bands = {**answer.force, "work": answer.work, "free_energy": answer.free_energy}
    bands |= {"dissipation": answer.dissipation} | ({"heat": answer.heat} if answer.heat else {})
    columns = {name: band for name, band in answer.controls.items() if name not in answer.force}
    columns |= {f"{n}{end}": getattr(b, how) for n, b in bands.items() for end, how in (("", "mean"), ("_std", "std"))}
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["condition", "time", *columns])
    for row, place in numpy.ndindex(*answer.work.mean.shape):
        numbers = [answer.times[place], *(column[row, place] for column in columns.values())]
        table.writerow([row, *(f"{number:.10g}" for number in numbers)])
    return file.getvalue()


@app.command()
@told()
def predict(
    model: Saved,
    file: Annotated[Path, typer.Argument(help="Times and controls by name, .npz or .csv.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The CSV file to write; printed if not given.")] = None,
    sites: Annotated[int, typer.Option(min=1, help="Of a row.")] = 1,
) -> None:
    """Predict forces, work, free energy and dissipation under the controls of FILE, from equilibrium, as CSV.

    FILE holds time, and each control of shape (times,) or (conditions, times); a table has a column condition
    where there are several. Of a row the control is "length" or "force".
    """
    law, given = load(model), _histories(file)
    of = law.architecture
    require("time" in given, f"FILE must hold the times, as 'time', but holds {', '.join(given) or 'nothing'}")
    driven = law.law.layout.driven
    names = ["length", "force"] if driven else of.controls or [f"control {n}" for n in range(of.layout.fields)]
    own = {name: given[name] for name in of.controls if name in given} if driven else {}
    known = {name: given[name] for name in names if name in given}
    text = _rows(predicted(law, given["time"], known, sites=sites, parameters=own))
    if out is None:
        print(text, end="", flush=True)
    else:
        write(out, text.encode())
        print(f"wrote {out}")


@app.command()
@told()
def report(
    model: Saved,
    file: File,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    positions: Positions = None,
    times: Times = None,
    axes: Axes = None,
) -> None:
    """Write a page on a saved law: its errors on FILE beside their noise, tests, figures, what is left open."""
    law = load(model)
    of, controls = law.architecture, () if law.architecture.bonds else law.architecture.controls
    parts = _read(file, [*controls, *of.forces], positions, times, axes)
    data = observe(parts, controls, of.forces, spacing=of.spacing)
    Learned(law, data, {}, [0] * len(law.seeds), scores(law, data)).report(out)
    print(f"wrote {out}")


def merged(models: Sequence[Model]) -> Model:
    """The replicas of several models, which were trained on the same data, as one model.

    Args:
        models: of one architecture and gauge, with different seeds.

    Raises:
        ValueError: no model, another architecture, other data or a seed that comes twice.

    >>> from ibvonns.model import Architecture
    >>> one, two = (Model([seed], Architecture(Point(), decoder="gaussian")) for seed in (3, 5))
    >>> merged([one, two]).seeds
    [3, 5]
    """
    require(len(models) > 0, "models must number at least 1, but number 0")
    first, *others = models
    seeds = [seed for model in models for seed in model.seeds]
    again = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    states = [model.state_dict() for model in models]
    for place, (model, state) in enumerate(zip(others, states[1:], strict=True), 2):
        one, two = first.architecture.plain(), model.architecture.plain()
        odd = [name for name in one if one[name] != two[name]]
        require(not odd, f"models must have one architecture, but number {place} differs in {', '.join(odd)}")
        # what has no axis of replicas is the scale of the data
        same = all(torch.allclose(part, states[0][name], 1e-9, 0.0) for name, part in state.items() if part.ndim < 3)
        require(same, f"models must have been trained on the same data, but number {place} has other scales")
    require(not again, f"models must have different seeds, but share {again}")
    tensors = {
        n: torch.cat([state[n] for state in states]) if part.ndim == 3 else part for n, part in states[0].items()
    }
    return Model.restored(
        {"kind": KIND, "seeds": seeds, "architecture": first.architecture.plain(), "tensors": tensors}
    )


@app.command()
@told()
def merge(
    out: Annotated[Path, typer.Argument(help="The file to write, .safetensors or .json.", show_default=False)],
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Saved laws.", show_default=False)],
) -> None:
    """Join the seeds of several saved laws, trained on the same data, in one new file."""
    require(not out.exists(), f"OUT must name a new file, but {str(out)!r} exists")
    whole = merged([load(path) for path in models])
    whole.save(out)
    print(f"wrote {out}, seeds {', '.join(map(str, whole.seeds))}")


@app.command()
@told()
def sweep(
    file: Annotated[Path, typer.Argument(help="A plan: train, test, fit and vary, in TOML.", show_default=False)],
    table: Annotated[Path | None, typer.Option(help="JSON lines, FILE.jsonl if not given.", show_default=False)] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes of this machine.")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="Of a Dask cluster, its address.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option(help="Leave what the table holds.")] = True,
) -> None:
    """Fit a law for every combination of what a plan varies; a row of a table for each."""
    require(find_spec("joblib"), 'a sweep needs joblib, which is missing: pip install "ibvonns[cluster]"')
    from joblib import parallel_config

    try:
        tasks = tasks_of(tomllib.loads(file.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"FILE must be TOML, but {str(file)!r} is not: {error}") from None
    out = table or file.with_suffix(".jsonl")
    with ExitStack() as stack:
        if scheduler:
            require(find_spec("distributed"), 'Dask is missing: pip install "ibvonns[cluster]"')
            from distributed import Client

            stack.enter_context(Client(scheduler))
        stack.enter_context(parallel_config(backend="dask") if scheduler else parallel_config(n_jobs=jobs))
        rows = swept(fitted_task, tasks, out, resume, lambda line: print(line, flush=True))
    print(f"wrote {out}: {len(rows)} fits, of which {sum('failed' in row for row in rows)} failed")
