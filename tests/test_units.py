"""No number of the library has a unit: what is learned does not know whether it was metres or lengths of one."""

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch
from toys import ANSWERS, CONTROLS, LAYOUTS, SPACING, TINY, few_of, seen_of

from ibvonns import Architecture, Density, Ensemble, Learned, Model, Observations, Prediction, fit, observe, train
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap
from ibvonns.units import units_of

BOLTZMANN = 4.11e-21  # kBT at room temperature, joules
# powers of two, by which a product is exact: micrometres, milliseconds and piconewtons, about, in SI units
LENGTH, TIME, FORCE = 2.0**-20, 2.0**-10, 2.0**-40


def learned(kind: str, decoder: str, length: float, time: float, force: float) -> tuple[Observations, Prediction]:
    """What a short training makes of the same particles in units that are so many times larger."""
    few, bonds = few_of(kind), kind not in CONTROLS
    units = {"external_force": force, "force_right": force, "force_up": force, "velocity": length / time}
    records = {name: record * units.get(name, length) for name, record in few.records.items()}
    # a strain has no unit; a density has one
    position = 1.0 if kind == "row" else 1 / length if bonds else length
    ensemble = Ensemble(few.times * time, few.realisations * position, records, few.components)
    spacing = SPACING.get(kind, 1.0) * (length if bonds else 1.0)
    answers = ANSWERS.get(kind, "external_force")
    data = observe(ensemble, CONTROLS.get(kind, ()), answers, spacing=spacing, points=81)
    parts = LAYOUTS[kind], spacing, 1, decoder, few.components
    model = Model([0, 1], Architecture(*parts, wells=2.0 * position))
    train(model, data, TINY[kind])
    return data, model.predict(data)


@pytest.mark.parametrize(
    ("kind", "decoder"),
    [
        ("point", "gaussian"),
        ("plane", "gaussian"),
        ("row", "flow"),
        ("row", "mixture"),
        ("ring", "flow"),
        ("grid", "flow"),
    ],
)
def test_training_is_the_same_to_the_bit_in_units_of_powers_of_two(kind: str, decoder: str) -> None:
    _, plain = learned(kind, decoder, 1.0, 1.0, 1.0)
    _, scaled = learned(kind, decoder, LENGTH, TIME, FORCE)
    assert torch.equal(plain.alpha, scaled.alpha)
    field = LENGTH if kind in CONTROLS else 1.0 if kind == "row" else 1 / LENGTH
    assert torch.equal(plain.field * field, scaled.field)
    if plain.force is not None and scaled.force is not None:
        assert torch.equal(plain.force * FORCE, scaled.force)
    if plain.velocity is not None and scaled.velocity is not None:
        assert torch.equal(plain.velocity * LENGTH / TIME, scaled.velocity)


def test_a_bead_of_a_micrometre_is_simulated_in_newtons_and_seconds() -> None:
    """Stiffness in N/m, friction of water in N s/m: the variance is kBT / 2k, and the exact mean is met."""
    trap = Trap(stiffness=1e-6, viscosity=1e-8, temperature=BOLTZMANN)
    times = torch.linspace(0, 0.02, 101, dtype=torch.float64)
    lengths = 1e-6 * torch.sin(300 * times)[None]
    seen = trap.simulate(lengths, times, 4000, torch.Generator().manual_seed(0))
    assert seen.variance()[0, 0].item() == pytest.approx(BOLTZMANN / 2e-6, rel=0.1)
    missed = (seen.mean() - trap.mean(lengths, times)) / seen.standard_error()
    assert missed.abs().max() < 5
    data = observe(seen, "pulled_length")
    assert (data.mean[..., 0, 0] - seen.mean()).abs().max() < 1e-12 * 1e-6


@pytest.mark.parametrize("factor", [1e4, 1e2, 1.0, 1e-2, 1e-3])
def test_a_chain_is_drawn_at_its_own_temperature(factor: float) -> None:
    """Where all springs are stretched beyond the second well they are Gaussian: variance kBT / (E2 L0) (1 - 1/n)."""
    chain = Chain(temperature=5e-6 * factor)
    width = (chain.temperature / chain.stiffness[1] / chain.natural_length) ** 0.5
    mean = 3 + 8 * width
    length = chain.natural_length * chain.springs * (1 + mean)
    strains = chain.equilibrium(length, 4000, torch.Generator().manual_seed(0))
    assert float(strains.var()) / (width**2 * (1 - 1 / chain.springs)) == pytest.approx(1, abs=0.03)
    assert float((strains.mean(0) - mean).abs().max()) < 5 * width / 4000**0.5


def test_a_chain_in_joules_is_that_of_the_paper() -> None:
    """Strains know energies in units of kBT alone."""
    joules = Chain(stiffness=(20 * BOLTZMANN / 1e-8,) * 2, natural_length=1e-8, temperature=BOLTZMANN, viscosity=1e-9)
    assert joules.barrier / joules.temperature == pytest.approx(10)
    draws = [
        chain.equilibrium(20 * chain.natural_length, 500, torch.Generator().manual_seed(1))
        for chain in (joules, Chain())
    ]
    assert (draws[0] - draws[1]).abs().max() < 1e-6


def test_a_grid_that_cannot_hold_what_stands_on_it_is_refused() -> None:
    cold = Chain(temperature=5e-12)
    with pytest.raises(ValueError, match="^spacing must leave at most .* but leaves"):
        cold.equilibrium(0.1, 10, torch.Generator())
    with pytest.raises(ValueError, match="^spacing must be below the narrower well's thermal width"):
        Chain().equilibrium(0.1, 10, torch.Generator(), spacing=0.3)


def fitted_in(
    kind: str, length: float, time: float, energy: float, decoder: str = "auto", strain: float = 1.0
) -> Learned:
    """What `fit` makes of the same particles in other units; a strain may have one, too."""
    few, bonds = few_of(kind), kind not in CONTROLS
    units = {"velocity": length / time, "external_force": energy / length}
    units |= {"force_right": energy / length, "force_up": energy / length}
    records = {name: record * units.get(name, length) for name, record in few.records.items()}
    ensemble = Ensemble(few.times * time, few.realisations * (strain if bonds else length), records, few.components)
    how: dict[str, Any] = {"controls": CONTROLS.get(kind, ()), "forces": ANSWERS.get(kind, "external_force")}
    how |= {"spacing": SPACING[kind] * length / strain} if bonds else {}
    how |= {"wells": 2.0 * strain} if decoder == "mixture" else {}
    plan = replace(TINY[kind], attempts=0)
    return fit(ensemble, LAYOUTS[kind], seeds=[3], recipe=plan, check=False, decoder=decoder, **how)


@pytest.mark.parametrize("kind", ["point", "plane", "row"])
def test_a_fit_does_not_know_in_which_units_its_data_came(kind: str) -> None:
    """SI, and others that are no powers of two, however training amplifies a rounding."""
    plain, other = fitted_in(kind, 1.0, 1.0, 1.0), fitted_in(kind, 3e-6, 7e-4, BOLTZMANN)
    ours, theirs = (law.model.predict(law.data, "velocity") for law in (plain, other))
    assert float((ours.alpha - theirs.alpha).abs().max()) < 1e-6
    assert ours.force is not None and theirs.force is not None
    away = theirs.force * 3e-6 / BOLTZMANN - ours.force
    assert float(away.abs().max() / ours.force.abs().max()) < 1e-6
    assert plain.scores["alpha" if kind != "row" else "field"].errors == pytest.approx(
        other.scores["alpha" if kind != "row" else "field"].errors, rel=1e-6
    )
    assert float(other.model.law.energy) == pytest.approx(float(plain.model.law.energy) * BOLTZMANN, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "decoder"),
    [("point", "flow"), ("point", "gaussians"), ("plane", "flow"), ("row", "mixture"), ("row", "gaussians")],
)
def test_a_density_and_its_loss_have_the_users_units(kind: str, decoder: str) -> None:
    strain = 5e-3 if kind == "row" else 1.0
    plain, other = fitted_in(kind, 1.0, 1.0, 1.0, decoder), fitted_in(kind, 3e-6, 7e-4, BOLTZMANN, decoder, strain)
    nats = plain.data.mean.shape[-1] * log(strain if kind == "row" else 3e-6)
    ours, theirs = (float(law.model.nll(law.data, law.model.encode(law.data)).detach()) for law in (plain, other))
    assert theirs - ours == pytest.approx(nats, abs=1e-6)
    assert float(other.history["density"][-1] - plain.history["density"][-1]) == pytest.approx(nats, abs=1e-6)
    one, another = (law.model.predict(law.data, "velocity") for law in (plain, other))
    assert float((one.alpha - another.alpha).abs().max()) < 1e-6


def test_units_keep_what_is_small() -> None:
    """Frames that crowd at the beginning, forces of very different size, few of many realisations."""
    few = few_of("plane")
    crowd = torch.cat([torch.zeros(1), torch.logspace(-13, 0, len(few.times) - 1, dtype=torch.float64)]).double()
    records = {n: part * (1e-9 if n == "force_right" else 1.0) for n, part in few.records.items()}
    seen = observe(Ensemble(crowd, few.realisations, records, 2), CONTROLS["plane"], ANSWERS["plane"])
    own = units_of(seen, LAYOUTS["plane"]).data(seen)
    assert bool((own.times.diff() > 0).all())
    assert seen.force is not None and own.force is not None
    each = [part / part.flatten(0, 1).std(0) for part in (seen.force, own.force)]
    assert float((each[0] - each[1]).abs().max()) < 1e-6
    many = replace(seen_of("point"), count=10**9)
    assert isinstance(many.cloud, Density)
    weights = torch.zeros_like(many.cloud.weights)
    weights[..., 0], weights[..., 1] = 1 - 1e-9, 1e-9
    many = replace(many, cloud=replace(many.cloud, weights=weights))
    found = units_of(many, LAYOUTS["point"]).data(many).cloud
    assert isinstance(found, Density) and bool((found.weights[..., 1] > 0).all())


def test_a_fit_in_units_of_its_own_is_that_of_the_users_to_its_digits() -> None:
    """The law that is given back answers as one would that had never left the user's units."""
    law = fitted_in("point", 3.0, 5.0, 7.0)
    own = Model([3], law.model.architecture)
    own.set_scales(law.data)
    for name in ("position", "given"):
        ours, theirs = (getattr(model.decoder, name) for model in (own, law.model))
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert float(own.law.rate) == pytest.approx(float(law.model.law.rate), rel=1e-5)
    assert float(own.law.energy) == pytest.approx(float(law.model.law.energy), rel=1e-5)
    assert torch.allclose(own.law.field, law.model.law.field, rtol=1e-5, atol=1e-6)
