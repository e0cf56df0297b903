"""Bands: they hold what they say of what no law has seen, open where laws differ, and say where no data are."""

from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch

from ibvonns import Ensemble, Phase, Recipe, Stage, banded, observe
from ibvonns.bands import Banded, _factors
from ibvonns.systems.trap import Trap

SHORT = Recipe((Stage((Phase(0, 20), Phase(1, 40)), {"density": 0.01, "internal": 1.0, "end": 100.0}),), attempts=0)
HOW: Any = {"resamples": 4, "recipe": SHORT, "decoder": "gaussian", "steps": "euler"}


def pulls(seed: int = 0, conditions: int = 5) -> Ensemble:
    """The trap under several pulls."""
    speeds = tuple(np.linspace(0.4, 1.2, conditions).tolist())
    return Trap().simulate_paper(velocities=speeds, realisations=40, seed=seed)


@cache
def made() -> Banded:
    """Four laws that have hardly been trained."""
    return banded(pulls(), "pulled_length", "external_force", **HOW)


def test_bands_have_the_laws_scatter_and_open_by_their_factors() -> None:
    few, found = pulls(), made()
    assert [law.model.seeds for law in found.laws] == [[0], [1], [2], [3]]
    answer = found.predict(few.times, {"pulled_length": few.records["pulled_length"]})
    (name, force), (factor,) = *answer.force.items(), found.factors.values()
    each = [
        law.predict(few.times, {"pulled_length": few.records["pulled_length"]}).force[name].values for law in found.laws
    ]
    laws = np.concatenate(each)
    assert np.allclose(force.mean, laws.mean(0)) and 0 <= factor <= 20
    assert np.allclose(force.high - force.mean, 1.6449 * factor * laws.std(0, ddof=1), rtol=1e-4)
    assert np.allclose(force.high + force.low, 2 * force.mean)
    assert (answer.work.low <= answer.work.mean).all() and answer.work.mean.shape == force.mean.shape


def test_what_leaves_the_data_is_said_to_be_outside() -> None:
    few = pulls()
    near, far = (
        made().predict(few.times, {"pulled_length": by * few.records["pulled_length"][:1]}).outside for by in (1.0, 9.0)
    )
    assert not near[:, :5].any() and far[:, -1].all()


class _Answering:
    """A law, and its model, that answers what it is told."""

    def __init__(self, force: torch.Tensor) -> None:
        self.force, self.model = force, self

    def predict(self, _: Any) -> "_Answering":
        return self


@pytest.mark.parametrize("wide", [0.5, 1.0, 3.0])
def test_factors_make_bands_hold_their_share(wide: float) -> None:
    """Laws that scatter so many times less than they are wrong need bands as many times wider."""
    data, rng = observe(pulls(conditions=20), "pulled_length", "external_force"), torch.Generator().manual_seed(0)
    force = cast(torch.Tensor, data.force)

    def noise() -> torch.Tensor:
        return 0.3 * torch.randn(force.shape, generator=rng, dtype=torch.float64)

    wrong = force + wide * noise()
    laws: Any = [_Answering((wrong + noise())[None]) for _ in range(30)]
    unknown = torch.ones(30, 20, dtype=torch.bool)
    (factor,) = _factors(laws, data, unknown, ["F"], 0.9).values()
    assert 0.9 * wide < factor < max(1.01, 1.2 * wide)


def test_bad_input_is_refused() -> None:
    for how, sentence in (
        ({"resamples": 3}, "resamples must be a whole number of at least 4"),
        ({"share": 1.0}, "share must be below 1"),
        ({"share": 0.0}, "share must be"),
    ):
        with pytest.raises(ValueError, match=f"^{sentence}"):
            banded(pulls(), "pulled_length", "external_force", **{**HOW, **how})
    with pytest.raises(ValueError, match="^forces must name at least 1"):
        banded(pulls(), "pulled_length", (), **HOW)
    with pytest.raises(ValueError, match="^ensemble must hold at least 4 conditions, but holds 2"):
        banded(pulls(conditions=2), "pulled_length", "external_force", **HOW)
