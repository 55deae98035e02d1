"""EasyDeL 0.3.0 at the shape of ../jax_shapes.py: dpo, grpo.

Run by compare.py, in an environment with easydel, pillow and torch. Steps are timed at
the end of its compiled training step; its DPO scores the reference in the step.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import easydel
import jax
import jax.numpy as jnp
import numpy as np
from datasets import Dataset
from flax import nnx
from measure import between, now, peak_bytes, write
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

VOCAB, PAIRS, PROMPT, RESPONSE, GROUP = 16384, 8, 128, 128, 4
LENGTH = PROMPT + RESPONSE
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
RANDOM = np.random.default_rng(0)
FOLDER = tempfile.TemporaryDirectory()


def new_tokenizer() -> PreTrainedTokenizerFast:
    """A word per id; EasyDeL reads texts even where the data has ids."""
    ids = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"t{i}": i for i in range(3, VOCAB)}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        padding_side="left",
    )


def new_model() -> Any:
    config = easydel.Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        use_sliding_window=False,
        rope_theta=1e6,
        **SPECIAL,
    )
    config.add_basic_configurations(sharding_axis_dims=(1, -1, 1, 1, 1))
    config.attn_dtype = jnp.float32
    model = easydel.Qwen2ForCausalLM(
        config=config, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    # its generate() fails without one
    model.generation_config = GenerationConfig(**SPECIAL)
    return model


def texts(rows: int, columns: int) -> list[str]:
    ids = RANDOM.integers(3, VOCAB, (rows, columns))
    return [" ".join(f"t{i}" for i in row) for row in ids]


def settings(steps: int, batch: int) -> dict[str, Any]:
    """What both trainers' configs have in common."""
    return {
        "save_directory": FOLDER.name,
        "num_train_epochs": 1,
        "total_batch_size": batch,
        "gradient_accumulation_steps": 1,
        "log_steps": 1,
        "report_steps": 1,
        "learning_rate": 1e-5,
        "max_training_steps": steps,
        "save_steps": 10**6,
        "do_last_save": False,
        "use_wandb": False,
        "save_optimizer_state": False,
        "shuffle_train_dataset": False,
        "progress_bar_type": "json",
        "max_prompt_length": PROMPT,
        "max_completion_length": RESPONSE,
        "max_length": LENGTH,
        "generation_interval": None,
        "use_grain": True,
        "optimizer": "adamw",
        "weight_decay": 1e-4,
    }


def timed(trainer: Any) -> dict[str, float]:
    """Trains, with the clocks noted after every step."""
    kind, stamps = type(trainer), []
    inner = kind._execute_train_step

    def execute(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = inner(self, *args, **kwargs)
        jax.block_until_ready(jax.tree.leaves(out[0].graphstate))
        stamps.append(now())
        return out

    kind._execute_train_step = execute
    begin = time.perf_counter()
    trainer.train()
    kind._execute_train_step = inner
    return {"first_s": stamps[0][0] - begin} | between(stamps[2:])


def dpo(repeats: int) -> dict[str, float]:
    steps = repeats + 3
    rows = PAIRS * (steps + 2)
    data = {"prompt": texts(rows, PROMPT)}
    data |= {name: texts(rows, RESPONSE) for name in ("chosen", "rejected")}
    trainer = easydel.DPOTrainer(
        arguments=easydel.DPOConfig(**settings(steps, PAIRS), beta=0.1),
        model=new_model(),
        processing_class=new_tokenizer(),
        train_dataset=Dataset.from_dict(data),
    )
    return timed(trainer)


def grpo(repeats: int) -> dict[str, float]:
    steps, prompts = repeats + 3, PAIRS // GROUP

    def reward(prompts: Any = None, completions: Any = (), **_: Any) -> list[float]:
        return [float(RANDOM.random()) for _ in completions]

    trainer = easydel.GRPOTrainer(
        arguments=easydel.GRPOConfig(
            **settings(steps, prompts),
            beta=0.04,
            num_return_sequences=GROUP,
            temperature=1.0,
            top_p=1.0,
            loss_type="grpo",
            use_esurge_generation=False,
        ),
        model=new_model(),
        reward_funcs=reward,
        processing_class=new_tokenizer(),
        train_dataset=Dataset.from_dict(
            {"prompt": texts(prompts * (steps + 2), PROMPT)}
        ),
    )
    return timed(trainer)


CASES: dict[str, Callable[[int], dict[str, float]]] = {"dpo": dpo, "grpo": grpo}


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
