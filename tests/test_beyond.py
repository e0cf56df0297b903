"""Beyond the paper's pulls: no test protocol is trained on, work is what is done, tables say what was found."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ibvonns.paper import beyond, cli
from ibvonns.paper.beyond import DESIGNS, HIGH, LAWS, LOW, NEW, UNSEEN, Trial
from ibvonns.protocols import Protocol, lengths
from ibvonns.recipe import Phase, Recipe, Stage
from ibvonns.systems.trap import paper_times


def test_no_unseen_protocol_is_in_a_design_and_all_stay_within_its_lengths() -> None:
    unseen = [protocol for kind in UNSEEN.values() for protocol in kind]
    assert not {*unseen} & {protocol for design in DESIGNS.values() for protocol in design}
    low, high = lengths(unseen, paper_times()).aminmax()
    assert float(low) >= LOW and float(high) <= HIGH
    assert {law.design for law in LAWS.values()} == {*DESIGNS} and NEW in LAWS


def test_work_of_a_constant_force_is_force_times_way() -> None:
    times = torch.tensor([0.0, 0.1, 0.4, 0.5], dtype=torch.float64)
    end = torch.tensor([1.0, 1.2, 1.1, 1.5], dtype=torch.float64)
    velocity = torch.cat([end[:1] * 0, end.diff() / times.diff()])
    done = beyond.work(torch.full((2, 4), 3.0, dtype=torch.float64), velocity, times)
    assert torch.allclose(done, torch.tensor([1.5, 1.5], dtype=torch.float64))


def test_observations_are_those_of_the_protocols_and_repeat() -> None:
    some = [Protocol("ramp", 0.1, 0.15, (0.5,)), Protocol("pull", 0.05, 0.2, (1.0,))]
    seen, again = (beyond.observed(some, 16, 3) for _ in range(2))
    assert torch.equal(seen.mean, again.mean) and seen.count == 16
    reached = seen.spacing * (seen.mean[..., 0].sum(-1) + seen.mean.shape[2])
    assert torch.allclose(reached, lengths(some, paper_times()), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("call", "said"), [
    (lambda: beyond.observed(UNSEEN["pull"], 12, 0), "realisations must be a multiple of 8, but are 12"),
    (lambda: beyond.observed([], 8, 0), "protocols must number at least 1"),
    (lambda: beyond.truth("jump"), "kind must be one of"),
    (lambda: beyond.trained("mine"), "law must be one of"),
    (lambda: beyond.recipe("poor"), "design must be one of"),
])  # fmt: skip
def test_bad_input_is_said_in_a_sentence(call: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()  # type: ignore[operator]


def test_the_table_gives_median_and_worst_seed() -> None:
    one = {"force": [1.0, 3.0, 2.0, 4.0], "strain": [0.5, 0.4, 0.6, float("inf")]}
    noise = {"force": [0.2], "strain": [0.6]}
    text = beyond.told({"mine": {"pull": one}, "noise": {"pull": noise}})
    assert text.splitlines()[-1] == "| pull | ≈2.5 [4.0] / ≈0.55 [inf] | 0.20 / 0.60 |"


def test_the_command_prints_the_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "mine": {"pull": {"force": [1.0], "strain": [float("inf")]}},
        "noise": {"pull": {"force": [0.2], "strain": [0.6]}},
    }
    monkeypatch.setattr(beyond, "scores", lambda: found)
    runner = CliRunner()
    assert "mine" in runner.invoke(cli.app, ["scoreboard", "--study", "beyond"]).output
    printed = runner.invoke(cli.app, ["scoreboard", "--study", "beyond", "--json"]).output
    assert json.loads(printed)["mine"]["pull"] == {"force": [1.0], "strain": [None]}
    assert runner.invoke(cli.app, ["scoreboard", "--study", "beyond", "--csv"]).exit_code == 2


def test_laws_are_scored_on_each_kind_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    short = Recipe((Stage((Phase(0, 3), Phase(1, 3, 4)), {"density": 1.0, "field": 1.0, "internal": 1.0}),), attempts=0)
    monkeypatch.setattr(Recipe, "of", classmethod(lambda _, layout: short))
    monkeypatch.setattr(
        beyond, "LAWS", {"felt": Trial("rich", 1, True, 2, attempts=0), "alone": Trial("paper", 2, seeds=1, attempts=0)}
    )
    monkeypatch.setattr(beyond, "UNSEEN", {"pull": UNSEEN["pull"][:1]})
    monkeypatch.setattr(beyond, "TRAINING", 40)
    monkeypatch.setattr(beyond, "TRUTH", 40)
    found = beyond.scores()
    assert [*found] == ["felt", "alone", "noise"] and len(found["felt"]["pull"]["force"]) == 2
    assert found["noise"]["pull"]["strain"][0] > 0 and beyond.scores() == found
    assert beyond.scores(["alone"]) == {name: found[name] for name in ("alone", "noise")}
    assert beyond.trained("felt").architecture.neighbours
    assert beyond.trained("alone").architecture.internal == 2
    with pytest.raises(ValueError, match="law must be one of"):
        beyond.scores(["mine"])
