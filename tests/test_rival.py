"""Two laws beside the same chains in a browser: a panel of untrained ones, with no book around it."""

import json
from collections.abc import Iterator

import pytest
from chromium import CHROMIUM
from playwright.sync_api import Browser, Locator
from test_panels import OWN, rivals_of

from ibvonns.show.widgets import LIVE
from ibvonns.show.widgets import script as module

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine")


@pytest.fixture(scope="module")
def panel(browser: Browser) -> Iterator[Locator]:
    """The panel, which must not fail on the way."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.emulate_media(reduced_motion="reduce")
    script = module("panel").replace("export default", "const shown =")
    start = f"shown.render({{model: {{get: () => ({json.dumps(rivals_of(2, True))})}}, el: document.body}});"
    style = (LIVE / "live.css").read_text(encoding="utf-8")
    page.set_content(f"<meta charset=utf-8><style>{style}</style><body></body>")
    page.add_script_tag(content=f"{script}\n{start}", type="module")
    yield page.locator(".ibv-panel")
    page.close()
    assert not failed


def played(panel: Locator, until: int) -> None:
    """Press play, and pause from a step on."""
    panel.get_by_role("button", name="Play", exact=True).click()
    panel.page.wait_for_function(f"root => root.ibvonns.step >= {until}", arg=panel.element_handle())
    panel.get_by_role("button", name="Pause", exact=True).click()


def test_key_and_plots_tell_the_two_laws_apart(panel: Locator) -> None:
    words = "\u2014 new law \u00a0 - - law of chapter 9 \u00a0 \u25cb particles"
    assert panel.locator(".ibv-key").inner_text().startswith(words)
    titles = panel.locator("figure p").all_inner_texts()
    assert "force F against pull \u03bb" in titles and "internal variables \u03b1\u2081" in titles
    panel.locator("summary").click()
    told = panel.locator("details").inner_text()
    assert "Dashed: law of chapter 9" in told and "density" not in told


def test_both_laws_follow_a_given_protocol(panel: Locator) -> None:
    for label in OWN:
        panel.get_by_role("button", name=label, exact=True).click()
        paths, step = panel.evaluate("r => [r.ibvonns.records.map((each) => each.force), r.ibvonns.step]")
        assert [len(path) for path in paths] == [301, 301] and paths[0] != paths[1] and step == 0
    played(panel, 20)
    seen, lengths = panel.evaluate("r => [r.ibvonns.seen, r.ibvonns.lengths]")
    assert len(seen) > 2 and len(lengths) == 301


def test_hand_pulls_from_any_first_length_no_faster_than_the_protocols(panel: Locator) -> None:
    panel.get_by_role("button", name="By hand", exact=True).click()
    values = panel.evaluate("r => r.ibvonns.values")
    assert values == sorted({each["values"][0] for each in rivals_of(2, True)["protocols"]})
    panel.get_by_label("first length").fill("1")
    means = panel.evaluate("r => r.ibvonns.records.map((each) => each.mean[0][0])")
    assert means == pytest.approx(2 * [values[1] / 0.1 - 1])
    panel.get_by_label("first length").fill("0")
    end = panel.get_by_label("pulled end", exact=True)
    end.evaluate("e => { e.value = e.min; }")
    played(panel, 150)
    lengths, step = panel.evaluate("r => [r.ibvonns.lengths, r.ibvonns.step]")
    moves = [abs(after - before) for before, after in zip(lengths[:step], lengths[1 : step + 1], strict=True)]
    paths = [each["lengths"] for each in rivals_of(2, True)["protocols"]]
    fastest = max(abs(after - before) for path in paths for before, after in zip(path, path[1:], strict=False))
    assert 0 < max(moves) <= fastest * (1 + 1e-9)
    assert values[0] + min(lengths) >= 0.05 - 1e-12  # not pushed to nothing
