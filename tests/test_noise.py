"""The noise: known answers, the normal law, nothing shared between places."""

from math import erfc, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from ibvonns.systems import noise
from ibvonns.systems.noise import REACH, TOGETHER, fresh_key

# of Random123's `kat_vectors`, philox4x32 with 10 rounds: counter and key, and what comes out
KNOWN = [
    ("00000000 00000000 00000000 00000000 00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]

LOOPS: Any = noise  # Numba's types ask for one argument


def drawn(realisations: int, *place: int, key: int = 7, first: int = 0) -> np.ndarray:
    """Normals of a condition, a site and a group of steps."""
    out = np.empty((TOGETHER, realisations), np.float32)
    LOOPS.normals(np.uint64(key), *place, first, out)
    return out.astype(float)


@pytest.mark.parametrize(("asked", "answer"), KNOWN)
def test_words_are_the_published_ones(asked: str, answer: str) -> None:
    words = LOOPS.philox(*(np.uint32(int(word, 16)) for word in asked.split()))
    assert [f"{word:08x}" for word in words] == answer.split()


def test_numbers_are_normal() -> None:
    x = np.concatenate([drawn(100_000, 0, 0, call).ravel() for call in range(25)])  # ten million
    moments = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96), 6: (15, 10_170)}  # with their variances
    for power, (mean, variance) in moments.items():
        assert abs((x**power).mean() - mean) < 4 * sqrt(variance / len(x))
    assert stats.kstest(x[::5], "norm").pvalue > 1e-3
    for bound in (2, 3, 4, 4.5):
        expected = len(x) * erfc(bound / sqrt(2))
        assert abs((abs(x) > bound).sum() - expected) < 4 * sqrt(expected)
    assert abs(x).max() < REACH
    assert erfc(REACH / sqrt(2)) < 1.5e-11


def test_numbers_are_as_exact_as_single_precision() -> None:
    """Against Box and Muller's formula in double precision, from the same words."""
    words = [LOOPS.philox(*map(np.uint32, (j, 3, 2, 1, 7, 0))) for j in range(4000)]
    for a, b, some in ((0, 1, (0, 1)), (2, 3, (2, 3))):
        uniform = (np.array([word[a] for word in words], float) + 0.5) / 2**32
        second = np.array([word[b] for word in words], np.uint32)
        radius, turn = np.sqrt(-2 * np.log(uniform)), np.pi * second.view(np.int32) / 2.0**32
        sign = 1 - 2.0 * (second & np.uint32(1))
        found = drawn(4000, 1, 2, 3)[list(some)]
        assert np.abs(found - radius * [np.sin(turn), sign * np.cos(turn)]).max() < 5e-6
        assert np.median(np.abs(found - radius * [np.sin(turn), sign * np.cos(turn)])) < 1e-7


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_places_share_nothing(other: tuple[int, int, int]) -> None:
    number = 200_000
    rows = np.concatenate([drawn(number, 0, 0, 0), drawn(number, *other), drawn(number, 0, 0, 0, key=8)])
    for part in (rows, rows**2, abs(rows)):
        off = np.corrcoef(part) - np.eye(len(rows))
        assert np.abs(off).max() < 5 / sqrt(number)
    assert abs(np.corrcoef(rows[0, 1:], rows[0, :-1])[0, 1]) < 5 / sqrt(number)  # nor do neighbours


def test_a_part_is_a_part_of_the_whole() -> None:
    assert (drawn(50, 1, 2, 3, first=30) == drawn(80, 1, 2, 3)[:, 30:]).all()


def test_keys_follow_from_the_generator() -> None:
    first, again = (fresh_key(torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == again != fresh_key(torch.Generator().manual_seed(4))
