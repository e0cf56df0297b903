"""A law by NumPy alone: PyTorch's numbers to rounding, with no PyTorch, and sentences for what is no law."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor
from toys import architecture_of, few_of, frozen, seen_of

from ibvonns import plain
from ibvonns.layouts import Point
from ibvonns.model import Architecture, Model
from ibvonns.plain import PlainLaw

#: Layout, internal variables, whether neighbours are known, seeds.
CASES = [
    ("point", 1, False, (3,)),
    ("point", 2, False, (0, 1, 2)),
    ("plane", 1, False, (0, 1)),
    ("plane", 2, False, (0, 1)),
    ("row", 0, False, (0, 1)),
    ("row", 1, False, (0, 1)),
    ("row", 3, False, (4,)),
    ("row", 1, True, (0, 1)),
    ("row", 2, True, (0, 1, 2)),
]
every = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case[:3])))
points = pytest.mark.parametrize("case", CASES[:4], ids=lambda case: "-".join(map(str, case[:3])))


@cache
def pair(kind: str, internal: int, neighbours: bool, seeds: tuple[int, ...]) -> tuple[Model, PlainLaw]:
    """A model with random weights, larger than at the start of training, and its plain law."""
    polynomials: Any = {"cubes": 3, "squares": 2} if internal > 1 else {}
    model = Model(seeds, replace(architecture_of(kind, internal=internal), neighbours=neighbours, **polynomials))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1.0 if "mix" in name or "mobility" in name else 1.5)
    model.set_scales(seen_of(kind))
    model.freeze(seen_of(kind))
    model.requires_grad_(False)
    return model, PlainLaw(json.loads(json.dumps(model.exported())))


def drawn(model: Model, reach: float, seed: int, trajectories: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Random states, g in units of the law's, and F_ex."""
    law, rng = model.law, torch.Generator().manual_seed(seed)
    sites, width = 5 if law.layout.directions else 1, law.layout.fields + law.internal
    shape = (len(model.seeds), trajectories, sites)
    z = reach * torch.randn(*shape, width, generator=rng, dtype=torch.float64)
    z[..., : law.layout.fields] = law.field[0] + law.field[1] * z[..., : law.layout.fields]
    unit = torch.cat([law.force[:1].expand(law.layout.directions), law.energy.expand(law.internal)])
    g = reach * unit * torch.randn(*shape, len(unit), generator=rng, dtype=torch.float64)
    return z, g, reach * law.force[0] * torch.randn(*shape[:2], generator=rng, dtype=torch.float64)


def differs(found: Any, truth: Tensor) -> float:
    """Largest difference, in units of the largest true value; infinite where the shapes differ."""
    if found.shape != tuple(truth.shape):
        return float("inf")
    return (
        float(np.abs(found - truth.numpy()).max(initial=0.0) / max(float(truth.abs().amax()), 1e-300))
        if found.size
        else 0.0
    )


def differences(model: Model, law: PlainLaw, z: Tensor, g: Tensor, force: Tensor) -> dict[str, float]:
    """Each function of the plain law beside PyTorch's."""
    own = law.row
    known: dict[str, Any] = {"force": force} if own else {}
    rate, end = model.law.step(z, **known)
    mine, answer = law.step(z, **known)
    slopes, truth = law.slopes(z), model.law.slopes(z)
    pairs = {
        "free energy": (law.free_energy(z), model.law.free_energy(z)),
        "tension": (slopes[0], truth[0]),
        "g_alpha": (slopes[1], truth[1]),
        "driving": (law.driving(z, **known), model.law.driving(z, **known)),
        "closed": (law.driving(z), model.law.driving(z)),
        "rates": (law.rates(z, g), model.law.rates(z, g)),
        "bounded": (law.bounded(3 * z), model.law.bounded(3 * z)),
        "step": (mine, rate),
        "end": (answer, end if own else end[..., None, :]),
    }
    return {name: differs(*each) for name, each in pairs.items()}


@every
@settings(max_examples=15, deadline=None)
@given(reach=some.sampled_from([0.3, 1.0, 10.0]), seed=some.integers(0, 2**31))
def test_numbers_are_those_of_pytorch(case: Any, reach: float, seed: int) -> None:
    model, law = pair(*case)
    found = differences(model, law, *drawn(model, reach, seed))
    assert max(found.values()) <= 1e-12, found


def test_another_number_is_told() -> None:
    """The negative control: a gain that is not the one of the network."""
    model, law = pair(*CASES[5])
    other = PlainLaw(model.exported())
    other._gain = 1.01 * law._gain
    assert differences(model, other, *drawn(model, 1.0, 0))["rates"] > 1e-6


@every
def test_alpha_is_the_encoders(case: Any) -> None:
    model, law = pair(*case)
    few = few_of(case[0])
    x = few.realisations[:, ::40].double()  # (conditions, times, [sites,] realisations [, components])
    seen = seen_of(case[0]).at(torch.arange(0, len(few.times), 40))
    found, internal = law.encode(x.numpy()), model.law.internal
    if few.components == 1:
        rows = x.reshape(-1, x.shape[-1])
        exact = model.encoder.encode(rows)[..., :internal].unflatten(1, x.shape[:-1])
        assert differs(found, exact) <= 1e-12
    else:  # positions of several components are kept, and not compressed
        assert differs(found, model.encode(seen)[..., 0, :]) <= 1e-12


@pytest.mark.parametrize(("kind", "internal"), [("point", 1), ("point", 3), ("plane", 2), ("plane", 3)])
def test_an_anchored_encoder_is_known_by_numpy_too(kind: str, internal: int) -> None:
    model = Model([0, 1], replace(architecture_of(kind, internal=internal), anchored=True)).requires_grad_(False)
    model.set_scales(seen_of(kind))
    model.freeze(seen_of(kind))
    law, rng = model.to_numpy(), torch.Generator().manual_seed(0)
    x = 0.3 + torch.randn(3, 40, seen_of(kind).mean.shape[-1], generator=rng, dtype=torch.float64)
    assert differs(law.encode(x if kind == "plane" else x[..., 0]), model.encoder.encode(x)) <= 1e-12


def test_a_reference_position_is_the_zero_of_alpha() -> None:
    model = Model([0, 1], replace(architecture_of("point"), reference=0.7)).requires_grad_(False)
    law, x = model.to_numpy(), torch.rand(4, 9, dtype=torch.float64)
    assert np.abs(law.encode(np.full(5, 0.7))).max() <= 1e-15
    assert differs(law.encode(x), model.encoder.encode(x)) <= 1e-12


@every
def test_free_energy_is_zero_at_the_reference(case: Any) -> None:
    model, law = pair(*case)
    fields, reference = law.fields, model.law.reference
    at = torch.cat([model.law.field[0] + model.law.field[1] * reference[..., :fields], reference[..., fields:]], -1)
    assert np.abs(law.free_energy(at[:, None])).max() <= 1e-13 * float(model.law.energy)


@points
@pytest.mark.parametrize("backend", ["fast", "reference"])
def test_predictions_are_those_of_the_model(case: Any, backend: str) -> None:
    model, law = pair(*case)
    data = seen_of(case[0])
    truth = model.predict(data, backend=backend)
    states, force = law.predict(data.times, data.field[:, :, 0], truth.alpha[:, :, 0, 0])
    assert truth.force is not None
    assert differs(states, truth.states[..., 0, :]) <= 1e-12
    assert differs(force, truth.force) <= 1e-12


def test_prediction_stays_within_reach() -> None:
    model, _ = pair(*CASES[0])
    model = Model.restored(model.exported())
    model.law.reach.copy_(torch.tensor([[-0.125], [0.125]]).double())
    data, law = seen_of("point"), model.to_numpy()
    truth = model.predict(data, alpha=torch.zeros(1, len(data.field), 1, 1, dtype=torch.float64))
    states, _ = law.predict(data.times, data.field[:, :, 0], np.zeros(1))  # one alpha for all
    assert np.abs(states[..., 1]).max() == 0.125 and differs(states, truth.states[..., 0, :]) <= 1e-12


def test_each_rule_has_its_order() -> None:
    """Against a solution of very small steps the errors fall as h, and as h squared by the midpoint."""
    exported = pair(*CASES[3])[0].exported()
    for steps, order in (("euler", 1), ("midpoint", 2)):
        law = PlainLaw({**exported, "architecture": {**exported["architecture"], "steps": steps}})
        law._reach = law._reach * 1e6
        ends = []
        for number in (20, 40, 4000):
            t = np.linspace(0.0, 0.5 / float(law._speed[0]), number + 1)
            controls = np.stack([np.sin(t * law._speed[0]), np.cos(t * law._speed[0])], -1)[None]
            ends.append(law.predict(t, controls, np.zeros((1, 2)))[0][:, 0, -1, 2:])
        errors = [np.abs(end - ends[2]).max() for end in ends[:2]]
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25), steps


def test_one_midpoint_step_is_what_its_formula_says() -> None:
    model, _ = pair(*CASES[1])
    exported = model.exported()
    law = PlainLaw({**exported, "architecture": {**exported["architecture"], "steps": "midpoint"}})
    alpha, h = 0.1 * torch.ones(3, 1, 1, 2, dtype=torch.float64), 0.05
    first, second = (torch.full((3, 1, 1, 1), value, dtype=torch.float64) for value in (0.4, 0.6))
    half = alpha + h / 2 * model.law.step(torch.cat([first, alpha], -1))[0][..., 1:]
    truth = alpha + h * model.law.step(torch.cat([(first + second) / 2, half], -1))[0][..., 1:]
    states, _ = law.predict([0.0, h], [[[0.4], [0.6]]], alpha[:, 0])
    assert differs(states[:, :, -1:, 1:], model.law.bounded(torch.cat([second, truth], -1))[..., 1:]) <= 1e-12


@pytest.mark.parametrize("case", [CASES[5], CASES[8]], ids=["alone", "neighbours"])
def test_a_given_field_in_front_of_the_strain_stands_still(case: Any) -> None:
    """Where the networks make nothing of it, all else is as without it."""
    model, law = pair(*case)
    exported, extra = model.exported(), 0.7
    wide = {name: np.asarray(part) for name, part in exported["tensors"].items()}
    first = ("energy_network.layers.0", *(f"dissipation_network.{one}.0" for one in ("free", "scale", "shift")))
    for part in (*first, "energy_network.cubes", "dissipation_network.factor"):
        if (name := f"law.{part}.weight") not in wide:
            continue
        wide[name] = np.concatenate([0 * wide[name][:, :1], wide[name]], 1)
    wide["law.field"] = np.concatenate([[[0.5], [2.0]], wide["law.field"]], 1)
    wide["law.reference"] = np.concatenate([0 * wide["law.reference"][..., :1], wide["law.reference"]], -1)
    other = PlainLaw({**exported, "tensors": wide})
    z, _, force = drawn(model, 1.0, 0)
    more = np.concatenate([np.full_like(z[..., :1], extra), z], -1)
    (rate, end), (truth, v_n) = other.step(more, force), law.step(z, force)
    assert other.fields == 2 and not rate[..., 0].any()
    assert np.allclose(rate[..., 1:], truth, rtol=1e-12, atol=0) and np.allclose(end, v_n, rtol=1e-12, atol=0)
    assert np.allclose(other.slopes(more)[0][..., 1:], law.slopes(z)[0], rtol=1e-12, atol=0)
    assert np.allclose(other.bounded(more)[..., 1:], law.bounded(z)) and not other.slopes(more)[0][..., 0].any()


@pytest.mark.parametrize("case", [CASES[3], CASES[8]], ids=["point", "row"])
def test_a_copy_of_the_file_needs_no_pytorch(case: Any, tmp_path: Path) -> None:
    model, law = pair(*case)
    shutil.copy(plain.__file__, tmp_path / "plain.py")
    model.save(tmp_path / "law.json")
    z, _, _ = drawn(model, 1.0, 0, 2)
    code = f"""
import sys
sys.modules["torch"] = sys.modules["ibvonns"] = None
sys.path.insert(0, {str(tmp_path)!r})
from plain import PlainLaw
import json
law = PlainLaw.load({str(tmp_path / "law.json")!r})
z = {z.tolist()!r}
print(json.dumps([law.free_energy(z).tolist(), law.step(z, 0.01)[0].tolist()]))
"""
    # -I: neither the folder at hand nor a variable of the environment leads to this library
    ran = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr
    energy, rate = json.loads(ran.stdout)
    assert np.allclose(energy, law.free_energy(z), rtol=1e-13, atol=0)
    assert np.allclose(rate, law.step(z, 0.01)[0], rtol=1e-13, atol=0)


def test_more_than_ten_layers_keep_their_order() -> None:
    """A file sorts names as texts: 10 comes before 2."""
    model, _ = pair(*CASES[0])
    exported = model.exported()
    tensors = {name: part for name, part in exported["tensors"].items() if "energy_network.layers" not in name}
    rng = torch.Generator().manual_seed(0)
    widths = [2, *(20,) * 12]
    x = at = torch.randn(1, 6, 2, generator=rng, dtype=torch.float64)
    for layer in range(12):
        weight = torch.randn(1, *widths[layer : layer + 2], generator=rng, dtype=torch.float64) / 4
        tensors[f"law.energy_network.layers.{layer}.weight"] = weight.tolist()
        tensors[f"law.energy_network.layers.{layer}.bias"] = [[[0.0] * 20]]
        x = torch.nn.functional.softplus(x @ weight, threshold=40)
    law = PlainLaw({**exported, "tensors": dict(sorted(tensors.items()))})
    last = torch.tensor(tensors["law.energy_network.last.weight"], dtype=torch.float64)
    assert differs(law._network(at.numpy())[0], (x @ last)[..., 0]) <= 1e-12


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "other"}', "\x00", '{"kind": "ibvonns.Model"}'])
def test_a_file_that_holds_no_law_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "law.json").write_text(content)
    with pytest.raises(ValueError, match=r"^(path|law) must "):
        PlainLaw.load(tmp_path / "law.json")
    with pytest.raises(FileNotFoundError):
        PlainLaw.load(tmp_path / "none.json")


def test_laws_that_need_pytorch_are_refused() -> None:
    for kind in ("ring", "grid"):
        with pytest.raises(ValueError, match="^layout must be a Point or a Row without PyTorch, but is a "):
            frozen(kind).to_numpy()
    exported = pair(*CASES[5])[0].exported()
    for change, sentence in (
        ({"gas": 1.0}, "^law must not be that of a gas"),
        ({"law": "rates"}, "^law must be of 'potentials'"),
        ({"steps": "leap"}, "^steps must be 'euler' or 'midpoint', but are 'leap'"),
        ({"layout": {}}, "^law must be whole, but is not: KeyError"),
        ({"internal": 2}, "^law must hold the tensors of its architecture"),
        ({"neighbours": True}, "^law must hold the tensors of its architecture"),
    ):
        with pytest.raises(ValueError, match=sentence):
            PlainLaw({**exported, "architecture": {**exported["architecture"], **change}})


NAMES = ("law.reach", "law.mobility", "law.energy_network.layers.1.weight", "encoder.h.layers.0.bias", "encoder.offset")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, [[[1.0]]], [[["x"]]], [[[float("nan")]]], [[1.0], [1.0, 2.0]]])
def test_damaged_tensors_are_named(name: str, value: Any) -> None:
    exported = pair(*CASES[8])[0].exported()
    tensors = {key: part for key, part in exported["tensors"].items() if key != name or value is not None}
    if value is not None:
        tensors[name] = value
    with pytest.raises(ValueError, match=r"^(law|tensor \S+) must ") as caught:
        PlainLaw({**exported, "tensors": tensors})
    assert value is None or "\n" not in str(caught.value)


def test_wrong_input_is_told_in_one_sentence() -> None:
    (_, point), (_, row) = pair(*CASES[1]), pair(*CASES[5])
    z = np.zeros((3, 4, 3))
    for call, sentence in (
        (lambda: point.free_energy(z[..., :2]), r"^z must have shape \(3, 4, 3\), but has shape \(3, 4, 2\)"),
        (lambda: point.slopes(z[:2]), r"^z must have shape \(3, 4, 3\), but has shape \(2, 4, 3\)"),
        (lambda: point.slopes("alpha"), "^z must be an array of real numbers"),
        (lambda: point.slopes(np.full_like(z, np.nan)), "^z must be finite"),
        (lambda: point.rates(z, z), r"^g must have shape \(3, 4, 2\), but has shape \(3, 4, 3\)"),
        (lambda: row.slopes(np.zeros((2, 2))), r"^z must have an axis of sites"),
        (lambda: row.step(np.zeros((2, 4, 5, 2))), "^force must be given on a Row, for v_n needs PyTorch"),
        (lambda: row.step(np.zeros((2, 4, 5, 2)), np.zeros(3)), "^force must have shape"),
        (lambda: row.predict([0.0, 1.0], [[[0.0]] * 2], [0.0]), "^law must be that of a Point to predict"),
        (lambda: point.predict([0.0, 0.0], np.zeros((1, 2, 1)), np.zeros((1, 2))), "^times must be a row that"),
        (lambda: point.predict([0.0, 1.0], np.zeros((1, 3, 1)), np.zeros((1, 2))), "^controls must have shape"),
        (lambda: point.predict([0.0, 1.0], np.zeros((1, 2, 1)), np.zeros((1, 1))), "^alpha must have shape"),
        (lambda: point.encode(0.0), "^positions must have shape"),
        (lambda: point.encode(np.zeros((2, 0))), "^positions must have shape"),
        (lambda: PlainLaw({}), "^law must be what `Model.exported` gave"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            call()


def test_one_replica_is_taken_from_its_own_export() -> None:
    model, law = pair(*CASES[1])
    single = PlainLaw(model.exported(1))
    z = drawn(model, 1.0, 0)[0].numpy()
    assert single.seeds == [1] and np.allclose(single.free_energy(z[1:2])[0], law.free_energy(z)[1], rtol=1e-13)
    assert Architecture.of(model.exported()["architecture"]).layout == Point()
