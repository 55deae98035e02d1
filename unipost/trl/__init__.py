"""TRL's objectives by its own option names: presets with its conventions, its numbers.

Every function returns the same objects as `unipost.presets`; what differs from the
papers is written in the docstring. Versions: TRL 1.16, unless the name says otherwise.
"""

from unipost.trl.advantages import advantages as advantages
from unipost.trl.advantages import groups as groups
from unipost.trl.advantages import is_correction as is_correction
from unipost.trl.advantages import rloo_advantages as rloo_advantages
from unipost.trl.legacy import dpo_old as dpo_old
from unipost.trl.preferences import cpo as cpo
from unipost.trl.preferences import dpo as dpo
from unipost.trl.preferences import kto as kto
from unipost.trl.preferences import orpo as orpo
from unipost.trl.preferences import pairs as pairs
from unipost.trl.rl import a2po as a2po
from unipost.trl.rl import gmpo as gmpo
from unipost.trl.rl import grpo as grpo
from unipost.trl.rl import rloo as rloo
from unipost.trl.supervised import gkd as gkd
from unipost.trl.supervised import reward as reward
from unipost.trl.supervised import sft as sft
