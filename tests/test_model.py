"""The model as a whole: what it sees, its gauge, its predictions, its file."""

from pathlib import Path

import torch

from ibvonns.encoder import GAUGE_EVERY
from ibvonns.ensemble import Ensemble
from ibvonns.model import Observations, TrapModel, observe
from ibvonns.networks import copy_replica
from ibvonns.rollout import rollout


def frozen(seen: Observations, seeds: list[int]) -> TrapModel:
    """An untrained model with scales and gauge."""
    model = TrapModel(seeds)
    model.set_scales(seen)
    model.freeze(seen)
    return model


def test_observations_are_the_moments_and_records_of_the_ensemble(few: Ensemble) -> None:
    seen = observe(few, points=300)
    assert torch.equal(seen.mean, few.mean())
    assert torch.equal(seen.controls, few.records["pulled_length"])
    assert torch.equal(seen.external_force, few.records["external_force"])
    assert torch.allclose(seen.variance, few.variance() * 199 / 200)
    assert torch.allclose(seen.density.weights @ seen.density.grid, seen.mean)


def test_scales_are_those_of_the_particles(few: Ensemble, seen: Observations) -> None:
    model = frozen(seen, [0])
    everything = few.realisations.flatten()
    for module in (model.encoder, model.decoder):
        assert torch.allclose(module.position[0], everything.mean())
        assert torch.allclose(module.position[1], everything.std(unbiased=False))


def test_frozen_alpha_is_standardised_and_rises_with_the_mean(seen: Observations) -> None:
    with torch.no_grad():
        model = frozen(seen, [0, 1, 2])
        alpha = model.encode(seen)
        assert torch.allclose(alpha, model.standardised(seen), rtol=0, atol=1e-12)
    gauged = alpha[:, :, ::GAUGE_EVERY]
    assert gauged.mean((1, 2)).abs().max() <= 1e-12
    assert (gauged.square().mean((1, 2)) - 1).abs().max() <= 1e-12
    assert ((alpha[..., 0] * (seen.mean - seen.mean.mean())).sum((1, 2)) > 0).all()


def test_free_energy_is_zero_at_the_mean_initial_state(seen: Observations) -> None:
    with torch.no_grad():
        model = frozen(seen, [0, 1])
        start = model.encode(seen)[:, :, 0].mean(1, keepdim=True)
        energy = model.potentials.free_energy(seen.controls[:, 0].mean().reshape(1, 1), start)
    assert energy.abs().max() <= 1e-15


def test_prediction_is_the_rollout_and_the_slope_of_the_free_energy(seen: Observations) -> None:
    model = frozen(seen, [0, 1])
    with torch.no_grad():
        initial = model.encode(seen)[:, :, 0]
        alpha, force = model.predict(seen.controls, initial, seen.times)
    expected = rollout(model.potentials.evolution, seen.controls, initial, seen.times)
    assert torch.allclose(alpha, expected, rtol=1e-10, atol=1e-12)  # another engine
    assert torch.equal(alpha[:, :, 0], initial)
    controls = seen.controls.clone().requires_grad_()
    energy = model.potentials.free_energy(controls.flatten()[:, None], alpha[:1].flatten(1, 2))
    # a model of two replicas broadcasts the states of one: take the replica that they are of
    (slope,) = torch.autograd.grad(energy[0].sum(), controls)
    assert torch.allclose(force[0], slope, rtol=1e-10, atol=1e-14)


def test_replica_is_what_its_seed_gives_alone(seen: Observations) -> None:
    with torch.no_grad():
        both, alone = frozen(seen, [4, 7]), frozen(seen, [7])
        starts = [model.encode(seen)[:, :, 0] for model in (both, alone)]
        pair = both.predict(seen.controls, starts[0], seen.times)
        single = alone.predict(seen.controls, starts[1], seen.times)
    for ours, expected in zip(pair, single, strict=True):
        assert (ours[1] - expected[0]).abs().max() <= 1e-12 * expected.abs().max()


def test_replacing_a_replica_leaves_the_others(seen: Observations) -> None:
    model, other = frozen(seen, [0, 1, 2]), frozen(seen, [9])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy_replica(model, 1, other)
    with torch.no_grad():
        assert (model.encode(seen)[1] - other.encode(seen)[0]).abs().max() <= 1e-12
    for name, value in model.state_dict().items():
        if value.ndim == 3:
            assert torch.equal(value[[0, 2]], before[name][[0, 2]])
            assert torch.equal(value[1], other.state_dict()[name][0])
        else:
            assert torch.equal(value, before[name])


def test_what_is_saved_is_loaded_bit_by_bit(seen: Observations, tmp_path: Path) -> None:
    model = frozen(seen, [3, 5])
    model.save(tmp_path / "model.safetensors")
    again = TrapModel.load(tmp_path / "model.safetensors")
    assert again.seeds == [3, 5]
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_thinned_observations_are_those_of_some_times(seen: Observations) -> None:
    few = seen.every(4)
    for name in ("controls", "external_force", "mean", "variance"):
        assert torch.equal(getattr(few, name), getattr(seen, name)[:, ::4])
    assert torch.equal(few.times, seen.times[::4]) and seen.every(1) is seen
