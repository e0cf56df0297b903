"""The live panels in the built page, in a real browser: the law that they run is the library's."""

import json
from collections.abc import Iterator
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import CHROMIUM
from live_paths import assert_same_path
from playwright.sync_api import Browser, Locator, Page
from test_lattice import STATES, generator

from ibvonns.rollout import relaxed
from ibvonns.systems.chain import LENGTHS
from ibvonns.systems.lattice import Lattice, nearest
from ibvonns.systems.trap import VELOCITIES

HTML = Path(__file__).parents[1] / "_build" / "html"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine"),
    pytest.mark.skipif(not HTML.exists(), reason="the book is not built: run `make html`"),
]
CHAPTERS = {
    "trap": "05_learning_the_trap",
    "chain": "08_chain_gmm",
    "turning": "10_beyond_the_pull",
    "bands": "15_how_sure",
}
GASES = [Lattice(100, (coupling,)) for coupling in (log(4), 0.0, -log(4))]  # chapter 11's


def opened(browser: Browser, chapter: str) -> Iterator[Locator]:
    """The panel of a chapter in its page, opened from disk."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.set_default_timeout(60_000)
    page.emulate_media(reduced_motion="reduce")  # nothing plays by itself
    page.goto((HTML / "notebooks" / f"{chapter}.html").as_uri())
    yield page.locator(".ibv-panel")
    page.close()


@pytest.fixture(scope="module", params=CHAPTERS)
def panel(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Locator]:
    """Each of the panels that run a learned law."""
    yield from opened(browser, CHAPTERS[request.param])


@pytest.fixture(scope="module")
def gas(browser: Browser) -> Iterator[Locator]:
    """The panel in which nothing is learned."""
    yield from opened(browser, "11_lattice_gas")


def asked(panel: Locator, what: str) -> Any:
    """What the panel's script says of itself."""
    return panel.evaluate(f"root => root.ibvonns.{what}")


def pressed(panel: Locator, label: str) -> None:
    """Press a button by its words."""
    panel.get_by_role("button", name=label, exact=True).click()


def test_each_given_protocol_takes_the_path_that_python_predicts(panel: Locator) -> None:
    content, taken = asked(panel, "content"), []
    for protocol in content["protocols"]:
        pressed(panel, protocol["label"])
        for place, value in enumerate(protocol["values"]):
            if len(protocol["values"]) > 1:
                panel.locator("input[type=range]").first.fill(str(place))
            taken.append((protocol["name"], value))
            record = json.loads(panel.evaluate("root => JSON.stringify(root.ibvonns.record)"))
            assert_same_path(content, *taken[-1], asked(panel, "lengths"), record)
    paper = [("oscillating", v) for v in VELOCITIES] + [("smoothed-linear", 1.2)]
    if content["kind"] == "chain":
        paper = [("smoothed-linear", length) for length in LENGTHS] + [("sinusoidal", 0.2)]
    if content["protocols"][0].get("lengths"):  # chapter 10's own
        paper = [(f"{kind}-{n}", 0.16) for n, kind in enumerate(("pull", "hold", "cycle", "ramp"))]
    assert taken == paper


def test_a_band_is_that_of_its_laws_and_fades_for_good(browser: Browser) -> None:
    """As `bands.Banded.predict` has it: the middle, the width, and from where on the path has left the data."""
    for panel in opened(browser, CHAPTERS["bands"]):
        told = asked(panel, "content.bands")
        pressed(panel, "Draw")
        box = panel.locator(".ibv-draw").bounding_box()
        assert box is not None
        for place, high in enumerate(np.linspace(0.5, 0.05, 12)):  # farther and farther out
            panel.page.mouse.move(box["x"] + 60 + (box["width"] - 80) * place / 11, box["y"] + box["height"] * high)
            if place == 0:
                panel.page.mouse.down()
        panel.page.mouse.up()
        panel.page.wait_for_function("root => root.ibvonns.bands.at(-1).outside", arg=panel.element_handle())
        lengths = np.array(asked(panel, "lengths"))
        forces, alphas = (
            np.array(panel.evaluate(f"root => root.ibvonns.records.map((each) => Array.from(each.{name}).map(Number))"))
            for name in ("force", "alpha")
        )
        band = {
            name: np.array(asked(panel, f"bands.map((each) => each.{name})")) for name in ("middle", "away", "outside")
        }
        wide = told["reach"] * np.sqrt((forces.var(0, ddof=1) + told["usual"]) / 2)
        assert np.allclose(band["middle"], forces.mean(0)) and np.allclose(band["away"], wide)
        inside = np.stack(
            [
                (law["alpha"][0] <= alpha) & (alpha <= law["alpha"][1])
                for law, alpha in zip(told["laws"], alphas, strict=True)
            ]
        )
        inside &= (told["length"][0] <= lengths) & (lengths <= told["length"][1])
        assert np.array_equal(band["outside"], np.logical_or.accumulate((~inside).mean(0) > 0.5))
        assert not band["outside"][0] and band["outside"][-1]


def test_particles_move_as_the_law_says(panel: Locator) -> None:
    """The cloud's own force stays near the law's: both were given the same pull."""
    content = asked(panel, "content")
    pressed(panel, content["protocols"][0]["label"])
    pressed(panel, "Play")
    panel.page.wait_for_function("root => root.ibvonns.step === 300", arg=panel.element_handle())
    seen, force = asked(panel, "seen"), asked(panel, "record")["force"]
    assert len(seen) == 31
    misses = [abs(entry["force"] - force[entry["n"]]) for entry in seen]
    assert max(misses) < 0.15 * max(map(abs, force))


def focused(page: Page) -> str:
    """What has the keyboard's focus, in words."""
    word: str = page.evaluate(
        """() => { const e = document.activeElement;
        return e.labels?.[0]?.textContent || e.getAttribute("aria-label") || e.textContent }"""
    )
    return word


def test_panel_works_by_keyboard_alone(panel: Locator) -> None:
    page, content = panel.page, asked(panel, "content")
    panel.get_by_role("button", name=content["protocols"][0]["label"]).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the next protocol
    assert asked(panel, "values") == content["protocols"][1]["values"]
    for _ in content["protocols"][1:]:
        page.keyboard.press("Tab")
    assert focused(page) == "Draw"
    page.keyboard.press("Space")
    for _ in range(12):  # on to the handles of the drawn protocol
        page.keyboard.press("Tab")
        if focused(page).startswith("pulled end at time"):
            break
    assert focused(page) == "pulled end at time 0.25"
    page.keyboard.press("ArrowRight")
    assert focused(page) == "pulled end at time 0.5"
    before, force = asked(panel, "lengths"), asked(panel, "record")["force"]
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    after = asked(panel, "lengths")
    assert after[50] > before[50] and after[0] == before[0] and after[300] == before[300]
    assert asked(panel, "record")["force"][50] != force[50]
    for label in ("Play", "By hand"):  # back to the buttons
        while focused(page) != label:
            page.keyboard.press("Shift+Tab")
        if label == "Play":
            page.keyboard.press("Enter")
            page.wait_for_function("root => root.ibvonns.step > 3", arg=panel.element_handle())
            page.keyboard.press("Enter")
            assert focused(page) == "Play"  # it pauses
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    while not focused(page).startswith("pulled end"):
        page.keyboard.press("Tab")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("root => root.ibvonns.step > 60", arg=panel.element_handle())
    pressed(panel, "Pause")
    assert asked(panel, "lengths")[asked(panel, "step")] > 0


def test_dragging_draws_a_protocol(panel: Locator) -> None:
    pressed(panel, "Reset")
    area = panel.locator(".ibv-draw")
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    page, (x, y) = panel.page, (box["x"], box["y"])
    page.mouse.move(x + 0.3 * box["width"], y + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(x + 0.6 * box["width"], y + 0.3 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_timeout(200)
    drawn = asked(panel, "lengths")
    assert panel.get_by_role("button", name="Draw").get_attribute("aria-pressed") == "true"
    assert max(drawn[100:150]) - min(drawn[100:150]) < 0.05 * (max(drawn) - min(drawn) + 1)
    assert drawn[0] == 0 and drawn[125] > 0


def computed(gas: Locator, body: str, **given: Any) -> Any:
    """What a function body gives that may use the gas panel's own arithmetic, its content, and what is given."""
    names = ", ".join(given)
    parts = "arithmetic: {distance, equation, hopping, phi, unpacked}, content"
    return gas.evaluate(f"(root, {{{names}}}) => {{ const {{{parts}}} = root.ibvonns; {body} }}", given)


def told(one: Lattice) -> dict[str, float]:
    """A gas as the script knows it."""
    return {"slowed": float(np.exp(-one.couplings[0] / one.temperature)), "frequency": one.frequency}


def test_gases_of_the_page_are_the_librarys(gas: Locator) -> None:
    content = asked(gas, "content")
    for found, one in zip(content["gases"], GASES, strict=True):
        assert {key: found[key] for key in told(one)} == pytest.approx(told(one))
    for profile in content["profiles"]:
        assert len(profile["density"]) == content["sites"] == 100


@pytest.mark.parametrize("slowed", [0.25, 1.0, 4.0, 0.01, 30.0])
def test_potential_is_the_closed_form(gas: Locator, slowed: float) -> None:
    rho = torch.linspace(1e-6, 1 - 1e-6, 101, dtype=torch.float64)
    found = computed(gas, "return rho.map((value) => phi(value, slowed));", rho=rho.tolist(), slowed=slowed)
    assert (torch.tensor(found, dtype=torch.float64) - nearest(rho, slowed)[3]).abs().max() < 1e-12


@pytest.mark.parametrize("one", [Lattice(8, (log(4),)), Lattice(8, (0.0,)), Lattice(8, (-log(4),), 2.0, 1.5)])
@pytest.mark.parametrize("time", [0.1, 1.0])
def test_particles_obey_the_master_equation(gas: Locator, one: Lattice, time: float) -> None:
    """From one state of a small ring each of the 256 is reached as often as the rates of the library say."""
    first, runs = [1, 0, 1, 1, 0, 1, 0, 0], 40_000
    body = """
        const states = Uint8Array.from({length: 8 * runs}, (_, i) => first[i % 8]), counts = new Array(256).fill(0);
        hopping(states, 8, one, 3).until(time);
        const code = (state) => state.reduce((all, n) => 2 * all + n, 0);
        for (let i = 0; i < states.length; i += 8) counts[code(states.slice(i, i + 8))] += 1;
        return counts;"""
    seen = np.array(computed(gas, body, first=first, runs=runs, one=told(one), time=time)) / runs
    begun = (STATES == np.array(first)).all(1).astype(float)

    def off(rates: Any) -> float:
        exact = begun @ torch.linalg.matrix_exp(torch.from_numpy(rates * time)).numpy()
        return float((np.abs(seen - exact) / np.sqrt(exact / runs + 1e-12))[exact * runs > 5].max())

    assert seen.sum() == pytest.approx(1)
    assert off(generator(one)) < 4.5
    assert off(generator(replace(one, couplings=(one.couplings[0] + 0.5 * one.temperature,)))) > 6
    if time < 1:  # later all is near equilibrium, whatever the rate
        assert off(1.15 * generator(one)) > 6


@pytest.mark.parametrize("number", range(3))
def test_equation_is_the_librarys_and_keeps_the_mass(gas: Locator, number: int) -> None:
    profiles = asked(gas, "content")["profiles"]
    one: Any = replace(GASES[number], frequency=1.0 + number)  # what `relaxed` asks of a law, it has
    body = """
        return content.profiles.map(({density}) => {
            const law = equation(density, one), end = 400.5 * law.step;
            law.until(end);
            return [law.step, Array.from(law.density)];
        });"""
    for profile, (step, found) in zip(profiles, computed(gas, body, one=told(one)), strict=True):
        first = torch.tensor(profile["density"], dtype=torch.float64)
        times = torch.tensor([0.0, 400 * step], dtype=torch.float64)
        law = relaxed(one, first[None, None, :, None], times, step * (1 + 1e-9))[0, 0, 1, :, 0]
        assert np.abs(np.array(found) - law.numpy()).max() < 1e-12
        assert sum(found) == pytest.approx(sum(profile["density"]), abs=1e-11)
        assert (law - first).abs().max() > 0.01


@pytest.mark.parametrize("number", range(3))
def test_mean_of_the_runs_is_the_equations(gas: Locator, number: int) -> None:
    """At each site, and in the amplitudes of long waves, which another gas's equation misses."""
    body = """
        const {gases, profiles, starts} = content;
        return starts[number].map((words, i) => {
            const states = unpacked(words, 100), first = Array.from(states);
            const runs = hopping(states, 100, gases[number], 1);
            const laws = gases.map((each) => equation(profiles[i].density, each));
            for (const each of [runs, ...laws]) each.until(40);
            return [first, Array.from(states), laws.map((law) => Array.from(law.density))];
        });"""
    waves = np.sin(2 * np.pi * np.outer(np.arange(100) + 0.5, [1, 2, 3]) / 100) / 50
    for first, last, laws in computed(gas, body, number=number):
        begun, runs = np.reshape(first, (-1, 100)), np.reshape(last, (-1, 100))
        assert runs.shape == (256, 100) and (begun != runs).any(1).all()
        assert (begun.sum(1) == runs.sum(1)).all()  # no particle is lost, in any run
        amplitudes, law = runs @ waves, np.array(laws[number])
        assert (np.abs(runs.mean(0) - law) / np.sqrt(law * (1 - law) / 256)).max() < 4.5
        off = np.abs(amplitudes.mean(0) - np.array(laws) @ waves) / (amplitudes.std(0, ddof=1) / 16)
        far = off.max(1)  # of the equation of each gas
        assert far[number] < 4.5 and np.delete(far, number).max() > 6


def test_distance_is_that_of_chance_alone(gas: Locator) -> None:
    draws = np.random.default_rng(0).random((400, 256, 100)) < 0.3
    body = "return means.map((mean) => distance(mean, new Float64Array(100).fill(0.3), 256));"
    found = computed(gas, body, means=draws.mean(1).tolist())
    square = np.mean([each["found"] ** 2 for each in found])
    assert found[0]["noise"] == pytest.approx((0.21 / 256) ** 0.5)
    assert square == pytest.approx(0.21 / 256, rel=4.5 * (2 / 40_000) ** 0.5)


def test_a_run_depends_on_its_seed_and_not_on_the_frames(gas: Locator) -> None:
    body = """
        return [[1, 1], [1, 100], [2, 1]].map(([seed, frames]) => {
            const states = unpacked(content.starts[2][0], 100), runs = hopping(states, 100, content.gases[2], seed);
            const law = equation(content.profiles[0].density, content.gases[2]);
            for (let n = 1; n <= frames; n++) for (const each of [runs, law]) each.until((5 * n) / frames);
            return [states.join(""), law.density.join()];
        });"""
    once, often, other = computed(gas, body)
    assert once == often
    assert once[0] != other[0] and once[1] == other[1]


def test_gas_plays_by_keyboard_and_keeps_its_particles(gas: Locator) -> None:
    page, content = gas.page, asked(gas, "content")
    gas.get_by_role("button", name=content["gases"][0]["label"]).focus()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert focused(page) == content["gases"][2]["label"]
    pressed_ones = gas.locator('button[aria-pressed="true"]').all_inner_texts()
    assert pressed_ones == [content["gases"][2]["label"], content["profiles"][0]["label"]]
    begun = asked(gas, "states")
    while focused(page) != "Play":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("root => root.ibvonns.time > 3", arg=gas.element_handle())
    page.keyboard.press("Enter")
    assert focused(page) == "Play"  # it pauses
    played, states = asked(gas, "time"), asked(gas, "states")
    assert states != begun and sum(states) == sum(begun)
    assert asked(gas, "mean") == pytest.approx(np.reshape(states, (-1, 100)).mean(0))
    assert sum(asked(gas, "density")) == pytest.approx(sum(content["profiles"][0]["density"]), abs=1e-11)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert asked(gas, "time") == pytest.approx(played + 16)  # a second of the pace
    assert f"time {played + 16:.1f}" in gas.locator("[aria-live]").inner_text()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert focused(page) == "Reset" and asked(gas, "time") == 0 and asked(gas, "states") == begun
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert gas.locator("input[type=range]").get_attribute("aria-valuetext") == "time 64 a second"


def test_gas_stops_where_all_is_flat_and_begins_again(gas: Locator) -> None:
    content = asked(gas, "content")
    pressed(gas, content["gases"][2]["label"])
    gas.evaluate("root => root.ibvonns.forward(150)")
    pressed(gas, "Play")
    gas.page.wait_for_function("root => root.ibvonns.over", arg=gas.element_handle())
    gas.get_by_role("button", name="Play").wait_for()
    assert gas.locator("[aria-live]").inner_text().startswith("The profile is flat.")
    assert sum(asked(gas, "density")) == pytest.approx(sum(content["profiles"][0]["density"]), abs=1e-11)
    pressed(gas, "Play")
    assert asked(gas, "time") < 100
    pressed(gas, "Pause")
