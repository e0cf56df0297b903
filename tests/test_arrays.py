"""What users have: NumPy's arrays and integers, single precision, odd strides, gradients by the data."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import TINY, few_of, seen_of, weights_of

from ibvonns import Architecture, Ensemble, Law, Model, Observations, fit, load, observe, rollout, train
from ibvonns.decoders import Decoder, FlowDecoder, MixtureDecoder
from ibvonns.ensemble import Density
from ibvonns.layouts import Grid, Point, Row
from ibvonns.networks import generators
from ibvonns.protocols import pulled_length
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap

FEW = few_of("point")


def read_only(part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array that may not be written."""
    part = part.copy()
    part.flags.writeable = False
    return part


FORMS: dict[str, Any] = {
    "NumPy": lambda part: part.numpy().copy(),
    "read-only": lambda part: read_only(part.numpy()),
    "a view": lambda part: np.repeat(part.numpy(), 2, -1)[..., ::2],
    "turned": lambda part: part.numpy()[..., ::-1].copy()[..., ::-1],
    "Fortran's": lambda part: np.asfortranarray(part.numpy()),
    "big-endian": lambda part: part.numpy().astype(">f8"),
    "lists": lambda part: part.tolist(),
    "not contiguous": lambda part: torch.repeat_interleave(part, 2, -1)[..., ::2],
}


@pytest.mark.parametrize("form", FORMS)
def test_an_ensemble_is_the_same_in_whatever_it_came(form: str) -> None:
    came = FORMS[form]
    records = {name: came(record) for name, record in FEW.records.items()}
    ensemble = Ensemble(came(FEW.times), came(FEW.realisations), records)
    assert torch.equal(ensemble.mean(), FEW.mean()) and ensemble.realisations.dtype == torch.float64
    one, other = (observe(each, "pulled_length", points=65) for each in (ensemble, FEW))
    assert isinstance(one.cloud, Density) and isinstance(other.cloud, Density)
    assert torch.equal(one.cloud.weights, other.cloud.weights) and torch.equal(one.field, other.field)


def trained(data: Observations) -> dict[str, Tensor]:
    """Weights after a short training."""
    model = Model([0], Architecture(Point(), decoder="gaussian"))
    train(model, data, TINY["point"])
    return weights_of(model)


@pytest.mark.parametrize("kind", ["torch.float32", "np.float32", "torch.float16"])
def test_single_precision_is_trained_in_double(kind: str) -> None:
    library, name = kind.split(".")
    parts = [FEW.times, FEW.realisations, *FEW.records.values()]
    few: list[Any] = [
        part.to(getattr(torch, name)) if library == "torch" else part.numpy().astype(name) for part in parts
    ]
    if name == "float16":  # the clock of one would stand still
        few[0] = FEW.times
    ensemble = Ensemble(few[0], few[1], dict(zip(FEW.records, few[2:], strict=True)))
    data = observe(ensemble, "pulled_length", points=65)
    assert data.mean.dtype == data.times.dtype == torch.float64
    assert all(part.isfinite().all() for part in trained(data).values())


def test_whole_numbers_are_numbers() -> None:
    make: Any = Ensemble  # behind the type checker's back, as users do
    pull: Any = pulled_length
    trap: Any = Trap()
    some: Any = np.int64
    counts = np.arange(24).reshape(1, 2, 12)
    ensemble = make(np.array([0, 1]), counts, {"pulled_length": [[1, 2]]})
    assert ensemble.mean().tolist() == [[5.5, 17.5]]
    assert pull("constant-speed", np.array([2, 3]), [0, 1]).tolist() == [[0, 2], [0, 3]]
    still = trap.simulate(np.ones((1, 3)), np.array([0, 0.1, 0.2]), some(5), torch.Generator().manual_seed(0))
    assert still.count == 5
    chain = Chain(springs=np.int64(3))  # type: ignore[arg-type]
    assert chain.simulate([[0.1, 0.1]], [0, 0.001], 4, torch.Generator()).realisations.shape == (1, 2, 3, 4)  # type: ignore[arg-type]


def test_numpys_numbers_are_saved_as_plain_ones(tmp_path: Path) -> None:
    grid: Any = Grid
    make: Any = Architecture
    architecture = make(grid(np.int64(2), np.int64(3)), np.float32(0.5), np.int64(2), "flow", reference=np.float64(0))
    model = Model(list(np.arange(2)), architecture)
    for name in ("model.json", "model.safetensors"):
        model.save(tmp_path / name)
        assert (
            load(tmp_path / name).architecture
            == architecture
            == Architecture(Grid(2, 3), 0.5, 2, "flow", reference=0.0)
        )
    assert json.dumps(model.exported(np.int64(1)))  # type: ignore[arg-type]


def test_the_front_door_takes_them() -> None:
    short = replace(TINY["point"], attempts=0)
    found = fit(FEW, Point(np.int64(1)), ["pulled_length"], internal=np.int64(1), seeds=np.array([0, 3]), recipe=short)  # type: ignore[arg-type]
    assert found.model.seeds == [0, 3] and json.dumps(found.draws)


@pytest.mark.parametrize("kind", ["flow", "mixture"])
@pytest.mark.parametrize("part", ["grid", "weights"])
def test_the_gradient_of_a_likelihood_by_the_data_is_right(kind: str, part: str) -> None:
    """The compiled pass knows none: what asks for one goes the plain way."""
    data, decoder = seen_of("row"), decoder_of(kind)
    cloud = data.cloud.at(slice(0, 2))
    assert isinstance(cloud, Density)
    z = torch.randn(1, 2 * 20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = {"grid": cloud.grid.clone(), "weights": cloud.weights.clone()}
    plain = decoder.nll(replace(data.at(slice(0, 2)), cloud=Density(**parts)), z)
    parts[part].requires_grad_()
    value = decoder.nll(replace(data.at(slice(0, 2)), cloud=Density(**parts)), z)
    assert torch.allclose(value, plain, rtol=1e-10)
    (slope,) = torch.autograd.grad(value.sum(), parts[part])
    direction = torch.randn(slope.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step, moved = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            other = {**parts, part: parts[part] + sign * step * direction}
            grid, weights = other["grid"], other["weights"].flatten(0, -2)
            moved.append(float(-(weights * decoder.log_density(grid.expand(1, len(weights), -1), z)).sum()))
    assert float((slope * direction).sum()) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5)


def decoder_of(kind: str) -> Decoder:
    """A decoder of some state of a site."""
    rngs = generators([0])
    return FlowDecoder(rngs, sigmoids=3) if kind == "flow" else MixtureDecoder(rngs)


@pytest.mark.parametrize("kind", ["flow", "mixture"])
@pytest.mark.parametrize("far", [1.0, 1e2, 1e3, 1e5])
def test_far_tails_have_their_own_value_and_gradient(kind: str, far: float) -> None:
    """Hundreds of widths out every sum of a flow underflows; its logarithms do not."""
    decoder, rng = decoder_of(kind), torch.Generator().manual_seed(0)
    grid = far * torch.linspace(-1, 1, 9, dtype=torch.float64)
    weights = torch.rand(3, 9, generator=rng, dtype=torch.float64)
    z = torch.randn(1, 3, 2, generator=rng, dtype=torch.float64)
    values = decoder.compiled(grid, weights, z), -(weights * decoder.log_density(grid.expand(1, 3, -1), z)).sum(-1)
    assert torch.allclose(*values, rtol=1e-9)
    own, reference = (torch.autograd.grad(value.sum(), list(decoder.parameters())) for value in values)
    for one, other in zip(own, reference, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-9 * float(other.abs().max()))


@pytest.mark.parametrize("layout", [Point(), Row()])
def test_the_gradient_by_steps_is_never_lost(layout: Point | Row) -> None:
    law, rng = Law(generators([0]), layout), torch.Generator().manual_seed(0)
    sites = 1 if isinstance(layout, Point) else 4
    start = torch.randn(1, 2, sites, 2, generator=rng, dtype=torch.float64)
    given: dict[str, Any] = (
        {"field": torch.ones(2, 3, 1).double()} if isinstance(layout, Point) else {"force": torch.ones(2, 3).double()}
    )
    slopes = list[Tensor]()
    for backend in ("fast", "reference"):
        steps = torch.full((3,), 0.01, dtype=torch.float64, requires_grad=True)
        path, _ = rollout(law, start, steps, backend=backend, **given)
        slopes += torch.autograd.grad(path.square().sum(), steps)
    assert torch.equal(*slopes) and (slopes[0] != 0).all()


@pytest.mark.parametrize("kind", ["rollout", "likelihood"])
def test_a_second_derivative_is_refused(kind: str) -> None:
    """Of a sum, whose own slope is constant, it would be missing without a word."""
    one = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    step, parts = torch.full((2,), 0.01, dtype=torch.float64), (torch.ones(3).double(), torch.ones(1, 3).double())
    law, decoder = Law(generators([0]), Point()), decoder_of("flow")
    if kind == "rollout":
        weights = list(law.parameters())
        value = rollout(law, one, step, field=one[:, 0].expand(1, 2, 2)[..., :1])[0]
    else:
        weights = list(decoder.parameters())
        value = decoder.compiled(*parts, one[0])
    with pytest.raises(RuntimeError, match="^create_graph must be False"):
        torch.autograd.grad(value.sum(), weights, create_graph=True, allow_unused=True)
