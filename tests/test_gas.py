"""The law of a gas: Onsager's structure whatever its weights, finite volumes that keep the mass, stable steps."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ibvonns import load
from ibvonns.law import Law
from ibvonns.layouts import Grid, Layout, Point, Ring, Row
from ibvonns.model import Architecture, Model
from ibvonns.networks import generators
from ibvonns.rollout import relaxed, steepest
from ibvonns.systems.lattice import Lattice, box, nearest

KERNELS: list[tuple[float, ...]] = [(), (1.0, 0.5, 0.25)]


def law_of(kernel: tuple[float, ...] = (), layout: Layout | None = None, wild: float = 1.0, seed: int = 0) -> Law:
    """With networks that are no longer slight."""
    law = Law(generators([seed, seed + 1]), layout or Ring(), internal=0, gas=0.7, kernel=kernel)
    law.set_scales(torch.tensor([[0.5], [0.2]]).double(), 0.7 * 0.2, 0.3)
    with torch.no_grad():
        for part in law.parameters():
            part.mul_(wild)
    return law


def states(sites: int = 20, seed: int = 0, ends: float = 0.05) -> Tensor:
    """Densities of two replicas and three trajectories."""
    rng = torch.Generator().manual_seed(seed)
    return ends + (1 - 2 * ends) * torch.rand(2, 3, sites, 1, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("kernel", KERNELS)
def test_tension_is_the_slope_of_the_whole_free_energy(kernel: tuple[float, ...]) -> None:
    law, z = law_of(kernel, wild=2.0), states().requires_grad_()
    (slope,) = torch.autograd.grad(law.free_energy(z).sum(), z)
    assert torch.allclose(law.slopes(z)[0], slope, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
def test_free_energy_is_zero_at_its_reference(kernel: tuple[float, ...]) -> None:
    law = law_of(kernel)
    law.set_reference(torch.tensor([0.3, 0.6]).double().reshape(2, 1, 1, 1))
    uniform = torch.tensor([0.3, 0.6]).double().reshape(2, 1, 1, 1).expand(2, 1, 20, 1)
    assert law.free_energy(uniform).abs().max() < 1e-12


@given(seed=st.integers(0, 10_000), wild=st.floats(0.1, 5.0), kernel=st.sampled_from(KERNELS))
def test_second_law_holds_for_any_weights(seed: int, wild: float, kernel: tuple[float, ...]) -> None:
    law, z = law_of(kernel, wild=wild, seed=seed % 100), states(seed=seed, ends=1e-6)
    g = law.driving(z)
    assert (law.operator(z, g) > 0).all()
    phi, lost = law.dual_dissipation(z, g), law.dissipation(z, g)
    assert (phi >= 0).all() and torch.allclose(lost, 2 * phi)
    (slope,) = torch.autograd.grad(law.free_energy(z.requires_grad_()).sum(), z)
    falls = (slope * law.step(z)[0]).sum((2, 3))
    assert torch.allclose(falls, -lost.sum(-1), rtol=1e-9, atol=1e-12)  # what the sites lose the bonds dissipate


@pytest.mark.parametrize(("layout", "kernel"), [(Ring(), ()), (Ring(), KERNELS[1]), (Grid(4, 5), ())])
def test_mass_is_kept_and_free_energy_falls_at_every_step(layout: Layout, kernel: tuple[float, ...]) -> None:
    law, z = law_of(kernel, layout), states()
    law.requires_grad_(False)
    step = 1 / steepest(law, z)
    path = relaxed(law, z, step * torch.arange(200).double())
    assert (path.sum((3, 4)) - z.sum((2, 3))[..., None]).abs().max() < 1e-12
    energy = law.free_energy(path.flatten(1, 2)).sum(-1).unflatten(1, (3, 200))
    assert (energy.diff(dim=-1) < 1e-13).all() and (energy[..., -1] < energy[..., 0] - 1e-3).all()


def test_too_large_a_step_is_refused_and_would_have_failed() -> None:
    law, z = law_of(), states()
    law.requires_grad_(False)
    most = 2 / steepest(law, z)
    times = torch.tensor([0.0, 400 * most]).double()
    with pytest.raises(ValueError, match=r"step must be below [\d.e+-]+ to be stable, but is"):
        relaxed(law, z, times, 1.01 * most)
    relaxed(law, z, times, 0.9 * most)
    path, wave = 0.5 + 1e-6 * (z - 0.5), 1.5 * 2 / steepest(law, torch.full_like(z, 0.5))
    for _ in range(400):
        path = path + wave * law.step(path)[0]
    assert not bool(((path > 0) & (path < 1)).all())  # negative control


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 1, 9, 1), torch.full((2, 1, 9, 1), 1.0), torch.full((2, 1, 9, 1), torch.nan)]
)
def test_densities_out_of_range_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match=r"start must (be above 0 and below 1|hold finite|be finite)"):
        relaxed(law_of(), bad.double(), torch.tensor([0.0, 1.0]).double())


def test_average_over_the_kernel_is_one_of_neighbours() -> None:
    law, rng = law_of((2.0, 1.0)), torch.Generator().manual_seed(0)
    values = torch.rand(1, 1, 12, 1, generator=rng, dtype=torch.float64)
    sides = [values.roll(n, 2) + values.roll(-n, 2) for n in (1, 2)]
    assert torch.allclose(law._averaged(values), (2 * sides[0] + sides[1]) / 6)
    with pytest.raises(ValueError, match="sites must number over 4 for this kernel, but number 4"):
        law._averaged(values[:, :, :4])


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("gas must be on a Ring or a Grid, with no internal variable", {"layout": Row(), "gas": 1.0}),
        ("gas must be on a Ring or a Grid, with no internal variable", {"internal": 1, "gas": 1.0}),
        ("gas must be a finite number above 0", {"gas": -1.0}),
        ("kernel must be empty but for a gas", {"kernel": (1.0,)}),
        ("kernel must be empty but on a Ring", {"layout": Grid(2, 3), "gas": 1.0, "kernel": (1.0,)}),
        ("sum of the kernel must be a finite number above 0", {"gas": 1.0, "kernel": (-1.0,)}),
    ],
)
def test_what_is_no_gas_is_refused(sentence: str, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=sentence):
        Law(generators([0]), **{"layout": Ring(), "internal": 0, **wrong})  # type: ignore[arg-type]


def test_with_no_networks_the_gas_is_ideal() -> None:
    law, z = law_of(wild=0.0), states(100)
    law_z = torch.full_like(z, 0.5) + 0.3 * torch.sin(2 * torch.pi * torch.arange(100).double() / 100)[:, None]
    rate, _ = law.step(law_z)
    diffusivity = 0.7 * float(law.rate / law.force)  # kBT times the unit of m
    bend = law_z.roll(1, 2) - 2 * law_z + law_z.roll(-1, 2)
    assert torch.allclose(rate, diffusivity * bend, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", ["potentials", "gas"])
def test_operator_is_the_second_slope_of_phi(kind: str) -> None:
    law = law_of() if kind == "gas" else Law(generators([0, 1]), Ring(), internal=1)
    z = states() if kind == "gas" else torch.cat([states(), states(seed=1)], -1)
    g = 0.3 * torch.randn(2, 3, 20, 1 + law.internal, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = law.operator(z, g)
    for k in range(g.shape[-1]):
        step = torch.zeros_like(g)
        step[..., k] = 1e-3
        bend = law.dual_dissipation(z, g + step) - 2 * law.dual_dissipation(z, g) + law.dual_dissipation(z, g - step)
        assert torch.allclose(found[..., k], bend / 1e-6, rtol=1e-4, atol=1e-6)
    assert (found >= 0).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_gas_is_saved_whole(kernel: tuple[float, ...], tmp_path: Path) -> None:
    model = Model([0, 1], Architecture(Ring(), internal=0, decoder="flow", gas=0.7, kernel=kernel))
    assert Architecture.of(json.loads(json.dumps(model.architecture.plain()))) == model.architecture
    for name in ("gas.json", "gas.safetensors"):
        model.save(tmp_path / name)
        again = load(tmp_path / name)
        assert again.architecture == model.architecture
        assert torch.equal(again.law.step(states())[0], model.law.step(states())[0])


def test_a_point_has_no_gas() -> None:
    with pytest.raises(ValueError, match="gas must be on a Ring or a Grid"):
        Law(generators([0]), Point(), gas=1.0)


@pytest.mark.parametrize("gas", [Lattice(60, (0.8,)), Lattice(60, (-0.8,)), Lattice(60, (0.1,) * 8)])
def test_hydrodynamic_law_keeps_mass_and_comes_to_rest(gas: Lattice) -> None:
    start = states(60)[:1]
    path = relaxed(gas, start, torch.tensor([0.0, 50.0, 4000.0]).double())  # type: ignore[arg-type]
    assert (path.sum((3, 4)) - start.sum((2, 3))[..., None]).abs().max() < 1e-11
    assert (path[:, :, -1] - path[:, :, -1].mean(2, keepdim=True)).abs().max() < 1e-3
    with pytest.raises(ValueError, match="couplings must all be the same"):
        Lattice(60, (0.3, 0.2)).step(start)


@given(density=st.floats(0.01, 0.99), slowed=st.floats(0.05, 20.0))
def test_closed_forms_fit_together(density: float, slowed: float) -> None:
    r = torch.tensor(density).double().requires_grad_()
    mu, curved, mobility, potential = nearest(r, slowed)
    slopes = [torch.autograd.grad(each, r, retain_graph=True)[0] for each in (mu, potential)]
    assert torch.allclose(slopes[0], curved, rtol=1e-7) and torch.allclose(slopes[1], mobility * curved, rtol=1e-7)


def test_mean_field_of_no_couplings_is_exclusion() -> None:
    z = states(30)[0, :, :, 0]
    mu, mobility = box(z, 0.0, 5)
    between = (z + z.roll(-1, -1)) / 2
    assert torch.allclose(mu, torch.logit(z)) and torch.allclose(mobility, between * (1 - between))
