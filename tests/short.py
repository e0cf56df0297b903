"""Work for sweeps: functions that a worker imports."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ibvonns import Phase, Recipe, Stage, fit
from ibvonns.systems.trap import Trap

__all__ = ["deadly", "short"]


def short(task: Mapping[str, Any]) -> dict[str, Any]:
    """Errors of a law that has hardly been trained."""
    if task["seed"] < 0:
        raise ValueError("seed must not be below 0")
    few = Trap().simulate_paper(velocities=(0.5, 1.0), realisations=50, seed=task.get("draw", 0))
    recipe = Recipe((Stage((Phase(0, 5), Phase(1, 5)), {"density": 0.01, "internal": 1.0, "end": 100.0}),), attempts=0)
    return {"force": fit(few, controls="pulled_length", seeds=[task["seed"]], recipe=recipe).scores["force"].errors}


def deadly(task: Mapping[str, Any]) -> dict[str, Any]:
    """The same, by a worker that dies the first time that it meets a task with a file that is not there yet."""
    if (mark := task.get("mark")) and not Path(mark).exists():
        Path(mark).touch()
        os._exit(1)
    return short(task)
