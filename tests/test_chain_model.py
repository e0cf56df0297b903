"""The chain's model: its gauge, its rollouts at both end conditions, its likelihood."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ibvonns.chain_model import DECODERS, ChainModel, ChainObservations, observe_chain
from ibvonns.ensemble import Density, Ensemble
from ibvonns.systems.chain import Chain


@pytest.fixture(scope="module")
def pulled() -> Ensemble:
    """The chain from two lengths, 100 realisations each."""
    return Chain().simulate_paper(lengths=(0.12, 0.2), realisations=100)


@pytest.fixture(scope="module")
def observed(pulled: Ensemble) -> ChainObservations:
    """What training sees of it."""
    return observe_chain(pulled, points=80)


@pytest.fixture(scope="module", params=DECODERS)
def model(request: pytest.FixtureRequest, observed: ChainObservations) -> ChainModel:
    """Random weights of two seeds, scales and gauge from the data."""
    made = ChainModel([0, 1], request.param)
    made.set_scales(observed)
    made.freeze(observed)
    return made.requires_grad_(False)


def test_alpha_is_standardised_in_the_frozen_gauge(
    model: ChainModel, observed: ChainObservations
) -> None:
    alpha = model.encode(observed)
    assert alpha.shape == (2, 2, 301, 10, 1)
    assert torch.allclose(alpha, model.standardised(observed), rtol=0, atol=1e-12)
    rows = alpha[:, :, ::10].flatten(1)  # the times on which the gauge is measured
    assert rows.mean(1).abs().max() < 1e-12
    assert (rows.std(1, unbiased=False) - 1).abs().max() < 1e-12


def test_position_scales_are_those_of_the_single_strains(
    model: ChainModel, pulled: Ensemble
) -> None:
    mean, deviation = model.encoder.position.tolist()
    assert mean == pytest.approx(float(pulled.realisations.mean()), rel=1e-9)
    assert deviation == pytest.approx(float(pulled.realisations.std()), rel=1e-2)


def test_likelihood_over_the_grid_is_that_of_the_realisations(
    model: ChainModel, pulled: Ensemble
) -> None:
    """Compression moves it by no more than the square of the spacing times a curvature."""
    fine = observe_chain(pulled, points=1200)
    alpha = model.encode(fine)
    at = 150
    values = pulled.realisations[:, at].flatten(0, 1).expand(2, 20, -1)
    states = alpha[:, :, at].flatten(1, 2)
    direct = -model.decoder.log_density(values, fine.mean[:, at].flatten(), states).mean((1, 2))
    rows = Density(fine.density.grid, fine.density.weights[:, at])
    compressed = model.nll(rows, fine.mean[:, at].flatten(), states)
    assert torch.allclose(direct, compressed, atol=1e-3)


def test_total_strain_is_the_prescribed_one_when_the_velocity_is_given(
    model: ChainModel, observed: ChainObservations, pulled: Ensemble
) -> None:
    alpha = model.encode(observed)
    first = slice(0, 51)
    strain, inner, force = model.predict(
        observed.mean[:, 0],
        alpha[:, :, 0],
        observed.times[first],
        observed.velocity[:, first],
        "velocity",
    )
    assert strain.shape == (2, 2, 51, 10) and inner.shape == (2, 2, 51, 10, 1)
    total = pulled.records["pulled_length"][:, first] / 0.01 - 10
    assert (strain.sum(-1) - total).abs().max() < 1e-10
    assert force.shape == (2, 2, 51)


@pytest.mark.parametrize("boundary", ["force", "velocity"])
def test_both_engines_predict_the_same(
    model: ChainModel, observed: ChainObservations, boundary: str
) -> None:
    known = observed.external_force if boundary == "force" else observed.velocity
    with torch.no_grad():
        begin = observed.mean[:, 0], model.encode(observed)[:, :, 0], observed.times
        found, expected = (
            model.predict(*begin, known, boundary, backend) for backend in ("fast", "reference")
        )
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-10 * other.norm()


def test_force_given_back_leads_to_the_same_velocity(
    model: ChainModel, observed: ChainObservations
) -> None:
    """F_ex along a rollout, handed to the law at the same states, gives the velocity again."""
    alpha = model.encode(observed)
    first = slice(0, 21)
    known = observed.velocity[:, first]
    start = (observed.mean[:, 0], alpha[:, :, 0], observed.times[first])
    strain, inner, force = model.predict(*start, known, "velocity")
    law = model.potentials
    _, _, velocity = law.force_given(strain.flatten(1, 2), inner.flatten(1, 2), force.flatten(1))
    assert (velocity - known.flatten()).abs().max() < 1e-8 * known.abs().max()


@pytest.mark.parametrize("springs", [3, 50])
def test_a_model_of_ten_springs_runs_chains_of_other_sizes(model: ChainModel, springs: int) -> None:
    times = 0.01 * torch.arange(4, dtype=torch.float64)
    strain = torch.linspace(0, 2, springs, dtype=torch.float64)[None]
    alpha = strain[None, :, :, None].expand(2, -1, -1, -1)
    velocity = torch.full((1, 4), 0.05, dtype=torch.float64)
    path, _, force = model.predict(strain, alpha, times, velocity, "velocity")
    assert path.shape == (2, 1, 4, springs) and bool(force.isfinite().all())


def test_drift_is_the_slope_of_alpha_along_a_shift(
    model: ChainModel, observed: ChainObservations
) -> None:
    some = Density(observed.density.grid, observed.density.weights[:, ::50])
    step = 1e-4
    moved = [Density(some.grid + sign * step, some.weights) for sign in (1, -1)]
    raw = [model.encoder.raw(rows) for rows in moved]
    slope = (raw[0] - raw[1]) / (2 * step)
    assert torch.allclose(model.encoder.drift(some, step), slope, rtol=1e-6, atol=1e-9)
    spread = model.encoder.raw(some).var(1, unbiased=False)
    expected = (slope.square().mean(1) / spread)[:, 0]
    assert torch.allclose(model.drift(some), expected, rtol=0.01)


def test_what_is_saved_is_loaded_bit_by_bit(model: ChainModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    again = ChainModel.load(tmp_path / "model.safetensors")
    assert again.seeds == [0, 1] and type(again.decoder) is type(model.decoder)
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_alpha_of_some_times_is_that_of_all(model: ChainModel, observed: ChainObservations) -> None:
    wanted = torch.tensor([7, 3, 250, 3])
    alpha = model.standardised(observed)[:, :, wanted]
    assert torch.allclose(model.standardised(observed, wanted), alpha, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_thinned_observations_keep_the_records_and_the_distance(
    observed: ChainObservations, stride: int
) -> None:
    for seen in (observed, replace(observed, times=observed.times**1.5)):  # uneven steps, too
        few = seen.every(stride)
        steps = len(few.times) - 1
        assert torch.equal(few.times, seen.times[::stride])
        for name in ("external_force", "mean"):
            assert torch.equal(getattr(few, name), getattr(seen, name)[:, ::stride])
        assert torch.equal(few.density.weights, seen.density.weights[:, ::stride])
        moved = (few.velocity[:, 1:] * few.times.diff()).cumsum(1)
        whole = (seen.velocity[:, 1:] * seen.times.diff()).cumsum(1)[:, stride - 1 :: stride]
        assert torch.allclose(moved, whole[:, :steps], rtol=1e-12, atol=0)


def test_thinning_says_what_it_takes(observed: ChainObservations) -> None:
    with pytest.raises(ValueError, match="^stride must be"):
        observed.every(0)
