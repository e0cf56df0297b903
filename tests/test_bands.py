"""Bands: they hold what they say of what no law has seen, open where laws differ, and say where no data are."""

from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch

from ibvonns import Architecture, Ensemble, Phase, Recipe, Stage, banded, observe
from ibvonns.bands import Banded, _calibrated, student
from ibvonns.layouts import Point, Ring, Row
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap

SHORT = Recipe((Stage((Phase(0, 20), Phase(1, 40)), {"density": 0.01, "internal": 1.0, "end": 100.0}),), attempts=0)
HOW: Any = {"resamples": 6, "recipe": SHORT, "decoder": "gaussian", "steps": "euler"}


def pulls(seed: int = 0, conditions: int = 6) -> Ensemble:
    """The trap under several pulls."""
    speeds = tuple(np.linspace(0.4, 1.2, conditions).tolist())
    return Trap().simulate_paper(velocities=speeds, realisations=40, seed=seed)


@cache
def made() -> Banded:
    """Six laws that have hardly been trained."""
    return banded(pulls(), "pulled_length", "external_force", **HOW)


def test_every_condition_is_unknown_to_a_third_of_the_laws() -> None:
    found, rows = made(), observe(pulls(), "pulled_length").field
    known = torch.tensor([[bool((law.data.field == row).all((1, 2, 3)).any()) for row in rows] for law in found.laws])
    assert known.sum(0).tolist() == [4] * 6 and known.sum(1).tolist() == [4] * 6
    assert known[:3].sum(0).tolist() == [2] * 6  # each hand is dealt whole


def test_bands_have_the_laws_scatter_and_open_by_their_factors() -> None:
    few, found = pulls(), made()
    assert [law.model.seeds for law in found.laws] == [[n] for n in range(6)]
    asked = few.times, {"pulled_length": few.records["pulled_length"]}
    answer, each = found.predict(*asked), [law.predict(*asked) for law in found.laws]
    ((name, force),) = answer.force.items()
    factor, usual = found.factors[name], found.usual[name]
    laws = np.concatenate([one.force[name].values for one in each])
    assert np.allclose(force.mean, laws.mean(0)) and (1 / 0.6) ** 0.5 <= factor <= 20
    # Student's by four times five degrees: half of the variance is well known, but where laws scatter more
    scatter = laws.var(0, ddof=1)
    scale = np.sqrt(np.maximum(scatter, (scatter + usual) / 2))
    assert np.allclose(force.high - force.mean, 1.7247 * factor * scale, rtol=1e-3)
    assert np.allclose(force.high + force.low, 2 * force.mean)
    assert (answer.work.low <= answer.work.mean).all() and answer.work.mean.shape == force.mean.shape
    work = found.ask(lambda law: law.predict(*asked).work.values)
    assert np.allclose(work.low, answer.work.low) and answer.field is None
    assert answer.alpha.mean.shape == (6, 301, 1, 1)


def test_alpha_is_compared_in_one_gauge() -> None:
    """A law whose alpha runs the other way, three times as far, answers what it did."""
    few, found = pulls(), made()
    asked = few.times, {"pulled_length": few.records["pulled_length"]}
    before = found.predict(*asked).alpha
    law = found.laws[1].model.encoder
    law.offset.sub_(law.scale / 3)
    law.scale.div_(-3)  # alpha -> -3 alpha - 1
    try:
        answers = [one.predict(*asked) for one in found.laws]
        answers[1].alpha.values[:] = -3 * found.laws[1].predict(*asked).alpha.values - 1
        turned = found._aligned([replace(each) for each in answers])
    finally:
        law.scale.mul_(-3)
        law.offset.add_(law.scale / 3)
    assert np.allclose(np.concatenate(turned).mean(0), before.mean, atol=1e-2)


def test_students_quantile() -> None:
    for number, known in ((6, 2.0150), (9, 1.8595), (30, 1.6991)):
        assert abs(student(0.9, number - 1) - known) < 2e-3


def test_no_band_is_narrower_than_its_scatter_beyond_the_data() -> None:
    few = pulls()
    narrow = replace(made(), factors={"external_force": 0.5})
    asked = few.times, {"pulled_length": 9.0 * few.records["pulled_length"][:1]}
    first: dict[str, Any] = {"start": few.select(torch.tensor([0]))}
    (own,), (wide,) = (
        each.predict(*asked, **first).force.values()
        for each in (narrow, replace(narrow, factors={"external_force": 1.0}))
    )
    gone = made().predict(*asked, **first).outside
    ratio = (own.high - own.mean) / (wide.high - wide.mean)
    assert gone.any() and np.allclose(ratio, np.where(gone, 1.0, 0.5))


def test_what_leaves_the_data_is_said_to_be_outside() -> None:
    few = pulls()
    first = {"start": few.select(torch.tensor([0]))}
    near, far = (
        made().predict(few.times, {"pulled_length": by * few.records["pulled_length"][:1]}, **first).outside
        for by in (1.0, 9.0)
    )
    assert not near[:, :5].any() and far[:, -1].all()
    assert (np.diff(far.astype(int)) >= 0).all()  # what follows remembers it


def test_what_is_faster_than_all_data_is_said_to_be_outside() -> None:
    few = pulls()
    path, speed = few.records["pulled_length"], few.records["pulled_length"].diff(dim=1).abs().max()
    kept = path[:1].clone()
    kept[:, 3:] = kept[:, 2:3] + 1.2 * speed * (torch.arange(path.shape[1] - 3) % 2)  # to and fro, within their range
    assert path.min() <= kept.min() and kept.max() <= path.max()
    gone = made().predict(few.times, {"pulled_length": kept}, start=few.select(torch.tensor([0]))).outside
    assert not gone[:, :4].any() and gone[:, 4:].all()


class _Answering:
    """A law, and its model, that answers what it is told."""

    def __init__(self, force: torch.Tensor) -> None:
        self.force, self.model, self.law, self.architecture = (
            force,
            self,
            self,
            Architecture(Point(), decoder="gaussian"),
        )
        self.layout = Point()

    def predict(self, *_: Any) -> "_Answering":
        return self


@pytest.mark.parametrize("wide", [0.5, 1.0, 3.0])
def test_factors_make_bands_hold_their_share(wide: float) -> None:
    """Laws that scatter so many times less than they are wrong need bands as many times wider."""
    data, rng = observe(pulls(conditions=21), "pulled_length", "external_force"), torch.Generator().manual_seed(0)
    force = cast(torch.Tensor, data.force)

    def noise() -> torch.Tensor:
        return 0.3 * torch.randn(force.shape, generator=rng, dtype=torch.float64)

    wrong = force + wide * noise()
    laws: Any = [_Answering((wrong + noise())[None]) for _ in range(30)]
    factors, usual = _calibrated(laws, data, torch.ones(30, 21, dtype=torch.bool), 0.9)
    (factor,) = factors.values()
    assert 0.85 * wide < factor < max(1.01, 1.2 * wide) and abs(usual["force"] - 0.09) < 0.01


def test_bad_input_is_refused() -> None:
    how: dict[str, Any]
    for how, sentence in (
        ({"resamples": 3}, "resamples must be a whole number of at least 6"),
        ({"resamples": 8}, "resamples must be a multiple of 3, but are 8"),
        ({"share": 1.0}, "share must be below 1"),
        ({"share": 0.0}, "share must be"),
    ):
        with pytest.raises(ValueError, match=f"^{sentence}"):
            banded(pulls(), "pulled_length", "external_force", **{**HOW, **how})
    with pytest.raises(ValueError, match="^forces must name at least 1"):
        banded(pulls(), "pulled_length", (), **HOW)
    six, eight = pulls(), pulls(conditions=8)
    for ensemble, how, sentence in (
        (pulls(conditions=2), {}, "ensemble must hold at least 6 conditions, but holds 2"),
        ([], {}, "ensemble must be one, or its parts"),
        (observe(six, "pulled_length"), {}, "ensemble must be one, or its parts"),
        ([six, eight], {}, "parts of an ensemble must have the same conditions"),
        (six, {"seeds": 2}, "seeds must not be given"),
        (six, {"layout": Ring()}, "layout must be a Point or a Row, but is Ring"),
    ):
        with pytest.raises(ValueError, match=f"^{sentence}"):
            banded(cast(Any, ensemble), "pulled_length", "external_force", **{**HOW, **how})
    bare = Ensemble(six.times, six.realisations, {"pulled_length": six.records["pulled_length"]})
    with pytest.raises(ValueError, match="^ensemble must hold"):
        banded(bare, "pulled_length", "external_force", **HOW)


def test_a_row_has_bands_of_its_strains() -> None:
    chain, times = Chain(springs=3), torch.linspace(0, 0.2, 21, dtype=torch.float64)
    ends = 0.03 + torch.linspace(0.02, 0.07, 6, dtype=torch.float64)[:, None] * times / 0.2
    few = chain.simulate(ends, times, 50, torch.Generator().manual_seed(0))
    weights = {"density": 1.0, "field": 1.0, "internal": 1.0, "end": 1.0}
    short = Recipe((Stage((Phase(0, 5), Phase(1, 5, 2)), weights),), attempts=0)
    records = {"external_force": few.records["external_force"]}  # and no velocity
    bare = Ensemble(few.times, few.realisations, records, units={"times": "s"})
    found = banded(bare, layout=Row(), spacing=chain.natural_length, recipe=short, steps="euler", check=False)
    assert found.laws[5].model.architecture.units == {"times": "s"}
    assert found.factors.keys() == {"external_force", "field"}
    start = observe(few, spacing=chain.natural_length)
    bands = found.predict(times, {"length": ends - 0.03}, start=start)
    assert bands.field is not None and bands.field.mean.shape == (6, 21, 3)
    assert bool((bands.field.low <= bands.field.high).all()) and bands.outside.shape == (6, 21)
    longer = 0.07 * torch.linspace(0, 1, 21, dtype=torch.float64).expand(6, -1)  # the pull of the last condition
    beyond = found.predict(times, {"length": 1.2 * longer}, start=start).outside
    assert not bands.outside.all() and beyond[:, -1].all()  # longer and faster than any of the data
    given = found.predict(times, {"force": few.records["external_force"]}, start=start)
    assert given.field is not None and bool((given.field.high > given.field.low).any())
    assert np.array_equal(given.force["external_force"].low, given.force["external_force"].high)  # all know it
