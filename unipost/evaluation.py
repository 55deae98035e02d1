"""Evaluations: accuracy, pass@k, distance to the reference, implicit reward margins.

Tasks are questions with checkable answers. Greedy accuracy and the shares of correct
samples stay per item, so that arms can be compared on the same items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unipost.chat import stop_tokens
from unipost.data import Tokens, encode_rows, read_rows
from unipost.distances import state_distances
from unipost.evaluate import pass_at_k
from unipost.model import Params, Policy
from unipost.objectives import Trainable, margin_score
from unipost.processes import gathered, in_turn
from unipost.rewards import Reward, numeric
from unipost.rollouts import texts
from unipost.rows import Demonstration, Question, demonstration
from unipost.sampling import Sampling, compiled_sample
from unipost.score import Score
from unipost.sources import TooLong
from unipost.task_rewards import rewards_of
from unipost.tokenizer import Tokenizer
from unipost.update import Rows, streams_of
from unipost.wording import Wording

Array = jax.Array


@dataclass(frozen=True)
class Task:
    """Questions to answer, and how they are graded.

    samples   responses per item, besides the greedy one (0: none)
    temperature  that the samples are drawn at
    pass_at   values of k for pass@k, at most `samples`
    limit     only the first so many items
    marker    text whose share of greedy responses is reported as `style`
    wording   how a question becomes a prompt; None: it is one
    role      target: what training aims at; retention: what it may forget
    time_limit  seconds that the reward may take for a response (None: no limit)
    """

    path: str
    prompt_length: int
    response_length: int
    reward: Reward = numeric
    samples: int = 0
    temperature: float = 1.0
    pass_at: tuple[int, ...] = ()
    limit: int | None = None
    marker: str | None = None
    role: Literal["target", "retention"] = "target"
    title: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    wording: Wording | None = None
    too_long: TooLong = "raise"
    time_limit: float | None = 5.0

    def __post_init__(self):
        if self.samples < 0:
            raise ValueError(f"samples: {self.samples}; write 0 or more")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature: {self.temperature:g}; write a number > 0")
        if self.time_limit is not None and self.time_limit <= 0:
            raise ValueError(f"time_limit: {self.time_limit}; write seconds > 0")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: {self.limit}; write 1 or more, or null for all")
        for k in self.pass_at:
            if not 1 <= k <= self.samples:
                raise ValueError(
                    f"pass_at: {k} needs at least as many samples ({self.samples})"
                )


@dataclass(frozen=True)
class Evaluation:
    """Tasks, when to run them, and where the distance to the reference is measured.

    every     also evaluate every so many steps (None: only at the end)
    distance  the task on whose prompts KL both ways, entropy and margins are taken
              (None: not measured), on its first `distance_items` items
    rows      responses decoded at once
    """

    tasks: dict[str, Task]
    every: int | None = None
    distance: str | None = None
    distance_items: int = 256
    rows: int = 256

    def __post_init__(self):
        if self.distance is not None and self.distance not in self.tasks:
            raise ValueError(
                f"distance: {self.distance!r} is no task; write one of "
                f"{', '.join(self.tasks)}"
            )
        for name in ("distance_items", "rows", "every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}; write 1 or more")

    def due(self, step: int, last: int) -> bool:
        """Whether it is run after 1-based `step` of `last`."""
        return step == last or (self.every is not None and step % self.every == 0)


class Graded(NamedTuple):
    """Per-item outcomes of one task; `sampled` is the share of correct samples.

    length, length_wrong  mean tokens of greedy responses; of those not correct, None
                          where all are
    """

    greedy: np.ndarray
    sampled: np.ndarray | None
    pass_at: dict[int, np.ndarray]
    length: float
    style: float | None
    length_wrong: float | None = None

    def numbers(self) -> dict[str, float]:
        """Means over the items."""
        out = {"greedy": float(self.greedy.mean()), "length": self.length}
        if self.sampled is not None:
            out["sampled"] = float(self.sampled.mean())
        for name in ("style", "length_wrong"):
            if (value := getattr(self, name)) is not None:
                out[name] = value
        return out | {f"pass@{k}": float(v.mean()) for k, v in self.pass_at.items()}


class Report(NamedTuple):
    """Everything that one evaluation measured; distances are None if not asked for."""

    tasks: dict[str, Graded]
    distance: dict[str, float]

    def numbers(self) -> dict[str, float]:
        """A flat dictionary, for evaluation.jsonl."""
        flat = {
            f"{name}/{key}": value
            for name, graded in self.tasks.items()
            for key, value in graded.numbers().items()
        }
        return flat | self.distance


class OpenTask(NamedTuple):
    """A task with its file read and tokenised."""

    task: Task
    tokens: Tokens
    questions: list[Question]


def open_tasks(evaluation: Evaluation, tokenizer: Tokenizer) -> dict[str, OpenTask]:
    """Read and tokenise every task. Raises DataError naming file, line, reason."""
    opened = {}
    for name, task in evaluation.tasks.items():
        questions = read_rows(
            task.path,
            "questions",
            task.columns,
            tokenizer=tokenizer,
            wording=task.wording,
        ).rows[: task.limit]
        rows: list[Demonstration | Question] = list(questions)
        if name == evaluation.distance:  # margins compare it with mistakes
            rows = [demonstration(q) for q in questions]
        tokens = encode_rows(
            tokenizer, rows, task.prompt_length, task.response_length, task.too_long
        )
        opened[name] = OpenTask(task, tokens, [questions[i] for i in tokens.index])
    return opened


class Decoder(NamedTuple):
    """A policy with its tokenizer, decoding `rows` prompts at a time."""

    policy: Policy
    tokenizer: Tokenizer
    rows: int
    seed: int

    def responses(self, params: Params, opened: OpenTask, temperature, draws: int):
        """(tokens, mask) [items * draws, T], an item's draws consecutive.

        Always `rows` rows at a time (the last ones padded), so that greedy and
        sampled decoding of a task compile once.
        """
        tokens, count = opened.tokens, len(opened.questions)
        sampling = Sampling(opened.task.response_length, jnp.float32(temperature))
        lines = np.repeat(np.arange(count), draws)
        pad = -len(lines) % self.rows
        padded = np.concatenate([lines, np.zeros(pad, int)])
        key = jax.random.fold_in(jax.random.key(self.seed), 17)
        out = []
        for i, block in enumerate(padded.reshape(-1, self.rows)):
            drawn = compiled_sample(
                self.policy,
                params,
                tokens.prompt[block],
                tokens.prompt_mask[block],
                jax.random.fold_in(key, i),
                sampling,
                stop_tokens=stop_tokens(self.tokenizer),
                pad_token=self.tokenizer.pad_token,
            )
            out.append(in_turn(drawn))
        blocks = gathered(out)
        stacked = jax.tree.map(lambda *x: np.concatenate(x)[: len(lines), 0], *blocks)
        return stacked.tokens, stacked.mask

    def grade(self, params: Params, opened: OpenTask) -> Graded:
        """Greedy and sampled outcomes of every item."""
        task, questions = opened.task, opened.questions
        tokens, mask = self.responses(params, opened, 0.0, 1)
        greedy = rewards_of(opened, self.tokenizer, tokens, mask)
        style = None
        if task.marker is not None:
            written = texts(self.tokenizer, tokens, mask)
            style = float(np.mean([task.marker in text for text in written]))
        sampled, passes = None, {}
        if task.samples:
            hot, count = task.temperature, task.samples
            drawn = self.responses(params, opened, hot, count)
            right = rewards_of(opened, self.tokenizer, *drawn) >= 1.0
            correct = right.reshape(len(questions), task.samples).sum(1)
            sampled = correct / task.samples
            passes = {k: pass_at_k(task.samples, correct, k) for k in task.pass_at}
        lengths = mask.sum(1)
        wrong = lengths[greedy < 1.0]
        longer = float(wrong.mean()) if wrong.size else None
        return Graded(greedy, sampled, passes, float(lengths.mean()), style, longer)


class Anchor(NamedTuple):
    """The reference's own samples on the distance task, and which are wrong."""

    rows: Rows
    chosen: Rows
    wrong: np.ndarray


def anchor(decoder: Decoder, reference: Params, opened: OpenTask, items: int) -> Anchor:
    """Samples of the reference, with each item's demonstration beside them."""
    part = _first(opened, items)
    tokens, mask = decoder.responses(reference, part, 1.0, 1)
    prompt = part.tokens.prompt[:, None], part.tokens.prompt_mask[:, None]
    given = part.tokens.response[:, None], part.tokens.response_mask[:, None]
    return Anchor(
        _rows(*prompt, tokens[:, None], mask[:, None]),
        _rows(*prompt, *given),
        rewards_of(part, decoder.tokenizer, tokens, mask) < 1.0,
    )


def task_rows(decoder: Decoder, params: Params, opened: OpenTask) -> Rows:
    """One response of `params` to every item of a task, at temperature 1."""
    tokens, mask = decoder.responses(params, opened, 1.0, 1)
    prompt = opened.tokens.prompt[:, None], opened.tokens.prompt_mask[:, None]
    return _rows(*prompt, tokens[:, None], mask[:, None])


def _rows(prompt, prompt_mask, response, response_mask) -> Rows:
    texts = prompt, prompt_mask, response, response_mask
    return Rows(*(jnp.asarray(x) for x in texts), packed=None)


def _first(opened: OpenTask, items: int) -> OpenTask:
    cut = Tokens(*(x[:items] for x in opened.tokens[:5]), dropped=[])
    return OpenTask(opened.task, cut, opened.questions[:items])


@partial(jax.jit, static_argnums=0)
def _margins(policy, score: Score, params, reference, chosen: Rows, rejected: Rows):
    """beta f'(u_chosen) - beta f'(u_rejected) [P], u over the sequence."""

    def reward(rows):
        mask = rows.response_mask
        new = streams_of(policy, params, rows).policy
        old = streams_of(policy, reference, rows).policy
        log_u = jnp.where(mask, new - old, 0.0).sum((-2, -1))
        if score.bound is not None:
            log_u = jnp.clip(log_u, -score.bound, score.bound)
        return score.beta * score.divergence.f_prime(log_u)

    return reward(chosen) - reward(rejected)


def distance(
    decoder: Decoder,
    params: Params,
    reference: Params,
    opened: OpenTask,
    items: int,
    base: Anchor,
    score: Score | None,
) -> dict[str, float]:
    """Distance to the reference, per response, on the task's prompts.

    kl_reverse  KL(policy || reference), nats: the exact per-state KL summed along
                responses sampled from the policy
    kl_forward  KL(reference || policy), along responses sampled from the reference
    entropy     mean token entropy of the policy on its own responses, nats
    margin      mean implicit reward of the demonstration minus that of a wrong sample
                of the reference, beta f'(u_w) - beta f'(u_l), where there is one;
                beta and f are the objective's for a pair link on the reference, else
                1 and reverse KL
    """
    part = _first(opened, items)
    tokens, mask = decoder.responses(params, part, 1.0, 1)
    own = base.rows._replace(
        response=jnp.asarray(tokens)[:, None], response_mask=jnp.asarray(mask)[:, None]
    )
    policies = decoder.policy, params, reference
    at_own = state_distances(*policies, own)
    numbers = {
        "kl_reverse": float(at_own.reverse.mean()),
        "kl_forward": float(state_distances(*policies, base.rows).forward.mean()),
        "entropy": float(at_own.entropy.mean()),
    }
    if base.wrong.any():
        rule = Score()
        if score is not None:
            rule = Score(score.divergence, score.beta, "reference", clamp=score.bound)
        margins = _margins(
            decoder.policy, rule, params, reference, base.chosen, base.rows
        )
        numbers["margin"] = float(gathered(margins)[base.wrong].mean())
    return numbers


class Evaluator:
    """An evaluation made ready for one policy: tasks read, reference sampled once."""

    def __init__(
        self,
        evaluation: Evaluation,
        policy: Policy,
        tokenizer: Tokenizer,
        reference: Params,
        seed: int,
    ):
        self.evaluation = evaluation
        self.decoder = Decoder(policy, tokenizer, evaluation.rows, seed)
        self.tasks: Mapping[str, OpenTask] = open_tasks(evaluation, tokenizer)
        self.reference = reference
        self._anchor: Any = None

    def __call__(self, params: Params, objective: Trainable | None = None) -> Report:
        """Every task and distance for `params`; `objective` gives the margin's f'."""
        graded = {n: self.decoder.grade(params, t) for n, t in self.tasks.items()}
        name, items = self.evaluation.distance, self.evaluation.distance_items
        if name is None:
            return Report(graded, {})
        opened = self.tasks[name]
        if self._anchor is None:
            self._anchor = anchor(self.decoder, self.reference, opened, items)
        measured = distance(
            self.decoder,
            params,
            self.reference,
            opened,
            items,
            self._anchor,
            margin_score(objective),
        )
        return Report(graded, measured)
