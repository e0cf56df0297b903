"""Normal numbers by a counter: those of any condition, step, site and realisation for themselves.

Nothing is kept from one number to the next, so that blocks and threads may draw in any order, more
realisations leave the first ones as they are, and neighbouring realisations fill the lanes of a
vector instruction. Neither sums are taken in another order nor products fused: the numbers are the
same to the bit on every machine.
"""

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.polynomial import Chebyshev, Polynomial
from torch import Generator

__all__ = ["TOGETHER", "WIDTH", "fresh_key", "normals", "philox"]

TOGETHER = 4  #: Steps whose normals come from one call of the generator.
WIDTH = 512  #: Realisations that are simulated at once: what they need fits into the nearest memory.
REACH = 6.76  # the largest normal that 32 bits hold; of a true one 1.4e-11 lie beyond

U32, I32, F32 = np.uint32, np.int32, np.float32
FACTORS, HALF = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)), np.uint64(32)
WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
# log(1 + x) - x + x^2 / 2 = x^3 (...) for 1 + x from 1 / sqrt(2) to sqrt(2)
LOW, ROOT = math.sqrt(0.5) - 1, I32(0x3F3504F3)  # the latter: the bits of 1 / sqrt(2)
LARGE, SMALL = F32(0.693359375), F32(math.log(2) - 0.693359375)


def _series(function: Any, terms: int, low: float, high: float) -> tuple[np.float32, ...]:
    """Coefficients of a function on an interval, highest first."""
    middle, half = (low + high) / 2, (high - low) / 2
    fit = Chebyshev.interpolate(lambda u: function(middle + half * u), terms - 1).convert(kind=Polynomial)
    return tuple(F32(c) for c in fit(Polynomial([-middle / half, 1 / half])).coef[::-1])


LOG = _series(lambda x: (np.log1p(x) - x + x**2 / 2) / x**3, 9, LOW, math.sqrt(2) - 1)
SINE = _series(lambda q: np.sinc(np.sqrt(q)) * np.pi, 5, 1e-12, 0.25)  # sin(pi w) / w by q = w^2
COSINE = _series(lambda q: np.cos(np.pi * np.sqrt(q)), 6, 0.0, 0.25)


@njit(forceinline=True)
def philox(a: Any, b: Any, c: Any, d: Any, k: Any, l: Any) -> Any:  # noqa: E741
    """Four random words of 32 bits from a counter (a, b, c, d) and a key (k, l): Philox4x32 with ten rounds.

    Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC11 (2011).

    >>> [f"{word:08x}" for word in philox(*map(U32, (0, 0, 0, 0, 0, 0)))]  # as published
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    for _ in range(10):
        p, q = FACTORS[0] * np.uint64(a), FACTORS[1] * np.uint64(c)
        a, b, c, d = U32(q >> HALF) ^ b ^ k, U32(q), U32(p >> HALF) ^ d ^ l, U32(p)
        k, l = U32(np.uint64(k) + WEYL[0]), U32(np.uint64(l) + WEYL[1])  # noqa: E741
    return a, b, c, d


@njit(forceinline=True)
def _pair(a: Any, b: Any) -> Any:
    """Two normals from two words, by Box and Muller: a radius, and an angle in the half plane with a sign."""
    uniform = F32(a) * F32(2.0**-32) + F32(2.0**-33)  # never 0
    bits = F32(uniform).view(I32) - ROOT  # Numba asks for a number made here
    power, x = F32(bits >> I32(23)), I32((bits & I32(0x7FFFFF)) + ROOT).view(F32) - F32(1)
    log = F32(0)
    for c in LOG:
        log = log * x + c
    square = x * x
    log = (x + (log * x * square + power * SMALL - F32(0.5) * square)) + power * LARGE
    radius, turn = np.sqrt(F32(-2) * log), F32(I32(b)) * F32(2.0**-32)
    square, sine, cosine = turn * turn, F32(0), F32(0)
    for c in SINE:
        sine = sine * square + c
    for c in COSINE:
        cosine = cosine * square + c
    signed = U32(F32(radius).view(U32) ^ U32((b & U32(1)) << U32(31))).view(F32)  # b's last bit moves no angle
    return radius * (sine * turn), signed * cosine


@njit(error_model="numpy")
def normals(key: Any, condition: Any, site: Any, call: Any, first: Any, out: Any) -> None:
    """Standard normals of `TOGETHER` steps, in single precision.

    Args:
        key: of the simulation, 64 bits.
        condition: number of the condition.
        site: number of the particle.
        call: number of the steps' group.
        first: number of the first realisation.
        out: shape (TOGETHER, realisations), float32.

    >>> out = np.empty((TOGETHER, 2), F32)
    >>> normals(np.uint64(1), 0, 0, 0, 0, out)
    >>> bool(abs(out).max() < REACH)
    True
    """
    k, l = U32(key), U32(key >> HALF)  # noqa: E741
    for j in range(out.shape[1]):
        a, b, c, d = philox(U32(first + j), U32(call), U32(site), U32(condition), k, l)
        out[0, j], out[1, j] = _pair(a, b)
        out[2, j], out[3, j] = _pair(c, d)


def fresh_key(generator: Generator) -> np.uint64:
    """A key for `normals`, another one from each call.

    Args:
        generator: that decides it.

    >>> rng = torch.Generator().manual_seed(0)
    >>> bool(fresh_key(rng) == fresh_key(rng))
    False
    """
    return np.uint64(torch.randint(2**63 - 1, (), generator=generator, device=generator.device).item())
