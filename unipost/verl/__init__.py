"""verl's objectives by its own option names: the same objects with its conventions.

What differs from the papers stands in the docstrings. Version: verl 0.9.1.
"""

from unipost.verl.advantages import advantage as advantage
from unipost.verl.aggregations import aggregation as aggregation
from unipost.verl.aggregations import value_loss as value_loss
from unipost.verl.groups import group_rows as group_rows
from unipost.verl.groups import ungroup_rows as ungroup_rows
from unipost.verl.kl import kl_penalty as kl_penalty
from unipost.verl.kl import kl_values as kl_values
from unipost.verl.losses import policy_loss as policy_loss
from unipost.verl.rollout import rollout_correction as rollout_correction
