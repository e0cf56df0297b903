"""The command line: a law for data of one's own, and the published numbers.

`ibvonns inspect FILE` tells what a file of particles holds and what looks wrong in it; it exits with 1 if a law
learned from it would be wrong. FILE is of any format that `ibvonns.read` knows.

- `--control NAME`, `--force NAME`: records that are controls of a point, and the forces conjugate to them in the same
  order; or the force at the end of a row. Again for each.
- `--layout point|row`: of the sites; a point if not given.
- `--spacing X`: natural length of a site of a row.
- `--positions KEY`, `--times KEY`, `--axes "condition time realisation"`: what the positions and times are called in
  FILE, and the order of the axes, as for `ibvonns.read`. Columns of a table are given as `x,y`.

`ibvonns fit FILE --out DIR` learns a law; writes law.safetensors, law.json, scores.json, log.jsonl and, where
matplotlib is there, report.html to DIR. Called again after an interruption it goes on from its last checkpoint there.

- `--control`, `--force`, `--layout`, `--spacing`, `--positions`, `--times`, `--axes`: as for `inspect`. A file of more
  than 2 GB is read in parts.
- `--out DIR`: the folder; it is made if there is none.
- `--internal N|auto`: internal variables of a site; 1 if not given.
- `--seeds N`, `--seed-offset N`: how many seeds, 2 if not given, and the first of them, 0 if not given.
- `--decoder NAME`: auto, gaussian, gaussians, mixture or flow.
- `--temperature X`: kBT; with it heat is known, too.
- `--steps midpoint|euler`: how time goes on between two records.
- `--unit NAME=UNIT`: of positions, times or a record; again for each.

With a terminal a bar shows the time left, else a line on standard error does, every ten seconds; log.jsonl has an
object in each line: start, end, and at each checkpoint step, steps in all and terms of the loss. With
IBVONNS_PROGRESS=off neither is shown.

`ibvonns predict MODEL FILE` prints what a saved law says under the controls of FILE, `.npz` or `.csv`, by their names
beside "time" (and "condition"), as CSV: forces, work, free energy, dissipation, and heat if kBT is known.

- `--out CSV`: the file to write instead.
- `--sites N`: of a row.

`ibvonns report MODEL FILE` writes a page on a saved law and how it meets the data of FILE.

- `--out PAGE`: report.html if not given.
- `--positions`, `--times`, `--axes`: as for `inspect`.

`ibvonns merge OUT MODEL...` joins the seeds of several saved laws, which other jobs have trained on the same data with
another `--seed-offset`, in a new file.

`ibvonns sweep FILE` fits a law for every combination of what a plan in TOML varies, and adds a row for each to a table
of JSON lines. The plan names files under `train` and `test`, what `read` and `fit` take under these names, and lists
under `vary`: of `seed`, `draw` (a bootstrap), `conditions`, or of what `fit` takes.

- `--table FILE`: the table; FILE.jsonl if not given.
- `--jobs N`: processes of this machine, 1 if not given.
- `--scheduler ADDRESS`: of a Dask cluster instead, as in `tcp://host:8786`.
- `--resume` or `--no-resume`: whether rows that are there are left as they are, which they are if not given.

A fit that failed is told in a line with its reason, and is tried again by the next sweep.

`ibvonns reproduce STUDY` simulates, trains from scratch and scores a study.

- `--seeds N`: how many seeds, from 0; as many as the book trains if not given.
- `--out FOLDER`: for the results; a cache if not given.
- `--data-seed N`: of the data, 0 if not given.

`ibvonns scoreboard` shows the published numbers beside ours, and trains first what is missing. How far this is, and
how far `reproduce` is, stands on standard error, as for `fit`.

- `--study STUDY`: one study; all if not given. With `lattice`, what the abstract of Stat-PINNs claims;
  with `beyond`, the errors of laws on protocols that turn round.
- `--seeds N`: how many seeds, from 0.
- `--out FOLDER`: read what `reproduce --out` wrote.
- `--json`, `--csv`: print these instead of a table.
- `--check`: exit with 1 if a row is worse than the one that the library keeps.

`ibvonns export STUDY FILE` writes a trained model as JSON.

- `--replica N`: which of the trained seeds.

`ibvonns --version` prints the version. STUDY is one of trap, chain-gmm and chain-cnf; `reproduce` knows
lattice-short and lattice-long, too. What is wrong with an argument is said in one sentence, with exit
status 2; `--help` tells of each command.
"""

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from ibvonns import __version__, commands
from ibvonns.commands import told, watched
from ibvonns.files import plain, save_json
from ibvonns.paper import beyond, claims, gases
from ibvonns.paper import scoreboard as boards
from ibvonns.paper.results import load_metrics, result, study_folder
from ibvonns.paper.results import reproduce as run_study
from ibvonns.paper.studies import STUDIES
from ibvonns.validation import choice

__all__ = ["app"]

#: The program behind the command `ibvonns`.
#:
#: :meta hide-value:
app = typer.Typer(
    help="Learn laws from particles; re-train and check the published numbers of IB-VONNs (Qiu, Huang, Reina).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
TABLE = 80  # columns in which the table of the scoreboard is whole
MINUTES = {"trap": 2, "chain-gmm": 4, "chain-cnf": 4}  # of one processor, for eight seeds
Name = Annotated[str, typer.Argument(help=f"One of: {', '.join(STUDIES)}.")]
Seeds = Annotated[
    int | None, typer.Option(min=1, help="How many seeds, counted from 0; the book's number if not given.")
]


def _show(text: Table | Markdown | str) -> None:
    """Print; a narrower terminal than a table needs breaks its lines, but no number is cut."""
    if isinstance(text, str):
        print(text, flush=True)  # now, for the disk behind the output may be full
    else:
        Console(width=max(Console().width, TABLE)).print(text)


def _say(line: str) -> None:
    """Tell how far it is on standard error, which IBVONNS_PROGRESS=off silences."""
    if os.environ.get("IBVONNS_PROGRESS") != "off":
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _watching(folders: Mapping[str, Path], seeds: int | None) -> Iterator[None]:
    """Tell of each study what is trained into its folder, how long that takes and how far it is."""
    with ExitStack() as stack:
        for study, folder in folders.items():
            one = STUDIES[study]
            _say(
                f"{study}: {len(one.splits['train'].values)} pulls of {one.realisations} realisations are simulated; "
                f"laws are trained on them and scored (seeds: {seeds or one.seeds}).\nEight seeds take about "
                f"{MINUTES[study]} minutes of one processor. What is stopped goes on from its last checkpoint in"
                f"\n{folder}"
            )
            stack.enter_context(watched(folder))
        yield


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Learn laws from particles; re-train and check the published numbers of IB-VONNs (Qiu, Huang, Reina)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of few characters
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ibvonns").setLevel(logging.INFO)  # which engine runs


@app.command()
@told()
def reproduce(
    study: Name,
    seeds: Seeds = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; a cache if not given.")] = None,
    data_seed: Annotated[int, typer.Option(min=0, help="Seed of the data.")] = 0,
) -> None:
    """Simulate, train from scratch and score a study; write metrics.json and the model.

    A run that was interrupted goes on from its last checkpoint in the same folder.
    """
    choice("study", study, [*STUDIES, *gases.STUDY])
    if study in gases.STUDY:
        return _learn_gases(study, seeds, out, data_seed)
    folder = out or study_folder(study, seeds, data_seed)
    with _watching({study: folder}, seeds):
        metrics = run_study(study, seeds, out, data_seed)
    _show(boards.table(boards.scored_rows(metrics)))
    print(f"trained {len(metrics['seeds'])} seeds in {metrics['training_seconds']} s")
    print(f"draw of first weights that went on: {metrics['draws']}\nwrote {folder / 'metrics.json'}")


def _learn_gases(study: str, seeds: int | None, out: Path | None, data_seed: int) -> None:
    """Train the gases of a study and print the errors of their laws."""
    for name in gases.STUDY[study]:
        model = gases.trained(name, data_seed, seeds or gases.SEEDS)
        found = claims.errors(gases.GASES[name], model)
        if out is not None:
            model.save(out / f"{name}.safetensors")
            save_json(out / f"{name}.json", found)
        for quantity, values in found.items():
            middle, low, high = (f"{each:.2g}" for each in boards.summary(values).values())
            over = f" over {len(values)} seeds" if len(values) > 1 else ""
            print(f"{name}: error of {quantity} {middle} % [{low}, {high}]{over}")


@app.command()
@told()
def scoreboard(
    study: Annotated[str | None, typer.Option(help="One study; all that can be trained if not given.")] = None,
    seeds: Seeds = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as a JSON list instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a row is worse than the stored one.")] = False,
    out: Annotated[Path | None, typer.Option(help="Read a folder that `reproduce --out` wrote.")] = None,
) -> None:
    """Show published numbers beside ours; what has not been trained yet is trained first.

    With the book's own seeds each row has a verdict, and a noise floor with its scatter.
    """
    own = seeds is None and out is None
    if check and not own:
        raise typer.BadParameter("--check is for the book's own seeds: leave --seeds and --out out")
    tables: dict[str, tuple[Callable[[], Any], Callable[[Any], str]]] = {
        "lattice": (claims.claims, claims.told), "beyond": (beyond.scores, beyond.told),
    }  # fmt: skip
    if study in tables:
        if check or as_csv or not own:
            raise typer.BadParameter(f"--study {study} knows --json alone: leave --check, --csv, --seeds and --out out")
        made, told = tables[study]
        found = made()
        return _show(json.dumps(plain(found), indent=1, allow_nan=False) if as_json else Markdown(told(found)))
    wanted = list(STUDIES) if study is None else [choice("study", study, STUDIES)]
    if out is not None:
        wanted = [load_metrics(out / "metrics.json")["study"]]
    drawn = [STUDIES[name].drawn for name in wanted]  # verdicts need all that is learned from the same data
    needed = [name for name, one in STUDIES.items() if name in wanted or (own and one.drawn in drawn)]
    folders = {name: study_folder(name, seeds) for name in needed if out is None}
    missing = {name: folder for name, folder in folders.items() if not (folder / "history.safetensors").exists()}
    with _watching(missing, seeds):
        rows = [row for name in wanted for row in (boards.board(name) if own else boards.score(name, seeds, out))]
    if check:
        worse = boards.worsened(rows, boards.stored())
        print("\n".join(worse) or f"none of {len(rows)} rows is worse than the stored one")
        raise typer.Exit(1 if worse else 0)
    if as_json:
        _show(json.dumps(plain(rows), indent=1, allow_nan=False))
    elif as_csv:
        _show(boards.comma_separated(rows).rstrip("\n"))
    else:
        _show(boards.table(rows))
        _say(f"Next: chapter 16 of the book explains the rows; `ibvonns export {wanted[0]} FILE` writes the law")


@app.command()
@told()
def export(
    study: Name,
    out: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    replica: Annotated[int, typer.Option(min=0, help="Which of the trained seeds.")] = 0,
) -> None:
    """Write a trained model as JSON, whole digits, for a page or another language."""
    save_json(out, result(study)[0].exported(replica))
    print(f"wrote {out}")


app.add_typer(commands.app)

if __name__ == "__main__":
    app()
