"""From an ensemble to a trained model: draws, soundness, restarts, and what is left in a folder."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import ANSWERS, CONTROLS, LAYOUTS, SPACING, TINY, architecture_of, few_of, frozen, same, seen_of, weights_of

from ibvonns import fit as front
from ibvonns.layouts import Point, Row
from ibvonns.learning import Learned, fit
from ibvonns.model import Model, Prediction, load
from ibvonns.networks import copy_replica
from ibvonns.observations import Observations, observe
from ibvonns.optimiser import SOAP
from ibvonns.recipe import Phase, Recipe, Stage
from ibvonns.seeds import Fit, Score, astray, disagreement, fitted, scores, unseen, unsound
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap
from ibvonns.training import TrainingError

module: Any = import_module("ibvonns.seeds")
DRAWN = replace(TINY["row"], candidates=4)


def interrupted(patch: pytest.MonkeyPatch, at: int) -> None:
    """Every run is broken off at this optimiser step, counted over all stages and models."""
    taken, step = [], SOAP.step

    def breaking(self: SOAP, *inputs: Any) -> None:
        taken.append(1)
        if len(taken) > at:
            raise KeyboardInterrupt
        step(self, *inputs)

    patch.setattr(SOAP, "step", breaking)


# --- the front door --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_is_fitted_from_its_ensemble(kind: str) -> None:
    names: dict[str, Any] = {"spacing": SPACING.get(kind, 1.0), "controls": CONTROLS.get(kind, ()), "steps": "euler"}
    answers = ANSWERS.get(kind, ("external_force",))
    names |= {"decoder": architecture_of(kind).decoder, "forces": answers}
    found = fit(few_of(kind), LAYOUTS[kind], seeds=[0, 1], recipe=TINY[kind], **names)
    of = found.model.architecture
    assert (of.cubes, of.squares) == ((8, 4) if kind in CONTROLS else (0, 0))
    assert replace(of, controls=(), forces=(), neighbours=False, cubes=0, squares=0) == architecture_of(kind)
    assert of.controls == CONTROLS.get(kind, ())
    assert found.model.seeds == [0, 1] and found.draws == [0, 0]
    told = {"force"} if len(answers) == 1 else {f"force {name}" for name in answers}
    names_of_scores = {*told, "alpha"} if kind in CONTROLS else {"field"}
    assert found.scores.keys() == names_of_scores
    assert all(len(score.errors) == 2 and score.noise > 0 for score in found.scores.values())
    lines = str(found).splitlines()
    assert len(lines) == len(names_of_scores) and all("noise floor" in line for line in lines)
    assert found.model.predict(found.data).states.isfinite().all()


def test_parts_of_an_ensemble_are_fitted_as_the_whole() -> None:
    few = few_of("point")
    grid_parts = [replace(few, realisations=few.realisations[..., cut]) for cut in (slice(0, 90), slice(90, 200))]
    found = fit((part for part in grid_parts), Point(), "pulled_length", seeds=[0], recipe=TINY["point"])
    assert found.data.count == 200 and found.data.blocks["mean"].shape[0] == 2


def test_two_controls_of_a_plane_are_fitted_by_name() -> None:
    """The records of F_ex are named beside the controls."""
    data = observe(few_of("plane"), CONTROLS["plane"], ANSWERS["plane"])
    found = fit(data, Point(2), seeds=[0], recipe=TINY["plane"], internal=2)
    assert found.model.architecture.components == 2 and found.model.architecture.internal == 2
    run = found.model.predict(data)
    assert run.force is not None and run.force.shape == (1, 2, 61, 2)


def test_another_chains_constants_reach_the_model(tmp_path: Path) -> None:
    chain = Chain(springs=20, natural_length=0.02, temperature=1e-5, barrier_strain=1.2, well_strain=2.4)
    few = chain.simulate_paper(lengths=(0.48, 0.8), realisations=30)
    found = fit(few, Row(), spacing=0.02, wells=2.4, decoder="mixture", seeds=[0], recipe=TINY["row"])
    a = found.model.architecture
    assert (a.spacing, a.wells, found.data.spacing) == (0.02, 2.4, 0.02)
    found.model.save(tmp_path / "model.json")
    again = load(tmp_path / "model.json")
    assert again.architecture == a and again.law.spacing == 0.02
    assert torch.equal(again.predict(found.data).states, found.model.predict(found.data).states)


# --- soundness -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYOUTS)
def test_untrained_model_is_told_as_unsound(kind: str) -> None:
    found = scores(frozen(kind), seen_of(kind))
    assert unsound(found, 2.0) == [0, 1]


@pytest.mark.parametrize("stiffness", [0.5, 1.0, 3.0])
def test_soundness_measures_the_force_by_its_own_noise(stiffness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A force that misses by 1.7 times its noise is sound, by 1.8 times not: at any stiffness."""
    few = Trap(stiffness).simulate_paper(velocities=(0.5, 1.0), realisations=200)
    data, model = observe(few, "pulled_length", points=65), Model([0, 1], architecture_of("point"))
    model.set_scales(data)
    model.freeze(data)
    alpha = model.encode(data)
    assert data.force is not None
    noise = stiffness * few.standard_error().norm()
    miss = noise / data.force.norm() * torch.tensor([1.7, 1.8], dtype=torch.float64)
    force = data.force * (1 + miss)[:, None, None, None]
    run = Prediction(model.states(data, alpha), 1, force)
    monkeypatch.setattr(Model, "predict", lambda *_, **__: run)
    found = scores(model, data)
    assert unsound(found, 1.75) == [1]
    assert found["force"].noise == pytest.approx(100 * float(noise / data.force.norm()), rel=0.02)
    assert found["alpha"].errors == (0.0, 0.0)


def test_soundness_of_a_row_is_that_of_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = seen_of("row"), frozen("row")
    noise = few_of("row").standard_error()
    miss = noise.norm() / data.mean.norm() * torch.tensor([2.9, 3.1], dtype=torch.float64)
    field = data.field * (1 + miss)[:, None, None, None, None]
    monkeypatch.setattr(Model, "predict", lambda *_, **__: Prediction(field, 1))
    found = scores(model, data)["field"]
    assert found.noise == pytest.approx(100 * float(noise.norm() / data.mean.norm()), rel=1e-6)
    assert unsound({"field": found}, 3.0) == [1]


def test_runaway_or_nan_is_no_sound_one() -> None:
    nan = float("nan")
    found = {"a": Score((1.0, 1.0, 9.0), 1.0), "b": Score((nan, 1.0, 1.0), 1.0)}
    assert unsound(found, 2.0) == [0, 2]
    model = frozen("row")
    with torch.no_grad():
        next(model.law.dissipation_network.parameters())[1] = 1e6
        next(model.law.energy_network.parameters())[1] = 1e6
    assert unsound(scores(model, seen_of("row")), 1e300) == [1]  # told, and no exception


# --- draws and restarts ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["point", "row"])
@pytest.mark.parametrize("value", [math.nan, 40.0])
def test_the_seed_that_goes_its_own_way_is_told_by_the_others(kind: str, value: float) -> None:
    model, seen = Model(range(5), architecture_of(kind)), seen_of(kind)
    model.set_scales(seen)
    for replica in range(1, 5):  # the same seed, but for a little
        copy_replica(model, replica, Model([0], architecture_of(kind)), 0)
    with torch.no_grad():
        for replica, part in enumerate(next(iter(model.law.energy_network.parameters()))):
            part *= 1 + 0.01 * replica if replica != 3 else value
    model.freeze(seen)
    floor = {"field": Score((0.0,) * 5, 1e-3)}
    assert astray(model, seen, floor, 6.0) == [3]
    apart = disagreement(model, seen)
    assert apart.keys() == {"swelled", "wandering"}
    assert all(each.shape == (5,) and each[[0, 1, 2, 4]].isfinite().all() for each in apart.values())
    few = Model([0, 1, 2], architecture_of(kind))
    few.set_scales(seen)
    few.freeze(seen)
    assert astray(few, seen, floor, 6.0) == []  # of so few none is judged by the others
    with torch.no_grad():
        next(iter(few.law.energy_network.parameters()))[1] = math.nan
    assert astray(few, seen, floor, 6.0) == [1]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_unseen_protocols_begin_as_recorded_and_stay_near(kind: str) -> None:
    """The swollen ones by their formula; random ones reach a quarter further, and are no more than a quarter faster."""
    data, layout = seen_of(kind), architecture_of(kind).layout
    asked = unseen(data, layout)
    if kind in ("ring", "grid"):  # nothing pulls
        assert asked == {}
        return
    assert [*asked] == ["swelled", "wandering"]
    steps = data.times.diff()[:, None]

    def path(of: Observations) -> torch.Tensor:
        """What pulls: (conditions, times, controls)."""
        if of.velocity is None:
            return of.field[:, :, 0]
        first = of.spacing * of.field[:, :1].sum(2)
        return torch.cat([first, first + (of.velocity[:, 1:, None] * steps).cumsum(1)], 1)

    old, swelled, wandering = path(data), path(asked["swelled"]), path(asked["wandering"])
    share = (data.times - data.times[0]) / (data.times[-1] - data.times[0])
    swell = 1 + 0.5 * torch.sin(2 * math.pi * share)
    assert torch.allclose(swelled.diff(dim=1), old.diff(dim=1) * swell[1:, None], atol=1e-12)
    assert torch.allclose(wandering[:, 0], old[:, 0]) and torch.allclose(swelled[:, 0], old[:, 0])
    low, high = old.amin((0, 1)), old.amax((0, 1))
    slack = 0.125 * (high - low) + 1e-9
    assert bool((wandering >= low - slack).all() and (wandering <= high + slack).all())
    fastest = (old.diff(dim=1).abs() / steps).amax((0, 1))
    assert bool(((wandering.diff(dim=1).abs() / steps).amax((0, 1)) <= 1.25 * fastest + 1e-9).all())
    assert bool((wandering.std(1) > 0).all())


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[int]]]:
    """Training that does no more than freeze; the seeds that it was asked to train."""
    asked: list[list[int]] = []

    def freeze(model: Model, data: Observations, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        asked.append(model.seeds)
        model.set_scales(data)
        model.freeze(data)
        number = float(len(asked))
        return {"density": torch.full((3, len(model.seeds)), number, dtype=torch.float64)}

    monkeypatch.setattr(module, "train", freeze)
    if hasattr(module, "astray"):
        monkeypatch.setattr(module, "astray", lambda *_: [])
    yield asked


def test_unsound_seed_is_drawn_anew_until_it_is_sound(
    untrained: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = iter([[1, 2], [2], []])
    monkeypatch.setattr(module, "unsound", lambda *_: next(verdicts))
    recipe = replace(TINY["point"], attempts=3)
    found = fitted(architecture_of("point"), seen_of("point"), [4, 5, 6], recipe)
    assert untrained == [[4, 5, 6], [1005, 1006], [2006]]
    assert found.draws == [0, 1, 2] and found.model.seeds == [4, 5, 6]
    assert found.history["density"][0].tolist() == [1.0, 2.0, 3.0]
    weights = dict(found.model.named_parameters())
    for replica, seed in enumerate((4, 1005, 2006)):
        for name, value in Model([seed], architecture_of("point")).named_parameters():
            assert torch.equal(weights[name][replica], value[0]), name


def test_seed_that_training_gave_up_is_drawn_anew(untrained: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    freeze = module.train

    def losing(model: Model, *inputs: Any, **options: Any) -> Any:
        history = freeze(model, *inputs, **options)
        for index, seed in enumerate(model.seeds):
            history["density"][:, index] += torch.nan if seed in (5, 1005) else 0.0
        return history

    monkeypatch.setattr(module, "train", losing)
    monkeypatch.setattr(module, "unsound", lambda *_: [])
    found = fitted(architecture_of("point"), seen_of("point"), [4, 5], replace(TINY["point"], attempts=3))
    assert untrained == [[4, 5], [1005], [2005]] and found.draws == [0, 2]
    with pytest.raises(TrainingError, match=r"^seeds \[5\] .* or were lost on the way, after 2 attempts"):
        fitted(architecture_of("point"), seen_of("point"), [4, 5], replace(TINY["point"], attempts=2))


@pytest.mark.parametrize("attempts", [1, 2])
def test_seed_that_stays_unsound_is_given_up_by_name(
    untrained: list[list[int]], monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    monkeypatch.setattr(module, "unsound", lambda found, _: [1] if len(found["force"].errors) > 1 else [0])
    with pytest.raises(TrainingError, match=rf"^seeds \[5\] miss .* after {attempts} attempts?; try more"):
        recipe = replace(TINY["point"], attempts=attempts)
        fitted(architecture_of("point"), seen_of("point"), [4, 5], recipe)
    assert untrained == [[4, 5], [1005]][:attempts]


def test_real_unsound_seeds_are_named_and_no_attempts_takes_them_all() -> None:
    """A few steps miss the data by far more than their noise."""
    recipe = replace(TINY["point"], attempts=2, sound=1.0)
    with pytest.raises(TrainingError, match=r"^seeds \[3, 8\] miss their training data by over 1 t"):
        fitted(architecture_of("point"), seen_of("point"), [3, 8], recipe)
    kept = fit(seen_of("point"), Point(), seeds=[3, 8], recipe=recipe)
    assert [each[:7] for each in kept.unsound] == ["seed 3:", "seed 8:"]
    found = fit(seen_of("point"), Point(), seeds=[3, 8], recipe=replace(recipe, attempts=0))
    assert unsound(found.scores, 1.0) == [0, 1] and found.draws == [0, 0]
    loose = fit(seen_of("point"), Point(), seeds=[3, 8], recipe=replace(recipe, sound=1e6))
    assert same(weights_of(found.model), weights_of(loose.model))


@pytest.mark.parametrize("kind", ["row", "point"])
def test_the_draw_with_the_lowest_loss_goes_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[Model, Any]] = []

    def pretended(model: Model, data: Observations, *_: Any, **more: Any) -> dict[str, torch.Tensor]:
        trained.append((model, more))
        model.set_scales(data)
        model.freeze(data)
        density = torch.ones(12, len(model.seeds), dtype=torch.float64)
        if len(trained) == 1:
            density[-5:, model.seeds.index(2004)] = 0.5
            density[:2, model.seeds.index(1004)] = -100.0  # only the last fifty steps count
            density[-5:, model.seeds.index(3005)] = 0.7
        return {"density": density}

    monkeypatch.setattr(module, "train", pretended)
    recipe = replace(TINY[kind], candidates=4)
    found = fitted(architecture_of(kind), seen_of(kind), [4, 5], recipe)
    (many, _), (model, more) = trained
    assert many.seeds == [seed + 1000 * n for seed in (4, 5) for n in range(4)]
    assert model is found.model and model.seeds == [4, 5] and found.draws == [2, 3]
    assert more.get("first") == 1
    assert found.history["density"][11].tolist() == [0.5, 0.7]
    first = dict(many.named_parameters())
    for name, value in model.named_parameters():
        assert torch.equal(value, first[name][[2, 7]]), name


def test_a_seed_is_chosen_from_its_own_draws_alone() -> None:
    """History and weights are those of its best draw, trained on from the second stage."""
    found = fitted(architecture_of("row"), seen_of("row"), [4, 5], DRAWN)
    assert all(0 <= draw < 4 for draw in found.draws)
    density = found.history["density"]
    assert density.shape == (3, 2) and density[[0, 2]].isfinite().all()
    assert density[1].isnan().all()  # encoder and decoder are held at first
    assert found.history["field"].shape == (3, 2) and found.history["field"][:1].isnan().all()
    again = fitted(architecture_of("row"), seen_of("row"), [4, 5], DRAWN)
    assert same(weights_of(again.model), weights_of(found.model)) and again.draws == found.draws


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [6, 14, 25])
def test_broken_fit_goes_on_to_the_same_numbers(tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off among the draws, and in the stages that follow."""
    arguments = architecture_of("row"), seen_of("row"), [0, 3], DRAWN
    whole = fitted(*arguments)
    with monkeypatch.context() as patch:
        interrupted(patch, at)
        with pytest.raises(KeyboardInterrupt):
            fitted(*arguments, folder=tmp_path / "new")
    assert list((tmp_path / "new").iterdir())
    again = fitted(*arguments, folder=tmp_path / "new")
    assert again.draws == whole.draws and same(again.history, whole.history)
    assert same(weights_of(again.model), weights_of(whole.model))
    assert list((tmp_path / "new").iterdir()) == []  # its own checkpoints are gone


@pytest.mark.parametrize("kind", ["point", "row"])
def test_only_its_own_checkpoints_are_removed(tmp_path: Path, kind: str) -> None:
    names = ("checkpoint.safetensors", "checkpoint-of-my-other-project.safetensors", "training.tmp",
             ".training-1.safetensors", ".rest-1.safetensors", ".draws-7.safetensors")  # fmt: skip
    for name in names:
        (tmp_path / name).write_text("weeks of work")
    recipe = replace(TINY[kind], candidates=2 if kind == "row" else 1)
    fitted(architecture_of(kind), seen_of(kind), [0], recipe, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / name).read_text() == "weeks of work" for name in names)


def test_a_run_goes_on_from_the_end_of_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next stage begins with an optimiser of its own, as it would have."""
    stage = Stage((Phase(0, 20),), {"density": 1.0}, 1e-2)
    recipe = replace(TINY["row"], stages=(stage, *TINY["row"].stages), checkpoint_every=20, candidates=1)
    arguments = architecture_of("row"), seen_of("row"), [0], recipe
    whole = fitted(*arguments)
    with monkeypatch.context() as patch:
        interrupted(patch, 25)
        with pytest.raises(KeyboardInterrupt):
            fitted(*arguments, tmp_path)
    again = fitted(*arguments, tmp_path)
    assert same(again.history, whole.history) and same(weights_of(again.model), weights_of(whole.model))


def test_a_damaged_checkpoint_of_its_own_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has the name of this very run, so that nobody else has written it."""
    arguments = architecture_of("point"), seen_of("point"), [0], TINY["point"]
    whole = fitted(*arguments)
    with monkeypatch.context() as patch:
        interrupted(patch, 20)
        with pytest.raises(KeyboardInterrupt):
            fitted(*arguments, tmp_path)
    (checkpoint,) = tmp_path.iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    again = fitted(*arguments, tmp_path)
    assert same(weights_of(again.model), weights_of(whole.model)) and list(tmp_path.iterdir()) == []
    assert str(checkpoint) in caplog.text and "made anew" in caplog.text


def test_front_door_is_the_function() -> None:
    assert front is fit and issubclass(Learned, Fit)
    short = Recipe((Stage((Phase(0, 3),), {"density": 1.0}),), attempts=0)
    with pytest.raises(ValueError, match="^seeds must name at least 1 seed"):
        fit(seen_of("point"), Point(), seeds=[], recipe=short)
    seeds: Sequence[int] = range(2)
    assert fit(seen_of("point"), Point(), seeds=seeds, recipe=short).model.seeds == [0, 1]


def test_an_anchor_that_is_asked_for_is_taken_and_no_other_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    learning: Any = import_module("ibvonns.learning")
    monkeypatch.setattr(learning, "choose", lambda *_: pytest.fail("tried both"))
    few = Trap().simulate_paper(velocities=tuple(0.1 * n for n in range(1, 9)), realisations=20)
    for anchored in (True, False):
        found = fit(few, controls="pulled_length", internal=2, anchored=anchored, seeds=1, recipe=TINY["point"])
        assert found.model.architecture.anchored == anchored
