"""Bad input to any public function is refused by one sentence: what, what came, what is allowed."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import LAYOUTS, architecture_of, few_of, frozen, seen_of

import ibvonns
from ibvonns import answers, metrics, protocols, selection, training, validation
from ibvonns.decoders import FlowDecoder, GaussianDecoder, GaussiansDecoder, MixtureDecoder, SigmoidalFlow
from ibvonns.encoder import Encoder
from ibvonns.ensemble import Density, Ensemble, Samples
from ibvonns.files import load_json, load_tensors, save_json, save_tensors
from ibvonns.fluctuations import Estimate, Moves, covariation, drift, richardson, shapes
from ibvonns.inspection import inspect as inspected
from ibvonns.law import Law, Scales
from ibvonns.layouts import Grid, Point, Ring, Row, layout_of
from ibvonns.learning import fit
from ibvonns.likelihood import flow_nll, mixture_nll
from ibvonns.losses import Sampling
from ibvonns.model import Architecture, Model, load
from ibvonns.networks import INN, MLP, PICINN, Affine, PositiveLinear, generators
from ibvonns.observations import joined, observe
from ibvonns.optimiser import SOAP
from ibvonns.protocols import Protocol
from ibvonns.reading import from_arrays, from_conditions, read, read_parts
from ibvonns.recipe import Phase, Recipe, Stage
from ibvonns.residuals import residuals
from ibvonns.rollout import relaxed, rollout
from ibvonns.seeds import fitted, scores
from ibvonns.selection import sufficiency
from ibvonns.systems.chain import Chain
from ibvonns.systems.lattice import Lattice, moments
from ibvonns.systems.trap import Trap

NAN = float("nan")
# of the wrong type, behind the type checker's back
TEXT: Any = "1"
FLOAT: Any = 1.5
NONE: Any = None


def ones(*shape: int) -> Tensor:
    """Ones in double precision."""
    return torch.ones(shape, dtype=torch.float64)


T2 = torch.tensor([0.0, 0.1], dtype=torch.float64)
BACK, BAD, RNGS = T2.flip(0), T2 * NAN, generators([0])
RANDOM, WEIGHT = torch.Generator().manual_seed(0), ones(1, 2, 3)
PAIR = Ensemble(T2, ones(1, 2, 4) * torch.arange(4), {"pulled_length": ones(1, 2)})
FULL = replace(PAIR, records={"pulled_length": ones(1, 2), "external_force": ones(1, 2) * T2})
DENSITY = PAIR.density(torch.linspace(0, 3, 5, dtype=torch.float64))
TRAP, CHAIN, PLANE = Trap(), Chain(), few_of("plane")
SEEN, WATCHED, FLAT = seen_of("point"), seen_of("row"), seen_of("plane")
ENCODER, DECODER, MIXTURE, FLOW = Encoder(RNGS), GaussianDecoder(RNGS), MixtureDecoder(RNGS), FlowDecoder(RNGS)
HUMPS = GaussiansDecoder(RNGS)
MAP, LAW, INNER, PARTIAL = SigmoidalFlow(RNGS, 2), Law(RNGS, Row()), INN(RNGS, 2, (3,)), PICINN(RNGS, 2, 1, (3,))
ROW, POINT, FREE = frozen("row"), frozen("point"), Law(RNGS, Ring())
ALPHA, Z, STATES, PULL = ones(1, 3, 1), ones(1, 3, 2), ones(1, 2, 3, 2), ones(2, 1)
SHORT = Stage((Phase(0, 1),), {"density": 1.0})
TOO_LONG = Recipe((Stage((Phase(400, 1),), {"end": 1.0}),))


def nll_parts(graded: int = -1) -> list[Tensor]:
    """Grid, weights and three parameters of a likelihood, one of which may require a gradient."""
    parts = [ones(4), ones(2, 4), *(ones(1, 2, 2) for _ in "abc")]
    return [part.requires_grad_(place == graded) for place, part in enumerate(parts)]


def soap() -> SOAP:
    """An optimiser of one matrix."""
    return SOAP([WEIGHT.clone()])


def write(path: Path, content: bytes) -> Path:
    """A file with this content."""
    path.write_bytes(content)
    return path


def stored(path: Path) -> Path:
    """A saved ensemble."""
    PAIR.save(path)
    return path


def foreign(path: Path) -> Path:
    """A whole file that holds something else."""
    if path.suffix == ".json":
        save_json(path, {"kind": "another"})
    else:
        save_tensors(path, {"x": ones(1)}, {"kind": "another"})
    return path


def trained(recipe: Recipe | None = None, **change: Any) -> Any:
    """A training of one step on changed data."""
    return training.train(Model([0], architecture_of("point")), replace(SEEN, **change), recipe or Recipe((SHORT,)))


def asked(controls: dict[str, Any], model: Model = POINT, **how: Any) -> Any:
    """What a law answers at two times."""
    return answers.predict(model, T2, controls, **how)


def exported(without: str = "") -> dict[str, Any]:
    """A law as plain numbers, without one of its tensors."""
    law = POINT.exported()
    return {**law, "tensors": {name: value for name, value in law["tensors"].items() if name != without}}


# (public name, call on an empty folder, how the sentence begins and goes on, and the exception if no ValueError)
Call = Callable[[Path], Any]
GAS = Law(RNGS[:1], Ring(), internal=0, gas=1.0)
TWO, HALF, WORDS = Estimate(ones(2, 3)), np.full(200, 0.5), np.zeros((2, 200), np.uint64)
CASES: list[tuple[str, Call, str] | tuple[str, Call, str, type[Exception]]] = [
    ("validation.positive", lambda _: validation.positive("k", NAN), "k must be a f"),
    ("validation.positive", lambda _: validation.positive("k", TEXT), "k .* type str", TypeError),
    ("validation.count", lambda _: validation.count("n", FLOAT), "n must be a whole", TypeError),
    ("validation.count", lambda _: validation.count("n", 1, 2), "n .* 2, but is 1"),
    ("validation.positive", lambda _: validation.positive("s", -1.0, 0.5), "s .* of at least 0.5, but is -1"),
    ("validation.choice", lambda _: validation.choice("p", "c", "ab"), "p .*'a', 'b'"),
    ("validation.finite", lambda _: validation.finite("x", TEXT), "x must be a torch", TypeError),
    ("validation.finite", lambda _: validation.finite("x", BAD), "x .* 2 NaN or infin"),
    ("validation.shaped", lambda _: validation.shaped("x", T2, (3,)), r"x .* \(2,\)"),
    ("validation.increasing", lambda _: validation.increasing("t", BACK), "t .* entry"),
    ("validation.require", lambda _: validation.require(0, "k must be so"), "k must be so"),
    ("protocols.pulled_length", lambda _: protocols.pulled_length("zigzag", T2, T2), "protocol must be one of 'at-res"),
    ("protocols.pulled_length", lambda _: protocols.pulled_length("at-rest", BAD, T2), "velocities must be finite"),
    ("protocols.pulled_length", lambda _: protocols.pulled_length("at-rest", T2, BACK), "times must increase strictly"),
    ("protocols.Protocol", lambda _: Protocol("zigzag"), "kind must be one of 'at-res"),
    ("protocols.Protocol", lambda _: Protocol("hold", times=(1.0, 2.0)), "times of 'hold' must be out, rest, b"),
    ("protocols.Protocol", lambda _: Protocol("unload", times=(2.0, 1.0)), "times of 'unload' must be out, back"),
    ("protocols.Protocol", lambda _: Protocol("cycle", times=(0.0,)), "time must be a finite number above 0"),
    ("protocols.Protocol", lambda _: Protocol("at-rest", NAN), "size and base must be finite"),
    ("protocols.rich", lambda _: protocols.rich(1.0, 1.0, 3.0), "high must be above low, 1.0, but is 1.0"),
    ("protocols.rich", lambda _: protocols.rich(0.0, 1.0, 0.0), "duration must be a finite number above 0"),
    ("protocols.wandering", lambda _: protocols.wandering(0, 0.0, 1.0, 1.0, 1.0), "number must be a whole number of"),
    ("protocols.wandering", lambda _: protocols.wandering(1, 1.0, 0.0, 1.0, 1.0), "high must be above low"),
    ("protocols.wandering", lambda _: protocols.wandering(1, 0.0, 1.0, 1.0, -1.0), "speed must be a finite number abo"),
    ("protocols.lengths", lambda _: protocols.lengths([], T2), "protocols must number at least 1"),
    ("protocols.lengths", lambda _: protocols.lengths([Protocol("at-rest")], BACK), "times must increase strictly"),
    (
        "selection.choose",
        lambda _: selection.choose(SEEN, SEEN, Architecture(Point(), decoder="gaussian"), numbers=()),
        "numbers must name at least 1",
    ),
    ("selection.sufficiency", lambda _: sufficiency(POINT, SEEN, ones(2, 3)), "others must have shape"),
    ("selection.sufficiency", lambda _: sufficiency(POINT, SEEN.at(slice(0, 9))), "times must number over"),
    ("selection.shape_of", lambda _: selection.shape_of(FLAT), "data must be on a grid"),
    ("inspection.inspect", lambda _: inspected(PAIR, ["x"]), r"records\['x'\] must have shape \(1, 2\), but has none"),
    (
        "inspection.inspect",
        lambda _: inspected(PAIR, (), ["pulled_length"]),
        "forces must be as many as controls, but ar",
    ),
    ("inspection.inspect", lambda _: inspected(PAIR, internal=-1), "internal must be a whole number of at least 0"),
    ("systems.trap.Trap", lambda _: Trap(stiffness=0.0), "stiffness must be a finite"),
    ("systems.trap.Trap", lambda _: Trap(temperature=-0.01), "temperature .* but is -0.01"),
    ("systems.trap.Trap.simulate", lambda _: TRAP.simulate(ones(1, 2) * NAN, T2, 3, RANDOM), "lengths must be finite,"),
    ("systems.trap.Trap.simulate", lambda _: TRAP.simulate(ones(1, 3), T2, 3, RANDOM), r"lengths must have shape "),
    ("systems.trap.Trap.simulate", lambda _: TRAP.simulate(ones(1, 2), BACK, 3, RANDOM), "times must increase strictl"),
    ("systems.trap.Trap.simulate", lambda _: TRAP.simulate(ones(1, 2), 10 * T2, 3, RANDOM), "times must have steps be"),
    ("systems.trap.Trap.simulate_paper", lambda _: TRAP.simulate_paper("zigzag"), "protocol must be one of"),
    ("systems.trap.Trap.mean", lambda _: TRAP.mean(ones(1, 2), T2, steps="heun"), "steps must be one of 'euler', 'exa"),
    ("systems.trap.Trap.deviation", lambda _: TRAP.deviation(T2, initial=-0.1), "initial must be a finite number abov"),
    ("systems.trap.Trap.free_energy", lambda _: TRAP.free_energy(T2, BAD), "means m"),
    ("systems.trap.Trap.free_energy", lambda _: TRAP.free_energy(T2, ones(3)), r"means must match the shape of length"),
    ("systems.trap.Trap.dissipation", lambda _: TRAP.dissipation(BAD), "rates must"),
    ("systems.trap.Trap.dual_dissipation", lambda _: TRAP.dual_dissipation(BAD), "forces must be finite"),
    ("systems.trap.Trap.thermodynamic_force", lambda _: TRAP.thermodynamic_force(BAD, T2), "lengths must be finite"),
    ("systems.trap.Trap.external_force", lambda _: TRAP.external_force(BAD, T2), "lengths must be finite"),
    ("systems.trap.Trap.equilibrium_force", lambda _: TRAP.equilibrium_force(BAD), "lengths must be finite"),
    ("systems.chain.Chain", lambda _: Chain(springs=1), "springs must be a whole"),
    ("systems.chain.Chain", lambda _: Chain(temperature=-1.0), "temperature must be a"),
    ("systems.chain.Chain", lambda _: Chain(stiffness=(0.01, 0.02)), "stiffness must make the wells meet, .* but the"),
    ("systems.chain.Chain", lambda _: Chain(well_strain=0.5), "well_strain must be above barrier_strain, 1.0, but is"),
    ("systems.chain.Chain.potential", lambda _: CHAIN.potential(BAD), "strain must be"),
    ("systems.chain.Chain.spring_force", lambda _: CHAIN.spring_force(BAD), "strain must be finite"),
    ("systems.chain.Chain.equilibrium", lambda _: CHAIN.equilibrium(-0.1, 3, RANDOM), "length must be a finite number"),
    ("systems.chain.Chain.equilibrium", lambda _: CHAIN.equilibrium(0.2, 3, RANDOM, spacing=NAN), "spacing must be a"),
    (
        "systems.chain.Chain.simulate",
        lambda _: CHAIN.simulate(ones(1, 2) * 0.2, T2 / 10, 4, RANDOM, ones(1, 10, 3)),
        "initial must have shape",
    ),
    (
        "systems.chain.Chain.simulate",
        lambda _: CHAIN.simulate(ones(1, 2) * 0.3, T2 / 10, 4, RANDOM, ones(1, 10, 4)),
        "initial must have the first of lengths, but its total strain is off by up to 10",
    ),
    ("systems.chain.Chain.simulate", lambda _: CHAIN.simulate(-ones(1, 2), T2 / 10, 3, RANDOM), "lengths must be abov"),
    ("systems.chain.Chain.simulate", lambda _: CHAIN.simulate(ones(1, 2), BACK, 3, RANDOM), "times must increase stri"),
    ("systems.chain.Chain.simulate", lambda _: CHAIN.simulate(ones(1, 2), T2, 3, RANDOM), "times must have steps belo"),
    ("systems.chain.Chain.simulate_paper", lambda _: CHAIN.simulate_paper("zigzag"), "protocol must be one of"),
    ("systems.chain.Chain.pulls", lambda _: CHAIN.pulls("zigzag", (0.2,)), "protocol must be one of"),
    ("systems.chain.Chain.initial", lambda _: CHAIN.initial(-ones(1, 1)[0], 3, RANDOM), "length must be a finite num"),
    ("layouts.Point", lambda _: Point(0), "controls must be a whole"),
    ("layouts.Row", lambda _: Row(-1), "parameters must be a whole number of at least 0"),
    ("layouts.Grid", lambda _: Grid(0, 2), "rows must be a whole"),
    ("layouts.Grid.bonds", lambda _: Grid(2, 3).bonds(5), "sites must number 2 x 3 on this grid, but number 5"),
    ("layouts.layout_of", lambda _: layout_of({"kind": "Torus"}), "layout must be one of 'Grid', 'Point', 'Ring', 'Ro"),
    ("ensemble.Ensemble", lambda _: Ensemble(BACK, ones(1, 2, 4)), "times must inc"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, ones(1, 2, 0)), "realisations mus"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, ones(1, 3, 4)), "realisations mus"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, BAD[None, :, None]), "realisations m"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, ones(1, 2, 4), {"force": ones(2, 2)}), r"records\['force'\] must beg"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, ones(1, 2, 4), {"force": BAD[None]}), r"records\['force'\] must be"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, ones(1, 2, 4, 3), components=2), "realisations must .* components"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, ones(1, 2, 4), components=0), "components must be a whole"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, ones(1, 2, 4), units={"x": "m"}), "units must be one of 'positions'"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, ones(1, 2, 4), units={"times": 1}), "units must be words", TypeError),  # type: ignore[dict-item]
    ("ensemble.Ensemble", lambda _: Ensemble(T2, ones(1, 2, 4), units="m"), "units must be words by", TypeError),  # type: ignore[arg-type]
    ("ensemble.Ensemble.from_arrays", lambda _: Ensemble.from_arrays(ones(2, 4), T2, axes="time"), "axes must name ti"),
    ("ensemble.Ensemble.open", lambda p: Ensemble.open(p / "none.h5"), "path must name an existing", FileNotFoundError),
    ("ensemble.Ensemble.summary", lambda _: PAIR.summary(["x"]), r"records\['x'\] must have shape"),
    ("ensemble.Ensemble.variance", lambda _: Ensemble(T2, ones(1, 2, 1)).variance(), "realisations must number at lea"),
    ("ensemble.Ensemble.standard_error", lambda _: Ensemble(T2, ones(1, 2, 1)).standard_error(), "realisations must n"),
    ("ensemble.Ensemble.select", lambda _: PAIR.select(slice(3, 4)), "realisations must hold at least 1"),
    ("ensemble.Ensemble.density", lambda _: PAIR.density(torch.tensor([0.0, 1.0, 3.0])), "grid must be uniform, but i"),
    ("ensemble.Ensemble.density", lambda _: PAIR.density(torch.tensor([0.0, 1.0])), r"grid must span every realisatio"),
    ("ensemble.Ensemble.density", lambda _: PLANE.density(torch.linspace(-9, 9, 5)), "components must be 1 on a gr"),
    ("ensemble.Ensemble.load", lambda p: Ensemble.load(p / "none"), "path must name an existing fi", FileNotFoundError),
    ("ensemble.Ensemble.load", lambda p: Ensemble.load(foreign(p / "x")), "path must name a saved ensemble, but"),
    ("ensemble.Ensemble.load", lambda p: Ensemble.load(write(p / "x", b"garbage")), "path must name a whole safetenso"),
    ("ensemble.Density", lambda _: Density(T2, ones(3, 4)), "weights must have sha"),
    ("ensemble.Density", lambda _: Density(BACK, T2), "grid must increase"),
    ("ensemble.Density.expectation", lambda _: DENSITY.expectation(ones(4, 1)), r"values must have shape "),
    ("ensemble.Density.error_bound", lambda _: DENSITY.error_bound(-1.0), "curvature must be a finite number of at le"),
    ("ensemble.Density.coarser", lambda _: DENSITY.coarser(0), "factor must be a whole number of at least 1, but is 0"),
    (
        "ensemble.Density.joined",
        lambda _: DENSITY.joined(replace(DENSITY, grid=DENSITY.grid + 0.1), 0.5),
        "grids must have the same spacing",
    ),
    (
        "ensemble.Density.joined",
        lambda _: DENSITY.joined(PAIR.density(torch.linspace(0, 3, 6, dtype=torch.float64)), 0.5),
        "grids must have the same spacing",
    ),
    ("ensemble.Samples", lambda _: Samples(BAD[None]), "positions must be finite"),
    ("files.load_tensors", lambda p: load_tensors(write(p / "x", b"garbage")), "path must name a whole safetensors fi"),
    ("files.load_tensors", lambda p: load_tensors(p / "."), "path must", FileNotFoundError),
    ("files.load_json", lambda p: load_json(write(p / "x", b"{")), "path must name a whole JSON file, but .* is damag"),
    ("files.load_json", lambda p: load_json(p / "none"), "path must name an existing file", FileNotFoundError),
    (
        "reading.from_arrays",
        lambda _: from_arrays(ones(1, 2, 4, 2), T2),
        "axes must be named, as in .* of length 2, the",
    ),
    ("reading.from_arrays", lambda _: from_arrays(ones(2, 4), T2, axes="time x"), "axes must be one of"),
    ("reading.from_arrays", lambda _: from_arrays(ones(2, 4), T2, axes="time"), "axes must name times, realisations"),
    (
        "reading.from_arrays",
        lambda _: from_arrays(ones(3, 4), T2, axes="time realisation"),
        "positions must have shape",
    ),
    ("reading.from_arrays", lambda _: from_arrays(ones(2, 4), T2, {"force": ones(3)}), r"records\['force'\] must beg"),
    ("reading.from_arrays", lambda _: from_arrays(ones(2, 4) * NAN, T2), "positions must be whole, but 4 of 4 real"),
    ("reading.from_arrays", lambda _: from_arrays(ones(2, 4) / 0, T2), "positions must be finite"),
    (
        "reading.from_arrays",
        lambda _: from_arrays(ones(2, 4) * NAN, T2, lost="drop"),
        "positions must keep a share of 0.5",
    ),
    ("reading.from_arrays", lambda _: from_arrays(ones(2, 4), T2, lost="keep"), "lost must be one of 'drop', 'refuse'"),
    ("reading.from_arrays", lambda _: from_arrays([[1.0], [1.0, 2.0]], T2), "positions must be one array"),
    ("reading.from_conditions", lambda _: from_conditions([], []), "positions, times and records must have an entry"),
    ("reading.from_conditions", lambda _: from_conditions([ones(2, 4)], [T2, T2]), "positions, times and records must"),
    (
        "reading.from_conditions",
        lambda _: from_conditions([ones(2, 4)] * 2, [T2] * 2, {"force": [ones(2), ones(1, 2, 3)]}),
        "conditions must have the same sites, dims and records",
    ),
    (
        "reading.read_parts",
        lambda p: read_parts(stored(p / "x.safetensors"), size=0),
        "size must be a whole number of at least 1",
    ),
    ("reading.read_parts", lambda p: read_parts(p / "none.npz"), "path must name an existing file", FileNotFoundError),
    ("reading.read", lambda p: read(p / "none.npz"), "path must name an existing file", FileNotFoundError),
    (
        "reading.read",
        lambda p: read(write(p / "x.npz", b"garbage")),
        "path must name a whole .npz file with what is ask",
    ),
    ("reading.read", lambda p: read(p / "x.txt"), "path must end in one of .csv"),
    ("reading.read", lambda p: read(p / "x.npz", time=-1.0), "time must be a finite number above 0"),
    ("reading.read", lambda _: read([]), "path must name conditions with 1 clock, but with 0"),
    ("networks.generators", lambda _: generators([]), "seeds must name at least 1"),
    ("networks.generators", lambda _: generators([FLOAT]), "seed must be a whole number", TypeError),
    ("networks.Affine", lambda _: Affine(RNGS, 0, 2), "width must be a whole number"),
    ("networks.PositiveLinear", lambda _: PositiveLinear(RNGS, 0, 1), "width must be"),
    ("networks.MLP", lambda _: MLP(RNGS, (3,)), "number of sizes must be a whole"),
    ("networks.MLP.forward", lambda _: MLP(RNGS, (3, 2))(ALPHA), "x must have shape"),
    ("networks.INN", lambda _: INN(RNGS, 2, ()), "number of hidden layers must be"),
    ("networks.INN.forward", lambda _: INNER(ALPHA), r"z must have shape \(..., 2\)"),
    ("networks.INN.gradient", lambda _: INNER.gradient(ALPHA), "z must have shape"),
    ("networks.INN", lambda _: INN(RNGS, 2, (3,), -1), "cubes must be a whole number of at least 0"),
    ("networks.PICINN", lambda _: PICINN(RNGS, 1, 1, ()), "number of hidden layers"),
    ("networks.PICINN", lambda _: PICINN(RNGS, 1, 1, (3,), None, -1), "squares must be a whole number of at least 0"),
    ("networks.PICINN.evaluated", lambda _: PARTIAL.evaluated(ALPHA, ALPHA), "z must have shape"),
    ("networks.PICINN.forward", lambda _: PARTIAL(ALPHA, ALPHA), "z must have shape"),
    ("networks.PICINN.gradient", lambda _: PARTIAL.gradient(ones(1, 3, 2), ones(1, 3, 2)), r"g must have shape "),
    ("observations.observe", lambda _: observe(PAIR, "pulled_length"), "ensemble must hold the record 'external_force"),
    ("observations.observe", lambda _: observe(FULL, "length"), "ensemble must hold the record 'length', but holds"),
    ("observations.observe", lambda _: observe(FULL, points=1), "points must be a whole"),
    ("observations.observe", lambda _: observe([]), "ensemble must have at least 1 part"),
    ("observations.observe", lambda _: observe(PLANE), "controls must be named"),
    (
        "observations.observe",
        lambda _: observe(FULL, ("a", "b"), ("c",)),
        "forces must name one for each of 2 controls, or none, but name 1",
    ),
    ("observations.observe", lambda _: observe(FULL, parameters={"k": [1.0] * 3}), r"parameters\['k'\] must have"),
    ("observations.observe", lambda _: observe(FULL, spacing=-1.0), "spacing must be a finite"),
    ("observations.observe", lambda _: observe(Ensemble(T2, ones(1, 2, 2, 2, 5))), "realisations must have"),
    ("observations.observe", lambda _: observe(Ensemble(T2, ones(1, 2, 5))), "(variance|realisations|grid) must"),
    ("observations.joined", lambda _: joined([]), "ensemble must have at least 1 part"),
    ("observations.joined", lambda _: joined([SEEN, SEEN.select(slice(0, 1))]), "parts of an ensemble must have"),
    ("observations.Observations", lambda _: replace(SEEN, times=SEEN.times.flip(0)), "times must increase"),
    ("observations.Observations", lambda _: replace(SEEN, times=T2), "field must have shape"),
    ("observations.Observations", lambda _: replace(SEEN, mean=SEEN.mean * NAN), "mean must be fin"),
    ("observations.Observations", lambda _: replace(SEEN, variance=0 * SEEN.mean), "variance must be above 0"),
    ("observations.Observations", lambda _: replace(SEEN, cloud=SEEN.cloud.at(slice(0, 1))), "cloud must have"),
    ("observations.Observations", lambda _: replace(SEEN, force=T2[None]), "force must have shape"),
    (
        "observations.Observations",
        lambda _: replace(WATCHED, velocity=NAN * WATCHED.mean[..., 0, 0]),
        "velocity must be fini",
    ),
    ("observations.Observations", lambda _: replace(SEEN, spacing=0.0), "spacing must be"),
    ("observations.Observations", lambda _: replace(SEEN, times=SEEN.times.float()), "times must be of tor", TypeError),
    ("observations.Observations", lambda _: replace(SEEN, field=SEEN.field.float()), "field must be of tor", TypeError),
    ("observations.Observations.every", lambda _: SEEN.every(-1), "stride must be a whole"),
    ("observations.Observations.every", lambda _: SEEN.every(300 + 1), "times must hold at least 2"),
    ("observations.Observations.at", lambda _: SEEN.at(torch.tensor([5, 4])), "times must increase"),
    ("observations.Observations.select", lambda _: SEEN.select(slice(5, 6)), "field must have shape"),
    ("observations.Observations.coarser", lambda _: SEEN.coarser(0), "factor must be a whole"),
    ("observations.Observations.standard_error", lambda _: replace(SEEN, count=1).standard_error(), "count must be a"),
    ("encoder.Encoder", lambda _: Encoder([]), "rngs must hold at least 1 generator"),
    ("encoder.Encoder", lambda _: Encoder(RNGS, 1, 2, anchored=True), "internal must be at least 2 of an anchored enc"),
    ("encoder.Encoder.features", lambda _: ENCODER.features(T2), "(positions|x) must"),
    ("encoder.Encoder.encode", lambda _: ENCODER.encode(ones(2, 0)), "realisations must"),
    ("encoder.Encoder.encode", lambda _: ENCODER.encode(BAD[None]), "realisations must"),
    ("encoder.Encoder.encode", lambda _: ENCODER.encode(ones(2, 3), block=0), "block must be a whole number of at lea"),
    ("encoder.Encoder.measure_gauge", lambda _: ENCODER.measure_gauge(ALPHA, T2), r"means must have shape \(3,\), but"),
    ("decoders.MixtureDecoder", lambda _: MixtureDecoder(RNGS, 0.0), "wells must"),
    ("decoders.MixtureDecoder.forward", lambda _: MIXTURE(T2), "z must have"),
    ("decoders.GaussianDecoder", lambda _: GaussianDecoder(RNGS, internal=0), "width"),
    ("decoders.GaussianDecoder.forward", lambda _: DECODER(T2), "z must have sha"),
    ("decoders.MixtureDecoder.log_density", lambda _: MIXTURE.log_density(ones(1, 4), Z), r"values must begin with"),
    ("decoders.MixtureDecoder.sample", lambda _: MIXTURE.sample(Z, 0, RANDOM), "realisations must be a whole number o"),
    ("decoders.FlowDecoder.log_density", lambda _: FLOW.log_density(ones(1, 4), Z), r"x must begin with shape "),
    ("decoders.FlowDecoder.sample", lambda _: FLOW.sample(Z, 0, RANDOM), "realisations must be a whole number of at l"),
    ("decoders.GaussianDecoder.log_density", lambda _: DECODER.log_density(ones(1, 4), Z), r"values must begin with"),
    ("decoders.GaussianDecoder.sample", lambda _: DECODER.sample(Z, 0, RANDOM), "realisations must be a whole number"),
    ("decoders.Decoder.entropy", lambda _: FLOW.entropy(ones(1, 3, 5)), r"x must have shape \(..., 2\)"),
    ("decoders.GaussiansDecoder", lambda _: GaussiansDecoder(RNGS, 0), "number must be a whole number of at least 1"),
    ("decoders.GaussiansDecoder.forward", lambda _: HUMPS(T2), "z must have shape"),
    ("decoders.GaussiansDecoder.log_density", lambda _: HUMPS.log_density(ones(1, 4), Z), "values must begin with"),
    ("decoders.GaussiansDecoder.sample", lambda _: HUMPS.sample(Z, 0, RANDOM), "realisations must be a whole number"),
    ("decoders.SigmoidalFlow", lambda _: SigmoidalFlow(RNGS, 2, 0), "sigmoids must be"),
    ("decoders.SigmoidalFlow.forward", lambda _: MAP(ones(2), Z), r"x must begin with shape \(1, 3\)"),
    ("decoders.SigmoidalFlow.parameters_at", lambda _: MAP.parameters_at(ALPHA), r"x must have shape \(..., 2\), but"),
    ("decoders.SigmoidalFlow.inverse", lambda _: MAP.inverse(NAN * ones(1, 3), Z), "y must be finite"),
    ("decoders.FlowDecoder", lambda _: FlowDecoder(RNGS, -1), "sigmoids must be a whol"),
    ("likelihood.mixture_nll", lambda _: mixture_nll(ones(4), ones(2, 5), *3 * [ones(1, 2, 2)]), r"weights must have"),
    ("likelihood.flow_nll", lambda _: flow_nll(ones(4), ones(2, 4), *3 * [ones(1, 3, 2)]), r"log_a must have shape"),
    ("law.Scales", lambda _: Scales(Row(), 0.0), "spacing must be"),
    ("law.Scales", lambda _: Scales(Point(), internal=0), "internal must be a whole number of at least 1"),
    ("law.Law", lambda _: Law(RNGS, Row(), energy_hidden=()), "number of hidden layers"),
    ("law.Scales.set_scales", lambda _: LAW.set_scales(0 * T2[:, None], 1.0, 1.0), "deviation of the field must be a"),
    ("law.Scales.set_scales", lambda _: LAW.set_scales(T2[:, None] * NAN, 1.0, 1.0), "field must be finite"),
    ("law.Scales.set_scales", lambda _: LAW.set_scales(T2, 1.0, 1.0), "field must have shape"),
    ("law.Scales.set_scales", lambda _: LAW.set_scales(ones(2, 1), 0.0, 1.0), "energy must be a"),
    ("law.Law.set_reference", lambda _: LAW.set_reference(STATES[:, :1, :1] * NAN), "z must be finite"),
    ("law.Law.set_reference", lambda _: LAW.set_reference(STATES), "z must have shape"),
    ("law.Law.free_energy", lambda _: LAW.free_energy(STATES[..., :1]), "(z|x|g) must have shape"),
    ("law.Law.slopes", lambda _: LAW.slopes(STATES[..., :1]), "(z|x|g) must have shape"),
    ("law.Law.driving", lambda _: LAW.driving(STATES[..., :1]), "(z|x|g) must have shape"),
    ("law.Law.step", lambda _: LAW.step(STATES[..., :1], PULL.mT), "(z|x|g) must have shape"),
    ("law.Law.rates", lambda _: LAW.rates(STATES, STATES[..., :1]), "(z|x|g) must have shape"),
    ("law.Law.dual_dissipation", lambda _: LAW.dual_dissipation(STATES, STATES[..., :1]), "(z|x|g) must have shape"),
    ("law.Law.dissipation", lambda _: LAW.dissipation(STATES, STATES[..., :1]), "(z|x|g) must have shape"),
    ("law.Law.step", lambda _: LAW.step(STATES), "force and velocity must not both be None"),
    ("rollout.rollout", lambda _: rollout(LAW, STATES * NAN, T2, force=ones(2, 2)), "start must be finite"),
    ("rollout.rollout", lambda _: rollout(LAW, STATES, T2, force=ones(3, 2)), "force must have shape"),
    ("rollout.rollout", lambda _: rollout(LAW, STATES, T2), "force and velocity must not both be None"),
    ("rollout.rollout", lambda _: rollout(LAW, STATES, T2, force=ones(2, 2), backend="slow"), "backend must be one of"),
    ("rollout.rollout", lambda _: rollout(FREE, STATES, T2, velocity=ones(2, 2)), "velocity must not be given"),
    (
        "rollout.rollout",
        lambda _: rollout(POINT.law, STATES[:, :, :1].expand(2, -1, -1, -1), T2),
        "field must be given at a point",
    ),
    ("law.Law", lambda _: Law(RNGS, Row(), steps="leap"), "steps must be one of 'euler', 'midpoint'"),
    ("rollout.rollout", lambda _: rollout(LAW, STATES, T2, force=ones(2, 2), rule="leap"), "rule must be one of"),
    ("rollout.rollout", lambda _: rollout(LAW, STATES, T2, force=ones(2, 2), rule="midpoint"), "force must have shap"),
    ("rollout.rollout", lambda _: rollout(LAW, STATES, T2, ones(2, 2, 1), ones(2, 2)), "field must not be given"),
    ("metrics.relative_error", lambda _: metrics.relative_error(BAD, T2), "prediction"),
    ("metrics.relative_error", lambda _: metrics.relative_error(T2[:, None], T2), r"prediction must have shape"),
    ("metrics.relative_error", lambda _: metrics.relative_error(T2, 0 * T2), "truth m"),
    ("metrics.gauge_free_error", lambda _: metrics.gauge_free_error(T2, 0 * T2 + 0.1), "truth must vary"),
    ("optimiser.SOAP", lambda _: SOAP([T2]), r"parameters\[0\] must have shape"),
    ("optimiser.SOAP", lambda _: SOAP([WEIGHT], memory=1.0), "memory must lie between"),
    ("optimiser.SOAP.step", lambda _: soap().step([WEIGHT], NAN), "learning_rate must"),
    ("optimiser.SOAP.step", lambda _: soap().step([ones(1, 3, 2)], 0.1), r"gradients\[0\] must have shape \(1, 2, 3"),
    ("model.Architecture", lambda _: Architecture(spacing=-1.0), "spacing must be"),
    ("model.Architecture", lambda _: Architecture(internal=0), "internal must be a whole number of at least 1"),
    ("model.Architecture", lambda _: Architecture(decoder="spline"), "decoder must be one of 'flow', 'gaussian', 'ga"),
    ("model.Architecture", lambda _: Architecture(law="spring"), "law must be one of .*'potentials'.*, but is 'spring"),
    ("model.Architecture", lambda _: Architecture(layout=Point()), "decoder must not be 'mixture' but for a"),
    ("model.Architecture", lambda _: Architecture(components=2), "decoder must not be 'mixture' but for a st"),
    ("model.Architecture", lambda _: Architecture(sigmoids=0), "sigmoids must be"),
    ("model.Architecture", lambda _: Architecture(Point(), internal=0, decoder="flow"), "internal must be a whole num"),
    ("model.Architecture", lambda _: Architecture(steps="leap"), "steps must be one of 'euler', 'midpoint'"),
    ("model.Architecture", lambda _: Architecture(controls=("length",)), "controls must name 0, but name 1"),
    ("model.Architecture", lambda _: Architecture(temperature=0.0), "temperature must be a finite number above 0"),
    ("model.Architecture.having", lambda _: Architecture().having(0), "internal must be a whole number of at least 1"),
    ("model.Architecture.of", lambda _: Architecture.of({}), "(architecture|layout|values) must"),
    ("model.Architecture.of", lambda _: Architecture.of({**Architecture().plain(), "x": 1}), "(architecture|values) m"),
    ("model.Model", lambda _: Model([], Architecture()), "seeds must name at least 1 seed"),
    ("model.Model.set_scales", lambda _: ROW.set_scales(replace(WATCHED, spacing=1.0)), "data must have the model's s"),
    ("model.Model.matched", lambda _: POINT.matched(replace(SEEN, spacing=2.0)), "data must have the model's spacing"),
    ("model.Model.set_scales", lambda _: POINT.set_scales(FLAT), "data.field must have shape"),
    ("model.Model.set_scales", lambda _: ROW.set_scales(replace(WATCHED, force=None)), "data must have a force"),
    ("model.Model.set_scales", lambda _: ROW.set_scales(replace(WATCHED, velocity=None)), "data must have a velocity"),
    (
        "model.Model.set_scales",
        lambda _: POINT.set_scales(replace(SEEN, field=0 * SEEN.field)),
        "deviation of the field must be",
    ),
    ("model.Model.predict", lambda _: ROW.predict(WATCHED, "both"), "given must be one of 'force', 'velocity', but is"),
    ("model.Model.predict", lambda _: ROW.predict(replace(WATCHED, force=None)), "data must have a force"),
    ("model.Model.predict", lambda _: POINT.predict(FLAT), "data.* must have"),
    ("model.Model.predict", lambda _: ROW.predict(WATCHED, alpha=ones(1, 3)), "(alpha|start) must have shape"),
    ("model.Model.rolled", lambda _: ROW.rolled(STATES.expand(2, -1, -1, -1), T2, {}), "force and velocity must not"),
    ("model.Model.exported", lambda _: POINT.exported(2), "replica must be below 2, but is 2"),
    ("model.Model.to_numpy", lambda _: frozen("ring").to_numpy(), "layout must be a Point or a Row without PyTorch"),
    ("model.Model.restored", lambda _: Model.restored({"kind": "Other"}), "law must be what `exported` gave"),
    ("model.Model.restored", lambda _: Model.restored(exported(without="encoder.offset")), "law must hold this archit"),
    ("model.Model.restored", lambda _: Model.restored({**exported(), "seeds": [0]}), "law's tensor .* must have shape"),
    ("model.load", lambda p: load(p / "none.json"), "path must name an existing file", FileNotFoundError),
    ("model.load", lambda p: load(foreign(p / "x.json")), "path must name a saved model, but"),
    ("model.load", lambda p: load(write(p / "x.json", b"garbage")), "path must name a whole .* file, but"),
    ("model.load", lambda p: load(foreign(p / "x")), "path must name a saved model, but"),
    ("model.load", lambda p: load(write(p / "x", b"garbage")), "path must name a whole .* file, but"),
    ("recipe.Phase", lambda _: Phase(-1, 5), "window must be a whole number"),
    ("recipe.Phase", lambda _: Phase(1, 5, stride=0), "stride must be a whole"),
    ("recipe.Phase.draw", lambda _: Phase(300, 5).draw(300, [0], 0), "window must be below the number of times, 300,"),
    ("recipe.Stage", lambda _: Stage((), {}), "number of phases must be a whole"),
    (
        "recipe.Stage",
        lambda _: Stage((Phase(0, 1),), {"drive": 1.0}),
        "term must be one of 'density', 'drift', .*, but",
    ),
    ("recipe.Stage", lambda _: Stage((Phase(0, 1),), {"end": -1.0}), r"weights\['end'\] must be"),
    ("recipe.Stage", lambda _: Stage((Phase(0, 1),), {}, NAN), "learning_rate must be"),
    ("recipe.Stage.phase_at", lambda _: SHORT.phase_at(1), "step must be below 1"),
    ("recipe.Recipe", lambda _: Recipe(()), "number of stages must be"),
    ("recipe.Recipe", lambda _: Recipe((SHORT,), sound=0.0), "sound must be"),
    ("recipe.Recipe", lambda _: Recipe((SHORT,), checkpoint_every=0), "checkpoint_every must"),
    ("losses.Sampling", lambda _: Sampling(turns=0), "turns must be"),
    ("losses.Sampling", lambda _: Sampling(along=-0.1), "along must be"),
    ("losses.Sampling", lambda _: Sampling(rows=(0, 3)), "rows"),
    ("losses.Sampling", lambda _: Sampling(by=0.0), "by must be"),
    ("training.train", lambda _: trained(field=0 * SEEN.field), "deviation of the field must be a finite number above"),
    ("training.train", lambda _: training.train(ROW, SEEN), "data"),
    ("validation.seeded", lambda _: validation.seeded(2**32), "seed must be below 4294967296"),
    ("validation.seeded", lambda _: validation.seeded(-1), "seed must be a whole number of at least 0"),
    ("validation.seeded", lambda _: validation.seeded(FLOAT), "seed must be a whole number", TypeError),
    ("networks.generators", lambda _: generators([0, 2**32]), "seed must be below"),
    ("validation.tensor", lambda _: validation.tensor("x", [[1], [1, 2]]), "x must hold real numbers", TypeError),
    ("validation.tensor", lambda _: validation.tensor("x", np.array([1j])), "x must hold real numbers", TypeError),
    ("validation.tensor", lambda _: validation.tensor("x", None), "x must hold real numbers", TypeError),
    ("validation.tensor", lambda _: validation.tensor("x", ["a"]), "x must hold real numbers", TypeError),
    ("validation.tensor", lambda _: validation.tensor("x", np.array([True])), "x must hold real numbers", TypeError),
    ("validation.tensor", lambda _: validation.tensor("x", torch.ones(1, device="meta")), "x must hold", TypeError),
    ("validation.tensor", lambda _: validation.tensor("x", [np.nan]), "x must be finite"),
    (
        "ensemble.Ensemble",
        lambda _: Ensemble(FULL.times, FULL.realisations.clone().requires_grad_()),
        "realisations must not",
    ),
    ("likelihood.mixture_nll", lambda _: mixture_nll(*nll_parts(0)), "grid must not require a gradient"),
    ("likelihood.mixture_nll", lambda _: mixture_nll(*nll_parts(1)), "weights must not require a gradient"),
    ("likelihood.flow_nll", lambda _: flow_nll(*(part.float() for part in nll_parts())), "grid must be of", TypeError),
    ("training.train", lambda _: trained(recipe=TOO_LONG), "window must be below the number of times, 301, but is 400"),
    ("learning.fit", lambda _: fit(SEEN, Point(), seeds=[]), "seeds must name"),
    ("learning.fit", lambda _: fit(few_of("point"), Point(), "width"), r"records\['width'\] must have"),
    ("learning.fit", lambda _: fit(SEEN, LAYOUTS["row"]), "data"),
    ("learning.fit", lambda _: fit(SEEN, Point(), decoder="mixture"), "decoder must not be"),
    ("seeds.fitted", lambda _: fitted(architecture_of("point"), SEEN, []), "seeds must name at least 1"),
    ("seeds.scores", lambda _: scores(POINT, replace(SEEN, count=1)), "(count|ensemble|realisations) must"),
    ("answers.predict", lambda _: asked({"width": T2}), "controls must be one of 'control 0', but is 'width'"),
    ("answers.predict", lambda _: asked({}), "controls must hold control 0, but do not"),
    ("answers.predict", lambda _: asked({}, ROW), "controls must hold length or force, but do not"),
    ("answers.predict", lambda _: asked({"control 0": T2[:1]}), r"controls\['control 0'\] must have shape"),
    ("answers.predict", lambda _: asked({"control 0": T2}, start=SEEN), "start must have 1 conditions, as the contro"),
    ("answers.predict", lambda _: asked({"control 0": T2}, start="rest"), "start must be one of 'equilibrium'"),
    ("answers.predict", lambda _: answers.predict(POINT, BACK, {"control 0": T2}), "times must increase strictly"),
    ("answers.equilibrium", lambda _: answers.equilibrium(POINT, ones(1, 1) * NAN), "first must be finite"),
    ("residuals.residuals", lambda _: residuals(POINT, SEEN.at(slice(0, 3))), "number of times must be a whole num"),
    ("selection.missed", lambda _: selection.missed(POINT, FLAT), "data.field must have shape"),
    ("law.Law.operator", lambda _: LAW.operator(STATES, STATES[..., :1]), "(z|x|g) must have shape"),
    ("rollout.relaxed", lambda _: relaxed(GAS, ones(1, 1, 5, 1), T2), "start must be above 0 and below 1"),
    ("rollout.relaxed", lambda _: relaxed(GAS, ones(1, 1, 5, 1) / 2, -T2), "times must increase strictly"),
    ("fluctuations.Estimate", lambda _: Estimate(ones(1, 3)), "number of parts must be"),
    ("fluctuations.Estimate", lambda _: Estimate(ones(2, 3) * NAN), "parts must be finite"),
    ("fluctuations.Moves", lambda _: Moves(ones(5, 9), ones(1, 3, 8), [TWO], [TWO]), "states must have shape"),
    ("fluctuations.Moves", lambda _: Moves(ones(5, 9), ones(1, 3, 9), [TWO], [TWO]), "drift must have shape"),
    ("fluctuations.covariation", lambda _: covariation(ones(2, 3), 1.0, 1.0), "moves must have shape"),
    ("fluctuations.covariation", lambda _: covariation(ones(2, 3, 1) * NAN, 1.0, 1.0), "moves must be finite"),
    ("fluctuations.drift", lambda _: drift(ones(2, 3, 1), -1.0), "lapse must be a finite number above 0"),
    ("fluctuations.richardson", lambda _: richardson(TWO, Estimate(ones(3, 3))), "short and long must have the same"),
    ("fluctuations.shapes", lambda _: shapes(20, 3), "number must be a whole number of at least 5"),
    ("fluctuations.shapes", lambda _: shapes(20, 5, "box"), "kind must be one of"),
    ("systems.lattice.Lattice", lambda _: Lattice(temperature=-1.0), "temperature must be a finite number above 0"),
    ("systems.lattice.Lattice", lambda _: Lattice(8, (1.0,) * 4), "sites must be at least 10"),
    ("systems.lattice.Lattice", lambda _: Lattice(couplings=(NAN,)), "couplings must be finite"),
    ("systems.lattice.Lattice.law", lambda _: Lattice().law(np.zeros(3)), "density must be above 0 and below 1"),
    ("systems.lattice.Lattice.rates", lambda _: Lattice().rates(np.full(3, 0.5)), "density must have shape"),
    ("systems.lattice.Lattice.fields", lambda _: Lattice().fields(np.ones(200)), "density must be above 0 and below 1"),
    (
        "systems.lattice.Lattice.step",
        lambda _: Lattice(9, (1.0, 0.5)).step(ones(9, 1) / 2),
        "couplings must all be the same",
    ),
    (
        "systems.lattice.Lattice.equilibrium",
        lambda _: Lattice().equilibrium(HALF, 0, 0),
        "words must be a whole number",
    ),
    ("systems.lattice.Lattice.hopped", lambda _: Lattice(9).hopped(WORDS, 1.0, 0), "states must have shape"),
    (
        "systems.lattice.Lattice.hopped",
        lambda _: Lattice().hopped(WORDS, -1.0, 0),
        "time must be a finite number of at",
    ),
    ("systems.lattice.moments", lambda _: moments(WORDS, ones(5, 9)), "shapes must have shape"),
]

INNER_LOOP = "inside the training loop: NaN must reach the loss, where TrainingError names the term"
LAYER = "a layer: the networks that hold it check their inputs once"
NOTHING = "takes nothing that could be wrong"
TRUSTED = "takes what a checked object of this package holds, and nothing else"
HANDED = "hands all that it takes to what is tabled"
WRITES = "the file system complains, and the types of what is written are any; tests/test_files.py"
FORMULA = "a formula, which is NaN out of its range, as torch's own functions are; what calls it checks"
BASE = "what its subclasses refuse is tabled there"
EXEMPT = {
    FORMULA: "systems.lattice.box systems.lattice.nearest",
    INNER_LOOP: "decoders.gaussian_nll decoders.GaussianDecoder.nll losses.loss_terms model.Model.nll",
    LAYER: "networks.Affine.forward networks.softplus",
    NOTHING: """answers.Answer answers.Band files.plain
        encoder.GAUGE_EVERY ensemble.Cloud ensemble.Ensemble.mean inspection.Finding
        learning.Learned residuals.Residuals seeds.Fit seeds.Score
        inspection.Summary layouts.Layout
        layouts.Point.bonds layouts.bonds_of layouts.Ring layouts.Ring.bonds layouts.Row.bonds layouts.named
        systems.lattice.BITS losses.TERMS model.DECODERS model.LAWS model.Architecture.plain model.Prediction
        protocols.PROTOCOLS protocols.KINDS selection.Choice selection.Sufficiency recipe.Recipe.of recipe.Stage.rate_at
        rollout.BACKENDS systems.chain.LENGTHS systems.chain.VELOCITY systems.trap.VELOCITIES
        systems.noise.TOGETHER systems.noise.WIDTH systems.noise.fresh_key
        systems.trap.paper_times systems.trap.Trap.equilibrium_entropy training.History training.TrainingError""",
    TRUSTED: """encoder.Encoder.averaged encoder.Encoder.hermite observations.Observations.speed
        encoder.Encoder.raw encoder.Encoder.forward encoder.Encoder.shift encoder.Encoder.standardised
        encoder.Encoder.freeze encoder.Encoder.ungauged ensemble.Density.average ensemble.Density.shifted
        ensemble.Density.at ensemble.Density.reaching ensemble.Samples.average ensemble.Samples.shifted
        ensemble.Samples.at ensemble.Samples.coarser ensemble.Samples.joined seeds.unsound seeds.astray
        seeds.unseen seeds.force_noise
        metrics.each_error seeds.disagreement law.Scales.scaled law.Scales.changed layouts.forces layouts.moved
        losses.Sampling.times training.run_of model.Model.states model.Model.freeze model.Model.encode
        networks.copy_replica law.Law.bound law.Law.bounded encoder.mixing protocols.Protocol.length
        protocols.Protocol.velocity protocols.Protocol.scaled
        systems.trap.stable_steps encoder.Encoder.response fluctuations.Moves.expected
        fluctuations.Moves.missed systems.lattice.density systems.noise.philox systems.noise.normals""",
    HANDED: "learning.Learned.predict",
    WRITES: """files.write files.save_json files.save_tensors ensemble.Ensemble.save model.Model.save
        learning.Learned.report
        learning.Learned.save""",
    BASE: """law.Scales.step law.Scales.bounded decoders.Decoder decoders.Decoder.scaled decoders.Decoder.log_density
        decoders.Decoder.compiled decoders.Decoder.nll decoders.Decoder.sample
        decoders.FlowDecoder.compiled decoders.GaussiansDecoder.compiled
        decoders.MixtureDecoder.compiled""",
}
# what is the compiled loop's, the cache's, the paper's, the plain law's and the show's own has tables beside its tests
ELSEWHERE = ("adjoint", "bands", "cache", "commands", "compiled", "paper", "plain", "show", "sweeps", "units")


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{place}" for place, case in enumerate(CASES)])
def test_bad_input_is_refused_by_one_sentence(case: tuple[Any, ...], tmp_path: Path) -> None:
    _, call, sentence, exception = case if len(case) == 4 else (*case, ValueError)
    with pytest.raises(exception, match=f"^{sentence}") as caught:
        call(tmp_path)
    assert type(caught.value) is exception
    message = str(caught.value)
    assert " must " in message and "\n" not in message and len(message) < 300


def public() -> set[str]:
    """Every name in `__all__` of every module not elsewhere, and every method of its classes."""
    names = set()
    for entry in pkgutil.walk_packages(ibvonns.__path__, "ibvonns."):
        short = entry.name.removeprefix("ibvonns.")
        if short.split(".")[0] in ELSEWHERE:
            continue
        module = importlib.import_module(entry.name)
        for name in getattr(module, "__all__", ()):
            names.add(f"{short}.{name}")
            found = getattr(module, name)
            if inspect.isclass(found):
                methods = (m for m, v in vars(found).items() if inspect.isroutine(v) or isinstance(v, classmethod))
                names |= {f"{short}.{name}.{m}" for m in methods if m[0] != "_"}
    return names


def test_every_public_name_is_in_the_table_or_exempt_for_a_reason() -> None:
    tabled = {case[0] for case in CASES}
    exempt = {name for names in EXEMPT.values() for name in names.split()}
    inherited = {name for name in tabled if name.rsplit(".", 1)[0] in public()}
    assert public() - tabled - exempt == set()
    assert (tabled | exempt) - public() - inherited == set()
    assert tabled & exempt == set()


def test_every_module_names_what_is_public() -> None:
    for entry in pkgutil.walk_packages(ibvonns.__path__, "ibvonns."):
        if not entry.ispkg and entry.name.split(".")[1] not in ("paper", "show"):
            module = importlib.import_module(entry.name)
            assert module.__all__, entry.name
            assert all(hasattr(module, name) for name in module.__all__), entry.name
