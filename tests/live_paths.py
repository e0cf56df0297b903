"""A path that the panels' JavaScript took, beside the one that Python takes from the same first state."""

from typing import Any

import torch
from torch import Tensor

from ibvonns.model import Architecture, Model
from ibvonns.protocols import pulled_length
from ibvonns.systems.chain import VELOCITY
from ibvonns.systems.trap import paper_times

CLOSE = 1e-9  # the bar is 1e-6; measured: 1e-13


def far(found: Any, wanted: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    values = torch.tensor(found, dtype=torch.float64)
    assert values.shape == wanted.shape
    return float((values - wanted).abs().max() / wanted.abs().max())


def restored(law: dict[str, Any]) -> Model:
    """The model that a page runs; what the page leaves out, a decoder, is an untrained one."""
    fresh = Model(law["seeds"], Architecture.of(law["architecture"])).exported()["tensors"]
    return Model.restored({**law, "tensors": fresh | law["tensors"]})


@torch.no_grad()
def assert_same_path(content: dict[str, Any], protocol: str, value: float, lengths: Any, record: Any) -> None:
    """One of the panel's protocols: alpha, strains and force as the restored model predicts them."""
    model, times, point = restored(content["law"]), paper_times(), content["kind"] == "trap"
    given = next(each for each in content["protocols"] if each["name"] == protocol)
    if "lengths" in given:
        pulled = torch.tensor([given["lengths"]], dtype=torch.float64)
    else:
        speed = torch.tensor([value if point else VELOCITY], dtype=torch.float64)
        pulled = pulled_length(protocol, speed, times)
    assert far(lengths, pulled[0]) < CLOSE
    velocity = torch.zeros_like(pulled)
    velocity[:, 1:] = pulled.diff(dim=1) / times.diff()
    inner = [[[first] for first in sites] for sites in record["alpha"]] if point else record["inner"]
    assert record["alpha"] == [[own[0] for own in sites] for sites in inner]
    mean, alpha = (torch.tensor(each, dtype=torch.float64) for each in (record["mean"][0], inner[0]))
    values = list(dict.fromkeys(each for known in content["protocols"] for each in known["values"]))
    place = values.index(value)
    begun = content["starts"][place if place < len(content["starts"]) else 0]
    assert alpha.tolist() == [begun["alpha"]] * len(alpha)
    start = torch.cat([mean[:, None], alpha], -1)[None, None]
    states, force = model.rolled(start, times, {"field": pulled[..., None]} if point else {"velocity": velocity})
    assert far(inner[:301], states[0, 0, ..., 1:]) < CLOSE
    assert far(record["force"][:301], force[0, 0, :, 0]) < CLOSE
    if not point:
        assert far(record["mean"][:301], states[0, 0, ..., 0]) < CLOSE
        assert abs(float(mean.mean()) - (value / 0.1 - 1)) < 1e-12
    z = states.flatten(1, 2)
    power = model.law.dissipation(z, model.law.driving(z, None if point else force[..., 0].flatten(1))).sum(-1)
    assert far(record["dissipation"][:301], power[0]) < CLOSE
    assert min(record["dissipation"]) >= 0  # the second law, in the browser, too
