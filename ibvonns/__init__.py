"""Learning thermodynamics from particles: IB-VONNs, re-derived, re-trained and checked.

>>> import ibvonns
>>> ensemble = ibvonns.Ensemble  # your particles, or those of `ibvonns.systems`
>>> learned = ibvonns.fit  # encoder, decoder and law from an ensemble
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ibvonns.rollout import rollout  # a function and a module: whoever is imported last has the name

# fmt: off
#: What users need, by the module in which it stands. They are imported when they are first asked for, so that
#: what a study has trained does not depend on how files are read, or on what is asked of a law later.
PLACES = {
    "answers": ("Answer", "predict"), "bands": ("banded",), "ensemble": ("Density", "Ensemble", "Samples"),
    "inspection": ("inspect",), "law": ("Law",), "learning": ("Learned", "fit"),
    "model": ("Architecture", "Model", "Prediction", "load"), "observations": ("Observations", "observe"),
    "plain": ("PlainLaw",), "reading": ("from_arrays", "from_conditions", "read", "read_parts"),
    "recipe": ("Phase", "Recipe", "Stage"), "selection": ("choose", "sufficiency"), "sweeps": ("sweep",),
    "training": ("TrainingError", "train"),
}
__all__ = [
    "Answer", "Architecture", "Density", "Ensemble", "Law", "Learned", "Model", "Observations", "Phase", "PlainLaw",
    "Prediction", "Recipe", "Samples", "Stage", "TrainingError", "banded", "choose", "fit", "fluctuations",
    "from_arrays", "from_conditions", "inspect", "layouts", "load", "observe", "predict", "protocols", "read",
    "read_parts", "rollout", "sufficiency", "sweep", "train",
]
# fmt: on
_HOME = {name: place for place, names in PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"ibvonns.{_HOME[name]}"), name)
    if name in __all__:
        return import_module(f"ibvonns.{name}")
    raise AttributeError(f"module 'ibvonns' has no attribute {name!r}")


try:
    __version__ = version("ibvonns")
except PackageNotFoundError:  # a folder on the path that was never installed
    __version__ = "0"
