"""The front door: windows as shares of a record, and terms of the loss without weight on what is but noise."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import foreign
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import LAYOUTS

import ibvonns
from ibvonns.layouts import Point
from ibvonns.learning import _begins_at_rest, suited
from ibvonns.recipe import POINT, Recipe


def record(times: int, noise: float = 0.0) -> Any:
    """Observations of so many times, of which only the clock and v_n are asked."""
    rng = torch.Generator().manual_seed(0)
    velocity = torch.sin(torch.linspace(0, 3, times, dtype=torch.float64)).expand(2, -1)
    velocity = velocity + noise * torch.randn(2, times, generator=rng, dtype=torch.float64)
    return SimpleNamespace(
        times=torch.arange(times), velocity=velocity, field=torch.zeros(2, times, 5, 1), rested=False
    )


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_books_recipes_are_left_alone_at_their_301_times(kind: str) -> None:
    recipe = Recipe.of(LAYOUTS[kind], None)
    assert suited(recipe, record(301), LAYOUTS[kind]) == replace(recipe, attempts=2)


@given(st.integers(20, 2000), st.sampled_from(sorted(LAYOUTS)))
def test_windows_fit_records_of_any_length(times: int, kind: str) -> None:
    recipe = Recipe.of(LAYOUTS[kind], None)
    found = suited(recipe, record(times), LAYOUTS[kind])
    assert [stage.steps for stage in found.stages] == [stage.steps for stage in recipe.stages]
    for stage, old in zip(found.stages, recipe.stages, strict=True):
        for phase, before in zip(stage.phases, old.phases, strict=True):
            phase.draw((times - 1) // phase.stride + 1, [0], 0)  # refuses a window that does not fit
            assert replace(phase, window=before.window) == before
            share = before.window * (times - 1) / 300
            assert phase.window == before.window or before.window > 1
            assert before.window < 2 or phase.window in (2, (times - 1) // phase.stride, round(share))


def test_what_is_but_noise_has_its_weight() -> None:
    weights = [
        suited(Recipe.of(LAYOUTS["row"]), record(301, noise), LAYOUTS["row"]).stages[1].weights["end"]
        for noise in (0.0, 0.3, 3.0)
    ]
    assert weights[0] == 30 and weights[0] > weights[1] > weights[2] > 0.5
    assert suited(POINT, record(301, 3.0), LAYOUTS["point"]) == replace(POINT, attempts=2)


@pytest.mark.parametrize("make", [foreign.bead, foreign.breathing])
def test_data_begin_at_rest_until_something_moves(make: Any) -> None:
    data = make(0, realisations=300, conditions=6)
    names = [name for name in data.records if not name.startswith("F")]
    forces = [name for name in data.records if name.startswith("F")]
    seen = ibvonns.observe(ibvonns.from_arrays(data.positions, data.times, data.records, axes=data.axes), names, forces)
    layout = Point(len(names))
    assert _begins_at_rest(seen, layout)
    assert not _begins_at_rest(seen.at(slice(40, None)), layout)
    assert not _begins_at_rest(seen.at(slice(0, 20)), layout)  # too few times to tell
