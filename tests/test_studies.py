"""Studies of both systems: data in blocks, errors by the paper's ids, results, keys and files."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from experiments import SMALL, identifiers, in_small, untrained
from toys import same, weights_of

from ibvonns.ensemble import Density, Ensemble
from ibvonns.files import load_tensors, plain, save_json
from ibvonns.model import load
from ibvonns.observations import Observations
from ibvonns.paper import results
from ibvonns.paper.results import load_metrics, reproduce, result, run_key, study_folder
from ibvonns.paper.studies import BLOCKS, GRID_SEED, STUDIES, Study, errors, study_of
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap
from ibvonns_book import flows

NUMBERS = ("errors", "gauge_free", "floor", "limit", "draws", "seeds")
NAMES = ("trap", "chain-gmm", "chain-cnf")


@pytest.fixture(scope="module", params=NAMES)
def study(request: pytest.FixtureRequest) -> Study:
    """Each study, small."""
    return SMALL[request.param]


@pytest.fixture(scope="module")
def data(study: Study) -> dict[str, Observations]:
    """Its data."""
    return study.data()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Small studies, in a cache of their own."""
    with in_small(tmp_path_factory.mktemp("cache")) as patch:
        yield patch


@pytest.fixture(scope="module")
def folder(study: Study, quick: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `reproduce` left."""
    out = tmp_path_factory.mktemp("study") / "deep"
    reproduce(study, 2, out)
    return out


# --- data ------------------------------------------------------------------------------------


def test_splits_are_the_papers_conditions() -> None:
    numbers = {name: [len(split.values) for split in one.splits.values()] for name, one in STUDIES.items()}
    assert numbers == {"trap": [11, 10, 1], "chain-gmm": [9, 8, 1], "chain-cnf": [9, 8, 1]}
    for name, step, first in (("trap", 0.025, 0.5), ("chain-gmm", 0.01, 0.12)):
        parts = STUDIES[name].splits
        both = sorted(parts["train"].values + parts["test"].values)
        assert both == pytest.approx([first + step * place for place in range(len(both))])
        assert min(both) in parts["train"].values and max(both) in parts["train"].values


def test_observed_are_the_blocks_taken_together(study: Study, data: dict[str, Observations]) -> None:
    """Moments, force, field and the parts of them, as if all realisations had been held at once."""
    for split, seen in data.items():
        parts = list(study.blocks(split))
        whole = study.ensemble(split, blocks=BLOCKS)
        assert seen.count == whole.count == study.realisations and len(parts) == BLOCKS
        at_once = study.observe(whole, study.grid(split))
        for name in ("field", "mean", "variance", "force", "velocity"):
            one, other = getattr(seen, name), getattr(at_once, name)
            assert (one is None) == (other is None)
            assert one is None or torch.allclose(one, other, rtol=1e-12, atol=1e-14), name
        assert isinstance(seen.cloud, Density) and isinstance(at_once.cloud, Density)
        assert torch.allclose(seen.cloud.weights, at_once.cloud.weights, atol=1e-12)
        for index, part in enumerate(parts):
            assert torch.equal(seen.blocks["mean"][index].flatten(), part.mean().flatten())
            assert torch.equal(seen.blocks["force"][index].flatten(), part.records["external_force"].flatten())


def test_no_block_split_or_seed_draws_the_noise_of_another() -> None:
    """Of a seed a generator knows its lowest 32 bits alone."""
    drawn: list[int] = []

    class Asked(Trap):
        def simulate_paper(
            self, protocol: str = "", velocities: tuple[float, ...] = (), realisations: int = 0, seed: int = 0
        ) -> Ensemble:
            drawn.append(seed % 2**32)
            return super().simulate_paper(protocol, (0.5,), realisations, seed)

    study = SMALL["trap"].with_system(Asked())
    for split in study.splits:
        for seed in (0, 1, 2, 10_000, 20_000, 400_000):
            assert len([*study.blocks(split, seed)]) == BLOCKS
    assert GRID_SEED not in drawn
    assert len(drawn) == len(set(drawn))


def test_grids_hold_every_seed_and_are_one(study: Study) -> None:
    one, other = study.observed("sine" if "sine" in study.splits else "linear", 3), study.grid(list(study.splits)[-1])
    assert isinstance(one.cloud, Density) and torch.equal(one.cloud.grid, other)


@pytest.mark.parametrize("wrong", [15, -10])
def test_realisations_make_equal_blocks(wrong: int) -> None:
    with pytest.raises(ValueError, match="^realisations must be"):
        next(SMALL["trap"].blocks("train", realisations=wrong))


def test_another_system_brings_its_constants() -> None:
    other = STUDIES["chain-gmm"].with_system(Chain(natural_length=0.02, barrier_strain=1.5, well_strain=3.0))
    assert (other.architecture.spacing, other.architecture.wells) == (0.02, 3.0)
    stiff = STUDIES["trap"].with_system(Trap(3.0))
    assert stiff.architecture == STUDIES["trap"].architecture and stiff.drawn != STUDIES["trap"].drawn


# --- errors ----------------------------------------------------------------------------------


def test_errors_have_the_papers_ids(study: Study, data: dict[str, Observations]) -> None:
    model = untrained(study, data)
    found, gauge_free = errors(study, model, data)
    assert found.keys() >= set(identifiers(study.name))
    assert {name.split("-")[1] for name in found.keys() - set(identifiers(study.name))} <= {"nll", "f", "phi"}
    assert sorted(gauge_free) == sorted(name for name in identifiers(study.name) if "alpha" in name)
    assert all(len(values) == 2 for values in found.values())
    for split in study.splits:
        for quantity in ("alpha", "force"):
            asked = {study.row(quantity, split, given) for given in study.ends if study.asked(quantity, given)}
            assert found.keys() >= asked


def test_a_rollout_that_runs_away_has_an_infinite_error() -> None:
    study = SMALL["chain-gmm"]
    data = {"train": study.observed("train"), "test": study.observed("test")}
    model = untrained(study, data)
    with torch.no_grad():
        for weight in model.law.parameters():
            weight[1] += 1000.0
    found, gauge_free = errors(study, model, {"test": data["test"]})
    for quantity in ("alpha", "force"):
        for name in found.keys() & {study.row(quantity, "test", given) for given in study.ends}:
            assert found[name][1] == float("inf") and found[name][0] < 1e6, name
    assert {values[1] for values in gauge_free.values()} == {float("inf")}


@torch.no_grad()
def test_alpha_is_raw_where_there_is_a_reference(study: Study, data: dict[str, Observations]) -> None:
    model, seen = untrained(study, data), data["test"]
    found, free = errors(study, model, {"test": seen})
    raw = study.architecture.reference is not None
    truth = model.encoder.raw(seen.cloud).view(2, *seen.mean.shape) if raw else model.encode(seen)
    run = model.predict(seen).alpha
    run = model.encoder.ungauged(run) if raw else run
    name = study.row("alpha", "test", "force")
    assert found[name] == pytest.approx(
        [100 * float((a - b).norm() / b.norm()) for a, b in zip(run, truth, strict=True)]
    )
    assert free[name] == pytest.approx(
        [100 * float((a - b).norm() / (b - b.mean()).norm()) for a, b in zip(run, truth, strict=True)]
    )


# --- results ---------------------------------------------------------------------------------


def test_reproduce_leaves_whole_results_and_what_is_not_its_own(folder: Path, study: Study) -> None:
    names = ["history.safetensors", "metrics.json", "model.safetensors"]
    assert sorted(entry.name for entry in folder.iterdir()) == names
    metrics = load_metrics(folder / "metrics.json")
    ids = set(identifiers(study.name))
    assert metrics["errors"].keys() >= ids and metrics["floor"].keys() >= ids
    assert all(metrics["limit"].keys() >= {f"{study.prefix}-nll-{s}"} for s in ("train", "test"))
    assert load(folder / "model.safetensors").seeds == metrics["seeds"] == [0, 1]
    assert metrics["study"] == study.name and len(metrics["draws"]) == 2


def test_errors_are_those_of_the_stored_model(folder: Path, study: Study, data: dict[str, Observations]) -> None:
    found = errors(study, load(folder / "model.safetensors"), data)
    metrics = load_metrics(folder / "metrics.json")
    for ours, stored in zip(found, (metrics["errors"], metrics["gauge_free"]), strict=True):
        for name, values in ours.items():
            assert values == pytest.approx(stored[name], rel=1e-9), name


def test_reproduce_gives_the_same_numbers_twice_and_spares_others_files(
    folder: Path, study: Study, tmp_path: Path
) -> None:
    mine = tmp_path / "checkpoint-of-my-other-project.safetensors"
    mine.write_text("weeks of work")
    first, second = load_metrics(folder / "metrics.json"), reproduce(study, 2, tmp_path)
    assert mine.read_text() == "weeks of work"
    assert {name: second[name] for name in NUMBERS} == {name: first[name] for name in NUMBERS}
    weights, again = (load_tensors(place / "model.safetensors")[0] for place in (folder, tmp_path))
    assert same(weights, again)


def test_a_study_is_trained_once_and_what_is_damaged_made_anew(
    quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, history, metrics = result("trap", 1)
    assert history.keys() == {"density", "internal", "end"}
    with monkeypatch.context() as patch:
        patch.setattr(results, "reproduce", None)  # a second training would fail
        again, history_again, metrics_again = result("trap", 1)
    assert metrics == metrics_again and same(history, history_again)
    assert same(weights_of(model), weights_of(again))
    place = study_folder("trap", 1)
    with monkeypatch.context() as patch:
        patch.setattr(results, "reproduce", None)
        save_json(place / "metrics.json", plain({**metrics, "scored": "by other code", "errors": {}}))
        assert {key: result("trap", 1)[2][key] for key in metrics} == metrics
    for name, size in (("model.safetensors", 100), ("metrics.json", 1)):
        (place / name).write_bytes((place / name).read_bytes()[:size])
        found = result("trap", 1)[2]
        assert {key: found[key] for key in NUMBERS} == {key: metrics[key] for key in NUMBERS}
    (place / "model.safetensors").unlink()
    assert result("trap", 1)[0].seeds == [0]


def test_key_changes_with_all_that_decides_a_result() -> None:
    study = SMALL["trap"]
    others = [
        run_key(replace(study, recipe=replace(study.recipe, sound=9.0)), [0, 1]),
        run_key(replace(study, realisations=80), [0, 1]),
        run_key(replace(study, architecture=replace(study.architecture, internal=2)), [0, 1]),
        run_key(study.with_system(Trap(2.0)), [0, 1]),
        run_key(study, [0, 2]),
        run_key(study, [0, 1], 1),
        run_key(SMALL["chain-gmm"], [0, 1]),
    ]
    key = run_key(study, [0, 1])
    assert len({key, *others}) == 8 and run_key(replace(study, seeds=5), range(2)) == key
    assert study_folder(study).name == f"trap-{key[:16]}" and study_folder(study, 3) != study_folder(study)


def test_infinity_is_kept_as_what_json_knows(tmp_path: Path) -> None:
    metrics = {"study": "trap", "errors": {"a": [1.0, float("inf")]}, "gauge_free": {}, "floor": {}, "limit": {}}
    save_json(tmp_path / "metrics.json", plain(metrics))
    assert "Infinity" not in (tmp_path / "metrics.json").read_text()
    assert load_metrics(tmp_path / "metrics.json") == metrics


def test_likelihoods_of_flows_are_kept(quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(flows.DENSITY, phases=(replace(flows.DENSITY.phases[0], steps=3),))
    monkeypatch.setattr(flows, "DENSITY", short)
    found = flows.flow_likelihoods(sigmoids=(1, 2))
    monkeypatch.setattr(flows, "train", None)
    assert flows.flow_likelihoods(sigmoids=(1, 2)) == found and found.keys() == {1, 2}
    assert all(values["train"] == sorted(values["train"]) and len(values["test"]) == 3 for values in found.values())


def test_an_unknown_study_is_named() -> None:
    with pytest.raises(ValueError, match="study must be one of 'chain-cnf', 'chain-gmm', 'trap', but is 'spring'"):
        study_of("spring")
