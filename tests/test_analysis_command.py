"""`unipost analyze` on tiny models: the table, the files, the page, the errors."""

import html
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_runs import MODEL, params_of, write_sums

from unipost.analysis.coloured import ansi, shown, strength, strongest
from unipost.analysis.command import settings
from unipost.analysis.inputs import open_texts
from unipost.analysis.responses import Responses
from unipost.byte_tokenizer import ByteTokenizer
from unipost.cli import main
from unipost.completions.pieces import Piece
from unipost.hf import save_pretrained
from unipost.model import init_params
from unipost.tokenizer import CharTokenizer

ASKED = ["limit=6", "response_length=5", "rows=12", "shown=2", "samples=2"]


def save(folder: Path, params, tokenizer=None) -> Path:
    """A model folder of these parameters."""
    save_pretrained(folder, MODEL.config, params, tokenizer or MODEL.tokenizer)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base, and a run directory whose model is another."""
    folder = tmp_path_factory.mktemp("models")
    save(folder / "base", MODEL.params)
    (folder / "run").mkdir()
    tuned = jax.tree.map(lambda a, b: a + 0.3 * b, MODEL.params, params_of(1))
    save(folder / "run" / "final", tuned)
    return folder


def analyze(models, data, out, *more, tuned="run"):
    """Arguments of the command."""
    paths = ["--base", f"{models}/base", "--tuned", f"{models}/{tuned}"]
    return ["analyze", *paths, "--data", str(data), "--out", str(out), *ASKED, *more]


@pytest.fixture(scope="module")
def done(models, tmp_path_factory):
    """One analysis of graded questions: the folder, and what was printed."""
    folder = tmp_path_factory.mktemp("done")
    data = write_sums(folder)
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *x, **_: printed.append(" ".join(x)))
        assert main(analyze(models, data, folder / "out")) == 0
    return folder / "out", "\n".join(printed)


class Checked(HTMLParser):
    """Every element that opens also closes; the text, and what could fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.open, self.said, self.foreign = [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.foreign += [tag] if tag in ("script", "img", "link", "iframe") else []
        self.foreign += [k for k, _ in attrs if k in ("src", "href") or k[:2] == "on"]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said += data


def test_table_and_files_agree(done):
    """What is printed is what analysis.json holds; differences are differences."""
    folder, printed = done
    found = json.loads((folder / "analysis.json").read_text())
    assert found["prompts"] == 6 and found["samples"] == 2 and found["skipped"] == []
    for measure in found["measures"]:
        assert measure["name"] in printed and measure["group"] in printed
        if measure["base"] is not None:
            gap = measure["tuned"] - measure["base"]
            assert measure["value"] == pytest.approx(gap, abs=1e-9)
        if measure.get("low") is not None:
            assert measure["low"] <= measure["value"] <= measure["high"]
    groups = {m["group"] for m in found["measures"]}
    assert len(groups) >= 8
    named = {m["name"]: m for m in found["measures"]}
    assert named["KL(tuned‖base) per token"]["value"] > 0
    assert named["unchanged, %"]["value"] < 100
    right = found["correct"]["tuned"]
    assert named["accuracy of samples, %"]["tuned"] == pytest.approx(
        100 * np.mean(right)
    )
    assert found["pass_at"]["k"] == [1, 2]
    assert len(found["layers"]["cka"]) == 2
    assert found["environment"]["hashes"].keys() == {"data", "base", "tuned"}
    assert "KL(tuned‖base) per token" in printed and str(folder) in printed


def test_page_is_whole_and_asks_for_nothing(done):
    """Elements close, nothing is fetched or run, and every prompt shown is there."""
    text = (done[0] / "analysis.html").read_text()
    found = Checked(text)
    assert found.foreign == []
    assert "Implicit reward of every token" in found.said
    assert "0+1=" in found.said and "1+4=" in found.said and "2+7=" not in found.said
    assert 'class="up"' in text and 'class="down"' in text
    assert "rank" in text and "default-src" in text


def test_another_setting_needs_another_folder(done, models, capsys):
    """What is there is not written over by an analysis with other settings."""
    folder = done[0]
    before = (folder / "analysis.json").read_text()
    again = analyze(models, folder.parent / "sums.jsonl", folder, "seed=1")
    assert main(again) == 2
    assert "seed: 0 there, 1 here" in capsys.readouterr().err
    assert (folder / "analysis.json").read_text() == before


def test_a_model_against_itself_has_moved_nowhere(models, tmp_path, capsys):
    """All distances and differences are 0, all weights unchanged."""
    data = write_sums(tmp_path)
    assert main(analyze(models, data, tmp_path / "out", tuned="base")) == 0
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    for measure in found["measures"]:
        name = measure["name"]
        if name.startswith("unchanged"):
            assert measure["value"] == 100
        elif name.startswith("linear CKA"):
            assert measure["value"] == pytest.approx(1.0)
        elif name.startswith("P(right"):
            assert measure["value"] == 0.5
        elif not name.startswith("below rank"):  # a draw of the base itself
            assert measure["value"] == pytest.approx(0.0, abs=1e-6), name
    assert found["shifted_tokens"] == []
    assert "No token changed its rank" in (tmp_path / "out/analysis.html").read_text()


def test_demonstrations_are_scored_and_not_graded(models, tmp_path):
    """Responses of the file have log-probs; there is no answer to be right about."""
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{i}+2=", "completion": str(i + 2)} for i in (1, 2)]
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(analyze(models, data, tmp_path / "out")) == 0
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    names = [m["name"] for m in found["measures"]]
    assert "log-prob per token" in names and "ECE, 10 bins" not in names
    assert sum(found["file_probabilities"]["tuned"]) == 2 * 2
    assert found["skipped"] == [
        "hidden states: fewer than 3 prompts, or models of two shapes"
    ]


def test_models_of_two_shapes_are_compared_where_they_can(models, tmp_path):
    """Distributions are compared; what has no meaning is left out with its reason."""
    assert MODEL.config is not None
    config = replace(MODEL.config, hidden_size=8)
    save_pretrained(models / "small", config, init_params(config, 2), MODEL.tokenizer)
    data, out = write_sums(tmp_path), tmp_path / "out"
    assert main(analyze(models, data, out, "separator=+", tuned="small")) == 0
    found = json.loads((out / "analysis.json").read_text())
    groups = {m["group"] for m in found["measures"]}
    assert "rank shift" in groups and not {"weights", "hidden states"} & groups
    hidden, weights = found["skipped"]
    assert hidden.startswith("hidden states: ") and "is (1, 16) in the base" in weights


def test_diversity_leaves_the_end_token_out(tmp_path):
    """Two answers of one letter, one of them cut: the end is no token of a text."""
    texts = open_texts(write_sums(tmp_path), (MODEL,), settings(["limit=1"]))
    end = MODEL.tokenizer.eos_token
    tokens = np.array([[[5, end, 0], [6, 6, 6]]])
    mask = np.array([[[True, True, False], [True, True, True]]])
    drawn = Responses(
        texts, tokens, mask, np.array([[True, False]]), settings([]), MODEL.tokenizer
    )
    assert drawn.tokens == [[[5], [6, 6, 6]]] and drawn.lengths.tolist() == [[2, 3]]


def test_lengths_are_found_in_the_file(tmp_path):
    """The longest prompt, and what the model's 16 positions leave after it."""
    data = write_sums(tmp_path)
    texts = open_texts(data, (MODEL,), settings(["limit=3"]))
    assert texts.tokens.prompt.shape == (3, 4)
    assert texts.budget == 12 and texts.graded and not texts.given
    assert texts.answers == ["1", "5", "9"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tuned", "{}/nowhere"], "nowhere: no such folder"),
        (["--base", "{}"], "holds no model (no config.json"),
        (["--tuned", "{}/other"], "has another tokenizer than --base"),
        (["--data", "{}/none.jsonl"], "none.jsonl"),
        (["--data", "{}/empty.jsonl"], "empty.jsonl: the file is empty"),
        (["response_length=13"], "write response_length <= 12"),
        (["sample=3"], "sample"),
        (["samples=0"], "samples: 0; write 1 or more"),
        (["beta=-1"], "beta: -1"),
    ],
)
def test_errors_in_one_line(more, message, models, tmp_path, capsys):
    """Each says what is wrong, with the option or the setting; nothing is written."""
    save(tmp_path / "other", MODEL.params, CharTokenizer("9876543210+="))
    (tmp_path / "empty.jsonl").write_text("")
    asked = analyze(models, write_sums(tmp_path), tmp_path / "out")
    assert main([*asked, *(x.format(tmp_path) for x in more)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


# colours


def test_colours_of_a_terminal():
    """Blue above 0, orange below, nothing where it is faint; every tint is reset."""
    parts = [Piece("a"), Piece("b"), Piece("c"), Piece("<eos>", True)]
    text = ansi(parts, [2.0, -1.0, 0.01, float("nan")], 2.0)
    assert text == (
        "\x1b[38;2;0;0;0;48;2;91;158;230ma\x1b[0m"
        "\x1b[38;2;0;0;0;48;2;248;208;176mb\x1b[0mc<eos>"
    )
    assert strongest([[0.0, np.nan, -4.0]]) == 4.0 and strongest([0.0]) == 1.0
    assert strength(9.0, 3.0) == 1.0 and strength(0.1, 3.0) == 0.0


@pytest.mark.parametrize("text", ["\x1b[2J", "\x07", "\u202eabc", "\x9b31m", "\ud800"])
def test_a_models_text_cannot_steer_the_terminal(text):
    """No control character and no change of direction gets through."""
    seen = shown(Piece(text))
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in seen)
    assert "\u202e" not in seen
    seen.encode()


def test_a_models_text_cannot_steer_the_page(models, tmp_path):
    """Markup in prompts and responses is text."""
    evil = "</div><script>alert(1)</script>"
    assert MODEL.config is not None
    wide = replace(
        MODEL.config, vocab_size=ByteTokenizer().vocab_size, max_position_embeddings=64
    )
    for seed, name in enumerate(("base", "run")):
        params = init_params(wide, seed)
        save_pretrained(tmp_path / name, wide, params, ByteTokenizer())
    data = tmp_path / "evil.jsonl"
    data.write_text(json.dumps({"prompt": evil}) + "\n")
    assert main(analyze(tmp_path, data, tmp_path / "out")) == 0
    text = (tmp_path / "out/analysis.html").read_text()
    found = Checked(text)
    assert found.foreign == [] and evil in found.said and html.escape(evil) in text
    names = (tmp_path / "out/analysis.json").read_text()
    assert "KL(tuned" in names and "accuracy" not in names
