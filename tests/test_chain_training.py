"""Training of the chain: its loss says what it compares, it learns, it goes on after a stop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ibvonns import training
from ibvonns.chain_model import ChainModel, ChainObservations, observe_chain
from ibvonns.ensemble import Density
from ibvonns.rollout import chain_rollout
from ibvonns.systems.chain import Chain
from ibvonns.training import Phase, Recipe, TrainingError, loss_terms, train

TINY = Recipe(
    (Phase(0, 15), Phase(1, 15, 5), Phase(4, 6, 2)), 1e-2, (1.0, 0.025, 1.0, 0.3, 30.0), 4
)


@pytest.fixture(scope="module")
def observed() -> ChainObservations:
    """The chain from two lengths, 100 realisations each."""
    return observe_chain(Chain().simulate_paper(lengths=(0.12, 0.2), realisations=100), points=60)


def weights_of(model: ChainModel) -> dict[str, Tensor]:
    """A copy of everything that a model holds."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_recorded_states_leave_no_strain_and_no_internal_term(
    observed: ChainObservations, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, starts, window = ChainModel([0, 1]), torch.tensor([0, 40, 200]), 3
    model.set_scales(observed)
    alpha = model.standardised(observed).detach()
    times = starts[:, None] + torch.arange(1, window + 1)
    strain = observed.mean[:, times].flatten(0, 1).expand(2, -1, -1, -1)
    inner = alpha[:, :, times].flatten(1, 2)

    def recorded(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ends = torch.zeros(2, len(inputs[1]), len(inputs[5]), dtype=torch.float64)
        return strain, inner, ends

    monkeypatch.setattr(training, "chain_rollout", recorded)
    terms = loss_terms(model, observed, window, starts)
    assert terms.shape == (5, 2)
    assert terms[2:4].abs().max() < 1e-20
    assert (terms[4] > 0).all()


def test_a_miss_counts_by_its_window(
    observed: ChainObservations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same miss after j steps weighs as 1 / j: the noise of j steps has a variance of j."""
    model = ChainModel([0])
    model.set_scales(observed)
    values = []
    for window in (1, 4):
        times = torch.tensor([10])[:, None] + torch.arange(1, window + 1)
        strain = observed.mean[:, times].flatten(0, 1)[None].clone()
        strain[..., -1, 0] += 0.01  # every free particle, at the last step
        states = torch.zeros(1, 2, window, 10, 1).double()

        def missing(*inputs: Tensor, parts: tuple[Tensor, Tensor] = (strain, states)) -> Any:
            return *parts, torch.zeros(1, len(inputs[1]), len(inputs[5]))

        monkeypatch.setattr(training, "chain_rollout", missing)
        terms = loss_terms(model, observed, window, torch.tensor([10])).detach()
        values.append(float(terms[2, 0]))
    unit = 0.01 * 0.01 / 0.01 / float(model.potentials.velocity_scale)
    assert values == pytest.approx([unit**2, unit**2 / 4 / 4], rel=1e-6)


@pytest.mark.parametrize("window", [4, 25])
def test_each_window_of_a_chain_has_its_own_clock_and_weight(
    observed: ChainObservations, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """The same miss weighs as one over the time that the window has run for by then."""
    data = replace(observed, times=3 * (observed.times / 3) ** 1.5)
    model, starts = ChainModel([0]), torch.tensor([10, 200])
    model.set_scales(data)
    times = starts[:, None] + torch.arange(1, window + 1)
    clock = data.times[times] - data.times[starts, None]

    def missing(*inputs: Tensor) -> Any:
        ends = torch.zeros(1, len(inputs[1]), inputs[5].shape[-1])
        if inputs[3].shape[1] > 1:
            assert torch.allclose(inputs[5].cumsum(1), clock.repeat(2, 1))
        strain = data.mean[:, times].flatten(0, 1)[None].clone()
        strain[:, 1::2, -1, 0] += 0.01  # in the second window of each condition
        return strain, torch.zeros(1, 4, window, 10, 1).double(), ends

    monkeypatch.setattr(training, "chain_rollout", missing)
    term = float(loss_terms(model, data, window, starts).detach()[2, 0])
    # below 20 steps it is a miss of all free particles, in longer windows of one strain of ten
    share, run = (1.0, clock[1, -1]) if window == 4 else (0.1, clock[1, -1] / 2)
    unit = 0.01 * 0.01 / float(model.potentials.velocity_scale)
    assert term == pytest.approx(share * unit**2 / float(run) / 0.01 / window / 2, rel=1e-6)


def test_rows_and_the_end_change_from_step_to_step(
    observed: ChainObservations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows that always start at time 0 must still see all times, and both end conditions."""
    model, first, ends = ChainModel([0]), torch.tensor([0]), []
    model.set_scales(observed)

    def seen(*inputs: Any) -> Any:
        ends.append("free" if inputs[4] is None else "moved")
        return chain_rollout(*inputs)

    monkeypatch.setattr(training, "chain_rollout", seen)
    draws = [loss_terms(model, observed, 25, first, None, n).detach() for n in range(3)]
    assert len({float(terms[0, 0]) for terms in draws}) == 3
    assert ends[::2] == ["moved", "free", "moved"]  # the odd ones are of the drive term


@pytest.mark.parametrize("decoder", ["mixture", "flow"])
def test_density_and_drive_terms_fall(observed: ChainObservations, decoder: str) -> None:
    model = ChainModel([0, 1, 2], decoder)
    recipe = Recipe((Phase(0, 300), Phase(1, 120, 20)), 1.5e-2, (1.0, 0.025, 1.0, 0.3, 30.0))
    model.set_scales(observed)
    starts = torch.arange(0, 300, 11)
    before = loss_terms(model, observed, 1, starts).detach()
    history = train(model, observed, recipe)
    after = loss_terms(model, observed, 1, starts).detach()
    assert history.shape == (42, 5, 3)
    # a draw may be stuck in a poor minimum: `train_chain` chooses among three
    assert (after[0] < before[0] - 0.3).sum() >= 2
    assert (after[4] < before[4] / 10).all()  # strain: 100 realisations are mostly noise


def test_broken_run_goes_on_to_the_same_weights(
    observed: ChainObservations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ChainModel([0, 1], "flow")
    history = train(whole, observed, TINY)
    checkpoint, calls = tmp_path / "checkpoint.safetensors", []

    def breaking(*inputs: object) -> Tensor:
        calls.append(1)
        if len(calls) > 23:
            raise KeyboardInterrupt
        return loss_terms(*inputs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "loss_terms", breaking)
        with pytest.raises(KeyboardInterrupt):
            train(ChainModel([0, 1], "flow"), observed, TINY, checkpoint)
    again = ChainModel([0, 1], "flow")
    assert torch.equal(train(again, observed, TINY, checkpoint), history)
    ours, expected = weights_of(again), weights_of(whole)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    train(ChainModel([0, 1], "flow"), observed, TINY, checkpoint)
    with pytest.raises(ValueError, match="^checkpoint must belong"):  # another architecture
        train(ChainModel([0, 1], "flow", 3), observed, TINY, checkpoint)
    grid, weights = observed.density.grid, observed.density.weights
    other = replace(observed, density=Density(grid, weights.flip(2)))
    with pytest.raises(ValueError, match="^checkpoint must belong"):  # other densities
        train(ChainModel([0, 1], "flow"), other, TINY, checkpoint)


@pytest.mark.parametrize(
    ("part", "term"),
    [("decoder", "density"), ("potentials.energy_network", "strain")],
)
def test_weight_that_is_not_finite_stops_training_with_step_and_term(
    observed: ChainObservations, part: str, term: str
) -> None:
    model = ChainModel([3, 5])
    with torch.no_grad():
        next(model.get_submodule(part).parameters())[1] = float("nan")
    with pytest.raises(TrainingError, match=rf"^step 0: the {term} term of seeds \[5\] is not fin"):
        train(model, observed, Recipe((Phase(1, 5, 5),), weights=TINY.weights))


def test_a_chain_is_not_trained_by_its_third_recipe_alone(observed: ChainObservations) -> None:
    with pytest.raises(ValueError, match="^recipe must be named for a chain, .*train_chain"):
        train(ChainModel([0]), observed)


def test_model_of_another_kind_is_refused(observed: ChainObservations) -> None:
    with pytest.raises(TypeError, match="^model must be a TrapModel or a ChainModel, but is a Lin"):
        loss_terms(torch.nn.Linear(1, 1), observed, 1, torch.tensor([0]))
