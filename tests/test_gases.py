"""The lattice gases of the book: a small one is learned, what is refused, the claims, the commands."""

import json
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ibvonns import load
from ibvonns.layouts import Ring
from ibvonns.model import Model
from ibvonns.paper import claims as module
from ibvonns.paper import cli, gases
from ibvonns.paper.claims import VERDICTS, errors, futures, operator, told
from ibvonns.paper.gases import GASES, SEEDS, STUDY, Gas, observed, scattered, trained
from ibvonns.systems.lattice import Lattice

WAVES = ((0.5, 0.35), (0.5, 0.0, -0.3), (0.35, 0.2))
SMALL = Gas(Lattice(100, (log(2),)), WAVES, ((0.5, 0.1, 0.2),), 20.0, 800, 0.5, 400, steps=200)
WIDE = replace(SMALL, lattice=Lattice(100, (1.0 / 20,) * 10), local=False, steps=60)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small gases in place of the book's, and a cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in GASES:
        monkeypatch.setitem(GASES, name, WIDE if name == "long" else SMALL)
    monkeypatch.setattr(module, "LATER", dict.fromkeys(GASES, (5.0, 20.0)))
    monkeypatch.setattr(module, "FEW", 4)


def test_scatter_of_a_small_gas_is_its_exact_operator() -> None:
    profile = SMALL.densities(SMALL.profiles)[0]
    found, exact = scattered(SMALL, profile, 800, 3), operator(SMALL, profile)
    band = exact.abs() > 1e-6 * exact.max()
    away = ((found.value - exact) / found.error)[band]
    assert away.abs().max() < 4.5 and 0.6 < away.square().mean() < 1.5
    other = operator(replace(SMALL, lattice=Lattice(100, (log(3),))), profile)  # negative control
    assert ((found.value - other) / found.error)[band].square().mean() > 3


def test_law_of_a_small_gas_is_learned(small: None) -> None:
    model = trained("attracting", seeds=2)
    found, bare = (errors(SMALL, each) for each in (model, trained("attracting", seeds=2, fluctuations=False)))
    assert max(found["m"]) < 6 and max(found["diffusivity"]) < 10
    assert min(bare["m"]) > 2 * max(found["m"])  # negative control: the drift alone leaves it open
    assert torch.equal(trained("attracting", seeds=2).law.reference, model.law.reference)  # from the cache
    ahead = futures("attracting", model, words=60)
    assert max(ahead["simulation"]) < 2 * ahead["floor"][0]
    assert futures("attracting", model, words=0).keys() == {"equation"}


def test_data_of_other_seeds_are_others() -> None:
    one, other, again = (observed(replace(SMALL, words=80, scatter_words=100), seed) for seed in (0, 1, 0))
    assert torch.equal(one.field, again.field) and not torch.equal(one.field[:, 1:], other.field[:, 1:])
    assert one.moves is not None and one.count == 64 * 80
    runs = [each.value for each in one.moves.drift]
    assert all(not torch.equal(a, b) for n, a in enumerate(runs) for b in runs[:n])


@pytest.mark.parametrize(
    ("sentence", "call"),
    [
        ("words must be a whole number of at least 40", lambda: observed(SMALL, fewer=80)),
        ("words must be a whole number of at least 100", lambda: scattered(SMALL, SMALL.densities(WAVES)[0], 99, 0)),
        (
            "scatter_lapse must leave K a bias of under 10 errors, but leaves",
            lambda: scattered(replace(SMALL, scatter_lapse=60.0), SMALL.densities(WAVES)[0], 400, 0),
        ),
        ("density must be above 0 and below 1", lambda: observed(replace(SMALL, profiles=((0.5, 0.6),)))),
        ("gas must be one of", lambda: trained("water")),
        ("seeds must be a whole number of at least 1", lambda: trained("long", seeds=0)),
    ],
)
def test_bad_input_is_refused_in_one_sentence(sentence: str, call: Any) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_every_claim_has_a_number_and_the_verdict_of_its_rule(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained

    def quick(name: str, fluctuations: bool = True, fewer: int = 1) -> Model:
        return whole(name, seeds=2, fluctuations=fluctuations, fewer=fewer)

    monkeypatch.setattr(module, "trained", quick)
    rows = module.claims()
    assert {row["gas"] for row in rows} == set(GASES)
    for row in rows:
        assert row["verdict"] == VERDICTS[row["ours"]["median"] > row["share"] * row["beside"]]
        assert f"| {row['claim']} | {row['gas']} |" in told(rows)
    assert module.claims() == rows


def test_commands_know_the_gases(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runner = CliRunner()
    wanted = ["reproduce", "lattice-short", "--seeds", "1", "--data-seed", "1", "--out", str(tmp_path)]
    ran = runner.invoke(cli.app, wanted)
    assert ran.exit_code == 0, ran.output
    assert "attracting: error of m " in ran.output and "repelling: error of diffusivity " in ran.output
    assert load(tmp_path / "repelling.safetensors").architecture.gas == 1.0
    assert json.loads((tmp_path / "attracting.json").read_text(encoding="utf-8")).keys() >= {"m", "mu"}
    row = {"claim": "is true", "gas": "long", "quantity": "m", "ours": {"median": 1.0, "min": 0.5, "max": 2.0},
           "what": "one", "beside": 3.0, "share": 1.0, "verdict": "holds"}  # fmt: skip
    monkeypatch.setattr(module, "claims", lambda: [row])
    assert "is true" in runner.invoke(cli.app, ["scoreboard", "--study", "lattice"]).output
    assert json.loads(runner.invoke(cli.app, ["scoreboard", "--study", "lattice", "--json"]).output) == [row]
    for odd in (["--check"], ["--csv"], ["--seeds", "2"]):
        assert runner.invoke(cli.app, ["scoreboard", "--study", "lattice", *odd]).exit_code == 2
    refused = runner.invoke(cli.app, ["reproduce", "lattice-middle"])
    assert refused.exit_code == 2 and "lattice-short" in refused.output


def test_studies_name_all_gases() -> None:
    assert sorted(name for names in STUDY.values() for name in names) == sorted(GASES)
    assert SEEDS == 8 and GASES["long"].architecture.kernel == GASES["long"].lattice.couplings
    assert all(gas.architecture.layout == Ring() for gas in GASES.values())
    assert gases.SHAPES == 20
