"""Learning thermodynamics from particles: IB-VONNs, re-derived, re-trained and checked.

>>> import ibvonns
>>> ensemble = ibvonns.Ensemble  # your particles, or those of `ibvonns.systems`
>>> learned = ibvonns.fit  # encoder, decoder and law from an ensemble
"""

from importlib.metadata import PackageNotFoundError, version

from ibvonns import fluctuations, layouts, protocols
from ibvonns.answers import Answer, predict
from ibvonns.ensemble import Density, Ensemble, Samples
from ibvonns.fit import Fit, fit
from ibvonns.inspection import inspect
from ibvonns.law import Law
from ibvonns.model import Architecture, Model, Prediction, load
from ibvonns.observations import Observations, observe
from ibvonns.plain import PlainLaw
from ibvonns.reading import from_arrays, from_conditions, read, read_parts
from ibvonns.recipe import Phase, Recipe, Stage
from ibvonns.residuals import residuals
from ibvonns.rollout import rollout
from ibvonns.selection import choose, sufficiency
from ibvonns.training import TrainingError, train

# fmt: off
__all__ = [
    "Answer", "Architecture", "Density", "Ensemble", "Fit", "Law", "Model", "Observations", "Phase", "PlainLaw",
    "Prediction", "Recipe", "Samples", "Stage", "TrainingError", "choose", "fit", "fluctuations", "from_arrays",
    "from_conditions", "inspect", "layouts", "load", "observe", "predict", "protocols", "read", "read_parts", "residuals",
    "rollout", "sufficiency", "train",
]
# fmt: on

try:
    __version__ = version("ibvonns")
except PackageNotFoundError:  # a folder on the path that was never installed
    __version__ = "0"
