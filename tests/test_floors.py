"""Noise floors from many ensembles against theory, pooled truths, verdicts, and what is worse."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ibvonns import cli, floors, scoreboard
from ibvonns.chain_model import observe_chain
from ibvonns.chain_studies import chain_data, chain_floors
from ibvonns.floors import floor_of, pooled
from ibvonns.metrics import relative_error
from ibvonns.model import Observations, observe
from ibvonns.scoreboard import VERDICTS, verdict, worsened
from ibvonns.studies import exact_trap_errors, trap_data
from ibvonns.systems.trap import Trap

GRID = torch.linspace(-2, 3, 200, dtype=torch.float64)
ROW = {
    "id": "x", "unit": "%", "median": 2.0, "min": 1.9, "max": 2.2, "comparable": 2.0,
    "published": 2.0, "authors_code": None, "floor": 1.0, "floor_error": 0.1, "limit": None,
    "model": {"median": 1.7, "min": 1.6, "max": 1.8},
}  # fmt: skip


def test_floor_of_the_trap_is_the_analytic_one_within_its_error() -> None:
    """The exact mean against samples, and sigma / sqrt(N) over the size of the mean."""
    parts = [trap_data(seed=2 * n, realisations=400)["test"] for n in range(12)]
    floor = floor_of(torch.stack([part.mean() for part in parts]))
    lengths, times = parts[0].records["pulled_length"], parts[0].times
    exact = Trap().mean(lengths, times)
    known = torch.tensor([relative_error(part.mean(), exact) for part in parts])
    error = floor.scatter / len(parts) ** 0.5
    assert abs(floor.value - float(known.mean())) <= 3 * error
    analytic = 100 * float(Trap().deviation(times).square().mean().sqrt()) / 400**0.5
    assert abs(floor.value - analytic / float(exact.square().mean().sqrt())) <= 4 * error
    assert 0.5 <= floor.scatter / float(known.std()) <= 2


def test_floor_of_the_chain_is_that_of_two_ensembles_within_its_error() -> None:
    parts = [chain_data(seed=2 * n, realisations=60) for n in range(6)]
    for split in ("train", "test"):
        floor = floor_of(torch.stack([part[split].mean() for part in parts]))
        two = chain_floors(parts[0], parts[1])[f"chain-strain-{split}-force"]
        # the difference of two has a scatter of its own, as large as that of one
        assert abs(floor.value - two) <= 3 * floor.scatter


def test_pooled_observations_are_those_of_all_realisations() -> None:
    parts = [trap_data(seed=2 * n, realisations=50)["train"] for n in range(3)]
    together: Any = pooled([observe(part, grid=GRID) for part in parts])
    every = torch.cat([part.realisations for part in parts], -1)
    assert isinstance(together, Observations)
    assert torch.allclose(together.mean, every.mean(-1))
    assert torch.allclose(together.variance, every.var(-1, unbiased=False))
    assert torch.allclose(together.density.weights @ GRID, every.mean(-1))
    force = torch.stack([part.records["external_force"] for part in parts]).mean(0)
    assert torch.allclose(together.external_force, force)


def test_pooling_asks_for_one_grid() -> None:
    parts = [chain_data(seed=n, realisations=20)["sine"] for n in range(2)]
    with pytest.raises(ValueError, match="parts must share one grid"):
        pooled([observe_chain(part) for part in parts])


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
        ({"unit": "nats", "median": 0.5, "limit": 0.4951, "comparable": 0.6}, 0),
        ({"unit": "nats", "median": 0.5, "max": 0.51, "limit": 0.49, "comparable": 0.6}, 1),
        ({"unit": "nats", "median": 0.598, "max": 0.6, "limit": 0.49, "comparable": 0.6}, 2),
        ({"unit": "nats", "median": 0.61, "max": 0.61, "limit": 0.49, "comparable": 0.6}, 3),
    ],
)
def test_verdict(change: dict[str, Any], expected: int) -> None:
    assert verdict({**ROW, **change}) == VERDICTS[expected]


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
    monkeypatch.setattr(cli, "board", lambda study: shown[study])
    monkeypatch.setattr(cli, "stored", lambda: {"x": row})
    run = CliRunner().invoke
    assert run(cli.app, ["scoreboard", "--check"]).exit_code == 0
    assert json.loads(run(cli.app, ["scoreboard", "--json"]).stdout) == [row]
    table = list(csv.DictReader(io.StringIO(run(cli.app, ["scoreboard", "--csv"]).stdout)))
    assert table[0]["verdict"] == "reproduced" and table[0]["model_max"] == "1.8"
    monkeypatch.setattr(cli, "stored", lambda: {"x": {**row, "verdict": VERDICTS[1]}})
    worse = run(cli.app, ["scoreboard", "--check"])
    assert worse.exit_code == 1 and "'reproduced', but was 'better" in worse.stdout
    refused = run(cli.app, ["scoreboard", "--check", "--seeds", "1"])
    assert refused.exit_code == 2


def test_scores_against_a_large_truth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of an untrained trap's model: errors of every seed, floors of every row."""
    from ibvonns.model import TrapModel

    data = trap_data(realisations=100)
    model = TrapModel([0, 1])
    seen = observe(data["train"])
    model.set_scales(seen)
    model.freeze(seen)
    monkeypatch.setattr(floors, "result", lambda study: (model, None, {"key": "one"}))
    monkeypatch.setattr(floors, "cached", lambda name, parts, compute, module: compute())
    monkeypatch.setattr(floors, "BLOCKS", {"trap": 100})
    scores = floors.truth_scores("trap", 400)
    rows = [row["id"] for row in scoreboard.published("trap")]
    assert scores["errors"].keys() == set(rows)
    assert all(len(values) == 2 for values in scores["errors"].values())
    expected = exact_trap_errors(data)["floor"]["trap-force-test"]
    assert scores["floor"]["trap-force-test"][0] == pytest.approx(expected, rel=0.5)


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
