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
        variance = forces.var(0, ddof=1)
        wide = np.sqrt(np.maximum(variance, (variance + told["usual"]) / 2))
        wide *= np.where(band["outside"], told["beyond"], told["reach"])
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
    for label, way in (("Play", "Tab"), ("By hand", "Shift+Tab")):  # it lies after the plots, and the modes before them
        while focused(page) != label:
            page.keyboard.press(way)
        if label == "Play":
            page.keyboard.press("Enter")
            page.wait_for_function("root => root.ibvonns.step > 3", arg=panel.element_handle())
            page.keyboard.press("Enter")
            assert focused(page) == "Play"  # it pauses
    page.keyboard.press("Enter")
    while focused(page) != "Play":
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
    pressed(panel, "Draw")
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


def mode_of(panel: Locator) -> list[str]:
    """The pressed buttons."""
    return panel.locator('button[aria-pressed="true"]').all_inner_texts()


@pytest.mark.parametrize("chapter", [*CHAPTERS.values(), "11_lattice_gas"])
def test_a_swipe_over_a_plot_scrolls_the_page_and_changes_no_mode(browser: Browser, chapter: str) -> None:
    """On a phone, in every mode, but over the protocol in Draw, where it draws; and Play is seen beside each plot."""
    size: Any = {"width": 390, "height": 844}
    context = browser.new_context(viewport=size, has_touch=True, is_mobile=True, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto((HTML / "notebooks" / f"{chapter}.html").as_uri())
    panel, cdp = page.locator(".ibv-panel"), context.new_cdp_session(page)
    modes = mode_of(panel) if chapter.startswith("11") else [mode_of(panel)[0], "Draw", "By hand"]
    for mode in modes:
        pressed(panel, mode)
        before = mode_of(panel), panel.evaluate("root => root.ibvonns.lengths?.join()")
        for number, area in enumerate(panel.locator(".ibv-area").all()):
            area.evaluate("e => e.scrollIntoView({block: 'center', behavior: 'instant'})")
            box, play = area.bounding_box(), panel.get_by_role("button", name="Play", exact=True).bounding_box()
            assert box and play and 0 <= play["y"] and play["y"] + play["height"] <= size["height"]
            from_top = page.evaluate("scrollY")
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            for step in range(14):
                points = [] if step == 13 else [{"x": x, "y": y - 10 * step}]
                kind = "touchEnd" if step == 13 else "touchMove" if step else "touchStart"
                cdp.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            page.wait_for_timeout(200)
            moved = page.evaluate("scrollY") - from_top
            after = mode_of(panel), panel.evaluate("root => root.ibvonns.lengths?.join()")
            if mode == "Draw" and number == 1:  # the first plot but the picture of the thing
                assert moved == 0 and after[0] == before[0] and after[1] != before[1]
                before = after
            else:
                assert moved > 60 and after == before, (mode, number)
    context.close()


def test_by_hand_a_drag_moves_the_end(panel: Locator) -> None:
    """Along the picture of the thing; over the protocol, too, where the pointer is a mouse; and no mode changes."""
    pressed(panel, "By hand")
    page, hand = panel.page, panel.get_by_label("pulled end", exact=True)
    for number, (right, up) in enumerate(((60, 0), (0, 30))):
        hand.fill("0")
        area = panel.locator(".ibv-area").nth(number)
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + right, y - up, steps=4)
        page.mouse.up()
        assert float(hand.input_value()) > 0 and mode_of(panel) == ["By hand"]
    # in other modes a drag does nothing
    pressed(panel, asked(panel, "content")["protocols"][0]["label"])
    before, modes = asked(panel, "lengths"), mode_of(panel)
    page.mouse.down()
    page.mouse.move(x, y - 50, steps=4)
    page.mouse.up()
    assert asked(panel, "lengths") == before and mode_of(panel) == modes


def test_the_hand_is_smoothed(panel: Locator) -> None:
    """A jump of the hand is no jump of the velocity: that takes some 0.05 time units. The end stops there."""
    pressed(panel, "By hand")
    panel.get_by_label("pulled end", exact=True).evaluate("e => { e.value = 0.4 * e.max; }")
    end = float(panel.get_by_label("pulled end", exact=True).input_value())
    panel.evaluate("root => { for (let n = 0; n < 150; n++) root.ibvonns.advance(); }")
    lengths = np.array(asked(panel, "lengths"))[:151]
    speed = np.diff(lengths)
    assert 0 <= lengths.min() and lengths.max() <= end * (1 + 1e-9) and lengths[-1] > 0.5 * end
    assert np.abs(np.diff(np.concatenate([[0], speed]))).max() <= 0.2 * speed.max() / (1 - 0.8**5)
    assert np.argmax(speed) >= 4


# Walks to the end of what is shown; gives steps at which a particle, or a mean of them, lies outside of its plot.
WALK = """root => {
    const panel = root.ibvonns, across = panel.content.kind === "trap" ? "x" : "y", lost = [];
    const inside = (v, [low, high]) => v >= low && v <= high;
    for (;;) {
        if (!panel.ends.every((end) => inside(end, panel.plots.cloud[across]))) lost.push([panel.step, "particles"]);
        const seen = panel.seen[panel.seen.length - 1];
        for (const name of ["mean", "alpha", "force", "dissipation"]) {
            const values = [seen[name] ?? []].flat();
            if (!values.every((v) => inside(v, panel.plots[name].y))) lost.push([panel.step, name]);
        }
        if (panel.step === 300) return lost;
        panel.advance();
    }
}"""


def drawn(panel: Locator, number: int) -> Iterator[list[float]]:
    """Knots of random protocols over the whole axis."""
    low, high = asked(panel, "content.axes.length")
    for knots in np.random.default_rng(22).uniform(low, high, (number, 12)):
        yield [0.0, *knots.tolist()]


def test_particles_stay_in_their_plots(panel: Locator) -> None:
    """At all times of all given protocols, and of twenty that are drawn; the given ones are in the data's range."""
    content = asked(panel, "content")
    badge = panel.locator(".ibv-badge")
    for protocol in content["protocols"]:
        pressed(panel, protocol["label"])
        for place in range(len(protocol["values"])):
            if len(protocol["values"]) > 1:
                panel.locator("input[type=range]").first.fill(str(place))
            assert panel.evaluate(WALK) == []
            words = badge.text_content() or ""
            assert content.get("label", "learned") not in words and (words == "" or "rival" in content)
    for knots in drawn(panel, 20):
        panel.evaluate("(root, knots) => root.ibvonns.draw(knots)", knots)
        assert panel.evaluate(WALK) == []


def test_a_protocol_that_leaves_the_data_is_told(panel: Locator) -> None:
    """By the pulled end, from the step at which it does so; then a badge is shown, and lines are pale."""
    badge = panel.locator(".ibv-badge")
    pressed(panel, asked(panel, "content")["protocols"][0]["label"])
    assert not badge.is_visible()
    low, high = asked(panel, "content.axes.length")
    knots = [0.1 * high * min(n / 12, 1) for n in range(7)] + 3 * [high, low]  # gently at first, then far and fast
    panel.evaluate("(root, knots) => root.ibvonns.draw(knots)", knots)
    assert badge.is_visible()
    record, lengths = asked(panel, "record"), np.array(asked(panel, "lengths"))
    content = asked(panel, "content")
    first = asked(panel, "values")[0] if "lengths" in content["protocols"][0] else 0
    low, top = np.array(content["trained"]) - first
    beyond = np.flatnonzero((lengths > top + 0.05 * (top - low)) | (lengths < low - 0.05 * (top - low)))
    assert 50 < record["from"] <= (beyond[0] if len(beyond) else 300)
    assert record["why"] == "pulled end" or record["from"] not in beyond
    assert (badge.text_content() or "").startswith("beyond the data: ")
    assert f"from time {record['from'] / 100:.2f} ({record['why']})" in (badge.text_content() or "")
    alphas = np.array(record["inner"] if "inner" in record else record["alpha"])[: record["from"]]
    reach = np.array(content["law"]["tensors"]["law.reach"])
    wide = (reach[1] - reach[0]) / 2
    if "bands" not in content:
        alphas = alphas.reshape(-1, reach.shape[-1])
        assert (alphas >= reach[0] + 0.45 * wide).all() and (alphas <= reach[1] - 0.45 * wide).all()
    # the line of the force: strong in the data, faint where they are left
    strong, faint = panel.evaluate(
        """root => {
            const {record, plots: {force}} = root.ibvonns, {ctx} = force, ratio = force.canvas.width / force.w;
            const [red, green, blue] = force.colours.law.match(/\\w\\w/g).map((part) => parseInt(part, 16));
            const near = (n) => { // how near to the colour of the law a pixel is that the line covers
                const [x, y] = [force.X(n / 100), force.Y(record.force[n])].map((v) => Math.round(ratio * v));
                const {data} = ctx.getImageData(x - 1, y - 1, 3, 3);
                let best = 765;
                for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 60)
                    best = Math.min(best, Math.abs(data[i] - red) + Math.abs(data[i + 1] - green)
                        + Math.abs(data[i + 2] - blue) + 255 - data[i + 3]);
                return best;
            };
            const middle = (from, to) => { const found = []; for (let n = from; n <= to; n += 3) found.push(near(n));
                return found.sort((a, b) => a - b)[Math.floor(found.length / 2)]; };
            return [middle(6, record.from - 4), middle(record.from + 4, 294)];
        }"""
    )
    assert strong < 90 < faint
    pressed(panel, content["protocols"][0]["label"])
    assert not badge.is_visible()


def test_the_thing_itself_moves(panel: Locator) -> None:
    """It is drawn at once, with no play, and otherwise after some steps; its wall, springs and end are seen."""
    pressed(panel, asked(panel, "content")["protocols"][0]["label"])
    inked = """root => {
        const {canvas, ctx} = root.ibvonns.plots.thing;
        return Array.from(ctx.getImageData(0, 0, canvas.width, canvas.height).data).reduce(
            (all, v, i) => all + (i % 4 === 3 && v > 0 ? 1 : 0), 0);
    }"""
    assert panel.evaluate(inked) > 500
    picture = panel.evaluate("root => root.ibvonns.plots.thing.canvas.toDataURL()")
    pressed(panel, "Play")
    panel.page.wait_for_function("root => root.ibvonns.step > 100", arg=panel.element_handle())
    pressed(panel, "Pause")
    assert panel.evaluate("root => root.ibvonns.plots.thing.canvas.toDataURL()") != picture
    assert panel.locator("canvas").first.get_attribute("aria-label", timeout=1000)


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
