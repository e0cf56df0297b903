"""Observations: fields, moments and records of any system, its parts as one, and their scatter."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import ANSWERS, CONTROLS, LAYOUTS, SPACING, few_of, seen_of

from ibvonns.ensemble import Density, Ensemble, Samples
from ibvonns.observations import Observations, joined, observe

FORCES = ("external_force", "force_right")
HISTORIES = ("field", "mean", "variance", "force", "velocity")


def watched(kind: str, ensemble: object, grid: Tensor | None = None) -> Observations:
    """`observe` with a system's names."""
    return observe(
        ensemble,  # type: ignore[arg-type]
        CONTROLS.get(kind, ()),
        ANSWERS.get(kind, "external_force"),
        spacing=SPACING.get(kind, 1.0),
        points=81,
        grid=grid,
    )


def part_of(whole: Ensemble, some: slice) -> Ensemble:
    """Some of the realisations, with the F_ex that they would have measured."""
    own = whole.realisations[..., some] if whole.components == 1 else whole.realisations[..., some, :]
    share = (own.mean(whole.axis) - whole.mean()).reshape(*own.shape[:2], -1)[..., 0]
    records = {k: v - share if k in FORCES else v for k, v in whole.records.items()}
    return replace(whole, realisations=own, records=records)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_observations_are_the_moments_and_records_of_the_ensemble(kind: str) -> None:
    few, seen = few_of(kind), seen_of(kind)
    sites = (2, len(few.times), few.realisations.shape[2] if kind in SPACING else 1)
    components = few.components
    assert seen.count == few.count and torch.equal(seen.times, few.times)
    assert torch.allclose(seen.mean, few.mean().reshape(*sites, components), rtol=0, atol=1e-14)
    biased = few.variance() * (few.count - 1) / few.count
    assert torch.allclose(seen.variance, biased.reshape(*sites, components), rtol=1e-12)
    if kind in CONTROLS:
        controls, forces = (
            torch.stack([few.records[name] for name in names[kind]], -1) for names in (CONTROLS, ANSWERS)
        )
        assert torch.equal(seen.field, controls[:, :, None])
        assert seen.force is not None and torch.equal(seen.force, forces)
    else:
        assert torch.equal(seen.field, seen.mean)
    if kind == "row":
        assert seen.force is not None and seen.velocity is not None
        assert torch.equal(seen.force[..., 0], few.records["external_force"])
        assert torch.equal(seen.velocity, few.records["velocity"])
    else:
        assert seen.velocity is None and (seen.force is None) == (kind in SPACING)
    if isinstance(seen.cloud, Density):
        found = seen.cloud.weights @ seen.cloud.grid
        assert torch.allclose(found, seen.mean[..., 0], rtol=0, atol=1e-12)
    else:
        assert torch.equal(seen.cloud.positions[:, :, 0], few.realisations)
    assert repr(seen).startswith(f"<Observations of {few.count} realisations: 2 conditions")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_joined_parts_are_the_whole_ensemble_at_once(kind: str) -> None:
    """Of unequal sizes, and the widest realisations in a later part."""
    few = few_of(kind)
    if few.components == 1:  # sort by reach, so that the grid has to grow
        order = few.realisations.abs().flatten(0, -2).amax(0).argsort()
        few = replace(few, realisations=few.realisations[..., order])
    cuts = (0, 7, 20, few.count)
    parts = [part_of(few, slice(a, b)) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    found = watched(kind, (part for part in parts))  # one after another
    grid = found.cloud.grid if isinstance(found.cloud, Density) else None
    expected = watched(kind, few, grid)
    assert found.count == few.count
    for name in HISTORIES:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, rtol=1e-11, atol=1e-13), name
    if isinstance(found.cloud, Density) and isinstance(expected.cloud, Density):
        assert (found.cloud.weights - expected.cloud.weights).abs().max() <= 1e-10
        first = watched(kind, parts[0])
        assert isinstance(first.cloud, Density) and len(found.cloud.grid) > len(first.cloud.grid)
        spacings = [float(cloud.grid[1] - cloud.grid[0]) for cloud in (first.cloud, found.cloud)]
        assert spacings[0] == pytest.approx(spacings[1], rel=1e-12)
    else:
        assert isinstance(found.cloud, Samples) and isinstance(expected.cloud, Samples)
        assert torch.equal(found.cloud.positions, expected.cloud.positions)
    each = [watched(kind, part, grid) for part in parts]
    assert torch.equal(found.blocks["mean"], torch.stack([one.mean for one in each]))
    if found.force is not None:
        blocks = torch.stack([one.force for one in each if one.force is not None])
        assert torch.equal(found.blocks["force"], blocks)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_blocks_of_a_single_ensemble_average_to_it(kind: str) -> None:
    seen = seen_of(kind)
    assert seen.blocks["mean"].shape == (10, *seen.mean.shape)
    assert torch.allclose(seen.blocks["mean"].mean(0), seen.mean, rtol=0, atol=1e-13)


@pytest.mark.parametrize("parts", [1, 20])
def test_blocks_scatter_by_the_standard_error(parts: int) -> None:
    """Of independent draws; the ratio of variances has its own scatter, sqrt(2 / (freedom))."""
    rng = torch.Generator().manual_seed(0)
    times = torch.linspace(0, 1, 40, dtype=torch.float64)
    draws = [
        Ensemble(times, torch.randn(5, 40, 3, 400 // parts, generator=rng, dtype=torch.float64)) for _ in range(parts)
    ]
    seen = observe(draws)
    blocks = seen.blocks["mean"]
    scatter = blocks.var(0) / len(blocks)
    ratio = float((scatter / seen.standard_error() ** 2).mean())
    freedom = scatter.numel() * (len(blocks) - 1)
    assert abs(ratio - 1) < 4 * (2 / freedom) ** 0.5 + 0.01


def test_numbers_that_do_not_divide_have_no_blocks_or_whole_ones() -> None:
    few = part_of(few_of("point"), slice(0, 37))
    blocks = watched("point", few).blocks
    assert not blocks or sum(len(part) for part in blocks.values()) == 10


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_thinned_observations_keep_the_records_and_the_distance(kind: str, stride: int) -> None:
    for seen in (seen_of(kind), replace(seen_of(kind), times=seen_of(kind).times ** 1.5)):
        few = seen.every(stride)
        assert torch.equal(few.times, seen.times[::stride])
        for name in ("field", "mean", "variance", "force"):
            if (part := getattr(seen, name)) is not None:
                assert torch.equal(getattr(few, name), part[:, ::stride])
        assert torch.equal(few.blocks["mean"], seen.blocks["mean"][:, :, ::stride])
        ours, whole = (
            cloud.weights if isinstance(cloud, Density) else cloud.positions for cloud in (few.cloud, seen.cloud)
        )
        assert torch.equal(ours, whole[:, ::stride])
        if seen.velocity is not None and few.velocity is not None:
            way = (seen.velocity[:, 1:] * seen.times.diff()).cumsum(1)[:, stride - 1 :: stride]
            moved = (few.velocity[:, 1:] * few.times.diff()).cumsum(1)
            assert torch.allclose(moved, way[:, : moved.shape[1]], rtol=1e-12, atol=0)
    assert seen_of(kind).every(1) is seen_of(kind)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_some_times_and_some_conditions_are_taken_from_everything(kind: str) -> None:
    seen, times = seen_of(kind), torch.tensor([3, 4, 30])
    for some, place in ((seen.at(times), (slice(None), times)),
                        (seen.select(slice(1, 2)), (slice(1, 2), slice(None)))):  # fmt: skip
        for name in HISTORIES:
            if (part := getattr(seen, name)) is not None:
                assert torch.equal(getattr(some, name), part[place])
        assert torch.equal(some.blocks["mean"], seen.blocks["mean"][:, *place])
        rows, whole = (
            cloud.weights if isinstance(cloud, Density) else cloud.positions for cloud in (some.cloud, seen.cloud)
        )
        assert torch.equal(rows, whole[place])
        assert some.spacing == seen.spacing and some.count == seen.count


def test_coarser_observations_keep_all_but_the_cloud() -> None:
    seen = seen_of("row")
    few = seen.coarser(4)
    assert isinstance(few.cloud, Density) and isinstance(seen.cloud, Density)
    assert torch.allclose(few.cloud.grid, seen.cloud.grid[::4], rtol=0, atol=1e-13)
    assert torch.allclose(few.cloud.weights @ few.cloud.grid, seen.mean[..., 0], rtol=0, atol=1e-12)
    assert few.mean is seen.mean and few.blocks is seen.blocks


def test_standard_error_is_that_of_the_ensemble() -> None:
    for kind in LAYOUTS:
        found, expected = seen_of(kind).standard_error(), few_of(kind).standard_error()
        assert torch.allclose(found, expected.reshape(found.shape), rtol=1e-10)


def test_single_precision_is_converted() -> None:
    """Files are often float32; what a model sees is float64."""
    few = few_of("point")
    single = replace(
        few,
        times=few.times.float(),
        realisations=few.realisations.float(),
        records={name: record.float() for name, record in few.records.items()},
    )
    seen, expected = watched("point", single), watched("point", few)
    for name in ("times", "field", "mean", "variance", "force"):
        assert getattr(seen, name).dtype == torch.float64
        assert torch.allclose(getattr(seen, name), getattr(expected, name), rtol=1e-4, atol=1e-6)
    assert isinstance(seen.cloud, Density) and seen.cloud.weights.dtype == torch.float64
    assert seen.blocks["mean"].dtype == torch.float64
    parts = [part_of(single, slice(0, 100)), part_of(single, slice(100, 200))]
    assert torch.allclose(watched("point", parts).mean, seen.mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["times", "field", "mean", "variance", "force", "cloud"])
def test_single_precision_is_refused_by_name(name: str) -> None:
    seen = seen_of("point")
    assert isinstance(seen.cloud, Density)
    value: Any = (
        Density(seen.cloud.grid.float(), seen.cloud.weights.float()) if name == "cloud" else getattr(seen, name).float()
    )
    with pytest.raises(TypeError, match=rf"^{name} .*must be of torch.float64, but is of torch.fl"):
        replace(seen, **{name: value})


def test_the_smallest_grid_has_5_points() -> None:
    """A margin of a point on either side, and one to begin at, leave a single step at 5."""
    few = few_of("point")
    with pytest.raises(ValueError, match="^points must be a whole number of at least 5, but is 4$"):
        observe(few, "pulled_length", points=4)
    cloud = observe(few, "pulled_length", points=5).cloud
    assert isinstance(cloud, Density) and len(cloud.grid) <= 5
    assert float(cloud.spacing) == pytest.approx(float(few.realisations.max() - few.realisations.min()))


def test_parts_of_other_shapes_are_not_joined() -> None:
    few = few_of("point")
    one = watched("point", few)
    for other in (replace(few, times=2 * few.times), few.select(slice(0, 1))):
        with pytest.raises(ValueError, match="^parts of an ensemble must have the same times"):
            joined([one, watched("point", other, one.cloud.grid)])  # type: ignore[union-attr]
    records = {**few.records, "pulled_length": few.records["pulled_length"] + 1.0}
    with pytest.raises(ValueError, match="controls"):  # other controls: no parts of one ensemble
        joined([one, watched("point", replace(few, records=records), one.cloud.grid)])  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="^ensemble must have at least 1 part, but has none"):
        observe([])
    assert joined([one]) is one


def test_the_variance_of_parts_survives_a_mean_a_billion_widths_away() -> None:
    """Squares of means, taken from one another, would leave nothing of it."""
    times, rng = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.Generator().manual_seed(0)
    draws = torch.randn(3, 1, 2, 50, generator=rng, dtype=torch.float64)
    grid = 1e9 + torch.linspace(-6, 6, 25, dtype=torch.float64)
    parts = [observe(Ensemble(times, 1e9 + some), grid=grid) for some in draws]
    whole = draws.movedim(0, -1).flatten(2).var(-1, unbiased=False)
    assert torch.allclose(joined(parts).variance[..., 0, 0], whole, rtol=1e-6)
