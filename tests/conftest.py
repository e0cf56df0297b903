"""One profile for all tests: the same draws on every machine, no clock, one thread; tiny data."""

from collections.abc import Iterator

import pytest
import torch
from chromium import CHROMIUM, QUIET
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright

from ibvonns.ensemble import Ensemble
from ibvonns.model import Observations, observe
from ibvonns.systems.trap import Trap
from ibvonns.training import Phase, Recipe

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
    return Trap().simulate_paper(velocities=(0.5, 1.0), realisations=200)


@pytest.fixture(scope="session")
def seen(few: Ensemble) -> Observations:
    """What training sees of `few`."""
    return observe(few, points=64)


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """A recipe of 50 steps that has every kind of phase."""
    phases = (Phase(0, 20), Phase(1, 20, 5), Phase(10, 10, 2))
    return Recipe(phases, 1e-2, (0.01, 30.0, 1.0), checkpoint_every=5)
