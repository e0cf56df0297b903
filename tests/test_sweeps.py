"""Many fits as one table: the same numbers on any workers, rows that survive, and nothing counted twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import parallel_config
from short import deadly, short
from typer.testing import CliRunner

from ibvonns import sweep
from ibvonns.paper.cli import app
from ibvonns.sweeps import fitted_task, rows_of, tasks_of
from ibvonns.systems.trap import Trap

TASKS = [{"seed": seed, "draw": draw} for draw in (0, 1) for seed in (0, 1, 2)]


def results(rows: list[dict[str, Any]]) -> list[Any]:
    """What does not depend on the clock."""
    return [{name: value for name, value in row.items() if name not in ("seconds",)} for row in rows]


def quiet(line: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The rows of one worker."""
    return results(sweep(short, TASKS, tmp_path_factory.mktemp("serial") / "rows.jsonl", say=quiet))


def test_rows_come_in_the_order_of_their_tasks_and_stand_in_the_table(serial: list[Any], tmp_path: Path) -> None:
    assert [row["task"] for row in serial] == TASKS and len({row["key"] for row in serial}) == len(TASKS)
    assert all(len(row["result"]["force"]) == 1 for row in serial)


def test_a_sweep_goes_on_where_it_was_broken_off(serial: list[Any], tmp_path: Path) -> None:
    table, said = tmp_path / "rows.jsonl", list[str]()
    sweep(short, TASKS[:2], table, say=quiet)
    with table.open("ab") as file:
        file.write(b'{"key": "half a l')  # by a writer that died
    assert results(sweep(short, TASKS[:4], table, say=said.append)) == serial[:4]
    assert len(said) == 2 and said[0].startswith("1 of 2, ") and said[1] == "2 of 2, 0 s left"
    assert len(rows_of(table)) == 4
    before = table.read_bytes()
    assert results(sweep(short, TASKS[:4], table, say=quiet)) == serial[:4] and table.read_bytes() == before


def test_a_failure_is_a_row_with_its_reason_and_is_tried_again(tmp_path: Path) -> None:
    table, said = tmp_path / "rows.jsonl", list[str]()
    for _ in range(2):
        (row,) = sweep(short, [{"seed": -1}], table, say=said.append)
        assert row["failed"] == "ValueError: seed must not be below 0" and "result" not in row
    assert said[0] == 'failed: {"seed": -1}: ValueError: seed must not be below 0' and len(said) == 4


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"no": "row"}\n')
    with pytest.raises(ValueError, match="^table must hold rows, but line 1 of "):
        sweep(short, TASKS[:1], tmp_path / "rows.jsonl", say=quiet)


@pytest.mark.filterwarnings("ignore")  # of processes that are started and killed
def test_workers_of_a_cluster_find_the_same_and_one_that_dies_changes_nothing(
    serial: list[Any], tmp_path: Path
) -> None:
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        with parallel_config(backend="dask"):
            assert results(sweep(short, TASKS, tmp_path / "rows.jsonl", say=quiet)) == serial
            killed = [{**task, "mark": str(tmp_path / "dead")} if n == 2 else task for n, task in enumerate(TASKS)]
            rows = sweep(deadly, killed, tmp_path / "killed.jsonl", say=quiet)
    assert (tmp_path / "dead").exists()
    assert [row["result"] for row in rows] == [row["result"] for row in serial]
    assert len((tmp_path / "killed.jsonl").read_text().splitlines()) == len(TASKS)  # nothing is counted twice


def saved(folder: Path, seed: int) -> str:
    """A file of somebody's own."""
    few = Trap().simulate_paper(velocities=(0.5, 0.7, 1.0), realisations=40, seed=seed)
    path = folder / f"{seed}.npz"
    pull, force = (few.records[name].numpy() for name in ("pulled_length", "external_force"))
    np.savez(path, x=few.realisations.numpy(), times=few.times.numpy(), pull=pull, F=force)
    return str(path)


def test_the_command_fits_every_combination_of_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = (saved(tmp_path, seed) for seed in (0, 1))
    plan = tmp_path / "plan.toml"
    known = 'read = {positions = "x"}'
    how = 'controls = "pull"\nforces = "F"\ndecoder = "gaussian"\nsteps = "euler"\ncheck = false'
    vary = "seed = [0]\ndraw = [0, 1]\nconditions = [2, 9]"
    plan.write_text(f'train = "{train}"\ntest = "{test}"\n{known}\n[fit]\n{how}\n[vary]\n{vary}\n')
    monkeypatch.setattr("ibvonns.learning.suited", lambda *_: _short())
    ran = CliRunner().invoke(app, ["sweep", str(plan)])
    assert ran.exit_code == 0, ran.output
    assert ran.output.splitlines()[-1].endswith("plan.jsonl: 4 fits, of which 2 failed")
    rows = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()]
    good = [row for row in rows if "result" in row]
    assert len(rows) == 4 and [row["task"]["conditions"] for row in good] == [2, 2]
    assert all(row["result"]["test"]["force"]["error"] > 0 for row in good)
    assert all("conditions must be at most 3" in row["failed"] for row in rows if "failed" in row)


def _short() -> Any:
    from ibvonns import Phase, Recipe, Stage

    return Recipe((Stage((Phase(0, 3), Phase(1, 3)), {"density": 0.01, "internal": 1.0, "end": 100.0}),), attempts=0)


def test_parts_are_drawn_whole_and_a_plan_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ibvonns.learning.suited", lambda *_: _short())
    how = {"controls": "pull", "forces": "F", "decoder": "gaussian", "check": False}
    files = [saved(tmp_path, seed) for seed in (0, 1)]
    parts = {"train": files, "fit": how, "read": {"positions": "x"}}
    found = [fitted_task({**parts, "draw": draw})["train"]["force"]["error"] for draw in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    for plan, sentence in (
        ({}, "plan must name a file to train on"),
        ({"train": "a", "fits": {}}, "name in a plan must be one of"),
        ({"train": "a", "vary": {"seed": 3}}, r"vary\['seed'\] must be a list, but is 3"),
    ):
        with pytest.raises(ValueError, match=f"^{sentence}"):
            tasks_of(plan)
