"""The lattice gas against what is exact: closed forms, all states of small rings, the master equation."""

from dataclasses import replace
from itertools import product
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ibvonns.fluctuations import shapes
from ibvonns.systems import lattice
from ibvonns.systems.lattice import Lattice, density, moments

Array = NDArray[Any]
GASES = [Lattice(8, (log(4),)), Lattice(8, (-log(3),)), Lattice(8, (0.7, -0.4), 0.8, 2.0), Lattice(8, (0.5, 0.3, -0.6))]
STATES = np.array(list(product((0, 1), repeat=8)), dtype=float)


def nearest(density: Array, coupling: float) -> list[Array]:
    """The library's closed forms of mu, its slope and m, kBT = frequency = 1, from a coupling."""
    return [each.numpy() for each in lattice.nearest(torch.from_numpy(density), float(np.exp(-coupling)))[:3]]


def energies(gas: Lattice) -> Array:
    """U of each place in each of the 256 states."""
    return sum(each * (np.roll(STATES, z, 1) + np.roll(STATES, -z, 1)) for z, each in enumerate(gas.couplings, 1))


def generator(gas: Lattice) -> Array:
    """Of the master equation: rates from one state, the row, to another."""
    rates = gas.frequency * np.exp(-energies(gas) / gas.temperature)
    codes = STATES @ (1 << np.arange(8))
    place = np.empty(256, dtype=int)
    place[codes.astype(int)] = np.arange(256)
    found = np.zeros((256, 256))
    for x in range(8):
        for y in ((x + 1) % 8, (x - 1) % 8):
            (open_,) = np.nonzero((STATES[:, x] == 1) & (STATES[:, y] == 0))
            found[open_, place[(codes[open_] - (1 << x) + (1 << y)).astype(int)]] += rates[open_, x]
    return found - np.diag(found.sum(1))


def counted(states: Array) -> Array:
    """Share of each of the 256 states in each word."""
    bits = np.unpackbits(states.view(np.uint8).reshape(*states.shape, 8), axis=-1)
    codes = np.einsum("wxb,x->wb", bits.astype(int), 1 << np.arange(8)[::-1])
    return np.stack([np.bincount(word, minlength=256) for word in codes]) / 64


def off(found: Array, exact: Array) -> float:
    """The largest deviation of a mean over words from what is exact, in standard errors."""
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    seen = exact * len(found) > 5
    return float((np.abs(found.mean(0) - exact) / np.maximum(error, 1e-12))[seen].max())


@pytest.mark.parametrize("coupling", [log(4), -log(4), 0.3])
def test_law_of_nearest_neighbours_is_the_closed_form(coupling: float) -> None:
    rho = np.linspace(0.02, 0.98, 25)
    for found, exact in zip(Lattice(couplings=(coupling,)).law(rho), nearest(rho, coupling), strict=True):
        assert np.abs(found - exact).max() < 1e-12 * np.abs(exact).max()
    mu, slope, m = Lattice(couplings=(2 * coupling,), temperature=2.0, frequency=3.0).law(rho)
    one = nearest(rho, coupling)
    assert np.allclose(mu, 2 * one[0], atol=1e-12) and np.allclose(slope, 2 * one[1])
    assert np.allclose(m, 1.5 * one[2])


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=4), st.floats(0.1, 0.9))
def test_law_of_any_reach_agrees_with_itself(couplings: list[float], rho: float) -> None:
    """The slope is that of mu, particles and holes have the mirrored mu, and no jump is slower than its bound."""
    gas, step = Lattice(couplings=tuple(couplings)), 1e-4
    (low, _, _), (_, slope, m), (high, _, _) = (gas.law(np.array([each])) for each in (rho - step, rho, rho + step))
    assert (high - low) / (2 * step) == pytest.approx(slope, rel=1e-5)
    holes = gas.law(np.array([1 - rho]))[0] + gas.law(np.array([rho]))[0]
    assert holes == pytest.approx(-2 * sum(couplings), abs=1e-9)
    assert 0 < m < gas.bound


@pytest.mark.parametrize("gas", GASES)
def test_rates_of_a_small_ring_are_those_of_all_its_states(gas: Lattice) -> None:
    """A ring of eight is short beside what places know of each other: so its fields are weak couplings' alone."""
    weak = Lattice(8, tuple(0.05 * each for each in gas.couplings), gas.temperature, gas.frequency)
    rho = 0.5 + 0.2 * np.sin(2 * np.pi * np.arange(8) / 8)
    fields, energy = weak.fields(rho), energies(weak) / weak.temperature
    weights = np.exp((STATES * (energy / 2 + fields)).sum(1))
    weights /= weights.sum()
    jumps = weak.frequency * np.exp(-energy) * STATES
    exact = weights @ (jumps * (1 - np.roll(STATES, -1, 1))), weights @ (jumps * (1 - np.roll(STATES, 1, 1)))
    right, left = weak.rates(rho)
    assert np.abs(weights @ STATES - rho).max() < 1e-6
    assert np.abs(right - exact[0]).max() < 1e-6 and np.abs(left - np.roll(exact[1], -1)).max() < 1e-6


@pytest.mark.parametrize("gas", GASES)
def test_draws_of_equilibrium_have_the_law_of_all_states(gas: Lattice) -> None:
    fields = np.linspace(-1, 1, 8)
    states = np.zeros((3000, 8), np.uint64)
    seeds = np.random.default_rng(0).integers(0, 2**64, 3000, dtype=np.uint64)
    lattice._draw(states, seeds, lattice._chances(gas._table(fields)), gas.reach)
    weights = np.exp((STATES * (energies(gas) / gas.temperature / 2 + fields)).sum(1))
    exact = weights / weights.sum()
    assert off(counted(states), exact) < 4.5  # of 256, of which most are asked
    other = np.exp((STATES * (1.2 * energies(gas) / gas.temperature / 2 + fields)).sum(1))
    assert off(counted(states), other / other.sum()) > 6  # another coupling


def test_draws_have_the_density_and_the_neighbours_that_were_asked() -> None:
    gas, x = Lattice(100, (-log(4),)), np.arange(100) / 100
    rho = 0.5 + 0.4 * np.sin(2 * np.pi * x)
    states = gas.equilibrium(rho, 2000, seed=1)
    bits = np.unpackbits(states.view(np.uint8).reshape(*states.shape, 8), axis=-1).astype(float)
    error = np.sqrt(rho * (1 - rho) / bits[:, 0].size)
    assert (np.abs(bits.mean((0, 2)) - rho) / error).max() < 4.5
    r, s, k = rho, np.roll(rho, -1), 1 / 4
    b = 1 - r - s + k * (r + s)
    pairs = 2 * k * r * s / (b + np.sqrt(b * b + 4 * (1 - k) * k * r * s))
    found = (bits * np.roll(bits, -1, 1)).mean((0, 2))
    assert (np.abs(found - pairs) / np.sqrt(pairs / bits[:, 0].size)).max() < 4.5


@pytest.mark.parametrize("gas", GASES)
@pytest.mark.parametrize("time", [0.3, 1.0, 3.0])
def test_hops_obey_the_master_equation(gas: Lattice, time: float) -> None:
    begin = np.tile(np.where(np.array([1, 0, 1, 1, 0, 1, 0, 0]) > 0, ~np.uint64(0), np.uint64(0)), (4000, 1))
    first = (STATES == np.array([1, 0, 1, 1, 0, 1, 0, 0])).all(1).astype(float)
    found = counted(gas.hopped(begin, time, seed=5))
    exact = first @ torch.linalg.matrix_exp(torch.from_numpy(generator(gas) * time)).numpy()
    assert off(found, exact) < 4.5
    others = [replace(gas, couplings=tuple(1.3 * each for each in gas.couplings))]  # another coupling
    others += [replace(gas, frequency=1.3 * gas.frequency)] * (time < 1)  # another rate: later all is in equilibrium
    for other in others:
        wrong = first @ torch.linalg.matrix_exp(torch.from_numpy(generator(other) * time)).numpy()
        assert off(found, wrong) > 6


@pytest.mark.parametrize("gas", GASES)
def test_equilibrium_stays(gas: Lattice) -> None:
    """Detailed balance, in the generator and in what hops."""
    weights = np.exp((STATES * energies(gas) / gas.temperature / 2).sum(1))
    flows = weights[:, None] * generator(gas)
    assert np.abs(flows - flows.T).max() < 1e-12 * np.abs(flows).max()
    states = np.zeros((3000, 8), np.uint64)
    seeds = np.random.default_rng(2).integers(0, 2**64, 3000, dtype=np.uint64)
    lattice._draw(states, seeds, lattice._chances(gas._table(np.zeros(8))), gas.reach)
    assert off(counted(gas.hopped(states, 2.0, seed=3)), weights / weights.sum()) < 4.5


def test_counting_neighbours_hops_as_asking_each(monkeypatch: pytest.MonkeyPatch) -> None:
    gas = Lattice(24, (0.3,) * 5)
    rho = 0.4 + 0.2 * np.sin(2 * np.pi * np.arange(24) / 24)
    begin = gas.equilibrium(rho, 3000, seed=1)
    boxed = density(gas.hopped(begin, 2.0, seed=2)).numpy()
    asked = []
    monkeypatch.setattr(lattice, "_hop_in_box", lambda *parts: asked.append(parts))
    assert np.array_equal(gas.hopped(begin, 2.0, seed=2), begin) and asked  # the box is what ran
    each = Lattice(24, (0.3, 0.3, 0.3, 0.3, 0.3 + 1e-12)).hopped(begin, 2.0, seed=3)
    error = np.sqrt(2) * boxed.std(0) / np.sqrt(len(boxed))
    assert (np.abs(boxed.mean(0) - density(each).numpy().mean(0)) / error).max() < 4
    assert (np.abs(boxed.mean(0) - density(begin).numpy().mean(0)) / error).max() > 6  # and they did move


def test_a_word_counts_as_one() -> None:
    """Realisations of a word share the order of bonds: as if independent, they would look too exact."""
    gas = Lattice(20, (log(4),))
    begin = np.tile(np.where(np.arange(20) % 3 > 0, ~np.uint64(0), np.uint64(0)), (4000, 1))
    bits = np.unpackbits(gas.hopped(begin, 0.5, seed=0).view(np.uint8).reshape(4000, 20, 8), axis=-1).astype(float)
    words = bits.mean(-1).var(0, ddof=1)
    alone = bits.var((0, 2), ddof=1) / 64
    assert (words / alone).min() > 2  # dependent
    halves = bits.mean(-1)[:2000], bits.mean(-1)[2000:]
    apart = (halves[0].mean(0) - halves[1].mean(0)) / np.sqrt(2 * words / 2000)
    assert np.abs(apart).max() < 4  # and words are not
    assert len({row.tobytes() for row in gas.hopped(begin, 5.0, seed=0)}) == 4000


@pytest.mark.parametrize("coupling", [log(4), -log(4)])
def test_hydrodynamic_law_of_nearest_neighbours_is_reached_as_one_over_sites_squared(coupling: float) -> None:
    errors = []
    for sites in (50, 100, 200):
        gas, x = Lattice(sites, (coupling,)), 2 * np.pi * np.arange(sites) / sites
        rho = 0.5 + 0.3 * np.sin(x) + 0.1 * np.cos(2 * x)
        right, left = gas.rates(rho)
        m = gas.law((rho + np.roll(rho, -1)) / 2)[2]
        mu = gas.law(rho)[0]
        waves = np.stack([np.sin(x), np.cos(x), np.cos(2 * x)])
        steps = np.roll(waves, -1, 1) - waves
        pairs = (steps @ (right - left), -steps @ (m * (np.roll(mu, -1) - mu))), (steps * (right + left) / 2, steps * m)
        errors.append([np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in pairs])
    orders = np.log2(np.array(errors)[:-1] / np.array(errors)[1:])
    assert np.abs(orders - 2).max() < 0.1


def test_long_range_comes_near_mean_field_as_one_over_reach() -> None:
    """The mobility: with the factor of a finite reach as one over its square."""
    errors = []
    for reach in (10, 20, 40):
        gas = Lattice(8 * reach, (1 / reach,) * reach)
        rho = 0.5 + 0.3 * np.sin(2 * np.pi * np.arange(gas.sites) / gas.sites)
        right, left = gas.rates(rho)
        bond = (rho + np.roll(rho, -1)) / 2
        around = [np.convolve(np.tile(part, 3), np.ones(2 * reach + 1), "same")[gas.sites : 2 * gas.sites] - part
                  for part in (bond, bond * (1 - bond))]  # fmt: skip
        plain = bond * (1 - bond) * np.exp(-around[0] / reach)
        finite = plain * np.exp(bond / reach + around[1] / (2 * reach**2))
        exact = (right + left) / 2
        errors.append([np.linalg.norm(each - exact) / np.linalg.norm(exact) for each in (plain, finite)])
    orders = np.log2(np.array(errors)[:-1] / np.array(errors)[1:])
    assert np.abs(orders - [1, 2]).max() < 0.15


def test_moments_are_those_of_each_realisation() -> None:
    states = np.random.default_rng(0).integers(0, 2**64, (3, 20), dtype=np.uint64)
    bits = np.unpackbits(states.view(np.uint8).reshape(3, 20, 8), axis=-1, bitorder="little").astype(float)
    shape = shapes(20, 5)
    expected = np.einsum("wxb,ix->wbi", bits, shape.numpy()) / 20
    assert np.allclose(moments(states, shape).numpy(), expected, atol=1e-15)
    assert np.allclose(density(states).numpy(), bits.mean(-1))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Lattice(sites=5, couplings=(1.0, 1.0)), "sites must be at least 6"),
        (lambda: Lattice(temperature=-1.0), "temperature must be a finite number above 0"),
        (lambda: Lattice(couplings=(float("nan"),)), "couplings must be finite"),
        (lambda: Lattice(couplings=()), "couplings must have shape"),
        (lambda: Lattice(20).equilibrium(np.full(20, 1.0), 1, 0), "density must be above 0 and below 1"),
        (lambda: Lattice(20).equilibrium(np.full(19, 0.5), 1, 0), "density must have shape"),
        (lambda: Lattice(20).equilibrium(np.full(20, 0.5), 0, 0), "words must be a whole number of at least 1"),
        (lambda: Lattice(20).hopped(np.zeros((1, 19), np.uint64), 1.0, 0), "states must have shape"),
        (lambda: Lattice(20).hopped(np.zeros((1, 20), np.uint64), -1.0, 0), "time must be a finite number"),
        (lambda: Lattice(20, (1.0,) * 6).rates(np.full(19, 0.5)), "density must have shape"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
