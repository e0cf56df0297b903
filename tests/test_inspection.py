"""Faults of data are found where they are put in, and nowhere else; foreign data share no code with the library."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibvonns.ensemble import Ensemble
from ibvonns.inspection import Finding, Summary, inspect
from ibvonns.layouts import Point, Row
from ibvonns.protocols import PROTOCOLS
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap

Array = np.ndarray[Any, np.dtype[np.float64]]


# --- data of others, in plain NumPy --------------------------------------------------------------


def waves(rng: np.random.Generator, conditions: int, times: Array, slowest: float) -> Array:
    """Random sums of three sines, of standard deviation about 1, shape (conditions, times)."""
    speed = 2 * np.pi / slowest * rng.uniform(0.5, 2.0, (3, conditions, 1))
    return np.sqrt(2 / 3) * np.sin(speed * (times - times[0]) + rng.uniform(0, 2 * np.pi, (3, conditions, 1))).sum(0)


def walked(
    rng: np.random.Generator, pull: Callable[..., Array], x: Array, times: Array, controls: Array, diffusion: float
) -> Array:
    """Euler steps, eight to a frame, under controls (number, conditions, times) that are linear between frames."""
    path = [x]
    for n, step in enumerate(np.diff(times)):
        for part in range(8):
            now = controls[:, :, n] + (controls[:, :, n + 1] - controls[:, :, n]) * (part + 0.5) / 8
            x = x + step / 8 * pull(x, *now[:, :, None]) + np.sqrt(2 * diffusion * step / 8) * rng.normal(size=x.shape)
        path.append(x)
    return np.stack(path, 1)


def bead(seed: int, conditions: int = 14, realisations: int = 100, uneven: bool = False) -> Ensemble:
    """A bead of half a micrometre in water in a trap, in SI units: relaxation in 9 ms, a frame about each ms."""
    rng, kbt, k, drag = np.random.default_rng(seed), 4.11e-21, 1e-6, 6 * np.pi * 1e-3 * 0.5e-6
    steps = 1e-3 * rng.uniform(0.6, 1.4, 149) if uneven else np.full(149, 1e-3)
    times = np.concatenate([[0.0], np.cumsum(steps)])
    centre = 2e-7 * waves(rng, conditions, times, 0.1)
    centre -= centre[:, :1]
    start = np.sqrt(kbt / k) * rng.normal(size=(conditions, realisations))
    x = walked(rng, lambda x, c: k / drag * (c - x), start, times, centre[None], kbt / drag)
    return Ensemble(times, x, {"centre": centre, "force": k * (centre - x.mean(-1))})  # type: ignore[arg-type]


def wells(seed: int, conditions: int = 16, realisations: int = 300) -> Ensemble:
    """A particle in a double well, held by a trap that moves."""
    rng, times = np.random.default_rng(seed), np.linspace(0.0, 4.0, 161)
    centre = waves(rng, conditions, times, 4.0)
    start = np.sign(rng.normal(size=(conditions, realisations))) + 0.2 * rng.normal(size=(conditions, realisations))
    x = walked(rng, lambda x, c: -4 * x * (x**2 - 1) + 2 * (c - x), start, times, centre[None], 0.3)
    return Ensemble(times, x, {"centre": centre, "force": 2 * (centre - x.mean(-1))})  # type: ignore[arg-type]


def breathing(seed: int, conditions: int = 24, realisations: int = 150) -> Ensemble:
    """A trap whose centre and stiffness both vary, with the two forces conjugate to them."""
    rng, times = np.random.default_rng(seed), np.linspace(0.0, 5.0, 126)
    centre, stiff = waves(rng, conditions, times, 4.0), 1.5 * np.exp(0.4 * waves(rng, conditions, times, 4.0))
    start = centre[:, :1] + np.sqrt(0.05 / stiff[:, :1]) * rng.normal(size=(conditions, realisations))
    x = walked(rng, lambda x, c, k: k * (c - x), start, times, np.stack([centre, stiff]), 0.05)
    away = centre[..., None] - x
    forces = {"Fc": stiff * away.mean(-1), "Fk": (away**2).mean(-1) / 2}
    return Ensemble(times, x, {"centre": centre, "stiffness": stiff, **forces})  # type: ignore[arg-type]
