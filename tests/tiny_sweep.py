"""A sweep of four combinations with two seeds over sums, and stand-ins for runs."""

import sys
from pathlib import Path

from tiny_runs import write_sums

from unipost.sweep import children

PROCESS = Path(__file__).parent / "sweep_process.py"
RATE = "optimizer.learning_rate"
BASE = """
model: {characters: "0123456789+=", hidden_size: 16, intermediate_size: 32,
  num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8,
  max_position_embeddings: 16}
data: {name: demonstrations, path: PATH, prompts: 4, prompt_length: 4,
  response_length: 3}
objective: sft
optimizer: {name: adamw, learning_rate: 1e-2, b2: 0.98}
steps: 3
checkpoints: {every: 2}
evaluation: {tasks: {sums: {path: PATH, prompt_length: 4, response_length: 3}}}
"""
SWEEP = """
claim: A larger rate learns more.
base: base.yaml
grid:
  optimizer.learning_rate: [1e-3, 1e-2]
  objective: [sft, {name: f_sft, divergence: pearson_chi2}]
seeds: [0, 1]
"""


def write_sweep(folder: Path) -> Path:
    """The sweep's file, with its base and data beside it."""
    path = write_sums(folder)
    (folder / "base.yaml").write_text(BASE.replace("PATH", path))
    found = folder / "rates.yaml"
    found.write_text(SWEEP)
    return found


class Quick:
    """Puts processes that only write files in the place of runs (`sweep_process`)."""

    def __init__(self, monkeypatch):
        self.pause, self.failing = "0.01", "nothing"
        monkeypatch.setattr(children, "command", self.command)

    def command(self, unit, folders, cache):
        """What is started for a unit."""
        places = [str(folders.of(run)) for run in unit.runs]
        start = [sys.executable, str(PROCESS), "3", self.pause, self.failing]
        return [*start, *places]
