"""Small experiments for the tests of `unipost plan`: a folder with a config.json."""

import json
from pathlib import Path

from unipost.config import build
from unipost.train import Experiment

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
}
DATA = {
    "demonstrations": {"response_length": 24},
    "preferences": {"response_length": 24},
    "rollouts": {"group": 4, "sampling": {"max_tokens": 24}},
}


def folder_of(path: Path, **changes) -> str:
    """A folder with the config of a tiny model and nothing else."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(TINY | changes))
    return str(path)


def experiment_of(folder: str, data: str = "demonstrations", **settings) -> Experiment:
    """An experiment of 16 prompts of 8 + 24 tokens; its data files do not exist."""
    objective = {"preferences": "dpo", "rollouts": "grpo"}.get(data, "sft")
    tree = {
        "model": folder,
        "data": {
            "name": data,
            "path": "nowhere.jsonl",
            "prompts": 16,
            "prompt_length": 8,
            **DATA[data],
        },
        "objective": objective,
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
        "steps": 10,
        **settings,
    }
    return build(Experiment, tree)
