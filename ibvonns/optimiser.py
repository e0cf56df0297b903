"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner, for many replicas at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ibvonns.validation import count, positive, require, shaped

__all__ = ["SOAP"]

REMEMBERED = ("mean", "square", "left", "left_axes", "right", "right_axes")  # of the parameters of one shape


class SOAP:
    r"""Adam run in the axes in which the gradient of each weight matrix varies independently.

    For a weight W with gradient G keep the running means L = <G G^T> and R = <G^T G>. Their
    eigenvectors are the axes of the problem's curvature as seen by this layer: in them, Adam's
    division by the root of the second moment comes close to a Newton step, while in the axes of the
    single weights it cannot. On the trap its force term ends over ten times below that of plain
    Adam after as many steps (chapter 5). A layer is at most 20 wide here, so that the eigenvectors
    cost little.

    Each parameter has shape (replicas, rows, columns); replicas never mix.

    Args:
        parameters: the tensors to change in place.
        memory: decay of the running means of gradient, its square, L and R.
        refresh: steps between two decompositions of L and R.

    Raises:
        ValueError: a memory outside (0, 1), no step between refreshes, or a parameter that is not
            of three axes.

    What the next step depends on is `state`, tensors by name that are changed in place: `count`, and
    for each shape of parameters others of shape (parameters, replicas, ...).

    Reference: Vyas et al., SOAP: improving and stabilizing Shampoo using Adam, 2024.

    >>> weight = torch.ones(1, 2, 2, dtype=torch.float64)
    >>> optimiser = SOAP([weight])
    >>> for _ in range(200):
    ...     optimiser.step([2 * weight], 0.02)  # the gradient of |weight|^2
    >>> bool(weight.abs().max() < 0.1)
    True
    """

    def __init__(self, parameters: Sequence[Tensor], memory: float = 0.95, refresh: int = 10):
        self.parameters = list(parameters)
        require(positive("memory", memory) < 1, f"memory must lie between 0 and 1, but is {memory}")
        self.memory, self.refresh = memory, count("refresh", refresh)
        self.state: dict[str, Tensor] = {"count": torch.tensor(0)}
        self.alike: dict[tuple[int, ...], list[int]] = {}  # parameters of one shape step together
        for index, parameter in enumerate(self.parameters):
            shaped(f"parameters[{index}]", parameter, ("replicas", "rows", "columns"))
            self.alike.setdefault(tuple(parameter.shape), []).append(index)
        for shape, members in self.alike.items():
            zeros = self.parameters[members[0]].detach().new_zeros(len(members), *shape)
            parts = [zeros, zeros.clone()]
            for moment in (zeros @ zeros.mT, zeros.mT @ zeros):
                parts += [moment, torch.ones_like(moment[..., 0]).diag_embed()]
            self.state |= {f"{name}.{shape}": part for name, part in zip(REMEMBERED, parts, strict=True)}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], learning_rate: float, shares: Tensor | None = None) -> None:
        """Change the parameters by one step against their gradients.

        Args:
            gradients: one for each parameter.
            learning_rate: of all replicas.
            shares: of it that each replica takes, shape (replicas,); 1 if not given.

        Raises:
            ValueError: a gradient is not of its parameter's shape, or the rate is not above 0.
        """
        positive("learning_rate", learning_rate)
        number, came = len(self.parameters), len(gradients)
        require(came == number, f"gradients must number {number}, one for each parameter, but number {came}")
        for index, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            shaped(f"gradients[{index}]", gradient, parameter.shape)
        done = int(self.state["count"].add_(1))
        keep, fresh = self.memory, 1 - self.memory
        correction = 1 - keep**done
        for shape, members in self.alike.items():
            gradient = torch.stack([gradients[index] for index in members])
            mean, square, left, left_axes, right, right_axes = (self.state[f"{name}.{shape}"] for name in REMEMBERED)
            left.lerp_(gradient @ gradient.mT, fresh)
            right.lerp_(gradient.mT @ gradient, fresh)
            if (done - 1) % self.refresh == 0:
                for moment, axes in ((left, left_axes), (right, right_axes)):
                    if (size := moment.shape[-1]) > 1:
                        # at first a moment is of rank 1: a ramp far below it decides, and not its rounding
                        trace = moment.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) * 1e-6 / size
                        ramp = trace * torch.arange(size, dtype=moment.dtype, device=moment.device)
                        axes.copy_(torch.linalg.eigh(moment + ramp.diag_embed()).eigenvectors)
            mean.lerp_(gradient, fresh)
            square.mul_(keep).add_((left_axes.mT @ gradient @ right_axes).square(), alpha=fresh)
            turned = left_axes.mT @ mean @ right_axes / correction
            scaled = turned / ((square / correction).sqrt() + 1e-12)
            change = learning_rate * (left_axes @ scaled @ right_axes.mT)
            if shares is not None:
                change *= shares[:, None, None]
            for index, part in zip(members, change, strict=True):
                self.parameters[index].sub_(part)
