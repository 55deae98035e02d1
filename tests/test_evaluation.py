"""Evaluations against decoding by hand, and distances against enumeration."""

import itertools
import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import MODEL, params_of, write_sums

from unipost import presets
from unipost.divergences import DIVERGENCES
from unipost.evaluation import Evaluation, Evaluator, Task
from unipost.model import ModelConfig, init_params, transformer_policy
from unipost.rewards import Sample, exact
from unipost.rewards.grades import Grades, grades_of
from unipost.scoring import score
from unipost.tokenizer import CharTokenizer

TOKENIZER = MODEL.tokenizer
OTHER = params_of(5)
LOGITS = jax.jit(MODEL.policy.logits)


def starts_with_a_digit(response: str, answer: str) -> float:
    """A reward that random text earns about as often as not."""
    return float(response[:1] in set("0123456"))


def evaluator_of(path, **changes) -> Evaluator:
    task = Task(path, 4, 3, starts_with_a_digit, samples=5, pass_at=(1, 3, 5))
    evaluation = Evaluation(
        {"sums": replace(task, **changes)}, distance="sums", rows=16
    )
    return Evaluator(evaluation, MODEL.policy, TOKENIZER, MODEL.params, 0)


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("sums"))


def decode_by_hand(prompt: str, length: int) -> str:
    """The most probable token, one at a time, no cache, no padding, no batch."""
    tokens = TOKENIZER.encode(prompt)
    start = len(tokens)
    for _ in range(length):
        row = jnp.asarray([tokens])
        logits = LOGITS(OTHER, row, jnp.ones_like(row, bool))
        tokens.append(int(jnp.argmax(logits[0, -1])))
        if tokens[-1] == TOKENIZER.eos_token:
            break
    return TOKENIZER.decode(tokens[start:])


def test_greedy_answers_are_those_decoded_by_hand(sums, tmp_path):
    evaluator = evaluator_of(sums)
    opened = evaluator.tasks["sums"]
    want = [decode_by_hand(q.prompt, 3) for q in opened.questions]
    tokens, mask = evaluator.decoder.responses(OTHER, opened, 0.0, 1)
    rows = zip(tokens, mask, strict=True)
    assert [TOKENIZER.decode(t[m].tolist()) for t, m in rows] == want
    graded = evaluator.decoder.grade(OTHER, opened)
    right = [starts_with_a_digit(text, "") for text in want]
    np.testing.assert_array_equal(graded.greedy, right)
    assert graded.length == pytest.approx(mask.sum(1).mean())
    # the same answers in a file: every one is right, and a marker is counted
    lines = [
        f'{{"prompt": "{q.prompt}", "answer": "{text}"}}\n'
        for q, text in zip(opened.questions, want, strict=True)
        if text
    ]
    (tmp_path / "own.jsonl").write_text("".join(lines))
    mark = want[0][0]
    path = str(tmp_path / "own.jsonl")
    # an answer of three characters leaves no room for its end token
    with pytest.warns(UserWarning, match="cut"):
        own = evaluator_of(path, reward=exact, marker=mark, too_long="truncate")
    graded = own.decoder.grade(OTHER, own.tasks["sums"])
    np.testing.assert_array_equal(graded.greedy, np.ones(len(lines)))
    assert graded.style == pytest.approx(np.mean([mark in t for t in want if t]))


@dataclass(frozen=True)
class Recorder:
    """Scores 1.0 and keeps every sample that it was shown."""

    seen: list[Sample]

    def score(self, samples) -> Grades:
        self.seen.extend(samples)
        return grades_of([1.0] * len(samples))


def test_a_reward_reads_what_it_reads_in_training(sums):
    seen: list[Sample] = []
    # a time limit would score in another process, whose list is another one
    evaluator = evaluator_of(sums, reward=Recorder(seen), time_limit=None)
    opened = evaluator.tasks["sums"]
    graded = evaluator.decoder.grade(OTHER, opened)
    assert graded.greedy.tolist() == [1.0] * 10
    drawn = [
        evaluator.decoder.responses(OTHER, opened, heat, n)
        for heat, n in ((0.0, 1), (1.0, 5))
    ]
    for own, (tokens, mask) in zip((seen[:10], seen[10:]), drawn, strict=True):
        each = len(own) // 10
        questions = [q for q in opened.questions for _ in range(each)]
        assert [x.prompt for x in own] == [q.prompt for q in questions]
        assert [x.answer for x in own] == [q.answer for q in questions]
        assert [x.row for x in own] == [q.row for q in questions]
        assert [x.group for x in own] == [i // each for i in range(len(own))]
        assert [x.tokens for x in own] == mask.sum(1).tolist()
        assert {x.limit for x in own} == {3}
        ended = [TOKENIZER.eos_token in t[m] for t, m in zip(tokens, mask, strict=True)]
        assert [x.finished for x in own] == ended
    assert len({x.finished for x in seen}) == 2


def test_a_reward_that_scores_nothing_is_no_accuracy_of_zero(sums):
    def broken(response, answer):
        raise KeyError("gone")

    def moody(response, answer):
        return float("nan") if response[:1] in set("0123") else 1.0

    def grade(reward):
        evaluator = evaluator_of(sums, reward=reward, time_limit=None)
        return evaluator.decoder.grade(OTHER, evaluator.tasks["sums"])

    with pytest.raises(
        ValueError, match="jsonl: the reward scores no response; .*gone"
    ):
        grade(broken)
    with pytest.warns(UserWarning, match="responses are unscored and count as 0"):
        graded = grade(moody)
    assert 0 < graded.sampled.mean() < 1


def test_samples_and_pass_at_k_count_the_same_draws(sums):
    evaluator = evaluator_of(sums)
    opened = evaluator.tasks["sums"]
    graded = evaluator.decoder.grade(OTHER, opened)
    tokens, mask = evaluator.decoder.responses(OTHER, opened, 1.0, 5)
    text = [TOKENIZER.decode(t[m].tolist()) for t, m in zip(tokens, mask, strict=True)]
    right = np.array([starts_with_a_digit(t, "") for t in text]).reshape(10, 5)
    count = right.sum(1)
    assert 0 < count.sum() < 50 and len(set(text)) > 20
    assert graded.sampled is not None
    np.testing.assert_allclose(graded.sampled, count / 5)
    for k in (1, 3, 5):
        # the share of the subsets of k draws that hold a right one
        subsets = list(itertools.combinations(range(5), k))
        want = np.mean([right[:, list(s)].max(1) for s in subsets], 0)
        np.testing.assert_allclose(graded.pass_at[k], want, atol=1e-12)
    numbers = graded.numbers()
    assert numbers["pass@1"] == pytest.approx(numbers["sampled"])


def test_samples_of_a_task_are_drawn_at_its_temperature(sums):
    """Near 0 every sample is the greedy one; else those drawn at that temperature."""
    evaluator = evaluator_of(sums)
    opened = evaluator.tasks["sums"]
    cold = opened._replace(task=replace(opened.task, temperature=1e-4))
    graded = evaluator.decoder.grade(OTHER, cold)
    assert graded.sampled is not None
    np.testing.assert_array_equal(graded.sampled, graded.greedy)
    hot = opened._replace(task=replace(opened.task, temperature=2.5))
    tokens, mask = evaluator.decoder.responses(OTHER, opened, 2.5, 5)
    text = [TOKENIZER.decode(t[m].tolist()) for t, m in zip(tokens, mask, strict=True)]
    right = np.array([starts_with_a_digit(t, "") for t in text]).reshape(10, 5)
    found = evaluator.decoder.grade(OTHER, hot).sampled
    assert found is not None
    np.testing.assert_allclose(found, right.mean(1))
    plain = evaluator.decoder.grade(OTHER, opened).sampled
    assert (found != plain).any()


def test_an_evaluation_does_not_depend_on_how_many_rows_decode_at_once(sums):
    one, other = evaluator_of(sums), evaluator_of(sums)
    other.decoder = other.decoder._replace(rows=3)
    a, b = (e.decoder.grade(OTHER, e.tasks["sums"]) for e in (one, other))
    np.testing.assert_array_equal(a.greedy, b.greedy)
    assert a.length == b.length


def test_at_the_reference_every_distance_is_zero(sums):
    evaluator = evaluator_of(sums, reward=exact)
    report = evaluator(MODEL.params, presets.dpo())
    for name in ("kl_reverse", "kl_forward", "margin"):
        assert report.distance[name] == 0.0, name
    assert 0 < report.distance["entropy"] <= math.log(TOKENIZER.vocab_size)
    away = evaluator(OTHER, presets.dpo()).distance
    assert away["kl_reverse"] > 0.01 and away["kl_forward"] > 0.01
    assert away["margin"] != 0.0
    # the reference's own responses are drawn once
    assert evaluator(OTHER, presets.dpo()).distance == away


def test_margins_are_those_of_the_objective(sums):
    """beta f' of the sequence ratio, mean over the items with a wrong sample."""
    evaluator = evaluator_of(sums, reward=exact)
    plain = evaluator(OTHER).distance["margin"]
    assert evaluator(OTHER, presets.sft()).distance["margin"] == plain
    dpo = evaluator(OTHER, presets.dpo(beta=0.25)).distance["margin"]
    assert dpo == pytest.approx(0.25 * plain, rel=1e-6)
    base = evaluator._anchor
    log_u = []
    for rows in (base.chosen, base.rows):
        flat = [x[:, 0] for x in rows[:4]]
        new = score(MODEL.policy, OTHER, *flat).logps
        old = score(MODEL.policy, MODEL.params, *flat).logps
        log_u.append(np.asarray((new - old).sum(-1), np.float64))
    want = (log_u[0] - log_u[1])[base.wrong].mean()
    assert base.wrong.sum() >= 8 and plain == pytest.approx(want, rel=1e-5)
    divergence = DIVERGENCES["jensen_shannon"]()
    found = evaluator(OTHER, presets.f_dpo(divergence, 0.5)).distance["margin"]
    slopes = [np.asarray(divergence.f_prime(jnp.asarray(x))) for x in log_u]
    want = 0.5 * (slopes[0] - slopes[1])[base.wrong].mean()
    assert found == pytest.approx(want, rel=1e-4)


# Five tokens and responses of two: 1 + 4 * 5 of them, every one enumerated.
CONFIG = ModelConfig(
    vocab_size=5,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
)
LETTERS = CharTokenizer("abc")


def responses() -> tuple[np.ndarray, np.ndarray]:
    """Every response of at most two tokens that ends with the end token."""
    end = LETTERS.eos_token
    rows = [(end, 0)]
    rows += [(a, b) for a in range(5) if a != end for b in range(5)]
    tokens = np.array(rows)
    return tokens, np.stack([np.ones(len(rows), bool), tokens[:, 0] != end], 1)


def log_probs(policy, params) -> np.ndarray:
    """log-probability of each response to the prompt "a", summed over its tokens."""
    tokens, mask = responses()
    prompt = np.full((len(tokens), 1), LETTERS.ids["a"])
    rows = prompt, np.ones_like(prompt, bool), tokens, mask
    logps = score(policy, params, *map(jnp.asarray, rows)).logps
    return np.asarray(logps, np.float64).sum(-1)


def test_kl_both_ways_is_the_enumerated_one(tmp_path):
    """Means over 4096 samples against sums over all 21 responses."""
    policy = transformer_policy(CONFIG)
    policy_params, reference = (
        jax.tree.map(lambda x: 4 * x, init_params(CONFIG, seed)) for seed in (0, 1)
    )
    log_p, log_q = log_probs(policy, policy_params), log_probs(policy, reference)
    p, q = np.exp(log_p), np.exp(log_q)
    assert p.sum() == pytest.approx(1.0) and q.sum() == pytest.approx(1.0)
    reverse, forward = (p * (log_p - log_q)).sum(), (q * (log_q - log_p)).sum()
    assert reverse > 0.05 and abs(reverse - forward) > 0.02 * reverse
    path = tmp_path / "letters.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n' * 4096)
    task = Task(str(path), 1, 2, exact)
    settings = Evaluation(
        {"letters": task}, distance="letters", distance_items=4096, rows=4096
    )
    found = Evaluator(settings, policy, LETTERS, reference, 0)(policy_params).distance
    assert found["kl_reverse"] == pytest.approx(reverse, rel=0.03)
    assert found["kl_forward"] == pytest.approx(forward, rel=0.03)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"samples": -1}, "samples: -1; write 0 or more"),
        ({"samples": 2, "pass_at": (3,)}, r"pass_at: 3 needs at least as many"),
        ({"temperature": 0.0}, "temperature: 0; write a number > 0"),
        ({"limit": 0}, "limit: 0; write 1 or more"),
        ({"limit": -1}, "limit: -1; write 1 or more"),
    ],
)
def test_refused_tasks(changes, message):
    with pytest.raises(ValueError, match=message):
        Task("x.jsonl", 4, 3, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"distance": "sum"}, "distance: 'sum' is no task; write one of sums"),
        ({"rows": 0}, "rows: 0; write 1 or more"),
        ({"distance_items": 0}, "distance_items: 0; write 1 or more"),
    ],
)
def test_refused_evaluations(changes, message):
    with pytest.raises(ValueError, match=message):
        Evaluation({"sums": Task("x.jsonl", 4, 3)}, **changes)
