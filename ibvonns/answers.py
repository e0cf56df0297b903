"""What a learned law answers: forces, work, heat and dissipation under any controls, from any start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from ibvonns.ensemble import Ensemble
from ibvonns.law import Law
from ibvonns.model import Model
from ibvonns.observations import Observations, observe
from ibvonns.rollout import rollout
from ibvonns.validation import choice, finite, increasing, require, shaped, tensor

__all__ = ["Answer", "Band", "equilibrium", "predict"]

Array = numpy.ndarray[Any, Any]
WAY, SETTLED = 50, 100  # Newton steps in which the controls of a point go where they are wanted, and in all
STEP = 0.2  # largest one, in deviations of alpha
BLOCK = 100  # steps of a relaxation between two looks at it
REST = 1e-8  # of its usual rate, at which a state is at rest


@dataclass(frozen=True, eq=False)
class Band:
    """A quantity, one value for each seed.

    Attributes:
        values: shape (seeds, ...).
    """

    values: Array

    @property
    def mean(self) -> Array:
        """Over the seeds."""
        return self.values.mean(0)

    @property
    def std(self) -> Array:
        """Scatter of the seeds; 0 of a single one."""
        return self.values.std(0, ddof=min(1, len(self.values) - 1))


@dataclass(frozen=True, eq=False)
class Answer:
    """What a law says of some conditions. Everything is NumPy's, and an energy is one of a realisation.

    Attributes:
        times: shape (times,).
        controls: what drives it by name, (conditions, times).
        force: F_ex by name, (seeds, conditions, times).
        field: strains of sites with bonds, (seeds, conditions, times, sites); the controls of a point.
        alpha: internal variables, (seeds, conditions, times, sites, internal).
        work: done from outside since the beginning, (seeds, conditions, times).
        free_energy: gained since the beginning, likewise.
        dissipation: the energy dissipated since the beginning, likewise; it never falls.
        heat: given to the surroundings since the beginning, likewise: what is dissipated, less kBT times the entropy
            that the density has gained; None if the temperature is not known.
    """

    times: Array
    controls: dict[str, Array]
    force: dict[str, Band]
    field: Band
    alpha: Band
    work: Band
    free_energy: Band
    dissipation: Band
    heat: Band | None

    @property
    def balance(self) -> float:
        """By how much work is not free energy and dissipation: the largest difference, in units of the largest work.

        The first law and the second hold whatever the weights: what is left is the error of the steps in time.
        """
        left = self.work.values - self.free_energy.values - self.dissipation.values
        return float(numpy.nanmax(abs(left)) / max(numpy.nanmax(abs(self.work.values)), 1e-300))


@torch.no_grad()
def predict(
    model: Model,
    times: Any,
    controls: Mapping[str, Any],
    start: str | Ensemble | Observations = "equilibrium",
    sites: int | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Answer:
    """What a law says under given controls.

    Args:
        model: trained, with its gauge frozen.
        times: shape (times,), in the unit of the training data; steps about as long as theirs.
        controls: by the names that the model was fitted with, each of shape (times,) or (conditions, times). Of a row
            "length", of its end, from the wall, less the natural one of all sites, or "force".
        start: "equilibrium" at the first controls, or particles at the first of the times, of as many conditions.
        sites: of a row that starts from equilibrium, how many.
        parameters: of its sites, by name, if they have any, each of shape (sites,).

    Raises:
        ValueError: controls that are missing, unknown or of another shape, or particles of another kind.

    >>> import ibvonns
    >>> from ibvonns.systems.trap import Trap
    >>> few = Trap().simulate_paper(velocities=(0.5, 1.0), realisations=50)
    >>> short = ibvonns.Recipe((ibvonns.Stage((ibvonns.Phase(0, 5),), {"density": 1.0}),), attempts=0)
    >>> law = ibvonns.fit(few, controls="pulled_length", seeds=2, recipe=short)
    >>> run = law.predict(few.times, {"pulled_length": few.times * 0.3})
    >>> run.force["external_force"].mean.shape, run.balance < 0.01
    ((1, 301), True)
    """
    layout, of = model.law.layout, model.architecture
    clock = increasing("times", tensor("times", times).double())
    wanted = (
        ["length", "force"] if layout.driven else list(of.controls) or [f"control {n}" for n in range(layout.fields)]
    )
    for name in controls:
        choice("controls", name, wanted)
    missing = [] if layout.driven else [name for name in wanted if name not in controls]
    require(controls and not missing, f"controls must hold {' and '.join(missing) or 'length or force'}, but do not")
    given = {name: torch.atleast_2d(tensor(f"controls[{name!r}]", each).double()) for name, each in controls.items()}
    rows = max(len(each) for each in given.values())
    given = {n: shaped(f"controls[{n!r}]", p, ("conditions", len(clock))).expand(rows, -1) for n, p in given.items()}
    known, first = {}, torch.stack([*given.values()], -1)[:, 0]
    if layout.driven and "length" in given:
        speed = given["length"].diff(dim=1) / clock.diff()
        known["velocity"] = torch.cat([speed[:, :1], speed], 1)
    elif layout.driven:
        known["force"] = given["force"]
    else:
        known["field"] = torch.stack([given[name] for name in wanted], -1)
        first = known["field"][:, 0]
    if isinstance(start, str):
        choice("start", start, ["equilibrium"])
        lacking = [name for name in of.controls if layout.driven and name not in (parameters or {})]
        require(not lacking, f"parameters must hold {' and '.join(lacking)}, but do not")
        own = [
            tensor(f"parameters[{name!r}]", (parameters or {})[name]).double() for name in of.controls if layout.driven
        ]
        number = len(own[0]) if own else sites or 1
        z = equilibrium(model, first, "length" in given, number, torch.stack(own, -1) if own else None)
    else:
        seen = start
        if isinstance(start, Ensemble):
            seen = observe(
                start, of.controls if not layout.driven else (), (), spacing=of.spacing, parameters=parameters
            )
        assert isinstance(seen, Observations)
        require(
            len(seen.field) == rows, f"start must have {rows} conditions, as the controls, but has {len(seen.field)}"
        )
        z = model.states(seen, model.encode(seen))[:, :, 0]
    states, ends = model.rolled(z, clock, known)
    if layout.driven:
        drive = known.get("velocity", known.get("force")).expand(len(states), -1, -1)  # type: ignore[union-attr]
        force, speed = (ends[..., 0], drive) if "length" in given else (drive, ends[..., 0])
        moved = given["length"].expand_as(force) if "length" in given else of.spacing * states[..., layout.given].sum(3)
        answers, paths = force[..., None], moved[..., None]
    else:
        answers, paths = ends, known["field"].expand(len(states), -1, -1, -1)
    return _answer(model, clock, given, states, answers, paths)


def _answer(
    model: Model, clock: Tensor, given: Mapping[str, Tensor], states: Tensor, answers: Tensor, paths: Tensor
) -> Answer:
    """Energies along states, each by the trapezoidal rule."""
    law, of, fields = model.law, model.architecture, model.law.layout.fields
    rows = states.flatten(1, 2)
    pull = answers[..., 0].flatten(1) if law.layout.driven else None
    power = law.dissipation(rows, law.driving(rows, pull)).sum(-1).unflatten(1, states.shape[1:3])
    energy = law.free_energy(rows).sum(-1).unflatten(1, states.shape[1:3])

    def summed(part: Tensor) -> Tensor:
        return torch.nn.functional.pad(part.cumsum(2), (1, 0))

    work = summed(((answers[:, :, 1:] + answers[:, :, :-1]) / 2 * paths.diff(dim=2)).sum(-1))
    lost = summed((power[..., 1:] + power[..., :-1]) / 2 * clock.diff())
    heat = None
    if of.temperature is not None:
        entropy = model.decoder.entropy(states.flatten(1, 3)).unflatten(1, states.shape[1:4]).sum(3)
        heat = Band((lost - of.temperature * (entropy - entropy[:, :, :1])).numpy())
    names = of.forces or (("force",) if answers.shape[-1] == 1 else [f"force {n}" for n in range(answers.shape[-1])])
    field = states[..., law.layout.given : fields] if of.bonds else states[..., :fields]
    return Answer(
        clock.numpy(), {name: part.numpy() for name, part in given.items()},
        {name: Band(part.numpy()) for name, part in zip(names, answers.unbind(-1), strict=False)},
        Band((field[..., 0] if of.bonds else field).numpy()), Band(states[..., fields:].numpy()),
        Band(work.numpy()), Band((energy - energy[:, :, :1]).numpy()), Band(lost.numpy()), heat,
    )  # fmt: skip


@torch.no_grad()
def equilibrium(
    model: Model, first: Tensor, held: bool = False, sites: int = 1, parameters: Tensor | None = None
) -> Tensor:
    """States at rest: what a law relaxes to when nothing changes outside, where f has come down as far as it can.

    A row is left to itself from the mean state of the training data, in steps that grow as long as f falls; under a
    force, as long as f less its work does. At a point f is minimised by Newton's method, from the mean first state of
    the training data, while the controls go from there to the wanted ones: beyond the data f may have other minima.

    Args:
        model: trained, with its gauge frozen.
        first: controls of a point, shape (conditions, controls); of a row the length or the force, (conditions, 1).
        held: whether a row's end is held at the length.
        sites: of a row.
        parameters: of its sites, shape (sites, parameters).

    Returns:
        Shape (replicas, conditions, sites, fields + internal).

    Raises:
        ValueError: NaN.
    """
    law, layout = model.law, model.law.layout
    number, replicas, width = len(first), len(model.seeds), layout.fields + law.internal
    finite("first", first)
    if not layout.driven:
        return _minimum(law, first)
    z = first.new_zeros(replicas, number, sites, width)
    z[..., layout.given] = first / sites / law.spacing if held else law.field[0, -1]
    if parameters is not None:
        z[..., : layout.given] = parameters
    known = {"velocity": 0 * first} if held else {"force": first}

    def potential(z: Tensor) -> Tensor:  # what can only fall
        work = 0.0 if held else first[:, 0] * law.spacing * z[..., layout.given].sum(-1)
        return law.free_energy(z).sum(-1) - work

    lapse, fastest = 0.02 / law.clock, torch.inf
    for _ in range(200):
        steps = lapse.repeat(BLOCK)
        path, _ = rollout(law, z, steps, rule="euler", **{n: p.expand(-1, BLOCK) for n, p in known.items()})  # type: ignore[arg-type]
        fastest = float(((path[:, :, -1] - path[:, :, -2])[..., layout.given :] / lapse / law.clock).abs().max())
        fell = potential(path[:, :, -1]) <= potential(z) + 1e-9 * law.energy
        if bool(fell.all()) and fastest < torch.inf:
            z, lapse = path[:, :, -1], 1.5 * lapse
            if fastest < REST:
                break
        else:
            lapse = lapse / 3
    return z


def _minimum(law: Law, first: Tensor) -> Tensor:
    """States of a point at rest, (replicas, conditions, 1, fields + internal); where f bends down it goes downhill."""
    (mean, deviation), fields = law.field, law.layout.fields
    begun = mean + deviation * law.reference[..., :fields]
    alpha = law.reference[:, :, None, fields:].expand(-1, len(first), -1, -1)
    for share in [*torch.linspace(0, 1, WAY).tolist(), *(SETTLED - WAY) * [1.0]]:
        field = torch.lerp(begun, first.expand(len(begun), -1, -1), share)[:, :, None]
        with torch.enable_grad():
            at = alpha.detach().requires_grad_()
            g = law.slopes(torch.cat([field, at], -1))[1]
            bent = [-torch.autograd.grad(part.sum(), at, retain_graph=True)[0] for part in g.unbind(-1)]
        steep, axes = torch.linalg.eigh(torch.stack(bent, -1))
        way = (axes.mT @ g.detach()[..., None])[..., 0] / steep.abs().clamp_min(1e-9 * law.energy)
        way = way * (STEP / way.norm(dim=-1, keepdim=True).clamp_min(1e-300)).clamp_max(1.0)
        alpha = law.bounded(torch.cat([field, alpha + (axes @ way[..., None])[..., 0]], -1))[..., fields:]
    return torch.cat([first.expand(len(alpha), -1, -1)[:, :, None], alpha], -1)
