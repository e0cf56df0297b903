"""Protocols, the histories lambda(t) of what pulls: the paper's, others to learn from, and designs of several.

The paper prints e^t where e^{-t} is meant (errata): with e^t the pull would leave the plotted
range.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from math import pi

import torch
from torch import Tensor

from ibvonns.validation import choice, count, finite, increasing, positive, require, seeded, shaped, tensor

__all__ = ["KINDS", "PROTOCOLS", "Protocol", "lengths", "pulled_length", "rich", "wandering"]

Shape = Callable[..., Tensor]
WAVES = 6  # of a random protocol; the slowest has half a period to its duration


def _smoothed_linear(t: Tensor) -> Tensor:
    return t * (1 - torch.exp(-t))


def _modulated(amplitude: float, frequency: float) -> Shape:
    return lambda t: _smoothed_linear(t) * (1 + amplitude * torch.sin(frequency * t))


def _pull(t: Tensor, rise: float) -> Tensor:
    """Comes up to speed within a time, and covers the size in as long ever after."""
    return _smoothed_linear(t / rise)


def _push(t: Tensor, rise: float) -> Tensor:
    """A pull the other way."""
    return -_pull(t, rise)


def _gone(t: Tensor, begin: float, end: float) -> Tensor:
    x = ((t - begin) / (end - begin)).clamp(0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def _ramp(t: Tensor, out: float) -> Tensor:
    """Goes out until a time, then rests."""
    return _gone(t, 0.0, out)


def _unload(t: Tensor, out: float, back: float) -> Tensor:
    """Goes out until a time, and is back at a later one."""
    return _gone(t, 0.0, out) - _gone(t, out, back)


def _hold(t: Tensor, out: float, rest: float, back: float) -> Tensor:
    """Goes out until a time, rests until a later one, and is back at a third."""
    return _gone(t, 0.0, out) - _gone(t, rest, back)


def _cycle(t: Tensor, period: float) -> Tensor:
    """Goes out and back, again and again."""
    return (1 - torch.cos(2 * pi * t / period)) / 2


def _random(t: Tensor, duration: float, seed: int) -> Tensor:
    """Wanders smoothly between 0 and 1 for a time, by waves with random amplitudes and phases."""
    amplitude, phase = torch.randn(2, WAVES, generator=seeded(seed), dtype=torch.float64).to(t.device)
    number = torch.arange(1, WAVES + 1).to(t)

    def waves(share: Tensor) -> Tensor:
        return (amplitude / number * torch.sin(pi * number * share[..., None] + pi * phase)).sum(-1).to(t.dtype)

    low, high = waves(torch.linspace(0, 1, 1001).to(t)).aminmax()
    return (waves(t / duration) - low) / (high - low)


#: The shapes s(t) by name, each from times to a tensor of their shape. "oscillating" and
#: "smoothed-linear" are the trap's (Sec. 3), "smoothed-linear" and "sinusoidal" the chain's (Sec.
#: 4); "constant-speed" and "at-rest" serve for teaching.
#:
#: :meta hide-value:
PROTOCOLS: dict[str, Shape] = {
    "oscillating": _modulated(2.0, 2 * pi),  # trap, training and test (Sec. 3.1)
    "smoothed-linear": _smoothed_linear,  # trap, unseen protocol (Sec. 3.3); chain (Sec. 4.1)
    "sinusoidal": _modulated(0.2, pi),  # chain, unseen protocol (Figs. 14, 19)
    "constant-speed": torch.clone,  # never reverses: see chapter 3
    "at-rest": torch.zeros_like,
}
#: The shapes that a `Protocol` may have: those, and others that take times of their own.
#:
#: :meta hide-value:
KINDS: dict[str, Shape] = PROTOCOLS | {
    "pull": _pull, "push": _push, "ramp": _ramp, "unload": _unload, "hold": _hold, "cycle": _cycle, "random": _random,
}  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """A history of what pulls, lambda(t) = base + size * s(t).

    Attributes:
        kind: of s, a key of `KINDS`.
        size: a length; of a pull what it covers in the time in which it comes up to speed, and of the shapes of
            `PROTOCOLS` a velocity.
        base: a length, at which s is 0: the first one, or the shortest of a random protocol.
        times: of the kind, in the order in which `sentence` names them.
        seed: of a random protocol.

    Raises:
        ValueError: an unknown kind, a number that is not finite, other times than the kind has, or times that
            are not above 0 or out of order.

    >>> held = Protocol("hold", 0.1, 0.2, times=(1.0, 1.5, 2.5))
    >>> held.length(torch.tensor([0.0, 1.2, 3.0])).tolist()
    [0.20000000298023224, 0.30000001192092896, 0.20000000298023224]
    >>> held.sentence
    'Goes out until a time, rests until a later one, and is back at a third.'
    """

    kind: str
    size: float = 1.0
    base: float = 0.0
    times: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        choice("kind", self.kind, KINDS)
        names = [] if self.kind in PROTOCOLS else [*signature(KINDS[self.kind]).parameters][1:]
        wanted = [name for name in names if name != "seed"]
        good = len(self.times) == len(wanted) and list(self.times) == sorted(map(float, self.times))
        sentence = f"times of {self.kind!r} must be {', '.join(wanted) or 'none'}, in this order, but are {self.times}"
        require(good and all(positive("time", time) for time in self.times), sentence)
        finite("size and base", torch.tensor([self.size, self.base]))
        seeded(self.seed)

    @property
    def sentence(self) -> str:
        """What the kind does, in a sentence."""
        return "As the paper names it." if self.kind in PROTOCOLS else KINDS[self.kind].__doc__ or ""

    def length(self, times: Tensor) -> Tensor:
        """lambda(t), a length, in the shape of the times.

        Args:
            times: of any shape.
        """
        seed = (self.seed,) if self.kind == "random" else ()
        return self.base + self.size * KINDS[self.kind](times, *self.times, *seed)

    def velocity(self, times: Tensor) -> Tensor:
        """d lambda/dt, exactly, a length per time, in the shape of the times.

        Args:
            times: of any shape.

        >>> swing = Protocol("cycle", 2.0, times=(4.0,))
        >>> round(float(swing.velocity(torch.tensor(1.0))), 6)  # pi / 2
        1.570796
        """
        with torch.enable_grad():
            t = times.detach().requires_grad_()
            return torch.autograd.grad((self.length(t) + 0 * t).sum(), t)[0]

    def scaled(self, low: float, high: float, duration: float) -> "Protocol":
        """A protocol between the lengths 0 and 1, of the duration 1, as one between others.

        Args:
            low: what the length 0 becomes.
            high: what the length 1 becomes.
            duration: what the time 1 becomes.
        """
        size, base = self.size * (high - low), low + self.base * (high - low)
        return replace(self, size=size, base=base, times=tuple(duration * time for time in self.times))


# between 0 and 1 in a time of 1: every kind, from several lengths, at several speeds
_RICH = (
    *(Protocol("pull", 0.17, base, (1 / 3,)) for base in (0.0, 0.17, 0.33, 0.51)),
    Protocol("pull", 0.07, 0.07, (1 / 3,)), Protocol("pull", 0.1, 0.27, (1 / 3,)),
    Protocol("push", 0.17, 0.8, (1 / 3,)), Protocol("push", 0.13, 0.53, (1 / 3,)),
    Protocol("ramp", 0.4, 0.03, (0.27,)), Protocol("ramp", 0.33, 0.23, (0.4,)), Protocol("ramp", -0.33, 0.6, (0.3,)),
    Protocol("hold", 0.43, 0.03, (0.3, 0.53, 0.93)), Protocol("hold", 0.3, 0.23, (0.4, 0.5, 0.83)),
    Protocol("unload", 0.47, 0.0, (0.5, 1.0)), Protocol("unload", 0.37, 0.2, (0.33, 0.67)),
    Protocol("cycle", 0.4, 0.07, (1.0,)), Protocol("cycle", 0.3, 0.2, (0.5,)), Protocol("cycle", 0.33, 0.03, (0.73,)),
    *(Protocol("random", 0.4, base, (1.0,), seed) for seed, base in enumerate((0.0, 0.2, 0.4, 0.6))),
)  # fmt: skip


def rich(low: float, high: float, duration: float) -> tuple[Protocol, ...]:
    """A design whose data tell of turning back, of rest and of several speeds: 22 protocols of all kinds.

    Args:
        low: shortest length that they reach.
        high: longest.
        duration: of a record.

    Raises:
        ValueError: a longest length that is not above the shortest, or a duration that is not above 0.

    >>> len(rich(0.12, 0.42, 3.0))
    22
    """
    require(high > low, f"high must be above low, {low}, but is {high}")
    positive("duration", duration)
    return tuple(protocol.scaled(low, high, duration) for protocol in _RICH)


def wandering(
    number: int, low: float, high: float, duration: float, speed: float, seed: int = 0
) -> tuple[Protocol, ...]:
    """Random protocols between two lengths, no faster than a speed.

    Args:
        number: how many.
        low: shortest length.
        high: longest length.
        duration: of a record.
        speed: the largest, a length per time.
        seed: of the first; the others have those after it.

    Raises:
        ValueError: a number below 1, lengths in the wrong order, or a speed or a duration that is not above 0.
    """
    count("number", number)
    require(high > low, f"high must be above low, {low}, but is {high}")
    positive("speed", speed)
    share = torch.rand(number, 2, generator=seeded(seed), dtype=torch.float64).tolist()
    fine = torch.linspace(0, duration, 301, dtype=torch.float64)
    out = []
    for place, (much, where) in enumerate(share):
        one = Protocol("random", high - low, 0.0, (duration,), seed + place)
        size = (0.25 + 0.75 * much) * min(high - low, speed / float(one.velocity(fine).abs().max()) * (high - low))
        out.append(replace(one, size=size, base=low + where * (high - low - size)))
    return tuple(out)


def lengths(protocols: Sequence[Protocol], times: Tensor) -> Tensor:
    """lambda(t) of several protocols, (conditions, times), as a system's `simulate` takes them.

    Args:
        protocols: one for each condition.
        times: shape (times,), strictly increasing.

    Raises:
        ValueError: no protocol, or unsorted times.

    >>> lengths([Protocol("ramp", base=1.0, times=(0.5,))] * 2, torch.tensor([0.0, 1.0])).tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """
    require(len(protocols) > 0, "protocols must number at least 1, but number 0")
    increasing("times", times)
    return torch.stack([protocol.length(times) for protocol in protocols])


def pulled_length(name: str, velocities: Tensor, times: Tensor) -> Tensor:
    """Pulled length lambda(t) of a protocol, for several pulling velocities.

    Args:
        name: a key of `PROTOCOLS`.
        velocities: shape (conditions,), length per time.
        times: shape (times,), strictly increasing.

    Returns:
        Shape (conditions, times), a length.

    Raises:
        ValueError: unknown protocol, NaN, wrong shape or unsorted times.

    Reference: the paper, Sec. 3.1 and Sec. 4.1.

    >>> pulled_length("smoothed-linear", torch.tensor([1.2]), torch.tensor([0.0, 1.0]))
    tensor([[0.0000, 0.7585]])
    """
    choice("protocol", name, PROTOCOLS)
    velocities = shaped("velocities", tensor("velocities", velocities), ("conditions",))
    return velocities[:, None] * PROTOCOLS[name](increasing("times", tensor("times", times)))
