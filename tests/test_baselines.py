"""Laws to compare with, and trials beyond the data: what each must obey."""

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from ibvonns import baselines
from ibvonns.baselines import BASELINES, NeuralLaw, trained_baseline
from ibvonns.chain_model import ChainModel, ChainObservations, observe_chain
from ibvonns.chain_studies import chain_errors
from ibvonns.metrics import spacing_entropy
from ibvonns.networks import generators
from ibvonns.onsager import ChainPotentials
from ibvonns.systems.chain import Chain
from ibvonns.training import Phase, Recipe, train
from ibvonns.trials import (
    FAR,
    cycle_work,
    decoded_energy,
    dissipated,
    far_data,
    gaussian_errors,
    held_rate,
    long_chain,
)

TINY = Recipe((Phase(0, 5), Phase(1, 5, 5), Phase(4, 4, 2)), 1e-2, (1.0, 0.025, 1.0, 0.3, 30.0), 4)
DIFFERS: dict[str, Any] = {"strain-only": {"internal": 0}, "neural-ode": {"law": NeuralLaw}}


@pytest.fixture(scope="module")
def observed() -> ChainObservations:
    """The chain from two lengths, 100 realisations each."""
    return observe_chain(Chain().simulate_paper(lengths=(0.12, 0.2), realisations=100), points=60)


@pytest.fixture
def law() -> NeuralLaw:
    """Random weights of two seeds, scales of the chain's order."""
    made = NeuralLaw(generators([0, 1]))
    made.set_scales((1.4, 0.9), 0.01, 0.05)
    return made


@pytest.fixture
def states() -> tuple[Tensor, Tensor]:
    """Strain and alpha of four chains of five springs."""
    rng = torch.Generator().manual_seed(1)
    strain = 2 * torch.rand(2, 4, 5, generator=rng, dtype=torch.float64)
    return strain, torch.randn(2, 4, 5, 1, generator=rng, dtype=torch.float64)


def size(law: torch.nn.Module) -> int:
    """Free numbers of one replica."""
    return sum(part[0].numel() for part in law.parameters())


def test_the_plain_law_is_as_large_as_the_potentials() -> None:
    ratio = size(NeuralLaw(generators([0]))) / size(ChainPotentials(generators([0])))
    assert 0.95 < ratio < 1.05


def test_force_and_velocity_are_two_sides_of_one_law(
    law: NeuralLaw, states: tuple[Tensor, Tensor]
) -> None:
    velocity = torch.linspace(-0.2, 0.2, 4, dtype=torch.float64)
    stretch, change, force = law.velocity_given(*states, velocity)
    again, changed, moved = law.force_given(*states, force)
    assert torch.allclose(moved, velocity.expand(2, -1), rtol=0, atol=1e-12)
    assert torch.allclose(again, stretch, rtol=0, atol=1e-9)
    assert torch.allclose(changed, change, rtol=0, atol=1e-9)
    assert (law.velocity_given(*states, velocity + 0.01)[2] > force).all()


def test_the_length_grows_as_the_end_moves(law: NeuralLaw, states: tuple[Tensor, Tensor]) -> None:
    velocity = torch.linspace(-0.2, 0.2, 4, dtype=torch.float64)
    stretch, _, _ = law.velocity_given(*states, velocity)
    rate = law.natural_length * stretch.sum(-1)
    assert torch.allclose(rate, velocity.expand(2, -1), rtol=0, atol=1e-12)
    force = torch.full((4,), 0.01, dtype=torch.float64)
    stretch, _, moved = law.force_given(*states, force)
    assert torch.allclose(law.natural_length * stretch.sum(-1), moved, rtol=0, atol=1e-12)


def test_a_spring_feels_none_but_its_neighbours(
    law: NeuralLaw, states: tuple[Tensor, Tensor]
) -> None:
    strain, alpha = states
    other = strain.clone()
    other[..., 0] += 0.1
    force = torch.zeros(4, dtype=torch.float64)
    before, after = (law.force_given(part, alpha, force)[0] for part in (strain, other))
    moved = (before != after).any(0).any(0)
    assert moved.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("kind", BASELINES)
def test_a_baseline_trains_and_is_scored(kind: str, observed: ChainObservations) -> None:
    model = ChainModel([0, 1], "flow", **DIFFERS[kind])
    history = train(model, observed, TINY)
    assert history.isfinite().all()
    errors, gauge_free = chain_errors(model, {"test": observed}, "cnf")
    assert all(math.isfinite(value) for values in errors.values() for value in values)
    with_alpha = [name for name in errors if "alpha" in name]
    assert (with_alpha == []) == (kind == "strain-only")
    assert gauge_free.keys() == set(with_alpha)


@pytest.mark.parametrize("kind", BASELINES)
def test_a_baseline_comes_back_from_the_cache_as_it_was(
    kind: str, observed: ChainObservations, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = ChainModel([0, 1], "flow", **DIFFERS[kind])
    train(made, observed, TINY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(baselines, "chain_data", lambda: {"train": None})
    monkeypatch.setattr(baselines, "train_chain", lambda *_, **__: (made, None, [0, 0]))
    trained_baseline(kind, 2)
    monkeypatch.setattr(baselines, "train_chain", None)  # the second time nothing is trained
    again = trained_baseline(kind, 2)
    for name, value in made.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


class Drag:
    """Stands for a model whose end feels nothing but its own drag."""

    def predict(self, strain: Tensor, alpha: Tensor, times: Tensor, known: Tensor, _: str) -> Any:
        """Paths that nobody asks for, and the force."""
        return strain, alpha, 0.1 * known.expand(2, -1, -1)


def test_work_of_a_cycle_against_drag() -> None:
    """Over a period T the mean square of v is (pi A / T)^2 / 2."""
    model: Any = Drag()
    strain = torch.zeros(3, 10, dtype=torch.float64)
    amplitude = torch.tensor([0.01, 0.1, 0.2], dtype=torch.float64)
    work = cycle_work(model, strain, torch.zeros(2, 3, 10, 1), amplitude, 2.0, step=1e-3)
    exact = 0.1 * (math.pi * amplitude) ** 2 / 2 / 2.0
    assert work.shape == (2, 3)
    assert torch.allclose(work, exact.expand(2, -1), rtol=1e-4)


def test_far_pulls_start_where_they_say() -> None:
    data = far_data(realisations=5)
    assert data.keys() == FAR.keys()
    for name, (start, faster) in FAR.items():
        pulled = data[name].records["pulled_length"][0]
        assert pulled[0] == start
        assert pulled[-1] - start == pytest.approx(faster * 0.1425, abs=1e-4)


def test_a_long_chain_is_tried(observed: ChainObservations) -> None:
    """Of random weights: what is asked for comes back, and a seed gives the same twice."""
    model = ChainModel([0, 1], "flow")
    model.set_scales(observed)
    model.freeze(observed)
    tried = [long_chain(model, 12, (0.2,), 20, block=10) for _ in range(2)]
    assert tried[0].strain == tried[1].strain and len(tried[0].force) == 2
    assert tried[0].by_spring.shape == (12,)
    assert tried[0].strain != long_chain(model, 12, (0.2,), 20, block=10, seed=0).strain


def test_what_is_dissipated_is_never_negative(observed: ChainObservations) -> None:
    """Random weights, wild states; with everything at rest and no slope, it vanishes."""
    model = ChainModel([0, 1], "flow")
    model.set_scales(observed)
    rng = torch.Generator().manual_seed(0)
    strain = 10 * torch.randn(2, 500, 10, generator=rng, dtype=torch.float64)
    alpha = 10 * torch.randn(2, 500, 10, 1, generator=rng, dtype=torch.float64)
    force = 10 * torch.randn(500, generator=rng, dtype=torch.float64)
    assert (dissipated(model, strain, alpha, force) >= 0).all()


class Normal:
    """Stands for a model whose springs are normal about their strain, and only relax."""

    def __init__(self) -> None:
        self.decoder = self.potentials = self

    def log_density(self, values: Tensor, strain: Tensor, alpha: Tensor) -> Any:
        """Of a normal density of deviation 0.2."""
        return torch.distributions.Normal(strain[..., None], 0.2).log_prob(values)

    def velocity_given(self, strain: Tensor, alpha: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        """Strains go to their mean."""
        return strain.mean(-1, keepdim=True) - strain, torch.zeros_like(alpha), strain


def test_the_energy_of_decoded_densities_is_that_of_gaussians() -> None:
    """In one well <V> and the entropy are known."""
    chain, model = Chain(), cast(ChainModel, Normal())
    strain = torch.full((1, 2, 10), 3.0, dtype=torch.float64)
    energy, missing = decoded_energy(model, strain, torch.zeros(1, 2, 10, 1, dtype=torch.float64))
    stiffness = chain.natural_length * chain.stiffness[1]
    inside = 0.5 * stiffness * ((3.0 - chain.well_strain) ** 2 + 0.2**2)
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.2**2)
    exact = 10 * (inside - chain.temperature * entropy)
    assert torch.allclose(energy, torch.full_like(energy, exact), rtol=1e-4)
    assert missing.max() < 1e-9


def test_held_springs_that_only_relax_lose_energy() -> None:
    """Of k (eps - eps_h)^2 / 2 at the rate k sum (eps - mean)^2, for their mean is kept."""
    chain, model = Chain(), cast(ChainModel, Normal())
    apart = torch.linspace(-0.5, 0.5, 10, dtype=torch.float64)
    rate, _ = held_rate(model, 3 + apart.expand(1, 2, -1), torch.zeros(1, 2, 10, 1).double())
    exact = -chain.natural_length * chain.stiffness[1] * float(apart.square().sum())
    assert torch.allclose(rate, torch.full_like(rate, exact), rtol=1e-3)


def test_the_gaussian_ansatz_is_scored_by_the_flows_rows() -> None:
    """At rest in one well it is exact up to the ensemble's noise."""
    chain = Chain()
    times = torch.linspace(0, 0.5, 51, dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    part = chain.simulate(torch.full((1, 51), 0.6, dtype=torch.float64), times, 400, rng)
    errors = gaussian_errors({"test": part})
    assert errors.keys() == {
        *(f"cnf-strain-test-{given}" for given in ("velocity", "force")),
        "cnf-force-test-velocity",
        "cnf-nll-test",
    }
    assert errors["cnf-strain-test-velocity"] < 0.5 and errors["cnf-force-test-velocity"] < 0.5
    assert errors["cnf-nll-test"] == pytest.approx(
        float(spacing_entropy(part.realisations).mean()), abs=0.02
    )
