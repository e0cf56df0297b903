"""Pulling protocols lambda(t) = velocity * s(t): the paper's, and two for teaching.

The paper prints e^t where e^{-t} is meant (errata): with e^t the pull would leave the plotted
range.
"""

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

from ibvonns.validation import choice, increasing, shaped, tensor

__all__ = ["PROTOCOLS", "pulled_length"]

Shape = Callable[[Tensor], Tensor]


def _smoothed_linear(t: Tensor) -> Tensor:
    return t * (1 - torch.exp(-t))


def _modulated(amplitude: float, frequency: float) -> Shape:
    return lambda t: _smoothed_linear(t) * (1 + amplitude * torch.sin(frequency * t))


#: The shapes s(t) by name, each from times to a tensor of their shape. "oscillating" and
#: "smoothed-linear" are the trap's (Sec. 3), "smoothed-linear" and "sinusoidal" the chain's (Sec.
#: 4); "constant-speed" and "at-rest" serve for teaching.
#:
#: :meta hide-value:
PROTOCOLS: dict[str, Shape] = {
    "oscillating": _modulated(2.0, 2 * pi),  # trap, training and test (Sec. 3.1)
    "smoothed-linear": _smoothed_linear,  # trap, unseen protocol (Sec. 3.3); chain (Sec. 4.1)
    "sinusoidal": _modulated(0.2, pi),  # chain, unseen protocol (Figs. 14, 19)
    "constant-speed": torch.clone,  # never reverses: see chapter 2
    "at-rest": torch.zeros_like,
}


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
