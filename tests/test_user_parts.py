"""Parts of one's own by dotted path: the code of docs/own_parts.md, trained with."""

import re
from pathlib import Path

import pytest
import yaml
from tiny_runs import MODEL, TINY, lines, write_sums

from unipost.config import build, load, to_tree
from unipost.train import Experiment, train

PAGE = (Path(__file__).parents[1] / "docs" / "own_parts.md").read_text()
# what each YAML block of the page is a copy of
ORIGINALS = {
    "Pearson": {"name": "f_sft", "divergence": "pearson_chi2"},
    "Clip": {"name": "grpo", "link": {"high": 0.28}},
    "LogClip": {"name": "gmpo", "low": 0.1, "high": 0.1},
    "Cap": {"name": "cispo", "cap": 1.1},
}

# the same with another number: what the part does must show
OTHERS = {
    "Pearson": {"name": "f_sft", "divergence": "squared_hellinger"},
    "Clip": {"name": "grpo", "link": {"high": 2.0}},
    "LogClip": {"name": "gmpo", "low": 0.2, "high": 0.2},
    "Cap": {"name": "cispo", "cap": 1.5},
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


OBJECTIVES = {
    text.split("mypkg.mine:")[1].split(",")[0].strip("}\n"): text
    for text in blocks("yaml")
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's package, importable, and a file of sums."""
    path = tmp_path_factory.mktemp("own")
    (path / "mypkg").mkdir()
    (path / "mypkg" / "mine.py").write_text("\n\n".join(blocks("python")))
    write_sums(path)
    return path


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


def settings(objective):
    """Two steps of two passes, far enough that ratios leave their bands."""
    source = {"path": "sums.jsonl", "prompts": 4, "prompt_length": 4}
    if objective["name"] == "f_sft":
        data = {"name": "demonstrations", **source, "response_length": 3}
    else:
        data = {"name": "rollouts", **source, "group": 4, "reward": "tiny_runs:length"}
        data["sampling"] = {"max_tokens": 3}
    model = to_tree(TINY)
    optimizer = {"name": "sgd", "learning_rate": 1.0}
    more = {"steps": 2, "inner_epochs": 2, "data": data, "model": model}
    return {"objective": objective, "optimizer": optimizer, **more}


def test_the_page_has_a_part_and_a_setting_of_each_kind():
    assert OBJECTIVES.keys() == ORIGINALS.keys()
    assert len(blocks("python")) == len(blocks("yaml")) == 4
    for code in blocks("python"):
        body = code[code.index("@unipost.part") :].strip().splitlines()
        assert len(body) <= 10, body[1]


@pytest.mark.parametrize("part", ORIGINALS)
def test_a_part_of_ones_own_trains_as_the_original(part, folder):
    own = settings(yaml.safe_load(OBJECTIVES[part])["objective"])
    runs = {"own": own, "original": settings(ORIGINALS[part])}
    runs["other"] = settings(OTHERS[part])
    for name, tree in runs.items():
        file = folder / f"{name}-{part}.yaml"
        file.write_text(yaml.safe_dump(tree))
        experiment = load(Experiment, file)
        # the run's config.yaml names the part, and builds it again
        assert build(Experiment, to_tree(experiment)) == experiment
        train(experiment, folder / name / part, model=MODEL)
    assert f"mypkg.mine:{part}" in (folder / "own" / part / "config.yaml").read_text()
    mine, theirs, others = (lines(folder / name / part) for name in runs)
    shared = mine[0].keys() & theirs[0].keys()
    assert {"loss", "grad_norm", "implicit_reward"} <= shared
    for one, other in zip(mine, theirs, strict=True):
        for key in shared:
            assert one[key] == pytest.approx(other[key], rel=2e-5, abs=2e-6), key
    far = [abs(a["loss"] - b["loss"]) for a, b in zip(mine, others, strict=True)]
    assert max(far) > 1e-3
