"""Processes that are killed, and runs that go on with others, on other meshes."""

import json
import time

import pytest
from many_processes import ended, run_many
from tiny_runs import lines, write_sums

from unipost.config import load
from unipost.experiment import Experiment
from unipost.train import train

STEPS = 24
RUN = """
model: {{characters: "0123456789+=", hidden_size: 16, intermediate_size: 32,
        num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 4,
        head_dim: 8, max_position_embeddings: 16}}
data: {{name: "process_runs:Slow", path: {path}, prompts: 8, prompt_length: 4,
       response_length: 3, pause: 0.2}}
objective: sft
optimizer: {{name: adamw, learning_rate: 0.003}}
steps: {steps}
checkpoints: {{every: 2}}
held_out: {{data: {{name: demonstrations, path: {path}, prompts: 8, prompt_length: 4,
           response_length: 3}}, every: 6}}
evaluation: {{every: 12, distance: sums, rows: 8, tasks: {{sums: {{path: {path},
             prompt_length: 4, response_length: 3, samples: 2, limit: 6}}}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("faults")
    text = RUN.format(path=write_sums(place), steps=STEPS)
    (place / "run.yaml").write_text(text)
    return place


def reached(folder, step: int, processes, seconds: float = 500) -> None:
    """Wait until metrics.jsonl has so many steps."""
    path, begun = folder / "metrics.jsonl", time.monotonic()
    while not path.exists() or len(path.read_text().splitlines()) < step:
        late = time.monotonic() - begun > seconds
        if late or any(process.poll() is not None for process in processes):
            raise AssertionError(ended(processes, 20))
        time.sleep(0.02)


def killed(folder, mesh: str, number: int, devices: int, step: int, who: int) -> float:
    """Run until `step`, kill process `who`; seconds in which the others have ended."""
    arguments = [str(folder / "run.yaml"), "--out", str(folder / "run"), f"mesh={mesh}"]
    processes = run_many(arguments, number, devices)
    try:
        reached(folder / "run", step, processes)
        processes[who].kill()
        begun = time.monotonic()
        said = ended(processes, 150)
    finally:
        for process in processes:
            process.kill()
    for i, (code, _, err) in enumerate(said):
        assert code != 0
        if i != who:
            assert "another process has ended" in err or "another task died" in err
    return time.monotonic() - begun


def test_a_run_goes_on_with_other_processes_on_another_mesh(folder):
    """2 x 4 devices, 4 x 2, 1 x 8 and one, each but the last killed on its way."""
    assert killed(folder, "{data: 2, fsdp: 4}", 2, 4, 5, 1) < 120
    assert killed(folder, "{fsdp: 4, tensor: 2}", 4, 2, 11, 0) < 120
    killed(folder, "{data: 4, tensor: 2}", 1, 8, 17, 0)
    arguments = [str(folder / "run.yaml"), "--out", str(folder / "run")]
    ((code, out, err),) = ended(run_many(arguments, 1, 1))
    assert code == 0, out + err
    run = load(Experiment, folder / "run.yaml", ["data.pause=0.0"])
    train(run, folder / "whole")
    for name in ("metrics", "evaluation"):
        both = lines(folder / "whole", name), lines(folder / "run", name)
        assert [x["step"] for x in both[0]] == [x["step"] for x in both[1]]
        for one, other in zip(*both, strict=True):
            assert one.keys() == other.keys()
            for key in one:
                # what is rounded grows from step to step, most in the gradient's norm
                near = {"abs": 1e-5} if "loss" in key else {"rel": 1e-3, "abs": 1e-5}
                assert float(one[key]) == pytest.approx(float(other[key]), **near)
    assert len(lines(folder / "run")) == STEPS
    config = json.loads((folder / "run" / "environment.json").read_text())
    assert config["processes"] == 1
