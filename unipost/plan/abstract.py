"""An experiment as shapes: its parameters, optimiser state and batches, nothing held.

Neither weights nor a tokenizer nor data are opened: a model is its config.json, and a
batch has the sizes that the data's settings say, every row being full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from unipost.adapters import init_adapter, trained_part
from unipost.batch import Batch
from unipost.experiment import Experiment
from unipost.hf.config import parse_config
from unipost.hf.files import read_json
from unipost.hf.names import fused
from unipost.loading import NewModel, adapter_base
from unipost.model import ModelConfig, Policy, transformer_policy
from unipost.model.parameters import shapes
from unipost.rollouts import Rollouts
from unipost.scalar.model import scalar_policy, with_head
from unipost.scalar.objective import ScalarObjective
from unipost.sources import Mixture, Source
from unipost.update import REFERENCE, Rows, State


def shaped(shape: tuple[int, ...], dtype: Any, sharding: Any = None) -> Any:
    """An array without values: its shape, dtype, and where it lies."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


@dataclass(frozen=True)
class Sizes:
    """Of one logical batch: P prompts x G responses, L prompt and T response tokens."""

    prompts: int
    group: int
    prompt: int
    response: int

    @property
    def rows(self) -> int:
        """P x G."""
        return self.prompts * self.group

    @property
    def tokens(self) -> int:
        """Tokens that the model reads of a batch: the last one predicts nothing."""
        return self.rows * (self.prompt + self.response - 1)


@dataclass(frozen=True)
class Subject:
    """A model with abstract parameters: `frozen` stay, `trained` are trained."""

    config: ModelConfig
    policy: Policy
    params: Any

    @property
    def frozen(self) -> Any:
        """What the trained parameters stand on, or None."""
        return trained_part(self.params)[0]

    @property
    def trained(self) -> Any:
        """What the optimiser sees."""
        return trained_part(self.params)[1]


def sizes_of(data: Source) -> Sizes:
    """The sizes of the batches of `data`. ValueError where its settings do not say."""
    first = data.parts[0] if isinstance(data, Mixture) else data
    sampling = getattr(first, "sampling", None)
    response = getattr(first, "response_length", getattr(sampling, "max_tokens", None))
    prompt = getattr(first, "prompt_length", None)
    if prompt is None or response is None:
        raise ValueError(
            f"data: {type(first).__name__} has no prompt_length and response_length, "
            "which say how large a batch is; give it both"
        )
    return Sizes(data.prompts, data.rows, prompt, response)


def read_shape(folder: str) -> ModelConfig:
    """The model of a folder from its config.json alone; of an adapter its base."""
    place = Path(adapter_base(folder) or folder)
    path = place / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{path}: not found; write the folder of a model, or one that holds its "
            "config.json alone, such as those in experiments/shapes"
        )
    return parse_config(read_json(path), path)


def open_subject(experiment: Experiment) -> Subject:
    """The model of `experiment` with the shapes that training would hold."""
    config = _config(experiment.model)
    policy = transformer_policy(config, experiment.compute)
    params = float32(config)
    if isinstance(experiment.objective, ScalarObjective):
        return _scalar(experiment, config, policy, params)
    if experiment.lora is not None:
        adapt = partial(init_adapter, experiment.lora, seed=0, fused=fused(config))
        params = jax.eval_shape(adapt, params)
    return Subject(config, policy, params)


def open_reference(experiment: Experiment, subject: Subject) -> Subject | None:
    """The frozen reference that a step scores rows with, None where it reads none.

    That of a cache is None too: its log-probs are data.
    """
    reads = experiment.objective.needs & REFERENCE
    if not reads or experiment.reference_cache is not None:
        return None
    if experiment.reference is None:
        params = float32(subject.config)
        return Subject(subject.config, subject.policy, params)
    config = read_shape(experiment.reference)
    policy = transformer_policy(config, experiment.compute)
    return Subject(config, policy, float32(config))


def float32(config: ModelConfig) -> dict[str, Any]:
    """The parameters of a model as they are loaded, abstract."""
    found = {path: shaped(x, jnp.float32) for path, x in shapes(config).items()}
    return unflatten_dict(found)


def state_of(experiment: Experiment, trained: Any) -> State:
    """The state before the first step, abstract."""
    inner = jax.eval_shape(experiment.optimizer.init, trained)
    return State(trained, inner, shaped((), jnp.int32))


def rows_of(sizes: Sizes) -> Rows:
    """Text of a full batch."""
    lead = sizes.prompts, sizes.group
    prompt, response = (*lead, sizes.prompt), (*lead, sizes.response)
    return Rows(
        shaped(prompt, jnp.int32),
        shaped(prompt, jnp.bool_),
        shaped(response, jnp.int32),
        shaped(response, jnp.bool_),
    )


def batch_of(data: Source, sizes: Sizes, values: bool = False) -> Batch:
    """What the data give beside the text; `values` of a critic are added."""
    row = shaped((sizes.prompts, sizes.group), jnp.float32)
    token = shaped((*row.shape, sizes.response), jnp.float32)
    parts = len(getattr(data, "components", ()))
    per_token = {"steps", "behavior", "values", "advantage"}
    found: dict[str, Any] = {}
    for name in data.fields | ({"values"} if values else set()):
        found[name] = token if name in per_token else row
    if "steps" in found:
        found["rewards"] = token
    if "components" in found:
        found["components"] = shaped((*row.shape, parts), jnp.float32)
    if isinstance(data, Rollouts):
        partial_ = any(part.partial for part in data.guidance)
        shape = token.shape if partial_ else row.shape
        found["off_policy"] = shaped(shape, jnp.bool_)
        if data.truncated == "masked":
            found["weight"] = row
    return Batch(mask=shaped(token.shape, jnp.bool_), **found)


def full_rows(sizes: Sizes) -> Rows:
    """Rows of real arrays in which every token is real, for what packs them."""
    return jax.tree.map(lambda x: np.ones(x.shape, x.dtype), rows_of(sizes))


def bytes_of(tree: Any, size: Callable[[Any], int] | None = None) -> int:
    """Bytes of all leaves; `size` gives the entries of one, None: all of them."""
    count = size or (lambda x: x.size)
    return sum(count(x) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def held_bytes(tree: Any) -> int:
    """Bytes of a tree on one device, each leaf having a sharding."""
    return bytes_of(tree, lambda x: int(np.prod(x.sharding.shard_shape(x.shape))))


def _config(model: str | NewModel) -> ModelConfig:
    if isinstance(model, str):
        return read_shape(model)
    tokenizer = model.new_tokenizer()
    names = {"characters", "tokenizer"}
    sizes = {k: v for k, v in vars(model).items() if k not in names}
    return ModelConfig(vocab_size=tokenizer.vocab_size, **sizes)


def _scalar(
    experiment: Experiment, config: ModelConfig, policy: Policy, params: Any
) -> Subject:
    """A language model with a scalar head in place of its own."""
    objective = experiment.objective
    assert isinstance(objective, ScalarObjective)
    trunk = {name: part for name, part in params.items() if name != "head"}
    if experiment.lora is not None:
        adapt = partial(init_adapter, experiment.lora, seed=0, fused=fused(config))
        trunk = jax.eval_shape(adapt, trunk)
    biased = ("bias",) if objective.layout == "token" else ()
    head = jax.eval_shape(partial(with_head, policy, labels=objective.labels), trunk)
    score = dict(head["score"])
    score |= {name: shaped((objective.labels,), jnp.float32) for name in biased}
    return Subject(config, scalar_policy(policy), {"trunk": trunk, "score": score})
