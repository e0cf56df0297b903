"""The fits of chapter 15: what is asked of them, what they tell, and the table that is stored."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ibvonns import Phase, Recipe, Stage, fit, observe
from ibvonns.paper import certainty, ways
from ibvonns.paper.certainty import AMOUNTS, COVERAGE, amount, coverage, truth
from ibvonns.systems.trap import Trap, paper_times
from ibvonns_book import certainty as table

SHORT = Recipe((Stage((Phase(0, 10), Phase(1, 20, 4)), {"density": 0.01, "internal": 1.0, "end": 100.0}),), attempts=0)


def test_tasks_are_those_that_are_promised() -> None:
    assert len(AMOUNTS) > 300 and len(COVERAGE) == 40
    assert len({tuple(sorted(task.items())) for task in AMOUNTS}) == len(AMOUNTS)
    assert all(300 % (task["times"] - 1) == 0 for task in AMOUNTS)
    assert all(task["realisations"] % min(task["realisations"], 2500) == 0 for task in AMOUNTS)


def test_truth_of_the_trap_obeys_its_equation() -> None:
    """eta d<x>/dt = k (lambda - 2 <x>), Eq. (20), and F = k (lambda - <x>)."""
    for name in ("within", "outside"):
        path, force = (truth("trap")[name][part] for part in ("path", "force"))
        trap = Trap()
        mean = path - force / trap.stiffness
        wanted = trap.stiffness / trap.viscosity * (path - 2 * mean)[:, :-1]  # of Euler's steps
        assert np.allclose(np.diff(mean) / 0.01, wanted, atol=1e-9)
    within, outside = (truth("trap")[name]["path"] for name in ("within", "outside"))
    assert np.allclose(outside, 1.5 * within)
    with pytest.raises(ValueError, match="^system must be"):
        truth("gas")


def test_an_amount_of_data_is_a_fit_of_that_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certainty, "suited", lambda *_: SHORT)
    task: dict[str, Any] = {
        "system": "trap",
        "realisations": 20,
        "conditions": 3,
        "times": 301,
        "noise": 0.0,
        "draw": 1,
    }
    one, again = amount(task), amount(task)
    assert one == again and one.keys() == {"force", "noise"}
    more = amount({**task, "realisations": 200})
    assert more["noise"] < 0.5 * one["noise"]  # as one over the root of their number
    assert amount({**task, "draw": 2}) != one
    assert amount({**task, "noise": 0.1})["force"] != one["force"]


def test_coverage_counts_what_bands_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recipe, "of", classmethod(lambda *_: replace(SHORT)))
    found = coverage({"system": "trap", "set": 0})
    assert found.keys() == {"factors", "within force", "outside force"}
    for name in ("within force", "outside force"):
        assert 0 <= found[name]["held"] <= 1 and found[name]["width"] > 0
    made, what = certainty.bands_of("trap", 0), truth("trap")["within"]
    band = certainty.asked(made, "trap", what).force["external_force"]
    held = (what["force"] >= band.low) & (what["force"] <= band.high)
    assert found["within force"]["held"] == held.mean()


def test_the_last_layer_tells_how_wrong_a_linear_law_is() -> None:
    """Where the answer is linear in the weights, the deviation is that of ridge regression."""
    times = paper_times()
    parts = [Trap().simulate_paper(velocities=(0.5, 0.8, 1.0), realisations=50, seed=n) for n in range(2)]
    learned = fit(
        observe(parts, "pulled_length"), controls="pulled_length", seeds=1, recipe=SHORT, decoder="gaussian",
        steps="euler",
    )  # fmt: skip
    asked = {"within": {"path": parts[0].records["pulled_length"].numpy()}}
    before = {name: part.clone() for name, part in learned.model.state_dict().items()}
    found = ways._by_last_layer(
        learned, lambda law: {"within": certainty.asked(law, "trap", asked["within"]).force["external_force"].values}
    )
    assert found["within"].shape == (3, len(times)) and (found["within"] >= 0).all()
    assert all(torch.allclose(part, before[name], atol=1e-12) for name, part in learned.model.state_dict().items())


def test_the_stored_table_is_whole() -> None:
    stored = table.measured()
    assert len(stored["amount"]) >= 300
    for system in ("trap", "chain"):
        sets = [row["task"]["set"] for row in stored["coverage"] if row["task"]["system"] == system]
        assert len(sets) == len(set(sets)) >= 20
    assert all(set(row["key"]) <= set("0123456789abcdef") for rows in stored.values() for row in rows)
    assert len(table.covered(stored["coverage"]).splitlines()) == 5
    assert "last layer" in table.cheaper(stored["ways"], stored["coverage"])
    assert "phi-linear" in table.weighed("trap") and "nll" not in table.weighed("chain-gmm")
    found = table.errors(stored["amount"], "trap", "realisations")
    assert [*found] == [20, 60, 200, 600, 2000, 5000, 20000]
    assert all(low <= middle <= high for middle, low, high in found.values())
