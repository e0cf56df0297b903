from ibvonns import fluctuations as fluctuations
from ibvonns import layouts as layouts
from ibvonns import protocols as protocols
from ibvonns.answers import Answer as Answer
from ibvonns.answers import predict as predict
from ibvonns.bands import banded as banded
from ibvonns.ensemble import Density as Density
from ibvonns.ensemble import Ensemble as Ensemble
from ibvonns.ensemble import Samples as Samples
from ibvonns.inspection import inspect as inspect
from ibvonns.law import Law as Law
from ibvonns.learning import Learned as Learned
from ibvonns.learning import fit as fit
from ibvonns.model import Architecture as Architecture
from ibvonns.model import Model as Model
from ibvonns.model import Prediction as Prediction
from ibvonns.model import load as load
from ibvonns.observations import Observations as Observations
from ibvonns.observations import observe as observe
from ibvonns.plain import PlainLaw as PlainLaw
from ibvonns.reading import from_arrays as from_arrays
from ibvonns.reading import from_conditions as from_conditions
from ibvonns.reading import read as read
from ibvonns.reading import read_parts as read_parts
from ibvonns.recipe import Phase as Phase
from ibvonns.recipe import Recipe as Recipe
from ibvonns.recipe import Stage as Stage
from ibvonns.rollout import rollout as rollout
from ibvonns.selection import choose as choose
from ibvonns.selection import sufficiency as sufficiency
from ibvonns.sweeps import sweep as sweep
from ibvonns.training import TrainingError as TrainingError
from ibvonns.training import train as train

__version__: str
__all__: list[str]
