"""The model as a whole, on every layout: its scales, gauge, predictions, files and plain numbers."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import LAYOUTS, SPACING, architecture_of, few_of, frozen, same, seen_of, weights_of

from ibvonns.ensemble import Density
from ibvonns.layouts import Point, Row
from ibvonns.model import LAWS, Architecture, Model, Prediction, load
from ibvonns.networks import copy_replica
from ibvonns.observations import Observations, observe
from ibvonns.rollout import rollout
from ibvonns.systems.chain import Chain

BACK_AND_FORTH = ("force", "velocity")
#: Each layout with each of its decoders, and numbers of internal variables.
MODELS = [
    ("point", "gaussian", 1),
    ("point", "gaussian", 2),
    ("point", "flow", 1),
    ("point", "flow", 3),
    ("plane", "gaussian", 2),
    ("row", "mixture", 1),
    ("row", "mixture", 3),
    ("row", "flow", 0),
    ("row", "flow", 1),
    ("row", "flow", 2),
    ("row", "gaussian", 1),
    ("ring", "flow", 0),
    ("ring", "gaussian", 2),
    ("grid", "mixture", 1),
]


@pytest.fixture(params=MODELS, ids=lambda case: "-".join(map(str, case)))
def case(request: pytest.FixtureRequest) -> tuple[Model, Observations]:
    """An untrained model with scales and gauge, and its data."""
    kind, decoder, internal = request.param
    model = frozen(kind, (3, 5), decoder, internal)
    return model.requires_grad_(False), seen_of(kind)


def short(seen: Observations, steps: int = 20) -> Observations:
    """The first times."""
    return seen.at(slice(0, steps + 1))


def tensors_of(run: Prediction) -> dict[str, Tensor]:
    """What a prediction holds."""
    return {k: v for k, v in vars(run).items() if isinstance(v, Tensor)}


# --- scales and gauge ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYOUTS)
def test_scales_are_those_of_the_particles(kind: str) -> None:
    model, few, seen = frozen(kind, (0,)), few_of(kind), seen_of(kind)
    everything = few.realisations.reshape(-1, few.components)
    scale = torch.stack([everything.mean(0), everything.std(0, unbiased=False)])
    for module in (model.encoder, model.decoder):
        assert torch.allclose(module.position, scale, rtol=1e-9)
    field = seen.field.flatten(0, 2)
    given = torch.stack([field.mean(0), field.std(0)]) if seen.field is not seen.mean else scale
    if kind not in SPACING:
        assert torch.allclose(model.decoder.given, given)
    assert torch.allclose(model.law.field, torch.stack([field.mean(0), field.std(0)]))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_free_energy_is_zero_at_the_mean_initial_state(kind: str) -> None:
    with torch.no_grad():
        model, seen = frozen(kind), short(seen_of(kind))
        start = model.states(seen, model.encode(seen))[:, :, 0].mean((1, 2), keepdim=True)
        energy = model.law.free_energy(start)
    assert energy.abs().max() <= 1e-14 * float(model.law.energy)


@pytest.mark.parametrize("internal", [1, 2])
@pytest.mark.parametrize("kind", ["point", "row"])
def test_alpha_may_leave_its_data_by_half_of_their_width_once_trained(kind: str, internal: int) -> None:
    model, seen = Model([0, 1], architecture_of(kind, internal=internal)), seen_of(kind)
    model.set_scales(seen)
    assert (model.law.reach.abs() == 1e6).all()
    model.freeze(seen)
    low, high = model.encode(seen).flatten(1, 3).aminmax(dim=1)
    assert torch.allclose(model.law.reach, torch.stack([1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low], 1))
    model.set_scales(seen)  # training anew holds nothing back
    assert (model.law.reach.abs() == 1e6).all()


def test_scales_do_not_depend_on_how_the_record_is_sampled() -> None:
    """Ten times as many steps in the first half are not ten times as many rates."""
    fine, scales = torch.linspace(0, 3, 301, dtype=torch.float64), []
    for clock in (fine[::10], torch.cat([fine[:150], fine[150::10]])):
        mean = (clock.clamp_max(1.5) * 2 + clock)[None, :, None, None]  # a fast half, a slow one
        grid = torch.linspace(0, 1, 2).double()
        cloud = Density(grid, torch.full((1, len(clock), 1, 2), 0.5, dtype=torch.float64))
        data = Observations(clock, mean, cloud, mean, 0 * mean + 1, 9, mean[..., 0])
        model = Model([0], architecture_of("point"))
        model.set_scales(data)
        scales.append(float(model.law.rate) * float(mean.std()))
    assert scales == pytest.approx([5**0.5, 5**0.5], rel=1e-6)


def test_replica_is_what_its_seed_gives_alone(case: tuple[Model, Observations]) -> None:
    both, seen = case
    alone = Model([5], both.architecture)
    alone.set_scales(seen)
    alone.freeze(seen)
    with torch.no_grad():
        pair, single = (tensors_of(model.predict(short(seen))) for model in (both, alone))
    for name, expected in single.items():
        size = expected.abs().max() if expected.numel() else 0.0
        assert (pair[name][1] - expected[0]).abs().sum() <= 1e-10 * size * expected.numel(), name


@pytest.mark.parametrize("kind", LAYOUTS)
def test_replacing_a_replica_leaves_the_others(kind: str) -> None:
    seen, model, other = seen_of(kind), frozen(kind, (0, 1, 2)), frozen(kind, (9,))
    before = weights_of(model)
    copy_replica(model, 1, other)
    with torch.no_grad():
        assert (model.encode(seen)[1] - other.encode(seen)[0]).abs().max() <= 1e-12
    for name, value in model.state_dict().items():
        if value.ndim == 3:
            assert torch.equal(value[[0, 2]], before[name][[0, 2]])
            assert torch.equal(value[1], other.state_dict()[name][0])
        else:
            assert torch.equal(value, before[name])


# --- predictions -----------------------------------------------------------------------------


@pytest.mark.parametrize("given", BACK_AND_FORTH)
def test_both_engines_predict_the_same(case: tuple[Model, Observations], given: str) -> None:
    model, seen = case
    found, expected = (
        tensors_of(model.predict(short(seen), given, backend=backend)) for backend in ("fast", "reference")
    )
    assert found.keys() == expected.keys()
    for name, other in expected.items():
        assert (found[name] - other).norm() <= 1e-10 * other.norm(), name


def test_prediction_has_the_shapes_it_states(case: tuple[Model, Observations]) -> None:
    model, seen = case
    run = model.predict(short(seen))
    layout, front = model.architecture.layout, (2, 2, 21)
    sites = seen.mean.shape[2]
    assert run.field.shape == (*front, sites, layout.fields)
    assert run.alpha.shape == (*front, sites, model.architecture.internal)
    assert (run.force is None) == (layout.ends == 0)
    assert run.force is None or run.force.shape == (*front, layout.ends)
    assert (run.velocity is not None) == layout.driven
    assert run.velocity is None or run.velocity.shape == front


@pytest.mark.parametrize("kind", ["point", "plane"])
def test_prediction_at_a_point_is_the_rollout_and_the_slope_of_the_free_energy(kind: str) -> None:
    model, seen = frozen(kind).requires_grad_(False), short(seen_of(kind))
    alpha = model.encode(seen)
    run = model.predict(seen)
    start = model.states(seen, alpha)[:, :, 0]
    controls = seen.field[:, :, 0]
    path, _ = rollout(model.law, start, seen.times.diff(), controls[:, :-1], backend="reference")
    assert torch.allclose(run.alpha[:, :, 1:], path[..., seen.field.shape[-1] :], rtol=1e-10)
    assert torch.allclose(run.alpha[:, :, 0], alpha[:, :, 0], rtol=0, atol=1e-12)
    assert torch.equal(run.field, seen.field.expand_as(run.field))
    for axis in range(controls.shape[-1]):  # a slope by central differences
        z = run.states.flatten(1, 2)
        step = 1e-6 * torch.eye(z.shape[-1], dtype=torch.float64)[axis]
        energies = [model.law.free_energy(z + sign * step) for sign in (1, -1)]
        slope = ((energies[0] - energies[1]) / 2e-6)[..., 0].unflatten(1, (2, 21))
        assert run.force is not None
        assert torch.allclose(run.force[..., axis], slope, rtol=1e-5, atol=1e-7)


def test_total_strain_is_the_prescribed_one_when_the_velocity_is_given() -> None:
    seen = short(seen_of("row"), 50)
    for decoder, internal in (("mixture", 1), ("flow", 0)):
        model = frozen("row", (0, 1), decoder, internal)
        run = model.predict(seen, "velocity")
        total = few_of("row").records["pulled_length"][:, :51] / 0.01 - 10
        assert (run.field[..., 0].sum(-1) - total).abs().max() < 1e-10
        assert run.velocity is not None
        assert torch.equal(run.velocity, seen.velocity.expand_as(run.velocity))  # type: ignore[union-attr]


@pytest.mark.parametrize("internal", [0, 1, 2])
def test_force_given_back_leads_to_the_same_velocity(internal: int) -> None:
    """F_ex along a rollout, handed to the law at the same states, gives the velocity again."""
    model, seen = frozen("row", internal=internal).requires_grad_(False), short(seen_of("row"))
    run = model.predict(seen, "velocity")
    assert run.force is not None and run.velocity is not None
    _, velocity = model.law.step(run.states.flatten(1, 2), force=run.force.flatten(1, 3))
    miss = velocity[..., 0] - run.velocity.flatten(1)
    assert miss.abs().max() < 1e-8 * run.velocity.abs().max()


@pytest.mark.parametrize("kind", ["ring", "grid"])
def test_closed_layouts_keep_their_sum(kind: str) -> None:
    run = frozen(kind, internal=1).predict(seen_of(kind))
    total = run.field.sum(3)
    assert (total - total[:, :, :1]).abs().max() < 1e-11


@pytest.mark.parametrize("springs", [3, 50])
@pytest.mark.parametrize("decoder", ["mixture", "flow"])
def test_a_model_of_ten_springs_runs_chains_of_other_sizes(decoder: str, springs: int) -> None:
    model = frozen("row", decoder=decoder)
    field = torch.linspace(0, 2, springs, dtype=torch.float64)[None, :, None]
    start = torch.cat([field, field], -1).expand(2, 1, -1, -1)
    times = 0.01 * torch.arange(4, dtype=torch.float64)
    velocity = torch.full((1, 4), 0.05, dtype=torch.float64)
    with torch.no_grad():
        path, force = model.rolled(start, times, {"velocity": velocity})
    assert path.shape == (2, 1, 4, springs, 2) and bool(force.isfinite().all())


def test_another_start_is_taken_as_it_is(case: tuple[Model, Observations]) -> None:
    model, seen = case
    alpha = model.encode(seen)[:, :, 0]
    run = model.predict(short(seen), alpha=alpha + 0.1)
    assert torch.equal(run.alpha[:, :, 0], alpha + 0.1)
    ours, encoded = (tensors_of(model.predict(short(seen), alpha=each)) for each in (alpha, None))
    for name, part in ours.items():  # a processor's matrix product may depend on the number of rows
        assert torch.allclose(part, encoded[name], rtol=0, atol=1e-12, equal_nan=True)


# --- files and plain numbers -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_what_is_saved_is_loaded_bit_by_bit(case: tuple[Model, Observations], tmp_path: Path, suffix: str) -> None:
    model, seen = case
    path = tmp_path / "deep" / f"model.{suffix}"
    model.save(path)
    again = load(path)
    assert again.seeds == [3, 5] and again.architecture == model.architecture
    assert same(weights_of(again), weights_of(model))
    assert same(tensors_of(again.predict(short(seen))), tensors_of(model.predict(short(seen))))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_law_of_plain_networks_is_saved_too(tmp_path: Path) -> None:
    """What the paper's baselines add to the laws is saved and loaded as any other."""
    if "rates" not in LAWS:
        import_module("ibvonns.paper.baselines")
    for internal in (0, 1, 2):
        model = Model([0, 1], replace(architecture_of("row", internal=internal), law="rates"))
        model.set_scales(seen_of("row"))
        model.freeze(seen_of("row"))
        for name in ("model.json", "model.safetensors"):
            model.save(tmp_path / name)
            again, seen = load(tmp_path / name), short(seen_of("row"))
            assert type(again.law) is type(model.law)
            assert same(tensors_of(again.predict(seen)), tensors_of(model.predict(seen)))


@pytest.mark.parametrize("replica", [0, 1])
def test_one_replica_is_the_same_after_a_way_through_json(case: tuple[Model, Observations], replica: int) -> None:
    model, seen = case
    again = Model.restored(json.loads(json.dumps(model.exported(replica))))
    assert again.seeds == [model.seeds[replica]]
    for name, tensor in model.state_dict().items():
        mine = tensor[replica : replica + 1] if tensor.ndim == 3 else tensor
        assert torch.equal(again.state_dict()[name], mine), name
    miss = again.encode(short(seen))[0] - model.encode(short(seen))[replica]
    assert miss.norm() <= 1e-12  # one replica's products are summed in another order


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_exported(tmp_path: Path, value: float) -> None:
    """JSON knows no NaN; the tensor is named, and a file that was there stays."""
    for name in ("law.energy_network.first.weight", "encoder.offset", "decoder.position"):
        model, path = frozen("point"), tmp_path / "model.json"
        model.save(path)
        before = path.read_bytes()
        state = model.state_dict()
        name = name if name in state else next(n for n in state if n.startswith("law.energy_net"))
        state[name].flatten()[0] = value
        for refused in (model.exported, lambda m=model, p=path: m.save(p)):
            with pytest.raises(ValueError, match=f"^{name} must be finite"):
                refused()
        assert path.read_bytes() == before


# --- architectures, and the constants of another system --------------------------------------


@pytest.mark.parametrize("kind", LAYOUTS)
def test_architectures_come_back_from_plain_values(kind: str) -> None:
    changes: dict[str, Any] = {"reference": 0.3, "wells": 1.5, "sigmoids": 3, "internal": 2}
    architecture = replace(architecture_of(kind), **changes)
    plain = json.loads(json.dumps(architecture.plain()))
    assert Architecture.of(plain) == architecture
    assert Architecture.of(plain) != replace(architecture, spacing=0.3)


def test_constants_of_another_chain_reach_every_part_and_stay(tmp_path: Path) -> None:
    chain = Chain(springs=20, natural_length=0.02, stiffness=(0.01, 0.01), barrier_strain=1.2,
                  well_strain=2.4, temperature=1e-5)  # fmt: skip
    few = chain.simulate_paper(lengths=(0.48, 0.8), realisations=30)
    data = observe(few.select(slice(None)), spacing=chain.natural_length, points=81)
    architecture = Architecture(Row(), chain.natural_length, wells=chain.well_strain)
    model = Model([0], architecture)
    model.set_scales(data)
    model.freeze(data)
    with pytest.raises(ValueError, match="^data must have the model's spacing, 0.02, but have 1"):
        model.set_scales(observe(few, points=81))
    runs = []
    for name in ("", "model.json", "model.safetensors"):
        if name:
            model.save(tmp_path / name)
            model = load(tmp_path / name)
        assert model.law.spacing == model.architecture.spacing == 0.02
        logs, centres, _ = model.decoder(torch.zeros(1, 1, 2, dtype=torch.float64))
        assert float(centres.diff(dim=-1).detach()) == pytest.approx(2.4)
        runs.append(model.predict(data, "velocity"))
        total = few.records["pulled_length"] / 0.02 - 20
        assert (runs[-1].field[..., 0].sum(-1) - total).abs().max() < 1e-9
    assert all(same(tensors_of(run), tensors_of(runs[0])) for run in runs)


def test_reference_is_kept(tmp_path: Path) -> None:
    model = Model([0], replace(architecture_of("row"), reference=0.7))
    model.save(tmp_path / "model.json")
    assert load(tmp_path / "model.json").encoder.reference == 0.7


@pytest.mark.parametrize("other", ["plane", "row"])
def test_data_of_another_layout_are_refused(other: str) -> None:
    model = frozen("point")
    for call in (model.set_scales, model.matched, model.predict):
        with pytest.raises(ValueError, match="^data.* must have "):
            call(seen_of(other))


def test_several_sites_are_no_point() -> None:
    """A point has one site: of a row's data it would take the first and leave the others."""
    several = replace(seen_of("row"), spacing=1.0)
    with pytest.raises(ValueError, match="^data.* must "):
        Model([0], architecture_of("point")).set_scales(several)


def test_a_row_without_its_force_or_its_velocity_is_refused() -> None:
    for kind, name in (("row", "force"), ("row", "velocity")):
        none: dict[str, Any] = {name: None}
        bare = replace(seen_of(kind), **none)
        with pytest.raises(ValueError, match=f"^data must have a {name}"):
            Model([0], architecture_of(kind)).set_scales(bare)
    with pytest.raises(ValueError, match="^data must have a velocity to be given"):
        frozen("row").predict(replace(seen_of("row"), velocity=None), "velocity")
    assert frozen("row").predict(replace(seen_of("row"), velocity=None)).force is not None
    assert Point().ends == 1


def test_a_model_whose_springs_feel_their_neighbours_is_saved_and_refused_where_there_are_none(tmp_path: Path) -> None:
    site = Architecture(Row(), 0.01, 2, "flow", neighbours=True)
    model = Model([0, 1], site)
    for suffix in (".json", ".safetensors"):
        model.save(tmp_path / f"law{suffix}")
        again = load(tmp_path / f"law{suffix}")
        assert again.architecture == site and again.law.neighbours
    for odd in ({"layout": Point(), "decoder": "gaussian"}, {"internal": 0}, {"law": "rates"}):
        with pytest.raises(ValueError, match="neighbours must be False without bonds, internal variables"):
            replace(site, **odd)
