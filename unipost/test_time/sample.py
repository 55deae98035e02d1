"""Drawing the responses and scoring them: one line of samples.jsonl for each."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from unipost.loading import Model
from unipost.rewards import Grades, Sample, open_reward
from unipost.rewards.answers import find, lone_number, plain
from unipost.rollouts import draws
from unipost.rollouts.questions import Questions, open_questions
from unipost.sampling import Completion
from unipost.test_time.curves import Drawn
from unipost.test_time.settings import BestOf, Graded, Likelihood
from unipost.test_time.steps import step_scores
from unipost.test_time.votes import coded

Line = dict[str, Any]


def draw(model: Model, asked: BestOf) -> list[Line]:
    """n responses to every question, question by question, each graded and scored.

    {item, sample, prompt, response, answer, correct, tokens, scores}. Raises DataError
    for the file, ValueError where a reward gives no steps that were asked for.
    """
    questions = open_questions(
        asked.path,
        model.tokenizer,
        asked.prompt_length,
        asked.sampling.max_tokens,
        stop=asked.stop,
        columns=asked.columns,
        wording=asked.wording,
        too_long=asked.too_long,
        on_bad_row=asked.on_bad_row,
    )
    found = list(_completions(model, asked, questions))
    samples = [sample for sample, _ in found]
    right = _grade(asked.reward, samples, asked).values >= 1.0  # NaN is not right
    scores, graded = {}, []
    for name, score in asked.scores.items():
        if isinstance(score, Likelihood):
            values = [_likelihood(score, completion) for _, completion in found]
        else:
            values = _values(name, score, _grade_once(score, samples, asked, graded))
        scores[name] = np.asarray(values, float)
    return [
        {
            "item": sample.group,
            "sample": i % asked.samples,
            "prompt": sample.prompt,
            "response": sample.response,
            "answer": _answer(sample.response, asked),
            "correct": bool(right[i]),
            "tokens": sample.tokens,
            "scores": {k: _plain(v[i]) for k, v in scores.items()},
        }
        for i, sample in enumerate(samples)
    ]


def _completions(
    model: Model, asked: BestOf, questions: Questions
) -> Iterator[tuple[Sample, Completion]]:
    """Every response with what graders are shown of it."""
    engine = asked.sampler.open(
        model.policy, model.tokenizer, asked.sampling, asked.prompt_length
    )
    n, budget = asked.samples, asked.sampling.max_tokens
    count = min(questions.size, asked.limit or questions.size)
    key = draws.key(asked.seed, draws.RESPONSES)
    for start in range(0, count, asked.prompts):
        # the last block is filled up with its first question: one program for all
        block = [*range(start, min(start + asked.prompts, count))]
        padded = (block + [block[0]] * asked.prompts)[: asked.prompts]
        requests = [
            questions.request(i, range((start + j) * n, (start + j + 1) * n), budget)
            for j, i in enumerate(padded)
        ]
        drawn = engine(model.params, requests, key)
        for i, own in zip(block, drawn, strict=False):
            for completion in own:
                yield _sample(questions, i, completion, budget), completion


def _sample(questions: Questions, i: int, completion: Completion, budget: int):
    tokens = completion.tokens.tolist()
    return Sample(
        response=questions.tokenizer.decode(tokens),
        answer=questions.rows[i].answer,
        prompt=questions.text(i),
        tokens=len(tokens),
        limit=budget,
        finished=completion.finish == "stop",
        group=i,
        row=questions.rows[i].row,
    )


def _grade(reward: Any, samples: Sequence[Sample], asked: BestOf) -> Grades:
    with open_reward(reward, asked.time_limit) as grader:
        return grader(samples)


def _grade_once(score: Graded, samples: Sequence[Sample], asked: BestOf, known: list):
    """The grades of a reward: several scores may read the steps of one in their way."""
    for reward, grades in known:
        if reward == score.reward:
            return grades
    known.append((score.reward, _grade(score.reward, samples, asked)))
    return known[-1][1]


def _values(name: str, score: Graded, grades: Grades) -> np.ndarray:
    if score.steps is None:
        return grades.values
    if grades.steps is None:
        raise ValueError(
            f"scores.{name}.steps: {score.steps}, but the reward gives no steps; leave "
            "it out"
        )
    return step_scores([[v for _, v in own] for own in grades.steps], score.steps)


def _likelihood(score: Likelihood, completion: Completion) -> float:
    logps = np.asarray(completion.logps, float)
    return float(np.exp(logps.sum() if score.per == "response" else logps.mean()))


def _answer(response: str, asked: BestOf) -> str | None:
    """The answer as a vote compares it: an exact number, or text without dress."""
    text = _written(response, asked)
    if text is None:
        return None
    value = lone_number(text)
    return plain(text) if value is None else str(value)


def _written(response: str, asked: BestOf) -> str | None:
    """The answer as it is written."""
    if asked.pattern is None:
        found = find(response, asked.answer)
        return None if found is None else found.text
    matches = [*re.finditer(asked.pattern, response)]
    if not matches:
        return None
    last = matches[-1]
    return last[1] if last.re.groups else last[0]


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def drawn_of(lines: Sequence[Line], asked: BestOf) -> Drawn:
    """Arrays [I, n] of the lines that `draw` gave."""
    n = asked.samples
    items = [lines[i : i + n] for i in range(0, len(lines), n)]
    answers: list[list[Hashable | None]] = [[x["answer"] for x in own] for own in items]
    scores, weights = {}, {}
    for name, score in asked.scores.items():
        values = np.array([[x["scores"][name] for x in own] for own in items], float)
        scores[name] = values
        how = score.weight if isinstance(score, Graded) else "score"
        if how == "sigmoid":
            weights[name] = 1 / (1 + np.exp(-values))
        elif how == "score":
            weights[name] = _weights(name, values)
    correct = np.array([[x["correct"] for x in own] for own in items])
    return Drawn(coded(answers), correct, scores, weights)


def _weights(name: str, values: np.ndarray) -> np.ndarray:
    if (values < 0).any():
        raise ValueError(
            f"scores.{name}: {np.nanmin(values):g} would count against its answer in a "
            "vote; write weight: sigmoid for a log-odds, or weight: none"
        )
    return values
