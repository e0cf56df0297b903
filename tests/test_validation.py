"""Bad input to any public function is refused by one sentence: what, what came, what is allowed."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ibvonns
from ibvonns import (
    baselines,
    bench,
    chain_studies,
    floors,
    metrics,
    protocols,
    scoreboard,
    stiv,
    studies,
    training,
    trials,
    validation,
)
from ibvonns.chain_model import ChainModel, observe_chain
from ibvonns.decoders import FlowDecoder, GaussianDecoder, MixtureDecoder, SigmoidalFlow
from ibvonns.encoder import Encoder
from ibvonns.ensemble import Density, Ensemble, load_tensors, save_tensors
from ibvonns.likelihood import flow_nll, mixture_nll
from ibvonns.model import TrapModel, observe
from ibvonns.networks import INN, MLP, PICINN, Affine, Linear, PositiveLinear, generators
from ibvonns.onsager import ChainPotentials, Potentials
from ibvonns.optimiser import SOAP
from ibvonns.rollout import chain_rollout, rollout
from ibvonns.systems.chain import Chain
from ibvonns.systems.trap import Trap
from ibvonns.training import Phase, Recipe

NAN = float("nan")
# of the wrong type, behind the type checker's back
TEXT: Any = "1"
FLOAT: Any = 1.5
NONE: Any = None


def numbers(*shape: int) -> Tensor:
    """Ones in double precision."""
    return torch.ones(shape, dtype=torch.float64)


T2 = torch.tensor([0.0, 0.1], dtype=torch.float64)
BACK = T2.flip(0)
BAD = T2 * NAN
RNGS = generators([0])
PAIR = Ensemble(T2, numbers(1, 2, 4) * torch.arange(4), {"pulled_length": numbers(1, 2)})
FULL = replace(PAIR, records={**PAIR.records, "external_force": numbers(1, 2) * T2})
DENSITY = PAIR.density(torch.linspace(0, 3, 5, dtype=torch.float64))
SEEN = observe(replace(FULL, records={**FULL.records, "pulled_length": numbers(1, 2) * T2}), 8)
SHORT = Density(DENSITY.grid, DENSITY.weights[:, :1])
ALPHA = numbers(1, 3, 1)
TRAP, ENCODER, DECODER = Trap(), Encoder(RNGS), GaussianDecoder(RNGS)
POTENTIALS, INNER, PARTIAL = Potentials(RNGS), INN(RNGS, 2, (3,)), PICINN(RNGS, 2, 1, (3,))
CHAIN, MIXTURE, FLOW = Chain(), MixtureDecoder(RNGS), FlowDecoder(RNGS)
MAP, LAW = SigmoidalFlow(RNGS, 2), ChainPotentials(RNGS)
BENT = CHAIN.simulate(numbers(1, 2) * 0.2, T2 / 10, 4, torch.Generator().manual_seed(0))
WATCHED = observe_chain(BENT, points=20)
SPRINGS, INNER_STATES, FORCE = numbers(1, 2, 3), numbers(1, 2, 3, 1), numbers(1, 2)
RANDOM = torch.Generator().manual_seed(0)
PLAIN, MODEL = baselines.NeuralLaw(RNGS), ChainModel([0])
ROW = stiv.trap_springs(TRAP)
SPREAD = torch.eye(3, dtype=torch.float64)[None]
WEIGHT = numbers(1, 2, 3)


def soap() -> SOAP:
    """An optimiser of one matrix."""
    return SOAP([WEIGHT.clone()])


def write(path: Path, content: bytes) -> Path:
    """A file with this content."""
    path.write_bytes(content)
    return path


def foreign(path: Path) -> Path:
    """A whole file that holds something else."""
    save_tensors(path, {"x": numbers(1)}, {"kind": "another"})
    return path


def restore(**change: Tensor) -> None:
    """Restore an optimiser from a state with a change."""
    soap().restore({**soap().tensors(), **change})


# (public name, call on an empty folder, exception, how the sentence begins and goes on)
Call = Callable[[Path], Any]
CASES: list[tuple[str, Call, type[Exception], str]] = [
    ("validation.positive", lambda _: validation.positive("k", NAN), ValueError, "k must be a f"),
    ("validation.positive", lambda _: validation.positive("k", 0.0), ValueError, "k .*, but is 0"),
    ("validation.positive", lambda _: validation.positive("k", TEXT), TypeError, "k .* type str"),
    ("validation.positive", lambda _: validation.positive("k", True), TypeError, "k .* type bool"),
    ("validation.count", lambda _: validation.count("n", FLOAT), TypeError, "n must be a whole"),
    ("validation.count", lambda _: validation.count("n", True), TypeError, "n must be a whole"),
    ("validation.count", lambda _: validation.count("n", 1, 2), ValueError, "n .* 2, but is 1"),
    ("validation.at_least", lambda _: validation.at_least("s", NAN, 0.0), ValueError, "s must be"),
    ("validation.at_least", lambda _: validation.at_least("s", NONE, 0.0), TypeError, "s .* None"),
    ("validation.choice", lambda _: validation.choice("p", "c", "ab"), ValueError, "p .*'a', 'b'"),
    ("validation.finite", lambda _: validation.finite("x", TEXT), TypeError, "x must be a torch"),
    ("validation.finite", lambda _: validation.finite("x", BAD), ValueError, "x .* 2 NaN or infin"),
    ("validation.finite", lambda _: validation.finite("x", BAD.long()), TypeError, "x must be of"),
    ("validation.shaped", lambda _: validation.shaped("x", T2, (3,)), ValueError, r"x .* \(2,\)"),
    ("validation.shaped", lambda _: validation.shaped("x", T2[:0], ("n",)), ValueError, "x must"),
    ("validation.increasing", lambda _: validation.increasing("t", BACK), ValueError, "t .* entry"),
    ("validation.increasing", lambda _: validation.increasing("t", T2[:1]), ValueError, "t .* 2 e"),
    (
        "protocols.pulled_length",
        lambda _: protocols.pulled_length("zigzag", T2, T2),
        ValueError,
        "protocol must be one of 'at-rest', .*, but is 'zigzag'",
    ),
    (
        "protocols.pulled_length",
        lambda _: protocols.pulled_length("at-rest", BAD, T2),
        ValueError,
        "velocities must be finite",
    ),
    (
        "protocols.pulled_length",
        lambda _: protocols.pulled_length("at-rest", T2[:0], T2),
        ValueError,
        "velocities must have shape",
    ),
    (
        "protocols.pulling_rate",
        lambda _: protocols.pulling_rate("at-rest", T2, BACK),
        ValueError,
        "times must increase strictly",
    ),
    ("systems.trap.Trap", lambda _: Trap(stiffness=0.0), ValueError, "stiffness must be a finite"),
    ("systems.trap.Trap", lambda _: Trap(viscosity=-1.0), ValueError, "viscosity must be a finite"),
    ("systems.trap.Trap", lambda _: Trap(temperature=NAN), ValueError, "temperature .* but is nan"),
    (
        "systems.trap.Trap.simulate",
        lambda _: TRAP.simulate(numbers(1, 2) * NAN, T2, 3, RANDOM),
        ValueError,
        "lengths must be finite, but holds 2",
    ),
    (
        "systems.trap.Trap.simulate",
        lambda _: TRAP.simulate(numbers(1, 3), T2, 3, RANDOM),
        ValueError,
        r"lengths must have shape \(conditions, 2\), but has shape \(1, 3\)",
    ),
    (
        "systems.trap.Trap.simulate",
        lambda _: TRAP.simulate(numbers(1, 2), BACK, 3, RANDOM),
        ValueError,
        "times must increase strictly",
    ),
    (
        "systems.trap.Trap.simulate",
        lambda _: TRAP.simulate(numbers(1, 2), T2, 0, RANDOM),
        ValueError,
        "realisations must be a whole number of at least 1, but is 0",
    ),
    (
        "systems.trap.Trap.simulate",
        lambda _: TRAP.simulate(numbers(1, 2), 10 * T2, 3, RANDOM),
        ValueError,
        "times must have steps below 1, .* but the largest is 1",
    ),
    (
        "systems.trap.Trap.simulate_paper",
        lambda _: TRAP.simulate_paper("zigzag"),
        ValueError,
        "protocol must be one of",
    ),
    (
        "systems.trap.Trap.simulate_paper",
        lambda _: TRAP.simulate_paper(velocities=()),
        ValueError,
        "velocities must have shape",
    ),
    (
        "systems.trap.Trap.mean",
        lambda _: TRAP.mean(numbers(1, 2), T2, steps="heun"),
        ValueError,
        "steps must be one of 'euler', 'exact', but is 'heun'",
    ),
    (
        "systems.trap.Trap.mean",
        lambda _: TRAP.mean(numbers(3), T2),
        ValueError,
        "lengths must have shape",
    ),
    (
        "systems.trap.Trap.deviation",
        lambda _: TRAP.deviation(T2, initial=-0.1),
        ValueError,
        "initial must be a finite number above 0",
    ),
    (
        "systems.trap.Trap.deviation",
        lambda _: TRAP.deviation(BACK),
        ValueError,
        "times must increase strictly",
    ),
    ("systems.trap.Trap.free_energy", lambda _: TRAP.free_energy(T2, BAD), ValueError, "means m"),
    (
        "systems.trap.Trap.free_energy",
        lambda _: TRAP.free_energy(T2, numbers(3)),
        ValueError,
        r"means must match the shape of lengths, \(2,\), but has shape \(3,\)",
    ),
    ("systems.trap.Trap.dissipation", lambda _: TRAP.dissipation(BAD), ValueError, "rates must"),
    (
        "systems.trap.Trap.dual_dissipation",
        lambda _: TRAP.dual_dissipation(BAD),
        ValueError,
        "forces must be finite",
    ),
    (
        "systems.trap.Trap.thermodynamic_force",
        lambda _: TRAP.thermodynamic_force(BAD, T2),
        ValueError,
        "lengths must be finite",
    ),
    (
        "systems.trap.Trap.external_force",
        lambda _: TRAP.external_force(BAD, T2),
        ValueError,
        "lengths must be finite",
    ),
    (
        "systems.trap.Trap.equilibrium_force",
        lambda _: TRAP.equilibrium_force(BAD),
        ValueError,
        "lengths must be finite",
    ),
    ("systems.chain.Chain", lambda _: Chain(springs=1), ValueError, "springs must be a whole"),
    ("systems.chain.Chain", lambda _: Chain(temperature=-1.0), ValueError, "temperature must be a"),
    ("systems.chain.Chain", lambda _: Chain(viscosity=NAN), ValueError, "viscosity must be a fin"),
    ("systems.chain.Chain", lambda _: Chain(stiffness=(0.01, 0.0)), ValueError, r"stiffness\[1\]"),
    (
        "systems.chain.Chain",
        lambda _: Chain(stiffness=(0.01, 0.02)),
        ValueError,
        "stiffness must make the wells meet, .* but the sides are 0.01 and 0.02",
    ),
    (
        "systems.chain.Chain",
        lambda _: Chain(well_strain=0.5),
        ValueError,
        "well_strain must be above barrier_strain, 1.0, but is 0.5",
    ),
    ("systems.chain.Chain.potential", lambda _: CHAIN.potential(BAD), ValueError, "strain must be"),
    (
        "systems.chain.Chain.spring_force",
        lambda _: CHAIN.spring_force(BAD),
        ValueError,
        "strain must be finite",
    ),
    (
        "systems.chain.Chain.equilibrium",
        lambda _: CHAIN.equilibrium(-0.1, 3, RANDOM),
        ValueError,
        "length must be a finite number above 0, but is -0.1",
    ),
    (
        "systems.chain.Chain.equilibrium",
        lambda _: CHAIN.equilibrium(0.2, 0, RANDOM),
        ValueError,
        "realisations must be a whole number",
    ),
    (
        "systems.chain.Chain.equilibrium",
        lambda _: CHAIN.equilibrium(0.2, 3, RANDOM, spacing=NAN),
        ValueError,
        "spacing must be a finite number",
    ),
    (
        "systems.chain.Chain.simulate",
        lambda _: CHAIN.simulate(numbers(1, 2) * 0.2, T2 / 10, 4, RANDOM, numbers(1, 10, 3)),
        ValueError,
        "initial must have shape",
    ),
    (
        "systems.chain.Chain.simulate",
        lambda _: CHAIN.simulate(numbers(1, 2) * 0.3, T2 / 10, 4, RANDOM, numbers(1, 10, 4)),
        ValueError,
        "initial must have the first of lengths, but its total strain is off by up to 10",
    ),
    (
        "systems.chain.Chain.simulate",
        lambda _: CHAIN.simulate(numbers(1, 2) * NAN, T2, 3, RANDOM),
        ValueError,
        "lengths must be finite",
    ),
    (
        "systems.chain.Chain.simulate",
        lambda _: CHAIN.simulate(-numbers(1, 2), T2, 3, RANDOM),
        ValueError,
        "lengths must be above 0, but the smallest is -1",
    ),
    (
        "systems.chain.Chain.simulate",
        lambda _: CHAIN.simulate(numbers(1, 3), T2, 3, RANDOM),
        ValueError,
        r"lengths must have shape \(conditions, 2\)",
    ),
    (
        "systems.chain.Chain.simulate",
        lambda _: CHAIN.simulate(numbers(1, 2), BACK, 3, RANDOM),
        ValueError,
        "times must increase strictly",
    ),
    (
        "systems.chain.Chain.simulate",
        lambda _: CHAIN.simulate(numbers(1, 2), T2, 3, RANDOM),
        ValueError,
        "times must have steps below 0.05, .* but the largest is 0.1",
    ),
    (
        "systems.chain.Chain.simulate",
        lambda _: CHAIN.simulate(numbers(1, 2), T2 / 10, 0, RANDOM),
        ValueError,
        "realisations must be a whole number",
    ),
    (
        "systems.chain.Chain.simulate_paper",
        lambda _: CHAIN.simulate_paper("zigzag"),
        ValueError,
        "protocol must be one of",
    ),
    ("decoders.MixtureDecoder", lambda _: MixtureDecoder(RNGS, 0.0), ValueError, "well_strain mus"),
    (
        "decoders.MixtureDecoder.forward",
        lambda _: MIXTURE(T2, ALPHA),
        ValueError,
        r"strain must have shape \(..., 3\), but has shape \(2,\)",
    ),
    (
        "bench.bench",
        lambda _: bench.bench(repeats=0),
        ValueError,
        "repeats must be a whole number of at least 1, but is 0",
    ),
    (
        "likelihood.mixture_nll",
        lambda _: mixture_nll(numbers(4), numbers(2, 5), *3 * [numbers(1, 2, 2)]),
        ValueError,
        r"weights must have shape \(rows, 4\), but has shape \(2, 5\)",
    ),
    (
        "likelihood.flow_nll",
        lambda _: flow_nll(numbers(4), numbers(2, 4), *3 * [numbers(1, 3, 2)]),
        ValueError,
        r"log_a must have shape \(replicas, 2, 2\), but has shape \(1, 3, 2\)",
    ),
    (
        "decoders.MixtureDecoder.nll",
        lambda _: MIXTURE.nll(numbers(4), numbers(3, 2), numbers(3), ALPHA),
        ValueError,
        "weights must have shape",
    ),
    (
        "decoders.FlowDecoder.nll",
        lambda _: FLOW.nll(numbers(4), numbers(3, 2), numbers(3), ALPHA),
        ValueError,
        "weights must have shape",
    ),
    (
        "decoders.MixtureDecoder.log_density",
        lambda _: MIXTURE.log_density(numbers(1, 4), ALPHA[0, :, 0], ALPHA),
        ValueError,
        r"values must begin with shape \(1, 3\), but have shape \(1, 4\)",
    ),
    (
        "decoders.MixtureDecoder.sample",
        lambda _: MIXTURE.sample(ALPHA[0, :, 0], ALPHA, 0, RANDOM),
        ValueError,
        "realisations must be a whole number",
    ),
    ("decoders.SigmoidalFlow", lambda _: SigmoidalFlow(RNGS, 2, 0), ValueError, "sigmoids must be"),
    (
        "decoders.SigmoidalFlow.forward",
        lambda _: MAP(numbers(2), numbers(1, 3, 2)),
        ValueError,
        r"x must begin with shape \(1, 3\)",
    ),
    (
        "decoders.SigmoidalFlow.parameters_at",
        lambda _: MAP.parameters_at(ALPHA),
        ValueError,
        r"x must have shape \(..., 2\), but has shape \(1, 3, 1\)",
    ),
    (
        "decoders.SigmoidalFlow.inverse",
        lambda _: MAP.inverse(NAN * numbers(1, 3), numbers(1, 3, 2)),
        ValueError,
        "y must be finite",
    ),
    (
        "decoders.FlowDecoder",
        lambda _: FlowDecoder(RNGS, -1),
        ValueError,
        "sigmoids must be a whol",
    ),
    (
        "decoders.FlowDecoder.log_density",
        lambda _: FLOW.log_density(numbers(1, 3), T2, ALPHA),
        ValueError,
        "strain must have shape",
    ),
    (
        "decoders.FlowDecoder.sample",
        lambda _: FLOW.sample(ALPHA[0, :, 0], ALPHA, 0, RANDOM),
        ValueError,
        "realisations must be a whole number",
    ),
    ("onsager.ChainPotentials", lambda _: ChainPotentials(RNGS, 0.0), ValueError, "natural_length"),
    (
        "onsager.ChainPotentials.set_scales",
        lambda _: LAW.set_scales((0.0, 1.0), 0.0, 1.0),
        ValueError,
        "force_scale must be a finite number above 0",
    ),
    (
        "onsager.ChainPotentials.set_scales",
        lambda _: LAW.set_scales((NAN, 1.0), 1.0, 1.0),
        ValueError,
        "mean must be a finite number",
    ),
    (
        "onsager.ChainPotentials.free_energy",
        lambda _: LAW.free_energy(FORCE, INNER_STATES),
        ValueError,
        r"strain must have shape \(1, 2, 3\), but has shape \(1, 2\)",
    ),
    (
        "onsager.ChainPotentials.slopes",
        lambda _: LAW.slopes(SPRINGS, SPRINGS),
        ValueError,
        r"alpha must have shape \(replicas, trajectories, springs, 1\)",
    ),
    (
        "onsager.ChainPotentials.dual_dissipation",
        lambda _: LAW.dual_dissipation(FORCE, INNER_STATES, SPRINGS, INNER_STATES),
        ValueError,
        "strain must have shape",
    ),
    (
        "onsager.ChainPotentials.rates",
        lambda _: LAW.rates(FORCE, INNER_STATES, SPRINGS, INNER_STATES),
        ValueError,
        "strain must have shape",
    ),
    (
        "onsager.ChainPotentials.dissipation",
        lambda _: LAW.dissipation(FORCE, INNER_STATES, SPRINGS, INNER_STATES),
        ValueError,
        "strain must have shape",
    ),
    (
        "onsager.ChainPotentials.force_given",
        lambda _: LAW.force_given(SPRINGS, INNER_STATES, SPRINGS),
        ValueError,
        r"external_force must have shape \(..., 2\), but has shape \(1, 2, 3\)",
    ),
    (
        "onsager.ChainPotentials.velocity_given",
        lambda _: LAW.velocity_given(SPRINGS, INNER_STATES, SPRINGS),
        ValueError,
        "velocity must have shape",
    ),
    (
        "onsager.ChainPotentials.both_given",
        lambda _: LAW.both_given(SPRINGS, INNER_STATES, FORCE, SPRINGS),
        ValueError,
        "velocity must have shape",
    ),
    (
        "chain_model.ChainObservations",
        lambda _: replace(WATCHED, times=BACK),
        ValueError,
        "times must increase strictly",
    ),
    (
        "chain_model.ChainObservations",
        lambda _: replace(WATCHED, velocity=BAD[None]),
        ValueError,
        "velocity must be finite",
    ),
    (
        "chain_model.ChainObservations",
        lambda _: replace(WATCHED, mean=FORCE),
        ValueError,
        "mean must have shape",
    ),
    (
        "chain_model.ChainObservations.every",
        lambda _: WATCHED.every(0),
        ValueError,
        "stride must be a whole number",
    ),
    ("chain_model.observe_chain", lambda _: observe_chain(PAIR), ValueError, "ensemble must hold"),
    (
        "chain_model.observe_chain",
        lambda _: observe_chain(BENT, points=1),
        ValueError,
        "points must be a whole number",
    ),
    ("chain_model.ChainModel", lambda _: ChainModel([]), ValueError, "seeds must name at least 1"),
    (
        "chain_model.ChainModel",
        lambda _: ChainModel([0], "spline"),
        ValueError,
        "decoder must be one of 'flow', 'mixture', but is 'spline'",
    ),
    (
        "chain_model.ChainModel.predict",
        lambda _: ChainModel([0]).predict(FORCE, ALPHA, T2, FORCE, "both"),
        ValueError,
        "boundary must be one of 'force', 'velocity', but is 'both'",
    ),
    (
        "chain_model.ChainModel.predict",
        lambda _: ChainModel([0]).predict(FORCE, ALPHA, T2, FORCE, "force"),
        ValueError,
        "alpha must have shape",
    ),
    (
        "chain_model.ChainModel.predict",
        lambda _: ChainModel([0]).predict(SPRINGS[0], INNER_STATES, T2, BAD[None], "force"),
        ValueError,
        "known must be finite",
    ),
    (
        "rollout.rollout",
        lambda _: rollout(POTENTIALS, numbers(2, 2), numbers(1, 2, 1), T2, "slow"),
        ValueError,
        "backend must be one of 'fast', 'reference', 'single', but is 'slow'",
    ),
    (
        "rollout.chain_rollout",
        lambda _: chain_rollout(LAW, numbers(2, 3), INNER_STATES[0], FORCE.mT, None, T2[1:]),
        ValueError,
        "alpha must have shape",
    ),
    (
        "rollout.chain_rollout",
        lambda _: chain_rollout(LAW, numbers(2, 3), INNER_STATES, numbers(2, 2), None, T2[1:]),
        ValueError,
        "external_force must have shape",
    ),
    (
        "rollout.chain_rollout",
        lambda _: chain_rollout(LAW, SPRINGS[0], INNER_STATES, None, None, T2[1:]),
        ValueError,
        "external_force and velocity must not both be None",
    ),
    (
        "rollout.chain_rollout",
        lambda _: chain_rollout(LAW, SPRINGS[0], INNER_STATES, FORCE.mT, None, T2[1:], "slow"),
        ValueError,
        "backend must be one of 'fast', 'reference', 'single', but is 'slow'",
    ),
    (
        "metrics.spacing_entropy",
        lambda _: metrics.spacing_entropy(numbers(3, 1)),
        ValueError,
        "samples must number at least 2, but number 1",
    ),
    (
        "metrics.spacing_entropy",
        lambda _: metrics.spacing_entropy(numbers(3, 4)),
        ValueError,
        "samples must all differ",
    ),
    (
        "metrics.spacing_entropy",
        lambda _: metrics.spacing_entropy(BAD),
        ValueError,
        "samples must be finite",
    ),
    (
        "chain_model.ChainModel.load",
        lambda path: ChainModel.load(foreign(path / "model")),
        ValueError,
        "path must name a saved ChainModel",
    ),
    (
        "chain_model.ChainModel.load",
        lambda path: ChainModel.load(write(path / "model", b"no tensors")),
        ValueError,
        "path must name a whole safetensors file",
    ),
    (
        "chain_studies.chain_data",
        lambda _: chain_studies.chain_data(realisations=0),
        ValueError,
        "realisations must be a whole number of at least 1",
    ),
    (
        "chain_studies.entropy_limit",
        lambda _: chain_studies.entropy_limit(realisations=3000),
        ValueError,
        "number of blocks must be a whole number of at least 2, but is 1",
    ),
    (
        "chain_studies.train_chain",
        lambda _: chain_studies.train_chain(BENT, [0], "chain"),
        ValueError,
        "study must be one of 'chain-cnf', 'chain-gmm', but is 'chain'",
    ),
    (
        "studies.flow_likelihoods",
        lambda _: studies.flow_likelihoods((2, 0)),
        ValueError,
        "sigmoids must be a whole number of at least 1, but is 0",
    ),
    (
        "studies.recipe_of",
        lambda _: studies.recipe_of("spring"),
        ValueError,
        "study must be one of",
    ),
    ("studies.result", lambda _: studies.result("spring", 1), ValueError, "study must be one of"),
    (
        "training.Recipe",
        lambda _: Recipe(clip=0.5),
        ValueError,
        "clip must be a finite number of at least 1",
    ),
    (
        "training.train",
        lambda _: training.train(TrapModel([0]), observe(FULL, 8), training.CHAIN_RECIPE),
        ValueError,
        "weights must number 3, one for each of density, force, internal, but number 5",
    ),
    ("ensemble.Ensemble", lambda _: Ensemble(BACK, numbers(1, 2, 4)), ValueError, "times must inc"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, numbers(1, 2, 0)), ValueError, "realisations mus"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, numbers(1, 3, 4)), ValueError, "realisations mus"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, numbers(2, 2)), ValueError, "realisations must h"),
    ("ensemble.Ensemble", lambda _: Ensemble(T2, BAD[None, :, None]), ValueError, "realisations m"),
    (
        "ensemble.Ensemble",
        lambda _: Ensemble(T2, numbers(1, 2, 4), {"force": numbers(2, 2)}),
        ValueError,
        r"records\['force'\] must begin with shape \(1, 2\), but has shape \(2, 2\)",
    ),
    (
        "ensemble.Ensemble",
        lambda _: Ensemble(T2, numbers(1, 2, 4), {"force": BAD[None]}),
        ValueError,
        r"records\['force'\] must be finite",
    ),
    (
        "ensemble.Ensemble.variance",
        lambda _: Ensemble(T2, numbers(1, 2, 1)).variance(),
        ValueError,
        "realisations must number at least 2",
    ),
    (
        "ensemble.Ensemble.standard_error",
        lambda _: Ensemble(T2, numbers(1, 2, 1)).standard_error(),
        ValueError,
        "realisations must number at least 2",
    ),
    (
        "ensemble.Ensemble.select",
        lambda _: PAIR.select(slice(3, 4)),
        ValueError,
        "realisations must hold at least 1",
    ),
    (
        "ensemble.Ensemble.density",
        lambda _: PAIR.density(torch.tensor([0.0, 1.0, 3.0])),
        ValueError,
        "grid must be uniform, but its spacings range from 1 to 2",
    ),
    (
        "ensemble.Ensemble.density",
        lambda _: PAIR.density(torch.tensor([0.0, 1.0])),
        ValueError,
        r"grid must span every realisation, \[0, 3\], but spans \[0, 1\]",
    ),
    ("ensemble.Ensemble.density", lambda _: PAIR.density(BACK), ValueError, "grid must increase"),
    (
        "ensemble.Ensemble.load",
        lambda folder: Ensemble.load(folder / "none"),
        FileNotFoundError,
        "path must name an existing file, but '.*none' is none",
    ),
    (
        "ensemble.Ensemble.load",
        lambda folder: Ensemble.load(foreign(folder / "x")),
        ValueError,
        "path must name a saved ensemble, but",
    ),
    (
        "ensemble.load_tensors",
        lambda folder: load_tensors(write(folder / "x", b"garbage")),
        ValueError,
        "path must name a whole safetensors file, but",
    ),
    ("ensemble.load_tensors", lambda folder: load_tensors(folder), FileNotFoundError, "path must"),
    ("ensemble.Density", lambda _: Density(T2, numbers(3, 4)), ValueError, "weights must have sha"),
    ("ensemble.Density", lambda _: Density(T2, BAD), ValueError, "weights must be finite"),
    ("ensemble.Density", lambda _: Density(BACK, T2), ValueError, "grid must increase"),
    (
        "ensemble.Density.expectation",
        lambda _: DENSITY.expectation(numbers(4, 1)),
        ValueError,
        r"values must have shape \(..., 5, features\), but has shape \(4, 1\)",
    ),
    (
        "ensemble.Density.error_bound",
        lambda _: DENSITY.error_bound(-1.0),
        ValueError,
        "curvature must be a finite number of at least 0",
    ),
    ("networks.generators", lambda _: generators([]), ValueError, "seeds must name at least 1"),
    ("networks.generators", lambda _: generators([-1]), ValueError, "seed must be a whole number"),
    (
        "networks.generators",
        lambda _: generators([FLOAT]),
        TypeError,
        "seed must be a whole number",
    ),
    ("networks.Affine", lambda _: Affine(RNGS, 0, 2), ValueError, "width must be a whole number"),
    ("networks.Affine", lambda _: Affine([], 1, 2), ValueError, "rngs must hold at least 1"),
    ("networks.Linear", lambda _: Linear(RNGS, 1, 0), ValueError, "width must be a whole number"),
    ("networks.PositiveLinear", lambda _: PositiveLinear(RNGS, 0, 1), ValueError, "width must be"),
    ("networks.MLP", lambda _: MLP(RNGS, (3,)), ValueError, "number of sizes must be a whole"),
    ("networks.MLP.forward", lambda _: MLP(RNGS, (3, 2))(ALPHA), ValueError, "x must have shape"),
    ("networks.INN", lambda _: INN(RNGS, 2, ()), ValueError, "number of hidden layers must be"),
    ("networks.INN.forward", lambda _: INNER(ALPHA), ValueError, r"z must have shape \(..., 2\)"),
    ("networks.INN.gradient", lambda _: INNER.gradient(ALPHA), ValueError, "z must have shape"),
    ("networks.PICINN", lambda _: PICINN(RNGS, 1, 1, ()), ValueError, "number of hidden layers"),
    ("networks.PICINN", lambda _: PICINN(RNGS, 1, 0, (2,)), ValueError, "width must be a whole"),
    ("networks.PICINN.forward", lambda _: PARTIAL(ALPHA, ALPHA), ValueError, "z must have shape"),
    (
        "networks.PICINN.gradient",
        lambda _: PARTIAL.gradient(numbers(1, 3, 2), numbers(1, 3, 2)),
        ValueError,
        r"g must have shape \(..., 1\), but has shape \(1, 3, 2\)",
    ),
    ("encoder.Encoder", lambda _: Encoder(RNGS, (0,)), ValueError, "width must be a whole number"),
    ("encoder.Encoder", lambda _: Encoder([]), ValueError, "rngs must hold at least 1 generator"),
    ("encoder.Encoder.features", lambda _: ENCODER.features(ALPHA), ValueError, "positions must"),
    ("encoder.Encoder.encode", lambda _: ENCODER.encode(numbers(2, 0)), ValueError, "realisations"),
    ("encoder.Encoder.encode", lambda _: ENCODER.encode(BAD[None]), ValueError, "realisations mus"),
    ("encoder.Encoder.encode", lambda _: ENCODER.encode(T2), ValueError, "realisations must have"),
    (
        "encoder.Encoder.encode",
        lambda _: ENCODER.encode(numbers(2, 3), block=0),
        ValueError,
        "block must be a whole number of at least 1",
    ),
    (
        "encoder.Encoder.measure_gauge",
        lambda _: ENCODER.measure_gauge(ALPHA, T2),
        ValueError,
        r"means must have shape \(3,\), but has shape \(2,\)",
    ),
    ("decoders.GaussianDecoder", lambda _: GaussianDecoder(RNGS, internal=0), ValueError, "width"),
    ("decoders.GaussianDecoder.forward", lambda _: DECODER(T2), ValueError, "alpha must have sha"),
    (
        "decoders.GaussianDecoder.log_density",
        lambda _: DECODER.log_density(numbers(1, 4), ALPHA),
        ValueError,
        r"positions must begin with shape \(1, 3\), but have shape \(1, 4\)",
    ),
    (
        "decoders.GaussianDecoder.sample",
        lambda _: DECODER.sample(ALPHA, 0, RANDOM),
        ValueError,
        "realisations must be a whole number of at least 1",
    ),
    ("onsager.Potentials", lambda _: Potentials(RNGS, ()), ValueError, "number of hidden layers"),
    ("onsager.Potentials", lambda _: Potentials(RNGS, internal=0), ValueError, "width must be"),
    (
        "onsager.Potentials.set_scales",
        lambda _: POTENTIALS.set_scales((0.0, 0.0), 1.0, 1.0),
        ValueError,
        "deviation must be a finite number above 0",
    ),
    (
        "onsager.Potentials.set_scales",
        lambda _: POTENTIALS.set_scales((NAN, 1.0), 1.0, 1.0),
        ValueError,
        "mean must be a finite number, but is nan",
    ),
    (
        "onsager.Potentials.set_scales",
        lambda _: POTENTIALS.set_scales((0.0, 1.0), 1.0, NAN),
        ValueError,
        "rate_scale must be a finite number above 0",
    ),
    (
        "onsager.Potentials.set_reference",
        lambda _: POTENTIALS.set_reference(T2, ALPHA[:, :1]),
        ValueError,
        "chi must be a single number",
    ),
    (
        "onsager.Potentials.set_reference",
        lambda _: POTENTIALS.set_reference(T2[0], ALPHA),
        ValueError,
        r"alpha must have shape \(1, 1, 1\), but has shape \(1, 3, 1\)",
    ),
    (
        "onsager.Potentials.free_energy",
        lambda _: POTENTIALS.free_energy(T2[:, None], ALPHA),
        ValueError,
        r"chi must have shape \(..., 3, 1\), but has shape \(2, 1\)",
    ),
    (
        "onsager.Potentials.forces",
        lambda _: POTENTIALS.forces(numbers(3, 1), numbers(1, 3, 2)),
        ValueError,
        r"alpha must have shape \(..., 1\)",
    ),
    (
        "onsager.Potentials.evolution",
        lambda _: POTENTIALS.evolution(numbers(3, 1), numbers(1, 3, 2)),
        ValueError,
        r"alpha must have shape \(..., 1\)",
    ),
    (
        "onsager.Potentials.dual_dissipation",
        lambda _: POTENTIALS.dual_dissipation(ALPHA, numbers(1, 3, 2)),
        ValueError,
        r"g must have shape \(..., 1\)",
    ),
    (
        "onsager.Potentials.rates",
        lambda _: POTENTIALS.rates(numbers(1, 3, 2), ALPHA),
        ValueError,
        r"z must have shape \(..., 1\)",
    ),
    (
        "onsager.Potentials.dissipation",
        lambda _: POTENTIALS.dissipation(numbers(1, 3, 2), ALPHA),
        ValueError,
        r"z must have shape \(..., 1\)",
    ),
    (
        "rollout.rollout",
        lambda _: rollout(lambda chi, a: a, numbers(1, 3), numbers(1, 1), T2),
        ValueError,
        r"controls must have shape \(trajectories, 2\), but has shape \(1, 3\)",
    ),
    (
        "rollout.rollout",
        lambda _: rollout(lambda chi, a: a, numbers(1, 2), numbers(2, 1), T2),
        ValueError,
        "initial must have shape",
    ),
    (
        "rollout.rollout",
        lambda _: rollout(lambda chi, a: a, numbers(1, 2), NAN * numbers(1, 1), T2),
        ValueError,
        "initial must be finite",
    ),
    (
        "rollout.rollout",
        lambda _: rollout(lambda chi, a: a, numbers(1, 2), numbers(1, 1), BACK),
        ValueError,
        "times must increase strictly",
    ),
    (
        "rollout.rollout",
        lambda _: rollout(lambda chi, a: a[0], numbers(1, 2), numbers(1, 1), T2),
        ValueError,
        r"evolution must return the shape of alpha, \(1, 1\), but returned shape \(1,\)",
    ),
    ("metrics.relative_error", lambda _: metrics.relative_error(BAD, T2), ValueError, "prediction"),
    ("metrics.relative_error", lambda _: metrics.relative_error(T2, BAD), ValueError, "truth must"),
    (
        "metrics.relative_error",
        lambda _: metrics.relative_error(T2[:, None], T2),
        ValueError,
        r"prediction must have the shape of truth, \(2,\), but has shape \(2, 1\)",
    ),
    ("metrics.relative_error", lambda _: metrics.relative_error(T2, 0 * T2), ValueError, "truth m"),
    (
        "metrics.relative_error",
        lambda _: metrics.relative_error(T2[:0], T2[:0]),
        ValueError,
        "truth must hold at least 1 value",
    ),
    (
        "metrics.gauge_free_error",
        lambda _: metrics.gauge_free_error(T2, 0 * T2 + 0.1),
        ValueError,
        "truth must vary",
    ),
    (
        "metrics.gauge_free_error",
        lambda _: metrics.gauge_free_error(numbers(3), numbers(3) * 0.1),
        ValueError,
        "truth must vary",
    ),
    ("metrics.summary", lambda _: metrics.summary([]), ValueError, "values must hold at least 1"),
    ("metrics.summary", lambda _: metrics.summary([NAN]), ValueError, "values must be finite"),
    ("optimiser.SOAP", lambda _: SOAP([T2]), ValueError, r"parameters\[0\] must have shape"),
    ("optimiser.SOAP", lambda _: SOAP([WEIGHT], memory=1.0), ValueError, "memory must lie between"),
    ("optimiser.SOAP", lambda _: SOAP([WEIGHT], refresh=0), ValueError, "refresh must be a whole"),
    ("optimiser.SOAP.step", lambda _: soap().step([WEIGHT], NAN), ValueError, "learning_rate must"),
    ("optimiser.SOAP.step", lambda _: soap().step([], 0.1), ValueError, "gradients must number 1"),
    (
        "optimiser.SOAP.step",
        lambda _: soap().step([numbers(1, 3, 2)], 0.1),
        ValueError,
        r"gradients\[0\] must have shape \(1, 2, 3\), but has shape \(1, 3, 2\)",
    ),
    ("optimiser.SOAP.restore", lambda _: restore(other=T2), ValueError, "tensors must be named"),
    (
        "optimiser.SOAP.restore",
        lambda _: restore(**{"mean.(1, 2, 3)": numbers(1, 1, 3)}),
        ValueError,
        r"tensors\['mean.\(1, 2, 3\)'\] must have shape \(1, 2, 3\)",
    ),
    (
        "model.observe",
        lambda _: observe(PAIR),
        ValueError,
        "ensemble must hold the record 'external_force', but holds",
    ),
    ("model.observe", lambda _: observe(FULL, points=1), ValueError, "points must be a whole"),
    ("model.TrapModel", lambda _: TrapModel([]), ValueError, "seeds must name at least 1 seed"),
    (
        "model.TrapModel.predict",
        lambda _: TrapModel([0]).predict(numbers(1, 3), numbers(1, 1, 1), T2),
        ValueError,
        r"controls must have shape \(conditions, 2\)",
    ),
    (
        "model.TrapModel.predict",
        lambda _: TrapModel([0]).predict(numbers(1, 2), numbers(2, 1, 1), T2),
        ValueError,
        "initial must have shape",
    ),
    (
        "model.TrapModel.predict",
        lambda _: TrapModel([0]).predict(numbers(1, 2), numbers(1, 1, 1), BACK),
        ValueError,
        "times must increase strictly",
    ),
    (
        "model.TrapModel.load",
        lambda folder: TrapModel.load(write(folder / "x", b"garbage")),
        ValueError,
        "path must name a whole safetensors file, but",
    ),
    (
        "model.TrapModel.load",
        lambda folder: TrapModel.load(foreign(folder / "x")),
        ValueError,
        "path must name a saved TrapModel, but",
    ),
    ("model.Observations", lambda _: replace(SEEN, times=BACK), ValueError, "times must increase"),
    ("model.Observations", lambda _: replace(SEEN, mean=BAD[None]), ValueError, "mean must be fin"),
    ("model.Observations", lambda _: replace(SEEN, mean=T2), ValueError, "mean must have shape"),
    ("model.Observations", lambda _: replace(SEEN, variance=T2[None]), ValueError, "variance must"),
    ("model.Observations", lambda _: replace(SEEN, density=SHORT), ValueError, "density must have"),
    ("model.Observations.every", lambda _: SEEN.every(-1), ValueError, "stride must be a whole"),
    ("training.Phase", lambda _: Phase(1, 5, stride=0), ValueError, "stride must be a whole"),
    ("training.Recipe", lambda _: Recipe(rescues=-1), ValueError, "rescues must be a whole"),
    ("training.Phase", lambda _: Phase(-1, 5), ValueError, "window must be a whole number"),
    ("training.Phase", lambda _: Phase(1, 0), ValueError, "steps must be a whole number"),
    ("training.Phase", lambda _: Phase(1, 5, 0), ValueError, "starts must be a whole number"),
    (
        "training.Phase.draw",
        lambda _: Phase(300, 5).draw(300, 0),
        ValueError,
        "window must be below the number of times, 300, but is 300",
    ),
    ("training.Recipe", lambda _: Recipe(()), ValueError, "number of phases must be a whole"),
    ("training.Recipe", lambda _: Recipe(learning_rate=NAN), ValueError, "learning_rate must be"),
    ("training.Recipe", lambda _: Recipe(weights=(1.0, -1.0, 1.0)), ValueError, r"weights\[1\]"),
    ("training.Recipe", lambda _: Recipe(checkpoint_every=0), ValueError, "checkpoint_every must"),
    (
        "training.Recipe.phase_at",
        lambda _: Recipe((Phase(0, 5),)).phase_at(5),
        ValueError,
        "step must be below 5",
    ),
    (
        "training.train",
        lambda _: training.train(TrapModel([0]), observe(FULL, 8), Recipe((Phase(0, 1),))),
        ValueError,
        "deviation must be a finite number above 0, but is 0",  # a control that never moves
    ),
    (
        "training.train",
        lambda _: training.train(TrapModel([0]), WATCHED),
        TypeError,
        "data must be Observations, but is ChainObservations",
    ),
    ("studies.trap_data", lambda _: studies.trap_data(realisations=0), ValueError, "realisations"),
    (
        "studies.run_key",
        lambda _: studies.run_key("spring", [0], Recipe(), 0),
        ValueError,
        "study ",
    ),
    ("studies.study_folder", lambda _: studies.study_folder("spring", 1), ValueError, "study must"),
    ("studies.reproduce", lambda _: studies.reproduce("spring"), ValueError, "study must be one o"),
    ("studies.reproduce", lambda _: studies.reproduce("trap", 0), ValueError, "seeds must be a w"),
    (
        "studies.load_metrics",
        lambda folder: studies.load_metrics(folder / "none.json"),
        FileNotFoundError,
        "path must name an existing file",
    ),
    (
        "studies.load_metrics",
        lambda folder: studies.load_metrics(write(folder / "m.json", b'{"errors": ')),
        ValueError,
        "path must name a whole metrics.json, but .* is damaged",
    ),
    (
        "studies.load_metrics",
        lambda folder: studies.load_metrics(write(folder / "m.json", b"[1, 2]")),
        ValueError,
        "path must name a metrics.json, but .* holds none",
    ),
    ("studies.train_trap", lambda _: studies.train_trap(FULL, []), ValueError, "seeds must name"),
    (
        "floors.floor_of",
        lambda _: floors.floor_of(numbers(1, 4)),
        ValueError,
        "number of ensembles",
    ),
    ("floors.floor_of", lambda _: floors.floor_of(BAD[None].repeat(2, 1)), ValueError, "samples"),
    ("floors.pooled", lambda _: floors.pooled([]), ValueError, "number of observations must be"),
    ("floors.truth_scores", lambda _: floors.truth_scores("spring"), ValueError, "study must be"),
    (
        "floors.truth_scores",
        lambda _: floors.truth_scores("trap", 4000),
        ValueError,
        "number of ensembles must be",
    ),
    (
        "baselines.NeuralLaw",
        lambda _: baselines.NeuralLaw(RNGS, 0.0),
        ValueError,
        "natural_length must be",
    ),
    (
        "baselines.NeuralLaw",
        lambda _: baselines.NeuralLaw(RNGS, internal=-1),
        ValueError,
        "internal must be",
    ),
    (
        "baselines.NeuralLaw.set_scales",
        lambda _: PLAIN.set_scales((0.0, 1.0), 0.0, 1.0),
        ValueError,
        "force_scale must be",
    ),
    (
        "baselines.NeuralLaw.force_given",
        lambda _: PLAIN.force_given(SPRINGS[0], INNER_STATES, FORCE[0]),
        ValueError,
        "strain must have shape",
    ),
    (
        "baselines.NeuralLaw.velocity_given",
        lambda _: PLAIN.velocity_given(SPRINGS, INNER_STATES[..., :0], FORCE[0]),
        ValueError,
        "alpha must have shape",
    ),
    (
        "baselines.NeuralLaw.both_given",
        lambda _: PLAIN.both_given(SPRINGS[..., :2], INNER_STATES, FORCE[0], FORCE[0]),
        ValueError,
        "strain must have shape",
    ),
    (
        "baselines.trained_baseline",
        lambda _: baselines.trained_baseline("spring"),
        ValueError,
        "kind must be one of",
    ),
    (
        "baselines.trained_baseline",
        lambda _: baselines.trained_baseline("neural-ode", 0),
        ValueError,
        "seeds must be",
    ),
    (
        "trials.cycle_work",
        lambda _: trials.cycle_work(MODEL, SPRINGS[0], INNER_STATES, FORCE[0], 0.0),
        ValueError,
        "period must be",
    ),
    (
        "trials.cycle_work",
        lambda _: trials.cycle_work(MODEL, SPRINGS[0], INNER_STATES, FORCE[0], 1.0, 1),
        ValueError,
        "periods must be",
    ),
    (
        "trials.dissipated",
        lambda _: trials.dissipated(MODEL, SPRINGS, INNER_STATES, SPRINGS[0]),
        ValueError,
        "external_force must have shape",
    ),
    (
        "trials.held_rate",
        lambda _: trials.held_rate(MODEL, SPRINGS, INNER_STATES, 0.0),
        ValueError,
        "step must be",
    ),
    (
        "trials.decoded_energy",
        lambda _: trials.decoded_energy(MODEL, SPRINGS, INNER_STATES, 1),
        ValueError,
        "points must be",
    ),
    ("trials.far_data", lambda _: trials.far_data(0), ValueError, "realisations must be"),
    ("trials.long_chain", lambda _: trials.long_chain(MODEL, 1), ValueError, "springs must be"),
    (
        "trials.long_chain",
        lambda _: trials.long_chain(MODEL, 10, realisations=10),
        ValueError,
        "number of blocks must be",
    ),
    (
        "stiv.Gaussians.rolled",
        lambda _: stiv.Gaussians.rolled(ROW, numbers(1, 3), SPREAD, BACK, FORCE),
        ValueError,
        "times .* entry",
    ),
    (
        "stiv.Gaussians.rolled",
        lambda _: stiv.Gaussians.rolled(ROW, numbers(1, 2), SPREAD, T2, FORCE),
        ValueError,
        "covariance must have shape",
    ),
    (
        "scoreboard.board",
        lambda _: scoreboard.board("spring"),
        ValueError,
        "study must be one of",
    ),
    ("scoreboard.published", lambda _: scoreboard.published("spring"), ValueError, "study must be"),
    (
        "scoreboard.score",
        lambda folder: scoreboard.score("trap", out=str(folder)),
        FileNotFoundError,
        "path must name an existing file",
    ),
]

INNER_LOOP = "inside the training loop: NaN must reach the loss, where TrainingError names the term"
LAYER = "a layer: the networks that hold it check their inputs once"
NOTHING = "takes nothing that could be wrong"
TRUSTED = "takes what a checked object of this package holds, and nothing else"
EXEMPT = {
    "baselines.BASELINES": NOTHING,
    "floors.Floor": NOTHING,
    "trials.FAR": NOTHING,
    "trials.LongChain": NOTHING,
    "trials.gaussian_errors": "stiv.Gaussians.rolled checks",
    "stiv.Springs": NOTHING,
    "stiv.Springs.pull": INNER_LOOP,
    "stiv.Gaussians": NOTHING,
    "stiv.Gaussians.external_force": TRUSTED,
    "stiv.Gaussians.dissipation": TRUSTED,
    "stiv.chain_springs": TRUSTED,
    "stiv.trap_springs": TRUSTED,
    "stiv.first_state": TRUSTED,
    "scoreboard.VERDICTS": NOTHING,
    "scoreboard.verdict": "tests/test_floors.py: rows of this package",
    "scoreboard.judged": "rows of this package",
    "scoreboard.comma_separated": "rows of this package",
    "scoreboard.stored": NOTHING,
    "scoreboard.worsened": "tests/test_floors.py: rows of this package",
    "studies.cached": "its arguments are the library's own",
    "studies.sources": "its argument is the library's own",
    "cli.app": "tests/test_studies.py runs it with bad arguments",
    "protocols.PROTOCOLS": NOTHING,
    "systems.trap.VELOCITIES": NOTHING,
    "systems.chain.LENGTHS": NOTHING,
    "systems.chain.VELOCITY": NOTHING,
    "systems.trap.paper_times": NOTHING,
    "systems.trap.Trap.equilibrium_entropy": NOTHING,
    "ensemble.save_tensors": "the file system complains, and the types of the tensors are any",
    "ensemble.Ensemble.mean": NOTHING,
    "ensemble.Ensemble.save": "as save_tensors",
    "networks.Affine.forward": LAYER,
    "networks.Linear.forward": LAYER,
    "networks.softplus": "any number is allowed",
    "encoder.Encoder.raw": TRUSTED,
    "encoder.Encoder.forward": TRUSTED,
    "decoders.gaussian_nll": INNER_LOOP,
    "optimiser.SOAP.tensors": NOTHING,
    "networks.copy_replica": TRUSTED,
    "encoder.Encoder.drift": TRUSTED,
    "encoder.Encoder.ungauged": TRUSTED,
    "chain_model.DECODERS": NOTHING,
    "chain_model.ChainModel.drift": TRUSTED,
    "chain_model.ChainModel.save": "as save_tensors",
    "chain_studies.CHAIN_STUDIES": NOTHING,
    "chain_studies.EntropyLimit": NOTHING,
    "chain_studies.Rollouts": NOTHING,
    "chain_studies.chain_errors": "chain_model.ChainModel.predict checks",
    "chain_studies.chain_floors": "metrics.relative_error checks",
    "chain_studies.roll_out": "chain_model.ChainModel.predict checks",
    "chain_studies.unsound_chain": "chain_model.ChainModel.predict checks",
    "chain_model.ChainModel.set_scales": "onsager.ChainPotentials.set_scales checks each scale",
    "adjoint.fuses": NOTHING,
    "adjoint.fused_weights": TRUSTED,
    "adjoint.Widths": NOTHING,
    "adjoint.Widths.views": TRUSTED,
    "adjoint.Widths.room": TRUSTED,
    "adjoint.Widths.ends_room": TRUSTED,
    "bench.tables": TRUSTED,
    "adjoint.fused_rollout": TRUSTED,
    "encoder.Encoder.standardised": TRUSTED,
    "encoder.Encoder.freeze": TRUSTED,
    "encoder.GAUGE_EVERY": NOTHING,
    "rollout.BACKENDS": NOTHING,
    "chain_model.ChainModel.standardised": TRUSTED,
    "chain_model.ChainModel.freeze": TRUSTED,
    "chain_model.ChainModel.encode": TRUSTED,
    "chain_model.ChainModel.nll": INNER_LOOP,
    "model.TrapModel.set_scales": "onsager.Potentials.set_scales checks each scale",
    "model.TrapModel.standardised": TRUSTED,
    "model.TrapModel.freeze": TRUSTED,
    "model.TrapModel.encode": TRUSTED,
    "model.TrapModel.external_force": INNER_LOOP,
    "model.TrapModel.save": "as save_tensors",
    "training.CHAIN_DRAW": NOTHING,
    "training.CHAIN_RECIPE": NOTHING,
    "optimiser.SOAP.copied": NOTHING,
    "optimiser.SOAP.put_back": TRUSTED,
    "training.CHAIN_START": NOTHING,
    "training.DENSITY_RECIPE": NOTHING,
    "training.Recipe.rate_at": NOTHING,
    "training.Recipe.key": NOTHING,
    "training.TrainingError": NOTHING,
    "training.loss_terms": INNER_LOOP,
    "studies.SEEDS": NOTHING,
    "studies.STUDIES": NOTHING,
    "studies.chain_limits": "entropy_limit checks",
    "studies.TrapErrors": NOTHING,
    "studies.exact_trap_errors": TRUSTED,
    "studies.trap_errors": TRUSTED,
    "studies.unsound": "model.TrapModel.predict checks",
    "scoreboard.markdown": TRUSTED,
    "scoreboard.rounded": TRUSTED,
    "scoreboard.score_errors": "metrics.summary checks",
    "scoreboard.scored_rows": "studies.load_metrics checks",
    "scoreboard.table": TRUSTED,
}


@pytest.mark.parametrize(
    ("call", "exception", "sentence"),
    [case[1:] for case in CASES],
    ids=[f"{name}-{place}" for place, (name, *_) in enumerate(CASES)],
)
def test_bad_input_is_refused_by_one_sentence(
    call: Call, exception: type[Exception], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(exception, match=f"^{sentence}") as caught:
        call(tmp_path)
    assert type(caught.value) is exception
    message = str(caught.value)
    assert " must " in message and "\n" not in message and len(message) < 300


# what tests/test_plots.py and tests/test_exports.py refuse in tables of their own
ELSEWHERE = {f"ibvonns.{name}" for name in ("plots", "exports", "panels", "widgets")}


def public() -> set[str]:
    """Every name in `__all__` of every module not elsewhere, and every method of its classes."""
    names = set()
    for entry in pkgutil.walk_packages(ibvonns.__path__, "ibvonns."):
        module = importlib.import_module(entry.name)
        if entry.name in ELSEWHERE:
            continue
        short = entry.name.removeprefix("ibvonns.")
        for name in getattr(module, "__all__", ()):
            names.add(f"{short}.{name}")
            found = getattr(module, name)
            if inspect.isclass(found):
                methods = (m for m, v in vars(found).items() if inspect.isroutine(v))
                others = (m for m, v in vars(found).items() if isinstance(v, classmethod))
                names |= {f"{short}.{name}.{m}" for m in (*methods, *others) if m[0] != "_"}
    return names


def test_every_public_name_is_in_the_table_or_exempt_for_a_reason() -> None:
    tabled = {name for name, *_ in CASES}
    forwards = {name for name in public() if name.endswith(".forward")}
    assert public() - tabled - EXEMPT.keys() == set()
    assert (tabled | EXEMPT.keys()) - public() - forwards == set()
    assert tabled & EXEMPT.keys() == set()


def test_every_module_names_what_is_public() -> None:
    for entry in pkgutil.walk_packages(ibvonns.__path__, "ibvonns."):
        if not entry.ispkg:
            module = importlib.import_module(entry.name)
            assert sorted(module.__all__), entry.name
            assert all(hasattr(module, name) for name in module.__all__), entry.name
