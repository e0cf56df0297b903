"""Frames a second of the live panels, in headless Chromium: `python book/frame_rate.py`."""

from pathlib import Path

from chromium import CHROMIUM, QUIET
from playwright.sync_api import sync_playwright

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
# of each chapter's panel: what moves, by its name in the content, and when it has moved enough
CHAPTERS = {
    "05_learning_the_trap": ("particles", "step === 300"),
    "08_chain_gmm": ("particles", "step === 300"),
    "11_lattice_gas": ("runs", "time > 64"),
}


def rate(page_of: str) -> tuple[int, float]:
    """Particles (of the chain: chains; of the gas: runs) and frames a second over one whole protocol."""
    moving, ended = CHAPTERS[page_of]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto((HTML / "notebooks" / f"{page_of}.html").as_uri())
        panel = page.locator(".ibv-panel")
        panel.scroll_into_view_if_needed()
        count = """() => { let n = 0; const first = performance.now();
            const tick = () => { n += 1; requestAnimationFrame(tick); };
            requestAnimationFrame(tick);
            window.rate = () => 1000 * n / (performance.now() - first); }"""
        panel.get_by_role("button", name="Play").click()
        page.evaluate(count)
        page.wait_for_function(f"root => root.ibvonns.{ended}", arg=panel.element_handle(), timeout=60_000)
        frames = float(page.evaluate("window.rate()"))
        particles = int(panel.evaluate(f"root => root.ibvonns.content.{moving}"))
        browser.close()
    return particles, frames


if __name__ == "__main__":
    for chapter in CHAPTERS:
        particles, frames = rate(chapter)
        print(f"{chapter}: {particles} {CHAPTERS[chapter][0]}, {frames:.0f} frames a second")
