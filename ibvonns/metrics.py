"""Errors as the paper measures them, and as they can be compared between gauges."""

import torch
from torch import Tensor

from ibvonns.validation import finite

__all__ = ["gauge_free_error", "relative_error", "summary"]


def _pair(prediction: Tensor, truth: Tensor) -> Tensor:
    finite("prediction", prediction)
    finite("truth", truth)
    if truth.numel() == 0:
        raise ValueError("truth must hold at least 1 value, but is empty")
    if prediction.shape != truth.shape:  # two shapes that broadcast would be compared crosswise
        raise ValueError(
            f"prediction must have the shape of truth, {tuple(truth.shape)}, "
            f"but has shape {tuple(prediction.shape)}"
        )
    return (prediction - truth).flatten()


def relative_error(prediction: Tensor, truth: Tensor) -> float:
    """Relative L2 error in percent, Eq. (35), pooled over everything that the tensors hold.

    Pooled means one numerator and one denominator, sqrt(sum |a - b|^2) / sqrt(sum |b|^2), and not a
    mean of ratios (notes 6).

    Raises:
        ValueError: NaN, shapes that do not match, nothing to compare, or a truth that is all zero.

    >>> relative_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    70.71067...
    """
    difference = _pair(prediction, truth)
    size = float(truth.norm())
    if size == 0:
        raise ValueError("truth must not be zero everywhere: a relative error needs a size")
    return 100 * float(difference.norm()) / size


def gauge_free_error(prediction: Tensor, truth: Tensor) -> float:
    """L2 error in percent of the standard deviation of the truth, pooled.

    Adding a constant to both tensors, or multiplying both, changes nothing; `relative_error` of an
    internal variable, whose denominator is its norm, changes with the constant (notes 5).

    Raises:
        ValueError: as `relative_error`, or a truth that does not vary.

    >>> gauge_free_error(torch.tensor([5.0, 7.0]), torch.tensor([5.0, 6.0]))
    141.42135...
    """
    difference = _pair(prediction, truth)
    spread = float((truth - truth.mean()).norm())
    if spread <= 4 * torch.finfo(truth.dtype).eps * float(truth.norm()):  # rounding alone
        raise ValueError("truth must vary: an error in units of its deviation needs one")
    return 100 * float(difference.norm()) / spread


def summary(values: list[float]) -> dict[str, float]:
    """Median, min and max over seeds.

    >>> summary([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    ordered = torch.tensor(values, dtype=torch.float64)
    finite("values", ordered)
    if not values:
        raise ValueError("values must hold at least 1 number, but is empty")
    return {
        "median": float(ordered.quantile(0.5)),
        "min": float(ordered.min()),
        "max": float(ordered.max()),
    }
