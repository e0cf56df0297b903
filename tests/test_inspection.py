"""Faults of data are found where they are put in, and nowhere else; foreign data share no code with the library."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LAYOUTS, few_of

from ibvonns.ensemble import Ensemble
from ibvonns.inspection import Finding, Summary, inspect
from ibvonns.layouts import Point, Row
from ibvonns.protocols import PROTOCOLS
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap

Array = np.ndarray[Any, np.dtype[np.float64]]


# --- data of others, in plain NumPy --------------------------------------------------------------


def waves(rng: np.random.Generator, conditions: int, times: Array, slowest: float) -> Array:
    """Random sums of three sines, of standard deviation about 1, shape (conditions, times)."""
    speed = 2 * np.pi / slowest * rng.uniform(0.5, 2.0, (3, conditions, 1))
    return np.sqrt(2 / 3) * np.sin(speed * (times - times[0]) + rng.uniform(0, 2 * np.pi, (3, conditions, 1))).sum(0)


def walked(
    rng: np.random.Generator, pull: Callable[..., Array], x: Array, times: Array, controls: Array, diffusion: float
) -> Array:
    """Euler steps, eight to a frame, under controls (number, conditions, times) that are linear between frames."""
    path = [x]
    for n, step in enumerate(np.diff(times)):
        for part in range(8):
            now = controls[:, :, n] + (controls[:, :, n + 1] - controls[:, :, n]) * (part + 0.5) / 8
            x = x + step / 8 * pull(x, *now[:, :, None]) + np.sqrt(2 * diffusion * step / 8) * rng.normal(size=x.shape)
        path.append(x)
    return np.stack(path, 1)


def kept(times: Any, x: Any, **records: Any) -> Ensemble:
    """Arrays as an ensemble, which takes them though its types say tensors."""
    return Ensemble(times, x, records)


def bead(seed: int, conditions: int = 14, realisations: int = 100, uneven: bool = False) -> Ensemble:
    """A bead of half a micrometre in water in a trap, in SI units: relaxation in 9 ms, a frame about each ms."""
    rng, kbt, k, drag = np.random.default_rng(seed), 4.11e-21, 1e-6, 6 * np.pi * 1e-3 * 0.5e-6
    steps = 1e-3 * rng.uniform(0.6, 1.4, 149) if uneven else np.full(149, 1e-3)
    times = np.concatenate([[0.0], np.cumsum(steps)])
    centre = 2e-7 * waves(rng, conditions, times, 0.1)
    centre -= centre[:, :1]
    start = np.sqrt(kbt / k) * rng.normal(size=(conditions, realisations))
    x = walked(rng, lambda x, c: k / drag * (c - x), start, times, centre[None], kbt / drag)
    return kept(times, x, centre=centre, force=k * (centre - x.mean(-1)))


def wells(seed: int, conditions: int = 16, realisations: int = 300) -> Ensemble:
    """A particle in a double well, held by a trap that moves."""
    rng, times = np.random.default_rng(seed), np.linspace(0.0, 4.0, 161)
    centre = waves(rng, conditions, times, 4.0)
    start = np.sign(rng.normal(size=(conditions, realisations))) + 0.2 * rng.normal(size=(conditions, realisations))
    x = walked(rng, lambda x, c: -4 * x * (x**2 - 1) + 2 * (c - x), start, times, centre[None], 0.3)
    return kept(times, x, centre=centre, force=2 * (centre - x.mean(-1)))


def breathing(seed: int, conditions: int = 24, realisations: int = 150) -> Ensemble:
    """A trap whose centre and stiffness both vary, with the two forces conjugate to them."""
    rng, times = np.random.default_rng(seed), np.linspace(0.0, 5.0, 126)
    centre, stiff = waves(rng, conditions, times, 4.0), 1.5 * np.exp(0.4 * waves(rng, conditions, times, 4.0))
    start = centre[:, :1] + np.sqrt(0.05 / stiff[:, :1]) * rng.normal(size=(conditions, realisations))
    x = walked(rng, lambda x, c, k: k * (c - x), start, times, np.stack([centre, stiff]), 0.05)
    away = centre[..., None] - x
    return kept(times, x, centre=centre, stiffness=stiff, Fc=stiff * away.mean(-1), Fk=(away**2).mean(-1) / 2)


def anharmonic(seed: int, conditions: int = 16, realisations: int = 40) -> Ensemble:
    """A particle in a trap of the fourth power: mean and spread do not determine the force."""
    rng, times = np.random.default_rng(seed), np.linspace(0.0, 5.0, 126)
    centre = waves(rng, conditions, times, 3.0)
    start = centre[:, :1] + 0.4 * rng.normal(size=(conditions, realisations))
    x = walked(rng, lambda x, c: np.clip(4 * (c - x) ** 3, -20, 20), start, times, centre[None], 0.2)
    return kept(times, x, centre=centre, force=(4 * (centre[..., None] - x) ** 3).mean(-1))


# --- good data, and faults that are put in -------------------------------------------------------

SETS: dict[str, tuple[Callable[[int], Ensemble], dict[str, Any]]] = {
    "bead": (bead, {"controls": ["centre"], "forces": ["force"]}),
    "wells": (wells, {"controls": ["centre"], "forces": ["force"], "internal": 2}),
    "breathing": (breathing, {"controls": ["centre", "stiffness"], "forces": ["Fc", "Fk"], "internal": 2}),
    "anharmonic": (anharmonic, {"controls": ["centre"], "forces": ["force"]}),
    "trap": (
        lambda seed: Trap().simulate_paper(realisations=100, seed=seed),
        {"controls": ["pulled_length"], "forces": ["external_force"], "layout": Point()},
    ),
    "chain": (
        lambda seed: Chain().simulate_paper(realisations=40, seed=seed),
        {"forces": ["external_force"], "layout": Row(), "spacing": 0.01},
    ),
}


@cache
def good(name: str, seed: int = 0) -> Ensemble:
    return SETS[name][0](seed)


def found(name: str, data: Ensemble, **change: Any) -> list[Finding]:
    return list(inspect(data, **{**SETS[name][1], **change}).findings)


def changed(data: Ensemble, **records: Any) -> Ensemble:
    return Ensemble(data.times, data.realisations, {**data.records, **records}, data.components)


def moved(data: Ensemble, change: Callable[[torch.Tensor], Any]) -> Ensemble:
    """The same with other positions; what is given to `change` is a copy."""
    x = data.realisations.clone()
    new = change(x)
    return Ensemble(data.times, x if new is None else new, data.records, data.components)


def only(findings: list[Finding], kind: str, what: str) -> None:
    """One fault that is put in is one finding."""
    assert [each.kind for each in findings] == [kind], findings
    assert what in findings[0].what


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SETS)
def test_good_data_raise_nothing(name: str, seed: int) -> None:
    assert found(name, good(name, seed)) == []


@pytest.mark.parametrize("protocol", [each for each in PROTOCOLS if each != "at-rest"])
def test_nor_do_good_data_of_any_protocol(protocol: str) -> None:
    for seed in range(3):
        assert found("trap", Trap().simulate_paper(protocol, realisations=30, seed=seed)) == []
    if protocol != "oscillating":  # of a chain it would be shorter than nothing
        assert (
            found("chain", Chain().simulate_paper(protocol, lengths=(0.12, 0.16, 0.2, 0.24, 0.28), realisations=20))
            == []
        )


@given(st.integers(0, 1), st.integers(0, 13), st.integers(0, 149), st.integers(0, 99), st.sampled_from([-1.0, 1.0]))
def test_an_outlier_is_found_wherever_it_is(seed: int, row: int, time: int, one: int, sign: float) -> None:
    def put(x: torch.Tensor) -> None:
        x[row, time, one] = sign * 1e-3  # a millimetre

    said = found("bead", moved(good("bead", seed), put))
    only(said, "error", f"hold 1 outlier: condition {row}, time {time}, site 0, realisation {one} lies ")


def test_an_outlier_that_a_force_was_computed_from_is_one_finding() -> None:
    data, x = good("bead"), good("bead").realisations.clone()
    x[2, 50, 3] = 1e-3
    centre = data.records["centre"]
    wrong = Ensemble(data.times, x, {"centre": centre, "force": 1e-6 * (centre - x.mean(-1))})
    only(found("bead", wrong), "error", "condition 2, time 50, site 0, realisation 3 lies 1.")


def test_an_outlier_of_a_chain_is_found_at_its_site() -> None:
    def put(x: torch.Tensor) -> None:
        x[3, 100, 7, 5], x[4, 7, 2, 1] = 1e4, -1e3

    said = [each.what for each in found("chain", moved(good("chain"), put)) if "outlier" in each.what]
    assert len(said) == 1 and "hold 2 outliers: condition 3, time 100, site 7, realisation 5" in said[0]


def test_heavy_tails_are_no_outliers() -> None:
    rng = torch.Generator().manual_seed(0)
    away = torch.randn(4, 30, 5000, generator=rng).sign() * 20 * torch.rand(4, 30, 5000, generator=rng).lt(0.1)
    x = away + torch.randn(4, 30, 5000, generator=rng)  # wells at ten times their width, and one that few are in
    assert not any("outlier" in each.what for each in inspect(Ensemble(torch.arange(30.0), x)).findings)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 7, 20])
def test_few_realisations_are_no_outliers(number: int) -> None:
    x = torch.randn(20, 300, number, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    assert not any("outlier" in each.what for each in inspect(Ensemble(torch.arange(300.0), x)).findings)


@pytest.mark.parametrize(
    ("name", "force"),
    [
        ("bead", "force"),
        ("wells", "force"),
        ("anharmonic", "force"),
        ("breathing", "Fc"),
        ("breathing", "Fk"),
        ("trap", "external_force"),
    ]
    + [("chain", "external_force")],
)
@pytest.mark.parametrize("seed", range(2))
def test_a_force_of_the_other_sign_is_found(name: str, force: str, seed: int) -> None:
    data = good(name, seed)
    only(found(name, changed(data, **{force: -data.records[force]})), "error", f"forces['{force}'] does negative work")


def test_a_force_of_the_other_sign_is_found_in_slow_pulls_from_afar() -> None:
    """Where friction is lost in noise, and starts out of equilibrium outweigh it, a spring still is one."""
    rng, times = np.random.default_rng(0), np.linspace(0.0, 4.0, 161)
    centre = waves(rng, 14, times, 100.0)[None]
    start = centre[0, :, :1] + rng.normal(size=(14, 1)) + 0.2 * rng.normal(size=(14, 100))
    x = walked(rng, lambda x, c: 2 * (c - x), start, times, centre, 0.05)
    force = 2 * (centre[0] - x.mean(-1))
    for sign, number in ((1, 0), (-1, 1)):
        data = kept(times, x, centre=centre[0], force=sign * force)
        assert sum("negative work" in each.what for each in found("bead", data)) == number


@pytest.mark.parametrize("frames", [1, 2, -1, -2])
@pytest.mark.parametrize(
    ("name", "control"),
    [("bead", "centre"), ("wells", "centre"), ("breathing", "centre"), ("breathing", "stiffness")]
    + [("trap", "pulled_length")],
)
def test_a_control_that_is_late_is_found(name: str, control: str, frames: int) -> None:
    data = good(name)
    said = found(name, changed(data, **{control: data.records[control].roll(frames, 1)}))
    by = "one frame" if abs(frames) == 1 else "two frames"
    only(said, "warning", f"controls['{control}'] {'lags' if frames > 0 else 'leads'}: the forces fit ")
    assert said[0].what.endswith(f"times better with it moved by {by}")


@pytest.mark.parametrize(("name", "noise"), [("bead", 0.1), ("wells", 0.05)])
def test_a_late_control_is_found_behind_the_noise_of_a_measured_force(name: str, noise: float) -> None:
    data, rng = good(name), torch.Generator().manual_seed(0)
    force, centre = data.records["force"], data.records["centre"]
    noisy = force + noise * force.std() * torch.randn(force.shape, generator=rng, dtype=torch.float64)
    assert found(name, changed(data, force=noisy)) == []
    only(found(name, changed(data, force=noisy, centre=centre.roll(1, 1))), "warning", "controls['centre'] lags")
    only(found(name, changed(data, force=-noisy)), "error", "negative work")


def test_what_follows_a_control_late_is_no_late_control() -> None:
    """The spread of a trap whose stiffness varies lags behind it, and where one control is not told, all does."""
    data = good("breathing")
    assert inspect(data, ["stiffness"], ["Fk"]).findings == inspect(data, ["centre"], ["Fc"]).findings == ()
    for delay in (5.0, 7.0, 10.0):  # frames, of something unseen that pulls the control
        centre, pull = data.records["centre"], [data.records["centre"][:, 0]]
        for now in centre.unbind(1)[1:]:
            pull.append(pull[-1] + (1 - np.exp(-1 / delay)) * (now - pull[-1]))
        said = inspect(changed(data, pull=torch.stack(pull, 1)), ["centre"], ["pull"]).findings
        assert not any("frame" in each.what for each in said), said


@pytest.mark.parametrize(("name", "every"), [("bead", 8), ("breathing", 12), ("wells", 20)])
def test_coarse_frames_are_found(name: str, every: int) -> None:
    data = good(name)
    records = {each: record[:, ::every] for each, record in data.records.items()}
    said = found(name, Ensemble(data.times[::every], data.realisations[:, ::every].clone(), records))
    only(said, "warning", "relaxation times, not resolved")


def test_what_a_step_is_in_relaxation_times() -> None:
    rng, decay = np.random.default_rng(0), np.exp(-0.6)
    x: list[Array] = [rng.normal(size=(4, 400))]
    for _ in range(60):
        x.append(decay * x[-1] + np.sqrt(1 - decay**2) * rng.normal(size=(4, 400)))
    data = kept(4e-3 * np.arange(61), np.array(x).swapaxes(0, 1))
    only(list(inspect(data).findings), "warning", "a step of 0.004 in times is 0.6 relaxation times")


def test_what_does_not_vary_is_found() -> None:
    data = good("breathing")
    still = torch.full_like(data.records["stiffness"], 0.3)
    only(found("breathing", changed(data, stiffness=still)), "error", "controls['stiffness'] is 0.3 throughout")
    only(found("breathing", changed(data, Fk=0 * still)), "error", "forces['Fk'] is 0 throughout")


def test_few_conditions_are_found() -> None:
    for seed in range(3):
        few = found("breathing", good("breathing", seed).select(slice(0, 5)))
        only(few, "warning", "5 conditions for 2 controls and 2 internal variables: ")
        only(found("bead", good("bead", seed).select(slice(0, 2))), "warning", "2 conditions for 1 controls")
    only(found("chain", good("chain").select(slice(0, 17, 8))), "warning", "of the held-out states lie outside")
    alone = found("bead", good("bead").select(slice(0, 1)))
    only(alone, "warning", "1 conditions for 1 controls and 1 internal variables: 100% of")


def test_rounding_is_found_where_it_matters() -> None:
    data, width = good("wells"), 0.3
    said = found("wells", moved(data, lambda x: (x / (0.2 * width)).round() * 0.2 * width))
    only(said, "warning", "values are rounded to 0.06 (")
    assert found("wells", moved(data, lambda x: (x / (0.02 * width)).round() * 0.02 * width)) == []  # most are doubled
    coarse = found("wells", moved(data, lambda x: (x / (4 * width)).round() * 4 * width))
    assert not any("stand still" in each.what for each in coarse)
    assert found("wells", moved(data, lambda x: x.float())) == []


@pytest.mark.parametrize("name", ["bead", "wells", "breathing", "trap"])
def test_other_units_are_found(name: str) -> None:
    data, control = good(name), SETS[name][1]["controls"][0]
    only(found(name, changed(data, **{control: 1e9 * data.records[control]})), "warning", "metres and nanometres?")


def test_a_stiffness_is_no_length() -> None:
    data = good("breathing")
    for scale in (1e-6, 1e6):
        assert found("breathing", changed(data, stiffness=scale * data.records["stiffness"])) == []


def test_unequal_noise_is_found() -> None:
    def put(x: torch.Tensor) -> None:
        mean = x[2].mean(-1, keepdim=True)
        x[2] = mean + 0.05 * (x[2] - mean)

    only(found("bead", moved(good("bead"), put)), "warning", "times that of another: the same system?")


def test_tracks_that_stand_still_and_copies_are_found() -> None:
    def stuck(x: torch.Tensor) -> None:
        x[3, 40:, 7] = x[3, 40, 7]

    def copied(x: torch.Tensor) -> None:
        x[3, :, 7] = x[3, :, 70]

    only(found("bead", moved(good("bead"), stuck)), "error", "1 tracks, such as realisation 7 of condition 3")
    only(found("bead", moved(good("bead"), copied)), "error", "realisations 7 and 70 of condition 3 are the same")
    x = good("chain").realisations.clone()
    x[1, ..., 4] = x[1, ..., 9]
    chain = Ensemble(good("chain").times, x, good("chain").records)
    assert any("realisations 4 and 9 of condition 1 are the same" in each.what for each in found("chain", chain))


def test_a_velocity_that_is_not_that_of_the_end_is_found() -> None:
    data = good("chain")
    v = data.records["velocity"]
    only(found("chain", changed(data, velocity=1.4 * v)), "error", "velocity differs from d(end)/dt by 40%")
    only(found("chain", data, spacing=0.02), "error", "velocity differs from d(end)/dt by 50%")
    only(found("chain", data, spacing=None), "error", "spacing is needed for a chain")
    rest = Chain().simulate_paper("at-rest", realisations=20)
    assert not any("velocity" in each.what for each in found("chain", rest))


def test_uneven_steps_are_noted() -> None:
    only(found("bead", bead(0, uneven=True)), "warning", "times are uneven, the longest step 2.3 times the shortest")


def test_components_are_columns() -> None:
    """Two beads, side by side as the components of one position, each with its control."""
    one, two = good("bead", 0), good("bead", 1)
    x = torch.stack([one.realisations, two.realisations], -1)
    records = {**one.records, "up": two.records["centre"], "force up": two.records["force"]}
    data, names = Ensemble(one.times, x, records, 2), (["centre", "up"], ["force", "force up"])
    summary = inspect(data, *names, Point(2))
    assert (summary.components, summary.sites, summary.realisations, summary.sound) == (2, 1, 100, True)
    assert {each.what.split()[0] for each in summary.findings} <= {"14"}  # conditions may be few for two controls
    late = inspect(changed(data, up=records["up"].roll(1, 1)), *names).findings
    assert any("controls['up'] lags" in each.what for each in late)
    wrong = inspect(changed(data, force=-records["force"]), *names).findings
    assert any("forces['force'] does negative work" in each.what for each in wrong)


@pytest.mark.parametrize("kind", ["ring", "grid"])
def test_sites_without_controls_or_ends_are_looked_at(kind: str) -> None:
    summary = inspect(few_of(kind), layout=LAYOUTS[kind])
    assert summary.sites == 6 and summary.sound


def test_a_chain_that_is_called_a_point_is_looked_at() -> None:
    data = good("chain")
    assert inspect(data, ["pulled_length"], ["external_force"]).sound
    wrong = inspect(
        changed(data, external_force=-data.records["external_force"]), ["pulled_length"], ["external_force"]
    )
    assert not wrong.sound


def test_single_precision_is_enough() -> None:
    data = good("wells")
    records = {name: record.float() for name, record in data.records.items()}
    single = Ensemble(data.times.float(), data.realisations.float(), records)
    assert found("wells", single) == []
    only(found("wells", changed(single, centre=single.records["centre"].roll(1, 1))), "warning", "centre'] lags")


# --- what holds for any data ---------------------------------------------------------------------


@settings(max_examples=10)
@given(
    st.integers(-12, 12), st.integers(-12, 12), st.integers(-12, 12), st.sampled_from(["bead", "wells", "breathing"])
)
def test_units_do_not_matter(length: int, time: int, energy: int, name: str) -> None:
    data, metre, joule = good(name), 10.0**length, 10.0**energy
    units = {
        "centre": metre,
        "stiffness": joule / metre**2,
        "Fk": metre**2,
        "force": joule / metre,
        "Fc": joule / metre,
    }
    records = {each: units[each] * record for each, record in data.records.items()}
    scaled = Ensemble(10.0**time * data.times, metre * data.realisations, records)
    assert found(name, scaled) == []
    force = SETS[name][1]["forces"][-1]
    only(found(name, changed(scaled, **{force: -scaled.records[force]})), "error", f"forces['{force}'] does negative")


@given(
    st.tuples(st.integers(1, 3), st.integers(2, 25), st.integers(1, 3), st.integers(1, 7), st.integers(1, 2)),
    st.integers(0, 99),
    st.sampled_from([0.0, 1.0, 1e-200]),
    st.sampled_from([None, Point(), Row()]),
)
def test_whatever_comes_is_answered(
    shape: tuple[int, ...], seed: int, scale: float, layout: Point | Row | None
) -> None:
    rng, parts = torch.Generator().manual_seed(seed), shape[-1]
    x = scale * torch.randn(shape if parts > 1 else shape[:-1], generator=rng, dtype=torch.float64)
    times = torch.arange(shape[1], dtype=torch.float64)
    a, b = torch.randn(2, *shape[:2], generator=rng, dtype=torch.float64)
    data = Ensemble(times, x, {"a": a, "b": b, "velocity": b}, parts)
    summary = inspect(data, ["a"], ["b"], layout, spacing=0.1)
    assert torch.equal(data.realisations, x) and torch.equal(data.records["a"], a)
    assert summary == inspect(data, ["a"], ["b"], layout, spacing=0.1)
    assert (summary.conditions, summary.times, summary.sites, summary.realisations) == shape[:4]
    assert max(map(len, str(summary).splitlines())) <= 80
    assert summary.sound == all(each.kind == "warning" for each in summary.findings)
    assert [each.kind for each in summary.findings] == sorted(each.kind for each in summary.findings)


def test_the_table() -> None:
    data = good("bead")
    summary = inspect(data, ["centre"], ["force"])
    assert isinstance(summary, Summary) and summary.sound
    assert (summary.conditions, summary.times, summary.sites, summary.realisations) == (14, 150, 1, 100)
    assert summary.width == pytest.approx(np.sqrt(4.11e-21 / 1e-6), rel=0.05)
    assert summary.noise == pytest.approx(summary.width / 10, rel=0.05)
    assert summary.ranges["centre"] == (float(data.records["centre"].min()), float(data.records["centre"].max()))
    assert str(summary).splitlines()[0].split() == ["conditions", "14"]
    assert str(summary).endswith("nothing looks wrong")
    wrong = inspect(changed(data, force=-data.records["force"]), ["centre"], ["force"])
    assert not wrong.sound and "\nE forces['force'] does negative work" in str(wrong)
