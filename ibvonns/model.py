"""IB-VONNs: encoder, decoder and law, one replica for each seed, whatever the system (Sec. 2.4)."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ibvonns.decoders import Decoder, FlowDecoder, GaussianDecoder, GaussiansDecoder, MixtureDecoder
from ibvonns.encoder import Encoder
from ibvonns.files import load_json, load_tensors, save_json, save_tensors
from ibvonns.law import STEPS, Law
from ibvonns.layouts import Layout, Row, layout_of, named
from ibvonns.networks import generators
from ibvonns.observations import Observations
from ibvonns.rollout import relaxed, rollout
from ibvonns.validation import choice, count, finite, positive, require, shaped, tensor

__all__ = ["DECODERS", "LAWS", "Architecture", "Model", "Prediction", "load"]

#: Those of Sec. 3.3, of Sec. 4.3 and of Sec. 4.4, and Gaussians wherever they like; from generators and architecture.
DECODERS: dict[str, Callable[[Sequence[Generator], "Architecture"], Any]] = {
    "gaussian": lambda rngs, a: GaussianDecoder(rngs, a.internal, a.layout.fields, a.components),
    "gaussians": lambda rngs, a: GaussiansDecoder(rngs, a.sigmoids, a.internal, a.layout.fields, a.components),
    "mixture": lambda rngs, a: MixtureDecoder(rngs, a.wells, a.internal),
    "flow": lambda rngs, a: FlowDecoder(rngs, a.sigmoids, a.internal, a.layout.fields, a.components),
}
#: Potentials with a second law, or rates by plain networks without one.
LAWS: dict[str, Any] = {"potentials": Law}
KIND = "ibvonns.Model"


def _law(name: str) -> Any:
    """The class of a law; plain rates are one of the paper's baselines, of which a file may tell."""
    if name == "rates":
        import_module("ibvonns.paper.baselines")  # it adds them to LAWS
    return LAWS[choice("law", name, LAWS)]


@dataclass(frozen=True)
class Architecture:
    """All that makes a model but its seeds; it is saved beside the weights.

    Attributes:
        layout: of the sites.
        spacing: natural length of a site.
        internal: number of internal variables of a site; with none, which a flow allows, the field
            alone is the state, and the encoder stands idle.
        decoder: one of `DECODERS`.
        components: of a position.
        reference: a position at which the raw alpha is 0 where all realisations stand there.
        wells: distance of the mixture's two Gaussians.
        sigmoids: d of the flow, or how many Gaussians of "gaussians".
        law: a key of `LAWS`.
        gas: kBT of a lattice gas, whose law then begins as that of an ideal gas (`law.Law`).
        kernel: weights of the sites around at the distances 1, 2, ..., if the law of a gas is not local.
        neighbours: whether phi of alpha knows how hard the sites around pull (`law.Law`).
        anchored: whether the first internal variables are the mean position (`encoder.Encoder`).
        steps: "euler" or "midpoint", the rule by which a rollout takes a step.
        cubes: of f, beside its network (`networks.INN`): what is nearly a polynomial is so beyond the data, too.
        squares: of phi, likewise (`networks.PICINN`).
        controls: names of a point's controls, or of the parameters of a row's sites.
        forces: names of what a point's controls answer, in the same order.
        units: of "times", "positions" and what is named here, by these names; they are kept, not used.
        temperature: kBT, if it is known.

    Raises:
        ValueError: a number out of range, an unknown decoder or law, or a decoder that does not fit
            the layout, the components or the internal variables.

    >>> Architecture.of(json.loads(json.dumps(Architecture().plain()))) == Architecture()
    True
    """

    layout: Layout = Row()
    spacing: float = 1.0
    internal: int = 1
    decoder: str = "mixture"
    components: int = 1
    reference: float | None = None
    wells: float = 2.0
    sigmoids: int = 2
    law: str = "potentials"
    gas: float | None = None
    kernel: tuple[float, ...] = ()
    neighbours: bool = False
    anchored: bool = False
    steps: str = "euler"
    cubes: int = 0
    squares: int = 0
    controls: tuple[str, ...] = ()
    forces: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    temperature: float | None = None

    def __post_init__(self) -> None:
        _law(self.law)
        choice("steps", self.steps, STEPS)
        for name in ("controls", "forces"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        named = len(self.controls) in (0, self.layout.given)
        require(named, f"controls must name {self.layout.given}, but name {len(self.controls)}")
        choice("decoder", self.decoder, DECODERS)
        least = {
            "sigmoids": 1,
            "components": 1,
            "cubes": 0,
            "squares": 0,
            "internal": 0 if self.decoder == "flow" and self.bonds else 1,
        }
        plain: dict[str, float] = {name: count(name, getattr(self, name), value) for name, value in least.items()}
        plain |= {name: positive(name, getattr(self, name)) for name in ("spacing", "wells")}
        if self.reference is not None:
            plain["reference"] = tensor("reference", self.reference).item()
        for name in ("gas", "temperature"):
            if getattr(self, name) is not None:
                plain[name] = positive(name, getattr(self, name))
        plain["kernel"] = tuple(tensor("kernel", self.kernel).tolist())  # type: ignore[assignment]
        for name, value in plain.items():  # NumPy's numbers are no JSON
            object.__setattr__(self, name, value)
        plainly = self.decoder != "mixture" or (self.components == 1 and self.bonds and not self.layout.given)
        require(plainly, "decoder must not be 'mixture' but for a strain in one dimension, alone in its field, but is")
        able = self.bonds and self.internal and self.gas is None and self.law == "potentials"
        alone = "neighbours must be False without bonds, internal variables and potentials, but is True"
        require(able or not self.neighbours, alone)

    @property
    def bonds(self) -> bool:
        """Whether the sites have bonds."""
        return self.layout.directions > 0

    def having(self, internal: int) -> "list[Architecture]":
        """The same with so many `internal` variables; at a point, if they are several, and then anchored."""
        able = not self.bonds and internal > 1 and internal >= self.components and self.reference is None
        return [replace(self, internal=internal, anchored=each) for each in (False, True)[: 1 + able]]

    def plain(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "layout": named(self.layout)}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Architecture":
        """The architecture that `plain` wrote down as `values`.

        Raises:
            ValueError: something is missing or unknown.
        """
        try:
            return cls(**{**values, "layout": layout_of(values["layout"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"architecture must be what `plain` gave, but is not: {error}") from None


@dataclass(frozen=True)
class Prediction:
    """States along trajectories, and what their ends answer.

    Attributes:
        states: shape (replicas, conditions, times, sites, fields + internal).
        fields: how many of a state's entries are fields.
        force: F_ex, predicted or as given, (replicas, conditions, times, ends); None if the layout
            has none.
        velocity: v_n of a driven end, predicted or as given, (replicas, conditions, times).
    """

    states: Tensor
    fields: int
    force: Tensor | None = None
    velocity: Tensor | None = None

    @property
    def field(self) -> Tensor:
        """The fields, (replicas, conditions, times, sites, fields)."""
        return self.states[..., : self.fields]

    @property
    def alpha(self) -> Tensor:
        """The internal variables, (replicas, conditions, times, sites, internal)."""
        return self.states[..., self.fields :]


class Model(nn.Module):
    """Encoder, decoder and law, one replica for each seed.

    Args:
        seeds: one for each replica; they draw the initial weights and nothing else.
        architecture: of all of them.

    Raises:
        ValueError: no seed, or one below 0 or from 2**32 on.

    >>> from ibvonns.layouts import Point
    >>> model = Model([0, 1], Architecture(Point(), decoder="gaussian"))
    >>> sum(weight[0].numel() for weight in model.parameters())  # of one replica
    3256
    """

    def __init__(self, seeds: Sequence[int], architecture: Architecture):
        super().__init__()
        a, rngs = architecture, generators(seeds)
        self.seeds, self.architecture = [rng.initial_seed() for rng in rngs], architecture
        self.encoder = Encoder(rngs, max(1, a.internal), a.components, a.reference, a.anchored)
        self.decoder: Decoder = DECODERS[a.decoder](rngs, a)
        extra = {
            name: getattr(a, name) for name in ("gas", "kernel", "neighbours", "cubes", "squares") if getattr(a, name)
        }
        self.law: Law = _law(a.law)(rngs, a.layout, a.spacing, a.internal, **extra)
        self.law.steps = a.steps

    @torch.no_grad()
    def set_scales(self, data: Observations) -> None:
        """Take the scales of Eqs. (30), (31), (55) from the training `data`.

        Raises:
            ValueError: data of another layout, or a field or a force that does not vary.
        """
        self.matched(data)
        layout = self.law.layout
        if isinstance(self.law, Law):
            self.law.bound()
        for name in ("force", "velocity") if layout.driven else ():
            require(getattr(data, name) is not None, f"data must have a {name} on this layout, but have none")
        bonds, fields, means = self.architecture.bonds, data.field.flatten(0, 2), data.mean.flatten(0, 2)
        centre = means.mean(0)
        spread = (data.variance + (data.mean - centre) ** 2).flatten(0, 2).mean(0).sqrt()
        field = torch.stack([fields.mean(0), fields.std(0)])
        for part in (self.encoder, self.decoder):
            part.position.copy_(torch.stack([centre, spread]))
        self.decoder.given.copy_(field)
        if bonds:
            self.decoder.given[:, -1:] = self.decoder.position
        steps, moved = data.times.diff(), data.mean.diff(dim=1)
        moved = moved.cumsum(2) if layout.driven else moved  # positions of the particles
        unit = data.spacing if bonds else 1 / means.std(0)
        speed = (unit * moved / steps[:, None, None]).square().mean((0, 2, 3))
        rate = float(((speed * steps).sum() / steps.sum()).sqrt())
        usual = field.new_full((1,), 1.0 if self.law.gas is None else self.law.gas / data.spacing)
        force = usual if data.force is None else data.force.flatten(0, 1).std(0)
        energy = float((force * field[1, -layout.ends :]).mean() * data.spacing)
        if data.force is None and not bonds:  # nothing tells
            energy = 1.0
        self.law.set_scales(field, energy, rate)
        if data.moves is not None:  # a fresh law is near that of an ideal gas: it drifts as fast as the data
            known = torch.stack([each.value for each in data.moves.drift]).norm()
            self.law.set_scales(field, energy, rate * float(known / data.moves.expected(self.law)[0][0].norm()))

    def matched(self, data: Observations) -> Observations:
        """Return `data` if this model can read them, else raise.

        Raises:
            ValueError: other fields, components or spacing, or no force at a point.
        """
        a = self.architecture
        shaped("data.field", data.field, ("conditions", "times", "sites" if a.bonds else 1, a.layout.fields))
        shaped("data.mean", data.mean, (*data.field.shape[:3], a.components))
        spacing = f"data must have the model's spacing, {a.spacing:g}, but have {data.spacing:g}"
        require(data.spacing == a.spacing, spacing)
        return data

    def states(self, data: Observations, alpha: Tensor) -> Tensor:
        """The fields beside alpha: (replicas, conditions, times, sites, fields + internal).

        Args:
            data: observations.
            alpha: of the same rows, (replicas, conditions, times, sites, internal).
        """
        return torch.cat([data.field.expand(*alpha.shape[:-1], -1), alpha], -1)

    @torch.no_grad()
    def freeze(self, data: Observations) -> None:
        """Store the gauge of alpha and how far it may go, and the zero of f at the mean first state.

        Args:
            data: the training observations.
        """
        self.encoder.freeze(data)
        if isinstance(self.law, Law):
            alpha = self.encode(data)
            start = self.states(data, alpha)[:, :, 0]
            self.law.set_reference(start.mean((1, 2), keepdim=True))
            self.law.bound(alpha)

    def encode(self, data: Observations) -> Tensor:
        """alpha of Eq. (4) in the frozen gauge: (replicas, conditions, times, sites, internal).

        Args:
            data: any observations.
        """
        alpha: Tensor = self.encoder(data.cloud)
        return alpha.unflatten(1, data.mean.shape[:3])[..., : self.architecture.internal]

    def nll(self, data: Observations, alpha: Tensor) -> Tensor:
        """Mean negative log-likelihood of each replica in nats, Eqs. (13), (51): (replicas,).

        Args:
            data: observations.
            alpha: of the same rows, (replicas, conditions, times, sites, internal).
        """
        return self.decoder.nll(data, self.states(data, alpha).flatten(1, 3)).mean(-1)

    @torch.no_grad()
    def predict(
        self,
        data: Observations,
        given: str = "force",
        alpha: Tensor | None = None,
        backend: str = "fast",
        step: float | None = None,
    ) -> Prediction:
        """Roll the first states of some observations out, with the ends driven as recorded.

        v_n is recorded as a backward difference: the step from time j moves the end at entry j + 1,
        so that the total strain is the prescribed one. F_ex of entry j belongs to the state at j.

        Args:
            data: observations; of a point its controls drive, at all times.
            given: "force" or "velocity", which of the two drives an end.
            alpha: internal variables to start from, (replicas, conditions, sites, internal); those
                that are encoded if not given.
            backend: as for `rollout.rollout`.
            step: largest step in time of a gas, which takes as many as it needs between two times; what
                is stable if not given. Other systems take one step between two times, as they learned.

        Raises:
            ValueError: observations of another layout, nothing recorded that drives the end, an
                unknown name, or a step that is not stable.
        """
        choice("given", given, ("force", "velocity"))
        layout, internal = self.law.layout, self.law.internal
        conditions, _, sites, _ = self.matched(data).field.shape
        if alpha is None:
            alpha = self.encode(data.at(slice(0, 2)))[:, :, 0]
        shaped("alpha", alpha, (len(self.seeds), conditions, sites, internal))
        start = torch.cat([data.field[:, 0].expand(*alpha.shape[:-1], -1), alpha], -1)
        if self.law.gas is not None:
            return Prediction(relaxed(self.law, start, data.times, step), layout.fields)
        known = {} if layout.directions else {"field": data.field[:, :, 0]}
        if layout.driven:
            record = getattr(data, given)
            require(record is not None, f"data must have a {given} to be given, but have none")
            known = {given: record[..., 0] if given == "force" else record}
        states, ends = self.rolled(start, data.times, known, backend)
        if not layout.driven:
            return Prediction(states, layout.fields, ends if layout.ends else None)
        drive = known[given].expand(len(ends), *known[given].shape)
        answers = (drive[..., None], ends[..., 0]) if given == "force" else (ends, drive)
        return Prediction(states, layout.fields, *answers)

    def rolled(
        self, start: Tensor, times: Tensor, known: Mapping[str, Tensor], backend: str = "fast"
    ) -> tuple[Tensor, Tensor]:
        """States at all times from the first on, and what the ends answer at each.

        Args:
            start: first states, (replicas, conditions, sites, fields + internal).
            times: shape (times,).
            known: as recorded, "field" of a point, (conditions, times, fields), or of a driven end
                its "force" or "velocity", (conditions, times).
            backend: as for `rollout.rollout`.

        Returns:
            (replicas, conditions, times, sites, fields + internal), and (replicas, conditions,
            times, ends).

        Raises:
            ValueError: as `rollout.rollout`.
        """
        last = None if self.law.steps == "midpoint" else -1  # what drives a step is known at both ends, or at the first
        each: dict[str, Any] = {n: part[:, 1:] if n == "velocity" else part[:, :last] for n, part in known.items()}
        path, _ = rollout(self.law, start, times.diff(), backend=backend, **each)
        path = torch.cat([start[:, :, None], path], 2)
        if "field" in known:
            fields = self.law.layout.fields
            path = torch.cat([known["field"][:, :, None].expand_as(path[..., :fields]), path[..., fields:]], -1)
        # at every state, with what is known there; where its step would lead is of no interest
        each = {name: part.flatten(0, 1)[:, None] for name, part in known.items()}
        fine = path.isfinite().flatten(3).all(-1, keepdim=True)  # a rollout may have run away
        states = path.where(fine[..., None], 0.0).flatten(1, 2)
        _, ends = rollout(self.law, states, times.new_ones(1), backend=backend, rule="euler", **each)
        return path, ends[:, :, 0].unflatten(1, path.shape[1:3]).where(fine, torch.nan)

    def exported(self, replica: int | None = None) -> dict[str, Any]:
        """Everything as plain numbers, ready for JSON; `load` and `restored` read it.

        Args:
            replica: one of the seeds, by index; all if not given.

        Returns:
            "kind", "seeds", "architecture" and, by the names of `state_dict`, "tensors" as nested
            lists. Nothing is rounded.

        Raises:
            ValueError: no such replica, or weights that are not finite.

        >>> from ibvonns.layouts import Point
        >>> law = Model([3, 4], Architecture(Point(), decoder="gaussian")).exported(1)
        >>> law["seeds"], len(law["tensors"]["encoder.h.layers.0.weight"][0][0])
        ([4], 10)
        """
        number, chosen = len(self.seeds), slice(None)
        if replica is not None:
            require(count("replica", replica, 0) < number, f"replica must be below {number}, but is {replica}")
            chosen = slice(replica, replica + 1)
        state = {name: finite(name, part) for name, part in self.state_dict().items()}
        tensors = {name: (part[chosen] if part.ndim == 3 else part).tolist() for name, part in state.items()}
        return {**self._head(), "seeds": self.seeds[chosen], "tensors": tensors}

    def _head(self) -> dict[str, Any]:
        """What a file tells beside the tensors."""
        return {"kind": KIND, "seeds": self.seeds, "architecture": self.architecture.plain()}

    def to_numpy(self) -> Any:
        """Law and encoder of all replicas by NumPy alone, a `plain.PlainLaw`.

        Raises:
            ValueError: as `exported`, and what `plain.PlainLaw` refuses.

        >>> from ibvonns.layouts import Point
        >>> Model([3, 4], Architecture(Point(), decoder="gaussian")).to_numpy().seeds
        [3, 4]
        """
        return import_module("ibvonns.plain").PlainLaw(self.exported())  # by name: no training depends on it

    @classmethod
    def restored(cls, law: Mapping[str, Any]) -> "Model":
        """The model that `exported` wrote down as `law`.

        Raises:
            ValueError: the dictionary holds no law, or tensors of another.
        """
        whole = {"seeds", "architecture", "tensors"} <= law.keys() and law.get("kind") == KIND
        require(whole, f"law must be what `exported` gave, but holds {sorted(law)}")
        model = cls(law["seeds"], Architecture.of(law["architecture"]))
        state = model.state_dict()
        odd = sorted(state.keys() ^ law["tensors"].keys())
        require(not odd, f"law must hold this architecture's tensors, but differs in {odd}")
        for name, old in state.items():
            new = finite(f"law's tensor {name!r}", torch.as_tensor(law["tensors"][name], dtype=old.dtype))
            if new.numel() != old.numel():
                shaped(f"law's tensor {name!r}", new, old.shape)
            old.copy_(new.reshape(old.shape))  # an empty list has lost its shape
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to `path`, whole or not at all: as JSON if it ends so, else safetensors.

        Raises:
            ValueError: as `exported`, for JSON.
        """
        if Path(path).suffix == ".json":
            return save_json(path, self.exported())
        return save_tensors(path, self.state_dict(), {KIND: json.dumps(self._head())})


def load(path: str | os.PathLike[str]) -> Model:
    """Read a model that `Model.save` wrote to `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else.
    """
    if Path(path).suffix == ".json":
        law = load_json(path)
    else:
        tensors, metadata = load_tensors(path)
        try:
            law = {**json.loads(metadata.get(KIND, "{}")), "tensors": tensors}
        except (TypeError, ValueError):  # no JSON, or none of a dictionary
            law = {}
    known = isinstance(law, dict) and law.get("kind") == KIND
    require(known, f"path must name a saved model, but {os.fspath(path)!r} holds none")
    return Model.restored(law)
