"""Own particles: axes in any order, lost realisations, several clocks, and every format equals memory."""

import gc
import logging
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibvonns import reading
from ibvonns.ensemble import Ensemble
from ibvonns.observations import observe
from ibvonns.reading import READERS, from_arrays, from_conditions, read, read_parts

Array = np.ndarray[Any, Any]
NAMES = ("conditions", "times", "sites", "realisations", "dims")
ALL = " ".join(NAMES)
CLOCK = np.array([0.0, 0.1, 0.25, 0.3, 0.7])
RNG = np.random.default_rng(0)
CLOUD = RNG.normal(size=(2, 5, 3, 7, 2))  # one length for each axis
FORCE = RNG.normal(size=(2, 5))
POINTS = CLOUD[:, :, 0, :, 0].copy()
AXES = "conditions times realisations"


def same(one: Ensemble, other: Ensemble) -> bool:
    """Two ensembles are equal, bit for bit and in precision."""
    mine, theirs = ({"times": e.times, "x": e.realisations, **e.records} for e in (one, other))
    equal = all(mine[key].dtype == theirs[key].dtype and torch.equal(mine[key], theirs[key]) for key in mine)
    return mine.keys() == theirs.keys() and equal and (one.components, one.units) == (other.components, other.units)


def whole() -> Ensemble:
    """What the constructor makes of the same numbers."""
    return Ensemble(torch.tensor(CLOCK), torch.tensor(CLOUD), {"force": torch.tensor(FORCE)}, components=2)


# arrays


@given(st.permutations(NAMES), st.booleans(), st.sampled_from([" ", ", "]), st.sampled_from([np.array, torch.tensor]))
def test_axes_in_any_order_give_the_same_ensemble(
    order: list[str], singular: bool, mark: str, kind: Callable[[Any], Any]
) -> None:
    x = kind(CLOUD.transpose([NAMES.index(name) for name in order]).copy())
    axes = mark.join(name[:-1] if singular else name for name in order)
    assert same(from_arrays(x, CLOCK, {"force": FORCE}, axes=axes), whole())
    assert same(from_arrays(x, CLOCK, {"force": FORCE}, axes=axes.replace(",", "").split()), whole())


@given(st.sets(st.sampled_from(["conditions", "sites", "dims"])), st.permutations(NAMES))
def test_an_axis_that_is_not_there_has_length_one(missing: set[str], order: list[str]) -> None:
    kept = [name for name in order if name not in missing]
    first = CLOUD[tuple(slice(0, 1) if name in missing else slice(None) for name in NAMES)]
    record = {"force": FORCE[: len(first)]}
    axes = [NAMES.index(name) for name in NAMES if name in missing]
    left = [name for name in NAMES if name not in missing]
    x = first.squeeze(tuple(axes)).transpose([left.index(name) for name in kept])
    assert same(from_arrays(x, CLOCK, record, axes=kept), from_arrays(first, CLOCK, record, axes=ALL))


def test_what_the_library_sees_is_what_the_constructor_gives() -> None:
    ours = observe(from_arrays(POINTS, CLOCK, {"length": FORCE}, axes=AXES), "length", forces=())
    theirs = observe(Ensemble(torch.tensor(CLOCK), torch.tensor(POINTS), {"length": torch.tensor(FORCE)}), "length", ())
    assert torch.equal(ours.cloud.weights, theirs.cloud.weights)  # type: ignore[union-attr]
    assert torch.equal(ours.field, theirs.field)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("holes", [False, True])
def test_single_precision_stays_and_the_rest_becomes_double(kind: str, holes: bool) -> None:
    for came, kept in ((np.float32, torch.float32), (np.float64, torch.float64), (np.float16, torch.float64)):
        x = POINTS.astype(came)
        x[0, 0, 0] = np.nan if holes else x[0, 0, 0]
        given = torch.from_numpy(x) if kind == "torch" else x
        assert from_arrays(given, CLOCK, axes=AXES, lost="drop").realisations.dtype == kept
        x.flags.writeable = False  # as pandas gives it
        assert from_arrays(x, CLOCK, axes=AXES, lost="drop").realisations.dtype == kept
    assert from_arrays(np.arange(20).reshape(5, 4), CLOCK).realisations.dtype == torch.float64
    assert from_arrays(POINTS.tolist(), CLOCK.tolist()).realisations.dtype == torch.float64


def test_the_arrays_that_came_are_not_changed() -> None:
    x, before = POINTS.copy(), POINTS.copy()
    x[1, 2, 3] = before[1, 2, 3] = np.nan
    from_arrays(x, CLOCK, axes=AXES, lost="drop")
    np.testing.assert_array_equal(x, before)


def test_axes_without_names_are_taken_where_lengths_leave_no_doubt() -> None:
    assert same(from_arrays(POINTS, CLOCK), from_arrays(POINTS, CLOCK, axes=AXES))
    assert same(from_arrays(POINTS[0], CLOCK), from_arrays(POINTS[0], CLOCK, axes="times realisations"))
    for shape in ((5,), (7, 5), (5, 5), (5, 3), (2, 5, 3), (5, 5, 7), (7, 2, 5), (5, 7, 2), (2, 5, 7, 2), (2, 5, 3, 7)):
        with pytest.raises(ValueError, match=rf"^axes must be named.*last axis, of length {shape[-1]}, the time"):
            from_arrays(np.zeros(shape), CLOCK)


def test_records_may_have_one_row_for_all_conditions_or_axes_of_their_own() -> None:
    field = RNG.normal(size=(2, 5, 9))
    made = from_arrays(POINTS, CLOCK, {"bath": CLOCK, "force": FORCE, "field": field})
    assert torch.equal(made.records["bath"], torch.tensor(np.stack([CLOCK, CLOCK])))
    assert torch.equal(made.records["field"], torch.tensor(field))
    for bad in (FORCE.T, FORCE[:, :4], FORCE[0, :4], field[:1], np.float64(1.0)):
        with pytest.raises(ValueError, match=r"^records\['force'\] must begin with shape \(2, 5\), but has"):
            from_arrays(POINTS, CLOCK, {"force": bad})


# what is lost


@given(st.sets(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 2), st.integers(0, 6), st.integers(0, 1)),
               max_size=6))  # fmt: skip
def test_whole_realisations_remain_in_their_order_and_equally_many(holes: set[tuple[int, ...]]) -> None:
    x = CLOUD.copy()
    for place in holes:
        x[place] = np.nan
    lost = [{place[3] for place in holes if place[0] == condition} for condition in range(2)]
    number = 7 - max(map(len, lost))
    made = from_arrays(x, CLOCK, {"force": FORCE}, axes=ALL, lost="drop", least=0.0) if number else None
    for condition in range(2) if made else ():
        kept = [each for each in range(7) if each not in lost[condition]][:number]
        assert torch.equal(made.realisations[condition], torch.tensor(CLOUD[condition][:, :, kept]))  # type: ignore[union-attr]


def test_lost_realisations_are_refused_or_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    x = POINTS.copy()
    x[0, 3, [1, 4]] = x[1, 0, 6] = np.nan
    with pytest.raises(ValueError, match=r"^positions must be whole, but 3 of 14 .* pass lost=\"drop\" to leave them"):
        from_arrays(x, CLOCK)
    with pytest.raises(ValueError, match=r"^positions must keep a share of 0.8 of the 7 .* but one keeps 5: 3 of 14"):
        from_arrays(x, CLOCK, lost="drop", least=0.8)
    with pytest.raises(ValueError, match="^positions must keep a share of 0 of"):
        from_arrays(x * np.nan, CLOCK, lost="drop", least=0.0)
    with pytest.raises(ValueError, match="^lost must be one of 'drop', 'refuse'"):
        from_arrays(x, CLOCK, lost="keep")
    with pytest.raises(ValueError, match="^least must be a finite number of at least 0"):
        from_arrays(x, CLOCK, lost="drop", least=-1.0)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert from_arrays(x, CLOCK, lost="drop", least=5 / 7).count == 5
    says = "3 of 14 realisations miss a part (NaN): each condition keeps 5 of 7, as the one with the fewest"
    assert caplog.messages == [says]


def test_what_is_masked_is_lost() -> None:
    masked = np.ma.masked_array(POINTS, np.zeros(POINTS.shape, bool))
    assert same(from_arrays(masked, CLOCK), from_arrays(POINTS, CLOCK))
    masked[0, 0, 0] = np.ma.masked
    with pytest.raises(ValueError, match="^positions must be whole, but 1 of 14"):
        from_arrays(masked, CLOCK)
    with pytest.raises(ValueError, match=r"^records\['force'\] must be finite"):
        from_arrays(POINTS, CLOCK, {"force": masked[..., 0]})


def test_infinite_values_and_lost_records_are_refused_always() -> None:
    x = POINTS.copy()
    x[0, 0, 0], x[0, 0, 1] = np.inf, np.nan
    for kind in (np.array, torch.tensor):
        with pytest.raises(ValueError, match="^positions must be finite, but holds 1 NaN or infinite value"):
            from_arrays(kind(x), CLOCK, lost="drop")
    with pytest.raises(ValueError, match=r"^records\['force'\] must be finite"):
        from_arrays(POINTS, CLOCK, {"force": FORCE * np.nan}, lost="drop")
    with pytest.raises(ValueError, match="^times must be finite"):
        from_arrays(POINTS, CLOCK * np.nan, axes=AXES)


# several clocks


def test_conditions_are_joined_by_their_clocks() -> None:
    clocks = [CLOCK, CLOCK[:4], CLOCK, CLOCK + 1e-12]
    x = [RNG.normal(size=(7, len(clock))) for clock in clocks]
    force = [RNG.normal(size=len(clock)) for clock in clocks]
    made = from_conditions(x, clocks, {"force": force}, axes="realisation time")
    for ensemble, members in zip(made, [(0, 2), (1,), (3,)], strict=True):
        joined = np.stack([x[member] for member in members])
        alone = from_arrays(joined, clocks[members[0]], {"force": np.stack([force[m] for m in members])},
                            axes="condition realisation time")  # fmt: skip
        assert same(ensemble, alone)


def test_conditions_with_fewer_realisations_count_as_having_lost_them() -> None:
    x = [POINTS[0], POINTS[1, :, :4]]
    with pytest.raises(ValueError, match="^positions must be whole, but 3 of 14"):
        from_conditions(x, [CLOCK, CLOCK])
    (made,) = from_conditions(x, [CLOCK, CLOCK], lost="drop")
    assert same(made, from_arrays(POINTS[:, :, :4], CLOCK))


def test_conditions_that_do_not_match_are_refused() -> None:
    flat = "time realisation dim"
    with pytest.raises(ValueError, match="^positions, times and records must have an entry for each .* 'times': 1"):
        from_conditions([POINTS[0]] * 2, [CLOCK])
    with pytest.raises(ValueError, match="^positions, times and records must have an entry for each"):
        from_conditions([], [])
    with pytest.raises(ValueError, match="^positions, times and records must have an entry for each .* 'force': 3"):
        from_conditions([POINTS[0]] * 2, [CLOCK] * 2, {"force": [CLOCK] * 3})
    with pytest.raises(ValueError, match="^conditions must have the same sites, dims and records, but differ"):
        from_conditions([np.zeros((5, 4, 2)), np.zeros((5, 4, 3))], [CLOCK] * 2, axes=flat)
    with pytest.raises(ValueError, match=r"^positions\[1\] must have shape \(times, realisations\), but with times"):
        from_conditions([POINTS[0], POINTS[1, 1:]], [CLOCK] * 2, axes="times realisations")
    with pytest.raises(ValueError, match="^positions must be one array, but its rows differ in length"):
        from_arrays([[1.0, 2.0], [3.0]], [0.0, 1.0])


@pytest.mark.parametrize(
    "axes", ["", "times", "realisations", "times realisations times", "time times realisations", "times realisation x"]
)
def test_axes_are_named_wholly_and_once(axes: str) -> None:
    with pytest.raises(ValueError, match="^axes must (name times, realisations and no axis twice|be one of)"):
        from_arrays(POINTS, CLOCK, axes=axes)


def test_shapes_that_do_not_fit_are_refused() -> None:
    for axes, x in (("times realisations", POINTS), (AXES, POINTS[:, :4]), ("times conditions realisations", POINTS)):
        with pytest.raises(ValueError, match=r"^positions must have shape \(.*\), but with times of shape \(5,\) has"):
            from_arrays(x, CLOCK, axes=axes)
    with pytest.raises(ValueError, match="^times must increase strictly"):
        from_arrays(POINTS, CLOCK[::-1].copy())
    for words in (np.array([["a"] * 4] * 5), [[None] * 4] * 5):
        with pytest.raises(TypeError, match="^positions must hold real numbers"):
            from_arrays(words, CLOCK)


# files


def memory(kind: type[np.floating[Any]] = np.float64) -> Ensemble:
    """What is written below, from memory."""
    return from_arrays(CLOUD.astype(kind), CLOCK, {"force": FORCE}, axes=ALL)


OWN: dict[str, Any] = {"positions": "own/x", "times": "clock", "records": {"force": "F"}}
ORDER = "dims realisations sites times conditions"


def hold(target: Any, kind: type[np.floating[Any]]) -> None:
    """Write to a hierarchy, under keys of one's own."""
    for name, value in (("own/x", CLOUD.T.astype(kind)), ("clock", CLOCK), ("F", FORCE), ("unused", CLOCK)):
        target[name] = value


def write(path: Path, kind: type[np.floating[Any]] = np.float64) -> Path:
    """A file of arrays, as it ends."""
    if path.suffix == ".npz":
        hold(arrays := dict[str, Any](), kind)
        np.savez(path, **arrays)
    elif path.suffix == ".zarr":
        hold(pytest.importorskip("zarr").open_group(path, mode="w"), kind)
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            hold(file, kind)
    return path


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("ends", [".npz", ".h5", ".hdf5", ".zarr"])
def test_arrays_in_files_equal_memory(ends: str, kind: type[np.floating[Any]], tmp_path: Path) -> None:
    path = write(tmp_path / f"own{ends}", kind)
    assert same(read(path, axes=ORDER, **OWN), memory(kind))
    assert same(read(str(path), axes=ORDER, **OWN), memory(kind))
    listed = read(path, axes=ORDER, **{**OWN, "records": ["F"]})
    assert list(listed.records) == ["F"] and torch.equal(listed.records["F"], torch.tensor(FORCE))
    with pytest.raises(ValueError, match=rf"^path must name a whole {ends} file.*it has no 'positions' but .*clock"):
        read(path)
    with pytest.raises(ValueError, match="no 'force'"):
        read(path, axes=ORDER, **{**OWN, "records": ["force"]})
    with pytest.raises(ValueError, match=r"unexpected keyword argument 'dims'"):
        read(path, axes=ORDER, dims="x", **OWN)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_an_array_beside_its_times_and_records_equals_memory(kind: type[np.floating[Any]], tmp_path: Path) -> None:
    np.save(path := tmp_path / "own.npy", CLOUD.T.astype(kind))
    np.save(tmp_path / "clock.npy", CLOCK)
    np.save(tmp_path / "force.npy", FORCE)
    by_path: dict[str, Any] = {"times": tmp_path / "clock.npy", "records": {"force": str(tmp_path / "force.npy")}}
    for how in ({"times": CLOCK, "records": {"force": FORCE}}, by_path):
        assert same(read(path, axes=ORDER, **how), memory(kind))
    with pytest.raises(ValueError, match=r"^path must name a whole .npy file .* missing .*'times'"):
        read(path)


def test_saved_ensembles_equal_memory(tmp_path: Path) -> None:
    for number, kept in enumerate((memory(), memory(np.float32), from_arrays(POINTS, CLOCK), whole().select(slice(1)))):
        kept.save(path := tmp_path / f"{number}.safetensors")
        assert same(read(path), kept)


def test_lengths_and_times_are_scaled_and_files_joined(tmp_path: Path) -> None:
    for place in (0, 1):
        np.savez(tmp_path / f"{place}.npz", positions=POINTS[place], times=CLOCK, force=FORCE[place])
    paths = [tmp_path / "0.npz", str(tmp_path / "1.npz")]
    assert same(read(paths, records=["force"]), from_arrays(POINTS, CLOCK, {"force": FORCE}))
    scaled = read(paths, length=0.1, time=1e-3, records=["force"])
    assert same(scaled, from_arrays(0.1 * POINTS, 1e-3 * CLOCK, {"force": FORCE}))
    np.savez(tmp_path / "1.npz", positions=POINTS[1], times=CLOCK + 1)
    with pytest.raises(ValueError, match="^path must name conditions with 1 clock, but with 2: read each by itself"):
        read(paths)
    with pytest.raises(ValueError, match="^path must name conditions with 1 clock, but with 0"):
        read([])
    with pytest.raises(ValueError, match="^length must be a finite number above 0"):
        read(paths[0], length=0.0)


def test_units_are_kept_where_no_factor_changes_them(tmp_path: Path) -> None:
    units = {"positions": "um", "times": "s", "force": "pN"}
    kept = from_arrays(POINTS, CLOCK, {"force": FORCE}, units=units)
    assert kept.units == units and from_conditions([POINTS[0]], [CLOCK], units={"times": "s"})[0].units == {
        "times": "s"
    }
    kept.save(path := tmp_path / "own.safetensors")
    assert same(read(path), kept) and all(part.units == units for part in read_parts(path, size=1))
    assert read(path, length=1e-6).units == {} and read(path, length=1e-6, units=units).units == units
    assert read(path, units={}).units == {} and read([path, path]).units == units
    from_arrays(POINTS, CLOCK, {"force": FORCE}).save(other := tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="^path must name ensembles in the same units, but in .*'um'"):
        read([path, other])
    assert read([path, other], units={"times": "s"}).units == {"times": "s"}


# parts


def joined(blocks: Iterator[Ensemble]) -> Ensemble:
    """Parts as one, after a look that they are alike."""
    first, *more = blocks
    assert all(torch.equal(each.times, first.times) for each in more)
    assert all(torch.equal(each.records[name], first.records[name]) for each in more for name in first.records)
    x = torch.cat([each.realisations for each in (first, *more)], first.axis)
    return Ensemble(first.times, x, first.records, first.components, first.units)


@given(st.integers(1, 500))
def test_parts_are_as_large_as_may_be_and_alike(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    np.savez(path := tmp_path_factory.getbasetemp() / "own.npz", positions=CLOUD, times=CLOCK)
    counts = [part.count for part in read_parts(path, size=size, axes=ALL)]
    assert sum(counts) == 7 and max(counts) - min(counts) <= 1 and min(counts) >= 2
    fewest = -(-CLOUD.size // size)
    assert len(counts) == min(fewest, 3)  # of two realisations at least


@pytest.mark.parametrize("ends", [".npy", ".npz", ".h5", ".zarr", ".safetensors"])
def test_parts_joined_are_the_whole(ends: str, tmp_path: Path) -> None:
    path, how = tmp_path / f"own{ends}", dict[str, Any](axes=ORDER, **OWN)
    if ends == ".npy":
        np.save(path, CLOUD.T.astype(np.float32))
        how = {"axes": ORDER, "times": CLOCK, "records": {"force": FORCE}}
    elif ends == ".safetensors":
        memory(np.float32).save(path)
        how = {}
    else:
        write(path, np.float32)
    assert len([*read_parts(path, size=200, **how)]) == 3 and len([*read_parts(path, **how)]) == 1
    assert same(joined(read_parts(path, size=200, **how)), memory(np.float32))
    assert same(joined(read_parts([path, path], size=1, length=2.0, **how)), read([path, path], length=2.0, **how))


def test_parts_are_observed_as_the_whole_is(tmp_path: Path) -> None:
    np.savez(path := tmp_path / "own.npz", positions=POINTS, times=CLOCK, length=FORCE)
    seen, whole = (observe(data, "length", ()) for data in (read_parts(path, size=20, records=["length"]),
                                                            read(path, records=["length"])))  # fmt: skip
    assert seen.count == whole.count and torch.equal(seen.field, whole.field)
    assert torch.allclose(seen.mean, whole.mean, rtol=0, atol=1e-12)
    assert torch.allclose(seen.variance, whole.variance, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ends", [".npy", ".h5", ".h5md", ".zarr"])
def test_a_part_takes_the_memory_of_its_slab_and_not_of_the_file(ends: str, tmp_path: Path) -> None:
    x, path = RNG.normal(size=(4, 50, 20000)).astype(np.float32), tmp_path / f"own{ends}"  # 16 MB
    clock, how = np.arange(50.0), dict[str, Any](axes=AXES)
    if ends == ".npy":
        np.save(path, x)
        how |= {"times": clock}
    elif ends == ".zarr":
        group = pytest.importorskip("zarr").open_group(path, mode="w")
        group.create_array("positions", data=x, chunks=(4, 50, 500))
        group["times"] = clock
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            if ends == ".h5":
                file.create_dataset("positions", data=x, chunks=(4, 50, 500))
                file["times"] = clock
            else:
                how, root = {"dims": "x"}, file.create_group("particles/all")
                root.create_dataset("position/value", data=x[0, ..., None], chunks=(1, 500, 1))
                root["position/time"], root["id/value"] = clock, np.tile(RNG.permutation(20000), (50, 1))
    size = x[0].nbytes if ends == ".h5md" else x.nbytes
    tracemalloc.start()
    try:
        number = len([part.count for part in read_parts(path, size=size // 4 // 20, **how)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert number == 20 and peak < size / 3


def test_a_part_that_is_damaged_or_lost_is_told_when_it_is_its_turn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    h5py, path, x = pytest.importorskip("h5py"), tmp_path / "own.h5", POINTS.copy()
    x[1, 2, 6] = np.nan
    with h5py.File(path, "w") as file:
        file["times"] = CLOCK
        data = file.create_dataset("positions", data=x, chunks=(2, 5, 1), fletcher32=True)
        place = data.id.get_chunk_info(3).byte_offset
    blocks = read_parts(path, size=20, axes=AXES)
    assert torch.equal(next(blocks).realisations, torch.tensor(x[..., :2]))
    kept = [part.count for part in read_parts(path, size=20, axes=AXES, lost="drop")]
    assert kept == [2, 2, 2] and "1 of 6 realisations miss a part" in caplog.text
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^path must name a whole .h5 file with what is asked, but"):
        next(blocks)
    with pytest.raises(ValueError, match="^positions must be whole, but 1 of 6"):
        next(blocks)
    with pytest.raises(ValueError, match="^size must be a whole number of at least 1"):
        read_parts(path, size=0, axes=AXES)


# H5MD and trajectories: the first dimension of particles is that of the times

PARTICLES = RNG.normal(size=(2, 5, 6, 3)).astype(np.float32) * 10  # conditions, times, particles, components
STEPS = np.arange(5) * 2.0
SPLIT = "conditions times realisations sites dims"


def layouts() -> Iterator[tuple[dict[str, Any], Array, str]]:
    """Ways to read particles, and what they give."""
    plain = "conditions times realisations dims"
    yield {}, PARTICLES, plain
    yield {"dims": "x"}, PARTICLES[..., 0], AXES
    yield {"dims": "zx"}, PARTICLES[..., [2, 0]], plain
    yield {"sites": 3}, PARTICLES.reshape(2, 5, 2, 3, 3), SPLIT
    yield {"sites": 2, "dims": "y"}, PARTICLES[..., 1].reshape(2, 5, 3, 2), SPLIT.removesuffix(" dims")


def test_h5md_equals_memory(tmp_path: Path) -> None:
    h5py, path = pytest.importorskip("h5py"), tmp_path / "own.h5md"
    shuffled = RNG.permuted(np.tile(np.arange(6), (5, 1)), axis=1)
    with h5py.File(path, "w") as file:
        for place, group in enumerate(("slow", "fast")[::-1]):
            own = file.create_group(f"particles/{group}")
            own["position/value"] = np.take_along_axis(PARTICLES[place], shuffled[..., None], 1)
            own["id/value"] = shuffled + 1
            own["position/step"], own["position/time"] = np.arange(5), STEPS
            file[f"observables/{group}/force/value"] = FORCE[place]
        file["observables/bath/value"] = CLOCK
        file["clock"] = STEPS
    for how, x, axes in layouts():
        assert same(read(path, **how), from_arrays(x, STEPS, axes=axes))
        assert same(joined(read_parts(path, size=100, **how)), read(path, **how))
    made = read(path, dims="x", records={"F": "force", "bath": "bath", "t": "clock"})
    kept = {"F": FORCE, "bath": CLOCK, "t": STEPS}
    assert same(made, from_arrays(PARTICLES[..., 0], STEPS, kept, axes=AXES))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"sites": 4}, "sites must divide the 6 particles, but are 4"),
        ({"dims": "xw"}, "dims must be some of 'xyz', but are 'xw'"),
        ({"axes": AXES}, "keyword argument 'axes'"),
        ({"records": ["none"]}, "no 'none'"),
    ]
    for how, sentence in wrong:
        with pytest.raises(ValueError, match=sentence):
            read(path, **how)
    with h5py.File(path, "a") as file:
        for group in ("slow", "fast"):
            del file[f"particles/{group}/position/time"]
            file[f"particles/{group}/position/time"] = 0.5
            file[f"particles/{group}/position/time"].attrs["offset"] = 3.0
    assert torch.equal(read(path).times, torch.tensor(3 + 0.5 * np.arange(5)))
    with h5py.File(path, "a") as file:
        for group in ("slow", "fast"):
            del file[f"particles/{group}/position/time"]
    assert torch.equal(read(path).times, torch.arange(5.0, dtype=torch.float64))
    with h5py.File(path, "a") as file:
        file["particles/slow/id/value"][2, 0] = 9
    with pytest.raises(ValueError, match="particles/slow holds other particles at other times"):
        read(path)


def lammps(path: Path, x: Array, columns: str = "x y z") -> None:
    """A dump with its particles in another order at each time, in a box that does not begin at 0."""
    lines = []
    for step, frame in zip(STEPS, x, strict=True):
        lines += [
            "ITEM: TIMESTEP",
            f"{step:.0f}",
            "ITEM: NUMBER OF ATOMS",
            f"{len(frame)}",
            "ITEM: BOX BOUNDS pp pp pp",
        ]
        lines += ["-90.0 90.0"] * 3 + [f"ITEM: ATOMS id type {columns}"]
        rows = [" ".join(map(repr, map(float, row))) for row in frame]
        lines += [f"{each + 1} 1 {rows[each]}" for each in RNG.permutation(len(frame))]
    path.write_text("\n".join(lines) + "\n")


def trajectory(path: Path, x: Array) -> None:
    """Frames 2 ps apart."""
    if path.suffix in (".lammpstrj", ".dump"):
        return lammps(path, x)
    if path.suffix == ".xyz":  # MDAnalysis writes five digits
        rows = [
            [f"{len(frame)}", "own", *(" ".join(["C", *map(repr, map(float, each))]) for each in frame)] for frame in x
        ]
        path.write_text("".join(f"{line}\n" for frame in rows for line in frame))
        return None
    mda = pytest.importorskip("MDAnalysis")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe = mda.Universe.empty(x.shape[1], trajectory=True)
        universe.load_new(x, dt=2.0, dimensions=np.full(6, 90.0))
        with mda.Writer(str(path), n_atoms=x.shape[1], dt=2.0) as writer:
            for _ in universe.trajectory:
                writer.write(universe.atoms)
    return None


@pytest.mark.parametrize("ends", [".dcd", ".xtc", ".trr", ".xyz", ".nc", ".lammpstrj", ".dump"])
def test_trajectories_equal_memory(ends: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("MDAnalysis")
    paths = [tmp_path / f"{place}{ends}" for place in (0, 1)]
    for path, x in zip(paths, PARTICLES, strict=True):
        trajectory(path, x)
    capsys.readouterr()
    # XTC rounds to 0.01 Angstrom; TRR is in nanometres, which costs a bit or two
    precision = {".xtc": 0.0051, ".trr": 1e-5}.get(ends, 0.0)
    times = STEPS / 2 if ends == ".xyz" else STEPS  # XYZ holds none
    for how, x, axes in layouts():
        made, kept = read(paths, **how), from_arrays(x, times, axes=axes)
        assert made.realisations.shape == kept.realisations.shape and made.components == kept.components
        assert (made.realisations - kept.realisations).abs().max() <= precision
        assert (made.times - kept.times).abs().max() <= 1e-5
        assert same(joined(read_parts(paths, size=1, **how)), made)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reading, "SIZE", 40)  # too little for two frames
            assert same(joined(read_parts(paths, size=1, **how)), made)
    assert made.realisations.dtype == (torch.float64 if ends in (".lammpstrj", ".dump") else torch.float32)
    assert capsys.readouterr() == ("", "")


def test_lammps_prefers_what_is_unwrapped(tmp_path: Path) -> None:
    pytest.importorskip("MDAnalysis")
    lammps(path := tmp_path / "own.dump", np.concatenate([PARTICLES[0] % 1, PARTICLES[0]], -1), "x y z xu yu zu")
    made = read(path)
    assert torch.equal(made.realisations[0], torch.tensor(PARTICLES[0], dtype=torch.float64))


# tables


def table(with_condition: bool = True) -> Any:
    """Rows in disorder, in which the force is constant within a condition and time."""
    pandas = pytest.importorskip("pandas")
    places = np.stack(np.meshgrid(*(np.arange(n) for n in CLOUD.shape[:4]), indexing="ij"), -1).reshape(-1, 4)
    c, t, s, r = places[RNG.permutation(len(places))].T
    columns = {"condition": np.array(["a", "b"])[c], "time": CLOCK[t], "site": s, "realisation": 10 * r}
    columns |= {"x": CLOUD[c, t, s, r, 0], "y": CLOUD[c, t, s, r, 1], "force": FORCE[c, t]}
    columns |= {"speed": RNG.normal(size=len(c)), "name": np.full(len(c), "bead")}
    return pandas.DataFrame(columns)


@pytest.mark.parametrize("ends", [".csv", ".parquet", ".feather"])
def test_tables_equal_memory(ends: str, tmp_path: Path) -> None:
    rows, path = table(), tmp_path / f"own{ends}"
    if ends != ".csv":
        pytest.importorskip("pyarrow")

    def write(rows: Any) -> Path:
        getattr(rows, f"to_{ends[1:]}")(path, **({"index": False} if ends == ".csv" else {}))
        return path

    assert same(read(write(rows)), memory())
    assert same(joined(read_parts(path, size=100)), memory())
    assert same(read(path, dims="y"), from_arrays(CLOUD[..., 1], CLOCK, {"force": FORCE}, axes=NAMES[:4]))
    assert same(read(path, positions=["x", "y"], records={"force": "force"}), memory())
    own = rows.rename(columns={"time": "t", "realisation": "bead", "condition": "pull", "x": "px", "y": "py"})
    how: dict[str, Any] = {
        "axes": {"realisation": "bead", "condition": "pull"},
        "positions": ["px", "py"],
        "times": "t",
    }
    assert same(read(write(own), **how), memory())
    first = rows[(rows["condition"] == "a") & (rows["site"] == 1)].drop(columns=["condition", "site"])
    assert same(
        read(write(first)), from_arrays(CLOUD[0, :, 1], CLOCK, {"force": FORCE[0]}, axes="time realisation dim")
    )
    with pytest.raises(ValueError, match=r"no 'none'"):
        read(path, records=["none"])
    with pytest.raises(ValueError, match=r"records \['speed'\] must be the same for all realisations"):
        read(path, records=["speed"])
    with pytest.raises(ValueError, match=r"it has no 'bead' but .*speed"):
        read(path, axes={"realisation": "bead"})
    lost = rows[~((rows["condition"] == "a") & (rows["realisation"] == 20) & (rows["time"] == CLOCK[3]))]
    with pytest.raises(ValueError, match="^positions must be whole, but 1 of 14"):
        read(write(lost))
    kept = CLOUD.copy()
    kept[0, 3, :, 2] = np.nan
    assert same(read(path, lost="drop"), from_arrays(kept, CLOCK, {"force": FORCE}, axes=ALL, lost="drop"))
    with pytest.raises(ValueError, match="^path must name conditions with 1 clock, but with 2"):
        read(write(rows[~((rows["condition"] == "a") & (rows["time"] == CLOCK[3]))]))
    with pytest.raises(ValueError, match="Index contains duplicate entries"):
        read(write(rows.iloc[[0, 0, *range(len(rows))]].reset_index(drop=True)))
    with pytest.raises(ValueError, match="'time' lacks a value in some rows"):
        read(write(rows.assign(time=np.where(rows["time"] == CLOCK[2], np.nan, rows["time"]))))
    apart = rows.assign(realisation=rows["realisation"] + 1000 * (rows["condition"] == "b"))
    assert same(read(write(apart)), memory())  # realisations may count on from condition to condition


def test_parquet_keeps_single_precision(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    table().astype({"x": "float32", "y": "float32"}).to_parquet(path := tmp_path / "own.parquet")
    assert same(read(path), memory(np.float32))


# what is not there, damaged, unknown or not installed


# MDAnalysis closes what it could not open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("ends", sorted(READERS))
def test_files_that_are_missing_or_damaged_are_refused_by_a_sentence(ends: str, tmp_path: Path) -> None:
    path = tmp_path / f"own{ends}"
    with pytest.raises(FileNotFoundError, match="^path must name an existing file, but"):
        read(path)
    package = {"hdf5": "h5py", "zarr": "zarr", "trajectories": "MDAnalysis", "tables": "pandas"}.get(READERS[ends][1])
    if package:
        pytest.importorskip(package)
    for content in (b"", b"\x00\x01garbage\xff" * 40):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^path must name a whole {ends} file with what is asked, but") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    del caught
    gc.collect()


def test_unknown_endings_are_refused(tmp_path: Path) -> None:
    for name in ("own", "own.txt", "own.npz.bak"):
        with pytest.raises(ValueError, match="^path must end in one of .csv .dcd .dump .* .zarr, but is"):
            read(tmp_path / name)


@pytest.mark.parametrize("ends", sorted(ends for ends, (_, extra) in READERS.items() if extra))
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path := tmp_path / f"own{ends}").write_bytes(b"")
    for name in ("h5py", "zarr", "MDAnalysis", "MDAnalysis.coordinates.core", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'^a package must be there .* pip install "ibvonns\[{READERS[ends][1]}\]"$'):
        read(path)


def test_a_package_that_another_asks_for_is_named_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    table().to_parquet(path := tmp_path / "own.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'^a package must be there .*pyarrow.* pip install "ibvonns\[tables\]"$'):
        read(path)
