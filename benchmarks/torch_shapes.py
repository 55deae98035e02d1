"""unipost at the shape of peers/bench_torch.py, which times TRL and transformers.

    python benchmarks/torch_shapes.py [--repeats 9] [--only sft,dpo] [--json out.json]

10.1 M parameters, float32, 8 rows of 256 tokens. A step is loss, gradient, clipping by
the global norm and AdamW. Every row scores as many tokens as the other library's:

    sft          255 tokens of every row from the first
    dpo          4 pairs of 64 + 192, reference scored in the step
    dpo_precomp  the same with the reference's log-probs given
    grpo_loss    8 rows of 64 + 192, old and reference log-probs given
    logps        forward only: log-probs and entropy of 8 x 255 tokens
    gen8, gen64  that many rows of 128 tokens after a prompt of 32
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import jax
from measure import measure, peak_bytes, write
from steps import Trainer, given_streams, online, random_rows, sampler

from unipost import Batch, presets
from unipost.model import ModelConfig, init_params, transformer_policy
from unipost.update import annotate

CONFIG = ModelConfig(
    vocab_size=8192,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=32,
    max_position_embeddings=1024,
    tie_word_embeddings=False,
    attention_bias="qkv",
)
NEW_TOKENS = 128


def sft() -> Callable[[], Any]:
    rows = random_rows(CONFIG.vocab_size, (8, 1, 1, 255))
    trainer = Trainer(POLICY, init_params(CONFIG, 0), presets.sft())
    return lambda: trainer(rows, Batch(mask=rows.response_mask))


def dpo() -> Callable[[], Any]:
    rows = random_rows(CONFIG.vocab_size, (4, 2, 64, 192))
    params = init_params(CONFIG, 0)
    trainer = Trainer(POLICY, params, presets.dpo(0.1))
    return lambda: online(trainer, params, rows, Batch(mask=rows.response_mask))


def dpo_precomp() -> Callable[[], Any]:
    rows = random_rows(CONFIG.vocab_size, (4, 2, 64, 192))
    params = init_params(CONFIG, 0)
    trainer = Trainer(POLICY, params, presets.dpo(0.1))
    reference = annotate(POLICY, params, rows).policy
    batch = Batch(mask=rows.response_mask, reference=reference)
    return lambda: trainer(rows, batch)


def grpo_loss() -> Callable[[], Any]:
    rows = random_rows(CONFIG.vocab_size, (2, 4, 64, 192))
    params = init_params(CONFIG, 0)
    trainer = Trainer(POLICY, params, presets.grpo(kl=0.04))
    batch = given_streams(POLICY, params, rows)
    return lambda: trainer(rows, batch)


def logps() -> Callable[[], Any]:
    rows = random_rows(CONFIG.vocab_size, (8, 1, 1, 255))
    params = init_params(CONFIG, 0)
    return lambda: annotate(POLICY, params, rows, ("entropy",))


def generate(count: int) -> Callable[[], Any]:
    rows = random_rows(CONFIG.vocab_size, (count, 1, 32, NEW_TOKENS))
    draw, params = sampler(POLICY, rows, NEW_TOKENS, 1), init_params(CONFIG, 0)
    seeds = itertools.count()
    return lambda: draw(params, next(seeds))


POLICY = transformer_policy(CONFIG)
CASES: dict[str, Callable[[], Callable[[], Any]]] = {
    "sft": sft,
    "dpo": dpo,
    "dpo_precomp": dpo_precomp,
    "grpo_loss": grpo_loss,
    "logps": logps,
    "gen8": lambda: generate(8),
    "gen64": lambda: generate(64),
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
        print(name, {k: round(v, 3) for k, v in results[name].items()}, flush=True)
    write(args.json, results | {"peak_bytes": peak_bytes()})


if __name__ == "__main__":
    main()
