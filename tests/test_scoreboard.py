"""Scoreboard and command line: verdicts, what is worse, tables, files, and one sentence for errors."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from experiments import identifiers, in_small
from rich.console import Console
from typer.testing import CliRunner

import ibvonns
from ibvonns.model import load
from ibvonns.paper import cli, scoreboard
from ibvonns.paper.results import load_metrics, reproduce
from ibvonns.paper.scoreboard import VERDICTS, WAYS, counted, verdict, worsened
from ibvonns_book.tables import judged, kept, markdown, words

PAPER = Path(ibvonns.__file__).parents[2] / "shared" / "paper" / "published.csv"
ROW = {
    "id": "x", "quantity": "strain", "unit": "%", "median": 2.0, "min": 1.9, "max": 2.2, "comparable": 2.0,
    "published": 2.0, "authors_code": None, "floor": 1.0, "floor_error": 0.1, "limit": None,
    "model": {"median": 1.7, "min": 1.6, "max": 1.8},
}  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Small studies, in a cache of their own."""
    with in_small(tmp_path_factory.mktemp("cache")) as patch:
        yield patch


@pytest.fixture(scope="module")
def folder(quick: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `reproduce` left of the trap."""
    out = tmp_path_factory.mktemp("study") / "deep"
    reproduce("trap", 2, out)
    return out


def ran(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command line."""
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": {"median": 1.0}}, 0),
        ({"median": 1.89}, 1),
        ({"median": 1.91}, 2),
        ({"median": 2.19}, 2),
        ({"median": 2.21}, 3),
        ({"median": 2.5, "authors_code": 2.4}, 2),
        ({"median": 2.1, "authors_code": 1.2}, 2),
        ({"median": float("inf"), "max": float("inf")}, 3),
        ({"median": float("nan"), "max": float("nan"), "model": {"median": float("nan")}}, 3),
        ({"id": "trap-alpha-test", "quantity": "alpha", "median": 1.91}, 2),
        ({"id": "gmm-alpha-test-force", "quantity": "alpha", "median": 0.1, "model": {"median": 0.1}}, 4),
        ({"unit": "nats", "median": 0.5, "limit": 0.4951, "comparable": 0.6}, 0),
        ({"unit": "nats", "median": 0.5, "max": 0.51, "limit": 0.49, "comparable": 0.6}, 1),
        ({"unit": "nats", "median": 0.598, "max": 0.6, "limit": 0.49, "comparable": 0.6}, 2),
        ({"unit": "nats", "median": 0.61, "max": 0.61, "limit": 0.49, "comparable": 0.6}, 3),
    ],
)
def test_verdict(change: dict[str, Any], expected: int) -> None:
    assert verdict({**ROW, **change}) == VERDICTS[expected]


def test_rows_are_counted_in_three_ways() -> None:
    rows = [
        ROW,
        {**ROW, "median": 1.8, "max": 2.3},
        {**ROW, "median": 2.5, "max": 2.6, "authors_code": 2.4},
        {**ROW, "model": {"median": 0.9, "max": 1.1}},
        {**ROW, "id": "gmm-alpha-test-force", "quantity": "alpha"},
        {**ROW, "unit": "nats", "median": 0.5, "max": 0.51, "limit": 0.4951, "comparable": 0.6},
    ]
    by = {way: list(counts.values()) for way, counts in counted(rows).items()}
    assert list(by) == list(WAYS)
    assert by[WAYS[0]] == [2, 1, 2, 0, 1]
    assert by[WAYS[1]] == [0, 1, 3, 1, 1]
    assert by[WAYS[2]] == [2, 1, 1, 1, 1]


def test_what_is_worse_is_told() -> None:
    old = {"x": {**ROW, "verdict": VERDICTS[2]}}
    now = {**ROW, "verdict": VERDICTS[2]}
    assert worsened([now], old) == []
    assert worsened([{**now, "median": 2.3}], old) == []  # half of the scatter beyond the largest
    assert "median 2.42, but was 2" in worsened([{**now, "median": 2.42}], old)[0]
    lost = {**now, "median": float("nan"), "verdict": VERDICTS[3]}
    assert "'differs', but was 'reproduced'" in worsened([lost], old)[0]
    poor = {"median": 2.5, "max": 2.6, "verdict": VERDICTS[3]}
    wide = {"x": {**ROW, **poor, "verdict": VERDICTS[2]}}
    assert "'differs', but was 'reproduced'" in worsened([{**now, **poor}], wide)[0]
    assert worsened([{**now, "median": 2.3}], wide) == []  # "differs", but by less than a tenth
    assert worsened([{**now, "median": 1.0}], old) == []
    best = {"x": {**ROW, "verdict": VERDICTS[0]}}
    assert worsened([{**now, "model": {"median": 1.1}}], best) == []
    assert "'reproduced', but was 'at" in worsened([{**now, "model": {"median": 1.2}}], best)[0]


def test_command_checks_and_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {**ROW, "verdict": VERDICTS[2], "median": 2.15}
    row |= {"quantity": "strain", "split": "test", "boundary": "", "seeds": 8}
    shown = {"trap": [row], "chain-gmm": [], "chain-cnf": []}
    monkeypatch.setattr(scoreboard, "board", lambda study: shown[study])
    monkeypatch.setattr(scoreboard, "stored", lambda: {"x": row})
    run = CliRunner().invoke
    assert run(cli.app, ["scoreboard", "--check"]).exit_code == 0
    assert json.loads(run(cli.app, ["scoreboard", "--json"]).stdout) == [row]
    table = list(csv.DictReader(io.StringIO(run(cli.app, ["scoreboard", "--csv"]).stdout)))
    assert table[0]["verdict"] == "reproduced" and table[0]["model_max"] == "1.8"
    monkeypatch.setattr(scoreboard, "stored", lambda: {"x": {**row, "verdict": VERDICTS[1]}})
    worse = run(cli.app, ["scoreboard", "--check"])
    assert worse.exit_code == 1 and "'reproduced', but was 'better" in worse.stdout
    refused = run(cli.app, ["scoreboard", "--check", "--seeds", "1"])
    assert refused.exit_code == 2


def test_the_stored_board_holds_every_published_row() -> None:
    """With all that a reader of `scoreboard --json` is promised."""
    kept = scoreboard.stored()
    published = scoreboard.published()
    assert list(kept) == [row["id"] for row in published]
    for row in published:
        mine = kept[row["id"]]
        assert mine["published"] == float(row["published"])
        assert mine["min"] <= mine["median"] <= mine["max"]
        assert mine["floor"] is not None and mine["seeds"] == 8
        assert mine["verdict"] == verdict(mine)
    assert worsened(list(kept.values()), kept) == []


@pytest.mark.skipif(not PAPER.exists(), reason="the paper's own list is not at hand")
def test_published_numbers_are_the_papers_list() -> None:
    """But for the remarks, which name the notes there and the errata here."""
    with PAPER.open(encoding="utf-8") as file:
        assert [{**row, "remark": ""} for row in csv.DictReader(file)] == [
            {**row, "remark": ""} for row in scoreboard.published()
        ]


def test_published_numbers_are_those_that_were_printed() -> None:
    rows = scoreboard.published()
    assert len(rows) == len({row["id"] for row in rows}) == 46
    for row in rows:
        (printed,) = re.findall(r"\d+\.\d+", row["printed_as"])
        assert row["published"].lstrip("-") == printed, row["id"]


def test_rows_are_the_published_ones_with_order_statistics(folder: Path) -> None:
    rows = scoreboard.score("trap", out=str(folder))
    metrics = load_metrics(folder / "metrics.json")
    assert [row["id"] for row in rows] == identifiers("trap")
    for row in rows:
        values = metrics["errors"][row["id"]]
        assert (row["min"], row["max"]) == (min(values), max(values))
        assert row["median"] == pytest.approx(sum(values) / 2)  # of two
        assert row["floor"] == metrics["floor"][row["id"]] and row["seeds"] == 2
        assert ("gauge_free" in row) == ("alpha" in row["id"])


def test_table_shows_every_row_once(folder: Path) -> None:
    rows = scoreboard.score("trap", out=str(folder))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(scoreboard.table(rows))
    drawn = console.export_text()
    lines = markdown(rows).splitlines()
    assert len(lines) == len(rows) + 2
    assert len({line.count("|") for line in lines}) == 1
    for name, line in zip(identifiers("trap"), lines[2:], strict=True):
        assert drawn.count(name) == 1 and f'title="{name}">{words(name, whole=False)}<' in line


def test_every_row_is_told_in_words_of_its_own() -> None:
    names = list(scoreboard.stored())
    assert len({words(name) for name in names}) == len(names)
    for name in names:
        assert not set(words(name).split()) & {name, "nll", "phi", "f", "cnf", "gmm"}, name


def test_each_verdict_follows_from_the_numbers_beside_it() -> None:
    """As they are shown, rounded; the two that decide are bold, and nothing else is."""
    board = scoreboard.stored()
    lines = judged(list(board.values())).splitlines()[2:]
    for row, line in zip(board.values(), lines, strict=True):
        said, _, ours, published, own, floor = (cell.strip() for cell in line.strip("|").split("|"))
        numbers = {name: re.findall(r"-?\d+\.?\d*", cell) for name, cell in
                   {"ours": ours, "published": published, "own": own, "floor": floor}.items()}  # fmt: skip
        shown = {**row, "median": float(numbers["ours"][0]), "comparable": float(numbers["published"][0])}
        shown["authors_code"] = float(numbers["published"][1]) if numbers["published"][1:] else None
        least = float(numbers["floor"][0])
        shown |= (
            {"limit": least} if row["unit"] == "nats" else {"floor": least, "model": {"median": float(own.strip("*"))}}
        )
        assert said == row["verdict"] == verdict(shown), line
        bold = {name for name, cell in {"ours": ours, "published": published, "own": own}.items() if "**" in cell}
        best = {"ours"} if row["unit"] == "nats" else {"own"}
        assert bold == (best if said == VERDICTS[0] else set() if said == VERDICTS[4] else {"ours", "published"})


def test_what_is_trained_now_is_shown_as_kept_unless_it_is_worse() -> None:
    old = scoreboard.stored()["gmm-strain-test-velocity"]
    bare = {name: old[name] for name in ("id", "quantity", "unit", "median", "min", "max")}  # as `score` knows it
    assert kept([{**bare, "median": 0.99 * old["median"]}]) == [old]
    with pytest.raises(ValueError, match="gmm-strain-test-velocity: median"):
        kept([{**bare, "median": 1.5 * old["median"]}])


def test_json_is_a_list_of_rows(folder: Path) -> None:
    code, out, _ = ran("scoreboard", "--json", "--out", str(folder))
    rows = json.loads(out)
    assert code == 0 and [row["id"] for row in rows] == identifiers("trap")
    for row in rows:
        assert {"id", "published", "median", "min", "max", "floor", "seeds"} <= row.keys()
        assert all(isinstance(row[name], (int, float)) for name in ("published", "median", "floor"))


def test_reproduce_writes_where_it_is_told(quick: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, out, _ = ran("reproduce", "trap", "--seeds", "1", "--out", str(tmp_path / "new"))
    assert code == 0 and "trap-nll-train" in out
    assert load_metrics(tmp_path / "new" / "metrics.json")["seeds"] == [0]


def test_what_is_trained_is_told_on_standard_error(quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of what the cache has, or where no progress is wanted."""
    monkeypatch.delenv("IBVONNS_PROGRESS", raising=False)
    call = ("scoreboard", "--study", "trap", "--seeds", "3")
    (_, _, first), (_, table, again) = ran(*call), ran(*call)
    monkeypatch.setenv("IBVONNS_PROGRESS", "off")
    assert "trap: 11 pulls of 60 realisations" in first and "(seeds: 3)" in first and "minutes of" in first
    assert again.startswith("Next: ") and first.endswith(again)
    assert ran(*call) == (0, table, "")


def test_help_names_the_commands_and_their_options() -> None:
    code, out, _ = ran("--help")
    assert code == 0 and "reproduce" in out and "scoreboard" in out
    _, out, _ = ran("scoreboard", "--help")
    assert all(option in out for option in ("--json", "--seeds", "--out", "--study"))
    assert ran("--version")[:2] == (0, f"{ibvonns.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("reproduce", "spring"),
            "study must be one of 'chain-cnf', 'chain-gmm', 'lattice-long', 'lattice-short', 'trap', but",
        ),
        (("scoreboard", "--study", "spring"), "study must be one of 'chain-cnf', 'chain-gmm', 'trap', but is 'spring'"),
        (("scoreboard", "--out", "/nowhere"), "must name an existing file, but '/nowhere/metrics"),
        (("reproduce", "trap", "--seeds", "0"), "--seeds"),
        (("reproduce", "trap", "--out", "/dev/null/x"), "Not a directory"),
        (("reproduce",), "Missing argument 'study'"),
        (("conquer",), "conquer"),
    ],
)
def test_errors_leave_by_one_sentence_and_a_code(arguments: tuple[str, ...], sentence: str) -> None:
    code, _, error = ran(*arguments)
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", error).split())
    assert code != 0 and sentence in words and "Traceback" not in error


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"errors": {}}', "\x00"])
def test_damaged_metrics_leave_by_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.json").write_text(content, encoding="utf-8")
    code, _, error = ran("scoreboard", "--out", str(tmp_path))
    assert code != 0 and "path must name a" in error and "Traceback" not in error


def test_export_writes_a_whole_law(quick: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, out, _ = ran("export", "trap", str(tmp_path / "law.json"), "--replica", "1")
    assert code == 0 and load(tmp_path / "law.json").seeds == [1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["law.json"]
    code, _, error = ran("export", "trap", str(tmp_path / "law.json"), "--replica", "2")
    assert code != 0 and "replica must be below 2" in " ".join(error.split())


def test_flows_likelihoods_are_set_in_the_mixtures_units() -> None:
    ids = identifiers("chain-cnf")
    exact = {"floor": dict.fromkeys(ids, 1.0), "limit": {}, "position_deviation": 0.5}
    rows = {row["id"]: row for row in scoreboard.score_errors("chain-cnf", dict.fromkeys(ids, [1.0]), {}, exact)}
    assert rows["cnf-nll-test"]["comparable"] == pytest.approx(0.337 - 0.6931472)
    assert rows["cnf-strain-test-force"]["comparable"] == 0.994


def test_a_seed_that_ran_away_is_shown(folder: Path) -> None:
    rows = scoreboard.score("trap", out=folder)
    rows[0] |= {"max": float("inf")}
    assert "inf" in markdown(rows) and scoreboard.summary([1.0, float("inf"), 2.0])["median"] == 2.0


@pytest.mark.parametrize("columns", ["20", "40", "200"])
def test_no_number_is_cut_in_a_narrow_terminal(columns: str) -> None:
    code = "from ibvonns.paper import cli, scoreboard as b; cli.main(); cli._show(b.table(list(b.stored().values())))"
    odd = os.environ | {"COLUMNS": columns, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], env=odd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = {
        words[0]: words[1:] for line in done.stdout.splitlines() if (words := re.split(r"[ |]+", line.strip(" |")))
    }
    for row in scoreboard.stored().values():
        floor = scoreboard.rounded(row["limit" if row["unit"] == "nats" else "floor"], row["unit"])
        assert {f"{row['comparable']:.3g}", floor} <= set(lines[row["id"]]), row["id"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux's")
def test_an_output_that_is_full_is_told_in_one_sentence() -> None:
    code = "from ibvonns.paper import cli; cli._show('text')"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0 and "No space left on device" in done.stderr
