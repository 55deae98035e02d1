"""Optimisers as data: numbers may be traced, so a learning-rate sweep compiles once."""

from unipost.optimizers.adam import Adam as Adam
from unipost.optimizers.adam import Adamax as Adamax
from unipost.optimizers.adam import AdamW as AdamW
from unipost.optimizers.adam import Lion as Lion
from unipost.optimizers.adam import NAdam as NAdam
from unipost.optimizers.adam import NAdamW as NAdamW
from unipost.optimizers.base import Optimizer as Optimizer
from unipost.optimizers.gradient import SGD as SGD
from unipost.optimizers.gradient import RMSProp as RMSProp
from unipost.optimizers.matrices import Adafactor as Adafactor
from unipost.optimizers.matrices import Muon as Muon
from unipost.optimizers.named import Optax as Optax
from unipost.optimizers.schedules import SCHEDULES as SCHEDULES
from unipost.optimizers.schedules import Constant as Constant
from unipost.optimizers.schedules import Cosine as Cosine
from unipost.optimizers.schedules import Exponential as Exponential
from unipost.optimizers.schedules import InverseSqrt as InverseSqrt
from unipost.optimizers.schedules import Linear as Linear
from unipost.optimizers.schedules import OptaxSchedule as OptaxSchedule
from unipost.optimizers.schedules import Polynomial as Polynomial
from unipost.optimizers.schedules import Schedule as Schedule
from unipost.optimizers.schedules import WarmupStableDecay as WarmupStableDecay

OPTIMIZERS = {
    "adamw": AdamW,
    "adam": Adam,
    "nadamw": NAdamW,
    "nadam": NAdam,
    "adamax": Adamax,
    "lion": Lion,
    "sgd": SGD,
    "rmsprop": RMSProp,
    "adafactor": Adafactor,
    "muon": Muon,
    "optax": Optax,
}
