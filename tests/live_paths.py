"""A path that the panels' JavaScript took, beside the one that Python takes from the same first state."""

from typing import Any

import torch
from torch import Tensor

from ibvonns.model import Model
from ibvonns.protocols import pulled_length
from ibvonns.systems.chain import VELOCITY
from ibvonns.systems.trap import paper_times

CLOSE = 1e-9  # the bar is 1e-6; measured: 1e-13


def far(found: Any, wanted: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    values = torch.tensor(found, dtype=torch.float64)
    assert values.shape == wanted.shape
    return float((values - wanted).abs().max() / wanted.abs().max())


@torch.no_grad()
def assert_same_path(content: dict[str, Any], protocol: str, value: float, lengths: Any, record: Any) -> None:
    """One of the paper's protocols: alpha, strains and force as the restored model predicts them."""
    model, times, point = Model.restored(content["law"]), paper_times(), content["kind"] == "trap"
    speed = torch.tensor([value if point else VELOCITY], dtype=torch.float64)
    pulled = pulled_length(protocol, speed, times)
    assert far(lengths, pulled[0]) < CLOSE
    velocity = torch.zeros_like(pulled)
    velocity[:, 1:] = pulled.diff(dim=1) / times.diff()
    mean, alpha = (torch.tensor(record[name][0], dtype=torch.float64) for name in ("mean", "alpha"))
    values = content["protocols"][0]["values"]
    begun = content["starts"][values.index(value) if value in values else 0]
    assert alpha.tolist() == begun["alpha"] * len(alpha)
    start = torch.stack([mean, alpha], -1)[None, None]
    states, force = model.rolled(start, times, {"field": pulled[..., None]} if point else {"velocity": velocity})
    assert far(record["alpha"][:301], states[0, 0, ..., 1]) < CLOSE
    assert far(record["force"][:301], force[0, 0, :, 0]) < CLOSE
    if not point:
        assert far(record["mean"][:301], states[0, 0, ..., 0]) < CLOSE
        assert abs(float(mean.mean()) - (value / 0.1 - 1)) < 1e-12
    assert min(record["dissipation"]) >= 0  # the second law, in the browser, too
