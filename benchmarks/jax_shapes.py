"""unipost at the shape of peers/bench_tunix.py and peers/bench_easydel.py.

    python benchmarks/jax_shapes.py [--repeats 9] [--only dpo] [--json out.json]

10.1 M parameters, float32, prompts and responses of 128 tokens:

    dpo     8 pairs, 16 rows of 256 tokens, the reference's log-probs given
    grpo    2 prompts of 4 responses each, sampled in the step; old and reference
            log-probs are computed in it
    sample  8 prompts, one response each

Peak memory is that of the process, so `--only` one case gives the case's own.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measure import measure, peak_bytes, write
from steps import Trainer, online, random_rows, sampler

from unipost import Batch, presets
from unipost.model import ModelConfig, init_params, transformer_policy
from unipost.update import Rows, annotate

CONFIG = ModelConfig(
    vocab_size=16384,
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=32,
    rope_theta=1e6,
    max_position_embeddings=256,
    attention_bias="qkv",
)
PROMPT = RESPONSE = 128
GROUP = 4


def dpo() -> Callable[[], Any]:
    rows = random_rows(CONFIG.vocab_size, (8, 2, PROMPT, RESPONSE))
    params = init_params(CONFIG, 0)
    reference = annotate(POLICY, params, rows).policy
    trainer = Trainer(POLICY, params, presets.dpo(0.1))
    batch = Batch(mask=rows.response_mask, reference=reference)
    return lambda: trainer(rows, batch)


def grpo() -> Callable[[], Any]:
    rows = random_rows(CONFIG.vocab_size, (2, GROUP, PROMPT, RESPONSE))
    params = init_params(CONFIG, 0)
    trainer = Trainer(POLICY, params, presets.grpo(kl=0.04))
    draw, seeds = sampler(POLICY, rows, RESPONSE, GROUP), itertools.count()
    random = np.random.default_rng(0)

    def step() -> Any:
        samples = draw(trainer.params, next(seeds))
        # rewards are made on the host from the tokens, as a user's function would
        tokens = np.asarray(samples.tokens)
        different = [[len(set(y.tolist())) for y in group] for group in tokens]
        rewards = np.array(different, np.float32) + random.random(tokens.shape[:2])
        drawn = Rows(rows.prompt, rows.prompt_mask, samples.tokens, samples.mask)
        batch = Batch(
            mask=samples.mask,
            rewards=jnp.asarray(rewards, jnp.float32),
            behavior=samples.logps,
        )
        return online(trainer, params, drawn, batch)

    return step


def sample() -> Callable[[], Any]:
    rows = random_rows(CONFIG.vocab_size, (8, 1, PROMPT, RESPONSE))
    draw, params = sampler(POLICY, rows, RESPONSE, 1), init_params(CONFIG, 0)
    seeds = itertools.count()
    return lambda: draw(params, next(seeds))


POLICY = transformer_policy(CONFIG)
CASES: dict[str, Callable[[], Callable[[], Any]]] = {
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
        work = CASES[name]()
        results[name] = measure(lambda w=work: jax.block_until_ready(w()), args.repeats)
        results[name]["peak_bytes"] = peak_bytes()
        print(name, {k: round(v, 3) for k, v in results[name].items()}, flush=True)
    write(args.json, results)


if __name__ == "__main__":
    main()
