"""A trained law as plain numbers: for a page, for another language, and back again."""

from collections.abc import Mapping
from typing import Any

import torch

from ibvonns.chain_model import ChainModel
from ibvonns.decoders import MixtureDecoder
from ibvonns.model import TrapModel
from ibvonns.validation import count

__all__ = ["exported", "restored"]


def exported(model: TrapModel | ChainModel, replica: int = 0) -> dict[str, Any]:
    """Weights, gauge and scales of one replica as plain numbers, ready for JSON.

    Args:
        model: trained, with its gauge frozen.
        replica: which of its seeds, by index.

    Returns:
        A dictionary with "kind", "seed", two constants of the architecture ("reference" of the
        encoder, "gain" of the dissipation network), two of a chain ("natural_length" and
        "well_strain"), and as "tensors" nested lists by the names of
        `state_dict`, without the axis of the replicas. Nothing is rounded.

    Raises:
        ValueError: no such replica, or a chain whose decoder is no mixture.

    >>> law = exported(TrapModel([3, 4]), 1)
    >>> law["kind"], law["seed"], len(law["tensors"]["encoder.h.layers.0.weight"][0])
    ('TrapModel', 4, 10)
    """
    if count("replica", replica, 0) >= len(model.seeds):
        raise ValueError(f"replica must be below {len(model.seeds)}, but is {replica}")
    if isinstance(model, ChainModel) and not isinstance(model.decoder, MixtureDecoder):
        raise ValueError("model must have a mixture decoder to run in a page, but has a flow")
    state = model.state_dict()
    tensors = {
        name: (tensor[replica] if tensor.ndim == 3 else tensor).tolist()
        for name, tensor in state.items()
    }
    of_chain = (
        {"natural_length": model.natural_length, "well_strain": model.well_strain}
        if isinstance(model, ChainModel)
        else {}
    )
    return {
        "kind": type(model).__name__,
        "seed": model.seeds[replica],
        "reference": model.encoder.reference,
        "gain": model.potentials.dissipation_network.gain.tolist(),
        **of_chain,
        "tensors": tensors,
    }


def restored(law: Mapping[str, Any]) -> TrapModel | ChainModel:
    """The model of one replica that `exported` wrote.

    Args:
        law: as `exported` gives it, or as JSON gives it back.

    Raises:
        ValueError: the dictionary holds no law.

    >>> model = TrapModel([0])
    >>> same = restored(exported(model)).state_dict()
    >>> all(bool((tensor == same[name]).all()) for name, tensor in model.state_dict().items())
    True
    """
    kinds = {"TrapModel": TrapModel, "ChainModel": ChainModel}
    if not {"kind", "seed", "tensors"} <= law.keys() or law["kind"] not in kinds:
        raise ValueError(f"law must be what `exported` gave, but holds {sorted(law)}")
    of_chain = {name: law[name] for name in ("natural_length", "well_strain") if name in law}
    internal = len(law["tensors"].get("encoder.offset", [[0.0]])[0])
    model: TrapModel | ChainModel = kinds[law["kind"]]([law["seed"]], internal=internal, **of_chain)
    state = {}
    for name, tensor in model.state_dict().items():
        if name not in law["tensors"]:
            raise ValueError(f"law must hold the tensor {name!r}, but does not")
        values = torch.tensor(law["tensors"][name], dtype=torch.float64)
        state[name] = values[None] if tensor.ndim == 3 else values
    model.load_state_dict(state)
    return model
