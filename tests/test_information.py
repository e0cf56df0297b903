"""Mutual information: its laws, and that every way to estimate it finds the same."""

from dataclasses import replace
from math import log, sqrt
from pathlib import Path

import pytest
import torch
from experiments import in_small, small, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ibvonns.ensemble import Density
from ibvonns.paper.studies import STUDIES
from ibvonns.systems.trap import Trap, paper_times
from ibvonns_book import information as module
from ibvonns_book.information import (
    decoded_information,
    exact_information,
    information,
    neighbour_information,
    pooled_entropy,
    spacing_information,
    trained_without_density,
    without_density,
)


def channel(correlation: float, pairs: int = 2000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A Gaussian z and what a noisy channel makes of it; I = -log(1 - correlation^2) / 2."""
    rng = torch.Generator().manual_seed(seed)
    z, noise = torch.randn(2, pairs, generator=rng, dtype=torch.float64)
    return correlation * z + sqrt(1 - correlation**2) * noise, z


@settings(max_examples=8, deadline=None)
@given(st.floats(0.0, 0.95), st.integers(0, 1000))
def test_neighbours_find_what_a_gaussian_channel_transmits(correlation: float, seed: int) -> None:
    x, z = channel(correlation, seed=seed)
    assert abs(neighbour_information(x, z[:, None]) + log(1 - correlation**2) / 2) < 0.12


def test_neighbours_know_no_monotone_map() -> None:
    x, z = channel(0.8)
    expected = neighbour_information(x, z[:, None])
    assert neighbour_information(x, (z.exp() - 3 * (-z).exp())[:, None]) == expected
    assert neighbour_information(x**3, -z[:, None]) == pytest.approx(expected, abs=2e-3)  # ties by rounding


def test_a_variable_that_tells_nothing_adds_nothing() -> None:
    x, z = channel(0.8)
    other = channel(0.0, seed=1)[0]
    alone = neighbour_information(x, z[:, None])
    assert abs(neighbour_information(x, torch.stack([z, other], 1)) - alone) < 0.1
    assert abs(neighbour_information(x, other[:, None])) < 0.05


@pytest.mark.parametrize("bad", ["nan", "few", "twice", "shape"])
def test_bad_pairs_are_refused(bad: str) -> None:
    x, z = channel(0.5, 20)
    z = z[:, None]
    if bad == "nan":
        x[0] = torch.nan
    elif bad == "few":
        x, z = x[:5], z[:5]
    elif bad == "twice":
        z = torch.ones_like(z)
    else:
        z = z[:-1]
    with pytest.raises(ValueError, match="x|z|pairs"):
        neighbour_information(x, z)


def test_equal_rows_tell_nothing_and_separate_ones_their_logarithm() -> None:
    rng = torch.Generator().manual_seed(0)
    draws = torch.randn(8, 4000, generator=rng, dtype=torch.float64)
    assert abs(spacing_information(draws)) < 0.02
    places = 50 * torch.arange(8, dtype=torch.float64)[:, None]
    assert abs(spacing_information(draws + places) - log(8)) < 0.02


def test_the_pooled_entropy_moves_with_the_unit() -> None:
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
    bells = torch.exp(-((grid - torch.tensor([[-1.0], [2.0]])) ** 2) / 2)
    weights = bells / bells.sum(1, keepdim=True)
    wider = pooled_entropy(Density(3 * grid, weights))
    assert wider == pytest.approx(pooled_entropy(Density(grid, weights)) + log(3), abs=1e-12)


def test_a_trap_that_is_not_moved_tells_nothing() -> None:
    times = paper_times()
    assert abs(exact_information(Trap(), torch.zeros(2, 301, dtype=torch.float64), times)) < 1e-3


def test_the_exact_trap_lies_between_decoder_and_spacings() -> None:
    study = STUDIES["trap"]
    part = study.ensemble("test")
    lengths = part.records["pulled_length"]
    exact = exact_information(Trap(), lengths, part.times)
    assert abs(spacing_information(part.realisations[:, ::10]) - exact) < 0.03
    mean = part.mean().flatten()
    chosen = torch.randint(part.count, (len(mean), 1), generator=torch.Generator().manual_seed(0))
    x = part.realisations.flatten(0, 1).gather(1, chosen)[:, 0]
    assert abs(neighbour_information(x, mean[:, None]) - exact) < 0.1


@pytest.mark.parametrize("name", ["trap", "chain-gmm"])
def test_no_decoder_finds_more_than_the_rows_tell(name: str) -> None:
    study = small(name)
    data = {"train": study.observed("train")}
    model = untrained(study, data)
    found = information(study, model, "train", every=10, pairs=200)
    assert found["decoder"].value < found["spacings"].value + 3 * found["spacings"].error
    assert all(each.error > 0 for each in found.values())
    assert decoded_information(model, data["train"]).shape == (len(model.seeds),)


def test_without_density_nothing_else_changes() -> None:
    study, one = without_density("trap"), STUDIES["trap"]
    weights = dict(one.recipe.stages[0].weights) | {"density": 0.0}
    stage = replace(one.recipe.stages[0], weights=weights)
    assert study == replace(one, recipe=replace(one.recipe, stages=(stage,)))


def test_a_model_without_density_is_trained_once(tmp_path: Path) -> None:
    with in_small(tmp_path) as patch:
        first = trained_without_density(steps=20)
        patch.setattr(module, "fitted", None)  # the second time nothing is trained
        again = trained_without_density(steps=20)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))
    assert first.seeds == [0, 1]


def test_the_decoder_learns_what_an_encoder_tells_and_does_not_teach_it(tmp_path: Path) -> None:
    with in_small(tmp_path):
        short, long = (trained_without_density(steps=steps) for steps in (1, 300))
        data = STUDIES["trap"].observed("train")
    assert torch.equal(short.encode(data), long.encode(data))
    assert (decoded_information(long, data) > decoded_information(short, data)).all()
