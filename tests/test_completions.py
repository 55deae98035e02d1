"""Pages of completions: the numbers are the step's, and no text can break the page."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import MODELS
from completion_entries import NASTY, PROMPTS, entries
from tiny_models import EXAMPLES, MEAN, rows_and_batch
from tiny_runs import SETTING, rollouts, write_sums

from unipost import presets
from unipost.completions import (
    Completions,
    entries_of,
    examine,
    write_index,
    write_page,
    write_step,
)
from unipost.completions.entries import Endings
from unipost.completions.pieces import Piece, pieces
from unipost.explain import gradient_coefficient
from unipost.tokenizer import ByteTokenizer, CharTokenizer, load_tokenizer
from unipost.update import streams_of, with_streams

VOID = {"meta", "input", "link", "br"}


class Strict(HTMLParser):
    """Every tag is closed in its turn; scripts and text are kept."""

    def __init__(self):
        super().__init__()
        self.open, self.scripts, self.seen = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        assert not {"src", "href"} & set(names) or dict(attrs).get("href")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data


def parsed(path):
    parser = Strict()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    assert not parser.open
    return parser


def column(values, count):
    return values if isinstance(values, list) else [values] * count


def test_a_page_is_one_closed_document_whatever_it_holds(tmp_path):
    path = tmp_path / "000050.html"
    write_page(path, entries(), 50)
    text, page = path.read_text(encoding="utf-8"), parsed(path)
    assert page.seen.count("script") == len(page.scripts) == 2
    assert "img" not in page.seen and NASTY not in text
    assert not re.search(r"https?://|@import|url\(", text)
    data = json.loads(page.scripts[0])
    assert not set("<>&\u2028") & set(page.scripts[0])
    assert [data["groups"][str(p)] for p in range(4)] == list(PROMPTS)
    assert list(tmp_path.iterdir()) == [path]  # nothing half-written is left
    for shown, entry in zip(data["entries"], entries(), strict=True):
        own = [[x.text] if x.special else x.text for x in entry.pieces]
        assert shown["text"] == own and shown["ids"] == list(entry.tokens)
        assert shown["badges"] == list(entry.badges)
        assert (shown["reward"] is None) == np.isnan(entry.reward)


def test_the_numbers_of_a_page_are_those_of_its_entries(tmp_path):
    """To four digits, and the distance of two log-probs to five decimals."""
    write_page(tmp_path / "1.html", entries(), 1)
    data = json.loads(parsed(tmp_path / "1.html").scripts[0])
    for shown, entry in zip(data["entries"], entries(), strict=True):
        count, found = len(entry.tokens), {}
        for name, values in shown["columns"].items():
            values = [np.nan if x is None else x for x in column(values, count)]
            found[name] = np.array(values) / data["scales"].get(name, 1.0)
        policy = entry.columns["policy"]
        np.testing.assert_allclose(found["policy"], policy, atol=6e-5)
        for name in ("old", "behavior", "reference"):
            far = entry.columns[name] - policy
            np.testing.assert_allclose(found[name], far, atol=6e-6)
        for name in ("coefficient", "advantage"):
            np.testing.assert_allclose(found[name], entry.columns[name], rtol=5e-4)
        assert not isinstance(shown["columns"]["advantage"], list)


def test_a_page_of_64_completions_is_below_a_megabyte(tmp_path):
    rng, some = np.random.default_rng(1), entries()[0]
    count = 256

    def grown(i):
        columns = {k: rng.normal(size=count) for k in some.columns}
        tokens = rng.integers(0, 150_000, count).tolist()
        words = [Piece(" word")] * count
        off = [False] * count
        changed = replace(some, tokens=tokens, pieces=words, columns=columns)
        return replace(changed, off_policy=off, group=i // 8)

    write_page(tmp_path / "1.html", [grown(i) for i in range(64)], 1)
    assert (tmp_path / "1.html").stat().st_size < 1e6


def test_the_index_links_every_page_and_old_pages_stay(tmp_path):
    for step in (50, 100):
        write_page(tmp_path / f"{step:06d}.html", entries()[: step // 10], step)
        write_index(tmp_path)
    (tmp_path / "0_notes.html").write_text("<p>mine")
    write_index(tmp_path)
    text = (tmp_path / "index.html").read_text()
    links = re.findall(r'href="([^"]+)">(\d+)<', text)
    assert links == [("000100.html", "100"), ("000050.html", "50")]
    assert parsed(tmp_path / "index.html").scripts == []
    assert re.findall(r"</th><td>(\d+)</td>", text) == ["10", "5"]


TOKENIZERS = {
    "characters": (CharTokenizer("abc +=<>&"), "a+b=<c> & c"),
    "bytes": (ByteTokenizer(), "né 漢字 👩‍👩‍👧 \n <b>\t\u202e"),
    "words": (load_tokenizer(MODELS / "tiny_qwen2_policy"), "12 plus 30 é 漢 \n ok"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_join_to_the_decoded_text(name):
    tokenizer, text = TOKENIZERS[name]
    tokens = tokenizer.encode(text * 7)
    found = pieces(tokenizer, tokens)
    assert len(found) == len(tokens)
    assert not any(piece.special for piece in found)
    assert "".join(piece.text for piece in found) == tokenizer.decode(tokens)
    # cut anywhere, even inside a character
    for count in range(1, min(len(tokens), 40)):
        joined = "".join(piece.text for piece in pieces(tokenizer, tokens[:count]))
        assert joined == tokenizer.decode(tokens[:count])


def test_special_tokens_have_names():
    for name, (tokenizer, text) in TOKENIZERS.items():
        tokens = [*tokenizer.encode(text), tokenizer.eos_token]
        last = pieces(tokenizer, tokens)[-1]
        assert last.special and last.text.startswith("<"), name


@pytest.mark.parametrize("name", ["grpo", "dapo", "luffy", "grpo-stale", "dpo", "kto"])
def test_coefficients_are_those_of_the_whole_batch(name):
    """Shown for three of eight prompts, with the weights of all of them."""
    objective, (policy, params, reference, old) = EXAMPLES[name], MEAN
    rows, batch = rows_and_batch(name)
    if name == "kto":
        mismatched = 0.1 * np.arange(batch.mask[..., 0].size).reshape(8, -1)
        batch = replace(batch, mismatched=jnp.asarray(mismatched))
    batch = with_streams(objective, policy, rows, batch, old, reference)
    streams = streams_of(policy, params, rows)
    want = gradient_coefficient(objective, streams, batch)
    found = examine(objective, policy, params, rows, batch, groups=3)
    kept = np.asarray(batch.mask[:3]) > 0
    np.testing.assert_allclose(found.coefficient[kept], want[:3][kept], atol=1e-12)
    np.testing.assert_allclose(found.policy[kept], streams.policy[:3][kept])
    assert np.abs(found.coefficient[kept]).max() > 0
    assert (found.advantage is None) == (name in ("dpo", "kto"))


def test_coefficients_of_mixtures_and_of_the_vocabulary():
    """Of a mixture per token of the whole batch; without one where none exists."""
    objective, (policy, params, reference, old) = EXAMPLES["orpo"], MEAN
    rows, batch = rows_and_batch("orpo")
    batch = with_streams(objective, policy, rows, batch, old, reference)
    want = gradient_coefficient(objective, streams_of(policy, params, rows), batch)
    found = examine(objective, policy, params, rows, batch, groups=3)
    np.testing.assert_allclose(found.coefficient, want[:3], atol=1e-12)
    rows, batch = rows_and_batch("gkd")
    objective = EXAMPLES["gkd"]
    batch = with_streams(objective, policy, rows, batch, old, reference)
    assert examine(objective, policy, params, rows, batch, groups=2).coefficient is None


def test_badges_say_how_a_completion_ended():
    rows, batch = rows_and_batch("grpo")
    mask = np.zeros(batch.mask.shape, bool)
    mask[0, 0], mask[0, 1], mask[0, 2, :2], mask[1, 0] = True, True, True, True
    response = np.full(mask.shape, 1)
    response[0, 0, -1] = 9
    rewards = np.full(mask.shape[:2], np.nan)
    rewards[0, :2], rewards[2, 0] = (1.0, 0.0), 0.5
    off = np.zeros(mask.shape, bool)
    off[1, 0, :2] = True
    prefix = replace(batch, mask=mask, rewards=rewards, off_policy=off)
    rows = rows._replace(response=response, response_mask=mask)
    numbers = examine(
        EXAMPLES["reinforce-batch"], MEAN.policy, MEAN.params, rows, batch, groups=8
    )
    tokenizer = CharTokenizer("abcdefgh")
    found = entries_of(rows, prefix, numbers, tokenizer, stops=(9,), staleness=2.0)
    assert [(e.group, e.badges) for e in found] == [
        (0, ("finished",)),  # its last token is a stop token
        (0, ("truncated",)),
        (0, ("finished", "unscored")),  # shorter than the budget
        (1, ("truncated", "unscored", "off-policy prefix")),
        (2, ("empty",)),  # a reward of no text; other empty rows stand for nothing
    ]
    assert [e.off_policy for e in found[3:]] == [[True, True, False, False, False], []]
    demonstration = replace(prefix, off_policy=np.ones(mask.shape[:2], bool))
    found = entries_of(rows, demonstration, numbers, tokenizer, stops=(9,))
    assert found[0].badges == ("off-policy",) and found[0].staleness is None
    strings = Endings((9,), ("ab",))
    assert strings.reached([1, 2], [Piece("xa"), Piece("b")], 2)
    assert not Endings((9,)).reached([1, 2], [Piece("xa"), Piece("b")], 2)


def test_a_step_s_page_from_its_batch(tmp_path):
    """Rollouts of a tiny model, through `write_step`."""
    stream = rollouts(write_sums(tmp_path)).open(SETTING)
    drawn = stream.batch(0, SETTING.params)
    objective = presets.rloo()
    parts = SETTING.policy, SETTING.params, SETTING.tokenizer
    batch = with_streams(
        objective,
        SETTING.policy,
        drawn.rows,
        drawn.batch,
        SETTING.params,
        SETTING.params,
    )
    batch = replace(batch, components=jnp.stack([batch.rewards, 1 - batch.rewards], -1))
    args = Completions(5, groups=3), tmp_path / "pages", 5, objective
    path = write_step(
        *args, *parts, drawn.rows, batch, components=("right", "wrong"), staleness=1.0
    )
    data = json.loads(parsed(path).scripts[0])
    assert path.name == "000005.html" and len(data["entries"]) == 12
    rewards = np.asarray(batch.rewards)[:3].reshape(-1)
    for shown, reward in zip(data["entries"], rewards, strict=True):
        assert shown["reward"] == pytest.approx(reward, rel=1e-3)
        assert shown["parts"].keys() == {"right", "wrong"}
        assert shown["staleness"] == 1.0
        # the sampler's own log-probs, recomputed
        gap = column(shown["columns"]["behavior"], len(shown["ids"]))
        assert max(map(abs, gap)) <= 1
    assert (tmp_path / "pages" / "index.html").exists()
    again = path.read_bytes()
    write_step(
        *args, *parts, drawn.rows, batch, components=("right", "wrong"), staleness=1.0
    )
    assert path.read_bytes() == again


def test_settings():
    assert [s for s in range(1, 12) if Completions(5).due(s, 11)] == [5, 10, 11]
    for name in ("every", "groups"):
        with pytest.raises(ValueError, match=f"completions.{name}: 0; write 1 or more"):
            Completions(**({"every": 5} | {name: 0}))


def test_an_entropy_bonus_is_no_hindrance():
    """Its part of the gradient goes through other tokens and is not shown."""
    plain = EXAMPLES["reinforce-batch"]
    policy, params, _, _ = MEAN
    rows, batch = rows_and_batch("reinforce-batch")
    found = [
        examine(x, policy, params, rows, batch, groups=8).coefficient
        for x in (plain, replace(plain, entropy_bonus=0.5))
    ]
    np.testing.assert_allclose(*found)
    assert jax.tree.leaves(found)[0].any()
