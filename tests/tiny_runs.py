"""Experiments small enough to run many times: sums of two digits, a 2k-weight model."""

import json
from dataclasses import replace
from pathlib import Path

from tiny_rewards import length

from unipost import presets
from unipost.checkpoint import Checkpoints
from unipost.evaluation import Evaluation, Task
from unipost.model import init_params
from unipost.optimizers import AdamW
from unipost.rewards import exact
from unipost.rollouts import Rollouts
from unipost.sampling import Sampling
from unipost.sources import Demonstrations, LabelledRows, Preferences, Setting
from unipost.train import Experiment, NewModel, load_model

TINY = NewModel(
    characters="0123456789+=",
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=16,
)
MODEL = load_model(TINY, 0)
SETTING = Setting(MODEL.policy, MODEL.params, MODEL.tokenizer, 0)
STEPS = 6
COLD = Sampling(max_tokens=3, temperature=0.7)


def params_of(seed: int):
    """Other parameters of the tiny model."""
    assert MODEL.config is not None
    return init_params(MODEL.config, seed)


def write_sums(folder: Path, count: int = 10) -> str:
    """`count` sums with their answers as demonstrations; the file's path."""
    lines = []
    for i in range(count):
        a, b = i % 10, (3 * i + 1) % 10
        text = str(a + b)
        lines.append({"prompt": f"{a}+{b}=", "answer": text, "completion": text})
    path = folder / "sums.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def write_labels(folder: Path, pairs: bool = False) -> str:
    """Twelve sums, true if odd, or as pairs with a wrong answer; the file's path."""
    lines = []
    for i in range(12):
        a, b = i % 4, i // 4
        row = {"prompt": f"{a}+{b}="}
        if pairs:
            row |= {"chosen": str(a + b), "rejected": str(a + b + 1)}
        else:
            row |= {"completion": str(a + b), "label": (a + b) % 2 == 1}
        lines.append(row)
    path = folder / ("pairs.jsonl" if pairs else "labels.jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def demonstrations(path: str) -> Demonstrations:
    """Four sums a step, imitated."""
    return Demonstrations(path, prompts=4, prompt_length=4, response_length=3)


def preferences(path: str) -> Preferences:
    """Four pairs a step."""
    return Preferences(path, prompts=4, prompt_length=4, response_length=3)


def labelled(path: str) -> LabelledRows:
    """Four labelled rows a step."""
    return LabelledRows(path, prompts=4, prompt_length=4, response_length=3)


def rollouts(path: str, **changes) -> Rollouts:
    """Four sums a step, four responses each."""
    source = Rollouts(path, 4, 4, 4, Sampling(max_tokens=3), length)
    return replace(source, **changes)


def evaluation(path: str) -> Evaluation:
    """Every sum once greedily and twice by sampling, with the distances."""
    task = Task(path, 4, 3, exact, samples=2, pass_at=(2,), limit=6)
    return Evaluation({"sums": task}, every=3, distance="sums", rows=8)


def experiment(kind: str, path: str, **changes) -> Experiment:
    """A run of six steps by a preset, saved every two, evaluated every three."""
    data, objective = {
        "sft": lambda: (demonstrations(path), presets.sft()),
        "grpo": lambda: (rollouts(path), presets.grpo()),
        "kto": lambda: (labelled(path), presets.kto()),
        "orpo": lambda: (preferences(path), presets.orpo()),
        "tis": lambda: (rollouts(path, sampling=COLD), presets.tis(1.1)),
    }[kind]()
    whole = Experiment(
        model=TINY,
        data=data,
        objective=objective,
        optimizer=AdamW(1e-2, "cosine", 2),
        steps=STEPS,
        evaluation=evaluation(path),
        checkpoints=Checkpoints(every=2),
    )
    return replace(whole, **changes)


def lines(folder: Path, name: str = "metrics") -> list[dict]:
    """The lines of a run's metrics.jsonl, or of another file."""
    text = (folder / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
