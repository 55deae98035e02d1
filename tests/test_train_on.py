"""Training on every turn of the assistant: masks, context, loss."""

import json
from array import array
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chat_templates import FOLDER, STYLES, styled, turns

from unipost import presets, update
from unipost.config import build, load, to_tree
from unipost.data import DataError, encode_rows, read_rows
from unipost.loading import NewModel, load_model
from unipost.sources import Demonstrations, Setting
from unipost.tokenizer import ByteTokenizer, CharTokenizer, load_tokenizer
from unipost.train import Experiment, train

TALKS = [
    turns("What is 2 + 3?", " It is 5, é. ", "And 4 + 4?", "8 🙂"),
    turns("Hi", "Hello, how are you?"),
    [{"role": "system", "content": "Be brief."}, *turns("a", "b", "c", "d", "e")],
]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
SMALL = NewModel(tokenizer="bytes", **SIZES)
MARKED = {"marked": styled("marked"), "bytes": ByteTokenizer()}


@pytest.fixture
def path(tmp_path):
    """Three conversations; the last one ends with a turn of the user."""
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps({"messages": t}) + "\n" for t in TALKS))
    return str(file)


def refusal(path, tokenizer, **options) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path, "demonstrations", tokenizer=tokenizer, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def source_of(path, **options) -> Demonstrations:
    return Demonstrations(path, 3, 80, 120, train_on="assistant", **options)


@pytest.mark.parametrize("name", MARKED)
def test_masks_are_those_of_transformers(name, path):
    tokenizer = MARKED[name]
    found = read_rows(path, "demonstrations", tokenizer=tokenizer, train_on="assistant")
    tokens = encode_rows(tokenizer, found.rows, 80, 120)
    assert tokens.trained is not None
    for i, talk in enumerate(TALKS):
        out = tokenizer.backend.apply_chat_template(
            talk, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = out["input_ids"], np.array(out["assistant_masks"])
        prompt = tokens.prompt[i][tokens.prompt_mask[i]].tolist()
        response = tokens.response[i][tokens.response_mask[i]].tolist()
        first, last = np.flatnonzero(mask)[[0, -1]]
        assert prompt == ids[:first] and response == ids[first : last + 1]
        trained = tokens.trained[i][tokens.response_mask[i]]
        np.testing.assert_array_equal(trained, mask[first : last + 1] > 0)
        assert not tokens.trained[i][~tokens.response_mask[i]].any()
        # what is trained on: the words of the assistant, and the end of each turn
        said = [turn["content"] for turn in talk if turn["role"] == "assistant"]
        assert tokenizer.decode(np.array(response)[trained].tolist()) == "".join(said)
        ends = (np.array(response) == tokenizer.eos_token) & trained
        assert ends.sum() == len(said)


def test_the_loss_is_that_of_the_marked_tokens_in_their_whole_context(path):
    """Against log-softmax of the logits of each conversation by itself."""
    model = load_model(SMALL, 0)
    policy, params, tokenizer = model.policy, model.params, model.tokenizer
    setting = Setting(policy, params, tokenizer, 0)
    rows, batch, _ = source_of(path).open(setting).batch(0, params)[:3]
    streams = update.annotate(policy, params, rows)
    loss, _ = presets.sft()(streams, batch)
    logits, total, count = jax.jit(policy.logits), 0.0, 0
    for talk in TALKS:
        out = tokenizer.backend.apply_chat_template(
            talk, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = (np.array(out[x]) for x in ("input_ids", "assistant_masks"))
        padded = jnp.asarray(np.pad(ids, (0, 150 - len(ids))))[None]
        real = jnp.arange(150)[None] < len(ids)
        logps = np.asarray(jax.nn.log_softmax(logits(params, padded, real)[0]))
        taken = logps[np.arange(len(ids) - 1), ids[1:]]
        total, count = total + taken[mask[1:] > 0].sum(), count + mask.sum()
    assert int(batch.mask.sum()) == count < int(rows.response_mask.sum())
    np.testing.assert_allclose(loss, -total / count, rtol=1e-5)


def test_a_row_of_one_answer_is_the_same_either_way(path, tmp_path):
    tokenizer = styled("marked")
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"messages": TALKS[1]}))
    both = [
        read_rows(file, "demonstrations", tokenizer=tokenizer, train_on=on).rows[0]
        for on in ("last", "assistant")
    ]
    newline = tokenizer.encode("\n")
    assert both[0].prompt.ids == both[1].prompt.ids
    # the newline after the end of the turn conditions nothing and is not marked
    assert both[0].response.ids.tolist() == [*both[1].response.ids, *newline]
    assert all(both[1].response.trained)


def test_templates_without_marks_are_refused(path):
    for marks in ("{% generation %}", "{%- generation -%}"):
        tokenizer = load_tokenizer(FOLDER)
        assert refusal(path, tokenizer, train_on="assistant") == (
            "FILE: train_on: assistant, but the chat template of "
            f"{FOLDER} marks nothing as generated; write {{% generation %}} and {{% "
            "endgeneration %} around what the assistant says there, or train_on: last"
        )
        tokenizer.backend.chat_template = STYLES["marked"][0].replace(
            "{%- generation %}", marks
        )
        read_rows(path, "demonstrations", tokenizer=tokenizer, train_on="assistant")
    assert refusal(path, CharTokenizer("ab"), train_on="assistant") == (
        "FILE: train_on: assistant needs a tokenizer with a chat template that marks "
        "generation; write train_on: last"
    )


def test_marks_that_leave_turns_out_are_refused(tmp_path):
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"messages": TALKS[0]}))
    tokenizer = load_tokenizer(FOLDER)
    tokenizer.backend.chat_template = STYLES["marked"][0].replace(
        "message['role'] == 'assistant'", "message['role'] == 'assistant' and loop.last"
    )
    assert refusal(file, tokenizer, train_on="assistant") == (
        "FILE:1: the chat template marks 1 stretches of text as generated, the "
        "conversation has 2 turns of 'assistant'; mark each of them"
    )


def test_other_rows_than_messages_are_refused(tmp_path):
    file = tmp_path / "text.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    assert refusal(file, styled("marked"), train_on="assistant") == (
        "FILE: train_on: assistant needs demonstrations in a column messages, the rows "
        "have prompt, completion; write train_on: last"
    )
    file.write_text(json.dumps({"messages": turns("a")}))
    assert refusal(file, styled("marked"), train_on="assistant") == (
        "FILE:1: 'messages' holds no turn of 'assistant'"
    )


def test_cut_rows_keep_their_marks_and_lose_rows_without(path):
    tokenizer = styled("marked")
    found = read_rows(path, "demonstrations", tokenizer=tokenizer, train_on="assistant")
    whole = encode_rows(tokenizer, found.rows, 80, 120)
    with pytest.warns(UserWarning, match="cut"):
        cut = encode_rows(tokenizer, found.rows, 80, 6, "truncate")
    assert whole.trained is not None and cut.trained is not None
    np.testing.assert_array_equal(cut.trained, whole.trained[:, :6])
    # a marked token that is beyond the cut leaves nothing to learn
    late = found.rows[0].response
    marks = array("b", [0] * 6) + late.trained[6:]
    late = replace(late, trained=marks)
    rows = [replace(found.rows[0], response=late), found.rows[1]]
    with pytest.warns(UserWarning, match="no token to train on is left"):
        made = encode_rows(tokenizer, rows, 80, 6, "truncate")
    assert made.index.tolist() == [1] and len(made.dropped) == 1


def test_a_batch_counts_what_is_trained_on(path):
    setting = Setting(load_model(SMALL, 0).policy, None, styled("marked"), 0)
    stream = source_of(path).open(setting)
    rows, batch, _ = stream.batch(0, None)[:3]
    mask, real = np.asarray(batch.mask) > 0, np.asarray(rows.response_mask)
    assert (mask <= real).all() and mask.sum() < real.sum()
    last = replace(source_of(path), train_on="last")
    with pytest.raises(DataError, match="ends with a turn of 'user'"):
        last.open(setting)


EXPERIMENT = """
model: {model}
data:
  name: demonstrations
  path: {path}
  prompts: 3
  prompt_length: 64
  response_length: 96
  train_on: assistant
objective: sft
optimizer: {{name: adamw, learning_rate: 1e-2}}
steps: 3
"""


def test_an_experiment_of_bytes_on_conversations(path, tmp_path):
    file = tmp_path / "talks.yaml"
    file.write_text(EXPERIMENT.format(path=path, model={"tokenizer": "bytes"} | SIZES))
    experiment = load(Experiment, file)
    assert build(Experiment, to_tree(experiment)) == experiment
    train(experiment, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[2] < losses[0] < np.log(260) + 0.5
    assert load_tokenizer(tmp_path / "run" / "final") == ByteTokenizer()
