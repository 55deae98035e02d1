"""TRL's recorded options and rows as unipost's objectives and batches, for rewards."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from unipost import Batch, Streams, trl
from unipost.advantages import Given
from unipost.batch import clean

CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
WINDOW = ("cispo", "dapo", "vespo")
GROUP = 4


def options_of(hyper, inputs):
    """Those of the recorded options that TRL reads with this loss_type."""
    kind, train = hyper["loss_type"], hyper["mode"] == "train"
    names = ["loss_type", "beta", "mode", "on_policy", "top_entropy_quantile"]
    names += ["entropy_coef", "off_policy_mask_threshold"]
    if kind != "vespo" or (hyper["beta"] and hyper["use_bias_correction_kl"]):
        names.append("importance_sampling_level")
    names += ["use_bias_correction_kl"] if hyper["beta"] else []
    names += ["epsilon_high"] if kind in (*CLIPPED, "cispo") else []
    names += ["delta"] if kind in CLIPPED else []
    names += ["max_completion_length"] if kind == "dr_grpo" else []
    names += ["num_items_in_batch"] if kind in WINDOW else []
    names += ["gradient_accumulation_steps"] if train else []
    names += ["steps_per_generation"] if train and kind in WINDOW else []
    if kind == "sapo":
        names += ["sapo_temperature_pos", "sapo_temperature_neg"]
    options = {name: hyper[name] for name in names}
    if hyper["on_policy"] and "sampling_logps" not in inputs:
        options["off_policy_mask_threshold"] = None  # nothing is stale
    if kind in CLIPPED:
        options["epsilon"] = hyper["epsilon_low"]
    if kind == "vespo":
        k_and_lambda = ("k_pos", "lambda_pos", "k_neg", "lambda_neg")
        pairs = zip(k_and_lambda, hyper["vespo"], strict=True)
        options |= {f"vespo_{name}": value for name, value in pairs}
    if "importance_sampling_ratio" in inputs:
        options |= {"use_vllm": True, "vllm_importance_sampling_mode": "given"}
    elif "sampling_logps" in inputs:
        options |= {"use_vllm": True, "vllm_importance_sampling_correction": False}
    return options


def objective_of(family, hyper, inputs):
    """The alias with the recorded options, on advantages that are given."""
    if family == "grpo":
        return trl.grpo(signal=Given(), **options_of(hyper, inputs))
    if family == "a2po":
        return trl.a2po(hyper["beta1"], hyper["beta2"])
    names = ["epsilon_high"]
    if family == "gmpo":
        names += ["beta", "mode", "on_policy", "top_entropy_quantile"]
        if hyper["mode"] == "train":
            names.append("gradient_accumulation_steps")
    options = {name: hyper[name] for name in names if name in hyper}
    alias = {"gmpo": trl.gmpo, "rloo": trl.rloo}[family]
    return alias(epsilon=hyper["epsilon_low"], signal=Given(), **options)


def batch_of(inputs, group=GROUP):
    """TRL's rows [B, T] as a batch [B / group, group, T]."""
    names = {
        "mask": "mask",
        "old_logps": "old",
        "ref_logps": "reference",
        "sampling_logps": "behavior",
        "advantages": "advantage",
        "importance_sampling_ratio": "importance",
        "rewards": "rewards",
    }
    held = {
        ours: trl.groups(jnp.asarray(inputs[theirs]), group)
        for theirs, ours in names.items()
        if theirs in inputs
    }
    weight = held.get("importance")
    if weight is not None and weight.shape[-1] == 1:
        held["importance"] = weight[..., 0]
    if "value_rewards" in inputs:
        held["reference_rewards"] = inputs["value_rewards"]
    return Batch(**held)


def streams_of(inputs, group=GROUP):
    entropy = inputs.get("entropies")
    return Streams(
        policy=trl.groups(jnp.asarray(inputs["policy_logps"]), group),
        entropy=None if entropy is None else trl.groups(jnp.asarray(entropy), group),
    )


def computed(family, hyper, inputs):
    """(loss, metrics, gradient as streams of rows [B, T])."""
    group = 1 if family == "a2po" else GROUP
    objective, batch = objective_of(family, hyper, inputs), batch_of(inputs, group)
    call = jax.value_and_grad(objective, has_aux=True)
    (loss, metrics), grad = call(streams_of(inputs, group), batch)
    return loss, metrics, jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), grad)


def weights_of(hyper, rewards):
    """TRL's None means ones, and ours one reward."""
    weights = hyper.get("reward_weights")
    count = rewards.shape[-1]
    return (1.0,) * count if weights is None else tuple(weights)


def advantages_of(family, hyper, inputs):
    """Advantages of the rows [B]."""
    rewards, size = inputs["rewards"], hyper["num_generations"]
    options = {"reward_weights": weights_of(hyper, rewards)}
    if family == "grpo_advantages":
        order = hyper["aggregation"]
        options["multi_objective_aggregation"] = order
        if order == "sum_then_normalize":
            options["scale_rewards"] = hyper["scale_rewards"]
        objective = trl.grpo(**options)
        inputs = {"mask": np.ones((len(rewards), 1))}
    else:
        for name in ("beta", "normalize_advantages", "reward_clip_range"):
            options[name] = hyper[name]
        objective = trl.rloo(**options)
        inputs = {
            k: inputs[k] for k in inputs if k in ("mask", "old_logps", "ref_logps")
        }
    batch = batch_of(inputs, size)
    components = trl.groups(jnp.asarray(rewards, jnp.float64), size)
    batch = dataclasses.replace(batch, components=components)
    return objective.advantage(batch)[..., 0].reshape(-1), objective, batch


def ratio_of(hyper, inputs):
    correction = trl.is_correction(hyper["mode"], hyper["clip_max"], hyper["clip_min"])
    batch = clean(batch_of(inputs))
    weight = correction(batch, jnp.ones(batch.mask.shape), None)
    return weight.reshape(-1, weight.shape[-1])
