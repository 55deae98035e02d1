"""Inputs as TRL lays them out -> streams and batch; loss, metrics and gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import oracle_trl
from jax.nn import log_softmax

from unipost import Batch, Streams, trl


def scored(logits, tokens):
    """log p [B, S-1] of tokens[:, 1:], and of the whole vocabulary [B, S-1, V]."""
    vocab = log_softmax(logits[:, :-1])
    index = jnp.maximum(tokens[:, 1:], 0)[..., None]
    return jnp.take_along_axis(vocab, index, -1)[..., 0], vocab


def rows(array):
    """[B, ...] -> [B, 1, ...]: groups of one."""
    return array[:, None]


def in_pairs(inputs):
    """Streams and batch of the preference families."""
    if "logits" in inputs:
        policy, _ = scored(inputs["logits"], inputs["input_ids"])
        mask = inputs["labels"][:, 1:] != -100
        text = trl.pairs(inputs["attention_mask"][:, 1:])
        return Streams(trl.pairs(policy)), Batch(mask=trl.pairs(mask), text=text)
    held = {name: trl.pairs(value) for name, value in inputs.items()}
    collision = held.get("log_sum_sq_probs")
    reference = held.get("ref_logps")
    streams = Streams(held["policy_logps"], collision=collision)
    return streams, Batch(mask=held["mask"], reference=reference)


def in_rows(inputs):
    """Streams and batch of SFT and KTO."""
    if "logits" in inputs:
        policy, vocab = scored(inputs["logits"], inputs["labels"])
        mask = inputs["labels"][:, 1:] != -100
        return Streams(rows(policy), vocab=rows(vocab)), Batch(mask=rows(mask))
    if "labels" not in inputs:
        return Streams(rows(inputs["policy_logps"])), Batch(mask=rows(inputs["mask"]))
    mismatched = None
    if "kl_mask" in inputs:
        gap = inputs["kl_policy_logps"] - inputs["kl_ref_logps"]
        mismatched = rows(jnp.where(inputs["kl_mask"] > 0, gap, 0.0).sum(-1))
    return Streams(rows(inputs["policy_logps"])), Batch(
        mask=rows(inputs["mask"]),
        reference=rows(inputs["ref_logps"]),
        rewards=rows(inputs["labels"]),
        mismatched=mismatched,
    )


def in_vocabulary(inputs):
    """Streams and batch of a distillation; labels are aligned with the logits."""
    student = rows(log_softmax(inputs["student_logits"]))
    teacher = rows(log_softmax(inputs["teacher_logits"]))
    labels = inputs.get("labels")
    mask = jnp.ones(student.shape[:-1]) if labels is None else rows(labels) != -100
    streams = Streams(jnp.zeros(student.shape[:-1]), vocab=student)
    return streams, Batch(mask=mask, reference_vocab=teacher)


def in_scores(inputs):
    return inputs["scores"], inputs.get("margin")


BUILD = {
    **dict.fromkeys(("dpo", "dpo_old", "cpo", "orpo"), in_pairs),
    **dict.fromkeys(("kto", "sft"), in_rows),
    "gkd": in_vocabulary,
    "reward_model": in_scores,
}


@partial(jax.jit, static_argnums=0)
def computed(family, objective, inputs):
    """((loss, metrics), gradient in what the record differentiates)."""
    name = oracle_trl.differentiated(inputs)

    def loss(x):
        return objective(*BUILD[family](inputs | {name: x}))

    return jax.value_and_grad(loss, has_aux=True)(inputs[name])
