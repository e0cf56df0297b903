"""Studies: the paper's experiments as data, and the errors that it reports."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ibvonns.ensemble import Density, Ensemble
from ibvonns.layouts import Point, Row
from ibvonns.metrics import each_error, gauge_free_error
from ibvonns.model import Architecture, Model
from ibvonns.observations import Observations, observe
from ibvonns.recipe import Recipe
from ibvonns.systems.chain import LENGTHS, Chain
from ibvonns.systems.trap import VELOCITIES, Trap
from ibvonns.validation import choice, count, require

__all__ = ["BLOCKS", "STUDIES", "Errors", "Split", "Study", "errors", "exact_potentials", "study_of"]

BLOCKS = 10  #: Independent parts in which the realisations of a study are simulated.
MARGIN = 0.1  # by which a grid outreaches the block that sets it, of its range: enough for 100 000 realisations
GRID_BLOCK = 400  # realisations of that block, whatever the study has
GRID_SEED = 2**32 - 1  # of that block, which no data draw from

Errors = dict[str, list[float]]  #: By the id of `published.csv`, one for each replica.


class System(Protocol):
    """What a study asks of a system: realisations under a protocol, from several values."""

    def simulate_paper(self, protocol: str, values: tuple[float, ...], realisations: int, seed: int, /) -> Ensemble: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Split:
    """Conditions of a part of a study's data.

    Attributes:
        protocol: a key of `protocols.PROTOCOLS`.
        values: one for each condition, as the system's `simulate_paper` takes them.
    """

    protocol: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Study:
    """An experiment: a system under several conditions, and how it is learned.

    Attributes:
        name: by which it is called.
        prefix: of its ids in `published.csv`.
        system: that is simulated.
        splits: by name; "train" is what training sees.
        architecture: of the model.
        recipe: of its training.
        realisations: for each condition.
        points: of the grid on which positions are observed; training sees `recipe.coarse` times
            fewer.
        control: names of the records that are the controls of a point.
        seeds: how many the book trains.

    >>> {name: len(split.values) for name, split in STUDIES["trap"].splits.items()}
    {'train': 11, 'test': 10, 'linear': 1}
    """

    name: str
    prefix: str
    system: System
    splits: Mapping[str, Split]
    architecture: Architecture
    recipe: Recipe
    realisations: int
    points: int
    control: tuple[str, ...] = ()
    seeds: int = 8

    @property
    def exact(self) -> Trap | None:
        """The system, if its moments and potentials are known exactly, as those of a trap are."""
        return cast(Trap, self.system) if hasattr(self.system, "dual_dissipation") else None

    @property
    def drawn(self) -> tuple[object, ...]:
        """What decides the data; studies that differ by their models alone share it."""
        return self.system, dict(self.splits), self.realisations, self.points

    def blocks(self, split: str, seed: int = 0, realisations: int | None = None) -> Iterator[Ensemble]:
        """The realisations of a split in `BLOCKS` independent parts, made one at a time.

        Args:
            split: a key of `splits`.
            seed: of the data; no other split or block, and no other seed, draws the same noise.
            realisations: in all, a multiple of `BLOCKS`; those of the study if not given.

        Raises:
            ValueError: unknown split, or realisations that do not make `BLOCKS` equal parts.
        """
        place = list(self.splits).index(choice("split", split, self.splits))
        protocol, values = self.splits[split].protocol, self.splits[split].values
        number = count("realisations", realisations or self.realisations)
        require(number % BLOCKS == 0, f"realisations must be a multiple of {BLOCKS}, but are {number}")
        begin = 1000 * count("seed", seed, 0) + 100 * place  # a generator tells 2**32 seeds apart

        for index in range(BLOCKS):
            yield self.system.simulate_paper(protocol, values, number // BLOCKS, begin + index)

    def ensemble(self, split: str, seed: int = 0, blocks: int = 1) -> Ensemble:
        """The first blocks of a split as one ensemble, for a look at single realisations.

        Records that are means over realisations are those of these blocks alone.

        Args:
            split: a key of `splits`.
            seed: of the data.
            blocks: how many; all of them take the memory that streaming saves.
        """
        parts = list(islice(self.blocks(split, seed), count("blocks", blocks)))
        names = parts[0].records
        records = {name: torch.stack([part.records[name] for part in parts]).mean(0) for name in names}
        positions = torch.cat([part.realisations for part in parts], -1)
        return Ensemble(parts[0].times, positions, records)

    def observe(self, ensemble: Ensemble | Iterable[Ensemble], grid: Tensor | None = None) -> Observations:
        """What a model may see of an ensemble of the system, or of its blocks.

        Args:
            ensemble: one, or its blocks.
            grid: of positions; its own if not given.
        """
        spacing = self.architecture.spacing
        return observe(ensemble, self.control, spacing=spacing, points=self.points, grid=grid)

    def grid(self, split: str) -> Tensor:
        """The grid of a split, whatever the seed and the realisations: it holds all that may come.

        Args:
            split: a key of `splits`.
        """
        low, high = _range(self.system, self.splits[choice("split", split, self.splits)])
        return torch.linspace(low, high, self.points, dtype=torch.float64)

    def observed(
        self, split: str, seed: int = 0, realisations: int | None = None, grid: Tensor | None = None
    ) -> Observations:
        """What was observed of a split, on its `grid`; a block's realisations are held at a time.

        Args:
            split: a key of `splits`.
            seed: of the data.
            realisations: as for `blocks`.
            grid: another one.
        """
        grid, weights = self.grid(split) if grid is None else grid, torch.empty(0)
        means, forces, square = list[Tensor](), list[Tensor](), torch.zeros(())
        for block in self.blocks(split, seed, realisations):
            x = block.realisations
            weights = weights if means else x.new_zeros(*x.shape[:-1], len(grid))
            block.density(grid, weights, 1 / BLOCKS)
            means.append(block.mean().reshape(*x.shape[:2], -1, 1))
            square = square + torch.einsum("...n,...n->...", x, x).view_as(means[0]) / block.count / BLOCKS
            forces.append(block.records["external_force"][..., None])
        # what is no mean is the same in all blocks
        few = self.observe(Ensemble(block.times, x[..., :2].clone(), block.records), grid[:: len(grid) - 1])
        mean, force, number = torch.stack(means), torch.stack(forces), BLOCKS * block.count
        middle = mean.mean(0)
        known: dict[str, Any] = {"field": few.field if self.control else middle, "mean": middle, "force": force.mean(0)}
        cloud = Density(grid, weights.view(*middle.shape[:3], -1))
        blocks, variance = {"mean": mean, "force": force}, square - middle**2
        return replace(few, cloud=cloud, variance=variance, count=number, blocks=blocks, **known)

    def data(self, seed: int = 0, realisations: int | None = None) -> dict[str, Observations]:
        """`observed` of every split, by name.

        Args:
            seed: of the data.
            realisations: as for `blocks`.

        >>> sorted(STUDIES["trap"].data(realisations=20))
        ['linear', 'test', 'train']
        """
        return {split: self.observed(split, seed, realisations) for split in self.splits}

    def with_system(self, system: System) -> "Study":
        """The same study of another system of the kind; what its architecture knows of it follows.

        >>> STUDIES["chain-gmm"].with_system(Chain(natural_length=0.02)).architecture.spacing
        0.02
        """
        known = {"spacing": "natural_length", "wells": "well_strain"}
        of = {name: getattr(system, theirs) for name, theirs in known.items() if hasattr(system, theirs)}
        return replace(self, system=system, architecture=replace(self.architecture, **of))

    def row(self, quantity: str, split: str, given: str) -> str:
        """Id of a rolled-out quantity where so much is given at the end.

        Args:
            quantity: "strain", "alpha" or "force".
            split: a key of `splits`.
            given: a key of `ends`.

        >>> STUDIES["chain-gmm"].row("strain", "test", "force")
        'gmm-strain-test-force'
        """
        return f"{self.prefix}-{quantity}-{split}{self.ends[given]}"

    @property
    def ends(self) -> dict[str, str]:
        """What may be given at the end, and what it adds to an id."""
        driven = self.architecture.layout.driven
        return {"force": "-force", "velocity": "-velocity"} if driven else {"force": ""}

    def asked(self, quantity: str, given: str) -> bool:
        """Whether a quantity is predicted where so much is given: a known force is not."""
        return (quantity, given) != ("force", "force") or not self.architecture.layout.driven


_chain, _splits = Chain(), {"train": Split("smoothed-linear", LENGTHS[::2])}
_splits |= {"test": Split("smoothed-linear", LENGTHS[1::2]), "sine": Split("sinusoidal", (0.2,))}  # Figs. 14, 19
_sites = Architecture(Row(), _chain.natural_length, reference=0.0, wells=_chain.well_strain)
_mixture = Study("chain-gmm", "gmm", _chain, _splits, _sites, Recipe.of(Row()), realisations=2000, points=641)
_flow = replace(_mixture, name="chain-cnf", prefix="cnf", architecture=replace(_sites, decoder="flow"))
_pulls = {"train": Split("oscillating", VELOCITIES[::2]), "test": Split("oscillating", VELOCITIES[1::2])}
_pulls |= {"linear": Split("smoothed-linear", (1.2,))}  # Fig. 9
_site = Architecture(Point(), decoder="gaussian")
_trap = Study("trap", "trap", Trap(), _pulls, _site, Recipe.of(Point()), 4000, 2049, ("pulled_length",))
#: The three studies by name: the trap (Sec. 3), and the chain with a mixture and with a flow (Sec. 4).
#:
#: :meta hide-value:
STUDIES: dict[str, Study] = {study.name: study for study in (_trap, _mixture, _flow)}


@lru_cache(maxsize=32)  # every ensemble of a study asks for it
def _range(system: System, split: Split) -> tuple[float, float]:
    """Ends of a split's grid."""
    block = system.simulate_paper(split.protocol, split.values, GRID_BLOCK, GRID_SEED)
    low, high = map(float, block.realisations.aminmax())
    return low - MARGIN * (high - low), high + MARGIN * (high - low)


def study_of(study: str | Study) -> Study:
    """The study of a name; a study is returned as it is.

    Raises:
        ValueError: unknown name.
    """
    return study if isinstance(study, Study) else STUDIES[choice("study", study, STUDIES)]


def exact_potentials(system: Trap, lengths: Tensor, means: Tensor) -> dict[str, Tensor]:
    """f and phi of the exact theory, by these names, energies and energies per time.

    Args:
        system: that knows them.
        lengths: of the pull, of any shape.
        means: of the positions, same shape.
    """
    power = system.dual_dissipation(system.thermodynamic_force(lengths, means))
    return {"f": system.free_energy(lengths, means), "phi": power}


@torch.no_grad()
def errors(study: Study, model: Model, data: Mapping[str, Observations]) -> tuple[Errors, Errors]:
    """The errors that the paper reports, for each replica.

    The field (strain), alpha and F_ex are rolled out from the first observed and encoded state,
    under each end condition; f and phi are compared at the states of the data with the exact
    potentials, where the system has them. alpha is in the raw gauge, zero where no spring is
    strained, if the architecture has a reference; which zero the paper's has is not said.

    Args:
        study: whose ids are given, and whose exact theory is asked.
        model: trained, with its gauge frozen.
        data: by split, on a grid so fine that alpha is that of the realisations themselves.

    Returns:
        Errors by the id of `published.csv`, and nll also of the splits where it prints none:
        percent, or nats for likelihoods; infinite where a rollout has run away. Then the alpha rows
        once more in units of alpha's standard deviation, which no change of gauge shifts.
    """
    found: Errors = {}
    gauge_free: Errors = {}
    raw = model.architecture.reference is not None
    shown: Callable[[Tensor], Tensor] = model.encoder.ungauged if raw else torch.clone
    for split, seen in data.items():
        alpha = model.encode(seen)
        found[f"{study.prefix}-nll-{split}"] = model.nll(seen, alpha).tolist()
        for given in study.ends:
            run = model.predict(seen, given, alpha[:, :, 0])
            pairs = {}
            if model.architecture.bonds:
                pairs["strain"] = run.field, seen.field
            if run.force is not None and seen.force is not None and study.asked("force", given):
                pairs["force"] = run.force, seen.force
            if model.architecture.internal:
                pairs["alpha"] = shown(run.alpha), shown(alpha)
                gauge_free[study.row("alpha", split, given)] = each_error(run.alpha, alpha, gauge_free_error)
            for quantity, pair in pairs.items():
                found[study.row(quantity, split, given)] = each_error(*pair)
        if (exact := study.exact) is not None:
            lengths = seen.field[:, :, 0, 0]
            known = exact_potentials(exact, lengths, exact.mean(lengths, seen.times))
            z = model.states(seen, alpha).flatten(1, 2)
            power = model.law.dual_dissipation(z, model.law.driving(z))
            learned = {"f": model.law.free_energy(z), "phi": power}
            for quantity, truth in known.items():
                rows = learned[quantity][..., 0].unflatten(1, lengths.shape)
                found[f"{study.prefix}-{quantity}-{split}"] = each_error(rows, truth)
    return found, gauge_free
