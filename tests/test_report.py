"""The page on a law: whole HTML of one file, with all that was asked, whatever the layout."""

import re
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser
from toys import LAYOUTS, few_of, frozen, seen_of

from ibvonns.layouts import Point
from ibvonns.learning import Learned, fit
from ibvonns.model import Architecture, Model
from ibvonns.observations import observe
from ibvonns.recipe import Phase, Recipe, Stage
from ibvonns.seeds import Score, scores
from ibvonns.selection import Choice
from ibvonns.show.report import report

VOID = {"meta", "br", "path", "use"}
UNITS = {"times": "ms", "positions": "nm", "lambda_x": "nm", "F": "pN"}


class Page(HTMLParser):
    """Tags that are closed in order, ids, and the tags by name with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags = list[str](), list[tuple[str, dict[str, str | None]]]()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def learned_of(kind: str) -> Learned:
    """An untrained law on a layout, which runs as any."""
    model, data = frozen(kind), seen_of(kind)
    return Learned(model, data, {}, [0, 0], scores(model, data))


@cache
def named() -> Learned:
    """A law of a trap whose control, force and units have names."""
    few = few_of("point")
    own = {"lambda_x": few.records["pulled_length"], "F": few.records["external_force"]}
    short = Recipe((Stage((Phase(0, 5),), {"density": 1.0}),), attempts=0)
    return fit(replace(few, records=own, units=UNITS), None, "lambda_x", "F", recipe=short, temperature=0.02)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_page_is_whole_and_asks_for_nothing(kind: str) -> None:
    text = learned_of(kind).report()
    page = Page(text)
    assert page.open == [] and text.startswith("<!doctype html>")
    assert not re.search(r"https?:|//|@import|url\((?!#)|<script|<link", text)
    ids = [each["id"] for _, each in page.tags if "id" in each]
    assert len(ids) == len(set(ids))
    figures = page.all("svg")
    assert len(figures) == text.count("<figcaption>") == (5 if kind == "plane" else 4)
    labels = [each["aria-label"] or "" for each in figures]
    assert all(each["role"] == "img" for each in figures) and all(len(label) > 20 for label in labels)
    assert len(set(labels)) == len(labels)
    for wanted in ("over time", "against mean and variance", "Free energy f along", "potential phi"):
        assert any(wanted in label for label in labels), wanted
    used = {reference for each in page.all("use") if (reference := each["xlink:href"])}
    assert {each[1:] for each in used} <= set(ids)


def test_names_and_units_are_on_the_axes_and_said() -> None:
    text = named().report()
    for label in ("time [ms]", "F [pN]", "lambda_x [nm]", "mean of positions [nm]", "variance [nm²]",
                  "f of a site [pN nm]", "phi of a site [pN nm/ms]"):  # fmt: skip
        assert f">{label}</text>" in text, label
    assert "kBT</dt><dd>0.02" in text and "has no heat" not in text
    assert "2 conditions, 301 times from 0 to 3 ms, 200 realisations" in text
    assert "the data it was trained on" in text and "of what a step misses, p " in text


def test_what_is_unsound_or_infinite_is_said() -> None:
    found = named()
    odd = replace(found, scores={"force": Score((1.0, float("inf")), 2.0)}, sound=3.0)
    text = odd.report()
    assert "Unsound: seed 1: force inf times" in text and "<td>–</td>" in text and "Unsound: seed 0" not in text
    good = replace(found, scores={"force": Score((1.0, 1.0), 2.0)}, sound=3.0)
    assert "all are sound" in good.report()


def test_unseen_observations_are_tested_and_named() -> None:
    few = few_of("point").select(slice(1))
    found = named()
    text = report(found, unseen=observe(few, "pulled_length", points=81))
    assert "observations that training has not seen" in text and "force (unseen)" in text


def test_what_data_leave_open_is_said() -> None:
    """Without a measured force neither f nor phi is drawn."""
    data = replace(seen_of("point"), force=None)
    model = Model([0], Architecture(Point(), decoder="gaussian"))
    model.set_scales(data)
    model.freeze(data)
    text = Learned(model, data, {}, [0], scores(model, data)).report()
    assert "any function of the controls may be added to f" in text and "no heat" in text and "One seed alone" in text
    assert text.count("<figure>") == 2 and "saved law beside" in text


def test_a_choice_is_told_and_a_seed_that_ran_away_is_drawn() -> None:
    found = learned_of("row")
    choice = Choice(1, {}, {1: (2.0, 3.0)}, 1.0, {1: (0.5, 0.6)}, {})
    with torch.no_grad():
        next(found.model.law.dissipation_network.parameters())[1] = 1e6
        next(found.model.law.energy_network.parameters())[1] = 1e6
    text = replace(found, choice=choice).report()
    assert "1 internal: unseen 2.5 % [2, 3]" in text and "&lt;- enough" in text and text.count("<figure>") == 4


def test_the_page_is_the_same_each_time_and_written_whole(tmp_path: Path) -> None:
    found, path = named(), tmp_path / "deep" / "report.html"
    text = found.report(path)
    assert path.read_text(encoding="utf-8") == text == found.report()
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_names_are_escaped() -> None:
    found = named()
    few = replace(found.model.architecture, controls=("<b>&",), forces=("$F$",), units={})
    model = Model([0, 1], few)
    model.load_state_dict(found.model.state_dict())
    text = replace(found, model=model).report()
    assert "<b>" not in text and "&lt;b&gt;&amp;" in text and ">$F$</text>" in text


def test_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = named()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "ibvonns\[plots\]"'):
        found.report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_does_not_scroll_and_follows_the_mode(tmp_path: Path, browser: Browser, scheme: str) -> None:
    named().report(tmp_path / "report.html")
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    tab, asked = context.new_page(), list[str]()
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((tmp_path / "report.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390 and len(asked) == 1
    paper, ink = (tab.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (paper, ink)]
    assert (light[0] > light[1]) == (scheme == "light")
    text = tab.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert text == ink
    context.close()
