"""Checks of arguments: one sentence names the argument, what came and what is allowed."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy
import torch
from torch import Generator, Tensor

__all__ = ["choice", "count", "finite", "increasing", "positive", "require", "seeded", "shaped", "tensor"]


def require(holds: object, sentence: str) -> None:
    """Raise ValueError with a sentence unless something holds.

    Args:
        holds: true or false.
        sentence: names the argument, what came and what is allowed.

    >>> require(2 > 3, "seeds must name at least 3, but name 2")
    Traceback (most recent call last):
    ValueError: seeds must name at least 3, but name 2
    """
    if not holds:
        raise ValueError(sentence)


def positive(name: str, value: float, least: float | None = None) -> float:
    """Return `value` as a float if it is finite and above zero, else raise.

    Args:
        name: of the argument, for the message.
        value: to be checked.
        least: smallest value allowed, 0 or above, instead of all above zero.

    Raises:
        ValueError: NaN, infinite or too small.
        TypeError: not a number, or a bool.

    >>> positive("temperature", -1.0)
    Traceback (most recent call last):
    ValueError: temperature must be a finite number above 0, but is -1.0
    >>> positive("sharpness", 0, least=0.0)
    0.0
    """
    if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's numbers are such
        raise TypeError(f"{name} must be a number, but is of type {type(value).__name__}")
    allowed = "above 0" if least is None else f"of at least {least}"
    good = (value > 0 if least is None else value >= least) and value < math.inf
    require(good, f"{name} must be a finite number {allowed}, but is {value}")
    return float(value)


def count(name: str, value: int, minimum: int = 1) -> int:
    """Return `value` as an int if it is a whole number of at least `minimum`, else raise.

    Args:
        name: of the argument, for the message.
        value: to be checked.
        minimum: smallest value allowed.

    Raises:
        ValueError: a smaller number.
        TypeError: not a whole number, or a bool.

    >>> count("seeds", 0)
    Traceback (most recent call last):
    ValueError: seeds must be a whole number of at least 1, but is 0
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, but is of type {type(value).__name__}")
    require(value >= minimum, f"{name} must be a whole number of at least {minimum}, but is {value}")
    return int(value)


def choice(name: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`, else raise.

    Args:
        name: of the argument, for the message.
        value: to be checked.
        allowed: the words that may be given.

    Raises:
        ValueError: another word.

    >>> choice("protocol", "zigzag", ["oscillating"])
    Traceback (most recent call last):
    ValueError: protocol must be one of 'oscillating', but is 'zigzag'
    """
    names = sorted(allowed)
    require(value in names, f"{name} must be one of {', '.join(map(repr, names))}, but is {value!r}")
    return value


def seeded(seed: int) -> Generator:
    """A generator on the processor. No other seed gives its numbers: a generator tells 2**32 of them apart.

    Args:
        seed: from 0 on, below 2**32.

    Raises:
        ValueError: another seed.

    >>> seeded(2**32)
    Traceback (most recent call last):
    ValueError: seed must be below 4294967296, where seeds begin to repeat, but is 4294967296
    """
    number = count("seed", seed, 0)
    require(number < 2**32, f"seed must be below {2**32}, where seeds begin to repeat, but is {number}")
    return Generator().manual_seed(number)


def tensor(name: str, values: Any) -> Tensor:
    """`values` as a finite tensor in single or double precision, else raise.

    Arrays of NumPy's in single or double precision share their memory with the tensor where that can
    be; what is whole, read-only or of another precision is copied.

    Args:
        name: of the argument, for the message.
        values: a tensor, or what NumPy takes for an array of numbers.

    Raises:
        ValueError: NaN or infinite values.
        TypeError: no numbers, complex ones, or a tensor without values (of the device "meta").

    >>> tensor("times", [0, 1])
    tensor([0., 1.], dtype=torch.float64)
    """
    if not isinstance(values, Tensor):
        try:
            array = numpy.asarray(values)
        except ValueError:  # rows of different lengths
            array = numpy.asarray(None)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name} must hold real numbers, but is of type {type(values).__name__} of {array.dtype}")
        kept = array.dtype in (numpy.float32, numpy.float64) and array.dtype.isnative
        array = array if kept and array.flags.writeable else array.astype(array.dtype if kept else numpy.float64)
        values = torch.from_numpy(numpy.ascontiguousarray(array))
    if values.is_meta or values.dtype.is_complex or values.dtype == torch.bool:
        what = "of the device meta" if values.is_meta else f"of {values.dtype}"
        raise TypeError(f"{name} must hold real numbers, but is {what}")
    values = values if values.dtype in (torch.float32, torch.float64) else values.double()
    return finite(name, values.contiguous())  # strides would decide the order of sums


def finite(name: str, values: Tensor) -> Tensor:
    """Return `values` if it is a floating-point tensor with no NaN or infinity, else raise.

    Args:
        name: of the argument, for the message.
        values: to be checked, of any shape.

    Raises:
        ValueError: NaN or infinite values.
        TypeError: not a tensor, or one of another type.

    >>> finite("times", torch.tensor([0.0, float("nan")]))
    Traceback (most recent call last):
    ValueError: times must be finite, but holds 1 NaN or infinite value among 2
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, but is of type {type(values).__name__}")
    if not values.dtype.is_floating_point:
        raise TypeError(f"{name} must be of a floating-point type, but is of {values.dtype}")
    if not torch.isfinite(values.detach().sum()):  # one pass; a sum may overflow, so look again
        bad = int(values.numel() - torch.isfinite(values).sum())
        noun = "value" if bad == 1 else "values"
        require(not bad, f"{name} must be finite, but holds {bad} NaN or infinite {noun} among {values.numel()}")
    return values


def shaped(name: str, values: Tensor, shape: Sequence[int | str]) -> Tensor:
    """Return `values` if its axes match `shape`, else raise.

    Args:
        name: of the argument, for the message.
        values: to be checked.
        shape: for each axis its length, or a word for any length above 0. A leading `"..."` allows
            any further axes in front.

    Raises:
        ValueError: another shape.

    >>> shaped("means", torch.zeros(3), ("conditions", "times"))
    Traceback (most recent call last):
    ValueError: means must have shape (conditions, times), but has shape (3,)
    """
    actual, axes = tuple(values.shape), tuple(shape)
    if axes[:1] == ("...",):
        axes = tuple(actual[: max(0, len(actual) - len(axes) + 1)]) + axes[1:]
    fits = [length > 0 if isinstance(axis, str) else length == axis for axis, length in zip(axes, actual, strict=False)]
    if len(actual) != len(axes) or not all(fits):
        wanted = ", ".join(str(axis) for axis in shape) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name} must have shape ({wanted}), but has shape {actual}")
    return values


def increasing(name: str, times: Tensor) -> Tensor:
    """Return `times` if it is a finite vector of two or more, strictly increasing, else raise.

    Args:
        name: of the argument, for the message.
        times: to be checked, shape (times,).

    Raises:
        ValueError: NaN, another shape, fewer than two entries, or one not above that before it.
        TypeError: not a tensor of a floating-point type.

    >>> increasing("times", torch.tensor([0.0, 2.0, 1.0]))
    Traceback (most recent call last):
    ValueError: times must increase strictly, but entry 2 (1.0) follows 2.0
    """
    finite(name, times)
    shaped(name, times, ("times",))
    require(times.numel() > 1, f"{name} must hold at least 2 entries, but holds {times.numel()}")
    late = (times.diff() <= 0).nonzero().flatten().tolist()
    if late:
        before, after = times[late[0] : late[0] + 2].tolist()
        raise ValueError(f"{name} must increase strictly, but entry {late[0] + 1} ({after}) follows {before}")
    return times
