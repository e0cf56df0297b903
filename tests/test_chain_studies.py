"""The chain's studies: floors, the entropy limit, the choice among draws, files, and the cache."""

import csv
from collections.abc import Iterator
from functools import partial
from math import e, log, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ibvonns
from ibvonns import chain_studies, scoreboard, studies
from ibvonns.chain_model import ChainModel, ChainObservations, observe_chain
from ibvonns.chain_studies import (
    EntropyLimit,
    chain_data,
    chain_errors,
    chain_floors,
    entropy_limit,
    roll_out,
    train_chain,
    unsound_chain,
)
from ibvonns.ensemble import Ensemble
from ibvonns.metrics import spacing_entropy
from ibvonns.systems.chain import Chain
from ibvonns.training import Phase, Recipe, TrainingError

WEIGHTS = (0.5, 0.025, 1.0, 0.3, 30.0)
DRAW = Recipe((Phase(0, 6),), weights=WEIGHTS)
START = Recipe((Phase(1, 4, 3, hold=True), Phase(1, 6, 3)), weights=WEIGHTS, clip=3.0)
LONG = Recipe((Phase(3, 6, 2), Phase(25, 3, 1)), weights=WEIGHTS, clip=3.0, checkpoint_every=4)


def begun(seed: int = 0, realisations: int = 60) -> dict[str, Ensemble]:
    """The first 41 times of the paper's conditions."""
    return {
        name: Ensemble(
            part.times[:41],
            part.realisations[:, :41],
            {key: record[:, :41] for key, record in part.records.items()},
        )
        for name, part in chain_data(seed=seed, realisations=realisations).items()
    }


@pytest.fixture(scope="module")
def data() -> dict[str, Ensemble]:
    """The paper's conditions with 60 chains each, up to a time of 0.4."""
    return begun()


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every seed passes as sound."""
    monkeypatch.setattr(chain_studies, "unsound_chain", lambda *_: [])


def identifiers(study: str) -> list[str]:
    """Ids of a study, in the order of the paper's list."""
    with (Path(ibvonns.__file__).parent / "published.csv").open(encoding="utf-8") as file:
        return [row["id"] for row in csv.DictReader(file) if row["study"] == study]


# --- data and floors -------------------------------------------------------------------------


def test_splits_are_the_papers_lengths(data: dict[str, Ensemble]) -> None:
    first = {name: part.records["pulled_length"][:, 0].tolist() for name, part in data.items()}
    assert first["train"] == pytest.approx([0.12 + 0.02 * i for i in range(9)])
    assert first["test"] == pytest.approx([0.13 + 0.02 * i for i in range(8)])
    assert first["sine"] == pytest.approx([0.2])


def test_floors_fall_with_the_root_of_the_chains(data: dict[str, Ensemble]) -> None:
    few = chain_floors(data, begun(7))
    many = chain_floors(begun(3, 540), begun(5, 540))
    assert few.keys() == many.keys() and len(few) == 9
    for name in ("chain-strain-test-force", "chain-force-train-velocity"):
        assert 2 < few[name] / many[name] < 4.5  # 3 but for luck


# --- entropy ---------------------------------------------------------------------------------


@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_entropy_moves_with_the_logarithm_of_the_scale(shift: float, scale: float) -> None:
    draws = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = spacing_entropy(shift + scale * draws)
    assert torch.allclose(moved, spacing_entropy(draws) + log(scale), atol=1e-6)


@pytest.mark.parametrize(("number", "bias"), [(500, 0.012), (4000, 0.004)])
def test_entropy_of_a_gaussian_is_its_closed_form(number: int, bias: float) -> None:
    rng = torch.Generator().manual_seed(1)
    draws = torch.randn(2_000_000 // number, number, generator=rng, dtype=torch.float64)
    assert float(spacing_entropy(draws).mean()) == pytest.approx(0.5 * log(2 * pi * e), abs=bias)


class Widening(Chain):
    """Gaussian strains whose deviation grows as exp(t) and differs between train and test."""

    def simulate_paper(self, *_: Any, realisations: int = 0, seed: int = 0, **__: Any) -> Ensemble:
        rng = torch.Generator().manual_seed(seed)
        times = torch.linspace(0, 3, 31, dtype=torch.float64)
        noise = torch.randn(17, 31, 2, realisations, generator=rng, dtype=torch.float64)
        noise *= times.exp()[:, None, None]
        noise[1::2] *= 2
        return Ensemble(times, noise)


def test_entropy_limit_is_the_mean_over_times_conditions_and_springs() -> None:
    limits = entropy_limit(Widening(), 2000, every=7, block=500)
    for split, factor in (("train", 1.0), ("test", 2.0)):
        expected = 0.5 * log(2 * pi * e) + 1.5 + log(factor)
        assert 0 < limits[split].error < 0.01
        assert limits[split].value == pytest.approx(expected, abs=0.004 + 4 * limits[split].error)


# --- soundness and the choice among draws ----------------------------------------------------


def test_untrained_replicas_are_unsound(data: dict[str, Ensemble]) -> None:
    seen = observe_chain(data["train"], points=60)
    model = ChainModel([0, 1])
    model.set_scales(seen)
    model.freeze(seen)
    assert unsound_chain(model, seen, data["train"]) == [0, 1]


def test_seed_that_misses_its_data_is_named(
    data: dict[str, Ensemble], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_studies, "unsound_chain", lambda *_: [1])
    with pytest.raises(TrainingError, match=r"^seeds \[5\] miss .* sampling noise; try"):
        train_chain(data["train"], [4, 5], "chain-gmm", LONG, DRAW, START, attempts=1)


def test_seed_that_misses_its_data_is_drawn_anew(
    data: dict[str, Ensemble], monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = iter(([1], []))
    monkeypatch.setattr(chain_studies, "unsound_chain", lambda *_: next(poor))
    model, history, chosen = train_chain(data["train"], [4, 5], "chain-gmm", LONG, DRAW, START)
    monkeypatch.setattr(chain_studies, "unsound_chain", lambda *_: [])
    other, expected, drawn = train_chain(data["train"], [4005], "chain-gmm", LONG, DRAW, START)
    assert model.seeds == [4, 5] and chosen[0] < 4 and chosen[1] == 4 + drawn[0]
    assert torch.equal(history[:, :, 1], expected[:, :, 0])
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        if one.shape[:1] == (2,) and one.ndim == 3:
            assert torch.equal(one[1], two[0])


@pytest.mark.parametrize("study", ["chain-gmm", "chain-cnf"])
def test_another_chains_constants_reach_its_model(study: str, tmp_path: Path) -> None:
    """L0 and the wells of the chain that was simulated, in the law, the decoder and the errors."""
    chain = Chain(natural_length=0.02, barrier_strain=1.5, well_strain=3.0, temperature=2e-5)
    ensemble = chain.simulate_paper(lengths=(0.3, 0.4), realisations=30)
    short = {"attempts": 0, "chain": chain}
    model, *_ = train_chain(ensemble, [0], study, LONG, DRAW, START, **short)  # type: ignore[arg-type]
    model.save(tmp_path / "model.safetensors")
    for one in (model, ChainModel.load(tmp_path / "model.safetensors")):
        assert one.potentials.natural_length == one.natural_length == 0.02
        assert one.well_strain == 3.0
        if study == "chain-gmm":
            assert one.decoder.well_strain == 3.0
    seen = observe_chain(ensemble, 0.02)
    with torch.no_grad():
        first = model.encode(seen)[:, :, 0]
        path, *_ = model.predict(seen.mean[:, 0], first, seen.times, seen.velocity, "velocity")
    total = path[0].sum(-1)  # the end is where it was pulled to
    assert torch.allclose(total, seen.mean.sum(-1), rtol=1e-9)
    fine = observe_chain(ensemble, 0.02, points=640)
    errors = [chain_errors(model, {"train": part}, "x")[0] for part in (ensemble, fine)]
    assert errors[0] == errors[1]
    with pytest.raises(ValueError, match="^data must be of a chain with the model's natural_le"):
        ChainModel([0]).set_scales(seen)


def test_the_draw_with_the_lowest_loss_goes_on(
    data: dict[str, Ensemble], lenient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[ChainModel] = []

    def pretended(model: ChainModel, seen: ChainObservations, *_: object) -> Tensor:
        trained.append(model)
        model.set_scales(seen)
        history = torch.ones(12, 5, len(model.seeds), dtype=torch.float64)
        if len(trained) == 1:
            history[-5:, 0, model.seeds.index(2004)] = 0.5
            history[:2, 0, model.seeds.index(1004)] = -100.0  # only the last fifty steps count
            history[-5:, 0, model.seeds.index(3005)] = 0.7
        return history

    monkeypatch.setattr(chain_studies, "train", pretended)
    model, history, chosen = train_chain(data["train"], [4, 5], "chain-cnf")
    many, start, long = trained
    assert many.seeds == [seed + 1000 * n for seed in (4, 5) for n in range(4)]
    assert start is model and long is model and model.seeds == [4, 5] and chosen == [2, 3]
    assert history.shape == (36, 5, 2) and history[11, 0].tolist() == [0.5, 0.7]
    first = dict(many.named_parameters())
    for name, value in model.named_parameters():
        assert torch.equal(value, first[name][[2, 7]]), name


def test_broken_run_ends_with_the_same_weights(
    data: dict[str, Ensemble], lenient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = partial(train_chain, data["train"], [0], "chain-gmm", LONG, DRAW, START)
    whole, history, _ = run()
    calls = []
    train = chain_studies.train  # type: ignore[attr-defined]

    def breaking(*arguments: object) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(chain_studies, "train", breaking)
        with pytest.raises(KeyboardInterrupt):
            run(folder=tmp_path)
    again, history_again, _ = run(folder=tmp_path)
    assert torch.equal(history, history_again)
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("study", ["chain-gmm", "chain-cnf"])
def test_errors_and_floors_have_the_papers_rows(study: str, data: dict[str, Ensemble]) -> None:
    prefix, decoder = chain_studies.CHAIN_STUDIES[study]
    seen = observe_chain(data["train"], points=60)
    model = ChainModel([0, 1], decoder)
    model.set_scales(seen)
    model.freeze(seen)
    errors, free = chain_errors(model, data, prefix)
    assert sorted(errors) == sorted(identifiers(study))
    assert sorted(free) == sorted(name for name in identifiers(study) if "alpha" in name)
    floors = chain_floors(data, data, model, prefix)
    assert sorted(floors) == sorted(name for name in identifiers(study) if "nll" not in name)
    assert max(floors.values()) == 0  # an ensemble differs from itself by nothing
    paths = roll_out(model, observe_chain(data["sine"], points=60))
    assert paths.strain["force"].shape == (2, 1, 41, 10) and paths.velocity.shape == (2, 1, 41)


# --- files and the cache ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Studies of 40 chains and a few steps, in a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(chain_studies, "unsound_chain", lambda *_: [])
        patch.setattr(studies, "chain_data", lambda seed=0: begun(seed, 40))
        limits = {split: EntropyLimit(0.5, 0.001) for split in ("train", "test")}
        patch.setattr(studies, "entropy_limit", lambda seed: limits)
        patch.setattr(studies, "recipe_of", lambda study: LONG)
        patch.setattr(studies, "DENSITY_RECIPE", Recipe((Phase(0, 3),), weights=WEIGHTS))

        def shortly(
            ensemble: Ensemble, seeds: list[int], study: str, recipe: Recipe, folder: Path
        ) -> Any:
            return train_chain(ensemble, seeds, study, recipe, DRAW, START, folder)

        patch.setattr(studies, "train_chain", shortly)
        yield patch


def test_study_is_trained_once_and_then_read(
    quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, history, metrics = studies.result("chain-gmm", 2)
    monkeypatch.setattr(studies, "reproduce", None)  # a second training would fail
    again, history_again, metrics_again = studies.result("chain-gmm", 2)
    assert metrics == metrics_again and history is not None and history_again is not None
    assert torch.equal(history, history_again)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    rows = scoreboard.scored_rows(metrics)
    assert [row["id"] for row in rows] == identifiers("chain-gmm")
    assert all(row["limit"] is None or "nll" in row["id"] for row in rows)
    assert scoreboard.markdown(rows).count("\n") == len(rows) + 1


def test_flows_likelihoods_are_set_in_the_mixtures_units(quick: pytest.MonkeyPatch) -> None:
    _, _, metrics = studies.result("chain-cnf", 1)
    rows = {row["id"]: row for row in scoreboard.scored_rows(metrics)}
    shift = log(metrics["strain_deviation"])
    assert rows["cnf-nll-test"]["comparable"] == pytest.approx(0.337 + shift)
    assert rows["cnf-strain-test-force"]["comparable"] == 0.994


def test_limits_and_likelihoods_are_kept(
    quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, flows = studies.chain_limits(), studies.flow_likelihoods((1, 2))
    monkeypatch.setattr(studies, "entropy_limit", None)
    monkeypatch.setattr(studies, "train", None)
    assert studies.chain_limits() == limits
    assert studies.flow_likelihoods((1, 2)) == flows and flows.keys() == {1, 2}
    with pytest.raises(TypeError):  # other data have another key
        studies.chain_limits(1)
