"""Errors as the paper measures them, and as they can be compared between gauges."""

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor

from ibvonns.validation import finite, require, shaped

__all__ = ["each_error", "gauge_free_error", "relative_error"]


def _pair(prediction: Tensor, truth: Tensor) -> Tensor:
    finite("truth", truth)
    require(truth.numel(), "truth must hold at least 1 value, but is empty")
    # two shapes that broadcast would be compared crosswise
    return (shaped("prediction", finite("prediction", prediction), truth.shape) - truth).flatten()


def relative_error(prediction: Tensor, truth: Tensor) -> float:
    """Relative L2 error in percent, Eq. (35), pooled over everything that the tensors hold.

    Pooled means one numerator and one denominator, and not a mean of ratios, as in the
    authors' notebooks::

        100 sqrt(sum |prediction - truth|^2) / sqrt(sum |truth|^2)

    Args:
        prediction: of any shape and unit.
        truth: of the same.

    Raises:
        ValueError: NaN, shapes that do not match, nothing to compare, or a truth that is all zero.

    >>> relative_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    70.71067...
    """
    difference = _pair(prediction, truth)
    size = float(truth.norm())
    require(size > 0, "truth must not be zero everywhere: a relative error needs a size")
    return 100 * float(difference.norm()) / size


def gauge_free_error(prediction: Tensor, truth: Tensor) -> float:
    """L2 error in percent of the standard deviation of the truth, pooled.

    Adding a constant to both tensors, or multiplying both, changes nothing; `relative_error` of an
    internal variable, whose denominator is its norm, changes with the constant (chapter 5).

    Args:
        prediction: of any shape and unit.
        truth: of the same.

    Raises:
        ValueError: as `relative_error`, or a truth that does not vary.

    >>> gauge_free_error(torch.tensor([5.0, 7.0]), torch.tensor([5.0, 6.0]))
    141.42135...
    """
    difference = _pair(prediction, truth)
    spread = float((truth - truth.mean()).norm())
    rounding = 4 * torch.finfo(truth.dtype).eps * float(truth.norm())
    require(spread > rounding, "truth must vary: an error in units of its deviation needs one")
    return 100 * float(difference.norm()) / spread


def each_error(run: Tensor, truth: Tensor, measure: Callable[[Tensor, Tensor], float] = relative_error) -> list[float]:
    """An error of each replica, infinite where its rollout has run away.

    Args:
        run: rolled out, with the replicas in front.
        truth: with replicas in front, or without.
        measure: `relative_error` or `gauge_free_error`.

    >>> each_error(torch.tensor([[1.0, 2.0], [1.0, float("nan")]]), torch.tensor([1.0, 2.0]))
    [0.0, inf]
    """
    pairs = zip(run, truth.expand_as(run), strict=True)
    return [measure(*pair) if bool(pair[0].isfinite().all()) else inf for pair in pairs]
