"""The front door: windows as shares of a record, and a number of variables that is enough."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import LAYOUTS, architecture_of, frozen, seen_of

from ibvonns import selection
from ibvonns.learning import _suited
from ibvonns.recipe import POINT, Recipe
from ibvonns.seeds import Fit, Score
from ibvonns.selection import choose


def record(times: int, noise: float = 0.0) -> Any:
    """Observations of so many times, of which only the clock and v_n are asked."""
    rng = torch.Generator().manual_seed(0)
    velocity = torch.sin(torch.linspace(0, 3, times, dtype=torch.float64)).expand(2, -1)
    velocity = velocity + noise * torch.randn(2, times, generator=rng, dtype=torch.float64)
    return SimpleNamespace(times=torch.arange(times), velocity=velocity)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_books_recipes_are_left_alone_at_their_301_times(kind: str) -> None:
    recipe = Recipe.of(LAYOUTS[kind], None)
    assert _suited(recipe, record(301), LAYOUTS[kind]) == recipe


@given(st.integers(20, 2000), st.sampled_from(sorted(LAYOUTS)))
def test_windows_fit_records_of_any_length(times: int, kind: str) -> None:
    recipe = Recipe.of(LAYOUTS[kind], None)
    found = _suited(recipe, record(times), LAYOUTS[kind])
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
        _suited(Recipe.of(LAYOUTS["row"]), record(301, noise), LAYOUTS["row"]).stages[1].weights["end"]
        for noise in (0.0, 0.3, 3.0)
    ]
    assert weights[0] == 30 and weights[0] > weights[1] > weights[2] > 0.5
    assert _suited(POINT, record(301, 3.0), LAYOUTS["point"]) == POINT


@pytest.mark.parametrize(("errors", "tried"), [((5.0, 1.0, 0.99), [1, 2, 3]), ((1.0, 0.99, 0.1), [1, 2])])
def test_larger_numbers_are_not_tried_where_more_did_not_help(
    errors: tuple[float, ...], tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, kinds = iter(errors), list[tuple[int, bool]]()

    def fitted(architecture: Any, data: Any, *_: Any, **__: Any) -> Fit:
        kinds.append((architecture.internal, architecture.anchored))
        return Fit(frozen("row", internal=architecture.internal), data, {}, [0, 0], {})

    monkeypatch.setattr(selection, "fitted", fitted)
    monkeypatch.setattr(selection, "scores", lambda *_: {"field": Score((next(left),) * 2, 0.01)})
    monkeypatch.setattr(selection, "_nats", lambda *_: (0.0, 0.0))
    found = choose(seen_of("row"), seen_of("row"), architecture_of("row"), numbers=(3, 1, 2))
    assert list(found.fits) == tried and kinds == [(number, False) for number in tried]
    assert found.number == (2 if errors[0] == 5.0 else 1)


def test_at_a_point_several_variables_are_tried_anchored_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds, left = list[tuple[int, bool]](), iter((5.0, 3.0, 1.0))

    def fitted(architecture: Any, data: Any, *_: Any, **__: Any) -> Fit:
        kinds.append((architecture.internal, architecture.anchored))
        return Fit(frozen("point", internal=architecture.internal), data, {}, [0, 0], {})

    monkeypatch.setattr(selection, "fitted", fitted)
    monkeypatch.setattr(selection, "scores", lambda *_: {"force": Score((next(left),) * 2, 0.01)})
    monkeypatch.setattr(selection, "_nats", lambda *_: (0.0, 0.0))
    found = choose(seen_of("point"), seen_of("point"), architecture_of("point"), numbers=(1, 2))
    assert kinds == [(1, False), (2, False), (2, True)]
    assert found.errors == {1: (5.0, 5.0), 2: (1.0, 1.0)} and found.number == 2
