"""Addresses of the edition before lead to where the text now is: pages, sections that others named, figures."""

from pathlib import Path

import pytest
from chromium import CHROMIUM
from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
ADDRESSES = (ROOT / "tests" / "addresses.txt").read_text(encoding="utf-8").split()

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine"),
    pytest.mark.skipif(not HTML.exists(), reason="the book is not built: run `make html`"),
]


def test_every_old_address_leads_somewhere(browser: Browser) -> None:
    page, lost = browser.new_page(), []
    page.set_default_timeout(20_000)
    for address in ADDRESSES:
        page.goto("about:blank")  # another place of the same page would not load it anew
        page.goto(f"{HTML.as_uri()}/{address}", wait_until="commit")
        try:
            page.wait_for_function(
                """() => !window.ibvMovedTo && document.readyState !== "loading" && document.querySelector("article h1")
                    && (!location.hash || document.getElementById(decodeURIComponent(location.hash.slice(1))))""",
                timeout=5000,
            )
        except Exception:
            lost.append(f"{address} -> {page.url.removeprefix(HTML.as_uri())}")
            continue
        if "#" in address and "#" not in page.url:
            lost.append(f"{address} -> {page.url}")
    page.close()
    assert lost == []


def test_a_page_that_is_no_more_has_a_link_for_readers_without_scripts(browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{HTML.as_uri()}/notebooks/05_chain_gmm.html")
    page.wait_for_url("**/08_chain_gmm.html")
    context.close()
