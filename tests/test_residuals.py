"""What a law misses: noise is called noise as often as is said, and what is none is found, by numbers and in a trap."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import architecture_of, frozen, seen_of

from ibvonns.law import Law, Scales
from ibvonns.layouts import Point
from ibvonns.model import Architecture, Model
from ibvonns.observations import Observations, observe
from ibvonns.residuals import residuals, statistics
from ibvonns.selection import missed
from ibvonns.systems.trap import Trap

TRIALS, CONDITIONS, TIMES, SITES = 400, 2, 150, 3
STEPS = torch.linspace(0.5, 2.0, TIMES, dtype=torch.float64)


def noise(seed: int, memory: float = 0.0, trials: int = TRIALS) -> Tensor:
    """Residuals of many trials, of uneven steps and of sites that share their noise, with a lag-1 correlation."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(trials, CONDITIONS, TIMES + 1, SITES + 1, 1, generator=rng, dtype=torch.float64)
    x = x[..., :-1, :] - x[..., 1:, :]
    path = [x[:, :, 0]]
    for n in range(1, TIMES + 1):
        path.append(memory * path[-1] + (1 - memory**2) ** 0.5 * x[:, :, n])
    return torch.stack(path[1:], 2) * STEPS.sqrt()[:, None, None] * torch.tensor([1.0, 2.0, 5.0])[:, None]


def share(p: Tensor, level: float = 0.05) -> float:
    """How often p lies below a level."""
    return float((p < level).double().mean())


def test_white_noise_is_refused_as_often_as_the_level_says() -> None:
    lag, scatter, white, _, normal, mean, skewness, kurtosis = statistics(noise(0), STEPS)
    assert 0.02 <= share(white) <= 0.08 and 0.4 <= float(white.mean()) <= 0.6
    assert float(lag.std() / scatter.mean()) == pytest.approx(1.0, abs=0.1)  # the scatter is what it says
    assert share(normal) <= 0.08  # that of the worst site, times their number, is an upper bound
    assert mean.abs().max() < 0.3 and skewness.abs().max() < 0.6 and (kurtosis - 3).abs().max() < 1.5


def test_distance_is_as_rare_as_it_says() -> None:
    """Of one site the chance is no bound, but the chance itself: mean and deviation are estimated."""
    normal = statistics(noise(1)[..., :1, :], STEPS)[4]
    assert 0.02 <= share(normal) <= 0.08 and 0.05 <= share(normal, 0.1) <= 0.15


def test_memory_is_found() -> None:
    """The negative control: the test must fail where it should."""
    for memory in (0.3, -0.3):
        lag, _, white, *_ = statistics(noise(2, memory, 50), STEPS)
        assert float(lag.mean()) == pytest.approx(memory, abs=0.02) and share(white) == 1.0


def test_noise_whose_size_changes_is_white_all_the_same() -> None:
    """The scatter is taken from time to time: products of large noise count as they scatter."""
    size = 1 + 3 * (torch.arange(TIMES) > TIMES // 2).double()
    assert 0.02 <= share(statistics(noise(3) * size[:, None, None], STEPS)[2]) <= 0.08


def test_noise_that_is_not_gaussian_is_found() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.empty(50, CONDITIONS, TIMES, 1, 1, dtype=torch.float64).exponential_(generator=rng)
    _, _, white, _, normal, mean, skewness, kurtosis = statistics(x, torch.ones(TIMES, dtype=torch.float64))
    assert share(normal) == 1.0 and share(white) < 0.2
    moments = [float(each.mean()) for each in (mean, skewness, kurtosis)]
    assert moments == pytest.approx([1.0, 2.0, 9.0], rel=0.2)


# --- a trap, whose law is exact --------------------------------------------------------------


class Mean(nn.Module):
    """The positions themselves, as the features of one replica."""

    def forward(self, x: Tensor) -> Tensor:
        """From (points, 1) to (1, points, 1)."""
        return x[None] if x.ndim == 2 else x


class Exact(Scales):
    """d<x>/dt = k (lambda - 2 <x>) / eta, with alpha = (<x> - mean) / deviation; `wrong` times as fast."""

    def __init__(self, model: Model, trap: Trap, wrong: float = 1.0):
        super().__init__(Point(), 1.0, 1)
        place, encoder = model.encoder.position, model.encoder
        self.scale = float(place[1] * encoder.scale)
        self.mean = float(place[0] + place[1] * encoder.offset)
        self.rate_of, self.wrong = trap.stiffness / trap.viscosity, wrong

    def driving(self, z: Tensor, force: Tensor | None = None) -> Tensor:
        """g of alpha in units of eta."""
        return self.rate_of * (z[..., :1] - 2 * (self.mean + self.scale * z[..., 1:])) / self.scale

    def step(self, z: Tensor, force: Tensor | None = None, velocity: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The exact rate."""
        return torch.cat([0 * z[..., :1], self.wrong * self.driving(z)], -1), z[..., 0, :1]


def seen(seed: int, realisations: int = 400) -> Observations:
    """A trap under three pulls."""
    few = Trap().simulate_paper(velocities=(0.5, 0.7, 1.0), realisations=realisations, seed=seed)
    return observe(few, "pulled_length", points=641)


def exact(data: Observations, wrong: float = 1.0) -> Model:
    """A model whose alpha is the mean position and whose law is the trap's."""
    model = Model([0], Architecture(Point(), decoder="gaussian"))
    model.set_scales(data)
    model.encoder.h, model.encoder.rho = Mean(), nn.Identity()  # type: ignore[assignment]
    model.encoder.freeze(data)
    law = Exact(model, Trap(), wrong)
    model.law = law  # type: ignore[assignment]
    return model


def test_an_exact_law_misses_noise_of_the_size_that_the_particles_have() -> None:
    data = seen(0)
    model = exact(data)
    p, ratios = [], []
    for seed in range(1, 41):
        found = residuals(model, seen(seed))
        p.append(found.white[0, 0])
        assert found.predicted is not None
        ratios.append(float(found.realised / found.predicted))
    # kBT = 0.01 and eta = 1: Var = 2 kBT h / N, in units of alpha
    truth = float(2 * 0.01 * data.times.diff().mean() / data.count) ** 0.5 / float(
        model.encoder.position[1] * model.encoder.scale
    )
    assert float(found.realised) == pytest.approx(truth, rel=0.1)
    assert float(torch.tensor(ratios).mean()) == pytest.approx(1.0, abs=0.02)
    assert share(torch.stack(p)) <= 0.2  # of 40, two are expected


def test_a_wrong_law_misses_more_and_remembers() -> None:
    data = seen(1, 4000)
    right, wrong = (residuals(exact(data, factor), data) for factor in (1.0, 0.8))
    assert right.predicted is not None and wrong.predicted is not None
    assert float(wrong.white) < 1e-6 < 1e-3 < float(right.white)
    assert float(wrong.realised / wrong.predicted) > 1.5 > 1.05 > float(right.realised / right.predicted)


def test_prediction_is_in_the_gauge_of_the_training() -> None:
    """Early times of the slowest pull, where the mean hardly moves, would give alpha another unit."""
    data = seen(1)
    found = residuals(exact(data), data.select(slice(0, 1)).at(slice(0, 150)))
    assert found.predicted is not None
    assert float(found.realised / found.predicted) == pytest.approx(1.0, abs=0.2)


# --- any model -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "internal"), [("point", 2), ("plane", 1), ("row", 0), ("row", 2), ("ring", 1)])
def test_each_replica_and_each_variable_has_its_numbers(kind: str, internal: int) -> None:
    model, data = frozen(kind, (0, 1), "flow" if internal == 0 else "", internal), seen_of(kind)
    found, moving = residuals(model, data), kind in ("row", "ring")
    shape = (2, internal + moving)
    assert found.names == ("field",) * moving + ("alpha 1", "alpha 2")[:internal]
    for name, part in vars(found).items():
        assert name == "names" or part.shape == shape, name
    assert found.predicted is not None
    assert (found.predicted.isfinite() == (kind != "plane")).all()
    assert len(str(found).splitlines()) == 1 + 2 * shape[1] and "predicted" in str(found)
    bare = residuals(model, replace(data, blocks={}))
    assert bare.predicted is None and "predicted" not in str(bare)
    assert torch.equal(bare.lag, found.lag)


def test_field_of_a_row_scatters_as_its_blocks_do() -> None:
    """A law that stands still misses the whole step; of noise alone, it is that of the blocks."""
    model, data = frozen("row", (0, 1)), seen_of("row")
    found = residuals(model, data)
    steps = data.blocks["mean"].diff(dim=2)
    noise = (steps.var(0) / len(steps)).mean().sqrt()
    assert found.predicted is not None
    assert torch.allclose(found.predicted[:, 0], noise.expand(2), rtol=1e-12)


def test_what_is_missed_is_the_next_state_less_a_step_of_euler() -> None:
    model, data = frozen("row", (0, 1)).requires_grad_(False), seen_of("row")
    z, g, wrong = missed(model, data)
    assert isinstance(model.law, Law) and data.force is not None and data.velocity is not None
    pull, speed = data.force[:, :-1, 0].flatten(), data.velocity[:, 1:].flatten()
    rate, _ = model.law.step(z, force=pull, velocity=speed)
    after = model.states(data, model.encode(data))[:, :, 1:].flatten(1, 2)
    steps = data.times.diff().repeat(len(data.mean))[:, None, None]
    assert torch.allclose(wrong, after - model.law.bounded(z + steps * rate), rtol=0, atol=1e-12)
    assert torch.equal(g, model.law.driving(z, pull))


def test_too_few_times_are_refused() -> None:
    with pytest.raises(ValueError, match="^number of times must be a whole number of at least 4, but is 3"):
        residuals(frozen("point"), seen_of("point").at(slice(0, 3)))


def test_response_in_the_stored_gauge_is_that_of_the_training_data_there() -> None:
    model, data = frozen("point", (0, 1), internal=2), seen_of("point")
    times = torch.arange(0, len(data.times), 7)
    own, stored = (model.encoder.response(data, times, stored=each) for each in (False, True))
    assert torch.allclose(own, stored, rtol=1e-9)
    other = seen_of("point").select(slice(0, 1))
    own, again = (model.encoder.response(other, times, stored=each) for each in (False, True))
    assert torch.allclose(again, stored[:, :1], rtol=1e-9) and not torch.allclose(own, again, rtol=1e-2)


@pytest.mark.parametrize(("kind", "internal"), [("point", 2), ("plane", 2)])
def test_an_anchored_models_residuals_are_told_but_for_what_is_not_known(kind: str, internal: int) -> None:
    model, data = Model([0, 1], replace(architecture_of(kind, internal=internal), anchored=True)), seen_of(kind)
    model.set_scales(data)
    model.freeze(data)
    found = residuals(model, data)
    assert found.realised.shape == (2, internal) and found.realised.isfinite().all()
    assert found.predicted is None or found.predicted.isnan().all()
