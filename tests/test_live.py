"""The live panels in the built page, in a real browser: the law that they run is the library's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM
from live_paths import assert_same_path
from playwright.sync_api import Browser, Locator, Page

from ibvonns.systems.chain import LENGTHS
from ibvonns.systems.trap import VELOCITIES

HTML = Path(__file__).parents[1] / "_build" / "html"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine"),
    pytest.mark.skipif(not HTML.exists(), reason="the book is not built: run `make html`"),
]
CHAPTERS = {"trap": "03_learning_the_trap", "chain": "05_chain_gmm"}


@pytest.fixture(scope="module", params=CHAPTERS)
def panel(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Locator]:
    """Each of the two panels in its page, opened from disk."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.set_default_timeout(60_000)
    page.emulate_media(reduced_motion="reduce")  # nothing plays by itself
    page.goto((HTML / "notebooks" / f"{CHAPTERS[request.param]}.html").as_uri())
    yield page.locator(".ibv-panel")
    page.close()


def asked(panel: Locator, what: str) -> Any:
    """What the panel's script says of itself."""
    return panel.evaluate(f"root => root.ibvonns.{what}")


def pressed(panel: Locator, label: str) -> None:
    """Press a button by its words."""
    panel.get_by_role("button", name=label, exact=True).click()


def test_each_protocol_of_the_paper_takes_the_path_that_python_predicts(panel: Locator) -> None:
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
    assert taken == paper


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
    page.keyboard.press("Enter")  # the paper's other protocol
    assert asked(panel, "values") == content["protocols"][1]["values"]
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
