"""unipost: SFT, DPO, GRPO and off-policy post-training as one f-divergence objective.

implicit reward = beta f'(policy/anchor);
loss = link(implicit reward, signal) + penalty D_g(policy || reference)
"""

from unipost import presets as presets
from unipost import trl as trl
from unipost import verl as verl
from unipost.annealed import Annealed as Annealed
from unipost.batch import Batch as Batch
from unipost.batch import Streams as Streams
from unipost.divergence import Divergence as Divergence
from unipost.divergences import DIVERGENCES as DIVERGENCES
from unipost.divergences import adjoint as adjoint
from unipost.divergences import unit_curvature as unit_curvature
from unipost.mixture import Mixture as Mixture
from unipost.objective import Objective as Objective
from unipost.parts import part as part
from unipost.penalties import Penalty as Penalty
from unipost.presets import PRESETS as PRESETS
from unipost.score import Score as Score

__version__ = "0.1.0"
