"""How many internal variables: false alarms as often as is said, real ones found, and the smallest number taken."""

from typing import Any

import pytest
import torch
from toys import architecture_of, frozen, seen_of

from ibvonns import selection
from ibvonns.answers import equilibrium
from ibvonns.ensemble import Ensemble
from ibvonns.layouts import Point
from ibvonns.model import Architecture
from ibvonns.observations import Observations, observe
from ibvonns.recipe import Phase, Recipe, Stage
from ibvonns.seeds import Fit, Score
from ibvonns.selection import Choice, Sufficiency, _from_rest, _tested, choose, shape_of, sufficiency
from ibvonns.systems.trap import Trap

TIMES, SITES = 400, 3


def drawn(seed: int, told: float) -> tuple[float, float]:
    """p and share where the law misses a cubic of the state, noise that sites share, and something of the news."""
    rng = torch.Generator().manual_seed(seed)
    state, news = (torch.randn(TIMES, SITES, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    news = news + 0.3 * state**2  # the others go with the state, as a variance does
    noise = torch.randn(TIMES, SITES + 1, 1, generator=rng, dtype=torch.float64)
    noise = (noise[:, :-1] + noise[:, 1:]) * (1 + state[..., :1].abs())
    return _tested(state, 0.2 * state[..., :1] ** 3 - 0.1 * state[..., 1:] + noise + told * news[..., :1], news)


def test_false_alarms_are_as_frequent_as_the_level_says() -> None:
    p = torch.tensor([drawn(seed, 0.0)[0] for seed in range(300)])
    assert 0.02 <= float((p < 0.05).double().mean()) <= 0.08
    assert 0.4 <= float(p.mean()) <= 0.6


def test_what_the_state_left_out_is_found() -> None:
    """The negative control: the test must fail where it should."""
    p = torch.tensor([drawn(seed, 0.3)[0] for seed in range(50)])
    assert float((p < 0.05).double().mean()) > 0.9
    shares = [drawn(seed, 5.0)[1] for seed in range(10)]
    assert all(0.7 < share < 1 for share in shares)


def test_shape_of_a_gaussian_is_its_variance() -> None:
    x = torch.randn(1, 2, 40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = observe(Ensemble(torch.tensor([0.0, 1.0]), 0.5 * x), spacing=1.0)
    found = shape_of(seen)[0, 0, 0]
    assert found.tolist() == pytest.approx([2 * torch.tensor(0.5).log().item(), 0.0, 3.0], abs=0.08)


@pytest.mark.parametrize("kind", ["point", "row"])
def test_each_replica_has_a_chance_and_a_share(kind: str) -> None:
    model, seen = frozen(kind, (0, 1)), seen_of(kind)
    others = torch.randn(*seen.mean.shape[:3], 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = sufficiency(model, seen, others)
    assert found.p.shape == found.share.shape == (2,)
    assert (found.p >= 0).all() and (found.p <= 1).all() and (found.share >= 0).all() and (found.share < 0.5).all()


def chosen(numbers: tuple[int, ...] = (2, 1)) -> Choice:
    """A short training on a trap."""
    trap, speeds = Trap(), (0.5, 0.7, 0.9)
    data, unseen = (
        observe(trap.simulate_paper(velocities=speeds, realisations=200, seed=seed), "pulled_length", points=257)
        for seed in (0, 1)
    )
    short = Recipe((Stage((Phase(0, 60), Phase(1, 60)), {"density": 0.01, "internal": 1.0, "end": 100.0}),), attempts=0)
    return choose(data, unseen, Architecture(Point(), decoder="gaussian"), numbers=numbers, seeds=(0, 1), recipe=short)


def test_every_number_is_fitted_and_tested_on_what_it_has_not_seen() -> None:
    found = chosen()
    assert list(found.fits) == list(found.errors) == list(found.tests) == [1, 2]
    assert all(each.model.architecture.internal == number for number, each in found.fits.items())
    lines = str(found).splitlines()
    assert len(lines) == 2 and lines[found.number - 1].endswith("<- enough") and "enough" not in lines[2 - found.number]


def told(
    kind: str, errors: tuple[float, ...], noise: float, numbers: tuple[int, ...], patch: pytest.MonkeyPatch
) -> tuple[Choice, list[tuple[int, bool]]]:
    """What is chosen where the fits, one after another, have these errors; and which were asked for."""
    left, asked = iter(errors), list[tuple[int, bool]]()

    def fitted(architecture: Architecture, data: Observations, *_: Any, **__: Any) -> Fit:
        asked.append((architecture.internal, architecture.anchored))
        return Fit(frozen(kind, internal=architecture.internal), data, {}, [0, 0], {})

    patch.setattr(selection, "fitted", fitted)
    patch.setattr(selection, "scores", lambda *_: {"force": Score((next(left),) * 2, noise)})
    patch.setattr(selection, "_nats", lambda *_: (0.0, 0.0))
    return choose(seen_of(kind), seen_of(kind), architecture_of(kind), numbers), asked


@pytest.mark.parametrize(
    ("errors", "noise", "number", "tried"),
    [
        ((5.0, 1.1, 1.0), 0.1, 2, 3),
        ((1.2, 1.0), 0.1, 1, 2),  # once more does not help, larger ones are not tried
        ((5.0, 2.0, 1.0), 0.1, 3, 3),
        ((5.0, 2.0, 1.0), 6.0, 1, 3),
    ],
)
def test_the_smallest_number_that_does_as_well_is_taken(
    errors: tuple[float, ...], noise: float, number: int, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, asked = told("row", errors, noise, (3, 1, 2), monkeypatch)
    assert found.number == number and list(found.fits) == [1, 2, 3][:tried]
    assert asked == [(n, False) for n in (1, 2, 3)[:tried]]


@pytest.mark.parametrize("errors", [(5.0, 3.0, 1.0), (5.0, 1.0, 3.0)])
def test_at_a_point_several_variables_are_tried_anchored_too(
    errors: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, asked = told("point", errors, 0.01, (1, 2), monkeypatch)
    assert asked == [(1, False), (2, False), (2, True)]
    assert found.errors == {1: (5.0, 5.0), 2: (1.0, 1.0)} and found.number == 2


def test_a_state_that_the_test_refuses_is_not_enough_if_the_next_does_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    for p, number in (((0.2, 0.2), 1), ((1e-4, 0.2), 2), ((1e-4, 1e-4), 1)):
        chances = iter(p)
        monkeypatch.setattr(
            selection, "sufficiency", lambda *_, left=chances: Sufficiency(*torch.full((2, 2), next(left)).double())
        )
        assert told("row", (1.0, 1.0), 0.1, (1, 2), monkeypatch)[0].number == number


def test_where_data_begin_at_rest_a_laws_own_equilibrium_counts() -> None:
    model, data = frozen("point", (0, 1)), seen_of("point")
    found = _from_rest(model, data)
    begun = equilibrium(model, data.field[:, 0, 0])[..., 1:]
    force = model.predict(data, alpha=begun).force
    assert force is not None and data.force is not None
    assert found == pytest.approx([100 * float((each - data.force).norm() / data.force.norm()) for each in force])
