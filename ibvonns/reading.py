"""Your own particles as ensembles: arrays with axes in any order, and the files that hold them.

What is lost, ambiguous or of another length is refused by a sentence, and never guessed. A package that
reads a format is imported when a file of it is read, and not before.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn.functional import pad

from ibvonns.ensemble import Ensemble
from ibvonns.validation import choice, count, positive, require, tensor

__all__ = ["from_arrays", "from_conditions", "read_parts", "read"]

Axes = str | Sequence[str] | None
Records = Mapping[str, Any] | None
Units = Mapping[str, str] | None
Raw = tuple[Any, Any, Records, Axes]  # positions, times, records and axes, as a file has them
Part = tuple[Tensor, Tensor, dict[str, Tensor]]  # with all axes in the order below; what is lost is NaN
AXES = ("conditions", "times", "sites", "realisations", "dims")
WORDS = {word: axis for axis in AXES for word in (axis, axis[:-1])}
SIZE = 2**26  # positions of a part: 256 MB in single precision
COLUMNS = ("xu", "yu", "zu"), ("x", "y", "z")  # of LAMMPS: unwrapped ones where they are there
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Slabs:
    """Positions that stay in their file until a slab of them is asked for."""

    path: Path
    shape: tuple[int, ...]
    take: Callable[[Any], Any]
    units: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, where: Any) -> Any:
        with _telling(self.path):
            return self.take(where)


def from_arrays(
    positions: Any,
    times: Any,
    records: Records = None,
    *,
    axes: Axes = None,
    lost: str = "refuse",
    least: float = 0.5,
    units: Units = None,
) -> Ensemble:
    """An ensemble of arrays: NumPy's, tensors, or lists, on the processor. Single precision stays single, the rest
    becomes double.

    A realisation is a whole history. One that misses a part (NaN, or masked in NumPy's masked arrays) is
    lost; conditions keep equally many, so all are cut to the one that keeps the fewest. Leaving them
    out is harmless only where what was lost does not depend on where the particle was.

    Args:
        positions: microscopic positions, with the axes that `axes` names.
        times: shape (times,), strictly increasing, the same for all conditions.
        records: macroscopic histories by your own names, each of shape (times,), the same for all conditions, or
            (conditions, times, ...).
        axes: names of the axes of `positions` in their order, of "conditions times sites realisations dims"
            (or singular): times and realisations must be there. Without it "conditions times realisations" and
            "times realisations" are taken where the lengths leave no doubt.
        lost: "refuse" realisations that miss a part, or "drop" them with a warning (of `logging`).
        least: share of the realisations of each condition that must remain.
        units: as in `Ensemble`.

    Raises:
        ValueError: axes that are not named where they must be, lost realisations, infinite values, shapes that
            do not fit, or what `Ensemble` refuses.
        TypeError: no real numbers.

    >>> pair = from_arrays([[1.0, 2.0], [3.0, 4.0]], [0.0, 0.1], {"length": [0.5, 0.6]}, axes="realisation time")
    >>> pair
    <Ensemble of 2 realisations, shape (1, 2, 2), records: length>
    >>> pair.mean().tolist()
    [[2.0, 3.0]]
    """
    return _ensemble([_part(positions, times, records, axes)], lost, least, units)


def from_conditions(
    positions: Any, times: Any, records: Records = None, *, axes: Axes = None, **keys: Any
) -> list[Ensemble]:
    """Ensembles of conditions that have each its own clock: one for each clock, in the order they come.

    Conditions that share a clock, to the bit, are joined to one ensemble; one that has fewer realisations than
    another counts as having lost them. An ensemble holds one clock, and `observe` joins ensembles
    of the same conditions only: what comes out is a list, to be observed one by one.

    Args:
        positions: for each condition an array, with the axes that `axes` names.
        times: for each condition its clock, shape (times,).
        records: by name, for each condition a history of shape (times,) or (1, times, ...).
        axes: as in `from_arrays`.
        keys: `lost`, `least` and `units`, as in `from_arrays`.

    Raises:
        ValueError: as `from_arrays`; no condition, or lists of different lengths.
        TypeError: no real numbers.

    >>> clocks = [0.0, 0.1], [0.0, 0.1, 0.2], [0.0, 0.1]
    >>> for one in from_conditions([torch.zeros(len(clock), 4) for clock in clocks], clocks):
    ...     print(one)
    <Ensemble of 4 realisations, shape (2, 2, 4), records: none>
    <Ensemble of 4 realisations, shape (1, 3, 4), records: none>
    """
    clocks, own = dict[tuple[float, ...], list[Part]](), dict(records or {})
    lengths = {name: len(each) for name, each in {"positions": positions, "times": times, **own}.items()}
    same = len(positions) > 0 and len({*lengths.values()}) == 1
    require(same, f"positions, times and records must have an entry for each condition, but have {lengths}")
    for place, (x, clock) in enumerate(zip(positions, times, strict=True)):
        part = _part(x, clock, {name: each[place] for name, each in own.items()}, axes, f"[{place}]")
        clocks.setdefault(tuple(part[1].tolist()), []).append(part)
    return [_ensemble(alike, **keys) for alike in clocks.values()]


def read(path: Any, **keys: Any) -> Ensemble:
    """An ensemble from a file, or from several, by how the name ends.

    Each format takes some of these `keys`, and refuses others:

    - `.npz`, `.zarr`, `.h5`, `.hdf5`, `.h5md`, arrays under keys ("a/b" for one in a group): `positions` and `times`
      name them ("positions" and "times" if not given), `records` those to be kept, as a list or as new names
      with the keys; `axes` are those of the positions as in `from_arrays`. Extras: `zarr`, `hdf5`.
    - `.npy`, an array of positions alone: `times` and those of `records` (by name) are arrays, or the paths of such
      files; `axes`.
    - H5MD, in files of HDF5 where `positions` is not given: `dims`, `sites`, `records`. Each group of `particles`
      is a condition, particles are sorted by `id`, times are its `time`, or else its `step`. Records are looked for in
      `observables/GROUP`, in `observables`, and as a path.
    - `.xtc`, `.trr`, `.dcd`, `.xyz`, `.nc` (AMBER's), `.lammpstrj` and `.dump` (LAMMPS's text): `dims`, `sites`. By
      MDAnalysis (extra `trajectories`), in single precision, lengths in Angstrom and times in ps, as it takes them
      to be in the file; where a file tells no time, a frame is 1 ps. XTC keeps a thousandth of a nanometre
      only. Beside XTC and TRR MDAnalysis leaves a hidden file of offsets. LAMMPS's numbers are taken as they
      stand, unwrapped (xu yu zu) where there are such, and its times are steps; only scaled ones (xs ys zs)
      count from the corner of the box.
    - `.csv`, `.parquet`, `.feather`, tables with a row for each position (extra `tables`): `positions` names their
      columns, if not those of x, y, z that are there (or those of `dims`); `times` that of the time; `axes`
      others by the name of the axis, such as `{"realisation": "bead"}`. If not named, columns are called as
      axes are, in either number: time, realisation, and condition and site where there are several. `records`
      as above, or else all columns of numbers that are the same for all realisations of a condition at a time.
      A row that is not there is a part that is lost.
    - `.safetensors`, what `Ensemble.save` wrote: none.

    In trajectories and H5MD a particle is a realisation, or `sites` consecutive particles are; `dims` are the
    components to be kept, such as "x" or "xy", all if not given. Each frame must hold the same particles; unwrap
    what crosses a periodic boundary before.

    Args:
        path: of a file; or a list of several with one clock, whose conditions are joined in this order.
        keys: as above, and for each format `length` and `time`, factors of the positions and times; `lost` and
            `least`, as in `from_arrays`; and `units`, as in `Ensemble`: what stands after these factors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another ending, a damaged file, a key that is not there, or as `from_arrays`.
        ImportError: the package that reads the format is missing; the sentence says how to install it.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     numpy.savez(f"{folder}/own.npz", x=numpy.zeros((3, 2)), clock=[0.0, 0.1], F=[1.0, 2.0])
    ...     read(f"{folder}/own.npz", positions="x", times="clock", records={"force": "F"}, axes="realisation time")
    <Ensemble of 3 realisations, shape (1, 2, 3), records: force>
    """
    (whole,) = read_parts(path, size=sys.maxsize, **keys)
    return whole


def read_parts(
    path: Any,
    *,
    size: int = SIZE,
    length: float = 1.0,
    time: float = 1.0,
    lost: str = "refuse",
    least: float = 0.5,
    units: Units = None,
    **keys: Any,
) -> Iterator[Ensemble]:
    """The ensemble of `read` in parts, blocks of realisations one after another, as `observe` and `fit` take them.

    Of HDF5, H5MD, Zarr and `.npy` only a part's slab of the positions is read, in its own precision; if chunks do not
    lie along the realisations, each is read for every part that it meets. Large trajectories are gone
    through once for their times and then for every part. What else there is, is read whole and then split.

    Args:
        path: as for `read`.
        size: numbers of positions in a part, at most, but two realisations of each condition at least. Compressing
            one takes some 20 bytes for each.
        length: positions are multiplied by it.
        time: times are multiplied by it.
        lost: as in `from_arrays`, for each part by itself.
        least: as in `from_arrays`, for each part by itself.
        units: as in `Ensemble`, of what stands after these factors; those of a saved ensemble if not given.
        keys: as for `read`.

    Raises:
        ValueError: as `read`, a size below 1, or saved ensembles in several units. What is wrong with a part's
            positions is told when it is its turn.
        FileNotFoundError: as `read`.
        ImportError: as `read`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     numpy.save(f"{folder}/own.npy", numpy.zeros((5, 2)))
    ...     [part.count for part in read_parts(f"{folder}/own.npy", size=5, times=[0.0, 0.1], axes="realisation time")]
    [2, 3]
    """
    scales = positive("length", length), positive("time", time)
    if not isinstance(records := keys.get("records", {}), Mapping):
        keys["records"] = dict(zip(records, records, strict=True))
    paths = [path] if isinstance(path, str | os.PathLike) else path
    raws = [raw for each in paths for raw in _content(Path(each), keys)]
    clocks = {tuple(tensor("times", times).flatten().tolist()) for _, times, *_ in raws}
    require(len(clocks) == 1, f"path must name conditions with 1 clock, but with {len(clocks)}: read each by itself")
    if units is None:  # those of saved ensembles stand, unless a factor has changed them
        said = [x.units for x, *_ in raws]
        require(all(each == said[0] for each in said), f"path must name ensembles in the same units, but in {said}")
        units = said[0] if scales == (1.0, 1.0) else {}
    lengths = [dict(zip(_order(raw[3], raw[0].shape, len(*clocks)), raw[0].shape, strict=False)) for raw in raws]
    pairs = min(each.get("realisations", 0) for each in lengths) // 2  # one realisation alone has no variance
    number = max(1, min(ceil(sum(prod(raw[0].shape) for raw in raws) / count("size", size)), pairs))

    def block(place: int) -> Ensemble:
        own = (_part(*raw, block=(place, number)) for raw in raws)
        return _ensemble([(scales[0] * x, scales[1] * times, known) for x, times, known in own], lost, least, units)

    return map(block, range(number))


def _numbers(name: str, values: Any) -> Tensor:
    """As `validation.tensor`, but NaN passes, and so does what is masked, as NaN."""
    try:
        array = numpy.ma.filled(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, numpy.nan)
    except ValueError:
        raise ValueError(f"{name} must be one array, but its rows differ in length: see `from_conditions`") from None
    hole = numpy.asarray(array != array)
    filled = tensor(name, numpy.where(hole, 0, array) if hole.any() else array)
    return filled.masked_fill_(torch.from_numpy(hole), torch.nan) if hole.any() else filled


def _order(axes: Axes, shape: tuple[int, ...], times: int) -> list[str]:
    """The axes' names here; unnamed ones where the lengths leave no doubt: no space has more than 3 dimensions."""
    if axes is None:
        clear = shape[-2:-1] == (times,) and shape.count(times) == 1 and len(shape) < 4 and shape[-1] > 3
        last = f"is the last axis, of length {shape[-1] if shape else 0}, the time, the dimension or the realisation?"
        require(clear, f'axes must be named, as in axes="conditions times realisations dims": {last}')
        return ["conditions", "times", "realisations"][-len(shape) :]
    words = axes.replace(",", " ").split() if isinstance(axes, str) else axes
    named = [WORDS[choice("axes", word, WORDS)] for word in words]
    good = len(set(named)) == len(named) and {"times", "realisations"} <= set(named)
    require(good, f"axes must name times, realisations and no axis twice, but are {' '.join(words)!r}")
    return named


def _part(
    positions: Any, times: Any, records: Records, axes: Axes, place: str = "", block: tuple[int, int] = (0, 1)
) -> Part:
    """Conditions with one clock, with all axes in the library's order: one of so many blocks of realisations."""
    x = positions if isinstance(positions, _Slabs) else _numbers(f"positions{place}", positions)
    clock, kept = tensor(f"times{place}", times), dict[str, Tensor]()
    named = _order(axes, tuple(x.shape), clock.numel())
    fits = len(named) == len(x.shape) and clock.shape == (x.shape[named.index("times")],)
    came = f"but with times of shape {tuple(clock.shape)} has shape {tuple(x.shape)}"
    require(fits, f"positions{place} must have shape ({', '.join(named)}), {came}")
    if isinstance(x, _Slabs):
        ends = [x.shape[named.index("realisations")] * each // block[1] for each in (block[0], block[0] + 1)]
        x = _numbers("positions", x[tuple(slice(*ends) if axis == "realisations" else slice(None) for axis in named)])
    x = x.permute([named.index(axis) for axis in AXES if axis in named])
    x = x[tuple(slice(None) if axis in named else None for axis in AXES)]
    for name, values in (records or {}).items():
        record = torch.atleast_1d(_numbers(f"records[{name!r}]{place}", values))
        kept[name] = record.expand(len(x), -1) if record.shape == clock.shape else record
    return x, clock, kept


def _ensemble(parts: Sequence[Part], lost: str = "refuse", least: float = 0.5, units: Units = None) -> Ensemble:
    """Conditions with one clock: whole realisations, as many of each as of the condition that has the fewest."""
    has = [{"": x.shape[2::2]} | {name: each.shape[1:] for name, each in own.items()} for x, _, own in parts]
    require(all(each == has[0] for each in has), "conditions must have the same sites, dims and records, but differ")
    every = max(x.shape[3] for x, _, _ in parts)
    x, *more = (pad(x, (0, 0, 0, every - x.shape[3]), value=torch.nan) if every > x.shape[3] else x for x, *_ in parts)
    x = torch.cat([x, *more]) if more else x
    drop, share = choice("lost", lost, ("drop", "refuse")) == "drop", positive("least", least, 0.0)
    if (broken := x.isnan().any(4).any(2).any(1)).any():
        says = f"{int(broken.sum())} of {broken.numel()} realisations miss a part (NaN)"
        require(drop, f'positions must be whole, but {says}: pass lost="drop" to leave them out')
        kept = int((~broken).sum(1).min())
        enough = f"positions must keep a share of {share:g} of the {every} realisations of each condition"
        require(kept >= max(1, share * every), f"{enough}, but one keeps {kept}: {says}")
        _log.warning("%s: each condition keeps %d of %d, as the one with the fewest", says, kept, every)
        order = broken.int().argsort(dim=1, stable=True)[:, :kept]  # whole ones first, in their order
        x = x.take_along_dim(order[:, None, None, :, None], 3)
    x = x if x.shape[2] > 1 else x[:, :, 0]
    records = {name: torch.cat([own[name] for _, _, own in parts]) for name in parts[0][2]}
    return Ensemble(parts[0][1], x if x.shape[-1] > 1 else x[..., 0], records, x.shape[-1], units or {})


def _content(path: Path, keys: Mapping[str, Any]) -> list[Raw]:
    """The conditions of a file, by how its name ends."""
    ends, name = path.suffix.lower(), os.fspath(path)
    require(ends in READERS, f"path must end in one of {' '.join(sorted(READERS))}, but is {name!r}")
    if not (path.exists() if ends == ".zarr" else path.is_file()):
        raise FileNotFoundError(f"path must name an existing file, but {name!r} is none")
    with _telling(path):
        raws = READERS[ends][0](path, **keys)
    return [(x if isinstance(x, _Slabs) else _Slabs(path, x.shape, x.__getitem__), *rest) for x, *rest in raws]


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Whatever a package says of a damaged file, in a sentence."""
    ends = path.suffix.lower()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what packages will drop, and of formats without a clock
            yield
    except Exception as error:  # each package has its own
        # the first sentence: NumPy's second says how to load a file that may run code
        why = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0][:160]
        if isinstance(error, ImportError):
            says = f"a package must be there to read {ends} files, but is not ({why})"
            raise ImportError(f'{says}: pip install "ibvonns[{READERS[ends][1]}]"') from error
        says = f"path must name a whole {ends} file with what is asked, but {os.fspath(path)!r} is not ({why})"
        raise ValueError(says) from None


def _saved(path: Path) -> list[Raw]:
    """What `Ensemble.save` wrote."""
    whole = Ensemble.load(path)
    x = whole.realisations
    axes = " ".join(["conditions times", *["sites"] * (x.ndim - 2 + whole.axis), "realisations"])
    slabs = _Slabs(path, x.shape, x.__getitem__, whole.units)
    return [(slabs, whole.times, whole.records, axes + " dims" * (-1 - whole.axis))]


def _npy(path: Path, times: Any, records: Records = None, axes: Axes = None) -> list[Raw]:
    """An array beside its times and records, which are arrays or the paths of theirs."""
    given = {"times": times, **(records or {})}
    clock, *own = (numpy.load(each) if isinstance(each, str | os.PathLike) else each for each in given.values())
    return [(numpy.load(path, mmap_mode="r"), clock, dict(zip(records or {}, own, strict=True)), axes)]


def _npz(path: Path, **keys: Any) -> list[Raw]:
    with numpy.load(path) as file:
        return [_picked(file, **keys)]


def _zarr(path: Path, **keys: Any) -> list[Raw]:
    import zarr

    return [_picked(dict(_flat(zarr.open_group(path, mode="r"))), **keys)]


def _hdf5(path: Path, **keys: Any) -> list[Raw]:
    import h5py

    def opened() -> Any:  # for each slab anew, so that no file stays open between parts
        return h5py.File(path, rdcc_nbytes=SIZE)

    def taken(key: str, where: Any) -> Any:
        with opened() as again:
            return again[key][where]

    with opened() as file:
        flat = dict(_flat(file))
        groups = [group for group in file.get("particles", ()) if f"particles/{group}/position/value" in flat]
        if groups and "positions" not in keys:
            return [_h5md(path, opened, flat, f"particles/{group}", **keys) for group in groups]
        x, *rest = _picked(flat, **keys)
        return [(_Slabs(path, x.shape, partial(taken, x.name)), *rest)]


def _flat(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Arrays of a hierarchy, not yet read, by their paths."""
    for name in group:
        inner = group[name]
        yield from [(before + name, inner)] if hasattr(inner, "shape") else _flat(inner, f"{before}{name}/")


def _found(file: Mapping[str, Any], *keys: str) -> Any:
    """What a file holds under the first of some keys that is there."""
    found = [key for key in keys if key in file]
    require(found, f"it has no {keys[-1]!r} but {', '.join(file) or 'nothing'}")
    return file[found[0]]


def _picked(
    file: Any, positions: str = "positions", times: str = "times", records: Records = None, axes: Axes = None
) -> Raw:
    """Arrays by their keys, the positions not yet read."""
    own = {name: _found(file, key)[...] for name, key in (records or {}).items()}
    return _found(file, positions), _found(file, times)[...], own, axes


def _h5md(
    path: Path, opened: Any, file: Any, root: str, records: Records = None, dims: str = "", sites: int = 1
) -> Raw:
    """A group of particles: a condition."""
    shape, own = file[f"{root}/position/value"].shape, dict[str, Any]()

    def particles(which: slice) -> Any:
        with opened() as again:
            frames, ids = again[f"{root}/position/value"], again.get(f"{root}/id/value")
            if ids is None:
                return frames[:, which]
            picked, known = [], numpy.sort(ids[0])
            for frame, names in zip(frames, ids, strict=True):  # each may have an order of its own
                order = names.argsort()
                require((names[order] == known).all(), f"{root} holds other particles at other times")
                picked.append(frame[order[which]])
            return numpy.stack(picked)

    clock = _found(file, f"{root}/position/time", f"{root}/position/step")
    times = clock[...] if clock.shape else clock.attrs.get("offset", 0) + clock[()] * numpy.arange(shape[0])
    for name, key in (records or {}).items():
        places = [f"observables/{root.removeprefix('particles/')}/{key}/value", f"observables/{key}/value"]
        own[name] = _found(file, *places, key)[...][None]
    return _split(path, shape, particles, times, own, dims, sites)


def _split(
    path: Path, shape: Sequence[int], particles: Any, times: Any, records: Records, dims: str, sites: int
) -> Raw:
    """Frames of particles, of a shape (times, particles, components), as realisations of one condition."""
    space, number = "xyz"[: shape[2]], shape[1]
    require(set(dims) <= set(space), f"dims must be some of {space!r}, but are {dims!r}")
    require(number % count("sites", sites) == 0, f"sites must divide the {number} particles, but are {sites}")
    kept = [space.index(each) for each in dims or space]

    def slab(where: Any) -> Any:
        x = particles(slice(where[1].start * sites, where[1].stop * sites))[..., kept]
        return x.reshape(len(x), -1, sites, len(kept))

    slabs = _Slabs(path, (shape[0], number // sites, sites, len(kept)), slab)
    return slabs, times, records, "times realisations sites dims"


def _trajectory(path: Path, dims: str = "", sites: int = 1) -> list[Raw]:
    """By MDAnalysis; LAMMPS's columns themselves, for it counts positions from the corner of the box."""
    from MDAnalysis.coordinates.core import reader

    ends, lammps = path.suffix[1:].upper(), {"additional_columns": [*COLUMNS[0], *COLUMNS[1]]}
    how = {"format": "LAMMPSDUMP", **lammps} if ends in ("DUMP", "LAMMPSTRJ") else {"format": ends}
    times, whole = list[float](), list[Any]()

    def frames(which: slice) -> Iterator[tuple[float, Any]]:
        with reader(os.fspath(path), **how) as file:
            for frame in file:
                columns = next((three for three in COLUMNS if three[0] in frame.data), ())
                x = numpy.stack([frame.data[each] for each in columns], 1) if columns else frame.positions
                yield frame.time, x[which].copy()

    for time, x in frames(slice(None)):
        times.append(time)
        whole.append(x)
        if len(times) * x.size > SIZE:  # too much to be kept: each part goes through the file again
            whole.clear()

    def particles(which: slice) -> Any:
        return numpy.stack([x[which] for x in whole] or [x for _, x in frames(which)])

    return [_split(path, (len(times), *x.shape), particles, times, None, dims, sites)]


def _table(
    path: Path, positions: Any = None, times: str = "", records: Records = None, axes: Any = (), dims: str = "xyz"
) -> list[Raw]:
    """Rows of a table at their places in an array for each condition; what no row fills is lost."""
    import pandas

    ends = path.suffix[1:].lower()
    table = getattr(pandas, f"read_{ends}")(path, **({"float_precision": "round_trip"} if ends == "csv" else {}))
    own = {WORDS[word]: word for word in table if word in WORDS}
    own |= {WORDS[word]: name for word, name in dict(axes).items()} | ({"times": times} if times else {})
    own = {axis: own.get(axis, axis[:-1]) for axis in AXES[:4] if axis in {"times", "realisations", *own}}
    x = [positions] if isinstance(positions, str) else positions or [each for each in dims if each in table] or ["x"]
    for name in (*own.values(), *x, *(records or {}).values()):
        require(_found(table, name).notna().all() or name in x, f"{name!r} lacks a value in some rows")
    first, clock, *inner = own.values() if "conditions" in own else ("", *own.values())
    steady = table.groupby([first, clock] if first else clock).nunique(dropna=False).eq(1).all()
    numbers = [name for name in table.select_dtypes("number") if name in steady and name not in (*inner, *x)]
    kept, raws = records or {name: name for name in numbers if steady[name]}, list[Raw]()
    require(all(steady[key] for key in kept.values()), f"records {[*kept]} must be the same for all realisations")
    for _, rows in table.groupby(first) if first else [("", table)]:
        wide = rows.pivot(index=clock, columns=inner, values=[*x])
        wide = wide.reindex(columns=pandas.MultiIndex.from_product([x, *wide.columns.levels[1:]]))
        histories = {name: rows.groupby(clock)[key].first().to_numpy() for name, key in kept.items()}
        grid = wide.to_numpy().reshape(len(wide), len(x), *wide.columns.levshape[1:])
        raws.append((grid, wide.index.to_numpy(), histories, ["times", "dims", *[*own][-len(inner) :]]))
    return raws


#: What reads a file with such an ending, and the extra that brings the package.
READERS: dict[str, tuple[Callable[..., list[Raw]], str]] = {
    **{".safetensors": (_saved, ""), ".npy": (_npy, ""), ".npz": (_npz, ""), ".zarr": (_zarr, "zarr")},
    **dict.fromkeys((".h5", ".hdf5", ".h5md"), (_hdf5, "hdf5")),
    **dict.fromkeys((".dcd", ".dump", ".lammpstrj", ".nc", ".trr", ".xtc", ".xyz"), (_trajectory, "trajectories")),
    **dict.fromkeys((".csv", ".feather", ".parquet"), (_table, "tables")),
}
