"""Tunix (google-tunix 0.1.7) at the shape of ../jax_shapes.py: dpo, grpo, sample.

Run by compare.py, in an environment of its own. Steps are timed from hooks that Tunix
calls; its DPO scores the reference in the step, because it has no cache for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from measure import between, measure, now, peak_bytes, write
from tunix.generate import sampler as sampling
from tunix.models.qwen2 import model as qwen2
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout
from tunix.sft import hooks
from tunix.sft.dpo import dpo_trainer

VOCAB, LAYERS, KV_HEADS, HEAD_DIM = 16384, 6, 4, 32
PAIRS, PROMPT, RESPONSE, GROUP = 8, 128, 128, 4
PAD, EOS, FIRST = 0, 2, 3
RANDOM = np.random.default_rng(0)


class Numbers:
    """The tokenizer that Tunix asks for; a text is its ids."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(x) for x in text.split()]

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(str(int(i)) for i in ids)

    def bos_id(self) -> None:
        return None

    def eos_id(self) -> int:
        return EOS

    def pad_id(self) -> int:
        return PAD


def new_model() -> qwen2.Qwen2:
    """Random weights; Tunix itself starts the MLPs at zero."""
    config = qwen2.ModelConfig(
        num_layers=LAYERS,
        vocab_size=VOCAB,
        embed_dim=256,
        hidden_dim=1024,
        num_heads=8,
        head_dim=HEAD_DIM,
        num_kv_heads=KV_HEADS,
        rope_theta=1_000_000,
        norm_eps=1e-6,
        use_tied_embedding=True,
    )
    model = qwen2.Qwen2(config, rngs=nnx.Rngs(0))
    key = jax.random.key(1)

    def small(x: jax.Array) -> jax.Array:
        if x.ndim < 2:
            return x
        own = jax.random.fold_in(key, x.size % 9973)
        return 0.02 * jax.random.normal(own, x.shape, x.dtype)

    nnx.update(model, jax.tree.map(small, nnx.state(model, nnx.Param)))
    return model


def tokens(rows: int, columns: int) -> np.ndarray:
    return RANDOM.integers(FIRST, VOCAB, (rows, columns)).astype(np.int32)


def texts(rows: int, columns: int) -> list[str]:
    return [" ".join(map(str, row)) for row in tokens(rows, columns)]


class Clock(hooks.TrainingHooks):
    """Notes the clocks at the end of every step."""

    def __init__(self):
        self.stamps: list[tuple[float, float]] = []

    def on_train_start(self, train_ctx: Any) -> None:
        pass

    def on_train_end(self, train_ctx: Any) -> None:
        pass

    def on_train_step_start(self, train_ctx: Any) -> None:
        pass

    def on_train_step_end(self, train_ctx: Any, train_step: int, loss: Any) -> None:
        float(loss)
        self.stamps.append(now())

    def on_eval_step_start(self, train_ctx: Any) -> None:
        pass

    def on_eval_step_end(self, train_ctx: Any, eval_loss: Any) -> None:
        pass


def dpo(repeats: int) -> dict[str, float]:
    steps = repeats + 3
    trainer = dpo_trainer.DPOTrainer(
        model=new_model(),
        ref_model=new_model(),
        optimizer=optax.adamw(1e-5),
        training_config=dpo_trainer.DPOTrainingConfig(
            eval_every_n_steps=10**6, max_steps=steps, beta=0.1
        ),
    )
    clock = Clock()
    trainer.with_training_hooks(clock)
    prompt, response = (np.ones((PAIRS, n), np.int32) for n in (PROMPT, RESPONSE))
    batches = [
        dpo_trainer.TrainingInput(
            prompt_ids=tokens(PAIRS, PROMPT),
            prompt_mask=prompt,
            chosen_ids=tokens(PAIRS, RESPONSE),
            chosen_mask=response,
            rejected_ids=tokens(PAIRS, RESPONSE),
            rejected_mask=response,
        )
        for _ in range(steps)
    ]
    begin = now()
    trainer.train(batches)
    return {"first_s": clock.stamps[0][0] - begin[0]} | between(clock.stamps[2:])


def sample(repeats: int) -> dict[str, float]:
    cache = sampling.CacheConfig(
        cache_size=PROMPT + RESPONSE,
        num_layers=LAYERS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
    )
    sampler = sampling.Sampler(new_model(), Numbers(), cache)
    prompts = texts(PAIRS, PROMPT - 1)
    seeds = iter(range(10**6))

    def draw() -> None:
        sampler(
            prompts,
            max_generation_steps=RESPONSE,
            max_prompt_length=PROMPT,
            temperature=1.0,
            top_p=1.0,
            top_k=None,
            seed=next(seeds),
            return_logprobs=True,
            forbidden_tokens=[EOS, PAD],
        )

    return measure(draw, repeats)


def grpo(repeats: int) -> dict[str, float]:
    steps = repeats + 4
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    roles = rl_cluster.Role
    prompts = PAIRS // GROUP
    config = rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys((roles.ACTOR, roles.REFERENCE, roles.ROLLOUT), mesh),
        rollout_engine="vanilla",
        offload_to_cpu=False,
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=optax.adamw(1e-5),
            eval_every_n_steps=10**6,
            max_steps=steps,
            mini_batch_size=prompts,
            train_micro_batch_size=prompts,
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=RESPONSE,
            max_prompt_length=PROMPT,
            kv_cache_size=PROMPT + RESPONSE,
            temperature=1.0,
            top_p=1.0,
            top_k=None,
            return_logprobs=True,
        ),
    )
    stamps: list[tuple[float, float]] = []

    # called once per step, after the responses are drawn
    def reward(prompts: Any, completions: list[str], **_: Any) -> list[float]:
        stamps.append(now())
        return [len(set(x.split())) + float(RANDOM.random()) for x in completions]

    with mesh:
        cluster = rl_cluster.RLCluster(
            actor=new_model(),
            reference=new_model(),
            tokenizer=Numbers(),
            cluster_config=config,
        )
        learner = grpo_learner.GRPOLearner(
            rl_cluster=cluster,
            reward_fns=reward,
            algo_config=grpo_learner.GRPOConfig(
                num_generations=GROUP, num_iterations=1, beta=0.04, epsilon=0.2
            ),
        )
        data = [{"prompts": np.array(texts(prompts, PROMPT))} for _ in range(steps)]
        begin = now()
        learner.train(data)
    return {"first_s": stamps[1][0] - begin[0]} | between(stamps[2:])


CASES: dict[str, Callable[[int], dict[str, float]]] = {
    "dpo": dpo,
    "grpo": grpo,
    "sample": sample,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--json")
    args = parser.parse_args()
    results: dict[str, Any] = {"jax": jax.__version__}
    for name in args.only.split(","):
        results[name] = CASES[name](args.repeats) | {"peak_bytes": peak_bytes()}
        print(name, results[name], flush=True)
    write(args.json, results)


if __name__ == "__main__":
    main()
