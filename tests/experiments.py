"""The paper's studies with few realisations, early times and recipes of a few steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import TINY

from ibvonns.model import Model
from ibvonns.observations import Observations
from ibvonns.paper.scoreboard import published
from ibvonns.paper.studies import STUDIES, Study
from ibvonns.systems.chain import Chain


class Begun(Chain):
    """The chain until a time of 0.4."""

    def pulls(self, protocol: str, lengths: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        pulled, times = super().pulls(protocol, lengths)
        return pulled[:, :41], times[:41]


def small(name: str) -> Study:
    """A study that takes a second or two."""
    recipe = replace(TINY["point" if name == "trap" else "row"], coarse=2, candidates=1)
    study = replace(STUDIES[name], realisations=60, points=129, recipe=recipe, seeds=2)
    return study if name == "trap" else study.with_system(Begun())


SMALL = {name: small(name) for name in STUDIES}


@contextmanager
def in_small(cache: Path) -> Iterator[pytest.MonkeyPatch]:
    """The small studies in place of the paper's, in a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        for name, study in SMALL.items():
            patch.setitem(STUDIES, name, study)
        yield patch


def untrained(study: Study, data: dict[str, Observations]) -> Model:
    """Two replicas with scales and gauge."""
    model = Model([0, 1], study.architecture)
    model.set_scales(data["train"])
    model.freeze(data["train"])
    return model


def identifiers(name: str) -> list[str]:
    """Ids of a study, in the order of the paper's list."""
    return [row["id"] for row in published(name)]
