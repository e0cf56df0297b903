"""What a law answers: the first and the second law in every answer, equilibrium, and NumPy in and out."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from laws import LAYOUTS, made
from toys import few_of

from ibvonns.answers import Answer, Band, equilibrium, predict
from ibvonns.layouts import Row
from ibvonns.model import Architecture, Model
from ibvonns.observations import observe

TIMES = np.linspace(0.0, 1.0, 201)
WAVE = np.sin(2 * np.pi * TIMES)


@cache
def model_of(kind: str, internal: int = 1, **more: Any) -> Model:
    """A random law of two seeds, with units of its own, that alpha does not leave."""
    layout, row = LAYOUTS[kind], LAYOUTS[kind].driven
    components = layout.fields if kind == "plane" else 1
    names = {"row": (), "known": ("k", "m"), "point": ("pull",), "plane": ("right", "up")}[kind]
    of = Architecture(
        layout, 0.3 if row else 1.0, internal, "flow" if row else "gaussians", components, steps="midpoint",
        controls=names, temperature=0.02, sigmoids=1, **more,
    )  # fmt: skip
    model = Model([0, 1], of).requires_grad_(False)
    law = made(layout, internal)
    convex: Any = law.energy_network  # then f has a minimum, and equilibrium is somewhere
    for part in (convex.layers[1].weight, convex.last.weight):
        part.data.abs_()
    model.law.load_state_dict(law.state_dict())
    model.decoder.given.copy_(law.field)
    return model


def driven(kind: str, shape: Any = WAVE, size: float = 0.5) -> dict[str, Any]:
    """Controls of this shape about the usual ones."""
    law = model_of(kind).law
    middle, wide = (part.tolist() for part in law.field)
    names = model_of(kind).architecture.controls
    return {name: middle[n] + size * wide[n] * (n + 1) * shape for n, name in enumerate(names)}


def asked(kind: str, times: Any = TIMES, internal: int = 1, shape: Any = WAVE) -> Answer:
    """The answer to a wave from equilibrium; a law's clock gives the unit of time."""
    model = model_of(kind, internal)
    clock = times / float(model.law.clock)
    if not LAYOUTS[kind].driven:
        return predict(model, clock, driven(kind, shape))
    known = {name: np.linspace(0.8, 1.2, 4) for name in model.architecture.controls}
    length = 4 * 0.3 * (float(model.law.field[0, -1]) + 0.3 * float(model.law.field[1, -1]) * shape)
    return predict(model, clock, {"length": length}, sites=4, parameters=known)


@pytest.mark.parametrize(("kind", "internal"), [("point", 1), ("point", 3), ("plane", 2), ("row", 1), ("known", 1)])
def test_work_is_free_energy_and_dissipation_and_that_never_falls(kind: str, internal: int) -> None:
    run = asked(kind, internal=internal)
    assert run.balance < 0.01
    assert np.diff(run.dissipation.values).min() >= 0
    for part in (run.work, run.free_energy, run.dissipation):
        assert isinstance(part, Band) and part.values.shape == (2, 1, 201) and not part.values[..., 0].any()
        assert part.mean.shape == part.std.shape == (1, 201)


def test_balance_tells_steps_that_are_too_long() -> None:
    """The negative control: a balance that is met at any step would say nothing."""
    coarse, fine = (
        asked("point", np.linspace(0, 1, number), shape=np.sin(2 * np.pi * np.linspace(0, 1, number))).balance
        for number in (9, 201)
    )
    assert coarse > 20 * fine


@pytest.mark.parametrize("kind", ["point", "plane", "row"])
@pytest.mark.parametrize("cycle", ["wave", "bump"])
def test_a_cycle_from_equilibrium_takes_work(kind: str, cycle: str) -> None:
    run = asked(kind, shape=WAVE if cycle == "wave" else np.sin(np.pi * TIMES) ** 2)
    done = run.work.values[..., -1]
    assert (done >= -1e-9).all() and (done > 0).all()


@pytest.mark.parametrize("kind", ["point", "plane"])
def test_heat_is_what_is_dissipated_less_the_entropy_of_the_gaussian(kind: str) -> None:
    run, model = asked(kind), model_of(kind)
    field = torch.tensor(run.field.values).expand(2, 1, 201, 1, -1)
    z = torch.cat([field, torch.tensor(run.alpha.values)], -1)[..., 0, :]
    root = model.decoder(z.flatten(1, 2))[2][:, :, 0]  # of the precision
    entropy = -torch.linalg.slogdet(root)[1].unflatten(1, (1, 201)).numpy()
    expected = run.dissipation.values - 0.02 * (entropy - entropy[..., :1])
    assert run.heat is not None
    assert abs(run.heat.values - expected).max() <= (1e-6 if kind == "point" else 0.02 * 0.3)


def test_without_a_temperature_no_heat_is_told() -> None:
    model = Model([0], replace(model_of("point").architecture, temperature=None)).requires_grad_(False)
    assert predict(model, TIMES, {"pull": WAVE}).heat is None


@pytest.mark.parametrize(("kind", "internal"), [("point", 1), ("point", 2), ("plane", 2)])
def test_no_force_is_left_on_alpha_at_equilibrium(kind: str, internal: int) -> None:
    model = model_of(kind, internal)
    mean, wide = model.law.field
    z = equilibrium(model, torch.stack([mean, mean + wide]))
    assert z.shape == (2, 2, 1, model.law.layout.fields + internal)
    assert torch.equal(z[..., 0, : model.law.layout.fields], torch.stack([mean, mean + wide]).expand(2, -1, -1))
    free = model.law.slopes(z)[1]
    assert (free / model.law.energy).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["row", "known"])
def test_a_row_that_is_held_has_one_tension(kind: str) -> None:
    model, law = model_of(kind), model_of(kind).law
    known = torch.tensor([[0.9, 1.0], [1.1, 1.0], [1.2, 0.8]], dtype=torch.float64) if kind == "known" else None
    length = 3 * 0.3 * (law.field[0, -1:] + 0.2)[None]
    z = equilibrium(model, length, True, 3, known)
    tension, free = law.slopes(z)
    assert (tension - tension.mean(2, keepdim=True)).abs().max() < 1e-6 * float(law.force[-1])
    assert (free / law.energy).abs().max() < 1e-6
    assert torch.allclose(law.spacing * z[..., law.layout.given].sum(-1), length[:, 0].expand(2, -1), rtol=1e-10)
    if known is not None:
        assert torch.equal(z[..., :2], known.expand(2, 1, -1, -1))


def test_a_row_under_a_force_comes_to_rest_with_that_tension() -> None:
    law, force = model_of("row").law, torch.tensor([[-0.1], [0.2]], dtype=torch.float64)
    force = force * law.force[-1] + law.slopes(equilibrium(model_of("row"), 0.9 * law.field[:1, -1:], True))[0][0, 0]
    z = equilibrium(model_of("row"), force, sites=3)
    tension, free = (part[:1] for part in law.slopes(z))
    assert (tension[..., 0] - force).abs().max() < 1e-5 * float(law.force[-1])
    assert (free / law.energy).abs().max() < 1e-5


def test_numbers_come_and_go_as_numpys_or_as_lists() -> None:
    model = model_of("point")
    known = {"pull": np.stack([WAVE, 2 * WAVE]).astype(np.float32)}
    run = predict(model, TIMES, known)
    other = predict(model, TIMES.tolist(), {"pull": known["pull"].tolist()})
    assert run.controls["pull"].shape == (2, 201) and run.times.dtype == np.float64
    assert list(run.force) == ["force"] and run.force["force"].values.shape == (2, 2, 201)
    assert run.field.values.shape == (2, 2, 201, 1, 1) or run.field.values.shape[:3] == (2, 2, 201)
    assert run.alpha.values.shape == (2, 2, 201, 1, 1)
    parts = (run.work, run.free_energy, run.dissipation, run.heat, run.field, run.alpha, run.force["force"])
    assert all(part is not None and type(part.values) is np.ndarray for part in parts)
    assert np.array_equal(run.work.values, other.work.values)
    assert Band(np.ones((1, 3))).std.tolist() == [0.0] * 3


def test_particles_may_be_the_start() -> None:
    few = few_of("point")
    of = Architecture(LAYOUTS["point"], decoder="gaussian", steps="midpoint", controls=("pulled_length",))
    model, seen = Model([0, 1], of).requires_grad_(False), observe(few, "pulled_length", points=65)
    model.set_scales(seen)
    model.freeze(seen)
    run = predict(model, few.times, {"pulled_length": few.records["pulled_length"]}, start=seen)
    assert np.allclose(run.alpha.values[:, :, 0], model.encode(seen)[:, :, 0].numpy())
    same = model.predict(seen)
    assert same.force is not None and np.allclose(run.force["force"].values, same.force[..., 0].numpy())
    again = predict(model, few.times, {"pulled_length": few.records["pulled_length"]}, start=few)
    assert np.allclose(again.alpha.values, run.alpha.values, atol=0.05)


def test_a_row_of_known_sites_needs_their_numbers() -> None:
    assert isinstance(model_of("known").law.layout, Row)
    with pytest.raises(ValueError, match="^parameters must hold k and m, but do not"):
        predict(model_of("known"), TIMES, {"force": WAVE})
