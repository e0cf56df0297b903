"""Training: it learns, stops where it must, and goes on after a kill as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ibvonns import training
from ibvonns.chain_model import ChainModel, observe_chain
from ibvonns.ensemble import Density, load_tensors, save_tensors
from ibvonns.metrics import relative_error
from ibvonns.model import Observations, TrapModel, observe
from ibvonns.optimiser import SOAP
from ibvonns.protocols import pulled_length
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import VELOCITIES, Trap, paper_times
from ibvonns.training import Phase, Recipe, TrainingError, loss_terms, train

ROOT = Path(__file__).parents[1]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything that a model holds."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_density_term_and_weighted_loss_fall(seen: Observations) -> None:
    recipe = Recipe((Phase(0, 60), Phase(1, 150, 20)), 1e-2, (0.01, 30.0, 1.0))
    model, starts = TrapModel([0, 1]), torch.arange(0, 300, 7)
    model.set_scales(seen)
    before = loss_terms(model, seen, 1, starts)
    history = train(model, seen, recipe)
    after = loss_terms(model, seen, 1, starts)
    weights = torch.tensor(recipe.weights, dtype=torch.float64)
    assert history.shape == (21, 3, 2)
    assert (after[0] < before[0] - 0.5).all()  # nats
    assert (weights @ after < 0.5 * (weights @ before)).all()


def test_window_of_zero_touches_encoder_and_decoder_alone(seen: Observations) -> None:
    model = TrapModel([0])
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    train(model, seen, Recipe((Phase(0, 5),)))
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("potentials"), name


def test_same_seeds_give_the_same_weights(seen: Observations, tiny: Recipe) -> None:
    models = [TrapModel([0, 1]) for _ in range(2)]
    histories = [train(model, seen, tiny) for model in models]
    assert torch.equal(*histories)
    assert same(weights_of(models[0]), weights_of(models[1]))


def test_seed_has_the_loss_and_the_gradients_that_it_has_alone(seen: Observations) -> None:
    found = []
    for model in (TrapModel([0, 1]), TrapModel([1])):
        model.set_scales(seen)
        terms = loss_terms(model, seen, 10, torch.tensor([0, 50]))
        found.append((terms, torch.autograd.grad(terms.sum(), list(model.parameters()))))
    (both, slopes_of_both), (alone, slopes_alone) = found
    assert torch.allclose(both[:, 1], alone[:, 0], rtol=1e-10)
    for ours, expected in zip(slopes_of_both, slopes_alone, strict=True):
        assert torch.allclose(ours[1], expected[0], rtol=1e-9, atol=1e-12)


def test_force_term_of_the_exact_slopes_is_zero(seen: Observations) -> None:
    """The terms compare what they say: give the model the measured answers."""
    model = TrapModel([0])
    model.set_scales(seen)
    starts = torch.tensor([0, 5, 100])

    def measured(controls: Tensor, alpha: Tensor) -> Tensor:
        assert controls.shape == (2, 9) and alpha.shape == (1, 2, 9, 1)
        times = (starts[:, None] + torch.arange(1, 4)).flatten()
        assert torch.equal(controls, seen.controls[:, times])
        return seen.external_force[None, :, times]

    model.external_force = measured  # type: ignore[method-assign]
    terms = loss_terms(model, seen, 3, starts)
    assert terms[1].tolist() == [0.0] and bool(terms[2] > 0)


def test_internal_term_is_a_relative_error_of_the_rate(
    seen: Observations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model in which alpha stands still misses each mean rate since the start of its window."""
    model, starts = TrapModel([0]), torch.tensor([3, 80, 150])
    model.set_scales(seen)

    def still(law: object, controls: Tensor, initial: Tensor, times: Tensor, _: str) -> Tensor:
        assert law is model.potentials
        return initial[:, :, None].expand(-1, -1, times.shape[-1], -1)

    monkeypatch.setattr(training, "rollout", still)
    with torch.no_grad():
        alpha = model.standardised(seen)[0, :, :, 0]
        for window in (1, 30):
            clock = 0.01 * torch.arange(1, window + 1, dtype=torch.float64)
            moved = alpha[:, starts[:, None] + torch.arange(1, window + 1)] - alpha[:, starts, None]
            expected = (moved / clock).square().mean() / model.potentials.rate_scale**2
            term = loss_terms(model, seen, window, starts)[2, 0]
            assert float(term) == pytest.approx(float(expected), rel=1e-9)


def test_uneven_times_are_learnt_as_well_as_even_ones() -> None:
    """Each window has its own clock: steps of 0.0006 to 0.015 on the same pulls."""
    even = paper_times()
    speeds = torch.tensor(VELOCITIES[::4], dtype=torch.float64)
    recipe = Recipe((Phase(0, 100), Phase(1, 400, 20), Phase(30, 20, 3)))
    errors = []
    for times in (even, 3 * (even / 3) ** 1.5):
        pulls = pulled_length("oscillating", speeds, times)
        rng = torch.Generator().manual_seed(0)
        data = observe(Trap().simulate(pulls, times, 1000, rng), points=64)
        model = TrapModel([0, 1, 2])
        train(model, data, recipe)
        with torch.no_grad():
            force = model.predict(data.controls, model.encode(data)[:, :, 0], data.times)[1]
        errors.append(sorted(relative_error(each, data.external_force) for each in force)[1])
    # below 1 % the draws of windows decide; on a foreign clock it was 50 %
    assert errors[0] < 2 and errors[1] < max(1.0, 1.3 * errors[0])


def test_scales_do_not_depend_on_how_the_record_is_sampled() -> None:
    """Ten times as many steps in the first half are not ten times as many rates."""
    fine, scales = torch.linspace(0, 3, 301, dtype=torch.float64), []
    for clock in (fine[::10], torch.cat([fine[:150], fine[150::10]])):
        zero = torch.zeros(1, len(clock), dtype=torch.float64)
        mean = (clock.clamp_max(1.5) * 2 + clock)[None]  # a fast half and a slow one
        density = Density(torch.linspace(0, 1, 2).double(), zero[..., None].expand(1, -1, 2) + 0.5)
        model = TrapModel([0])
        model.set_scales(Observations(clock, mean, mean, mean, zero + 1, density))
        scales.append(float(model.potentials.rate_scale) * float(mean.std()))
    assert scales == pytest.approx([5**0.5, 5**0.5], rel=1e-6)


@pytest.mark.parametrize("system", ["trap", "chain"])
def test_the_global_dtype_changes_nothing(system: str) -> None:
    """Windows, scales and weights are those of double precision, whatever others have set."""
    found, before = [], torch.get_default_dtype()
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            if system == "trap":
                trap = observe(Trap().simulate_paper(velocities=(0.5, 1.0), realisations=50))
                model: TrapModel | ChainModel = TrapModel([0])
                terms = train(model, trap, Recipe((Phase(0, 5), Phase(1, 5, 5), Phase(6, 2, 2))))
            else:
                chain = observe_chain(Chain().simulate_paper(lengths=(0.2,), realisations=50))
                model, weights = ChainModel([0]), (1.0, 0.1, 1.0, 0.3, 30.0)
                terms = train(
                    model, chain, Recipe((Phase(1, 5, 5), Phase(25, 2, 2)), 0.01, weights)
                )
            found.append(weights_of(model) | {"terms": terms})
    finally:
        torch.set_default_dtype(before)
    assert same(*found)


# --- stopping and going on -------------------------------------------------------------------


class Stop(Exception):
    """Raised to break a run off."""


@pytest.mark.parametrize("at", [6, 23, 44])
def test_broken_run_goes_on_to_the_same_weights(
    seen: Observations, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Broken off in every phase; checkpoints are five steps apart."""
    whole = TrapModel([0, 1])
    history = train(whole, seen, tiny)
    checkpoint = tmp_path / "checkpoint.safetensors"
    calls = []

    def breaking(*inputs: object) -> Tensor:
        calls.append(1)
        if len(calls) > at:
            raise Stop
        return loss_terms(*inputs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "loss_terms", breaking)
        with pytest.raises(Stop):
            train(TrapModel([0, 1]), seen, tiny, checkpoint)
    assert int(load_tensors(checkpoint)[0]["step"]) == at - at % 5
    again = TrapModel([0, 1])
    assert torch.equal(train(again, seen, tiny, checkpoint), history)
    assert same(weights_of(again), weights_of(whole))


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from ibvonns.model import TrapModel, observe
from ibvonns.systems.trap import Trap
from ibvonns.training import Phase, Recipe, train

data = observe(Trap().simulate_paper(velocities=(0.5, 1.0), realisations=100), points=64)
recipe = Recipe((Phase(0, 60), Phase(1, 120, 5), Phase(10, 20, 2)), checkpoint_every=10)
model = TrapModel([0, 1])
train(model, data, recipe, sys.argv[1])
model.save(sys.argv[2])
"""


def started(folder: Path) -> subprocess.Popen[bytes]:
    """Training in a process of its own."""
    paths = [str(folder / "checkpoint.safetensors"), str(folder / "model.safetensors")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IBVONNS_PROGRESS": "off"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *paths], env=environment)


def test_killed_run_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    """kill -9 as soon as there is a checkpoint, again after the next, then left to end."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    checkpoint = killed / "checkpoint.safetensors"
    reference = started(whole)
    for _ in range(2):
        process = started(killed)
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        limit = time.monotonic() + 120
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < limit, "no checkpoint came"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        step = int(load_tensors(checkpoint)[0]["step"])  # whole, whenever the kill came
        assert 0 < step < 200 and step % 10 == 0
        assert not (killed / "model.safetensors").exists()
    assert started(killed).wait() == 0
    assert reference.wait() == 0
    ends = [load_tensors(folder / "model.safetensors")[0] for folder in (whole, killed)]
    assert same(*ends)


def test_checkpoint_of_another_run_is_refused(
    seen: Observations, tiny: Recipe, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    short = replace(tiny, phases=(Phase(0, 5),))
    train(TrapModel([0]), seen, short, checkpoint)
    bent = replace(seen, mean=seen.mean + 1e-12)
    before = checkpoint.read_bytes()
    for seeds, data, recipe in (
        ([1], seen, short),
        ([0], bent, short),
        ([0], seen, replace(short, learning_rate=2e-2)),
    ):
        with pytest.raises(ValueError, match="^checkpoint must belong to this recipe, seeds and"):
            train(TrapModel(seeds), data, recipe, checkpoint)
    assert checkpoint.read_bytes() == before


def test_damaged_or_foreign_checkpoint_is_refused(
    seen: Observations, tiny: Recipe, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    short = replace(tiny, phases=(Phase(0, 5),))
    train(TrapModel([0]), seen, short, checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ValueError, match="must name a whole safetensors file"):
        train(TrapModel([0]), seen, short, checkpoint)
    save_tensors(checkpoint, {"x": torch.ones(2)})
    with pytest.raises(ValueError, match="^checkpoint must belong"):
        train(TrapModel([0]), seen, short, checkpoint)


# --- what stops a bad run --------------------------------------------------------------------


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("part", "term", "value"),
    [
        ("encoder.rho", "density", NAN),
        ("encoder.rho", "density", INF),
        ("decoder", "density", NAN),
        ("decoder", "density", INF),
        ("potentials.energy_network", "force", NAN),
        ("potentials.energy_network", "force", INF),
        ("potentials.dissipation_network", "internal", NAN),
        ("potentials.dissipation_network", "internal", INF),
    ],
)
def test_weight_that_is_not_finite_stops_training_with_step_and_term(
    seen: Observations, tiny: Recipe, part: str, term: str, value: float
) -> None:
    model = TrapModel([3, 5])
    with torch.no_grad():
        next(model.get_submodule(part).parameters())[1] = value
    sentence = rf"^step 0: the ({term} term|gradient) of seeds \[5\] is not finite; try"
    with pytest.raises(TrainingError, match=sentence):
        train(model, seen, replace(tiny, phases=(Phase(1, 5, 5),)))


def test_last_good_checkpoint_outlives_a_bad_step(
    seen: Observations, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def poisoned(*inputs: object) -> Tensor:
        terms = loss_terms(*inputs)  # type: ignore[arg-type]
        calls.append(1)
        return (
            terms * torch.tensor([1.0, 1.0, float("nan")])[:, None] if len(calls) == 33 else terms
        )

    checkpoint = tmp_path / "checkpoint.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(training, "loss_terms", poisoned)
        with pytest.raises(TrainingError, match="^step 32: the internal term of seeds"):
            train(TrapModel([0]), seen, tiny, checkpoint)
    assert int(load_tensors(checkpoint)[0]["step"]) == 30
    assert list(tmp_path.iterdir()) == [checkpoint]
    whole, again = TrapModel([0]), TrapModel([0])
    train(whole, seen, tiny)
    train(again, seen, tiny, checkpoint)
    assert same(weights_of(whole), weights_of(again))


def poisoning(at: tuple[int, ...]) -> Callable[..., Tensor]:
    """`loss_terms`, in which the second replica's last term is NaN in these steps."""

    def poisoned(model: Any, data: Any, *rest: Any) -> Tensor:
        terms = loss_terms(model, data, *rest)
        poison = torch.ones_like(terms)
        poison[-1, 1] = NAN if rest[-1] in at else 1.0
        return terms * poison

    return poisoned


def test_lost_replica_is_put_back_and_goes_on_at_half_of_its_rate(
    seen: Observations, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, saved = TrapModel([0, 1]), TrapModel([0, 1])
    train(plain, seen, tiny)
    monkeypatch.setattr(training, "loss_terms", poisoning((33,)))
    rates: list[Tensor] = []
    step = SOAP.step

    def watched(self: SOAP, gradients: Any, rate: float, shares: Tensor) -> None:
        rates.append(shares)
        step(self, gradients, rate, shares)

    monkeypatch.setattr(SOAP, "step", watched)
    history = train(saved, seen, replace(tiny, rescues=1))
    assert history.isfinite().all()
    assert rates[32].tolist() == [1.0, 1.0] and rates[34].tolist() == [1.0, 0.5]
    for one, two in zip(plain.parameters(), saved.parameters(), strict=True):
        assert torch.equal(one[0], two[0]) and two.isfinite().all()
    assert not same(weights_of(plain), weights_of(saved))


def test_rescued_run_that_is_broken_off_ends_the_same(
    seen: Observations, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lenient, checkpoint = replace(tiny, rescues=2), tmp_path / "checkpoint.safetensors"
    monkeypatch.setattr(training, "loss_terms", poisoning((33,)))
    whole, again = TrapModel([0, 1]), TrapModel([0, 1])
    train(whole, seen, lenient)
    monkeypatch.setattr(training, "loss_terms", poisoning((33, 45, 46, 47)))
    with pytest.raises(TrainingError, match=r"^step 46: the internal term of seeds \[1\]"):
        train(TrapModel([0, 1]), seen, lenient, checkpoint)
    monkeypatch.setattr(training, "loss_terms", poisoning((33,)))
    train(again, seen, lenient, checkpoint)
    assert same(weights_of(whole), weights_of(again))


# --- recipe ----------------------------------------------------------------------------------


def test_phases_follow_one_another(tiny: Recipe) -> None:
    windows = [tiny.phase_at(step).window for step in range(tiny.steps)]
    assert windows == [0] * 20 + [1] * 20 + [10] * 10


def test_rate_rises_and_then_falls_to_a_thousandth() -> None:
    recipe = Recipe((Phase(0, 20), Phase(1, 1000)), learning_rate=0.1)
    rates = [recipe.rate_at(step) for step in range(20, recipe.steps)]
    assert all(a < b for a, b in zip(rates[:49], rates[1:50], strict=True))
    assert all(a > b for a, b in zip(rates[60:-1], rates[61:], strict=True))
    assert 0.09 < max(rates) <= 0.1002 and 0.9e-4 < rates[-1] < 1.2e-4


def test_key_tells_recipes_apart(tiny: Recipe) -> None:
    others = [
        replace(tiny, phases=tiny.phases[:2]),
        replace(tiny, learning_rate=0.0101),
        replace(tiny, weights=(0.01, 30.0, 1.5)),
    ]
    assert len({recipe.key() for recipe in (tiny, *others)}) == 4
    assert replace(tiny).key() == tiny.key()
