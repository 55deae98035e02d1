"""Language models: one decoder-only transformer made of parts, and any function."""

from unipost.model.config import BIASED as BIASED
from unipost.model.config import Experts as Experts
from unipost.model.config import LinearRope as LinearRope
from unipost.model.config import Llama3Rope as Llama3Rope
from unipost.model.config import ModelConfig as ModelConfig
from unipost.model.parameters import init_params as init_params
from unipost.model.transformer import Compute as Compute
from unipost.model.transformer import transformer_policy as transformer_policy
from unipost.policy import Array as Array
from unipost.policy import Cache as Cache
from unipost.policy import Params as Params
from unipost.policy import Policy as Policy
from unipost.policy import function_policy as function_policy
from unipost.policy import insert_cache as insert_cache
from unipost.policy import repeat_cache as repeat_cache
from unipost.policy import share_cache as share_cache
