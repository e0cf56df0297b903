"""What noise leaves: exact theory, floors from many ensembles, entropies, truths of many realisations."""

from collections.abc import Iterator
from dataclasses import replace
from math import e, log, pi
from statistics import mean
from typing import Any

import pytest
import torch
from experiments import SMALL, Begun, identifiers, in_small, untrained
from hypothesis import given
from hypothesis import strategies as st

from ibvonns.ensemble import Ensemble
from ibvonns.metrics import each_error, relative_error
from ibvonns.paper import floors, limits
from ibvonns.paper.floors import floor_of, truth_scores
from ibvonns.paper.limits import Restarted, entropy_limit, entropy_limits, exact_limits, sampled_floors, spacing_entropy
from ibvonns.paper.studies import STUDIES, Study
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Small studies, in a cache of their own."""
    with in_small(tmp_path_factory.mktemp("cache")) as patch:
        yield patch


# --- exact theory ----------------------------------------------------------------------------


def test_noise_floors_are_near_those_of_another_simulation() -> None:
    """Notes 7 measured the exact mean against that of one ensemble, with other random numbers: it lies among ours.

    A floor starts from an ensemble's own first mean, and so it is lower.
    """
    study, trap = replace(SMALL["trap"], realisations=4000, points=257), Trap()
    drawn = [study.data(seed) for seed in range(25)]
    floors = [exact_limits(trap, data)["floor"] for data in drawn]
    for split, noted in (("test", 0.081), ("linear", 0.13)):
        missed = []
        for data in drawn:
            lengths, force = data[split].field[..., 0, 0], data[split].force
            assert force is not None
            known = trap.external_force(lengths, trap.mean(lengths, data[split].times))
            missed += each_error(known[None, ..., None], force)
        assert min(missed) < noted < max(missed)
        assert 0.8 * mean(missed) < mean(one[f"trap-force-{split}"] for one in floors) < mean(missed)
    exact = exact_limits(trap, drawn[0])
    assert exact["floor"].keys() >= set(identifiers("trap"))
    for name, limit in exact["limit"].items():  # notes 1, and the coarse step's wider law
        assert "nll" in name and -1.231 < limit < -1.22
        assert abs(mean(one[name] for one in floors) - limit) < 0.005


def test_floor_of_the_trap_is_that_of_the_theory_from_its_own_start() -> None:
    """An Euler rollout of the exact rate from the sampled first mean, and no other state."""
    study, trap = SMALL["trap"], Trap()
    data = study.data()
    seen = data["test"]
    lengths, path = seen.field[:, :, 0, 0], [seen.mean[:, 0, 0, 0]]
    for n, step in enumerate(seen.times.diff()):
        path.append(path[-1] + step * (trap.rate * (lengths[:, n] / 2 - path[-1])))
    assert seen.force is not None
    own = relative_error(trap.external_force(lengths, torch.stack(path, 1)), seen.force[..., 0])
    assert exact_limits(trap, data)["floor"]["trap-force-test"] == pytest.approx(own, rel=1e-9)


def test_floors_fall_with_the_root_of_the_realisations() -> None:
    few, many = (exact_limits(Trap(), SMALL["trap"].data(realisations=n))["floor"] for n in (100, 1600))
    for name in ("trap-force-test", "trap-alpha-test", "trap-f-test"):
        assert 2 < few[name] / many[name] < 8  # 4 but for luck


# --- floors from restarts --------------------------------------------------------------------


def test_a_restart_keeps_the_start_and_nothing_else() -> None:
    study = SMALL["chain-gmm"]
    one, two, three = (
        study.with_system(system).ensemble("test").realisations
        for system in (study.system, Restarted(Chain(), 1), Restarted(Chain(), 2))
    )
    assert torch.equal(one[:, 0], two[:, 0, :, :]) and torch.equal(two[:, 0], three[:, 0])
    moved = [(part - part[:, :1])[:, 1, :-1].flatten() for part in (one, two[:, :41], three[:, :41])]
    for pair in ((0, 1), (0, 2), (1, 2)):  # the noises of a step are independent
        both = torch.stack([moved[place] - moved[place].mean() for place in pair])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.5


def test_floors_fall_with_the_root_of_the_chains() -> None:
    study = SMALL["chain-gmm"]
    few, many = (sampled_floors(study, study.data(3, n), 3) for n in (60, 540))
    assert few.keys() == many.keys() and len(few) == 9
    for name in ("gmm-strain-test-velocity", "gmm-strain-train-force", "gmm-force-train-velocity"):
        assert 2 < few[name] / many[name] < 4.5  # 3 but for luck


@pytest.mark.parametrize("name", ["chain-gmm", "chain-cnf"])
def test_floors_have_the_papers_rows(name: str) -> None:
    study = SMALL[name]
    data = study.data()
    found = sampled_floors(study, data, 0, untrained(study, data))
    assert sorted(found) == sorted(row for row in identifiers(name) if "nll" not in row)
    assert min(found.values()) > 0
    with pytest.raises(ValueError, match="seed must be that of the data, but 1 starts"):
        sampled_floors(study, data, 1)


def test_floor_of_harmonic_chains_is_that_of_their_exact_theory() -> None:
    """Where the drift is linear the theory is known: the same chains without noise."""
    chain = replace(Begun(), well_strain=50.0, barrier_strain=25.0)
    study = SMALL["chain-gmm"].with_system(chain)
    pairs = []
    for seed in range(8):
        seen = study.observed("test", seed)
        mean, path = seen.mean[:, 0, :, 0], [seen.mean[:, 0, :, 0]]
        stretch = seen.mean.sum((2, 3)).diff(dim=1)
        for n, step in enumerate(seen.times.diff()):
            move = step / chain.viscosity / chain.natural_length * chain.stiffness[0] * mean.diff(dim=1)
            mean = mean + torch.nn.functional.pad(move, (0, 1)) - torch.nn.functional.pad(move, (1, 0))
            mean[:, -1] += stretch[:, n]
            path.append(mean)
        known = relative_error(torch.stack(path, 1)[..., None], seen.mean)
        pairs.append((sampled_floors(study, {"test": seen}, seed)["gmm-strain-test-velocity"], known))
    table = torch.tensor(pairs, dtype=torch.float64)
    error = float((table.var(0).sum() / len(pairs)).sqrt())
    assert abs(float(table.mean(0).diff())) <= 3 * error


def test_floor_of_several_ensembles_is_that_of_the_middle_replica() -> None:
    floor = floor_of([[1.0, 5.0, 2.0], [3.0, 7.0, 4.0], [2.0, 6.0, 3.0]])
    assert (floor.value, floor.scatter) == (3.0, 1.0)
    with pytest.raises(ValueError, match="number of ensembles must be a whole number of at least 2"):
        floor_of([[1.0]])


@pytest.mark.parametrize("name", ["trap", "chain-gmm", "chain-cnf"])
def test_scores_against_a_large_truth(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of untrained models: errors of every seed, floors of every row; studies of a system at once."""
    asked: list[str] = []

    def unlearned(study: Study) -> Any:
        asked.append(study.name)
        return untrained(study, {"train": study.observed("train")}), {}, {"key": "one"}

    monkeypatch.setattr(floors, "result", unlearned)
    study = SMALL[name]
    scores = truth_scores(name, 4)
    assert asked == [one.name for one in STUDIES.values() if one.drawn == study.drawn]
    assert scores["errors"].keys() >= set(identifiers(name))
    assert all(len(values) == 2 for values in scores["errors"].values())
    assert scores["floor"].keys() >= {row for row in identifiers(name) if "nll" not in row}
    if study.exact is not None:
        expected = exact_limits(study.exact, study.data())["floor"]
    else:
        expected = sampled_floors(study, study.data())
    given = next(given for given in study.ends if study.asked("force", given))
    for row in [study.row("force", "test", given)]:
        assert scores["floor"][row][0] == pytest.approx(expected[row], rel=0.5)


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

    def simulate_paper(
        self, protocol: str = "", lengths: tuple[float, ...] = (), realisations: int = 0, seed: int = 0
    ) -> Ensemble:
        rng = torch.Generator().manual_seed(seed)
        times = torch.linspace(0, 3, 31, dtype=torch.float64)
        noise = torch.randn(len(lengths), 31, 2, realisations, generator=rng, dtype=torch.float64)
        return Ensemble(times, noise * times.exp()[:, None, None] * (1 if lengths[0] == 0.12 else 2))


@pytest.mark.parametrize(("split", "factor"), [("train", 1.0), ("test", 2.0)])
def test_entropy_limit_is_the_mean_over_times_conditions_and_springs(split: str, factor: float) -> None:
    study = replace(SMALL["chain-gmm"], system=Widening(), realisations=500)
    limit = entropy_limit(study, split, every=7, ensembles=4)
    expected = 0.5 * log(2 * pi * e) + 1.5 + log(factor)
    assert 0 < limit.error < 0.01
    assert limit.value == pytest.approx(expected, abs=0.004 + 4 * limit.error)


def test_limits_are_kept_and_shared_by_studies_of_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    study = replace(SMALL["chain-gmm"], system=Widening(), realisations=100)
    found = entropy_limits(study)
    monkeypatch.setattr(limits, "entropy_limit", None)
    assert entropy_limits(replace(study, name="other", prefix="cnf")) == found
    with pytest.raises(TypeError):  # other data have another key
        entropy_limits(study, 1)
