"""The law on every layout, with weights that were never trained: second law, closed forms, ends, sums."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from laws import CASES, ENERGY, LAYOUTS, RATE, SITES, bonded, concave, drawn, every, made, states, thermodynamic, torn
from torch import Generator, Tensor

from ibvonns.law import Law, Scales, root
from ibvonns.layouts import Grid, Point, Ring, Row, moved
from ibvonns.networks import PICINN

__all__ = ["concave"]  # a fixture
closed = pytest.mark.parametrize(("kind", "internal"), [c for c in CASES if not LAYOUTS[c[0]].driven])
Spoil = Callable[[Law], Law]


def second_law(law: Law, number: int, reach: float) -> dict[str, float]:
    """By how much phi breaks each of its properties, in units of the largest phi and dissipation."""
    z = states(law, number, reach)
    g, h = (thermodynamic(law, z, reach, seed) for seed in (1, 2))
    with torch.no_grad():
        phi, other, middle, none = (law.dual_dissipation(z, at) for at in (g, h, (g + h) / 2, 0 * g))
        dissipated, steep = law.dissipation(z, g), ((law.rates(z, g) - law.rates(z, h)) * (g - h)).sum(-1)
        still = law.rates(z, 0 * g)
    unit = float(max(phi.abs().max(), dissipated.abs().max()))
    broken = {
        "phi is convex": middle - (phi + other) / 2,
        "rates rise with forces": -steep,
        "phi >= 0": -phi,
        "dissipation >= phi": phi - dissipated,  # it is phi and its dual together
        "dissipation >= 0": -dissipated,
        "phi(0) = 0": none.abs(),
        "no force, no rate": still.abs() * ENERGY,
    }
    return {name: float(value.max()) / unit for name, value in broken.items()}


@every
@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize("reach", [1.0, 10.0, 100.0])
def test_second_law_holds_whatever_the_weights_and_however_far_the_states(
    kind: str, internal: int, wild: bool, reach: float
) -> None:
    broken = second_law(made(LAYOUTS[kind], internal, wild), 600 // SITES[type(LAYOUTS[kind])], reach)
    assert max(broken.values()) <= 1e-14, broken


@every
@pytest.mark.parametrize("reach", [1.0, 100.0])
def test_cubes_and_squares_keep_the_second_law_and_the_closed_forms(kind: str, internal: int, reach: float) -> None:
    law = made(LAYOUTS[kind], internal, wild=True, cubes=3, squares=2)
    broken = second_law(law, 600 // SITES[type(LAYOUTS[kind])], reach)
    assert max(broken.values()) <= 1e-14, broken
    z = states(law, 20, reach).requires_grad_()
    g = thermodynamic(law, z.detach(), reach).requires_grad_()
    (df,) = torch.autograd.grad(law.free_energy(z).sum(), z)
    (dphi,) = torch.autograd.grad(law.dual_dissipation(z.detach(), g).sum(), g)
    forces, g_alpha = law.slopes(z.detach())
    given = law.layout.given if law.layout.directions else 0
    for found, truth in (
        (law.spacing * forces, df[..., given : law.layout.fields]),
        (-g_alpha, df[..., law.layout.fields :]),
        (law.rates(z.detach(), g), dphi),
    ):
        assert found.numel() == 0 or float((found - truth).detach().abs().max()) <= 1e-11 * float(truth.abs().max())


@every
def test_second_law_fails_with_a_network_that_is_not_convex(kind: str, internal: int, concave: Spoil) -> None:
    broken = second_law(concave(made(LAYOUTS[kind], internal, wild=True)), 200, 1.0)
    for name in ("phi is convex", "rates rise with forces", "phi >= 0", "dissipation >= phi", "dissipation >= 0"):
        assert broken[name] > 1e-2, broken


@every
def test_second_law_fails_with_a_tangent_left_in(kind: str, internal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    law, value, slope = made(LAYOUTS[kind], internal, wild=True), PICINN.forward, PICINN.gradient
    monkeypatch.setattr(PICINN, "forward", lambda net, z, g: value(net, z, g + 0.1))
    monkeypatch.setattr(PICINN, "gradient", lambda net, z, g: slope(net, z, g + 0.1))
    broken = second_law(law, 200, 1.0)
    assert min(broken["phi(0) = 0"], broken["no force, no rate"]) > 1e-6, broken


class Leaky(Law):
    """A law whose g_alpha is not the slope of its free energy."""

    def slopes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """As those of a law, but for a factor."""
        tension, g_alpha = super().slopes(z)
        return tension, 1.1 * g_alpha


def unbalanced(law: Law, z: Tensor, **given: Tensor) -> tuple[float, Tensor]:
    """|d/dt sum f - work of the end + dissipation|, in units of the largest; and d/dt sum f."""
    z = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(law.free_energy(z).sum(), z)
    with torch.no_grad():
        rate, answer = law.step(z, **given)
        change = (slope * rate).sum((2, 3))
        work, force = torch.zeros_like(change), given.get("force")
        if law.layout.driven:  # F_ex is known and v_n is what answers, or the other way round
            other = answer[..., 0]
            force, velocity = (force, other) if force is not None else (other, given["velocity"])
            work = force * velocity
        dissipated = law.dissipation(z, law.driving(z, force)).sum(2)
    return float((change - work + dissipated).abs().max() / (work.abs() + dissipated.abs()).max()), change


def ends(law: Law, number: int) -> list[dict[str, Tensor]]:
    """What an end may be given: F_ex, v_n, or nothing where there is none."""
    if not law.layout.driven:
        return [{}]
    pull, speed = drawn(Generator().manual_seed(9), 2, 2, number)
    return [{"force": law.force[-1] * pull}, {"velocity": law.rate * speed}]


@every
@pytest.mark.parametrize("wild", [False, True])
def test_free_energy_changes_by_the_ends_work_less_the_dissipation(kind: str, internal: int, wild: bool) -> None:
    law = made(LAYOUTS[kind], internal, wild)
    z = states(law, 100, 2.0)
    for given in ends(law, 100):
        error, change = unbalanced(law, z, **given)
        assert error <= 1e-9 if "velocity" in given else error <= 1e-12
        assert law.layout.driven or change.max() <= 1e-12 * change.abs().max()


@every
def test_the_balance_fails_with_a_bond_without_its_partner_or_a_force_that_is_no_slope(
    kind: str, internal: int
) -> None:
    layout = LAYOUTS[kind]
    law = made(torn(layout) if layout.directions else layout, internal, wild=True)
    if not layout.directions:
        law.__class__ = Leaky
    z = states(made(layout, internal), 100, 2.0)
    for given in ends(law, 100):
        assert unbalanced(law, z, **given)[0] > 1e-3


@closed
def test_free_energy_rises_with_a_network_that_is_not_convex(kind: str, internal: int, concave: Spoil) -> None:
    law = concave(made(LAYOUTS[kind], internal, wild=True))
    change = unbalanced(law, states(law, 100, 2.0))[1]
    assert change.max() > 1e-3 * change.abs().max()


@bonded
def test_free_energy_never_rises_while_the_end_rests(kind: str, internal: int) -> None:
    law = made(LAYOUTS[kind], internal)
    given = {"velocity": torch.zeros(500, dtype=torch.float64)} if law.layout.driven else {}
    change = unbalanced(law, states(law, 500, 2.0), **given)[1]
    assert change.max() <= 1e-10 * change.abs().max()


@every
@pytest.mark.parametrize("wild", [False, True])
def test_closed_forms_are_the_slopes_of_the_potentials(kind: str, internal: int, wild: bool) -> None:
    law = made(LAYOUTS[kind], internal, wild)
    z = states(law, 200, 1.5).requires_grad_()
    g = thermodynamic(law, z.detach(), 2.0).requires_grad_()
    (by_z,) = torch.autograd.grad(law.free_energy(z).sum(), z)
    (by_g,) = torch.autograd.grad(law.dual_dissipation(z, g).sum(), g)
    tension, g_alpha = law.slopes(z)
    fields, free = law.layout.fields, law.layout.given if law.layout.directions else 0
    pairs = (law.spacing * tension, by_z[..., free:fields]), (-g_alpha, by_z[..., fields:]), (law.rates(z, g), by_g)
    for ours, expected in pairs:
        assert ours.shape == expected.shape
        if expected.numel():
            assert (ours - expected).norm() <= 1e-12 * expected.norm()
    (none,) = torch.autograd.grad(law.dual_dissipation(z, g).sum(), z)
    known = none if law.layout.directions else none[..., :fields]
    assert bool((known == 0).all()) == (law.layout.directions == 0)  # phi knows no control


@every
def test_forces_at_a_state_are_those_that_its_rates_follow(kind: str, internal: int) -> None:
    """The step, put together once more from its parts."""
    law = made(LAYOUTS[kind], internal)
    z, layout = states(law, 20), law.layout
    for given in ends(law, 20)[:1]:
        rate, answer = law.step(z, **given)
        w = law.rates(z, law.driving(z, given.get("force")))
        bonds = layout.directions
        assert torch.equal(rate[..., layout.fields :], w[..., bonds:])
        if bonds:
            expected = moved(layout, w[..., :bonds]) / law.spacing
            assert torch.allclose(rate[..., layout.given], expected, rtol=1e-13, atol=1e-14)
            assert not rate[..., : layout.given].any()  # known numbers of a site stand still
            assert law.slopes(z)[0].shape[-1] == 1  # and nothing pulls at them
        else:
            assert rate[..., : layout.fields].abs().max() == 0  # a control does not evolve
            assert torch.equal(answer, law.slopes(z)[0][:, :, 0])
        assert answer.shape == (2, 20, layout.ends)
        if layout.driven:
            assert torch.equal(answer[..., 0], w[:, :, -1, 0])


def test_dissipation_potential_and_its_dual_are_legendre_transforms_of_each_other() -> None:
    """psi(w) = max_g (w g - phi(g)) on a dense grid; the maximum lies where phi has the slope w."""
    law = made(Point(), wild=True)
    grid = torch.arange(-1000, 1001, dtype=torch.float64) / 100 * ENERGY
    g = grid[None, :, None, None].expand(2, -1, 1, 1)
    for state in (-1.5, 0.0, 1.0):
        z = torch.full((2, 2001, 1, 2), state, dtype=torch.float64)
        with torch.no_grad():
            phi, rate = law.dual_dissipation(z, g)[..., 0], law.rates(z, g)[..., 0, 0]
        psi = (rate[:, :, None] * grid - phi[:, None, :]).amax(2)
        again = (rate[:, :, None] * grid - psi[:, :, None]).amax(1)
        size = float((rate * grid).abs().max())
        assert psi.min() >= -1e-12 * size
        assert (psi[:, 1000] == 0).all() and (rate[:, 1000] == 0).all()  # psi(0) = 0
        assert (psi - (rate * grid - phi)).abs().max() <= 1e-12 * size
        assert (again - phi).abs().max() <= 1e-12 * size


@every
def test_free_energy_is_zero_at_its_reference(kind: str, internal: int) -> None:
    law = made(LAYOUTS[kind], internal)
    z = states(law, 1, sites=1) if not isinstance(law.layout, Grid) else states(law, 1)[:, :, :1]
    law.set_reference(z)
    assert (law.free_energy(z) == 0).all()
    assert (law.free_energy(z + 0.3) != 0).all()


@bonded
def test_law_is_the_same_for_every_site_and_local(kind: str, internal: int) -> None:
    """A site's rates do not know its number, only itself and those that a bond joins to it."""
    law = made(LAYOUTS[kind], internal)
    sites = 9
    z, layout = states(law, 6, sites=sites), law.layout
    given = {"force": torch.zeros(6, dtype=torch.float64)} if layout.driven else {}
    rate = law.step(z, **given)[0]
    shifted = law.step(z.roll(1, 2), **given)[0]
    if isinstance(layout, Ring):
        assert torch.allclose(shifted, rate.roll(1, 2), rtol=1e-10, atol=1e-12)
    if isinstance(layout, Row):  # sites 2 to 6 keep their rates one place on
        assert torch.allclose(shifted[:, :, 3:7], rate[:, :, 2:6], rtol=1e-10, atol=1e-12)
    if isinstance(layout, Grid):
        for axis in (2, 3):
            place = z.unflatten(2, (3, 3)).roll(1, axis).flatten(2, 3)
            expected = rate.unflatten(2, (3, 3)).roll(1, axis).flatten(2, 3)
            assert torch.allclose(law.step(place)[0], expected, rtol=1e-10, atol=1e-12)
    changed = z.clone()
    changed[:, :, 4] += 0.5
    other = law.step(changed, **given)[0]
    touched = ((other - rate).abs().amax((0, 1, 3)) > 0).nonzero().flatten().tolist()
    # phi of a site knows both of its bonds: what leads to the right depends on the site below, too
    neighbours = [1, 2, 3, 4, 5, 6, 7] if isinstance(layout, Grid) else [3, 4, 5]
    assert touched == neighbours


@pytest.mark.parametrize("sites", [1, 3, 50])
@pytest.mark.parametrize("internal", [0, 1, 3])
@pytest.mark.parametrize("wild", [False, True])
def test_force_and_velocity_are_mutually_inverse(sites: int, internal: int, wild: bool) -> None:
    law = made(Row(), internal, wild).requires_grad_(False)
    z, rng = states(law, 6, sites=sites), Generator().manual_seed(3)
    force = 3 * law.force * drawn(rng, 2, 6)
    rate, velocity = law.step(z, force=force)
    again, found = law.step(z, velocity=velocity[..., 0])
    assert torch.allclose(found[..., 0], force, rtol=1e-8, atol=1e-12)
    assert torch.allclose(again, rate, rtol=1e-8, atol=1e-10)
    # any velocity has a force, however far it lies beyond the data
    speed = 250 * law.rate * drawn(rng, 2, 6)
    force = law.step(z, velocity=speed)[1]
    assert torch.allclose(law.step(z, force=force[..., 0])[1][..., 0], speed, rtol=1e-8)


@pytest.mark.parametrize("internal", [0, 1, 3])
@pytest.mark.parametrize("both", [False, True])
def test_total_field_of_a_row_grows_as_its_end_moves(internal: int, both: bool) -> None:
    law = made(Row(), internal).requires_grad_(False)
    z, velocity = states(law, 6, sites=10), RATE * torch.linspace(-5, 5, 6, dtype=torch.float64)
    given = {"velocity": velocity, **({"force": 0 * velocity} if both else {})}
    expected = velocity / law.spacing

    @torch.no_grad()
    def missed(law: Law) -> float:
        """|d/dt sum of the field - v_n / spacing|, in units of the largest."""
        return float((law.step(z, **given)[0][..., 0].sum(-1) - expected).abs().max() / expected.abs().max())

    assert missed(law) < 1e-13
    assert missed(made(torn(Row()), internal, wild=True)) > 0.1


def test_of_force_and_velocity_together_the_end_follows_one_and_answers_the_other() -> None:
    law = made(Row()).requires_grad_(False)
    z, force, velocity = states(law, 6), law.force * torch.ones(6), RATE * torch.ones(6)
    rate, own = law.step(z, force=force, velocity=velocity)
    free, expected = law.step(z, force=force)
    assert torch.equal(own, expected)
    shift = torch.zeros_like(rate)
    shift[:, :, -1, 0] = (velocity - own[..., 0]) / law.spacing
    assert torch.allclose(rate, free + shift, rtol=1e-12, atol=1e-12)


def test_derivatives_pass_through_the_solved_force() -> None:
    law = made(Row())
    z, velocity = states(law, 2, sites=4), torch.tensor([0.6, -0.4], dtype=torch.float64)
    inputs = [part.requires_grad_() for part in (z, velocity)]

    def outputs(z: Tensor, velocity: Tensor) -> tuple[Tensor, ...]:
        rate, force = law.step(z, velocity=velocity)
        return rate, force / law.force  # all of order 1

    assert torch.autograd.gradcheck(outputs, inputs, eps=1e-6, rtol=1e-4, atol=1e-5)
    weight = law.mobility
    assert weight is not None
    (slope,) = torch.autograd.grad(law.step(z, velocity=velocity)[1].sum(), weight)
    found = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight.add_(step)
            found.append(float(law.step(z, velocity=velocity)[1].sum()))
            weight.sub_(step)
    assert float(slope.sum()) == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-5)


def test_force_and_velocity_may_be_each_replicas_own() -> None:
    law = made(Row()).requires_grad_(False)
    z, pull = states(law, 3), drawn(Generator().manual_seed(5), 2, 3)
    for name, unit in (("force", law.force), ("velocity", law.rate)):
        given: dict[str, Any] = {name: unit * pull}
        whole = law.step(z, **given)
        for place in range(2):
            alone = law.step(z, **{name: unit * pull[place]})
            for one, other in zip(whole, alone, strict=True):
                assert torch.allclose(one[place], other[place], rtol=1e-12, atol=1e-14)


@every
def test_replica_is_what_its_seed_gives_alone(kind: str, internal: int) -> None:
    both, one = made(LAYOUTS[kind], internal, seeds=(0, 7)), made(LAYOUTS[kind], internal, seeds=(7,))
    z = states(both, 4)
    for given in ends(both, 4):
        whole = both.step(z, **given)
        alone = one.step(z[1:], **{name: part[1:] for name, part in given.items()})
        for ours, expected in zip(whole, alone, strict=True):
            assert torch.allclose(ours[1:], expected, rtol=1e-11, atol=1e-13)


@every
def test_units_change_nothing_but_the_numbers(kind: str, internal: int) -> None:
    """Twice the energy, three times the rate, fields in other units: the same law."""
    one, other = (made(LAYOUTS[kind], internal) for _ in range(2))
    other.set_scales(one.field * 4 + torch.tensor([[1.0], [0.0]]), 2 * ENERGY, 3 * RATE)
    z, fields = states(one, 5), one.layout.fields
    moved_z = torch.cat([4 * z[..., :fields] + 1, z[..., fields:]], -1)
    faster = 3 / 4 if one.layout.directions else 3.0  # alpha's clock counts lengths of the field
    given = {"force": one.force[-1] * torch.ones(5)} if one.layout.driven else {}
    scaled = {name: part / 2 for name, part in given.items()}  # 2 of energy over 4 of field
    rate, answer = one.step(z, **given)
    found, answered = other.step(moved_z, **scaled)
    expected = torch.cat([rate[..., :fields] * 4 * faster, rate[..., fields:] * faster], -1)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert torch.allclose(answered, answer * (3.0 if one.layout.driven else 0.5), rtol=1e-10)
    assert torch.allclose(other.free_energy(moved_z), 2 * one.free_energy(z), rtol=1e-8)


BAD_SCALES = [
    (torch.ones(2, 2).double(), 1.0, 1.0, r"field must have shape \(2, 1\)"),
    (torch.tensor([[0.0], [0.0]]).double(), 1.0, 1.0, "deviation of the field must be a finite number above 0"),
    (torch.tensor([[float("nan")], [1.0]]).double(), 1.0, 1.0, "field must be finite"),
    (torch.ones(2, 1).double(), 0.0, 1.0, "energy must be a finite number above 0"),
    (torch.ones(2, 1).double(), 1.0, float("nan"), "rate must be a finite number above 0"),
]


@pytest.mark.parametrize(("field", "energy", "rate", "sentence"), BAD_SCALES)
def test_scales_that_measure_nothing_are_refused(field: Tensor, energy: float, rate: float, sentence: str) -> None:
    law = Scales(Row())
    with pytest.raises(ValueError, match=f"^{sentence}"):
        law.set_scales(field, energy, rate)


def test_a_law_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="^internal must be .* at least 1, but is 0$"):
        made(Point(), 0)
    with pytest.raises(ValueError, match="^internal must be .* at least 0, but is -1$"):
        made(Row(), -1)
    with pytest.raises(ValueError, match="^rngs must hold at least 1 generator"):
        Law([], Row())
    with pytest.raises(ValueError, match="^spacing must be"):
        Scales(Row(), 0.0)
    with pytest.raises(ValueError, match="^number of hidden layers must be"):
        made(Row(), energy_hidden=())
    with pytest.raises(ValueError, match="^force and velocity must not both be None"):
        made(Row()).step(states(made(Row()), 1))
    with pytest.raises(ValueError, match="^z must be finite"):
        made(Row()).set_reference(torch.full((2, 1, 1, 2), float("nan")).double())


def test_a_root_is_found_where_newtons_method_would_leave_its_bracket() -> None:
    """A rise that is flat on either side; a line of the least slope, whose root is the end of the bracket."""
    target = torch.linspace(-12, 12, 25, dtype=torch.float64, requires_grad=True)
    slope = torch.ones(25, dtype=torch.float64)
    for function in (lambda x: x + 10 * torch.tanh(50 * (x - 0.3)), lambda x: x, lambda x: x + x**3):
        found = root(function, target, slope, 1.0)
        assert float((function(found) - target).detach().abs().max()) < 1e-9
        (change,) = torch.autograd.grad(found.sum(), target)
        x = found.detach().requires_grad_()
        (steep,) = torch.autograd.grad(function(x).sum(), x)
        assert torch.allclose(change, 1 / steep, rtol=1e-6)  # the derivative of an inverse


@pytest.mark.parametrize("kind", ["row", "ring", "grid"])
@pytest.mark.parametrize("internal", [1, 2])
def test_a_law_with_neighbours_keeps_the_second_law_at_any_net_force(kind: str, internal: int) -> None:
    law = made(LAYOUTS[kind], internal, wild=True, neighbours=True)
    z, bonds = states(law, 60, 10.0), law.layout.directions
    g, h = (thermodynamic(law, z, 10.0, seed) for seed in (1, 2))
    h = torch.cat([g[..., :bonds], h[..., bonds:]], -1)  # phi is convex while the net force stands still
    with torch.no_grad():
        phi, other, middle = (law.dual_dissipation(z, at) for at in (g, h, (g + h) / 2))
        rises = ((law.rates(z, g) - law.rates(z, h)) * (g - h)).sum(-1)
        gone = law.dissipation(z, g)
    unit = float(gone.abs().max())
    assert float((middle - (phi + other) / 2).max()) <= 1e-14 * unit
    assert float(phi.min()) >= 0 and float((phi - gone).max()) <= 1e-14 * unit and float(rises.min()) >= -1e-14 * unit
    assert float(law.rates(z, 0 * g).detach().abs().max()) == 0


@pytest.mark.parametrize("kind", ["row", "ring", "grid"])
def test_rates_with_neighbours_are_slopes_of_phi_and_only_those_of_alpha_feel_them(kind: str) -> None:
    law = made(LAYOUTS[kind], 2, neighbours=True)
    z, bonds = states(law, 5), law.layout.directions
    g = thermodynamic(law, z).requires_grad_()
    (slope,) = torch.autograd.grad(law.dual_dissipation(z, g).sum(), g)
    assert torch.allclose(slope, law.rates(z, g), rtol=1e-12, atol=0)
    pulled = g.detach().clone()
    pulled[:, :, 0, 0] *= 2.0  # the bond of the first site: what it brings to the second is felt there
    before, after = law.rates(z, g.detach()), law.rates(z, pulled)
    assert torch.equal(before[:, :, 1:, :bonds], after[:, :, 1:, :bonds])
    assert float((before[:, :, 1, bonds:] - after[:, :, 1, bonds:]).detach().abs().min()) > 0
    # and elsewhere nothing is
    assert torch.equal(before[:, :, 2, bonds:], after[:, :, 2, bonds:])


def test_neighbours_are_felt_by_internal_variables_of_sites_with_bonds_alone() -> None:
    for layout, internal, gas in ((Point(), 1, None), (Row(), 0, None), (Ring(), 0, 1.0)):
        with pytest.raises(ValueError, match="neighbours must be False without bonds or internal variables"):
            made(layout, internal, neighbours=True, gas=gas)
