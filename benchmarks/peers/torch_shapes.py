"""TRL and transformers at the shape of ../torch_shapes.py.

Run by compare.py, in an environment with torch, transformers and trl:

    sft          8 x 256 tokens through SFTTrainer.compute_loss (fused LM head)
    sft_logits   the same through logits and cross entropy, without TRL
    dpo          4 pairs of 64 + 192, reference forward included, DPOTrainer
    dpo_precomp  the same with the reference's log-probs given
    grpo_loss    8 rows of 64 + 192, old and reference given, GRPOTrainer (dapo)
    logps        forward only: log-probs and entropy of 8 x 256 tokens
    gen8, gen64  `generate`: so many rows of 128 tokens after a prompt of 32

A step is loss, backward, clipping by the global norm and AdamW. Nothing is downloaded:
model and tokenizer are made here. Losses are TRL's own private methods, as in 1.16.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from measure import measure, peak_bytes, write
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    SFTConfig,
    SFTTrainer,
)

CONFIG = Qwen2Config(
    vocab_size=8192,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_position_embeddings=1024,
    tie_word_embeddings=False,
    rope_theta=10000.0,
    bos_token_id=0,
    eos_token_id=2,
    pad_token_id=3,
)
ROWS, COLUMNS, PROMPT, NEW_TOKENS = 8, 256, 64, 128
GENERATOR = torch.Generator().manual_seed(1)
IDS = torch.randint(4, CONFIG.vocab_size, (ROWS, COLUMNS), generator=GENERATOR)
ONES = torch.ones_like(IDS)
FOLDER = tempfile.TemporaryDirectory()
COMMON: dict[str, Any] = {
    "output_dir": FOLDER.name,
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "seed": 0,
}


def new_model() -> Qwen2ForCausalLM:
    """The same random model at every call."""
    torch.manual_seed(0)
    return Qwen2ForCausalLM._from_config(CONFIG, attn_implementation="sdpa")


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Three words, for the rows that a trainer wants at its construction."""
    words = ["<s>", "<unk>", "</s>", "<pad>", "alpha", "beta", "gamma"]
    ids = {word: i for i, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def stepper(model: Any, loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """One optimiser step on `loss`, which reads `model`."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01)

    def step() -> float:
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(value.detach())

    return step


def sft_trainer() -> SFTTrainer:
    return SFTTrainer(
        model=new_model(),
        args=SFTConfig(**COMMON),
        train_dataset=Dataset.from_list([{"text": "alpha"}] * 4),
        processing_class=new_tokenizer(),
    )


def sft() -> Callable[[], Any]:
    trainer = sft_trainer()
    inputs = {"input_ids": IDS, "attention_mask": ONES, "labels": IDS}
    model = trainer.model
    return stepper(model, lambda: trainer.compute_loss(model, dict(inputs)))


def sft_logits() -> Callable[[], Any]:
    model = new_model()
    return stepper(
        model, lambda: model(input_ids=IDS, labels=IDS, use_cache=False).loss
    )


def logps() -> Callable[[], Any]:
    model: Any = sft_trainer().model
    inputs = {"input_ids": IDS, "attention_mask": ONES, "labels": IDS}

    @torch.no_grad()
    def forward() -> Any:
        return model(**inputs, fused_lm_head=True)

    return forward


def dpo(reference: dict[str, torch.Tensor] | None = None) -> Callable[[], Any]:
    row = {"prompt": "alpha", "chosen": " beta", "rejected": " gamma"}
    trainer = DPOTrainer(
        model=new_model(),
        ref_model=new_model(),
        args=DPOConfig(**COMMON, beta=0.1),
        train_dataset=Dataset.from_list([row] * 4),
        processing_class=new_tokenizer(),
    )
    trainer.precompute_ref_logps = reference is not None
    ids, completion = IDS.clone(), torch.zeros_like(IDS)
    ids[ROWS // 2 :, :PROMPT] = ids[: ROWS // 2, :PROMPT]
    completion[:, PROMPT:] = 1
    batch = {"input_ids": ids, "attention_mask": ONES, "completion_mask": completion}
    batch |= reference or {}
    model = trainer.model
    return stepper(model, lambda: trainer._compute_loss(model, dict(batch), False))


def dpo_precomp() -> Callable[[], Any]:
    names = "ref_chosen_logps", "ref_rejected_logps"
    return dpo({name: torch.full((ROWS // 2,), -1500.0) for name in names})


def grpo_loss() -> Callable[[], Any]:
    columns = COLUMNS - PROMPT
    model = str(Path(FOLDER.name) / "model")
    new_model().save_pretrained(model)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            **COMMON,
            beta=0.04,
            num_generations=4,
            per_device_train_batch_size=ROWS,
            max_completion_length=columns,
        ),
        train_dataset=Dataset.from_list([{"prompt": "alpha"}] * ROWS),
        processing_class=new_tokenizer(),
    )
    model = trainer.model
    trainer.current_gradient_accumulation_steps = 1
    with torch.no_grad():
        scored = trainer._get_per_token_logps_and_entropies(model, IDS, ONES, columns)

    def near() -> torch.Tensor:
        return scored[0] + 0.1 * torch.randn(ROWS, columns, generator=GENERATOR)

    batch = {
        "prompt_ids": IDS[:, :PROMPT],
        "prompt_mask": ONES[:, :PROMPT],
        "completion_ids": IDS[:, PROMPT:],
        "completion_mask": ONES[:, PROMPT:],
        "advantages": torch.randn(ROWS, generator=GENERATOR),
        "num_items_in_batch": torch.tensor(ROWS * columns),
        "old_per_token_logps": near(),
        "ref_per_token_logps": near(),
    }
    return stepper(model, lambda: trainer._compute_loss(model, batch))


def generate(count: int) -> Callable[[], Any]:
    model = new_model().eval()
    shape = count, 32
    prompts = torch.randint(4, CONFIG.vocab_size, shape, generator=GENERATOR)

    @torch.inference_mode()
    def draw() -> Any:
        return model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )

    return draw


CASES: dict[str, Callable[[], Callable[[], Any]]] = {
    "sft": sft,
    "sft_logits": sft_logits,
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
    logging.disable(logging.WARNING)
    results: dict[str, Any] = {"torch": torch.__version__}
    for name in args.only.split(","):
        # generating takes seconds, and varies less
        repeats = 3 if name.startswith("gen") else args.repeats
        results[name] = measure(CASES[name](), repeats)
        print(name, {k: round(v, 3) for k, v in results[name].items()}, flush=True)
    write(args.json, results | {"peak_bytes": peak_bytes()})


if __name__ == "__main__":
    main()
