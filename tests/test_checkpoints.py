"""docs/checkpoints.md as a user follows it: train, merge, evaluate a checkpoint."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from unipost.cli import main
from unipost.hf import load_pretrained
from unipost.hf.families import FAMILIES
from unipost.loading import load_model

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "checkpoints.md").read_text()
MODEL = ROOT / "tests" / "fixtures" / "hf_models" / "tiny_qwen2_policy"
BLOCK = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
TURNS = ("user", "the ratio"), ("assistant", "alpha beta"), ("user", "clip the loss")


def messages(*turns):
    return [{"role": role, "content": text} for role, text in turns]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's files: pairs in messages, and a task."""
    path = tmp_path_factory.mktemp("checkpoints")
    pairs = [
        {
            "prompt": messages(*TURNS[:1]),
            "chosen": messages(("assistant", f"alpha {i}")),
            "rejected": messages(("assistant", "gamma " * (i + 1))),
        }
        for i in range(4)
    ]
    (path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
    (path / "task.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    return path


def config(folder, **changes):
    """The page's config with its paths put in, as a file."""
    data = BLOCK["data"] | {"path": str(folder / "pairs.jsonl")}
    tree = BLOCK | {"model": str(MODEL), "data": data} | changes
    # what was computed in bfloat16 is no reference of float32
    tree["reference_cache"] = str(folder / tree["compute"]["dtype"])
    place = folder / "run.yaml"
    place.write_text(yaml.safe_dump(tree))
    return place


def test_the_page_trains_merges_and_evaluates(folder, capsys):
    out, merged = folder / "run", folder / "merged"
    assert main(["run", str(config(folder)), "--out", str(out)]) == 0
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert sorted(x.name for x in (out / "final").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert main(["merge", str(out / "final"), str(merged)]) == 0
    told = f"{merged}: {MODEL} with {out / 'final'} merged in, float32"
    assert told in capsys.readouterr().out
    # the merged model is the base plus the adapter, and is what its folder stands for
    base, whole = load_pretrained(MODEL).params, load_pretrained(merged).params
    adapted = load_model(str(out / "final"), 0).params
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, adapted))
    moved = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), whole, base)
    assert moved["blocks"]["query"]["kernel"] > 0 == moved["embedding"]
    generation = "generation_config.json"
    assert json.loads((merged / generation).read_text()) == json.loads(
        (MODEL / generation).read_text()
    )
    task = {"path": str(folder / "task.jsonl"), "prompt_length": 16}
    tasks = {"sums": task | {"response_length": 4}}
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"evaluation": {"tasks": tasks}}))
    assert main(["eval", str(out / "final"), str(folder / "tasks.yaml")]) == 0
    assert "sums/greedy" in json.loads(capsys.readouterr().out)


def test_an_adapter_without_its_base_is_refused(folder, capsys):
    adapter = folder / "lost"
    adapter.mkdir()
    fields = {"base_model_name_or_path": "no/such/model"}
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    assert main(["merge", str(adapter), str(folder / "nothing")]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"unipost: {adapter / 'adapter_config.json'}: base_model_name_or_path is "
        "'no/such/model', which is no folder here; write that of the base model\n"
    )
    assert not (folder / "nothing").exists()


@pytest.mark.parametrize("change", [{"packed_length": None}, {"lora": None}])
def test_settings_of_the_page_change_no_first_number(folder, change):
    """Packing changes no loss; without an adapter step 0 is the same model."""
    out = folder / f"run-{next(iter(change))}"
    half = {"compute": {"dtype": "float32"}, "steps": 1}
    assert main(["run", str(config(folder, **half, **change)), "--out", str(out)]) == 0
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)


def test_the_page_names_every_family():
    table = PAGE[PAGE.index("| `model_type` |") :].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)[1:] == list(FAMILIES)
