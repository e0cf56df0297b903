"""Laws to compare with, and trials beyond the data: what each must obey."""

import math
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from experiments import SMALL, in_small
from torch import Tensor
from toys import frozen, same, weights_of

from ibvonns.law import Law
from ibvonns.layouts import Row
from ibvonns.model import Model, load
from ibvonns.networks import generators
from ibvonns.paper import baselines
from ibvonns.paper.baselines import BASELINES, NeuralLaw, trained_baseline
from ibvonns.paper.limits import spacing_entropy
from ibvonns.paper.studies import errors
from ibvonns.systems.chain import Chain
from ibvonns_book.stiv import gaussian_errors
from ibvonns_book.trials import (
    FAR,
    cycle_work,
    decoded_energy,
    dissipated,
    far_data,
    held_rate,
    held_truth,
    long_chain,
    marginal_energy,
)


@pytest.fixture
def law() -> NeuralLaw:
    """Random weights of two seeds, scales of the chain's order."""
    made = NeuralLaw(generators([0, 1]), Row(), 0.01)
    made.set_scales(torch.tensor([[1.4], [0.9]], dtype=torch.float64), 1e-4, 0.05)
    return made


@pytest.fixture
def states() -> Tensor:
    """Strain and alpha of four chains of five springs."""
    rng = torch.Generator().manual_seed(1)
    strain = 2 * torch.rand(2, 4, 5, 1, generator=rng, dtype=torch.float64)
    return torch.cat([strain, torch.randn(2, 4, 5, 1, generator=rng, dtype=torch.float64)], -1)


def size(law: torch.nn.Module) -> int:
    """Free numbers of one replica."""
    return sum(part[0].numel() for part in law.parameters())


def test_the_plain_law_is_as_large_as_the_potentials() -> None:
    ratio = size(NeuralLaw(generators([0]), Row())) / size(Law(generators([0]), Row()))
    assert 0.95 < ratio < 1.05


def test_force_and_velocity_are_two_sides_of_one_law(law: NeuralLaw, states: Tensor) -> None:
    velocity = torch.linspace(-0.2, 0.2, 4, dtype=torch.float64)
    rate, force = law.step(states, velocity=velocity)
    again, moved = law.step(states, force=force[..., 0])
    assert torch.allclose(moved[..., 0], velocity.expand(2, -1), rtol=0, atol=1e-12)
    assert torch.allclose(again, rate, rtol=0, atol=1e-9)
    assert (law.step(states, velocity=velocity + 0.01)[1] > force).all()


def test_the_length_grows_as_the_end_moves(law: NeuralLaw, states: Tensor) -> None:
    velocity = torch.linspace(-0.2, 0.2, 4, dtype=torch.float64)
    grown = 0.01 * law.step(states, velocity=velocity)[0][..., 0].sum(-1)
    assert torch.allclose(grown, velocity.expand(2, -1), rtol=0, atol=1e-12)
    rate, moved = law.step(states, force=torch.full((4,), 0.01, dtype=torch.float64))
    assert torch.allclose(0.01 * rate[..., 0].sum(-1), moved[..., 0], rtol=0, atol=1e-12)


def test_a_spring_feels_none_but_its_neighbours(law: NeuralLaw, states: Tensor) -> None:
    other = states.clone()
    other[..., 0, 0] += 0.1
    force = torch.zeros(4, dtype=torch.float64)
    before, after = (law.step(part, force=force)[0][..., 0] for part in (states, other))
    assert (before != after).any(0).any(0).tolist() == [True, True, False, False, False]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Small studies, in a cache of their own."""
    with in_small(tmp_path_factory.mktemp("cache")) as patch:
        yield patch


@pytest.mark.parametrize("kind", BASELINES)
def test_a_baseline_is_trained_scored_kept_and_saved(
    kind: str, quick: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    model, study = trained_baseline(kind, 2), SMALL["chain-cnf"]
    found, gauge_free = errors(study, model, {"test": study.observed("test")})
    assert all(math.isfinite(value) for values in found.values() for value in values)
    with_alpha = {name for name in found if "alpha" in name}
    assert (with_alpha == set()) == (kind == "strain-only") and gauge_free.keys() == with_alpha
    monkeypatch.setattr(baselines, "fitted", None)  # the second time nothing is trained
    again = trained_baseline(kind, 2)
    assert same(weights_of(again), weights_of(model)) and again.architecture == model.architecture
    for name in ("law.json", "law.safetensors"):
        model.save(tmp_path / name)
        assert same(weights_of(load(tmp_path / name)), weights_of(model))


class Drag:
    """Stands for a model whose end feels nothing but its own drag."""

    def rolled(self, start: Tensor, times: Tensor, known: dict[str, Tensor]) -> Any:
        """Paths that nobody asks for, and the force."""
        return start, 0.1 * known["velocity"].expand(2, -1, -1)[..., None]


def test_work_of_a_cycle_against_drag() -> None:
    """Over a period T the mean square of v is (pi A / T)^2 / 2."""
    model: Any = Drag()
    amplitude = torch.tensor([0.01, 0.1, 0.2], dtype=torch.float64)
    work = cycle_work(model, torch.zeros(2, 3, 10, 2), amplitude, 2.0, step=1e-3)
    exact = 0.1 * (math.pi * amplitude) ** 2 / 2 / 2.0
    assert work.shape == (2, 3)
    assert torch.allclose(work, exact.expand(2, -1), rtol=1e-4)


def test_work_of_a_cycle_leaves_the_ends_own_drag_out() -> None:
    work = cycle_work(cast(Model, Drag()), torch.zeros(2, 3, 10, 2), torch.tensor([0.01, 0.1, 0.2]), 2.0, drag=0.1)
    assert work.abs().max() < 1e-15


def test_far_pulls_start_where_they_say() -> None:
    data = far_data(realisations=5)
    assert data.keys() == FAR.keys()
    for name, (start, faster) in FAR.items():
        pulled = data[name].records["pulled_length"][0]
        assert pulled[0] == start
        assert pulled[-1] - start == pytest.approx(faster * 0.1425, abs=1e-4)


def test_a_long_chain_is_tried() -> None:
    """Of random weights: what is asked for comes back, and a seed gives the same twice."""
    model = frozen("row")
    tried = [long_chain(model, 12, (0.2,), 20, block=10) for _ in range(2)]
    assert tried[0].strain == tried[1].strain and len(tried[0].force) == 2
    assert tried[0].by_spring.shape == (12,)
    assert tried[0].strain != long_chain(model, 12, (0.2,), 20, block=10, seed=0).strain


def test_what_is_dissipated_is_never_negative() -> None:
    """Random weights, wild states; with everything at rest and no slope, it vanishes."""
    rng = torch.Generator().manual_seed(0)
    states = 10 * torch.randn(2, 500, 10, 2, generator=rng, dtype=torch.float64)
    force = 10 * torch.randn(500, generator=rng, dtype=torch.float64)
    assert (dissipated(frozen("row"), states, force) >= 0).all()


class Normal:
    """Stands for a model whose springs are normal about their strain, and only relax."""

    def __init__(self) -> None:
        self.decoder = self.law = self

    def log_density(self, values: Tensor, z: Tensor) -> Any:
        """Of a normal density of deviation 0.2."""
        return torch.distributions.Normal(z[..., :1], 0.2).log_prob(values)

    def step(self, z: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """Strains go to their mean."""
        return (z.mean(-2, keepdim=True) - z) * torch.tensor([1.0, 0.0]).double(), velocity


def test_the_energy_of_decoded_densities_is_that_of_gaussians() -> None:
    """In one well <V> and the entropy are known."""
    chain, model = Chain(), cast(Model, Normal())
    energy, missing = decoded_energy(model, torch.full((1, 2, 10, 2), 3.0, dtype=torch.float64))
    stiffness = chain.natural_length * chain.stiffness[1]
    inside = 0.5 * stiffness * ((3.0 - chain.well_strain) ** 2 + 0.2**2)
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.2**2)
    exact = 10 * (inside - chain.temperature * entropy)
    assert torch.allclose(energy, torch.full_like(energy, exact), rtol=1e-4)
    assert missing.max() < 1e-9


def test_held_springs_that_only_relax_lose_energy() -> None:
    """Of k (eps - eps_h)^2 / 2 at the rate k sum (eps - mean)^2, for their mean is kept."""
    chain, model = Chain(), cast(Model, Normal())
    apart = torch.linspace(-0.5, 0.5, 10, dtype=torch.float64)
    rate, _ = held_rate(model, (3 + apart)[:, None].expand(1, 2, -1, 2))
    exact = -chain.natural_length * chain.stiffness[1] * float(apart.square().sum())
    assert torch.allclose(rate, torch.full_like(rate, exact), rtol=1e-3)


def test_the_energy_of_marginals_is_that_of_gaussians() -> None:
    """As of decoded densities; smoothing widens each by its own width, in squares."""
    chain, rng = Chain(), torch.Generator().manual_seed(0)
    strains = 3.0 + 0.2 * torch.randn(2, 10, 20_000, generator=rng, dtype=torch.float64)
    inside = 0.5 * chain.natural_length * chain.stiffness[1] * ((3.0 - chain.well_strain) ** 2 + 0.2**2)
    wide = 0.2**2 + 0.1**2  # <log q> of a normal density under a narrower one
    logs = -0.5 * math.log(2 * math.pi * wide) - 0.5 * 0.2**2 / wide
    exact = 10 * (inside + chain.temperature * logs)
    assert marginal_energy(chain, strains).tolist() == pytest.approx([exact, exact], rel=0.005)


def test_the_energy_of_held_chains_falls_to_equilibrium_and_stays() -> None:
    chain, rng = Chain(), torch.Generator().manual_seed(1)
    rest = chain.equilibrium(0.5, 2000, rng).T  # all in the second well
    apart = rest + torch.linspace(-1.5, 1.5, 10, dtype=torch.float64)[:, None]
    moving, still = (held_truth(chain, torch.stack([apart, rest])) / chain.temperature).tolist()
    lost = 9 * (chain.stiffness[1] * 3.0 / 9) ** 2 / chain.viscosity / chain.temperature  # force squared over eta
    assert abs(still) < 10 and moving == pytest.approx(-lost, rel=0.2)
    with pytest.raises(ValueError, match="strains"):
        held_truth(chain, rest)


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
    assert errors["cnf-nll-test"] == pytest.approx(float(spacing_entropy(part.realisations).mean()), abs=0.02)


def test_the_gaussian_ansatz_of_blocks_is_that_of_the_whole() -> None:
    study = SMALL["chain-cnf"]
    blocks = gaussian_errors({"test": study.blocks("test")})
    whole = gaussian_errors({"test": study.ensemble("test", blocks=10)})
    assert blocks == pytest.approx(whole, rel=1e-9)
