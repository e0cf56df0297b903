"""One profile for all tests: the same draws on every machine, no clock, one thread; tiny data."""

import os
from collections.abc import Iterator

import pytest
import torch
from chromium import CHROMIUM, QUIET
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright
from toys import TINY, few_of

from ibvonns.ensemble import Ensemble
from ibvonns.observations import Observations, observe
from ibvonns.recipe import Recipe

# what programs print is broken at the terminal's width, and coloured as its owner likes it
os.environ |= {"COLUMNS": "80", "MPLBACKEND": "agg", "TERM": "dumb"}
for name in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "CLICOLOR", "CLICOLOR_FORCE"):
    os.environ.pop(name, None)
collect_ignore = ["goldens.py"]  # it made the numbers of an older library, and needs that one
settings.register_profile("laws", deadline=None, derandomize=True, database=None, max_examples=25)
settings.load_profile("laws")
torch.set_num_threads(1)  # two test processes share two cores; sums keep their order


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the pages of a module's tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def few() -> Ensemble:
    """The trap under two pulls, 200 particles each."""
    return few_of("point")


@pytest.fixture(scope="session")
def seen(few: Ensemble) -> Observations:
    """What training sees of `few`."""
    return observe(few, "pulled_length", points=65)


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """A recipe of 50 steps that has every kind of phase."""
    return TINY["point"]
